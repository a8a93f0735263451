//! Tests of the chip: registers, modes, windows, every raster operation, every kind of BitBLT.

use ::pci::Pci;
use ::pci::test_bench::PciBench;
use device::test_bench::{Rng, check, scramble};

use super::super::render::Pixels;
use super::rop::OPERATIONS;
use super::*;

/// Region numbers on the bench: configuration, register 1, then the fixed ones.
const WINDOW_AT: usize = 2;
const PORTS_AT: usize = 3;
const SOURCE_AT: usize = 4;

fn bench() -> PciBench {
    let b = PciBench::new(CirrusConfig::default());
    b.enable();
    port(&b, 0x3c2, 0x67);
    sequencer(&b, &[(6, 0x12)]);
    b
}

fn port(b: &PciBench, port: u16, value: u8) {
    b.write(PORTS_AT, u64::from(port - PORTS.0), 1, value.into());
}

fn get(b: &PciBench, port: u16) -> u8 {
    b.read(PORTS_AT, u64::from(port - PORTS.0), 1) as u8
}

fn indexed(b: &PciBench, at: u16, values: &[(u8, u8)]) {
    for (index, value) in values {
        port(b, at, *index);
        port(b, at + 1, *value);
    }
}

fn sequencer(b: &PciBench, values: &[(u8, u8)]) {
    indexed(b, 0x3c4, values);
}

fn graphics(b: &PciBench, values: &[(u8, u8)]) {
    indexed(b, 0x3ce, values);
}

fn chip<R>(b: &PciBench, f: impl FnOnce(&mut Cirrus) -> R) -> R {
    b.cell().with(|d| f(d.as_any().unwrap().downcast_mut().unwrap()))
}

fn memory(b: &PciBench, at: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    chip(b, |c| c.vga.frame_buffer().read(at, &mut data).unwrap());
    data
}

fn put(b: &PciBench, at: u64, data: &[u8]) {
    chip(b, |c| c.vga.frame_buffer().write(at, data).unwrap());
}

/// 640 by 480 of so many bits, by the sequencer's register 7 and the hidden one.
fn packed_mode(b: &PciBench, depth: u8, hidden: u8) {
    sequencer(b, &[(1, 1), (2, 15), (4, 0x0e), (7, depth)]);
    (0..4).for_each(|_| {
        get(b, 0x3c6);
    });
    port(b, 0x3c6, hidden);
    graphics(b, &[(5, 0x40), (6, 5), (0x0b, 0)]);
    indexed(
        b,
        0x3d4,
        &[(0x11, 0), (1, 79), (7, 0x3e), (9, 0x40), (0x12, 0xdf), (0x13, 160), (0x17, 0xe3), (0x18, 0xff)],
    );
    get(b, 0x3da);
    port(b, 0x3c0, 0x20);
}

fn picture(b: &PciBench) -> Surface {
    let mut surface = Surface::default();
    chip(b, |c| c.refresh(&mut surface, true));
    surface
}

/// A BitBLT of `width` bytes by `height` lines, both pitches 64 bytes.
fn blit(b: &PciBench, width: u16, height: u16, to: u32, from: u32, mode: u8, more: &[(u8, u8)]) {
    let [w, h] = [width - 1, height - 1].map(u16::to_le_bytes);
    let ([d0, d1, d2, _], [s0, s1, s2, _]) = (to.to_le_bytes(), from.to_le_bytes());
    graphics(
        b,
        &[
            (0x20, w[0]),
            (0x21, w[1]),
            (0x22, h[0]),
            (0x23, h[1]),
            (0x24, 64),
            (0x25, 0),
            (0x26, 64),
            (0x27, 0),
        ],
    );
    graphics(b, &[(0x28, d0), (0x29, d1), (0x2a, d2), (0x2c, s0), (0x2d, s1), (0x2e, s2), (0x2f, 0)]);
    graphics(b, &[(0x30, mode), (0x32, 0x0d), (0x33, 0)]);
    graphics(b, more);
    graphics(b, &[(0x31, 2)]);
}

