//! i386: registers and signal frames after `arch/x86/include/uapi/asm/sigcontext.h`, `arch/x86/include/asm/sigframe.h` and
//! `arch/x86/kernel/signal_32.c` of Linux 6.12, as on a 64-bit kernel: its selectors, and 4 GiB less two pages.

use accel::arch::{GuestArch, x86_64::program};
use tcg_engine::{
    Trap,
    user::{HostFault, UserCpu},
};

use super::x86_64::{self, RAX, RDX, RSP};
use super::{Abi, Exception, Frame, Pieces, Popped, no_code, numbers_i386};
use crate::host::Errno;
use crate::mm::Mm;
use crate::sys;
use crate::vdso::{ENTRY, Vdso};

const RCX: usize = 1;
const RBX: usize = 3;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;
const ES: usize = program::SELECTOR;
const CS: usize = program::SELECTOR + 1;
const SS: usize = program::SELECTOR + 2;
const DS: usize = program::SELECTOR + 3;
const FS: usize = program::SELECTOR + 4;
const GS: usize = program::SELECTOR + 5;

/// 32-bit.
pub(crate) const I386: Abi = Abi {
    name: "i386",
    machine_name: "i686",
    narrow_name: None,
    platform: true,
    hwcap2: Some(0),
    // A frame with AVX-512 state.
    signal_stack: Some(3376),
    arch: GuestArch::I386,
    machine: 3,
    wide: false,
    top: 0xffff_d000,
    limit: 0xffff_e000,
    pie_base: 0x5655_5000,
    numbers: &[numbers_i386::NUMBERS],
    host_layout: true,
    epoll_packed: true,
    align8: 4,
    number_reg: RAX,
    result_reg: RAX,
    arg_regs: [RBX, RCX, RDX, RSI, RDI, RBP],
    sp: RSP,
    call_len: 2,
    clone_order: [2, 4, 3],
    restorer: true,
    red_zone: 0,
    // pop eax; mov eax, 119; int 0x80; and behind it mov eax, 173; int 0x80
    sigreturn_code: &[
        0x58, 0xb8, 0x77, 0x00, 0x00, 0x00, 0xcd, 0x80, 0xb8, 0xad, 0x00, 0x00, 0x00, 0xcd, 0x80,
    ],
    vdso: Vdso {
        version: "LINUX_2.6",
        functions: &[
            // int 0x80; ret
            (ENTRY, &[0xcd, 0x80, 0xc3]),
            ("__vdso_clock_gettime", &function(265)),
            ("__vdso_clock_gettime64", &function(403)),
            ("__vdso_clock_getres", &function(266)),
            ("__vdso_gettimeofday", &function(78)),
            ("__vdso_time", &function(13)),
            ("__vdso_getcpu", &function(318)),
        ],
        returns: &[("__kernel_sigreturn", 0), ("__kernel_rt_sigreturn", RT_CODE)],
    },
    elf_flags: 0,
    core_registers,
    core_floats: |cpu| fsave(&x86_64::fxsave(cpu))[..108].to_vec(),
    set_core_registers,
    // Not taken over.
    set_core_floats: |_, _| {},
    call_registers: Some((11, 6)),
    exception,
    fault,
    push_frame,
    pop_frame,
    set_tls,
    kernel_code: no_code,
    cpuinfo: x86_64::cpuinfo,
};

/// Where the second part of the code for returns is.
const RT_CODE: u64 = 8;

/// `push ebx`, three arguments from the stack to `ebx`, `ecx` and `edx`, `mov eax, NUMBER; int 0x80; pop ebx; ret`.
const fn function(number: u32) -> [u8; 22] {
    let n = number.to_le_bytes();
    [
        0x53, 0x8b, 0x5c, 0x24, 0x08, 0x8b, 0x4c, 0x24, 0x0c, 0x8b, 0x54, 0x24, 0x10, 0xb8, n[0], n[1], n[2],
        n[3], 0xcd, 0x80, 0x5b, 0xc3,
    ]
}

/// `struct user_regs_struct` of 32-bit programs; no system call is being made.
fn core_registers(cpu: &mut dyn UserCpu) -> Vec<u64> {
    let general = [RBX, RCX, RDX, RSI, RDI, RBP, RAX, DS, ES, FS, GS].map(|n| cpu.reg(n));
    let rest = [CS, program::FLAGS, RSP, SS].map(|n| cpu.reg(n));
    general.into_iter().chain([u64::MAX, cpu.pc()]).chain(rest).collect()
}

