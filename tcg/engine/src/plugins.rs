//! Plugins inside the engine: their requests become IR, their counters slots behind the guest's, their calls helpers.
//!
//! A request at an instruction stands behind its `insn` mark, and behind the budget check if there is one: what is left there
//! has not been started. A call for an access stands behind the access, which has been done then; accesses of a helper are told of
//! as the helper makes them, for which the instruction says beforehand who wants to hear of them. None of this may leave
//! the unit or looks at the guest's slots, so that it moves nothing else.

use std::{ops::Range, sync::Arc};

use tcg_ir::{
    Effects, HelperDesc, HelperId, Inst, MemOp, Op, Region, SlotId, SlotTable, Type, Value, graph::Graph,
};
use tcg_plugin::{Access, Accesses, COUNTERS, Insn, Plugins, Request, Requested, Tallies, Unit};

use crate::{Cx, Guest, Helper, Trap, env::EnvBox, guest::helper};

/// Names of the counters' slots.
const NAMES: [&str; COUNTERS] =
    ["tally0", "tally1", "tally2", "tally3", "tally4", "tally5", "tally6", "tally7"];

/// Bits of the number that says who wants to hear of an access, and of what; an access itself has the lower ones.
const PLUGIN: u32 = 56;
const LOADS: u64 = 1 << 55;
const STORES: u64 = 1 << 54;
const ID: u32 = 16;
const ID_MASK: u64 = 0xffff_ffff;
const LOAD: u64 = 8;
const STORE: u64 = 16;
const VALUE: u64 = 32;

fn who(r: &Requested, which: Accesses, id: u32) -> u64 {
    let flag = |on, bit| if on { bit } else { 0 };
    u64::from(r.plugin) << PLUGIN
        | flag(which.loads, LOADS)
        | flag(which.stores, STORES)
        | u64::from(id) << ID
}

/// What the engine and its units have besides the guest's own tables.
pub(crate) struct OwnTables {
    pub(crate) slots: SlotTable,
    pub(crate) helpers: Box<[HelperDesc]>,
    pub(crate) plugins: Option<Arc<Plugins>>,
    /// The guest's helpers, which come first.
    guests: usize,
    /// The first counter's slot.
    tally: u16,
}

impl OwnTables {
    pub(crate) fn new<G: Guest>(guest: &G, plugins: Option<Arc<Plugins>>) -> Self {
        let mut slots = guest.slots().clone();
        let mut helpers = guest.helpers().to_vec();
        let (guests, tally) = (helpers.len(), slots.len() as u16);
        if plugins.is_some() {
            for (i, name) in NAMES.into_iter().enumerate() {
                slots.add(name, EnvBox::<G::State>::tallies_offset() + i * 8, Type::I64);
            }
            helpers.extend([helper::<G, Executed>(), helper::<G, Accessed>(), helper::<G, Within>()]);
        }
        Self { slots, helpers: helpers.into(), plugins, guests, tally }
    }

    /// Shows a unit to plugins and puts into it what they ask for. `again`: its one instruction was started before.
    pub(crate) fn instrument<G: Guest>(&self, guest: &G, region: &mut Region, bytes: &[u8], again: bool) {
        let Some(plugins) = &self.plugins else { return };
        let mut graph = Graph::default();
        graph.build(region);
        let Outline { insns, blocks, marks } = outline(region, &graph, bytes);
        let text = |pc: u64, bytes: &[u8]| guest.disassemble(pc, bytes).0;
        let mut requests = plugins.translated(Unit::new(insns, blocks, &text));
        if again {
            requests.retain(|r| matches!(r.request, Request::Access { .. }));
        }
        if !requests.is_empty() {
            Editor { tables: self, region, requests: &requests }.run(&graph, &marks);
        }
    }
}

