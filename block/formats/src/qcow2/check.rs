//! Looking for damage, and repairing it.
//!
//! Every reference in the image is followed and counted; the counts are then held against those on the disk.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;

use block::BlockError;

use super::header::{Encryption, MAX_REFTABLE, incompatible};
use super::l2::{COPIED, Entry};
use super::refcount::{OFFSET_MASK, set_count};
use super::{Meta, Qcow2, bitmap};
use crate::bytes::be64;
use crate::image::{CheckReport, Repair};

const PAGE: u64 = 4096;

/// How often each cluster is referred to. Pages make it small whatever an image claims.
#[derive(Default)]
pub(super) struct Counts {
    pages: BTreeMap<u64, Box<[u32]>>,
}

impl Counts {
    fn add(&mut self, cluster: u64, n: u32) {
        let page =
            self.pages.entry(cluster / PAGE).or_insert_with(|| vec![0; PAGE as usize].into_boxed_slice());
        let slot = &mut page[(cluster % PAGE) as usize];
        *slot = slot.saturating_add(n);
    }

    fn get(&self, cluster: u64) -> u64 {
        self.pages.get(&(cluster / PAGE)).map_or(0, |p| p[(cluster % PAGE) as usize].into())
    }

    /// The first cluster after all that are used.
    fn end(&self) -> u64 {
        let last = self
            .pages
            .iter()
            .rev()
            .find_map(|(i, p)| Some(i * PAGE + p.iter().rposition(|c| *c != 0)? as u64));
        last.map_or(0, |l| l + 1)
    }
}

/// One run of the check.
struct Walk<'a> {
    image: &'a Qcow2,
    counts: Counts,
    report: CheckReport,
    /// The first cluster that is not in the file at all.
    limit: u64,
}

