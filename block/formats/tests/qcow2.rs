//! qcow2 against a plain copy of the disk and against QEMU's own tools, over the options of the format.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::Path;
use std::sync::Arc;

use block_formats::{Image, OpenOptions, Repair, Snapshot};
use common::*;

const MATRIX: &[(&str, bool)] = &[
    ("", false),
    ("", true),
    ("compat=0.10", false),
    ("compat=0.10", true),
    ("cluster_size=512", true),
    ("cluster_size=2M", false),
    ("extended_l2=on", true),
    ("extended_l2=on,cluster_size=16k,compression_type=zstd", false),
    ("lazy_refcounts=on,cluster_size=4k", true),
    ("refcount_bits=1,cluster_size=4k", false),
    ("refcount_bits=2,cluster_size=1k", true),
    ("refcount_bits=4,cluster_size=8k", false),
    ("refcount_bits=8", false),
    ("refcount_bits=32,cluster_size=512", false),
    ("refcount_bits=64,cluster_size=1k", true),
    ("compression_type=zstd", true),
    ("data_file=data.raw", false),
    ("data_file=data.raw,data_file_raw=on", false),
    ("preallocation=metadata,cluster_size=32k", false),
    ("preallocation=falloc,extended_l2=on", false),
    ("preallocation=full,cluster_size=16k", false),
    ("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,cluster_size=16k", true),
    (
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,extended_l2=on,preallocation=metadata",
        false,
    ),
    ("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,data_file=data.raw", false),
    ("encrypt.format=aes,encrypt.key-secret=s,compat=0.10,cluster_size=4k", true),
];

struct Model<'a> {
    image: Option<Arc<dyn Image>>,
    path: &'a Path,
    options: &'a str,
    data: Vec<u8>,
    base: Option<Vec<u8>>,
    /// Name, disk, and state of a machine.
    snapshots: Vec<(String, Vec<u8>, Vec<u8>)>,
    next: u32,
}

