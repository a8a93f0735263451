//! Errors of setting the network up; once it runs, it drops packets and refuses connections instead.

use std::io;

/// Why a user network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// An option's value is not of its form.
    #[error("{key}: '{value}' is not {expected}")]
    Option {
        /// The option.
        key: String,
        /// What was given.
        value: String,
        /// What would do.
        expected: String,
    },
    /// There is no such option.
    #[error("no option '{key}'; there are: {known}")]
    Unknown {
        /// What was given.
        key: String,
        /// All there are.
        known: String,
    },
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted, with the name of the thing.
        what: String,
        /// The host's reason.
        source: io::Error,
    },
}

impl UserError {
    pub(crate) fn option(key: &str, value: &str, expected: &str) -> Self {
        UserError::Option { key: key.into(), value: value.into(), expected: expected.into() }
    }

    pub(crate) fn host(what: impl Into<String>, source: io::Error) -> Self {
        UserError::Host { what: what.into(), source }
    }
}
