#![expect(unsafe_code, reason = "names generated code as a function")]
//! Code that all units share: the way in, the ways out, the thunks around slow paths.
//!
//! Thunks are called from cold code with everything a unit keeps in registers still there, and preserve all of it;
//! the registers are kept in `EnvHeader::scratch`, where the exit maps look for them after a fault.

use tcg_ir::HelperDesc;

use super::alloc::avx512;
use super::asm::{Alu, Asm, Cc, Label, Mem, Shift};
use super::regs::*;
use crate::{CodeSpace, CompileError, RuntimeFns, raw_exit};

/// Common stubs by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stub {
    /// Way in.
    Enter,
    /// `call`ed: leaves with `Link`. The address it is called from says which link it is.
    Link,
    /// Jumped to with the guest pc in `rcx`: leaves with `Budget`.
    Budget,
    /// Jumped to with the raw exit in `rax`.
    Exit,
    /// `call`ed with the status in `rdx`: saves all registers, leaves with `Fault`.
    Fault,
    /// The same, but status 2 leaves with `HelperExit`.
    HelperFault,
    /// Entered by the handler of a host fault, the site pushed: saves all registers, leaves with `Fault`.
    HostFault,
    /// Jumped to with the guest pc in `rcx` and the key in `rdx`: looks into the jump cache that all address spaces share,
    /// then stores the pc, looks the unit up, goes there or leaves.
    Miss,
    /// The unit for the state as it stands, whose pc slot is set.
    Next,
    /// `call`ed with the address in `rax`, the memop pushed; value in `rax`. Then the same that preserve vector registers
    /// (16 bytes each), and whole ones.
    Load,
    LoadX,
    LoadY,
    /// Value pushed, memop pushed.
    Store,
    StoreX,
    StoreY,
    /// Memop pushed; buffer is the frame's bottom.
    LoadWide,
    LoadWideX,
    LoadWideY,
    StoreWide,
    StoreWideX,
    StoreWideY,
    /// Value, operation, memop pushed.
    Rmw,
    RmwX,
    RmwY,
    /// New, expected, memop pushed.
    Cas,
    CasX,
    CasY,
    /// The soft fallback on the frame's bottom.
    Soft,
    SoftX,
    SoftY,
}

pub(super) const STUBS: usize = Stub::SoftY as usize + 1;

/// Addresses of the stubs and of the table of entry points.
#[derive(Debug, Clone)]
pub(super) struct Stubs {
    pub(super) at: [u64; STUBS],
    /// Host address of helper 0's entry in the table.
    pub(super) helpers: u64,
}

/// Functions the stubs call, by their place in the table.
#[derive(Clone, Copy)]
enum Fn {
    Load,
    Store,
    LoadWide,
    StoreWide,
    Rmw,
    Cas,
    Lookup,
    Soft,
}

const FNS: usize = 8;

struct Maker {
    asm: Asm,
    /// Offset of the table.
    table: u32,
    /// Bytes of a whole vector register.
    whole: usize,
}

/// Which vector registers a thunk preserves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vectors {
    None,
    Low,
    Whole,
}

fn saved(r: u8) -> Mem {
    Mem::env(saved_gpr(r))
}

fn caller_saved() -> impl Iterator<Item = u8> {
    (0..16).filter(|r| CALLER_SAVED & 1 << r != 0)
}

fn callee_saved() -> impl Iterator<Item = u8> {
    (0..16).filter(|r| GPRS & !CALLER_SAVED & 1 << r != 0)
}

impl Maker {
    fn call(&mut self, f: Fn) {
        let at = self.asm.call_rip() as usize;
        let rel = (self.table as i64 + f as i64 * 8 - (at as i64 + 4)) as i32;
        self.asm.buf[at..at + 4].copy_from_slice(&rel.to_le_bytes());
    }

    fn jmp_to(&mut self, at: u32) {
        self.asm.b(0xe9);
        let rel = at.wrapping_sub(self.asm.pos() + 4);
        self.asm.d(rel);
    }

    /// Adds the host's sticky exceptions to the environment's, then runs under the host's own mode. Clobbers `ecx`.
    fn leave_fp(&mut self) {
        let a = &mut self.asm;
        a.stmxcsr(Mem::env(SCRATCH_WORD));
        a.mov(false, RCX, Mem::env(SCRATCH_WORD));
        a.alu_imm(false, Alu::And, RCX, 0x3f);
        a.alu(false, Alu::Or, RCX, Mem::env(FPEXC));
        a.store(false, Mem::env(FPEXC), RCX);
        a.ldmxcsr(Mem::env(HOST_FPCR));
    }

