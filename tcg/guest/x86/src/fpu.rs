//! x87 and MMX helpers (SDM volume 1, chapters 8 and 9).

use tcg_engine::{Cx, Trap};
use tcg_ir::SlotSet;

use crate::{
    control::CR0_NE,
    debug,
    exceptions::{self, vector},
    guest::X86,
    helpers::{RAISES, RAISES_MEMORY, helpers},
    mode, state,
    x87::{Arith, Kind, Unary, sw},
};

/// The slots that alias x87 registers.
const FPU: SlotSet = SlotSet::Only(&[
    state::X87_TOP,
    state::mm(0),
    state::mm(1),
    state::mm(2),
    state::mm(3),
    state::mm(4),
    state::mm(5),
    state::mm(6),
    state::mm(7),
]);

/// Moves between registers.
pub(crate) mod moves {
    pub(crate) const LOAD: u64 = 0;
    pub(crate) const STORE: u64 = 1;
    pub(crate) const EXCHANGE: u64 = 2;
    pub(crate) const FREE: u64 = 3;
    pub(crate) const POP: u64 = 4;
    /// FFREEP: frees, then pops.
    pub(crate) const FREE_POP: u64 = 5;
    /// FCMOV: ST(0) becomes ST(i).
    pub(crate) const CONDITIONAL: u64 = 6;
}

/// Reports an unmasked exception of an earlier instruction.
fn pending(cx: &Cx<'_, X86>) -> Result<(), Trap> {
    if cx.state.x87.fsw & sw::ES != 0 && cx.state.cr0 & CR0_NE != 0 {
        return Err(exceptions::plain(vector::MF));
    }
    Ok(())
}

/// The environment: control, status and tag word, pointers; `wide` is the 32-bit form.
fn environment(cx: &Cx<'_, X86>, wide: bool) -> Vec<u8> {
    let u = &cx.state.x87;
    let mut tags = 0u64;
    for n in 0..8u64 {
        let [low, high] = u.regs[n as usize];
        let tag = if u.ftw >> n & 1 == 0 {
            3
        } else {
            match high & 0x7fff {
                0 if low == 0 => 1,
                0 | 0x7fff => 2,
                _ if low >> 63 == 0 => 2,
                _ => 0,
            }
        };
        tags |= tag << (2 * n);
    }
    let fsw = u.fsw & !0x3800 | (u.top & 7) << 11;
    let words = [u.fcw, fsw, tags, u.fip, u.fcs | u.fop << 16, u.fdp, u.fds];
    let mut bytes = Vec::new();
    for w in words {
        if wide {
            let filled = if bytes.len() < 12 { w & 0xffff | 0xffff_0000 } else { w };
            bytes.extend((filled as u32).to_le_bytes());
        } else {
            bytes.extend((w as u16).to_le_bytes());
        }
    }
    bytes
}

fn set_environment(cx: &mut Cx<'_, X86>, bytes: &[u8], wide: bool) {
    let size = if wide { 4 } else { 2 };
    let word =
        |n: usize| bytes[n * size..(n + 1) * size].iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
    let u = &mut cx.state.x87;
    u.fcw = word(0) & 0xffff | 0x40;
    u.fsw = word(1) & 0xffff & !0x3800;
    u.top = word(1) >> 11 & 7;
    u.ftw = (0..8).filter(|n| word(2) >> (2 * n) & 3 != 3).fold(0, |all, n| all | 1 << n);
    (u.fip, u.fcs, u.fdp, u.fds) = (word(3), word(4) & 0xffff, word(5), word(6) & 0xffff);
    u.fop = if wide { word(4) >> 16 & 0x7ff } else { 0 };
    let unmasked = u.fsw & !u.fcw & 0x3f != 0;
    u.fsw = u.fsw & !(sw::ES | sw::B) | if unmasked { sw::ES | sw::B } else { 0 };
}

