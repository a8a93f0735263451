//! Formats that are read only: images of tools where there are some, of generators here otherwise, and QEMU as the
//! other reader.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::io::Write;
use std::path::Path;

use base64::Engine;
use block_formats::OpenOptions;
use common::*;

/// A disk with text, noise and zeroes.
fn disk(len: usize) -> Vec<u8> {
    let mut random = Random::new(3);
    let mut out = Vec::new();
    while out.len() < len {
        let n = random.below(200_000) as usize + 1;
        match random.below(3) {
            0 => out.resize(out.len() + n, 0),
            1 => out.extend((0..n).map(|i| b"all work and no play "[i % 21])),
            _ => out.extend((0..n).map(|_| random.number() as u8)),
        }
    }
    out.truncate(len);
    out
}

fn check(path: &Path, format: &str, data: &[u8], ask_qemu: bool) {
    for named in [Some(format), None] {
        let image = open_read(path, named);
        assert_eq!(block_formats::Image::format(&*image), format);
        same(&all(&*image)[..data.len()], data, format);
        check_status(&*image, data);
        let mut random = Random::new(5);
        for _ in 0..50 {
            let at = random.below(data.len() as u64) as usize;
            let n = (random.below(70_000) as usize).min(data.len() - at);
            same(&read(&*image, at as u64, n), &data[at..at + n], "a part");
        }
        assert!(image.write(0, &[std::io::IoSlice::new(&[1])], false).is_err());
    }
    let e = block_formats::open(text(path), Some(format), &OpenOptions::default()).map(drop).unwrap_err();
    assert!(e.to_string().contains("read only"), "{e}");
    if ask_qemu && have_qemu() {
        let plain = path.with_extension("plain");
        std::fs::write(&plain, data).unwrap();
        qemu_img(&["compare", "-f", "raw", "-F", format, text(&plain), text(path)]);
    }
}

/// How the chunks of a dmg are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pack {
    Plain,
    Zlib,
    Bzip2,
    Lzfse,
    Xz,
}

fn pack(how: Pack, data: &[u8]) -> Vec<u8> {
    match how {
        Pack::Plain => data.to_vec(),
        Pack::Zlib => {
            let mut w = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
            w.write_all(data).unwrap();
            w.finish().unwrap()
        }
        Pack::Bzip2 => {
            let mut w = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(5));
            w.write_all(data).unwrap();
            w.finish().unwrap()
        }
        Pack::Lzfse => {
            let mut out = Vec::new();
            lzfse_rust::encode_bytes(data, &mut out).unwrap();
            out
        }
        Pack::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(1);
            options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
            let mut w = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            w.write_all(data).unwrap();
            w.finish().unwrap()
        }
    }
}

