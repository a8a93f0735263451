//! The CPU's way into video memory through the window at 0xa0000: planes, latches, write modes.

use super::Vga;

/// Four planes' bytes of 0 or 0xff, from the low four bits of a number.
fn planes(bits: u8) -> u32 {
    (0..4).filter(|plane| bits & 1 << plane != 0).fold(0, |mask, plane| mask | 0xff << (8 * plane))
}

/// One byte in all four planes.
fn everywhere(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

impl Vga {
    /// Where an offset in the window leads, before planes are considered.
    fn place(&self, offset: u64) -> Option<u64> {
        let bank = self.vbe.bank_offset();
        match self.r.graphics[6] >> 2 & 3 {
            0 => Some(offset + bank),
            1 => (offset < 0x1_0000).then_some(offset + bank),
            2 => offset.checked_sub(0x1_0000).filter(|at| *at < 0x8000),
            _ => offset.checked_sub(0x1_8000),
        }
    }

    /// A byte of video memory; what lies beyond its end reads as all ones.
    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0xff];
        let _ = self.vram.read(at, &mut byte);
        byte[0]
    }

    fn group(&self, at: u64) -> u32 {
        let mut bytes = [0xff; 4];
        let _ = self.vram.read(at.saturating_mul(4), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Plane and place of a byte that lies by the packed or the odd/even scheme; `None` in planar modes.
    fn packed(&self, at: u64) -> Option<(u8, u64)> {
        if self.r.sequencer[4] & 8 != 0 {
            Some((at as u8 & 3, at))
        } else if self.r.graphics[5] & 0x10 != 0 {
            let plane = self.r.graphics[4] & 2 | at as u8 & 1;
            Some((plane, (at & !1) << 1 | u64::from(plane)))
        } else {
            None
        }
    }

    fn read_byte(&mut self, offset: u64) -> u8 {
        let Some(at) = self.place(offset) else { return 0xff };
        if let Some((_, at)) = self.packed(at) {
            return self.byte(at);
        }
        self.r.latch = self.group(at);
        let g = &self.r.graphics;
        if g[5] & 8 == 0 {
            return (self.r.latch >> (8 * (g[4] & 3))) as u8;
        }
        // Which pixels have the colour looked for, in the planes looked at.
        let different = (self.r.latch ^ planes(g[2])) & planes(g[7]);
        !different.to_le_bytes().iter().fold(0, |all, byte| all | byte)
    }

    pub(super) fn read_window(&mut self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.read_byte(at);
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let Some(at) = self.place(offset) else { return };
        let enabled = self.r.sequencer[2];
        if let Some((plane, at)) = self.packed(at) {
            if enabled & 1 << plane != 0 {
                // Beyond the end there is nothing to write to.
                let _ = self.vram.write(at, &[value]);
            }
            return;
        }
        let mask = planes(enabled);
        let new = self.group(at) & !mask | self.combine(value) & mask;
        let _ = self.vram.write(at.saturating_mul(4), &new.to_le_bytes());
    }

    /// What a byte from the CPU makes of the planes, by the write mode.
    fn combine(&self, value: u8) -> u32 {
        let g = &self.r.graphics;
        let latch = self.r.latch;
        let rotated = value.rotate_right((g[3] & 7).into());
        let (data, bits) = match g[5] & 3 {
            0 => {
                let set = planes(g[1]);
                (everywhere(rotated) & !set | planes(g[0]) & set, g[8])
            }
            1 => return latch,
            2 => (planes(value), g[8]),
            _ => (planes(g[0]), g[8] & rotated),
        };
        let data = match g[3] >> 3 & 3 {
            0 => data,
            1 => data & latch,
            2 => data | latch,
            _ => data ^ latch,
        };
        let bits = everywhere(bits);
        data & bits | latch & !bits
    }

    pub(super) fn write_window(&mut self, offset: u64, data: &[u8]) {
        (offset..).zip(data).for_each(|(at, byte)| self.write_byte(at, *byte));
    }
}