    /// Leaves with the raw exit in `rax`.
    fn exit(&mut self) {
        self.leave_fp();
        let a = &mut self.asm;
        a.vzeroupper();
        a.alu_imm(true, Alu::Add, RSP, FRAME as i32);
        for r in [R15, R14, R13, R12, RBX, RBP] {
            a.pop(r);
        }
        a.ret();
    }

    fn enter(&mut self) {
        let a = &mut self.asm;
        for r in [RBP, RBX, R12, R13, R14, R15] {
            a.push(r);
        }
        a.alu_imm(true, Alu::Sub, RSP, FRAME as i32);
        a.lea(true, RBP, Mem::at(RDI, BIAS));
        a.stmxcsr(Mem::env(HOST_FPCR));
        a.ldmxcsr(Mem::env(GUEST_FPCR));
        a.jmp_rm(RSI);
    }

    fn save_all(&mut self) {
        for r in caller_saved().chain(callee_saved()) {
            self.asm.store(true, saved(r), Gpr(r));
        }
        for r in 0..14 {
            self.asm.vstore(self.whole, Mem::env(saved_xmm(r)), Xmm(r));
        }
    }

    /// Goes through the jump cache that all address spaces share, and copies what it finds to the current space's. Whoever
    /// strikes an entry strikes the shared one first: if it is still there after the copy has been made, the copy is good.
    fn shared_jump(&mut self) {
        let a = &mut self.asm;
        let (miss, gone) = (a.label(), a.label());
        find(a, RAX, KeyOperand::Reg(RDX), SHARED_JUMPS, miss);
        let to = |field| Mem::at(RSI, field);
        a.mov(true, RDI, Mem::at(RAX, 16));
        a.mov(true, RSI, RAX);
        a.alu(true, Alu::Sub, RSI, Mem::env(SHARED_JUMPS));
        a.alu(true, Alu::Add, RSI, Mem::env(JUMP_CACHE));
        a.store_imm(true, to(0), -1);
        a.store(true, to(8), RDX);
        a.store(true, to(16), RDI);
        a.store(true, to(0), RCX);
        a.mfence();
        a.alu(true, Alu::Cmp, RCX, Mem::at(RAX, 0));
        a.jcc(Cc::Ne, gone);
        a.jmp_rm(RDI);
        a.bind(gone);
        a.store_imm(true, to(0), -1);
        a.bind(miss);
    }

    /// Entered by `call`; status in `rdx`.
    fn fault(&mut self, exit: u32, or_helper_exit: bool) {
        self.save_all();
        let a = &mut self.asm;
        a.store(true, Mem::env(STATUS), RDX);
        a.pop(RAX);
        a.store(true, Mem::env(EXIT_SITE), RAX);
        a.mov_imm(RAX, raw_exit::FAULT);
        if or_helper_exit {
            a.mov_imm(RCX, raw_exit::HELPER);
            a.alu_imm(true, Alu::Cmp, RDX, 2);
            a.cmov(true, Cc::E, RAX, RCX);
        }
        self.jmp_to(exit);
    }

    /// Entered with the site pushed, all else as the faulting instruction found it.
    fn host_fault(&mut self, exit: u32) {
        self.save_all();
        let a = &mut self.asm;
        a.pop(RAX);
        a.store(true, Mem::env(EXIT_SITE), RAX);
        a.mov_imm(RAX, raw_exit::FAULT);
        self.jmp_to(exit);
    }

