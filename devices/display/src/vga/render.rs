//! From video memory to a picture, one scan line after the other as the hardware does it. The cursor and blinking
//! characters are shown steadily.

use device::{Cell, Rect, Surface, TextScreen};
use guest_memory::DirtyClient;

use super::Vga;
use super::registers::SCREEN_ON;
use super::vbe::register as vbe;

/// Widest row of video memory that a scan line needs, in bytes.
const MAX_ROW: u64 = 16_000 * 4 + 8;

/// How bytes become pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    Text,
    /// One bit in each of four planes.
    Planar,
    /// Two bits, in two pairs of planes.
    Cga,
    /// A byte, through the palette.
    Indexed,
    /// So many bits of colour.
    Direct(u16),
}

/// A mode of a chip's own, besides what the VGA's registers say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) pixels: Pixels,
    pub(super) start: u64,
    pub(super) pitch: u64,
    /// The registers count every other line.
    pub(super) interlaced: bool,
}

/// A mode as the registers make it.
#[derive(Clone, Copy, Debug)]
struct Mode {
    pixels: Pixels,
    width: u32,
    height: u32,
    /// Each pixel is shown twice.
    double: bool,
    start: u64,
    pitch: u64,
    /// Scan lines for which one row of memory is shown.
    repeat: u32,
    /// Scan line after which memory starts over.
    compare: u32,
}

impl Vga {
    fn mode(&self) -> Option<Mode> {
        let (r, c) = (&self.r, &self.r.crtc);
        if r.attribute_index & SCREEN_ON == 0 || r.sequencer[1] & 0x20 != 0 {
            return None;
        }
        let half = r.sequencer[1] & 8 != 0;
        if self.vbe.is_on() {
            let pixels = match self.vbe.get(vbe::BPP) {
                4 => Pixels::Planar,
                8 => Pixels::Indexed,
                bpp => Pixels::Direct(bpp),
            };
            return Some(Mode {
                pixels,
                width: self.vbe.get(vbe::XRES).into(),
                height: self.vbe.get(vbe::YRES).into(),
                double: false,
                start: self.vbe.start(),
                pitch: self.vbe.pitch(),
                repeat: 1,
                compare: u32::MAX,
            });
        }
        let bits = |register: usize, bit: u8, to: u32| u32::from(c[register] >> bit & 1) << to;
        let height = u32::from(c[0x12]) + bits(7, 1, 8) + bits(7, 6, 9) + 1;
        let compare = u32::from(c[0x18]) + bits(7, 4, 8) + bits(9, 6, 9);
        let columns = u32::from(c[1]) + 1;
        let double_scan = u32::from(c[9] >> 7) + 1;
        let rows = u32::from(c[9] & 0x1f) + 1;
        if let Some(Extension { pixels, start, pitch, interlaced }) = self.extension {
            let (width, height) = (columns * 8, height << u32::from(interlaced));
            return Some(Mode {
                pixels,
                width,
                height,
                double: false,
                start,
                pitch,
                repeat: rows * double_scan,
                compare,
            });
        }
        let text = r.graphics[6] & 1 == 0;
        let pixels = match (text, r.graphics[5] >> 5 & 3) {
            (true, _) => Pixels::Text,
            (_, 0) => Pixels::Planar,
            (_, 1) => Pixels::Cga,
            _ => Pixels::Indexed,
        };
        let (width, double) = match pixels {
            Pixels::Text => (columns * self.character_width(), false),
            Pixels::Indexed => (columns * 8, true),
            _ if half => (columns * 16, true),
            _ => (columns * 8, false),
        };
        let repeat = if pixels == Pixels::Cga { double_scan } else { rows * double_scan };
        Some(Mode {
            pixels,
            width,
            height,
            double,
            start: u64::from(u16::from_be_bytes([c[0x0c], c[0x0d]])) * 4,
            pitch: u64::from(c[0x13]) << 3,
            repeat,
            compare,
        })
    }

    fn character_width(&self) -> u32 {
        if self.r.sequencer[1] & 1 != 0 { 8 } else { 9 }
    }

