//! The format extension of an image, which holds dirty bitmaps (QEMU, `docs/interop/parallels`, "Format Extension").
//!
//! It is read and kept as long as the image is not written. Bitmaps are named by their identifiers.

use std::io::IoSliceMut;
use std::ops::Range;

use block::{BlockError, BlockNode};

use crate::bytes::{le32, le64};
use crate::crypto::md5;
use crate::image::BitmapInfo;

const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
const BITMAP: u64 = 0x2038_5fae_252c_b34a;
/// The program that does not know a feature may not read the image.
const NECESSARY: u64 = 1;
const SECTOR: u64 = 512;
/// Bytes of the header, of a feature's, and of a bitmap's before its table.
const HEADER: usize = 24;
const FEATURE: usize = 24;
const FIXED: usize = 32;
/// Most bitmaps, and most bytes of all bits.
const MOST: usize = 64;
const MAX_BITS: u64 = 8 << 20;
/// Most bytes of the cluster that has the extension.
const MAX_CLUSTER: u64 = 64 << 20;

/// A dirty bitmap.
#[derive(Debug)]
pub(super) struct Bitmap {
    name: String,
    granularity: u64,
    ranges: Vec<Range<u64>>,
}

impl Bitmap {
    pub(super) fn info(&self) -> BitmapInfo {
        let (name, granularity) = (self.name.clone(), self.granularity);
        BitmapInfo { name, granularity, enabled: false, inconsistent: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

/// Reads the extension in the cluster at `at`.
pub(super) fn read(
    file: &dyn BlockNode,
    at: u64,
    cluster: u64,
    size: u64,
    path: &str,
) -> Result<Vec<Bitmap>, BlockError> {
    let bad = |what: String| BlockError::Format { path: path.into(), what };
    if cluster > MAX_CLUSTER {
        return Err(bad(format!(
            "parallels format extension of {cluster} bytes, expected at most {MAX_CLUSTER}"
        )));
    }
    if at.checked_add(cluster).is_none_or(|end| end > file.size()) {
        return Err(bad(format!("parallels format extension at {at:#x} ends beyond the end of the file")));
    }
    let mut raw = vec![0; cluster as usize];
    file.read(at, &mut [IoSliceMut::new(&mut raw)])?;
    if le64(&raw, 0) != MAGIC {
        return Err(bad(format!(
            "parallels format extension magic {:#x}, expected {MAGIC:#x}",
            le64(&raw, 0)
        )));
    }
    if raw[8..HEADER] != md5(&raw[HEADER..]) {
        return Err(bad("parallels format extension with a wrong checksum".into()));
    }
    let (mut out, mut left) = (Vec::new(), MAX_BITS);
    let mut rest = &raw[HEADER..];
    while rest.len() >= FEATURE && le64(rest, 0) != 0 {
        let (magic, flags, len) = (le64(rest, 0), le64(rest, 8), le32(rest, 16) as usize);
        let Some(data) = rest.get(FEATURE..).and_then(|r| r.get(..len)) else {
            return Err(bad(format!("parallels extension feature of {len} bytes is not within its cluster")));
        };
        match magic {
            BITMAP if out.len() < MOST => out.push(bitmap(file, data, (cluster, size), &mut left, path)?),
            BITMAP => return Err(bad(format!("parallels: more than {MOST} bitmaps"))),
            _ if flags & NECESSARY != 0 => {
                return Err(bad(format!("parallels: the unknown feature {magic:#x} is required")));
            }
            _ => {}
        }
        rest = &rest[(FEATURE + len).next_multiple_of(8).min(rest.len())..];
    }
    Ok(out)
}

fn bitmap(
    file: &dyn BlockNode,
    data: &[u8],
    (cluster, size): (u64, u64),
    left: &mut u64,
    path: &str,
) -> Result<Bitmap, BlockError> {
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let (sectors, granularity, entries) = (le64(data, 0), le32(data, 24), le32(data, 28));
    if data.len() < FIXED || sectors != size / SECTOR {
        return bad(format!("parallels bitmap of {sectors} sectors, expected the disk's {}", size / SECTOR));
    }
    if !granularity.is_power_of_two() || granularity > 1 << 22 {
        return bad(format!(
            "parallels bitmap granularity {granularity}, expected a power of two of sectors"
        ));
    }
    let granularity = u64::from(granularity) * SECTOR;
    // A cluster of bits stands for so much of the disk.
    let covers = cluster * 8 * granularity;
    let expected = size.div_ceil(covers);
    let table = &data[FIXED..];
    if u64::from(entries) != expected || (table.len() as u64) < expected * 8 {
        return bad(format!("parallels bitmap table of {entries} entries, expected {expected}"));
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut add = |range: Range<u64>| match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    };
    let mut bits = Vec::new();
    for (i, entry) in table.chunks_exact(8).take(expected as usize).map(|e| le64(e, 0)).enumerate() {
        let start = i as u64 * covers;
        match entry {
            0 => {}
            1 => add(start..(start + covers).min(size)),
            _ => {
                let at = entry.saturating_mul(SECTOR);
                let room = left.checked_sub(cluster);
                if at.checked_add(cluster).is_none_or(|end| end > file.size()) || room.is_none() {
                    return bad(format!("parallels bitmap data at {at:#x} is not in the file, or too long"));
                }
                *left = room.unwrap_or(0);
                bits.resize(cluster as usize, 0);
                file.read(at, &mut [IoSliceMut::new(&mut bits)])?;
                let in_use = (size - start).min(covers).div_ceil(granularity);
                for bit in 0..in_use {
                    if bits[(bit / 8) as usize] >> (bit % 8) & 1 != 0 {
                        let from = start + bit * granularity;
                        add(from..(from + granularity).min(size));
                    }
                }
            }
        }
    }
    let mut id = [0; 16];
    id.copy_from_slice(&data[8..24]);
    Ok(Bitmap { name: uuid::Uuid::from_bytes(id).to_string(), granularity, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::MemoryNode;

    const CLUSTER: u64 = 4096;
    /// In clusters of bits of 512 bytes each: one that is clean, one that is full, and a part of one.
    const COVERS: u64 = CLUSTER * 8 * 512;
    const SIZE: u64 = 2 * COVERS + 20 * 512;

    /// The extension in the first cluster, and the bits in the second.
    fn file(change: impl Fn(&mut Vec<u8>)) -> MemoryNode {
        let mut feature = (SIZE / 512).to_le_bytes().to_vec();
        feature.extend(1..=16u8);
        feature.extend(1u32.to_le_bytes());
        feature.extend(3u32.to_le_bytes());
        [0, 1, CLUSTER / 512].iter().for_each(|e| feature.extend(e.to_le_bytes()));
        let mut rest = BITMAP.to_le_bytes().to_vec();
        rest.extend(0u64.to_le_bytes());
        rest.extend((feature.len() as u64).to_le_bytes());
        rest.extend(feature);
        rest.resize(CLUSTER as usize - HEADER, 0);
        change(&mut rest);
        let mut all = MAGIC.to_le_bytes().to_vec();
        all.extend(md5(&rest));
        all.extend(rest);
        let mut bits = vec![0; CLUSTER as usize];
        (bits[0], bits[2]) = (0b110, 0b1000);
        all.extend(bits);
        MemoryNode::from_vec("m", all)
    }

    fn read_it(change: impl Fn(&mut Vec<u8>)) -> Result<Vec<Bitmap>, String> {
        read(&file(change), 0, CLUSTER, SIZE, "x").map_err(|e| e.to_string())
    }

    #[test]
    fn bitmaps_are_read() {
        let all = read_it(|_| {}).unwrap();
        assert_eq!((all.len(), all[0].name()), (1, "01020304-0506-0708-090a-0b0c0d0e0f10"));
        let full = COVERS..2 * COVERS;
        let at = |s: u64| 2 * COVERS + s * 512;
        assert_eq!(all[0].ranges(), [full, at(1)..at(3), at(19)..at(20)]);
        assert_eq!(all[0].info().granularity, 512);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let node = file(|_| {});
        assert!(
            read(&node, CLUSTER + 1, CLUSTER, SIZE, "x").unwrap_err().to_string().contains("beyond the end")
        );
        assert!(read(&node, CLUSTER, CLUSTER, SIZE, "x").unwrap_err().to_string().contains("magic"));
        for (at, value, words) in [
            (0, 5, None),
            (16, 0xffff, Some("is not within its cluster")),
            (24, 7, Some("bitmap of 7 sectors")),
            (48, 3, Some("granularity 3")),
            (52, 9, Some("table of 9 entries")),
            (72, 9999, Some("is not in the file")),
        ] {
            let found = read_it(|rest| rest[at..at + 4].copy_from_slice(&u32::to_le_bytes(value)));
            match words {
                Some(words) => assert!(found.unwrap_err().contains(words), "{words}"),
                None => assert!(found.unwrap().is_empty(), "an unknown feature is passed over"),
            }
        }
        let required = read_it(|rest| (rest[0], rest[8]) = (5, 1)).unwrap_err();
        assert!(required.contains("is required"), "{required}");
    }
}
