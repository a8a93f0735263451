//! Power cuts: after every prefix of the writes to the host, those since the last barrier in any order, an image
//! opens, is sound but for lost clusters, and holds what was flushed.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;
#[path = "common/recorder.rs"]
mod recorder;

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use block_formats::{Repair, Snapshot};
use common::*;
use recorder::{Op, Recorder};

const SECTOR: usize = 512;
const SIZE: usize = 1 << 20;

/// What a sector may hold: the value at the last flush, and all since.
struct Allowed(Vec<Vec<[u8; SECTOR]>>);

impl Allowed {
    fn add(&mut self, range: Range<usize>, data: &[u8]) {
        for s in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            let now: [u8; SECTOR] = data[s * SECTOR..(s + 1) * SECTOR].try_into().unwrap();
            self.0[s].push(now);
        }
    }

    fn flushed(&mut self) {
        for s in &mut self.0 {
            let last = *s.last().unwrap();
            *s = vec![last];
        }
    }
}

fn start(options: &str) -> Arc<Recorder> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.qcow2");
    create(&path, "qcow2", SIZE as u64, options);
    let recorder = Recorder::default();
    *recorder.data.lock() = std::fs::read(&path).unwrap();
    Arc::new(recorder)
}

fn power_cuts(options: &str, seed: u64) {
    let recorder = start(options);
    let before = recorder.data.lock().clone();
    let image = block_formats::open_node(recorder.clone(), "c", Some("qcow2"), &open_options()).unwrap();
    let mut random = Random::new(seed);
    let mut model = vec![0u8; SIZE];
    let mut allowed = Allowed(vec![vec![[0; SECTOR]]; SIZE / SECTOR]);
    // (length of the log, what is allowed from there on until the next)
    let mut points: Vec<(usize, Vec<Vec<[u8; SECTOR]>>)> = Vec::new();
    let narrow = options.contains("refcount_bits=1");
    for step in 0..60 {
        let at = random.below((SIZE / SECTOR) as u64) as usize * SECTOR;
        let len = ((random.below(40) + 1) as usize * SECTOR).min(SIZE - at);
        match random.below(10) {
            0..=4 => {
                let data = random.data(len);
                model[at..at + len].copy_from_slice(&data);
                allowed.add(at..at + len, &model);
                write(&*image, at as u64, &data);
            }
            5 => {
                model[at..at + len].fill(0);
                allowed.add(at..at + len, &model);
                image.write_zeroes(at as u64, len as u64, true).unwrap();
            }
            6 if !options.contains("encrypt") => {
                let cluster = image.details().cluster_size.unwrap() as usize;
                let at = at / cluster * cluster;
                let data = random.data(cluster);
                model[at..at + cluster].copy_from_slice(&data);
                allowed.add(at..at + cluster, &model);
                image.write_compressed(at as u64, &data).unwrap();
            }
            7 if step > 30 && !narrow => {
                let name = format!("s{step}");
                image.create_snapshot(&Snapshot { name, ..Snapshot::default() }).unwrap();
            }
            _ => {
                image.flush().unwrap();
                allowed.flushed();
            }
        }
        points.push((recorder.log.lock().len(), allowed.0.clone()));
    }
    image.close().unwrap();
    drop(image);
    let log = recorder.log.lock().clone();
    let stride = if cfg!(feature = "long") { 1 } else { log.len() / 60 + 1 };
    for cut in (0..log.len()).step_by(stride) {
        // Everything up to the last barrier, and some of what follows.
        let barrier = log[..cut].iter().rposition(|op| matches!(op, Op::Barrier)).map_or(0, |i| i + 1);
        let mut data = before.clone();
        log[..barrier].iter().for_each(|op| Recorder::apply(&mut data, op));
        for op in log[barrier..cut].iter().filter(|_| random.below(3) != 0) {
            Recorder::apply(&mut data, op);
        }
        let survivor = Arc::new(Recorder::default());
        *survivor.data.lock() = data;
        let what = format!("options {options:?}, seed {seed}, cut {cut} of {}", log.len());
        // A crash leaves lost clusters at most, except where flags of a snapshot being made were on their way.
        let image = block_formats::open_node(survivor, "c", Some("qcow2"), &open_options());
        let image = image.unwrap_or_else(|e| panic!("{what}: {e}"));
        let report = image.check(Repair::No).unwrap();
        let fatal = report.messages.iter().filter(|m| m.starts_with("ERROR") && !m.contains("OFLAG_COPIED"));
        assert_eq!(fatal.count(), 0, "{what}: {:?}", report.messages);
        let report = image.check(Repair::All).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {:?}", report.messages);
        // What is allowed is what was so at the end of the step the cut fell into.
        let point = points.iter().position(|(len, _)| *len >= cut).unwrap_or(points.len() - 1);
        let back = all(&*image);
        for (s, sector) in back.chunks(SECTOR).enumerate() {
            let earlier = point.checked_sub(1).map(|p| &points[p].1[s]);
            let good =
                points[point].1[s].iter().chain(earlier.into_iter().flatten()).any(|v| v[..] == *sector);
            assert!(good, "{what}: sector {s} holds something it never held");
        }
    }
}