#[test]
fn identity_and_registers() {
    let b = bench();
    assert_eq!(b.config_read(0, 4), 0x00b8_1013);
    port(&b, 0x3c4, 6);
    assert_eq!(get(&b, 0x3c5), 0x12);
    sequencer(&b, &[(6, 0)]);
    assert_eq!(get(&b, 0x3c5), 0x0f);
    port(&b, 0x3d4, 0x27);
    assert_eq!(get(&b, 0x3d5), 0xb8);
    port(&b, 0x3c4, 0x0f);
    assert_eq!(get(&b, 0x3c5), 0x98, "4 MiB");
    // The hidden register behind the mask.
    port(&b, 0x3c6, 0x7f);
    (0..4).for_each(|_| assert_eq!(get(&b, 0x3c6), 0x7f));
    port(&b, 0x3c6, 0xc5);
    (0..4).for_each(|_| assert_eq!(get(&b, 0x3c6), 0x7f));
    assert_eq!((get(&b, 0x3c6), get(&b, 0x3c6)), (0xc5, 0x7f));
    // Colours of the cursor in place of the palette's.
    sequencer(&b, &[(0x12, 2)]);
    port(&b, 0x3c8, 15);
    (1..4).for_each(|v| port(&b, 0x3c9, v));
    sequencer(&b, &[(0x12, 0)]);
    port(&b, 0x3c7, 15);
    assert_eq!(get(&b, 0x3c9), 0);
    assert_eq!(chip(&b, |c| c.x.colours[45..48].to_vec()), [1, 2, 3]);
    // The same registers in memory.
    b.bar_write(1, 0x100, 4, 0x4433_2211);
    port(&b, 0x3ce, 0x12);
    assert_eq!((get(&b, 0x3cf), b.bar_read(1, 0x103, 1)), (0x33, 0x44));
    b.bar_write(1, 4, 1, 2);
    assert_eq!(get(&b, 0x3c4), 2);
}

#[test]
fn modes_of_all_depths() {
    let b = bench();
    port(&b, 0x3c8, 7);
    [0x3f, 0, 0x3f].iter().for_each(|v| port(&b, 0x3c9, *v));
    for (depth, hidden, bytes, expected) in [
        (1, 0, vec![7], 0x00ff_00ff),
        (7, 0, vec![0x1f, 0x7c], 0x00ff_00ff),
        (7, 1, vec![0x1f, 0xf8], 0x00ff_00ff),
        (5, 5, vec![3, 2, 1], 0x0001_0203),
        (9, 5, vec![3, 2, 1, 0], 0x0001_0203),
    ] {
        packed_mode(&b, depth, hidden);
        put(&b, 0, &bytes);
        put(&b, 1280 * 479, &bytes);
        let p = picture(&b);
        assert_eq!((p.width, p.height), (640, 480), "{depth}");
        assert_eq!((p.pixels[0], p.pixels[479 * 640]), (expected, expected), "{depth}");
        put(&b, 1280 * 479, &[0; 4]);
    }
    // Panned by the additional bits of the start, wider lines.
    indexed(&b, 0x3d4, &[(0x1b, 0x1d), (0x1d, 0x80)]);
    let extension = chip(&b, |c| c.vga.extension).unwrap();
    assert_eq!(extension.start, (1 << 16 | 3 << 17 | 1 << 19) * 4);
    assert_eq!((extension.pitch, extension.pixels), ((160 + 256) * 8, Pixels::Direct(32)));
    sequencer(&b, &[(7, 0)]);
    assert_eq!(chip(&b, |c| c.vga.extension), None);
}

