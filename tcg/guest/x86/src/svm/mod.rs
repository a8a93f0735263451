//! Secure virtual machines with nested paging (AMD APM volume 2, chapter 15).
//!
//! In a guest, translated code asks before each instruction that can be intercepted (`Intercept`). What is intercepted goes
//! the way of an exception: a [`Trap`] with [`EXIT`] in its code, raised with the state exactly at the instruction, which
//! [`crate::exceptions::raise`] hands to [`exit`]. A nested page fault is such a trap of the page walk. The host's state lies in
//! its save area in memory meanwhile; the control area is read at VMRUN into [`Control`].
//!
//! Address spaces of guests have tags with their ASID (see [`crate::guest::space`]), so that neither VMRUN nor an exit drops
//! translations. While EFER.SVME is set no page is kept as global, which would stand for all spaces. System management
//! interrupts that are not intercepted wait for the exit.

mod area;
mod events;
mod instructions;
pub(crate) mod nested;

use tcg_engine::{Cx, Trap};

pub(crate) use self::{
    area::{load_more, save_more},
    events::{Event, deliver, delivered, delivering, ready, takes_exception, takes_shutdown},
    instructions::{COUNT, FIRST, Intercept, Kind, Svm, table},
};
use crate::{
    control::{self, CR0_PE, CR0_PG, CR4_LA57, CR4_PAE},
    guest::{X86, space},
    interrupts,
    msr::{EFER_LMA, EFER_LME, EFER_NXE, EFER_SVME},
    state::{Cpu, Run},
};

/// Bit of a trap's code: an exit from a guest. Its number is in bits 0 to 15, bits of a nested fault from 16 on; the trap's
/// value is EXITINFO1, of a nested fault EXITINFO2.
pub(crate) const EXIT: u64 = 1 << 63;

/// Numbers of exits (APM volume 2, appendix C).
pub(crate) mod code {
    pub(crate) const CR_READ: u64 = 0;
    pub(crate) const CR_WRITE: u64 = 0x10;
    pub(crate) const DR_READ: u64 = 0x20;
    pub(crate) const DR_WRITE: u64 = 0x30;
    pub(crate) const EXCEPTION: u64 = 0x40;
    pub(crate) const INTR: u64 = 0x60;
    pub(crate) const NMI: u64 = 0x61;
    pub(crate) const SMI: u64 = 0x62;
    pub(crate) const VINTR: u64 = 0x64;
    pub(crate) const CR0_SEL_WRITE: u64 = 0x65;
    pub(crate) const INVLPG: u64 = 0x79;
    pub(crate) const IO: u64 = 0x7b;
    pub(crate) const MSR: u64 = 0x7c;
    pub(crate) const TASK_SWITCH: u64 = 0x7d;
    pub(crate) const SHUTDOWN: u64 = 0x7f;
    pub(crate) const VMRUN: u64 = 0x80;
    pub(crate) const NPF: u64 = 0x400;
    pub(crate) const INVALID: u64 = u64::MAX;
}

/// Bits of the field that controls virtual interrupts.
mod virtual_interrupt {
    pub(super) const TPR: u64 = 0xf;
    pub(super) const PENDING: u64 = 1 << 8;
    pub(super) const PRIORITY: u32 = 16;
    pub(super) const IGNORE_TPR: u64 = 1 << 20;
    pub(super) const MASKING: u64 = 1 << 24;
    pub(super) const VECTOR: u32 = 32;
}

/// Offsets in the control area (APM volume 2, appendix B).
mod field {
    pub(super) const INTERCEPTS: u64 = 0;
    pub(super) const IOPM: u64 = 0x40;
    pub(super) const MSRPM: u64 = 0x48;
    pub(super) const TSC_OFFSET: u64 = 0x50;
    pub(super) const ASID: u64 = 0x58;
    pub(super) const VIRTUAL_INTERRUPT: u64 = 0x60;
    pub(super) const SHADOW: u64 = 0x68;
    pub(super) const EXIT_CODE: u64 = 0x70;
    pub(super) const INFO1: u64 = 0x78;
    pub(super) const INFO2: u64 = 0x80;
    pub(super) const EXIT_INTERRUPT: u64 = 0x88;
    pub(super) const NESTED: u64 = 0x90;
    pub(super) const EVENT: u64 = 0xa8;
    pub(super) const NCR3: u64 = 0xb0;
    pub(super) const NEXT_RIP: u64 = 0xc8;
    pub(super) const BYTES: u64 = 0xd0;
}

