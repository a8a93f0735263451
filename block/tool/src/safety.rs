//! Tests of `commit` and `rebase` on a host that fails: with any request failing, or the power cut anywhere, what is read
//! through the images stays what it was, and an error is told.

use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

use block::BlockError;
use block_formats::{BackingName, Image, OpenOptions, Options, Repair};
use block_testing::{Fault, Host, Random};

use crate::progress::Progress;
use crate::{commit, rebase};

const SIZE: usize = 256 << 10;

fn all(image: &dyn Image) -> Vec<u8> {
    let mut data = vec![0; image.size() as usize];
    image.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
    data
}

/// Makes an image with some clusters of its own, perhaps over others; its file and what is read through it.
fn make(path: &Path, size: usize, list: &str, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut options = Options::default();
    options.add(list).unwrap();
    block_formats::create("qcow2", path, None, Some(size as u64), &options).unwrap();
    let name = path.display().to_string();
    let image = block_formats::open(&name, Some("qcow2"), &OpenOptions::default()).unwrap();
    let mut random = Random::new(seed);
    for _ in 0..8 {
        let at = random.below(size as u64 / 512 - 20) * 512;
        let n = 512 * (1 + random.below(20));
        image.write(at, &[IoSlice::new(&random.data(n as usize))], false).unwrap();
        image.write_zeroes(random.below(size as u64 / 4096) * 4096, 4096, true).unwrap();
    }
    image.close().unwrap();
    let data = all(&*image);
    drop(image);
    (std::fs::read(path).unwrap(), data)
}

fn open(host: &Host, number: usize, name: &Path, no_backing: bool) -> Arc<dyn Image> {
    let options = OpenOptions { no_backing, ..OpenOptions::default() };
    let name = name.display().to_string();
    block_formats::open_node(host.file(number), &name, Some("qcow2"), &options).unwrap()
}

fn sound(image: &dyn Image, what: &str) {
    assert_eq!(image.check(Repair::No).unwrap().corruptions, 0, "{what}");
    let report = image.check(Repair::All).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {:?}", report.messages);
}

/// Runs something on images of a host: as it is, with each request failing, and with the power cut at each write.
fn try_all(
    files: &[Vec<u8>],
    run: &dyn Fn(&Host) -> Result<(), BlockError>,
    verify: &dyn Fn(&Host, bool, &str),
) {
    let host = Host::new(files.to_vec());
    run(&host).unwrap();
    verify(&Host::new(host.contents()), true, "nothing failed");
    let (requests, cuts) = (host.requests(), host.cuts());
    for fault in Fault::ALL {
        for n in (0..requests).step_by(if fault == Fault::Io { 1 } else { 3 }) {
            let what = format!("{fault:?} of request {n} of {requests}");
            let failing = Host::new(files.to_vec());
            failing.fail(Some((n, fault)));
            let done = run(&failing);
            failing.fail(None);
            if let Err(e) = &done {
                assert!(!e.to_string().contains('\n') && failing.failed() == 1, "{what}: {e}");
            }
            verify(&Host::new(failing.contents()), done.is_ok(), &what);
        }
    }
    for cut in 0..=cuts {
        let mut random = Random::new(cut as u64);
        verify(
            &Host::new(host.after_cut(cut, Some(&mut random))),
            cut == cuts,
            &format!("cut {cut} of {cuts}"),
        );
    }
}

#[test]
fn commit_loses_nothing_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (top, base) = (dir.path().join("top.qcow2"), dir.path().join("base.qcow2"));
    // The base is smaller, and has clusters that are compared with none of the top's.
    let (base_file, _) = make(&base, SIZE / 2, "cluster_size=4k", 1);
    let backing = "cluster_size=4k,backing_file=base.qcow2,backing_fmt=qcow2";
    let (top_file, data) = make(&top, SIZE, backing, 2);
    let run = |host: &Host| {
        // Opening is not what is tried here, but may fail as well.
        let open = |number, name: &Path| {
            let options = OpenOptions { no_backing: true, ..OpenOptions::default() };
            block_formats::open_node(host.file(number), &name.display().to_string(), Some("qcow2"), &options)
        };
        let target = open(1, &base)?;
        commit::merge(&[open(0, &top)?], &*target, &Progress::new(false, 1))?;
        target.close()?;
        drop(target);
        let image = open(0, &top)?;
        image.replace_backing(Some(open(1, &base)?))?;
        commit::empty(&*image)
    };
    let verify = |host: &Host, done: bool, what: &str| {
        let (top, base) = (open(host, 0, &top, true), open(host, 1, &base, true));
        sound(&*top, what);
        sound(&*base, what);
        top.replace_backing(Some(base.clone())).unwrap();
        assert!(all(&*top) == data, "{what}: the disk reads otherwise");
        if done {
            assert!(all(&*base) == data, "{what}: the base does not have everything");
        }
    };
    try_all(&[top_file, base_file], &run, &verify);
}

#[test]
fn rebase_loses_nothing_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("top.qcow2");
    let mut old = Random::new(9).data(SIZE);
    std::fs::write(dir.path().join("old.raw"), &old).unwrap();
    old[SIZE / 2..].fill(0);
    let shorter = &old[..SIZE * 3 / 4];
    std::fs::write(dir.path().join("new.raw"), shorter).unwrap();
    let (file, data) = make(&path, SIZE, "cluster_size=4k,backing_file=old.raw,backing_fmt=raw", 3);
    for new in [Some("new.raw"), None] {
        let name = new.map(|n| BackingName { file: n.into(), format: Some("raw".into()) });
        let run = |host: &Host| {
            let below = new.map(|n| {
                let n = dir.path().join(n).display().to_string();
                let read = OpenOptions { read_only: true, ..OpenOptions::default() };
                block_formats::open(&n, Some("raw"), &read).unwrap()
            });
            let shown = path.display().to_string();
            let image =
                block_formats::open_node(host.file(0), &shown, Some("qcow2"), &OpenOptions::default())?;
            rebase::rebase(&*image, below.as_deref(), name.as_ref(), false, &Progress::new(false, 1))?;
            image.close()
        };
        let verify = |host: &Host, done: bool, what: &str| {
            let image = open(host, 0, &path, false);
            sound(&*image, what);
            assert!(all(&*image) == data, "{new:?}, {what}: the disk reads otherwise");
            assert!(!done || image.backing_name() == name, "{what}: {:?}", image.backing_name());
        };
        try_all(std::slice::from_ref(&file), &run, &verify);
    }
}