    /// A colour of the palette.
    fn colour(&self, index: u8) -> u32 {
        let at = usize::from(index & self.r.dac_mask) * 3;
        let component = |byte: u8| -> u32 {
            if self.vbe.wide_dac() {
                byte.into()
            } else {
                let six = byte & 0x3f;
                (six << 2 | six >> 4).into()
            }
        };
        self.r.palette[at..at + 3].iter().fold(0, |colour, byte| colour << 8 | component(*byte))
    }

    /// The sixteen colours of text and planar modes.
    fn sixteen(&self) -> [u32; 16] {
        let a = &self.r.attribute;
        std::array::from_fn(|i| {
            let index = if a[0x10] & 0x80 != 0 {
                a[0x14] << 4 | a[i] & 15
            } else {
                a[0x14] << 4 & 0xc0 | a[i] & 0x3f
            };
            self.colour(index)
        })
    }

    /// Copies video memory, which goes round at its end.
    fn fetch(&self, at: u64, data: &mut [u8]) {
        let size = self.vram.size();
        let at = at % size;
        let first = (size - at).min(data.len() as u64) as usize;
        let (head, tail) = data.split_at_mut(first);
        let _ = self.vram.read(at, head);
        let _ = self.vram.read(0, tail);
    }

    pub(super) fn draw(&mut self, surface: &mut Surface, all: bool) -> Option<Rect> {
        let touched = self.vram.take_dirty(DirtyClient::Display, 0, self.vram.size());
        let stale = std::mem::take(&mut self.changed) | !touched.is_empty();
        if !stale && !all {
            return None;
        }
        let Some(mode) = self.mode() else { return Self::blank(surface, all) };
        let resized = surface.resize(mode.width, mode.height);
        let mut line = vec![0; mode.width as usize];
        let mut rows: Option<(u32, u32)> = None;
        let painter = Painter::new(self, mode);
        let mut position = Position { row: 0, repeat: mode.repeat, base: mode.start };
        for y in 0..mode.height {
            painter.line(y, &position, &mut line);
            if let Some(overlay) = &self.overlay {
                overlay.draw(y, &mut line);
            }
            let old = surface.row_mut(y);
            if *old != line {
                old.copy_from_slice(&line);
                rows = Some((rows.map_or(y, |(first, _)| first), y));
            }
            position.step(self, &mode, y);
        }
        if all || resized {
            rows = Some((0, mode.height - 1));
        }
        rows.map(|(first, last)| Rect { x: 0, y: first, width: mode.width, height: last - first + 1 })
    }

    /// A dark screen keeps its size.
    fn blank(surface: &mut Surface, all: bool) -> Option<Rect> {
        if surface.width == 0 {
            surface.resize(640, 480);
        }
        let lit = surface.pixels.iter().any(|pixel| *pixel != 0);
        surface.pixels.fill(0);
        let (width, height) = (surface.width, surface.height);
        (lit || all).then_some(Rect { x: 0, y: 0, width, height })
    }

    pub(super) fn read_text(&self) -> Option<TextScreen> {
        let mode = self.mode().filter(|mode| mode.pixels == Pixels::Text)?;
        let columns = mode.width / self.character_width();
        let rows = (mode.height / mode.repeat).max(1);
        let mut cells = Vec::with_capacity((columns * rows) as usize);
        let mut line = vec![0; columns as usize * 4];
        for row in 0..u64::from(rows) {
            self.fetch(mode.start + row * mode.pitch, &mut line);
            cells.extend(line.chunks_exact(4).map(|c| Cell { code: c[0], attribute: c[1] }));
        }
        let per_row = (mode.pitch / 4).max(1);
        let cursor = self.cursor().and_then(|(at, ..)| {
            let at = at.checked_sub(mode.start / 4)?;
            let (x, y) = ((at % per_row) as u32, (at / per_row) as u32);
            (x < columns && y < rows).then_some((x, y))
        });
        Some(TextScreen { columns, rows, cells, cursor })
    }

    /// Cell of the cursor, its first and last line, if it is shown.
    fn cursor(&self) -> Option<(u64, u8, u8)> {
        let c = &self.r.crtc;
        let at = u16::from_be_bytes([c[0x0e], c[0x0f]]).into();
        (c[0x0a] & 0x20 == 0).then_some((at, c[0x0a] & 0x1f, c[0x0b] & 0x1f))
    }
}

