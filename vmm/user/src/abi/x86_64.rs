//! x86-64: registers and signal frames after `arch/x86/include/uapi/asm/{sigcontext,ucontext}.h`,
//! `arch/x86/kernel/{signal,signal_64,traps}.c` and `arch/x86/entry/vsyscall` of Linux 6.12. System calls are the host's own.

use accel::arch::{GuestArch, x86_64::program};
use tcg_engine::{
    Trap,
    user::{HostFault, UserCpu},
};

use super::{Abi, Exception, Frame, LIMIT, Pieces, Popped};
use crate::host::{Errno, KEEP};
use crate::host_numbers;
use crate::mm::Mm;
use crate::sys;
use crate::thread::Thread;
use crate::vdso::Vdso;

/// 64-bit.
pub(crate) const X86_64: Abi = Abi {
    name: "x86_64",
    machine_name: "x86_64",
    narrow_name: Some("i686"),
    platform: true,
    // FSGSBASE.
    hwcap2: Some(2),
    // A frame with AVX-512 state.
    signal_stack: Some(3632),
    arch: GuestArch::X86_64,
    machine: 62,
    wide: true,
    top: 0x4fff_ffff_f000,
    limit: LIMIT,
    pie_base: 0x3555_5555_4000,
    numbers: &[host_numbers::NUMBERS],
    host_layout: true,
    epoll_packed: true,
    align8: 8,
    number_reg: RAX,
    result_reg: RAX,
    arg_regs: [RDI, RSI, RDX, 10, 8, 9],
    sp: RSP,
    call_len: 2,
    clone_order: [2, 3, 4],
    restorer: true,
    red_zone: 128,
    // mov eax, 15; syscall
    sigreturn_code: &[0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05],
    vdso: Vdso {
        version: "LINUX_2.6",
        functions: &[
            ("__vdso_clock_gettime", &function(228)),
            ("__vdso_clock_getres", &function(229)),
            ("__vdso_gettimeofday", &function(96)),
            ("__vdso_time", &function(201)),
            ("__vdso_getcpu", &function(309)),
        ],
        returns: &[],
    },
    elf_flags: 0,
    core_registers,
    core_floats: |cpu| fxsave(cpu),
    set_core_registers,
    set_core_floats,
    call_registers: Some((15, 10)),
    exception,
    fault,
    push_frame,
    pop_frame,
    set_tls,
    kernel_code: vsyscall,
    cpuinfo,
};

/// `mov eax, NUMBER; syscall; ret`.
const fn function(number: u32) -> [u8; 8] {
    let n = number.to_le_bytes();
    [0xb8, n[0], n[1], n[2], n[3], 0x0f, 0x05, 0xc3]
}

pub(super) const RAX: usize = 0;
const RCX: usize = 1;
pub(super) const RDX: usize = 2;
const RBX: usize = 3;
pub(super) const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;
/// Bases of FS and GS.
pub(crate) const FS_BASE: usize = program::BASE + 4;
/// See [`FS_BASE`].
pub(crate) const GS_BASE: usize = program::BASE + 5;
const CS: usize = program::SELECTOR + 1;
const SS: usize = program::SELECTOR + 2;

/// `si_code` of what the kernel itself raises without more to say.
const SI_KERNEL: i32 = 0x80;
/// Vector of a page fault, and of a general protection fault.
const PAGE_FAULT: u64 = 14;
const PROTECTION: u64 = 13;

/// `si_code` of a floating-point exception by the flags that are raised and not masked.
fn float_code(raised: u64) -> i32 {
    match raised {
        r if r & 1 != 0 => 7,
        r if r & 4 != 0 => 3,
        r if r & 8 != 0 => 4,
        r if r & 0x12 != 0 => 5,
        r if r & 0x20 != 0 => 6,
        _ => 0,
    }
}

pub(super) fn exception(cpu: &mut dyn UserCpu, t: Trap) -> Exception {
    let vector = t.code & 0xff;
    let error = if t.code & 0x100 != 0 { t.code >> 16 } else { 0 };
    let pc = cpu.pc();
    let (signal, code, address) = match vector {
        0 => (libc::SIGFPE, 1, pc),
        1 => (libc::SIGTRAP, if t.value & 1 << 14 != 0 { 2 } else { 1 }, pc),
        3 => (libc::SIGTRAP, SI_KERNEL, 0),
        6 => (libc::SIGILL, 2, pc),
        11 | 12 => (libc::SIGBUS, SI_KERNEL, 0),
        16 => {
            let image = cpu.vectors().map(|v| v.1).unwrap_or_default();
            let half = |at: usize| image.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            (libc::SIGFPE, float_code(u64::from(half(2) & !half(0) & 0x3f)), pc)
        }
        17 => (libc::SIGBUS, 1, 0),
        19 => {
            let mxcsr = cpu.fp_status();
            (libc::SIGFPE, float_code(mxcsr & !(mxcsr >> 7) & 0x3f), pc)
        }
        _ => (libc::SIGSEGV, SI_KERNEL, 0),
    };
    Exception { signal, code, address, trap: [vector, error, 0] }
}

