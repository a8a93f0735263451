//! The one error type of the compiler: a place in a `.decode` file and what is wrong there.

use std::fmt;

/// A mistake in a `.decode` file, or a file that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Path as given to the builder.
    pub file: String,
    /// 1-based line, 0 when the file as a whole is meant.
    pub line: usize,
    /// One line: names the thing and what was expected.
    pub message: String,
}

impl Error {
    pub(crate) fn new(file: &str, line: usize, message: impl Into<String>) -> Error {
        Error { file: file.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}:{}: {}", self.file, self.line, self.message)
        }
    }
}

impl std::error::Error for Error {}
