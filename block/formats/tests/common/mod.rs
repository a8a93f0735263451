//! What the tests of all formats share: random data, the tools of QEMU, and images held against a plain copy.
#![allow(dead_code, clippy::allow_attributes, reason = "every test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use block_formats::{Image, OpenOptions, Options, Secrets};
pub(crate) use block_testing::Random;

/// Runs a program; returns what it printed, or what it said when it failed.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(text) } else { Err(format!("{program} {args:?}: {text}")) }
}

/// Whether QEMU's tools are there; if not, says so.
pub(crate) fn have_qemu() -> bool {
    let there = run("qemu-img", &["--version"]).is_ok();
    if !there {
        println!("SKIPPED: qemu-img is not installed");
    }
    there
}

pub(crate) fn qemu_img(args: &[&str]) -> String {
    run("qemu-img", args).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Tries again while a program that another test is just starting still holds our descriptors.
pub(crate) fn patiently<T>(mut what: impl FnMut() -> Result<T, block::BlockError>) -> T {
    let mut tries = 0;
    loop {
        match what() {
            Err(block::BlockError::InUse { .. }) if tries < 200 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return other.unwrap_or_else(|e| panic!("{e}")),
        }
    }
}

/// The passphrase of images that are encrypted, as secret `s`.
pub(crate) const PASSPHRASE: &str = "geheim";
/// The same for QEMU's tools.
pub(crate) const OBJECT: &str = "--object=secret,id=s,data=geheim";

pub(crate) fn secrets() -> Secrets {
    let mut secrets = Secrets::default();
    secrets.set("s", PASSPHRASE.as_bytes());
    secrets
}

/// Options that open any image, encrypted or not.
pub(crate) fn open_options() -> OpenOptions {
    let keys = ["key-secret", "encrypt.key-secret"].map(|k| (k.to_owned(), "s".to_owned()));
    OpenOptions { secrets: secrets(), keys: keys.into(), ..OpenOptions::default() }
}

/// An image's name for QEMU's tools, with its format, and its secret if `options` encrypt it.
pub(crate) fn named(path: &Path, format: &str, options: &str) -> String {
    let key = match (format, options.contains("encrypt.")) {
        ("luks", _) => r#""key-secret":"s","#,
        (_, true) => r#""encrypt.key-secret":"s","#,
        _ => "",
    };
    format!(r#"json:{{{key}"driver":"{format}","file":{{"driver":"file","filename":"{}"}}}}"#, text(path))
}

/// Runs `qemu-img` with what may have to be encrypted.
pub(crate) fn qemu_img_with_secret(args: &[&str]) -> String {
    let mut all = vec![args[0], OBJECT];
    all.extend(&args[1..]);
    qemu_img(&all)
}

pub(crate) fn open(path: &Path, format: &str) -> Arc<dyn Image> {
    patiently(|| block_formats::open(text(path), Some(format), &open_options()))
}

pub(crate) fn open_read(path: &Path, format: Option<&str>) -> Arc<dyn Image> {
    let options = OpenOptions { read_only: true, ..open_options() };
    patiently(|| block_formats::open(text(path), format, &options))
}

pub(crate) fn create(path: &Path, format: &str, size: u64, options: &str) {
    let mut options = Options::parse(options).unwrap();
    options.set_secrets(&secrets());
    patiently(|| block_formats::create(format, path, None, Some(size), &options));
}

pub(crate) fn read(image: &dyn Image, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xee; len];
    image.read(offset, &mut [IoSliceMut::new(&mut data)]).unwrap();
    data
}

pub(crate) fn write(image: &dyn Image, offset: u64, data: &[u8]) {
    image.write(offset, &[IoSlice::new(data)], false).unwrap();
}

pub(crate) fn all(image: &dyn Image) -> Vec<u8> {
    read(image, 0, image.size() as usize)
}

/// Where two pieces of data differ first.
#[track_caller]
pub(crate) fn same(a: &[u8], b: &[u8], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: length");
    if let Some(at) = (0..a.len()).find(|&i| a[i] != b[i]) {
        panic!("{what}: differs at {at:#x}: {:#04x}, expected {:#04x}", a[at], b[at]);
    }
}

/// Status has to agree with the contents.
pub(crate) fn check_status(image: &dyn Image, model: &[u8]) {
    let map = image.status(0..model.len() as u64).unwrap();
    assert_eq!(map.first().map_or(0, |e| e.range.start), 0);
    assert_eq!(map.last().map_or(model.len() as u64, |e| e.range.end), model.len() as u64);
    for pair in map.windows(2) {
        assert_eq!(pair[0].range.end, pair[1].range.start);
    }
    for e in map.iter().filter(|e| e.zero) {
        assert!(model[e.range.start as usize..e.range.end as usize].iter().all(|b| *b == 0), "{e:?}");
    }
}
