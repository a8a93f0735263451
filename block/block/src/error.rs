//! Errors of the block layer.

use std::io;

/// Why a disk could not be opened, or a request failed.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The image could not be opened or looked at.
    #[error("{path}: {}", reason(source))]
    Open {
        /// Path of the image.
        path: String,
        /// The host's reason.
        source: io::Error,
    },
    /// Somebody else uses the image in a way that does not go together with ours.
    #[error("{path}: the image is in use by another process{}", if *.writer { " that writes it" } else { "" })]
    InUse {
        /// Path of the image.
        path: String,
        /// Whether the other side has it open for writing.
        writer: bool,
    },
    /// The request lies (partly) beyond the end of the disk.
    #[error("request of {len:#x} bytes at {offset:#x} is beyond the disk's {size:#x} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// A write to a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The node cannot do this.
    #[error("{0} is not supported by this image")]
    Unsupported(&'static str),
    /// The image's own structures are damaged or of an unknown kind.
    #[error("{path}: {what}")]
    Format {
        /// Path of the image.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The host failed the request.
    #[error("{}", reason(.0))]
    Io(io::Error),
}

impl From<io::Error> for BlockError {
    fn from(e: io::Error) -> Self {
        BlockError::Io(e)
    }
}

/// The host's words for an error, without its number.
pub fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(at) if e.raw_os_error().is_some() => text[..at].to_owned(),
        _ => text,
    }
}

impl BlockError {
    /// Whether the host's disk is full: a machine stops rather than telling its guest.
    pub fn is_no_space(&self) -> bool {
        matches!(self, BlockError::Io(e) if e.kind() == io::ErrorKind::StorageFull)
    }
}
