//! What people do to images as a whole, with every request of it failing in every way, and with the power cut after every
//! prefix of its writes: an error is told, and the image shows what it did before or what it should afterwards, nothing else.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use block::BlockError;
use block_formats::{BackingName, BitmapChange, Image, Options, Preallocation, Repair, Snapshot};
use block_testing::{Fault, Host};
use common::*;

const SIZE: usize = 256 << 10;

/// Something done to an image.
struct Operation {
    name: &'static str,
    run: fn(&dyn Image) -> Result<(), BlockError>,
    /// Whether the image has a snapshot to start with.
    snapshot: bool,
}

const fn op(name: &'static str, run: fn(&dyn Image) -> Result<(), BlockError>) -> Operation {
    Operation { name, run, snapshot: true }
}

const fn alone(name: &'static str, run: fn(&dyn Image) -> Result<(), BlockError>) -> Operation {
    Operation { name, run, snapshot: false }
}

fn amend(image: &dyn Image, list: &str) -> Result<(), BlockError> {
    let mut options = Options::default();
    options.add(list).unwrap();
    image.amend(&options)
}

fn merge(range: Range<u64>) -> BitmapChange {
    BitmapChange::Merge(Vec::from_iter([range]))
}

const GROW: Operation = alone("grow", |i| i.resize(4 * SIZE as u64));
const NO_BACKING: Operation = op("no backing file", |i| i.set_backing(None));
const RENAME: Operation = op("another name of the backing file", |i| {
    let format = i.backing_name().and_then(|b| b.format);
    i.set_backing(Some(&BackingName { file: "./base.img".into(), format }))
});

const QCOW2: &[Operation] = &[
    op("snapshot", |i| i.create_snapshot(&Snapshot { name: "two".into(), ..Snapshot::default() })),
    op("snapshot with a state", |i| {
        i.write_state(0, &[7; 100])?;
        i.write_state(100, &[8; 20_000])?;
        i.create_snapshot(&Snapshot { name: "two".into(), vm_state_size: 20_100, ..Snapshot::default() })
    }),
    op("apply", |i| i.apply_snapshot("one")),
    op("delete", |i| i.delete_snapshot("one")),
    GROW,
    alone("grow with metadata", |i| i.resize_with(2 * SIZE as u64, Preallocation::Metadata)),
    alone("shrink", |i| i.resize(SIZE as u64 / 2)),
    op("amend lazy_refcounts", |i| amend(i, "lazy_refcounts=on")),
    NO_BACKING,
    RENAME,
    alone("empty", |i| i.make_empty()),
    op("add a bitmap", |i| i.change_bitmap("new", &BitmapChange::Add { granularity: None, disabled: false })),
    op("merge a bitmap", |i| i.change_bitmap("b", &merge(0..SIZE as u64 / 2))),
    op("remove a bitmap", |i| i.change_bitmap("b", &BitmapChange::Remove)),
];

/// Formats with options and what can be done to their images.
const KINDS: &[(&str, &str, &[Operation])] = &[
    ("qcow2", "cluster_size=4k", QCOW2),
    ("qcow2", "cluster_size=16k,extended_l2=on", QCOW2),
    ("qed", "cluster_size=4k,table_size=1", &[GROW, NO_BACKING, RENAME]),
    ("raw", "", &[GROW, alone("shrink", |i| i.resize(SIZE as u64 / 2))]),
    ("luks", "key-secret=s,iter-time=1", &[GROW]),
];

/// What an image shows of itself.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    data: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
    bitmaps: Vec<String>,
    rest: String,
}

fn shown(image: &dyn Image, with_bitmaps: bool) -> Shown {
    let view = |s: Snapshot| {
        let node = image.open_snapshot(&s.id).unwrap();
        let state = image.open_state(&s.id).unwrap();
        let mut data = vec![0; (node.size() + state.size()) as usize];
        let (disk, rest) = data.split_at_mut(node.size() as usize);
        node.read(0, &mut [std::io::IoSliceMut::new(disk)]).unwrap();
        state.read(0, &mut [std::io::IoSliceMut::new(rest)]).unwrap();
        (s.name, data)
    };
    let bitmaps = if with_bitmaps { image.bitmaps().unwrap() } else { Vec::new() };
    let bitmaps = bitmaps.iter().map(|b| format!("{b:?} {:?}", image.bitmap_ranges(&b.name).ok()));
    // What grew reads as noise where the format does not say what it is.
    let mut data = all(image);
    if image.format() == "luks" {
        data[SIZE.min(image.size() as usize)..].fill(0);
    }
    let mut specific = image.details().specific;
    specific.retain(|(k, _)| *k != "bitmaps");
    Shown {
        data,
        snapshots: image.snapshots().into_iter().map(view).collect(),
        bitmaps: bitmaps.collect(),
        rest: format!("{:?} {specific:?}", image.backing_name()),
    }
}

struct Case<'a> {
    format: &'a str,
    options: &'a str,
    operation: &'a Operation,
    dir: &'a Path,
}