/// What plugins are shown of a region.
#[derive(Default)]
struct Outline {
    /// Its instructions, in order of its blocks.
    insns: Vec<Insn>,
    /// Those that run one behind the other.
    blocks: Vec<Range<usize>>,
    /// The number of each mark.
    marks: Vec<(Value, usize)>,
}

fn outline(region: &Region, graph: &Graph, bytes: &[u8]) -> Outline {
    let Outline { mut insns, mut blocks, mut marks } = Outline::default();
    for (b, block) in region.blocks.iter().enumerate() {
        if !graph.is_reachable(tcg_ir::BlockId(b as u32)) {
            continue;
        }
        let first = insns.len();
        for v in &block.insts {
            let i = region.inst(*v);
            if i.op == Op::Insn {
                let at = i.imm.wrapping_sub(region.pc) as usize;
                let bytes = bytes.get(at..at.saturating_add(i.sub.into())).unwrap_or_default();
                marks.push((*v, insns.len()));
                insns.push(Insn { address: i.imm, bytes: bytes.to_vec() });
            }
        }
        if insns.len() > first {
            blocks.push(first..insns.len());
        }
    }
    marks.sort_unstable();
    Outline { insns, blocks, marks }
}

/// Puts requests into a region.
struct Editor<'a> {
    tables: &'a OwnTables,
    region: &'a mut Region,
    /// In order of their instructions.
    requests: &'a [Requested],
}