/// Takes them over, but for segments.
fn set_core_registers(cpu: &mut dyn UserCpu, r: &[u64]) {
    let [bx, cx, dx, si, di, bp, ax, _, _, _, _, _, pc, _, flags, sp, ..] = r else { return };
    let general = [(RBX, bx), (RCX, cx), (RDX, dx), (RSI, si), (RDI, di), (RBP, bp), (RAX, ax)];
    general.into_iter().chain([(program::FLAGS, flags), (RSP, sp)]).for_each(|(n, v)| cpu.set_reg(n, *v));
    cpu.set_pc(*pc);
}

fn exception(cpu: &mut dyn UserCpu, t: Trap) -> Exception {
    x86_64::exception(cpu, t)
}

fn fault(f: &HostFault, mapped: bool, fetch: bool) -> Exception {
    let below = HostFault { address: f.address & 0xffff_ffff, ..*f };
    x86_64::fault(&below, mapped, fetch)
}

/// `struct sigcontext`, in words: where registers are.
const CONTEXT: usize = 22;
const ORDER: [(usize, usize); 16] = [
    (0, GS),
    (1, FS),
    (2, ES),
    (3, DS),
    (4, RDI),
    (5, RSI),
    (6, RBP),
    (7, RSP),
    (8, RBX),
    (9, RDX),
    (10, RCX),
    (11, RAX),
    (15, CS),
    (16, program::FLAGS),
    (17, RSP),
    (18, SS),
];
const TRAP: usize = 12;
const PC: usize = 14;
const FPSTATE: usize = 19;
const OLD_MASK: usize = 20;

/// `struct sigframe`: where to return to, the signal, `sigcontext`, room for a floating-point state, the upper mask, code.
const OLD_CONTEXT: usize = 8;
const OLD_UPPER: usize = OLD_CONTEXT + CONTEXT * 4 + 624;
const OLD_FRAME: usize = OLD_UPPER + 4 + 8;
/// `struct rt_sigframe`: where to return to, the signal, two addresses, `siginfo`, `ucontext`, code.
const INFO: usize = 16;
const UC: usize = INFO + 128;
const UC_STACK: usize = UC + 8;
const UC_CONTEXT: usize = UC_STACK + 12;
const UC_MASK: usize = UC_CONTEXT + CONTEXT * 4;
const RT_FRAME: usize = UC_MASK + 8 + 8;
/// Bytes of the state in FSAVE's form, which stands before FXSAVE's.
const FSAVE: usize = 112;

fn put(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 4].copy_from_slice(&(v as u32).to_le_bytes());
}

fn get(b: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]))
}

fn half(b: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([b[at], b[at + 1]]))
}

/// FSAVE's form of an XSAVE image, with the mark that FXSAVE's follows.
fn fsave(image: &[u8]) -> Vec<u8> {
    let mut b = vec![0; FSAVE];
    let (control, status) = (half(image, 0), half(image, 2));
    // Two bits for each physical register: 3 is empty, 0 valid, 1 zero, 2 special.
    let top = status >> 11 & 7;
    let mut tags = 0;
    for n in 0..8 {
        let st = 32 + 16 * ((n + 8 - top as usize) % 8);
        let (low, high, exponent) = (get(image, st), get(image, st + 4), half(image, st + 8) & 0x7fff);
        let tag = match (image[4] >> n & 1, exponent) {
            (0, _) => 3,
            (_, 0x7fff) => 2,
            (_, 0) => {
                if low | high == 0 {
                    1
                } else {
                    2
                }
            }
            _ => {
                if high >> 31 == 0 {
                    2
                } else {
                    0
                }
            }
        };
        tags |= tag << (2 * n);
    }
    for (i, v) in [control, status, tags].into_iter().enumerate() {
        put(&mut b, 4 * i, 0xffff_0000 | v);
    }
    put(&mut b, 12, get(image, 8));
    put(&mut b, 16, half(image, 12) | half(image, 6) << 16);
    put(&mut b, 20, get(image, 16));
    put(&mut b, 24, half(image, 20));
    for n in 0..8 {
        b[28 + 10 * n..38 + 10 * n].copy_from_slice(&image[32 + 16 * n..42 + 16 * n]);
    }
    put(&mut b, 108, status);
    b
}

