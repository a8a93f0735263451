//! Dirty tracking of a RAM block: a bitmap per client, and write watches for translated code.
//!
//! Marking is lock-free and costs one load when nobody tracks. A client sees a page dirty if a write to it
//! *finished* after the page was last taken; writers mark after they have written.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

use crate::PAGE_SIZE;

/// Who wants to know which pages were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyClient {
    /// Display updates from a frame buffer in RAM.
    Display,
    /// Live migration and snapshots.
    Migration,
    /// Translated code, coarse: what was written since the last look. For exact invalidation use
    /// [`crate::RamBlock::watch`].
    Code,
}

impl DirtyClient {
    const COUNT: usize = 3;

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Told of writes that reach watched pages by a way other than the listener's own (DMA, another vCPU's
/// device write, the debugger).
pub trait WriteHook: Send + Sync {
    /// Bytes `range` of the block were written and at least one page of them is watched. Called by the writing
    /// thread after the write; may call [`crate::RamBlock::unwatch`].
    fn on_write(&self, range: Range<u64>);
}

const WATCH: u8 = 1 << 7;

struct Bits(Box<[AtomicU64]>);

impl Bits {
    fn new(pages: u64) -> Self {
        Bits((0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// The words that hold `pages`, each with the mask of its bits in the range.
    fn words(&self, pages: Range<u64>) -> impl Iterator<Item = (u64, &AtomicU64, u64)> {
        let end = pages.end.min(self.0.len() as u64 * 64);
        (pages.start / 64..end.div_ceil(64).max(pages.start / 64)).filter_map(move |w| {
            let low = u64::MAX << pages.start.saturating_sub(w * 64);
            let high = u64::MAX >> (w * 64 + 64).saturating_sub(end).min(63);
            self.0.get(w as usize).map(|word| (w, word, low & high))
        })
    }

    fn set(&self, pages: Range<u64>) {
        for (_, word, mask) in self.words(pages) {
            // A page that is already dirty is the common case; avoid taking the line exclusive for it.
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Release);
            }
        }
    }

    fn clear(&self, pages: Range<u64>) {
        for (_, word, mask) in self.words(pages) {
            word.fetch_and(!mask, Ordering::AcqRel);
        }
    }

    fn any(&self, pages: Range<u64>) -> bool {
        self.words(pages).any(|(_, word, mask)| word.load(Ordering::Acquire) & mask != 0)
    }
}

/// The pages a client took, in ascending order.
#[derive(Clone, Debug, Default)]
pub struct DirtyPages {
    words: Vec<(u64, u64)>,
}

impl DirtyPages {
    /// Whether nothing was dirty.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Number of dirty pages.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|(_, bits)| u64::from(bits.count_ones())).sum()
    }

    /// Byte offset in the block of each dirty page.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().flat_map(|&(word, bits)| {
            (0..64).filter(move |b| bits >> b & 1 != 0).map(move |b| (word * 64 + b) * PAGE_SIZE)
        })
    }
}

/// Dirty state of one RAM block.
pub struct DirtyMap {
    size: u64,
    /// One bit a tracking client, and [`WATCH`] once any page was ever watched.
    active: AtomicU8,
    clients: [OnceLock<Bits>; DirtyClient::COUNT],
    watched: OnceLock<Bits>,
    hooks: ArcSwap<Vec<Weak<dyn WriteHook>>>,
}

impl fmt::Debug for DirtyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyMap")
            .field("size", &self.size)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

impl DirtyMap {
    pub(crate) fn new(size: u64) -> Self {
        DirtyMap {
            size,
            active: AtomicU8::new(0),
            clients: Default::default(),
            watched: OnceLock::new(),
            hooks: ArcSwap::default(),
        }
    }

