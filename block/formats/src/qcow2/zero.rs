//! Zeroes and discards: changes of tables, under the gate because they free clusters.

use block::BlockError;

use super::l2::{COPIED, Entry, Kind, ZERO};
use super::{Meta, Qcow2, bitmap};

/// Clusters dealt with between looks at the caches.
const STEP: u64 = 1024;

impl Qcow2 {
    /// Makes a range read as zero.
    pub(super) fn zero_range(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.check_writable()?;
        let end = offset + len;
        let cluster = 1u64 << self.geo.sub_bits();
        // Parts of a (sub)cluster are written; the rest is said in the tables.
        let first = offset.next_multiple_of(cluster).min(end);
        // The disk's end counts as a cluster's.
        let last = if end == self.virtual_size() { end } else { (end & !(cluster - 1)).max(first) };
        let _gate = self.gate.write();
        if self.geo.version < 3 && self.backing.read().is_some() {
            self.zero_by_writing(offset, len)?;
        } else {
            self.zero_by_writing(offset, first - offset)?;
            self.each(first, last, |meta, at, n| self.zero_entry(meta, at, n, unmap))?;
            self.zero_by_writing(last, end - last)?;
        }
        bitmap::mark(self, offset, len)
    }

    /// Writes zeroes where there is not already zero.
    fn zero_by_writing(&self, mut offset: u64, mut len: u64) -> Result<(), BlockError> {
        let below = self.backing.read().as_ref().map_or(0, |b| b.size());
        let zeroes = vec![0; len.min(1 << 20) as usize];
        while len > 0 {
            let run = self.lookup(&mut self.meta.lock(), offset, len.min(1 << 20))?;
            let zero = run.kind == Kind::Zero || (run.kind == Kind::Hole && offset >= below);
            if !zero {
                self.write_inner(offset, &zeroes[..run.len as usize])?;
            }
            offset += run.len;
            len -= run.len;
        }
        Ok(())
    }

    /// Goes over a range cluster by cluster, skipping L2 tables that are not there if `change` would do nothing.
    fn each(
        &self,
        mut at: u64,
        end: u64,
        mut change: impl FnMut(&mut Meta, u64, u64) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let mut meta = self.meta.lock();
        self.mark_dirty(&mut meta)?;
        let mut done = 0;
        while at < end {
            let next = ((at | (self.geo.cluster() - 1)) + 1).min(end);
            change(&mut meta, at, next - at)?;
            at = next;
            done += 1;
            if done % STEP == 0 {
                self.relieve(&mut meta)?;
                if meta.refs.many_pending() {
                    self.settle(&mut meta)?;
                }
            }
        }
        Ok(())
    }

    /// Makes (a part of whole subclusters of) one cluster zero.
    fn zero_entry(&self, meta: &mut Meta, at: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let cluster = self.geo.cluster();
        let base = at & !(cluster - 1);
        let old = self.entry(meta, base)?;
        let below = self.backing.read().as_ref().map_or(0, |b| b.size());
        let whole = at == base && (len == cluster || at + len == self.virtual_size());
        let untouched = old == Entry::default();
        if untouched && base >= below && self.geo.version < 3 {
            return Ok(());
        }
        let host = self.host_of(old, base)?;
        let new = if self.geo.version < 3 {
            // Nothing below: what is not there is zero.
            Entry::default()
        } else if self.geo.extended() {
            let subs = self.subs(at, len);
            if old.packed() && !whole {
                // The cluster has to be taken apart.
                let mut data = vec![0; cluster as usize];
                return self.unpack_zeroed(meta, base, at, len, &mut data);
            }
            let bits = if old.packed() { 0 } else { old.bits };
            let zero = (bits & !subs) | subs << 32;
            let free = zero as u32 == 0
                && (unmap || host.is_none() || old.packed() || !old.copied())
                && !self.geo.external;
            Entry { word: if free || old.packed() { 0 } else { old.word }, bits: zero }
        } else if host.is_some() && old.copied() && (!unmap || self.geo.external) {
            Entry { word: old.word | ZERO, bits: 0 }
        } else {
            Entry { word: ZERO, bits: 0 }
        };
        if new == old
            || (untouched
                && base >= below
                && !self.geo.external
                && self.backing.read().is_none()
                && new.word & !ZERO == 0
                && unmap)
        {
            return Ok(());
        }
        self.replace(meta, base, old, new)?;
        if self.geo.external && unmap && host.is_some() && self.discard {
            self.data.discard(at, len)?;
        } else if self.geo.external && self.raw_data(meta) {
            // Whoever looks at the data file alone sees the same.
            self.data.write_zeroes(at, len, unmap)?;
        }
        Ok(())
    }

