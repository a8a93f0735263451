//! What becomes of a device's requests that the host has failed (QEMU, `-drive werror=` and `rerror=`).

use std::fmt;
use std::sync::Arc;

use crate::BlockError;

/// What a failed request does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    #[default]
    Report,
    /// The guest is told that it was done.
    Ignore,
    /// The machine stops and tries again when it goes on, if the host had no space; else the guest is told.
    NoSpace,
    /// The machine stops and tries again when it goes on.
    Stop,
}

impl OnError {
    /// Names in options.
    pub const NAMES: [(&'static str, Self); 4] =
        [("report", Self::Report), ("ignore", Self::Ignore), ("enospc", Self::NoSpace), ("stop", Self::Stop)];
}

/// What was done about one failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// The guest is told.
    Report,
    /// The guest is told that it was done.
    Ignore,
    /// The machine stops; the device keeps the request.
    Stop,
}

impl ErrorAction {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            ErrorAction::Report => "report",
            ErrorAction::Ignore => "ignore",
            ErrorAction::Stop => "stop",
        }
    }
}

/// What failures of reads and of everything else do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Reads.
    pub read: OnError,
    /// Writes, flushes, discards.
    pub write: OnError,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        ErrorPolicy { read: OnError::Report, write: OnError::NoSpace }
    }
}

impl ErrorPolicy {
    /// What to do about a failure.
    pub fn action(&self, read: bool, error: &BlockError) -> ErrorAction {
        match if read { self.read } else { self.write } {
            // The guest's mistakes are its own.
            _ if matches!(error, BlockError::OutOfRange { .. } | BlockError::ReadOnly) => ErrorAction::Report,
            OnError::Report => ErrorAction::Report,
            OnError::Ignore => ErrorAction::Ignore,
            OnError::Stop => ErrorAction::Stop,
            OnError::NoSpace if error.is_no_space() => ErrorAction::Stop,
            OnError::NoSpace => ErrorAction::Report,
        }
    }
}

/// A failure, for whoever listens.
#[derive(Debug)]
pub struct Failure<'a> {
    /// It was a read.
    pub read: bool,
    /// What is done about it.
    pub action: ErrorAction,
    /// What happened.
    pub error: &'a BlockError,
}

/// Hears of failures, on the thread of the request: it must not wait for the disk or the machine.
#[derive(Clone)]
pub struct FailureSink(Arc<dyn Fn(&Failure<'_>) + Send + Sync>);

impl FailureSink {
    /// One that calls `f`.
    pub fn new(f: impl Fn(&Failure<'_>) + Send + Sync + 'static) -> Self {
        FailureSink(Arc::new(f))
    }

    /// Tells of one.
    pub(crate) fn tell(&self, failure: &Failure<'_>) {
        (self.0)(failure);
    }
}

impl fmt::Debug for FailureSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FailureSink")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn actions() {
        let full = BlockError::Io(io::ErrorKind::StorageFull.into());
        let broken = BlockError::Io(io::ErrorKind::Other.into());
        let default = ErrorPolicy::default();
        assert_eq!(default.action(false, &full), ErrorAction::Stop);
        assert_eq!(default.action(false, &broken), ErrorAction::Report);
        assert_eq!(default.action(true, &full), ErrorAction::Report);
        let all = ErrorPolicy { read: OnError::Ignore, write: OnError::Stop };
        assert_eq!(
            (all.action(true, &broken), all.action(false, &broken)),
            (ErrorAction::Ignore, ErrorAction::Stop)
        );
        assert_eq!(all.action(false, &BlockError::ReadOnly), ErrorAction::Report);
    }
}
