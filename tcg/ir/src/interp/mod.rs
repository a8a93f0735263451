//! The interpreter: the definition of every operation, the oracle of every back end, and a complete back end itself
//! (`-accel tcg,backend=interp`).
//!
//! [`eval`] gives the value of a pure or floating-point operation. [`Interp::run`] executes a region on a [`Machine`],
//! which owns guest state, memory and helpers. Invariants: nothing panics on a region the verifier accepts; a loop is
//! interruptible at its `budget` marks; after every exit the pc slot holds the guest address to go on at.

mod across;
mod flags;
mod float;
mod scalar;
mod sha;
mod vecfn;
mod vector;
mod wide;

pub use flags::{bits as flag_bits, holds as flag_holds};
pub use float::float;
pub use scalar::{canonical_nan, compare, low_mask, scalar, sext};

use crate::abi::UnitExit;
use crate::{
    BlockId, Cond, Edge, Effect, Exceptions, FpAttr, HelperId, Inst, MemOp, Op, Region, RmwOp, SlotDesc,
    SlotTable, Terminator, Type, Value,
};

/// A value of any type, least significant word first. Words above the type's size mean nothing in an interpreter's
/// buffer; [`eval`] returns them as zeros.
///
/// A flag record is four words: `sub` of its `flags` operation, then the operands a, b, c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Val(pub [u64; 8]);

impl Val {
    /// All zeros.
    pub const ZERO: Self = Self([0; 8]);

    /// A value of at most 64 bits.
    #[must_use]
    pub const fn from_u64(v: u64) -> Self {
        Self([v, 0, 0, 0, 0, 0, 0, 0])
    }

    /// A value of at most 128 bits.
    #[must_use]
    pub const fn from_u128(v: u128) -> Self {
        Self([v as u64, (v >> 64) as u64, 0, 0, 0, 0, 0, 0])
    }

    /// The low 128 bits.
    #[must_use]
    pub const fn u128(&self) -> u128 {
        self.0[0] as u128 | (self.0[1] as u128) << 64
    }

    /// The flag record in the low four words.
    #[must_use]
    pub const fn record(&self) -> [u64; 4] {
        [self.0[0], self.0[1], self.0[2], self.0[3]]
    }

    /// A copy with zeros from byte `bytes` on.
    #[must_use]
    pub fn cut(&self, bytes: usize) -> Self {
        let mut r = Self::ZERO;
        let words = (bytes / 8).min(8);
        r.0[..words].copy_from_slice(&self.0[..words]);
        if words < 8 && !bytes.is_multiple_of(8) {
            r.0[words] = self.0[words] & scalar::low_mask((bytes % 8 * 8) as u32);
        }
        r
    }

    /// Reads `bytes.len()` (at most 64) bytes as they stand in guest state or in little-endian memory.
    #[must_use]
    pub fn from_le(bytes: &[u8]) -> Self {
        let mut r = Self::ZERO;
        for (w, chunk) in r.0.iter_mut().zip(bytes.chunks(8)) {
            let mut le = [0; 8];
            le[..chunk.len()].copy_from_slice(chunk);
            *w = u64::from_le_bytes(le);
        }
        r
    }

    /// Writes the low `out.len()` (at most 64) bytes.
    pub fn to_le(&self, out: &mut [u8]) {
        for (w, chunk) in self.0.iter().zip(out.chunks_mut(8)) {
            let n = chunk.len();
            chunk.copy_from_slice(&w.to_le_bytes()[..n]);
        }
    }
}

/// Why an access or a helper leaves the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It failed: [`UnitExit::Fault`], with the pc of the instruction.
    Fault,
    /// It did its work and asks to leave (helpers only): [`UnitExit::HelperExit`]; the pc slot stands as it is.
    Exit,
}

/// What a region is executed on.
pub trait Machine {
    /// The guest's state structure, to which slot offsets refer. Values stand in it little-endian, whatever the guest's
    /// own order.
    fn state(&mut self) -> &mut [u8];

