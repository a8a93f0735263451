//! Reset, and the neutral state: saving, loading, showing.

use std::fmt::Write;

use accel::{
    VcpuError,
    arch::x86_64::{self as neutral, RunState, State},
};
use tcg_engine::{Cx, Trap};
use tcg_ir::Exceptions;

use crate::{
    control::{self, CR0_PE, CR0_PG, CR4_PAE},
    cpu::Model,
    exceptions,
    guest::{X86, space},
    interrupts, msr,
    msr::{EFER_LMA, EFER_LME},
    segment::{P, S},
    smm,
    state::{Cpu, FLAGS_BITS, Injected, Msrs, REG_NAMES, Run, SEG_NAMES, Segment, Table, X87, seg},
};

/// State of vCPU `index` after RESET (SDM volume 3, table 10-1).
pub(crate) fn reset(model: &Model, index: u32) -> Cpu {
    let mut s = Cpu {
        regs: [0; 16],
        pc: 0xffff_fff0,
        flags: [FLAGS_BITS, 0, 0, 0],
        sys: 0,
        shadow: 0,
        mxcsr: 0x1f80,
        seg_base: [0; 6],
        seg_limit: [0xffff; 6],
        seg_sel: [0; 6],
        seg_access: [P | S | 3; 6],
        xmm: [[0; 2]; 32],
        ymmh: [[0; 2]; 32],
        opmask: [0; 8],
        x87: X87::default(),
        zmmh: [[0; 4]; 32],
        scratch: [[0; 8]; 3],
        high: 0,
        cr0: 0x6000_0010,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        cr8: 0,
        xcr0: 1,
        pkru: 0,
        dr: [0; 4],
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        pdptr: [0; 4],
        tr: Segment { selector: 0, access: (P | 0xb) as u16, limit: 0xffff, base: 0 },
        ldt: Segment { selector: 0, access: (P | 2) as u16, limit: 0xffff, base: 0 },
        gdt: Table { base: 0, limit: 0xffff },
        idt: Table { base: 0, limit: 0xffff },
        msrs: Msrs {
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: 0x0007_0406_0007_0406,
            apic_base: 0xfee0_0800 | if index == 0 { 0x100 } else { 0 },
            tsc_khz: msr::TSC_KHZ,
            tsc_aux: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            misc_enable: 1,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_var: [0; 16],
            mcg_status: 0,
            debugctl: 0,
            kvm_system_time: 0,
            kvm_wall_clock: 0,
        },
        cpl: 0,
        run: if index == 0 { Run::Running } else { Run::WaitForSipi },
        nmi_masked: false,
        nmi_pending: false,
        injected: None,
        smbase: smm::BASE,
        smm: false,
        smm_in_nmi: false,
        smi_pending: false,
        init_latched: false,
        svm: crate::svm::State::default(),
        woken: false,
        a20: u64::MAX,
        dr_hit: 0,
        index,
        tls: [0; 3],
    };
    s.regs[2] = u64::from(crate::cpuid::signature(model));
    s.seg_sel[seg::CS] = 0xf000;
    s.seg_base[seg::CS] = 0xffff_0000;
    s
}

/// INIT: as RESET, but caches, x87, vector registers and MSRs stay (SDM volume 3, table 10-1).
pub(crate) fn init(cx: &mut Cx<'_, X86>) {
    let index = cx.index();
    let mut fresh = reset(cx.guest().model(), index);
    let old = &*cx.state;
    fresh.x87 = old.x87;
    (fresh.xmm, fresh.ymmh, fresh.zmmh, fresh.opmask) = (old.xmm, old.ymmh, old.zmmh, old.opmask);
    (fresh.mxcsr, fresh.xcr0, fresh.pkru, fresh.high) = (old.mxcsr, old.xcr0, old.pkru, old.high);
    let efer = fresh.msrs.efer;
    fresh.msrs = old.msrs.clone();
    fresh.msrs.efer = efer;
    fresh.cr0 = old.cr0 & 0x6000_0000 | 0x10;
    (fresh.smbase, fresh.smi_pending, fresh.a20) = (old.smbase, old.smi_pending, old.a20);
    *cx.state = fresh;
    enter_space(cx);
}

