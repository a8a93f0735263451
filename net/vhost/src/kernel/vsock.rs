//! vhost-vsock as a back end: one descriptor, both rings of data.

use super::{Kernel, VSOCK};
use crate::{Backend, Error, Plan, Table};

/// The kernel's sockets for one guest.
pub struct KernelVsock {
    kernel: Kernel,
}

impl KernelVsock {
    /// Takes a context id for a guest.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn new(kernel: Kernel, cid: u64) -> Result<Self, Error> {
        let what = || format!("{VSOCK}: guest-cid={cid} (expected one that no other guest of this host has)");
        kernel.driver().set_cid(cid).map_err(|source| Error::Host { what: what(), source })?;
        Ok(KernelVsock { kernel })
    }

    fn set_running(&self, on: bool) -> Result<(), Error> {
        let what = format!("{VSOCK}: start of its queues");
        self.kernel.driver().set_running(on).map_err(|source| Error::Host { what, source })
    }
}

impl Backend for KernelVsock {
    fn features(&self) -> Option<u64> {
        Some(self.kernel.features())
    }

    fn maps_files(&self) -> bool {
        false
    }

    fn start(&self, plan: &Plan<'_>) -> Result<(), Error> {
        self.kernel.prepare(plan, plan.rings)?;
        self.set_running(true)
    }

    fn set_memory(&self, memory: &Table) -> Result<(), Error> {
        self.kernel.set_memory(memory)
    }

    fn stop(&self) -> Option<Vec<u16>> {
        self.set_running(false).ok()?;
        self.kernel.bases(2)
    }
}
