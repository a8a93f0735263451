//! The x86-64 code generator: one forward pass over the blocks, allocating registers while emitting.
//!
//! Blocks with one predecessor start with the allocation of the branch that leads to them; blocks with several start
//! with a canonical one: pinned slots (the hottest of the region's loops) in fixed registers, everything else in
//! memory. State slots are kept in registers and stored only where the unit leaves; what may leave in the middle of an
//! instruction has an exit map instead.
//!
//! Instruction set: x86-64-v3. Encodings and flags after the Intel SDM, volume 2; the calling convention is System V's.

mod alloc;
mod asm;
mod install;
mod lower_ctl;
mod lower_fp;
mod lower_half;
mod lower_int;
mod lower_mem;
mod lower_vec;
mod lower_vec_512;
mod lower_vec_fp;
mod lower_vec_int;
mod lower_vec_move;
mod lower_vecfn;
mod outline;
mod plan;
mod regs;
mod soft;
mod stubs;
#[cfg(test)]
mod tests;

use tcg_ir::abi::UnitExit;
use tcg_ir::{
    BlockId, Effects, FpAttr, FpMode, HelperDesc, NanPolicy, Op, Region, Rounding, SlotSet, SlotTable,
    Terminator, Value,
};

use self::alloc::{Pin, SlotInfo, State, Val, fl};
use self::asm::{Asm, Label, flat};
use self::regs::Gpr;
use self::stubs::{Stub, Stubs};
use crate::{
    CodeSpace, CompileError, CompiledUnit, EnterFn, LinkSite, Options, Reloc, RelocKind, RuntimeFns, Tier,
    maps,
};

/// The region is too large.
#[derive(Debug)]
pub(crate) struct Too;

/// Address of the environment that generated code runs on, from what it holds in `rbp`.
#[must_use]
pub const fn environment(rbp: u64) -> u64 {
    rbp.wrapping_sub(regs::BIAS as u64)
}

/// What stays the same from unit to unit.
#[derive(Debug)]
struct Fixed {
    slots: Vec<SlotInfo>,
    pc_slot: u16,
    helpers: Vec<Helper>,
    stubs: Stubs,
    opts: Options,
}

/// What code generation knows of a helper.
#[derive(Debug, Clone, Copy)]
struct Helper {
    result: tcg_ir::Type,
    reads: SlotSet,
    writes: SlotSet,
    effects: Effects,
}

/// A code generator. One thread uses it at a time; units of several may call and jump to each other.
#[derive(Debug)]
pub struct Compiler {
    fx: Fixed,
    work: Work,
    shared: outline::Shared,
}

/// Buffers kept from unit to unit.
#[derive(Debug, Default)]
struct Work {
    asm: Asm,
    vals: Vec<Val>,
    snaps: Vec<State>,
    st: State,
    slot_pos: Vec<u16>,
    blocks: Vec<plan::BlockPlan>,
    order: Vec<u32>,
    weights: Vec<u32>,
    def_block: Vec<u32>,
    stack: Vec<(u32, u32)>,
    pins: Vec<Pin>,
    bodies: Vec<u8>,
    sites: Vec<Site>,
    maps: Vec<u8>,
    relocs: Vec<Reloc>,
    get_pos: Vec<u32>,
    lazies: Vec<u32>,
}

/// A place with an exit map.
#[derive(Debug, Clone, Copy)]
struct Site {
    /// Position of the return address.
    pos: u32,
    /// Its body in `bodies`.
    start: u32,
    end: u32,
}

