//! A machine with flat memory, some pages of which fault.

use super::{Rng, STATE_BYTES, helpers};
use crate::interp::{self, Leave, Machine, Val};
use crate::{Align, Exceptions, HelperId, MemOp, RmwOp, SlotTable, Type};

/// Guest address of the first byte of memory.
pub const MEM_BASE: u64 = 0x10_0000;
/// Bytes of memory.
pub const MEM_SIZE: usize = 0x8000;

const PAGE: u64 = 0x1000;

/// True if the page of `addr` faults: the third of memory, and all outside it.
#[must_use]
pub const fn page_faults(addr: u64) -> bool {
    let page = addr.wrapping_sub(MEM_BASE) / PAGE;
    page == 3 || page >= MEM_SIZE as u64 / PAGE
}

/// Guest state, memory and counters. Two machines that went the same way are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestMachine {
    /// The state structure of [`super::slots`].
    pub state: Vec<u8>,
    /// Memory from [`MEM_BASE`] on.
    pub mem: Vec<u8>,
    /// Sticky exceptions.
    pub exc: Exceptions,
    /// Instructions left.
    pub budget: i64,
}

impl TestMachine {
    /// All zeros, with a budget of 500 instructions.
    #[must_use]
    pub fn new() -> Self {
        Self { state: vec![0; STATE_BYTES], mem: vec![0; MEM_SIZE], exc: Exceptions::empty(), budget: 500 }
    }

    /// Random slots (floats and integers with interesting values) and memory.
    #[must_use]
    pub fn random(rng: &mut Rng, slots: &SlotTable) -> Self {
        let mut m = Self::new();
        random_slots(rng, slots, &mut m.state);
        for chunk in m.mem.chunks_mut(8) {
            chunk.copy_from_slice(&rng.number().to_le_bytes());
        }
        m.exc = Exceptions::from_bits_truncate(rng.bits() as u32 & 0x3f);
        m
    }

    fn range(&self, addr: u64, mem: MemOp) -> Result<std::ops::Range<usize>, Leave> {
        let bytes = mem.bytes() as u64;
        let last = addr.wrapping_add(bytes - 1);
        let misaligned = match mem.align() {
            Align::None => false,
            Align::Natural => addr & (bytes - 1) != 0,
            Align::Within16 => addr & (bytes - 1) != 0 && (bytes > 16 || addr & !15 != last & !15),
        };
        if misaligned || page_faults(addr) || page_faults(last) {
            return Err(Leave::Fault);
        }
        let at = (addr - MEM_BASE) as usize;
        Ok(at..at + bytes as usize)
    }
}

/// Fills the slots of a state structure with random values of their types, interesting ones often.
pub fn random_slots(rng: &mut Rng, slots: &SlotTable, state: &mut [u8]) {
    for slot in slots.all() {
        let mut v = Val([0; 8].map(|_: u64| rng.number()));
        match slot.ty {
            Type::F16 | Type::F32 | Type::F64 => v.0[0] = rng.float(slot.ty),
            Type::V64 | Type::V128 | Type::V256 | Type::V512 if rng.one_in(2) => {
                let single = rng.one_in(2);
                v.0 = v.0.map(|_| match single {
                    true => rng.float(Type::F32) | rng.float(Type::F32) << 32,
                    false => rng.float(Type::F64),
                });
            }
            Type::Flags => {
                let ty = [Type::I8, Type::I16, Type::I32, Type::I64][rng.below(4)];
                v.0[0] = rng.below(crate::FlagKind::ALL.len()) as u64 | (ty as u64) << 8;
                for w in &mut v.0[1..4] {
                    *w &= ty.mask();
                }
            }
            _ => {}
        }
        interp::write_slot(state, slot, &v);
    }
}

impl Default for TestMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine for TestMachine {
    fn state(&mut self) -> &mut [u8] {
        &mut self.state
    }

    fn load(&mut self, addr: u64, m: MemOp) -> Result<u128, Leave> {
        let mut buf = [0; 16];
        let r = self.range(addr, m)?;
        let n = r.len();
        buf[..n].copy_from_slice(&self.mem[r]);
        if m.big_endian() {
            buf[..n].reverse();
        }
        Ok(u128::from_le_bytes(buf))
    }

    fn store(&mut self, addr: u64, m: MemOp, v: u128) -> Result<(), Leave> {
        let r = self.range(addr, m)?;
        let n = r.len();
        let out = &mut self.mem[r];
        out.copy_from_slice(&v.to_le_bytes()[..n]);
        if m.big_endian() {
            out.reverse();
        }
        Ok(())
    }

    fn load_wide(&mut self, addr: u64, m: MemOp, out: &mut [u8]) -> Result<(), Leave> {
        let r = self.range(addr, m)?;
        out.copy_from_slice(&self.mem[r]);
        if m.big_endian() {
            out.reverse();
        }
        Ok(())
    }

    fn store_wide(&mut self, addr: u64, m: MemOp, v: &[u8]) -> Result<(), Leave> {
        let r = self.range(addr, m)?;
        let out = &mut self.mem[r];
        out.copy_from_slice(v);
        if m.big_endian() {
            out.reverse();
        }
        Ok(())
    }

    fn rmw(&mut self, addr: u64, m: MemOp, op: RmwOp, v: u128) -> Result<u128, Leave> {
        let old = self.load(addr, m)?;
        self.store(addr, m, interp::rmw(op, m.bytes(), old, v))?;
        Ok(old)
    }

    fn cas(&mut self, addr: u64, m: MemOp, expected: u128, new: u128) -> Result<u128, Leave> {
        let old = self.load(addr, m)?;
        if old == expected {
            self.store(addr, m, new)?;
        }
        Ok(old)
    }

    fn fence(&mut self, _set: u16) {}

    fn call(&mut self, helper: HelperId, args: &[u64]) -> Result<u64, Leave> {
        let r = helpers::call(helper, &mut self.state, args);
        match r.status {
            0 => Ok(r.value),
            helpers::HELPER_STATUS_EXIT => Err(Leave::Exit),
            _ => Err(Leave::Fault),
        }
    }

    fn budget(&mut self, insns: u64) -> bool {
        if (self.budget as u64) < insns {
            return true;
        }
        self.budget -= insns as i64;
        false
    }

    fn exceptions(&self) -> Exceptions {
        self.exc
    }

    fn set_exceptions(&mut self, e: Exceptions) {
        self.exc = e;
    }
}