/// Takes over address space and paging of the present state.
pub(crate) fn enter_space(cx: &mut Cx<'_, X86>) {
    cx.flush_tlb(None, |_| true);
    let tag = space(cx.state);
    cx.set_space(tag);
}

fn segment_of(s: &Cpu, n: usize) -> neutral::Segment {
    neutral::Segment {
        selector: s.seg_sel[n] as u16,
        base: s.seg_base[n],
        limit: s.seg_limit[n] as u32,
        access: s.seg_access[n] as u16,
    }
}

fn system_of(s: Segment) -> neutral::Segment {
    neutral::Segment { selector: s.selector, base: s.base, limit: s.limit, access: s.access }
}

/// Neutral state.
pub(crate) fn save(cx: &mut Cx<'_, X86>) -> State {
    let tsc = msr::tsc(cx);
    let tsc_khz = cx.state.msrs.tsc_khz as u32;
    let (intr, a20_masked) = (cx.lines() & 1 != 0, cx.lines() & interrupts::A20M != 0);
    let exceptions = cx.exceptions().bits();
    let list = msr::save(cx);
    let s = &*cx.state;
    let mut out = State {
        rip: s.rip(),
        rflags: s.rflags(),
        cs: segment_of(s, seg::CS),
        ds: segment_of(s, seg::DS),
        es: segment_of(s, seg::ES),
        fs: segment_of(s, seg::FS),
        gs: segment_of(s, seg::GS),
        ss: segment_of(s, seg::SS),
        tr: system_of(s.tr),
        ldt: system_of(s.ldt),
        gdt: neutral::Table { base: s.gdt.base, limit: s.gdt.limit },
        idt: neutral::Table { base: s.idt.base, limit: s.idt.limit },
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.msrs.efer,
        apic_base: s.msrs.apic_base,
        dr: s.dr,
        dr6: s.dr6,
        dr7: s.dr7,
        tsc,
        tsc_khz,
        msrs: list,
        run: match s.run {
            Run::Running | Run::Shutdown => RunState::Running,
            Run::Halted => RunState::Halted,
            Run::WaitForSipi => RunState::WaitForSipi,
            Run::Uninitialized => RunState::Uninitialized,
        },
        ..State::default()
    };
    out.set_gprs(s.regs);
    out.events.shadow_sti = s.shadow == 1;
    out.events.shadow_mov_ss = s.shadow == 2;
    out.events.nmi_masked = s.nmi_masked;
    out.events.nmi_pending = s.nmi_pending;
    match s.injected {
        Some(Injected::Exception(trap)) => {
            out.events.exception = Some(exceptions::vector_of(trap));
            out.events.error_code = exceptions::error_of(trap).map(u32::from);
            // Its side effects come first, so that it needs no more than to be delivered.
            match exceptions::vector_of(trap) {
                exceptions::vector::PF => out.cr2 = trap.value,
                exceptions::vector::DB => out.dr6 |= trap.value,
                _ => {}
            }
        }
        Some(Injected::Interrupt(vector)) => out.events.interrupt = Some(vector),
        Some(Injected::Nmi) => out.events.nmi_injected = true,
        None => {}
    }
    out.events.triple_fault = s.run == Run::Shutdown;
    out.events.intr = intr;
    out.events.a20_masked = a20_masked;
    out.events.smm = s.smm;
    out.events.smi_pending = s.smi_pending;
    out.events.smm_inside_nmi = s.smm_in_nmi;
    out.events.init_latched = s.init_latched;
    let f = &mut out.fpu;
    f.fcw = s.x87.fcw as u16;
    f.fsw = (s.x87.fsw & !0x3800 | (s.x87.top & 7) << 11) as u16;
    f.ftw = s.x87.ftw as u8;
    (f.fop, f.fip, f.fdp) = (s.x87.fop as u16, s.x87.fip, s.x87.fdp);
    for (n, st) in f.st.iter_mut().enumerate() {
        let [m, e] = s.x87.regs[(s.x87.top as usize + n) & 7];
        *st = u128::from(m) | u128::from(e & 0xffff) << 64;
    }
    f.mxcsr = (s.mxcsr & !0x3f) as u32 | exceptions & 0x3f;
    for (n, z) in f.zmm.iter_mut().enumerate() {
        let words = [
            s.xmm[n][0],
            s.xmm[n][1],
            s.ymmh[n][0],
            s.ymmh[n][1],
            s.zmmh[n][0],
            s.zmmh[n][1],
            s.zmmh[n][2],
            s.zmmh[n][3],
        ];
        for (i, w) in words.iter().enumerate() {
            z.0[8 * i..8 * i + 8].copy_from_slice(&w.to_le_bytes());
        }
    }
    f.opmask = s.opmask;
    f.pkru = s.pkru as u32;
    f.xcr0 = s.xcr0;
    out
}