/// One unit being made.
struct Gen<'a> {
    fx: &'a Fixed,
    r: &'a Region,
    /// First tier.
    first: bool,
    key: u64,
    rounding: Rounding,
    fp: FpMode,
    asm: Asm,
    vals: Vec<Val>,
    st: State,
    snaps: Vec<State>,
    snaps_used: usize,
    slot_pos: Vec<u16>,
    blocks: Vec<plan::BlockPlan>,
    order: Vec<u32>,
    weights: Vec<u32>,
    def_block: Vec<u32>,
    stack: Vec<(u32, u32)>,
    pins: Vec<Pin>,
    pin_mask: u32,
    bodies: Vec<u8>,
    sites: Vec<Site>,
    relocs: Vec<Reloc>,
    get_pos: Vec<u32>,
    /// Comparisons of the current block that were put off.
    lazies: Vec<u32>,
    /// Registers the current operation reads or has taken.
    locked: u32,
    /// Of these, its temporaries.
    temps: u32,
    clock: u32,
    touched: [u32; 32],
    /// Host flags are in use: constants are loaded without touching them.
    flags_live: bool,
    has_calls: bool,
    /// The unit uses 256-bit registers.
    wide: bool,
    /// End of the frame slots of globals and parameters.
    frame_base: u32,
    /// Guest address of the current instruction.
    pc: u64,
    links: Vec<Option<(Label, u32, LinkSite)>>,
    /// Guest addresses and code of side entries.
    sides: Vec<(u64, Label)>,
}

impl Compiler {
    /// Emits the common stubs into `space` and makes a generator for a guest's slots and helpers.
    ///
    /// # Errors
    /// The host is too old, or the space too small.
    pub fn new(
        slots: &SlotTable,
        helpers: &[HelperDesc],
        fns: RuntimeFns,
        opts: Options,
        space: &CodeSpace,
    ) -> Result<Self, CompileError> {
        let v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("movbe");
        if !v3 {
            return Err(CompileError::UnsupportedHost);
        }
        let pc = slots.get(slots.pc());
        let stubs = stubs::make(helpers, &fns, regs::state(pc.offset), pc.ty.bytes() == 8, space)?;
        let row = |h: &HelperDesc| Helper {
            result: h.result,
            reads: h.reads,
            writes: h.writes,
            effects: h.effects,
        };
        let fx = Fixed {
            slots: SlotInfo::table(slots),
            pc_slot: slots.pc().0,
            helpers: helpers.iter().map(row).collect(),
            stubs,
            opts,
        };
        let work = Work { slot_pos: vec![0; slots.len()], get_pos: vec![0; slots.len()], ..Work::default() };
        Ok(Self { fx, work, shared: outline::Shared::default() })
    }

    /// Makes a unit from a region the verifier accepts. `key` is compared with those in the jump cache; `fp` is what
    /// `EnvHeader::guest_fpcr` will be set to whenever the unit runs.
    ///
    /// # Errors
    /// The space is full, or the region too large.
    pub fn compile(
        &mut self,
        region: &Region,
        key: u64,
        fp: impl Into<FpMode>,
        tier: Tier,
        space: &CodeSpace,
    ) -> Result<CompiledUnit, CompileError> {
        let fp = fp.into();
        let w = &mut self.work;
        let mut g = Gen {
            fx: &self.fx,
            r: region,
            first: tier == Tier::First,
            key,
            rounding: fp.rounding,
            fp,
            asm: std::mem::take(&mut w.asm),
            vals: std::mem::take(&mut w.vals),
            st: std::mem::take(&mut w.st),
            snaps: std::mem::take(&mut w.snaps),
            snaps_used: 0,
            slot_pos: std::mem::take(&mut w.slot_pos),
            blocks: std::mem::take(&mut w.blocks),
            order: std::mem::take(&mut w.order),
            weights: std::mem::take(&mut w.weights),
            def_block: std::mem::take(&mut w.def_block),
            stack: std::mem::take(&mut w.stack),
            pins: std::mem::take(&mut w.pins),
            pin_mask: 0,
            bodies: std::mem::take(&mut w.bodies),
            sites: std::mem::take(&mut w.sites),
            relocs: std::mem::take(&mut w.relocs),
            get_pos: std::mem::take(&mut w.get_pos),
            lazies: std::mem::take(&mut w.lazies),
            locked: 0,
            temps: 0,
            clock: 0,
            touched: [0; 32],
            flags_live: false,
            has_calls: false,
            wide: false,
            frame_base: regs::SPILL,
            pc: region.pc,
            links: Vec::new(),
            sides: Vec::new(),
        };
        let done = g
            .unit()
            .map_err(|Too| CompileError::TooLarge)
            .and_then(|()| g.publish(space, &mut w.maps, &mut self.shared));
        w.asm = g.asm;
        w.vals = g.vals;
        w.st = g.st;
        w.snaps = g.snaps;
        w.slot_pos = g.slot_pos;
        w.blocks = g.blocks;
        w.order = g.order;
        w.weights = g.weights;
        w.def_block = g.def_block;
        w.stack = g.stack;
        w.pins = g.pins;
        w.bodies = g.bodies;
        w.sites = g.sites;
        w.relocs = g.relocs;
        w.get_pos = g.get_pos;
        w.lazies = g.lazies;
        done
    }