    /// Reads `1 << m.log2()` (1 to 16) bytes at `addr` as a number, zero-extended.
    fn load(&mut self, addr: u64, m: MemOp) -> Result<u128, Leave>;

    /// Writes the low `1 << m.log2()` (1 to 16) bytes of `v` at `addr`. Nothing is written if it fails.
    fn store(&mut self, addr: u64, m: MemOp, v: u128) -> Result<(), Leave>;

    /// Reads 32 or 64 bytes; `out` is the number, least significant byte first.
    fn load_wide(&mut self, addr: u64, m: MemOp, out: &mut [u8]) -> Result<(), Leave>;

    /// Writes 32 or 64 bytes; `v` is the number, least significant byte first. Nothing is written if it fails.
    fn store_wide(&mut self, addr: u64, m: MemOp, v: &[u8]) -> Result<(), Leave>;

    /// Atomic read-modify-write of 1 to 16 bytes; the old value. [`rmw`] has the arithmetic.
    fn rmw(&mut self, addr: u64, m: MemOp, op: RmwOp, v: u128) -> Result<u128, Leave>;

    /// Atomic compare and swap of 1 to 16 bytes: writes `new` if memory equals `expected`, both cut to the access; the
    /// old value.
    fn cas(&mut self, addr: u64, m: MemOp, expected: u128, new: u128) -> Result<u128, Leave>;

    /// A fence with the bits of the `fence` operation.
    fn fence(&mut self, set: u16);

    /// Calls a helper; its value.
    fn call(&mut self, helper: HelperId, args: &[u64]) -> Result<u64, Leave>;

    /// Budget check for `insns` instructions: true if the unit must be left (and nothing is taken).
    fn budget(&mut self, insns: u64) -> bool;

    /// Sticky floating-point exceptions.
    fn exceptions(&self) -> Exceptions;

    /// Replaces the sticky floating-point exceptions.
    fn set_exceptions(&mut self, e: Exceptions);
}

/// What memory of `bytes` bytes becomes by `op`; `old` and `v` are cut to it.
#[must_use]
pub fn rmw(op: RmwOp, bytes: usize, old: u128, v: u128) -> u128 {
    let s = 128 - (bytes.clamp(1, 16) * 8) as u32;
    let (old, v) = (old << s, v << s);
    let r = match op {
        RmwOp::Swap => v,
        RmwOp::Add => old.wrapping_add(v),
        RmwOp::And => old & v,
        RmwOp::Or => old | v,
        RmwOp::Xor => old ^ v,
        RmwOp::Min => (old as i128).min(v as i128) as u128,
        RmwOp::Max => (old as i128).max(v as i128) as u128,
        RmwOp::Minu => old.min(v),
        RmwOp::Maxu => old.max(v),
    };
    r >> s
}

/// The value of a pure or floating-point operation: `types` and `args` are those of its operands (anything where there
/// is none). Exceptions are added to `exc`. An operation with another effect gives zero.
#[must_use]
pub fn eval(inst: &Inst, types: [Type; 3], args: [&Val; 3], exc: &mut Exceptions) -> Val {
    compute(inst, types, args, exc).cut(inst.ty.bytes())
}

fn compute(inst: &Inst, types: [Type; 3], args: [&Val; 3], exc: &mut Exceptions) -> Val {
    let [a, b, c] = args.map(|v| v.0[0]);
    match inst.op {
        Op::Flags => return Val([u64::from(inst.sub), a, b, c, 0, 0, 0, 0]),
        Op::FlagCond => {
            let f = flags::bits(&args[0].record());
            return Val::from_u64(u64::from(flags::holds(Cond::from_bits(inst.sub), f)));
        }
        Op::FlagGet => return Val::from_u64(flags::bits(&args[0].record())),
        _ => {}
    }
    if types[0].is_vector() || inst.ty.is_vector() {
        if let Some(v) = vector::vector(inst, types, args, exc) {
            return v;
        }
    } else if inst.op.info().effect == Effect::Fp {
        return Val::from_u64(
            float::float(inst.op, FpAttr(inst.sub), inst.ty, types[0], [a, b, c], exc).unwrap_or(0),
        );
    } else if types[0].bytes() <= 8
        && let Some(v) = scalar::scalar(inst, types[0], a, b, c)
    {
        return Val::from_u64(v);
    }
    wide::wide(inst, types, args).unwrap_or_default()
}