/// What a guest runs under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// Bit `n` of all: exit `n` is taken.
    intercepts: [u64; 3],
    iopm: u64,
    msrpm: u64,
    tsc_offset: u64,
    asid: u64,
    /// Nested paging is on.
    nested: bool,
    ncr3: u64,
    virtual_interrupt: u64,
    /// CR4 and EFER of the host, in whose way nested paging works.
    host_cr4: u64,
    host_efer: u64,
    /// The host had interrupts enabled.
    host_if: bool,
}

/// State of the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Interrupts are let through at all.
    pub gif: bool,
    /// In a guest.
    pub guest: bool,
    /// VM_HSAVE_PA.
    pub hsave: u64,
    /// VM_CR.
    pub vm_cr: u64,
    /// The control block of the guest.
    vmcb: u64,
    control: Control,
    /// Offset of the instruction behind one that is intercepted.
    next: u64,
    /// The event that is being delivered, as EXITINTINFO has it.
    event: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            gif: true,
            guest: false,
            hsave: 0,
            vm_cr: 0,
            vmcb: 0,
            control: Control::default(),
            next: 0,
            event: 0,
        }
    }
}

/// Words of a saved state.
pub(crate) const WORDS: usize = 15;

impl State {
    /// Whether physical addresses are the guest's own.
    pub(crate) const fn nested(&self) -> bool {
        self.guest && self.control.nested
    }

    /// The number that translations of the guest have, 0 outside.
    pub(crate) const fn asid(&self) -> u64 {
        if self.guest { self.control.asid } else { 0 }
    }

    /// True if exit `n` is taken.
    pub(crate) fn intercepts(&self, n: u64) -> bool {
        let word = self.control.intercepts.get((n / 64) as usize).copied().unwrap_or(0);
        self.guest && word >> (n % 64) & 1 != 0
    }

    /// All of it.
    pub(crate) fn words(&self) -> [u64; WORDS] {
        let c = &self.control;
        let bits = [self.gif, self.guest, c.nested, c.host_if];
        let bits = bits.iter().enumerate().fold(0, |w, (n, b)| w | u64::from(*b) << n);
        let [i0, i1, i2] = c.intercepts;
        [
            bits,
            self.hsave,
            self.vm_cr,
            self.vmcb,
            i0,
            i1,
            i2,
            c.iopm,
            c.msrpm,
            c.tsc_offset,
            c.asid,
            c.ncr3,
            c.virtual_interrupt,
            c.host_cr4,
            c.host_efer,
        ]
    }

    /// Sets word `n`.
    pub(crate) fn set_word(&mut self, n: usize, v: u64) {
        let c = &mut self.control;
        match n {
            0 => {
                let bit = |n: u32| v >> n & 1 != 0;
                (self.gif, self.guest, c.nested, c.host_if) = (bit(0), bit(1), bit(2), bit(3));
            }
            1 => self.hsave = v,
            2 => self.vm_cr = v,
            3 => self.vmcb = v,
            4..=6 => c.intercepts[n - 4] = v,
            7 => c.iopm = v,
            8 => c.msrpm = v,
            9 => c.tsc_offset = v,
            10 => c.asid = v,
            11 => c.ncr3 = v,
            12 => c.virtual_interrupt = v,
            13 => c.host_cr4 = v,
            _ => c.host_efer = v,
        }
    }
}

/// A trap that is an exit.
pub(crate) const fn exit_trap(code: u64, info1: u64) -> Trap {
    Trap { code: EXIT | code, value: info1 }
}

