//! How a function interrupts: by its pin or by messages.
//!
//! PCI Local Bus Specification 3.0, 6.8 (MSI and MSI-X) and 6.2.3 (interrupt status and disable). While messages are
//! enabled the pin is silent. A message is a write to memory, so it needs the bus master enable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use device::{IrqLine, MsiMessage, MsiTarget, le_value};

use crate::config_space::{ConfigSpace, command, read_table, reg, status, write_table};

/// Size of an entry of an MSI-X table.
const ENTRY: usize = 16;
/// Mask bit in an entry's last word.
const ENTRY_MASKED: u8 = 1;
/// Control register of both capabilities, from the capability's start.
const CONTROL: usize = 2;
const MSI_ENABLE: u16 = 1;
const MSI_MASK: usize = 16;
const MSI_PENDING: usize = 20;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// The interrupt part of a function.
pub(crate) struct Interrupts {
    pub(crate) line: IrqLine,
    pub(crate) target: Option<MsiTarget>,
    /// Where the capabilities stand.
    pub(crate) msi: Option<usize>,
    pub(crate) msix: Option<usize>,
    pub(crate) maskable: bool,
    /// The function wants to interrupt by its pin.
    pub(crate) level: bool,
    /// The MSI-X table and its pending bits.
    pub(crate) table: Vec<u8>,
    pub(crate) pending: Vec<u8>,
    /// Who sends: device and function, and the bus as the guest has numbered it.
    pub(crate) devfn: u8,
    pub(crate) bus: Arc<AtomicU8>,
}

/// What kind of messages is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pin,
    Msi(usize),
    Msix(usize),
}

impl Interrupts {
    pub(crate) fn mode(&self, space: &ConfigSpace) -> Mode {
        let control = |at: usize| space.u16(at + CONTROL);
        match (self.msix, self.msi) {
            (Some(at), _) if control(at) & MSIX_ENABLE != 0 => Mode::Msix(at),
            (_, Some(at)) if control(at) & MSI_ENABLE != 0 => Mode::Msi(at),
            _ => Mode::Pin,
        }
    }

    /// Drives the pin and the status bit as everything says now.
    pub(crate) fn update_pin(&self, space: &mut ConfigSpace) {
        let old = space.u16(reg::STATUS);
        let new = if self.level { old | status::INTERRUPT } else { old & !status::INTERRUPT };
        space.set_u16(reg::STATUS, new);
        self.line.set(self.pin_level(space));
    }

    pub(crate) fn pin_level(&self, space: &ConfigSpace) -> bool {
        let disabled = space.u16(reg::COMMAND) & command::INTX_DISABLE != 0;
        self.level && !disabled && self.mode(space) == Mode::Pin
    }

    /// Number of messages the guest has allowed.
    pub(crate) fn allowed(&self, space: &ConfigSpace) -> usize {
        match self.mode(space) {
            Mode::Pin => 0,
            Mode::Msi(at) => 1 << (space.u16(at + CONTROL) >> 4 & 7).min(5),
            Mode::Msix(_) => self.table.len() / ENTRY,
        }
    }

    /// Sends message `vector`, or keeps it while it is masked. False if messages are not enabled.
    pub(crate) fn send(&mut self, space: &mut ConfigSpace, vector: u16) -> bool {
        match self.mode(space) {
            Mode::Pin => return false,
            Mode::Msi(at) => {
                // A function with fewer messages than it wants shares the last of them.
                let vector = usize::from(vector).min(self.allowed(space) - 1) as u32;
                if self.maskable && space.u32(at + MSI_MASK) >> vector & 1 != 0 {
                    let pending = space.u32(at + MSI_PENDING) | 1 << vector;
                    space.set_u32(at + MSI_PENDING, pending);
                } else {
                    self.signal(space, self.msi_message(space, at, vector));
                }
            }
            Mode::Msix(at) => {
                let entry = usize::from(vector) * ENTRY;
                let Some(&mask) = self.table.get(entry + 12) else { return true };
                if mask & ENTRY_MASKED != 0 || space.u16(at + CONTROL) & MSIX_MASK_ALL != 0 {
                    self.pending[usize::from(vector / 8)] |= 1 << (vector % 8);
                } else {
                    self.signal(space, self.msix_message(entry));
                }
            }
        }
        true
    }

    fn requester(&self) -> u32 {
        u32::from(self.bus.load(Ordering::Relaxed)) << 8 | u32::from(self.devfn)
    }

    fn msi_message(&self, space: &ConfigSpace, at: usize, vector: u32) -> MsiMessage {
        let address = u64::from(space.u32(at + 4)) | u64::from(space.u32(at + 8)) << 32;
        let data = u32::from(space.u16(at + 12));
        let below = self.allowed(space) as u32 - 1;
        MsiMessage { address, data: data & !below | vector & below, requester: self.requester() }
    }

    fn msix_message(&self, entry: usize) -> MsiMessage {
        let word = |at: usize| le_value(self.table.get(entry + at..entry + at + 4).unwrap_or_default());
        MsiMessage { address: word(0) | word(4) << 32, data: word(8) as u32, requester: self.requester() }
    }

    fn signal(&self, space: &ConfigSpace, message: MsiMessage) {
        if space.u16(reg::COMMAND) & command::MASTER != 0
            && let Some(target) = &self.target
        {
            target.signal(message);
        }
    }

    /// Sends what was kept and is not masked any more; after every change of masks and enables.
    pub(crate) fn flush(&mut self, space: &mut ConfigSpace) {
        match self.mode(space) {
            Mode::Pin => {}
            Mode::Msi(at) if self.maskable => {
                let ready = space.u32(at + MSI_PENDING) & !space.u32(at + MSI_MASK);
                space.set_u32(at + MSI_PENDING, space.u32(at + MSI_PENDING) & !ready);
                for vector in (0..self.allowed(space) as u32).filter(|v| ready >> v & 1 != 0) {
                    self.signal(space, self.msi_message(space, at, vector));
                }
            }
            Mode::Msi(_) => {}
            Mode::Msix(at) => {
                if space.u16(at + CONTROL) & MSIX_MASK_ALL != 0 {
                    return;
                }
                for vector in 0..self.table.len() / ENTRY {
                    let bit = 1 << (vector % 8);
                    let masked = self.table[vector * ENTRY + 12] & ENTRY_MASKED != 0;
                    if self.pending[vector / 8] & bit != 0 && !masked {
                        self.pending[vector / 8] &= !bit;
                        self.signal(space, self.msix_message(vector * ENTRY));
                    }
                }
            }
        }
    }

    pub(crate) fn read_table(&self, at: usize, data: &mut [u8]) {
        read_table(&self.table, at, data);
    }

    pub(crate) fn read_pending(&self, at: usize, data: &mut [u8]) {
        read_table(&self.pending, at, data);
    }

    pub(crate) fn write_table(&mut self, space: &mut ConfigSpace, at: usize, data: &[u8]) {
        if write_table(&mut self.table, at, data) {
            self.flush(space);
        }
    }

    /// The table as after reset: all entries masked.
    pub(crate) fn fresh_table(vectors: u16) -> Vec<u8> {
        let mut entry = [0; ENTRY];
        entry[12] = ENTRY_MASKED;
        entry.repeat(vectors.into())
    }
}
