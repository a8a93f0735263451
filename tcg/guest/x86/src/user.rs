//! Programs without a kernel: the state one starts a program with, the tables it would keep, registers by number.
//!
//! Selectors are those of Linux on 64-bit x86 (`arch/x86/include/asm/segment.h` of Linux 6.12), for 32-bit programs as well. The
//! image of the floating-point state is XSAVE's standard form (SDM volume 1, 13.4).

use std::sync::{Mutex, MutexGuard, PoisonError};

use accel::{
    AccelError, CpuModel,
    arch::{
        GuestArch,
        x86_64::program::{
            BASE, CODE32, CODE64, DATA, FLAGS, LDT, LDT_COUNT, SELECTOR, TLS, TLS_COUNT, TLS_FIRST,
        },
        x86_topology::Topology,
    },
};
use tcg_engine::{
    Cx, Trap,
    user::{UserEvent, UserGuest},
};

use crate::{
    control::{
        CR0_EM, CR0_MP, CR0_NE, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_FSGSBASE, CR4_OSFXSR, CR4_OSXMMEXCPT,
        CR4_OSXSAVE, CR4_PAE,
    },
    cpu::Model,
    cpuid, debug,
    exceptions::{self, vector},
    flags,
    guest::{EXIT_DEBUG, EXIT_INT, EXIT_STEP, EXIT_SYSCALL, X86},
    msr::{EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE},
    segment::{self, Descriptor},
    state::{Cpu, seg},
    xsave,
};

/// Flat segments of a program: code of 32 bits, data, code of 64 bits.
const FLAT: [u64; 3] = [0x00cf_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];
/// Flags a program may change.
const CHANGEABLE: u64 = 0x24_0dd5;
/// The vector of Linux's system calls below 64-bit mode.
const LINUX: u64 = 0x80;

/// What takes the place of a kernel's tables.
#[derive(Debug)]
pub struct Program {
    /// 64-bit.
    wide: bool,
    /// The local descriptor table, as long as it has ever been.
    ldt: Mutex<Vec<u64>>,
}

impl Program {
    fn ldt(&self) -> MutexGuard<'_, Vec<u64>> {
        self.ldt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor a selector names.
    pub(crate) fn descriptor(&self, s: &Cpu, selector: u16) -> Option<u64> {
        let index = selector >> 3;
        if selector & 4 != 0 {
            return self.ldt().get(usize::from(index)).copied();
        }
        match index {
            4..=6 => Some(FLAT[usize::from(index - 4)]),
            n => s.tls.get(usize::from(n.checked_sub(TLS_FIRST)?)).copied(),
        }
    }

    /// What a software interrupt does: an exit code, or the exception it raises.
    pub(crate) fn interrupt(&self, n: u64, general: bool) -> Result<u32, Trap> {
        match n {
            LINUX if general && !self.wide => Ok(EXIT_SYSCALL),
            n if !general || n == u64::from(vector::BP) || n == u64::from(vector::OF) => {
                Ok(EXIT_INT + n as u32)
            }
            n => Err(exceptions::with_error(vector::GP, (n * 8 + 2) as u16)),
        }
    }
}

/// Puts a selector into a segment register, as far as a program may.
fn load(p: &Program, s: &mut Cpu, n: usize, selector: u16) {
    match p.descriptor(s, selector) {
        Some(raw) if selector & !3 != 0 => {
            let d = Descriptor { at: 0, raw, high: 0 };
            let good = d.is_segment() && d.present() && d.dpl() == 3 && (n != seg::CS || d.is_code());
            if good {
                segment::put(s, n, selector | 3, d, d.access() | segment::ACCESSED);
            }
        }
        _ if n != seg::CS && (n != seg::SS || s.code64()) => {
            s.seg_sel[n] = u64::from(selector);
            (s.seg_access[n], s.seg_base[n], s.seg_limit[n]) = (0, 0, 0);
        }
        _ => {}
    }
}

impl UserGuest for X86 {
    fn for_user(arch: GuestArch, cpu: &CpuModel) -> Result<Self, AccelError> {
        let wide = match arch {
            GuestArch::X86_64 => true,
            GuestArch::I386 => false,
            _ => return Err(AccelError::WrongGuest { accel: "tcg", guest: arch }),
        };
        let mut cpu = cpu.clone();
        if cpu.name.is_empty() {
            cpu.name = "max".to_owned();
        }
        Ok(Self::for_program(Model::new(&cpu, Topology::default())?, Program { wide, ldt: Mutex::default() }))
    }

