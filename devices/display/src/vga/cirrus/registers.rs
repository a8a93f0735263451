//! The chip's registers beyond the VGA's: more indices at the VGA's ports, the hidden register of its DAC, and the same by memory.

use super::super::cursor::Overlay;
use super::super::render::{Extension, Pixels};
use super::blit::REGISTERS;
use super::{Cirrus, engine};

/// Number of sequencer and of CRT controller registers that are kept.
pub(super) const SEQUENCER: usize = 32;
pub(super) const CRTC: usize = 64;
/// Identifier of the CL-GD5446 (CR27).
const ID: u8 = 0x2e << 2;
/// Sequencer register 6, when the others are open, and when they are not.
const OPEN: u8 = 0x12;
const SHUT: u8 = 0x0f;
/// Sequencer register 12: there is a cursor; the DAC shows the cursor's colours; it has 64 lines.
const CURSOR: u8 = 1 << 0;
const CURSOR_COLOURS: u8 = 1 << 1;
const CURSOR_LARGE: u8 = 1 << 2;
/// Reads of the DAC's mask before its hidden register.
const HIDDEN: u8 = 4;
/// Cursors lie in the last bytes of video memory.
const CURSORS: u64 = 16 << 10;

/// Registers in memory, and the graphics registers they are (chapter on memory-mapped I/O).
const MAPPED: [(u64, &[u8]); 12] = [
    (0x00, &[0x00, 0x10, 0x12, 0x14]),
    (0x04, &[0x01, 0x11, 0x13, 0x15]),
    (0x08, &[0x20, 0x21]),
    (0x0a, &[0x22, 0x23]),
    (0x0c, &[0x24, 0x25]),
    (0x0e, &[0x26, 0x27]),
    (0x10, &[0x28, 0x29, 0x2a]),
    (0x14, &[0x2c, 0x2d, 0x2e, 0x2f]),
    (0x18, &[0x30]),
    (0x1a, &[0x32, 0x33, 0x34, 0x35]),
    (0x20, &[0x38, 0x39]),
    (0x40, &[0x31]),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) sr_index: u8,
    pub(super) sr: [u8; SEQUENCER],
    pub(super) gr_index: u8,
    pub(super) gr: [u8; REGISTERS],
    pub(super) cr_index: u8,
    pub(super) cr: [u8; CRTC],
    pub(super) hidden: u8,
    /// Reads of the mask, one after the other.
    pub(super) reads: u8,
    /// Place of the cursor.
    pub(super) cursor: [u16; 2],
    pub(super) colours: Vec<u8>,
}

impl Default for Extended {
    fn default() -> Self {
        let (mut sr, mut gr, mut cr) = ([0; SEQUENCER], [0; REGISTERS], [0; CRTC]);
        // 4 MiB of memory behind 64 bits, on the PCI bus; clocks.
        (sr[0x06], sr[0x0f], sr[0x15], sr[0x17], sr[0x1f]) = (SHUT, 0x98, 0x04, 0x20, 0x2d);
        gr[0x18] = 0x0f;
        cr[0x27] = ID;
        Extended {
            sr_index: 0,
            sr,
            gr_index: 0,
            gr,
            cr_index: 0,
            cr,
            hidden: 0,
            reads: 0,
            cursor: [0; 2],
            colours: vec![0; 768],
        }
    }
}

impl Extended {
    /// Whether pixels are packed, in one of the chip's own modes.
    pub(super) fn is_packed(&self) -> bool {
        self.sr[7] & 1 != 0
    }

    /// Whether the registers in memory are at 0xb8000.
    pub(super) fn is_mapped(&self) -> bool {
        self.sr[0x17] & 0x44 == 4
    }
}

impl Cirrus {
    pub(super) fn read_port(&mut self, port: u16) -> u8 {
        let Some(known) = self.vga.r.effective(port) else { return 0xff };
        if known != 0x3c6 {
            self.x.reads = 0;
        }
        match known {
            0x3c4 => self.x.sr_index,
            0x3c5 => self.read_sequencer(self.x.sr_index),
            0x3c6 if self.x.reads >= HIDDEN => {
                self.x.reads = 0;
                self.x.hidden
            }
            0x3c6 => {
                self.x.reads += 1;
                self.vga.read_port(port)
            }
            0x3c9 => self.with_colours(|cirrus| cirrus.vga.read_port(port)),
            0x3ce => self.x.gr_index,
            0x3cf => self.read_graphics(self.x.gr_index),
            0x3d4 => self.x.cr_index,
            0x3d5 => self.read_crtc(port),
            _ => self.vga.read_port(port),
        }
    }