#[test]
fn banks_and_write_modes() {
    let b = bench();
    packed_mode(&b, 1, 0);
    graphics(&b, &[(9, 0x10)]);
    b.write(WINDOW_AT, 0x8004, 2, 0xbbaa);
    assert_eq!(memory(&b, 0x1_8004, 2), [0xaa, 0xbb]);
    // Two banks, in steps of 16 KiB.
    graphics(&b, &[(0x0b, 0x21), (9, 1), (0x0a, 2)]);
    b.write(WINDOW_AT, 1, 1, 1);
    b.write(WINDOW_AT, 0x8001, 1, 2);
    assert_eq!((memory(&b, 0x4001, 1), memory(&b, 0x8001, 1)), (vec![1], vec![2]));
    assert_eq!(b.read(WINDOW_AT, 0x8001, 1), 2);
    // Bits to pixels of 8 and of 16 bits.
    graphics(&b, &[(0x0b, 6), (9, 0), (5, 5), (0, 0x0b), (1, 0x1f)]);
    b.write(WINDOW_AT, 2, 1, 0xa0);
    assert_eq!(memory(&b, 16, 4), [0x1f, 0x0b, 0x1f, 0x0b]);
    graphics(&b, &[(0x0b, 0x14), (5, 4), (0x11, 0x22)]);
    put(&b, 32, &[9; 16]);
    b.write(WINDOW_AT, 2, 1, 0x40);
    assert_eq!(memory(&b, 32, 6), [9, 9, 0x1f, 0x22, 9, 9]);
    // Registers in the window.
    sequencer(&b, &[(0x17, 4)]);
    b.write(WINDOW_AT, 0x1_8008, 2, 0x1234);
    assert_eq!(b.bar_read(1, 0x108, 2), 0x1234);
    // The last bank ends with memory.
    graphics(&b, &[(0x0b, 0x20), (9, 0xff), (5, 0)]);
    b.write(WINDOW_AT, 0x4000, 1, 7);
    assert_eq!(b.read(WINDOW_AT, 0x4000, 1), 0xff);
}

#[test]
fn operations_are_what_their_codes_say() {
    let b = bench();
    let expected =
        [0x00, 0x08, 0x0a, 0x04, 0x05, 0x0c, 0x0f, 0x02, 0x06, 0x0e, 0x07, 0x09, 0x0d, 0x03, 0x0b, 0x01];
    for ((code, _), expected) in OPERATIONS.into_iter().zip(expected) {
        put(&b, 0, &[0x0c, 0x0c]);
        put(&b, 256, &[0x0a, 0x0a, 0x55]);
        blit(&b, 2, 1, 256, 0, 0, &[(0x32, code)]);
        let found = memory(&b, 256, 3);
        assert_eq!((found[0] & 15, found[1] & 15, found[2]), (expected, expected, 0x55), "{code:#x}");
    }
    blit(&b, 2, 1, 256, 0, 0, &[(0x32, 0x77)]);
    assert_eq!(memory(&b, 258, 1), [0x55]);
    port(&b, 0x3ce, 0x31);
    assert_eq!(get(&b, 0x3cf), 0, "it has ended");
}

#[test]
fn rectangles_move() {
    let b = bench();
    let lines: Vec<u8> = (0..4 * 64).map(|i| i as u8).collect();
    put(&b, 0, &lines);
    blit(&b, 8, 3, 0x400, 64 + 2, 0, &[]);
    assert_eq!(memory(&b, 0x400 + 64, 9), [&lines[130..138], &[0][..]].concat());
    // Backwards, over itself: one line further down.
    blit(&b, 8, 3, 3 * 64 + 7, 2 * 64 + 7, 1, &[]);
    assert_eq!(memory(&b, 64, 8), lines[..8]);
    assert_eq!(memory(&b, 192, 8), lines[128..136]);
    // A colour that stays away, of 16 bits.
    put(&b, 0x800, &[1, 2, 3, 4, 1, 2]);
    put(&b, 0x900, &[9; 6]);
    blit(&b, 6, 1, 0x900, 0x800, 0x18, &[(0x34, 3), (0x35, 4)]);
    assert_eq!(memory(&b, 0x900, 6), [1, 2, 9, 9, 1, 2]);
    // Around the end of memory.
    blit(&b, 4, 1, (4 << 20) - 2, 0x800, 0, &[]);
    assert_eq!((memory(&b, (4 << 20) - 2, 2), memory(&b, 0, 2)), (vec![1, 2], vec![3, 4]));
    // By the destination's last byte.
    graphics(&b, &[(0x31, 0x80), (0x28, 0), (0x29, 0x0a), (0x2a, 0)]);
    assert_eq!(memory(&b, 0xa00, 4), [1, 2, 3, 4]);
}

