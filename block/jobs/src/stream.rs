//! `stream`: what the images below have is moved into the topmost one, down to a base, so that those between are not needed
//! any more. Contents do not change.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::BlockError;
use block_formats::is_zero;
use block_graph::{Node, drained};

use crate::copy::ranges_above;
use crate::job::{Job, Stop};

/// Bytes that are moved while the guest waits.
const PIECE: u64 = 256 << 10;
/// Bytes of the disk that are asked about at a time.
const STEP: u64 = 64 << 20;

/// A stream.
pub struct Stream {
    /// The topmost image.
    pub top: Arc<Node>,
    /// Steps from it down to the base; one more than there are images if there is no base.
    pub depth: u32,
}

impl Stream {
    /// Moves everything.
    pub fn run(&self, job: &Arc<Job>) -> Result<(), Stop> {
        let size = self.top.image().size();
        job.expect(size);
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < size {
            let end = (at + STEP).min(size);
            let mut done = at;
            for (range, depth) in ranges_above(self.top.image(), at..end, self.depth)? {
                if depth == 0 {
                    continue;
                }
                let mut from = range.start;
                while from < range.end {
                    job.check()?;
                    let to = (from + PIECE).min(range.end);
                    while let Err((source, e)) = self.piece(from, to, &mut buffer) {
                        if !job.failed(e, source)? {
                            // Passing it over would lose it: the base is all that is left below.
                            continue;
                        }
                    }
                    job.advance(to - done)?;
                    (from, done) = (to, to);
                }
            }
            job.advance(end - done)?;
            at = end;
        }
        self.top.image().flush()?;
        Ok(())
    }

    /// Moves what the topmost image still does not have of a piece, while nobody writes it.
    fn piece(&self, from: u64, to: u64, buffer: &mut Vec<u8>) -> Result<(), (bool, BlockError)> {
        let image = self.top.image();
        drained(std::slice::from_ref(&self.top), || {
            for e in image.status(from..to).map_err(|e| (true, e))?.into_iter().filter(|e| !e.allocated) {
                let len = (e.range.end - e.range.start) as usize;
                buffer.resize(buffer.len().max(len), 0);
                let data = &mut buffer[..len];
                image.read(e.range.start, &mut [IoSliceMut::new(data)]).map_err(|e| (true, e))?;
                let done = if is_zero(data) {
                    image.write_zeroes(e.range.start, len as u64, false)
                } else {
                    image.write(e.range.start, &[IoSlice::new(data)], false)
                };
                done.map_err(|e| (false, e))?;
            }
            Ok(())
        })
    }
}