/// The exit for a task switch: bits 36 and 38 of EXITINFO2 say that IRET or a jump causes it.
pub(crate) const fn task_trap(selector: u16, iret: bool, jump: bool) -> Trap {
    let why = (iret as u64) << 4 | (jump as u64) << 6;
    Trap { code: EXIT | code::TASK_SWITCH | why << 16, value: selector as u64 }
}

fn get(cx: &Cx<'_, X86>, at: u64) -> u64 {
    cx.phys_read(at, 8).unwrap_or(0)
}

/// A byte of physical memory.
fn byte(cx: &Cx<'_, X86>, at: u64) -> Option<u8> {
    cx.phys_read(at & !7, 8).map(|v| (v >> (at % 8 * 8)) as u8)
}

/// Writes physical memory; where there is no RAM it is lost, as on a bus.
fn put(cx: &mut Cx<'_, X86>, at: u64, v: u64) {
    while let Some(old) = cx.phys_read(at, 8) {
        if cx.phys_cas(at, 8, old, v) != Some(false) {
            return;
        }
    }
}

/// Takes over the control area.
fn read_control(cx: &Cx<'_, X86>, vmcb: u64) -> Control {
    let f = |offset| get(cx, vmcb + offset);
    let s = &*cx.state;
    Control {
        intercepts: [0, 1, 2].map(|n| f(field::INTERCEPTS + 8 * n)),
        iopm: f(field::IOPM) & !0xfff,
        msrpm: f(field::MSRPM) & !0xfff,
        tsc_offset: f(field::TSC_OFFSET),
        asid: f(field::ASID) & 0xffff_ffff,
        nested: f(field::NESTED) & 1 != 0,
        ncr3: f(field::NCR3),
        virtual_interrupt: f(field::VIRTUAL_INTERRUPT),
        host_cr4: s.cr4,
        host_efer: s.msrs.efer,
        host_if: s.sys & crate::flags::IF != 0,
    }
}

/// Why a guest cannot be run (APM volume 2, 15.5.1).
fn impossible(cx: &Cx<'_, X86>, c: &Control) -> bool {
    let s = &*cx.state;
    let (pe, pg) = (s.cr0 & CR0_PE != 0, s.cr0 & CR0_PG != 0);
    let (lme, pae) = (s.msrs.efer & EFER_LME != 0, s.cr4 & CR4_PAE != 0);
    s.msrs.efer & EFER_SVME == 0
        || s.msrs.efer & !crate::msr::efer_mask(cx) != 0
        || s.cr0 >> 32 != 0
        || s.cr0 & (control::CR0_CD | control::CR0_NW) == control::CR0_NW
        || s.cr4 & !control::cr4_mask(cx) != 0
        || (s.dr6 | s.dr7) >> 32 != 0
        || pg && lme && (!pae || !pe)
        || c.intercepts[2] & 1 == 0
        || c.asid == 0
        || c.asid >= ASIDS
        || c.nested && c.host_cr4 & CR4_PAE == 0
}

/// Numbers of address spaces of guests, 0 included, which is the host's.
pub(crate) const ASIDS: u64 = 0x1000;

/// VMRUN, with the program counter behind it.
fn enter(cx: &mut Cx<'_, X86>, vmcb: u64) {
    let control = read_control(cx, vmcb);
    let hsave = cx.state.svm.hsave;
    area::save(cx, hsave);
    (cx.state.svm.vmcb, cx.state.svm.event, cx.state.svm.next) = (vmcb, 0, 0);
    area::load(cx, vmcb);
    let s = &mut *cx.state;
    if s.cr0 & CR0_PG != 0 && s.msrs.efer & EFER_LME != 0 {
        s.msrs.efer |= EFER_LMA;
    }
    let bad = impossible(cx, &control);
    let s = &mut *cx.state;
    s.svm.control = control;
    (s.svm.guest, s.svm.gif) = (true, true);
    s.msrs.tsc_offset = s.msrs.tsc_offset.wrapping_add(control.tsc_offset);
    if bad {
        return leave(cx, code::INVALID, 0, 0);
    }
    let flush = get(cx, vmcb + field::ASID) >> 32 & 7;
    cx.state.shadow = get(cx, vmcb + field::SHADOW) & 1;
    let event = get(cx, vmcb + field::EVENT);
    if flush != 0 {
        cx.flush_tlb(None, |_| true);
    }
    let tag = space(cx.state);
    cx.set_space(tag);
    control::load_pdptrs(cx);
    if event >> 31 & 1 != 0 {
        cx.state.injected = Some(events::injected(event));
    }
    interrupts::look(cx);
    cx.look_soon();
}

