//! Tests of the VGA: modes by their registers, write modes, VBE, pictures.

use ::pci::Pci;
use ::pci::test_bench::PciBench;
use device::test_bench::{Bench, Rng, check, scramble};

use super::*;

fn bench() -> (Bench, IsaVgaConfig) {
    let config = IsaVgaConfig { vgamem_mb: 1 };
    (Bench::new(config.clone()), config)
}

fn port(b: &Bench, port: u16, value: u8) {
    b.write(1, u64::from(port - PORTS.0), 1, value.into());
}

fn indexed(b: &Bench, index_port: u16, values: &[(u8, u8)]) {
    for (index, value) in values {
        port(b, index_port, *index);
        port(b, index_port + 1, *value);
    }
}

fn attributes(b: &Bench, values: &[(u8, u8)]) {
    b.read(1, 0x2a, 1);
    for (index, value) in values {
        port(b, 0x3c0, *index);
        port(b, 0x3c0, *value);
    }
    port(b, 0x3c0, 0x20);
}

/// A palette in which colour `i` is `i` in each component.
fn grey(b: &Bench) {
    port(b, 0x3c8, 0);
    (0..256 * 3).for_each(|i| port(b, 0x3c9, (i / 3) as u8 & 0x3f));
    let own: Vec<(u8, u8)> = (0..16).map(|i| (i, i)).collect();
    attributes(b, &own);
    attributes(b, &[(0x12, 15)]);
}

fn shade(index: u32) -> u32 {
    (index << 2 | index >> 4) * 0x01_0101
}

fn vga<R>(b: &Bench, f: impl FnOnce(&mut Vga) -> R) -> R {
    b.cell().with(|d| f(d.as_any().unwrap().downcast_mut().unwrap()))
}

fn picture(b: &Bench) -> Surface {
    let mut surface = Surface::default();
    vga(b, |v| v.refresh(&mut surface, true));
    surface
}

/// 80 columns of 9 by 16, 25 rows, window at 0xb8000.
fn text_mode(b: &Bench) {
    port(b, 0x3c2, 0x67);
    indexed(b, 0x3c4, &[(1, 0), (2, 3), (3, 0), (4, 2)]);
    indexed(b, 0x3ce, &[(4, 0), (5, 0x10), (6, 0x0e), (8, 0xff)]);
    indexed(b, 0x3d4, &[(0x11, 0), (1, 79), (7, 0x1f), (9, 0x4f), (0x12, 0x8f), (0x13, 40), (0x18, 0xff)]);
    grey(b);
}

fn graphics(b: &Bench, sequencer: &[(u8, u8)], gfx: &[(u8, u8)], crtc: &[(u8, u8)]) {
    port(b, 0x3c2, 0x63);
    indexed(b, 0x3c4, sequencer);
    indexed(b, 0x3ce, gfx);
    indexed(b, 0x3d4, &[(0x11, 0)]);
    indexed(b, 0x3d4, crtc);
    grey(b);
}

#[test]
fn text_is_drawn_and_read() {
    let (b, _) = bench();
    text_mode(&b);
    for (i, byte) in b"Rhea".iter().enumerate() {
        b.write(0, 0x1_8000 + 160 + 2 * i as u64, 2, 0x1e00 | u64::from(*byte));
    }
    // A glyph for R whose top line is lit: plane 2.
    indexed(&b, 0x3c4, &[(2, 4), (4, 6)]);
    indexed(&b, 0x3ce, &[(5, 0), (6, 4)]);
    b.write(0, u64::from(b'R') * 32, 1, 0xff);
    indexed(&b, 0x3c4, &[(2, 3), (4, 2)]);
    indexed(&b, 0x3ce, &[(5, 0x10), (6, 0x0e)]);
    indexed(&b, 0x3d4, &[(0x0e, 0), (0x0f, 82), (0x0a, 14), (0x0b, 15)]);

    let text = vga(&b, Vga::text).unwrap();
    assert_eq!((text.columns, text.rows, text.cursor), (80, 25, Some((2, 1))));
    assert_eq!(text.lines()[..3], ["", "Rhea", ""]);
    assert_eq!(text.cells[80].attribute, 0x1e);

    let p = picture(&b);
    assert_eq!((p.width, p.height), (720, 400));
    let row = &p.pixels[16 * 720..][..18];
    assert_eq!(row[..9], [[shade(14); 8].as_slice(), &[shade(1)]].concat());
    assert_eq!(row[9], shade(1), "h has no glyph");
    assert_eq!(p.pixels[30 * 720 + 18], shade(14), "the cursor");
    let mut same = p.clone();
    assert_eq!(vga(&b, |v| v.refresh(&mut same, false)), None);
    b.write(0, 0x1_8000 + 160, 2, u64::from(b'R') | 0x2100);
    let changed = vga(&b, |v| v.refresh(&mut same, false));
    assert_eq!(changed, Some(Rect { x: 0, y: 16, width: 720, height: 16 }));
}

