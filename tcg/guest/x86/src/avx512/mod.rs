//! Helpers of AVX-512: accesses with a mask, gathers and scatters, floating-point functions without an IR operation (SDM
//! volume 1, chapter 15).
//!
//! Vectors go to and come from `Cpu::scratch`; a mask is an integer with a bit a lane. Lanes whose bit is clear touch no
//! memory and raise nothing.

pub(crate) mod float;

use softfloat::{F32, F64, FlushToZero, NanPolicy, Status, Tininess};
use tcg_engine::{Access, Cx, Trap};
use tcg_ir::{Effects, MemOp, SlotId, SlotSet};

use self::float::Function;
use crate::{
    guest::X86,
    helpers::{RAISES_MEMORY, helpers},
    mode,
    sse::{clear_from, lane, linear, raise, rounding, set_lane},
    state::{self, Cpu},
    text,
};

/// The operands.
const OPERANDS: SlotSet = SlotSet::Only(&[state::scratch(0), state::scratch(1), state::scratch(2)]);
/// The result, or the one operand.
const FIRST_ONE: &[SlotId] = &[state::scratch(0)];

/// Places in the word that describes a gather or scatter: AVX2's, whose mask is an opmask register here, and one more.
pub(crate) mod indexed {
    pub(crate) use crate::sse::gather::*;

    /// A scatter.
    pub(crate) const STORE: u32 = 43;
}

/// Places in the word that describes a floating-point function; its number is in the lowest bits.
pub(crate) mod how {
    /// binary64.
    pub(crate) const DOUBLE: u32 = 4;
    /// Raises nothing.
    pub(crate) const QUIET: u32 = 5;
    /// Rounding, as MXCSR has it.
    pub(crate) const ROUNDING: u32 = 6;
    /// Denormal operands are zeros.
    pub(crate) const DAZ: u32 = 8;
    /// Denormal results are zeros.
    pub(crate) const FLUSH: u32 = 9;
    /// The immediate.
    pub(crate) const IMM: u32 = 16;
    /// Number of lanes.
    pub(crate) const LANES: u32 = 24;
}

fn wrapped(s: &Cpu, at: u64) -> u64 {
    if s.code64() { at } else { at & 0xffff_ffff }
}

/// Lane `n` of `1 << log2` bytes of operand `reg`.
fn operand(s: &Cpu, reg: usize, n: u32, log2: u32) -> u64 {
    let bit = n << (log2 + 3);
    let word = s.scratch[reg][(bit / 64) as usize & 7] >> (bit % 64);
    word & (u64::MAX >> (64 - (8 << log2)))
}

fn set_operand(s: &mut Cpu, n: u32, log2: u32, v: u64) {
    let bit = n << (log2 + 3);
    let mask = (u64::MAX >> (64 - (8 << log2))) << (bit % 64);
    let word = &mut s.scratch[0][(bit / 64) as usize & 7];
    *word = *word & !mask | v << (bit % 64) & mask;
}

/// Lanes of a set, in order.
fn lanes_of(mask: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |n| mask >> n & 1 != 0)
}

fn load_lanes(cx: &mut Cx<'_, X86>, at: u64, mask: u64, log2: u32) -> Result<(), Trap> {
    let m = MemOp::new(log2).with_mmu(mode::data_mmu(cx.state));
    cx.state.scratch[0] = [0; 8];
    for n in lanes_of(mask) {
        let at = wrapped(cx.state, at.wrapping_add(u64::from(n) << log2));
        let v = cx.load(at, m)?;
        set_operand(cx.state, n, log2, v);
    }
    Ok(())
}

fn store_lanes(cx: &mut Cx<'_, X86>, at: u64, mask: u64, log2: u32) -> Result<(), Trap> {
    let mmu = mode::data_mmu(cx.state);
    let m = MemOp::new(log2).with_mmu(mmu);
    let place = |s: &Cpu, n: u32| wrapped(s, at.wrapping_add(u64::from(n) << log2));
    // Nothing is stored if a lane faults.
    for n in lanes_of(mask) {
        let at = place(cx.state, n);
        cx.probe(at, 1 << log2, Access::Store, mmu)?;
    }
    for n in lanes_of(mask) {
        let v = operand(cx.state, 0, n, log2);
        let at = place(cx.state, n);
        cx.store(at, m, v)?;
    }
    Ok(())
}

