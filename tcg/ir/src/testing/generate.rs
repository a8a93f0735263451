//! Random valid regions.
//!
//! Blocks are made in order, every block but the first with a forward edge from an earlier one, so values of a block's
//! dominators are those of blocks made before it. A block that a backward edge enters checks the budget, so every
//! region ends. Addresses point into the memory of `TestMachine`, or close to a page that faults.

use super::{MEM_BASE, Rng};
use crate::graph::Graph;
use crate::print::{Tables, fp_mask, is_scalar_fp};
use crate::{
    BlockId, Builder, Cond, Edge, Effect, FlagKind, FpAttr, HelperId, Hint, Inst, Lane, MemOp, Op, Region,
    RmwOp, SlotId, Terminator, Type, Value, VecFn,
};

/// What to generate. The default is everything.
#[derive(Debug, Clone)]
pub struct GenConfig {
    /// Most blocks of a region.
    pub blocks: usize,
    /// Most instructions of a block (those that operands need apart).
    pub insts: usize,
    /// The operations to choose from.
    pub ops: Vec<Op>,
    /// The types of values.
    pub types: Vec<Type>,
    /// The floating-point attributes to choose from; empty for any. Bits that an operation has no use for are dropped.
    pub attrs: Vec<FpAttr>,
    /// Alignment rules, atomicities, orders and byte orders besides the plain ones.
    pub memory_attributes: bool,
    /// Accesses may fault.
    pub faults: bool,
}

impl Default for GenConfig {
    fn default() -> Self {
        let structural = |op: &Op| !matches!(op, Op::Nop | Op::Insn | Op::Budget);
        Self {
            blocks: 6,
            insts: 24,
            ops: Op::ALL.iter().copied().filter(structural).collect(),
            types: Type::ALL[1..].to_vec(),
            attrs: Vec::new(),
            memory_attributes: true,
            faults: true,
        }
    }
}

/// A region over [`super::slots`] and [`super::helpers`], or tables of the same shape.
#[must_use]
pub fn generate(rng: &mut Rng, cfg: &GenConfig, t: Tables<'_>) -> Region {
    let mut region = Region::default();
    let n = 1 + rng.below(cfg.blocks);
    let mut b = Builder::new(&mut region, 0x4000);
    for _ in 1..n {
        b.new_block();
    }
    // Skeleton: the edges alone, for dominators.
    let mut forward: Vec<Vec<u32>> = vec![Vec::new(); n];
    for to in 1..n as u32 {
        let candidates: Vec<usize> = (0..to as usize).filter(|f| forward[*f].len() < 2).collect();
        // Block `to - 1` always has room.
        forward[rng.pick(&candidates)].push(to);
    }
    let mut heads = vec![false; n];
    for (from, to) in forward.iter_mut().enumerate() {
        if to.len() < 2 && rng.one_in(3) && n > 1 {
            let extra = 1 + rng.below(n - 1);
            heads[extra] |= extra <= from;
            to.push(extra as u32);
        }
    }
    for (from, to) in forward.iter().enumerate() {
        b.switch_to(BlockId(from as u32));
        let edge = |n: u32| Edge::to(BlockId(n));
        let none = Value(0);
        let end = match to[..] {
            [] => Terminator::Lookup,
            [x] => Terminator::Jump(edge(x)),
            [x, y, ..] => {
                Terminator::Branch { cond: none, then: edge(x), other: edge(y), likely_then: rng.one_in(2) }
            }
        };
        match end {
            Terminator::Jump(e) => b.jump_with(e),
            Terminator::Branch { .. } => b.branch(none, BlockId(to[0]), BlockId(to[1]), rng.one_in(2)),
            _ => b.lookup(),
        }
    }
    let mut graph = Graph::default();
    graph.build(b.region());
    graph.dominators(b.region());
    let mut params: Vec<Vec<Type>> = vec![Vec::new(); n];
    for (i, p) in params.iter_mut().enumerate().skip(1) {
        for _ in 0..rng.below(4).saturating_sub(1) {
            let ty = rng.pick(&cfg.types);
            b.param(BlockId(i as u32), ty);
            p.push(ty);
        }
    }
    let mut g = Gen { rng, cfg, t, b, pool: Default::default(), pc: 0x4000 };
    let mut defs: Vec<[Vec<Value>; 14]> = vec![Default::default(); n];
    for i in 0..n {
        // Values of all dominators, then its own parameters.
        g.pool = Default::default();
        let mut d = BlockId(i as u32);
        while let Some(up) = graph.idom(d) {
            if up == d {
                break;
            }
            for (p, q) in g.pool.iter_mut().zip(&defs[up.0 as usize]) {
                p.extend_from_slice(q);
            }
            d = up;
        }
        let inherited: [usize; 14] = std::array::from_fn(|k| g.pool[k].len());
        g.b.switch_to(BlockId(i as u32));
        let own = g.b.region().blocks[i].insts.clone();
        for v in own {
            let ty = g.b.ty(v);
            g.pool[ty as usize].push(v);
        }
        let budget = i == 0 || heads[i] || g.rng.one_in(4);
        g.block(budget);
        g.finish(i, &forward[i], &params);
        defs[i] = std::array::from_fn(|k| g.pool[k][inherited[k]..].to_vec());
    }
    let pc = g.pc;
    b = g.b;
    b.set_extent((pc - 0x4000) as u32, ((pc - 0x4000) / 4) as u32);
    region
}

