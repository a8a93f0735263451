//! Damaged and random images: whatever is in them, opening, reading, checking and writing ends, without a panic and
//! without taking memory that the file does not justify. `RHEA_FUZZ_CASES` sets how many are tried of each format.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::MemoryNode;
use block_formats::{OpenOptions, Repair};
use common::*;

/// Images that a case starts from.
const SEEDS: &[(&str, &str)] = &[
    ("qcow2", ""),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "extended_l2=on,cluster_size=16k,compression_type=zstd"),
    ("qcow2", "compat=0.10"),
    ("vdi", ""),
    ("vpc", ""),
    ("vmdk", ""),
    ("vhdx", "block_size=1M"),
    ("parallels", "cluster_size=64k"),
    ("qed", "cluster_size=4k,table_size=1"),
    ("qcow", ""),
    ("luks", "key-secret=s,iter-time=1"),
    ("luks", "key-secret=s,iter-time=1,version=luks2,pbkdf=pbkdf2"),
    ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1"),
];

fn cases() -> u64 {
    std::env::var("RHEA_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// Does everything to an image that can be done; errors are fine.
fn exercise(data: Vec<u8>, format: Option<&str>, random: &mut Random) {
    for read_only in [true, false] {
        let node = Arc::new(MemoryNode::from_vec("fuzz", data.clone()));
        let options = OpenOptions {
            read_only,
            no_backing: true,
            repairing: random.below(2) == 0,
            // Without a key: damaged costs of key derivation would take minutes, as they may.
            no_io: true,
            ..OpenOptions::default()
        };
        let Ok(image) = block_formats::open_node(node, "fuzz", format, &options) else { continue };
        let _ = (image.details(), image.snapshots(), image.bitmaps());
        let size = image.size();
        let mut buf = vec![0; 8192];
        for _ in 0..8 {
            let at = if random.below(2) == 0 { random.below(size) } else { random.below(size.min(2 << 20)) };
            let n = (size - at).min(8192) as usize;
            let _ = image.read(at, &mut [IoSliceMut::new(&mut buf[..n])]);
            let _ = image.status(at..(at + (1 << 20)).min(size));
            if !read_only {
                let _ = match random.below(4) {
                    0 => image.write_zeroes(at, n as u64, true),
                    1 => image.discard(at, n as u64),
                    2 => image.flush(),
                    _ => image.write(at, &[IoSlice::new(&buf[..n])], false),
                };
            }
        }
        for b in image.bitmaps().unwrap_or_default() {
            let _ = image.bitmap_ranges(&b.name);
        }
        for s in image.snapshots() {
            if let Ok(view) = image.open_snapshot(&s.id) {
                let n = view.size().min(4096) as usize;
                let _ = view.read(0, &mut [IoSliceMut::new(&mut buf[..n])]);
            }
        }
        // A check of a disk of exabytes takes its time; the tables are what is looked at.
        if size < 1 << 32 {
            let _ = image.check(if read_only { Repair::No } else { Repair::All });
        }
        let _ = image.close();
    }
}

fn seed(format: &str, options: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.img");
    create(&path, format, 4 << 20, options);
    let image = open(&path, format);
    let mut random = Random::new(1);
    for i in 0..6 {
        write(&*image, i * 600_000, &random.data(5000));
    }
    if format == "qcow2" {
        let cluster = image.details().cluster_size.unwrap();
        if !options.contains("encrypt") {
            image.write_compressed(cluster * 3, &vec![7; cluster as usize]).unwrap();
        }
        image.create_snapshot(&block_formats::Snapshot { name: "s".into(), ..Default::default() }).unwrap();
        if !options.contains("0.10") {
            let add = block_formats::BitmapChange::Add { granularity: None, disabled: false };
            image.change_bitmap("b", &add).unwrap();
            write(&*image, 0, &[1; 512]);
        }
    }
    image.close().unwrap();
    drop(image);
    std::fs::read(&path).unwrap()
}

#[test]
fn fuzz_damaged_images() {
    for (index, (format, options)) in SEEDS.iter().enumerate() {
        let good = seed(format, options);
        for case in 0..cases() {
            let mut random = Random::new(case * 100 + index as u64);
            let mut data = good.clone();
            for _ in 0..random.below(6) + 1 {
                // Mostly headers and tables, which are at the front.
                let area =
                    [128, 1024, 8192, data.len() as u64][random.below(4) as usize].min(data.len() as u64);
                let at = random.below(area) as usize;
                match random.below(4) {
                    0 => data[at] ^= 1 << random.below(8),
                    1 => data[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
                    2 => {
                        let end = (at + 8).min(data.len());
                        data[at..end].fill([0, 0xff, 0x7f][random.below(3) as usize]);
                    }
                    _ => {
                        let end = (at + 4).min(data.len());
                        let value = random.number().to_be_bytes();
                        let n = end - at;
                        data[at..end].copy_from_slice(&value[..n]);
                    }
                }
            }
            if random.below(8) == 0 {
                let keep = random.below(data.len() as u64) as usize;
                data.truncate(keep);
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                exercise(data, Some(format), &mut random)
            }));
            if let Err(e) = done {
                eprintln!("{format} {options:?}, case {case}");
                std::panic::resume_unwind(e);
            }
        }
    }
}

#[test]
fn fuzz_random_images() {
    for f in block_formats::formats() {
        for case in 0..cases() {
            let mut random = Random::new(case + 77);
            let mut data: Vec<u8> = (0..random.below(20_000)).map(|_| random.number() as u8).collect();
            // With a good start, so that more than the magic is looked at.
            if let Some((format, options)) =
                SEEDS.iter().find(|(n, _)| *n == f.name).filter(|_| case % 2 == 0)
            {
                let good = seed(format, options);
                let n = (random.below(200) as usize).min(data.len()).min(good.len());
                data[..n].copy_from_slice(&good[..n]);
            }
            exercise(data, Some(f.name), &mut random);
        }
    }
}
