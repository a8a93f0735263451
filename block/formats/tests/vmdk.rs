//! VMDK beyond one image: parents, and the sparse extents of ESX, which only tools of VMware make.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::Path;

use block_formats::OpenOptions;
use common::*;

fn refused(path: &Path) -> String {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    block_formats::open(text(path), Some("vmdk"), &options).map(drop).unwrap_err().to_string()
}

fn compare(path: &Path, data: &[u8]) {
    if have_qemu() {
        let plain = path.with_extension("plain");
        std::fs::write(&plain, data).unwrap();
        qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(&plain), text(path)]);
    }
}

#[test]
fn parents_are_read_through_and_held_to_their_content_id() {
    let dir = tempfile::tempdir().unwrap();
    let (base, child) = (dir.path().join("base.vmdk"), dir.path().join("child.vmdk"));
    let mut random = Random::new(6);
    let mut data = random.data(3 << 20);
    for options in ["", "subformat=twoGbMaxExtentSparse", "zeroed_grain=on"] {
        create(&base, "vmdk", 3 << 20, "");
        write(&*open(&base, "vmdk"), 0, &data[..2 << 20]);
        data[2 << 20..].fill(0);
        create(&child, "vmdk", 3 << 20, &format!("backing_file=base.vmdk,{options}").replace(",,", ","));
        let image = open(&child, "vmdk");
        same(&all(&*image), &data, "what the parent has");
        let new = random.data(100_000);
        write(&*image, 60_000, &new);
        data[60_000..160_000].copy_from_slice(&new);
        image.write_zeroes(1 << 20, 200_000, true).unwrap();
        data[1 << 20..(1 << 20) + 200_000].fill(0);
        same(&all(&*image), &data, "what the child has");
        image.close().unwrap();
        drop(image);
        compare(&child, &data);
        // QEMU's child of our parent.
        if have_qemu() {
            let theirs = dir.path().join("theirs.vmdk");
            qemu_img(&["create", "-f", "vmdk", "-b", "child.vmdk", "-F", "vmdk", text(&theirs)]);
            run("qemu-io", &["-f", "vmdk", "-c", "write -P 9 4096 8192", text(&theirs)]).unwrap();
            let mut expected = data.clone();
            expected[4096..12288].fill(9);
            same(&all(&*open_read(&theirs, None)), &expected, "QEMU's child");
        }
        // A parent that has changed is none any more.
        write(&*open(&base, "vmdk"), 0, b"changed");
        let e = refused(&child);
        assert!(e.contains("parentCID") && e.contains("changed after"), "{e}");
        std::fs::remove_file(&base).unwrap();
        assert!(refused(&child).contains("base.vmdk"));
    }
}

fn sectors_of(data: &[u8]) -> u64 {
    data.len() as u64 / 512
}

fn descriptor(kind: &str, create_type: &str, sectors: u64) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n# Extent description\n\
         RW {sectors} {kind} \"d-delta.vmdk\"\n"
    )
}

/// A disk of grains of which some are zero, and which are.
fn grains(grain: usize, count: usize) -> (Vec<u8>, Vec<bool>) {
    let mut random = Random::new(12);
    let mut data = vec![0; grain * count];
    let mut there = vec![false; count];
    for i in 0..count {
        if random.below(3) == 0 {
            there[i] = true;
            let bytes = random.data(grain);
            data[i * grain..(i + 1) * grain].copy_from_slice(&bytes);
        }
    }
    (data, there)
}

