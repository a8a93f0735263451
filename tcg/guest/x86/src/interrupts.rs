//! Interrupts: the INTR and A20M# inputs, NMI, SMI, INIT and start-up IPIs (SDM volume 3, 6.3, 8.4 and 33.3).

use accel::{Exit, VcpuSignal};
use tcg_engine::Cx;

use crate::{
    exceptions::{self, vector},
    flags,
    guest::X86,
    smm, snapshot,
    state::{Injected, Run, seg},
    svm,
};

/// Bit of the input lines: INTR.
pub(crate) const INTR: u64 = 1;
/// Bit of the input lines: A20M#.
pub(crate) const A20M: u64 = 1 << 1;

/// Takes over the A20M# input if it has changed.
pub(crate) fn follow_a20(cx: &mut Cx<'_, X86>) {
    let a20 = if cx.lines() & A20M != 0 { !(1 << 20) } else { u64::MAX };
    if cx.state.a20 != a20 {
        cx.state.a20 = a20;
        cx.flush_tlb(None, |_| true);
    }
}

/// True if a system management interrupt is to be taken.
fn smi(cx: &Cx<'_, X86>) -> bool {
    cx.state.smi_pending && !cx.state.smm
}

/// True if an interrupt can be taken now, were it not for a shadow.
fn ready(cx: &Cx<'_, X86>) -> bool {
    let s = &*cx.state;
    if !s.svm.gif {
        return false;
    }
    if s.svm.guest {
        return svm::ready(cx);
    }
    smi(cx) || s.nmi_pending && !s.nmi_masked || cx.lines() & INTR != 0 && s.sys & flags::IF != 0
}

/// Sees to it that an interrupt that can be taken now is looked at before the next unit.
pub(crate) fn look(cx: &mut Cx<'_, X86>) {
    if cx.state.injected.is_some() || ready(cx) {
        cx.look_soon();
    }
}

/// Takes an interrupt if one can be taken.
pub(crate) fn deliver(cx: &mut Cx<'_, X86>) -> bool {
    follow_a20(cx);
    let woken = std::mem::take(&mut cx.state.woken);
    if let Some(event) = cx.state.injected.take() {
        match event {
            Injected::Exception(trap) => exceptions::raise_injected(cx, trap),
            Injected::Interrupt(vector) => exceptions::external(cx, vector),
            Injected::Nmi => exceptions::external(cx, vector::NMI),
        }
        return true;
    }
    if cx.state.run != Run::Running || cx.state.shadow != 0 || !ready(cx) {
        return false;
    }
    if cx.state.svm.guest {
        return svm::deliver(cx);
    }
    if smi(cx) {
        cx.state.smi_pending = false;
        smm::enter(cx, woken);
        return true;
    }
    if cx.state.nmi_pending && !cx.state.nmi_masked {
        cx.state.nmi_pending = false;
        cx.state.nmi_masked = true;
        exceptions::external(cx, vector::NMI);
        return true;
    }
    let Some(vector) = cx.ack_irq() else { return false };
    exceptions::external(cx, vector);
    true
}

/// True if a vCPU in HLT has a reason to go on.
pub(crate) fn wakes(cx: &Cx<'_, X86>) -> bool {
    cx.state.run == Run::Halted && ready(cx)
}

/// What a vCPU has stopped for, if nothing wakes it.
pub(crate) fn stopped(cx: &Cx<'_, X86>) -> Option<Exit> {
    match cx.state.run {
        Run::Shutdown => Some(Exit::Reset),
        // A local APIC can still bring INIT or an NMI.
        Run::Halted
            if cx.state.sys & flags::IF == 0
                && !wakes(cx)
                && !cx.state.svm.guest
                && cx.local_apics().is_none() =>
        {
            Some(Exit::Halted)
        }
        _ => None,
    }
}

/// INIT. Application processors wait for a start-up IPI then; the bootstrap processor begins at the reset vector.
pub(crate) fn init(cx: &mut Cx<'_, X86>) {
    snapshot::init(cx);
    if cx.index() != 0 {
        cx.state.run = Run::WaitForSipi;
    }
}

/// Acts on a signal.
pub(crate) fn signal(cx: &mut Cx<'_, X86>, signal: VcpuSignal) {
    match signal {
        VcpuSignal::Nmi => cx.state.nmi_pending = true,
        VcpuSignal::Smi => cx.state.smi_pending = true,
        VcpuSignal::Init if cx.state.smm => cx.state.init_latched = true,
        VcpuSignal::Init => init(cx),
        VcpuSignal::Sipi(page) if cx.state.run == Run::WaitForSipi => {
            let s = &mut *cx.state;
            s.seg_sel[seg::CS] = u64::from(page) << 8;
            s.seg_base[seg::CS] = u64::from(page) << 12;
            s.pc = s.seg_base[seg::CS];
            s.run = Run::Running;
        }
        VcpuSignal::Sipi(_) => {}
    }
}
