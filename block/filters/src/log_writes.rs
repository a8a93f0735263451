//! `blklogwrites`: every write goes to a log as well, in the order in which it was done, for replay up to any point.
//!
//! The log is that of Linux's `dm-log-writes` (`Documentation/admin-guide/device-mapper/log-writes.rst`): a superblock in the
//! first sector, then entries of one sector each, followed by their data. All numbers are little-endian.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode, NodeInfo};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::driver::{Children, scalars, wrong};
use crate::pass::{joined, named, pass};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

mod flag {
    pub(super) const FLUSH: u64 = 1;
    pub(super) const FUA: u64 = 2;
    pub(super) const DISCARD: u64 = 4;
}

#[derive(Debug)]
struct Log {
    /// Sector at which the next entry goes.
    next: u64,
    entries: u64,
}

/// A node whose writes are logged.
#[derive(Debug)]
pub struct LogWrites {
    child: Arc<dyn BlockNode>,
    log: Arc<dyn BlockNode>,
    sector: u64,
    /// The superblock is written after so many entries.
    interval: u64,
    state: Mutex<Log>,
}

fn superblock(sector: u64, entries: u64) -> Vec<u8> {
    let mut out = vec![0; sector as usize];
    for (i, n) in [MAGIC, VERSION, entries].iter().enumerate() {
        out[i * 8..i * 8 + 8].copy_from_slice(&n.to_le_bytes());
    }
    out[24..28].copy_from_slice(&(sector as u32).to_le_bytes());
    out
}

fn le64(data: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&data[at..at + 8]);
    u64::from_le_bytes(out)
}

impl LogWrites {
    /// Logs to an empty `log`, or after what is in it.
    pub fn new(
        child: Arc<dyn BlockNode>,
        log: Arc<dyn BlockNode>,
        sector: u64,
        append: bool,
        interval: u64,
    ) -> Result<Self, BlockError> {
        let mut state = Log { next: 1, entries: 0 };
        let mut sector = sector;
        if append {
            let mut head = [0; 512];
            log.read(0, &mut [IoSliceMut::new(&mut head)])?;
            let found = u32::from_le_bytes([head[24], head[25], head[26], head[27]]).into();
            if le64(&head, 0) != MAGIC
                || le64(&head, 8) != VERSION
                || !u64::is_power_of_two(found)
                || found < 512
            {
                return Err(wrong("blklogwrites", "log-append=on: the log has no superblock of version 1"));
            }
            sector = found;
            let entries = le64(&head, 16);
            let mut entry = vec![0; 32];
            while state.entries < entries {
                if state.next.saturating_mul(sector) >= log.size() {
                    return Err(wrong(
                        "blklogwrites",
                        format!("the log ends before its {entries} entries do"),
                    ));
                }
                log.read(state.next * sector, &mut [IoSliceMut::new(&mut entry)])?;
                let data = if le64(&entry, 16) & flag::DISCARD == 0 { le64(&entry, 8) } else { 0 };
                state.next = state.next.saturating_add(data).saturating_add(1);
                state.entries += 1;
            }
        } else {
            log.write(0, &[IoSlice::new(&superblock(sector, 0))], false)?;
        }
        Ok(LogWrites { child, log, sector, interval: interval.max(1), state: Mutex::new(state) })
    }

    /// Writes an entry; data is padded to whole sectors.
    fn log(&self, offset: u64, len: u64, flags: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        let s = self.sector;
        let mut entry = vec![0; s as usize];
        let numbers = [offset / s, len.div_ceil(s), flags, 0];
        for (i, n) in numbers.iter().enumerate() {
            entry[i * 8..i * 8 + 8].copy_from_slice(&n.to_le_bytes());
        }
        let pad = vec![0; (data.len() as u64).next_multiple_of(s) as usize - data.len()];
        let at = state.next * s;
        self.log.write(at, &[IoSlice::new(&entry), IoSlice::new(data), IoSlice::new(&pad)], false)?;
        state.next += 1 + (data.len() + pad.len()) as u64 / s;
        state.entries += 1;
        if flags & (flag::FLUSH | flag::FUA) != 0 || state.entries.is_multiple_of(self.interval) {
            self.log.write(0, &[IoSlice::new(&superblock(s, state.entries))], false)?;
            self.log.flush()?;
        }
        Ok(())
    }
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    let options = scalars(map);
    let sector = options.size("log-sector-size")?.unwrap_or(512);
    if !sector.is_power_of_two() || !(512..=1 << 23).contains(&sector) {
        return Err(wrong(
            "blklogwrites",
            format!("log-sector-size={sector}: expected a power of two from 512 to 8M"),
        ));
    }
    let append = options.switch("log-append")?.unwrap_or(false);
    let interval = options.number("log-super-update-interval")?.unwrap_or(4096);
    // The log as it is: it grows.
    let log = children.child(map, "log")?;
    let log: Arc<dyn BlockNode> = match &log.files()[..] {
        [(_, file)] if log.format() == "raw" => file.clone(),
        _ => log,
    };
    Ok(Arc::new(LogWrites::new(children.child(map, "file")?, log, sector, append, interval)?))
}

impl BlockNode for LogWrites {
    pass!(child: size read status resize allocated_size);

    fn info(&self) -> NodeInfo {
        let info = named("blklogwrites", &*self.child);
        NodeInfo { granularity: info.granularity.max(self.sector as u32), ..info }
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.child.write(offset, bufs, fua)?;
        let data = joined(bufs);
        self.log(offset, data.len() as u64, if fua { flag::FUA } else { 0 }, &data)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.child.flush()?;
        self.log(0, 0, flag::FLUSH, &[])
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.child.discard(offset, len)?;
        self.log(offset, len, flag::DISCARD, &[])
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.child.write_zeroes(offset, len, unmap)?;
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut at = 0;
        while at < len {
            let n = (len - at).min(zeroes.len() as u64);
            self.log(offset + at, n, 0, &zeroes[..n as usize])?;
            at += n;
        }
        Ok(())
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.child.clone(), self.log.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::MemoryNode;

    #[test]
    fn entries_follow_each_other() {
        let (disk, log) =
            (Arc::new(MemoryNode::new("d", 64 << 10)), Arc::new(MemoryNode::new("l", 64 << 10)));
        let node = LogWrites::new(disk.clone(), log.clone(), 512, false, 100).unwrap();
        node.write(1024, &[IoSlice::new(&[1; 700]), IoSlice::new(&[2; 324])], false).unwrap();
        node.flush().unwrap();
        drop(node);
        let node = LogWrites::new(disk, log.clone(), 4096, true, 100).unwrap();
        node.write(0, &[IoSlice::new(&[3; 512])], true).unwrap();
        let mut all = vec![0; 4096];
        log.read(0, &mut [IoSliceMut::new(&mut all)]).unwrap();
        assert_eq!((le64(&all, 0), le64(&all, 8), le64(&all, 16)), (MAGIC, 1, 3));
        assert_eq!(all[24..28], 512u32.to_le_bytes());
        // Sector 2, two sectors of data, then a flush, then sector 0 with FUA.
        assert_eq!((le64(&all, 512), le64(&all, 520), le64(&all, 528)), (2, 2, 0));
        assert_eq!((all[1024], all[2047]), (1, 2));
        assert_eq!((le64(&all, 2048 + 8), le64(&all, 2048 + 16)), (0, flag::FLUSH));
        assert_eq!((le64(&all, 2560), le64(&all, 2568), le64(&all, 2576)), (0, 1, flag::FUA));
        assert_eq!(all[3072], 3);
    }
}
