#![expect(unsafe_code, reason = "runs generated code")]
//! Generated code against the interpreter, on the same regions and the same machines.

mod fuzz;
mod golden;
mod links;
mod vectors;

use std::ffi::c_void;

use tcg_ir::abi::{EnvHeader, JumpEntry, MMU_INDEXES, STATE_OFFSET, TlbDesc, UnitExit};
use tcg_ir::interp::{self, Machine, Val};
use tcg_ir::print::Tables;
use tcg_ir::testing::{MEM_BASE, MEM_SIZE, STATE_BYTES, TestMachine, helpers, page_faults, slots};
use tcg_ir::{Exceptions, HelperDesc, HelperResult, MemOp, Region, RmwOp, Rounding, SlotTable};

use super::Compiler;
use crate::{CodeSpace, CompileError, CompiledUnit, Options, RuntimeFns, Tier};

const TLB_SIZE: usize = 32;
const JUMP_SIZE: usize = 16;

/// An environment with the test machine's state in it.
#[repr(C, align(64))]
struct Env {
    bytes: [u8; STATE_OFFSET + STATE_BYTES],
}

/// What the runtime functions get as their vCPU.
struct Vcpu {
    m: TestMachine,
    slow: u64,
}

fn vcpu<'a>(p: *mut c_void) -> &'a mut Vcpu {
    // SAFETY: the harness passes a `Vcpu` that outlives the run.
    unsafe { &mut *p.cast() }
}

fn result(m: MemOp, r: Result<u128, interp::Leave>) -> HelperResult {
    let bits = m.bytes() as u32 * 8;
    match r {
        Ok(v) => {
            let s = 64 - bits;
            let v = (v as u64) << s;
            let v = if m.signed() { (v as i64 >> s) as u64 } else { v >> s };
            HelperResult { value: v, status: 0 }
        }
        Err(_) => HelperResult { value: 0xdead, status: 1 },
    }
}

fn low(m: MemOp, v: u64) -> u128 {
    let s = 64 - m.bytes() as u32 * 8;
    u128::from(v << s >> s)
}

unsafe extern "C" fn load(v: *mut c_void, gva: u64, memop: u32) -> HelperResult {
    let (v, m) = (vcpu(v), MemOp(memop));
    v.slow += 1;
    result(m, v.m.load(gva, m))
}

unsafe extern "C" fn store(v: *mut c_void, gva: u64, memop: u32, value: u64) -> u64 {
    let (v, m) = (vcpu(v), MemOp(memop));
    v.slow += 1;
    u64::from(v.m.store(gva, m, low(m, value)).is_err())
}

unsafe extern "C" fn load_wide(v: *mut c_void, gva: u64, memop: u32, buf: *mut u8) -> u64 {
    let (v, m) = (vcpu(v), MemOp(memop));
    // SAFETY: the buffer has 64 bytes.
    let out = unsafe { std::slice::from_raw_parts_mut(buf, m.bytes()) };
    if m.bytes() == 16 {
        match v.m.load(gva, m) {
            Ok(x) => out.copy_from_slice(&x.to_le_bytes()),
            Err(_) => return 1,
        }
        return 0;
    }
    u64::from(v.m.load_wide(gva, m, out).is_err())
}

unsafe extern "C" fn store_wide(v: *mut c_void, gva: u64, memop: u32, buf: *mut u8) -> u64 {
    let (v, m) = (vcpu(v), MemOp(memop));
    // SAFETY: the buffer has 64 bytes.
    let bytes = unsafe { std::slice::from_raw_parts(buf, m.bytes()) };
    if m.bytes() == 16 {
        let x = u128::from_le_bytes(bytes.try_into().unwrap());
        return u64::from(v.m.store(gva, m, x).is_err());
    }
    u64::from(v.m.store_wide(gva, m, bytes).is_err())
}

unsafe extern "C" fn rmw(v: *mut c_void, gva: u64, memop: u32, op: u32, value: u64) -> HelperResult {
    let (v, m) = (vcpu(v), MemOp(memop));
    result(m, v.m.rmw(gva, m, RmwOp::from_bits(op as u16), low(m, value)))
}

unsafe extern "C" fn cas(v: *mut c_void, gva: u64, memop: u32, old: u64, new: u64) -> HelperResult {
    let (v, m) = (vcpu(v), MemOp(memop));
    result(m, v.m.cas(gva, m, low(m, old), low(m, new)))
}

unsafe extern "C" fn lookup(_: *mut c_void) -> u64 {
    0
}

pub(super) const FNS: RuntimeFns = RuntimeFns { load, store, load_wide, store_wide, rmw, cas, lookup };

