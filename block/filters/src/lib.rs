//! Filters: nodes that stand on other nodes and change what requests do. A filter is a row of [`drivers`] and one file.
//!
//! Options are those of QEMU's drivers of the same names. How a child is named or described is the business of whoever
//! opens the graph ([`Children`]).

mod blkdebug;
mod blkverify;
mod breakpoints;
mod compress;
mod copy_on_read;
mod driver;
mod log_writes;
mod pass;
mod preallocate;
mod quorum;
mod throttle;

pub use blkdebug::{BlkDebug, Fault, Kind};
pub use blkverify::BlkVerify;
pub use breakpoints::Breakpoints;
pub use compress::Compress;
pub use copy_on_read::CopyOnRead;
pub use driver::{Children, Driver, drivers, find};
pub use log_writes::LogWrites;
pub use preallocate::Preallocate;
pub use quorum::Quorum;
pub use throttle::{Limits, Throttle, ThrottleGroup};
