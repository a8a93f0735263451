//! Indirect calls in hot regions: where one has gone to the same place for a while, a region compares the address with that and goes
//! on there itself.
//!
//! Units of the second tier note where their indirect calls go ([`EnvHeader::call_targets`](tcg_ir::abi::EnvHeader::call_targets)); several calls may share a place.
//! Whoever samples looks whether it has changed. A guess that is wrong costs a comparison.

use tcg_ir::{
    BlockId, Builder, Cond, Hint, Op, Region, Terminator, Type,
    abi::{CALL_TARGETS, call_site},
};

/// Samples in a row that must have found the same target.
const STEADY: u8 = 3;

/// Targets of indirect calls by [`call_site`]; 0 where there is none.
pub(crate) type Targets = [u64; CALL_TARGETS];

/// What samples of a vCPU have found.
#[derive(Default)]
pub(crate) struct Calls {
    last: Targets,
    same: [u8; CALL_TARGETS],
}

impl Calls {
    /// A sample.
    pub(crate) fn sample(&mut self, targets: &Targets) {
        for ((now, last), same) in targets.iter().zip(&mut self.last).zip(&mut self.same) {
            *same = if now == last { same.saturating_add(1) } else { 0 };
            *last = *now;
        }
    }

    /// The targets that have not changed for some samples.
    pub(super) fn steady(&self) -> Targets {
        let mut targets = self.last;
        targets.iter_mut().zip(&self.same).filter(|(_, same)| **same < STEADY).for_each(|(t, _)| *t = 0);
        targets
    }
}

/// Has the indirect calls of a piece compare their address with the target that is expected, if `wanted` says that there is code to
/// go on with.
pub(super) fn guess(piece: &mut Region, pc_type: Type, targets: &Targets, wanted: &dyn Fn(u64) -> bool) {
    for at in 0..piece.blocks.len() {
        let Some(Terminator::Indirect { pc, hint: hint @ Hint::Call(_) }) = piece.blocks[at].end else {
            continue;
        };
        let site = piece.blocks[at].insts.iter().rev().map(|v| piece.inst(*v)).find(|i| i.op == Op::Insn);
        let target = site.map_or(0, |i| targets[call_site(i.imm)]);
        if target == 0 || target & !pc_type.mask() != 0 || piece.inst(pc).op == Op::Pc || !wanted(target) {
            continue;
        }
        let mut b = Builder::edit(piece, BlockId(at as u32));
        let expected = b.iconst(pc_type, target);
        let same = b.setcc(Type::I32, Cond::Eq, pc, expected);
        let (then, other) = (b.new_block(), b.new_block());
        b.branch(same, then, other, true);
        b.switch_to(then);
        b.link(target, hint);
        b.switch_to(other);
        b.indirect(pc, hint);
    }
}

#[cfg(test)]
mod tests {
    use tcg_ir::testing::slots;

    use super::*;

    #[test]
    fn targets_that_stay_are_steady() {
        let mut targets = [0; CALL_TARGETS];
        let mut calls = Calls::default();
        for n in 0..5u64 {
            (targets[3], targets[4]) = (0x4000, 0x4000 + n);
            calls.sample(&targets);
        }
        let steady = calls.steady();
        assert_eq!((steady[3], steady[4]), (0x4000, 0));
    }

    #[test]
    fn calls_compare_with_what_is_expected() {
        let slots = slots();
        let piece = |hint: Hint| {
            let mut r = Region::default();
            let mut b = Builder::new(&mut r, 0x1000);
            b.insn(0x1000, 4);
            let to = b.get(tcg_ir::SlotId(1), Type::I64);
            b.indirect(to, hint);
            r
        };
        let mut targets = [0; CALL_TARGETS];
        targets[call_site(0x1000)] = 0x4000;
        let links = |r: &Region| -> Vec<Terminator> {
            r.blocks
                .iter()
                .filter_map(|b| b.end.clone())
                .filter(|t| matches!(t, Terminator::Link { .. }))
                .collect()
        };
        let call = Hint::Call(0x1004);
        let mut r = piece(call);
        guess(&mut r, Type::I64, &targets, &|to| to == 0x4000);
        let helpers = tcg_ir::testing::helpers();
        tcg_ir::verify::verify(&r, tcg_ir::Tables { slots: &slots, helpers: &helpers }).unwrap();
        assert_eq!(links(&r), [Terminator::Link { pc: 0x4000, hint: call }]);
        for (hint, wanted) in [(call, false), (Hint::Return, true), (Hint::None, true)] {
            let mut r = piece(hint);
            guess(&mut r, Type::I64, &targets, &|_| wanted);
            assert!(links(&r).is_empty() && r.blocks.len() == 1);
        }
    }
}
