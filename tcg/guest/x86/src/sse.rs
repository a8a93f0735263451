//! Helpers of vector instructions: what the IR cannot say (SDM volume 1, chapters 10 to 14).

use softfloat::{F16, F32, Flags, NanPolicy, RoundingMode, Status, Tininess, ops::convert::convert};
use tcg_engine::{Cx, Trap};
use tcg_ir::{Effects, Exceptions, MemOp, SlotSet};

use crate::{
    fpu,
    guest::X86,
    helpers::{RAISES_MEMORY, helpers},
    mode,
    state::{Cpu, seg},
};

/// Places in the word that describes a gather; the destination's register is in the lowest bits.
pub(crate) mod gather {
    /// Register of the mask.
    pub(crate) const MASK: u32 = 8;
    /// Register of the indices.
    pub(crate) const INDICES: u32 = 16;
    /// log2 of the scale.
    pub(crate) const SCALE: u32 = 24;
    /// Segment register.
    pub(crate) const SEGMENT: u32 = 28;
    /// Number of lanes.
    pub(crate) const LANES: u32 = 32;
    /// Indices have 64 bits.
    pub(crate) const WIDE_INDEX: u32 = 40;
    /// Lanes have 64 bits.
    pub(crate) const WIDE_LANE: u32 = 41;
    /// Addresses have 64 bits.
    pub(crate) const WIDE_ADDRESS: u32 = 42;
}

/// Lane `n` of 4 or 8 bytes of a vector register.
pub(crate) fn lane(s: &Cpu, reg: usize, n: usize, bytes: usize) -> u64 {
    let at = n * bytes;
    let word = match at {
        0..16 => s.xmm[reg][at / 8],
        16..32 => s.ymmh[reg][at / 8 - 2],
        _ => s.zmmh[reg][at / 8 - 4],
    };
    if bytes == 8 { word } else { word >> (at % 8 * 8) & 0xffff_ffff }
}

pub(crate) fn set_lane(s: &mut Cpu, reg: usize, n: usize, bytes: usize, v: u64) {
    let at = n * bytes;
    let word = match at {
        0..16 => &mut s.xmm[reg][at / 8],
        16..32 => &mut s.ymmh[reg][at / 8 - 2],
        _ => &mut s.zmmh[reg][at / 8 - 4],
    };
    if bytes == 8 {
        *word = v;
    } else {
        let shift = at % 8 * 8;
        *word = *word & !(0xffff_ffff << shift) | (v & 0xffff_ffff) << shift;
    }
}

/// Zeros from byte `from` of a vector register on.
pub(crate) fn clear_from(s: &mut Cpu, reg: usize, from: usize) {
    for n in from / 8..8 {
        set_lane(s, reg, n, 8, 0);
    }
}

fn is_signed(s: &Cpu, reg: usize, n: usize, bytes: usize) -> bool {
    lane(s, reg, n, bytes) >> (bytes * 8 - 1) & 1 != 0
}

/// Linear address of an access whose offset in segment `n` is known.
pub(crate) fn linear(s: &Cpu, n: usize, offset: u64, bytes: u64, write: bool) -> Result<u64, Trap> {
    if !s.code64() {
        return crate::segment::check(s, n, offset & 0xffff_ffff, bytes, write);
    }
    Ok(if n < seg::FS { offset } else { offset.wrapping_add(s.seg_base[n]) })
}

/// Lanes one after the other; each that is there clears its mask, so that the instruction goes on where it faulted.
fn gather_lanes(cx: &mut Cx<'_, X86>, base: u64, how: u64) -> Result<(), Trap> {
    let field = |at: u32| (how >> at & 0xff) as usize;
    let wide = |at: u32| how >> at & 1 != 0;
    let (to, mask, from) = (field(0), field(gather::MASK), field(gather::INDICES));
    let bytes: u64 = if wide(gather::WIDE_LANE) { 8 } else { 4 };
    let lanes = field(gather::LANES);
    let m = MemOp::new(bytes.trailing_zeros()).with_mmu(mode::data_mmu(cx.state));
    // Only signs of the mask matter; on a fault lanes still to come have all ones.
    for n in 0..lanes {
        let all = if is_signed(cx.state, mask, n, bytes as usize) { u64::MAX } else { 0 };
        set_lane(cx.state, mask, n, bytes as usize, all);
    }
    clear_from(cx.state, mask, lanes * bytes as usize);
    for n in 0..lanes {
        if is_signed(cx.state, mask, n, bytes as usize) {
            let index = if wide(gather::WIDE_INDEX) {
                lane(cx.state, from, n, 8)
            } else {
                lane(cx.state, from, n, 4) as i32 as u64
            };
            let offset = base.wrapping_add(index << (how >> gather::SCALE & 3));
            let offset = if wide(gather::WIDE_ADDRESS) { offset } else { offset & 0xffff_ffff };
            let at = linear(cx.state, (how >> gather::SEGMENT & 7) as usize, offset, bytes, false)?;
            let v = cx.load(at, m)?;
            set_lane(cx.state, to, n, bytes as usize, v);
            set_lane(cx.state, mask, n, bytes as usize, 0);
        }
    }
    clear_from(cx.state, to, lanes * bytes as usize);
    Ok(())
}

/// The parts of a masked move's description: data and mask registers, bytes of a lane, lanes.
fn masked(how: u64) -> (usize, usize, usize, usize) {
    let bytes = (how >> 16 & 0xff) as usize;
    let lanes = (how >> 24 & 0xff) as usize / bytes.max(1);
    (how as usize & 31, (how >> 8) as usize & 31, bytes, lanes)
}

