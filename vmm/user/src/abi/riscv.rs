//! RISC-V: registers and signal frames after `arch/riscv/include/uapi/asm/{ptrace,sigcontext,ucontext}.h` and
//! `arch/riscv/kernel/{signal,traps}.c` of Linux 6.12.

use accel::arch::GuestArch;
use tcg_engine::{
    Trap,
    user::{HostFault, UserCpu},
};

use super::{Abi, Exception, Frame, LIMIT, Pieces, Popped, generic, no_code};
use crate::host::Errno;
use crate::mm::Mm;
use crate::sys;
use crate::vdso::Vdso;

const RA: usize = 1;
const SP: usize = 2;
const TP: usize = 4;
const A0: usize = 10;
const A7: usize = 17;

/// 64-bit.
pub(crate) const RISCV64: Abi = Abi {
    name: "riscv64",
    machine_name: "riscv64",
    narrow_name: None,
    platform: false,
    hwcap2: None,
    signal_stack: None,
    arch: GuestArch::Riscv64,
    machine: 243,
    wide: true,
    // As with Sv39: the top, and two thirds of the address space.
    top: 0x3f_ffff_f000,
    limit: LIMIT,
    pie_base: 0x2a_aaaa_a000,
    numbers: &[generic::COMMON, generic::WIDE],
    host_layout: false,
    epoll_packed: false,
    align8: 8,
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
    vdso: Vdso {
        version: "LINUX_4.15",
        functions: &[
            ("__vdso_clock_gettime", &function(113)),
            ("__vdso_clock_getres", &function(114)),
            ("__vdso_gettimeofday", &function(169)),
            ("__vdso_getcpu", &function(168)),
            ("__vdso_flush_icache", &function(259)),
            ("__vdso_riscv_hwprobe", &function(258)),
        ],
        returns: &[("__vdso_rt_sigreturn", 0)],
    },
    // RVC, the double-float calling convention.
    elf_flags: 5,
    core_registers,
    core_floats,
    set_core_registers: |cpu, r| {
        cpu.set_pc(r.first().copied().unwrap_or(0) & !1);
        r.iter().enumerate().skip(1).take(31).for_each(|(n, v)| cpu.set_reg(n, *v));
    },
    set_core_floats: |cpu, b| {
        for (n, w) in b.chunks_exact(8).enumerate() {
            let w = u64::from_le_bytes(w.try_into().unwrap_or_default());
            if n < 32 { cpu.set_fp_reg(n, w) } else { cpu.set_fp_status(w & 0xff) }
        }
    },
    call_registers: None,
    exception,
    fault,
    push_frame,
    pop_frame,
    set_tls,
    kernel_code: no_code,
    cpuinfo,
};

/// 32-bit.
pub(crate) const RISCV32: Abi = Abi {
    name: "riscv32",
    machine_name: "riscv32",
    arch: GuestArch::Riscv32,
    wide: false,
    top: 0xffff_d000,
    limit: 0xffff_e000,
    pie_base: 0x5555_5000,
    numbers: &[generic::COMMON, generic::NARROW],
    // Linux's has no clocks of 32 bits.
    vdso: Vdso {
        functions: &[
            ("__vdso_getcpu", &function(168)),
            ("__vdso_flush_icache", &function(259)),
            ("__vdso_riscv_hwprobe", &function(258)),
        ],
        ..RISCV64.vdso
    },
    // Made so.
    host_layout: true,
    push_frame: push_frame_32,
    pop_frame: pop_frame_32,
    ..RISCV64
};

/// `li a7, NUMBER; ecall; ret`.
const fn function(number: u32) -> [u8; 12] {
    let li = (number << 20 | 0x893).to_le_bytes();
    [li[0], li[1], li[2], li[3], 0x73, 0, 0, 0, 0x67, 0x80, 0, 0]
}

fn core_registers(cpu: &mut dyn UserCpu) -> Vec<u64> {
    std::iter::once(cpu.pc()).chain((1..32).map(|n| cpu.reg(n))).collect()
}

fn core_floats(cpu: &mut dyn UserCpu) -> Vec<u8> {
    let status = cpu.fp_status();
    (0..32).map(|n| cpu.fp_reg(n)).chain([status]).flat_map(u64::to_le_bytes).collect()
}

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

