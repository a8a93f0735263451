//! `mirror`: a disk is moved to another while it is in use, and then followed. What is written meanwhile is marked in a bitmap
//! and moved again, or (`write-blocking`) is written to both at once.

use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, BlockNode};
use block_formats::chain;
use block_graph::{Change, DirtyBitmap, Hook, Node, drained};
use parking_lot::RwLock;

use crate::copy::{CHUNK, Sync, copy, ranges_above};
use crate::job::{Job, Stop};

/// How long a mirror that has caught up sleeps before it looks for changes.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of the disk that are asked about at a time.
const STEP: u64 = 256 << 20;

/// How a mirror ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whoever used the source is led to the target.
    Pivot,
    /// The target keeps what the source had at that moment.
    Leave,
}

/// A mirror.
pub struct Mirror {
    /// The disk in use.
    pub source: Arc<Node>,
    /// Where it goes.
    pub target: Arc<Node>,
    /// What of it.
    pub sync: Sync,
    /// Bytes a bit of the bitmap of changes stands for.
    pub granularity: u64,
    /// Write to both at once.
    pub write_blocking: bool,
    /// The target reads as zero everywhere.
    pub target_is_zero: bool,
    /// With [`Sync::Top`]: how many images count as the topmost.
    pub depth: u32,
    /// Ranges to move instead of those that `sync` says.
    pub only: Option<Vec<std::ops::Range<u64>>>,
}

struct Follower {
    dirty: DirtyBitmap,
    target: Arc<Node>,
    /// Writes go to both.
    blocking: bool,
    /// Held for writing while a piece is moved, so that it does not overwrite newer data at the target.
    moving: RwLock<()>,
}

impl Hook for Follower {
    fn after(&self, change: &Change<'_>, done: bool) -> Result<(), BlockError> {
        if !self.blocking || !done {
            self.dirty.mark(change.range());
            return Ok(());
        }
        let _shared = self.moving.read();
        let copied = match *change {
            Change::Write { offset, bufs } => self.target.write(offset, bufs, false),
            Change::Zeroes { offset, len, unmap } => self.target.write_zeroes(offset, len, unmap),
            Change::Discard { offset, len } => self.target.discard(offset, len),
        };
        if copied.is_err() || matches!(change, Change::Discard { .. }) {
            // The job moves it, and deals with the error.
            self.dirty.mark(change.range());
        }
        Ok(())
    }
}

impl Mirror {
    /// Follows the source until the job is told to complete or to end. `finish` is given how that is to happen and the last
    /// step, which it makes while the source is drained.
    pub fn run(
        self,
        job: &Arc<Job>,
        finish: impl FnOnce(End, &mut dyn FnMut() -> Result<(), BlockError>) -> Result<(), BlockError>,
    ) -> Result<(), Stop> {
        let size = self.source.image().size();
        let follower = Arc::new(Follower {
            dirty: DirtyBitmap::new("mirror", size, self.granularity, false)?,
            target: self.target.clone(),
            blocking: self.write_blocking,
            moving: RwLock::new(()),
        });
        let hook: Arc<dyn Hook> = follower.clone();
        drained(std::slice::from_ref(&self.source), || self.source.hook(hook.clone()));
        let done = self.follow(job, &follower, size);
        let ended = match done {
            Ok(end) => {
                let mut last = || -> Result<(), BlockError> {
                    let mut buffer = Vec::new();
                    while let Some(range) = follower.dirty.next(0, CHUNK) {
                        copy(&**self.source.image(), &*self.target, range.clone(), false, &mut buffer)
                            .map_err(|(_, e)| e)?;
                        follower.dirty.clean(range);
                    }
                    self.target.flush()
                };
                finish(end, &mut last).map_err(Stop::Failed)
            }
            Err(e) => Err(e),
        };
        self.source.unhook(&hook);
        ended
    }

    fn mark(&self, job: &Job, follower: &Follower, size: u64) -> Result<(), Stop> {
        if let Some(only) = &self.only {
            only.iter().for_each(|r| follower.dirty.mark(r.clone()));
            return Ok(());
        }
        let image = self.source.image();
        let mut at = 0;
        while at < size {
            job.check()?;
            let end = (at + STEP).min(size);
            match self.sync {
                Sync::Full if self.target_is_zero => {
                    chain::data_ranges(image, at..end)?.into_iter().for_each(|r| follower.dirty.mark(r));
                }
                Sync::Full => follower.dirty.mark(at..end),
                Sync::Top => {
                    let own = ranges_above(image, at..end, self.depth)?;
                    own.into_iter().for_each(|(r, _)| follower.dirty.mark(r));
                }
                Sync::None | Sync::Incremental => {}
            }
            at = end;
        }
        Ok(())
    }

    fn follow(&self, job: &Arc<Job>, follower: &Follower, size: u64) -> Result<End, Stop> {
        self.mark(job, follower, size)?;
        job.expect(follower.dirty.dirty_bytes().min(size));
        let mut buffer = Vec::new();
        let mut at = 0;
        let mut ready = false;
        loop {
            let next = follower.dirty.next(at, CHUNK).or_else(|| follower.dirty.next(0, CHUNK));
            let Some(range) = next else {
                if !ready {
                    // What is ready is safe as well.
                    if let Err(e) = self.target.flush() {
                        job.failed(e, false)?;
                        continue;
                    }
                    ready = true;
                    job.ready();
                }
                if job.idle(PAUSE)? {
                    return Ok(if job.completing() { End::Pivot } else { End::Leave });
                }
                continue;
            };
            if ready {
                job.expect_more(range.end - range.start);
                // Told to end: the rest is moved in the last step, as the source may be faster than this.
                if job.idle(Duration::ZERO)? {
                    return Ok(if job.completing() { End::Pivot } else { End::Leave });
                }
            }
            // First clean: a change while it is being moved marks it again.
            follower.dirty.clean(range.clone());
            let moved = {
                let _alone = self.write_blocking.then(|| follower.moving.write());
                copy(&**self.source.image(), &*self.target, range.clone(), false, &mut buffer)
            };
            if let Err((source, e)) = moved {
                follower.dirty.mark(range.clone());
                // What is passed over stays marked, and is tried again later.
                job.failed(e, source)?;
            }
            at = range.end;
            job.advance(range.end - range.start)?;
        }
    }
}