struct Gen<'a, 'b> {
    rng: &'a mut Rng,
    cfg: &'a GenConfig,
    t: Tables<'a>,
    b: Builder<'b>,
    /// Values that may be used here, by type.
    pool: [Vec<Value>; 14],
    pc: u64,
}

impl Gen<'_, '_> {
    fn mark(&mut self) {
        let len = self.rng.pick(&[2, 4]);
        self.b.insn(self.pc, len);
        self.pc += 4;
    }

    fn block(&mut self, budget: bool) {
        self.mark();
        if budget {
            let n = 1 + self.rng.below(20) as u64;
            self.b.budget(n);
        }
        for _ in 0..1 + self.rng.below(self.cfg.insts) {
            if self.rng.one_in(6) {
                self.mark();
            }
            let op = self.rng.pick(&self.cfg.ops);
            self.op(op);
        }
    }

    /// Writes the pc slot with a new address.
    fn set_pc(&mut self) {
        let slot = self.t.slots.pc();
        if let Some(d) = self.t.slots.all().get(slot.0 as usize) {
            let v = self.b.pc(d.ty, self.pc + 0x100);
            self.b.set(slot, v);
        }
    }

    fn finish(&mut self, i: usize, to: &[u32], params: &[Vec<Type>]) {
        let mut edge = |n: u32| {
            let args = params[n as usize].iter().map(|ty| self.value(*ty)).collect();
            Edge { block: BlockId(n), args }
        };
        let end = match *to {
            [x] => Terminator::Jump(edge(x)),
            [x, y, ..] => {
                let (then, other) = (edge(x), edge(y));
                let ty = self.int();
                let cond = self.value(ty);
                Terminator::Branch { cond, then, other, likely_then: self.rng.one_in(2) }
            }
            [] => {
                let hint = match self.rng.below(3) {
                    0 => Hint::Call(self.pc + 4),
                    1 => Hint::Return,
                    _ => Hint::None,
                };
                match self.rng.below(4) {
                    0 => Terminator::Link { pc: self.rng.number(), hint },
                    1 => {
                        let ty = if self.has(Type::I64) { Type::I64 } else { Type::I32 };
                        Terminator::Indirect { pc: self.value(ty), hint }
                    }
                    2 => {
                        self.set_pc();
                        Terminator::Lookup
                    }
                    _ => {
                        self.set_pc();
                        Terminator::Exit { code: self.rng.below(9) as u32 }
                    }
                }
            }
        };
        self.b.set_terminator(BlockId(i as u32), end);
    }

