//! Control of a machine: its configuration and the ways to talk to it.
//!
//! - [`config`]: `VmConfig`, the one description of a machine;
//! - [`options`]: QEMU's command-line syntax, and INI files, into it;
//! - [`vm`]: what a running machine offers to whoever controls it;
//! - [`qmp`], [`hmp`]: the monitors for programs and for humans, [`monitor`]: their threads;
//! - [`chardev`]: character back ends;
//! - [`gdb`]: the GDB server;
//! - [`transport`]: the ways a machine travels to another Rhea.
//!
//! This crate names no board, device or accelerator; only [`gdb`] knows registers of guests.

pub mod chardev;
pub mod config;
mod date;
#[cfg(unix)]
mod fdsets;
pub mod gdb;
mod handed;
pub mod hmp;
pub mod monitor;
pub mod options;
pub mod qmp;
mod suggest;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod value;
pub mod vm;

pub use config::{ConfigError, VmConfig};
pub use options::{Invocation, ListOf, UsageError, parse};
pub use suggest::nearest;
