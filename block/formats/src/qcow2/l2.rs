//! L2 tables: what they say of a range of the disk, and changing them (`docs/interop/qcow2`, "Cluster mapping").

use std::ops::Range;

use block::BlockError;

use super::refcount::OFFSET_MASK;
use super::{Meta, Qcow2};

pub(super) const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
pub(super) const ZERO: u64 = 1;

/// What a part of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not here: read from the backing file.
    Hole,
    /// Zero.
    Zero,
    /// Stored as it is.
    Data,
    /// Stored compressed.
    Packed,
}

/// What the tables say of the bytes from an offset of the disk on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) kind: Kind,
    /// Length in bytes.
    pub(super) len: u64,
    /// Where the first byte has its place, even if it is a hole or zero; for packed clusters where they start.
    pub(super) host: Option<u64>,
    /// Bytes of the packed cluster that are in the file.
    pub(super) packed: u64,
    /// Nobody else uses the place.
    pub(super) copied: bool,
}

/// An entry with its subcluster bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) word: u64,
    pub(super) bits: u64,
}

impl Entry {
    pub(super) fn offset(self) -> u64 {
        self.word & OFFSET_MASK
    }

    pub(super) fn packed(self) -> bool {
        self.word & COMPRESSED != 0
    }

    pub(super) fn copied(self) -> bool {
        self.word & COPIED != 0
    }
}

impl Qcow2 {
    /// Offset of the L2 table for a place of the disk.
    pub(super) fn l2_offset(&self, meta: &Meta, offset: u64) -> Result<Option<u64>, BlockError> {
        let index = self.geo.l1_index(offset);
        let table = meta.l1.get(index).copied().unwrap_or(0) & OFFSET_MASK;
        if table & (self.geo.cluster() - 1) != 0 {
            let cluster = self.geo.cluster();
            return Err(self.bad(format!(
                "qcow2 L1 entry {index}: table at {table:#x}, expected a multiple of {cluster:#x}"
            )));
        }
        Ok((table != 0).then_some(table))
    }

    /// The entry of a cluster.
    pub(super) fn entry(&self, meta: &mut Meta, offset: u64) -> Result<Entry, BlockError> {
        let Some(table) = self.l2_offset(meta, offset)? else { return Ok(Entry::default()) };
        let (index, words) = (self.geo.l2_index(offset), self.geo.words());
        let table = meta.l2.get(&*self.file, table)?;
        let bits = if words == 2 { table.u64(index * 2 + 1) } else { 0 };
        Ok(Entry { word: table.u64(index * words), bits })
    }

    /// Where the data of a cluster has its place, if it has one of its own that is not packed.
    pub(super) fn host_of(&self, entry: Entry, offset: u64) -> Result<Option<u64>, BlockError> {
        if entry.packed() {
            return Ok(None);
        }
        let host = entry.offset();
        if host & (self.geo.cluster() - 1) != 0 {
            let cluster = self.geo.cluster();
            return Err(self.bad(format!(
                "qcow2 L2 entry for {offset:#x}: data at {host:#x}, expected a multiple of {cluster:#x}"
            )));
        }
        // With a data file, offset 0 is a place like any other.
        Ok((host != 0 || (self.geo.external && entry.copied())).then_some(host))
    }

    /// Where a packed cluster starts, and how many bytes of the file may belong to it.
    pub(super) fn packed_place(&self, entry: Entry) -> (u64, u64) {
        let x = 62 - (self.geo.cluster_bits - 8);
        let host = entry.word & ((1 << x) - 1);
        let sectors = (entry.word >> x) & ((1 << (62 - x)) - 1);
        (host, (sectors + 1) * 512 - host % 512)
    }

    /// What one subcluster is.
    pub(super) fn kind(
        &self,
        entry: Entry,
        host: Option<u64>,
        sub: u32,
        offset: u64,
    ) -> Result<Kind, BlockError> {
        if entry.packed() {
            if self.geo.external {
                return Err(self.bad(format!(
                    "qcow2 L2 entry for {offset:#x}: a compressed cluster in an image with a data file"
                )));
            }
            return Ok(Kind::Packed);
        }
        if !self.geo.extended() {
            return Ok(match host {
                _ if self.geo.version > 2 && entry.word & ZERO != 0 => Kind::Zero,
                Some(_) => Kind::Data,
                None => Kind::Hole,
            });
        }
        match (entry.bits >> sub & 1, entry.bits >> (32 + sub) & 1) {
            (0, 0) => Ok(Kind::Hole),
            (0, _) => Ok(Kind::Zero),
            (_, 0) if host.is_some() => Ok(Kind::Data),
            (_, zero) => {
                let what = if zero == 1 { "both allocated and zero" } else { "allocated without a place" };
                Err(self.bad(format!("qcow2 L2 entry for {offset:#x}: subcluster {sub} is {what}")))
            }
        }
    }

