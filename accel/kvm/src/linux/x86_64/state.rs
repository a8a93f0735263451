//! Between KVM's structs and the neutral x86 state.
//!
//! Order of setting: the control registers decide what the others may hold, the local APIC comes before the MSR
//! of its deadline timer, events come last because setting registers cancels some.

#![expect(unsafe_code, reason = "the XSAVE requests trust the size of the buffer")]

use accel::VcpuError;
use accel::arch::x86_64::{Events, LAPIC_REGISTERS, Msr, RunState, Segment, State, Table, access};
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, KVM_VCPUEVENT_VALID_TRIPLE_FAULT, Msrs, Xsave,
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use super::super::vcpu::get;
use super::vcpu::VcpuArch;
use super::xsave;

const MSR_TSC: u32 = 0x10;
pub(super) const MSR_APIC_BASE: u32 = 0x1B;
const MSR_TSC_DEADLINE: u32 = 0x6E0;
const MSR_EFER: u32 = 0xC000_0080;
/// FS base, GS base: held in the segments.
const MSR_SEGMENT_BASES: [u32; 2] = [0xC000_0100, 0xC000_0101];
/// STI and MOV SS in KVM's shadow byte.
const SHADOW_MOV_SS: u8 = 1;
const SHADOW_STI: u8 = 2;

fn segment(s: &kvm_segment) -> Segment {
    let flag = |on: u8, bit: u16| if on != 0 { bit } else { 0 };
    Segment {
        selector: s.selector,
        base: s.base,
        limit: s.limit,
        access: u16::from(s.type_) & access::TYPE
            | flag(s.s, access::S)
            | u16::from(s.dpl & 3) << access::DPL_SHIFT
            | if s.unusable != 0 { 0 } else { flag(s.present, access::P) }
            | flag(s.avl, access::AVL)
            | flag(s.l, access::L)
            | flag(s.db, access::DB)
            | flag(s.g, access::G),
    }
}

fn kvm_segment_of(s: &Segment) -> kvm_segment {
    let flag = |bit: u16| u8::from(s.access & bit != 0);
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (s.access & access::TYPE) as u8,
        present: flag(access::P),
        dpl: (s.access >> access::DPL_SHIFT & 3) as u8,
        db: flag(access::DB),
        s: flag(access::S),
        l: flag(access::L),
        g: flag(access::G),
        avl: flag(access::AVL),
        unusable: u8::from(s.access & access::P == 0),
        padding: 0,
    }
}

fn table(t: &kvm_dtable) -> Table {
    Table { base: t.base, limit: t.limit }
}

fn kvm_table_of(t: &Table) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, ..Default::default() }
}

/// The MSRs of KVM's list that this vCPU can read.
pub(super) fn readable_msrs(fd: &VcpuFd, list: &[u32]) -> Result<Vec<u32>, VcpuError> {
    let own = [MSR_TSC, MSR_APIC_BASE, MSR_EFER];
    let mut wanted: Vec<u32> =
        list.iter().copied().filter(|m| !own.contains(m) && !MSR_SEGMENT_BASES.contains(m)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut readable = Vec::new();
    let mut rest = &wanted[..];
    // KVM stops at the first one that it cannot read.
    while !rest.is_empty() {
        let done = read_msrs(fd, rest)?.len();
        readable.extend_from_slice(&rest[..done]);
        rest = rest.get(done + 1..).unwrap_or_default();
    }
    Ok(readable)
}

/// Reads MSRs up to the first that cannot be read.
fn read_msrs(fd: &VcpuFd, list: &[u32]) -> Result<Vec<Msr>, VcpuError> {
    let entries: Vec<_> = list.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
    let mut msrs = fam(Msrs::from_entries(&entries))?;
    let n = get("reading MSRs (KVM_GET_MSRS)", fd.get_msrs(&mut msrs))?;
    Ok(msrs.as_slice().iter().take(n).map(|m| Msr { index: m.index, value: m.data }).collect())
}

fn fam<T, E>(made: Result<T, E>) -> Result<T, VcpuError> {
    made.map_err(|_| VcpuError::Unsupported("a list of so many registers"))
}

/// Sets MSRs. One that the host does not have is an error unless its value is 0.
fn write_msrs(fd: &VcpuFd, list: &[Msr]) -> Result<(), VcpuError> {
    let mut rest = list;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|m| kvm_msr_entry { index: m.index, data: m.value, ..Default::default() })
            .collect();
        let msrs = fam(Msrs::from_entries(&entries))?;
        let done = get("setting MSRs (KVM_SET_MSRS)", fd.set_msrs(&msrs))?;
        let Some(bad) = rest.get(done) else { return Ok(()) };
        if bad.value != 0 {
            return Err(VcpuError::BadState {
                field: format!("msrs.{}", list.len() - rest.len() + done),
                problem: format!("MSR {:#x} cannot hold {:#x} on this host", bad.index, bad.value),
            });
        }
        rest = &rest[done + 1..];
    }
    Ok(())
}