/// A compiler and everything its code needs to run.
struct Bench {
    slots: SlotTable,
    helpers: Vec<HelperDesc>,
    space: CodeSpace,
    base: usize,
    compiler: Compiler,
    /// Of units made in pieces.
    tier: Tier,
    /// The side entry by which regions are entered.
    side: Option<usize>,
    /// Address of the second jump cache; 0 for that of the first.
    shared: u64,
    env: Box<Env>,
    interp: interp::Interp,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    exit: UnitExit,
    m: TestMachine,
}

fn mxcsr(r: Rounding) -> u32 {
    let rc = match r {
        Rounding::Down => 1,
        Rounding::Up => 2,
        Rounding::Zero => 3,
        _ => 0,
    };
    0x1f80 | rc << 13
}

/// Does what an engine does when a unit leaves through a link: finds out which it was, and sets the pc.
fn name_link(
    slots: &SlotTable,
    exit: UnitExit,
    site: u64,
    unit: &CompiledUnit,
    state: &mut [u8],
) -> UnitExit {
    if !matches!(exit, UnitExit::Link { .. }) {
        return exit;
    }
    let index = unit.link_at(site).expect("a link of this unit");
    let pc = slots.get(slots.pc());
    let (at, n) = (pc.offset as usize, pc.ty.bytes());
    state[at..at + n].copy_from_slice(&unit.links[index].pc.to_le_bytes()[..n]);
    UnitExit::Link { index: index as u32 }
}

impl Bench {
    fn new() -> Option<Self> {
        let slots = slots();
        let helpers = helpers();
        let space = CodeSpace::new(16 << 20).unwrap();
        let opts = Options { count_insns: true, direct: None };
        let compiler = match Compiler::new(&slots, &helpers, FNS, opts, &space) {
            Ok(c) => c,
            Err(CompileError::UnsupportedHost) => return None,
            Err(e) => panic!("{e}"),
        };
        let base = space.used();
        let env = Box::new(Env { bytes: [0; STATE_OFFSET + STATE_BYTES] });
        Some(Self {
            slots,
            helpers,
            space,
            base,
            compiler,
            tier: Tier::Second,
            side: None,
            shared: 0,
            env,
            interp: interp::Interp::new(),
        })
    }