/// A dmg of two partitions, with its maps in a property list or in a resource fork.
fn dmg(data: &[u8], how: Pack, list: bool) -> Vec<u8> {
    let (kind, per_chunk) = match how {
        Pack::Plain => (1, 512),
        Pack::Zlib => (0x8000_0005u32, 512),
        Pack::Bzip2 => (0x8000_0006, 2048),
        Pack::Lzfse => (0x8000_0007, 2048),
        Pack::Xz => (0x8000_0008, 2048),
    };
    let sectors = data.len() / 512;
    let half = sectors / 2;
    let mut out = Vec::new();
    let mut maps = Vec::new();
    for (first, count) in [(0, half), (half, sectors - half)] {
        let mut chunks = Vec::new();
        let mut chunk = |kind: u32, sector: usize, n: usize, offset: usize, len: usize| {
            chunks.extend_from_slice(&kind.to_be_bytes());
            chunks.extend_from_slice(&[0; 4]);
            for v in [sector, n, offset, len] {
                chunks.extend_from_slice(&(v as u64).to_be_bytes());
            }
        };
        chunk(0x7fff_fffe, 0, 0, out.len(), 0);
        let mut at = 0;
        while at < count {
            let n = per_chunk.min(count - at);
            let part = &data[(first + at) * 512..(first + at + n) * 512];
            if part.iter().all(|b| *b == 0) {
                chunk(if at % 2 == 0 { 0 } else { 2 }, at, n, 0, 0);
            } else {
                let packed = pack(how, part);
                chunk(kind, at, n, out.len(), packed.len());
                out.extend_from_slice(&packed);
            }
            at += n;
        }
        chunk(0xffff_ffff, count, 0, out.len(), 0);
        let mut map = vec![0; 204];
        map[..4].copy_from_slice(b"mish");
        map[4..8].copy_from_slice(&1u32.to_be_bytes());
        map[8..16].copy_from_slice(&(first as u64).to_be_bytes());
        map[16..24].copy_from_slice(&(count as u64).to_be_bytes());
        map[200..204].copy_from_slice(&((chunks.len() / 40) as u32).to_be_bytes());
        map.extend_from_slice(&chunks);
        maps.push(map);
    }
    let start = out.len();
    if list {
        let engine = base64::engine::general_purpose::STANDARD;
        let entry = |m: &Vec<u8>| {
            format!("<dict><key>Data</key>\n<data>\n\t{}\n\t</data></dict>\n", engine.encode(m))
        };
        let entries: String = maps.iter().map(entry).collect();
        write!(out, "<plist version=\"1.0\"><dict><key>resource-fork</key><dict><key>blkx</key><array>{entries}</array></dict></dict></plist>").unwrap();
    } else {
        let body: Vec<u8> =
            maps.iter().flat_map(|m| [&(m.len() as u32).to_be_bytes()[..], m].concat()).collect();
        let mut fork = vec![0; 256];
        fork[..4].copy_from_slice(&256u32.to_be_bytes());
        fork[4..8].copy_from_slice(&(256 + body.len() as u32).to_be_bytes());
        fork[8..12].copy_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&fork);
        out.extend_from_slice(&body);
    }
    let len = out.len() - start;
    let mut koly = vec![0; 512];
    koly[..4].copy_from_slice(b"koly");
    koly[4..8].copy_from_slice(&4u32.to_be_bytes());
    koly[8..12].copy_from_slice(&512u32.to_be_bytes());
    koly[32..40].copy_from_slice(&(start as u64).to_be_bytes());
    let at = if list { 216 } else { 40 };
    koly[at..at + 8].copy_from_slice(&(start as u64).to_be_bytes());
    koly[at + 8..at + 16].copy_from_slice(&(len as u64).to_be_bytes());
    koly[492..500].copy_from_slice(&(sectors as u64).to_be_bytes());
    out.extend_from_slice(&koly);
    out
}

#[test]
fn dmg_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let data = disk(2 << 20);
    for how in [Pack::Plain, Pack::Zlib, Pack::Bzip2, Pack::Lzfse, Pack::Xz] {
        for list in [true, false] {
            let path = dir.path().join(format!("{how:?}.dmg"));
            std::fs::write(&path, dmg(&data, how, list)).unwrap();
            // QEMU has some kinds in modules that may not be there, and no LZMA.
            let module = |name: &str| {
                Path::new(&format!("/usr/lib/x86_64-linux-gnu/qemu/block-dmg-{name}.so")).exists()
            };
            let asked = match how {
                Pack::Plain | Pack::Zlib => true,
                Pack::Bzip2 => module("bz2"),
                Pack::Lzfse => module("lzfse"),
                Pack::Xz => false,
            };
            check(&path, "dmg", &data, asked);
        }
    }
}

#[test]
fn cloop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.cloop");
    let data = disk(65536 * 30);
    let blocks: Vec<Vec<u8>> = data.chunks(65536).map(|b| pack(Pack::Zlib, b)).collect();
    let mut out =
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n".to_vec();
    out.resize(128, 0);
    out.extend_from_slice(&65536u32.to_be_bytes());
    out.extend_from_slice(&(blocks.len() as u32).to_be_bytes());
    let mut at = 136 + (blocks.len() as u64 + 1) * 8;
    out.extend_from_slice(&at.to_be_bytes());
    for b in &blocks {
        at += b.len() as u64;
        out.extend_from_slice(&at.to_be_bytes());
    }
    out.extend(blocks.iter().flatten());
    std::fs::write(&path, out).unwrap();
    check(&path, "cloop", &data, true);
    let plain = dir.path().join("plain");
    std::fs::write(&plain, &data).unwrap();
    std::fs::remove_file(&path).unwrap();
    match run("create_compressed_fs", &["-q", "-B", "65536", text(&plain), text(&path)]) {
        Ok(_) => check(&path, "cloop", &data, true),
        Err(_) => println!("SKIPPED: create_compressed_fs is not installed"),
    }
}

