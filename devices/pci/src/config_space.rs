//! The bytes of a configuration space and which of their bits the guest may change.
//!
//! PCI Local Bus Specification 3.0, 6.1 and 6.7; PCI Express Base Specification 3.0, 7.9. Everything that a write does
//! beyond storing bits is the function's business.

use device::le_fill;

/// Size of a conventional space.
pub const CONVENTIONAL: usize = 256;
/// Size of a PCI Express space.
pub const EXTENDED: usize = 4096;

/// Offsets of the header.
pub mod reg {
    /// Vendor id.
    pub const VENDOR: usize = 0x00;
    /// Device id.
    pub const DEVICE: usize = 0x02;
    /// Command.
    pub const COMMAND: usize = 0x04;
    /// Status.
    pub const STATUS: usize = 0x06;
    /// Revision; the class code follows.
    pub const REVISION: usize = 0x08;
    /// Cache line size.
    pub const CACHE_LINE: usize = 0x0c;
    /// Latency timer.
    pub const LATENCY: usize = 0x0d;
    /// Header type.
    pub const HEADER: usize = 0x0e;
    /// First base address register.
    pub const BAR: usize = 0x10;
    /// Bridges: primary bus number; secondary and subordinate follow.
    pub const PRIMARY: usize = 0x18;
    /// Bridges: I/O window.
    pub const IO_BASE: usize = 0x1c;
    /// Bridges: secondary status.
    pub const SECONDARY_STATUS: usize = 0x1e;
    /// Bridges: memory window.
    pub const MEMORY_BASE: usize = 0x20;
    /// Bridges: prefetchable window.
    pub const PREFETCH_BASE: usize = 0x24;
    /// Bridges: upper halves of the prefetchable window.
    pub const PREFETCH_UPPER: usize = 0x28;
    /// Bridges: upper halves of the I/O window.
    pub const IO_UPPER: usize = 0x30;
    /// Subsystem vendor; the device follows.
    pub const SUBSYSTEM: usize = 0x2c;
    /// Expansion ROM of a function.
    pub const ROM: usize = 0x30;
    /// First capability.
    pub const CAPABILITIES: usize = 0x34;
    /// Bridges: expansion ROM.
    pub const BRIDGE_ROM: usize = 0x38;
    /// Interrupt line; the pin follows.
    pub const LINE: usize = 0x3c;
    /// Interrupt pin.
    pub const PIN: usize = 0x3d;
    /// Bridges: bridge control.
    pub const BRIDGE_CONTROL: usize = 0x3e;
}

/// Bits of the command register.
pub mod command {
    /// Answers in port space.
    pub const IO: u16 = 1 << 0;
    /// Answers in memory space.
    pub const MEMORY: u16 = 1 << 1;
    /// Reaches memory, sends messages.
    pub const MASTER: u16 = 1 << 2;
    /// Parity errors.
    pub const PARITY: u16 = 1 << 6;
    /// System errors.
    pub const SERR: u16 = 1 << 8;
    /// The interrupt pin is silent.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Bits of the status register.
pub mod status {
    /// The interrupt pin is asserted, were it not disabled.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There are capabilities.
    pub const CAPABILITIES: u16 = 1 << 4;
    /// Errors, cleared by writing ones.
    pub const ERRORS: u16 = 0xf900;
}

/// Capability identifiers.
pub mod cap {
    /// Power management.
    pub const POWER: u8 = 0x01;
    /// Messages by capability.
    pub const MSI: u8 = 0x05;
    /// Vendor-specific.
    pub const VENDOR: u8 = 0x09;
    /// Subsystem of a bridge.
    pub const BRIDGE_SUBSYSTEM: u8 = 0x0d;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// Messages by table.
    pub const MSIX: u8 = 0x11;
    /// Serial ATA.
    pub const SATA: u8 = 0x12;
}

/// A configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    /// Bits the guest may set and clear.
    writable: Vec<u8>,
    /// Bits the guest clears by writing ones.
    clearable: Vec<u8>,
    /// Bits the function changes on its own.
    owned: Vec<u8>,
    /// First byte that no capability has taken.
    free: usize,
    /// Where the link to the next capability goes.
    link: usize,
    /// The same for extended capabilities.
    extended_free: usize,
    extended_link: Option<usize>,
}