impl Model<'_> {
    fn cluster(&self) -> u64 {
        self.image().details().cluster_size.unwrap()
    }

    fn image(&self) -> &dyn Image {
        self.image.as_deref().unwrap()
    }

    fn external(&self) -> bool {
        self.options.contains("data_file")
    }

    /// Whether it was done; narrow reference counts may not allow it.
    fn allowed(&self, done: Result<(), block::BlockError>) -> bool {
        let narrow =
            ["=1,", "=2,", "=4,"].iter().any(|n| self.options.contains(&format!("refcount_bits{n}")));
        match done {
            Err(e) if narrow && e.to_string().contains("most references") => false,
            other => {
                other.unwrap();
                true
            }
        }
    }

    fn v2(&self) -> bool {
        self.options.contains("0.10")
    }

    fn range(&self, random: &mut Random) -> (u64, u64) {
        let size = self.data.len() as u64;
        let offset = random.below(size);
        let max = [600, 5000, 70_000, 400_000][random.below(4) as usize];
        let len = (random.below(max) + 1).min(size - offset);
        // Often whole sectors, as a guest's.
        if random.below(2) == 0 {
            let offset = offset & !511;
            (offset, (len.next_multiple_of(512)).min(size - offset))
        } else {
            (offset, len)
        }
    }

    fn step(&mut self, random: &mut Random) {
        let size = self.data.len() as u64;
        match random.below(40) {
            0..=13 => {
                let (offset, len) = self.range(random);
                let data = random.data(len as usize);
                write(self.image(), offset, &data);
                self.data[offset as usize..][..data.len()].copy_from_slice(&data);
            }
            14..=19 => {
                let (offset, len) = self.range(random);
                let back = read(self.image(), offset, len as usize);
                same(&back, &self.data[offset as usize..][..len as usize], "read");
            }
            20..=23 => {
                let (offset, len) = self.range(random);
                self.image().write_zeroes(offset, len, random.below(2) == 0).unwrap();
                self.data[offset as usize..][..len as usize].fill(0);
            }
            24..=25 => {
                let (offset, len) = self.range(random);
                self.image().discard(offset, len).unwrap();
                let cluster = self.cluster();
                let end = offset + len;
                let first = offset.next_multiple_of(cluster);
                let last = if end == size { end } else { end & !(cluster - 1) };
                if first < last && !(self.v2() && self.base.is_some()) {
                    self.data[first as usize..last as usize].fill(0);
                }
            }
            26..=29 if !self.external() && !self.options.contains("encrypt") => {
                let cluster = self.cluster();
                let offset = random.below(size) & !(cluster - 1);
                let data = random.data(cluster.min(size - offset) as usize);
                self.image().write_compressed(offset, &data).unwrap();
                self.data[offset as usize..][..data.len()].copy_from_slice(&data);
            }
            30..=31 => self.image().flush().unwrap(),
            32 => self.reopen(),
            33 if !self.external() && self.snapshots.len() < 3 => {
                self.next += 1;
                let name = format!("s{}", self.next);
                let len = random.below(90_000) * random.below(2);
                let mut state = random.data(len as usize);
                for (i, part) in state.chunks(33_333).enumerate() {
                    self.image().write_state(i as u64 * 33_333, part).unwrap();
                }
                if random.below(4) == 0 {
                    // What nobody takes is no part of the disk.
                    state.clear();
                }
                let snapshot =
                    Snapshot { name: name.clone(), vm_state_size: state.len() as u64, ..Snapshot::default() };
                let made = self.image().create_snapshot(&snapshot);
                if self.allowed(made) {
                    self.snapshots.push((name, self.data.clone(), state));
                }
            }
            34 if !self.snapshots.is_empty() => {
                let i = random.below(self.snapshots.len() as u64) as usize;
                let (name, data, _) = &self.snapshots[i];
                let done = self.image().apply_snapshot(name);
                if self.allowed(done) {
                    self.data = data.clone();
                }
            }
            35 if !self.snapshots.is_empty() => {
                let i = random.below(self.snapshots.len() as u64) as usize;
                let (name, data, state) = self.snapshots.remove(i);
                let view = self.image().open_snapshot(&name).unwrap();
                let kept = self.image().open_state(&name).unwrap();
                for (node, data, what) in [(view, data, "snapshot"), (kept, state, "state")] {
                    let mut back = vec![0; node.size() as usize];
                    node.read(0, &mut [std::io::IoSliceMut::new(&mut back)]).unwrap();
                    same(&back, &data, what);
                }
                self.image().delete_snapshot(&name).unwrap();
            }
            36 if !self.v2() || self.snapshots.is_empty() => {
                let size = (random.below(3 << 20) & !511) + 512;
                let old = self.data.len();
                self.image().resize(size).unwrap();
                self.data.resize(size as usize, 0);
                let _ = old;
            }
            37 => {
                let report = self.image().check(Repair::No).unwrap();
                assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
            }
            _ => {}
        }
    }

    fn reopen(&mut self) {
        self.image().close().unwrap();
        self.image = None;
        self.image = Some(open(self.path, "qcow2"));
    }

    fn finish(&mut self) {
        let back = all(self.image());
        same(&back, &self.data, "all");
        check_status(self.image(), &self.data);
        self.image().close().unwrap();
        let report = self.image().check(Repair::No).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
        self.image = None;
    }
}