impl VcpuArch {
    pub(super) fn get_state(&self, fd: &VcpuFd, intr: bool) -> Result<State, VcpuError> {
        let regs = get("reading the registers (KVM_GET_REGS)", fd.get_regs())?;
        let sregs = get("reading the system registers (KVM_GET_SREGS)", fd.get_sregs())?;
        let debug = get("reading the debug registers (KVM_GET_DEBUGREGS)", fd.get_debug_regs())?;
        // XCR0 does not exist on hosts without XSAVE.
        let xcr0 =
            fd.get_xcrs().ok().map_or(1, |x| x.xcrs.iter().find(|c| c.xcr == 0).map_or(1, |c| c.value));
        let mut s = State {
            rax: regs.rax,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rbx: regs.rbx,
            rsp: regs.rsp,
            rbp: regs.rbp,
            rsi: regs.rsi,
            rdi: regs.rdi,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rip: regs.rip,
            rflags: regs.rflags,
            cs: segment(&sregs.cs),
            ds: segment(&sregs.ds),
            es: segment(&sregs.es),
            fs: segment(&sregs.fs),
            gs: segment(&sregs.gs),
            ss: segment(&sregs.ss),
            tr: segment(&sregs.tr),
            ldt: segment(&sregs.ldt),
            gdt: table(&sregs.gdt),
            idt: table(&sregs.idt),
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            cr8: sregs.cr8,
            efer: sregs.efer,
            apic_base: sregs.apic_base,
            dr: debug.db,
            dr6: debug.dr6,
            dr7: debug.dr7,
            fpu: xsave::unpack(&self.read_xsave(fd)?, &self.layout, xcr0),
            ..State::default()
        };
        s.tsc_khz = fd.get_tsc_khz().unwrap_or(0);
        let mut msrs = Vec::new();
        let mut list = self.msrs.clone();
        list.push(MSR_TSC);
        let mut rest = &list[..];
        while !rest.is_empty() {
            let got = read_msrs(fd, rest)?;
            rest = rest.get(got.len() + 1..).unwrap_or_default();
            msrs.extend(got);
        }
        if let Some(tsc) = msrs.pop_if(|m| m.index == MSR_TSC) {
            s.tsc = tsc.value;
        }
        s.msrs = msrs;
        if self.user_apic() {
            s.run = self.run;
        } else {
            let lapic = get("reading the local APIC (KVM_GET_LAPIC)", fd.get_lapic())?;
            let mut registers = [0u32; LAPIC_REGISTERS];
            for (r, b) in registers.iter_mut().zip(lapic.regs.chunks_exact(16)) {
                *r = u32::from_le_bytes([b[0] as u8, b[1] as u8, b[2] as u8, b[3] as u8]);
            }
            s.lapic = Some(registers);
            // Pending events are put into the state by reading this first.
            s.run = match get("reading the run state (KVM_GET_MP_STATE)", fd.get_mp_state())?.mp_state {
                1 => RunState::Uninitialized,
                2 => RunState::WaitForSipi,
                3 => RunState::Halted,
                4 => RunState::SipiReceived,
                _ => RunState::Running,
            };
        }
        let events = get("reading pending events (KVM_GET_VCPU_EVENTS)", fd.get_vcpu_events())?;
        s.events = events_of(&events, intr);
        Ok(s)
    }