    fn has(&self, ty: Type) -> bool {
        self.cfg.types.contains(&ty)
    }

    /// A type of the configuration with the property, if there is one.
    fn ty(&mut self, ok: impl Fn(Type) -> bool) -> Option<Type> {
        let all: Vec<Type> = self.cfg.types.iter().copied().filter(|t| ok(*t)).collect();
        (!all.is_empty()).then(|| self.rng.pick(&all))
    }

    /// An integer type, the common ones more often.
    fn int(&mut self) -> Type {
        let common = self.rng.pick(&[Type::I64, Type::I64, Type::I32]);
        if self.has(common) && !self.rng.one_in(3) {
            return common;
        }
        self.ty(Type::is_int).unwrap_or(Type::I64)
    }

    fn keep(&mut self, v: Value) -> Value {
        let ty = self.b.ty(v);
        if ty != Type::Void {
            self.pool[ty as usize].push(v);
        }
        v
    }

    /// A value of the type: an old one, or a constant.
    fn value(&mut self, ty: Type) -> Value {
        let n = self.pool[ty as usize].len();
        if n > 0 && !self.rng.one_in(5) {
            // Recent ones more often.
            let back = self.rng.below(n).min(self.rng.below(n));
            return self.pool[ty as usize][n - 1 - back];
        }
        let v = match ty {
            Type::I128 => {
                let (lo, hi) = (self.value(Type::I64), self.value(Type::I64));
                self.inst(Op::Concat, ty, 0, [lo, hi, Value::NONE], 0)
            }
            Type::F16 | Type::F32 | Type::F64 => {
                let bits = self.rng.float(ty);
                self.b.iconst(ty, bits)
            }
            Type::Flags => {
                let w = self.ty(|t| t.is_int() && t.bytes() <= 8).unwrap_or(Type::I64);
                self.flags(w)
            }
            _ if ty.is_vector() => {
                let lane = self.lane(|_| true);
                let a = self.lane_scalar(lane);
                self.b.vector(Op::Vsplat, ty, lane, 0, [a, Value::NONE, Value::NONE], 0)
            }
            _ => {
                let n = self.rng.number();
                self.b.iconst(ty, n)
            }
        };
        self.keep(v)
    }

    fn inst(&mut self, op: Op, ty: Type, sub: u16, [a, b, c]: [Value; 3], imm: u64) -> Value {
        self.b.push(Inst { op, ty, sub, a, b, c, imm })
    }

    fn lane(&mut self, ok: impl Fn(Lane) -> bool) -> Lane {
        let all: Vec<Lane> = Lane::ALL.iter().copied().filter(|l| ok(*l)).collect();
        self.rng.pick(&all)
    }

    /// A scalar to splat or insert.
    fn lane_scalar(&mut self, lane: Lane) -> Value {
        let fits = |t: Type| {
            t.is_int() && t.bytes() >= lane.bytes() && t.bytes() <= 8
                || t.is_float() && t.bytes() == lane.bytes()
        };
        let ty = self.ty(fits).unwrap_or(Type::I64);
        self.value(ty)
    }

    fn flags(&mut self, w: Type) -> Value {
        let kind = self.rng.pick(FlagKind::ALL);
        let a = self.value(w);
        let mut b = self.value(w);
        let c = self.value(w);
        if matches!(kind, FlagKind::Logic) {
            b = self.b.iconst(w, 0);
        }
        if matches!(kind, FlagKind::Shl | FlagKind::Shr | FlagKind::Sar) {
            let n = 1 + self.rng.below(w.bits() as usize) as u64;
            b = self.b.iconst(w, n);
        }
        self.b.flags(kind, a, b, c)
    }

