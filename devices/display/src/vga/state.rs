//! Saved state of the VGA. Its memory is saved with the machine's.

use device::{Bytes, StateBlob, StateError};

use super::Vga;
use super::registers::Registers;
use super::vbe::Vbe;

device::state! {
    /// Version 1.
    struct V1 {
        1 => misc: u8,
        2 => feature: u8,
        3 => sequencer_index: u8,
        4 => sequencer: [u8; 8],
        5 => graphics_index: u8,
        6 => graphics: [u8; 16],
        7 => crtc_index: u8,
        8 => crtc: [u8; 32],
        9 => attribute_index: u8,
        10 => attribute_data: bool,
        11 => attribute: [u8; 32],
        12 => dac_mask: u8,
        13 => dac_state: u8,
        14 => dac_read: u8,
        15 => dac_write: u8,
        16 => dac_step: u8,
        17 => dac_cache: [u8; 2],
        18 => palette: Bytes,
        19 => latch: u32,
        20 => vbe_index: u16,
        21 => vbe: [u16; 10],
        22 => memory_size: u64,
    }
}

impl Vga {
    pub(super) fn save_state(&self, kind: &str) -> StateBlob {
        let (r, v) = (&self.r, &self.vbe);
        let state = V1 {
            misc: r.misc,
            feature: r.feature,
            sequencer_index: r.sequencer_index,
            sequencer: r.sequencer,
            graphics_index: r.graphics_index,
            graphics: r.graphics,
            crtc_index: r.crtc_index,
            crtc: r.crtc,
            attribute_index: r.attribute_index,
            attribute_data: r.attribute_data,
            attribute: r.attribute,
            dac_mask: r.dac_mask,
            dac_state: r.dac_state,
            dac_read: r.dac_read,
            dac_write: r.dac_write,
            dac_step: r.dac_step,
            dac_cache: r.dac_cache,
            palette: Bytes(r.palette.clone()),
            latch: r.latch,
            vbe_index: v.index,
            vbe: v.r,
            memory_size: self.vram.size(),
        };
        StateBlob::new(kind, 1, &state)
    }

    pub(super) fn restore_state(&mut self, kind: &str, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(kind, 1)?;
        let size = self.vram.size();
        if s.memory_size != size {
            let what = format!("expected {size} bytes, found {}", s.memory_size);
            return Err(StateError::new("memory_size", what));
        }
        if s.palette.0.len() != 768 {
            return Err(StateError::new("palette", "expected 768 bytes"));
        }
        StateError::at_most("dac_step", s.dac_step, 2)?;
        StateError::at_most("graphics_index", s.graphics_index, 15)?;
        let mut vbe = Vbe::new(size);
        (vbe.index, vbe.r) = (s.vbe_index, s.vbe);
        if !vbe.is_sound() {
            return Err(StateError::new("vbe", "expected a mode that fits into memory"));
        }
        self.vbe = vbe;
        self.r = Registers {
            misc: s.misc,
            feature: s.feature,
            sequencer_index: s.sequencer_index,
            sequencer: s.sequencer,
            graphics_index: s.graphics_index,
            graphics: s.graphics,
            crtc_index: s.crtc_index,
            crtc: s.crtc,
            attribute_index: s.attribute_index,
            attribute_data: s.attribute_data,
            attribute: s.attribute,
            dac_mask: s.dac_mask,
            dac_state: s.dac_state,
            dac_read: s.dac_read,
            dac_write: s.dac_write,
            dac_step: s.dac_step,
            dac_cache: s.dac_cache,
            palette: s.palette.0,
            latch: s.latch,
        };
        self.changed = true;
        Ok(())
    }
}