    pub(super) fn put_state(&mut self, fd: &mut VcpuFd, s: &State) -> Result<(), VcpuError> {
        if s.lapic.is_some() == self.user_apic() {
            let problem = if self.user_apic() {
                "is there, but this machine's local APICs are not in the accelerator"
            } else {
                "is missing, but this machine's local APICs are in the accelerator"
            };
            return Err(VcpuError::BadState { field: "lapic".to_owned(), problem: problem.to_owned() });
        }
        self.set_registers(fd, s, false)?;
        if s.fpu.xcr0 != 1 || fd.get_xcrs().is_ok_and(|x| x.nr_xcrs > 0) {
            self.put_xcr0(fd, s.fpu.xcr0)?;
        }
        self.write_xsave(fd, s)?;
        if let Some(registers) = &s.lapic {
            let mut lapic = kvm_lapic_state::default();
            for (r, b) in registers.iter().zip(lapic.regs.chunks_exact_mut(16)) {
                for (d, v) in b.iter_mut().zip(r.to_le_bytes()) {
                    *d = v as _;
                }
            }
            get("setting the local APIC (KVM_SET_LAPIC)", fd.set_lapic(&lapic))?;
        }
        self.put_tsc_khz(fd, s.tsc_khz);
        let mut msrs: Vec<Msr> = s.msrs.iter().copied().filter(|m| m.index != MSR_TSC_DEADLINE).collect();
        msrs.push(Msr { index: MSR_TSC, value: s.tsc });
        // Setting the deadline starts the timer, which compares with the TSC.
        msrs.extend(s.msrs.iter().filter(|m| m.index == MSR_TSC_DEADLINE));
        write_msrs(fd, &msrs)?;
        self.put_run(fd, s.run)?;
        let present = get("reading pending events (KVM_GET_VCPU_EVENTS)", fd.get_vcpu_events())?;
        let mut events = self.kvm_events_of(&s.events);
        // A KVM that knows system management mode says so here, and leaves it only when asked to.
        events.flags |= present.flags & KVM_VCPUEVENT_VALID_SMM;
        get("setting pending events (KVM_SET_VCPU_EVENTS)", fd.set_vcpu_events(&events))
    }

    /// Takes over registers that changed outside, and leaves alone what lives on in KVM meanwhile: the local APIC, the time
    /// stamp counter, NMIs and interrupts that wait.
    pub(super) fn put_changes(
        &mut self,
        fd: &mut VcpuFd,
        before: &State,
        after: &State,
    ) -> Result<(), VcpuError> {
        // Interrupts in KVM's local APIC may have changed its priority register, which is CR8.
        let cr8 = if self.user_apic() {
            after.cr8
        } else {
            get("reading CR8 (KVM_GET_SREGS)", fd.get_sregs())?.cr8
        };
        let registers = State { cr8, ..after.clone() };
        self.set_registers(fd, &registers, false)?;
        if after.fpu.xcr0 != before.fpu.xcr0 {
            self.put_xcr0(fd, after.fpu.xcr0)?;
        }
        if after.fpu != before.fpu {
            self.write_xsave(fd, after)?;
        }
        let kept = |m: &&Msr| m.index == MSR_TSC_DEADLINE || before.msr(m.index).is_none_or(|v| v == m.value);
        let msrs: Vec<Msr> = after.msrs.iter().filter(|m| !kept(m)).copied().collect();
        write_msrs(fd, &msrs)?;
        if after.run != before.run {
            self.put_run(fd, after.run)?;
        }
        let mut events = self.kvm_events_of(&after.events);
        let ours =
            KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        events.flags &= ours;
        get("setting pending events (KVM_SET_VCPU_EVENTS)", fd.set_vcpu_events(&events))
    }

    fn put_xcr0(&self, fd: &VcpuFd, xcr0: u64) -> Result<(), VcpuError> {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = xcr0;
        fd.set_xcrs(&xcrs).map_err(|e| VcpuError::BadState {
            field: "fpu.xcr0".to_owned(),
            problem: format!("{xcr0:#x} is refused by this host: {e}"),
        })
    }

    fn put_run(&mut self, fd: &VcpuFd, run: RunState) -> Result<(), VcpuError> {
        if self.user_apic() {
            self.run = run;
            return Ok(());
        }
        let mp_state = match run {
            RunState::Running => 0,
            RunState::Uninitialized => 1,
            RunState::WaitForSipi => 2,
            RunState::Halted => 3,
            RunState::SipiReceived => 4,
        };
        get("setting the run state (KVM_SET_MP_STATE)", fd.set_mp_state(kvm_mp_state { mp_state }))
    }

    /// Makes the TSC tick as it did where the state was saved. Where the host cannot, guests that measured its
    /// frequency lose time: worth a warning, not a refusal.
    fn put_tsc_khz(&self, fd: &VcpuFd, khz: u32) {
        let here = fd.get_tsc_khz().unwrap_or(0);
        // KVM itself takes frequencies within 250 ppm for the same.
        let same = u64::from(khz.abs_diff(here)) * 4000 <= u64::from(here);
        if khz == 0 || here == 0 || same || fd.set_tsc_khz(khz).is_ok() {
            return;
        }
        tracing::warn!("the guest's TSC ran at {khz} kHz, this host's at {here} kHz, and cannot be scaled");
    }

