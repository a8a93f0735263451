//! Ports: permission (SDM volume 1, 18.5) and IN, OUT.

use tcg_engine::{Cx, Trap};
use tcg_ir::{Effects, SlotSet};

use crate::{
    exceptions::{self, vector},
    guest::X86,
    helpers::{RAISES_EXITS, RAISES_MEMORY, helpers},
    interrupts,
    segment::{linear, sys_load},
    system,
};

/// Checks that `bytes` ports from `port` on may be used: by level, or by the bitmap of the task-state segment.
pub(crate) fn check(cx: &mut Cx<'_, X86>, port: u16, bytes: u64) -> Result<(), Trap> {
    let s = &*cx.state;
    if !s.protected() || !s.vm86() && s.cpl <= s.iopl() {
        return Ok(());
    }
    let gp = exceptions::with_error(vector::GP, 0);
    let tr = s.tr;
    // Only 32-bit and 64-bit task-state segments have a bitmap.
    if tr.access & 8 == 0 || tr.limit < 103 {
        return Err(gp);
    }
    let at = linear(cx.state, tr.base.wrapping_add(102));
    let map = sys_load(cx, at, 1)?;
    let offset = map + u64::from(port >> 3);
    if offset + 1 > u64::from(tr.limit) {
        return Err(gp);
    }
    let at = linear(cx.state, tr.base.wrapping_add(offset));
    let bits = sys_load(cx, at, 1)? >> (port & 7);
    if bits & ((1 << bytes) - 1) != 0 { Err(gp) } else { Ok(()) }
}

helpers! {
    base system::FIRST + system::COUNT;

    /// May the ports be used?
    CheckPort "check_port" (port, bytes) -> Void
        reads SlotSet::Only(&[crate::state::SYS]), writes SlotSet::None, effects RAISES_MEMORY;
        |cx| check(cx, port as u16, bytes).map(|()| 0)

    /// IN.
    PortIn "port_in" (port, bytes) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::empty();
        |cx| Ok(u64::from(cx.pio_read(port as u16, bytes as usize)))

    /// OUT, with the program counter behind it. What the device asks of this vCPU (a management interrupt, another A20)
    /// happens before the next instruction; `stay` if the unit ends here anyway.
    PortOut "port_out" (port, bytes, value, stay) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES_EXITS;
        |cx| {
            cx.pio_write(port as u16, bytes as usize, value as u32);
            interrupts::follow_a20(cx);
            if stay == 0 && cx.exit_requested() {
                cx.leave_unit();
            }
            Ok(0)
        }
}
