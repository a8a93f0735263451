//! The Bochs VBE extensions: larger modes, a linear frame buffer, banks, panning.

use super::Vga;

pub(super) mod register {
    pub(in super::super) const ID: u16 = 0;
    pub(in super::super) const XRES: u16 = 1;
    pub(in super::super) const YRES: u16 = 2;
    pub(in super::super) const BPP: u16 = 3;
    pub(in super::super) const ENABLE: u16 = 4;
    pub(in super::super) const BANK: u16 = 5;
    pub(in super::super) const VIRT_WIDTH: u16 = 6;
    pub(in super::super) const VIRT_HEIGHT: u16 = 7;
    pub(in super::super) const X_OFFSET: u16 = 8;
    pub(in super::super) const Y_OFFSET: u16 = 9;
    pub(in super::super) const MEMORY: u16 = 10;
}
use register as reg;

pub(super) const ENABLED: u16 = 1 << 0;
const GET_CAPABILITIES: u16 = 1 << 1;
const DAC_8_BITS: u16 = 1 << 5;
const NO_CLEAR: u16 = 1 << 7;

/// Interface versions, oldest and newest.
const IDS: std::ops::RangeInclusive<u16> = 0xb0c0..=0xb0c5;
const MAX_WIDTH: u16 = 16_000;
const MAX_HEIGHT: u16 = 12_000;
const MAX_BPP: u16 = 32;
/// Bytes of the window that a bank fills.
const BANK: u64 = 64 << 10;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vbe {
    pub(super) index: u16,
    /// By number; the last is computed.
    pub(super) r: [u16; 10],
    size: u64,
}

impl Vbe {
    pub(super) fn new(size: u64) -> Self {
        let mut r = [0; 10];
        r[usize::from(reg::ID)] = *IDS.end();
        r[usize::from(reg::BPP)] = 8;
        Vbe { index: 0, r, size }
    }

    pub(super) fn get(&self, register: u16) -> u16 {
        self.r.get(usize::from(register)).copied().unwrap_or(0)
    }

    fn set(&mut self, register: u16, value: u16) {
        if let Some(r) = self.r.get_mut(usize::from(register)) {
            *r = value;
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.get(reg::ENABLE) & ENABLED != 0
    }

    /// Whether colours have 8 bits for each component instead of 6.
    pub(super) fn wide_dac(&self) -> bool {
        self.get(reg::ENABLE) & DAC_8_BITS != 0
    }

    pub(super) fn bank_offset(&self) -> u64 {
        if self.is_on() { u64::from(self.get(reg::BANK)) * BANK } else { 0 }
    }

    /// Bytes of `pixels` pixels in the present depth.
    fn bytes(&self, pixels: u64) -> u64 {
        match self.get(reg::BPP) {
            4 => pixels / 2,
            15 => pixels * 2,
            bpp => pixels * u64::from(bpp / 8),
        }
    }

    /// Bytes from one row to the next.
    pub(super) fn pitch(&self) -> u64 {
        self.bytes(self.get(reg::VIRT_WIDTH).into())
    }

    /// Where the picture begins.
    pub(super) fn start(&self) -> u64 {
        let x = self.bytes(self.get(reg::X_OFFSET).into());
        u64::from(self.get(reg::Y_OFFSET)) * self.pitch() + x
    }

    pub(super) fn read(&self, register: u16) -> u16 {
        let capabilities = self.get(reg::ENABLE) & GET_CAPABILITIES != 0;
        match register {
            reg::XRES if capabilities => MAX_WIDTH,
            reg::YRES if capabilities => MAX_HEIGHT,
            reg::BPP if capabilities => MAX_BPP,
            reg::MEMORY => (self.size / BANK) as u16,
            _ => self.get(register),
        }
    }

    /// Makes the values agree with one another and with the memory there is.
    fn fix(&mut self) {
        if !matches!(self.get(reg::BPP), 4 | 8 | 15 | 16 | 24 | 32) {
            self.set(reg::BPP, 8);
        }
        let width = (self.get(reg::XRES) & !7).clamp(8, MAX_WIDTH);
        self.set(reg::XRES, width);
        // A row must fit into memory at all, or there is no height to be had.
        let mut virtual_width = self.get(reg::VIRT_WIDTH).max(width) & !7;
        if self.bytes(virtual_width.into()) > self.size {
            virtual_width = width;
        }
        self.set(reg::VIRT_WIDTH, virtual_width);
        let rows = (self.size / self.pitch().max(1)).min(u16::MAX.into()) as u16;
        let height = self.get(reg::YRES).clamp(1, MAX_HEIGHT.min(rows.max(1)));
        self.set(reg::YRES, height);
        self.set(reg::VIRT_HEIGHT, rows);
        let x = self.get(reg::X_OFFSET).min(virtual_width - width);
        let y = self.get(reg::Y_OFFSET).min(rows.saturating_sub(height));
        self.set(reg::X_OFFSET, x);
        self.set(reg::Y_OFFSET, y);
    }

    /// Whether saved values are such as [`Vbe::write`] leaves behind.
    pub(super) fn is_sound(&self) -> bool {
        let mut fixed = self.clone();
        fixed.fix();
        !self.is_on() || fixed == *self
    }
}

impl Vga {
    pub(super) fn write_vbe(&mut self, register: u16, value: u16) {
        let on = self.vbe.is_on();
        self.changed = true;
        match register {
            reg::ID if IDS.contains(&value) => self.vbe.set(reg::ID, value),
            reg::XRES | reg::YRES | reg::BPP if !on => self.vbe.set(register, value),
            reg::BANK => self.vbe.set(reg::BANK, value & (self.vram.size() / BANK - 1) as u16),
            reg::VIRT_WIDTH | reg::X_OFFSET | reg::Y_OFFSET => {
                self.vbe.set(register, value);
                if on {
                    self.vbe.fix();
                    self.keep_vbe_geometry();
                }
            }
            reg::ENABLE => self.enable_vbe(value),
            _ => {}
        }
    }

