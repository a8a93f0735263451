//! From RISC-V code to IR: the loop over instructions and what all chapters share.
//!
//! A unit is one path through the code of a page: it goes on behind branches that are taken rarely and along forward
//! jumps, side exits link to other units, and a branch back to the unit's head stays inside as a loop. Every
//! instruction starts with a mark, so state is exact at each of them. The `trans_*` functions stand in one file a
//! chapter of the manual; one that returns `false` refuses the word, which then raises an illegal instruction
//! exception.

mod branch;
mod privileged;
mod rva;
mod rvd;
mod rvf;
mod rvi;
mod rvm;
mod rvv;
mod rvv_float;
mod rvv_int;
mod rvv_mask;
mod rvv_mem;
mod rvv_mode;
mod rvv_wide;
mod zb;
mod zcb;
mod zfh;
mod zicsr;

use tcg_engine::{CodeReader, Key, Limits, Trap};
use tcg_ir::{BlockId, Builder, Hint, MemOp, SlotId, Type, Value};

use crate::{
    cpu::{Cpu, Ext},
    decode::{self, field_functions},
    exceptions::cause,
    helpers::{self, id},
    mode::Mode,
    state,
};

/// Bytes of a page: units do not leave the one they start in.
const PAGE: u64 = 1 << tcg_ir::abi::PAGE_BITS;

/// A unit that has this many operations ends: one vector instruction may be hundreds.
const MAX_OPERATIONS: usize = 3000;

/// How the instruction that was just translated leaves the unit's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// On to the next instruction.
    Next,
    /// On at an address further down the page.
    Goto(u64),
    /// The block has its terminator.
    End,
}

/// The translation of one unit.
pub(crate) struct Translator<'a, 'b> {
    b: &'a mut Builder<'b>,
    cpu: &'a Cpu,
    mode: Mode,
    limits: Limits,
    /// Integer register type.
    xt: Type,
    /// Address of the unit.
    head: u64,
    /// Where a branch to the head goes, if loops may stay inside.
    head_block: Option<BlockId>,
    /// Address of the instruction.
    pc: u64,
    /// The instruction's bits, for `tval`.
    bits: u32,
    /// Address of the next instruction in memory.
    next: u64,
    flow: Flow,
    /// `mstatus.FS` has been set to dirty on this path.
    fs_dirty: bool,
    /// The same of `mstatus.VS`.
    vs_dirty: bool,
    /// What is known of the vector state here, as in the key's mode.
    vector: u8,
    /// Words of the mask of elements below `vl`, as far as this instruction has made them.
    tails: Vec<Value>,
    /// The unit has made use of what its key says of the vector state.
    relied: bool,
    /// Instructions of the path so far, this one included.
    insns: u32,
    /// Blocks that leave to an address, and what is known of the vector state there.
    sides: Vec<(BlockId, u64, u8)>,
}

impl decode::Fields for Translator<'_, '_> {
    field_functions!();
}

/// Translates the unit at `key`.
pub(crate) fn unit(
    cpu: &Cpu,
    key: Key,
    limits: Limits,
    code: &mut dyn CodeReader,
    b: &mut Builder<'_>,
) -> Result<(), Trap> {
    let (mut word, mut len) = fetch(cpu, code, key.pc)?;
    let xt = if cpu.xlen == 32 { Type::I32 } else { Type::I64 };
    let mut t = Translator {
        b,
        cpu,
        mode: Mode::from_bits(key.mode),
        limits,
        xt,
        head: key.pc,
        head_block: None,
        pc: key.pc,
        bits: word,
        next: key.pc,
        flow: Flow::Next,
        fs_dirty: false,
        vs_dirty: false,
        vector: Mode::from_bits(key.mode).vector,
        tails: Vec::new(),
        relied: false,
        insns: 0,
        sides: Vec::new(),
    };
    if !limits.straight {
        let head = t.b.new_block();
        t.b.jump(head);
        t.b.switch_to(head);
        t.head_block = Some(head);
    }
    let mut budget = None;
    let mut extent = 0;
    loop {
        t.next = t.wrap(t.pc.wrapping_add(u64::from(len)));
        t.bits = word;
        t.insns += 1;
        t.flow = Flow::Next;
        extent = extent.max(t.pc.wrapping_sub(key.pc) as u32 + u32::from(len));
        t.b.insn(t.pc, len);
        if budget.is_none() {
            budget = Some(Value(t.b.region().insts.len() as u32));
            t.b.budget(1);
        }
        if t.mode.triggers {
            t.check_triggers_exec();
        }
        let known = match len {
            2 => cpu.ext.has(Ext::C) && decode::decode16(&mut t, word as u16),
            _ => decode::decode32(&mut t, word) || cpu.ext.has(Ext::V) && decode::decode_v(&mut t, word),
        };
        if !known {
            t.illegal();
        }
        t.pc = match t.flow {
            Flow::End => break,
            Flow::Next => t.next,
            Flow::Goto(pc) => pc,
        };
        // Go on only inside the page, and with the whole of the next instruction in it.
        let room = t.insns < limits.max_insns && t.b.region().insts.len() < MAX_OPERATIONS;
        let fetched = match room && t.pc >> 12 == key.pc >> 12 {
            true => fetch(cpu, code, t.pc).ok(),
            false => None,
        };
        match fetched {
            Some((w, l)) if (t.pc % PAGE) + u64::from(l) <= PAGE => (word, len) = (w, l),
            _ => {
                t.leave(t.pc, Hint::None);
                break;
            }
        }
    }
    for (block, pc, vector) in std::mem::take(&mut t.sides) {
        t.b.switch_to(block);
        t.vector = vector;
        t.leave(pc, Hint::None);
    }
    if let Some(budget) = budget {
        t.b.set_budget(budget, u64::from(t.insns));
    }
    t.b.set_extent(extent, t.insns);
    Ok(())
}