    fn enter_user(&self, s: &mut Cpu) {
        let wide = self.program.as_ref().is_some_and(|p| p.wide);
        s.cr0 = s.cr0 & !(CR0_EM | CR0_TS) | CR0_PE | CR0_PG | CR0_MP | CR0_NE | CR0_WP;
        s.cr4 = CR4_PAE | CR4_OSXMMEXCPT;
        let has = self.model().has();
        if has.sse {
            s.cr4 |= CR4_OSFXSR;
        }
        if has.fsgsbase {
            s.cr4 |= CR4_FSGSBASE;
        }
        if has.xsave {
            s.cr4 |= CR4_OSXSAVE;
            s.xcr0 = cpuid::xcr0_mask(self.model()) & !(1 << 9);
        }
        s.msrs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
        // No port is allowed, and nothing is in the tables.
        (s.tr.limit, s.gdt.limit, s.idt.limit) = (0, 0x7f, 0xfff);
        (s.ldt.access, s.ldt.limit) = (0, 0);
        s.cpl = 3;
        s.regs = [0; 16];
        s.set_rflags(flags::FIXED | flags::IF);
        let put = |s: &mut Cpu, n: usize, selector: u16| {
            let d = Descriptor { at: 0, raw: FLAT[usize::from((selector >> 3) - 4)], high: 0 };
            segment::put(s, n, selector, d, d.access());
        };
        put(s, seg::CS, if wide { CODE64 } else { CODE32 });
        put(s, seg::SS, DATA);
        for n in [seg::DS, seg::ES, seg::FS, seg::GS] {
            if wide || n >= seg::FS {
                (s.seg_sel[n], s.seg_base[n], s.seg_limit[n], s.seg_access[n]) = (0, 0, 0, 0);
            } else {
                put(s, n, DATA);
            }
        }
        s.pc = 0;
    }

    fn set_parallel(&self, _: &mut Cpu) {}

    fn user_event(&self, s: &mut Cpu, code: u32) -> Option<UserEvent> {
        match code {
            EXIT_SYSCALL => {
                if s.code64() {
                    s.regs[1] = s.pc;
                    s.regs[11] = s.rflags();
                }
                Some(UserEvent::Syscall)
            }
            EXIT_STEP | EXIT_DEBUG => debug::step_trap(s, code == EXIT_STEP).map(UserEvent::Trap),
            n if (EXIT_INT..EXIT_INT + 256).contains(&n) => {
                Some(UserEvent::Trap(exceptions::plain((n - EXIT_INT) as u8)))
            }
            _ => None,
        }
    }