impl Case<'_> {
    fn open(&self, host: &Host) -> Arc<dyn Image> {
        let path = self.dir.join("top.img");
        let image = block_formats::open_node(host.file(0), text(&path), Some(self.format), &open_options());
        image.unwrap_or_else(|e| panic!("{}: {e}", self.name()))
    }

    fn name(&self) -> String {
        format!("{} {:?}, {}", self.format, self.options, self.operation.name)
    }

    /// An image with contents of all kinds. Its backing file reads as it does.
    fn start(&self) -> Vec<Vec<u8>> {
        let (path, base) = (self.dir.join("top.img"), self.dir.join("base.img"));
        let backs = block_formats::find(self.format).unwrap().can_back();
        let backing = if backs { ",backing_file=base.img,backing_fmt=raw" } else { "" };
        let mut random = Random::new(3);
        std::fs::write(&base, random.data(SIZE)).unwrap();
        let options = format!("{}{backing}", self.options);
        create(&path, self.format, SIZE as u64, options.trim_start_matches(','));
        let image = patiently(|| block_formats::open(text(&path), Some(self.format), &open_options()));
        let mut scribble = || {
            for _ in 0..6 {
                let at = random.below(SIZE as u64 / 512 - 20) * 512;
                let len = 512 * (1 + random.below(20) as usize);
                write(&*image, at, &random.data(len));
            }
        };
        scribble();
        if self.operation.snapshot && self.format == "qcow2" {
            image.create_snapshot(&Snapshot { name: "one".into(), ..Snapshot::default() }).unwrap();
            scribble();
        }
        if self.format == "qcow2" && self.operation.name.contains("bitmap") {
            image.change_bitmap("b", &BitmapChange::Add { granularity: None, disabled: true }).unwrap();
            image.change_bitmap("b", &merge(SIZE as u64 - 4096..SIZE as u64)).unwrap();
        }
        let data = all(&*image);
        image.close().unwrap();
        drop(image);
        if backs {
            std::fs::write(&base, &data).unwrap();
        }
        vec![std::fs::read(&path).unwrap()]
    }

    /// The image is sound but for lost clusters, and shows one of two states.
    fn verify(&self, host: &Host, states: &[&Shown], with_bitmaps: bool, what: &str) {
        let image = self.open(host);
        if let Ok(report) = image.check(Repair::No) {
            let fatal =
                report.messages.iter().filter(|m| m.starts_with("ERROR") && !m.contains("OFLAG_COPIED"));
            assert_eq!(fatal.count(), 0, "{what}: {:?}", report.messages);
            let report = image.check(Repair::All).unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {:?}", report.messages);
        }
        one_of(&shown(&*image, with_bitmaps), states, what);
    }

    fn run(&self) {
        let first = self.start();
        let host = Host::new(first);
        let before = shown(&*self.open(&host), true);
        // What opening and closing leave is where the operation starts.
        let first = Host::new(host.contents());
        let image = self.open(&first);
        let requests = first.requests();
        (self.operation.run)(&*image).unwrap_or_else(|e| panic!("{}: {e}", self.name()));
        image.flush().unwrap();
        let (requests, cuts) = (first.requests() - requests, first.cuts());
        // What is open goes on reading the backing file it had.
        let live = shown(&*image, true);
        image.close().unwrap();
        drop(image);
        let after = shown(&*self.open(&Host::new(first.contents())), true);
        assert!(requests > 0 && before != after || self.operation.name == "empty", "{}", self.name());
        self.verify(&Host::new(first.contents()), &[&after], true, &self.name());
        for fault in Fault::ALL {
            for n in 0..requests {
                let what = format!("{}: {fault:?} of request {n} of {requests}", self.name());
                let host = Host::new(host.contents());
                let image = self.open(&host);
                host.fail(Some((n, fault)));
                let done = (self.operation.run)(&*image).and_then(|()| image.flush());
                host.fail(None);
                assert!(done.is_err() || host.failed() == 0 || self.format != "raw", "{what}: not told");
                let states: &[&Shown] = if done.is_ok() { &[&after] } else { &[&before, &after] };
                one_of(&shown(&*image, true), &[&before, &live], &what);
                image.close().unwrap_or_else(|e| panic!("{what}: {e}"));
                drop(image);
                self.verify(&host, states, true, &format!("{what}, opened again"));
            }
        }
        // Bitmaps that were not saved are known for it.
        let (before, after) =
            (Shown { bitmaps: Vec::new(), ..before }, Shown { bitmaps: Vec::new(), ..after });
        for cut in 0..=cuts {
            for luck in 0..if cfg!(feature = "long") { 50 } else { 2 } {
                let what = format!("{}: cut {cut} of {cuts}, luck {luck}", self.name());
                let mut random = Random::new(luck * 1000 + cut as u64);
                let survivor = Host::new(first.after_cut(cut, (luck != 0).then_some(&mut random)));
                let states: &[&Shown] = if cut == cuts { &[&after] } else { &[&before, &after] };
                self.verify(&survivor, states, false, &what);
            }
        }
    }
}

#[track_caller]
fn one_of(shown: &Shown, states: &[&Shown], what: &str) {
    if states.contains(&shown) {
        return;
    }
    let last = states[states.len() - 1];
    let same = |a: &Shown| (a.data == shown.data, a.snapshots == shown.snapshots, a.bitmaps == shown.bitmaps);
    panic!(
        "{what}: data, snapshots and bitmaps agree with {:?}; {:?} {}, expected {:?} {}",
        states.iter().map(|s| same(s)).collect::<Vec<_>>(),
        shown.bitmaps,
        shown.rest,
        last.bitmaps,
        last.rest
    );
}

#[test]
fn every_operation_is_done_or_not_whatever_fails() {
    for (format, options, operations) in KINDS {
        for operation in *operations {
            let dir = tempfile::tempdir().unwrap();
            Case { format, options, operation, dir: dir.path() }.run();
        }
    }
}
