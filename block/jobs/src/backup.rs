//! `backup`: a disk as it was at one moment is moved to another while it is in use. Before something is overwritten for the
//! first time, what was there is moved.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode};
use block_formats::Image;
use block_graph::{Change, DirtyBitmap, Hook, Node, drained};
use parking_lot::{Condvar, Mutex};

use crate::copy::{Sync, copy, own_ranges};
use crate::job::{Job, Stop};

/// Unit in which contents are moved, if the target has no larger one.
const CLUSTER: u64 = 64 << 10;
/// Bytes of the disk that are asked about at a time.
const STEP: u64 = 256 << 20;
/// Clusters that the job moves at a time.
const BATCH: u64 = 16;

/// What becomes of the bitmap that said what to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BitmapMode {
    /// What was moved is cleared if all was moved.
    #[default]
    OnSuccess,
    /// It stays as it was, with what was written since.
    Never,
    /// What was moved is cleared.
    Always,
}

impl BitmapMode {
    /// Names in QMP.
    pub const NAMES: [(&'static str, Self); 3] =
        [("on-success", Self::OnSuccess), ("never", Self::Never), ("always", Self::Always)];
}

/// A backup that has begun: from [`Backup::begin`] on, the disk is held as it is.
pub struct Backup {
    source: Arc<Node>,
    guard: Arc<Guard>,
    hook: Arc<dyn Hook>,
    sync: Sync,
    bitmap: Option<(Arc<DirtyBitmap>, BitmapMode, Vec<Range<u64>>)>,
}

/// Moves what is about to be overwritten.
struct Guard {
    source: Arc<Node>,
    target: Arc<Node>,
    /// What is still to be moved.
    left: DirtyBitmap,
    /// Clusters that are being moved.
    moving: Mutex<HashSet<u64>>,
    moved: Condvar,
    cluster: u64,
    compress: bool,
    /// A copy before a write failed, and the write went ahead: the backup is broken.
    broken: Mutex<Option<BlockError>>,
    /// A copy that fails breaks the backup, not the guest's write.
    break_snapshot: bool,
}

impl Guard {
    /// Takes the clusters of a range that are still to be moved, waiting for those that are being moved.
    fn claim(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let (first, last) = (range.start / self.cluster, range.end.div_ceil(self.cluster));
        let mut moving = self.moving.lock();
        while (first..last).any(|c| moving.contains(&c)) {
            self.moved.wait(&mut moving);
        }
        let mine = self.left.ranges(first * self.cluster..last * self.cluster);
        for r in &mine {
            self.left.clean(r.clone());
            moving.extend(r.start / self.cluster..r.end.div_ceil(self.cluster));
        }
        mine
    }

    fn release(&self, ranges: &[Range<u64>]) {
        let mut moving = self.moving.lock();
        for c in ranges.iter().flat_map(|r| r.start / self.cluster..r.end.div_ceil(self.cluster)) {
            moving.remove(&c);
        }
        drop(moving);
        self.moved.notify_all();
    }

    /// Moves what of a range is still to be moved. What could not be moved is to be moved again.
    fn preserve(&self, range: &Range<u64>, buffer: &mut Vec<u8>) -> Result<(), (bool, BlockError)> {
        let mine = self.claim(range);
        let done = mine.iter().try_for_each(|r| {
            let mut at = r.start;
            while at < r.end {
                let end = (at + self.cluster).min(r.end);
                copy(&**self.source.image(), &*self.target, at..end, self.compress, buffer)?;
                at = end;
            }
            Ok(())
        });
        if done.is_err() {
            mine.iter().for_each(|r| self.left.mark(r.clone()));
        }
        self.release(&mine);
        done
    }
}

impl Hook for Guard {
    fn before(&self, change: &Change<'_>) -> Result<(), BlockError> {
        if self.broken.lock().is_some() {
            return Ok(());
        }
        match self.preserve(&change.range(), &mut Vec::new()) {
            Ok(()) => Ok(()),
            Err((_, e)) if self.break_snapshot => {
                self.broken.lock().get_or_insert(e);
                Ok(())
            }
            Err((_, e)) => Err(e),
        }
    }
}

impl Backup {
    /// Prepares a backup of `source` into `target`, which is as large. It begins with [`Backup::begin`].
    pub fn new(
        source: Arc<Node>,
        target: Arc<Node>,
        sync: Sync,
        compress: bool,
        break_snapshot: bool,
        bitmap: Option<(Arc<DirtyBitmap>, BitmapMode)>,
    ) -> Result<Self, BlockError> {
        let size = source.image().size();
        let cluster = target.details().cluster_size.unwrap_or(CLUSTER).max(CLUSTER);
        let cluster = if cluster.is_power_of_two() { cluster } else { CLUSTER };
        let guard = Arc::new(Guard {
            source: source.clone(),
            target,
            left: DirtyBitmap::new("backup", size, cluster, false)?,
            moving: Mutex::default(),
            moved: Condvar::new(),
            cluster,
            compress,
            broken: Mutex::new(None),
            break_snapshot,
        });
        let hook: Arc<dyn Hook> = guard.clone();
        Ok(Backup { source, guard, hook, sync, bitmap: bitmap.map(|(b, m)| (b, m, Vec::new())) })
    }

    /// Holds the disk as it is now. To be called while the source is drained.
    pub fn begin(&mut self) -> Result<(), BlockError> {
        let size = self.source.image().size();
        match (self.sync, &mut self.bitmap) {
            (Sync::Incremental, Some((bitmap, _, before))) => {
                // From here on the bitmap marks what the next backup has to move.
                *before = bitmap.clear();
                before.iter().for_each(|r| self.guard.left.mark(r.clone()));
            }
            (Sync::Top, _) => {
                let mut at = 0;
                while at < size {
                    let end = (at + STEP).min(size);
                    own_ranges(self.source.image(), at..end)?
                        .into_iter()
                        .for_each(|r| self.guard.left.mark(r));
                    at = end;
                }
            }
            _ => self.guard.left.mark(0..size),
        }
        self.source.hook(self.hook.clone());
        Ok(())
    }

    /// Takes back what [`Backup::begin`] did, if the job is not to run.
    pub fn abort(&mut self) {
        self.source.unhook(&self.hook);
        if let Some((bitmap, _, before)) = &mut self.bitmap {
            bitmap.restore(&std::mem::take(before));
            bitmap.give();
        }
    }

    /// Moves everything.
    pub fn run(&mut self, job: &Arc<Job>) -> Result<(), Stop> {
        let done = self.work(job);
        drained(std::slice::from_ref(&self.source), || self.source.unhook(&self.hook));
        let flushed = self.guard.target.flush().map_err(Stop::Failed);
        let done = match self.guard.broken.lock().take() {
            Some(e) => Err(Stop::Failed(e)),
            None => done.and(flushed),
        };
        if let Some((bitmap, mode, before)) = &mut self.bitmap {
            let back = match (*mode, &done) {
                (BitmapMode::OnSuccess, Ok(())) => Vec::new(),
                (BitmapMode::Always, _) => self.guard.left.ranges(0..bitmap.size()),
                _ => std::mem::take(before),
            };
            bitmap.restore(&back);
            bitmap.give();
        }
        done
    }

    fn work(&self, job: &Arc<Job>) -> Result<(), Stop> {
        let size = self.source.image().size();
        if self.sync == Sync::None {
            // Only what is overwritten is moved, until somebody ends it.
            job.expect(size);
            loop {
                job.idle(std::time::Duration::from_millis(200))?;
                if let Some(e) = self.guard.broken.lock().take() {
                    return Err(Stop::Failed(e));
                }
            }
        }
        job.expect(self.guard.left.dirty_bytes().min(size));
        let mut buffer = Vec::new();
        while let Some(range) = self.guard.left.next(0, self.guard.cluster * BATCH) {
            job.check()?;
            if self.guard.broken.lock().is_some() {
                return Ok(());
            }
            if let Err((source, e)) = self.guard.preserve(&range, &mut buffer)
                && !job.failed(e, source)?
            {
                // Passed over: the backup does without it.
                self.guard.left.clean(range.clone());
            }
            job.advance(range.end - range.start)?;
        }
        // What writes are moving at this moment belongs to it.
        let mut moving = self.guard.moving.lock();
        while !moving.is_empty() {
            self.guard.moved.wait(&mut moving);
        }
        Ok(())
    }
}