    /// Sets the general, system and debug registers; INIT leaves the task priority and CR0's cache bits alone.
    pub(super) fn set_registers(&mut self, fd: &mut VcpuFd, s: &State, init: bool) -> Result<(), VcpuError> {
        let before = get("reading the system registers (KVM_GET_SREGS)", fd.get_sregs())?;
        let cache_bits = 0x6000_0000;
        let cr0 = if init { s.cr0 & !cache_bits | before.cr0 & cache_bits } else { s.cr0 };
        let sregs = kvm_sregs {
            cs: kvm_segment_of(&s.cs),
            ds: kvm_segment_of(&s.ds),
            es: kvm_segment_of(&s.es),
            fs: kvm_segment_of(&s.fs),
            gs: kvm_segment_of(&s.gs),
            ss: kvm_segment_of(&s.ss),
            tr: kvm_segment_of(&s.tr),
            ldt: kvm_segment_of(&s.ldt),
            gdt: kvm_table_of(&s.gdt),
            idt: kvm_table_of(&s.idt),
            cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            apic_base: if init { before.apic_base } else { s.apic_base },
            interrupt_bitmap: [0; 4],
        };
        fd.set_sregs(&sregs).map_err(|e| VcpuError::BadState {
            field: "cr0".to_owned(),
            problem: format!(
                "the control registers and segments are refused by this host (cr0 {:#x}, cr4 {:#x}, efer {:#x}): {e}",
                s.cr0, s.cr4, s.efer
            ),
        })?;
        let regs = kvm_regs {
            rax: s.rax,
            rbx: s.rbx,
            rcx: s.rcx,
            rdx: s.rdx,
            rsi: s.rsi,
            rdi: s.rdi,
            rsp: s.rsp,
            rbp: s.rbp,
            r8: s.r8,
            r9: s.r9,
            r10: s.r10,
            r11: s.r11,
            r12: s.r12,
            r13: s.r13,
            r14: s.r14,
            r15: s.r15,
            rip: s.rip,
            rflags: s.rflags,
        };
        get("setting the registers (KVM_SET_REGS)", fd.set_regs(&regs))?;
        let debug = kvm_debugregs { db: s.dr, dr6: s.dr6, dr7: s.dr7, ..Default::default() };
        get("setting the debug registers (KVM_SET_DEBUGREGS)", fd.set_debug_regs(&debug))?;
        let run = fd.get_kvm_run();
        // These are copies as of the last exit. Not ready: the next entry asks for a window.
        run.cr8 = s.cr8;
        if !init {
            self.apic_base = s.apic_base;
            run.apic_base = s.apic_base;
        }
        run.ready_for_interrupt_injection = 0;
        run.if_flag = u8::from(s.rflags & 0x200 != 0);
        Ok(())
    }

    fn read_xsave(&self, fd: &VcpuFd) -> Result<Vec<u8>, VcpuError> {
        let operation = "reading the FPU (KVM_GET_XSAVE)";
        if self.xsave_size <= xsave::LEGACY_AREA {
            let area = get(operation, fd.get_xsave())?;
            return Ok(area.region.iter().flat_map(|w| w.to_le_bytes()).collect());
        }
        let mut area = fam(Xsave::new((self.xsave_size - xsave::LEGACY_AREA).div_ceil(4)))?;
        // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 gave, and nothing enables features dynamically.
        get(operation, unsafe { fd.get_xsave2(&mut area) })?;
        let head = area.as_fam_struct_ref().xsave.region;
        Ok(head.iter().chain(area.as_slice()).flat_map(|w| w.to_le_bytes()).collect())
    }