    /// Forgets the code made on demand; comes with every [`CodeSpace::reset`].
    pub fn forget(&mut self) {
        self.shared.forget();
    }

    /// How code is entered.
    #[must_use]
    pub fn enter_fn(&self) -> EnterFn {
        stubs::enter_fn(&self.fx.stubs)
    }

    /// What `raw`, returned by the entry function, means.
    #[must_use]
    pub fn decode_exit(raw: u64) -> UnitExit {
        crate::decode_exit(raw)
    }

    /// Where the handler of a host fault goes on ([`crate::Direct`]).
    #[must_use]
    pub fn fault_stub(&self) -> u64 {
        self.fx.stubs.at[Stub::HostFault as usize]
    }

    /// Code address for empty entries of the jump cache.
    #[must_use]
    pub fn miss_stub(&self) -> u64 {
        self.fx.stubs.at[Stub::Miss as usize]
    }
}

impl Gen<'_> {
    fn unit(&mut self) -> Result<(), Too> {
        self.asm.clear();
        self.bodies.clear();
        self.sites.clear();
        self.relocs.clear();
        self.lazies.clear();
        self.slot_pos.fill(0);
        self.st.reset(self.allocatable());
        self.init_vals(self.r);
        self.plan()?;
        let mut linked: Option<u32> = None;
        for i in 0..self.order.len() {
            let b = self.order[i];
            if self.blocks[b as usize].done {
                continue;
            }
            let label = self.blocks[b as usize].label;
            self.asm.bind(label);
            if linked != Some(b) {
                match self.blocks[b as usize].start {
                    Some(snap) => self.restore_snapshot(snap),
                    None if self.blocks[b as usize].merges => self.canonical(),
                    None => {}
                }
            }
            let next = self.order.get(i + 1).copied();
            self.pc = self.blocks[b as usize].pc;
            linked = self.block(BlockId(b), next)?;
            if self.asm.pos() > 1 << 24 {
                return Err(Too);
            }
        }
        self.side_entries()
    }

    /// Emits a block. Returns the next block if it continues with the allocation as it stands.
    fn block(&mut self, b: BlockId, next: Option<u32>) -> Result<Option<u32>, Too> {
        self.hints(b);
        let block = &self.r.blocks[b.0 as usize];
        for &v in &block.insts[block.params as usize..] {
            self.locked = 0;
            self.temps = 0;
            self.inst(v)?;
        }
        self.locked = 0;
        self.temps = 0;
        // A comparison used in several successors is computed here, once.
        for i in 0..self.lazies.len() {
            let root = self.lazies[i];
            let x = &self.vals[root as usize];
            let fuses = x.uses == 1
                && matches!(&block.end, Some(Terminator::Branch { cond, .. }) if self.root(*cond) == root);
            if x.is(fl::LAZY) && x.uses != 0 && !fuses {
                self.locked = 0;
                self.load_root(root)?;
            }
        }
        self.lazies.clear();
        self.locked = 0;
        for e in block.end.iter().flat_map(Terminator::edges) {
            self.blocks[e.block.0 as usize].pc = self.pc;
        }
        match &block.end {
            Some(end) => self.terminator(b, end, next),
            None => self.terminator(b, &Terminator::Lookup, next),
        }
    }

    /// True if the host's unit treats denormal numbers as the operation wants them.
    fn denormals_fit(&self, attr: FpAttr) -> bool {
        let plain = !attr.flush() && !attr.daz();
        (attr.flush(), attr.daz()) == (self.fp.flush, self.fp.daz) && (plain || attr.nan() == NanPolicy::X86)
    }

    /// Drops an operation whose result nobody uses.
    fn is_dead(&self, v: Value) -> bool {
        use tcg_ir::Effect;
        let inst = self.r.inst(v);
        let pure = match inst.op.info().effect {
            Effect::Pure | Effect::Get => true,
            Effect::Call => self
                .fx
                .helpers
                .get(inst.sub as usize)
                .is_some_and(|h| h.effects == Effects::PURE && matches!(h.writes, SlotSet::None)),
            _ => false,
        };
        pure && self.vals[v.index()].uses == 0
    }

    fn inst(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        if self.is_dead(v) {
            let r = self.r;
            for o in r.operands(&inst) {
                self.done(o);
            }
            return Ok(());
        }
        match inst.op {
            Op::Nop => return Ok(()),
            Op::Insn => {
                self.pc = inst.imm;
                return Ok(());
            }
            Op::Const | Op::Pc if self.vals[v.index()].is(fl::CONST) => {
                if self.vals[v.index()].is(fl::GLOBAL) {
                    // Constants need no frame slot: they are made again wherever they are used.
                    self.vals[v.index()].fl &= !fl::GLOBAL;
                }
                return Ok(());
            }
            Op::Get => self.get(v, inst.sub)?,
            Op::Set => self.set(inst.sub, inst.a)?,
            Op::Budget => self.budget(inst.imm)?,
            Op::Load if self.is_outline(&inst) => {
                self.load_outline(v)?;
                self.note_zeros(v);
            }
            Op::Store if self.is_outline(&inst) => self.store_outline(v)?,
            Op::Load => {
                self.load(v)?;
                self.note_zeros(v);
            }
            Op::Store => self.store(v)?,
            Op::Rmw => self.rmw(v)?,
            Op::Cas => self.cas(v)?,
            Op::Fence => {
                if inst.sub & 6 == 6 {
                    self.asm.mfence();
                }
            }
            Op::Call => self.call(v)?,
            _ => {
                let done = self.lower_int(v)? || self.lower_fp(v)? || self.lower_vec(v)?;
                if !done {
                    self.soft(v)?;
                }
            }
        }
        self.finish_def(v)
    }

    /// Records the exit map (a body made earlier) of what leaves with the return address at the current position.
    fn site_with(&mut self, (start, end): (u32, u32)) {
        self.sites.push(Site { pos: self.asm.pos(), start, end });
    }

    /// Records the exit map of the guest access that the next instruction makes, where it may be a host fault.
    fn access_site(&mut self, (start, end): (u32, u32)) {
        if self.fx.opts.direct.is_some() {
            let pos = crate::fault_site(self.asm.pos().into()) as u32;
            self.sites.push(Site { pos, start, end });
        }
    }

    /// The body of an exit map for the allocation as it is now.
    fn body(&mut self) -> (u32, u32) {
        let start = self.bodies.len() as u32;
        maps::begin_body(&mut self.bodies, self.r.pc, self.pc);
        for i in 0..self.st.binds.len() {
            let b = self.st.binds[i];
            if !b.dirty {
                continue;
            }
            let x = &self.vals[b.val as usize];
            let slot = self.fx.slots[b.slot as usize];
            let loc = match x.reg {
                alloc::NO_REG if x.is(fl::PC) => maps::Location::Pc(x.imm),
                alloc::NO_REG => maps::Location::Const(x.imm),
                r if r >= 16 => maps::Location::Xmm(r - 16),
                r => maps::Location::Gpr(r),
            };
            maps::add_slot(&mut self.bodies, self.r.pc, slot.offset, slot.log2, loc);
        }
        (start, self.bodies.len() as u32)
    }

    /// `call` or `jmp` of a common stub.
    fn go_stub(&mut self, call: bool, stub: Stub) {
        self.asm.b(if call { 0xe8 } else { 0xe9 });
        self.reloc(RelocKind::Stub, stub as i64);
        self.asm.d(0);
    }

    /// The same for code made on demand.
    fn go_shared(&mut self, call: bool, what: outline::What) {
        self.asm.b(if call { 0xe8 } else { 0xe9 });
        self.reloc(RelocKind::Shared, what.0);
        self.asm.d(0);
    }

    fn reloc(&mut self, kind: RelocKind, addend: i64) {
        self.relocs.push(Reloc { offset: self.asm.pos(), kind, addend });
    }

    /// A guest address in a register.
    fn load_pc(&mut self, d: Gpr, pc: u64) {
        let addend = pc.wrapping_sub(self.r.pc) as i64;
        if let Ok(pc) = u32::try_from(pc) {
            self.asm.mov_imm32(d, pc);
            let at = self.asm.pos() - 4;
            self.relocs.push(Reloc { offset: at, kind: RelocKind::Pc32, addend });
        } else if let Ok(short) = i32::try_from(pc as i64) {
            self.asm.mov_imm(d, short as i64 as u64);
            let at = self.asm.pos() - 4;
            self.relocs.push(Reloc { offset: at, kind: RelocKind::PcS32, addend });
        } else {
            self.asm.mov_imm64(d, pc);
            let at = self.asm.pos() - 8;
            self.relocs.push(Reloc { offset: at, kind: RelocKind::Pc64, addend });
        }
    }

    /// Puts the code where it will run and makes the unit.
    fn publish(
        &mut self,
        space: &CodeSpace,
        out: &mut Vec<u8>,
        shared: &mut outline::Shared,
    ) -> Result<CompiledUnit, CompileError> {
        let hot = self.asm.finish();
        // The last instruction may be the call of an exit stub. Its return address must not be the next unit's entry: the
        // engine finds units by it.
        self.asm.b(0xcc);
        let len = self.asm.buf.len();
        for r in &mut self.relocs {
            r.offset = flat(r.offset, hot);
            if r.kind == RelocKind::Shared {
                shared.make(outline::What(r.addend), self.key, &self.fx.stubs, space)?;
            }
        }
        let slot = self.fx.slots[self.fx.pc_slot as usize];
        maps::begin(out, self.r.pc, slot.offset, slot.ty.bytes() as u8);
        // Sites are recorded in the order of the code inside each section; the hot one comes first.
        let mut last = 0;
        for cold in [false, true] {
            for s in self.sites.iter().filter(|s| (s.pos & asm::COLD != 0) == cold) {
                let at = flat(s.pos, hot);
                maps::add_entry(out, at - last, &self.bodies[s.start as usize..s.end as usize]);
                last = at;
            }
        }
        if self.sites.is_empty() {
            out.clear();
        }
        let align = if self.first { 8 } else { 32 };
        let offset = space.alloc(len + out.len(), align).ok_or(CompileError::Full)?;
        let entry = space.rx_base() + offset as u64;
        for r in &self.relocs {
            let target = match r.kind {
                RelocKind::Stub => self.fx.stubs.at[r.addend as usize],
                RelocKind::Shared => shared.make(outline::What(r.addend), self.key, &self.fx.stubs, space)?,
                RelocKind::Helper => self.fx.stubs.helpers + r.addend as u64 * 8,
                _ => continue,
            };
            let rel = target.wrapping_sub(entry + u64::from(r.offset) + 4) as u32;
            let at = r.offset as usize;
            self.asm.buf[at..at + 4].copy_from_slice(&rel.to_le_bytes());
        }
        let links = self.links.iter().map(|l| match l {
            Some((stub, site, link)) => LinkSite {
                site: entry + u64::from(flat(*site, hot)),
                stub: entry + u64::from(flat(self.asm.label_pos(*stub), hot)),
                ..*link
            },
            None => LinkSite { site: 0, stub: 0, pc: 0, hint: tcg_ir::Hint::None },
        });
        let side =
            |&(pc, label): &(u64, Label)| (pc, entry + u64::from(flat(self.asm.label_pos(label), hot)));
        let unit = CompiledUnit {
            entry,
            sides: self.sides.iter().map(side).collect(),
            len: len as u32,
            maps_len: out.len() as u32,
            links: links.collect(),
            relocs: self.relocs.as_slice().into(),
        };
        space.write(offset, &self.asm.buf);
        space.write(offset + len, out);
        Ok(unit)
    }
}
