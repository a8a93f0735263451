//! Changing the size, and taking space ahead of its use.

use std::io::IoSlice;
use std::sync::atomic::Ordering;

use block::BlockError;

use super::header::MAX_L1;
use super::l2::{COPIED, Entry, ZERO};
use super::{Meta, Qcow2, bitmap};
use crate::image::Preallocation;

impl Qcow2 {
    /// Changes the size of the disk.
    pub(super) fn change_size(&self, size: u64, how: Preallocation) -> Result<(), BlockError> {
        self.check_writable()?;
        let old = self.virtual_size();
        if !size.is_multiple_of(512) || size > i64::MAX as u64 {
            return Err(self.bad(format!("size {size}, expected a multiple of 512 below 2^63")));
        }
        {
            let meta = self.meta.lock();
            if let Some(s) = meta.snapshots.iter().find(|_| self.geo.version < 3) {
                return Err(self.bad(format!(
                    "an image of version 2 with snapshots ('{}') cannot change its size",
                    s.info.name
                )));
            }
        }
        if size < old {
            if how != Preallocation::Off {
                return Err(BlockError::Unsupported("preallocation when shrinking"));
            }
            self.cut_off(size, old)?;
        } else if size > old {
            // What lies beyond the end of the last cluster so far becomes part of the disk: it must be zero.
            let edge = old.next_multiple_of(self.geo.cluster()).min(size);
            {
                let _gate = self.gate.write();
                let mut guard = self.meta.lock();
                self.drop_state(&mut guard, old)?;
                self.grow_l1(&mut guard, size)?;
                self.set_size(&mut guard, old, size)?;
                drop(guard);
                if edge > old {
                    self.zero_edge(old, edge)?;
                }
            }
            // A backing file that is longer must not come to light.
            let below = self.backing.read().as_ref().map_or(0, |b| b.size()).min(size);
            if below > old {
                self.zero_range(old, below - old, true)?;
            }
        }
        if self.geo.external && (size > old || self.raw_data(&self.meta.lock())) {
            self.data.resize(size.max(if size > old { self.data.size() } else { 0 }))?;
        }
        if how != Preallocation::Off && size > old {
            self.preallocate(old, size, how)?;
        }
        self.do_flush()
    }

    /// Zeroes what is stored beyond the old end in its cluster; the gate is held.
    fn zero_edge(&self, from: u64, to: u64) -> Result<(), BlockError> {
        let run = self.lookup(&mut self.meta.lock(), from, to - from)?;
        if matches!(run.kind, super::l2::Kind::Data | super::l2::Kind::Packed) {
            self.write_inner(from, &vec![0; (to - from) as usize])?;
        }
        Ok(())
    }

