//! Group stops: a signal that stops a process stops all its traced threads, each of which tells its tracer; `PTRACE_LISTEN` leaves
//! them there until SIGCONT. The process keeps the number of group stops and their ends, with the signal or 0, and each thread the
//! last it knows of: messages of one kind merge.

use std::sync::atomic::Ordering::SeqCst;

use super::attach::{message, send};
use super::{CallStop, command, event, option, wish};
use crate::host;
use crate::signal::{OPEN, bit};
use crate::thread::Thread;

impl Thread {
    /// A stop that no signal has caused, as the tracer of a seized thread is told of it.
    pub(super) fn stop_of_ours(&mut self, signal: i32) {
        self.trace_stop(signal as u64 | event::STOP << 8, 0, None, &CallStop::default());
    }

    /// Stops with its process; `first` has the other threads do so as well.
    pub(crate) fn group_stop(&mut self, signal: i32, first: bool) {
        if first {
            self.change_group(signal);
        }
        let seized = self.traced.as_ref().is_some_and(|t| t.options() & option::SEIZED != 0);
        if !seized {
            // The tracer lets each thread go on by itself.
            self.trace_stop(signal as u64, 1, None, &CallStop::default());
            return;
        }
        self.stop_of_ours(signal);
        while self.traced.as_ref().is_some_and(|t| t.mode() == command::LISTEN) {
            if self.listen() {
                self.stop_of_ours(libc::SIGTRAP);
                return;
            }
            // Interrupted: the stop goes on.
            self.stop_of_ours(signal);
        }
    }

    /// Waits until the group stop ends (true), or the tracer wants to be told of it again.
    fn listen(&mut self) -> bool {
        let mask = !(bit(libc::SIGCONT) | OPEN);
        host::set_mask(!OPEN);
        loop {
            self.slot.lower();
            if self.slot.is_full() {
                self.change_group(0);
                return true;
            }
            let _ = self.slot.take_message();
            if self.news_of_group() == Some(0) {
                return true;
            }
            let wished = self.traced.as_ref().and_then(|t| t.take_wish());
            if wished.is_some_and(|w| w.0 == wish::INTERRUPT) {
                return false;
            }
            let at = (&raw const mask) as u64;
            let number = libc::SYS_rt_sigsuspend as u16;
            let _ = host::interruptible(self.slot.flag(), number, &[at, 8, 0, 0, 0, 0]);
        }
    }

    /// What has become of the process since this thread last looked: the signal that stops it, or 0 if it goes on.
    pub(super) fn news_of_group(&mut self) -> Option<i32> {
        let now = self.process.group.load(SeqCst);
        let t = self.traced.as_mut().filter(|t| t.group != now)?;
        t.group = now;
        Some((now & 0x7f) as i32)
    }

    /// The process stops with a signal, or goes on (0).
    fn change_group(&mut self, signal: i32) {
        let now = ((self.process.group.load(SeqCst) >> 8) + 1) << 8 | signal as u64;
        self.process.group.store(now, SeqCst);
        self.traced.iter_mut().for_each(|t| t.group = now);
        let process = u64::from(std::process::id());
        for thread in self.process.threads().iter().filter(|t| **t != self.tid) {
            let _ = send(process, *thread, message::LOOK);
        }
    }
}
