//! Power cuts and faults while a guest writes: after every prefix of the writes to the host, those since the last flush in any
//! order and torn between sectors, an image of any format opens, is sound but for lost clusters, holds what was flushed, and
//! works on. A request that fails is told of and harms no other.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use block_formats::{Image, Repair, Snapshot};
use block_testing::{Fault, Host, SECTOR};
use common::*;

/// What a guest does in a case: a format, how an image of it is made, its size, whether it stands on another.
struct Case {
    format: &'static str,
    options: &'static str,
    size: usize,
    backed: bool,
}

const fn case(format: &'static str, options: &'static str, size: usize) -> Case {
    Case { format, options, size, backed: false }
}

const fn backed(format: &'static str, options: &'static str, size: usize) -> Case {
    Case { format, options, size, backed: true }
}

const MIB: usize = 1 << 20;
const LUKS: &str = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,cluster_size=4k";

const CASES: &[Case] = &[
    case("qcow2", "", MIB),
    case("qcow2", "cluster_size=4k", MIB),
    case("qcow2", "extended_l2=on", MIB),
    case("qcow2", "lazy_refcounts=on,cluster_size=8k", MIB),
    case("qcow2", "refcount_bits=1,cluster_size=512", MIB),
    case("qcow2", LUKS, MIB),
    backed("qcow2", "cluster_size=16k", MIB),
    backed("qcow2", "extended_l2=on", MIB),
    case("qcow", "", MIB),
    case("qcow", "encrypt.format=aes,encrypt.key-secret=s", MIB),
    backed("qcow", "", MIB / 4),
    case("qed", "cluster_size=4k,table_size=1", MIB),
    backed("qed", "cluster_size=64k", MIB),
    case("vmdk", "", MIB),
    backed("vmdk", "", MIB),
    case("vdi", "", 4 * MIB),
    case("vpc", "force_size=on", 4 * MIB),
    case("vpc", "force_size=on,subformat=fixed", MIB),
    case("vhdx", "block_size=1M", 4 * MIB),
    case("parallels", "cluster_size=64k", MIB),
    case("luks", "key-secret=s,iter-time=1", MIB),
    case("raw", "", MIB),
];

/// What a sector may hold: the value at the last flush, and all since.
#[derive(Clone)]
struct Allowed(Vec<Vec<[u8; SECTOR]>>);

impl Allowed {
    fn new(data: &[u8]) -> Self {
        Allowed(data.chunks(SECTOR).map(|s| vec![s.try_into().unwrap()]).collect())
    }

    fn add(&mut self, range: Range<usize>, data: &[u8]) {
        for s in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            self.0[s].push(data[s * SECTOR..(s + 1) * SECTOR].try_into().unwrap());
        }
    }

    fn flushed(&mut self) {
        for s in &mut self.0 {
            s.drain(..s.len() - 1);
        }
    }
}

/// An image just made, with what it shows.
fn start(case: &Case, dir: &Path) -> (Host, Vec<u8>) {
    let path = dir.join("c.img");
    let mut options = case.options.to_owned();
    let mut content = vec![0; case.size];
    if case.backed {
        let base = dir.join("base.raw");
        // Shorter than what stands on it.
        content[..case.size / 2].copy_from_slice(&Random::new(77).data(case.size / 2));
        std::fs::write(&base, &content[..case.size / 2]).unwrap();
        let comma = if options.is_empty() { "" } else { "," };
        options = format!("{options}{comma}backing_file={},backing_fmt=raw", text(&base));
        if case.format == "vmdk" {
            // A parent of it is one as well.
            let base = dir.join("base.vmdk");
            create(&base, "vmdk", case.size as u64, "");
            let image = patiently(|| block_formats::open(text(&base), Some("vmdk"), &open_options()));
            write(&*image, 0, &content[..case.size / 2]);
            image.close().unwrap();
            options = format!("backing_file={},backing_fmt=vmdk", text(&base));
        }
    }
    create(&path, case.format, case.size as u64, &options);
    if case.format == "luks" {
        // What was never written is what noise decrypts to.
        let image = patiently(|| block_formats::open(text(&path), Some("luks"), &open_options()));
        content = all(&*image);
    }
    (Host::new(vec![std::fs::read(&path).unwrap()]), content)
}

fn open(case: &Case, host: &Host, dir: &Path) -> Result<Arc<dyn Image>, block::BlockError> {
    block_formats::open_node(host.file(0), text(&dir.join("c.img")), Some(case.format), &open_options())
}

/// Something a guest does at random.
fn step(case: &Case, image: &dyn Image, random: &mut Random, model: &mut [u8], allowed: &mut Allowed) {
    let at = random.below((case.size / SECTOR) as u64) as usize * SECTOR;
    let len = ((random.below(40) + 1) as usize * SECTOR).min(case.size - at);
    let cluster = image.details().cluster_size.unwrap_or(SECTOR as u64) as usize;
    match random.below(10) {
        0..=4 => {
            let data = random.data(len);
            model[at..at + len].copy_from_slice(&data);
            allowed.add(at..at + len, model);
            write(image, at as u64, &data);
        }
        5 => {
            model[at..at + len].fill(0);
            allowed.add(at..at + len, model);
            image.write_zeroes(at as u64, len as u64, true).unwrap();
        }
        6 if matches!(case.format, "qcow" | "qcow2") && !case.options.contains("encrypt") => {
            let at = at / cluster * cluster;
            let data = random.data(cluster);
            model[at..at + cluster].copy_from_slice(&data);
            allowed.add(at..at + cluster, model);
            image.write_compressed(at as u64, &data).unwrap();
        }
        7 if case.format == "qcow2" && !case.options.contains("refcount_bits=1") && random.below(3) == 0 => {
            let name = format!("s{}", random.number());
            image.create_snapshot(&Snapshot { name, ..Snapshot::default() }).unwrap();
        }
        _ => {
            image.flush().unwrap();
            allowed.flushed();
        }
    }
}

