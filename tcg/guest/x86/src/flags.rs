//! RFLAGS (Intel SDM volume 1, 3.4.3) and its arithmetic part in the IR's neutral packing.

use tcg_ir::{FlagBits, interp::flag_bits};

/// Carry.
pub const CF: u64 = 1;
/// Parity.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Single step.
pub const TF: u64 = 1 << 8;
/// Interrupts enabled.
pub const IF: u64 = 1 << 9;
/// String operations count down.
pub const DF: u64 = 1 << 10;
/// Overflow.
pub const OF: u64 = 1 << 11;
/// I/O privilege level.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume: instruction breakpoints are off for one instruction.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check, and access to user pages under SMAP.
pub const AC: u64 = 1 << 18;
/// Virtual interrupt flag.
pub const VIF: u64 = 1 << 19;
/// Virtual interrupt pending.
pub const VIP: u64 = 1 << 20;
/// CPUID exists.
pub const ID: u64 = 1 << 21;

/// The arithmetic flags.
pub const ARITH: u64 = CF | PF | AF | ZF | SF | OF;
/// All others that exist.
pub const SYSTEM: u64 = TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
/// Always one.
pub const FIXED: u64 = 2;

/// Where each arithmetic flag is in the IR's packing, and in RFLAGS.
pub const PLACES: [(u64, u64); 6] = [
    (FlagBits::C, CF),
    (FlagBits::P, PF),
    (FlagBits::A, AF),
    (FlagBits::Z, ZF),
    (FlagBits::N, SF),
    (FlagBits::V, OF),
];

/// In the first word of a record: the carry flag is [`CARRY_BIT`], whatever the operands say.
pub(crate) const OTHER_CARRY: u64 = 1 << 16;
/// The carry flag then.
pub(crate) const CARRY_BIT: u64 = OTHER_CARRY << 1;
/// In the first word of a record: the overflow flag is [`OVERFLOW_BIT`], whatever the operands say.
pub(crate) const OTHER_OVERFLOW: u64 = 1 << 18;
/// The overflow flag then.
pub(crate) const OVERFLOW_BIT: u64 = OTHER_OVERFLOW << 1;

/// The flags of a record in the IR's packing.
#[must_use]
pub fn record_bits(record: &[u64; 4]) -> u64 {
    let mut bits = flag_bits(record);
    for (has, bit, flag) in
        [(OTHER_CARRY, CARRY_BIT, FlagBits::C), (OTHER_OVERFLOW, OVERFLOW_BIT, FlagBits::V)]
    {
        if record[0] & has != 0 {
            bits = bits & !flag | if record[0] & bit != 0 { flag } else { 0 };
        }
    }
    bits
}

/// RFLAGS bits from the IR's packing.
#[must_use]
pub fn from_bits(bits: u64) -> u64 {
    PLACES.iter().filter(|(b, _)| bits & b != 0).fold(0, |f, (_, flag)| f | flag)
}

/// The IR's packing from RFLAGS.
#[must_use]
pub fn to_bits(rflags: u64) -> u64 {
    PLACES.iter().filter(|(_, flag)| rflags & flag != 0).fold(0, |b, (bit, _)| b | bit)
}
