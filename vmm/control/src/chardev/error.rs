//! Errors of character back ends.

use std::io;
use thiserror::Error;

/// Why a back end cannot be opened or connected.
#[derive(Debug, Error)]
pub enum ChardevError {
    /// No back end has this id.
    #[error("chardev '{0}' is not known")]
    Unknown(String),
    /// It has a front end already.
    #[error("chardev '{0}' is in use; give it mux=on to share it")]
    InUse(String),
    /// Too many front ends share it.
    #[error("a mux chardev has at most {0} front ends")]
    MuxFull(usize),
    /// It cannot be opened.
    #[error("chardev '{id}': {reason}")]
    Open {
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },
    /// The host cannot do it.
    #[error("{0} is not supported on this host")]
    Unsupported(&'static str),
    /// The host refused.
    #[error("{what}: {source}")]
    Host {
        /// What was tried, with the path or address.
        what: String,
        /// The host's answer.
        source: io::Error,
    },
}

impl ChardevError {
    /// Adds what was tried to the host's answer.
    pub(crate) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }
}