#[test]
fn mode_13h_shows_bytes_doubled() {
    let (b, _) = bench();
    graphics(
        &b,
        &[(1, 1), (2, 15), (4, 0x0e)],
        &[(5, 0x40), (6, 5), (8, 0xff)],
        &[(1, 79), (7, 0x1f), (9, 0x41), (0x12, 0x8f), (0x13, 40), (0x17, 0xa3), (0x18, 0xff)],
    );
    b.write(0, 320 * 3 + 7, 1, 42);
    let p = picture(&b);
    assert_eq!((p.width, p.height), (640, 400));
    for (x, y) in [(14, 6), (15, 7)] {
        assert_eq!(p.pixels[y * 640 + x], shade(42));
    }
    assert_eq!(p.pixels.iter().filter(|p| **p != 0).count(), 4);
    assert_eq!(vga(&b, Vga::text), None);
    // The screen off.
    b.read(1, 0x2a, 1);
    port(&b, 0x3c0, 0);
    assert!(picture(&b).pixels.iter().all(|p| *p == 0));
}

#[test]
fn planar_write_modes() {
    let (b, _) = bench();
    graphics(
        &b,
        &[(1, 1), (2, 15), (4, 6)],
        &[(0, 0), (1, 0), (3, 0), (5, 0), (6, 5), (8, 0xff)],
        &[(1, 79), (7, 0x3e), (9, 0x40), (0x12, 0xdf), (0x13, 40), (0x17, 0xe3), (0x18, 0xff)],
    );
    let pixels = |b: &Bench| picture(b).pixels[..8].iter().map(|p| (p & 0xff) >> 2).collect::<Vec<_>>();
    b.write(0, 0, 1, 0xa0);
    assert_eq!(pixels(&b), [15, 0, 15, 0, 0, 0, 0, 0]);
    // Set/reset of planes 0 and 3, one bit by the mask, the rest from the latches.
    indexed(&b, 0x3ce, &[(0, 9), (1, 15), (8, 0x40)]);
    b.read(0, 0, 1);
    b.write(0, 0, 1, 0);
    assert_eq!(pixels(&b), [15, 9, 15, 0, 0, 0, 0, 0]);
    // XOR with the latches.
    indexed(&b, 0x3ce, &[(3, 0x18), (0, 6), (8, 0xff)]);
    b.read(0, 0, 1);
    b.write(0, 0, 1, 0);
    assert_eq!(pixels(&b), [9, 15, 9, 6, 6, 6, 6, 6]);
    // Mode 2 into two planes only; mode 1 copies the latches to the next eight.
    indexed(&b, 0x3ce, &[(1, 0), (3, 0), (5, 2), (8, 0x0f)]);
    indexed(&b, 0x3c4, &[(2, 3)]);
    b.read(0, 0, 1);
    b.write(0, 0, 1, 5);
    assert_eq!(pixels(&b), [9, 15, 9, 6, 5, 5, 5, 5]);
    indexed(&b, 0x3c4, &[(2, 15)]);
    indexed(&b, 0x3ce, &[(5, 1)]);
    b.read(0, 0, 1);
    b.write(0, 1, 1, 0);
    assert_eq!(picture(&b).pixels[8..16], picture(&b).pixels[..8]);
    // Mode 3: the data is a mask as well. Read mode 1 finds colours.
    indexed(&b, 0x3ce, &[(5, 3), (0, 12), (8, 0xff)]);
    b.read(0, 0, 1);
    b.write(0, 0, 1, 0x81);
    assert_eq!(pixels(&b), [12, 15, 9, 6, 5, 5, 5, 12]);
    indexed(&b, 0x3ce, &[(5, 8), (2, 12), (7, 15)]);
    assert_eq!(b.read(0, 0, 1), 0x81);
    indexed(&b, 0x3ce, &[(5, 0), (4, 3)]);
    assert_eq!(b.read(0, 0, 1), 0b1110_0001, "plane 3");
}

#[test]
fn cga_modes_interleave() {
    let (b, _) = bench();
    graphics(
        &b,
        &[(1, 9), (2, 3), (4, 2)],
        &[(5, 0x30), (6, 0x0f), (8, 0xff)],
        &[(1, 39), (7, 0x1f), (9, 0xc1), (0x12, 0x8f), (0x13, 20), (0x17, 0xa2), (0x18, 0xff)],
    );
    b.write(0, 0x1_8000, 2, 0b00_01_10_11 | 0b11_00_00_00 << 8);
    b.write(0, 0x1_a000, 1, 0b10_00_00_00);
    b.write(0, 0x1_8000 + 80, 1, 0b01_00_00_00);
    let p = picture(&b);
    assert_eq!((p.width, p.height), (640, 400));
    let at = |x: usize, y: usize| (p.pixels[2 * y * 640 + 2 * x] & 0xff) >> 2;
    assert_eq!((0..5).map(|x| at(x, 0)).collect::<Vec<_>>(), [0, 1, 2, 3, 3]);
    assert_eq!((at(0, 1), at(0, 2), at(0, 3)), (2, 1, 0));
}

