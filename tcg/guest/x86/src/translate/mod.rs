//! From x86 code to IR: the loop over instructions and how units end.
//!
//! A unit is one path through the code of a page, as in other guests: it goes on behind branches and along forward
//! jumps, side exits link to other units, a branch back to the unit's head stays inside as a loop. The functions of a
//! family return `false` for what they do not know, which then raises #UD.
//!
//! Ends of units all go through `goto`, `goto_value`, `goto_next_key` and `leave`: they see to single-step traps and
//! to the interrupt shadow.

mod arith;
mod avx;
mod bit;
mod control;
mod data;
mod debug;
mod evex;
mod flags;
mod fpu_env;
mod names;
mod operand;
mod segment;
mod shift;
mod sse;
mod string;
mod svm;
mod system;
mod x87;

use iced_x86::{Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction, Mnemonic};
use tcg_engine::{CodeReader, Key, Limits, Trap};
use tcg_ir::{BlockId, Builder, Hint, SlotId, Type, Value};

use self::flags::Record;
pub(crate) use self::operand::Ea;
use crate::{
    exceptions::{self, vector},
    guest::{EXIT_DEBUG, EXIT_STEP, X86},
    helpers::{Look, Numbered, Raise},
    mode::Mode,
    segment::Class,
    state::{self, seg},
};

/// Bytes of a page: units do not leave the one they start in.
const PAGE: u64 = 1 << tcg_ir::abi::PAGE_BITS;
/// Longest instruction.
const MAX_LEN: usize = 15;

/// How the instruction that was just translated leaves the unit's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// On to the next instruction.
    Next,
    /// On at a linear address further down the page.
    Goto(u64),
    /// On to the next instruction, in another unit: what translation looks at may have changed.
    NewKey,
    /// On to the next instruction, in another unit of the same key.
    Cut,
    /// The block has its terminator.
    End,
}

/// The translation of one unit.
pub(crate) struct Translator<'a, 'b> {
    b: &'a mut Builder<'b>,
    guest: &'a X86,
    mode: Mode,
    limits: Limits,
    insn: Instruction,
    /// The vector length that the EVEX prefix gives, if there is one.
    evex_length: u8,
    /// Linear address of the unit.
    head: u64,
    /// Where a branch to the head goes, if loops may stay inside.
    head_block: Option<BlockId>,
    /// Linear address of the instruction.
    pc: u64,
    /// Linear address of the next instruction in memory.
    next: u64,
    flow: Flow,
    insns: u32,
    /// Blocks that leave to an address.
    sides: Vec<(BlockId, u64)>,
    /// What is known of the arithmetic flags.
    record: Option<Record>,
    /// The record is newer than the slots.
    record_dirty: bool,
    /// The instruction shields the next one from interrupts: 1 STI, 2 MOV SS.
    shield: u64,
    /// The instruction before did, and the next one is in this unit.
    shielded: bool,
    /// A vector of zeros that the block has.
    zeros: Option<(BlockId, Value)>,
    /// An instruction has written above bit 255 first: other units have another key from there on.
    went_high: bool,
}

/// Why there is no next instruction.
enum NoCode {
    Fault(Trap),
    /// It lies partly on the next page, and others stand before it in the unit.
    Crosses,
}