/// Where the beam is in memory.
struct Position {
    /// Rows of memory shown so far, counted as the hardware's row counter does.
    row: u32,
    /// Scan lines left for this one.
    repeat: u32,
    base: u64,
}

impl Position {
    fn step(&mut self, vga: &Vga, mode: &Mode, y: u32) {
        self.repeat -= 1;
        if self.repeat == 0 {
            // Modes that interleave two or four banks go on only after the last of them.
            let flat = mode.pixels == Pixels::Text || vga.extension.is_some();
            let interleaved = if flat { 0 } else { u32::from(!vga.r.crtc[0x17] & 3) };
            if self.row & interleaved == interleaved {
                self.base += mode.pitch;
            }
            self.row += 1;
            self.repeat = mode.repeat;
        }
        if y == mode.compare {
            *self = Position { row: 0, repeat: mode.repeat, base: 0 };
        }
    }
}

/// What is the same for all lines of a picture.
struct Painter<'a> {
    vga: &'a Vga,
    mode: Mode,
    sixteen: [u32; 16],
    palette: Vec<u32>,
    /// Plane 2, where fonts are, of its 64 KiB.
    fonts: Vec<u8>,
}

impl<'a> Painter<'a> {
    fn new(vga: &'a Vga, mode: Mode) -> Self {
        let mut fonts = Vec::new();
        if mode.pixels == Pixels::Text {
            let mut all = vec![0; 256 << 10];
            vga.fetch(0, &mut all);
            fonts = all.chunks_exact(4).map(|group| group[2]).collect();
        }
        let palette = (0..=255).map(|i| vga.colour(i)).collect();
        Painter { vga, mode, sixteen: vga.sixteen(), palette, fonts }
    }

    /// Paints scan line `y`.
    fn line(&self, _y: u32, position: &Position, line: &mut [u32]) {
        let needed = self.row_bytes(line.len() as u64).min(MAX_ROW);
        let mut bytes = vec![0; needed as usize];
        self.vga.fetch(self.place(position), &mut bytes);
        match self.mode.pixels {
            Pixels::Text => self.text(position, &bytes, line),
            Pixels::Planar => self.planar(&bytes, line),
            Pixels::Cga => self.cga(&bytes, line),
            Pixels::Indexed => self.indexed(&bytes, line),
            Pixels::Direct(bpp) => direct(bpp, &bytes, line),
        }
    }

    fn row_bytes(&self, pixels: u64) -> u64 {
        match self.mode.pixels {
            Pixels::Text => pixels.div_ceil(self.vga.character_width().into()) * 4,
            Pixels::Planar => (pixels.div_ceil(8) + 1) * 4,
            Pixels::Cga => (pixels.div_ceil(8) + 1) * 4,
            Pixels::Indexed => pixels + 4,
            Pixels::Direct(bpp) => pixels * u64::from(bpp.div_ceil(8)),
        }
    }

    /// Where the bytes of a line are: its base, with row bits in the place of address bits where banks interleave.
    fn place(&self, position: &Position) -> u64 {
        let (mut at, row) = (position.base, u64::from(position.row));
        let control = self.vga.r.crtc[0x17];
        let flat = self.vga.vbe.is_on() || self.vga.extension.is_some();
        if self.mode.pixels != Pixels::Text && !flat {
            if control & 1 == 0 {
                let bit = 14 + (control >> 6 & 1);
                at = at & !(1 << bit) | (row & 1) << bit;
            }
            if control & 2 == 0 {
                at = at & !0x8000 | (row & 2) << 14;
            }
        }
        at
    }

