//! A machine for the regions of any front end: memory is what its address hashes to until it is written, and a helper
//! does what its description allows, whatever it is.
//!
//! [`check_region`] is a front end's whole test of being well understood: the region is valid, and passes that
//! believe its slot and helper tables change nothing that can be seen.

use std::collections::BTreeMap;

use super::{Rng, random_slots};
use crate::abi::UnitExit;
use crate::interp::{self, Interp, Leave, Machine, Val};
use crate::passes::{Optimizer, PassSet};
use crate::{
    Effects, Exceptions, HelperDesc, HelperId, MemOp, Region, RmwOp, SlotDesc, SlotId, SlotSet, Tables, print,
};

/// State, memory and a record of fences and calls. Two machines that went the same way are equal.
#[derive(Clone)]
pub struct AnyMachine<'a> {
    tables: Tables<'a>,
    state: Vec<u8>,
    written: BTreeMap<u64, u8>,
    exc: Exceptions,
    budget: i64,
    /// Hash of all fences and calls so far.
    history: u64,
    seed: u64,
}

fn mix(a: u64, b: u64) -> u64 {
    let h = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h ^ h >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ h >> 32
}

impl<'a> AnyMachine<'a> {
    /// Random slots, and a memory of its own.
    #[must_use]
    pub fn random(rng: &mut Rng, tables: Tables<'a>) -> Self {
        let end = |s: &SlotDesc| s.offset as usize + s.ty.bytes();
        let bytes = tables.slots.all().iter().map(end).max().unwrap_or(0);
        let mut state = vec![0; bytes];
        random_slots(rng, tables.slots, &mut state);
        let exc = Exceptions::from_bits_truncate(rng.bits() as u32 & 0x3f);
        Self { tables, state, written: BTreeMap::new(), exc, budget: 300, history: 0, seed: rng.bits() }
    }

    /// What can be seen from outside.
    fn seen(&self) -> (&[u8], &BTreeMap<u64, u8>, Exceptions, i64, u64) {
        (&self.state, &self.written, self.exc, self.budget, self.history)
    }

    /// One page in 64 faults.
    fn check(&self, addr: u64, bytes: usize) -> Result<(), Leave> {
        let faults = |a: u64| mix(self.seed, a >> 12) & 63 == 0;
        if faults(addr) || faults(addr.wrapping_add(bytes as u64 - 1)) { Err(Leave::Fault) } else { Ok(()) }
    }

    fn bytes(&self, addr: u64, m: MemOp, out: &mut [u8]) {
        for (i, b) in out.iter_mut().enumerate() {
            let at = addr.wrapping_add(i as u64);
            *b = self.written.get(&at).copied().unwrap_or(mix(self.seed, at) as u8);
        }
        if m.big_endian() {
            out.reverse();
        }
    }

    fn slots_of(&self, set: SlotSet) -> Vec<SlotId> {
        match set {
            SlotSet::None => Vec::new(),
            SlotSet::Only(list) => list.to_vec(),
            SlotSet::All => (0..self.tables.slots.len() as u16).map(SlotId).collect(),
        }
    }

    /// Hash of what a helper may look at.
    fn looked_at(&self, h: &HelperDesc, args: &[u64]) -> u64 {
        let mut hash = args.iter().fold(self.seed, |x, a| mix(x, *a));
        for id in self.slots_of(h.reads) {
            let v = interp::read_slot(&self.state, self.tables.slots.get(id));
            hash = v.0.iter().fold(hash, |x, w| mix(x, *w));
        }
        if h.effects.contains(Effects::FP) {
            hash = mix(hash, u64::from(self.exc.bits()));
        }
        hash
    }
}

impl Machine for AnyMachine<'_> {
    fn state(&mut self) -> &mut [u8] {
        &mut self.state
    }

    fn load(&mut self, addr: u64, m: MemOp) -> Result<u128, Leave> {
        let mut buf = [0; 16];
        let n = m.bytes().min(16);
        self.check(addr, n)?;
        self.bytes(addr, m, &mut buf[..n]);
        Ok(u128::from_le_bytes(buf))
    }

    fn store(&mut self, addr: u64, m: MemOp, v: u128) -> Result<(), Leave> {
        self.store_wide(addr, m, &v.to_le_bytes()[..m.bytes().min(16)])
    }

    fn load_wide(&mut self, addr: u64, m: MemOp, out: &mut [u8]) -> Result<(), Leave> {
        self.check(addr, out.len())?;
        self.bytes(addr, m, out);
        Ok(())
    }

    fn store_wide(&mut self, addr: u64, m: MemOp, v: &[u8]) -> Result<(), Leave> {
        self.check(addr, v.len())?;
        for (i, b) in v.iter().enumerate() {
            let i = if m.big_endian() { v.len() - 1 - i } else { i };
            self.written.insert(addr.wrapping_add(i as u64), *b);
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

    fn fence(&mut self, set: u16) {
        self.history = mix(self.history, u64::from(set));
    }

    fn call(&mut self, helper: HelperId, args: &[u64]) -> Result<u64, Leave> {
        let Some(h) = self.tables.helpers.get(helper.0 as usize).copied() else { return Err(Leave::Fault) };
        let hash = mix(u64::from(helper.0), self.looked_at(&h, args));
        if !h.effects.contains(Effects::PURE) {
            // What comes between two calls counts: a helper with effects may not be moved or removed.
            self.history = mix(self.history, hash);
        }
        if h.effects.contains(Effects::RAISES) && hash >> 16 & 7 == 0 {
            return Err(Leave::Fault);
        }
        for id in self.slots_of(h.writes) {
            let d = self.tables.slots.get(id);
            let words = std::array::from_fn(|i| mix(hash, u64::from(id.0) << 8 | i as u64));
            interp::write_slot(&mut self.state, d, &Val(words));
        }
        if h.effects.contains(Effects::FP) {
            self.exc = Exceptions::from_bits_truncate(hash as u32 >> 24 & 0x3f);
        }
        if h.effects.contains(Effects::EXITS) && hash >> 20 & 7 == 0 {
            return Err(Leave::Exit);
        }
        Ok(hash & if h.result.bytes() > 0 { h.result.mask() } else { 0 })
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

/// Verifies a region, runs all passes over it, and executes both on `runs` random machines. The message says what is
/// wrong or different.
pub fn check_region(r: &Region, t: Tables<'_>, rng: &mut Rng, runs: usize) -> Result<(), String> {
    let shown = |why: String, r: &Region| format!("{why}\n{}", print::region(r, t));
    crate::verify::verify(r, t).map_err(|e| shown(e.to_string(), r))?;
    let mut after = r.clone();
    Optimizer::new(PassSet::ALL).run(&mut after, t);
    let mut interp = Interp::new();
    for _ in 0..runs {
        let mut m = AnyMachine::random(rng, t);
        let mut n = m.clone();
        let exit = interp.run(r, &mut m, t.slots);
        let exit2 = interp.run(&after, &mut n, t.slots);
        let same = match (exit, exit2) {
            (UnitExit::Link { .. }, UnitExit::Link { .. }) => true,
            (a, b) => a == b,
        };
        if same && m.seen() == n.seen() {
            continue;
        }
        let mut why = format!("{exit:?} became {exit2:?}\n");
        for d in t.slots.all() {
            let (x, y) = (interp::read_slot(&m.state, d), interp::read_slot(&n.state, d));
            if x != y {
                why += &format!("{}: {:x?} became {:x?}\n", d.name, x.0, y.0);
            }
        }
        return Err(format!("{}after all passes:\n{}", shown(why, r), print::region(&after, t)));
    }
    Ok(())
}
