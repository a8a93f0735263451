//! Units of code that nobody watches: each looks whether its code is still the one it was made from, before it starts.
//!
//! A guest whose code must change at once ([`Guest::CODE_COHERENT`](crate::Guest::CODE_COHERENT)) has its stores to translated
//! code caught by the host's page protection, at the price of a fault and two changes of protection. Where a program writes code
//! again and again next to code that runs, and where the same memory is mapped at two places, [`DirectMemory::watch`] says no,
//! and units guard themselves. A store inside a unit could change what follows it there: such a unit ends with the store.
//!
//! [`DirectMemory::watch`]: crate::user::DirectMemory::watch

use std::ops::Range;

use tcg_ir::{Block, BlockId, Builder, Cond, Effects, HelperDesc, Inst, MemOp, Op, Region, SlotTable, Type};

/// [`Terminator::Exit`](tcg_ir::Terminator::Exit) code of a unit whose code has changed; nothing of it was executed.
pub(crate) const STALE: u32 = u32::MAX;
/// Most instructions of such a unit: what is to be compared before it starts should be short.
pub(crate) const MAX_INSNS: u32 = 16;

/// How many instructions come up to the first that may store, if more follow it.
pub(crate) fn first_store(region: &Region, helpers: &[HelperDesc]) -> Option<u32> {
    let stores = |i: &Inst| match i.op {
        Op::Store | Op::Rmw | Op::Cas => true,
        Op::Call => helpers.get(usize::from(i.sub)).is_none_or(|h| h.effects.contains(Effects::MEMORY)),
        _ => false,
    };
    let (mut marks, mut end) = (0, None);
    for i in region.blocks.iter().flat_map(|b| &b.insts).map(|v| region.inst(*v)) {
        if i.op == Op::Insn {
            marks += 1;
        } else if end.is_none() && stores(i) {
            end = Some(marks);
        }
    }
    end.filter(|n| *n < marks)
}

/// The code of a region as ranges of `bytes`, which start at the region's own address: there may be gaps that were jumped over.
fn pieces(region: &Region) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for i in region.blocks.iter().flat_map(|b| &b.insts).map(|v| region.inst(*v)) {
        if i.op != Op::Insn {
            continue;
        }
        let start = i.imm.wrapping_sub(region.pc) as usize;
        let end = start.saturating_add(i.sub.into());
        match all.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => all.push(start..end),
        }
    }
    all
}

/// Puts the comparison with `bytes`, from which the region was made, before a region without a way back to its start.
pub(crate) fn guard(region: &mut Region, slots: &SlotTable, bytes: &[u8]) {
    let pieces = pieces(region);
    let empty = || Block { insts: Vec::new(), params: 0, end: None };
    let Some(first) = region.blocks.first_mut() else { return };
    let start = std::mem::replace(first, empty());
    let length = start.insts.first().map_or(1, |v| region.insts[v.index()].sub);
    let (body, stale) = (BlockId(region.blocks.len() as u32), BlockId(region.blocks.len() as u32 + 1));
    region.blocks.push(start);
    region.blocks.push(empty());

    let pc_slot = slots.pc();
    let ty = slots.get(pc_slot).ty;
    let pc = region.pc;
    let mut b = Builder::edit(region, BlockId(0));
    b.insn(pc, length);
    let mut differs = None;
    for piece in pieces {
        let mut at = piece.start;
        while at < piece.end {
            // The last word may begin inside the one before it.
            let left = piece.end - at;
            let log2 = left.min(8).ilog2();
            let n = 1 << log2;
            let Some(code) = bytes.get(at..at + n) else { break };
            let mut word = [0; 8];
            word[..n].copy_from_slice(code);
            let address = b.iconst(ty, pc.wrapping_add(at as u64));
            let now = b.load(Type::I64, MemOp::new(log2), address, 0);
            let then = b.iconst(Type::I64, u64::from_le_bytes(word));
            let d = b.xor(now, then);
            differs = Some(differs.map_or(d, |old| b.or(old, d)));
            at += n;
            let rest = piece.end - at;
            if rest > 0 && rest < 8 && piece.end - piece.start >= 8 {
                at = piece.end - 8;
            }
        }
    }
    match differs {
        Some(d) => {
            let zero = b.iconst(Type::I64, 0);
            let cond = b.setcc(Type::I32, Cond::Ne, d, zero);
            b.branch(cond, stale, body, false);
        }
        None => b.jump(body),
    }
    b.switch_to(stale);
    let here = b.pc(ty, pc);
    b.set(pc_slot, here);
    b.exit(STALE);
}
