//! Which threads run on, and how.

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadResume, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};

use super::target::{Guest, from_gdb, number};

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), &'static str> {
        let mut w = self.debugger.lock();
        for (t, v) in &mut w.threads {
            let named = self.named.iter().find(|n| n.0 == *t);
            v.step = named.is_some_and(|n| n.1);
            v.signal = named.and_then(|n| n.2);
            v.hold = self.locked && named.is_none();
        }
        let breakpoints = w.breakpoints.clone();
        drop(w);
        self.process.machine.set_breakpoints(&breakpoints);
        self.debugger.run();
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), &'static str> {
        self.named.clear();
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, signal: Option<Signal>) -> Result<(), &'static str> {
        self.named.push((number(tid), false, signal.and_then(from_gdb)));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), &'static str> {
        self.locked = true;
        Ok(())
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, tid: Tid, signal: Option<Signal>) -> Result<(), &'static str> {
        self.named.push((number(tid), true, signal.and_then(from_gdb)));
        Ok(())
    }
}