    /// What the tables say from `offset` on, for at most `max` bytes and within one L2 table.
    pub(super) fn lookup(&self, meta: &mut Meta, offset: u64, max: u64) -> Result<Run, BlockError> {
        let geo = self.geo;
        let span = 1u64 << (geo.cluster_bits + geo.l2_bits);
        let max = max.min(span - offset % span);
        let hole = Run { kind: Kind::Hole, len: max, host: None, packed: 0, copied: false };
        let Some(table) = self.l2_offset(meta, offset)? else { return Ok(hole) };
        let table = meta.l2.get(&*self.file, table)?;
        let (cluster, words) = (geo.cluster(), geo.words());
        let mut run: Option<Run> = None;
        let mut at = offset;
        while at < offset + max {
            let index = geo.l2_index(at);
            let bits = if words == 2 { table.u64(index * 2 + 1) } else { 0 };
            let entry = Entry { word: table.u64(index * words), bits };
            let base = self.host_of(entry, at)?;
            // Whole clusters of one kind are the common case; subclusters one by one.
            let sub_size = 1u64 << geo.sub_bits();
            let end = ((at & !(cluster - 1)) + cluster).min(offset + max);
            while at < end {
                let sub = ((at % cluster) >> geo.sub_bits()) as u32;
                let kind = self.kind(entry, base, sub, at)?;
                let next = ((at & !(sub_size - 1)) + sub_size).min(end);
                let host = base.map(|b| b + at % cluster);
                match &mut run {
                    None if kind == Kind::Packed => {
                        let (host, packed) = self.packed_place(entry);
                        return Ok(Run { kind, len: end - at, host: Some(host), packed, copied: false });
                    }
                    None => run = Some(Run { kind, len: next - at, host, packed: 0, copied: entry.copied() }),
                    Some(r) => {
                        let follows =
                            r.kind == kind && r.copied == entry.copied() && r.host.map(|h| h + r.len) == host;
                        if !follows {
                            return Ok(*r);
                        }
                        r.len += next - at;
                    }
                }
                at = next;
            }
        }
        Ok(run.unwrap_or(hole))
    }

    /// The L2 table for a place of the disk, ready to be changed: made, or copied if a snapshot has it as well.
    pub(super) fn l2_for_change(&self, meta: &mut Meta, offset: u64) -> Result<u64, BlockError> {
        let index = self.geo.l1_index(offset);
        let old = self.l2_offset(meta, offset)?;
        if let Some(table) = old.filter(|_| meta.l1[index] & COPIED != 0) {
            return Ok(table);
        }
        if index >= meta.l1.len() {
            return Err(self.bad(format!("qcow2: {offset:#x} is beyond the L1 table")));
        }
        let data = match old {
            Some(table) => meta.l2.get(&*self.file, table)?.data().to_vec(),
            None => vec![0; self.geo.cluster() as usize],
        };
        let cluster = meta.refs.alloc(&*self.file, 1)?.start;
        let new = cluster << self.geo.cluster_bits;
        meta.l2.add(new, data);
        self.set_l1(meta, index, new | COPIED);
        if let Some(table) = old {
            let at = table >> self.geo.cluster_bits;
            meta.refs.drop_later(at..at + 1);
        }
        Ok(new)
    }

    /// Sets the entry of a cluster; the table comes from [`Qcow2::l2_for_change`].
    pub(super) fn set_entry(
        &self,
        meta: &mut Meta,
        table: u64,
        offset: u64,
        e: Entry,
    ) -> Result<(), BlockError> {
        let (index, words) = (self.geo.l2_index(offset), self.geo.words());
        let table = meta.l2.get_mut(&*self.file, table)?;
        table.set_u64(index * words, e.word);
        if words == 2 {
            table.set_u64(index * 2 + 1, e.bits);
        }
        Ok(())
    }

    /// Clusters of the file that an entry holds on to.
    pub(super) fn held(&self, entry: Entry, offset: u64) -> Result<Option<Range<u64>>, BlockError> {
        let bits = self.geo.cluster_bits;
        if entry.packed() {
            let (host, len) = self.packed_place(entry);
            return Ok(Some(host >> bits..((host + len - 1) >> bits) + 1));
        }
        if self.geo.external {
            return Ok(None);
        }
        Ok(self.host_of(entry, offset)?.map(|host| host >> bits..(host >> bits) + 1))
    }

    /// Gives up what an entry that was replaced held.
    pub(super) fn release(&self, meta: &mut Meta, entry: Entry, offset: u64) -> Result<(), BlockError> {
        if let Some(run) = self.held(entry, offset)? {
            meta.refs.drop_later(run);
        }
        Ok(())
    }
}
