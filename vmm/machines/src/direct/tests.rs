use super::*;
use crate::bytes::{le, put};

/// A kernel file with words at a place, and what is read of it.
fn written(words: &[(usize, u32)], len: usize) -> tempfile::NamedTempFile {
    let mut data = vec![0; len];
    for (at, word) in words {
        put(&mut data, *at, (*word).into(), 4);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), data).unwrap();
    file
}

fn read_file(file: &tempfile::NamedTempFile, initrd: Option<&str>) -> Result<Option<Flat>, String> {
    let initrd = initrd.map(Path::new);
    let given = Given { kernel: file.path(), initrd, append: "words for it", top: 64 << 20 };
    read(&given).map_err(|e| e.to_string())
}

const M1: u32 = 0x1bad_b002;

fn multiboot1(flags: u32, addresses: [u32; 5]) -> tempfile::NamedTempFile {
    let mut words = vec![(0x40, M1), (0x44, flags), (0x48, 0u32.wrapping_sub(M1).wrapping_sub(flags))];
    words.extend((0x4c..).step_by(4).zip(addresses));
    written(&words, 0x200)
}

#[test]
fn multiboot_1_by_addresses() {
    let file = multiboot1(0x1_0003, [0x10_0040, 0x10_0000, 0x10_0100, 0x10_1000, 0x10_0060]);
    let module = written(&[], 0x345);
    let list = format!("{} a b,{}", module.path().display(), module.path().display());
    let flat = read_file(&file, Some(&list)).unwrap().unwrap();
    let [kernel] = &flat.kernel[..] else { panic!("one piece") };
    assert_eq!((kernel.offset, kernel.len, kernel.gpa), (0, 0x100, 0x10_0000));
    assert_eq!((flat.blank[0], flat.entry, flat.magic), ((0x10_0100, 0xf00), 0x10_0060, 0x2bad_b002));
    assert_eq!(flat.modules.iter().map(|m| m.gpa).collect::<Vec<_>>(), [0x10_1000, 0x10_2000]);
    // What the kernel reads.
    let mut info = flat.info;
    let memory = |base, size, ram| Memory { base, size, ram };
    info.fill(&[memory(0, 0x9_fc00, true), memory(0x10_0000, 63 << 20, true)], None);
    let at = |address: u64| (address - INFO.start) as usize;
    let table = at(info.address().into());
    let word = |n: usize| le(&info.bytes, table + n, 4);
    assert_eq!((word(0), word(4), word(8)), (0b10_0100_1111, 639, 63 << 10));
    let text = |address: u64| {
        let bytes = &info.bytes[at(address)..];
        String::from_utf8(bytes.iter().take_while(|b| **b != 0).copied().collect()).unwrap()
    };
    assert_eq!(text(word(16)), format!("{} words for it", file.path().display()));
    assert_eq!(word(20), 2);
    let list = at(word(24));
    assert_eq!((le(&info.bytes, list, 4), le(&info.bytes, list + 4, 4)), (0x10_1000, 0x10_1345));
    assert_eq!(text(le(&info.bytes, list + 8, 4)), format!("{} a b", module.path().display()));
    let map = at(word(48));
    assert_eq!((word(44), le(&info.bytes, map, 4), le(&info.bytes, map + 12, 8)), (48, 20, 0x9_fc00));
    assert_eq!((le(&info.bytes, map + 24, 4), le(&info.bytes, map + 28, 8)), (20, 0x10_0000));
}

#[test]
fn multiboot_2_by_addresses() {
    const M2: u32 = 0xe852_50d6;
    let header = |tags: &[u32]| {
        let len = 16 + 4 * tags.len() as u32;
        let mut words = vec![(0x80, M2), (0x88, len), (0x8c, 0u32.wrapping_sub(M2).wrapping_sub(len))];
        words.extend((0x90..).step_by(4).zip(tags.iter().copied()));
        written(&words, 0x400)
    };
    let addresses = [2, 24, 0x20_0080, 0x20_0000, 0, 0];
    let file = header(&[&addresses[..], &[3, 12, 0x20_0090, 0], &[0, 8]].concat());
    let flat = read_file(&file, None).unwrap().unwrap();
    assert_eq!((flat.kernel[0].len, flat.entry, flat.magic), (0x400, 0x20_0090, 0x36d7_6289));
    let mut info = flat.info;
    info.fill(&[Memory { base: 0, size: 0x9_fc00, ram: true }], None);
    let start = (u64::from(info.address()) - INFO.start) as usize;
    let (total, mut at, mut tags) = (le(&info.bytes, start, 4) as usize, start + 8, Vec::new());
    while at < start + total {
        let (kind, size) = (le(&info.bytes, at, 4), le(&info.bytes, at + 4, 4) as usize);
        tags.push((kind, size));
        at += size.next_multiple_of(8);
    }
    assert_eq!(at, start + total, "the end is where the whole ends");
    assert_eq!(tags, [(1, 21), (2, 13), (4, 16), (0xffff_0000, 28), (6, 40), (0, 8)]);

    for (tags, wanted) in [
        (&[1, 12, 99, 0, 0, 8][..], "unknown information 99"),
        (&[5, 20, 0, 0, 0, 0, 0, 8], "asks for a frame buffer"),
        (&[77, 8, 0, 8], "the unknown tag 77"),
        (&[4, 12, 1, 0], "has no end"),
        (&[0, 8], "says not where it is to be loaded"),
    ] {
        let error = read_file(&header(tags), None).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn what_cannot_be_started_is_named() {
    let good = [0x10_0040, 0x10_0000, 0x10_0100, 0x10_1000, 0x10_0060];
    for (flags, addresses, wanted) in [
        (0x1_0008, good, "unknown features 0x8"),
        (0, good, "says not where it is to be loaded"),
        (0x1_0000, [0x10_0040, 0x10_0000, 0x10_0300, 0, 0], "cut off"),
        (0x1_0000, [0x10_0000, 0x10_0040, 0, 0, 0], "contradict"),
        (0x1_0000, [0x10_0000, 0, 0, 0, 0], "contradict"),
        (0x1_0000, [0x10_0040, 0x10_0000, 0x10_0100, 0x10_0080, 0], "contradict"),
        (0x1_0000, [0x1_0040, 0x1_0000, 0, 0, 0], "a segment lies at 0x10000"),
        (0x1_0000, [0x10_0040, 0x10_0000, 0, 0x800_0000, 0], "do not fit into 64 MiB"),
        (0x1_0000, [0xffff_ffc0, 0xffff_ff80, 0, 0, 0], "do not fit"),
    ] {
        let error = read_file(&multiboot1(flags, addresses), None).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    assert!(read_file(&written(&[], 100), None).unwrap().is_none());
    let file = multiboot1(0x1_0000, good);
    assert!(read_file(&file, Some("a,,b")).unwrap_err().contains("a,b"));
    assert!(read_file(&file, Some(",")).unwrap_err().contains("expected FILE WORDS"));
}
