//! The extension's instructions, and the question before those that can be intercepted (APM volume 2, 15.5 to 15.17).

use tcg_engine::{Cx, Trap};
use tcg_ir::SlotSet;

use super::{EXIT, byte, code, enter, exit_trap, load_more, save_more};
use crate::{
    avx512,
    control::{CR0_MP, CR0_TS},
    exceptions::{self, vector},
    guest::X86,
    helpers::{RAISES, RAISES_EXITS, helpers},
    interrupts,
    msr::EFER_SVME,
};

/// An instruction by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Vmrun,
    Vmload,
    Vmsave,
    Stgi,
    Clgi,
    Invlpga,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Vmrun, Self::Vmload, Self::Vmsave, Self::Stgi, Self::Clgi, Self::Invlpga];
}

/// True if the bitmap of ports at `map` has one of `bytes` ports from `port` on.
fn port_intercepted(cx: &Cx<'_, X86>, map: u64, port: u64, bytes: u64) -> bool {
    (port..port + bytes).any(|p| byte(cx, map + p / 8).is_none_or(|b| b >> (p % 8) & 1 != 0))
}

/// The same of MSRs; those that have no place in the bitmap are always intercepted.
fn msr_intercepted(cx: &Cx<'_, X86>, map: u64, index: u64, write: bool) -> bool {
    let part = match index >> 13 {
        0 => 0,
        0x6_0000 => 0x800,
        0x6_0008 => 0x1000,
        _ => return true,
    };
    let bit = 2 * (index & 0x1fff) + u64::from(write);
    byte(cx, map + part + bit / 8).is_none_or(|b| b >> (bit % 8) & 1 != 0)
}

fn asked(cx: &mut Cx<'_, X86>, n: u64, info: u64, next: u64) -> Result<(), Trap> {
    let c = cx.state.svm.control;
    let (mut taken, mut info1) = (cx.state.svm.intercepts(n), info);
    match n {
        code::IO if taken => taken = port_intercepted(cx, c.iopm, info >> 16, info >> 4 & 7),
        code::MSR if taken => taken = msr_intercepted(cx, c.msrpm, cx.state.regs[1] & 0xffff_ffff, info != 0),
        code::CR0_SEL_WRITE => {
            taken &= (info ^ cx.state.cr0) & !(CR0_TS | CR0_MP) != 0;
            info1 = 0;
        }
        _ => {}
    }
    if taken {
        cx.state.svm.next = next;
        return Err(exit_trap(n, info1));
    }
    Ok(())
}

fn execute(cx: &mut Cx<'_, X86>, kind: Kind, rax: u64, ecx: u64) -> Result<(), Trap> {
    if cx.state.msrs.efer & EFER_SVME == 0 {
        return Err(exceptions::plain(vector::UD));
    }
    let block = matches!(kind, Kind::Vmrun | Kind::Vmload | Kind::Vmsave);
    if block && (rax & 0xfff != 0 || rax >> cx.guest().model().phys_bits != 0) {
        return Err(exceptions::with_error(vector::GP, 0));
    }
    match kind {
        Kind::Vmrun => enter(cx, rax),
        Kind::Vmload => load_more(cx, rax),
        Kind::Vmsave => save_more(cx, rax),
        Kind::Stgi => {
            cx.state.svm.gif = true;
            interrupts::look(cx);
        }
        Kind::Clgi => cx.state.svm.gif = false,
        // The page goes from all spaces, that of the ASID in ECX among them.
        Kind::Invlpga => {
            let _ = ecx;
            cx.flush_tlb(Some(rax), |_| true);
        }
    }
    Ok(())
}

helpers! {
    base avx512::FIRST + avx512::COUNT;

    /// Exit `n` with EXITINFO1 `info`, if it is intercepted; `next` is the offset of the next instruction.
    Intercept "svm_intercept" (n, info, next) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES;
        |cx| {
            debug_assert_eq!(n & EXIT, 0);
            asked(cx, n, info, next).map(|()| 0)
        }

    /// An instruction of the extension, with the program counter behind it.
    Svm "svm" (kind, rax, ecx) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| {
            let kind = Kind::ALL.get(kind as usize).copied().unwrap_or(Kind::Clgi);
            execute(cx, kind, rax, ecx).map(|()| 0)
        }
}