fn lane_address(s: &Cpu, at: u64, n: usize, bytes: usize) -> u64 {
    let at = at.wrapping_add((n * bytes) as u64);
    if s.code64() { at } else { at & 0xffff_ffff }
}

fn masked_load(cx: &mut Cx<'_, X86>, at: u64, how: u64) -> Result<(), Trap> {
    let (to, mask, bytes, lanes) = masked(how);
    let m = MemOp::new(bytes.trailing_zeros()).with_mmu(mode::data_mmu(cx.state));
    let mut all = [0; 8];
    for (n, v) in all.iter_mut().enumerate().take(lanes) {
        if is_signed(cx.state, mask, n, bytes) {
            *v = cx.load(lane_address(cx.state, at, n, bytes), m)?;
        }
    }
    for (n, v) in all.into_iter().enumerate().take(lanes) {
        set_lane(cx.state, to, n, bytes, v);
    }
    clear_from(cx.state, to, lanes * bytes);
    Ok(())
}

fn masked_store(cx: &mut Cx<'_, X86>, at: u64, how: u64) -> Result<(), Trap> {
    let (from, mask, bytes, lanes) = masked(how);
    let m = MemOp::new(bytes.trailing_zeros()).with_mmu(mode::data_mmu(cx.state));
    for n in (0..lanes).filter(|n| is_signed(cx.state, mask, *n, bytes)).collect::<Vec<_>>() {
        let v = lane(cx.state, from, n, bytes);
        cx.store(lane_address(cx.state, at, n, bytes), m, v)?;
    }
    Ok(())
}

/// Conversions round as MXCSR says.
fn status(s: &Cpu) -> Status {
    let mut status = Status::new(NanPolicy::X86_SSE, Tininess::AfterRounding);
    status.rounding = rounding(s.mxcsr >> 13);
    status.denormals_are_zero = s.mxcsr & 0x40 != 0;
    status
}

pub(crate) const fn rounding(rc: u64) -> RoundingMode {
    match rc & 3 {
        1 => RoundingMode::Down,
        2 => RoundingMode::Up,
        3 => RoundingMode::TowardZero,
        _ => RoundingMode::NearestEven,
    }
}

/// Adds what an operation raised to the sticky exceptions.
pub(crate) fn raise(cx: &mut Cx<'_, X86>, flags: Flags) {
    let table = [
        (Flags::INVALID, Exceptions::INVALID),
        (Flags::INPUT_DENORMAL, Exceptions::DENORMAL),
        (Flags::DIV_BY_ZERO, Exceptions::DIV_BY_ZERO),
        (Flags::OVERFLOW, Exceptions::OVERFLOW),
        (Flags::UNDERFLOW, Exceptions::UNDERFLOW),
        (Flags::INEXACT, Exceptions::INEXACT),
    ];
    let raised =
        table.iter().filter(|(f, _)| flags.contains(*f)).fold(Exceptions::empty(), |e, (_, x)| e | *x);
    let all = cx.exceptions() | raised;
    cx.set_exceptions(all);
}

helpers! {
    base fpu::FIRST + fpu::COUNT;

    /// Stores those bytes of `data` at `at` whose bits are in `mask`.
    MaskStore "mask_store" (at, data, mask) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| {
            let m = MemOp::new(0).with_mmu(mode::data_mmu(cx.state));
            for n in (0..8).filter(|n| mask >> n & 1 != 0) {
                let at = at.wrapping_add(n);
                let at = if cx.state.code64() { at } else { at & 0xffff_ffff };
                cx.store(at, m, data >> (8 * n) & 0xff)?;
            }
            Ok::<u64, Trap>(0)
        }

    /// A gather from `base`, described by `how`.
    Gather "gather" (base, how) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY;
        |cx| gather_lanes(cx, base, how).map(|()| 0)

    /// VMASKMOV from memory. `how`: the register, the mask's from bit 8, bytes of a lane from 16, of the vector from 24.
    MaskedLoad "masked_load" (at, how) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY;
        |cx| masked_load(cx, at, how).map(|()| 0)

    /// VMASKMOV to memory.
    MaskedStore "masked_store" (at, how) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| masked_store(cx, at, how).map(|()| 0)

    /// Two half-precision numbers as singles. Denormals are neither reported nor taken as zeros.
    HalvesToSingles "halves_to_singles" (two) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::FP;
        |cx| {
            let mut s = Status::new(NanPolicy::X86_SSE, Tininess::AfterRounding);
            let one = |v: u64, s: &mut Status| u64::from(convert::<F16, F32>(v as u16, s));
            let r = one(two, &mut s) | one(two >> 16, &mut s) << 32;
            raise(cx, if s.flags.contains(Flags::INVALID) { Flags::INVALID } else { Flags::NONE });
            Ok(r)
        }

    /// Two singles as half-precision numbers, rounded as `imm` says. Results are not flushed.
    SinglesToHalves "singles_to_halves" (two, imm) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::FP;
        |cx| {
            let mut s = status(cx.state);
            if imm & 4 == 0 {
                s.rounding = rounding(imm);
            }
            let one = |v: u64, s: &mut Status| u64::from(convert::<F32, F16>(v as u32, s));
            let r = one(two, &mut s) | one(two >> 32, &mut s) << 16;
            raise(cx, s.flags);
            Ok(r)
        }
}