#[test]
fn bits_become_colours() {
    let b = bench();
    let colours =
        [(0, 0x0b), (1, 0x0f), (0x10, 0x1b), (0x11, 0x1f), (0x12, 0x2b), (0x13, 0x2f), (0x14, 0), (0x15, 0)];
    put(&b, 0, &[0b1010_0000, 0b0100_0000]);
    blit(&b, 4, 2, 0x400, 0, 0x80, &colours);
    assert_eq!(memory(&b, 0x400, 5), [15, 11, 15, 11, 0]);
    assert_eq!(memory(&b, 0x440, 4), [11, 15, 11, 11]);
    // Transparent, of 16 bits, without the first pixel.
    put(&b, 0x400, &[9; 8]);
    blit(&b, 8, 1, 0x400, 0, 0x98, &[(0x2f, 1)]);
    assert_eq!(memory(&b, 0x400, 8), [9, 9, 9, 9, 0x0f, 0x1f, 9, 9]);
    // Inverted: what is off is drawn, in the background's colour. 24 bits.
    put(&b, 0x400, &[9; 9]);
    blit(&b, 9, 1, 0x400, 0, 0xa8, &[(0x33, 2)]);
    assert_eq!(memory(&b, 0x400, 9), [9, 9, 9, 0x0b, 0x1b, 0x2b, 9, 9, 9]);
    // A pattern of bits, from its second line on; one of pixels; one colour.
    put(&b, 8, &[0xff, 0x0f, 0xf0, 0, 0, 0, 0, 0]);
    blit(&b, 10, 2, 0x500, 9, 0xc0, &[]);
    assert_eq!(memory(&b, 0x500, 10), [11, 11, 11, 11, 15, 15, 15, 15, 11, 11]);
    assert_eq!(memory(&b, 0x540, 2), [15, 15]);
    let pattern: Vec<u8> = (0..64).collect();
    put(&b, 0x1000, &pattern);
    blit(&b, 10, 9, 0x600, 0x1000, 0x40, &[]);
    assert_eq!(memory(&b, 0x640, 10), [8, 9, 10, 11, 12, 13, 14, 15, 8, 9]);
    assert_eq!(memory(&b, 0x600 + 8 * 64, 2), [0, 1], "it repeats");
    blit(&b, 12, 1, 0xa00, 0, 0xf0, &[(0x33, 4)]);
    assert_eq!(memory(&b, 0xa00, 12), [0x0f, 0x1f, 0x2f, 0].repeat(3));
}

#[test]
fn the_cpu_writes_the_source() {
    let b = bench();
    blit(&b, 5, 2, 0x400, 0, 4, &[]);
    port(&b, 0x3ce, 0x31);
    assert_eq!(get(&b, 0x3cf) & 1, 1, "it waits");
    for word in [0x0403_0201u64, 0x0000_0005, 0x0908_0706, 0x0000_000a] {
        b.write(SOURCE_AT, 0, 4, word);
    }
    assert_eq!(get(&b, 0x3cf) & 1, 0);
    assert_eq!((memory(&b, 0x400, 6), memory(&b, 0x440, 5)), (vec![1, 2, 3, 4, 5, 0], vec![6, 7, 8, 9, 10]));
    b.write(SOURCE_AT, 0, 4, 0x5555);
    assert_eq!(memory(&b, 0x400, 1), [1]);
    // Bits through the window, lines of 32.
    blit(&b, 9, 2, 0x500, 0, 0x84, &[(0, 1), (1, 2), (0x33, 1)]);
    [0x0000_8080u64, 0x0000_0040].iter().for_each(|word| b.write(WINDOW_AT, 0x100, 4, *word));
    assert_eq!(memory(&b, 0x500, 9), [2, 1, 1, 1, 1, 1, 1, 1, 2]);
    assert_eq!(memory(&b, 0x540, 3), [1, 2, 1]);
    // A pattern; one that is given up.
    blit(&b, 16, 1, 0x600, 0, 0xc4, &[]);
    [0x0fu64, 0].iter().for_each(|word| b.write(SOURCE_AT, 0, 4, *word));
    assert_eq!(memory(&b, 0x600, 16), [1, 1, 1, 1, 2, 2, 2, 2].repeat(2));
    blit(&b, 16, 9, 0x600, 0, 4, &[]);
    graphics(&b, &[(0x31, 4), (0x31, 0)]);
    assert_eq!(chip(&b, |c| c.pending.clone()), None);
    // To the CPU: nothing, at once.
    blit(&b, 16, 9, 0x600, 0, 2, &[]);
    assert_eq!(chip(&b, |c| c.pending.clone()), None);
}