/// The interpreter's buffers, kept from run to run.
#[derive(Debug, Default)]
pub struct Interp {
    vals: Vec<Val>,
    edge: Vec<Val>,
    args: Vec<u64>,
    /// Guest instructions that have been started.
    pub executed: u64,
}

/// What an instruction does to the flow of control.
enum Step {
    Next,
    Leave(UnitExit),
}

impl Interp {
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Executes a verified region until it leaves.
    pub fn run<M: Machine + ?Sized>(&mut self, region: &Region, m: &mut M, slots: &SlotTable) -> UnitExit {
        if self.vals.len() < region.insts.len() {
            self.vals.resize(region.insts.len(), Val::ZERO);
        }
        let mut pc = region.pc;
        let mut at = BlockId(0);
        loop {
            let Some(block) = region.blocks.get(at.0 as usize) else { return UnitExit::Lookup };
            for &v in &block.insts[block.params as usize..] {
                let inst = region.inst(v);
                // What is frequent and moves at most 64 bits, without a detour over whole values.
                match inst.op {
                    Op::Insn => {
                        pc = inst.imm;
                        self.executed = self.executed.wrapping_add(1);
                        continue;
                    }
                    Op::Get if inst.ty.bytes() <= 8 => {
                        self.vals[v.index()].0[0] = read_word(m.state(), slots.get(inst.slot()));
                        continue;
                    }
                    Op::Set if slots.get(inst.slot()).ty.bytes() <= 8 => {
                        let word = self.vals[inst.a.index()].0[0];
                        write_word(m.state(), slots.get(inst.slot()), word);
                        continue;
                    }
                    Op::Load if inst.ty.bytes() <= 8 => {
                        let mem = inst.memop();
                        if let Ok(word) = m.load(self.address(region, inst), mem) {
                            let word = word as u64;
                            let bits = mem.bytes() as u32 * 8;
                            let word = if mem.signed() { scalar::sext(word, bits) as u64 } else { word };
                            self.vals[v.index()].0[0] = word & scalar::low_mask(inst.ty.bits());
                            continue;
                        }
                        set_pc(m, slots, pc);
                        return UnitExit::Fault;
                    }
                    _ => {}
                }
                if let Some(r) = self.quick(region, inst) {
                    self.vals[v.index()].0[0] = r;
                } else if let Step::Leave(exit) = self.step(region, v, inst, &mut pc, m, slots) {
                    if exit != UnitExit::HelperExit {
                        set_pc(m, slots, pc);
                    }
                    return exit;
                }
            }
            match &block.end {
                Some(Terminator::Jump(e)) => at = self.take(region, e),
                Some(Terminator::Branch { cond, then, other, .. }) => {
                    let v = &self.vals[cond.index()];
                    let wide = region.inst(*cond).ty.bytes() > 8;
                    let holds = if wide { v.u128() != 0 } else { v.0[0] != 0 };
                    at = self.take(region, if holds { then } else { other });
                }
                Some(Terminator::Link { pc, .. }) => {
                    set_pc(m, slots, *pc);
                    return UnitExit::Link { index: region.link_index(at) };
                }
                Some(Terminator::Indirect { pc, .. }) => {
                    set_pc(m, slots, self.vals[pc.index()].0[0]);
                    return UnitExit::Lookup;
                }
                Some(Terminator::Lookup) | None => return UnitExit::Lookup,
                Some(Terminator::Exit { code }) => return UnitExit::Code(*code),
            }
        }
    }

    /// Pure operations on at most 64 bits.
    #[inline]
    fn quick(&self, region: &Region, inst: &Inst) -> Option<u64> {
        if inst.ty.is_vector() {
            return None;
        }
        let word = |v: Value| self.vals.get(v.index()).map_or(0, |v| v.0[0]);
        let aty = region.insts.get(inst.a.index()).map_or(Type::Void, |i| i.ty);
        if aty.bytes() > 8 || aty.is_vector() && inst.op != Op::Bitcast || inst.op == Op::Call {
            return None;
        }
        scalar::scalar(inst, aty, word(inst.a), word(inst.b), word(inst.c))
    }

