//! One request of a virtio block device (virtio 1.2, 5.2.6): its header, what it asks for, its status.

use std::io::{IoSlice, IoSliceMut};

use block::{BlockError, BlockNode, SECTOR};
use vhost_user::{Chain, Memory};

/// Most bytes carried at a time.
const PIECE: usize = 1 << 20;
/// Most ranges of a discard or of writing zeroes.
pub(super) const MOST_RANGES: u32 = 32;
/// Most sectors of such a range.
pub(super) const MOST_SECTORS: u32 = 1 << 22;
const HEADER: usize = 16;

mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// What requests are for.
pub(super) struct Target<'a> {
    pub(super) node: &'a dyn BlockNode,
    pub(super) read_only: bool,
    pub(super) write_through: bool,
    /// At most 20 bytes of it are told.
    pub(super) serial: &'a str,
}

/// Places in memory, of which some bytes have been used.
struct Places {
    list: Vec<(u64, u64)>,
    at: usize,
}

impl Places {
    fn left(&self) -> u64 {
        self.list[self.at..].iter().map(|(_, n)| n).sum()
    }

    /// Takes up to `most` bytes as places of their own.
    fn take(&mut self, mut most: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        while let Some((guest, len)) = self.list.get_mut(self.at).filter(|_| most > 0) {
            let n = most.min(*len);
            out.push((*guest, n));
            (*guest, *len, most) = (*guest + n, *len - n, most - n);
            if *len == 0 {
                self.at += 1;
            }
        }
        out
    }
}

fn gather(memory: &Memory, places: &[(u64, u64)], into: &mut [u8]) -> Option<()> {
    let mut at = 0;
    for (guest, len) in places {
        let to = at + *len as usize;
        memory.read(*guest, into.get_mut(at..to)?)?;
        at = to;
    }
    (at == into.len()).then_some(())
}

fn scatter(memory: &Memory, places: &[(u64, u64)], from: &[u8]) -> Option<()> {
    let mut at = 0;
    for (guest, len) in places {
        let to = at + *len as usize;
        memory.write(*guest, from.get(at..to)?)?;
        at = to;
    }
    Some(())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

/// Carries out a request; how many bytes were written to memory. `None` if there is no place for its status: nothing can be
/// said to the driver then.
pub(super) fn serve(target: &Target<'_>, memory: &Memory, chain: &Chain) -> Option<u32> {
    let of = |writable: bool| Places {
        list: chain
            .segments
            .iter()
            .filter(|s| s.writable == writable)
            .map(|s| (s.guest, s.length.into()))
            .collect(),
        at: 0,
    };
    let (mut input, mut output) = (of(false), of(true));
    // The status is the last byte of what may be written.
    let (guest, len) = output.list.last_mut().filter(|(_, len)| *len > 0)?;
    let status_at = *guest + *len - 1;
    *len -= 1;
    let mut head = [0; HEADER];
    let (status, written) = match gather(memory, &input.take(HEADER as u64), &mut head) {
        Some(()) => {
            let room = output.left();
            let done = one(target, memory, &head, &mut input, &mut output);
            let used = room - output.left();
            (done.map_or_else(|e| status_of(&e), |()| OK), used)
        }
        None => (IO_ERROR, 0),
    };
    memory.write(status_at, &[status])?;
    Some(u32::try_from(written + 1).unwrap_or(u32::MAX))
}

fn status_of(error: &BlockError) -> u8 {
    match error {
        BlockError::Unsupported(_) => UNSUPPORTED,
        _ => IO_ERROR,
    }
}

fn bad(what: &'static str) -> BlockError {
    BlockError::Format { path: "vhost-user-blk".into(), what: what.into() }
}

fn one(
    target: &Target<'_>,
    memory: &Memory,
    head: &[u8],
    input: &mut Places,
    output: &mut Places,
) -> Result<(), BlockError> {
    let (kind, sector) = (le32(head, 0), le64(head, 8));
    let changes = matches!(kind, kind::OUT | kind::DISCARD | kind::WRITE_ZEROES);
    if changes && target.read_only {
        return Err(BlockError::ReadOnly);
    }
    match kind {
        kind::IN => transfer(target, memory, sector, output, false)?,
        kind::OUT => transfer(target, memory, sector, input, true)?,
        kind::FLUSH => return if target.read_only { Ok(()) } else { target.node.flush() },
        kind::GET_ID => {
            let mut id = [0; 20];
            let n = target.serial.len().min(id.len());
            id[..n].copy_from_slice(&target.serial.as_bytes()[..n]);
            let places = output.take(id.len() as u64);
            scatter(memory, &places, &id).ok_or_else(|| bad("a buffer outside memory"))?;
        }
        kind::DISCARD | kind::WRITE_ZEROES => ranges(target, memory, input, kind == kind::WRITE_ZEROES)?,
        _ => return Err(BlockError::Unsupported("a request of this kind")),
    }
    if changes && target.write_through { target.node.flush() } else { Ok(()) }
}

/// The bytes that sectors are, if the disk has them.
fn range(target: &Target<'_>, sector: u64, len: u64) -> Result<u64, BlockError> {
    let size = target.node.size();
    let offset = sector.saturating_mul(SECTOR);
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(offset),
        _ => Err(BlockError::OutOfRange { offset, len, size }),
    }
}

fn transfer(
    target: &Target<'_>,
    memory: &Memory,
    sector: u64,
    places: &mut Places,
    write: bool,
) -> Result<(), BlockError> {
    let total = places.left();
    let mut offset = range(target, sector, total)?;
    if !total.is_multiple_of(SECTOR) {
        return Err(bad("part of a sector"));
    }
    let outside = || bad("a buffer outside memory");
    let mut buffer = vec![0; total.min(PIECE as u64) as usize];
    while places.left() > 0 {
        let part = places.take(PIECE as u64);
        let n: u64 = part.iter().map(|(_, n)| n).sum();
        let bytes = &mut buffer[..n as usize];
        if write {
            gather(memory, &part, bytes).ok_or_else(outside)?;
            target.node.write(offset, &[IoSlice::new(bytes)], false)?;
        } else {
            target.node.read(offset, &mut [IoSliceMut::new(bytes)])?;
            scatter(memory, &part, bytes).ok_or_else(outside)?;
        }
        offset += n;
    }
    Ok(())
}

fn ranges(target: &Target<'_>, memory: &Memory, input: &mut Places, zero: bool) -> Result<(), BlockError> {
    let total = input.left();
    if total == 0 || !total.is_multiple_of(16) || total > 16 * u64::from(MOST_RANGES) {
        return Err(bad("expected up to 32 ranges of 16 bytes"));
    }
    let mut list = vec![0; total as usize];
    gather(memory, &input.take(total), &mut list).ok_or_else(|| bad("a buffer outside memory"))?;
    for r in list.chunks(16) {
        let (sector, sectors, flags) = (le64(r, 0), le32(r, 8), le32(r, 12));
        let unmap = flags & 1 != 0;
        if sectors > MOST_SECTORS {
            return Err(bad("a range longer than the device takes"));
        }
        if flags & !1 != 0 || unmap && !zero {
            return Err(BlockError::Unsupported("this flag of a range"));
        }
        let len = u64::from(sectors) * SECTOR;
        let offset = range(target, sector, len)?;
        if zero {
            target.node.write_zeroes(offset, len, unmap)?;
        } else {
            target.node.discard(offset, len)?;
        }
    }
    Ok(())
}