pub(super) fn fault(f: &HostFault, mapped: bool, fetch: bool) -> Exception {
    // Not an address at all: bits 47 to 63 differ.
    if !fetch && !matches!(f.address >> 47, 0 | 0x1_ffff) {
        return Exception { signal: libc::SIGSEGV, code: SI_KERNEL, address: 0, trap: [PROTECTION, 0, 0] };
    }
    let code = match f.signal {
        libc::SIGSEGV if mapped => 2,
        libc::SIGSEGV => 1,
        _ => f.code,
    };
    let error = 4 | u64::from(mapped) | u64::from(f.write) << 1 | u64::from(fetch) << 4;
    Exception { signal: f.signal, code, address: f.address, trap: [PAGE_FAULT, error, f.address] }
}

/// `struct rt_sigframe`: where to return to, `ucontext`, `siginfo`.
const UC: usize = 8;
const UC_STACK: usize = UC + 16;
const REGS: usize = UC + 40;
const SELECTORS: usize = REGS + 18 * 8;
const TRAP: usize = SELECTORS + 8;
const FPSTATE: usize = TRAP + 32;
const UC_MASK: usize = REGS + 256;
const INFO: usize = UC_MASK + 8;
const FRAME: usize = INFO + 128;
/// Registers in the order of `sigcontext`, before the instruction pointer and the flags.
const ORDER: [usize; 16] = [8, 9, 10, 11, 12, 13, 14, 15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP];

fn put(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

fn get(b: &[u8], at: usize) -> u64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(v)
}

/// What software keeps in the FXSAVE area about the rest: at this offset, with these marks there and at the end.
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

/// `struct user_regs_struct`; no system call is being made.
fn core_registers(cpu: &mut dyn UserCpu) -> Vec<u64> {
    const REST: [usize; 9] = [CS, program::FLAGS, RSP, SS, FS_BASE, GS_BASE, CS + 2, CS - 1, CS + 3];
    let mut all: Vec<u64> = GENERAL.map(|n| cpu.reg(n)).to_vec();
    all.extend([u64::MAX, cpu.pc()]);
    all.extend(REST.map(|n| cpu.reg(n)));
    all.push(cpu.reg(CS + 4));
    all
}

/// The first of `struct user_regs_struct`.
const GENERAL: [usize; 15] = [15, 14, 13, 12, RBP, RBX, 11, 10, 9, 8, RAX, RCX, RDX, RSI, RDI];

/// Takes them over. What is behind the bases, and the code segment, stays.
fn set_core_registers(cpu: &mut dyn UserCpu, r: &[u64]) {
    let Some((general, [_, pc, _, flags, sp, _, fs, gs, ..])) = r.split_first_chunk::<15>() else { return };
    GENERAL.iter().zip(general).for_each(|(n, v)| cpu.set_reg(*n, *v));
    cpu.set_pc(*pc);
    [(program::FLAGS, flags), (RSP, sp), (FS_BASE, fs), (GS_BASE, gs)]
        .into_iter()
        .for_each(|(n, v)| cpu.set_reg(n, *v));
}

/// Takes over an image in FXSAVE's form.
fn set_core_floats(cpu: &mut dyn UserCpu, b: &[u8]) {
    /// Where an XSAVE image says what it holds.
    const HEADER: usize = 512;
    let (control, mut image) = cpu.vectors().unwrap_or_default();
    if b.len() < SOFTWARE || image.len() <= HEADER {
        return;
    }
    image[..SOFTWARE].copy_from_slice(&b[..SOFTWARE]);
    image[HEADER] |= 3;
    cpu.set_vectors(&control, &image);
    cpu.set_fp_status(u64::from(u32::from_le_bytes(b[24..28].try_into().unwrap_or_default())));
}

/// The floating-point state in FXSAVE's form.
pub(super) fn fxsave(cpu: &mut dyn UserCpu) -> Vec<u8> {
    let mut image = float_image(cpu);
    image.truncate(512);
    image[SOFTWARE..].fill(0);
    image
}

/// The floating-point state as a frame has it.
pub(super) fn float_image(cpu: &mut dyn UserCpu) -> Vec<u8> {
    let (control, mut image) = cpu.vectors().unwrap_or_default();
    let status = cpu.fp_status() as u32;
    image[24..28].copy_from_slice(&status.to_le_bytes());
    let len = image.len() as u32;
    image[SOFTWARE..SOFTWARE + 4].copy_from_slice(&MAGIC1.to_le_bytes());
    image[SOFTWARE + 4..SOFTWARE + 8].copy_from_slice(&(len + 4).to_le_bytes());
    put(&mut image, SOFTWARE + 8, control.first().copied().unwrap_or(3));
    image[SOFTWARE + 16..SOFTWARE + 20].copy_from_slice(&len.to_le_bytes());
    image.extend(MAGIC2.to_le_bytes());
    image
}