/// Checks an image, and repairs it if it can be: damage beyond lost clusters is none of a crash's.
fn check(image: &dyn Image, what: &str) {
    let Ok(report) = image.check(Repair::No) else { return };
    // The flags of a snapshot being made may have been on their way.
    let fatal = report.messages.iter().filter(|m| m.starts_with("ERROR") && !m.contains("OFLAG_COPIED"));
    assert_eq!(fatal.count(), 0, "{what}: {:?}", report.messages);
    let report = match image.check(Repair::All) {
        Err(block::BlockError::Unsupported(_)) => report,
        repaired => repaired.unwrap(),
    };
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {:?}", report.messages);
}

fn power_cuts(case: &Case, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (host, mut model) = start(case, dir.path());
    let image = open(case, &host, dir.path()).unwrap();
    let mut random = Random::new(seed);
    let mut allowed = Allowed::new(&model);
    // (places to cut at, what is allowed from there on until the next)
    let mut points = vec![(host.cuts(), allowed.clone())];
    for _ in 0..60 {
        step(case, &*image, &mut random, &mut model, &mut allowed);
        points.push((host.cuts(), allowed.clone()));
    }
    image.close().unwrap();
    drop(image);
    let cuts = if cfg!(feature = "long") { host.cuts() } else { 12 };
    for n in 0..cuts {
        let cut = host.cuts() * n / cuts;
        let what = format!("{} {:?}, seed {seed}, cut {cut} of {}", case.format, case.options, host.cuts());
        let survivor = Host::new(host.after_cut(cut, Some(&mut random)));
        let image = open(case, &survivor, dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
        check(&*image, &what);
        // What is allowed is what was so at the end of the step the cut fell into.
        let point = points.iter().position(|(len, _)| *len >= cut).unwrap_or(points.len() - 1);
        let mut back = all(&*image);
        for (s, sector) in back.chunks(SECTOR).enumerate() {
            let earlier = point.checked_sub(1).map(|p| &points[p].1.0[s]);
            let good = points[point].1.0[s].iter().chain(earlier.into_iter().flatten());
            assert!(
                good.into_iter().any(|v| v[..] == *sector),
                "{what}: sector {s} holds something it never held"
            );
        }
        // It works on, as if nothing had been.
        let mut ignored = Allowed::new(&back);
        for _ in 0..10 {
            step(case, &*image, &mut random, &mut back, &mut ignored);
        }
        same(&all(&*image), &back, &what);
        image.close().unwrap();
        drop(image);
        let image = open(case, &survivor, dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
        same(&all(&*image), &back, &format!("{what}, opened again"));
        check(&*image, &what);
    }
}

fn seeds() -> Range<u64> {
    1..if cfg!(feature = "long") { 200 } else { 2 }
}

#[test]
fn flushed_data_outlives_a_power_cut() {
    for seed in seeds() {
        CASES.iter().for_each(|case| power_cuts(case, seed));
    }
}

#[test]
fn failing_requests_are_told_and_leave_a_sound_image() {
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        let (first, content) = start(case, dir.path());
        let mut failed = 0;
        for n in 0..if cfg!(feature = "long") { 400 } else { 24 } {
            let (fault, in_requests) = (Fault::ALL[n as usize % 3], n / 3 * 7 % 61);
            let what = format!("{} {:?}, {fault:?} of request {in_requests}", case.format, case.options);
            let host = Host::new(first.contents());
            let image = open(case, &host, dir.path()).unwrap();
            let mut random = Random::new(n + 5);
            host.fail(Some((in_requests, fault)));
            let mut model = content.clone();
            // Sectors whose write failed may hold the old or the new.
            let mut unsure = vec![false; case.size / SECTOR];
            let mut told = 0;
            for _ in 0..30 {
                let at = random.below((case.size / SECTOR) as u64) as usize * SECTOR;
                let len = ((random.below(60) + 1) as usize * SECTOR).min(case.size - at);
                let data = random.data(len);
                let sectors = at / SECTOR..(at + len) / SECTOR;
                let done = match random.below(4) {
                    0 => image.flush(),
                    _ => match image.write(at as u64, &[IoSlice::new(&data)], false) {
                        Ok(()) => {
                            model[at..at + len].copy_from_slice(&data);
                            unsure[sectors].fill(false);
                            Ok(())
                        }
                        Err(e) => {
                            unsure[sectors].fill(true);
                            Err(e)
                        }
                    },
                };
                told += u64::from(done.is_err());
            }
            host.fail(None);
            assert!(told <= 1 && told <= host.failed(), "{what}: told {told} times");
            failed += host.failed();
            let agrees = |image: &dyn Image, when: &str| {
                let back = all(image);
                for s in (0..case.size / SECTOR).filter(|s| !unsure[*s]) {
                    let at = s * SECTOR;
                    assert!(back[at..at + SECTOR] == model[at..at + SECTOR], "{what}: {when}, sector {s}");
                }
            };
            agrees(&*image, "after it");
            image.close().unwrap();
            drop(image);
            let image = open(case, &host, dir.path()).unwrap();
            agrees(&*image, "opened again");
            check(&*image, &what);
        }
        assert!(failed > 6, "{} {}: only {failed} requests failed", case.format, case.options);
    }
}
