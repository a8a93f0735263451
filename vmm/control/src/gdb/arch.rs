//! An architecture for `gdbstub` whose registers are known at run time only.
//!
//! Registers travel as bytes in GDB's order; addresses are 64 bits for all guests, since GDB writes them without
//! leading zeros.

use gdbstub::arch::{Arch, RegId, Registers};
use std::num::NonZeroUsize;

/// The architecture.
#[derive(Debug)]
pub enum GuestRegisters {}

/// Number of a register in GDB's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub usize);

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Some((Self(id), None))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// The contents of a `g` packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// The program counter.
    pub pc: u64,
    /// Registers, each in the guest's byte order.
    pub data: Vec<u8>,
}

impl Registers for Bytes {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.pc
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.data.iter().for_each(|b| write_byte(Some(*b)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.data = bytes.to_vec();
        Ok(())
    }
}

impl Arch for GuestRegisters {
    type Usize = u64;
    type Registers = Bytes;
    type BreakpointKind = usize;
    type RegId = Number;
}
