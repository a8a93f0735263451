//! Breakpoints and watchpoints. Nothing is written into the program's code.

use accel::{WatchKind, Watchpoint};
use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
    WatchKind as GdbWatch,
};

use super::target::Guest;

/// Most of each kind.
const MOST: usize = 4096;

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
    if !list.contains(&item) {
        if list.len() >= MOST {
            return false;
        }
        list.push(item);
    }
    true
}

fn remove<T: PartialEq>(list: &mut Vec<T>, item: &T) -> bool {
    let before = list.len();
    list.retain(|i| i != item);
    list.len() != before
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(add(&mut self.debugger.lock().breakpoints, addr))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.debugger.lock().breakpoints, &addr))
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, addr: u64, kind: usize) -> TargetResult<bool, Self> {
        self.add_sw_breakpoint(addr, kind)
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, kind: usize) -> TargetResult<bool, Self> {
        self.remove_sw_breakpoint(addr, kind)
    }
}

fn watchpoint(gva: u64, len: u64, gdb: GdbWatch) -> (Watchpoint, GdbWatch) {
    let kind = match gdb {
        GdbWatch::Write => WatchKind::Write,
        GdbWatch::Read => WatchKind::Read,
        GdbWatch::ReadWrite => WatchKind::Access,
    };
    (Watchpoint { gva, len: len.max(1), kind }, gdb)
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: GdbWatch) -> TargetResult<bool, Self> {
        Ok(add(&mut self.debugger.lock().watch, watchpoint(addr, len, kind)))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: GdbWatch) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.debugger.lock().watch, &watchpoint(addr, len, kind)))
    }
}
