//! The BitBLT engine (CL-GD5446 Technical Reference Manual, chapter 9, registers GR20 to GR35): rectangles of video memory
//! combined with a source, which is video memory, an 8x8 pattern in it, one colour, or what the CPU writes.
//!
//! Invariant: all addresses wrap at the end of video memory, and a rectangle has at most 8192 bytes by 2048 lines, so that whatever
//! the registers say a BitBLT ends soon and touches nothing else.

use guest_memory::RamBlock;

use super::rop::operation;

/// Number of graphics registers that are kept.
pub(super) const REGISTERS: usize = 64;

/// Mode (GR30).
mod mode {
    pub(super) const BACKWARDS: u8 = 1 << 0;
    pub(super) const TO_CPU: u8 = 1 << 1;
    pub(super) const FROM_CPU: u8 = 1 << 2;
    pub(super) const TRANSPARENT: u8 = 1 << 3;
    pub(super) const PATTERN: u8 = 1 << 6;
    pub(super) const EXPAND: u8 = 1 << 7;
}

/// Mode extensions (GR33): lines of bits begin at 32-bit words; bits are inverted; one colour.
const WORDS: u8 = 1 << 0;
const INVERT: u8 = 1 << 1;
const SOLID: u8 = 1 << 2;

/// A BitBLT as the registers describe it.
#[derive(Clone, Debug)]
pub(super) struct Blit {
    /// Bytes in a line, and lines.
    width: usize,
    height: usize,
    pitches: [u64; 2],
    destination: u64,
    source: u64,
    mode: u8,
    extension: u8,
    operation: super::rop::Operation,
    /// Bytes of a pixel, and those of a line that are left out.
    depth: usize,
    skip: usize,
    foreground: [u8; 4],
    background: [u8; 4],
    /// The colour that is not drawn.
    key: [u8; 2],
}

/// What a line is drawn with: its bytes, and which pixels there are, if not all.
struct Line {
    bytes: Vec<u8>,
    drawn: Option<Vec<bool>>,
}

/// Where the source's lines come from.
enum Source<'a> {
    Memory,
    Pattern(Vec<u8>),
    Line(&'a [u8]),
}

/// Copies out of memory, around its end.
fn get(vram: &RamBlock, at: u64, data: &mut [u8]) {
    let size = vram.size();
    let at = at & (size - 1);
    let (head, tail) = data.split_at_mut((size - at).min(data.len() as u64) as usize);
    let _ = vram.read(at, head);
    let _ = vram.read(0, tail);
}

/// Copies into memory, around its end.
fn put(vram: &RamBlock, at: u64, data: &[u8]) {
    let size = vram.size();
    let at = at & (size - 1);
    let (head, tail) = data.split_at((size - at).min(data.len() as u64) as usize);
    let _ = vram.write(at, head);
    if !tail.is_empty() {
        let _ = vram.write(0, tail);
    }
}

impl Blit {
    pub(super) fn of(gr: &[u8; REGISTERS]) -> Self {
        let word = |at: usize, mask: u8| u64::from(gr[at]) | u64::from(gr[at + 1] & mask) << 8;
        let address = |at: usize| word(at, 0xff) | u64::from(gr[at + 2] & 0x3f) << 16;
        let depth = usize::from(gr[0x30] >> 4 & 3) + 1;
        let skip = if depth == 3 { usize::from(gr[0x2f] & 0x1f) } else { usize::from(gr[0x2f] & 7) * depth };
        Blit {
            width: word(0x20, 0x1f) as usize + 1,
            height: word(0x22, 0x07) as usize + 1,
            pitches: [word(0x24, 0x1f), word(0x26, 0x1f)],
            destination: address(0x28),
            source: address(0x2c),
            mode: gr[0x30],
            extension: gr[0x33],
            operation: operation(gr[0x32]),
            depth,
            skip,
            foreground: [gr[0x01], gr[0x11], gr[0x13], gr[0x15]],
            background: [gr[0x00], gr[0x10], gr[0x12], gr[0x14]],
            key: [gr[0x34], gr[0x35]],
        }
    }

    fn has(&self, bit: u8) -> bool {
        self.mode & bit != 0
    }

    /// Whether the CPU writes the source.
    pub(super) fn waits(&self) -> bool {
        self.has(mode::FROM_CPU) && !self.has(mode::TO_CPU)
    }

    fn pixels(&self) -> usize {
        self.width.div_ceil(self.depth)
    }

    fn pattern_len(&self) -> usize {
        match (self.has(mode::EXPAND), self.depth) {
            (true, _) => 8,
            // Lines of three-byte pixels are 32 bytes apart.
            (_, 3) => 256,
            (_, depth) => 64 * depth,
        }
    }

    /// Bytes of a line of bits, or of what the CPU writes for a line.
    fn line_len(&self) -> usize {
        match self.has(mode::EXPAND) {
            true if self.extension & WORDS != 0 => self.pixels().div_ceil(32) * 4,
            true => self.pixels().div_ceil(8),
            false => (self.width + 3) & !3,
        }
    }