/// One instruction word and its length in bytes.
fn fetch(cpu: &Cpu, code: &mut dyn CodeReader, pc: u64) -> Result<(u32, u16), Trap> {
    let low = u32::from(code.fetch16(pc)?);
    if low & 3 != 3 {
        return Ok((low, 2));
    }
    let mut next = pc.wrapping_add(2);
    if cpu.xlen == 32 {
        next &= 0xffff_ffff;
    }
    Ok((low | u32::from(code.fetch16(next)?) << 16, 4))
}

impl Translator<'_, '_> {
    fn has(&self, ext: Ext) -> bool {
        self.cpu.ext.has(ext)
    }

    fn rv64(&self) -> bool {
        self.cpu.xlen == 64
    }

    /// An address in the hart's width.
    fn wrap(&self, pc: u64) -> u64 {
        if self.cpu.xlen == 32 { pc & 0xffff_ffff } else { pc }
    }

    fn imm(&mut self, value: i64) -> Value {
        self.b.iconst(self.xt, value as u64)
    }

    /// Integer register `n`.
    fn x(&mut self, n: i32) -> Value {
        if n == 0 { self.imm(0) } else { self.b.get(state::x(n as u16), self.xt) }
    }

    fn set_x(&mut self, n: i32, value: Value) {
        if n != 0 {
            self.b.set(state::x(n as u16), value);
        }
    }

    /// The low 32 bits of integer register `n`.
    fn x32(&mut self, n: i32) -> Value {
        let v = self.x(n);
        self.b.trunc(Type::I32, v)
    }

    /// Writes a 32-bit result: sign-extended on RV64.
    fn set_x32(&mut self, n: i32, value: Value) {
        let v = self.b.sext(self.xt, value);
        self.set_x(n, v);
    }

    /// Attributes of an access of `1 << log2` bytes in the present mode.
    fn mem(&self, log2: u32) -> MemOp {
        MemOp::new(log2).with_mmu(self.mode.mmu)
    }

    /// Address `rs1 + imm`, checked against triggers.
    fn address(&mut self, rs1: i32, imm: i32, store: bool) -> (Value, i32) {
        let base = self.x(rs1);
        if !self.mode.triggers {
            return (base, imm);
        }
        let addr = self.b.addi(base, i64::from(imm));
        self.check_triggers_data(addr, store);
        (addr, 0)
    }

    fn get64(&mut self, slot: SlotId) -> Value {
        self.b.get(slot, Type::I64)
    }

    /// Raises an exception of the instruction.
    fn raise(&mut self, cause: u64, tval: u64) {
        let cause = self.b.iconst(Type::I64, cause);
        let tval = self.b.iconst(Type::I64, tval);
        self.b.call(id(helpers::RAISE), Type::Void, &[cause, tval]);
        self.end_unreachable();
    }

    /// The block's end behind a helper that always raises.
    fn end_unreachable(&mut self) {
        let pc = self.b.pc(self.xt, self.pc);
        self.b.set(state::PC, pc);
        self.b.lookup();
        self.flow = Flow::End;
    }

    fn illegal(&mut self) {
        self.raise(cause::ILLEGAL, u64::from(self.bits));
    }

    /// Ends the unit at the next instruction, whose key may differ.
    fn end_lookup(&mut self) {
        let pc = self.b.pc(self.xt, self.next);
        self.b.set(state::PC, pc);
        self.b.lookup();
        self.flow = Flow::End;
    }

    /// Calls a helper that may raise, with the instruction's bits as its last argument.
    fn call_bits(&mut self, helper: usize, ty: Type, args: &[Value]) -> Value {
        let bits = self.b.iconst(Type::I64, u64::from(self.bits));
        let mut list = [bits; 4];
        list[..args.len()].copy_from_slice(args);
        self.b.call(id(helper), ty, &list[..=args.len()])
    }

    fn check_triggers_exec(&mut self) {
        let pc = self.b.pc(Type::I64, self.pc);
        self.b.call(id(helpers::TRIGGER_EXEC), Type::Void, &[pc]);
    }

    fn check_triggers_data(&mut self, addr: Value, store: bool) {
        let addr = self.b.zext(Type::I64, addr);
        let store = self.b.iconst(Type::I64, u64::from(store));
        self.b.call(id(helpers::TRIGGER_DATA), Type::Void, &[addr, store]);
    }
}