    pub(super) fn write_port(&mut self, port: u16, value: u8) {
        let Some(known) = self.vga.r.effective(port) else { return };
        let reads = std::mem::take(&mut self.x.reads);
        match known {
            0x3c4 => self.x.sr_index = value,
            0x3c5 => self.write_sequencer(value),
            0x3c6 if reads >= HIDDEN => self.x.hidden = value,
            0x3c9 => self.with_colours(|cirrus| cirrus.vga.write_port(port, value)),
            0x3ce => self.x.gr_index = value & 0x3f,
            0x3cf => self.write_graphics(self.x.gr_index, value),
            0x3d4 => self.x.cr_index = value & 0x3f,
            0x3d5 => self.write_crtc(port, value),
            _ => self.vga.write_port(port, value),
        }
        self.follow();
    }

    /// The DAC's data are the cursor's colours while the driver says so.
    fn with_colours<R>(&mut self, access: impl FnOnce(&mut Self) -> R) -> R {
        let swapped = self.x.sr[0x12] & CURSOR_COLOURS != 0;
        if swapped {
            std::mem::swap(&mut self.vga.r.palette, &mut self.x.colours);
        }
        let result = access(self);
        if swapped {
            std::mem::swap(&mut self.vga.r.palette, &mut self.x.colours);
        }
        result
    }

