//! Events in guests: what is injected, what is intercepted, virtual interrupts (APM volume 2, 15.12, 15.20, 15.21).

use tcg_engine::{Cx, Trap};

use super::{code, leave, virtual_interrupt as vi};
use crate::{
    exceptions::{self, vector},
    flags,
    guest::X86,
    interrupts::INTR,
    state::{Cpu, Injected, Run},
};

/// An event under delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// An external interrupt.
    Interrupt(u8),
    /// An NMI.
    Nmi,
    /// An exception.
    Exception(Trap),
}

impl Event {
    pub(super) fn of(e: Injected) -> Self {
        match e {
            Injected::Exception(t) => Self::Exception(t),
            Injected::Interrupt(v) => Self::Interrupt(v),
            Injected::Nmi => Self::Nmi,
        }
    }
}

const VALID: u64 = 1 << 31;
const HAS_ERROR: u64 = 1 << 11;

/// An event as EXITINTINFO and EVENTINJ have it.
pub(super) fn packed(e: Event) -> u64 {
    VALID
        | match e {
            Event::Interrupt(v) => v.into(),
            Event::Nmi => 2 | 2 << 8,
            Event::Exception(t) => {
                let error = exceptions::error_of(t).map_or(0, |e| HAS_ERROR | u64::from(e) << 32);
                u64::from(exceptions::vector_of(t)) | 3 << 8 | error
            }
        }
}

/// What EVENTINJ asks for. Software interrupts come as external ones: the return address is the guest's own.
pub(super) fn injected(e: u64) -> Injected {
    let v = e as u8;
    match e >> 8 & 7 {
        2 => Injected::Nmi,
        3 if e & HAS_ERROR != 0 => Injected::Exception(exceptions::with_error(v, (e >> 32) as u16)),
        3 => Injected::Exception(exceptions::plain(v)),
        _ => Injected::Interrupt(v),
    }
}

/// An event's delivery begins.
pub(crate) fn delivering(s: &mut Cpu, e: Event) {
    if s.svm.guest {
        s.svm.event = packed(e);
    }
}

/// It has ended.
pub(crate) fn delivered(s: &mut Cpu) {
    s.svm.event = 0;
}

/// Leaves the guest if it is in one and the exception is intercepted.
pub(crate) fn takes_exception(cx: &mut Cx<'_, X86>, trap: Trap) -> bool {
    let v = exceptions::vector_of(trap);
    let n = code::EXCEPTION + u64::from(v);
    if !cx.state.svm.intercepts(n) {
        return false;
    }
    let info2 = if v == vector::PF { trap.value } else { 0 };
    if v == vector::DB {
        cx.state.dr6 |= trap.value;
    }
    leave(cx, n, exceptions::error_of(trap).unwrap_or(0).into(), info2);
    true
}

/// The same of a triple fault.
pub(crate) fn takes_shutdown(cx: &mut Cx<'_, X86>) -> bool {
    let taken = cx.state.svm.intercepts(code::SHUTDOWN);
    if taken {
        leave(cx, code::SHUTDOWN, 0, 0);
    }
    taken
}

/// What can be taken in a guest, were it not for a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Smi,
    Nmi,
    Interrupt,
    Virtual(u8),
}

fn next(cx: &Cx<'_, X86>) -> Option<Next> {
    let s = &*cx.state;
    let c = &s.svm.control;
    if s.smi_pending && s.svm.intercepts(code::SMI) {
        return Some(Next::Smi);
    }
    if s.nmi_pending && (!s.nmi_masked || s.svm.intercepts(code::NMI)) {
        return Some(Next::Nmi);
    }
    let own = s.sys & flags::IF != 0;
    let open = if c.virtual_interrupt & vi::MASKING != 0 { c.host_if } else { own };
    if cx.lines() & INTR != 0 && open {
        return Some(Next::Interrupt);
    }
    let high = c.virtual_interrupt >> vi::PRIORITY & 15 > c.virtual_interrupt & vi::TPR;
    let wanted =
        c.virtual_interrupt & vi::PENDING != 0 && (c.virtual_interrupt & vi::IGNORE_TPR != 0 || high);
    (wanted && own).then_some(Next::Virtual((c.virtual_interrupt >> vi::VECTOR) as u8))
}

/// True if something can be taken in a guest.
pub(crate) fn ready(cx: &Cx<'_, X86>) -> bool {
    next(cx).is_some()
}

/// Takes it: to the host, or to the guest.
pub(crate) fn deliver(cx: &mut Cx<'_, X86>) -> bool {
    if cx.state.run != Run::Running || cx.state.shadow != 0 {
        return false;
    }
    let Some(next) = next(cx) else { return false };
    let exit = match next {
        Next::Smi => code::SMI,
        Next::Nmi => code::NMI,
        Next::Interrupt => code::INTR,
        Next::Virtual(_) => code::VINTR,
    };
    if cx.state.svm.intercepts(exit) {
        leave(cx, exit, 0, 0);
        return true;
    }
    match next {
        Next::Smi => return false,
        Next::Nmi => {
            (cx.state.nmi_pending, cx.state.nmi_masked) = (false, true);
            exceptions::external(cx, vector::NMI);
        }
        Next::Interrupt => {
            let Some(v) = cx.ack_irq() else { return false };
            exceptions::external(cx, v);
        }
        Next::Virtual(v) => {
            cx.state.svm.control.virtual_interrupt &= !vi::PENDING;
            exceptions::external(cx, v);
        }
    }
    true
}
