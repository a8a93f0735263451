//! Reservations of threads that share memory: SC fails if another SC has succeeded on the address since LR, even if the value is
//! the same again (volume I, "Load-Reserved/Store-Conditional Instructions"). That is what lock-free lists rely on.
//!
//! Each address has a version, shared with others that hash alike: even, and odd while an SC is being done. LR notes it before it
//! loads; SC takes it from that value, compares and swaps, and leaves a new one. An SC that fails for a neighbour's sake is one
//! that the manual allows. Stores and AMOs between LR and SC are seen by the value alone.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};

use tcg_engine::{Cx, Trap};
use tcg_ir::MemOp;

use crate::{guest::Riscv, state::NO_RESERVATION};

const VERSIONS: usize = 1024;
/// Looks at a version before its holder is given the processor.
const SPINS: u32 = 64;

/// Versions by address.
#[derive(Debug)]
pub(crate) struct Monitor(Box<[AtomicU64]>);

impl Monitor {
    pub(crate) fn new() -> Self {
        Self((0..VERSIONS).map(|_| AtomicU64::new(0)).collect())
    }

    fn version(&self, addr: u64) -> &AtomicU64 {
        let line = addr >> 3;
        &self.0[(line ^ line >> 10) as usize & (VERSIONS - 1)]
    }
}

/// LR: the value loaded.
pub(crate) fn reserve(cx: &mut Cx<'_, Riscv>, addr: u64, m: MemOp) -> Result<u64, Trap> {
    let version = cx.guest().monitor().version(addr);
    let mut spins = 0;
    let seen = loop {
        let v = version.load(Ordering::SeqCst);
        if v & 1 == 0 {
            break v;
        }
        spins += 1;
        if spins < SPINS { spin_loop() } else { std::thread::yield_now() }
    };
    let value = cx.load(addr, m)?;
    cx.state.res_addr = addr;
    cx.state.res_val = if m.bytes() == 4 { value & 0xffff_ffff } else { value };
    cx.state.res_version = seen;
    Ok(value)
}

/// SC: 0 if it stored, else 1. The reservation is gone either way.
pub(crate) fn conditional(cx: &mut Cx<'_, Riscv>, addr: u64, m: MemOp, new: u64) -> Result<u64, Trap> {
    let held = std::mem::replace(&mut cx.state.res_addr, NO_RESERVATION);
    if held != addr {
        return Ok(1);
    }
    let (seen, value) = (cx.state.res_version, cx.state.res_val);
    let version = cx.guest().monitor().version(addr);
    if version.compare_exchange(seen, seen | 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Ok(1);
    }
    let old = cx.cas(addr, m, value, new);
    let mask = if m.bytes() == 4 { 0xffff_ffff } else { u64::MAX };
    let stored = old.as_ref().is_ok_and(|o| o & mask == value);
    version.store(if stored { seen.wrapping_add(2) } else { seen }, Ordering::SeqCst);
    old.map(|_| u64::from(!stored))
}
