//! A directory as a FAT disk: read and written with mtools, checked by fsck.fat, and attacked.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use block_formats::{Image, OpenOptions};
use common::*;

const SECTOR: usize = 512;

/// Everything in a directory: relative path to contents, nothing for a directory.
fn contents(dir: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    fn walk(root: &Path, at: &Path, out: &mut BTreeMap<String, Option<Vec<u8>>>) {
        for e in std::fs::read_dir(at).unwrap() {
            let e = e.unwrap();
            let name = e.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if e.file_type().unwrap().is_dir() {
                out.insert(name, None);
                walk(root, &e.path(), out);
            } else if e.file_type().unwrap().is_file() {
                out.insert(name, Some(std::fs::read(e.path()).unwrap()));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(dir, dir, &mut out);
    out
}

fn fill(dir: &Path) {
    let mut random = Random::new(8);
    std::fs::create_dir_all(dir.join("sub/inner directory")).unwrap();
    std::fs::write(dir.join("README.TXT"), "hello\n").unwrap();
    std::fs::write(dir.join("a long name with spaces.text"), random.data(70_000)).unwrap();
    std::fs::write(dir.join("sub/inner directory/data.bin"), random.data(123_457)).unwrap();
    std::fs::write(dir.join("sub/lower.txt"), "lower\n").unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    std::fs::write(dir.join("exact.bin"), random.data(65_536)).unwrap();
    for i in 0..40 {
        std::fs::write(dir.join(format!("sub/file number {i}.dat")), format!("{i}\n").repeat(i)).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
}

fn open_fat(words: &str, dir: &Path) -> Arc<dyn Image> {
    let read_only = !words.contains("rw");
    let options = OpenOptions { read_only, ..OpenOptions::default() };
    patiently(|| block_formats::open(&format!("fat:{words}{}", text(dir)), None, &options))
}

/// Bytes of a volume that anything is in; the rest is zero.
const USED: u64 = 3 << 20;

/// The used bytes of the volume, which follows the partition table.
fn volume(image: &dyn Image, words: &str) -> Vec<u8> {
    let start = if words.contains("floppy") { 0 } else { 63 * SECTOR as u64 };
    read(image, start, (image.size() - start).min(USED) as usize)
}

/// Puts a volume into a file, as long as it is.
fn store(path: &Path, volume: &[u8], size: u64) {
    std::fs::write(path, volume).unwrap();
    let start = if size > USED { 63 * SECTOR as u64 } else { 0 };
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(size - start).unwrap();
}

fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|p| run("which", &[p]).is_err());
    if let Some(p) = missing {
        println!("SKIPPED: {p} is not installed");
    }
    missing.is_none()
}

fn mtools(program: &str, image: &Path, args: &[&str]) {
    let mut all = vec!["-i", text(image)];
    all.extend(args);
    run(program, &all).unwrap();
}

/// What mtools copies out of a volume.
fn copied(image: &Path, to: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    std::fs::create_dir(to).unwrap();
    mtools("mcopy", image, &["-s", "-n", "-Q", "::*", text(to)]);
    contents(to)
}

#[test]
fn directories_are_read_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fill(&source);
    let expected = contents(&source);
    for words in ["", "12:", "32:", "floppy:", "floppy:12:", "rw:"] {
        let image = open_fat(words, &source);
        assert_eq!(
            image.write(0, &[std::io::IoSlice::new(&[0; 512])], false).is_err(),
            !words.contains("rw")
        );
        let volume = volume(&*image, words);
        check_status(&*image, &read(&*image, 0, image.size().min(USED) as usize));
        let size = image.size();
        let skipped =
            image.details().specific.iter().any(|(k, v)| *k == "not-shown" && v.to_string().contains("link"));
        assert!(skipped || cfg!(not(unix)));
        drop(image);
        assert_eq!(contents(&source), expected, "{words}");
        if !have(&["mcopy", "fsck.fat"]) {
            return;
        }
        let file = dir.path().join("volume");
        store(&file, &volume, size);
        run("fsck.fat", &["-n", text(&file)]).unwrap();
        let out = dir.path().join(format!("out{words}"));
        assert!(copied(&file, &out) == expected, "{words}: what mtools reads");
    }
}

/// Writes what differs into an image, as a guest would.
fn write_back(image: &dyn Image, words: &str, new: &[u8]) {
    let start = if words.contains("floppy") { 0 } else { 63 * SECTOR };
    let old = volume(image, words);
    for (i, (a, b)) in old.chunks(SECTOR).zip(new.chunks(SECTOR)).enumerate() {
        if a != b {
            write(image, (start + i * SECTOR) as u64, b);
        }
    }
}

#[test]
fn what_mtools_writes_gets_into_the_directory() {
    if !have(&["mcopy", "mdel", "mren", "mmd", "mdeltree", "fsck.fat"]) {
        return;
    }
    for words in ["rw:", "rw:floppy:", "rw:32:", "rw:12:"] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fill(&source);
        let image = open_fat(words, &source);
        let file = dir.path().join("volume");
        let mut random = Random::new(21);
        for round in 0..5 {
            store(&file, &volume(&*image, words), image.size());
            let new = dir.path().join("new");
            std::fs::write(&new, random.data(90_000)).unwrap();
            match round {
                0 => {
                    mtools("mcopy", &file, &[text(&new), "::added by the guest.bin"]);
                    mtools("mcopy", &file, &["-o", text(&new), "::README.TXT"]);
                    mtools("mdel", &file, &["::empty", "::sub/file number 7.dat"]);
                }
                1 => {
                    mtools("mmd", &file, &["::made", "::made/below"]);
                    mtools("mcopy", &file, &[text(&new), "::made/below/x"]);
                    mtools("mren", &file, &["::exact.bin", "::renamed with a long name.bin"]);
                }
                2 => {
                    mtools("mren", &file, &["::sub", "::moved directory"]);
                    mtools("mcopy", &file, &["-o", text(&new), "::moved directory/lower.txt"]);
                }
                3 => mtools("mdeltree", &file, &["::moved directory/inner directory", "::made"]),
                _ => {
                    mtools("mdel", &file, &["::a long name with spaces.text"]);
                    mtools("mcopy", &file, &[text(&new), "::taking its place.bin"]);
                }
            }
            let mut changed = std::fs::read(&file).unwrap();
            changed.truncate(USED as usize);
            write_back(&*image, words, &changed);
            image.flush().unwrap();
            assert!(
                image.details().specific.iter().all(|(k, _)| *k != "not-written-back"),
                "{:?}",
                image.details()
            );
            let out = dir.path().join(format!("out{round}"));
            assert!(contents(&source) == copied(&file, &out), "{words} round {round}");
            // What the guest reads is still what it wrote.
            same(&volume(&*image, words), &changed, words);
        }
        image.close().unwrap();
        drop(image);
        let expected = contents(&source);
        let image = open_fat(words, &source);
        store(&file, &volume(&*image, words), image.size());
        run("fsck.fat", &["-n", text(&file)]).unwrap();
        assert!(copied(&file, &dir.path().join("again")) == expected, "{words} reopened");
    }
}

