//! Interrupts: the INTR input, NMI, INIT and start-up IPIs (SDM volume 3, 6.3 and 8.4).

use accel::{Exit, VcpuSignal};
use tcg_engine::Cx;

use crate::{
    exceptions::{self, vector},
    flags,
    guest::X86,
    snapshot,
    state::{Run, seg},
};

/// True if an interrupt can be taken now, were it not for a shadow.
fn ready(cx: &Cx<'_, X86>) -> bool {
    let s = &*cx.state;
    s.nmi_pending && !s.nmi_masked || cx.lines() & 1 != 0 && s.sys & flags::IF != 0
}

/// Sees to it that an interrupt that can be taken now is looked at before the next unit.
pub(crate) fn look(cx: &mut Cx<'_, X86>) {
    if ready(cx) {
        cx.look_soon();
    }
}

/// Takes an interrupt if one can be taken.
pub(crate) fn deliver(cx: &mut Cx<'_, X86>) -> bool {
    if cx.state.run != Run::Running || cx.state.shadow != 0 || !ready(cx) {
        return false;
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
        Run::Halted if cx.state.sys & flags::IF == 0 && !wakes(cx) && cx.local_apics().is_none() => {
            Some(Exit::Halted)
        }
        _ => None,
    }
}

/// Acts on a signal.
pub(crate) fn signal(cx: &mut Cx<'_, X86>, signal: VcpuSignal) {
    match signal {
        VcpuSignal::Nmi => cx.state.nmi_pending = true,
        VcpuSignal::Init => {
            snapshot::init(cx);
            if cx.index() != 0 {
                cx.state.run = Run::WaitForSipi;
            }
        }
        VcpuSignal::Sipi(page) if cx.state.run == Run::WaitForSipi => {
            let s = &mut *cx.state;
            s.seg_sel[seg::CS] = u64::from(page) << 8;
            s.seg_base[seg::CS] = u64::from(page) << 12;
            s.pc = s.seg_base[seg::CS];
            s.run = Run::Running;
        }
        VcpuSignal::Sipi(_) | VcpuSignal::Smi => {}
    }
}