    fn pages(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len).min(self.size);
        if len == 0 || offset >= end {
            return 0..0;
        }
        offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE)
    }

    fn all(&self) -> Bits {
        Bits::new(self.size.div_ceil(PAGE_SIZE))
    }

    /// Starts recording for a client. Everything is clean at first.
    pub fn start(&self, client: DirtyClient) {
        let bits = self.clients[client as usize].get_or_init(|| self.all());
        if self.active.load(Ordering::Relaxed) & client.bit() == 0 {
            bits.clear(self.pages(0, self.size));
        }
        self.active.fetch_or(client.bit(), Ordering::SeqCst);
    }

    /// Stops recording for a client.
    pub fn stop(&self, client: DirtyClient) {
        self.active.fetch_and(!client.bit(), Ordering::SeqCst);
    }

    /// Whether any client records, i.e. whether writes past this map would be missed by somebody.
    pub fn tracking(&self) -> bool {
        self.active.load(Ordering::Relaxed) & !WATCH != 0
    }

    /// Marks `len` bytes at `offset` dirty for every client and calls the hooks if a page is watched.
    #[inline]
    pub fn mark(&self, offset: u64, len: u64) {
        let active = self.active.load(Ordering::Relaxed);
        if active != 0 {
            self.mark_slow(active, offset, len);
        }
    }

    /// As [`DirtyMap::mark`] without the hooks: for a writer that has dealt with watched pages itself.
    pub fn mark_quiet(&self, offset: u64, len: u64) {
        let active = self.active.load(Ordering::Relaxed) & !WATCH;
        if active != 0 {
            self.mark_slow(active, offset, len);
        }
    }

    #[cold]
    fn mark_slow(&self, active: u8, offset: u64, len: u64) {
        let pages = self.pages(offset, len);
        if pages.is_empty() {
            return;
        }
        for (i, client) in self.clients.iter().enumerate() {
            if active >> i & 1 != 0
                && let Some(bits) = client.get()
            {
                bits.set(pages.clone());
            }
        }
        if active & WATCH != 0 && self.watched.get().is_some_and(|w| w.any(pages)) {
            let range = offset..offset.saturating_add(len).min(self.size);
            for hook in self.hooks.load().iter().filter_map(Weak::upgrade) {
                hook.on_write(range.clone());
            }
        }
    }

    /// Takes the dirty pages among `len` bytes at `offset` and makes them clean for this client.
    pub fn take(&self, client: DirtyClient, offset: u64, len: u64) -> DirtyPages {
        let Some(bits) = self.clients[client as usize].get() else { return DirtyPages::default() };
        let words = bits
            .words(self.pages(offset, len))
            .filter_map(|(w, word, mask)| {
                if word.load(Ordering::Relaxed) & mask == 0 {
                    return None;
                }
                let taken = word.fetch_and(!mask, Ordering::AcqRel) & mask;
                (taken != 0).then_some((w, taken))
            })
            .collect();
        DirtyPages { words }
    }

    /// Whether any of `len` bytes at `offset` is dirty for the client.
    pub fn is_dirty(&self, client: DirtyClient, offset: u64, len: u64) -> bool {
        self.clients[client as usize].get().is_some_and(|b| b.any(self.pages(offset, len)))
    }

    /// Asks for the hooks to be called on writes to the pages of this range.
    pub fn watch(&self, offset: u64, len: u64) {
        self.watched.get_or_init(|| self.all()).set(self.pages(offset, len));
        self.active.fetch_or(WATCH, Ordering::SeqCst);
    }

    /// Ends the watch on all pages this range touches.
    pub fn unwatch(&self, offset: u64, len: u64) {
        if let Some(watched) = self.watched.get() {
            watched.clear(self.pages(offset, len));
        }
    }

    /// Whether any page of the range is watched.
    #[inline]
    pub fn is_watched(&self, offset: u64, len: u64) -> bool {
        self.active.load(Ordering::Relaxed) & WATCH != 0
            && self.watched.get().is_some_and(|w| w.any(self.pages(offset, len)))
    }

    /// Adds a hook; it is dropped from the list when its last strong reference is gone.
    pub fn add_hook(&self, hook: &Arc<dyn WriteHook>) {
        self.hooks.rcu(|old| {
            let mut new: Vec<_> = old.iter().filter(|h| h.strong_count() > 0).cloned().collect();
            new.push(Arc::downgrade(hook));
            new
        });
    }
}