/// An exit that a trap says.
pub(crate) fn exit(cx: &mut Cx<'_, X86>, trap: Trap) {
    let n = trap.code & 0xffff;
    if n == code::NPF {
        let table = trap.code >> 32 & 1 != 0;
        let bits = trap.code >> 16 & 0xff | 1 << if table { 33 } else { 32 };
        return leave(cx, n, bits, trap.value);
    }
    let info2 = match n {
        code::IO => cx.state.svm.next,
        code::TASK_SWITCH => (trap.code >> 16 & 0xff) << 32,
        _ => 0,
    };
    leave(cx, n, trap.value, info2);
}

/// Leaves the guest for its host.
pub(crate) fn leave(cx: &mut Cx<'_, X86>, n: u64, info1: u64, info2: u64) {
    let vmcb = cx.state.svm.vmcb;
    let bytes =
        if n == code::NPF || n == code::EXCEPTION + 14 { nested::instruction(cx) } else { Vec::new() };
    let injected = cx.state.injected.take().map(|e| events::packed(Event::of(e)));
    let event = injected.unwrap_or(cx.state.svm.event);
    if n != code::INVALID {
        area::save(cx, vmcb);
    }
    let c = cx.state.svm.control;
    let writes = [
        (field::VIRTUAL_INTERRUPT, c.virtual_interrupt),
        (field::SHADOW, u64::from(cx.state.shadow != 0)),
        (field::EXIT_CODE, n),
        (field::INFO1, info1),
        (field::INFO2, info2),
        (field::EXIT_INTERRUPT, event),
        (field::EVENT, 0),
        (field::NEXT_RIP, cx.state.svm.next),
    ];
    for (offset, v) in writes {
        put(cx, vmcb + offset, v);
    }
    let mut fetched = [0; 16];
    fetched[0] = bytes.len() as u8;
    fetched[1..=bytes.len()].copy_from_slice(&bytes);
    for (n, word) in fetched.chunks_exact(8).enumerate() {
        let word = word.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        put(cx, vmcb + field::BYTES + 8 * n as u64, word);
    }
    let s = &mut *cx.state;
    s.msrs.tsc_offset = s.msrs.tsc_offset.wrapping_sub(c.tsc_offset);
    (s.svm.guest, s.svm.gif, s.svm.event, s.svm.next) = (false, false, 0, 0);
    (s.shadow, s.run, s.dr_hit) = (0, Run::Running, 0);
    let hsave = s.svm.hsave;
    area::load(cx, hsave);
    let s = &mut *cx.state;
    (s.cpl, s.dr7) = (0, 0x400);
    let tag = space(s);
    cx.set_space(tag);
    control::load_pdptrs(cx);
}

/// Marks of the present host that nested paging needs: levels of its tables, and whether pages can forbid execution.
const fn nested_levels(c: &Control) -> (u32, bool) {
    let levels = match (c.host_efer & EFER_LMA != 0, c.host_cr4 & CR4_LA57 != 0) {
        (false, _) => 3,
        (_, false) => 4,
        _ => 5,
    };
    (levels, c.host_efer & EFER_NXE != 0)
}

/// The vCPU's extension as of a control register: CR8 of a guest with virtual interrupts.
pub(crate) fn virtual_tpr(s: &mut Cpu) -> Option<&mut u64> {
    let masked = s.svm.guest && s.svm.control.virtual_interrupt & virtual_interrupt::MASKING != 0;
    masked.then_some(&mut s.svm.control.virtual_interrupt)
}
