//! Requests of disks that the host has failed: what is done about them, and who hears.

use std::sync::Arc;

use anyhow::{Result, bail};
use block::{FailureSink, OnError};
use block_graph::Edge;
use parking_lot::Mutex;

/// What failures of reads and of writes do, where the user says.
pub(crate) type OnErrors = (Option<OnError>, Option<OnError>);

/// Hears of a failed request: the drive, its node, the device, the request.
type FailureListener = Arc<dyn Fn(&DiskNames, &block::Failure<'_>) + Send + Sync>;

/// Where failures are told, once somebody listens.
#[derive(Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<Option<FailureListener>>>);

impl Failures {
    /// Sets who hears.
    pub(crate) fn set(&self, listener: FailureListener) {
        *self.0.lock() = Some(listener);
    }

    /// Where one disk tells.
    pub(crate) fn sink(&self, names: DiskNames) -> FailureSink {
        let to = self.clone();
        FailureSink::new(move |failure| {
            let listener = to.0.lock().clone();
            if let Some(listener) = listener {
                listener(&names, failure);
            }
        })
    }
}

/// What a disk is called.
pub(crate) struct DiskNames {
    pub(crate) drive: String,
    pub(crate) edge: Arc<Edge>,
    pub(crate) qdev: String,
}

/// A value of `werror=` or `rerror=`.
pub(crate) fn on_error(key: &str, value: Option<&str>) -> Result<Option<OnError>> {
    let Some(value) = value.filter(|v| *v != "auto") else { return Ok(None) };
    let known = OnError::NAMES.iter().filter(|(_, v)| key == "werror" || *v != OnError::NoSpace);
    match known.clone().find(|(name, _)| *name == value) {
        Some((_, v)) => Ok(Some(*v)),
        None => bail!("{key}={value}: expected {}", known.map(|(n, _)| *n).collect::<Vec<_>>().join(", ")),
    }
}
