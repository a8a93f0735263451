//! VHDX differencing disks, which QEMU does not read: children as we make them, and blocks that are partly a child's own, made
//! here as the specification has them.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::{Path, PathBuf};

use block_formats::{BackingName, OpenOptions, Options};
use common::*;

const MIB: usize = 1 << 20;
const SIZE: usize = 9 * MIB;

/// A parent with random contents and a child over it in blocks of 1 MiB.
fn pair(dir: &Path) -> (PathBuf, PathBuf, Vec<u8>) {
    let (base, top) = (dir.join("base.vhdx"), dir.join("top.vhdx"));
    create(&base, "vhdx", SIZE as u64, "block_size=1M");
    let mut data = vec![0; SIZE];
    let random = Random::new(5).data(7 * MIB - MIB / 2);
    data[MIB / 2..7 * MIB].copy_from_slice(&random);
    let image = open(&base, "vhdx");
    write(&*image, 0, &data);
    image.close().unwrap();
    drop(image);
    create(&top, "vhdx", SIZE as u64, "block_size=1M,backing_file=base.vhdx,backing_fmt=vhdx");
    (base, top, data)
}

/// The region of the block table.
fn table(file: &[u8]) -> usize {
    let id = [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6];
    let entry = (0..64).map(|i| 192 * 1024 + 16 + 32 * i).find(|at| file[*at..*at + 6] == id).unwrap();
    u64::from_le_bytes(file[entry + 16..entry + 24].try_into().unwrap()) as usize
}

#[test]
fn a_child_is_written_and_spares_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top, mut model) = pair(dir.path());
    let before = std::fs::read(&base).unwrap();
    let image = open(&top, "vhdx");
    let name = BackingName { file: "base.vhdx".into(), format: Some("vhdx".into()) };
    assert_eq!(image.backing_name(), Some(name));
    same(&all(&*image), &model, "unchanged");
    assert!(image.status(0..SIZE as u64).unwrap().iter().all(|e| !e.allocated));
    for (at, len) in [(100, 5000), (3 * MIB - 7, 20), (8 * MIB + 3, MIB - 3)] {
        let data = vec![at as u8 | 1; len];
        write(&*image, at as u64, &data);
        model[at..at + len].copy_from_slice(&data);
    }
    image.write_zeroes(5 * MIB as u64, MIB as u64 + 100, true).unwrap();
    model[5 * MIB..6 * MIB + 100].fill(0);
    same(&all(&*image), &model, "changed");
    image.close().unwrap();
    drop(image);
    let image = open_read(&top, None);
    same(&all(&*image), &model, "opened anew");
    check_status(&*image, &model);
    assert_eq!(image.check(block_formats::Repair::No).unwrap().corruptions, 0);
    assert_eq!(std::fs::read(&base).unwrap(), before);
}

#[test]
fn blocks_that_are_partly_here() {
    let dir = tempfile::tempdir().unwrap();
    let (_, top, mut model) = pair(dir.path());
    // Blocks 2 and 8, sectors of theirs by a pattern, and the one bitmap of their chunk.
    let mut file = std::fs::read(&top).unwrap();
    let (at, chunk) = (table(&file), (512usize << 23) / MIB);
    let mut bitmap = vec![0u8; MIB];
    let mut random = Random::new(6);
    for block in [2, 8] {
        let place = file.len().next_multiple_of(MIB);
        file.resize(place + MIB, 0xdd);
        file[at + block * 8..at + block * 8 + 8].copy_from_slice(&(place as u64 | 7).to_le_bytes());
        for sector in (0..2048).filter(|s| s % 5 < 2) {
            let bit = block * 2048 + sector;
            bitmap[bit / 8] |= 1 << (bit % 8);
            let own = &mut file[place + sector * 512..place + sector * 512 + 512];
            own.copy_from_slice(&random.data(512));
            model[block * MIB + sector * 512..block * MIB + sector * 512 + 512].copy_from_slice(own);
        }
    }
    let place = file.len().next_multiple_of(MIB);
    file.resize(place, 0);
    file.extend(&bitmap);
    file[at + chunk * 8..at + chunk * 8 + 8].copy_from_slice(&(place as u64 | 6).to_le_bytes());
    std::fs::write(&top, &file).unwrap();
    let image = open(&top, "vhdx");
    same(&all(&*image), &model, "partly here");
    assert!(image.status(2 << 20..3 << 20).unwrap().iter().all(|e| e.allocated && !e.compressed && !e.zero));
    // A block that is written to is wholly here afterwards.
    write(&*image, 2 << 20, &[7; 700]);
    model[2 << 20..(2 << 20) + 700].fill(7);
    same(&all(&*image), &model, "written");
    image.close().unwrap();
    drop(image);
    // Without the bitmap it cannot be told what is whose.
    file[at + chunk * 8..at + chunk * 8 + 8].fill(0);
    std::fs::write(&top, &file).unwrap();
    let image = open_read(&top, None);
    let e = image.read(8 << 20, &mut [std::io::IoSliceMut::new(&mut [0; 512])]).unwrap_err().to_string();
    assert!(e.contains("block 8 is partly present, and its bitmap is not there"), "{e}");
}

#[test]
fn a_parent_that_has_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top, _) = pair(dir.path());
    let refused = |what: &str| {
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let e = block_formats::open(text(&top), None, &options).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    let image = open(&base, "vhdx");
    write(&*image, 0, &[1]);
    image.close().unwrap();
    drop(image);
    refused("data write identifier");
    std::fs::remove_file(&base).unwrap();
    refused("base.vhdx");
    // The child can still be looked at by itself.
    let alone = OpenOptions { read_only: true, no_backing: true, ..OpenOptions::default() };
    assert!(block_formats::open(text(&top), None, &alone).unwrap().backing().is_none());
    for (options, word) in [
        ("backing_file=none.vhdx", "none.vhdx"),
        ("backing_file=top.vhdx,backing_fmt=raw", "expected vhdx"),
        ("backing_file=top.vhdx,subformat=fixed", "expected dynamic"),
    ] {
        let options = Options::parse(options).unwrap();
        let e = block_formats::create("vhdx", &dir.path().join("x"), None, Some(MIB as u64), &options);
        let e = e.unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    }
}
