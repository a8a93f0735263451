//! The log ([MS-VHDX] 2.3): a ring of entries; the newest complete sequence of them is put in place.

use std::io::IoSlice;

use block::{BlockError, BlockNode};

use super::{exactly, sum};
use crate::bytes::{le32, le64, put};

const SECTOR: u64 = 4096;
/// Longest log.
const MAX_LOG: u64 = 256 << 20;

/// An entry of the log.
struct Entry {
    raw: Vec<u8>,
    sequence: u64,
    /// Where the sequence it belongs to starts in the log.
    tail: u64,
    flushed: u64,
    last: u64,
}

/// Puts what the log holds in place.
pub(super) fn replay(file: &dyn BlockNode, header: &[u8], path: &str) -> Result<(), BlockError> {
    let bad = |what: String| BlockError::Format { path: path.into(), what };
    let (len, offset) = (u64::from(le32(header, 68)), le64(header, 72));
    if len == 0
        || !len.is_multiple_of(1 << 20)
        || len > MAX_LOG
        || !offset.is_multiple_of(1 << 20)
        || offset == 0
    {
        return Err(bad(format!(
            "vhdx log of {len} bytes at {offset:#x}, expected multiples of 1M up to 256M"
        )));
    }
    let Some(log) = exactly(file, offset, len)? else {
        return Err(bad("vhdx log is beyond the end of the file".into()));
    };
    let guid = &header[48..64];
    // Each place where an entry may start is the start of a candidate: entries that follow one another.
    let mut best: Vec<Entry> = Vec::new();
    let mut at = 0;
    while at < len {
        let mut sequence: Vec<Entry> = Vec::new();
        let mut next = at;
        let mut walked = 0;
        while let Some(e) = entry(&log, next, guid) {
            if sequence.last().is_some_and(|l| e.sequence != l.sequence.wrapping_add(1)) {
                break;
            }
            let step = e.raw.len() as u64;
            sequence.push(e);
            next = (next + step) % len;
            walked += step;
            if walked >= len {
                break;
            }
        }
        let complete = sequence.last().is_some_and(|l| l.tail == at);
        if complete && best.last().is_none_or(|b| sequence.last().is_some_and(|l| l.sequence > b.sequence)) {
            best = sequence;
        }
        at += SECTOR;
    }
    let Some(last) = best.last() else {
        return Err(bad("vhdx: the log is in use but holds no complete sequence of entries".into()));
    };
    if file.size() < last.flushed {
        return Err(bad(format!(
            "vhdx: the file has {} bytes, less than the {} that the log counts on",
            file.size(),
            last.flushed
        )));
    }
    let wanted = last.last;
    for e in &best {
        apply(file, e)
            .map_err(|e| e.unwrap_or_else(|| bad("vhdx: an entry of the log is damaged".into())))?;
    }
    if file.size() < wanted && wanted <= 1 << 50 && file.grows() {
        file.resize(wanted)?;
    }
    file.flush()
}

/// The entry at a place, if there is a good one.
fn entry(log: &[u8], at: u64, guid: &[u8]) -> Option<Entry> {
    let len = log.len() as u64;
    let start = log.get(at as usize..at as usize + 64)?;
    let total = u64::from(le32(start, 8));
    if !start.starts_with(b"loge")
        || !total.is_multiple_of(SECTOR)
        || total == 0
        || total > len
        || &start[32..48] != guid
    {
        return None;
    }
    // It may go round the end of the ring.
    let raw: Vec<u8> = (0..total / SECTOR)
        .flat_map(|i| {
            let from = ((at + i * SECTOR) % len) as usize;
            log[from..from + SECTOR as usize].iter().copied()
        })
        .collect();
    let tail = u64::from(le32(start, 12));
    (sum(&raw) == le32(&raw, 4) && tail.is_multiple_of(SECTOR) && tail < len).then(|| Entry {
        sequence: le64(&raw, 16),
        tail,
        flushed: le64(&raw, 48),
        last: le64(&raw, 56),
        raw,
    })
}

/// Carries out the descriptors of an entry; the error is none if they are damaged.
fn apply(file: &dyn BlockNode, e: &Entry) -> Result<(), Option<BlockError>> {
    let count = le32(&e.raw, 24) as usize;
    let heads = (64 + count as u64 * 32).div_ceil(SECTOR);
    let mut data = (heads * SECTOR) as usize;
    for i in 0..count {
        let d = e.raw.get(64 + i * 32..96 + i * 32).ok_or(None)?;
        let at = le64(d, 16);
        if le64(d, 24) != e.sequence || !at.is_multiple_of(SECTOR) || at > 1 << 60 {
            return Err(None);
        }
        if d.starts_with(b"zero") {
            let len = le64(d, 8);
            if len > 1 << 40 || !len.is_multiple_of(SECTOR) {
                return Err(None);
            }
            file.write_zeroes(at, len, true)?;
        } else if d.starts_with(b"desc") {
            let sector = e.raw.get(data..data + SECTOR as usize).ok_or(None)?;
            let number = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, 4092));
            if !sector.starts_with(b"data") || number != e.sequence {
                return Err(None);
            }
            // The descriptor holds the bytes whose places the sector's own marks took.
            let mut out = sector.to_vec();
            put(&mut out, 0, &d[8..16]);
            put(&mut out, 4092, &d[4..8]);
            file.write(at, &[IoSlice::new(&out)], false)?;
            data += SECTOR as usize;
        } else {
            return Err(None);
        }
    }
    Ok(())
}
