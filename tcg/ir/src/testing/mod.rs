//! What tests of passes, back ends and the engine share: a machine to run regions on, a slot and helper table, and a
//! generator of random valid regions that uses every operation.
//!
//! Everything is deterministic in the seed.

mod any;
mod generate;
mod helpers;
mod machine;

pub use any::{AnyMachine, check_region};
pub use generate::{GenConfig, generate};
pub use helpers::{HELPER_STATUS_EXIT, HELPER_STATUS_FAULT, call, helpers};
pub use machine::{MEM_BASE, MEM_SIZE, TestMachine, page_faults, random_slots};

use crate::{SlotId, SlotTable, Type};

/// Bytes of the state structure of [`slots`].
pub const STATE_BYTES: usize = 768;

/// Marsaglia's xorshift64*: small, fast, the same everywhere.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Any seed will do.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n` (0 if `n` is 0).
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.bits() >> 33) as usize % n }
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// A number that arithmetic finds interesting: near zero, near a power of two, all ones, or anything.
    pub fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(4) as u64,
            1 => (self.below(4) as u64).wrapping_neg(),
            2 => 1u64 << self.below(64),
            3 => (1u64 << self.below(64)).wrapping_sub(1),
            4 => (1u64 << self.below(64)).wrapping_neg(),
            5 => self.below(256) as u64,
            6 => self.bits() >> self.below(64),
            _ => self.bits(),
        }
    }

    /// Bits of a float of type `ty`, special values often.
    pub fn float(&mut self, ty: Type) -> u64 {
        let (exp, man) = match ty {
            Type::F16 => (5u32, 10u32),
            Type::F32 => (8, 23),
            _ => (11, 52),
        };
        let emax = (1u64 << exp) - 1;
        let bias = emax >> 1;
        let mmask = (1u64 << man) - 1;
        let sign = self.bits() & 1;
        let (e, m) = match self.below(12) {
            0 => (0, 0),
            1 => (emax, 0),
            2 => (emax, 1 << (man - 1) | self.bits() & mmask >> 1),
            3 => (emax, 1 | self.bits() & mmask >> 1),
            4 => (0, self.number() & mmask),
            5 => (emax - 1, mmask),
            6 => (1, self.below(3) as u64),
            7..=9 => (bias - 4 + self.below(9) as u64, self.number() & mmask),
            10 => (bias + u64::from(man) - 2 + self.below(5) as u64, self.bits() & mmask),
            _ => (self.bits() & emax, self.bits() & mmask),
        };
        sign << (exp + man) | e << man | m & mmask
    }
}

/// A slot table with slots of every type: `pc`, `x0` to `x7` (i64), `w0` to `w3` (i32) and so on; `sys` is volatile.
#[must_use]
pub fn slots() -> SlotTable {
    const SLOTS: [(&str, Type); 39] = [
        ("pc", Type::I64),
        ("x0", Type::I64),
        ("x1", Type::I64),
        ("x2", Type::I64),
        ("x3", Type::I64),
        ("x4", Type::I64),
        ("x5", Type::I64),
        ("x6", Type::I64),
        ("x7", Type::I64),
        ("sys", Type::I64),
        ("d0", Type::F64),
        ("d1", Type::F64),
        ("d2", Type::F64),
        ("d3", Type::F64),
        ("m0", Type::V64),
        ("m1", Type::V64),
        ("w0", Type::I32),
        ("w1", Type::I32),
        ("w2", Type::I32),
        ("w3", Type::I32),
        ("s0", Type::F32),
        ("s1", Type::F32),
        ("s2", Type::F32),
        ("s3", Type::F32),
        ("h0", Type::I16),
        ("h1", Type::I16),
        ("f0", Type::F16),
        ("f1", Type::F16),
        ("b0", Type::I8),
        ("b1", Type::I8),
        ("q0", Type::I128),
        ("q1", Type::I128),
        ("v0", Type::V128),
        ("v1", Type::V128),
        ("y0", Type::V256),
        ("y1", Type::V256),
        ("z0", Type::V512),
        ("fl0", Type::Flags),
        ("fl1", Type::Flags),
    ];
    let mut table = SlotTable::new();
    let mut at = 0usize;
    for (name, ty) in SLOTS {
        at = at.next_multiple_of(ty.bytes().min(16));
        let id = table.add(name, at, ty);
        if name == "sys" {
            table.set_volatile(id);
        }
        at += ty.bytes();
    }
    debug_assert!(at <= STATE_BYTES);
    table.set_pc(SlotId(0));
    table
}
