//! Damaged tables: found, told, left alone unless a repair is wanted, and sound afterwards, to QEMU's tools as well.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::Path;

use block_formats::{OpenOptions, Repair};
use common::*;

const BLOCKS: usize = 6;

/// A format, with where the first entry of its table is and how wide entries are.
struct Kind {
    format: &'static str,
    options: &'static str,
    block: usize,
    entries: fn(&[u8]) -> (usize, usize),
}

fn le(file: &[u8], at: usize, width: usize) -> u64 {
    file[at..at + width].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

const KINDS: &[Kind] = &[
    Kind { format: "vdi", options: "", block: 1 << 20, entries: |f| (le(f, 0x154, 4) as usize, 4) },
    Kind { format: "parallels", options: "cluster_size=64k", block: 64 << 10, entries: |_| (64, 4) },
    Kind {
        format: "qed",
        options: "cluster_size=64k,table_size=2",
        block: 64 << 10,
        entries: |f| (le(f, le(f, 40, 8) as usize, 8) as usize, 8),
    },
    Kind {
        format: "vhdx",
        options: "block_size=1M",
        block: 1 << 20,
        entries: |f| {
            let id = [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6];
            let e = (0..64).map(|i| 192 * 1024 + 16 + 32 * i).find(|at| f[*at..*at + 6] == id).unwrap();
            (le(f, e + 16, 8) as usize, 8)
        },
    },
];

fn open_to_repair(path: &Path, format: &str, read_only: bool) -> std::sync::Arc<dyn block_formats::Image> {
    let options = OpenOptions { read_only, repairing: true, ..open_options() };
    patiently(|| block_formats::open(text(path), Some(format), &options))
}

/// What is done to the table; which blocks have lost what they had.
type Damage = fn(&mut [u8], usize, usize) -> &'static [usize];

const DAMAGE: &[(&str, Damage)] = &[
    // The second block is where the first one is.
    ("twice", |file, at, width| {
        file.copy_within(at..at + width, at + width);
        &[1]
    }),
    // The third is beyond the end.
    ("beyond", |file, at, width| {
        let entry = &mut file[at + 2 * width..at + 3 * width];
        let high = if width == 8 { 5 } else { 2 };
        entry[high] |= 0x10;
        &[2]
    }),
    ("both", |file, at, width| {
        file.copy_within(at..at + width, at + width);
        let high = if width == 8 { 5 } else { 2 };
        file[at + 2 * width + high] |= 0x10;
        &[1, 2]
    }),
];

#[test]
fn damaged_tables_are_repaired() {
    for kind in KINDS {
        for (name, damage) in DAMAGE {
            let what = format!("{} {name}", kind.format);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("d");
            let size = kind.block * BLOCKS;
            create(&path, kind.format, size as u64, kind.options);
            let image = open(&path, kind.format);
            let mut random = Random::new(9);
            let mut model: Vec<u8> = Vec::new();
            for block in 0..BLOCKS {
                let data: Vec<u8> = random.data(kind.block).iter().map(|b| b | 1).collect();
                write(&*image, (block * kind.block) as u64, &data);
                model.extend(data);
            }
            image.close().unwrap();
            drop(image);
            let mut file = std::fs::read(&path).unwrap();
            let (at, width) = (kind.entries)(&file);
            let lost = damage(&mut file, at, width);
            std::fs::write(&path, &file).unwrap();

            let image = open_to_repair(&path, kind.format, true);
            let report = image.check(Repair::No).unwrap();
            assert_eq!(report.corruptions, lost.len() as u64, "{what}: {:?}", report.messages);
            assert!(report.messages.iter().all(|m| m.starts_with("ERROR")), "{what}: {:?}", report.messages);
            drop(image);
            assert!(std::fs::read(&path).unwrap() == file, "{what}: only looked at");

            let image = open_to_repair(&path, kind.format, false);
            let report = image.check(Repair::All).unwrap();
            let found = (report.corruptions, report.corruptions_fixed);
            assert_eq!(found, (0, lost.len() as u64), "{what}: {:?}", report.messages);
            image.close().unwrap();
            drop(image);

            let image = open_read(&path, Some(kind.format));
            assert_eq!(image.check(Repair::No).unwrap().corruptions, 0, "{what}");
            for block in (0..BLOCKS).filter(|b| !lost.contains(b)) {
                let range = block * kind.block..(block + 1) * kind.block;
                same(&read(&*image, range.start as u64, kind.block), &model[range], &what);
            }
            // Of two that had one place each has a copy; what was nowhere reads as zero.
            if lost.contains(&1) {
                same(&read(&*image, kind.block as u64, kind.block), &model[..kind.block], &what);
            }
            if lost.contains(&2) {
                assert!(read(&*image, 2 * kind.block as u64, kind.block).iter().all(|b| *b == 0), "{what}");
            }
            drop(image);
            if have_qemu() {
                // Of a qed image QEMU counts the space that nobody names any more as well.
                let said = run("qemu-img", &["check", "-f", kind.format, text(&path)]);
                let lost = said.as_ref().is_err_and(|e| e.contains("leaked") && !e.contains("ERROR"));
                assert!(said.is_ok() || kind.format == "qed" && lost, "{what}: {said:?}");
            }
        }
    }
}