    /// Follows an edge; all arguments are read before the first parameter is written.
    fn take(&mut self, region: &Region, e: &Edge) -> BlockId {
        if let Some(block) = region.blocks.get(e.block.0 as usize)
            && !e.args.is_empty()
        {
            self.edge.clear();
            self.edge.extend(e.args.iter().map(|v| self.vals[v.index()]));
            for (p, v) in block.insts.iter().zip(&self.edge) {
                self.vals[p.index()] = *v;
            }
        }
        e.block
    }

    fn val(&self, v: Value) -> &Val {
        self.vals.get(v.index()).unwrap_or(&Val::ZERO)
    }

    fn step<M: Machine + ?Sized>(
        &mut self,
        region: &Region,
        v: Value,
        inst: &Inst,
        pc: &mut u64,
        m: &mut M,
        slots: &SlotTable,
    ) -> Step {
        let fault = |l| Step::Leave(if l == Leave::Exit { UnitExit::HelperExit } else { UnitExit::Fault });
        let bytes = inst.ty.bytes();
        let r = match inst.op {
            Op::Nop => return Step::Next,
            Op::Insn => {
                *pc = inst.imm;
                return Step::Next;
            }
            Op::Budget => {
                if !m.budget(inst.imm) {
                    return Step::Next;
                }
                self.executed = self.executed.wrapping_sub(1);
                return Step::Leave(UnitExit::Budget);
            }
            Op::Get => read_slot(m.state(), slots.get(inst.slot())),
            Op::Set => {
                write_slot(m.state(), slots.get(inst.slot()), self.val(inst.a));
                return Step::Next;
            }
            Op::Load => match self.load(region, inst, m) {
                Ok(v) => v,
                Err(l) => return fault(l),
            },
            Op::Store => match self.store(region, inst, m) {
                Ok(()) => return Step::Next,
                Err(l) => return fault(l),
            },
            Op::Rmw => {
                let mem = inst.memop();
                let value = cut(mem, self.val(inst.b));
                match m.rmw(self.address(region, inst), mem, RmwOp::from_bits(inst.sub), value) {
                    Ok(old) => extend(mem, old),
                    Err(l) => return fault(l),
                }
            }
            Op::Cas => {
                let mem = inst.memop();
                let (expected, new) = (cut(mem, self.val(inst.b)), cut(mem, self.val(inst.c)));
                match m.cas(self.address(region, inst), mem, expected, new) {
                    Ok(old) => extend(mem, old),
                    Err(l) => return fault(l),
                }
            }
            Op::Fence => {
                m.fence(inst.sub);
                return Step::Next;
            }
            Op::Call => {
                self.args.clear();
                self.args.extend(region.operands(inst).map(|v| self.vals[v.index()].0[0]));
                match m.call(HelperId(inst.sub), &self.args) {
                    Ok(v) => Val::from_u64(v),
                    Err(l) => return fault(l),
                }
            }
            Op::Fexget => Val::from_u64(u64::from(m.exceptions().bits())),
            Op::Fexset => {
                m.set_exceptions(Exceptions::from_bits_truncate(self.val(inst.a).0[0] as u32));
                return Step::Next;
            }
            _ => {
                let types = [inst.a, inst.b, inst.c]
                    .map(|v| region.insts.get(v.index()).map_or(Type::Void, |i| i.ty));
                let mut raised = Exceptions::empty();
                let args = [inst.a, inst.b, inst.c].map(|v| self.val(v));
                let r = compute(inst, types, args, &mut raised);
                if !raised.is_empty() {
                    m.set_exceptions(m.exceptions() | raised);
                }
                r
            }
        };
        let out = &mut self.vals[v.index()];
        if bytes <= 8 {
            out.0[0] = r.0[0] & scalar::low_mask(bytes as u32 * 8);
        } else {
            *out = r.cut(bytes);
        }
        Step::Next
    }

