//! Every register by itself: set to a value of its own, read back, saved and set again in another machine.

use accel::arch::x86_64::{self, RunState, Segment, access};
use accel::arch::{CpuState, riscv};

use crate::machine::{Machine, user_irqchip};
use crate::{Failure, Outcome, Setup, expect};

/// What goes on by itself, or is the host's own.
const MOVING: &[&str] =
    &["tsc", "mcycle", "minstret", "cycle", "time", "tsc_khz", "msrs.0x4b564d04", "msrs.0xe7", "msrs.0xe8"];

/// Indices of MSRs that hold any linear address or number.
const MSRS: [(u32, u64); 10] = [
    (0x174, 0x8),
    (0x175, 0xFFFF_8000_1234_5000),
    (0x176, 0xFFFF_8000_2345_6000),
    (0xC000_0081, 0x0023_0010_0000_0000),
    (0xC000_0082, 0xFFFF_8000_3456_7000),
    (0xC000_0083, 0xFFFF_8000_4567_8000),
    (0xC000_0084, 0x4_7700),
    (0xC000_0102, 0xFFFF_8000_5678_9000),
    (0xC000_0103, 3),
    (0x277, 0x0007_0106_0407_0106),
];

fn fill_x86(s: &mut x86_64::State, user: bool) {
    let number = |n: u64| 0x0101_0101_0101_0101u64.wrapping_mul(n) ^ 0x8000_0000_0000_0000;
    s.set_gprs(std::array::from_fn(|i| number(i as u64 + 1)));
    s.rip = 0xFFFF_8000_0000_1000;
    // All status flags, DF, AC, ID.
    s.rflags = 0x24_0CD7;
    let segment = |n: u16, base: u64, kind: u16| Segment {
        selector: 8 * n,
        base,
        limit: u32::MAX,
        access: access::P | access::S | access::G | access::DB | kind,
    };
    s.cs = segment(2, 0, 0xB);
    s.cs.access = s.cs.access & !access::DB | access::L;
    (s.ds, s.es) = (segment(3, 0, 3), segment(4, 0, 3));
    s.ss = segment(5, 0, 3);
    (s.fs, s.gs) = (segment(6, 0xFFFF_8000_0123_0000, 3), segment(7, 0x7FFF_0456_0000, 3));
    s.tr = Segment { selector: 0x40, base: 0xFFFF_8000_0789_0000, limit: 0x67, access: access::P | 0xB };
    s.ldt = Segment { selector: 0x50, base: 0xFFFF_8000_0ABC_0000, limit: 0xFFF, access: access::P | 2 };
    s.gdt = x86_64::Table { base: 0xFFFF_8000_0000_5000, limit: 0x7F };
    s.idt = x86_64::Table { base: 0xFFFF_8000_0000_6000, limit: 0xFFF };
    // Paging, write protection, numeric errors, monitoring of the coprocessor.
    (s.cr0, s.cr2, s.cr3) = (0x8001_0033, 0xFFFF_8000_DEAD_B000, 0x12_3000);
    // OSXMMEXCPT, OSFXSR, PGE, PAE, DE.
    (s.cr4, s.efer) = (0x6A8, 0xD01);
    s.cr8 = 5;
    s.dr = [0x1000, 0x2000, 0x3000, 0x4000];
    (s.dr6, s.dr7) = (0xFFFF_4FF1, 0x33_0455);
    let f = &mut s.fpu;
    (f.fcw, f.fsw, f.ftw, f.fop) = (0x27F, 0x3800, 0x7E, 0x123);
    (f.fip, f.fdp, f.mxcsr) = (0x1234_5678, 0x2345_6789, 0x1FA5);
    for (i, st) in f.st.iter_mut().enumerate() {
        *st = 0x4000_C000_0000_0000_0000 + i as u128;
    }
    let vectors = if f.xcr0 & 0xE0 == 0xE0 { 32 } else { 16 };
    let width = match f.xcr0 & 0xE4 {
        0xE4 => 64,
        x if x & 4 != 0 => 32,
        _ => 16,
    };
    for (i, z) in f.zmm[..vectors].iter_mut().enumerate() {
        for (j, b) in z.0[..width].iter_mut().enumerate() {
            *b = (i * 71 + j * 3 + 1) as u8;
        }
    }
    if f.xcr0 & 0x20 != 0 {
        f.opmask = std::array::from_fn(|i| number(i as u64 + 0x21));
    }
    if f.xcr0 & 1 << 9 != 0 {
        f.pkru = 0x5555_5554;
    }
    for (index, value) in MSRS {
        if let Some(m) = s.msrs.iter_mut().find(|m| m.index == index) {
            m.value = value;
        }
    }
    if let Some(lapic) = &mut s.lapic {
        // Task priority (as CR8 has it), logical destination, spurious vector, LVT entries.
        // The processor priority follows from the task priority.
        lapic[0xA] = 0x50;
        (lapic[0x8], lapic[0xD], lapic[0xF]) = (0x50, 0x0200_0000, 0x1FE);
        for (i, entry) in lapic[0x32..0x38].iter_mut().enumerate() {
            *entry = 0x1_0040 + i as u32;
        }
        // In service and requested.
        (lapic[0x11], lapic[0x22]) = (1 << 5, 1 << 9);
        lapic[0x3E] = 0xB;
    }
    s.events.nmi_masked = true;
    s.events.shadow_sti = true;
    s.events.intr = user;
    s.run = RunState::Halted;
}