    fn reg(&self, s: &Cpu, n: usize) -> u64 {
        match n {
            0..16 => s.regs[n],
            FLAGS => s.rflags(),
            SELECTOR..BASE => s.seg_sel[n - SELECTOR],
            BASE..TLS => s.seg_base[n - BASE],
            _ if n < TLS + TLS_COUNT => s.tls[n - TLS],
            _ if (LDT..LDT + LDT_COUNT).contains(&n) => {
                let ldt = self.program.as_ref().map(Program::ldt);
                ldt.and_then(|l| l.get(n - LDT).copied()).unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn set_reg(&self, s: &mut Cpu, n: usize, value: u64) {
        let Some(p) = &self.program else { return };
        match n {
            0..16 => s.regs[n] = if p.wide { value } else { value & 0xffff_ffff },
            FLAGS => {
                let old = s.rflags();
                s.set_rflags(old & !CHANGEABLE | value & CHANGEABLE);
            }
            SELECTOR..BASE => load(p, s, n - SELECTOR, value as u16),
            BASE..TLS => s.seg_base[n - BASE] = value,
            _ if n < TLS + TLS_COUNT => {
                s.tls[n - TLS] = value;
                // What is in use is loaded again, as when a kernel comes back to the thread.
                let selector = u64::from(TLS_FIRST + (n - TLS) as u16) << 3 | 3;
                for r in [seg::DS, seg::ES, seg::FS, seg::GS] {
                    if s.seg_sel[r] == selector {
                        load(p, s, r, selector as u16);
                    }
                }
            }
            _ if (LDT..LDT + LDT_COUNT).contains(&n) => {
                let mut ldt = p.ldt();
                if ldt.len() <= n - LDT {
                    ldt.resize(n - LDT + 1, 0);
                }
                ldt[n - LDT] = value;
            }
            _ => {}
        }
    }

    fn fp_reg(&self, s: &Cpu, n: usize) -> u64 {
        s.xmm.get(n).map_or(0, |x| x[0])
    }

    fn set_fp_reg(&self, s: &mut Cpu, n: usize, value: u64) {
        if let Some(x) = s.xmm.get_mut(n) {
            x[0] = value;
        }
    }

    /// MXCSR.
    fn fp_status(&self, cx: &mut Cx<'_, Self>) -> u64 {
        u64::from(xsave::mxcsr(cx))
    }

    fn set_fp_status(&self, cx: &mut Cx<'_, Self>, value: u64) {
        // Bits that do not exist have been taken away.
        let _ = xsave::set_mxcsr(cx, value as u32 & xsave::MXCSR_MASK);
    }

    /// XCR0, and the XSAVE image but for the flags of MXCSR.
    fn vectors(&self, s: &Cpu) -> Option<(Vec<u64>, Vec<u8>)> {
        Some((vec![s.xcr0], xsave::image(s)))
    }

    fn set_vectors(&self, s: &mut Cpu, _: &[u64], bytes: &[u8]) {
        xsave::set_image(s, bytes);
    }

    /// EDX of CPUID's leaf 1.
    fn hwcap(&self) -> u64 {
        let s = self.state();
        u64::from(cpuid::leaf(self.model(), &s, 1, 0)[3])
    }

    /// Lines of `/proc/cpuinfo` from the vendor to the flags.
    fn isa(&self) -> String {
        let id = &self.model().id;
        // Names that differ from CPUID's.
        let shown = |f: &str| match f {
            "sse3" => "pni".to_owned(),
            "lahf-lm" => "lahf_lm".to_owned(),
            "invtsc" => "constant_tsc nonstop_tsc".to_owned(),
            "tsc-deadline" => "tsc_deadline_timer".to_owned(),
            "cr8legacy" => "cr8_legacy".to_owned(),
            "sha-ni" => "sha_ni".to_owned(),
            f => f.replace(['.', '-'], "_"),
        };
        let flags: Vec<String> = id.features.iter().map(|f| shown(f)).collect();
        format!(
            "vendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\nstepping\t: {}\nflags\t\t: {}\n",
            id.vendor,
            id.family,
            id.model,
            id.brand.trim(),
            id.stepping,
            flags.join(" ")
        )
    }
}

impl X86 {
    /// A program's first state.
    fn state(&self) -> Cpu {
        let mut s = crate::snapshot::reset(self.model(), 0);
        self.enter_user(&mut s);
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(arch: GuestArch) -> (X86, Cpu) {
        let g = X86::for_user(arch, &CpuModel::default()).unwrap();
        let s = g.state();
        (g, s)
    }

    #[test]
    fn a_program_starts_flat() {
        let (_, s) = guest(GuestArch::X86_64);
        assert!(s.code64() && s.cpl == 3 && s.seg_sel[seg::CS] == 0x33 && s.seg_sel[seg::SS] == 0x2b);
        let (_, s) = guest(GuestArch::I386);
        assert!(!s.code64() && s.seg_limit[seg::DS] == 0xffff_ffff && s.seg_sel[seg::CS] == 0x23);
        assert_eq!(crate::mode::Mode::of(&s).bitness(), 32);
    }

    #[test]
    fn segments_of_a_thread_are_loaded() {
        let (g, mut s) = guest(GuestArch::I386);
        // Base 0x12345678, 4 GiB, writable data of level 3.
        g.set_reg(&mut s, TLS, 0x12cf_f334_5678_ffff);
        g.set_reg(&mut s, SELECTOR + seg::GS, 0x63);
        assert_eq!((s.seg_base[seg::GS], s.seg_sel[seg::GS]), (0x1234_5678, 0x63));
        g.set_reg(&mut s, TLS, 0x00cf_f300_1000_ffff);
        assert_eq!(s.seg_base[seg::GS], 0x1000, "what is in use follows");
        g.set_reg(&mut s, SELECTOR + seg::CS, 0x63);
        assert_eq!(s.seg_sel[seg::CS], 0x23, "data is no code");
    }

    #[test]
    fn the_image_round_trips() {
        let (g, mut s) = guest(GuestArch::X86_64);
        s.xmm[3] = [5, 6];
        s.x87.top = 6;
        s.x87.regs[6] = [1 << 63, 0x3fff];
        let (_, bytes) = g.vectors(&s).unwrap();
        let mut t = g.state();
        g.set_vectors(&mut t, &[], &bytes);
        assert_eq!((t.xmm, t.x87.regs[6], t.x87.top), (s.xmm, s.x87.regs[6], 6));
    }
}