#[test]
fn bochs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.bochs");
    let data = disk(3 << 20);
    for version in [1u32, 2] {
        // Extents of 64 sectors, with bitmaps of a sector.
        let (extent, count) = (64 * 512, data.len() / (64 * 512));
        let mut catalog = vec![u32::MAX; count];
        let mut body = Vec::new();
        let mut next = 0u32;
        // The last extent comes first: the catalog decides.
        for (i, part) in data.chunks(extent).enumerate().rev() {
            if part.iter().all(|b| *b == 0) {
                continue;
            }
            catalog[i] = next;
            next += 1;
            let mut bitmap = vec![0u8; 512];
            let mut sectors = part.to_vec();
            for (s, sector) in sectors.chunks_mut(512).enumerate() {
                if sector.iter().any(|b| *b != 0) {
                    bitmap[s / 8] |= 1 << (s % 8);
                } else {
                    // What is not there may be anything.
                    sector.fill(0xee);
                }
            }
            body.extend_from_slice(&bitmap);
            body.extend_from_slice(&sectors);
        }
        let mut out = vec![0; 512];
        out[..22].copy_from_slice(b"Bochs Virtual HD Image");
        out[32..39].copy_from_slice(b"Redolog");
        out[48..55].copy_from_slice(b"Growing");
        let disk_at = if version == 1 { 84 } else { 88 };
        for (at, v) in [(64, version << 16), (68, 512), (72, count as u32), (76, 512), (80, extent as u32)] {
            out[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        out[disk_at..disk_at + 8].copy_from_slice(&(data.len() as u64).to_le_bytes());
        out.extend(catalog.iter().flat_map(|c| c.to_le_bytes()));
        out.extend_from_slice(&body);
        std::fs::write(&path, out).unwrap();
        check(&path, "bochs", &data, true);
    }
    let plain = dir.path().join("plain");
    // bximage wants whole cylinders.
    let data = disk(16 * 63 * 512 * 4);
    std::fs::write(&plain, &data).unwrap();
    std::fs::remove_file(&path).unwrap();
    match run("bximage", &["-q", "-func=convert", "-imgmode=growing", text(&plain), text(&path)]) {
        Ok(_) => check(&path, "bochs", &data, true),
        Err(_) => println!("SKIPPED: bximage is not installed"),
    }
}

#[test]
fn fuzz_damaged_images() {
    let data = disk(300_000 / 512 * 512);
    let dir = tempfile::tempdir().unwrap();
    let mut seeds: Vec<(&str, Vec<u8>)> = Vec::new();
    for how in [Pack::Zlib, Pack::Bzip2, Pack::Lzfse, Pack::Xz] {
        seeds.push(("dmg", dmg(&data, how, how != Pack::Zlib)));
    }
    let cases = std::env::var("RHEA_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12u64);
    let path = dir.path().join("f.img");
    for (index, (format, good)) in seeds.iter().enumerate() {
        for case in 0..cases {
            let mut random = Random::new(case * 10 + index as u64);
            let mut bad = good.clone();
            for _ in 0..random.below(8) + 1 {
                // Trailer, maps, or the data itself.
                let len = bad.len() as u64;
                let area = [512, 4096, len][random.below(3) as usize].min(len);
                let at = (len - area + random.below(area)) as usize;
                bad[at] = random.number() as u8;
            }
            std::fs::write(&path, &bad).unwrap();
            let options = OpenOptions { read_only: true, ..OpenOptions::default() };
            let Ok(image) = block_formats::open(text(&path), Some(format), &options) else { continue };
            let size = image.size().min(4 << 20);
            let mut buf = vec![0; size as usize];
            for part in 0..8 {
                let (at, n) = (size / 8 * part, (size / 8) as usize);
                let _ = image.read(at, &mut [std::io::IoSliceMut::new(&mut buf[..n])]);
                let _ = image.status(at..at + n as u64);
            }
        }
    }
}
