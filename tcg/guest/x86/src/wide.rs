//! Arithmetic that the IR has no operation for, and instructions that push or pop many values.

use tcg_engine::{Cx, Trap};
use tcg_ir::{Effects, FlagBits, MemOp, SlotId, SlotSet};

use crate::{
    exceptions::{self, vector},
    guest::X86,
    helpers::{RAISES_MEMORY, helpers},
    segment,
    stack::Stack,
    state::{self, Cpu},
    strings,
};

/// RAX and RDX.
const AX_DX: &[SlotId] = &[state::reg(0), state::reg(2)];

/// Which decimal adjustment.
pub(crate) const DAA: u64 = 0;
/// After subtraction.
pub(crate) const DAS: u64 = 1;
/// ASCII, after addition.
pub(crate) const AAA: u64 = 2;
/// ASCII, after subtraction.
pub(crate) const AAS: u64 = 3;

fn flags_of(r: u8, c: bool, a: bool) -> u64 {
    let flags = [
        (c, FlagBits::C),
        (a, FlagBits::A),
        (r == 0, FlagBits::Z),
        (r & 0x80 != 0, FlagBits::N),
        (r.count_ones().is_multiple_of(2), FlagBits::P),
    ];
    flags.iter().filter(|(on, _)| *on).fold(0, |bits, (_, f)| bits | f)
}

/// AX and flags after a decimal adjustment (SDM volume 2): AX in bits 0 to 15, packed flags above.
fn decimal(which: u64, ax: u64, flags: u64) -> u64 {
    let (al, ah) = (ax as u8, (ax >> 8) as u8);
    let (c, a) = (flags & FlagBits::C != 0, flags & FlagBits::A != 0);
    let low = al & 15 > 9 || a;
    if which <= DAS {
        let sub = which == DAS;
        let high = al > 0x99 || c;
        let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
        let r = if sub { al.wrapping_sub(by) } else { al.wrapping_add(by) };
        let borrow = sub && low && al < 6;
        return u64::from(r) | u64::from(ah) << 8 | flags_of(r, high || borrow, low) << 16;
    }
    let mut out = ax as u16;
    if low {
        out = if which == AAA { out.wrapping_add(0x106) } else { out.wrapping_sub(6).wrapping_sub(0x100) };
    }
    let r = out as u8 & 15;
    u64::from(r) | u64::from(out & 0xff00) | flags_of(r, low, low) << 16
}

/// Bits of `v` put where `mask` has ones.
fn deposit(v: u64, mask: u64) -> u64 {
    let (mut out, mut left, mut n) = (0, mask, 0);
    while left != 0 {
        let bit = left & left.wrapping_neg();
        if v >> n & 1 != 0 {
            out |= bit;
        }
        left ^= bit;
        n += 1;
    }
    out
}

/// Bits of `v` where `mask` has ones, packed.
fn extract(v: u64, mask: u64) -> u64 {
    let (mut out, mut left, mut n) = (0, mask, 0);
    while left != 0 {
        let bit = left & left.wrapping_neg();
        if v & bit != 0 {
            out |= 1 << n;
        }
        left ^= bit;
        n += 1;
    }
    out
}

/// CRC-32C (polynomial 11EDC6F41, reflected) of `bytes` bytes.
fn crc32(crc: u32, v: u64, bytes: u64) -> u32 {
    (0..bytes).fold(crc, |crc, n| crc >> 8 ^ CRC[(crc as u8 ^ (v >> (8 * n)) as u8) as usize])
}