impl Walk<'_> {
    /// Counts a run of bytes, or says why that cannot be.
    fn count(&mut self, what: &str, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let bits = self.image.geo.cluster_bits;
        let end = offset.checked_add(len - 1).map_or(u64::MAX, |e| e >> bits);
        if end >= self.limit {
            return self.report.corruption(format!(
                "{what} at {offset:#x}: {len} bytes end beyond the end of the file by more than a cluster"
            ));
        }
        for cluster in offset >> bits..=end {
            self.counts.add(cluster, 1);
        }
    }

    fn aligned(&mut self, what: &str, offset: u64) -> bool {
        let ok = offset & (self.image.geo.cluster() - 1) == 0;
        if !ok {
            self.report.corruption(format!("{what} at {offset:#x} is not aligned to a cluster"));
        }
        ok
    }

    /// Follows an L1 table; the active one is also described in the report.
    fn tree(
        &mut self,
        meta: &mut Meta,
        name: &str,
        l1: &[u64],
        offset: u64,
        active: bool,
    ) -> Result<(), BlockError> {
        let (geo, image) = (self.image.geo, self.image);
        self.count(&format!("L1 table of {name}"), offset, l1.len() as u64 * 8);
        let mut next = None;
        for (i, word) in l1.iter().enumerate() {
            let table = word & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            let what = format!("L2 table {i} of {name}");
            if !self.aligned(&what, table) {
                continue;
            }
            self.count(&what, table, geo.cluster());
            if table >> geo.cluster_bits >= self.limit {
                continue;
            }
            let data = meta.l2.get(&*image.file, table)?.data().to_vec();
            for (j, raw) in data.chunks_exact(8 * geo.words()).enumerate() {
                let entry = Entry { word: be64(raw, 0), bits: if geo.extended() { be64(raw, 8) } else { 0 } };
                self.entry(entry, &format!("cluster {j} of L2 table {i} of {name}"), active, &mut next);
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, what: &str, active: bool, next: &mut Option<u64>) {
        let (geo, image) = (self.image.geo, self.image);
        if entry == Entry::default() {
            return;
        }
        if entry.packed() {
            let (host, len) = image.packed_place(entry);
            if entry.copied() {
                self.report.corruption(format!("{what}: compressed, but marked as used once"));
            }
            if geo.external {
                self.report.corruption(format!("{what}: compressed beside a data file"));
                return;
            }
            // The last sector may be partly beyond the end of the file.
            self.count(what, host, len);
            if active {
                self.report.allocated_clusters += 1;
                self.report.compressed_clusters += 1;
                self.report.fragmented_clusters += 1;
            }
            return;
        }
        if geo.extended() && (entry.bits as u32) & (entry.bits >> 32) as u32 != 0 {
            self.report.corruption(format!("{what}: subclusters are both allocated and zero"));
        }
        let host = entry.offset();
        let there = host != 0 || (geo.external && entry.copied());
        if !there || !self.aligned(what, host) {
            return;
        }
        if active {
            self.report.allocated_clusters += 1;
            if next.is_some_and(|n| n != host) {
                self.report.fragmented_clusters += 1;
            }
            *next = Some(host + geo.cluster());
        }
        if !geo.external {
            self.count(what, host, geo.cluster());
        }
    }

    /// Everything that is in use, except the refcount table and its blocks.
    fn contents(&mut self, meta: &mut Meta) -> Result<(), BlockError> {
        let image = self.image;
        self.counts.add(0, 1);
        if let Encryption::Luks { offset, len } = meta.header.encryption {
            self.count("the LUKS header", offset, len);
        }
        let (l1, at) = (meta.l1.clone(), meta.header.l1_offset);
        self.tree(meta, "the disk", &l1, at, true)?;
        for s in meta.snapshots.clone() {
            let name = format!("snapshot {}", s.info.id);
            let there = image.file.size().saturating_sub(s.l1_offset) / 8;
            let l1 = image.read_l1(s.l1_offset, s.l1_size.min(there.min(u32::MAX.into()) as u32))?;
            self.tree(meta, &name, &l1, s.l1_offset, false)?;
        }
        let table = super::snapshot::table_len(&meta.snapshots);
        self.count("the snapshot table", meta.header.snapshots_offset, table);
        if let Some(d) = meta.header.bitmaps {
            self.count("the bitmap directory", d.offset, d.size);
            let bits = image.geo.cluster_bits;
            match bitmap::load(image, meta) {
                Ok(list) => {
                    for b in list.clone().iter().filter(|b| b.table_size != 0) {
                        for run in bitmap::clusters_of(image, b)? {
                            self.count("a bitmap", run.start << bits, (run.end - run.start) << bits);
                        }
                    }
                }
                Err(e) => self.report.corruption(e.to_string()),
            }
        }
        Ok(())
    }

    /// The refcount table and its blocks; whether they can be used at all.
    fn refcounts(&mut self, meta: &Meta) -> bool {
        let (offset, len) = (meta.refs.table_offset, meta.refs.table.len() as u64 * 8);
        let before = self.report.corruptions;
        self.count("the refcount table", offset, len);
        for (i, block) in meta.refs.table.iter().enumerate().filter(|(_, b)| **b != 0) {
            let what = format!("refcount block {i}");
            if self.aligned(&what, *block) {
                self.count(&what, *block, self.image.geo.cluster());
                let cluster = block >> self.image.geo.cluster_bits;
                if cluster < self.limit && self.counts.get(cluster) != 1 {
                    self.report.corruption(format!(
                        "{what} at {block:#x} is used {} times",
                        self.counts.get(cluster)
                    ));
                }
            }
        }
        self.report.corruptions == before
    }
}

impl Qcow2 {
    /// Looks for damage and repairs what was asked for.
    pub(super) fn do_check(&self, repair: Repair) -> Result<CheckReport, BlockError> {
        if repair != Repair::No && self.read_only {
            return Err(BlockError::ReadOnly);
        }
        let _gate = self.gate.write();
        let mut guard = self.meta.lock();
        let meta = &mut *guard;
        if !self.read_only && meta.trusted {
            self.settle(meta)?;
            meta.refs.write_back(&*self.file)?;
        }
        let mut walk = self.walk(meta)?;
        let usable = walk.refcounts(meta);
        let wrong = self.compare(meta, &mut walk, usable)?;
        self.flags(meta, &mut walk.report, false)?;
        let mut report = walk.report;
        if repair != Repair::No && (report.leaks != 0 || report.corruptions != 0) {
            self.repair(meta, repair, &mut report, usable, &wrong)?;
        }
        if repair == Repair::All && report.corruptions == 0 && !self.read_only {
            meta.trusted = true;
            let marks = incompatible::CORRUPT | incompatible::DIRTY;
            if meta.header.incompatible & marks != 0 {
                meta.header.incompatible &= !marks;
                meta.marked_dirty = false;
                self.write_header(meta)?;
                self.file.flush()?;
            }
        }
        report.total_clusters = self.virtual_size().div_ceil(self.geo.cluster());
        report.image_end_offset = meta.refs.end(&*self.file).unwrap_or(0);
        Ok(report)
    }

    fn walk(&self, meta: &mut Meta) -> Result<Walk<'_>, BlockError> {
        let cluster = self.geo.cluster();
        let mut walk = Walk {
            image: self,
            counts: Counts::default(),
            report: CheckReport::default(),
            limit: self.file.size().div_ceil(cluster) + 1,
        };
        // Clusters at the end that were counted but not written yet are there all the same.
        if let Ok(end) = meta.refs.end(&*self.file) {
            let known = self.file.size().div_ceil(cluster) + (1 << 16);
            walk.limit = walk.limit.max((end / cluster).min(known));
        }
        walk.contents(meta)?;
        Ok(walk)
    }

    /// Holds the counts against the disk's; returns the clusters whose count is wrong.
    fn compare(
        &self,
        meta: &mut Meta,
        walk: &mut Walk<'_>,
        usable: bool,
    ) -> Result<Vec<(u64, u64)>, BlockError> {
        let mut wrong = Vec::new();
        if !usable {
            return Ok(wrong);
        }
        let stored_end = meta.refs.end(&*self.file)? >> self.geo.cluster_bits;
        for cluster in 0..walk.counts.end().max(stored_end) {
            let (stored, counted) = (meta.refs.get(&*self.file, cluster)?, walk.counts.get(cluster));
            if stored == counted {
                continue;
            }
            if stored < counted {
                walk.report.corruption(format!("cluster {cluster} refcount={stored} reference={counted}"));
            } else {
                walk.report.leaks += 1;
                walk.report.say(format!("Leaked cluster {cluster} refcount={stored} reference={counted}"));
            }
            wrong.push((cluster, counted));
        }
        Ok(wrong)
    }

    /// Looks at the flags that say whether a cluster has one reference; sets them right with `fix`.
    fn flags(&self, meta: &mut Meta, report: &mut CheckReport, fix: bool) -> Result<(), BlockError> {
        let bits = self.geo.cluster_bits;
        let limit = self.file.size().div_ceil(self.geo.cluster()) + (1 << 16);
        for i in 0..meta.l1.len() {
            let word = meta.l1[i];
            let table = word & OFFSET_MASK;
            if table == 0 || table & (self.geo.cluster() - 1) != 0 || table >> bits >= limit {
                continue;
            }
            let count = meta.refs.get(&*self.file, table >> bits).unwrap_or(0);
            if (count == 1) != (word & COPIED != 0) {
                if fix {
                    self.set_l1(meta, i, table | if count == 1 { COPIED } else { 0 });
                } else {
                    report.corruption(format!(
                        "OFLAG_COPIED L2 cluster: l1_index={i} l1_entry={word:x} refcount={count}"
                    ));
                }
            }
            for j in 0..1usize << self.geo.l2_bits {
                let at = j * self.geo.words();
                let word = meta.l2.get(&*self.file, table)?.u64(at);
                let entry = Entry { word, bits: 0 };
                let plain_zero = entry.offset() == 0;
                if entry.packed()
                    || plain_zero
                    || self.geo.external
                    || entry.offset() & (self.geo.cluster() - 1) != 0
                {
                    continue;
                }
                let count = meta.refs.get(&*self.file, entry.offset() >> bits).unwrap_or(0);
                if (count == 1) != entry.copied() {
                    if fix {
                        let new = word & !COPIED | if count == 1 { COPIED } else { 0 };
                        meta.l2.get_mut(&*self.file, table)?.set_u64(at, new);
                    } else {
                        report.corruption(format!(
                            "OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}"
                        ));
                    }
                }
            }
            if fix {
                self.relieve(meta)?;
            }
        }
        Ok(())
    }

    fn repair(
        &self,
        meta: &mut Meta,
        repair: Repair,
        report: &mut CheckReport,
        usable: bool,
        wrong: &[(u64, u64)],
    ) -> Result<(), BlockError> {
        let file = &*self.file;
        let (leaks, corruptions) = (report.leaks, report.corruptions);
        let mut damaged = !usable;
        for &(cluster, counted) in wrong {
            let stored = meta.refs.get(file, cluster)?;
            if stored < counted {
                damaged = true;
                continue;
            }
            for _ in counted..stored {
                meta.refs.sub(file, cluster..cluster + 1)?;
            }
        }
        if repair == Repair::All && damaged {
            let counts = self.walk(meta)?.counts;
            let order = meta.refs.order;
            self.rebuild(meta, order, |cluster| counts.get(cluster), counts.end())?;
        }
        if repair == Repair::All {
            self.flags(meta, report, true)?;
        }
        self.write_back(meta)?;
        meta.refs.write_back(file)?;
        file.flush()?;
        // What is left is what a second look finds.
        let mut walk = self.walk(meta)?;
        let usable = walk.refcounts(meta);
        self.compare(meta, &mut walk, usable)?;
        self.flags(meta, &mut walk.report, false)?;
        let left = walk.report;
        report.leaks_fixed = leaks.saturating_sub(left.leaks);
        report.corruptions_fixed = corruptions.saturating_sub(left.corruptions);
        (report.leaks, report.corruptions) = (left.leaks, left.corruptions);
        Ok(())
    }

    /// Writes a new refcount table with new blocks behind everything else, and gives up the old one.
    pub(super) fn rebuild(
        &self,
        meta: &mut Meta,
        order: u32,
        count: impl Fn(u64) -> u64,
        used: u64,
    ) -> Result<(), BlockError> {
        let (bits, cluster) = (self.geo.cluster_bits, self.geo.cluster());
        let block_bits = bits + 3 - order;
        let start = used.max(self.file.size().div_ceil(cluster));
        // Only blocks that count something; those at the end count themselves and the table.
        let mut needed: Vec<u64> = (0..used.div_ceil(1 << block_bits))
            .filter(|b| (b << block_bits..((b + 1) << block_bits).min(used)).any(|c| count(c) != 0))
            .collect();
        let table_clusters = loop {
            let entries = needed.last().map_or(0, |b| b + 1);
            let table_clusters = (entries * 8).div_ceil(cluster).max(1);
            let end = start + table_clusters + needed.len() as u64;
            let missing: Vec<u64> = (start >> block_bits..=(end - 1) >> block_bits)
                .filter(|b| needed.binary_search(b).is_err())
                .collect();
            if missing.is_empty() {
                break table_clusters;
            }
            needed.extend(missing);
            needed.sort_unstable();
        };
        if table_clusters << bits > MAX_REFTABLE {
            return Err(self.bad(format!("the refcount table would have more than {MAX_REFTABLE} bytes")));
        }
        let own: Range<u64> = start..start + table_clusters + needed.len() as u64;
        let max = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
        let mut table = vec![0u64; (table_clusters * cluster / 8) as usize];
        for (i, b) in needed.iter().enumerate() {
            let mut data = vec![0; cluster as usize];
            for c in b << block_bits..(b + 1) << block_bits {
                let n = if own.contains(&c) { 1 } else { count(c) };
                if n > max {
                    return Err(self
                        .bad(format!("cluster {c} has {n} references, more than {} bits hold", 1 << order)));
                }
                if n != 0 {
                    let index = (c & ((1 << block_bits) - 1)) as usize;
                    let (at, raw, len) = set_count(&data, order, index, n);
                    data[at..at + len].copy_from_slice(&raw[..len]);
                }
            }
            let offset = (start + table_clusters + i as u64) << bits;
            self.file.write(offset, &[IoSlice::new(&data)], false)?;
            table[*b as usize] = offset;
        }
        let raw: Vec<u8> = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.file.write(start << bits, &[IoSlice::new(&raw)], false)?;
        self.file.flush()?;
        meta.refs.replace(order, table, start << bits);
        self.write_header(meta)?;
        self.file.flush()
    }

    /// Rewrites all counts with another width.
    pub(super) fn change_refcount_order(&self, meta: &mut Meta, order: u32) -> Result<(), BlockError> {
        self.settle(meta)?;
        meta.refs.write_back(&*self.file)?;
        let mut walk = self.walk(meta)?;
        let before = walk.report.corruptions;
        let usable = walk.refcounts(meta);
        self.compare(meta, &mut walk, usable)?;
        if !usable || before != 0 || walk.report.corruptions != 0 {
            return Err(self.bad("the image is damaged; it has to be repaired first"));
        }
        let counts = self.walk(meta)?.counts;
        self.rebuild(meta, order, |c| counts.get(c), counts.end())
    }
}