fn access(cx: &mut Cx<'_, X86>, at: u64, n: u64) -> u64 {
    let at = at.wrapping_add(n);
    if cx.state.code64() { at } else { at & 0xffff_ffff }
}

fn byte() -> tcg_ir::MemOp {
    tcg_ir::MemOp::new(0)
}

fn store_bytes(cx: &mut Cx<'_, X86>, at: u64, bytes: &[u8]) -> Result<(), Trap> {
    let m = byte().with_mmu(mode::data_mmu(cx.state));
    for (n, b) in bytes.iter().enumerate() {
        let at = access(cx, at, n as u64);
        cx.store(at, m, (*b).into())?;
    }
    Ok(())
}

fn load_bytes(cx: &mut Cx<'_, X86>, at: u64, bytes: &mut [u8]) -> Result<(), Trap> {
    let m = byte().with_mmu(mode::data_mmu(cx.state));
    for (n, b) in bytes.iter_mut().enumerate() {
        let at = access(cx, at, n as u64);
        *b = cx.load(at, m)? as u8;
    }
    Ok(())
}

helpers! {
    base debug::FIRST + debug::COUNT;

    /// An MMX instruction: all registers are in use, and MMX register `written`, if it is one, gets the exponent of a NaN.
    MmxEnter "mmx_enter" (written) -> Void
        reads SlotSet::None, writes SlotSet::Only(&[state::X87_TOP]), effects RAISES;
        |cx| {
            pending(cx)?;
            let x87 = &mut cx.state.x87;
            (x87.top, x87.ftw) = (0, 0xff);
            if let Some(r) = x87.regs.get_mut(written as usize) {
                r[1] = 0xffff;
            }
            Ok(0)
        }

    /// Pushes a number of memory, `bits`, of `Kind` `kind`.
    FpuLoad "fpu_load" (kind, bits) -> Void
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            cx.state.x87.load(Kind::from_bits(kind), bits);
            Ok(0)
        }

    /// Pushes 80 bits, a packed decimal number if `packed`.
    FpuLoad80 "fpu_load80" (low, high, packed) -> Void
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            let u = &mut cx.state.x87;
            if packed != 0 {
                u.load_packed(low, high);
            } else {
                u.set_c1(false);
                u.push(u128::from(low) | u128::from(high & 0xffff) << 64);
            }
            Ok(0)
        }

    /// ST(0) as memory gets it, of `Kind` `kind & 7`; truncated if bit 3 is set.
    FpuStored "fpu_stored" (kind) -> I64
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            Ok(cx.state.x87.stored(Kind::from_bits(kind & 7), kind & 8 != 0))
        }

    /// Stores the 80 bits of ST(0) at `at`, as a packed decimal number if `packed`.
    FpuStore80 "fpu_store80" (at, packed) -> Void
        reads FPU, writes FPU, effects RAISES_MEMORY;
        |cx| {
            pending(cx)?;
            let u = &mut cx.state.x87;
            let (low, high) = if packed != 0 {
                u.packed()
            } else {
                u.set_c1(false);
                let v = u.st(0).unwrap_or(crate::x87::INDEFINITE);
                (v as u64, (v >> 64) as u64)
            };
            let mut bytes = low.to_le_bytes().to_vec();
            bytes.extend(&high.to_le_bytes()[..2]);
            store_bytes(cx, at, &bytes)?;
            Ok(0)
        }

    /// Arithmetic `op` of ST(0) with a number of memory.
    FpuArithMemory "fpu_arith_memory" (op, kind, bits) -> Void
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            cx.state.x87.arith_memory(Arith::from_bits(op), Kind::from_bits(kind), bits);
            Ok(0)
        }

    /// Arithmetic `op` of ST(`to`) with ST(`with`), then `pops` pops.
    FpuArith "fpu_arith" (op, to, with, pops) -> Void
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            cx.state.x87.arith_registers(Arith::from_bits(op), to, with, pops);
            Ok(0)
        }

    /// Compares ST(0) with ST(`i`) into the status word.
    FpuCompare "fpu_compare" (i, signalling, pops) -> Void
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            cx.state.x87.compare_registers(i, signalling != 0, pops);
            Ok(0)
        }

    /// The same into flags.
    FpuCompareFlags "fpu_compare_flags" (i, signalling, pops) -> I64
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            Ok(cx.state.x87.compare_flags(i, signalling != 0, pops))
        }

    /// An instruction on ST(0).
    FpuUnary "fpu_unary" (op) -> Void
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            pending(cx)?;
            cx.state.x87.unary(Unary::from_bits(op));
            Ok(0)
        }

    /// A move between registers, then `pops` pops; a conditional one happens if `cond`.
    FpuMove "fpu_move" (what, i, pops, cond) -> Void
        reads FPU, writes FPU, effects RAISES;
        |cx| {
            // Freeing waits for nothing, nor does a pop that ends another instruction.
            if !matches!(what, moves::FREE | moves::FREE_POP | moves::POP) {
                pending(cx)?;
            }
            let u = &mut cx.state.x87;
            match what {
                moves::LOAD => {
                    u.set_c1(false);
                    if let Some(v) = u.st(i) {
                        u.push(v);
                    }
                }
                moves::STORE => {
                    u.set_c1(false);
                    if let Some(v) = u.st(0) {
                        u.set_st(i, v);
                        u.pop(pops);
                    }
                }
                moves::EXCHANGE => {
                    u.set_c1(false);
                    if let (Some(a), Some(b)) = (u.st(0), u.st(i)) {
                        u.set_st(0, b);
                        u.set_st(i, a);
                    }
                }
                moves::FREE => u.free(i),
                moves::FREE_POP => {
                    u.free(i);
                    u.pop(1);
                }
                moves::CONDITIONAL => {
                    u.set_c1(false);
                    if let (Some(a), Some(b)) = (u.st(0), u.st(i)) {
                        u.set_st(0, if cond != 0 { b } else { a });
                    }
                }
                _ => u.pop(pops),
            }
            Ok(0)
        }

    /// FNSTENV and FNSAVE: `how` is the 32-bit form (1), with the registers (2).
    FpuSave "fpu_save" (at, how) -> Void
        reads FPU, writes FPU, effects RAISES_MEMORY;
        |cx| {
            let mut bytes = environment(cx, how & 1 != 0);
            if how & 2 != 0 {
                for i in 0..8 {
                    bytes.extend(&cx.state.x87.raw(i).to_le_bytes()[..10]);
                }
            }
            store_bytes(cx, at, &bytes)?;
            if how & 2 != 0 {
                cx.state.x87 = state::X87 { regs: cx.state.x87.regs, ..state::X87::default() };
            } else {
                cx.state.x87.fcw |= 0x3f;
                cx.state.x87.fsw &= !(sw::ES | sw::B);
            }
            Ok(0)
        }

    /// FLDENV and FRSTOR.
    FpuRestore "fpu_restore" (at, how) -> Void
        reads FPU, writes FPU, effects RAISES_MEMORY;
        |cx| {
            let head = if how & 1 != 0 { 28 } else { 14 };
            let mut bytes = vec![0; head + if how & 2 != 0 { 80 } else { 0 }];
            load_bytes(cx, at, &mut bytes)?;
            set_environment(cx, &bytes[..head], how & 1 != 0);
            let full = cx.state.x87.ftw;
            for (i, r) in bytes[head..].chunks_exact(10).enumerate() {
                let v = r.iter().rev().fold(0u128, |v, b| v << 8 | u128::from(*b));
                cx.state.x87.set_st(i as u64, v);
            }
            cx.state.x87.ftw = full;
            Ok(0)
        }

    /// Reports a pending exception.
    FpuWait "fpu_wait" () -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| pending(cx).map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_aliases_are_named() {
        let SlotSet::Only(slots) = FPU else { panic!("a list") };
        assert!((0..8).all(|n| slots.contains(&state::mm(n))) && slots.contains(&state::X87_TOP));
    }
}