impl ConfigSpace {
    /// A space of zeroes, none of which can be written.
    pub fn new(extended: bool) -> Self {
        let size = if extended { EXTENDED } else { CONVENTIONAL };
        ConfigSpace {
            bytes: vec![0; size],
            writable: vec![0; size],
            clearable: vec![0; size],
            owned: vec![0; size],
            free: 0x40,
            link: reg::CAPABILITIES,
            extended_free: CONVENTIONAL,
            extended_link: None,
        }
    }

    /// Its size.
    #[expect(clippy::len_without_is_empty, reason = "a space is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A byte; 0 beyond the end, as for the wider ones.
    pub fn u8(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// A 16-bit register.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.u8(at), self.u8(at + 1)])
    }

    /// A 32-bit register.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    /// Sets bytes, whatever the guest may write.
    pub fn set(&mut self, at: usize, data: &[u8]) {
        self.bytes.iter_mut().skip(at).zip(data).for_each(|(to, from)| *to = *from);
    }

    /// Sets a byte.
    pub fn set_u8(&mut self, at: usize, value: u8) {
        self.set(at, &[value]);
    }

    /// Sets a 16-bit register.
    pub fn set_u16(&mut self, at: usize, value: u16) {
        self.set(at, &value.to_le_bytes());
    }

    /// Sets a 32-bit register.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.set(at, &value.to_le_bytes());
    }

    /// Lets the guest write the bits of a mask.
    pub fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable.iter_mut().skip(at).zip(mask).for_each(|(to, from)| *to = *from);
    }

    /// Lets the guest clear the bits of a mask by writing ones.
    pub fn allow_clear(&mut self, at: usize, mask: &[u8]) {
        self.clearable.iter_mut().skip(at).zip(mask).for_each(|(to, from)| *to = *from);
    }

    /// Notes that the function changes the bits of a mask on its own: they are part of its state.
    pub fn own(&mut self, at: usize, mask: &[u8]) {
        self.owned.iter_mut().skip(at).zip(mask).for_each(|(to, from)| *to = *from);
    }

    /// Reads for the guest.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        data.iter_mut().enumerate().for_each(|(i, to)| *to = self.u8(at + i));
    }

    /// Writes for the guest: only what it may.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        for (i, &new) in data.iter().enumerate() {
            let Some(byte) = self.bytes.get_mut(at + i) else { return };
            let (writable, clearable) = (self.writable[at + i], self.clearable[at + i]);
            *byte = *byte & !writable | new & writable;
            *byte &= !(new & clearable);
        }
    }

    /// Adds a capability of `len` bytes, its two bytes of header included; returns where it stands, or nothing if there is
    /// no room.
    pub fn add_capability(&mut self, id: u8, len: usize) -> Option<usize> {
        let at = self.free;
        if at + len > CONVENTIONAL {
            return None;
        }
        self.free = (at + len).next_multiple_of(4);
        Some(self.place_capability(id, at))
    }

    /// Adds a capability whose place is given by the chip's manual.
    pub fn add_capability_at(&mut self, id: u8, at: usize, len: usize) -> usize {
        self.free = self.free.max((at + len).next_multiple_of(4));
        self.place_capability(id, at)
    }

    fn place_capability(&mut self, id: u8, at: usize) -> usize {
        self.set(at, &[id, 0]);
        let link = std::mem::replace(&mut self.link, at + 1);
        self.set_u8(link, at as u8);
        let status = self.u16(reg::STATUS) | status::CAPABILITIES;
        self.set_u16(reg::STATUS, status);
        at
    }

    /// Adds an extended capability of `len` bytes, its header included.
    pub fn add_extended(&mut self, id: u16, version: u8, len: usize) -> Option<usize> {
        let at = self.extended_free;
        if at + len > self.len() {
            return None;
        }
        self.extended_free = (at + len).next_multiple_of(4);
        self.set_u32(at, u32::from(id) | u32::from(version & 15) << 16);
        if let Some(link) = self.extended_link.replace(at) {
            let header = self.u32(link) | (at as u32) << 20;
            self.set_u32(link, header);
        }
        Some(at)
    }

    /// Where the first capability of a kind stands.
    pub fn find(&self, id: u8) -> Option<usize> {
        let mut at = usize::from(self.u8(reg::CAPABILITIES));
        for _ in 0..48 {
            match at {
                0 => return None,
                _ if self.u8(at) == id => return Some(at),
                _ => at = self.u8(at + 1).into(),
            }
        }
        None
    }

    /// Takes over what a saved space holds where the guest or the function may change it.
    pub(crate) fn import(&mut self, saved: &[u8]) {
        for (i, (byte, new)) in self.bytes.iter_mut().zip(saved).enumerate() {
            let mask = self.writable[i] | self.clearable[i] | self.owned[i];
            *byte = *byte & !mask | new & mask;
        }
    }
}

