//! Units executed by the IR interpreter.

use std::sync::atomic::{Ordering, fence};

use tcg_ir::{
    Exceptions, HelperId, MemOp, Region, RmwOp,
    abi::UnitExit,
    interp::{Interp, Leave, Machine},
};

use crate::{
    Guest, Trap,
    guest::{STATUS_EXIT, STATUS_FAULT},
    vcpu::Vcpu,
};

/// Runs one unit to its exit.
pub(crate) fn run<G: Guest>(vcpu: &mut Vcpu<G>, region: &Region) -> UnitExit {
    let engine = vcpu.engine.clone();
    let mut interp: Interp = std::mem::take(&mut vcpu.interp);
    let exit = interp.run(region, vcpu, &engine.tables.slots);
    vcpu.interp = interp;
    exit
}

impl<G: Guest> Vcpu<G> {
    fn keep<T>(&mut self, r: Result<T, Trap>) -> Result<T, Leave> {
        r.map_err(|trap| {
            self.core.trap = Some(trap);
            Leave::Fault
        })
    }
}

impl<G: Guest> Machine for Vcpu<G> {
    fn state(&mut self) -> &mut [u8] {
        self.env.parts().1
    }

    fn load(&mut self, addr: u64, m: MemOp) -> Result<u128, Leave> {
        let unsigned = MemOp(m.0 & !8);
        if m.bytes() <= 8 {
            let r = self.with(|_, cx| cx.load(addr, unsigned));
            return self.keep(r).map(u128::from);
        }
        let r = self.with(|_, cx| cx.load_wide(addr, unsigned));
        let w = self.keep(r)?;
        let mut b = [0; 16];
        b.copy_from_slice(&w[..16]);
        Ok(u128::from_le_bytes(b))
    }

    fn store(&mut self, addr: u64, m: MemOp, v: u128) -> Result<(), Leave> {
        let r = self.with(|_, cx| {
            if m.bytes() <= 8 {
                return cx.store(addr, m, v as u64);
            }
            let mut w = [0; 64];
            w[..16].copy_from_slice(&v.to_le_bytes());
            cx.store_wide(addr, m, &w)
        });
        self.keep(r)
    }

    fn load_wide(&mut self, addr: u64, m: MemOp, out: &mut [u8]) -> Result<(), Leave> {
        let r = self.with(|_, cx| cx.load_wide(addr, m));
        let w = self.keep(r)?;
        let n = out.len().min(64);
        out[..n].copy_from_slice(&w[..n]);
        Ok(())
    }

    fn store_wide(&mut self, addr: u64, m: MemOp, v: &[u8]) -> Result<(), Leave> {
        let mut w = [0; 64];
        let n = v.len().min(64);
        w[..n].copy_from_slice(&v[..n]);
        let r = self.with(|_, cx| cx.store_wide(addr, m, &w));
        self.keep(r)
    }

    fn rmw(&mut self, addr: u64, m: MemOp, op: RmwOp, v: u128) -> Result<u128, Leave> {
        let r = self.with(|_, cx| cx.rmw(addr, MemOp(m.0 & !8), op, v as u64));
        self.keep(r).map(u128::from)
    }

    fn cas(&mut self, addr: u64, m: MemOp, expected: u128, new: u128) -> Result<u128, Leave> {
        let r = self.with(|_, cx| cx.cas(addr, MemOp(m.0 & !8), expected as u64, new as u64));
        self.keep(r).map(u128::from)
    }

    fn fence(&mut self, _set: u16) {
        fence(Ordering::SeqCst);
    }

    fn call(&mut self, helper: HelperId, args: &[u64]) -> Result<u64, Leave> {
        let mut a = [0; 4];
        let n = args.len().min(4);
        a[..n].copy_from_slice(&args[..n]);
        let r = self.call_helper(helper, a);
        match r.status {
            STATUS_FAULT => Err(Leave::Fault),
            STATUS_EXIT => Err(Leave::Exit),
            _ => Ok(r.value),
        }
    }

    fn budget(&mut self, _insns: u64) -> bool {
        self.core.header().exit_request.load(Ordering::Relaxed) != 0
    }

    fn exceptions(&self) -> Exceptions {
        Exceptions::from_bits_truncate(self.core.header().fpexc)
    }

    fn set_exceptions(&mut self, e: Exceptions) {
        self.core.header_mut().fpexc = e.bits();
    }
}
