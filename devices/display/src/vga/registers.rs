//! The VGA's own registers, reached by ports 0x3b0 to 0x3df.

use device::NS_PER_SEC;

use super::Vga;

/// Bits of the sequencer, graphics and CRT controllers and the attribute controller that exist.
const SEQUENCER_BITS: [u8; 8] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0];
const GRAPHICS_BITS: [u8; 16] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0];
const CRTC_REGISTERS: u8 = 0x19;

/// A picture takes so long, 70 times a second; its last part is the vertical retrace.
const FRAME: u64 = NS_PER_SEC / 70;
const VERTICAL_RETRACE: u64 = FRAME - FRAME / 20;
/// A line takes so long; its last part is not shown.
const LINE: u64 = NS_PER_SEC / 31_469;
const LINE_SHOWN: u64 = LINE * 4 / 5;

/// Bit of the attribute index that connects the palette to the screen.
pub(super) const SCREEN_ON: u8 = 1 << 5;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Registers {
    pub(super) misc: u8,
    pub(super) feature: u8,
    pub(super) sequencer_index: u8,
    pub(super) sequencer: [u8; 8],
    pub(super) graphics_index: u8,
    pub(super) graphics: [u8; 16],
    pub(super) crtc_index: u8,
    pub(super) crtc: [u8; 32],
    pub(super) attribute_index: u8,
    /// The next write to port 0x3c0 is data.
    pub(super) attribute_data: bool,
    pub(super) attribute: [u8; 32],
    pub(super) dac_mask: u8,
    /// 3 after the read index was set, 0 after the write index was.
    pub(super) dac_state: u8,
    pub(super) dac_read: u8,
    pub(super) dac_write: u8,
    /// Component that comes next.
    pub(super) dac_step: u8,
    /// Components of a colour not yet complete.
    pub(super) dac_cache: [u8; 2],
    pub(super) palette: Vec<u8>,
    pub(super) latch: u32,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            misc: 0,
            feature: 0,
            sequencer_index: 0,
            sequencer: [0; 8],
            graphics_index: 0,
            graphics: [0; 16],
            crtc_index: 0,
            crtc: [0; 32],
            attribute_index: 0,
            attribute_data: false,
            attribute: [0; 32],
            dac_mask: 0xff,
            dac_state: 0,
            dac_read: 0,
            dac_write: 0,
            dac_step: 0,
            dac_cache: [0; 2],
            palette: vec![0; 768],
            latch: 0,
        }
    }
}

impl Registers {
    /// Bits that `index` of the attribute controller has.
    fn attribute_bits(index: u8) -> u8 {
        match index {
            0..=0x0f => 0x3f,
            0x10 => 0xef,
            0x11 => 0xff,
            0x12 => 0x3f,
            0x13 | 0x14 => 0x0f,
            _ => 0,
        }
    }

    fn write_attribute(&mut self, value: u8) {
        if self.attribute_data {
            let index = self.attribute_index & 0x1f;
            self.attribute[usize::from(index)] = value & Self::attribute_bits(index);
        } else {
            self.attribute_index = value & 0x3f;
        }
        self.attribute_data = !self.attribute_data;
    }

    fn write_crtc(&mut self, value: u8) {
        let index = self.crtc_index;
        // Bit 7 of register 0x11 protects the timing.
        if self.crtc[0x11] & 0x80 != 0 && index <= 7 {
            if index == 7 {
                self.crtc[7] = self.crtc[7] & !0x10 | value & 0x10;
            }
        } else if index < CRTC_REGISTERS {
            self.crtc[usize::from(index)] = value;
        }
    }

    fn read_dac(&mut self) -> u8 {
        let at = usize::from(self.dac_read) * 3 + usize::from(self.dac_step);
        self.dac_step += 1;
        if self.dac_step == 3 {
            self.dac_step = 0;
            self.dac_read = self.dac_read.wrapping_add(1);
        }
        self.palette[at]
    }

    fn write_dac(&mut self, value: u8) {
        if let Some(kept) = self.dac_cache.get_mut(usize::from(self.dac_step)) {
            *kept = value;
            self.dac_step += 1;
            return;
        }
        let at = usize::from(self.dac_write) * 3;
        self.palette[at..at + 3].copy_from_slice(&[self.dac_cache[0], self.dac_cache[1], value]);
        self.dac_step = 0;
        self.dac_write = self.dac_write.wrapping_add(1);
    }

    /// Whether the CRT controller answers at the ports of a colour screen.
    fn is_colour(&self) -> bool {
        self.misc & 1 != 0
    }

    /// The port as on a colour screen, or `None` if nothing answers there now.
    pub(super) fn effective(&self, port: u16) -> Option<u16> {
        match port {
            0x3b0..=0x3bf => (!self.is_colour()).then_some(port + 0x20),
            0x3d0..=0x3df => self.is_colour().then_some(port),
            _ => Some(port),
        }
    }
}

impl Vga {
    fn status(&self) -> u8 {
        let now = self.clock.now();
        let vertical = now % FRAME >= VERTICAL_RETRACE;
        let blank = vertical || now % LINE >= LINE_SHOWN;
        u8::from(vertical) << 3 | u8::from(blank)
    }

    pub(super) fn read_port(&mut self, port: u16) -> u8 {
        let r = &mut self.r;
        let Some(port) = r.effective(port) else { return 0xff };
        match port {
            0x3c0 => r.attribute_index,
            0x3c1 => r.attribute[usize::from(r.attribute_index & 0x1f)],
            0x3c2 => 0,
            0x3c4 => r.sequencer_index,
            0x3c5 => r.sequencer[usize::from(r.sequencer_index & 7)],
            0x3c6 => r.dac_mask,
            0x3c7 => r.dac_state,
            0x3c8 => r.dac_write,
            0x3c9 => r.read_dac(),
            0x3ca => r.feature,
            0x3cc => r.misc,
            0x3ce => r.graphics_index,
            0x3cf => r.graphics[usize::from(r.graphics_index & 15)],
            0x3d4 => r.crtc_index,
            0x3d5 => r.crtc[usize::from(r.crtc_index & 31)],
            0x3da => {
                r.attribute_data = false;
                self.status()
            }
            _ => 0xff,
        }
    }

    pub(super) fn write_port(&mut self, port: u16, value: u8) {
        let r = &mut self.r;
        let Some(port) = r.effective(port) else { return };
        match port {
            0x3c0 => r.write_attribute(value),
            0x3c2 => r.misc = value & !0x10,
            0x3c4 => r.sequencer_index = value & 7,
            0x3c5 => {
                let index = usize::from(r.sequencer_index & 7);
                r.sequencer[index] = value & SEQUENCER_BITS[index];
            }
            0x3c6 => r.dac_mask = value,
            0x3c7 => (r.dac_read, r.dac_step, r.dac_state) = (value, 0, 3),
            0x3c8 => (r.dac_write, r.dac_step, r.dac_state) = (value, 0, 0),
            0x3c9 => r.write_dac(value),
            0x3ce => r.graphics_index = value & 15,
            0x3cf => {
                let index = usize::from(r.graphics_index & 15);
                r.graphics[index] = value & GRAPHICS_BITS[index];
            }
            0x3d4 => r.crtc_index = value & 31,
            0x3d5 => {
                r.write_crtc(value);
                self.keep_vbe_geometry();
            }
            0x3da => r.feature = value & 0x10,
            _ => return,
        }
        self.changed = true;
    }
}