    /// Address of a memory operation: base plus displacement in the base's width.
    fn address(&self, region: &Region, inst: &Inst) -> u64 {
        let base = self.val(inst.a).0[0];
        base.wrapping_add(inst.disp() as i64 as u64) & region.inst(inst.a).ty.mask()
    }

    fn load<M: Machine + ?Sized>(&self, region: &Region, inst: &Inst, m: &mut M) -> Result<Val, Leave> {
        let mem = inst.memop();
        let addr = self.address(region, inst);
        if mem.bytes() <= 16 {
            return Ok(extend(mem, m.load(addr, mem)?));
        }
        let mut buf = [0; 64];
        let buf = &mut buf[..mem.bytes().min(64)];
        m.load_wide(addr, mem, buf)?;
        Ok(Val::from_le(buf))
    }

    fn store<M: Machine + ?Sized>(&self, region: &Region, inst: &Inst, m: &mut M) -> Result<(), Leave> {
        let mem = inst.memop();
        let addr = self.address(region, inst);
        let v = self.val(inst.b);
        if mem.bytes() <= 16 {
            return m.store(addr, mem, cut(mem, v));
        }
        let mut buf = [0; 64];
        let buf = &mut buf[..mem.bytes().min(64)];
        v.to_le(buf);
        m.store_wide(addr, mem, buf)
    }
}

/// Executes a region with buffers of its own; see [`Interp::run`].
pub fn run<M: Machine + ?Sized>(region: &Region, m: &mut M, slots: &SlotTable) -> UnitExit {
    Interp::new().run(region, m, slots)
}

/// A loaded value, extended as the access says.
fn extend(mem: MemOp, v: u128) -> Val {
    let s = 128 - (mem.bytes().min(16) * 8) as u32;
    Val::from_u128(if mem.signed() { (((v << s) as i128) >> s) as u128 } else { v << s >> s })
}

/// The bytes of `v` that an access moves; words above the value's own size are stale.
fn cut(mem: MemOp, v: &Val) -> u128 {
    let s = 128 - (mem.bytes().min(16) * 8) as u32;
    v.u128() << s >> s
}

/// Value of a slot in a state structure; zeros if the structure is too short.
#[must_use]
pub fn read_slot(state: &[u8], slot: &SlotDesc) -> Val {
    let at = slot.offset as usize;
    state.get(at..at + slot.ty.bytes()).map_or(Val::ZERO, Val::from_le)
}

/// The same for a slot of at most 64 bits.
#[inline]
fn read_word(state: &[u8], slot: &SlotDesc) -> u64 {
    let at = slot.offset as usize;
    let Some(bytes) = state.get(at..at + slot.ty.bytes()) else { return 0 };
    match *bytes {
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a] => u64::from(a),
        _ => 0,
    }
}

/// Writes a slot of at most 64 bits.
#[inline]
fn write_word(state: &mut [u8], slot: &SlotDesc, word: u64) {
    let at = slot.offset as usize;
    let Some(out) = state.get_mut(at..at + slot.ty.bytes()) else { return };
    let le = word.to_le_bytes();
    match out.len() {
        8 => out.copy_from_slice(&le),
        4 => out.copy_from_slice(&le[..4]),
        2 => out.copy_from_slice(&le[..2]),
        1 => out.copy_from_slice(&le[..1]),
        _ => {}
    }
}

/// Writes a slot of a state structure; nothing if the structure is too short.
pub fn write_slot(state: &mut [u8], slot: &SlotDesc, v: &Val) {
    let at = slot.offset as usize;
    if let Some(out) = state.get_mut(at..at + slot.ty.bytes()) {
        v.to_le(out);
    }
}

fn set_pc<M: Machine + ?Sized>(m: &mut M, slots: &SlotTable, pc: u64) {
    if let Some(slot) = slots.all().get(slots.pc().0 as usize) {
        write_slot(m.state(), slot, &Val::from_u64(pc));
    }
}
