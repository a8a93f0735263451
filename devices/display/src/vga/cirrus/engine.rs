//! The engine's control: how a BitBLT begins, waits for the CPU, and ends (GR31).

use guest_memory::RamBlock;

use super::blit::{Blit, REGISTERS};

/// Control and status: it works; begin; give up; begin when the destination's last byte is written.
const BUSY: u8 = 1 << 0;
const START: u8 = 1 << 1;
const RESET: u8 = 1 << 2;
const USED: u8 = 1 << 3;
pub(super) const AUTO: u8 = 1 << 7;
/// Where it is.
pub(super) const CONTROL: usize = 0x31;

/// A BitBLT whose source the CPU writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Graphics registers when it began.
    pub(super) registers: [u8; REGISTERS],
    /// The line that comes next.
    pub(super) line: u16,
    /// What has come for it.
    pub(super) data: Vec<u8>,
}

/// The control register is written.
pub(super) fn control(gr: &mut [u8; REGISTERS], pending: &mut Option<Pending>, value: u8, vram: &RamBlock) {
    let old = std::mem::replace(&mut gr[CONTROL], value);
    if old & RESET != 0 && value & RESET == 0 {
        finish(gr, pending);
    } else if old & START == 0 && value & START != 0 {
        start(gr, pending, vram);
    }
}

/// Begins, and ends at once unless the CPU has to write the source.
pub(super) fn start(gr: &mut [u8; REGISTERS], pending: &mut Option<Pending>, vram: &RamBlock) {
    gr[CONTROL] |= BUSY | START;
    let blit = Blit::of(gr);
    if blit.waits() {
        *pending = Some(Pending { registers: *gr, line: 0, data: Vec::new() });
    } else {
        blit.run(vram);
        finish(gr, pending);
    }
}

fn finish(gr: &mut [u8; REGISTERS], pending: &mut Option<Pending>) {
    gr[CONTROL] &= !(BUSY | START | USED);
    *pending = None;
}

/// The CPU writes source data, if a BitBLT waits for some.
pub(super) fn feed(gr: &mut [u8; REGISTERS], pending: &mut Option<Pending>, data: &[u8], vram: &RamBlock) {
    for byte in data {
        let Some(waiting) = pending else { return };
        let blit = Blit::of(&waiting.registers);
        waiting.data.push(*byte);
        if waiting.data.len() < blit.portion() {
            continue;
        }
        let data = std::mem::take(&mut waiting.data);
        let ended = blit.take(vram, waiting.line.into(), &data);
        waiting.line += 1;
        if ended {
            finish(gr, pending);
        }
    }
}