/// A [`DirtyMap`] seen from some offset on; what `vm_memory`'s slices carry.
#[derive(Clone, Copy, Debug)]
pub struct DirtySlice<'a> {
    map: &'a DirtyMap,
    base: u64,
}

impl<'a> DirtySlice<'a> {
    pub(crate) fn new(map: &'a DirtyMap, base: u64) -> Self {
        DirtySlice { map, base }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyMap {
    type S = DirtySlice<'a>;
}

impl Bitmap for DirtyMap {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.mark(offset as u64, len as u64);
    }
    fn dirty_at(&self, offset: usize) -> bool {
        self.is_dirty(DirtyClient::Migration, offset as u64, 1)
    }
    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        DirtySlice { map: self, base: offset as u64 }
    }
}

impl<'a> WithBitmapSlice<'_> for DirtySlice<'a> {
    type S = DirtySlice<'a>;
}

impl BitmapSlice for DirtySlice<'_> {}

impl<'a> Bitmap for DirtySlice<'a> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.map.mark(self.base.saturating_add(offset as u64), len as u64);
    }
    fn dirty_at(&self, offset: usize) -> bool {
        self.map.dirty_at(self.base.saturating_add(offset as u64) as usize)
    }
    fn slice_at(&self, offset: usize) -> DirtySlice<'a> {
        DirtySlice { map: self.map, base: self.base.saturating_add(offset as u64) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn clients_are_separate_and_take_clears() {
        let map = DirtyMap::new(1 << 20);
        map.mark(0, 1);
        map.start(DirtyClient::Display);
        assert!(!map.is_dirty(DirtyClient::Display, 0, 1 << 20), "tracking starts clean");
        map.mark(4095, 2);
        map.start(DirtyClient::Migration);
        map.mark(63 * 4096, 3 * 4096);
        let taken = map.take(DirtyClient::Display, 0, u64::MAX);
        assert_eq!(taken.offsets().collect::<Vec<_>>(), [0, 4096, 63 * 4096, 64 * 4096, 65 * 4096]);
        assert_eq!(taken.count(), 5);
        assert!(map.take(DirtyClient::Display, 0, u64::MAX).is_empty());
        assert_eq!(
            map.take(DirtyClient::Migration, 64 * 4096, 4096).offsets().collect::<Vec<_>>(),
            [64 * 4096]
        );
        assert_eq!(map.take(DirtyClient::Migration, 0, u64::MAX).count(), 2);
    }

    #[test]
    fn marks_outside_are_ignored() {
        let map = DirtyMap::new(5000);
        map.start(DirtyClient::Code);
        map.mark(u64::MAX - 3, 10);
        map.mark(5000, 1);
        map.mark(1, 0);
        assert!(map.take(DirtyClient::Code, 0, u64::MAX).is_empty());
        map.mark(4999, 100);
        assert_eq!(map.take(DirtyClient::Code, 0, u64::MAX).offsets().collect::<Vec<_>>(), [4096]);
    }

    struct Seen(Mutex<Vec<Range<u64>>>);
    impl WriteHook for Seen {
        fn on_write(&self, range: Range<u64>) {
            self.0.lock().unwrap().push(range);
        }
    }

    #[test]
    fn hooks_hear_only_of_watched_pages() {
        let map = DirtyMap::new(1 << 20);
        let seen = Arc::new(Seen(Mutex::default()));
        let hook: Arc<dyn WriteHook> = seen.clone();
        map.add_hook(&hook);
        map.mark(0x2000, 8);
        map.watch(0x2000, 1);
        map.mark(0x3000, 8);
        map.mark(0x1ffc, 8);
        map.mark_quiet(0x2000, 8);
        map.unwatch(0x2000, 1);
        map.mark(0x2000, 8);
        assert_eq!(seen.0.lock().unwrap().as_slice(), std::slice::from_ref(&(0x1ffc..0x2004)));
        drop((hook, seen));
        map.watch(0x2000, 1);
        map.mark(0x2000, 8);
    }
}
