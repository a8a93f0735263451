//! Errors of a configuration: each is one line that names the thing and what was expected.

use crate::suggest::nearest;
use thiserror::Error;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A name that is not in the list of known ones.
    #[error("{what} '{name}' is not known{hint}")]
    Unknown {
        /// Kind of thing: `option`, `machine`, `drive key` ...
        what: String,
        /// What was given.
        name: String,
        /// `; did you mean 'x'?`, `; known: a, b`, or nothing.
        hint: String,
    },
    /// A value that does not fit its key.
    #[error("'{key}' expects {expected}, got '{value}'")]
    BadValue {
        /// Key or argument.
        key: String,
        /// What was given.
        value: String,
        /// What would have been right.
        expected: String,
    },
    /// A key that has to be there is not.
    #[error("{what} needs '{key}'")]
    Missing {
        /// The object that lacks it.
        what: String,
        /// The key.
        key: String,
    },
    /// Two things have the same id.
    #[error("{what} id '{id}' is used twice")]
    DuplicateId {
        /// Name space.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// Values that are fine alone and do not fit each other.
    #[error("{0}")]
    Conflict(String),
    /// A syntax error of the JSON or INI text.
    #[error("{0}")]
    Syntax(String),
    /// A file that could not be read.
    #[error("cannot read '{path}': {reason}")]
    File {
        /// Path as given.
        path: String,
        /// The system's words.
        reason: String,
    },
}

impl ConfigError {
    /// An unknown `name`, with the nearest of `known` proposed; a short list is shown whole.
    pub fn unknown<'a>(
        what: impl Into<String>,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("; did you mean '{near}'?"),
            None if !known.is_empty() && known.len() <= 24 => format!("; known: {}", known.join(", ")),
            None => String::new(),
        };
        Self::Unknown { what: what.into(), name: name.to_owned(), hint }
    }

    /// A bad `value` for `key`.
    pub fn bad(key: impl Into<String>, value: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::BadValue { key: key.into(), value: value.into(), expected: expected.into() }
    }

    /// `what` lacks `key`.
    pub fn missing(what: impl Into<String>, key: impl Into<String>) -> Self {
        Self::Missing { what: what.into(), key: key.into() }
    }
}