    fn enable_vbe(&mut self, value: u16) {
        let was = self.vbe.is_on();
        self.vbe.set(reg::BANK, 0);
        self.vbe.set(reg::ENABLE, value);
        if value & ENABLED == 0 || was {
            return;
        }
        for register in [reg::VIRT_WIDTH, reg::X_OFFSET, reg::Y_OFFSET] {
            self.vbe.set(register, 0);
        }
        self.vbe.fix();
        self.keep_vbe_geometry();
        if value & NO_CLEAR == 0 {
            let len = self.vbe.pitch() * u64::from(self.vbe.get(reg::YRES));
            let _ = self.vram.fill(0, len.min(self.vram.size()), 0);
        }
    }

    /// While a large mode is on, the VGA's registers are such that the window shows the frame buffer.
    pub(super) fn keep_vbe_geometry(&mut self) {
        if !self.vbe.is_on() {
            return;
        }
        let (width, height) = (self.vbe.get(reg::XRES), self.vbe.get(reg::YRES));
        let r = &mut self.r;
        // Graphics at 0xa0000, 64 KiB; no interleaving.
        r.graphics[6] = r.graphics[6] & !0x0c | 0x05;
        r.crtc[0x17] |= 3;
        r.crtc[0x13] = (self.vbe.pitch() >> 3) as u8;
        r.crtc[1] = ((width >> 3) - 1) as u8;
        let last = height - 1;
        r.crtc[0x12] = last as u8;
        r.crtc[7] = r.crtc[7] & !0x42 | (last >> 7) as u8 & 2 | (last >> 3) as u8 & 0x40 | 0x10;
        r.crtc[0x18] = 0xff;
        r.crtc[9] = r.crtc[9] & !0x9f | 0x40;
        if self.vbe.get(reg::BPP) == 4 {
            r.graphics[5] &= !0x60;
            r.sequencer[1] &= !8;
        } else {
            r.graphics[5] = r.graphics[5] & !0x60 | 0x40;
            r.sequencer[4] |= 8;
            r.sequencer[2] |= 0x0f;
        }
    }
}
