//! For hosts on which nobody serves rings but the device itself.

use std::sync::Arc;

use ::device::{BuildError, Wires};

use crate::device::Notifier;
use crate::queue::Virtqueue;

/// Nothing is ever handed over.
pub(crate) struct Direct;

impl Direct {
    pub(crate) fn new(_: (), _own: u64, _id: usize, _wires: &Wires) -> Result<Self, BuildError> {
        Ok(Direct)
    }
    pub(crate) fn permitted(&self) -> u64 {
        !0
    }
    pub(crate) fn is_on(&self) -> bool {
        false
    }
    pub(crate) fn work(&self) -> Option<()> {
        Some(())
    }
    pub(crate) fn update(&self) {}
    pub(crate) fn look(&self) -> bool {
        true
    }
    pub(crate) fn kick(&self, _index: usize) -> bool {
        false
    }
    pub(crate) fn look_again(&self) {}
    pub(crate) fn attach(&self, _notifier: Arc<dyn Notifier>) {}
    pub(crate) fn set_features(&self, _features: u64) {}
    pub(crate) fn set_wanted(&self, _wanted: usize) {}
    pub(crate) fn start_queue(&self, _index: usize, _queue: &Arc<Virtqueue>) {}
    pub(crate) fn stop_queue(&self, _index: usize) {}
    pub(crate) fn set_running(&self, _running: bool) {}
    pub(crate) fn reset(&self) {}
    pub(crate) fn backend_changed(&self) {}
    pub(crate) fn close(&self) {}
}
