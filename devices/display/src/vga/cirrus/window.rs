//! The CPU's way into video memory through the window at 0xa0000 in the chip's own modes: two banks, and writes that expand bits
//! to pixels (registers GR9 to GRB, write modes 4 and 5).

use super::{Cirrus, engine};

/// Half of the window, which a bank has.
const HALF: u64 = 0x8000;
/// Registers in memory, if they are in the window.
const MAPPED: std::ops::Range<u64> = 0x1_8000..0x1_8100;

impl Cirrus {
    /// Where an offset in the window leads, before it is multiplied.
    fn bank(&self, offset: u64) -> Option<u64> {
        let gr = &self.x.gr;
        let second = offset >= HALF;
        let two = gr[0x0b] & 1 != 0;
        let bank = u64::from(if two && second { gr[0x0a] } else { gr[0x09] });
        let start = bank << if gr[0x0b] & 0x20 != 0 { 14 } else { 12 };
        // One bank goes on in the second half.
        let within = if two { offset % HALF } else { offset };
        (offset < 2 * HALF && start < self.vga.frame_buffer().size()).then_some(start + within)
    }

    /// Pixels that one address means, as a shift.
    fn step(&self) -> u32 {
        match self.x.gr[0x0b] {
            mode if mode & 0x14 == 0x14 => 4,
            mode if mode & 0x02 != 0 => 3,
            _ => 0,
        }
    }

    pub(super) fn read_window(&mut self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = if self.x.is_mapped() && MAPPED.contains(&at) {
                self.read_mapped(at - MAPPED.start)
            } else if self.x.is_packed() {
                let mut found = [0xff];
                if let Some(place) = self.bank(at) {
                    let _ = self.vga.frame_buffer().read(place << self.step(), &mut found);
                }
                found[0]
            } else {
                let mut found = [0];
                self.vga.read_window(at, &mut found);
                found[0]
            };
        }
    }

    pub(super) fn write_window(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if self.x.is_mapped() && MAPPED.contains(&at) {
                self.write_mapped(at - MAPPED.start, *byte);
            } else if at < 2 * HALF && self.pending.is_some() {
                engine::feed(&mut self.x.gr, &mut self.pending, &[*byte], self.vga.frame_buffer());
            } else if self.x.is_packed() {
                self.write_packed(at, *byte);
            } else {
                self.vga.write_window(at, &[*byte]);
            }
        }
    }

    fn write_packed(&mut self, offset: u64, value: u8) {
        let Some(place) = self.bank(offset).map(|place| place << self.step()) else { return };
        let vram = self.vga.frame_buffer();
        let gr = &self.x.gr;
        let mode = gr[5] & 7;
        // Beyond the end there is nothing to write to.
        if gr[0x0b] & 4 == 0 || !(4..=5).contains(&mode) {
            let _ = vram.write(place, &[value]);
            return;
        }
        let wide = gr[0x0b] & 0x14 == 0x14;
        let depth = if wide { 2 } else { 1 };
        let (foreground, background) = ([gr[1], gr[0x11]], [gr[0], gr[0x10]]);
        for i in 0..8u64 {
            let at = place + i * depth as u64;
            if value & 0x80 >> i != 0 {
                let _ = vram.write(at, &foreground[..depth]);
            } else if mode == 5 {
                let _ = vram.write(at, &background[..depth]);
            }
        }
    }
}