    pub(super) fn raw_data(&self, meta: &Meta) -> bool {
        self.geo.external && meta.header.data_raw()
    }

    /// Subclusters of a range within one cluster, as bits.
    fn subs(&self, at: u64, len: u64) -> u64 {
        let within = at & (self.geo.cluster() - 1);
        let (first, last) = (within >> self.geo.sub_bits(), (within + len - 1) >> self.geo.sub_bits());
        (first..=last).fold(0, |bits, s| bits | 1 << s)
    }

    /// Stores a packed cluster as it is, with a part of it zero. Only with extended L2 entries.
    fn unpack_zeroed(
        &self,
        meta: &mut Meta,
        base: u64,
        at: u64,
        len: u64,
        data: &mut [u8],
    ) -> Result<(), BlockError> {
        let old = self.entry(meta, base)?;
        let (host, packed) = self.packed_place(old);
        self.compressors.read(self, host, packed, 0, data)?;
        let from = (at - base) as usize;
        data[from..from + len as usize].fill(0);
        let run = meta.refs.alloc(&*self.file, 1)?;
        let place = run.start << self.geo.cluster_bits;
        self.write_data(place, base, &[std::io::IoSlice::new(data)])?;
        self.replace(meta, base, old, Entry { word: place | COPIED, bits: u32::MAX.into() })
    }

    /// Puts another entry in place and gives up what the old one held, unless the new one holds it too.
    pub(super) fn replace(
        &self,
        meta: &mut Meta,
        base: u64,
        old: Entry,
        new: Entry,
    ) -> Result<(), BlockError> {
        let table = self.l2_for_change(meta, base)?;
        self.set_entry(meta, table, base, new)?;
        if self.host_of(new, base)? != self.host_of(old, base)? || old.packed() {
            self.release(meta, old, base)?;
        }
        Ok(())
    }

    /// Gives up whole clusters of a range. They read as zero afterwards, or, with `reveal`, as the backing file.
    pub(super) fn discard_range(&self, offset: u64, len: u64, reveal: bool) -> Result<(), BlockError> {
        self.check_writable()?;
        let (cluster, end) = (self.geo.cluster(), offset + len);
        let first = offset.next_multiple_of(cluster);
        let last = if end == self.virtual_size() { end } else { end & !(cluster - 1) };
        if first >= last {
            return Ok(());
        }
        let _gate = self.gate.write();
        let below = self.backing.read().is_some() && !reveal;
        self.each(first, last, |meta, at, n| {
            let old = self.entry(meta, at)?;
            if old == Entry::default() && (!below || self.geo.version == 2) {
                return Ok(());
            }
            let keep_zero = match self.geo.version {
                _ if reveal => false,
                2 => false,
                // What was zero stays so; over a backing file it has to be said.
                _ => below || old.word & ZERO != 0 || old.bits >> 32 != 0,
            };
            if self.geo.version == 2 && below {
                return Ok(());
            }
            let new = match (keep_zero, self.geo.extended()) {
                (false, _) => Entry::default(),
                (true, false) => Entry { word: ZERO, bits: 0 },
                (true, true) => Entry { word: 0, bits: u64::from(u32::MAX) << 32 },
            };
            if new == old {
                return Ok(());
            }
            self.replace(meta, at, old, new)?;
            if self.geo.external && self.discard {
                self.data.discard(at, n)?;
            }
            if self.raw_data(meta) {
                self.data.write_zeroes(at, n, true)?;
            }
            Ok(())
        })?;
        bitmap::mark(self, first, last - first)
    }
}
