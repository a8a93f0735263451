//! Saved state of the chip: the VGA's, and what is more. Its memory is saved with the machine's.

use device::{Bytes, StateBlob, StateError};
use pci::PciConfig;

use super::engine::Pending;
use super::registers::Extended;
use super::{Cirrus, CirrusConfig};

device::state! {
    /// A BitBLT that waits for the CPU.
    struct PendingV1 { 1 => registers: Bytes, 2 => line: u16, 3 => data: Bytes }
}

device::state! {
    /// Version 1.
    struct V1 {
        1 => vga: Bytes,
        2 => sr_index: u8,
        3 => sr: Bytes,
        4 => gr_index: u8,
        5 => gr: Bytes,
        6 => cr_index: u8,
        7 => cr: Bytes,
        8 => hidden: u8,
        9 => reads: u8,
        10 => cursor: [u16; 2],
        11 => colours: Bytes,
        12 => pending: Option<PendingV1>,
    }
}

/// Longest line that the CPU may write.
const MAX_LINE: usize = 8192;

pub(super) fn save(c: &Cirrus) -> StateBlob {
    let x = &c.x;
    let pending = c.pending.as_ref().map(|p| PendingV1 {
        registers: Bytes(p.registers.to_vec()),
        line: p.line,
        data: Bytes(p.data.clone()),
    });
    let state = V1 {
        vga: Bytes(c.vga.save_state(CirrusConfig::KIND).to_bytes()),
        sr_index: x.sr_index,
        sr: Bytes(x.sr.to_vec()),
        gr_index: x.gr_index,
        gr: Bytes(x.gr.to_vec()),
        cr_index: x.cr_index,
        cr: Bytes(x.cr.to_vec()),
        hidden: x.hidden,
        reads: x.reads,
        cursor: x.cursor,
        colours: Bytes(x.colours.clone()),
        pending,
    };
    StateBlob::new(CirrusConfig::KIND, 1, &state)
}

fn all<const N: usize>(field: &str, bytes: &Bytes) -> Result<[u8; N], StateError> {
    let what = || StateError::new(field, format!("expected {N} bytes, found {}", bytes.0.len()));
    bytes.0.as_slice().try_into().map_err(|_| what())
}

pub(super) fn restore(c: &mut Cirrus, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(CirrusConfig::KIND, 1)?;
    let x = Extended {
        sr_index: s.sr_index,
        sr: all("sr", &s.sr)?,
        gr_index: StateError::at_most("gr_index", s.gr_index, 0x3f)?,
        gr: all("gr", &s.gr)?,
        cr_index: StateError::at_most("cr_index", s.cr_index, 0x3f)?,
        cr: all("cr", &s.cr)?,
        hidden: s.hidden,
        reads: StateError::at_most("reads", s.reads, 4)?,
        cursor: s.cursor,
        colours: all::<768>("colours", &s.colours)?.to_vec(),
    };
    let pending = match &s.pending {
        None => None,
        Some(p) => {
            StateError::at_most("pending/data", p.data.0.len(), MAX_LINE)?;
            StateError::at_most("pending/line", p.line, 2048)?;
            let registers = all("pending/registers", &p.registers)?;
            Some(Pending { registers, line: p.line, data: p.data.0.clone() })
        }
    };
    let vga = StateBlob::from_bytes(&s.vga.0).map_err(|e| e.within("vga"))?;
    c.vga.restore_state(CirrusConfig::KIND, &vga).map_err(|e| e.within("vga"))?;
    (c.x, c.pending) = (x, pending);
    c.follow();
    Ok(())
}