/// Takes the floating-point state back from memory.
pub(super) fn take_float(cpu: &mut dyn UserCpu, mm: &Mm, at: u64) -> Option<()> {
    let mut image = vec![0; 512];
    mm.read(at, &mut image).ok()?;
    let word = |b: &[u8], at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let status = word(&image, 24);
    let len = word(&image, SOFTWARE + 16) as usize;
    if word(&image, SOFTWARE) == MAGIC1 && (576..=4096).contains(&len) {
        let mut whole = vec![0; len + 4];
        if mm.read(at, &mut whole).is_ok() && word(&whole, len) == MAGIC2 {
            whole.truncate(len);
            image = whole;
        }
    }
    cpu.set_vectors(&[], &image);
    cpu.set_fp_status(status.into());
    Some(())
}

/// Flags a handler starts without: DF, TF, RF.
pub(super) fn clear_flags(cpu: &mut dyn UserCpu) {
    let flags = cpu.reg(program::FLAGS);
    cpu.set_reg(program::FLAGS, flags & !0x1_0500);
}

fn push_frame(cpu: &mut dyn UserCpu, f: &Frame<'_>) -> Pieces {
    let float = float_image(cpu);
    let fp_at = f.top.wrapping_sub(float.len() as u64) & !63;
    let at = (fp_at.wrapping_sub(FRAME as u64) & !15).wrapping_sub(8);
    let mut b = vec![0; FRAME];
    put(&mut b, 0, f.return_to);
    // There is an extended state, and SS is meant.
    put(&mut b, UC, 7);
    for (i, v) in f.stack.iter().enumerate() {
        put(&mut b, UC_STACK + 8 * i, *v);
    }
    for (i, r) in ORDER.into_iter().enumerate() {
        put(&mut b, REGS + 8 * i, cpu.reg(r));
    }
    put(&mut b, REGS + 16 * 8, cpu.pc());
    put(&mut b, REGS + 17 * 8, cpu.reg(program::FLAGS));
    put(&mut b, SELECTORS, cpu.reg(CS) | cpu.reg(SS) << 48);
    let [number, error, address] = f.trap;
    for (i, v) in [error, number, f.mask, address].into_iter().enumerate() {
        put(&mut b, TRAP + 8 * i, v);
    }
    put(&mut b, FPSTATE, fp_at);
    put(&mut b, UC_MASK, f.mask);
    b[INFO..INFO + 128].copy_from_slice(&f.info.0);
    cpu.set_reg(RSP, at);
    cpu.set_reg(RDI, f.signal as u64);
    cpu.set_reg(RSI, at.wrapping_add(INFO as u64));
    cpu.set_reg(RDX, at.wrapping_add(UC as u64));
    cpu.set_reg(RAX, 0);
    clear_flags(cpu);
    cpu.set_pc(f.handler);
    vec![(fp_at, float), (at, b)]
}

fn pop_frame(cpu: &mut dyn UserCpu, mm: &Mm, _: bool) -> Option<Popped> {
    let b = &mut [0; FRAME];
    // The handler's return has taken the first word.
    mm.read(cpu.reg(RSP).wrapping_sub(UC as u64), b).ok()?;
    let float = get(b, FPSTATE);
    if float != 0 {
        take_float(cpu, mm, float)?;
    }
    for (i, r) in ORDER.into_iter().enumerate() {
        cpu.set_reg(r, get(b, REGS + 8 * i));
    }
    cpu.set_pc(get(b, REGS + 16 * 8));
    cpu.set_reg(program::FLAGS, get(b, REGS + 17 * 8));
    let stack = [get(b, UC_STACK), get(b, UC_STACK + 8) & 0xffff_ffff, get(b, UC_STACK + 16)];
    Some(Popped { mask: get(b, UC_MASK), stack: Some(stack) })
}

fn set_tls(cpu: &mut dyn UserCpu, _: &Mm, tls: u64) -> Result<(), Errno> {
    cpu.set_reg(FS_BASE, tls);
    Ok(())
}

/// The page at the top of the address space with three old system calls, each a function that returns.
fn vsyscall(t: &mut Thread, pc: u64) -> bool {
    const PAGE: u64 = 0xffff_ffff_ff60_0000;
    let name = match pc.wrapping_sub(PAGE) {
        0 => "gettimeofday",
        0x400 => "time",
        0x800 => "getcpu",
        _ => return false,
    };
    let sp = t.cpu.reg(RSP);
    let Ok(back) = t.process.mm.read_u64(sp) else { return false };
    let Ok(i) = host_numbers::NUMBERS.binary_search_by_key(&name, |n| n.0) else { return false };
    let args = X86_64.arg_regs.map(|r| t.cpu.reg(r));
    match sys::call(t, host_numbers::NUMBERS[i].1.into(), &args) {
        Ok(v) => t.cpu.set_reg(RAX, v),
        Err(KEEP) => {}
        Err(Errno(e)) => t.cpu.set_reg(RAX, i64::from(-e) as u64),
    }
    t.cpu.set_reg(RSP, sp.wrapping_add(8));
    t.cpu.set_pc(back);
    true
}

pub(super) fn cpuinfo(isa: &str, n: usize) -> String {
    format!("processor\t: {n}\n{isa}address sizes\t: 40 bits physical, 48 bits virtual\n\n")
}