/// Translates the unit at `key`.
pub(crate) fn unit(
    guest: &X86,
    key: Key,
    limits: Limits,
    code: &mut dyn CodeReader,
    b: &mut Builder<'_>,
) -> Result<(), Trap> {
    let mode = Mode::from_bits(key.mode);
    let mut t = Translator {
        b,
        guest,
        mode,
        limits,
        insn: Instruction::default(),
        evex_length: 0,
        head: key.pc,
        head_block: None,
        pc: key.pc,
        next: key.pc,
        flow: Flow::Next,
        insns: 0,
        sides: Vec::new(),
        record: None,
        record_dirty: false,
        shield: 0,
        shielded: false,
        zeros: None,
        went_high: false,
    };
    if mode.tf || mode.shadow || mode.debug {
        t.limits.straight = true;
        t.limits.max_insns = 1;
    }
    let first = t.decode(code, true);
    if let Err(NoCode::Fault(trap)) = first {
        return Err(trap);
    }
    if !t.limits.straight {
        let head = t.b.new_block();
        t.b.jump(head);
        t.b.switch_to(head);
        t.head_block = Some(head);
    }
    let mut budget = None;
    let mut extent = 0;
    loop {
        let len = t.insn.len() as u32;
        t.next = t.wrap(t.pc.wrapping_add(u64::from(len)));
        t.insns += 1;
        t.flow = Flow::Next;
        t.shielded = std::mem::take(&mut t.shield) != 0;
        extent = extent.max(t.pc.wrapping_sub(key.pc) as u32 + len);
        t.b.insn(t.pc, len as u16);
        if budget.is_none() {
            budget = Some(Value(t.b.region().insts.len() as u32));
            t.b.budget(1);
            t.open();
        }
        t.check_fetch();
        if t.flow == Flow::Next && !t.instruction() {
            t.undefined();
        }
        match t.flow {
            Flow::End => break,
            Flow::Next | Flow::Cut if t.shielded => {
                t.goto(t.next);
                break;
            }
            Flow::Next => t.pc = t.next,
            Flow::Goto(pc) => t.pc = pc,
            Flow::NewKey => {
                t.goto_next_key();
                break;
            }
            Flow::Cut => {
                t.goto(t.next);
                break;
            }
        }
        let inside = t.pc / PAGE == key.pc / PAGE;
        if t.insns >= t.limits.max_insns || !inside || t.decode(code, false).is_err() {
            t.goto(t.pc);
            break;
        }
    }
    for (block, pc) in std::mem::take(&mut t.sides) {
        t.b.switch_to(block);
        t.finish_at(pc, Hint::None);
    }
    if let Some(budget) = budget {
        t.b.set_budget(budget, u64::from(t.insns));
    }
    t.b.set_extent(extent, t.insns);
    Ok(())
}

/// The field L'L of an instruction's EVEX prefix, which only prefixes of segments and of the address size may stand before (SDM
/// volume 2, 2.7.1).
fn evex_length(code: &[u8]) -> u8 {
    let at = code.iter().position(|b| *b == 0x62).unwrap_or(0);
    code.get(at + 3).map_or(0, |p2| p2 >> 5 & 3)
}

impl Translator<'_, '_> {
    /// Decodes the instruction at `pc`.
    fn decode(&mut self, code: &mut dyn CodeReader, first: bool) -> Result<(), NoCode> {
        let mut buf = [0; MAX_LEN];
        let mut n = code.fetch(self.pc, &mut buf).map_err(NoCode::Fault)?;
        let ip = self.offset(self.pc);
        loop {
            let mut decoder =
                Decoder::with_ip(self.mode.bitness(), &buf[..n], ip, DecoderOptions::FORCE_RESERVED_NOP);
            decoder.decode_out(&mut self.insn);
            if decoder.last_error() != DecoderError::NoMoreBytes || n == MAX_LEN {
                if self.insn.code().encoding() == EncodingKind::EVEX {
                    self.evex_length = evex_length(&buf[..n]);
                }
                return Ok(());
            }
            if !first {
                return Err(NoCode::Crosses);
            }
            let at = self.wrap(self.pc.wrapping_add(n as u64));
            n += code.fetch(at, &mut buf[n..]).map_err(NoCode::Fault)?;
        }
    }

    /// What the first instruction of a unit does besides its own work.
    fn open(&mut self) {
        if self.mode.shadow {
            let zero = self.b.iconst(Type::I64, 0);
            self.b.set(state::SHADOW, zero);
            self.call::<Look>(&[]);
        }
        if self.mode.debug {
            self.check_instruction_breakpoints();
        }
    }

    /// Checks that the whole instruction is inside CS.
    fn check_fetch(&mut self) {
        if self.mode.code64 {
            return;
        }
        let last = self.offset(self.pc) + self.insn.len() as u64 - 1;
        // 16-bit code may go on beyond 64 KiB where the limit lets it, as in system management mode.
        if self.mode.segs[seg::CS] == Class::Checked || !self.mode.code32 && last > 0xffff {
            let limit = self.b.get(state::limit(seg::CS), Type::I64);
            let last = self.b.iconst(Type::I64, last);
            let outside = self.b.setcc(Type::I8, tcg_ir::Cond::Gtu, last, limit);
            self.raise_if(outside, exceptions::with_error(vector::GP, 0));
        }
    }