/// Where a short name is in a volume.
fn entry(volume: &[u8], name: &[u8; 11]) -> usize {
    (0..volume.len()).step_by(32).find(|at| volume[*at..].starts_with(name)).unwrap()
}

#[test]
fn a_hostile_guest_neither_escapes_nor_loses_files() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fill(&source);
    let expected = contents(&source);
    let outside = contents(dir.path()).len();
    type Attack = (&'static str, fn(&mut Vec<u8>));
    let attacks: &[Attack] = &[
        ("the root wiped", |v| {
            let at = entry(v, b"README  TXT");
            v[at / SECTOR * SECTOR..][..16 * SECTOR].fill(0);
        }),
        ("a new file system", |v| v[13] ^= 3),
        ("all zero", |v| v[..200 * SECTOR].fill(0)),
        ("the tables wiped", |v| v[SECTOR..40 * SECTOR].fill(0)),
        ("a path as a name", |v| {
            let at = entry(v, b"README  TXT");
            v[at..at + 11].copy_from_slice(b"../EVIL TXT");
        }),
        ("dots as a name", |v| {
            let at = entry(v, b"README  TXT");
            v[at..at + 11].copy_from_slice(b"..         ");
        }),
        ("a device as a name", |v| {
            let at = entry(v, b"README  TXT");
            v[at..at + 11].copy_from_slice(b"CON     TXT");
        }),
        ("a file as long as four gigabytes", |v| {
            let at = entry(v, b"README  TXT");
            v[at + 28..at + 32].fill(0xff);
        }),
        ("two files in one place", |v| {
            let (from, to) = (entry(v, b"ALONGN~1TEX"), entry(v, b"README  TXT"));
            let first = v[from + 26..from + 28].to_vec();
            v[to + 26..to + 28].copy_from_slice(&first);
        }),
        ("a directory in itself", |v| {
            let at = entry(v, b"SUB~1      ");
            let first = v[at + 26..at + 28].to_vec();
            let inner = entry(v, b"INNERD~1   ");
            v[inner + 26..inner + 28].copy_from_slice(&first);
        }),
        ("a chain in a circle", |v| {
            let at = entry(v, b"ALONGN~1TEX");
            let first = usize::from(u16::from_le_bytes([v[at + 26], v[at + 27]]));
            let own = (first as u16).to_le_bytes();
            v[SECTOR + first * 2..][..2].copy_from_slice(&own);
        }),
        ("a file that is a directory", |v| {
            let at = entry(v, b"README  TXT");
            v[at + 11] = 0x10;
            v[at + 28..at + 32].fill(0);
        }),
    ];
    for (what, attack) in attacks {
        let image = open_fat("rw:", &source);
        let good = volume(&*image, "");
        let mut bad = good.clone();
        attack(&mut bad);
        assert!(bad != good, "{what}");
        write_back(&*image, "", &bad);
        image.flush().unwrap();
        let waits =
            |image: &dyn Image| image.details().specific.iter().any(|(k, _)| *k == "not-written-back");
        assert!(waits(&*image), "{what}: is not a volume whose changes are written back");
        assert!(contents(&source) == expected, "{what}: the directory has changed");
        assert!(image.close().is_err(), "{what}: the end says so");
        // Once the volume is whole again, all is well.
        write_back(&*image, "", &good);
        image.flush().unwrap();
        assert!(!waits(&*image), "{what}: {:?}", image.details());
        drop(image);
        assert!(contents(&source) == expected, "{what}: the directory has changed");
    }
    let mut random = Random::new(99);
    for _ in 0..if cfg!(feature = "long") { 2000 } else { 25 } {
        let image = open_fat("rw:", &source);
        for _ in 0..random.below(5) + 1 {
            // Boot sector, tables and directories.
            let area = [600, 120_000, 600_000][random.below(3) as usize];
            let at = 63 * 512 + random.below(area);
            write(&*image, at, &random.data(8));
        }
        let _ = image.flush();
        let _ = image.close();
    }
    // Some of these were changes like any other, but all stayed inside.
    let inside = contents(&source).len();
    assert_eq!(contents(dir.path()).len() - inside, outside - expected.len());
}