#[test]
fn vmfs_sparse_extents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.vmdk");
    // Grains of one sector and tables of 4096, so that there are several.
    let (mut data, there) = grains(512, 4096 * 3);
    let mut out = vec![0; 2048];
    out[..4].copy_from_slice(b"COWD");
    for (at, v) in [(4, 1u32), (8, 3), (12, 4096 * 3), (16, 1), (20, 4), (24, 3)] {
        out[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }
    // Directory in sector 4, tables of 32 sectors from sector 5 on, then grains.
    let (tables, first) = (5u32, 5 + 3 * 32u32);
    let mut directory: Vec<u8> = (0..3u32).flat_map(|i| (tables + i * 32).to_le_bytes()).collect();
    directory.resize(512, 0);
    out.extend_from_slice(&directory);
    let mut next = first;
    let mut body = Vec::new();
    for (i, t) in there.iter().enumerate() {
        out.extend_from_slice(&(if *t { next } else { 0 }).to_le_bytes());
        if *t {
            next += 1;
            body.extend_from_slice(&data[i * 512..(i + 1) * 512]);
        }
    }
    out.extend_from_slice(&body);
    std::fs::write(dir.path().join("d-delta.vmdk"), &out).unwrap();
    std::fs::write(&path, descriptor("VMFSSPARSE", "vmfsSparse", sectors_of(&data))).unwrap();
    same(&all(&*open_read(&path, None)), &data, "vmfsSparse");
    compare(&path, &data);
    let image = open(&path, "vmdk");
    write(&*image, 1000, &[7; 5000]);
    data[1000..6000].fill(7);
    image.close().unwrap();
    drop(image);
    same(&all(&*open_read(&path, None)), &data, "vmfsSparse after a write");
    compare(&path, &data);
    out[4] = 2;
    std::fs::write(dir.path().join("d-delta.vmdk"), &out).unwrap();
    assert!(refused(&path).contains("version 2"));
}

#[test]
fn se_sparse_extents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.vmdk");
    let (data, there) = grains(4096, 4096 * 2 + 100);
    // Sectors: headers 0 and 1, directory 8, tables 16, grains after them.
    let tables = 3u64;
    let grains_at = 16 + tables * 64;
    let mut out = vec![0; grains_at as usize * 512];
    let put = |out: &mut Vec<u8>, at: usize, v: u64| out[at..at + 8].copy_from_slice(&v.to_le_bytes());
    for (i, v) in [
        (0, 0xcafe_babe),
        (1, 0x0000_0002_0000_0001),
        (2, sectors_of(&data)),
        (3, 8),
        (4, 64),
        (10, 1),
        (11, 1),
        (16, 8),
        (17, 8),
        (18, 16),
        (19, tables * 64),
        (24, grains_at),
    ] {
        put(&mut out, i * 8, v);
    }
    put(&mut out, 512, 0xcafe_cafe);
    for t in 0..tables {
        // In another order than they map.
        let index = tables - 1 - t;
        put(&mut out, 8 * 512 + t as usize * 8, 0x1000_0000_0000_0000 | index);
    }
    let mut next = 0u64;
    let mut body = Vec::new();
    for (i, there) in there.iter().enumerate() {
        let (t, within) = (i / 4096, i % 4096);
        let at = (16 + (tables as usize - 1 - t) * 64) * 512 + within * 8;
        let entry = match (there, i % 3) {
            (true, _) => {
                body.extend_from_slice(&data[i * 4096..(i + 1) * 4096]);
                next += 1;
                let grain = next - 1;
                3 << 60 | (grain & 0xfff) << 48 | grain >> 12
            }
            (false, k) => (k as u64) << 60,
        };
        put(&mut out, at, entry);
    }
    out.extend_from_slice(&body);
    std::fs::write(dir.path().join("d-delta.vmdk"), &out).unwrap();
    std::fs::write(&path, descriptor("SESPARSE", "seSparse", sectors_of(&data))).unwrap();
    let image = open_read(&path, None);
    same(&all(&*image), &data, "seSparse");
    check_status(&*image, &data);
    compare(&path, &data);
    drop(image);
    put(&mut out, 512 + 24, 1);
    std::fs::write(dir.path().join("d-delta.vmdk"), &out).unwrap();
    assert!(refused(&path).contains("journal"));
    let e = block_formats::open(text(&path), Some("vmdk"), &OpenOptions::default()).map(drop);
    assert!(e.unwrap_err().to_string().contains("read only"));
}