    /// Translates the instruction.
    fn instruction(&mut self) -> bool {
        let i = &self.insn;
        // Hints that older processors take for NOPs: prefetches, ENDBR, MPX.
        if i.mnemonic() == Mnemonic::Reservednop {
            return !i.has_lock_prefix();
        }
        if i.is_invalid() || !self.guest.model().has_instruction(i) {
            return self.older_form();
        }
        if i.has_lock_prefix() && !self.lockable() {
            return false;
        }
        let m = self.insn.mnemonic();
        if self.mode.guest {
            self.ask_intercept(m);
        }
        self.data(m)
            || self.arith(m)
            || self.control(m)
            || self.shift(m)
            || self.bit(m)
            || self.string(m)
            || self.segment(m)
            || self.system(m)
            || self.svm(m)
            || self.fpu_env(m)
            || self.sse(m)
            || self.avx(m)
            || self.x87(m)
    }

    /// Processors without TZCNT and LZCNT take them for BSF and BSR with a prefix that means nothing.
    fn older_form(&mut self) -> bool {
        match self.insn.mnemonic() {
            Mnemonic::Tzcnt => self.bit(Mnemonic::Bsf),
            Mnemonic::Lzcnt => self.bit(Mnemonic::Bsr),
            _ => false,
        }
    }

    /// True if the instruction may have a LOCK prefix: it reads and writes memory in one step.
    fn lockable(&self) -> bool {
        use Mnemonic as M;
        let known = matches!(
            self.insn.mnemonic(),
            M::Add
                | M::Adc
                | M::And
                | M::Btc
                | M::Btr
                | M::Bts
                | M::Cmpxchg
                | M::Cmpxchg8b
                | M::Cmpxchg16b
                | M::Dec
                | M::Inc
                | M::Neg
                | M::Not
                | M::Or
                | M::Sbb
                | M::Sub
                | M::Xadd
                | M::Xchg
                | M::Xor
        );
        known && self.is_memory(0) || self.insn.mnemonic() == M::Xchg && self.is_memory(1)
    }

    // Addresses.

    /// Offset in CS of a linear address.
    fn offset(&self, pc: u64) -> u64 {
        if self.mode.code64 { pc } else { pc.wrapping_sub(u64::from(self.mode.cs_base)) & 0xffff_ffff }
    }

    /// Linear address of an offset in CS.
    fn linear(&self, offset: u64) -> u64 {
        if self.mode.code64 {
            offset
        } else {
            offset.wrapping_add(u64::from(self.mode.cs_base)) & 0xffff_ffff
        }
    }

    /// A linear address in the width of the mode.
    fn wrap(&self, pc: u64) -> u64 {
        if self.mode.code64 { pc } else { pc & 0xffff_ffff }
    }

    /// Offset in CS of the next instruction, as a value of a call's return address.
    fn next_offset(&self) -> u64 {
        self.offset(self.next)
    }

    // Calls and exceptions.

    /// Calls a helper. Whatever may leave the unit sees the flags in their slots.
    pub(crate) fn call<H: Numbered>(&mut self, args: &[Value]) -> Value {
        let pure = H::EFFECTS == tcg_ir::Effects::PURE;
        if !pure {
            self.flush_flags();
        }
        let v = self.b.call(H::ID, H::RESULT, args);
        if matches!(H::WRITES, tcg_ir::SlotSet::All) {
            self.forget_flags();
        } else if let tcg_ir::SlotSet::Only(slots) = H::WRITES
            && slots.contains(&SlotId(state::FLAGS))
        {
            self.forget_flags();
        }
        v
    }

    /// Raises an exception of the instruction, always.
    pub(crate) fn raise(&mut self, trap: Trap) {
        self.raise_here(trap);
        self.flow = Flow::End;
    }

