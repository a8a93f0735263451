//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM volume 2, 4.1).

use tcg_ir::{Effects, FlagBits, SlotSet};

use crate::{helpers::helpers, smm, state::Cpu};

/// In `how`, besides the immediate in bits 0 to 7 and the first operand's register from bit 16 on: the result is an
/// index in RCX, else a mask in XMM0.
pub(crate) const INDEX: u64 = 1 << 8;
/// The lengths are in RAX and RDX.
pub(crate) const EXPLICIT: u64 = 1 << 9;
/// All 64 bits of them.
pub(crate) const WIDE: u64 = 1 << 10;
/// The upper half of the mask's register becomes zero.
pub(crate) const VEX: u64 = 1 << 11;

/// A string: its characters and how many of them count.
struct Text {
    chars: Vec<i32>,
    len: usize,
}

impl Text {
    fn of(v: u128, imm: u64, explicit: Option<i64>) -> Self {
        let (bits, count) = if imm & 1 != 0 { (16, 8) } else { (8, 16) };
        let char = |n: u32| {
            let raw = (v >> (n * bits)) as u32 & ((1 << bits) - 1);
            if imm & 2 != 0 { (raw << (32 - bits)) as i32 >> (32 - bits) } else { raw as i32 }
        };
        let chars: Vec<i32> = (0..count).map(char).collect();
        let len = match explicit {
            Some(n) => n.unsigned_abs().min(u64::from(count)) as usize,
            None => chars.iter().position(|c| *c == 0).unwrap_or(count as usize),
        };
        Self { chars, len }
    }

    const fn has(&self, n: usize) -> bool {
        n < self.len
    }
}

/// What aggregation says of each character of `b`.
fn aggregate(a: &Text, b: &Text, imm: u64) -> u32 {
    let count = a.chars.len();
    let same = |i: usize, j: usize| a.chars[i] == b.chars[j];
    let bit = |j: usize| match imm >> 2 & 3 {
        0 => b.has(j) && (0..a.len).any(|i| same(i, j)),
        1 => {
            let inside = |i: usize| a.chars[i] <= b.chars[j] && b.chars[j] <= a.chars[i + 1];
            b.has(j) && (0..a.len / 2).any(|pair| inside(2 * pair))
        }
        2 => match (a.has(j), b.has(j)) {
            (true, true) => same(j, j),
            (x, y) => x == y,
        },
        _ => (0..count - j).all(|i| !a.has(i) || b.has(j + i) && same(i, j + i)),
    };
    (0..count).fold(0, |all, j| all | u32::from(bit(j)) << j)
}

fn compare(s: &mut Cpu, how: u64, b: u128) -> u64 {
    let reg = (how >> 16 & 31) as usize;
    let a = u128::from(s.xmm[reg][0]) | u128::from(s.xmm[reg][1]) << 64;
    let length = |n: usize| {
        let v = s.regs[n];
        (how & EXPLICIT != 0).then_some(if how & WIDE != 0 { v as i64 } else { i64::from(v as i32) })
    };
    let (a, b) = (Text::of(a, how, length(0)), Text::of(b, how, length(2)));
    let count = a.chars.len();
    let all = (1u32 << count) - 1;
    let found = aggregate(&a, &b, how);
    let found = match how >> 4 & 3 {
        1 => !found & all,
        3 => found ^ ((1u32 << b.len) - 1),
        _ => found,
    };
    if how & INDEX != 0 {
        s.regs[1] = match found {
            0 => count as u64,
            f if how & 0x40 != 0 => u64::from(31 - f.leading_zeros()),
            f => u64::from(f.trailing_zeros()),
        };
    } else {
        let bits = 128 / count as u32;
        let expand = (0..count as u32).filter(|n| found >> n & 1 != 0);
        let mask = if how & 0x40 != 0 {
            expand.fold(0, |m: u128, n| m | ((1 << bits) - 1) << (n * bits))
        } else {
            u128::from(found)
        };
        s.xmm[0] = [mask as u64, (mask >> 64) as u64];
        if how & VEX != 0 {
            (s.ymmh[0], s.zmmh[0]) = ([0; 2], [0; 4]);
        }
    }
    let flags = [
        (found != 0, FlagBits::C),
        (b.len < count, FlagBits::Z),
        (a.len < count, FlagBits::N),
        (found & 1 != 0, FlagBits::V),
    ];
    flags.iter().filter(|(on, _)| *on).fold(0, |bits, (_, f)| bits | f)
}

helpers! {
    base smm::FIRST + smm::COUNT;

    /// One of the comparisons, with the second operand's halves: the packed flags.
    CompareText "compare_text" (how, low, high) -> I64
        reads SlotSet::All, writes SlotSet::All, effects Effects::empty();
        |cx| Ok(compare(cx.state, how, u128::from(low) | u128::from(high) << 64))
}