#[test]
fn cursors_are_laid_over() {
    let b = bench();
    packed_mode(&b, 1, 0);
    sequencer(&b, &[(0x12, 2)]);
    for (index, value) in [(0, 0x10), (15, 0x20)] {
        port(&b, 0x3c8, index);
        (0..3).for_each(|_| port(&b, 0x3c9, value));
    }
    // At 13, 2; number 4 of 64 lines, then number 1 of 32.
    sequencer(&b, &[(0xb0, 1), (0x51, 0), (0x13, 4), (0x12, 5)]);
    let base = (4 << 20) - (16 << 10);
    put(&b, base + 4 * 256, &[0b1010_0000]);
    put(&b, base + 4 * 256 + 8, &[0b0110_0000]);
    let p = picture(&b);
    assert_eq!(p.pixels[2 * 640 + 13..][..4], [0x00ff_ffff, 0x0041_4141, 0x0082_8282, 0]);
    sequencer(&b, &[(0x12, 1), (0x13, 1)]);
    put(&b, base + 256, &[0x80]);
    put(&b, base + 256 + 128 + 3, &[1]);
    let p = picture(&b);
    assert_eq!((p.pixels[2 * 640 + 13], p.pixels[2 * 640 + 13 + 31]), (0x00ff_ffff, 0x0041_4141));
    assert_eq!(p.pixels.iter().filter(|p| **p != 0).count(), 2);
}

#[test]
fn passes_the_common_tests() {
    check(Pci::new(CirrusConfig::default()));
}

/// Any registers, BitBLTs of any size anywhere, sources that the CPU writes or does not: everything ends, and nothing panics.
#[test]
fn fuzz_hostile_blits() {
    let cases = std::env::var("RHEA_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150u32);
    let pci = Pci::new(CirrusConfig::default());
    let b = bench();
    let mut rng = Rng::new(5446);
    let mut surface = Surface::default();
    for case in 0..cases {
        b.enable();
        scramble(&b, &pci, &mut rng, 30);
        port(&b, 0x3c2, 0x67);
        for index in (0..=0x15u8).chain(0x20..=0x35).filter(|index| *index != 0x31) {
            graphics(&b, &[(index, rng.next_u64() as u8)]);
        }
        // Tall ones are rare: they take their time.
        if case % 8 != 0 {
            graphics(&b, &[(0x23, 0)]);
        }
        graphics(&b, &[(0x31, 0), (0x31, 2)]);
        (0..rng.below(200)).for_each(|_| b.write(SOURCE_AT, 0, 4, rng.next_u64() & 0xffff_ffff));
        sequencer(&b, &[(7, rng.next_u64() as u8), (0x12, rng.next_u64() as u8)]);
        b.write(WINDOW_AT, rng.below(0x1_fffc), 4, rng.next_u64() & 0xffff_ffff);
        get(&b, 0x3da);
        port(&b, 0x3c0, 0x20);
        if case % 8 == 0 {
            chip(&b, |c| c.refresh(&mut surface, false));
            assert!(surface.pixels.len() <= 1 << 23);
        }
        assert!(b.cell().save().to_bytes().len() < 64 << 10);
    }
}