fn vbe(b: &Bench, values: &[(u64, u64)]) {
    for (register, value) in values {
        b.write(2, 0, 2, *register);
        b.write(2, 1, 2, *value);
    }
}

#[test]
fn vbe_modes_and_banks() {
    let (b, _) = bench();
    port(&b, 0x3c2, 0x67);
    grey(&b);
    b.write(2, 0, 2, 0);
    assert_eq!(b.read(2, 1, 2), 0xb0c5);
    vbe(&b, &[(4, 2)]);
    b.write(2, 0, 2, 1);
    assert_eq!(b.read(2, 1, 2), 16000);
    vbe(&b, &[(4, 0), (1, 320), (2, 200), (3, 32), (4, 0x41)]);
    // One MiB holds 819 rows of 320 pixels.
    b.write(2, 0, 2, 7);
    assert_eq!(b.read(2, 1, 2), 819);
    vga(&b, |v| v.frame_buffer().write(4 * (320 + 2), &0x0012_3456u32.to_le_bytes()).unwrap());
    let p = picture(&b);
    assert_eq!((p.width, p.height, p.pixels[322]), (320, 200, 0x0012_3456));
    // Panning down by a row, then through the window's second bank.
    vbe(&b, &[(9, 1)]);
    assert_eq!(picture(&b).pixels[2], 0x0012_3456);
    vbe(&b, &[(9, 0), (5, 1)]);
    b.write(0, 4, 4, 0x0065_4321);
    assert_eq!(picture(&b).pixels[0x1_0004 / 4], 0x0065_4321);
    // What does not fit is cut down.
    vbe(&b, &[(4, 0), (1, 5000), (2, 5000), (3, 24), (4, 1)]);
    b.write(2, 0, 2, 2);
    assert_eq!(b.read(2, 1, 2), (1 << 20) / 15000);
    vbe(&b, &[(4, 0), (1, 64), (2, 64), (3, 16), (4, 1)]);
    vga(&b, |v| v.frame_buffer().write(0, &0xf81fu16.to_le_bytes()).unwrap());
    assert_eq!(picture(&b).pixels[0], 0x00ff_00ff);
}

#[test]
fn the_mmio_window_has_the_same_registers() {
    let b = PciBench::new(VgaConfig { vgamem_mb: 1, ..VgaConfig::default() });
    assert_eq!((b.bar_read(2, 0, 4), b.bar_read(2, 8, 4) & 0xffff), (0xffff_ff00, 0x0549), "a monitor");
    b.enable();
    for (register, value) in [(1, 64), (2, 64), (3, 16), (4, 1)] {
        b.bar_write(2, 0x500 + 2 * register, 2, value);
    }
    assert_eq!(
        (b.bar_read(2, 0x502, 2), b.bar_read(2, 0x506, 2), b.bar_read(2, 0x604, 4)),
        (64, 16, 0x1e1e_1e1e)
    );
    assert!(vga(&b, |v| v.vbe.is_on()));
    b.bar_write(2, 0x508, 2, 0);
    assert!(!vga(&b, |v| v.vbe.is_on()));
    b.bar_write(2, 0x408, 1, 7);
    assert_eq!(b.bar_read(2, 0x408, 1), 7, "the DAC's index");
}

#[test]
fn retrace_follows_the_clock() {
    let (b, _) = bench();
    port(&b, 0x3c2, 0x67);
    let mut seen = [0; 2];
    for _ in 0..1000 {
        b.advance(17_000);
        seen[usize::from(b.read(1, 0x2a, 1) & 8 != 0)] += 1;
    }
    assert!(seen[1] > 20 && seen[0] > 10 * seen[1], "{seen:?}");
}

#[test]
fn passes_the_common_tests() {
    check(IsaVgaConfig { vgamem_mb: 0 });
    check(Pci::new(VgaConfig { vgamem_mb: 0, ..VgaConfig::default() }));
}

#[test]
fn any_registers_give_a_picture() {
    let config = IsaVgaConfig { vgamem_mb: 0 };
    let b = Bench::new(config.clone());
    let mut rng = Rng::new(11);
    let mut surface = Surface::default();
    for _ in 0..300 {
        scramble(&b, &config, &mut rng, 100);
        if rng.below(2) == 0 {
            vbe(&b, &[(4, rng.below(2)), (3, [4, 8, 15, 16, 24, 32][rng.below(6) as usize]), (4, 0xc1)]);
        }
        attributes(&b, &[]);
        vga(&b, |v| {
            v.refresh(&mut surface, false);
            v.text();
        });
        assert!(surface.pixels.len() <= 1 << 22);
    }
}
