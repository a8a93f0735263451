//! Dirty bitmaps: which parts of a node were changed.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use block::BlockError;
use parking_lot::Mutex;

use crate::hook::{Change, Hook};

/// Least and most bytes that a bit stands for.
const GRANULARITY: std::ops::RangeInclusive<u64> = 512..=2 << 30;

/// A set of chunks of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bits {
    words: Vec<u64>,
    count: u64,
}

/// A dirty bitmap. As a hook it marks what is changed while it is enabled.
#[derive(Debug)]
pub struct DirtyBitmap {
    name: String,
    granularity: u64,
    size: AtomicU64,
    enabled: AtomicBool,
    /// A job or an export uses it.
    busy: AtomicBool,
    /// It is to be kept in the image.
    persistent: bool,
    bits: Mutex<Bits>,
}

impl DirtyBitmap {
    /// A clean bitmap for a disk of `size` bytes.
    pub fn new(
        name: impl Into<String>,
        size: u64,
        granularity: u64,
        persistent: bool,
    ) -> Result<Self, BlockError> {
        let name = name.into();
        if !granularity.is_power_of_two() || !GRANULARITY.contains(&granularity) {
            return Err(BlockError::Format {
                path: format!("bitmap '{name}'"),
                what: format!("granularity {granularity}: expected a power of two from 512 to 2G"),
            });
        }
        let bits = size.div_ceil(granularity);
        Ok(DirtyBitmap {
            name,
            granularity,
            size: AtomicU64::new(size),
            enabled: AtomicBool::new(true),
            busy: AtomicBool::new(false),
            persistent,
            bits: Mutex::new(Bits { words: vec![0; bits.div_ceil(64) as usize], count: 0 }),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes a bit stands for.
    pub fn granularity(&self) -> u64 {
        self.granularity
    }

    /// Whether it is to be kept in the image.
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// Whether it marks changes.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Makes it mark changes, or not.
    pub fn enable(&self, on: bool) {
        self.enabled.store(on, Ordering::Release);
    }

    /// Whether a job or an export uses it.
    pub fn busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Takes it for a job or an export; false if it is taken.
    pub fn take(&self) -> bool {
        !self.busy.swap(true, Ordering::AcqRel)
    }

    /// Gives it back.
    pub fn give(&self) {
        self.busy.store(false, Ordering::Release);
    }

    /// Marks a range, or clears what lies wholly in it.
    fn put(&self, range: Range<u64>, dirty: bool) {
        let end = range.end.min(self.size());
        if range.start >= end {
            return;
        }
        let (first, last) = if dirty {
            (range.start / self.granularity, end.div_ceil(self.granularity))
        } else {
            let last =
                if end == self.size() { end.div_ceil(self.granularity) } else { end / self.granularity };
            (range.start.div_ceil(self.granularity), last)
        };
        let mut bits = self.bits.lock();
        let Bits { words, count } = &mut *bits;
        for bit in first..last {
            let (word, mask) = ((bit / 64) as usize, 1u64 << (bit % 64));
            let Some(w) = words.get_mut(word) else { break };
            if (*w & mask != 0) != dirty {
                *w ^= mask;
                if dirty { *count += 1 } else { *count -= 1 }
            }
        }
    }

    /// Marks a range.
    pub fn mark(&self, range: Range<u64>) {
        self.put(range, true);
    }

    /// Clears what lies wholly in a range.
    pub fn clean(&self, range: Range<u64>) {
        self.put(range, false);
    }

    /// Dirty bytes.
    pub fn dirty_bytes(&self) -> u64 {
        (self.bits.lock().count * self.granularity).min(self.size().next_multiple_of(self.granularity))
    }

    /// The first dirty range at or after `from`, at most `most` bytes of it.
    pub fn next(&self, from: u64, most: u64) -> Option<Range<u64>> {
        let bits = self.bits.lock();
        let total = self.size().div_ceil(self.granularity);
        let mut bit = from / self.granularity;
        let is_set = |bit: u64| bits.words.get((bit / 64) as usize).is_some_and(|w| w >> (bit % 64) & 1 != 0);
        while bit < total && !is_set(bit) {
            // Whole words without a bit are passed over.
            let rest = bits.words.get((bit / 64) as usize).map_or(0, |w| w >> (bit % 64));
            bit = if rest == 0 { (bit / 64 + 1) * 64 } else { bit + u64::from(rest.trailing_zeros()) };
        }
        if bit >= total {
            return None;
        }
        let start = bit;
        let most = (most / self.granularity).max(1);
        while bit < total && bit - start < most && is_set(bit) {
            bit += 1;
        }
        Some(start * self.granularity..(bit * self.granularity).min(self.size()))
    }

    /// All dirty ranges within one.
    pub fn ranges(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        let mut at = within.start;
        while at < within.end {
            let Some(r) = self.next(at, u64::MAX) else { break };
            if r.start >= within.end {
                break;
            }
            out.push(r.start.max(within.start)..r.end.min(within.end));
            at = r.end;
        }
        out
    }

    /// Clears it; what was in it, for [`DirtyBitmap::restore`].
    pub fn clear(&self) -> Vec<Range<u64>> {
        let before = self.ranges(0..self.size());
        let mut bits = self.bits.lock();
        bits.words.fill(0);
        bits.count = 0;
        before
    }

    /// Adds ranges.
    pub fn restore(&self, ranges: &[Range<u64>]) {
        ranges.iter().for_each(|r| self.mark(r.clone()));
    }

    /// Size of the disk it is for.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The disk has another size from now on. What is new is clean; what is gone is not dirty any more. Nothing may be under
    /// way on the disk.
    pub fn resize(&self, size: u64) {
        let mut bits = self.bits.lock();
        let total = size.div_ceil(self.granularity);
        bits.words.resize(total.div_ceil(64) as usize, 0);
        if let (Some(last), rest @ 1..) = (bits.words.last_mut(), total % 64) {
            *last &= (1 << rest) - 1;
        }
        bits.count = bits.words.iter().map(|w| u64::from(w.count_ones())).sum();
        self.size.store(size, Ordering::Release);
    }
}

impl Hook for DirtyBitmap {
    fn after(&self, change: &Change<'_>, _done: bool) -> Result<(), BlockError> {
        // A write that failed may have changed something as well.
        if self.enabled() {
            self.mark(change.range());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_finds() {
        let b = DirtyBitmap::new("b", 1_000_000, 4096, false).unwrap();
        b.mark(5000..5001);
        b.mark(8190..20_000);
        b.mark(999_999..1_000_000);
        assert_eq!(b.ranges(0..1_000_000), [4096..20_480, 999_424..1_000_000]);
        assert_eq!(b.next(6000, 4096), Some(4096..8192));
        b.clean(4096..10_000);
        assert_eq!(b.next(0, u64::MAX), Some(8192..20_480));
        assert_eq!(b.dirty_bytes(), 4 * 4096);
        let before = b.clear();
        assert_eq!((b.dirty_bytes(), b.next(0, 1)), (0, None));
        b.restore(&before);
        b.clean(0..1_000_000);
        assert_eq!(b.dirty_bytes(), 0);
        assert!(DirtyBitmap::new("b", 1, 1000, false).is_err());
        b.mark(0..1);
        b.mark(999_000..1_000_000);
        b.resize(900_000);
        let low = 0..4096;
        assert_eq!((b.size(), b.ranges(0..900_000)), (900_000, Vec::from_iter([low])));
        b.mark(890_000..900_000);
        b.resize(2_000_000);
        assert_eq!(b.ranges(0..2_000_000), [0..4096, 888_832..901_120]);
        assert_eq!(b.dirty_bytes(), 4 * 4096);
    }
}
