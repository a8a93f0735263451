//! The bus master of an IDE channel (Intel's "Programming Interface for Bus Master IDE Controller", 1.0): three
//! registers, and a table of regions in memory.

use device::Dma;

/// Command register: start, and direction towards memory.
pub(super) const START: u8 = 1 << 0;
const TO_MEMORY: u8 = 1 << 3;

/// Status register.
const ACTIVE: u8 = 1 << 0;
const ERROR: u8 = 1 << 1;
const INTERRUPT: u8 = 1 << 2;
/// Bits software keeps for itself: which drives can use the bus master.
const CAPABLE: u8 = 0x60;

device::state! {
    /// Saved state of a bus master, version 1.
    pub(crate) struct BusMasterV1 {
        1 => command: u8, 2 => status: u8, 3 => table: u32, 4 => entry: u32, 5 => address: u32, 6 => left: u32,
        7 => last: bool,
    }
}

/// Registers, and where in the table it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BusMaster(pub(crate) BusMasterV1);

impl BusMaster {
    pub(super) fn is_active(&self) -> bool {
        self.0.status & ACTIVE != 0
    }

    /// Reads register `offset` of the channel's eight.
    pub(super) fn read(&self, offset: u64) -> u8 {
        match offset {
            0 => self.0.command,
            2 => self.0.status,
            4..8 => self.0.table.to_le_bytes()[offset as usize - 4],
            _ => 0xff,
        }
    }

    /// Writes a register; whether the start bit changed.
    pub(super) fn write(&mut self, offset: u64, value: u8) -> bool {
        let s = &mut self.0;
        match offset {
            0 => {
                let changed = (s.command ^ value) & START != 0;
                s.command = value & (START | TO_MEMORY);
                if changed && value & START != 0 {
                    s.status |= ACTIVE;
                    (s.entry, s.left, s.last) = (s.table, 0, false);
                } else if changed {
                    s.status &= !ACTIVE;
                }
                return changed;
            }
            2 => s.status = s.status & ACTIVE | value & CAPABLE | s.status & !value & (ERROR | INTERRUPT),
            4..8 => {
                let mut bytes = s.table.to_le_bytes();
                bytes[offset as usize - 4] = value;
                s.table = u32::from_le_bytes(bytes) & !3;
            }
            _ => {}
        }
        false
    }

    pub(super) fn interrupt(&mut self) {
        self.0.status |= INTERRUPT;
    }

    /// The transfer is over.
    pub(super) fn finish(&mut self, failed: bool) {
        self.0.status &= !ACTIVE;
        if failed {
            self.0.status |= ERROR;
        }
    }

    /// Moves to the next entry if the present one is used up; false at the end of the table.
    fn advance(&mut self, dma: &Dma) -> bool {
        let s = &mut self.0;
        if s.left > 0 {
            return true;
        }
        let mut entry = [0; 8];
        if s.last || dma.read(s.entry.into(), &mut entry).is_err() {
            return false;
        }
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let count = word(4) & 0xfffe;
        s.address = word(0) & !1;
        s.left = if count == 0 { 0x1_0000 } else { count };
        s.last = word(4) >> 31 != 0;
        // The table does not cross a boundary of 64 KiB.
        s.entry = s.entry & !0xffff | s.entry.wrapping_add(8) & 0xffff;
        true
    }

    /// Moves data between `data` and the regions by `step`, which takes an address; false if the table ends first or
    /// memory is not there.
    fn each(&mut self, dma: &Dma, len: usize, mut step: impl FnMut(u64, usize, usize) -> bool) -> bool {
        let mut done = 0;
        while done < len {
            if !self.advance(dma) {
                return false;
            }
            let n = (self.0.left as usize).min(len - done);
            if !step(self.0.address.into(), done, n) {
                return false;
            }
            done += n;
            self.0.address = self.0.address.wrapping_add(n as u32);
            self.0.left -= n as u32;
        }
        true
    }

    /// Gives data to the host.
    pub(super) fn scatter(&mut self, dma: &Dma, data: &[u8]) -> bool {
        self.each(dma, data.len(), |address, at, n| dma.write(address, &data[at..at + n]).is_ok())
    }

    /// Takes data from the host.
    pub(super) fn gather(&mut self, dma: &Dma, len: usize) -> Option<Vec<u8>> {
        let mut data = vec![0; len];
        self.each(dma, len, |address, at, n| dma.read(address, &mut data[at..at + n]).is_ok()).then_some(data)
    }
}