    fn set_size(&self, meta: &mut Meta, old: u64, size: u64) -> Result<(), BlockError> {
        self.write_back(meta)?;
        self.file.flush()?;
        let before = meta.header.clone();
        meta.header.size = size;
        self.commit_header(meta, before).map_err(|(e, _)| e)?;
        bitmap::resize(meta, old, size);
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn cut_off(&self, size: u64, old: u64) -> Result<(), BlockError> {
        let cluster = self.geo.cluster();
        let first = size.next_multiple_of(cluster);
        if first < old {
            self.discard_range(first, old - first, true)?;
        }
        let _gate = self.gate.write();
        let mut guard = self.meta.lock();
        let meta = &mut *guard;
        self.drop_state(meta, old)?;
        // Tables that map nothing any more go too.
        let keep = meta.header.l1_needed(size) as usize;
        for i in keep..meta.l1.len() {
            let table = meta.l1[i] & super::refcount::OFFSET_MASK;
            if table != 0 {
                self.set_l1(meta, i, 0);
                let at = table >> self.geo.cluster_bits;
                meta.refs.drop_later(at..at + 1);
            }
        }
        self.set_size(meta, old, size)?;
        self.settle(meta)?;
        meta.refs.write_back(&*self.file)?;
        let end = meta.refs.end(&*self.file)?;
        if self.file.grows() && end < self.file.size() {
            self.file.flush()?;
            self.file.resize(end)?;
        }
        Ok(())
    }

    /// Makes the L1 table long enough for a size.
    pub(super) fn grow_l1(&self, meta: &mut Meta, size: u64) -> Result<(), BlockError> {
        let needed = meta.header.l1_needed(size);
        if needed * 8 > MAX_L1 {
            return Err(self.bad(format!(
                "size {size}: the L1 table would have more than {MAX_L1} bytes; larger clusters are needed"
            )));
        }
        if needed <= meta.l1.len() as u64 {
            return Ok(());
        }
        let (bits, cluster) = (self.geo.cluster_bits, self.geo.cluster());
        let old_clusters = (meta.l1.len() as u64 * 8).div_ceil(cluster);
        let clusters = (needed * 8).div_ceil(cluster);
        self.mark_dirty(meta)?;
        self.settle(meta)?;
        let mut l1 = meta.l1.clone();
        l1.resize(needed as usize, 0);
        if clusters > old_clusters {
            let first = meta.refs.alloc_exact(&*self.file, clusters)?;
            let mut raw: Vec<u8> = l1.iter().flat_map(|w| w.to_be_bytes()).collect();
            raw.resize((clusters << bits) as usize, 0);
            self.file.write(first << bits, &[IoSlice::new(&raw)], false)?;
            meta.refs.write_back(&*self.file)?;
            self.file.flush()?;
            let old = meta.header.l1_offset >> bits;
            let before = meta.header.clone();
            meta.header.l1_offset = first << bits;
            meta.header.l1_size = needed as u32;
            self.commit_header(meta, before).map_err(|(e, _)| e)?;
            if old_clusters != 0 {
                meta.refs.drop_later(old..old + old_clusters);
            }
        } else {
            // The rest of its clusters may hold anything.
            let raw: Vec<u8> = l1.iter().flat_map(|w| w.to_be_bytes()).collect();
            self.file.write(meta.header.l1_offset, &[IoSlice::new(&raw)], false)?;
            meta.header.l1_size = needed as u32;
        }
        meta.l1 = l1;
        Ok(())
    }

    /// Gives every cluster of a range its place.
    pub(super) fn preallocate(&self, from: u64, to: u64, how: Preallocation) -> Result<(), BlockError> {
        if self.crypt.is_some() && self.geo.version < 3 {
            return Err(BlockError::Unsupported("preallocation in an encrypted image of version 2"));
        }
        let (bits, cluster) = (self.geo.cluster_bits, self.geo.cluster());
        let _gate = self.gate.write();
        let mut guard = self.meta.lock();
        let meta = &mut *guard;
        self.mark_dirty(meta)?;
        let span = 1u64 << (bits + self.geo.l2_bits);
        let mut at = from & !(cluster - 1);
        let mut end_of_data = 0;
        while at < to {
            let entry = self.entry(meta, at)?;
            if entry != Entry::default() {
                at += cluster;
                continue;
            }
            let wanted = (to.min((at & !(span - 1)) + span) - at).div_ceil(cluster);
            let mut free = 1;
            while free < wanted && self.entry(meta, at + (free << bits))? == Entry::default() {
                free += 1;
            }
            let virgin = meta.refs.virgin();
            let run = if self.geo.external {
                (at >> bits)..(at >> bits) + free
            } else {
                meta.refs.alloc(&*self.file, free)?
            };
            let (host, len) = (run.start << bits, (run.end - run.start) << bits);
            // A place that was used before does not read as zero.
            if how == Preallocation::Full || (!self.geo.external && run.start < virgin) {
                self.write_zeroes_plainly(host, len)?;
            }
            if how == Preallocation::Falloc {
                self.reserve(host, len)?;
            }
            end_of_data = end_of_data.max(host + len);
            let table = self.l2_for_change(meta, at)?;
            for i in 0..run.end - run.start {
                let e = self.prepared(run.start + i);
                self.set_entry(meta, table, at + (i << bits), e)?;
            }
            at += len;
            self.relieve(meta)?;
        }
        if end_of_data > self.data.size() && self.data.grows() {
            self.data.resize(end_of_data)?;
        }
        Ok(())
    }

    /// The entry of a cluster that has its place ahead of its use.
    fn prepared(&self, cluster: u64) -> Entry {
        let word = (cluster << self.geo.cluster_bits) | COPIED;
        let all = u64::from(u32::MAX);
        match (self.crypt.is_some(), self.geo.extended()) {
            (false, false) => Entry { word, bits: 0 },
            (false, true) => Entry { word, bits: all },
            // What is in the place is no encrypted zero.
            (true, false) => Entry { word: word | ZERO, bits: 0 },
            (true, true) => Entry { word, bits: all << 32 },
        }
    }

    fn write_zeroes_plainly(&self, host: u64, len: u64) -> Result<(), BlockError> {
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(1 << 20);
            self.data.write(host + done, &[IoSlice::new(&zeroes[..n as usize])], false)?;
            done += n;
        }
        Ok(())
    }

    fn reserve(&self, host: u64, len: u64) -> Result<(), BlockError> {
        if self.data.grows() && host + len > self.data.size() {
            self.data.resize(host + len)?;
        }
        self.data.write_zeroes(host, len, false)
    }
}
