//! A disk as a file of the host. Needs `/dev/fuse` and the right to mount; without them it says so and does nothing.
#![cfg(target_os = "linux")]

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use block::MemoryNode;
use block_export::{Export, FuseExport, FuseOptions};

/// The export, unless this host has no such thing.
fn mounted(path: &std::path::Path, read_only: bool, growable: bool) -> Option<FuseExport> {
    let node = Arc::new(MemoryNode::from_vec("m", (0..65536u32).map(|i| (i % 253) as u8).collect()));
    let options = FuseOptions { growable, ..FuseOptions::default() };
    match FuseExport::mount(path, Export::new("e", node, read_only), &options) {
        Ok(mounted) => Some(mounted),
        Err(e) => {
            let text = e.to_string();
            assert!(["/dev/fuse", "not permitted", "denied"].iter().any(|w| text.contains(w)), "{text}");
            eprintln!("skipped: {text}");
            None
        }
    }
}

#[test]
fn a_disk_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, "covered").unwrap();
    let Some(mounted) = mounted(&path, false, false) else { return };
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 65536);
    let mut back = vec![0; 5000];
    file.read_exact_at(&mut back, 1001).unwrap();
    assert!(back.iter().enumerate().all(|(i, b)| *b == ((i + 1001) % 253) as u8));
    file.write_all_at(b"here", 65532).unwrap();
    file.sync_all().unwrap();
    file.read_exact_at(&mut back[..4], 65532).unwrap();
    assert_eq!(&back[..4], b"here");
    assert!(file.write_all_at(b"beyond", 65532).is_err(), "it does not grow");
    assert!(file.write_at(b"beyond", 65536).is_err());
    assert_eq!(std::fs::read(&path).unwrap().len(), 65536);
    drop(file);
    drop(mounted);
    assert_eq!(std::fs::read(&path).unwrap(), b"covered");
}

#[test]
fn what_is_not_for_writing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let options = FuseOptions::default();
    let export = || Export::new("e", Arc::new(MemoryNode::new("m", 4096)), false);
    let text = FuseExport::mount(&path, export(), &options).err().unwrap().to_string();
    assert!(text.contains("disk: No such file"), "{text}");
    let text = FuseExport::mount(dir.path(), export(), &options).err().unwrap().to_string();
    assert!(text.contains("expected a regular file"), "{text}");
    std::fs::write(&path, "covered").unwrap();
    let Some(_mounted) = mounted(&path, true, false) else { return };
    assert!(std::fs::OpenOptions::new().write(true).open(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap().len(), 65536);
}
