//! VHD differencing disks, which QEMU does not read: made here as the specification has them.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::Path;

use block_formats::OpenOptions;
use common::*;

const BLOCK: usize = 2 << 20;

fn checksum(data: &mut [u8], at: usize) {
    data[at..at + 4].fill(0);
    let sum = !data.iter().fold(0u32, |s, b| s.wrapping_add(u32::from(*b)));
    data[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Makes a child of `parent` that has some sectors of its own; returns what the disk then reads as.
fn child(path: &Path, parent: &Path, data: &[u8], relative: bool) -> Vec<u8> {
    let mut footer = std::fs::read(parent).unwrap()[..512].to_vec();
    let id = footer[68..84].to_vec();
    footer[16..24].copy_from_slice(&512u64.to_be_bytes());
    footer[60..64].copy_from_slice(&4u32.to_be_bytes());
    footer[68] ^= 0xff;
    checksum(&mut footer, 64);
    let blocks = data.len().div_ceil(BLOCK);
    let table_at = 2048;
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[8..16].fill(0xff);
    header[16..24].copy_from_slice(&(table_at as u64).to_be_bytes());
    header[24..28].copy_from_slice(&0x0001_0000u32.to_be_bytes());
    header[28..32].copy_from_slice(&(blocks as u32).to_be_bytes());
    header[32..36].copy_from_slice(&(BLOCK as u32).to_be_bytes());
    header[40..56].copy_from_slice(&id);
    for (i, unit) in "C:\\disks\\base.vhd".encode_utf16().enumerate() {
        header[64 + i * 2..66 + i * 2].copy_from_slice(&unit.to_be_bytes());
    }
    let locator: Vec<u8> = ".\\base.vhd".encode_utf16().flat_map(u16::to_le_bytes).collect();
    if relative {
        header[576..580].copy_from_slice(b"W2ru");
        header[580..584].copy_from_slice(&512u32.to_be_bytes());
        header[584..588].copy_from_slice(&(locator.len() as u32).to_be_bytes());
        header[592..600].copy_from_slice(&1536u64.to_be_bytes());
    }
    checksum(&mut header, 36);
    let mut out = footer.clone();
    out.extend_from_slice(&header);
    out.extend_from_slice(&locator);
    out.resize(table_at, 0);
    let mut table = vec![0xff; (blocks * 4).next_multiple_of(512)];
    let mut body = Vec::new();
    let mut expected = data.to_vec();
    let mut random = Random::new(31);
    for block in (0..blocks).filter(|b| b % 2 == 0) {
        let sector = (table_at + table.len() + body.len()) / 512;
        table[block * 4..block * 4 + 4].copy_from_slice(&(sector as u32).to_be_bytes());
        let mut bitmap = vec![0u8; 512];
        let mut sectors = vec![0xee; BLOCK];
        for s in 0..BLOCK / 512 {
            let at = block * BLOCK + s * 512;
            if random.below(4) == 0 && at < expected.len() {
                bitmap[s / 8] |= 0x80 >> (s % 8);
                let own = [random.number() as u8; 512];
                sectors[s * 512..(s + 1) * 512].copy_from_slice(&own);
                expected[at..at + 512].copy_from_slice(&own);
            }
        }
        body.extend_from_slice(&bitmap);
        body.extend_from_slice(&sectors);
    }
    out.extend_from_slice(&table);
    out.extend_from_slice(&body);
    out.extend_from_slice(&footer);
    std::fs::write(path, out).unwrap();
    expected
}

#[test]
fn differencing_disks_are_read_through() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (dir.path().join("base.vhd"), dir.path().join("child.vhd"));
    create(&base, "vpc", 7 << 20, "force_size=on");
    let mut random = Random::new(2);
    let mut data = vec![0; 7 << 20];
    let new = random.data(3 << 20);
    data[1 << 20..4 << 20].copy_from_slice(&new);
    let image = open(&base, "vpc");
    write(&*image, 1 << 20, &new);
    image.close().unwrap();
    drop(image);
    for relative in [true, false] {
        let expected = child(&path, &base, &data, relative);
        let image = open_read(&path, None);
        same(&all(&*image), &expected, "the whole chain");
        for _ in 0..50 {
            let at = random.below(expected.len() as u64) as usize;
            let n = (random.below(5000) as usize).min(expected.len() - at);
            same(&read(&*image, at as u64, n), &expected[at..at + n], "a part");
        }
        check_status(&*image, &expected);
        drop(image);
        let writing = block_formats::open(text(&path), None, &OpenOptions::default()).map(drop);
        assert!(writing.unwrap_err().to_string().contains("read only"));
    }
    // Another disk of the same name is not the parent.
    create(&base, "vpc", 7 << 20, "force_size=on");
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let e = block_formats::open(text(&path), None, &options).map(drop).unwrap_err().to_string();
    assert!(e.contains("unique id"), "{e}");
}
