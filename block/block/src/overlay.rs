//! A temporary layer for `snapshot=on`: writes go to an unnamed file, the base stays as it is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::BlockError;
use crate::file::{read as read_file, write as write_file};
use crate::node::{BlockNode, Extent, NodeInfo};

/// Unit of copy-on-write in bytes.
const CLUSTER: u64 = 64 << 10;

/// Where the clusters that were written are.
#[derive(Debug, Default)]
struct Map {
    /// Cluster of the disk -> cluster of the file.
    places: HashMap<u64, u64>,
    next: u64,
}

/// A copy-on-write layer that is gone when dropped.
#[derive(Debug)]
pub struct Overlay {
    base: Arc<dyn BlockNode>,
    file: File,
    /// Read-locked during transfers, so that no transfer sees a cluster half copied.
    map: RwLock<Map>,
}

impl Overlay {
    /// A layer over `base`, in the host's directory for temporary files.
    pub fn new(base: Arc<dyn BlockNode>) -> Result<Self, BlockError> {
        let file = tempfile::tempfile()
            .map_err(|source| BlockError::Open { path: "temporary snapshot file".into(), source })?;
        Ok(Overlay { base, file, map: RwLock::default() })
    }

    /// Writes all that differs from the base into `target`, which is the base opened for writing. The layer stays.
    pub fn commit(&self, target: &dyn BlockNode) -> Result<(), BlockError> {
        // Write-locked: nothing changes meanwhile.
        let map = self.map.write();
        // Of the base nothing may be asked: whoever opened the target may hold it locked.
        let size = target.info().size;
        let mut data = vec![0; CLUSTER as usize];
        for (cluster, place) in &map.places {
            let start = cluster * CLUSTER;
            let data = &mut data[..CLUSTER.min(size - start) as usize];
            read_file(&self.file, data, place * CLUSTER)?;
            target.write(start, &[IoSlice::new(data)], false)?;
        }
        target.flush()
    }

    /// Makes `cluster` writable, with the base's contents.
    fn allocate(&self, cluster: u64, size: u64) -> Result<(), BlockError> {
        let mut map = self.map.write();
        if map.places.contains_key(&cluster) {
            return Ok(());
        }
        let place = map.next;
        let start = cluster * CLUSTER;
        let mut data = vec![0; CLUSTER.min(size - start) as usize];
        self.base.read(start, &mut [IoSliceMut::new(&mut data)])?;
        write_file(&self.file, &data, place * CLUSTER)?;
        map.next += 1;
        map.places.insert(cluster, place);
        Ok(())
    }
}

/// Cuts a range at cluster boundaries: (cluster, offset in it, length).
fn clusters(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let within = at % CLUSTER;
        let n = (CLUSTER - within).min(end - at);
        let piece = (n != 0).then_some((at / CLUSTER, within, n as usize));
        at += n;
        piece
    })
}

impl BlockNode for Overlay {
    fn info(&self) -> NodeInfo {
        let base = self.base.info();
        NodeInfo { name: format!("snapshot:{}", base.name), read_only: false, can_discard: false, ..base }
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let map = self.map.read();
        for buf in bufs {
            let mut done = 0;
            for (cluster, within, n) in clusters(offset, buf.len() as u64) {
                let part = &mut buf[done..done + n];
                match map.places.get(&cluster) {
                    Some(place) => read_file(&self.file, part, place * CLUSTER + within)?,
                    None => self.base.read(cluster * CLUSTER + within, &mut [IoSliceMut::new(part)])?,
                }
                done += n;
            }
            offset += done as u64;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, bufs: &[IoSlice<'_>], _fua: bool) -> Result<(), BlockError> {
        let size = self.info().size;
        for buf in bufs {
            let mut done = 0;
            for (cluster, within, n) in clusters(offset, buf.len() as u64) {
                let part = &buf[done..done + n];
                let whole = n as u64 == CLUSTER;
                if whole {
                    // The cluster must not be seen before its data is there.
                    let mut map = self.map.write();
                    let place = map.places.get(&cluster).copied().unwrap_or(map.next);
                    write_file(&self.file, part, place * CLUSTER)?;
                    if place == map.next {
                        map.next += 1;
                        map.places.insert(cluster, place);
                    }
                } else {
                    self.allocate(cluster, size)?;
                    let map = self.map.read();
                    if let Some(place) = map.places.get(&cluster) {
                        write_file(&self.file, part, place * CLUSTER + within)?;
                    }
                }
                done += n;
            }
            offset += done as u64;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        // Nothing here outlives the process.
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let map = self.map.read();
        let mut extents: Vec<Extent> = Vec::new();
        for (cluster, within, n) in clusters(range.start, range.end.saturating_sub(range.start)) {
            let start = cluster * CLUSTER + within;
            let allocated = map.places.contains_key(&cluster);
            match extents.last_mut() {
                Some(last) if last.allocated == allocated => last.range.end = start + n as u64,
                _ => extents.push(Extent::new(start..start + n as u64, allocated, false)),
            }
        }
        Ok(extents)
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.base.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryNode;

    #[test]
    fn random_writes_match_a_plain_copy_and_spare_the_base() {
        let size = 5 * CLUSTER + 512;
        let data: Vec<u8> = (0..size).map(|i| (i / 7) as u8).collect();
        let base = Arc::new(MemoryNode::from_vec("base", data.clone()));
        let overlay = Overlay::new(base.clone()).unwrap();
        let mut model = data.clone();
        let mut seed = 0x1234_5678_9abc_def1u64;
        let mut below = |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        for round in 0..200u64 {
            let offset = below(size);
            let len = if round % 3 == 0 { below(2 * CLUSTER) } else { below(600) }.min(size - offset);
            let buf = vec![round as u8; len as usize];
            let (a, b) = buf.split_at(buf.len() / 3);
            overlay.write(offset, &[IoSlice::new(a), IoSlice::new(b)], false).unwrap();
            model[offset as usize..(offset + len) as usize].fill(round as u8);
            let from = below(size);
            let mut back = vec![0; below(size - from) as usize];
            let half = back.len() / 2;
            let (a, b) = back.split_at_mut(half);
            overlay.read(from, &mut [IoSliceMut::new(a), IoSliceMut::new(b)]).unwrap();
            assert_eq!(back, model[from as usize..from as usize + back.len()], "round {round}");
        }
        let mut untouched = vec![0; size as usize];
        base.read(0, &mut [IoSliceMut::new(&mut untouched)]).unwrap();
        assert!(untouched == data);
        overlay.commit(&*base).unwrap();
        base.read(0, &mut [IoSliceMut::new(&mut untouched)]).unwrap();
        assert!(untouched == model, "committed");
        let fresh = Overlay::new(base).unwrap();
        fresh.write(CLUSTER, &[IoSlice::new(&[1])], false).unwrap();
        let status = fresh.status(1..size).unwrap();
        let ranges: Vec<_> = status.iter().map(|e| (e.range.clone(), e.allocated)).collect();
        assert_eq!(ranges, [(1..CLUSTER, false), (CLUSTER..2 * CLUSTER, true), (2 * CLUSTER..size, false)]);
    }
}
