//! RISC-V: registers and signal frames after `arch/riscv/include/uapi/asm/{ptrace,sigcontext,ucontext}.h` and
//! `arch/riscv/kernel/{signal,traps}.c` of Linux 6.12.

use accel::arch::GuestArch;
use tcg_engine::{
    Trap,
    user::{HostFault, UserCpu},
};

use super::{Abi, Exception, Frame, Pieces, Popped, generic, get, no_code, put};
use crate::host::Errno;
use crate::mm::Mm;

const RA: usize = 1;
const SP: usize = 2;
const TP: usize = 4;
const A0: usize = 10;
const A7: usize = 17;

/// 64-bit.
pub(crate) const RISCV64: Abi = Abi {
    name: "riscv64",
    machine_name: "riscv64",
    platform: false,
    hwcap2: None,
    signal_stack: None,
    arch: GuestArch::Riscv64,
    machine: 243,
    wide: true,
    // As with Sv39: the top, and two thirds of the address space.
    top: 0x3f_ffff_f000,
    pie_base: 0x2a_aaaa_a000,
    numbers: generic::NUMBERS,
    host_layout: false,
    number_reg: A7,
    result_reg: A0,
    arg_regs: [10, 11, 12, 13, 14, 15],
    sp: SP,
    call_len: 4,
    clone_order: [2, 4, 3],
    restorer: false,
    red_zone: 0,
    // li a7, 139; ecall
    sigreturn_code: &[0x93, 0x08, 0xb0, 0x08, 0x73, 0x00, 0x00, 0x00],
    exception,
    fault,
    push_frame,
    pop_frame,
    set_tls,
    kernel_code: no_code,
    cpuinfo,
};

fn exception(cpu: &mut dyn UserCpu, t: Trap) -> Exception {
    const ILL_ILLOPC: i32 = 1;
    const TRAP_BRKPT: i32 = 1;
    const BUS_ADRALN: i32 = 1;
    const SEGV_ACCERR: i32 = 2;
    let (signal, code, address) = match t.code {
        2 => (libc::SIGILL, ILL_ILLOPC, cpu.pc()),
        3 => (libc::SIGTRAP, TRAP_BRKPT, cpu.pc()),
        0 | 4 | 6 => (libc::SIGBUS, BUS_ADRALN, t.value),
        _ => (libc::SIGSEGV, SEGV_ACCERR, t.value),
    };
    Exception { signal, code, address, trap: [0; 3] }
}

fn fault(f: &HostFault, mapped: bool, _: bool) -> Exception {
    const SEGV_MAPERR: i32 = 1;
    const SEGV_ACCERR: i32 = 2;
    let code = match f.signal {
        libc::SIGSEGV if mapped => SEGV_ACCERR,
        libc::SIGSEGV => SEGV_MAPERR,
        _ => f.code,
    };
    Exception { signal: f.signal, code, address: f.address, trap: [0; 3] }
}

fn set_tls(cpu: &mut dyn UserCpu, _: &Mm, tls: u64) -> Result<(), Errno> {
    cpu.set_reg(TP, tls);
    Ok(())
}

fn cpuinfo(isa: &str, n: usize) -> String {
    let mmu = if isa.starts_with("rv32") { "sv32" } else { "sv39" };
    format!(
        "processor\t: {n}\nhart\t\t: {n}\nisa\t\t: {isa}\nmmu\t\t: {mmu}\nmvendorid\t: 0x0\nmarchid\t\t: 0x0\nmimpid\t\t: 0x0\nhart isa\t: {isa}\n\n"
    )
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

fn push_frame(cpu: &mut dyn UserCpu, f: &Frame<'_>) -> Pieces {
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
    vec![(at, b)]
}

fn pop_frame(cpu: &mut dyn UserCpu, mm: &Mm) -> Option<Popped> {
    let b = &mut [0; FRAME];
    mm.read(cpu.reg(SP), b).ok()?;
    cpu.set_pc(get(b, REGS) & !1);
    for n in 1..32 {
        cpu.set_reg(n, get(b, REGS + 8 * n));
    }
    for n in 0..32 {
        cpu.set_fp_reg(n, get(b, FP + 8 * n));
    }
    cpu.set_fp_status(get(b, FCSR) & 0xff);
    let stack = [get(b, UC_STACK), get(b, UC_STACK + 8) & 0xffff_ffff, get(b, UC_STACK + 16)];
    Some(Popped { mask: get(b, UC_MASK), stack })
}
