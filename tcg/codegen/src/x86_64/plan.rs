//! What is known before emission: order of the blocks, where allocations merge, which values cross extended basic
//! blocks, which slots a region's loops keep in registers.

use tcg_ir::{BlockId, Op, Terminator, Type, Value};

use super::alloc::{Class, NO_SLOT, Pin, class, fl, frame_bytes};
use super::asm::Label;
use super::regs::{GPRS, PIN_GPRS, PIN_XMMS};
use super::{Gen, Too};

/// Plan of one block.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockPlan {
    pub(super) label: Label,
    /// Starts with the canonical allocation.
    pub(super) merges: bool,
    /// Snapshot it starts with.
    pub(super) start: Option<u32>,
    preds: u32,
    /// Guest address of the instruction it starts in.
    pub(super) pc: u64,
    /// First block of its extended basic block.
    ebb: u32,
    /// Place in the order, plus one; 0 while it has not been reached.
    place: u32,
    /// Depth of loops around it, roughly.
    depth: u8,
    /// Reached only by an unlikely branch, and leaves: put at the end.
    cold: bool,
    /// Needs no code any more.
    pub(super) done: bool,
}

impl Gen<'_> {
    /// Successor `i` of a block, in the order of visiting: the last is placed right behind it. Side entries come behind the
    /// successors of the region's entry; what is reached by its own way first is ordered by that.
    fn succ(&self, b: u32, i: u32) -> Option<BlockId> {
        let n = match &self.r.blocks[b as usize].end {
            Some(Terminator::Jump(e)) if i == 0 => return Some(e.block),
            Some(Terminator::Jump(_)) => 1,
            Some(Terminator::Branch { then, other, likely_then, .. }) => match (i, likely_then) {
                (0, false) | (1, true) => return Some(then.block),
                (0 | 1, _) => return Some(other.block),
                _ => 2,
            },
            _ => 0,
        };
        if b == 0 { self.r.entries.get((i - n) as usize).copied() } else { None }
    }

    pub(super) fn plan(&mut self) -> Result<(), Too> {
        let n = self.r.blocks.len();
        self.blocks.clear();
        for _ in 0..n {
            let label = self.asm.label();
            self.blocks.push(BlockPlan {
                label,
                merges: false,
                start: None,
                preds: 0,
                pc: self.r.pc,
                ebb: 0,
                place: 0,
                depth: 0,
                cold: false,
                done: false,
            });
        }
        let looped = self.order_blocks();
        for i in 0..self.order.len() {
            let b = self.order[i];
            let p = self.blocks[b as usize];
            self.blocks[b as usize].merges = p.preds > 1 || (b == 0 && p.preds > 0);
            if p.preds != 1 || b == 0 {
                self.blocks[b as usize].ebb = b;
            }
            let ebb = self.blocks[b as usize].ebb;
            for k in 0.. {
                let Some(s) = self.succ(b, k) else { break };
                if self.blocks[s.0 as usize].preds == 1 && s.0 != 0 {
                    self.blocks[s.0 as usize].ebb = ebb;
                }
            }
        }
        self.count_uses()?;
        self.pins.clear();
        self.pin_mask = 0;
        if looped {
            self.choose_pins();
        }
        // Blocks that leave behind unlikely branches go to the end.
        let (mut hot, mut cold) = (Vec::new(), Vec::new());
        if !self.first && self.order.iter().any(|b| self.blocks[*b as usize].cold) {
            for &b in &self.order {
                if self.blocks[b as usize].cold { cold.push(b) } else { hot.push(b) }
            }
            hot.append(&mut cold);
            self.order = hot;
        }
        self.st.frame = self.frame_base;
        Ok(())
    }

    /// Reverse postorder; predecessors; loops. True if there is a loop.
    fn order_blocks(&mut self) -> bool {
        self.order.clear();
        self.stack.clear();
        self.stack.push((0, 0));
        self.blocks[0].place = 1;
        // A side entry starts with the canonical allocation, whoever else leads to it.
        for e in &self.r.entries {
            self.blocks[e.0 as usize].preds += 1;
        }
        while let Some((b, i)) = self.stack.last().copied() {
            match self.succ(b, i) {
                Some(s) => {
                    if let Some(top) = self.stack.last_mut() {
                        top.1 += 1;
                    }
                    self.blocks[s.0 as usize].preds += 1;
                    if self.blocks[s.0 as usize].place == 0 {
                        self.blocks[s.0 as usize].place = 1;
                        self.stack.push((s.0, 0));
                    }
                }
                None => {
                    self.order.push(b);
                    self.stack.pop();
                }
            }
        }
        self.order.reverse();
        for (i, &b) in self.order.iter().enumerate() {
            self.blocks[b as usize].place = i as u32 + 1;
        }
        let mut looped = false;
        for i in 0..self.order.len() {
            let b = self.order[i];
            for k in 0.. {
                let Some(s) = self.succ(b, k) else { break };
                let head = self.blocks[s.0 as usize].place;
                if head <= i as u32 + 1 {
                    looped = true;
                    for j in head as usize - 1..=i {
                        let x = &mut self.blocks[self.order[j] as usize];
                        x.depth = (x.depth + 1).min(3);
                    }
                }
            }
            if let Some(Terminator::Branch { then, other, likely_then, .. }) = &self.r.blocks[b as usize].end
            {
                let unlikely = if *likely_then { other.block } else { then.block };
                let leaves = self.r.blocks[unlikely.0 as usize]
                    .end
                    .as_ref()
                    .is_none_or(|e| e.edges().next().is_none());
                if leaves && self.blocks[unlikely.0 as usize].preds == 1 && then.block != other.block {
                    self.blocks[unlikely.0 as usize].cold = true;
                }
            }
        }
        looped
    }

    /// Counts uses; values used outside their extended basic block and block parameters get frame slots.
    fn count_uses(&mut self) -> Result<(), Too> {
        let r = self.r;
        self.def_block.clear();
        self.def_block.resize(r.insts.len(), u32::MAX);
        self.has_calls = false;
        self.links.clear();
        for block in &r.blocks {
            if matches!(block.end, Some(Terminator::Link { .. })) {
                self.links.push(None);
            }
        }
        self.frame_base = super::regs::SPILL;
        for i in 0..self.order.len() {
            let b = self.order[i];
            let block = &r.blocks[b as usize];
            for (k, &v) in block.insts.iter().enumerate() {
                self.def_block[v.index()] = b;
                if k < block.params as usize {
                    self.make_global(v, b)?;
                    self.vals[v.index()].fl |= fl::FRAMED;
                    continue;
                }
                let inst = r.inst(v);
                self.has_calls |= inst.op == Op::Call;
                self.wide |= matches!(inst.ty, Type::V256 | Type::V512);
                for o in r.operands(inst) {
                    self.count(o, b)?;
                }
            }
            match &block.end {
                Some(Terminator::Branch { cond, .. }) => self.count(*cond, b)?,
                Some(Terminator::Indirect { pc, .. }) => self.count(*pc, b)?,
                _ => {}
            }
            for e in block.end.iter().flat_map(Terminator::edges) {
                for &a in &e.args {
                    self.count(a, b)?;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, o: Value, b: u32) -> Result<(), Too> {
        if o.index() >= self.vals.len() {
            return Ok(());
        }
        self.vals[o.index()].uses += 1;
        let def = self.def_block[o.index()];
        if def != b && self.blocks.get(def as usize).is_none_or(|d| d.ebb != self.blocks[b as usize].ebb) {
            self.make_global(o, b)?;
        }
        Ok(())
    }

    fn make_global(&mut self, v: Value, _used_in: u32) -> Result<(), Too> {
        let x = &mut self.vals[v.index()];
        if !x.is(fl::GLOBAL | fl::CONST) {
            x.fl |= fl::GLOBAL;
            x.frame = self.frame_base;
            self.frame_base += frame_bytes(x.ty);
            if self.frame_base > super::regs::FRAME / 2 {
                return Err(Too);
            }
        }
        Ok(())
    }

    /// Chooses the slots that stay in registers: those used most in loops. One that is only set there (flags that nobody asks for,
    /// as a rule) is as well off in memory.
    fn choose_pins(&mut self) {
        const SET: u32 = 1;
        const GOT: u32 = 2;
        let r = self.r;
        self.weights.clear();
        self.weights.resize(self.fx.slots.len() * 2, 0);
        let mut calls = false;
        for &b in &self.order {
            let depth = self.blocks[b as usize].depth;
            for &v in &r.blocks[b as usize].insts {
                let inst = r.inst(v);
                // A call that is hardly ever made saves and loads what it destroys.
                calls |= depth > 0 && !self.blocks[b as usize].cold && inst.op == Op::Call;
                if matches!(inst.op, Op::Get | Op::Set) {
                    if depth > 0 && !self.blocks[b as usize].cold {
                        self.weights[inst.sub as usize * 2] += 1 << (3 * depth);
                        if inst.op == Op::Get {
                            self.weights[inst.sub as usize * 2 + 1] |= GOT;
                        }
                    }
                    if inst.op == Op::Set {
                        self.weights[inst.sub as usize * 2 + 1] |= SET;
                    }
                }
            }
        }
        for (wanted, regs, base) in [(Class::Gpr, PIN_GPRS, 0), (Class::Xmm, PIN_XMMS, 16)] {
            let count = match (calls, wanted) {
                (false, Class::Gpr) => 7,
                (false, _) => 8,
                (true, Class::Gpr) => 5,
                (true, _) => 0,
            };
            for reg in regs.into_iter().take(count) {
                let best = (0..self.fx.slots.len())
                    .filter(|s| {
                        let ty = self.fx.slots[*s].ty;
                        class(ty) == wanted && ty != Type::F16 && self.weights[s * 2 + 1] & GOT != 0
                    })
                    .max_by_key(|s| self.weights[s * 2])
                    .filter(|s| self.weights[s * 2] >= 16);
                let Some(slot) = best else { break };
                self.weights[slot * 2] = 0;
                let dirty = self.weights[slot * 2 + 1] & SET != 0;
                self.pins.push(Pin { slot: slot as u16, reg: reg + base, dirty });
                self.pin_mask |= 1 << (reg + base);
            }
        }
        debug_assert!((GPRS & !self.pin_mask).count_ones() >= 6);
    }

    /// For each value of a block that is set: the slot, and whether nothing can leave or read the slot before.
    pub(super) fn hints(&mut self, b: BlockId) {
        let r = self.r;
        let block = &r.blocks[b.0 as usize];
        // Positions count down from the end, so that a smaller one is later.
        self.get_pos.fill(0);
        let leaves = block.end.as_ref().is_none_or(|e| e.edges().next().is_none());
        let (mut pos, mut barrier) = (0u32, 0u32);
        for &v in block.insts.iter().rev() {
            pos += 1;
            let inst = r.inst(v);
            match inst.op {
                Op::Set => {
                    let x = &mut self.vals[inst.a.index()];
                    x.hint = inst.sub;
                    self.get_pos[inst.sub as usize] = 0;
                    // Position of the set, kept until the definition is met.
                    x.imm = if x.is(fl::CONST) { x.imm } else { u64::from(pos) };
                }
                Op::Get => {
                    if leaves && self.get_pos[inst.sub as usize] == 0 {
                        self.vals[v.index()].fl |= fl::LAST;
                    }
                    self.get_pos[inst.sub as usize] = pos;
                }
                Op::Vinsert if inst.imm == 0 && class(r.inst(inst.b).ty) == Class::Xmm => {
                    // The scalar's register may become the vector's.
                    let (hint, set) = (self.vals[v.index()].hint, self.vals[v.index()].imm);
                    let x = &mut self.vals[inst.b.index()];
                    if hint != NO_SLOT && x.hint == NO_SLOT && !x.is(fl::CONST) {
                        (x.hint, x.imm) = (hint, set);
                    }
                }
                _ => {}
            }
            let x = &mut self.vals[v.index()];
            if x.hint != NO_SLOT && !x.is(fl::CONST) {
                let set = x.imm as u32;
                if set != 0 && barrier <= set && self.get_pos[x.hint as usize] <= set {
                    x.fl |= fl::SOON;
                }
            }
            // An operation that leaves does so before its result exists.
            if matches!(inst.op, Op::Load | Op::Store | Op::Rmw | Op::Cas | Op::Call | Op::Budget) {
                barrier = pos;
            }
        }
    }
}