/// The remainder of each byte.
const CRC: [u32; 256] = {
    let (mut table, mut n) = ([0; 256], 0);
    while n < 256 {
        let (mut crc, mut bit) = (n as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

/// Rotation through carry: result and carry. `how`: width, and "to the left" in bit 8.
fn rotate_carry(v: u64, n: u64, c: u64, how: u64) -> (u64, u64) {
    let w = how & 0xff;
    let n = n % (w + 1);
    let n = if how >> 8 & 1 != 0 { n } else { (w + 1 - n) % (w + 1) };
    let all = u128::from(v) | u128::from(c & 1) << w;
    let mask = (1_u128 << (w + 1)) - 1;
    let r = if n == 0 { all } else { (all << n | all >> (w + 1 - n)) & mask };
    (r as u64 & ((1_u128 << w) - 1) as u64, (r >> w) as u64 & 1)
}

/// Quotient and remainder of 128 by 64 bits.
fn divide(high: u64, low: u64, d: u64, signed: bool) -> Option<(u64, u64)> {
    if d == 0 {
        return None;
    }
    if signed {
        let n = (u128::from(high) << 64 | u128::from(low)) as i128;
        let d = i128::from(d as i64);
        let q = n.checked_div(d)?;
        let q64 = i64::try_from(q).ok()?;
        return Some((q64 as u64, (n % d) as u64));
    }
    if high == 0 {
        return Some((low / d, low % d));
    }
    let n = u128::from(high) << 64 | u128::from(low);
    let q = u64::try_from(n / u128::from(d)).ok()?;
    Some((q, (n % u128::from(d)) as u64))
}

fn push_all(cx: &mut Cx<'_, X86>, log2: u32) -> Result<(), Trap> {
    let mut stack = Stack::current(cx.state);
    let regs = cx.state.regs;
    for r in [0, 1, 2, 3, 4, 5, 6, 7] {
        stack.push(cx, log2, regs[r])?;
    }
    stack.commit(cx.state);
    Ok(())
}

fn pop_all(cx: &mut Cx<'_, X86>, log2: u32) -> Result<(), Trap> {
    let mut stack = Stack::current(cx.state);
    let mut regs = cx.state.regs;
    let mask = if log2 == 1 { 0xffff } else { 0xffff_ffff };
    for r in [7, 6, 5, 4, 3, 2, 1, 0] {
        let v = stack.pop(cx, log2)?;
        if r != 4 {
            regs[r] = if log2 == 1 { regs[r] & !mask | v & mask } else { v & mask };
        }
    }
    cx.state.regs = regs;
    stack.commit(cx.state);
    Ok(())
}

/// Sets the low bits of a register in the stack's width.
fn set_frame(s: &mut Cpu, v: u64, bytes: u64) {
    s.regs[5] = match bytes {
        2 => s.regs[5] & !0xffff | v & 0xffff,
        4 => v & 0xffff_ffff,
        _ => v,
    };
}

fn enter(cx: &mut Cx<'_, X86>, bytes: u64, size: u64, level: u64) -> Result<(), Trap> {
    let log2 = bytes.trailing_zeros();
    let mut stack = Stack::current(cx.state);
    let bp = cx.state.regs[5];
    stack.push(cx, log2, bp)?;
    let frame = stack.sp;
    let mut display = stack;
    display.sp = bp;
    for _ in 1..level {
        display.sp = display.moved(-(bytes as i64));
        let mut at = display;
        let v = at.pop(cx, log2)?;
        stack.push(cx, log2, v)?;
    }
    if level > 0 {
        stack.push(cx, log2, frame)?;
    }
    stack.sp = stack.moved(-(size as i64));
    // The new top must be writable (SDM volume 2, ENTER).
    stack.probe(cx)?;
    let frame_bytes = stack.pointer_bytes().min(bytes);
    set_frame(cx.state, frame, frame_bytes);
    stack.commit(cx.state);
    Ok(())
}

fn cmpxchg16b(cx: &mut Cx<'_, X86>, at: u64, mmu: u64) -> Result<u64, Trap> {
    if at & 15 != 0 {
        return Err(exceptions::with_error(vector::GP, 0));
    }
    let r = &cx.state.regs;
    let expected = u128::from(r[0]) | u128::from(r[2]) << 64;
    let new = u128::from(r[3]) | u128::from(r[1]) << 64;
    let old = cx.cas_wide(at, MemOp::new(4).with_mmu(mmu as usize), expected, new)?;
    if old == expected {
        return Ok(1);
    }
    cx.state.regs[0] = old as u64;
    cx.state.regs[2] = (old >> 64) as u64;
    Ok(0)
}

fn lock_neg(cx: &mut Cx<'_, X86>, at: u64, how: u64) -> Result<u64, Trap> {
    let m = MemOp::new(how as u32 & 7).with_mmu((how >> 8) as usize);
    loop {
        let old = cx.load(at, m)?;
        if cx.cas(at, m, old, old.wrapping_neg())? == old {
            return Ok(old);
        }
    }
}

helpers! {
    base strings::FIRST + strings::COUNT;

    /// DIV and IDIV of 64 bits: RDX:RAX by `d`.
    Div128 "div128" (high, low, d, signed) -> Void
        reads SlotSet::None, writes SlotSet::Only(AX_DX), effects Effects::RAISES;
        |cx| {
            let Some((q, r)) = divide(high, low, d, signed != 0) else {
                return Err(exceptions::plain(vector::DE));
            };
            (cx.state.regs[0], cx.state.regs[2]) = (q, r);
            Ok(0)
        }

    /// DAA, DAS, AAA, AAS.
    Bcd "bcd" (which, ax, flags) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(decimal(which, ax, flags))

    /// PDEP.
    Pdep "pdep" (v, mask) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(deposit(v, mask))

    /// PEXT.
    Pext "pext" (v, mask) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(extract(v, mask))

    /// CRC32.
    Crc32 "crc32" (crc, v, bytes) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(u64::from(crc32(crc as u32, v, bytes)))

    /// RCL and RCR.
    RotateCarry "rotate_carry" (v, n, c, how) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(rotate_carry(v, n, c, how).0)

    /// Their carry.
    RotateCarryOut "rotate_carry_out" (v, n, c, how) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(rotate_carry(v, n, c, how).1)

    /// PUSHA and PUSHAD.
    PushAll "push_all" (wide) -> Void
        reads SlotSet::All, writes SlotSet::Only(&[state::reg(4)]), effects RAISES_MEMORY;
        |cx| push_all(cx, 1 + wide as u32).map(|()| 0)

    /// POPA and POPAD.
    PopAll "pop_all" (wide) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY;
        |cx| pop_all(cx, 1 + wide as u32).map(|()| 0)

    /// ENTER.
    Enter "enter" (bytes, size, level) -> Void
        reads SlotSet::All, writes SlotSet::Only(&[state::reg(4), state::reg(5)]), effects RAISES_MEMORY;
        |cx| enter(cx, bytes, size, level).map(|()| 0)

    /// CMPXCHG16B: 1 if they were equal.
    Cmpxchg16b "cmpxchg16b" (at, mmu) -> I64
        reads SlotSet::All, writes SlotSet::Only(AX_DX), effects RAISES_MEMORY;
        |cx| cmpxchg16b(cx, at, mmu)

    /// LOCK NEG: the old value. `how`: log2 of the size, MMU index from bit 8.
    LockNeg "lock_neg" (at, how) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| lock_neg(cx, at, how)

    /// BOUND: `index`, the operand's address, log2 of the size and the MMU index from bit 8.
    Bound "bound" (index, at, how) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| {
            let log2 = how as u32 & 7;
            let m = MemOp::new(log2).with_sign().with_mmu((how >> 8) as usize);
            let low = cx.load(at, m)? as i64;
            let high = cx.load(segment::linear(cx.state, at.wrapping_add(1 << log2)), m)? as i64;
            let shift = 64 - (8 << log2);
            let index = (index << shift) as i64 >> shift;
            if index < low || index > high {
                return Err(exceptions::plain(vector::BR));
            }
            Ok(0)
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic() {
        assert_eq!(deposit(0b101, 0b11010), 0b10010);
        assert_eq!(extract(0b10010, 0b11010), 0b101);
        assert_eq!(crc32(0xffff_ffff, 0x3837_3635_3433_3231, 8), 0x6087_809a ^ 0xffff_ffff);
        assert_eq!(rotate_carry(0x81, 1, 0, 8 | 1 << 8), (2, 1));
        assert_eq!(rotate_carry(0x81, 1, 1, 8), (0xc0, 1));
        assert_eq!(divide(1, 0, 1, false), None);
        assert_eq!(divide(0, 7, 2, false), Some((3, 1)));
        assert_eq!(divide(u64::MAX, -7_i64 as u64, 2, true), Some((-3_i64 as u64, u64::MAX)));
        assert_eq!(divide(0, 1 << 63, 1, true), None);
        assert_eq!(decimal(DAA, 0x9a, 0) & 0xffff, 0);
    }
}
