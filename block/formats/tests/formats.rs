//! Every format that is written: against a plain copy of the disk, and against QEMU's tools both ways.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use block_formats::{BackingName, Repair};
use common::*;

/// Formats with options, and whether a backing file is possible.
const MATRIX: &[(&str, &str, bool)] = &[
    ("raw", "", false),
    ("raw", "preallocation=falloc", false),
    ("raw", "preallocation=full", false),
    ("vdi", "", false),
    ("vdi", "static=on", false),
    ("vpc", "", false),
    ("vpc", "force_size=on", false),
    ("vpc", "subformat=fixed,force_size=on", false),
    ("vhdx", "", false),
    ("vhdx", "block_size=1M,log_size=2M", false),
    ("vhdx", "subformat=fixed,block_state_zero=off", false),
    ("vmdk", "", false),
    ("vmdk", "zeroed_grain=on,adapter_type=lsilogic", false),
    ("vmdk", "subformat=monolithicFlat", false),
    ("vmdk", "subformat=twoGbMaxExtentSparse", false),
    ("vmdk", "subformat=twoGbMaxExtentFlat", false),
    ("parallels", "", false),
    ("parallels", "cluster_size=4k", false),
    ("qed", "", true),
    ("qed", "cluster_size=4k,table_size=2", true),
    ("qcow", "", true),
    ("qcow", "encrypt.format=aes,encrypt.key-secret=s", true),
    ("luks", "key-secret=s,iter-time=1", false),
    ("luks", "key-secret=s,iter-time=1,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv", false),
];

fn run_model(format: &str, options: &str, backed: bool, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("i.{format}"));
    let mut random = Random::new(seed);
    let size = (3 << 20) + (random.below(3 << 20) & !511);
    let mut data = Vec::new();
    let mut all_options = options.to_owned();
    if backed {
        data = random.data(size as usize - 512 * 300);
        std::fs::write(dir.path().join("base.raw"), &data).unwrap();
        all_options += ",backing_file=base.raw,backing_fmt=raw";
    }
    create(&path, format, size, &all_options);
    let mut image = open(&path, format);
    data.resize(image.size() as usize, 0);
    if !image.starts_zero() {
        image.write_zeroes(0, data.len() as u64, false).unwrap();
    }
    let steps = if cfg!(feature = "long") { 2000 } else { 100 };
    for _ in 0..steps {
        let size = data.len() as u64;
        let at = random.below(size / 512) * 512;
        let len = (random.below(500) * 512 + 512).min(size - at);
        match random.below(12) {
            0..=4 => {
                let new = random.data(len as usize);
                write(&*image, at, &new);
                data[at as usize..(at + len) as usize].copy_from_slice(&new);
            }
            5..=7 => same(&read(&*image, at, len as usize), &data[at as usize..(at + len) as usize], "read"),
            8..=9 => {
                image.write_zeroes(at, len, true).unwrap();
                data[at as usize..(at + len) as usize].fill(0);
            }
            10 => image.flush().unwrap(),
            _ => {
                image.close().unwrap();
                drop(image);
                image = open(&path, format);
            }
        }
    }
    let compresses = format == "qcow" && !options.contains("encrypt");
    if compresses {
        let cluster = image.details().cluster_size.unwrap();
        let new = random.data(cluster as usize);
        image.write_compressed(cluster * 5, &new).unwrap();
        data[cluster as usize * 5..cluster as usize * 6].copy_from_slice(&new);
    }
    same(&all(&*image), &data, "all");
    check_status(&*image, &data);
    image.close().unwrap();
    if let Ok(report) = image.check(Repair::No) {
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
    }
    drop(image);
    if !have_qemu() {
        return;
    }
    let plain = dir.path().join("plain");
    std::fs::write(&plain, &data).unwrap();
    if ["vdi", "parallels", "qed", "vhdx"].contains(&format) {
        qemu_img(&["check", "-f", format, text(&path)]);
    }
    // qcow v1 holds no format of its backing file, which QEMU then guesses.
    let name = named(&path, format, options);
    qemu_img_with_secret(&["compare", &named(&plain, "raw", ""), &name]);
    run("qemu-io", &[OBJECT, "-c", "write -P 0x5a 4096 60000", "-c", "write -P 0xa5 2M 600k", &name])
        .unwrap();
    data[4096..64096].fill(0x5a);
    data[2 << 20..(2 << 20) + (600 << 10)].fill(0xa5);
    let image = open_read(&path, Some(format));
    same(&all(&*image), &data, "what QEMU wrote");
}

