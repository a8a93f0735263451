//! RISC-V: registers and signal frames after `arch/riscv/include/uapi/asm/{ptrace,sigcontext,ucontext}.h` and
//! `arch/riscv/kernel/{signal,traps}.c` of Linux 6.12.

use accel::arch::GuestArch;
use tcg_engine::{Trap, user::UserCpu};

use super::{Abi, Frame, Popped, generic};

const RA: usize = 1;
const SP: usize = 2;
const TP: usize = 4;
const A0: usize = 10;
const A7: usize = 17;

/// 64-bit.
pub(crate) const RISCV64: Abi = Abi {
    name: "riscv64",
    arch: GuestArch::Riscv64,
    machine: 243,
    numbers: generic::NUMBERS,
    number_reg: A7,
    result_reg: A0,
    arg_regs: [10, 11, 12, 13, 14, 15],
    sp: SP,
    tp: TP,
    call_len: 4,
    // li a7, 139; ecall
    sigreturn_code: &[0x93, 0x08, 0xb0, 0x08, 0x73, 0x00, 0x00, 0x00],
    exception,
    push_frame,
    frame_len: FRAME,
    pop_frame,
};

fn exception(t: Trap, pc: u64) -> (i32, i32, u64) {
    const ILL_ILLOPC: i32 = 1;
    const TRAP_BRKPT: i32 = 1;
    const BUS_ADRALN: i32 = 1;
    const SEGV_ACCERR: i32 = 2;
    match t.code {
        2 => (libc::SIGILL, ILL_ILLOPC, pc),
        3 => (libc::SIGTRAP, TRAP_BRKPT, pc),
        0 | 4 | 6 => (libc::SIGBUS, BUS_ADRALN, t.value),
        _ => (libc::SIGSEGV, SEGV_ACCERR, t.value),
    }
}

/// `struct rt_sigframe`: `siginfo`, then `ucontext`.
const INFO: usize = 0;
const UC: usize = 128;
const UC_STACK: usize = UC + 16;
const UC_MASK: usize = UC + 40;
/// `uc_mcontext`, aligned to 16: the integer registers with pc first, then the floating-point ones.
const REGS: usize = UC + 176;
const FP: usize = REGS + 32 * 8;
const FCSR: usize = FP + 32 * 8;
/// The floating-point part has room for quad precision.
const FRAME: usize = FP + 528;

fn put(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

fn get(b: &[u8], at: usize) -> u64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(v)
}

fn push_frame(cpu: &mut dyn UserCpu, f: &Frame<'_>) -> (u64, Vec<u8>) {
    let mut b = vec![0; FRAME];
    b[INFO..INFO + 128].copy_from_slice(&f.info.0);
    for (i, v) in f.stack.iter().enumerate() {
        put(&mut b, UC_STACK + 8 * i, *v);
    }
    put(&mut b, UC_MASK, f.mask);
    put(&mut b, REGS, cpu.pc());
    for n in 1..32 {
        put(&mut b, REGS + 8 * n, cpu.reg(n));
    }
    for n in 0..32 {
        put(&mut b, FP + 8 * n, cpu.fp_reg(n));
    }
    let status = cpu.fp_status() as u32;
    b[FCSR..FCSR + 4].copy_from_slice(&status.to_le_bytes());
    let at = f.top.wrapping_sub(FRAME as u64) & !15;
    cpu.set_reg(RA, f.return_to);
    cpu.set_reg(SP, at);
    cpu.set_reg(A0, f.signal as u64);
    cpu.set_reg(A0 + 1, at + INFO as u64);
    cpu.set_reg(A0 + 2, at + UC as u64);
    cpu.set_pc(f.handler);
    (at, b)
}

fn pop_frame(cpu: &mut dyn UserCpu, b: &[u8]) -> Popped {
    cpu.set_pc(get(b, REGS) & !1);
    for n in 1..32 {
        cpu.set_reg(n, get(b, REGS + 8 * n));
    }
    for n in 0..32 {
        cpu.set_fp_reg(n, get(b, FP + 8 * n));
    }
    cpu.set_fp_status(get(b, FCSR) & 0xff);
    let stack = [get(b, UC_STACK), get(b, UC_STACK + 8) & 0xffff_ffff, get(b, UC_STACK + 16)];
    Popped { mask: get(b, UC_MASK), stack }
}