    fn text(&self, position: &Position, bytes: &[u8], line: &mut [u32]) {
        let vga = self.vga;
        let width = vga.character_width() as usize;
        let double_scan = u32::from(vga.r.crtc[9] >> 7) + 1;
        let glyph_line = (self.mode.repeat - position.repeat) / double_scan;
        let select = vga.r.sequencer[3];
        let font = |a: u8, b: u8, c: u8| {
            usize::from(select >> a & 1) << 15
                | usize::from(select >> b & 1) << 14
                | usize::from(select >> c & 1) << 13
        };
        // Bits of the two selectors: 16, 32 and 8 KiB steps, in this order of significance.
        let fonts = [font(0, 1, 4), font(2, 3, 5)];
        let blink = vga.r.attribute[0x10] & 8 != 0;
        let cursor = vga
            .cursor()
            .filter(|(_, first, last)| (u32::from(*first)..=u32::from(*last)).contains(&glyph_line));
        let first_cell = position.base / 4;
        for (i, (cell, out)) in bytes.chunks_exact(4).zip(line.chunks_mut(width)).enumerate() {
            let (code, attribute) = (cell[0], cell[1]);
            let set = fonts[usize::from(attribute & 8 == 0)];
            // Both selectors on one font: bit 3 is only brightness.
            let at = set + usize::from(code) * 32 + (glyph_line & 31) as usize;
            let mut glyph = self.fonts.get(at & 0xffff).copied().unwrap_or(0);
            if cursor.is_some_and(|(cell, ..)| cell == first_cell + i as u64) {
                glyph = 0xff;
            }
            let back = attribute >> 4 & if blink { 7 } else { 15 };
            let (fore, back) = (self.sixteen[usize::from(attribute & 15)], self.sixteen[usize::from(back)]);
            for (x, pixel) in out.iter_mut().enumerate() {
                // The ninth column goes on with the eighth for line drawing characters.
                let extends = vga.r.attribute[0x10] & 4 != 0 && (0xc0..=0xdf).contains(&code);
                let lit = match x {
                    0..8 => glyph & 0x80 >> x != 0,
                    _ => extends && glyph & 1 != 0,
                };
                *pixel = if lit { fore } else { back };
            }
        }
    }

    /// Spreads pixels over a line, twice each if the mode doubles them.
    fn spread(&self, line: &mut [u32], mut pixel: impl FnMut(usize) -> u32) {
        if self.mode.double {
            for (x, pair) in line.chunks_mut(2).enumerate() {
                pair.fill(pixel(x));
            }
        } else {
            for (x, out) in line.iter_mut().enumerate() {
                *out = pixel(x);
            }
        }
    }

    fn planar(&self, bytes: &[u8], line: &mut [u32]) {
        let enabled = self.vga.r.attribute[0x12] & 15;
        let pan = usize::from(self.vga.r.attribute[0x13] & 7);
        self.spread(line, |x| {
            let (group, bit) = ((x + pan) / 8 * 4, 7 - (x + pan) % 8);
            let planes = bytes.get(group..group + 4).unwrap_or(&[0; 4]);
            let index = (0..4).fold(0, |index, p| index | (planes[p] >> bit & 1) << p);
            self.sixteen[usize::from(index & enabled)]
        });
    }

    fn cga(&self, bytes: &[u8], line: &mut [u32]) {
        let enabled = self.vga.r.attribute[0x12] & 15;
        self.spread(line, |x| {
            let (group, plane, shift) = (x / 8 * 4, x / 4 % 2, 6 - x % 4 * 2);
            let planes = bytes.get(group..group + 4).unwrap_or(&[0; 4]);
            let index = planes[plane] >> shift & 3 | (planes[plane + 2] >> shift & 3) << 2;
            self.sixteen[usize::from(index & enabled)]
        });
    }

    fn indexed(&self, bytes: &[u8], line: &mut [u32]) {
        let pan = if self.mode.double { usize::from(self.vga.r.attribute[0x13] >> 1 & 3) } else { 0 };
        self.spread(line, |x| {
            let index = bytes.get(x + pan).copied().unwrap_or(0);
            self.palette[usize::from(index)]
        });
    }
}

/// Pixels that are colours themselves, in little-endian order.
fn direct(bpp: u16, bytes: &[u8], line: &mut [u32]) {
    let wide = |value: u32, bits: u32| (value << (8 - bits) | value >> (2 * bits - 8)) & 0xff;
    let size = usize::from(bpp.div_ceil(8));
    for (out, pixel) in line.iter_mut().zip(bytes.chunks_exact(size)) {
        let value = pixel.iter().rev().fold(0, |v, byte| v << 8 | u32::from(*byte));
        *out = match bpp {
            15 => wide(value >> 10 & 31, 5) << 16 | wide(value >> 5 & 31, 5) << 8 | wide(value & 31, 5),
            16 => wide(value >> 11 & 31, 5) << 16 | wide(value >> 5 & 63, 6) << 8 | wide(value & 31, 5),
            _ => value & 0x00ff_ffff,
        };
    }
}