#[test]
fn what_others_change_meanwhile_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fill(&source);
    let image = open_fat("rw:", &source);
    let mut v = volume(&*image, "");
    let at = entry(&v, b"README  TXT");
    v[at + 28] = 3;
    std::fs::write(source.join("README.TXT"), "from outside").unwrap();
    write_back(&*image, "", &v);
    let e = image.flush().unwrap_err().to_string();
    assert!(e.contains("README.TXT") && e.contains("changed by somebody else"), "{e}");
    assert_eq!(std::fs::read(source.join("README.TXT")).unwrap(), b"from outside");
    let second = block_formats::open(&format!("fat:rw:{}", text(&source)), None, &OpenOptions::default());
    assert!(matches!(second, Err(block::BlockError::InUse { .. })) || cfg!(not(unix)));
}

#[test]
fn mistakes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let fails = |name: String| {
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        block_formats::open(&name, None, &options).map(drop).unwrap_err().to_string()
    };
    let path = text(dir.path());
    assert!(fails(format!("fat:{path}/file")).contains("expected a directory"));
    assert!(fails(format!("fat:floppy:16:{path}")).contains("fat-type=16"));
    let json = format!(r#"json:{{"driver":"vvfat","dir":"{path}","label":"a label too long"}}"#);
    assert!(fails(json).contains("label=a label too long"));
    std::fs::write(dir.path().join("big"), vec![1; 4 << 20]).unwrap();
    assert!(fails(format!("fat:floppy:{path}")).contains("do not fit"));
}

/// Whenever the power fails, a file in the directory is the old one or the new one.
#[test]
fn a_file_is_whole_at_every_moment() {
    const LEN: usize = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.bin");
    std::fs::write(&path, vec![1; LEN]).unwrap();
    let image = open_fat("rw:", dir.path());
    let before = read(&*image, 0, USED as usize);
    let at = before.windows(SECTOR).position(|w| w.iter().all(|b| *b == 1)).unwrap() as u64;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let watcher = s.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let data = std::fs::read(&path).unwrap();
                let first = data[0];
                assert!(data.len() == LEN && data.iter().all(|b| *b == first), "{first}: {}", data.len());
                seen.insert(first);
            }
            seen.len()
        });
        for version in 2..60 {
            write(&*image, at, &vec![version; LEN]);
            image.flush().unwrap();
            assert_eq!(std::fs::read(&path).unwrap()[LEN - 1], version);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 1);
    });
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["big.bin"], "nothing is left beside it");
}
