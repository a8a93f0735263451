//! State slots, budget checks, helper calls and the ends of blocks.

use tcg_ir::abi::call_site;
use tcg_ir::{BlockId, Edge, Effects, Hint, Op, SlotId, Terminator, Type, Value};

use super::alloc::{Class, NO_REG, NONE, Place, class, fl, frame_bytes};
use super::asm::{Alu, Cc, Label, Mem};
use super::regs::*;
use super::stubs::{KeyOperand, Stub, probe};
use super::{Gen, Too};
use crate::{LinkSite, RelocKind, raw_exit};

impl Gen<'_> {
    pub(super) fn get(&mut self, v: Value, slot: u16) -> Result<(), Too> {
        let info = self.fx.slots[slot as usize];
        if class(info.ty) == Class::Mem {
            let to = self.frame_slot(v.0)?;
            self.copy(info.ty.bytes(), to, info.mem());
            return Ok(());
        }
        if !self.vals[v.index()].is(fl::GLOBAL) {
            match self.bind_of(slot) {
                Some(b) => {
                    let last = self.vals[v.index()].fl & fl::LAST;
                    self.vals[b.val as usize].fl |= last;
                    self.make_alias(v, b.val);
                }
                None => self.bind(slot, v.0, false),
            }
            return Ok(());
        }
        let root = match self.bind_of(slot) {
            Some(b) => b.val,
            None => {
                let s = self.synthetic(info.ty);
                self.bind(slot, s, false);
                s
            }
        };
        let from = self.load_root(root)?;
        let to = self.define(v, NO_REG, 0)?;
        self.copy_reg(info.ty, to, from);
        Ok(())
    }

    /// Copies a register to another of its class.
    pub(super) fn copy_reg(&mut self, ty: Type, to: u8, from: u8) {
        if to == from {
        } else if to >= 16 {
            self.asm.vmov_bytes(ty.bytes(), Xmm(to - 16), Xmm(from - 16));
        } else {
            self.asm.mov(true, Gpr(to), Gpr(from));
        }
    }

    /// Copies memory through scratch.
    pub(super) fn copy(&mut self, bytes: usize, to: Mem, from: Mem) {
        let mut at = 0;
        while at < bytes {
            let n = match bytes - at {
                32.. => 32,
                16.. => 16,
                8.. => 8,
                _ => 4,
            };
            self.asm.vload(n, X15, from.add(at as i32));
            self.asm.vstore(n, to.add(at as i32), X15);
            at += n;
        }
    }

    pub(super) fn set(&mut self, slot: u16, v: Value) -> Result<(), Too> {
        let info = self.fx.slots[slot as usize];
        let root = self.root(v);
        if class(info.ty) == Class::Mem {
            if let Place::Mem(from) = self.place(root) {
                self.copy(info.ty.bytes(), info.mem(), from);
            }
            self.done(v);
            return Ok(());
        }
        if self.vals[root as usize].is(fl::LAZY) || !self.vals[root as usize].is(fl::CONST) {
            if self.bind_of(slot).is_some_and(|b| b.val == root) {
                self.done(v);
                return Ok(());
            }
            self.load_root(root)?;
        }
        self.rescue(slot)?;
        self.unbind(slot);
        self.bind(slot, root, true);
        self.done(v);
        Ok(())
    }

    /// Emits into the cold section.
    pub(super) fn cold(&mut self, f: impl FnOnce(&mut Self) -> Result<(), Too>) -> Result<(), Too> {
        debug_assert!(!self.asm.is_cold());
        self.asm.set_cold(true);
        let r = f(self);
        self.asm.set_cold(false);
        r
    }

    pub(super) fn budget(&mut self, insns: u64) -> Result<(), Too> {
        if self.first && !self.fx.opts.count_insns {
            return Ok(());
        }
        let out = self.asm.label();
        self.asm.alu_imm(false, Alu::Cmp, Mem::env(EXIT_REQUEST), 0);
        self.asm.jcc(Cc::Ne, out);
        if self.fx.opts.count_insns && insns != 0 {
            self.asm.mov(true, RAX, Mem::env(BUDGET));
            self.asm.alu_imm(true, Alu::Sub, RAX, i32::try_from(insns).map_err(|_| Too)?);
            self.asm.jcc(Cc::L, out);
            self.asm.store(true, Mem::env(BUDGET), RAX);
        }
        self.cold(|g| {
            g.asm.bind(out);
            g.store_dirty();
            g.load_pc(RCX, g.pc);
            g.go_stub(false, Stub::Budget);
            Ok(())
        })
    }

    fn leave(&mut self, raw: u64) {
        self.asm.mov_imm(RAX, raw);
        self.go_stub(false, Stub::Exit);
    }

    // Helpers.

    pub(super) fn call(&mut self, v: Value) -> Result<(), Too> {
        const ARGS: [Gpr; 4] = [RSI, RDX, RCX, R8];
        let inst = *self.r.inst(v);
        let h = *self.fx.helpers.get(inst.sub as usize).ok_or(Too)?;
        let list = &self.r.lists[inst.a.index()..inst.a.index() + inst.b.index()];
        if list.len() > ARGS.len() {
            return Err(Too);
        }
        for &a in list {
            let r = self.root(a);
            if self.vals[r as usize].is(fl::LAZY) {
                self.load_root(r)?;
            }
        }
        for i in 0..self.st.binds.len() {
            let b = self.st.binds[i];
            let reg = self.vals[b.val as usize].reg;
            let survives = reg == NO_REG || CLOBBERED & 1 << reg == 0;
            let slot = SlotId(b.slot);
            let seen =
                h.effects.contains(Effects::EXITS) || h.reads.contains(slot) || h.writes.contains(slot);
            if b.dirty && (seen || !survives) {
                self.write_back(i);
            }
        }
        let mut i = 0;
        while i < self.st.binds.len() {
            let b = self.st.binds[i];
            if h.writes.contains(SlotId(b.slot)) {
                self.locked = 0;
                self.rescue(b.slot)?;
                // Unbinding moves another slot here.
                self.unbind(b.slot);
            } else {
                i += 1;
            }
        }
        let pending = |g: &Self, r: u32| list.iter().filter(|a| g.root(**a) == r).count() as u32;
        for reg in (0..32u8).filter(|r| CLOBBERED & 1 << r != 0) {
            let owner = self.st.regs[reg as usize];
            if owner == NONE {
                continue;
            }
            let x = self.vals[owner as usize];
            if x.uses > pending(self, owner)
                && x.home == super::alloc::NO_SLOT
                && !x.is(fl::CONST | fl::FRAMED)
            {
                self.spill(owner)?;
            }
        }
        self.move_args(list, &ARGS)?;
        if h.effects.contains(Effects::FP) {
            self.merge_exceptions();
            self.asm.ldmxcsr(Mem::env(HOST_FPCR));
        }
        if self.wide {
            self.asm.vzeroupper();
        }
        self.asm.lea(true, RDI, Mem::env(-BIAS));
        let at = self.asm.call_rip();
        self.relocs.push(crate::Reloc { offset: at, kind: RelocKind::Helper, addend: i64::from(inst.sub) });
        if h.effects.contains(Effects::FP) {
            self.asm.ldmxcsr(Mem::env(GUEST_FPCR));
        }
        for reg in (0..32u8).filter(|r| CLOBBERED & 1 << r != 0) {
            self.vacate(reg);
        }
        for &a in list {
            self.done(a);
        }
        if h.effects.intersects(Effects::RAISES | Effects::EXITS) {
            let out = self.asm.label();
            self.asm.test(true, RDX, RDX);
            self.asm.jcc(Cc::Ne, out);
            let body = self.body();
            let stub = if h.effects.contains(Effects::EXITS) { Stub::HelperFault } else { Stub::Fault };
            self.cold(|g| {
                g.asm.bind(out);
                g.go_stub(true, stub);
                g.site_with(body);
                Ok(())
            })?;
        }
        if inst.ty != Type::Void && h.result != Type::Void && self.vals[v.index()].uses != 0 {
            match class(inst.ty) {
                Class::Gpr => {
                    let d = self.define_gpr(v, RAX, 1)?;
                    self.asm.mov(true, d, RAX);
                }
                Class::Xmm => {
                    let d = self.define(v, NO_REG, 0)?;
                    self.asm.gpr_to_xmm(true, Xmm(d - 16), RAX);
                }
                Class::Mem => {
                    let m = self.frame_slot(v.0)?;
                    for at in (8..frame_bytes(inst.ty)).step_by(8) {
                        self.asm.store_imm(true, m.add(at as i32), 0);
                    }
                    self.asm.store(true, m, RAX);
                }
            }
        } else if inst.ty != Type::Void && self.vals[v.index()].uses != 0 {
            // A result that the helper does not have is zero.
            let d = self.define(v, NO_REG, 0)?;
            if d >= 16 { self.vxor(Xmm(d - 16)) } else { self.asm.mov_imm(Gpr(d), 0) }
        }
        Ok(())
    }

    /// Adds the host's sticky exceptions to the environment's. Clobbers `eax`.
    pub(super) fn merge_exceptions(&mut self) {
        self.asm.stmxcsr(Mem::env(SCRATCH_WORD));
        self.asm.mov(false, RAX, Mem::env(SCRATCH_WORD));
        self.asm.alu_imm(false, Alu::And, RAX, 0x3f);
        self.asm.alu(false, Alu::Or, RAX, Mem::env(FPEXC));
        self.asm.store(false, Mem::env(FPEXC), RAX);
    }

    /// Moves helper arguments to their registers, in an order that overwrites none that is still needed.
    fn move_args(&mut self, list: &[Value], regs: &[Gpr; 4]) -> Result<(), Too> {
        let mut from = [NO_REG; 4];
        for (f, &a) in from.iter_mut().zip(list) {
            if let Place::Reg(r) = self.place(self.root(a)) {
                *f = r;
            }
        }
        let mut left = from.iter().filter(|f| **f != NO_REG).count();
        let mut moved = [false; 4];
        while left != 0 {
            let ready = (0..list.len()).find(|&i| {
                from[i] != NO_REG
                    && !moved[i]
                    && !(0..list.len()).any(|k| k != i && !moved[k] && from[k] == regs[i].0)
            });
            match ready {
                Some(i) => {
                    if from[i] >= 16 {
                        self.asm.xmm_to_gpr(self.r.inst(list[i]).ty.bytes() == 8, regs[i], Xmm(from[i] - 16));
                    } else if from[i] != regs[i].0 {
                        self.asm.mov(true, regs[i], Gpr(from[i]));
                    }
                    moved[i] = true;
                    left -= 1;
                }
                None => {
                    // A cycle: one source goes to scratch.
                    let Some(i) = (0..list.len()).find(|&i| from[i] != NO_REG && !moved[i]) else { break };
                    self.asm.mov(true, RAX, Gpr(from[i]));
                    let old = from[i];
                    for f in &mut from {
                        if *f == old {
                            *f = RAX.0;
                        }
                    }
                }
            }
        }
        for (i, &a) in list.iter().enumerate() {
            let root = self.root(a);
            let x = self.vals[root as usize];
            let ty = self.r.inst(a).ty;
            match self.place(root) {
                Place::Reg(_) => {}
                Place::Imm(imm) if x.is(fl::PC) => self.load_pc(regs[i], imm),
                Place::Imm(imm) => self.asm.mov_imm(regs[i], imm & ty.mask()),
                Place::Mem(m) => {
                    let bits = ty.bits().min(64);
                    if bits == 64 && x.ty.bits() < 64 && !x.is(fl::FRAMED) {
                        // A narrower value with zeros above, at home in a slot of its own width or wider.
                        let slot = self.fx.slots[x.home as usize].ty.bits();
                        if slot == 64 {
                            self.asm.mov(true, regs[i], m)
                        } else {
                            self.asm.extend(false, slot, false, regs[i], m)
                        }
                    } else if bits == 64 {
                        self.asm.mov(true, regs[i], m);
                    } else {
                        self.asm.extend(false, bits, false, regs[i], m);
                    }
                }
                Place::Nowhere => return Err(Too),
            }
            if matches!(self.place(root), Place::Reg(r) if r < 16) && u32::from(x.zx) > ty.bits() {
                self.asm.extend(false, ty.bits(), false, regs[i], regs[i]);
            }
        }
        Ok(())
    }

    /// The ways into the middle: they look for exit requests, as no more than loops do inside, and load what is in registers there.
    pub(super) fn side_entries(&mut self) -> Result<(), Too> {
        let r = self.r;
        for e in &r.entries {
            let block = &r.blocks[e.0 as usize];
            let Some(first) = block.insts.first().map(|v| r.inst(*v)).filter(|i| i.op == Op::Insn) else {
                continue;
            };
            let (label, out, pc) = (self.asm.label(), self.asm.label(), first.imm);
            self.cold(|g| {
                g.asm.bind(out);
                g.load_pc(RCX, pc);
                g.go_stub(false, Stub::Budget);
                g.asm.bind(label);
                g.asm.alu_imm(false, Alu::Cmp, Mem::env(EXIT_REQUEST), 0);
                g.asm.jcc(Cc::Ne, out);
                for i in 0..g.pins.len() {
                    let p = g.pins[i];
                    let slot = g.fx.slots[p.slot as usize];
                    match (p.reg, slot.ty.bits()) {
                        (reg @ 16.., _) => g.asm.vload(slot.ty.bytes(), Xmm(reg - 16), slot.mem()),
                        (reg, 64) => g.asm.mov(true, Gpr(reg), slot.mem()),
                        (reg, bits) => g.asm.extend(false, bits, false, Gpr(reg), slot.mem()),
                    }
                }
                let to = g.blocks[e.0 as usize].label;
                g.asm.jmp(to);
                Ok(())
            })?;
            self.sides.push((pc, label));
        }
        Ok(())
    }

    // Ends of blocks.

    /// Returns the next block if it continues with the allocation as it stands.
    pub(super) fn terminator(
        &mut self,
        b: BlockId,
        end: &Terminator,
        next: Option<u32>,
    ) -> Result<Option<u32>, Too> {
        match end {
            Terminator::Jump(e) => {
                let to = e.block.0;
                self.compute_args(e)?;
                let merges = self.blocks[to as usize].merges;
                if merges {
                    self.settle()?;
                }
                self.edge_args(e)?;
                for &a in &e.args {
                    self.done(a);
                }
                if next == Some(to) {
                    return Ok((!merges).then_some(to));
                }
                if !merges {
                    let snap = self.snapshot();
                    self.blocks[to as usize].start = Some(snap);
                }
                let label = self.blocks[to as usize].label;
                self.asm.jmp(label);
                Ok(None)
            }
            Terminator::Branch { cond, then, other, .. } => self.branch(*cond, then, other, next),
            Terminator::Link { pc, hint } => {
                self.write_back_all();
                self.link(b, *pc, *hint)?;
                Ok(None)
            }
            Terminator::Indirect { pc, hint } => {
                self.write_back_all();
                self.indirect(*pc, *hint)?;
                Ok(None)
            }
            Terminator::Lookup => {
                self.write_back_all();
                self.go_stub(false, Stub::Next);
                Ok(None)
            }
            Terminator::Exit { code } => {
                self.write_back_all();
                self.leave(raw_exit::CODE | u64::from(*code) << 32);
                Ok(None)
            }
        }
    }

    fn branch(
        &mut self,
        cond: Value,
        then: &Edge,
        other: &Edge,
        next: Option<u32>,
    ) -> Result<Option<u32>, Too> {
        if self.first && self.branch_links(cond, then.block, other.block)? {
            return Ok(None);
        }
        self.compute_args(then)?;
        self.compute_args(other)?;
        if self.blocks[then.block.0 as usize].merges || self.blocks[other.block.0 as usize].merges {
            self.settle()?;
        }
        self.locked = 0;
        let cc = self.condition(cond)?;
        debug_assert!(
            !(self.blocks[then.block.0 as usize].merges || self.blocks[other.block.0 as usize].merges)
                || self.is_settled()
        );
        let to_then = self.edge(then)?;
        let to_other = self.edge(other)?;
        for &a in then.args.iter().chain(&other.args) {
            self.done(a);
        }
        let follows = |e: &Edge| e.args.is_empty() && next == Some(e.block.0);
        let fallthrough = if follows(other) {
            self.asm.jcc(cc, to_then);
            other
        } else if follows(then) {
            self.asm.jcc(cc.negate(), to_other);
            then
        } else {
            self.asm.jcc(cc, to_then);
            self.asm.jmp(to_other);
            return Ok(None);
        };
        let to = fallthrough.block.0;
        Ok((!self.blocks[to as usize].merges).then_some(to))
    }

    /// Where a conditional jump along an edge goes: the block, or cold code that hands arguments over.
    fn edge(&mut self, e: &Edge) -> Result<Label, Too> {
        let to = e.block.0 as usize;
        if !self.blocks[to].merges {
            let snap = self.snapshot();
            self.blocks[to].start = Some(snap);
        }
        let label = self.blocks[to].label;
        if e.args.is_empty() {
            return Ok(label);
        }
        let stub = self.asm.label();
        self.cold(|g| {
            g.asm.bind(stub);
            g.edge_args(e)?;
            g.asm.jmp(label);
            Ok(())
        })?;
        Ok(stub)
    }

    /// Computes arguments that have been put off, before the allocation is final.
    fn compute_args(&mut self, e: &Edge) -> Result<(), Too> {
        for &a in &e.args {
            let r = self.root(a);
            if self.vals[r as usize].is(fl::LAZY) {
                self.load_root(r)?;
            }
        }
        Ok(())
    }

    /// Emits the copies of arguments to the parameters' frame slots, changing no register but scratch.
    fn edge_args(&mut self, e: &Edge) -> Result<(), Too> {
        let params = &self.r.blocks[e.block.0 as usize].insts[..e.args.len()];
        // If an argument is a parameter of the same block, all go through a second set of slots.
        let staged = e.args.iter().any(|a| params.iter().any(|p| p.0 == self.root(*a)));
        let mut offset = self.st.frame;
        for (&p, &a) in params.iter().zip(&e.args) {
            let to = if staged { offset } else { self.vals[p.index()].frame };
            offset += frame_bytes(self.r.inst(p).ty);
            if staged && offset > FRAME - 8 {
                return Err(Too);
            }
            self.store_value(a, Mem::frame(to))?;
        }
        if staged {
            let mut offset = self.st.frame;
            for &p in params {
                let bytes = frame_bytes(self.r.inst(p).ty);
                self.copy(bytes as usize, Mem::frame(self.vals[p.index()].frame), Mem::frame(offset));
                offset += bytes;
            }
        }
        Ok(())
    }

    /// Stores a value of any type to memory, at least 8 bytes, zero-extended to them if it is shorter. Clobbers scratch
    /// only.
    pub(super) fn store_value(&mut self, v: Value, to: Mem) -> Result<(), Too> {
        let ty = self.r.inst(v).ty;
        let root = self.root(v);
        let x = self.vals[root as usize];
        match self.place(root) {
            Place::Reg(r) if r >= 16 => {
                self.asm.vstore(ty.bytes(), to, Xmm(r - 16));
                if ty.bytes() == 4 {
                    self.asm.store_imm(false, to.add(4), 0);
                }
            }
            Place::Reg(r) => {
                if u32::from(x.zx) > ty.bits() {
                    self.asm.extend(false, ty.bits(), false, RAX, Gpr(r));
                    self.asm.store(true, to, RAX);
                } else {
                    self.asm.store(true, to, Gpr(r));
                }
            }
            Place::Imm(imm) if x.is(fl::PC) => {
                self.load_pc(RAX, imm & ty.mask());
                self.asm.store(true, to, RAX);
            }
            Place::Imm(imm) => self.store_const(8, to, imm & ty.mask()),
            Place::Mem(from) => match ty.bytes() {
                n @ (1 | 2 | 4) => {
                    self.asm.extend(false, n as u32 * 8, false, RAX, from);
                    self.asm.store(true, to, RAX);
                }
                8 => {
                    // A value with zeros above may be at home in a slot shorter than 8 bytes.
                    let n = if x.is(fl::FRAMED) { 64 } else { self.fx.slots[x.home as usize].ty.bits() };
                    if n >= 64 {
                        self.asm.mov(true, RAX, from);
                    } else {
                        self.asm.extend(false, n, false, RAX, from);
                    }
                    self.asm.store(true, to, RAX);
                }
                n => self.copy(n, to, from),
            },
            Place::Nowhere => return Err(Too),
        }
        Ok(())
    }

    fn link(&mut self, b: BlockId, pc: u64, hint: Hint) -> Result<(), Too> {
        self.link_if(None, b, pc, hint)
    }

    /// The jump of a link, under a condition; its displacement is aligned, so that it can be patched while it runs.
    fn link_if(&mut self, cc: Option<Cc>, b: BlockId, pc: u64, hint: Hint) -> Result<(), Too> {
        let index = self.r.link_index(b);
        let stub = self.asm.label();
        let opcode = if cc.is_some() { 2 } else { 1 };
        self.asm.nops((4 - (self.asm.pos() + opcode) % 4) % 4);
        match cc {
            Some(cc) => self.asm.jcc(cc, stub),
            None => self.asm.jmp(stub),
        }
        let site = self.asm.pos() - 4;
        let link = LinkSite { site: 0, stub: 0, pc, hint };
        if let Some(l) = self.links.get_mut(index as usize) {
            *l = Some((stub, site, link));
        }
        self.cold(|g| {
            g.asm.bind(stub);
            g.go_stub(true, Stub::Link);
            Ok(())
        })
    }

    /// The link that is all a block consists of.
    fn bare_link(&self, b: BlockId) -> Option<(u64, Hint)> {
        let block = &self.r.blocks[b.0 as usize];
        match block.end {
            Some(Terminator::Link { pc, hint }) if block.insts.is_empty() => Some((pc, hint)),
            _ => None,
        }
    }

    /// A branch between two links, in the first tier: one conditional jump and one other, and no blocks.
    fn branch_links(&mut self, cond: Value, then: BlockId, other: BlockId) -> Result<bool, Too> {
        let (Some((pc, hint)), Some((pc2, hint2))) = (self.bare_link(then), self.bare_link(other)) else {
            return Ok(false);
        };
        if then == other {
            return Ok(false);
        }
        self.write_back_all();
        let cc = self.condition(cond)?;
        self.link_if(Some(cc), then, pc, hint)?;
        self.link_if(None, other, pc2, hint2)?;
        for b in [then, other] {
            self.blocks[b.0 as usize].done = true;
        }
        Ok(true)
    }

    /// Through the jump cache: entry `(pc >> 1 ^ pc >> 13) & mask`.
    fn indirect(&mut self, pc: Value, hint: Hint) -> Result<(), Too> {
        let from = self.use_gpr(pc)?;
        if self.r.inst(pc).ty == Type::I32 {
            self.asm.mov(false, RCX, from);
        } else if from != RCX {
            self.asm.mov(true, RCX, from);
        }
        if self.first {
            self.done(pc);
            self.go_shared(false, super::outline::jump());
            return Ok(());
        }
        if matches!(hint, Hint::Call(_)) {
            let at = CALL_TARGETS + call_site(self.pc) as i32 * 8;
            self.asm.store(true, Mem::env(at), RCX);
        }
        let miss = self.asm.label();
        let key = match i32::try_from(self.key as i64) {
            Ok(key) => KeyOperand::Imm(key),
            Err(_) => {
                self.asm.mov_imm64(RDX, self.key);
                KeyOperand::Reg(RDX)
            }
        };
        probe(&mut self.asm, RAX, key, JUMP_CACHE, miss);
        self.done(pc);
        self.cold(|g| {
            g.asm.bind(miss);
            if matches!(key, KeyOperand::Imm(_)) {
                g.asm.mov_imm(RDX, g.key);
            }
            g.go_stub(false, Stub::Miss);
            Ok(())
        })
    }

    /// Emits a test of a value; the condition under which it is not zero.
    pub(super) fn condition(&mut self, v: Value) -> Result<Cc, Too> {
        let root = self.root(v);
        if self.vals[root as usize].is(fl::LAZY) && self.vals[root as usize].uses == 1 {
            self.vals[root as usize].fl &= !fl::LAZY;
            self.vals[root as usize].uses = 0;
            return self.compare(Value(root));
        }
        let ty = self.r.inst(v).ty;
        if class(ty) == Class::Mem {
            let Place::Mem(m) = self.place(root) else { return Err(Too) };
            self.asm.mov(true, RAX, m);
            self.asm.alu(true, Alu::Or, RAX, m.add(8));
        } else {
            let r = self.use_gpr(v)?;
            let zx = u32::from(self.vals[root as usize].zx);
            match ty.bits() {
                bits @ (8 | 16) if zx > bits => self.asm.test_small(bits, r, r),
                64 if zx > 32 => self.asm.test(true, r, r),
                _ => self.asm.test(false, r, r),
            }
        }
        self.done(v);
        Ok(Cc::Ne)
    }

    /// Emits the comparison of a `setcc` and consumes its operands; the condition that holds.
    pub(super) fn compare(&mut self, v: Value) -> Result<Cc, Too> {
        use tcg_ir::Cond;
        let inst = *self.r.inst(v);
        debug_assert_eq!(inst.op, Op::Setcc);
        let (mut a, mut b, mut cond) = (inst.a, inst.b, Cond::from_bits(inst.sub));
        if self.imm(a).is_some() && self.imm(b).is_none() {
            (a, b) = (b, a);
            cond = cond.swap();
        }
        let bits = self.r.inst(a).ty.bits();
        let is_test = matches!(cond, Cond::TestZ | Cond::TestNz);
        let ra = self.use_gpr(a)?;
        let w = bits == 64;
        match self.imm32(b) {
            Some(0) if !is_test => match bits {
                8 | 16 => self.asm.test_small(bits, ra, ra),
                _ => self.asm.test(w, ra, ra),
            },
            Some(imm) if bits >= 32 => {
                if is_test {
                    self.asm.test_imm(w, ra, imm);
                } else {
                    self.asm.alu_imm(w, Alu::Cmp, ra, imm);
                }
            }
            Some(imm) if !is_test => self.asm.alu_small_imm(bits, Alu::Cmp, ra, imm),
            _ => {
                let mem = if bits >= 32 { self.mem_operand(b, bits) } else { None };
                match mem {
                    Some(m) if !is_test => self.asm.alu(w, Alu::Cmp, ra, m),
                    _ => {
                        let rb = self.use_gpr(b)?;
                        match (bits, is_test) {
                            (8 | 16, true) => self.asm.test_small(bits, ra, rb),
                            (8 | 16, false) => self.asm.alu_small(bits, Alu::Cmp, ra, rb),
                            (_, true) => self.asm.test(w, ra, rb),
                            (_, false) => self.asm.alu(w, Alu::Cmp, ra, rb),
                        }
                    }
                }
            }
        }
        self.done(a);
        self.done(b);
        Ok(match cond {
            Cond::Eq | Cond::TestZ => Cc::E,
            Cond::Ne | Cond::TestNz => Cc::Ne,
            Cond::Lt => Cc::L,
            Cond::Ge => Cc::Ge,
            Cond::Le => Cc::Le,
            Cond::Gt => Cc::G,
            Cond::Ltu => Cc::B,
            Cond::Geu => Cc::Ae,
            Cond::Leu => Cc::Be,
            Cond::Gtu => Cc::A,
            // Those of flag records only; no comparison has them.
            Cond::Neg => Cc::S,
            Cond::Pos => Cc::Ns,
            Cond::Ov => Cc::O,
            Cond::NoOv => Cc::No,
            Cond::ParE => Cc::P,
            Cond::ParO => Cc::Np,
        })
    }

    /// The memory a value is in, if it is worth using it from there: it is needed once and is in no register.
    pub(super) fn mem_operand(&self, v: Value, bits: u32) -> Option<Mem> {
        let x = &self.vals[self.root(v) as usize];
        if x.uses != 1 || x.is(fl::LAZY) || self.pin_of(x.home).is_some() {
            return None;
        }
        match self.place(self.root(v)) {
            Place::Mem(m) if x.is(fl::FRAMED) || self.fx.slots[x.home as usize].ty.bits() >= bits => Some(m),
            _ => None,
        }
    }
}