    /// A thunk: `load` moves the arguments to registers (the pushed ones are at 8 from `rsp` as it is given, upwards), `pops`
    /// are the pushed words. The status comes in `rdx`, or in `rax` if `status_only`.
    fn thunk(
        &mut self,
        exit: u32,
        v: Vectors,
        f: Fn,
        pops: u32,
        status_only: bool,
        args: impl FnOnce(&mut Asm, i32),
    ) {
        for r in caller_saved() {
            self.asm.store(true, saved(r), Gpr(r));
        }
        for r in 0..14 {
            match v {
                Vectors::None => {}
                Vectors::Low => self.asm.vstore(16, Mem::env(saved_xmm(r)), Xmm(r)),
                Vectors::Whole => self.asm.vstore(self.whole, Mem::env(saved_xmm(r)), Xmm(r)),
            }
        }
        let a = &mut self.asm;
        if v == Vectors::Whole {
            a.vzeroupper();
        }
        a.stmxcsr(Mem::env(SAVED_MXCSR));
        a.ldmxcsr(Mem::env(HOST_FPCR));
        // Units run with `rsp` a multiple of 16; the return address and the pushed words are on top.
        let pad = if pops.is_multiple_of(2) { 8 } else { 0 };
        if pad != 0 {
            a.alu_imm(true, Alu::Sub, RSP, pad);
        }
        args(a, pad + 8);
        self.call(f);
        let whole = self.whole;
        let a = &mut self.asm;
        if pad != 0 {
            a.lea(true, RSP, Mem::at(RSP, pad));
        }
        a.ldmxcsr(Mem::env(SAVED_MXCSR));
        let soft = matches!(f, Fn::Soft);
        let fault = a.label();
        if !soft {
            let status = if status_only { RAX } else { RDX };
            a.test(true, status, status);
            a.jcc(Cc::Ne, fault);
        }
        for r in 0..14 {
            match v {
                Vectors::None => {}
                Vectors::Low => a.vload(16, Xmm(r), Mem::env(saved_xmm(r))),
                Vectors::Whole => a.vload(whole, Xmm(r), Mem::env(saved_xmm(r))),
            }
        }
        for r in caller_saved() {
            a.mov(true, Gpr(r), saved(r));
        }
        if pops == 0 {
            a.ret();
        } else {
            a.ret_pop(pops as u16 * 8);
        }
        a.bind(fault);
        if soft {
            return;
        }
        if status_only {
            a.mov(true, RDX, RAX);
        }
        a.store(true, Mem::env(STATUS), RDX);
        for r in callee_saved() {
            a.store(true, saved(r), Gpr(r));
        }
        a.pop(RAX);
        a.store(true, Mem::env(EXIT_SITE), RAX);
        if pops != 0 {
            a.alu_imm(true, Alu::Add, RSP, pops as i32 * 8);
        }
        a.mov_imm(RAX, raw_exit::FAULT);
        self.jmp_to(exit);
    }
}

/// The key a jump cache entry is compared with.
#[derive(Clone, Copy)]
pub(super) enum KeyOperand {
    Reg(Gpr),
    Imm(i32),
}

/// Goes through a jump cache (its field in the header; the mask is behind it) to the guest pc in `rcx`, or to `miss`: entry
/// `(pc >> 1 ^ pc >> 13) & mask`. Clobbers `t`.
pub(super) fn probe(a: &mut Asm, t: Gpr, key: KeyOperand, cache: i32, miss: Label) {
    find(a, t, key, cache, miss);
    a.jmp_rm(Mem::at(t, 16));
}

/// The first part of it: `t` is the address of the entry that hits.
fn find(a: &mut Asm, t: Gpr, key: KeyOperand, cache: i32, miss: Label) {
    a.mov(true, t, RCX);
    a.shift_imm(true, Shift::Shr, t, 12);
    a.alu(true, Alu::Xor, t, RCX);
    // Entries have 32 bytes and the mask is a multiple of that.
    a.shift_imm(true, Shift::Shl, t, 4);
    a.alu(true, Alu::And, t, Mem::env(cache + 8));
    a.alu(true, Alu::Add, t, Mem::env(cache));
    a.alu(true, Alu::Cmp, RCX, Mem::at(t, 0));
    a.jcc(Cc::Ne, miss);
    match key {
        KeyOperand::Imm(k) => a.alu_imm(true, Alu::Cmp, Mem::at(t, 8), k),
        KeyOperand::Reg(k) => a.alu(true, Alu::Cmp, k, Mem::at(t, 8)),
    }
    a.jcc(Cc::Ne, miss);
}

