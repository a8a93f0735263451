//! `memtrace`: a line for each access to memory: vCPU, address of the instruction, what it did, bytes, address, value.
//!
//! Accesses of a system call, of page table walks and of devices are none of the guest's instructions and are not shown.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use crate::options::Arguments;
use crate::{Access, Accesses, Host, Plugin, PluginError, Request, Unit};

pub(super) const KEYS: &str = "from=ADDRESS, to=ADDRESS, limit=NUMBER, loads=on, stores=on";

/// Bytes of text that are printed at once.
const BUFFER: usize = 32 << 10;

struct Trace {
    host: Host,
    which: Accesses,
    from: u64,
    to: u64,
    lines: Mutex<Lines>,
}

struct Lines {
    text: String,
    left: u64,
}

pub(super) fn make(host: &Host, a: &mut Arguments<'_>) -> Result<Box<dyn Plugin>, PluginError> {
    let which = match (a.switch("loads")?, a.switch("stores")?) {
        (false, false) => Accesses::ALL,
        (loads, stores) => Accesses { loads, stores },
    };
    let (from, to) = (a.number("from")?.unwrap_or(0), a.number("to")?.unwrap_or(u64::MAX));
    let left = a.number("limit")?.unwrap_or(u64::MAX);
    let lines = Mutex::new(Lines { text: String::new(), left });
    Ok(Box::new(Trace { host: host.clone(), which, from, to, lines }))
}

impl Trace {
    fn flush(&self, lines: &mut Lines) {
        if !lines.text.is_empty() {
            self.host.print(&lines.text);
            lines.text.clear();
        }
    }
}

impl Plugin for Trace {
    fn translated(&self, unit: &mut Unit<'_>) {
        for i in 0..unit.insns().len() {
            let data = unit.insns()[i].address;
            unit.ask(i, Request::Access { which: self.which, id: 0, data });
        }
    }

    fn accessed(&self, vcpu: u32, _: u32, pc: u64, a: &Access) {
        if a.address < self.from || a.address > self.to {
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.left == 0 {
            return;
        }
        lines.left -= 1;
        let what = match (a.load, a.store) {
            (true, true) => "both",
            (true, _) => "load",
            _ => "store",
        };
        let _ = write!(lines.text, "{vcpu} {pc:#x} {what} {} {:#x}", a.size, a.address);
        let _ = match a.value {
            Some(v) => writeln!(lines.text, " {v:#x}"),
            None => writeln!(lines.text),
        };
        if lines.text.len() >= BUFFER {
            self.flush(&mut lines);
        }
    }

    fn forked(&self) {
        // What is in the buffer is the parent's.
        if let Ok(mut lines) = self.lines.try_lock() {
            lines.text.clear();
        }
    }

    fn finished(&self) {
        self.flush(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
