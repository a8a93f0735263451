//! The file protocol, by every way to the host.

use super::*;

#[test]
fn grows_reads_zero_beyond_and_knows_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let node = FileNode::create(&path, FileOptions::default()).unwrap();
    node.write(1 << 20, &[IoSlice::new(&[1; 3]), IoSlice::new(&[2; 4])], false).unwrap();
    assert_eq!(node.size(), (1 << 20) + 7);
    let mut data = [9; 16];
    node.read(1 << 20, &mut [IoSliceMut::new(&mut data)]).unwrap();
    assert_eq!(data, [1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let map = node.status(0..2 << 20).unwrap();
    assert_eq!((map[0].range.start, map.last().unwrap().range.end), (0, 2 << 20));
    assert!(map.windows(2).all(|w| w[0].range.end == w[1].range.start));
    #[cfg(target_os = "linux")]
    assert!(map[0].zero && map.iter().any(|e| e.allocated) && map.last().unwrap().zero);
    node.write_zeroes(1 << 20, 8, true).unwrap();
    assert_eq!(node.size(), (1 << 20) + 8);
    node.reserve(0, 4 << 20).unwrap();
    assert_eq!(node.size(), 4 << 20);
    assert!(node.allocated_size().unwrap() >= 4 << 20);
}

#[test]
fn a_file_in_use_is_not_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, [1; 100]).unwrap();
    let reader = FileNode::open(&path, FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    assert!(matches!(FileNode::create(&path, FileOptions::default()), Err(BlockError::InUse { .. })));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 100);
    drop(reader);
    let writer = FileNode::create(&path, FileOptions::default()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    let look = FileOptions { read_only: true, sharing: Sharing::All, ..FileOptions::default() };
    FileNode::open(&path, look).unwrap();
    drop(writer);
}

/// All that is done to a file, by every way to the host, against the same in memory.
#[test]
#[cfg(target_os = "linux")]
fn every_way_to_the_host_does_the_same() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for direct in [false, true] {
        for (name, aio) in Aio::NAMES {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            let options = FileOptions { direct, aio, ..FileOptions::default() };
            if aio == Aio::Native && !direct {
                let text = FileNode::create(&path, options).unwrap_err().to_string();
                assert!(text.contains("aio=native needs cache.direct=on"), "{text}");
                continue;
            }
            let node = match FileNode::create(&path, options) {
                Err(e) if e.to_string().contains("no O_DIRECT") => {
                    eprintln!("skipped: {e}");
                    continue;
                }
                other => other.unwrap(),
            };
            let mut model: Vec<u8> = Vec::new();
            for round in 0..400_u64 {
                let offset = if next(3) == 0 { next(40) * 4096 } else { next(160_000) };
                let len = if next(3) == 0 { 4096 * (1 + next(8)) } else { 1 + next(20_000) };
                let (start, end) = (offset as usize, (offset + len) as usize);
                match next(8) {
                    0..4 => {
                        let data: Vec<u8> = (0..len).map(|i| (i * 7 + round) as u8).collect();
                        let cut = next(len) as usize;
                        let parts = [IoSlice::new(&data[..cut]), IoSlice::new(&data[cut..])];
                        node.write(offset, &parts, next(4) == 0).unwrap();
                        if model.len() < end {
                            model.resize(end, 0);
                        }
                        model[start..end].copy_from_slice(&data);
                    }
                    4 => {
                        node.write_zeroes(offset, len, next(2) == 0).unwrap();
                        if model.len() < end {
                            model.resize(end, 0);
                        }
                        model[start..end].fill(0);
                    }
                    5 if next(8) == 0 => {
                        node.resize(offset).unwrap();
                        model.resize(start, 0);
                    }
                    5 => node.flush().unwrap(),
                    _ => {
                        let mut back = vec![1; len as usize];
                        let cut = next(len) as usize;
                        let (a, b) = back.split_at_mut(cut);
                        node.read(offset, &mut [IoSliceMut::new(a), IoSliceMut::new(b)]).unwrap();
                        let there = |i: usize| model.get(start + i).copied().unwrap_or(0);
                        let wrong = back.iter().enumerate().find(|(i, b)| there(*i) != **b);
                        assert_eq!(wrong, None, "{name} direct={direct} {offset}+{len}");
                    }
                }
                assert_eq!(node.size(), model.len() as u64, "{name} direct={direct}");
            }
            drop(node);
            assert!(std::fs::read(&path).unwrap() == model, "{name} direct={direct}");
        }
    }
}

/// Many at a time: parts of units that lie beside each other are not lost.
#[test]
#[cfg(target_os = "linux")]
fn parts_of_one_unit_are_written_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    for aio in [Aio::Threads, Aio::IoUring, Aio::Native] {
        let options = FileOptions { direct: true, aio, ..FileOptions::default() };
        let node = match FileNode::create(dir.path().join("f"), options) {
            Err(e) if e.to_string().contains("no O_DIRECT") => return eprintln!("skipped: {e}"),
            other => other.unwrap(),
        };
        node.resize(4096).unwrap();
        std::thread::scope(|s| {
            for t in 0..4_u8 {
                let node = &node;
                s.spawn(move || {
                    for i in 0..64_u64 {
                        node.write(i * 64 + u64::from(t) * 16, &[IoSlice::new(&[t + 1; 16])], false).unwrap();
                    }
                });
            }
        });
        let mut all = vec![0; 4096];
        node.read(0, &mut [IoSliceMut::new(&mut all)]).unwrap();
        assert!(all.iter().enumerate().all(|(i, b)| usize::from(*b) == i / 16 % 4 + 1), "{}", aio.name());
    }
}