/// Emits the stubs and the table of entry points into `space`.
pub(super) fn make(
    helpers: &[HelperDesc],
    fns: &RuntimeFns,
    pc_disp: i32,
    pc_wide: bool,
    space: &CodeSpace,
) -> Result<Stubs, CompileError> {
    let whole = if avx512() { 64 } else { 32 };
    let mut m = Maker { asm: Asm::default(), table: 0, whole };
    let table: [u64; FNS] = [
        fns.load as usize as u64,
        fns.store as usize as u64,
        fns.load_wide as usize as u64,
        fns.store_wide as usize as u64,
        fns.rmw as usize as u64,
        fns.cas as usize as u64,
        fns.lookup as usize as u64,
        super::soft::soft as *const () as usize as u64,
    ];
    for f in table {
        m.asm.q(f);
    }
    for h in helpers {
        m.asm.q(h.entry as usize as u64);
    }
    let mut at = [0u32; STUBS];
    let mut mark = |s: Stub, m: &Maker| at[s as usize] = m.asm.pos();
    mark(Stub::Enter, &m);
    m.enter();
    mark(Stub::Exit, &m);
    let exit = m.asm.pos();
    m.exit();
    mark(Stub::Budget, &m);
    m.asm.store(pc_wide, Mem::env(pc_disp), RCX);
    m.asm.mov_imm(RAX, raw_exit::BUDGET);
    m.jmp_to(exit);
    mark(Stub::Link, &m);
    m.asm.pop(RSI);
    m.asm.store(true, Mem::env(EXIT_SITE), RSI);
    m.asm.mov_imm(RAX, raw_exit::LINK);
    m.jmp_to(exit);
    mark(Stub::Fault, &m);
    m.fault(exit, false);
    mark(Stub::HelperFault, &m);
    m.fault(exit, true);
    mark(Stub::HostFault, &m);
    m.host_fault(exit);
    mark(Stub::Miss, &m);
    m.shared_jump();
    m.asm.store(pc_wide, Mem::env(pc_disp), RCX);
    mark(Stub::Next, &m);
    m.leave_fp();
    m.asm.vzeroupper();
    m.asm.mov(true, RDI, Mem::env(VCPU));
    m.call(Fn::Lookup);
    m.asm.ldmxcsr(Mem::env(GUEST_FPCR));
    let none = m.asm.label();
    m.asm.test(true, RAX, RAX);
    m.asm.jcc(Cc::E, none);
    m.asm.jmp_rm(RAX);
    m.asm.bind(none);
    m.asm.mov_imm(RAX, raw_exit::LOOKUP);
    m.jmp_to(exit);
    let memop = |a: &mut Asm, at: i32| {
        a.mov(true, RSI, RAX);
        a.mov(true, RDI, Mem::env(VCPU));
        a.mov(false, RDX, Mem::at(RSP, at));
    };
    let all = [Vectors::None, Vectors::Low, Vectors::Whole];
    for (v, s) in all.into_iter().zip([Stub::Load, Stub::LoadX, Stub::LoadY]) {
        mark(s, &m);
        m.thunk(exit, v, Fn::Load, 1, false, memop);
    }
    for (v, s) in all.into_iter().zip([Stub::Store, Stub::StoreX, Stub::StoreY]) {
        mark(s, &m);
        m.thunk(exit, v, Fn::Store, 2, true, |a, at| {
            memop(a, at);
            a.mov(true, RCX, Mem::at(RSP, at + 8));
        });
    }
    let wide = |a: &mut Asm, at: i32| {
        memop(a, at);
        a.lea(true, RCX, Mem::at(RSP, at + 8 + SOFT + WIDE_BUFFER));
    };
    for (v, s) in all.into_iter().zip([Stub::LoadWide, Stub::LoadWideX, Stub::LoadWideY]) {
        mark(s, &m);
        m.thunk(exit, v, Fn::LoadWide, 1, true, wide);
    }
    for (v, s) in all.into_iter().zip([Stub::StoreWide, Stub::StoreWideX, Stub::StoreWideY]) {
        mark(s, &m);
        m.thunk(exit, v, Fn::StoreWide, 1, true, wide);
    }
    for (v, s) in all.into_iter().zip([Stub::Rmw, Stub::RmwX, Stub::RmwY]) {
        mark(s, &m);
        m.thunk(exit, v, Fn::Rmw, 3, false, |a, at| {
            memop(a, at);
            a.mov(true, RCX, Mem::at(RSP, at + 8));
            a.mov(true, R8, Mem::at(RSP, at + 16));
        });
    }
    for (v, s) in all.into_iter().zip([Stub::Cas, Stub::CasX, Stub::CasY]) {
        mark(s, &m);
        m.thunk(exit, v, Fn::Cas, 3, false, |a, at| {
            memop(a, at);
            a.mov(true, RCX, Mem::at(RSP, at + 8));
            a.mov(true, R8, Mem::at(RSP, at + 16));
        });
    }
    for (v, s) in all.into_iter().zip([Stub::Soft, Stub::SoftX, Stub::SoftY]) {
        mark(s, &m);
        m.thunk(exit, v, Fn::Soft, 0, false, |a, at| {
            a.lea(true, RDI, Mem::at(RSP, at + SOFT));
            a.lea(true, RSI, Mem::env(-BIAS));
        });
    }
    m.asm.finish();
    let code = &m.asm.buf;
    let offset = space.alloc(code.len(), 32).ok_or(CompileError::Full)?;
    space.write(offset, code);
    let base = space.rx_base() + offset as u64;
    Ok(Stubs { at: at.map(|o| base + u64::from(o)), helpers: base + FNS as u64 * 8 })
}

/// The way in as a function.
pub(super) fn enter_fn(stubs: &Stubs) -> crate::EnterFn {
    let at = stubs.at[Stub::Enter as usize] as usize as *const ();
    // SAFETY: the stub at this address follows the System V calling convention with this signature; calling it is unsafe.
    unsafe { std::mem::transmute::<*const (), crate::EnterFn>(at) }
}