    /// Bytes that the CPU is to write before the next part can be drawn.
    pub(super) fn portion(&self) -> usize {
        if self.has(mode::PATTERN) { self.pattern_len() } else { self.line_len() }
    }

    /// Draws all, from video memory.
    pub(super) fn run(&self, vram: &RamBlock) {
        if self.has(mode::TO_CPU) {
            return;
        }
        let source = if self.has(mode::PATTERN) {
            let mut pattern = vec![0; self.pattern_len()];
            get(vram, self.source & !7, &mut pattern);
            Source::Pattern(pattern)
        } else {
            Source::Memory
        };
        (0..self.height).for_each(|y| self.draw(vram, y, &source));
    }

    /// Draws with what the CPU has written: line `y`, or all if it was a pattern. Whether that was the end.
    pub(super) fn take(&self, vram: &RamBlock, y: usize, data: &[u8]) -> bool {
        if self.has(mode::PATTERN) {
            let source = Source::Pattern(data.to_vec());
            (0..self.height).for_each(|y| self.draw(vram, y, &source));
            return true;
        }
        self.draw(vram, y, &Source::Line(data));
        y + 1 >= self.height
    }

    /// First byte of line `y` of a rectangle.
    fn place(&self, start: u64, pitch: u64, y: usize) -> u64 {
        let down = pitch * y as u64;
        if self.has(mode::BACKWARDS) {
            start.wrapping_sub(down).wrapping_add(1).wrapping_sub(self.width as u64)
        } else {
            start.wrapping_add(down)
        }
    }

    fn line(&self, vram: &RamBlock, y: usize, source: &Source<'_>) -> Line {
        let mut bytes = vec![0; self.width];
        let expands = self.has(mode::EXPAND);
        let pattern_y = (self.source as usize + y) & 7;
        match source {
            Source::Pattern(_) if expands && self.extension & SOLID != 0 && !self.has(mode::TRANSPARENT) => {
                return self.expand(|_| true);
            }
            Source::Pattern(pattern) if expands => {
                let bits = pattern.get(pattern_y).copied().unwrap_or(0);
                return self.expand(|x| bits & 0x80 >> (x & 7) != 0);
            }
            Source::Pattern(pattern) => {
                let pitch = pattern.len() / 8;
                let row = pattern.get(pattern_y * pitch..).unwrap_or_default();
                let row = row.get(..8 * self.depth).unwrap_or_default();
                bytes.iter_mut().zip(row.iter().cycle()).for_each(|(to, from)| *to = *from);
            }
            Source::Memory if expands => {
                let mut bits = vec![0; self.line_len()];
                get(vram, self.source.wrapping_add((y * self.line_len()) as u64), &mut bits);
                return self.expand(|x| bit(&bits, x));
            }
            Source::Line(bits) if expands => return self.expand(|x| bit(bits, x)),
            Source::Memory => get(vram, self.place(self.source, self.pitches[1], y), &mut bytes),
            Source::Line(data) => bytes.iter_mut().zip(*data).for_each(|(to, from)| *to = *from),
        }
        Line { bytes, drawn: None }
    }

    /// A line of two colours by its bits; of one, where the other is transparent.
    fn expand(&self, bit: impl Fn(usize) -> bool) -> Line {
        let inverted = self.extension & INVERT != 0;
        let transparent = self.has(mode::TRANSPARENT);
        let mut bytes = Vec::with_capacity(self.width + 4);
        let mut drawn = Vec::new();
        for x in 0..self.pixels() {
            let on = bit(x);
            if transparent {
                drawn.push(on != inverted);
            }
            // What is drawn of inverted bits has the background's colour.
            let colour = if on { &self.foreground } else { &self.background };
            bytes.extend_from_slice(colour.get(..self.depth).unwrap_or_default());
        }
        bytes.truncate(self.width);
        Line { bytes, drawn: transparent.then_some(drawn) }
    }

    fn draw(&self, vram: &RamBlock, y: usize, source: &Source<'_>) {
        let line = self.line(vram, y, source);
        let at = self.place(self.destination, self.pitches[0], y);
        let mut result = vec![0; self.width];
        get(vram, at, &mut result);
        let keyed = self.has(mode::TRANSPARENT) && !self.has(mode::EXPAND) && self.depth <= 2;
        let shaped = self.has(mode::EXPAND) || self.has(mode::PATTERN);
        let skip = if shaped { self.skip } else { 0 };
        let pixels = result.chunks_mut(self.depth).zip(line.bytes.chunks(self.depth));
        for (x, (to, from)) in pixels.enumerate().skip(skip.div_ceil(self.depth)) {
            if line.drawn.as_ref().is_some_and(|drawn| drawn.get(x) != Some(&true)) {
                continue;
            }
            let mut new = [0; 4];
            for ((new, to), from) in new.iter_mut().zip(&*to).zip(from) {
                *new = (self.operation)(*from, *to);
            }
            let new = &new[..to.len()];
            if !keyed || new != &self.key[..new.len()] {
                to.copy_from_slice(new);
            }
        }
        put(vram, at, &result);
    }
}

fn bit(bits: &[u8], x: usize) -> bool {
    bits.get(x / 8).is_some_and(|byte| byte & 0x80 >> (x & 7) != 0)
}