fn fill_riscv(s: &mut riscv::State) {
    let mask = if s.xlen == 32 { u64::from(u32::MAX) } else { u64::MAX };
    for (i, x) in s.x.iter_mut().enumerate().skip(1) {
        *x = 0x0101_0101_0101_0101u64.wrapping_mul(i as u64) & mask;
    }
    for (i, f) in s.f.iter_mut().enumerate() {
        *f = 0x3FF0_0000_0000_0000 + i as u64;
    }
    s.pc = 0x8000_0100;
    for (i, byte) in s.v.iter_mut().enumerate() {
        *byte = (i * 7 + 1) as u8;
    }
    (s.mscratch, s.sscratch) = (0x77, 0x88);
    (s.mepc, s.sepc) = (0x8000_0200, 0x8000_0300);
    (s.mcause, s.scause, s.mtval, s.stval) = (5, 7, 0x11, 0x22);
    (s.mtvec, s.stvec) = (0x8000_0400, 0x8000_0500);
}

/// Sets all registers, reads them back, and does so again with what was saved.
pub(super) fn every(setup: &Setup<'_>) -> Result<Outcome, Failure> {
    let first = Machine::new(setup, 1)?;
    let mut vcpu = first.bind(0)?;
    let mut wanted = vcpu.state()?;
    // The widest register file that the processor has.
    for xcr0 in [0x2E7, 0xE7, 0x207, 7, 3, 1] {
        if let CpuState::X86_64(s) = &mut wanted {
            s.fpu.xcr0 = xcr0;
            if vcpu.set_state(&wanted).is_ok() {
                break;
            }
        }
    }
    match &mut wanted {
        CpuState::X86_64(s) => fill_x86(s, user_irqchip(setup)),
        CpuState::Riscv(s) => fill_riscv(s),
        _ => return Ok(Outcome::Skipped("the case knows no registers of this architecture")),
    }
    vcpu.set_state(&wanted)?;
    let seen = vcpu.state()?;
    let moves = |path: &str| MOVING.iter().any(|m| path.split('.').next() == Some(m) || path == *m);
    let differences = |a: &CpuState, b: &CpuState| {
        let mut all = a.compare(b);
        all.retain(|d| !moves(&d.path));
        all
    };
    expect("registers that did not take their value", &differences(&seen, &wanted), &vec![])?;
    let saved = seen.save();
    drop(vcpu);
    let second = Machine::new(setup, 1)?;
    let mut vcpu = second.bind(0)?;
    vcpu.set_state(&CpuState::restore(&saved)?)?;
    expect("registers that differ in another machine", &differences(&vcpu.state()?, &seen), &vec![])?;
    Ok(Outcome::Passed(second.transcript()))
}
