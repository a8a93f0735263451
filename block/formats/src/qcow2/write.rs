//! Writing: in place where the image owns the place alone, else to new clusters that are named once they are full.

use std::io::IoSlice;
use std::ops::Range;

use block::BlockError;

use super::l2::{Entry, Kind};
use super::{Meta, Qcow2, l2};

/// Most bytes one step of a write gives new places to.
const MAX_STEP: u64 = 8 << 20;

/// New places for a run of guest clusters.
struct Plan {
    /// First byte of the disk in the run, at a cluster's start.
    start: u64,
    clusters: u64,
    /// Where the first cluster goes.
    host: u64,
    /// The place is the cluster's own from before.
    reused: bool,
    /// It reads as zero.
    fresh: bool,
    /// Entries before, one for a run of one cluster or the first and last.
    first: Entry,
    last: Entry,
}

/// Cuts `len` bytes off the front of a list of slices, from byte `skip` on.
fn cut<'a>(bufs: &'a [IoSlice<'_>], skip: u64, len: u64) -> Vec<IoSlice<'a>> {
    let mut out = Vec::with_capacity(bufs.len());
    let (mut skip, mut left) = (skip as usize, len as usize);
    for buf in bufs {
        if skip >= buf.len() {
            skip -= buf.len();
            continue;
        }
        let part = &buf[skip..buf.len().min(skip + left)];
        skip = 0;
        left -= part.len();
        if !part.is_empty() {
            out.push(IoSlice::new(part));
        }
        if left == 0 {
            break;
        }
    }
    out
}

impl Qcow2 {
    /// Writes several buffers.
    pub(super) fn write_buffers(
        &self,
        offset: u64,
        bufs: &[IoSlice<'_>],
        fua: bool,
    ) -> Result<(), BlockError> {
        self.check_writable()?;
        {
            let total: u64 = bufs.iter().map(|b| b.len() as u64).sum();
            let alone = self.cuts_sectors(offset, total);
            let (_gate, _others) = match alone {
                true => (None, Some(self.gate.write())),
                false => (Some(self.gate.read()), None),
            };
            let mut done = 0;
            while done < total {
                done +=
                    self.write_step(offset + done, total - done, |skip, len| cut(bufs, done + skip, len))?;
            }
            bitmap_mark(self, offset, total)?;
        }
        if fua { self.do_flush() } else { Ok(()) }
    }

    /// Writes one buffer; the gate is held.
    pub(super) fn write_inner(&self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        let (total, mut done) = (buf.len() as u64, 0);
        while done < total {
            done += self.write_step(offset + done, total - done, |skip, len| {
                let from = (done + skip) as usize;
                vec![IoSlice::new(&buf[from..from + len as usize])]
            })?;
        }
        Ok(())
    }

    /// Writes a part of a request; returns how many bytes.
    fn write_step<'a>(
        &self,
        offset: u64,
        len: u64,
        data: impl Fn(u64, u64) -> Vec<IoSlice<'a>>,
    ) -> Result<u64, BlockError> {
        let bits = self.geo.cluster_bits;
        let mut meta = self.meta.lock();
        self.relieve(&mut meta)?;
        self.mark_dirty(&mut meta)?;
        // The clusters of the step are looked at only once nobody is about to move them.
        let first = offset >> bits;
        loop {
            let busy = meta.in_flight.iter().any(|r| r.contains(&first));
            if !busy {
                break;
            }
            self.landed.wait(&mut meta);
        }
        let run = self.lookup(&mut meta, offset, len)?;
        if let (Kind::Data, true, Some(host)) = (run.kind, run.copied, run.host) {
            self.check_overlap(&mut meta, host, run.len)?;
            drop(meta);
            self.write_data(host, offset, &data(0, run.len))?;
            return Ok(run.len);
        }
        let span = 1u64 << (bits + self.geo.l2_bits);
        let len = len.min(MAX_STEP.max(self.geo.cluster())).min(span - offset % span);
        let plan = self.plan(&mut meta, offset, len)?;
        let end = (plan.start + (plan.clusters << bits)).min(offset + len);
        let flight = first..first + plan.clusters;
        meta.in_flight.push(flight.clone());
        drop(meta);
        let written = self.fill(&plan, offset..end, &data(0, end - offset));
        let mut meta = self.meta.lock();
        let linked = match written {
            Ok(()) => self.link(&mut meta, &plan, offset..end),
            Err(e) => {
                if !plan.reused && !self.geo.external {
                    let at = plan.host >> bits;
                    // Nothing names these clusters.
                    meta.refs.sub(&*self.file, at..at + plan.clusters)?;
                }
                Err(e)
            }
        };
        meta.in_flight.retain(|r| *r != flight);
        self.landed.notify_all();
        linked.map(|()| end - offset)
    }

    /// Chooses places for the clusters from `offset` on that cannot be written where they are.
    fn plan(&self, meta: &mut Meta, offset: u64, len: u64) -> Result<Plan, BlockError> {
        let (bits, cluster) = (self.geo.cluster_bits, self.geo.cluster());
        let start = offset & !(cluster - 1);
        let first = self.entry(meta, start)?;
        let own = self.host_of(first, start)?.filter(|_| first.copied());
        let alone =
            |host, reused, fresh| Plan { start, clusters: 1, host, reused, fresh, first, last: first };
        if let Some(host) = own {
            self.check_overlap(meta, host, cluster)?;
            return Ok(alone(host, true, false));
        }
        if self.geo.external {
            return Ok(alone(start, false, false));
        }
        // Clusters that follow and need new places too.
        let wanted = (offset + len - start).div_ceil(cluster);
        let mut clusters = 1;
        let mut last = first;
        while clusters < wanted {
            let at = start + (clusters << bits);
            let busy = meta.in_flight.iter().any(|r| r.contains(&(at >> bits)));
            let entry = self.entry(meta, at)?;
            if busy || (entry.copied() && self.host_of(entry, at)?.is_some()) {
                break;
            }
            last = entry;
            clusters += 1;
        }
        let virgin = meta.refs.virgin();
        let run = meta.refs.alloc(&*self.file, clusters)?;
        let got = run.end - run.start;
        if got < clusters {
            last = self.entry(meta, start + ((got - 1) << bits))?;
        }
        let host = run.start << bits;
        if let Err(e) = self.check_overlap(meta, host, got << bits) {
            meta.refs.sub(&*self.file, run)?;
            return Err(e);
        }
        Ok(Plan {
            start,
            clusters: got,
            host,
            reused: false,
            fresh: run.start >= virgin && self.crypt.is_none(),
            first,
            last,
        })
    }

    /// The part of a cluster that has to be stored when `touched` of it is written, and which of its subclusters
    /// have contents of their own afterwards.
    fn stored(
        &self,
        entry: Entry,
        cluster: u64,
        touched: &Range<u64>,
        moved: bool,
    ) -> Result<(Range<u64>, u32), BlockError> {
        let (size, sub_bits) = (self.geo.cluster(), self.geo.sub_bits());
        let within = touched.start.max(cluster) - cluster..touched.end.min(cluster + size) - cluster;
        let (mut first, mut last) = (within.start >> sub_bits, (within.end - 1) >> sub_bits);
        let mut bits = 0u32;
        for sub in first..=last {
            bits |= 1 << sub;
        }
        if moved && self.geo.extended() {
            let host = self.host_of(entry, cluster)?;
            let all = if entry.packed() { u32::MAX } else { entry.bits as u32 };
            if host.is_some() || entry.packed() {
                for sub in (0..32).filter(|s| all >> s & 1 != 0) {
                    (first, last) = (first.min(sub), last.max(sub));
                    bits |= 1 << sub;
                }
            }
        }
        Ok((cluster + (first << sub_bits)..cluster + ((last + 1) << sub_bits), bits))
    }

    /// Puts data into new places, with what is around it in its first and last cluster.
    fn fill(&self, plan: &Plan, range: Range<u64>, data: &[IoSlice<'_>]) -> Result<(), BlockError> {
        let cluster = self.geo.cluster();
        let last = plan.start + (plan.clusters - 1) * cluster;
        let head = self.stored(plan.first, plan.start, &range, !plan.reused)?.0;
        let tail =
            if last == plan.start { head.clone() } else { self.stored(plan.last, last, &range, true)?.0 };
        let before = self.surroundings(plan, head.start..range.start)?;
        let after = self.surroundings(plan, range.end..tail.end)?;
        let place = |offset: u64| plan.host + (offset - plan.start);
        if before.is_empty() && after.is_empty() {
            return self.write_data(place(range.start), range.start, data);
        }
        let mut all = Vec::with_capacity(data.len() + 2);
        let mut at = range.start;
        if !before.is_empty() {
            at = head.start;
            all.push(IoSlice::new(&before));
        }
        all.extend(data.iter().map(|d| IoSlice::new(d)));
        if !after.is_empty() {
            all.push(IoSlice::new(&after));
        }
        self.write_data(place(at), at, &all)
    }

    /// What was in a range so far; nothing if it is zero and the new place reads as zero anyway.
    fn surroundings(&self, plan: &Plan, range: Range<u64>) -> Result<Vec<u8>, BlockError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let below = self.backing.read().as_ref().map_or(0, |b| block::BlockNode::size(&**b));
        let len = range.end - range.start;
        if plan.fresh {
            let run = self.lookup(&mut self.meta.lock(), range.start, len)?;
            if run.len == len && (run.kind == Kind::Zero || (run.kind == Kind::Hole && range.start >= below))
            {
                return Ok(Vec::new());
            }
        }
        let mut old = vec![0; len as usize];
        self.read_inner(range.start, &mut old)?;
        Ok(old)
    }

    /// Names new places in the tables.
    fn link(&self, meta: &mut Meta, plan: &Plan, range: Range<u64>) -> Result<(), BlockError> {
        let bits = self.geo.cluster_bits;
        let table = self.l2_for_change(meta, plan.start)?;
        for i in 0..plan.clusters {
            let at = plan.start + (i << bits);
            let old = self.entry(meta, at)?;
            let mut new = Entry { word: (plan.host + (i << bits)) | l2::COPIED, bits: 0 };
            if self.geo.extended() {
                let stored = self.stored(old, at, &range, !plan.reused)?.1;
                let kept = if old.packed() { 0 } else { old.bits };
                let stored = u64::from(stored);
                new.bits = (kept | stored) & !(stored << 32);
            }
            self.set_entry(meta, table, at, new)?;
            if !plan.reused {
                self.release(meta, old, at)?;
            }
        }
        Ok(())
    }
}

fn bitmap_mark(image: &Qcow2, offset: u64, len: u64) -> Result<(), BlockError> {
    super::bitmap::mark(image, offset, len)
}
