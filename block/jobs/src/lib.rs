//! Long work on disks while they are in use. [`Jobs`] runs it in threads of its own, which can be paused, slowed down,
//! completed and cancelled; [`Mirror`], [`Backup`], [`Stream`] and [`Commit`] are the work.
//!
//! Whatever happens to a job, the disk it works on stays whole: contents move before anything is led to them, and what a
//! job has not finished is not used by anybody.

mod backup;
mod commit;
mod copy;
mod job;
mod mirror;
mod stream;

pub use backup::{Backup, BitmapMode};
pub use commit::{Commit, commit_at_once};
pub use copy::Sync;
pub use job::{Event, Job, JobError, JobOptions, Jobs, OnError, Status, Stop};
pub use mirror::{End, Mirror};
pub use stream::Stream;
