//! Errors of making a network backend; a running one drops frames instead.

use std::io;

/// Why a backend could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted, with the name of the thing.
        what: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The kernel does not serve a card's rings, which was insisted on.
    #[cfg(target_os = "linux")]
    #[error("vhost: {0}")]
    Vhost(vhost::Error),
    /// An option cannot be what it is.
    #[error("{0}")]
    Option(String),
}

impl NetError {
    pub(crate) fn host(what: impl Into<String>, source: io::Error) -> Self {
        NetError::Host { what: what.into(), source }
    }
}