fn context(cpu: &mut dyn UserCpu, f: &Frame<'_>, fp_at: u64) -> Vec<u8> {
    let mut b = vec![0; CONTEXT * 4];
    for (word, reg) in ORDER {
        put(&mut b, 4 * word, cpu.reg(reg));
    }
    let [number, error, address] = f.trap;
    put(&mut b, 4 * TRAP, number);
    put(&mut b, 4 * TRAP + 4, error);
    put(&mut b, 4 * PC, cpu.pc());
    put(&mut b, 4 * FPSTATE, fp_at);
    put(&mut b, 4 * OLD_MASK, f.mask);
    put(&mut b, 4 * OLD_MASK + 4, address);
    b
}

fn push_frame(cpu: &mut dyn UserCpu, f: &Frame<'_>) -> Pieces {
    let image = x86_64::float_image(cpu);
    let fx_at = f.top.wrapping_sub(image.len() as u64) & 0xffff_ffc0;
    let fp_at = fx_at.wrapping_sub(FSAVE as u64);
    let float = [fsave(&image), image].concat();
    let len = if f.wants_info { RT_FRAME } else { OLD_FRAME };
    // Behind the word to return to the stack is aligned as a call leaves it.
    let at = ((fp_at.wrapping_sub(len as u64).wrapping_add(4)) & !15).wrapping_sub(4) & 0xffff_ffff;
    let mut b = vec![0; len];
    let ours = f.return_to_ours;
    put(&mut b, 0, if ours && f.wants_info { f.return_to + RT_CODE } else { f.return_to });
    put(&mut b, 4, f.signal as u64);
    let context = context(cpu, f, fp_at);
    if f.wants_info {
        put(&mut b, 8, at + INFO as u64);
        put(&mut b, 12, at + UC as u64);
        b[INFO..INFO + 128].copy_from_slice(&sys::info_to_guest(&f.info.0));
        put(&mut b, UC, 1);
        for (i, v) in f.stack.iter().enumerate() {
            put(&mut b, UC_STACK + 4 * i, *v);
        }
        b[UC_CONTEXT..UC_CONTEXT + CONTEXT * 4].copy_from_slice(&context);
        put(&mut b, UC_MASK, f.mask);
        put(&mut b, UC_MASK + 4, f.mask >> 32);
    } else {
        b[OLD_CONTEXT..OLD_CONTEXT + CONTEXT * 4].copy_from_slice(&context);
        put(&mut b, OLD_UPPER, f.mask >> 32);
    }
    cpu.set_reg(RSP, at);
    cpu.set_reg(RAX, f.signal as u64);
    cpu.set_reg(RDX, if f.wants_info { at + INFO as u64 } else { 0 });
    cpu.set_reg(RCX, if f.wants_info { at + UC as u64 } else { 0 });
    for r in [DS, ES, SS] {
        cpu.set_reg(r, program::DATA.into());
    }
    cpu.set_reg(CS, program::CODE32.into());
    x86_64::clear_flags(cpu);
    cpu.set_pc(f.handler);
    vec![(fp_at, float), (at, b)]
}

fn pop_frame(cpu: &mut dyn UserCpu, mm: &Mm, information: bool) -> Option<Popped> {
    let sp = cpu.reg(RSP);
    let mut b = vec![0; if information { RT_FRAME } else { OLD_FRAME }];
    // What has been taken off the stack: the address, and by the older way the signal as well.
    mm.read(sp.wrapping_sub(if information { 4 } else { 8 }), &mut b).ok()?;
    let start = if information { UC_CONTEXT } else { OLD_CONTEXT };
    let context = b[start..start + CONTEXT * 4].to_vec();
    let fp_at = get(&context, 4 * FPSTATE);
    if fp_at != 0 {
        x86_64::take_float(cpu, mm, fp_at + FSAVE as u64)?;
    }
    for (word, reg) in ORDER {
        if word != 17 {
            cpu.set_reg(
                reg,
                get(&context, 4 * word) & if (ES..=GS).contains(&reg) { 0xffff } else { 0xffff_ffff },
            );
        }
    }
    cpu.set_pc(get(&context, 4 * PC));
    if !information {
        // The alternate stack is not told.
        let mask = get(&context, 4 * OLD_MASK) | get(&b, OLD_UPPER) << 32;
        return Some(Popped { mask, stack: None });
    }
    let stack = [get(&b, UC_STACK), get(&b, UC_STACK + 4), get(&b, UC_STACK + 8)];
    Some(Popped { mask: get(&b, UC_MASK) | get(&b, UC_MASK + 4) << 32, stack: Some(stack) })
}

/// The thread pointer is a segment's description.
fn set_tls(cpu: &mut dyn UserCpu, mm: &Mm, tls: u64) -> Result<(), Errno> {
    sys::set_segment(cpu, mm, tls).map(|_| ())
}
