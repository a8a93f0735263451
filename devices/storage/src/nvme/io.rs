//! Commands of I/O (section 6).

use block::Disk;

use super::{DATA_PAGES, Job, Nvme, Outcome, long, status, word};
use crate::requests::Op;

mod op {
    pub(super) const FLUSH: u8 = 0x00;
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
    pub(super) const WRITE_ZEROES: u8 = 0x08;
    pub(super) const MANAGE: u8 = 0x09;
}

/// A block's bytes.
const BLOCK: u64 = 512;
/// Most bytes of data.
const MAX_DATA: u64 = 4096 << DATA_PAGES;
const FORCE: u32 = 1 << 30;
const DEALLOCATE: u32 = 1 << 25;

impl Nvme {
    pub(super) fn disk(&self, number: u32) -> Option<&Disk> {
        self.config.disks.get(number.checked_sub(1)? as usize)
    }

    fn range(disk: &Disk, block: u64, count: u64) -> Result<(u64, u64), u16> {
        let end = block.checked_add(count).filter(|end| *end <= disk.len() / BLOCK);
        end.map(|_| (block * BLOCK, count * BLOCK)).ok_or(status::OUT_OF_RANGE)
    }

    pub(super) fn io(&mut self, queue: u16, id: u16, c: &[u8; 64]) -> Outcome {
        let number = word(c, 1);
        let disk = self.disk(number).ok_or(status::INVALID_NAMESPACE)?.clone();
        let (block, count) = (long(c, 10), u64::from(word(c, 12) & 0xffff) + 1);
        let mut regions = Vec::new();
        let writes = matches!(c[0], op::WRITE | op::WRITE_ZEROES | op::MANAGE);
        if writes && disk.read_only() {
            return Err(status::READ_ONLY);
        }
        let operation = match c[0] {
            op::FLUSH => Op::Flush,
            op::READ | op::WRITE => {
                let (offset, len) = Self::range(&disk, block, count)?;
                if len > MAX_DATA {
                    return Err(status::INVALID_FIELD);
                }
                regions = self.regions(long(c, 6), long(c, 8), len)?;
                if c[0] == op::READ {
                    Op::Read((offset, len))
                } else {
                    let data = self.gather(&regions)?;
                    let fua = word(c, 12) & FORCE != 0 || self.r.features[6] & 1 == 0;
                    Op::Write { offset, data, fua }
                }
            }
            op::WRITE_ZEROES => {
                let range = Self::range(&disk, block, count)?;
                Op::Zero { ranges: vec![range], unmap: word(c, 12) & DEALLOCATE != 0 }
            }
            op::MANAGE => {
                // Only giving up blocks does anything.
                if word(c, 11) & 4 == 0 {
                    return Ok(Some(0));
                }
                Op::Discard(self.ranges(&disk, c)?)
            }
            _ => return Err(status::INVALID_OPCODE),
        };
        let tag = self.next_job;
        self.next_job += 1;
        self.jobs.insert(tag, Job { queue, id, regions, write: writes });
        self.requests.start(&disk, tag, operation);
        Ok(None)
    }

    /// The ranges of a data set management command.
    fn ranges(&self, disk: &Disk, c: &[u8; 64]) -> Result<Vec<(u64, u64)>, u16> {
        let count = u64::from(word(c, 10) & 0xff) + 1;
        let regions = self.regions(long(c, 6), long(c, 8), 16 * count)?;
        let data = self.gather(&regions)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        let range = |r: &[u8]| Self::range(disk, number(&r[8..16]), number(&r[4..8]));
        data.chunks_exact(16).map(range).collect()
    }

    /// Takes the results that are there.
    pub(super) fn poll(&mut self) {
        while let Some(done) = self.requests.take() {
            let Some(job) = self.jobs.remove(&done.tag) else { continue };
            let status = match done.result {
                Ok(data) if !job.write => self.scatter(&job.regions, &data).err().unwrap_or(0),
                Ok(_) => 0,
                Err(_) if job.write => status::WRITE_FAULT,
                Err(_) => status::READ_ERROR,
            };
            self.complete(job.queue, job.id, 0, status);
        }
    }
}