fn run_model(index: usize, seed: u64, steps: u32) {
    let (options, backed) = MATRIX[index];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.qcow2");
    let mut random = Random::new(seed + index as u64 * 1000);
    let size = (1 << 20) + (random.below(1 << 20) & !511);
    let mut base = None;
    // The name of a data file counts from the working directory.
    let data_file = format!("data_file={}", text(&dir.path().join("data.raw")));
    let mut all_options = options.replace("data_file=data.raw", &data_file);
    if backed {
        let data = random.data(size as usize - 700 * 512);
        std::fs::write(dir.path().join("base.raw"), &data).unwrap();
        all_options += ",backing_file=base.raw,backing_fmt=raw";
        base = Some(data);
    }
    create(&path, "qcow2", size, &all_options);
    let mut data = base.clone().unwrap_or_default();
    data.resize(size as usize, 0);
    let image = Some(open(&path, "qcow2"));
    let mut model = Model { image, path: &path, options, data, base, snapshots: Vec::new(), next: 0 };
    for _ in 0..steps {
        model.step(&mut random);
    }
    model.finish();
    if !have_qemu() {
        return;
    }
    let plain = dir.path().join("plain");
    std::fs::write(&plain, &model.data).unwrap();
    let name = named(&path, "qcow2", options);
    qemu_img_with_secret(&["check", &name]);
    qemu_img_with_secret(&["compare", &named(&plain, "raw", ""), &name]);
    for (name, data, _) in &model.snapshots {
        std::fs::write(&plain, data).unwrap();
        let copy = dir.path().join("copy");
        qemu_img_with_secret(&[
            "convert",
            "-O",
            "raw",
            "-l",
            name,
            &named(&path, "qcow2", options),
            text(&copy),
        ]);
        // QEMU shows a snapshot in the size that the disk has now.
        let copy = std::fs::read(&copy).unwrap();
        let n = copy.len().min(data.len());
        same(&copy[..n], &data[..n], "snapshot as QEMU reads it");
    }
    if model.data.len() <= 79000 {
        return;
    }
    // And back: what QEMU writes into it we read.
    run("qemu-io", &[OBJECT, "-c", "write -P 0x5a 4096 60000", "-c", "write -z 70000 9000", &name]).unwrap();
    let mut changed = model.data.clone();
    changed[4096..64096].fill(0x5a);
    changed[70000..79000].fill(0);
    let image = open_read(&path, None);
    same(&all(&*image), &changed, "what QEMU wrote");
}

#[test]
fn random_operations_match_a_plain_copy() {
    let (seeds, steps) = if cfg!(feature = "long") { (200, 1500) } else { (1, 100) };
    for seed in 0..seeds {
        for (index, row) in MATRIX.iter().enumerate() {
            let done = std::panic::catch_unwind(|| run_model(index, seed, steps));
            if let Err(e) = done {
                eprintln!("options {row:?}, seed {seed}");
                std::panic::resume_unwind(e);
            }
        }
    }
}

#[test]
fn images_of_qemu_are_read() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(7);
    let mut data = random.data(3 << 20);
    data[1 << 20..2 << 20].fill(0);
    let plain = dir.path().join("plain");
    std::fs::write(&plain, &data).unwrap();
    let options = [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "compression_type=zstd",
        "refcount_bits=1",
        "refcount_bits=64",
        "lazy_refcounts=on",
    ];
    for options in options {
        for compressed in [false, true] {
            let path = dir.path().join("q.qcow2");
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            if compressed {
                args.push("-c");
            }
            args.extend([text(&plain), text(&path)]);
            qemu_img(&args);
            let image = open_read(&path, None);
            same(&all(&*image), &data, options);
            check_status(&*image, &data);
            let report = image.check(Repair::No).unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "{options}: {:?}", report.messages);
        }
    }
}

#[test]
fn parallel_writers_meet_in_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.qcow2");
    for options in ["", "extended_l2=on", "cluster_size=4k"] {
        create(&path, "qcow2", 8 << 20, options);
        let image = open(&path, "qcow2");
        std::thread::scope(|s| {
            for t in 0..4u64 {
                let image = &image;
                s.spawn(move || {
                    for i in 0..2048u64 {
                        let at = (i * 4 + t) * 1024;
                        write(&**image, at, &[t as u8 + 1; 1024]);
                        if i % 97 == 0 {
                            image.flush().unwrap();
                        }
                    }
                });
            }
        });
        let data = all(&*image);
        for (i, part) in data.chunks(1024).enumerate() {
            assert!(part.iter().all(|b| *b == (i % 4) as u8 + 1), "{options} at {i}");
        }
        image.close().unwrap();
        let report = image.check(Repair::No).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
    }
}

