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

#[cfg(test)]
mod tests {
    use super::*;
    use block::MemoryNode;
    use std::io::IoSliceMut;

    const LOG: usize = 1 << 20;

    /// An entry that writes `fill` to `at`, and zeroes to the sector after it.
    fn entry(sequence: u64, tail: u32, at: u64, fill: u8) -> Vec<u8> {
        let mut raw = vec![0; 8192];
        put(&mut raw, 0, b"loge");
        put(&mut raw, 8, &8192u32.to_le_bytes());
        put(&mut raw, 12, &tail.to_le_bytes());
        put(&mut raw, 16, &sequence.to_le_bytes());
        put(&mut raw, 24, &2u32.to_le_bytes());
        raw[32..48].fill(0xab);
        put(&mut raw, 48, &(3u64 << 20).to_le_bytes());
        put(&mut raw, 56, &(3u64 << 20).to_le_bytes());
        let data: [u8; 4096] = [fill; 4096];
        put(&mut raw, 64, b"desc");
        put(&mut raw, 68, &data[4092..]);
        put(&mut raw, 72, &data[..8]);
        put(&mut raw, 80, &at.to_le_bytes());
        put(&mut raw, 88, &sequence.to_le_bytes());
        put(&mut raw, 96, b"zero");
        put(&mut raw, 104, &4096u64.to_le_bytes());
        put(&mut raw, 112, &(at + 4096).to_le_bytes());
        put(&mut raw, 120, &sequence.to_le_bytes());
        put(&mut raw, 4096, &data);
        put(&mut raw, 4096, b"data");
        put(&mut raw, 4100, &((sequence >> 32) as u32).to_le_bytes());
        put(&mut raw, 8188, &(sequence as u32).to_le_bytes());
        let checksum = sum(&raw);
        put(&mut raw, 4, &checksum.to_le_bytes());
        raw
    }

    fn replayed(entries: &[(usize, Vec<u8>)]) -> Result<MemoryNode, BlockError> {
        let mut data = vec![0x55; 3 << 20];
        data[1 << 20..(1 << 20) + LOG].fill(0);
        for (at, raw) in entries {
            for (i, b) in raw.iter().enumerate() {
                data[(1 << 20) + (at + i) % LOG] = *b;
            }
        }
        let mut header = vec![0; 4096];
        header[48..64].fill(0xab);
        put(&mut header, 68, &(LOG as u32).to_le_bytes());
        put(&mut header, 72, &(1u64 << 20).to_le_bytes());
        let node = MemoryNode::from_vec("log", data);
        replay(&node, &header, "log").map(|()| node)
    }

    fn at(node: &MemoryNode, offset: u64) -> u8 {
        let mut b = [0];
        node.read(offset, &mut [IoSliceMut::new(&mut b)]).unwrap();
        b[0]
    }

    #[test]
    fn the_newest_complete_sequence_is_put_in_place() {
        let (old, new, end) = (2 << 20, (2 << 20) + 16384, LOG - 4096);
        // Sequence 5 stands alone; 7 and 8 belong together and go round the end of the ring.
        let node = replayed(&[
            (65536, entry(5, 65536, old, 1)),
            (end, entry(7, end as u32, new, 2)),
            (4096, entry(8, end as u32, new + 8192, 3)),
        ])
        .unwrap();
        assert_eq!([at(&node, new), at(&node, new + 4095), at(&node, new + 4096)], [2, 2, 0]);
        assert_eq!([at(&node, new + 8192), at(&node, old)], [3, 0x55]);
    }

    #[test]
    fn a_log_without_a_complete_sequence_is_refused() {
        let mut torn = entry(5, 0, 2 << 20, 1);
        torn[5000] ^= 1;
        let text = replayed(&[(0, torn)]).unwrap_err().to_string();
        assert!(text.contains("no complete sequence"), "{text}");
    }
}
