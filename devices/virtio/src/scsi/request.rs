//! The request queues: commands (virtio 1.2, 5.6.6.1).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::block::{BlockError, Disk};
use storage::scsi::{Reply, Sense, absent, report_luns};

use super::{Shared, Unit};
use crate::chain::{Chain, Hole};
use crate::queue::Virtqueue;

/// Bytes of a request before its command, and of a response before its sense data.
const HEADER: usize = 19;
const RESPONSE: usize = 12;
/// REPORT LUNS is the target's to answer.
const REPORT_LUNS: u8 = 0xa0;

/// What became of a request as such.
mod response {
    pub(super) const OK: u8 = 0;
    pub(super) const OVERRUN: u8 = 1;
    pub(super) const BAD_TARGET: u8 = 3;
}

/// SCSI's status codes.
mod status {
    pub(super) const GOOD: u8 = 0;
    pub(super) const CHECK_CONDITION: u8 = 2;
}

/// A buffer whose data comes behind the response, which is written last.
struct Request {
    chain: Chain,
    queue: Arc<Virtqueue>,
    hole: Hole,
    /// Bytes of data that the driver expects, in either direction.
    expected: u64,
    /// Room for sense data.
    sense: usize,
}

impl Request {
    /// Answers it.
    fn answer(self, sense: Option<Sense>, moved: u64, response: u8) {
        let mut bytes = vec![0; RESPONSE + self.sense];
        let residual = u32::try_from(self.expected.saturating_sub(moved)).unwrap_or(u32::MAX);
        bytes[4..8].copy_from_slice(&residual.to_le_bytes());
        bytes[10] = status::GOOD;
        bytes[11] = response;
        if let Some(sense) = sense {
            let sense = sense.bytes();
            let len = sense.len().min(self.sense);
            bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
            bytes[10] = status::CHECK_CONDITION;
            bytes[RESPONSE..RESPONSE + len].copy_from_slice(&sense[..len]);
        }
        self.chain.fill(self.hole, &bytes);
        self.queue.push(self.chain);
        self.queue.signal();
    }

    fn done(self, moved: u64) {
        self.answer(None, moved, response::OK);
    }

    fn check(self, sense: Sense) {
        self.answer(Some(sense), 0, response::OK);
    }
}

/// What runs on the disk's threads.
enum Work {
    Read(u64, u64),
    Write { offset: u64, len: u64, fua: bool },
    Flush,
    Discard(Vec<(u64, u64)>),
    Zero(u64, u64, bool),
}

impl Shared {
    /// A command has come.
    pub(super) fn request(self: &Arc<Self>, queue: &Arc<Virtqueue>, mut chain: Chain) {
        let (cdb_size, sense) =
            (self.cdb_size.load(Ordering::Relaxed), self.sense_size.load(Ordering::Relaxed));
        let sense = sense as usize;
        let header: Option<[u8; HEADER]> = chain.read_array();
        let mut cdb = [0; 16];
        let whole = chain.read(&mut cdb) as u64 + chain.skip(cdb_size - cdb.len() as u64) == cdb_size;
        let (Some(header), true, Some(hole)) = (header, whole, chain.hole(RESPONSE + sense)) else {
            queue.fail("a request without header, command or room for its response");
            return queue.push(chain);
        };
        let expected = chain.readable().max(chain.writable());
        let request = Request { chain, queue: queue.clone(), hole, expected, sense };
        let address = Self::address(&header);
        let target = address.filter(|(target, _)| self.units().iter().any(|u| u.target == *target));
        let Some(address) = target else { return request.answer(None, 0, response::BAD_TARGET) };
        if cdb[0] == REPORT_LUNS {
            let mut luns: Vec<u16> =
                self.units().iter().filter(|u| u.target == address.0).map(|u| u.lun).collect();
            luns.sort_unstable();
            return self.reply(None, request, report_luns(&cdb, &luns));
        }
        let Some(unit) = self.unit(address) else { return self.reply(None, request, absent(&cdb)) };
        let reply = unit.unit.lock().execute(&cdb);
        self.reply(Some(&unit), request, reply);
    }

    /// Does what a command has asked for.
    fn reply(self: &Arc<Self>, unit: Option<&Unit>, mut request: Request, reply: Reply) {
        let overrun = |request: Request| request.answer(None, 0, response::OVERRUN);
        match reply {
            Reply::Done => request.done(0),
            Reply::Check(sense) => request.check(sense),
            Reply::Data(data) => {
                let moved = request.chain.write(&data);
                request.done(moved as u64);
            }
            Reply::Receive(len, _) if request.chain.readable() < len.into() => overrun(request),
            Reply::Receive(len, sent) => {
                // Bounded by the unit: a block or a list of parameters.
                let mut data = vec![0; len as usize];
                request.chain.read(&mut data);
                let next = unit.map(|u| u.unit.lock().received(sent, &data)).unwrap_or(Reply::Done);
                match next {
                    Reply::Done => request.done(len.into()),
                    // One that wants data twice is none that there is.
                    Reply::Receive(..) => request.done(len.into()),
                    next => self.reply(unit, request, next),
                }
            }
            Reply::Read(_, len) if request.chain.writable() < len => overrun(request),
            Reply::Write { len, .. } if request.chain.readable() < len => overrun(request),
            Reply::Read(offset, len) => self.spawn(unit, request, Work::Read(offset, len)),
            Reply::Write { offset, len, fua } => self.spawn(unit, request, Work::Write { offset, len, fua }),
            Reply::Flush => self.spawn(unit, request, Work::Flush),
            Reply::Discard(ranges) => self.spawn(unit, request, Work::Discard(ranges)),
            Reply::Zero(offset, len, unmap) => self.spawn(unit, request, Work::Zero(offset, len, unmap)),
        }
    }

    fn spawn(self: &Arc<Self>, unit: Option<&Unit>, mut request: Request, work: Work) {
        let Some(disk) = unit.and_then(|u| u.unit.lock().disk().cloned()) else {
            return request.check(Sense::READ_ERROR);
        };
        let flight = self.take_off();
        disk.spawn(move |disk| {
            let reads = matches!(work, Work::Read(..));
            match flight.shared.work(disk, &mut request.chain, work) {
                Ok(moved) => request.done(moved),
                Err(e) => {
                    tracing::debug!(disk = disk.id(), "command failed: {e}");
                    request.check(if reads { Sense::READ_ERROR } else { Sense::WRITE_ERROR });
                }
            }
            drop(flight);
        });
    }

    /// How many bytes were moved.
    fn work(&self, disk: &Disk, chain: &mut Chain, work: Work) -> Result<u64, BlockError> {
        match work {
            Work::Read(offset, len) => self.transfers.read(disk, chain, offset, len).map(|()| len),
            Work::Write { offset, len, fua } => {
                self.transfers.write(disk, chain, offset, len, fua).map(|()| len)
            }
            Work::Flush => disk.flush().map(|()| 0),
            Work::Discard(ranges) => {
                ranges.iter().try_for_each(|(offset, len)| disk.discard(*offset, *len)).map(|()| 0)
            }
            Work::Zero(offset, len, unmap) => disk.write_zeroes(offset, len, unmap).map(|()| 0),
        }
    }
}
