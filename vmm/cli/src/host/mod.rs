//! What the process asks of its host beside the machine: background, users, limits.

#[cfg(not(unix))]
mod other;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub(crate) use other::*;
#[cfg(unix)]
pub(crate) use unix::*;