    fn attr(&mut self, op: Op) -> FpAttr {
        let a = if self.cfg.attrs.is_empty() {
            let quiet = if self.rng.one_in(4) { 1 << 9 } else { 0 };
            let flush = if self.rng.one_in(4) { self.rng.bits() as u16 & 0x180 } else { 0 };
            let r = self.rng.below(6) as u16 | (self.rng.below(4) as u16) << 3;
            r | quiet | flush | self.rng.bits() as u16 & 0x4c40 | (self.rng.below(3) as u16) << 12
        } else {
            let n = self.rng.below(self.cfg.attrs.len());
            self.cfg.attrs[n].0
        };
        FpAttr(a & fp_mask(op))
    }

    /// Address of an access and a displacement.
    fn address(&mut self) -> (Value, i32) {
        let ty = if self.has(Type::I32) && self.rng.one_in(3) { Type::I32 } else { Type::I64 };
        let v = self.value(ty);
        // A window that ends where the pages that fault begin, or all of memory and its surroundings.
        let wild = self.cfg.faults && self.rng.one_in(12);
        let mask = if wild { 0xffff } else { 0x1ff };
        let mask = self.b.iconst(ty, mask);
        let v = self.b.and(v, mask);
        let page = if self.cfg.faults && self.rng.one_in(16) { 0x2f80 } else { 0x1400 };
        let base = self.b.iconst(ty, MEM_BASE + page);
        let v = self.b.add(v, base);
        let v = self.keep(v);
        (v, self.rng.below(0x101) as i32 - 0x80)
    }

    fn memop(&mut self, log2: u32) -> MemOp {
        let mut m = MemOp::new(log2);
        if self.cfg.memory_attributes {
            let r = &mut *self.rng;
            m = if r.one_in(4) { m.with_big_endian() } else { m };
            let align = if self.cfg.faults && r.one_in(16) { 1 + r.below(2) } else { 0 };
            m = m.with_align(crate::Align::ALL[align]).with_atomicity(r.pick(crate::Atomicity::ALL));
            m = m.with_order(r.pick(crate::Order::ALL));
            m = if r.one_in(4) { m.with_never_device() } else { m };
            m = if r.one_in(8) { m.with_non_temporal() } else { m };
        }
        m
    }

    fn memory(&mut self, op: Op) {
        let int_only = matches!(op, Op::Rmw | Op::Cas);
        let Some(ty) = self.ty(|t| t.is_int() || !int_only && t != Type::Flags) else { return };
        let full = ty.bytes().trailing_zeros();
        let log2 = if ty.is_int() { self.rng.below(full as usize + 1) as u32 } else { full };
        let mut m = self.memop(log2);
        if ty.is_int() && op != Op::Store && self.rng.one_in(2) {
            m = m.with_sign();
        }
        let (addr, disp) = self.address();
        let imm = u64::from(m.0) | u64::from(disp as u32) << 32;
        let none = Value::NONE;
        let v = match op {
            Op::Load => self.inst(op, ty, 0, [addr, none, none], imm),
            Op::Store => {
                let v = self.value(ty);
                self.inst(op, Type::Void, 0, [addr, v, none], imm)
            }
            Op::Rmw => {
                let v = self.value(ty);
                let sub = self.rng.pick(RmwOp::ALL) as u16;
                self.inst(op, ty, sub, [addr, v, none], imm)
            }
            _ => {
                let (v, w) = (self.value(ty), self.value(ty));
                self.inst(op, ty, 0, [addr, v, w], imm)
            }
        };
        self.keep(v);
    }

    fn call(&mut self) {
        let n = self.t.helpers.len();
        if n == 0 {
            return;
        }
        let id = HelperId(self.rng.below(n) as u16);
        let (args, result, effects) = {
            let h = &self.t.helpers[id.0 as usize];
            (h.args, h.result, h.effects)
        };
        if effects.contains(crate::Effects::EXITS) {
            self.set_pc();
        }
        let fits = |t: Type| (t.is_int() || t.is_float()) && t.bytes() <= 8;
        let args: Vec<Value> = (0..args)
            .map(|_| {
                let ty = self.ty(fits).unwrap_or(Type::I64);
                self.value(ty)
            })
            .collect();
        let v = self.b.call(id, result, &args);
        self.keep(v);
    }