    fn tables(&self) -> Tables<'_> {
        Tables { slots: &self.slots, helpers: &self.helpers }
    }

    fn header(&mut self) -> &mut EnvHeader {
        // SAFETY: all bytes of a header are valid for its fields; it lies at the environment's start.
        unsafe { &mut *std::ptr::from_mut(&mut *self.env).cast::<EnvHeader>() }
    }

    /// Runs a region as generated code. `fast` bit n: page n of memory is in the TLB.
    fn jit(
        &mut self,
        r: &Region,
        start: &TestMachine,
        rounding: Rounding,
        tier: Tier,
        fast: u32,
    ) -> Result<Outcome, CompileError> {
        self.space.reset(self.base);
        self.compiler.forget();
        let unit = self.compiler.compile(r, 7, rounding, tier, &self.space)?;
        let mut v = Vcpu { m: start.clone(), slow: 0 };
        let mut tlb = [[u64::MAX; 4]; TLB_SIZE];
        for page in 0..MEM_SIZE / 4096 {
            let gva = MEM_BASE + page as u64 * 4096;
            if fast & 1 << page != 0 && !page_faults(gva) {
                let host = v.m.mem.as_ptr() as u64 + page as u64 * 4096;
                tlb[(gva >> 12) as usize % TLB_SIZE] = [gva, gva, gva, host.wrapping_sub(gva)];
            }
        }
        let jumps = self.empty_jumps();
        let enter = self.compiler.enter_fn();
        let h = self.header();
        h.fpexc = start.exc.bits();
        h.budget = start.budget;
        h.guest_fpcr = mxcsr(rounding);
        h.vcpu = std::ptr::from_mut(&mut v) as u64;
        h.jump_cache = jumps.as_ptr() as u64;
        h.jump_mask = (JUMP_SIZE as u64 - 1) * 32;
        h.shared_jumps = h.jump_cache;
        h.shared_mask = h.jump_mask;
        h.tlb = [TlbDesc { mask: (TLB_SIZE as u64 - 1) * 32, table: tlb.as_ptr() as u64 }; MMU_INDEXES];
        self.env.bytes[STATE_OFFSET..].copy_from_slice(&start.state);
        let entry = self.side.map_or(unit.entry, |n| unit.sides[n].1);
        let env = std::ptr::from_mut(&mut *self.env).cast::<EnvHeader>();
        // SAFETY: the unit was made for this environment's slots, and all tables it uses live until it returns.
        let raw = unsafe { enter(env, entry) };
        let exit = Compiler::decode_exit(raw);
        let (head, state) = self.env.bytes.split_at_mut(STATE_OFFSET);
        // SAFETY: as in `header`; the state is another part of the environment.
        let h = unsafe { &*head.as_ptr().cast::<EnvHeader>() };
        if exit == UnitExit::Fault {
            assert!(unit.contains(h.exit_site));
            let pc = unit.restore(&self.space, h.exit_site, h, state);
            assert!(pc.is_some(), "no exit map");
            assert_eq!(unit.pc_at(&self.space, h.exit_site), pc);
        }
        let exit = name_link(&self.slots, exit, h.exit_site, &unit, state);
        v.m.exc = Exceptions::from_bits_truncate(h.fpexc);
        v.m.budget = h.budget;
        v.m.state.copy_from_slice(state);
        Ok(Outcome { exit, m: v.m })
    }

    fn empty_jumps(&self) -> [JumpEntry; JUMP_SIZE] {
        [JumpEntry { pc: 0, key: 0, code: self.compiler.miss_stub(), unused: 0 }; JUMP_SIZE]
    }

    /// Enters a unit with `x1` as given and everything else zero: exit, pc and `x0`.
    fn run_units(
        &mut self,
        unit: &CompiledUnit,
        jumps: &[JumpEntry; JUMP_SIZE],
        x1: u64,
    ) -> (UnitExit, u64, u64) {
        let mut v = Vcpu { m: TestMachine::new(), slow: 0 };
        let enter = self.compiler.enter_fn();
        self.env.bytes[STATE_OFFSET..].fill(0);
        self.env.bytes[STATE_OFFSET + 16..STATE_OFFSET + 24].copy_from_slice(&x1.to_le_bytes());
        let shared = self.shared;
        let h = self.header();
        h.guest_fpcr = mxcsr(Rounding::NearestEven);
        h.vcpu = std::ptr::from_mut(&mut v) as u64;
        h.jump_cache = jumps.as_ptr() as u64;
        h.jump_mask = (JUMP_SIZE as u64 - 1) * 32;
        h.shared_jumps = if shared == 0 { h.jump_cache } else { shared };
        h.shared_mask = h.jump_mask;
        let env = std::ptr::from_mut(&mut *self.env).cast::<EnvHeader>();
        // SAFETY: the unit was made for this environment's slots, and all tables it uses live until it returns.
        let raw = unsafe { enter(env, unit.entry) };
        let exit = Compiler::decode_exit(raw);
        let site = self.header().exit_site;
        let mut state = self.env.bytes[STATE_OFFSET..].to_vec();
        let exit = name_link(&self.slots, exit, site, unit, &mut state);
        self.env.bytes[STATE_OFFSET..].copy_from_slice(&state);
        let word = |n: usize| {
            let at = STATE_OFFSET + n * 8;
            u64::from_le_bytes(self.env.bytes[at..at + 8].try_into().unwrap())
        };
        (exit, word(0), word(1))
    }

    fn interpret(&mut self, r: &Region, start: &TestMachine) -> Outcome {
        let mut m = start.clone();
        let exit = self.interp.run(r, &mut m, &self.slots);
        Outcome { exit, m }
    }

    /// Text of the code of a region.
    fn disassemble(&mut self, r: &Region, rounding: Rounding, tier: Tier) -> String {
        self.space.reset(self.base);
        self.compiler.forget();
        let unit = self.compiler.compile(r, 7, rounding, tier, &self.space).unwrap();
        let code = self.space.read(unit.entry, unit.len as usize).unwrap();
        crate::disasm::disassemble(&code, 0)
    }

    /// First difference of two outcomes; denormal-operand flags are the host's own business unless the guest is x86.
    fn differ(&self, a: &Outcome, b: &Outcome) -> Option<String> {
        if a.exit != b.exit {
            return Some(format!("exit {:?}, expected {:?}", a.exit, b.exit));
        }
        for s in self.slots.all() {
            let (x, y): (Val, Val) = (interp::read_slot(&a.m.state, s), interp::read_slot(&b.m.state, s));
            if x != y {
                return Some(format!("slot {}: {:x?}, expected {:x?}", s.name, x.0, y.0));
            }
        }
        let mask = !Exceptions::DENORMAL;
        if a.m.exc & mask != b.m.exc & mask {
            return Some(format!("exceptions {:?}, expected {:?}", a.m.exc, b.m.exc));
        }
        if a.m.mem != b.m.mem {
            let at = a.m.mem.iter().zip(&b.m.mem).position(|(x, y)| x != y);
            return Some(format!("memory at {at:x?}"));
        }
        (a.m.budget != b.m.budget).then(|| format!("budget {}, expected {}", a.m.budget, b.m.budget))
    }
}