#[test]
fn random_operations_match_a_plain_copy() {
    let seeds = if cfg!(feature = "long") { 11..41 } else { 11..12 };
    for (seed, &(format, options, backed)) in seeds.flat_map(|s| MATRIX.iter().map(move |m| (s, m))) {
        for backed in [false, true].into_iter().filter(|b| backed || !b) {
            let done = std::panic::catch_unwind(|| run_model(format, options, backed, seed));
            if let Err(e) = done {
                eprintln!("{format} {options:?}, backed {backed}, seed {seed}");
                std::panic::resume_unwind(e);
            }
        }
    }
}

#[test]
fn images_of_qemu_are_probed_and_read() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(9);
    let mut data = random.data(5 << 20);
    data[1 << 20..3 << 20].fill(0);
    let plain = dir.path().join("plain");
    std::fs::write(&plain, &data).unwrap();
    for (format, options) in [
        ("vdi", ""),
        ("vdi", "static=on"),
        ("vpc", ""),
        ("vpc", "force_size=on"),
        ("vpc", "subformat=fixed"),
        ("vhdx", ""),
        ("vhdx", "subformat=fixed,block_size=2M"),
        ("vmdk", ""),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("parallels", ""),
        ("qed", ""),
        ("qed", "cluster_size=4k,table_size=2"),
        ("qcow", ""),
    ] {
        let path = dir.path().join("q.img");
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([text(&plain), text(&path)]);
        qemu_img(&args);
        let probed = (!options.contains("fixed")).then_some(()).map_or(Some(format), |()| None);
        let image = open_read(&path, probed);
        assert_eq!(block_formats::Image::format(&*image), format);
        let back = all(&*image);
        same(&back[..data.len()], &data, &format!("{format} {options}"));
        assert!(back[data.len()..].iter().all(|b| *b == 0));
    }
}

#[test]
fn stream_optimized_images_are_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.vmdk");
    let mut random = Random::new(4);
    let data = random.data(3 * 65536 + 512);
    create(&path, "vmdk", data.len() as u64, "subformat=streamOptimized");
    let image = open(&path, "vmdk");
    for (i, part) in data.chunks(65536).enumerate() {
        image.write_compressed(i as u64 * 65536, part).unwrap();
    }
    assert!(image.write_compressed(0, &data[..65536]).is_err());
    same(&all(&*image), &data, "what was written");
    image.close().unwrap();
    drop(image);
    if have_qemu() {
        let plain = dir.path().join("plain");
        std::fs::write(&plain, &data).unwrap();
        qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(&plain), text(&path)]);
    }
}

#[test]
fn a_backing_file_can_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    for format in ["qed", "qcow2"] {
        let path = dir.path().join("b.img");
        std::fs::write(dir.path().join("one"), vec![1; 1 << 20]).unwrap();
        std::fs::write(dir.path().join("two"), vec![2; 1 << 20]).unwrap();
        create(&path, format, 1 << 20, "backing_file=one,backing_fmt=raw");
        let image = open(&path, format);
        assert_eq!(read(&*image, 0, 4), [1; 4]);
        image.set_backing(Some(&BackingName { file: "two".into(), format: Some("raw".into()) })).unwrap();
        image.close().unwrap();
        drop(image);
        let image = open(&path, format);
        assert_eq!(read(&*image, 0, 4), [2; 4]);
        image.set_backing(None).unwrap();
        drop(image);
        assert_eq!(read(&*open(&path, format), 0, 4), [0; 4]);
    }
}

#[test]
fn a_guest_cannot_make_a_raw_image_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.img");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let image = patiently(|| block_formats::open(text(&path), None, &Default::default()));
    let text_of =
        image.write(0, &[std::io::IoSlice::new(b"QFI\xfb\0\0\0\x03")], false).unwrap_err().to_string();
    assert!(text_of.contains("looks like qcow2"), "{text_of}");
    write(&*image, 0, b"harmless");
    drop(image);
    write(&*open(&path, "raw"), 0, b"QFI\xfb\0\0\0\x03");
    assert_eq!(block_formats::probe(&*open(&path, "raw"), "").unwrap().name, "qcow2");
}