#[test]
fn flushed_data_outlives_a_power_cut() {
    let seeds = if cfg!(feature = "long") { 30 } else { 1 };
    for seed in 0..seeds {
        for options in [
            "",
            "cluster_size=4k",
            "extended_l2=on",
            "lazy_refcounts=on,cluster_size=8k",
            "refcount_bits=1,cluster_size=512",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,cluster_size=4k",
        ] {
            power_cuts(options, seed + 1);
        }
    }
}

#[test]
fn failing_writes_are_told_and_leave_a_sound_image() {
    let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,cluster_size=8k";
    for options in ["cluster_size=4k", "extended_l2=on", "lazy_refcounts=on", luks] {
        let mut fails = 0;
        for fail_in in 0..if cfg!(feature = "long") { 400 } else { 60 } {
            let recorder = start(options);
            let image =
                block_formats::open_node(recorder.clone(), "c", Some("qcow2"), &open_options()).unwrap();
            let mut random = Random::new(5);
            *recorder.fail_in.lock() = Some(fail_in);
            let mut model = vec![0u8; SIZE];
            // Sectors whose write failed may hold the old or the new.
            let mut unsure = vec![false; SIZE / SECTOR];
            for _ in 0..40 {
                let at = random.below((SIZE / SECTOR) as u64) as usize * SECTOR;
                let len = ((random.below(60) + 1) as usize * SECTOR).min(SIZE - at);
                let data = random.data(len);
                let done = match random.below(4) {
                    0 => image.flush(),
                    _ => image
                        .write(at as u64, &[IoSlice::new(&data)], false)
                        .inspect(|()| {
                            model[at..at + len].copy_from_slice(&data);
                            unsure[at / SECTOR..(at + len) / SECTOR].fill(false);
                        })
                        .inspect_err(|_| unsure[at / SECTOR..(at + len) / SECTOR].fill(true)),
                };
                if done.is_err() {
                    fails += 1;
                    // The host works again.
                    *recorder.fail_in.lock() = None;
                }
            }
            *recorder.fail_in.lock() = None;
            let back = all(&*image);
            for s in (0..SIZE / SECTOR).filter(|s| !unsure[*s]) {
                assert!(
                    back[s * SECTOR..][..SECTOR] == model[s * SECTOR..][..SECTOR],
                    "{options}, write {fail_in}: sector {s}"
                );
            }
            image.close().unwrap();
            let report = image.check(Repair::No).unwrap();
            assert_eq!(report.corruptions, 0, "{options}, write {fail_in}: {:?}", report.messages);
        }
        assert!(fails > 20, "{options}: only {fails} writes failed");
    }
}
