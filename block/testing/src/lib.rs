//! Tests of what happens when the host fails: a [`Host`] of files in memory that remembers every write, so that the power can
//! be cut after any of them, and that fails any request on demand.
//!
//! After a cut each file holds what was written before its last flush, and of the writes since then any that luck left, each
//! whole or as some of its sectors: nothing else is promised by a host. Used by tests only.

mod file;
mod host;
mod random;

pub use file::HostFile;
pub use host::{Fault, Host};
pub use random::Random;

/// What a host writes as a whole or not at all, in bytes.
pub const SECTOR: usize = 512;