impl Editor<'_> {
    fn run(&mut self, graph: &Graph, marks: &[(Value, usize)]) {
        let number = |v: Value| marks.binary_search_by_key(&v, |m| m.0).ok().map(|i| marks[i].1);
        let entry = graph.entry_marks(self.region);
        for (b, mark) in entry.into_iter().enumerate() {
            let old = std::mem::take(&mut self.region.blocks[b].insts);
            let mut new = Vec::with_capacity(old.len() * 2);
            let mut here = mark.and_then(number);
            let mut rest = old.into_iter().peekable();
            while let Some(v) = rest.next() {
                let inst = *self.region.inst(v);
                match inst.op {
                    Op::Insn => {
                        new.push(v);
                        here = number(v);
                        if let Some(budget) = rest.next_if(|v| self.region.inst(*v).op == Op::Budget) {
                            new.push(budget);
                        }
                        self.started(here, &mut new);
                        continue;
                    }
                    Op::Call => self.within(here, &inst, &mut new),
                    _ => {}
                }
                new.push(v);
                if matches!(inst.op, Op::Load | Op::Store | Op::Rmw | Op::Cas) {
                    self.accessed(here, v, &inst, &mut new);
                }
            }
            self.region.blocks[b].insts = new;
        }
    }

    fn push(&mut self, out: &mut Vec<Value>, inst: Inst) -> Value {
        let v = Value(self.region.insts.len() as u32);
        self.region.insts.push(inst);
        out.push(v);
        v
    }

    fn op(&mut self, out: &mut Vec<Value>, op: Op, ty: Type, sub: u16, args: [Value; 2], imm: u64) -> Value {
        let [a, b] = args;
        self.push(out, Inst { op, ty, sub, a, b, c: Value::NONE, imm })
    }

    fn number(&mut self, out: &mut Vec<Value>, n: u64) -> Value {
        self.op(out, Op::Const, Type::I64, 0, [Value::NONE; 2], n)
    }

    fn call(&mut self, out: &mut Vec<Value>, which: usize, args: &[Value]) {
        let first = self.region.lists.len() as u32;
        self.region.lists.extend_from_slice(args);
        let HelperId(id) = HelperId((self.tables.guests + which) as u16);
        self.op(out, Op::Call, Type::Void, id, [Value(first), Value(args.len() as u32)], 0);
    }

    /// An instruction starts.
    fn started(&mut self, insn: Option<usize>, out: &mut Vec<Value>) {
        for r in at(self.requests, insn) {
            match r.request {
                Request::Count { counter, n } => {
                    let SlotId(slot) = SlotId(self.tables.tally + counter.index() as u16);
                    let old = self.op(out, Op::Get, Type::I64, slot, [Value::NONE; 2], 0);
                    let n = self.number(out, n.into());
                    let new = self.op(out, Op::Add, Type::I64, 0, [old, n], 0);
                    self.op(out, Op::Set, Type::Void, slot, [new, Value::NONE], 0);
                }
                Request::Call { id, data } => {
                    let args = [u64::from(r.plugin) << PLUGIN | u64::from(id), data];
                    let args = args.map(|n| self.number(out, n));
                    self.call(out, 0, &args);
                }
                Request::Access { .. } => {}
            }
        }
    }

    /// An access has been done.
    fn accessed(&mut self, insn: Option<usize>, v: Value, inst: &Inst, out: &mut Vec<Value>) {
        let does = match inst.op {
            Op::Load => LOAD,
            Op::Store => STORE,
            _ => LOAD | STORE,
        };
        let mut address = None;
        for r in at(self.requests, insn) {
            let Request::Access { which, id, data } = r.request else { continue };
            if !(which.loads && does & LOAD != 0 || which.stores && does & STORE != 0) {
                continue;
            }
            let address = *address.get_or_insert_with(|| self.address(inst, out));
            let value = if inst.op == Op::Store { inst.b } else { v };
            let ty = self.region.inst(value).ty;
            let fits = ty.bytes() <= 8 && (ty.is_int() || ty.is_float());
            let what = u64::from(inst.memop().log2()) | does | if fits { VALUE } else { 0 };
            let who = self.number(out, who(r, which, id) | what);
            let data = self.number(out, data);
            let value = if fits { value } else { data };
            self.call(out, 1, &[who, data, address, value]);
        }
    }

    /// The address of an access, as i64.
    fn address(&mut self, inst: &Inst, out: &mut Vec<Value>) -> Value {
        let ty = self.region.inst(inst.a).ty;
        let mut at = inst.a;
        if inst.disp() != 0 {
            let disp = inst.disp() as i64 as u64 & ty.mask();
            let disp = self.op(out, Op::Const, ty, 0, [Value::NONE; 2], disp);
            at = self.op(out, Op::Add, ty, 0, [at, disp], 0);
        }
        if ty == Type::I64 { at } else { self.op(out, Op::Zext, Type::I64, 0, [at, Value::NONE], 0) }
    }

    /// Says who wants to hear of the accesses of the helper called next.
    fn within(&mut self, insn: Option<usize>, inst: &Inst, out: &mut Vec<Value>) {
        let effects = self.tables.helpers.get(inst.sub as usize).map_or(Effects::empty(), |h| h.effects);
        if !effects.intersects(Effects::MEMORY | Effects::RAISES) {
            return;
        }
        for r in at(self.requests, insn) {
            if let Request::Access { which, id, data } = r.request {
                let args = [who(r, which, id), data].map(|n| self.number(out, n));
                self.call(out, 2, &args);
            }
        }
    }
}

/// The requests at an instruction.
fn at(requests: &[Requested], insn: Option<usize>) -> &[Requested] {
    let Some(n) = insn else { return &[] };
    let first = requests.partition_point(|r| r.insn < n);
    let len = requests[first..].iter().take_while(|r| r.insn == n).count();
    &requests[first..first + len]
}

/// The plugins as one vCPU knows them.
pub(crate) struct Plugged {
    plugins: Arc<Plugins>,
    tallies: Arc<Tallies>,
    vcpu: u32,
    /// Who wants to hear of the accesses of the running helper, and of the next.
    now: Vec<(u64, u64)>,
    next: Vec<(u64, u64)>,
}

impl Plugged {
    pub(crate) fn new(plugins: &Arc<Plugins>, vcpu: u32) -> Self {
        plugins.vcpu_started(vcpu);
        let tallies = plugins.counters().of(vcpu);
        Self { plugins: plugins.clone(), tallies, vcpu, now: Vec::new(), next: Vec::new() }
    }