    fn raise_here(&mut self, trap: Trap) {
        let code = self.b.iconst(Type::I64, trap.code);
        let value = self.b.iconst(Type::I64, trap.value);
        self.call::<Raise>(&[code, value]);
        let pc = self.b.pc(Type::I64, self.pc);
        self.b.set(state::PC, pc);
        self.b.lookup();
    }

    /// Raises an exception of the instruction if `cond` is not zero.
    pub(crate) fn raise_if(&mut self, cond: Value, trap: Trap) {
        self.flush_flags();
        let (bad, on) = (self.b.new_block(), self.b.new_block());
        self.b.branch(cond, bad, on, false);
        self.b.switch_to(bad);
        self.raise_here(trap);
        self.b.switch_to(on);
    }

    /// #UD.
    pub(crate) fn undefined(&mut self) {
        self.raise(exceptions::plain(vector::UD));
    }

    /// #GP(0) unless the privilege level is 0.
    fn need_cpl0(&mut self) -> bool {
        if self.mode.cpl != 0 {
            self.raise(exceptions::with_error(vector::GP, 0));
        }
        self.mode.cpl == 0
    }

    /// Sets the program counter to the next instruction, for helpers that leave.
    fn set_next_pc(&mut self) {
        let pc = self.b.pc(Type::I64, self.next);
        self.b.set(state::PC, pc);
    }

    // Ends.

    /// True if the next unit has another key than this one for reasons of its own.
    fn key_ends(&self) -> bool {
        self.mode.tf || self.mode.shadow || self.mode.debug || self.shield != 0 || self.went_high
    }

    /// Ends the unit at a fixed linear address.
    fn goto(&mut self, pc: u64) {
        self.goto_hint(pc, Hint::None);
    }

    fn goto_hint(&mut self, pc: u64, hint: Hint) {
        self.flush_flags();
        self.finish_at(pc, hint);
        self.flow = Flow::End;
    }

    /// The end of a block whose flags are in their slots.
    fn finish_at(&mut self, pc: u64, hint: Hint) {
        if self.key_ends() {
            let v = self.b.pc(Type::I64, pc);
            self.finish_slow(v);
        } else if pc % PAGE > PAGE - MAX_LEN as u64 {
            // The instruction there may reach into the next page: such units are not linked to, but found through the
            // cache of indirect jumps.
            let v = self.b.pc(Type::I64, pc);
            self.b.indirect(v, hint);
        } else {
            self.b.link(pc, hint);
        }
    }

    fn finish_slow(&mut self, pc: Value) {
        self.b.set(state::PC, pc);
        if self.shield != 0 {
            let v = self.b.iconst(Type::I64, self.shield);
            self.b.set(state::SHADOW, v);
        }
        self.finish_lookup();
    }

    /// The end of a block that has set the program counter.
    fn finish_lookup(&mut self) {
        if self.shield == 2 {
            // MOV SS holds back debug exceptions, too: they come behind the next instruction.
            self.b.lookup();
            return;
        }
        match (self.mode.tf, self.mode.debug) {
            (true, _) => self.b.exit(EXIT_STEP),
            (_, true) => self.b.exit(EXIT_DEBUG),
            _ => self.b.lookup(),
        }
    }

    /// Ends the unit at a computed linear address, an i64.
    fn goto_value(&mut self, pc: Value, hint: Hint) {
        self.flush_flags();
        if self.key_ends() {
            self.finish_slow(pc);
        } else {
            self.b.indirect(pc, hint);
        }
        self.flow = Flow::End;
    }

    /// Ends the unit at the next instruction, whose key may differ.
    fn goto_next_key(&mut self) {
        self.flush_flags();
        let pc = self.b.pc(Type::I64, self.next);
        self.finish_slow(pc);
        self.flow = Flow::End;
    }

    /// Ends the unit behind a helper that has set the program counter and anything else.
    fn leave(&mut self) {
        self.finish_lookup();
        self.flow = Flow::End;
    }

    /// The same where no single-step trap follows.
    fn leave_untrapped(&mut self) {
        self.b.lookup();
        self.flow = Flow::End;
    }
}
