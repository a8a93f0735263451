//! `commit` of images below the active one: what they have goes into the base, so that they are not needed any more. What the
//! guest sees does not change, as each piece reads the same before and after. (The active image is committed by a mirror into
//! the base that is then used instead of it.)

use std::sync::Arc;

use block::{BlockError, BlockNode};
use block_formats::Image;
use block_graph::Node;

use crate::copy::{CHUNK, copy, own_ranges, ranges_above};
use crate::job::{Job, Stop};

/// Bytes of the disk that are asked about at a time.
const STEP: u64 = 64 << 20;

/// A commit.
pub struct Commit {
    /// The topmost image that is committed.
    pub top: Arc<dyn Image>,
    /// Where it goes; open for writing.
    pub base: Arc<Node>,
    /// Steps from the top down to the base.
    pub depth: u32,
}

impl Commit {
    /// Moves everything.
    pub fn run(&self, job: &Arc<Job>) -> Result<(), Stop> {
        let size = self.top.size();
        if self.base.size() < size {
            self.base.resize(size)?;
        }
        job.expect(size);
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < size {
            let end = (at + STEP).min(size);
            let mut done = at;
            for (range, _) in ranges_above(&self.top, at..end, self.depth)? {
                let mut from = range.start;
                while from < range.end {
                    job.check()?;
                    let to = (from + CHUNK).min(range.end);
                    while let Err((source, e)) = copy(&*self.top, &*self.base, from..to, false, &mut buffer) {
                        // Passing it over would lose it: it is tried again.
                        job.failed(e, source)?;
                    }
                    job.advance(to - done)?;
                    (from, done) = (to, to);
                }
            }
            job.advance(end - done)?;
            at = end;
        }
        self.base.flush()?;
        Ok(())
    }
}

/// Moves what an image has of its own into `base`, which is below it and open for writing, and empties the image. Nothing may be
/// under way on either.
pub fn commit_at_once(image: &Arc<dyn Image>, base: &Arc<Node>) -> Result<(), BlockError> {
    let size = image.size();
    if base.size() < size {
        base.resize(size)?;
    }
    let mut buffer = Vec::new();
    for start in (0..size).step_by(STEP as usize) {
        for range in own_ranges(image, start..(start + STEP).min(size))? {
            for from in range.clone().step_by(CHUNK as usize) {
                let piece = from..(from + CHUNK).min(range.end);
                copy(&**image, &**base, piece, false, &mut buffer).map_err(|(_, e)| e)?;
            }
        }
    }
    base.flush()?;
    // Only now is what it has needed by nobody.
    image.make_empty()?;
    image.flush()
}