    fn read_sequencer(&self, index: u8) -> u8 {
        match (index, index & 0x1f) {
            (0..=4, _) => self.vga.r.sequencer[usize::from(index)],
            // The cursor's place has eight indices, whose upper bits are its lower.
            (_, at @ (0x10 | 0x11)) => self.x.sr[usize::from(at)],
            _ => self.x.sr.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    fn write_sequencer(&mut self, value: u8) {
        let index = self.x.sr_index;
        match (index, index & 0x1f) {
            (0..=4, _) => {
                self.vga.r.sequencer_index = index;
                self.vga.write_port(0x3c5, value);
            }
            (6, _) => self.x.sr[6] = if value & 0x17 == OPEN { OPEN } else { SHUT },
            (_, at @ (0x10 | 0x11)) => {
                self.x.sr[usize::from(at)] = value;
                self.x.cursor[usize::from(at & 1)] = u16::from(value) << 3 | u16::from(index >> 5);
            }
            // What bus the chip is on cannot be changed.
            (0x17, _) => self.x.sr[0x17] = self.x.sr[0x17] & 0x38 | value & !0x38,
            _ => {
                if let Some(register) = self.x.sr.get_mut(usize::from(index)) {
                    *register = value;
                }
            }
        }
    }

    pub(super) fn read_graphics(&self, index: u8) -> u8 {
        match index {
            2..=4 | 6..=8 => self.vga.r.graphics[usize::from(index)],
            _ => self.x.gr.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    pub(super) fn write_graphics(&mut self, index: u8, value: u8) {
        let at = usize::from(index);
        match index {
            0..=8 => {
                // The first two are colours of 8 bits, and there are more write modes.
                self.x.gr[at] = if index == 5 { value & 0x7f } else { value };
                self.vga.r.graphics_index = index;
                self.vga.write_port(0x3cf, value);
            }
            0x2a => {
                self.x.gr[at] = value & 0x3f;
                if self.x.gr[engine::CONTROL] & engine::AUTO != 0 {
                    engine::start(&mut self.x.gr, &mut self.pending, self.vga.frame_buffer());
                }
            }
            0x31 => engine::control(&mut self.x.gr, &mut self.pending, value, self.vga.frame_buffer()),
            0x21 | 0x25 | 0x27 => self.x.gr[at] = value & 0x1f,
            0x23 => self.x.gr[at] = value & 0x07,
            0x2e => self.x.gr[at] = value & 0x3f,
            0x09..=0x39 => self.x.gr[at] = value,
            _ => {}
        }
    }

    fn read_crtc(&mut self, port: u16) -> u8 {
        match self.x.cr_index {
            index @ 0..=0x18 => {
                self.vga.r.crtc_index = index;
                self.vga.read_port(port)
            }
            // What the last read from memory found; where the attribute controller stands.
            0x22 => (self.vga.r.latch >> (8 * (self.vga.r.graphics[4] & 3))) as u8,
            0x24 => u8::from(self.vga.r.attribute_data) << 7,
            0x26 => self.vga.r.attribute_index & 0x3f,
            index => self.x.cr[usize::from(index)],
        }
    }

    fn write_crtc(&mut self, port: u16, value: u8) {
        match self.x.cr_index {
            index @ 0..=0x18 => {
                self.vga.r.crtc_index = index;
                self.vga.write_port(port, value);
            }
            index @ 0x19..=0x1e => self.x.cr[usize::from(index)] = value,
            _ => {}
        }
    }

    /// The graphics register that an address among those in memory is.
    fn mapped(offset: u64) -> Option<u8> {
        let (first, registers) = MAPPED.iter().rev().find(|(first, _)| *first <= offset)?;
        registers.get((offset - first) as usize).copied()
    }

    pub(super) fn read_mapped(&self, offset: u64) -> u8 {
        Self::mapped(offset).map_or(0xff, |index| self.read_graphics(index))
    }

    pub(super) fn write_mapped(&mut self, offset: u64, value: u8) {
        if let Some(index) = Self::mapped(offset) {
            self.write_graphics(index, value);
        }
    }

    /// Brings what the picture is made from in line with the registers.
    pub(super) fn follow(&mut self) {
        let extension = self.x.is_packed().then(|| self.extension());
        let overlay = self.overlay();
        if (&extension, &overlay) != (&self.vga.extension, &self.vga.overlay) {
            self.vga.changed = true;
            (self.vga.extension, self.vga.overlay) = (extension, overlay);
        }
    }

    fn extension(&self) -> Extension {
        let (r, cr) = (&self.vga.r, &self.x.cr);
        let pixels = match self.x.sr[7] & 0x0e {
            // Sierra's 15 bits, or XGA's 16.
            0x02 | 0x06 => Pixels::Direct(if self.x.hidden & 15 == 1 { 16 } else { 15 }),
            0x04 => Pixels::Direct(24),
            0x08 => Pixels::Direct(32),
            _ => Pixels::Indexed,
        };
        let start = u64::from(u16::from_be_bytes([r.crtc[0x0c], r.crtc[0x0d]]))
            | u64::from(cr[0x1b] & 1) << 16
            | u64::from(cr[0x1b] & 0x0c) << 15
            | u64::from(cr[0x1d] & 0x80) << 12;
        Extension {
            pixels,
            start: start * 4,
            pitch: (u64::from(r.crtc[0x13]) | u64::from(cr[0x1b] & 0x10) << 4) << 3,
            interlaced: cr[0x1a] & 1 != 0,
        }
    }

    fn overlay(&self) -> Option<Overlay> {
        let attributes = self.x.sr[0x12];
        if attributes & CURSOR == 0 {
            return None;
        }
        let vram = self.vga.frame_buffer();
        let large = attributes & CURSOR_LARGE != 0;
        let (width, number) = if large { (64, self.x.sr[0x13] & 0x3c) } else { (32, self.x.sr[0x13] & 0x3f) };
        // 64 lines of two planes by turns, or 32 lines of one plane and then of the other.
        let mut pattern = vec![0; if large { 1024 } else { 256 }];
        let _ = vram.read(vram.size() - CURSORS + u64::from(number) * 256, &mut pattern);
        let line = |bytes: &[u8]| {
            bytes.iter().enumerate().fold(0, |line, (i, b)| line | u64::from(*b) << (56 - 8 * i))
        };
        let lines = if large {
            pattern.chunks_exact(16).map(|l| (line(&l[..8]), line(&l[8..]))).collect()
        } else {
            let (a, b) = pattern.split_at(128);
            a.chunks_exact(4).zip(b.chunks_exact(4)).map(|(a, b)| (line(a), line(b))).collect()
        };
        let colour = |i: usize| {
            let six = |byte: u8| u32::from(byte & 0x3f) << 2 | u32::from(byte & 0x3f) >> 4;
            self.x.colours[3 * i..3 * i + 3].iter().fold(0, |colour, byte| colour << 8 | six(*byte))
        };
        let [x, y] = self.x.cursor.map(u32::from);
        Some(Overlay { x, y, width, lines, colours: [colour(0), colour(15)] })
    }
}