    fn write_xsave(&self, fd: &VcpuFd, s: &State) -> Result<(), VcpuError> {
        let bytes = xsave::pack(&s.fpu, &self.layout, self.xsave_size).map_err(|(field, problem)| {
            VcpuError::BadState { field: field.to_owned(), problem: problem.to_owned() }
        })?;
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let (head, tail) = words.split_at(xsave::LEGACY_AREA / 4);
        let mut legacy = kvm_xsave::default();
        legacy.region.copy_from_slice(head);
        let done = if tail.is_empty() {
            // SAFETY: KVM_CAP_XSAVE2 says that the area is no larger than this struct.
            unsafe { fd.set_xsave(&legacy) }
        } else {
            let mut area = fam(Xsave::from_entries(tail))?;
            // SAFETY: the length of the list is not changed.
            unsafe { area.as_mut_fam_struct() }.xsave.region = legacy.region;
            // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 gave.
            unsafe { fd.set_xsave2(&area) }
        };
        done.map_err(|e| VcpuError::BadState {
            field: "fpu".to_owned(),
            problem: format!("is refused by this host (mxcsr {:#x}): {e}", s.fpu.mxcsr),
        })
    }

    fn kvm_events_of(&self, e: &Events) -> kvm_vcpu_events {
        let mut k = kvm_vcpu_events::default();
        k.exception.injected = u8::from(e.exception.is_some() && !e.exception_pending);
        k.exception.nr = e.exception.unwrap_or(0);
        k.exception.has_error_code = u8::from(e.error_code.is_some());
        k.exception.error_code = e.error_code.unwrap_or(0);
        k.interrupt.injected = u8::from(e.interrupt.is_some());
        k.interrupt.nr = e.interrupt.unwrap_or(0);
        k.interrupt.soft = u8::from(e.interrupt_soft);
        k.interrupt.shadow =
            if e.shadow_sti { SHADOW_STI } else { 0 } | if e.shadow_mov_ss { SHADOW_MOV_SS } else { 0 };
        k.nmi.injected = u8::from(e.nmi_injected);
        k.nmi.pending = u8::from(e.nmi_pending);
        k.nmi.masked = u8::from(e.nmi_masked);
        k.sipi_vector = e.sipi_vector;
        k.smi.smm = u8::from(e.smm);
        k.smi.pending = u8::from(e.smi_pending);
        k.smi.smm_inside_nmi = u8::from(e.smm_inside_nmi);
        k.smi.latched_init = u8::from(e.init_latched);
        k.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
        if !self.user_apic() {
            k.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
            if e.smm || e.smi_pending || e.smm_inside_nmi || e.init_latched {
                k.flags |= KVM_VCPUEVENT_VALID_SMM;
            }
        }
        if self.payload {
            k.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
            k.exception.pending = u8::from(e.exception.is_some() && e.exception_pending);
            k.exception_has_payload = u8::from(e.payload.is_some());
            k.exception_payload = e.payload.unwrap_or(0);
        }
        if self.triple_fault {
            k.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
            k.triple_fault.pending = u8::from(e.triple_fault);
        }
        k
    }
}

fn events_of(k: &kvm_vcpu_events, intr: bool) -> Events {
    let exception = (k.exception.injected != 0 || k.exception.pending != 0).then_some(k.exception.nr);
    let interrupt = (k.interrupt.injected != 0).then_some(k.interrupt.nr);
    Events {
        exception,
        exception_pending: k.exception.pending != 0,
        error_code: (exception.is_some() && k.exception.has_error_code != 0)
            .then_some(k.exception.error_code),
        payload: (exception.is_some() && k.exception_has_payload != 0).then_some(k.exception_payload),
        interrupt,
        interrupt_soft: interrupt.is_some() && k.interrupt.soft != 0,
        shadow_sti: k.interrupt.shadow & SHADOW_STI != 0,
        shadow_mov_ss: k.interrupt.shadow & SHADOW_MOV_SS != 0,
        nmi_injected: k.nmi.injected != 0,
        nmi_pending: k.nmi.pending != 0,
        nmi_masked: k.nmi.masked != 0,
        sipi_vector: k.sipi_vector,
        smm: k.smi.smm != 0,
        smi_pending: k.smi.pending != 0,
        smm_inside_nmi: k.smi.smm_inside_nmi != 0,
        init_latched: k.smi.latched_init != 0,
        intr,
        triple_fault: k.triple_fault.pending != 0,
        a20_masked: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_survive_the_way_there_and_back() {
        let s = State::reset();
        for seg in [s.cs, s.ds, s.tr, s.ldt, Segment::default()] {
            assert_eq!(segment(&kvm_segment_of(&seg)), seg);
        }
        let long = Segment { selector: 8, base: 0, limit: u32::MAX, access: 0xA9B };
        let k = kvm_segment_of(&long);
        assert_eq!((k.type_, k.s, k.l, k.g, k.db, k.present, k.unusable), (11, 1, 1, 1, 0, 1, 0));
    }
}