/// Whether an access of `len` bytes at `at` touches `size` bytes at `of`.
pub fn touches(at: usize, len: usize, of: usize, size: usize) -> bool {
    at < of + size && of < at + len
}

/// Reads a number out of a byte array, as registers in tables are.
pub(crate) fn read_table(table: &[u8], at: usize, data: &mut [u8]) {
    match table.get(at..at + data.len()) {
        Some(bytes) => data.copy_from_slice(bytes),
        None => le_fill(data, 0),
    }
}

/// Writes a number into a byte array.
pub(crate) fn write_table(table: &mut [u8], at: usize, data: &[u8]) -> bool {
    match table.get_mut(at..at + data.len()) {
        Some(bytes) => {
            bytes.copy_from_slice(data);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_linked() {
        let mut c = ConfigSpace::new(true);
        assert_eq!(c.find(cap::MSI), None);
        assert_eq!(c.add_capability(cap::MSI, 14), Some(0x40));
        assert_eq!(c.add_capability(cap::EXPRESS, 60), Some(0x50));
        assert_eq!(c.add_capability_at(cap::POWER, 0xa0, 8), 0xa0);
        assert_eq!(
            (c.find(cap::MSI), c.find(cap::EXPRESS), c.find(cap::POWER)),
            (Some(0x40), Some(0x50), Some(0xa0))
        );
        assert_eq!(c.u16(reg::STATUS), status::CAPABILITIES);
        assert_eq!(c.add_capability(cap::VENDOR, 100), None);
        assert_eq!(c.add_extended(1, 1, 0x48), Some(0x100));
        assert_eq!(c.add_extended(3, 1, 12), Some(0x148));
        assert_eq!(c.u32(0x100), 0x1481_0001);
        let loops = ConfigSpace {
            bytes: {
                let mut b = vec![0; 256];
                b[0x34] = 0x40;
                b[0x41] = 0x40;
                b
            },
            ..c
        };
        assert_eq!(loops.find(7), None);
    }

    #[test]
    fn only_what_may_be_written_is() {
        let mut c = ConfigSpace::new(false);
        c.set_u32(0, 0x1234_8086);
        c.allow(4, &[0x0f]);
        c.allow_clear(5, &[0xf0]);
        c.set_u8(5, 0xff);
        c.write(0, &[0xff; 8]);
        assert_eq!((c.u32(0), c.u32(4)), (0x1234_8086, 0x0f0f));
        c.write(254, &[1; 4]);
        let mut data = [9; 4];
        c.read(254, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