/// Lanes one after the other; each that is done clears its bit in the mask, so that the instruction goes on where it faulted.
fn indexed_lanes(cx: &mut Cx<'_, X86>, base: u64, how: u64) -> Result<(), Trap> {
    let field = |at: u32| (how >> at & 0xff) as usize;
    let wide = |at: u32| how >> at & 1 != 0;
    let (reg, mask, from) = (field(0) & 31, field(indexed::MASK) & 7, field(indexed::INDICES) & 31);
    let bytes: u64 = if wide(indexed::WIDE_LANE) { 8 } else { 4 };
    let (lanes, store) = (field(indexed::LANES), wide(indexed::STORE));
    let m = MemOp::new(bytes.trailing_zeros()).with_mmu(mode::data_mmu(cx.state));
    for n in 0..lanes {
        if cx.state.opmask[mask] >> n & 1 == 0 {
            continue;
        }
        let index = if wide(indexed::WIDE_INDEX) {
            lane(cx.state, from, n, 8)
        } else {
            lane(cx.state, from, n, 4) as i32 as u64
        };
        let offset = base.wrapping_add(index << (how >> indexed::SCALE & 3));
        let offset = if wide(indexed::WIDE_ADDRESS) { offset } else { offset & 0xffff_ffff };
        let at = linear(cx.state, (how >> indexed::SEGMENT & 7) as usize, offset, bytes, store)?;
        if store {
            let v = lane(cx.state, reg, n, bytes as usize);
            cx.store(at, m, v)?;
        } else {
            let v = cx.load(at, m)?;
            set_lane(cx.state, reg, n, bytes as usize, v);
        }
        cx.state.opmask[mask] &= !(1 << n);
    }
    cx.state.opmask[mask] = 0;
    if !store {
        clear_from(cx.state, reg, lanes * bytes as usize);
    }
    Ok(())
}

fn float_lanes(cx: &mut Cx<'_, X86>, how: u64, mask: u64) {
    let bit = |at: u32| how >> at & 1 != 0;
    let f = Function::from_bits(how);
    let log2 = if bit(how::DOUBLE) { 3 } else { 2 };
    let mut s = Status::new(NanPolicy::X86_SSE, Tininess::AfterRounding);
    s.rounding = rounding(how >> how::ROUNDING);
    s.denormals_are_zero = bit(how::DAZ);
    if bit(how::FLUSH) {
        s.flush_to_zero = FlushToZero::UnderflowInexact;
    }
    let imm = (how >> how::IMM) as u8;
    let lanes = (how >> how::LANES & 0xff) as u32;
    for n in lanes_of(mask).take_while(|n| *n < lanes) {
        let args = [0, 1, 2].map(|reg| operand(cx.state, reg, n, log2));
        let v = if log2 == 3 {
            float::lane::<F64>(f, args, imm, &mut s)
        } else {
            float::lane::<F32>(f, args, imm, &mut s)
        };
        set_operand(cx.state, n, log2, v);
    }
    if !bit(how::QUIET) {
        raise(cx, s.flags);
    }
}

helpers! {
    base text::FIRST + text::COUNT;

    /// Loads the lanes of `mask`, of `1 << log2` bytes, from `at` on; zeros in the others.
    LoadLanes "load_lanes" (at, mask, log2) -> Void
        reads SlotSet::None, writes SlotSet::Only(FIRST_ONE), effects RAISES_MEMORY;
        |cx| load_lanes(cx, at, mask, (log2 & 3) as u32).map(|()| 0)

    /// Stores the lanes of `mask`, of `1 << log2` bytes, from `at` on.
    StoreLanes "store_lanes" (at, mask, log2) -> Void
        reads SlotSet::Only(FIRST_ONE), writes SlotSet::None, effects RAISES_MEMORY;
        |cx| store_lanes(cx, at, mask, (log2 & 3) as u32).map(|()| 0)

    /// `1 << log2` bytes at `at` if `on` is not zero, else zero.
    LoadIf "load_if" (at, on, log2) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| {
            if on == 0 {
                return Ok(0);
            }
            let m = MemOp::new((log2 & 3) as u32).with_mmu(mode::data_mmu(cx.state));
            cx.load(at, m)
        }

    /// A gather or scatter from `base`, described by `how`.
    Indexed "indexed" (base, how) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY;
        |cx| indexed_lanes(cx, base, how).map(|()| 0)

    /// A floating-point function on the lanes of `mask`, described by `how`.
    FloatLanes "float_lanes" (how, mask) -> Void
        reads OPERANDS, writes SlotSet::Only(FIRST_ONE), effects Effects::FP;
        |cx| {
            float_lanes(cx, how, mask);
            Ok(0)
        }

    /// VZEROUPPER and, if `all`, VZEROALL of registers that may hold something above bit 255.
    ClearRegisters "clear_registers" (all) -> Void
        reads SlotSet::All, writes SlotSet::All, effects Effects::empty();
        |cx| {
            let s = &mut *cx.state;
            for n in 0..if s.code64() { 16 } else { 8 } {
                (s.ymmh[n], s.zmmh[n]) = ([0; 2], [0; 4]);
                if all != 0 {
                    s.xmm[n] = [0; 2];
                }
            }
            s.look_at_high();
            Ok(0)
        }
}