fn bad(field: &str, problem: String) -> VcpuError {
    VcpuError::BadState { field: field.to_owned(), problem }
}

/// What another accelerator has begun to deliver. Memory is not yet that of the saved machine, so it is done later.
fn injected(n: &State) -> Option<Injected> {
    let e = &n.events;
    if let Some(vector) = e.exception {
        // Side effects that are done already are done again with the value that is there.
        let value = match (vector, e.payload.filter(|_| e.exception_pending)) {
            (_, Some(payload)) => payload,
            (exceptions::vector::PF, None) => n.cr2,
            _ => 0,
        };
        let trap = match e.error_code {
            Some(error) => exceptions::with_error(vector, error as u16),
            None => exceptions::plain(vector),
        };
        return Some(Injected::Exception(Trap { value, ..trap }));
    }
    if e.nmi_injected {
        return Some(Injected::Nmi);
    }
    e.interrupt.map(Injected::Interrupt)
}

/// Takes over neutral state.
pub(crate) fn load(cx: &mut Cx<'_, X86>, n: &State) -> Result<(), VcpuError> {
    let index = cx.index();
    let mut s = reset(cx.guest().model(), index);
    if n.lapic.is_some() {
        return Err(bad("lapic", "the translator holds no local APIC".to_owned()));
    }
    let (pe, pg) = (n.cr0 & CR0_PE != 0, n.cr0 & CR0_PG != 0);
    if pg && !pe {
        return Err(bad("cr0", format!("{:#x} has paging without protected mode", n.cr0)));
    }
    let lma = n.efer & EFER_LMA != 0;
    if lma != (pg && n.efer & EFER_LME != 0) || lma && n.cr4 & CR4_PAE == 0 {
        return Err(bad(
            "efer",
            format!("{:#x} does not go with cr0 {:#x} and cr4 {:#x}", n.efer, n.cr0, n.cr4),
        ));
    }
    let unknown = n.cr4 & !control::cr4_mask(cx);
    if unknown != 0 {
        return Err(bad("cr4", format!("the model does not have bits {unknown:#x}")));
    }
    s.regs = n.gprs();
    s.set_rflags(n.rflags);
    let order = [
        (seg::ES, &n.es),
        (seg::CS, &n.cs),
        (seg::SS, &n.ss),
        (seg::DS, &n.ds),
        (seg::FS, &n.fs),
        (seg::GS, &n.gs),
    ];
    for (i, g) in order {
        s.seg_sel[i] = u64::from(g.selector);
        s.seg_base[i] = g.base;
        s.seg_limit[i] = u64::from(g.limit);
        s.seg_access[i] = u64::from(g.access);
        if g.access & neutral::access::P == 0 {
            s.seg_access[i] = 0;
        }
    }
    let system = |g: &neutral::Segment| Segment {
        selector: g.selector,
        access: g.access,
        limit: g.limit,
        base: g.base,
    };
    (s.tr, s.ldt) = (system(&n.tr), system(&n.ldt));
    s.gdt = Table { base: n.gdt.base, limit: n.gdt.limit };
    s.idt = Table { base: n.idt.base, limit: n.idt.limit };
    (s.cr0, s.cr2, s.cr3, s.cr4, s.cr8) = (n.cr0, n.cr2, n.cr3, n.cr4, n.cr8);
    if n.tsc_khz != 0 {
        s.msrs.tsc_khz = n.tsc_khz.into();
    }
    s.msrs.efer = n.efer;
    s.msrs.apic_base = n.apic_base;
    (s.dr, s.dr6, s.dr7) = (n.dr, n.dr6, n.dr7);
    // The privilege level is SS's, which real mode leaves at 0 and virtual-8086 mode at 3.
    s.cpl = match (s.protected(), s.vm86()) {
        (false, _) => 0,
        (_, true) => 3,
        _ => (n.ss.access >> neutral::access::DPL_SHIFT & 3) as u8,
    };
    s.set_rip(n.rip);
    for m in &n.msrs {
        msr::restore(&mut s, m.index, m.value);
    }
    s.run = match n.run {
        RunState::Running | RunState::SipiReceived => Run::Running,
        RunState::Halted => Run::Halted,
        RunState::WaitForSipi => Run::WaitForSipi,
        RunState::Uninitialized => Run::Uninitialized,
    };
    if n.events.triple_fault {
        s.run = Run::Shutdown;
    }
    s.shadow = if n.events.shadow_mov_ss { 2 } else { u64::from(n.events.shadow_sti) };
    (s.nmi_masked, s.nmi_pending) = (n.events.nmi_masked, n.events.nmi_pending);
    s.injected = injected(n);
    (s.smm, s.smi_pending) = (n.events.smm, n.events.smi_pending);
    (s.smm_in_nmi, s.init_latched) = (n.events.smm_inside_nmi, n.events.init_latched);
    let f = &n.fpu;
    s.x87.fcw = u64::from(f.fcw);
    s.x87.top = u64::from(f.fsw >> 11 & 7);
    s.x87.fsw = u64::from(f.fsw & !0x3800);
    s.x87.ftw = u64::from(f.ftw);
    (s.x87.fop, s.x87.fip, s.x87.fdp) = (u64::from(f.fop), f.fip, f.fdp);
    for (i, st) in f.st.iter().enumerate() {
        s.x87.regs[(s.x87.top as usize + i) & 7] = [*st as u64, (*st >> 64) as u64 & 0xffff];
    }
    s.mxcsr = u64::from(f.mxcsr & !0x3f);
    for (i, z) in f.zmm.iter().enumerate() {
        let mut words = [0; 8];
        for (w, bytes) in words.iter_mut().zip(z.0.chunks_exact(8)) {
            *w = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        s.xmm[i] = [words[0], words[1]];
        s.ymmh[i] = [words[2], words[3]];
        s.zmmh[i] = [words[4], words[5], words[6], words[7]];
    }
    s.opmask = f.opmask;
    s.look_at_high();
    (s.pkru, s.xcr0) = (u64::from(f.pkru), f.xcr0 | 1);
    *cx.state = s;
    cx.set_exceptions(Exceptions::from_bits_truncate(f.mxcsr & 0x3f));
    cx.set_lines(u64::from(n.events.intr) | if n.events.a20_masked { interrupts::A20M } else { 0 });
    let smm = cx.state.smm;
    cx.set_secure(smm);
    interrupts::follow_a20(cx);
    msr::set_tsc(cx, n.tsc);
    enter_space(cx);
    crate::control::load_pdptrs(cx);
    interrupts::look(cx);
    Ok(())
}

/// Registers in readable form.
pub(crate) fn dump(s: &Cpu) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "rip {:016x} rflags {:08x} cpl {} {:?}", s.rip(), s.rflags(), s.cpl, s.run);
    for (n, (name, r)) in REG_NAMES.iter().zip(s.regs).enumerate() {
        let _ = write!(out, "{name:>3} {r:016x}{}", if n % 4 == 3 { "\n" } else { " " });
    }
    for (n, name) in SEG_NAMES.iter().enumerate() {
        let _ = writeln!(
            out,
            "{name:>3} {:04x} base {:016x} limit {:08x} access {:03x}",
            s.seg_sel[n], s.seg_base[n], s.seg_limit[n], s.seg_access[n]
        );
    }
    let _ = writeln!(out, "cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x}", s.cr0, s.cr2, s.cr3, s.cr4);
    let _ = writeln!(
        out,
        "gdt {:016x}/{:04x} idt {:016x}/{:04x} efer {:x}",
        s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit, s.msrs.efer
    );
    out
}