/// `struct rt_sigframe`: `siginfo`, then `ucontext`. What differs between widths: bytes of a word, offsets of the alternate
/// stack, the mask, and `uc_mcontext`, which is aligned to 16 and begins with the integer registers, pc first.
struct Shape {
    word: usize,
    stack: usize,
    mask: usize,
    regs: usize,
}

const INFO: usize = 0;
const UC: usize = 128;
const WIDE: Shape = Shape { word: 8, stack: UC + 16, mask: UC + 40, regs: UC + 176 };
const NARROW: Shape = Shape { word: 4, stack: UC + 8, mask: UC + 20, regs: UC + 160 };
/// The floating-point part has room for quad precision.
const FP_BYTES: usize = 528;

impl Shape {
    const fn fp(&self) -> usize {
        self.regs + 32 * self.word
    }

    const fn fcsr(&self) -> usize {
        self.fp() + 32 * 8
    }

    const fn len(&self) -> usize {
        self.fp() + FP_BYTES
    }

    fn put(&self, b: &mut [u8], at: usize, v: u64) {
        b[at..at + self.word].copy_from_slice(&v.to_le_bytes()[..self.word]);
    }

    fn get(&self, b: &[u8], at: usize) -> u64 {
        long(b, at, self.word)
    }

    fn push(&self, cpu: &mut dyn UserCpu, f: &Frame<'_>, info: &[u8; 128]) -> Pieces {
        let mut b = vec![0; self.len()];
        b[INFO..INFO + 128].copy_from_slice(info);
        for (i, v) in f.stack.iter().enumerate() {
            self.put(&mut b, self.stack + self.word * i, *v);
        }
        b[self.mask..self.mask + 8].copy_from_slice(&f.mask.to_le_bytes());
        self.put(&mut b, self.regs, cpu.pc());
        for n in 1..32 {
            self.put(&mut b, self.regs + self.word * n, cpu.reg(n));
        }
        for n in 0..32 {
            let at = self.fp() + 8 * n;
            b[at..at + 8].copy_from_slice(&cpu.fp_reg(n).to_le_bytes());
        }
        let status = cpu.fp_status() as u32;
        b[self.fcsr()..self.fcsr() + 4].copy_from_slice(&status.to_le_bytes());
        let at = f.top.wrapping_sub(self.len() as u64) & !15;
        cpu.set_reg(RA, f.return_to);
        cpu.set_reg(SP, at);
        cpu.set_reg(A0, f.signal as u64);
        cpu.set_reg(A0 + 1, at.wrapping_add(INFO as u64));
        cpu.set_reg(A0 + 2, at.wrapping_add(UC as u64));
        cpu.set_pc(f.handler);
        vec![(at, b)]
    }

    fn pop(&self, cpu: &mut dyn UserCpu, mm: &Mm) -> Option<Popped> {
        let mut b = vec![0; self.len()];
        mm.read(cpu.reg(SP), &mut b).ok()?;
        cpu.set_pc(self.get(&b, self.regs) & !1);
        for n in 1..32 {
            cpu.set_reg(n, self.get(&b, self.regs + self.word * n));
        }
        for n in 0..32 {
            cpu.set_fp_reg(n, long(&b, self.fp() + 8 * n, 8));
        }
        cpu.set_fp_status(long(&b, self.fcsr(), 4) & 0xff);
        let at = |i: usize| self.get(&b, self.stack + self.word * i);
        Some(Popped { mask: long(&b, self.mask, 8), stack: Some([at(0), at(1) & 0xffff_ffff, at(2)]) })
    }
}

fn long(b: &[u8], at: usize, n: usize) -> u64 {
    let mut v = [0; 8];
    v[..n].copy_from_slice(&b[at..at + n]);
    u64::from_le_bytes(v)
}

fn push_frame(cpu: &mut dyn UserCpu, f: &Frame<'_>) -> Pieces {
    WIDE.push(cpu, f, &f.info.0)
}

fn pop_frame(cpu: &mut dyn UserCpu, mm: &Mm, _: bool) -> Option<Popped> {
    WIDE.pop(cpu, mm)
}

fn push_frame_32(cpu: &mut dyn UserCpu, f: &Frame<'_>) -> Pieces {
    NARROW.push(cpu, f, &sys::info_to_guest(&f.info.0))
}

fn pop_frame_32(cpu: &mut dyn UserCpu, mm: &Mm, _: bool) -> Option<Popped> {
    NARROW.pop(cpu, mm)
}
