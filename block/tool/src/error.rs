//! Errors of the tool.

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A wrong command line.
    #[error("{0}")]
    Usage(String),
    /// Help was asked for: not an error.
    #[error("{0}")]
    Help(String),
    /// The image, or what is below it.
    #[error(transparent)]
    Block(#[from] block::BlockError),
    /// A file.
    #[error("{path}: {}", block::reason(source))]
    File {
        /// Its path.
        path: String,
        /// The host's reason.
        source: std::io::Error,
    },
    /// What a command found out, with an exit code of its own.
    #[error("{1}")]
    Code(u8, String),
    /// Somebody else has said why.
    #[error("failed")]
    Silent,
    /// What a command found out.
    #[error("{0}")]
    Failed(String),
}

/// A wrong command line.
pub(crate) fn usage<T>(what: impl Into<String>) -> Result<T, ToolError> {
    Err(ToolError::Usage(what.into()))
}