    fn slot(&mut self, op: Op) {
        let all = self.t.slots.all();
        let pc = self.t.slots.pc();
        // A few slots more often, so that they meet again: those helpers know among them.
        let often = [2, 3, 9, 1 + self.rng.below(3), self.rng.below(all.len())];
        let n =
            if self.rng.one_in(2) { self.rng.below(all.len()) } else { self.rng.pick(&often) % all.len() };
        let id = SlotId(n as u16);
        let ty = all[n].ty;
        if !self.has(ty) {
            return;
        }
        if op == Op::Get {
            let v = self.b.get(id, ty);
            self.keep(v);
        } else if !all[n].volatile && id != pc {
            let v = self.value(ty);
            self.b.set(id, v);
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm a shape of operands")]
    fn op(&mut self, op: Op) {
        let none = Value::NONE;
        let int_float = |t: Type| t.is_int() || t.is_float();
        let v = match op {
            Op::Nop | Op::Insn | Op::Budget => return,
            Op::Load | Op::Store | Op::Rmw | Op::Cas => return self.memory(op),
            Op::Call => return self.call(),
            Op::Get | Op::Set => return self.slot(op),
            Op::Const => {
                let Some(ty) = self.ty(int_float) else { return };
                let n = if ty.is_float() { self.rng.float(ty) } else { self.rng.number() };
                self.b.iconst(ty, n)
            }
            Op::Pc => self.b.pc(Type::I64, self.pc),
            Op::Fence => {
                let set = self.rng.below(16) as u16;
                return self.b.fence(set);
            }
            Op::Fexget if self.has(Type::I32) => self.b.fexget(),
            Op::Fexset if self.has(Type::I32) => {
                let v = self.value(Type::I32);
                return self.b.fexset(v);
            }
            Op::Fexget | Op::Fexset => return,
            Op::Trunc | Op::Zext | Op::Sext => {
                let wide = op != Op::Trunc;
                let ty = self.int();
                let narrower = |t: Type| t.is_int() && t.bits() < ty.bits();
                let wider = |t: Type| t.is_int() && t.bits() > ty.bits();
                let from = if wide { self.ty(narrower) } else { self.ty(wider) };
                let Some(from) = from else { return };
                let a = self.value(from);
                self.inst(op, ty, 0, [a, none, none], 0)
            }
            Op::Extract | Op::Sextract | Op::Deposit => {
                let ty = self.int();
                let pos = self.rng.below(ty.bits() as usize) as u32;
                let len = 1 + self.rng.below((ty.bits() - pos) as usize) as u32;
                let a = self.value(ty);
                let b = if op == Op::Deposit { self.value(ty) } else { none };
                self.inst(op, ty, 0, [a, b, none], u64::from(pos | len << 8))
            }
            Op::Setcc => {
                let (ty, of) = (self.int(), self.int());
                let (a, b) = (self.value(of), self.value(of));
                let cond = self.rng.pick(&Cond::ALL[..12]);
                self.b.setcc(ty, cond, a, b)
            }
            Op::Select => {
                let cond = self.int();
                let Some(ty) = self.ty(|_| true) else { return };
                let (cond, a, b) = (self.value(cond), self.value(ty), self.value(ty));
                self.b.select(cond, a, b)
            }
            Op::Bitcast => {
                let Some(ty) = self.ty(|t| t != Type::Flags) else { return };
                let other = |t: Type| t != ty && t != Type::Flags && t.bytes() == ty.bytes();
                let Some(from) = self.ty(other) else { return };
                let a = self.value(from);
                self.b.bitcast(ty, a)
            }
            Op::Concat => {
                if !self.has(Type::I128) {
                    return;
                }
                let (lo, hi) = (self.value(Type::I64), self.value(Type::I64));
                self.inst(op, Type::I128, 0, [lo, hi, none], 0)
            }
            Op::Flags | Op::FlagCond | Op::FlagGet if !self.has(Type::Flags) => return,
            Op::Flags => {
                let w = self.ty(|t| t.is_int() && t.bytes() <= 8).unwrap_or(Type::I64);
                self.flags(w)
            }
            Op::FlagCond => {
                let f = self.value(Type::Flags);
                let cond = self.rng.pick(&[&Cond::ALL[..10], &Cond::ALL[12..]].concat());
                let ty = self.int();
                self.b.flag_cond(ty, cond, f)
            }
            Op::FlagGet => {
                let f = self.value(Type::Flags);
                self.b.flag_get(Type::I64, f)
            }
            Op::Fcmp => {
                let Some(f) = self.ty(Type::is_float) else { return };
                let ty = self.int();
                let (a, b) = (self.value(f), self.value(f));
                let mut attr = self.attr(op).0 & 0x4fff;
                attr |= (self.rng.below(4) as u16) << 12;
                self.inst(op, ty, attr, [a, b, none], 0)
            }
            Op::Fcvt | Op::Ftoi | Op::Itof => {
                let mid = |t: Type| matches!(t, Type::I32 | Type::I64);
                let Some(f) = self.ty(Type::is_float) else { return };
                let (ty, from) = match op {
                    Op::Fcvt => (self.ty(|t| t.is_float() && t != f), Some(f)),
                    Op::Ftoi => (self.ty(mid), Some(f)),
                    _ => (Some(f), self.ty(mid)),
                };
                let (Some(ty), Some(from)) = (ty, from) else { return };
                let a = self.value(from);
                let attr = self.attr(op);
                self.inst(op, ty, attr.0, [a, none, none], 0)
            }
            Op::Fneg | Op::Fabs | Op::Fsgnj => {
                let Some(ty) = self.ty(Type::is_float) else { return };
                let a = self.value(ty);
                let b = if op == Op::Fsgnj { self.value(ty) } else { none };
                let sub = if op == Op::Fsgnj { self.rng.below(3) as u16 } else { 0 };
                self.inst(op, ty, sub, [a, b, none], 0)
            }
            Op::Fbox | Op::Funbox => {
                let Some(narrow) = self.ty(|t| matches!(t, Type::F16 | Type::F32)) else { return };
                if !self.has(Type::F64) {
                    return;
                }
                let (ty, from) = if op == Op::Fbox { (Type::F64, narrow) } else { (narrow, Type::F64) };
                let a = self.value(from);
                self.inst(op, ty, 0, [a, none, none], 0)
            }
            _ if is_scalar_fp(op) => {
                let Some(ty) = self.ty(Type::is_float) else { return };
                let args = self.args(op, ty);
                let attr = self.attr(op);
                self.inst(op, ty, attr.0, args, 0)
            }
            _ if crate::print::is_vector(op) => match self.vector(op) {
                Some(v) => v,
                None => return,
            },
            _ => {
                let ty = self.int();
                let mut args = self.args(op, ty);
                if ty != Type::I128 && op.info().args == 2 && self.rng.one_in(3) {
                    // Immediate operands, as front ends make them.
                    let shift = matches!(op, Op::Shl | Op::Shr | Op::Sar | Op::Rotl | Op::Rotr);
                    let n = if shift { self.rng.below(ty.bits() as usize) as u64 } else { self.rng.number() };
                    args[1] = self.b.iconst(ty, n);
                }
                self.inst(op, ty, 0, args, 0)
            }
        };
        self.keep(v);
    }

    fn args(&mut self, op: Op, ty: Type) -> [Value; 3] {
        let n = op.info().args as usize;
        std::array::from_fn(|k| if k < n { self.value(ty) } else { Value::NONE })
    }

    fn vector(&mut self, op: Op) -> Option<Value> {
        let fp = op.info().effect == Effect::Fp;
        let bits = matches!(
            op,
            Op::Vand
                | Op::Vor
                | Op::Vxor
                | Op::Vandc
                | Op::Vnot
                | Op::Vselect
                | Op::Vsplat
                | Op::Vextract
                | Op::Vinsert
        );
        let lane = self.lane(|l| match op {
            Op::Vwiden => matches!(l, Lane::I16 | Lane::I32 | Lane::I64),
            Op::Vnarrow => matches!(l, Lane::I8 | Lane::I16 | Lane::I32),
            _ => bits || fp == matches!(l, Lane::F32 | Lane::F64),
        });
        let ty = self.ty(Type::is_vector)?;
        let none = Value::NONE;
        let width = lane.bytes() * 8;
        let lanes = ty.bytes() / lane.bytes();
        let mut sub = lane as u16;
        let mut imm = 0;
        let (ty, args) = match op {
            Op::Vsplat => (ty, [self.lane_scalar(lane), none, none]),
            Op::Vextract => {
                let fits = |t: Type| {
                    t.is_int() && t.bytes() >= lane.bytes() && t.bytes() <= 8
                        || t.is_float() && t.bytes() == lane.bytes()
                };
                imm = self.rng.below(lanes) as u64;
                (self.ty(fits)?, [self.value(ty), none, none])
            }
            Op::Vbits => {
                let fits = |t: Type| t.is_int() && t.bytes() <= 8 && t.bits() as usize >= lanes;
                (self.ty(fits)?, [self.value(ty), none, none])
            }
            Op::Vreduce => {
                let fits = |t: Type| t.is_int() && t.bytes() <= 8 && t.bytes() >= lane.bytes();
                (self.ty(fits)?, [self.value(ty), none, none])
            }
            Op::Vmask => {
                let from = self.ty(|t| t.is_int() && t.bytes() <= 8)?;
                (ty, [self.value(from), none, none])
            }
            Op::Vjoin => {
                let half = self.ty(|t| {
                    t.is_vector() && Type::ALL.iter().any(|w| w.is_vector() && w.bytes() == 2 * t.bytes())
                })?;
                let wide = *Type::ALL.iter().find(|w| w.is_vector() && w.bytes() == 2 * half.bytes())?;
                if !self.has(wide) {
                    return None;
                }
                (wide, [self.value(half), self.value(half), none])
            }
            Op::Vpart => {
                let from = self.ty(|t| t.is_vector() && t.bytes() > ty.bytes())?;
                imm = self.rng.below(from.bytes() / ty.bytes()) as u64;
                (ty, [self.value(from), none, none])
            }
            Op::Vinsert => {
                imm = self.rng.below(lanes) as u64;
                (ty, [self.value(ty), self.lane_scalar(lane), none])
            }
            _ => (ty, self.args(op, ty)),
        };
        match op {
            Op::Vreduce => sub |= (1 + self.rng.below(RmwOp::ALL.len() - 1) as u16) << 8,
            Op::Vwiden => sub |= (self.rng.below(4) as u16) << 8,
            Op::Vcmp => sub |= (self.rng.below(12) as u16) << 8,
            Op::Vfn1 | Op::Vfn2 | Op::Vfn3 => {
                let of = |f: &VecFn| f.args() == op.info().args && f.scope().allows(ty);
                let all: Vec<VecFn> = VecFn::ALL.iter().copied().filter(of).collect();
                if all.is_empty() {
                    return None;
                }
                sub = Lane::I8 as u16 | (self.rng.pick(&all) as u16) << 8;
                imm = self.rng.bits() & 0xff;
            }
            Op::Vshli | Op::Vshri | Op::Vsari => imm = self.rng.below(width) as u64,
            Op::Vfcmp => {
                imm = u64::from(self.attr(op).0 & 0x4fff) | (self.rng.below(4) as u64) << 12;
            }
            _ if fp => imm = u64::from(self.attr(op).0),
            _ => {}
        }
        Some(self.inst(op, ty, sub, args, imm))
    }
}