#[test]
fn damage_is_found_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.qcow2");
    let mut random = Random::new(3);
    for case in 0..3 {
        create(&path, "qcow2", 4 << 20, "cluster_size=4k");
        let image = open(&path, "qcow2");
        let data = random.data(4 << 20);
        write(&*image, 0, &data);
        image.close().unwrap();
        drop(image);
        let mut raw = std::fs::read(&path).unwrap();
        match case {
            // A refcount block becomes zero; one gets a count too many; the table points nowhere.
            0 => raw[0x2000..0x3000].fill(0),
            1 => raw[0x2000 + 2 * 5 + 1] = 9,
            _ => raw[0x1000..0x1008].fill(0x7f),
        }
        std::fs::write(&path, &raw).unwrap();
        let options = OpenOptions { repairing: true, ..OpenOptions::default() };
        let image = patiently(|| block_formats::open(text(&path), None, &options));
        let report = image.check(Repair::No).unwrap();
        assert!(report.corruptions + report.leaks > 0, "case {case}");
        let report = image.check(Repair::All).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "case {case}: {:?}", report.messages);
        same(&all(&*image), &data, "after repair");
        image.close().unwrap();
        drop(image);
        if have_qemu() {
            qemu_img(&["check", "-f", "qcow2", text(&path)]);
        }
    }
}

#[test]
fn the_state_of_a_machine_is_where_qemu_has_it() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    for options in [
        "",
        "cluster_size=4k",
        "cluster_size=16k,extended_l2=on",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
    ] {
        create(&path, "qcow2", 5 << 20, options);
        let image = open(&path, "qcow2");
        write(&*image, 0, &[1; 69_632]);
        image.write_state(0, &[2; 69_632]).unwrap();
        image.write_state(69_632, &[3; 3 << 20]).unwrap();
        let one = Snapshot { name: "one".into(), vm_state_size: 69_632 + (3 << 20), ..Snapshot::default() };
        image.create_snapshot(&one).unwrap();
        // What is left behind is not the disk's when that grows.
        image.write_state(0, &[4; 69_632]).unwrap();
        image.resize(5 << 30).unwrap();
        assert_eq!(read(&*image, 5 << 20, 69_632), [0; 69_632]);
        let span = if options.contains("4k") { 2 << 20 } else { 512 << 20 };
        assert!(read(&*image, span, 69_632).iter().all(|b| *b == 0));
        image.resize(5 << 20).unwrap();
        image.close().unwrap();
        drop(image);
        let name = named(&path, "qcow2", options);
        let qemu_io = |commands: &[&str]| {
            let mut args = vec![OBJECT];
            commands.iter().for_each(|c| args.extend(["-c", c]));
            args.push(&name);
            let said = run("qemu-io", &args).unwrap();
            assert!(!said.contains("verification failed"), "{options}: {said}");
        };
        qemu_img_with_secret(&["check", &name]);
        qemu_img_with_secret(&["snapshot", "-a", "one", &name]);
        qemu_io(&["read -b -P 2 0 69632", "read -b -P 3 69632 3M", "read -P 1 0 69632"]);
        qemu_io(&["write -b -P 5 0 79872"]);
        let image = open(&path, "qcow2");
        let mut back = vec![0; 79_872];
        image.read_state(0, &mut back).unwrap();
        same(&back, &[5; 79_872], "what QEMU wrote");
        let two = Snapshot { name: "two".into(), vm_state_size: 79_872, ..Snapshot::default() };
        image.create_snapshot(&two).unwrap();
        image.apply_snapshot("one").unwrap();
        image.close().unwrap();
        drop(image);
        qemu_img_with_secret(&["check", &name]);
        std::fs::remove_file(&path).unwrap();
    }
}