    /// A helper begins.
    pub(crate) fn enter_helper(&mut self) {
        self.now.clear();
        std::mem::swap(&mut self.now, &mut self.next);
    }

    /// It has ended: what the interpreter accesses now is not its.
    pub(crate) fn leave_helper(&mut self) {
        self.now.clear();
    }

    /// Translated code was left.
    pub(crate) fn left(&mut self, tallies: &[u64; COUNTERS]) {
        self.next.clear();
        self.tallies.publish(tallies);
    }

    pub(crate) fn stop(self) {
        self.plugins.vcpu_stopped(self.vcpu);
    }

    /// Tells of an access.
    fn tell(&self, who: u64, data: u64, access: &Access) {
        let which = Accesses { loads: who & LOADS != 0, stores: who & STORES != 0 };
        let id = (who >> ID & ID_MASK) as u32;
        self.plugins.accessed((who >> PLUGIN) as u8, self.vcpu, which, (id, data), access);
    }
}

impl<G: Guest> Cx<'_, G> {
    /// An access of a helper has been done: says so if somebody wants to hear of it.
    pub(crate) fn tell(&self, address: u64, size: usize, (load, store): (bool, bool), value: Option<u64>) {
        if let Some(p) = self.core.plugins.as_ref().filter(|p| !p.now.is_empty()) {
            let access = Access { address, size: size as u32, load, store, value };
            for (who, data) in &p.now {
                p.tell(*who, *data, &access);
            }
        }
    }
}

/// The value of an access of so many bytes, without what may be above.
pub(crate) fn cut(value: u64, m: MemOp) -> u64 {
    if m.bytes() >= 8 { value } else { value & ((1 << (m.bytes() * 8)) - 1) }
}

/// An instruction starts.
struct Executed;

impl<G: Guest> Helper<G> for Executed {
    const NAME: &'static str = "plugin_executed";
    const ARGS: u8 = 2;
    const RESULT: Type = Type::Void;
    const EFFECTS: Effects = Effects::empty();

    fn call(cx: &mut Cx<'_, G>, [who, data, ..]: [u64; 4]) -> Result<u64, Trap> {
        if let Some(p) = &cx.core.plugins {
            p.plugins.executed((who >> PLUGIN) as u8, p.vcpu, who as u32, data);
        }
        Ok(0)
    }
}

/// An access has been done.
struct Accessed;

impl<G: Guest> Helper<G> for Accessed {
    const NAME: &'static str = "plugin_accessed";
    const ARGS: u8 = 4;
    const RESULT: Type = Type::Void;
    const EFFECTS: Effects = Effects::empty();

    fn call(cx: &mut Cx<'_, G>, [who, data, address, value]: [u64; 4]) -> Result<u64, Trap> {
        if let Some(p) = &cx.core.plugins {
            let m = MemOp::new((who & 7) as u32);
            let access = Access {
                address,
                size: m.bytes() as u32,
                load: who & LOAD != 0,
                store: who & STORE != 0,
                value: (who & VALUE != 0).then(|| cut(value, m)),
            };
            p.tell(who, data, &access);
        }
        Ok(0)
    }
}

/// Somebody wants to hear of the accesses of the next helper.
struct Within;

impl<G: Guest> Helper<G> for Within {
    const NAME: &'static str = "plugin_within";
    const ARGS: u8 = 2;
    const RESULT: Type = Type::Void;
    const EFFECTS: Effects = Effects::empty();

    fn call(cx: &mut Cx<'_, G>, [who, data, ..]: [u64; 4]) -> Result<u64, Trap> {
        if let Some(p) = &mut cx.core.plugins {
            // Those of other plugins, which have been taken for this helper's.
            std::mem::swap(&mut p.now, &mut p.next);
            p.next.push((who, data));
        }
        Ok(0)
    }
}
