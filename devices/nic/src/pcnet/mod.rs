//! AMD Am79C970A PCnet-PCI II Ethernet controller (datasheet 19436): rings of descriptors of 16 and 32 bits.
//!
//! Base address register 0 has the registers in port space, 1 in memory. Not there: internal loopback, the poll that finds
//! descriptors without being told, the boot ROM.

mod registers;
mod rings;
mod state;
#[cfg(test)]
mod tests;

use device::{
    Access, AccessRule, BuildError, Device, Dma, ResetKind, StateBlob, StateError, Wires, le_fill, le_value,
};
use net::MacAddr;
use pci::{BarKind, Function, FunctionSpec, PciConfig, PciDevice, class};

use crate::card::card_config;
use crate::port::{Port, address};

card_config! {
    /// The card.
    PcnetConfig
}

const AMD: u16 = 0x1022;
const SIZE: u64 = 32;
/// Numbers of registers in the two files.
const CSRS: usize = 128;
const BCRS: usize = 32;
/// Most that descriptors of one frame may add up to.
const MAX_FRAME: usize = 64 << 10;

/// Control and status registers.
mod csr {
    pub(super) const STATUS: usize = 0;
    pub(super) const INIT_BLOCK: usize = 1;
    pub(super) const MASKS: usize = 3;
    pub(super) const FEATURES: usize = 4;
    pub(super) const EXTENDED: usize = 5;
    pub(super) const GROUP: usize = 8;
    pub(super) const ADDRESS: usize = 12;
    pub(super) const MODE: usize = 15;
    pub(super) const RECEIVE_RING: usize = 24;
    pub(super) const SEND_RING: usize = 30;
    pub(super) const STYLE: usize = 58;
    /// Which descriptor is next: counted down from the ring's length.
    pub(super) const RECEIVE_COUNT: usize = 72;
    pub(super) const SEND_COUNT: usize = 74;
    pub(super) const RECEIVE_LENGTH: usize = 76;
    pub(super) const SEND_LENGTH: usize = 78;
    pub(super) const CHIP: usize = 88;
    pub(super) const MISSED: usize = 112;
}

/// Bus configuration registers.
mod bcr {
    pub(super) const LINK: usize = 4;
    pub(super) const BUS: usize = 18;
    pub(super) const STYLE: usize = 20;
}

/// Bits of CSR0.
mod status {
    pub(super) const INIT: u16 = 1 << 0;
    pub(super) const START: u16 = 1 << 1;
    pub(super) const STOP: u16 = 1 << 2;
    pub(super) const SEND_NOW: u16 = 1 << 3;
    pub(super) const SENDING: u16 = 1 << 4;
    pub(super) const RECEIVING: u16 = 1 << 5;
    pub(super) const ENABLE: u16 = 1 << 6;
    pub(super) const INTERRUPT: u16 = 1 << 7;
    pub(super) const INIT_DONE: u16 = 1 << 8;
    pub(super) const SENT: u16 = 1 << 9;
    pub(super) const RECEIVED: u16 = 1 << 10;
    pub(super) const MEMORY_ERROR: u16 = 1 << 11;
    /// What interrupts, and is cleared by ones.
    pub(super) const CAUSES: u16 = 0x7f00;
    /// Those causes that sum up as errors.
    pub(super) const ERRORS: u16 = 0x7800;
    pub(super) const ERROR: u16 = 1 << 15;
}

/// BCR18: the registers are 32 bits wide.
const WIDE: u16 = 1 << 7;
/// BCR20: software structures are of 32 bits.
const STYLE_WIDE: u16 = 1 << 8;
/// BCR4: the LED's output, which shows the link after reset.
const LED_LIT: u16 = 1 << 15;

impl PciConfig for PcnetConfig {
    const KIND: &'static str = "pcnet";
    const HELP: &'static str = "AMD PCnet-PCI II Ethernet card";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(AMD, 0x2000, class::ETHERNET)
            .revision(0x10)
            .subsystem(0, 0)
            .bar(0, SIZE, BarKind::Ports(AccessRule::UP_TO_4))
            .bar(1, SIZE, BarKind::Memory(AccessRule::UP_TO_4))
    }

    fn nics(&self) -> Vec<&'static str> {
        vec!["netdev"]
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let mac = address(self.mac.as_ref(), wires)?;
        let mut card = Pcnet {
            function,
            dma: wires.dma()?,
            port: Port::new(&self.backend, wires, wires.waker(0)),
            prom: prom(mac),
            csr: [0; CSRS],
            bcr: [0; BCRS],
            selected: 0,
            frame: Vec::new(),
            paused: false,
        };
        card.restart();
        Ok(Box::new(card))
    }
}

/// The address PROM: the address, a checksum and two marks.
fn prom(mac: MacAddr) -> [u8; 16] {
    let mut prom = [0; 16];
    prom[..6].copy_from_slice(&mac.0);
    (prom[14], prom[15]) = (0x57, 0x57);
    let sum: u16 = prom.iter().map(|byte| u16::from(*byte)).sum();
    prom[12..14].copy_from_slice(&sum.to_le_bytes());
    prom
}

struct Pcnet {
    function: Function,
    dma: Dma,
    port: Port,
    prom: [u8; 16],
    csr: [u16; CSRS],
    bcr: [u16; BCRS],
    /// The register that data accesses mean.
    selected: u16,
    /// The frame whose descriptors come in.
    frame: Vec<u8>,
    paused: bool,
}

impl Pcnet {
    fn is_wide(&self) -> bool {
        self.bcr[bcr::BUS] & WIDE != 0
    }

    /// Which register of the window an access means: data, address, reset, bus configuration.
    fn window(&self, offset: u64, len: usize) -> Option<u64> {
        match (self.is_wide(), len) {
            (true, 4) if offset.is_multiple_of(4) => Some((offset - 16) / 4),
            (false, 2) if offset < 24 && offset.is_multiple_of(2) => Some((offset - 16) / 2),
            _ => None,
        }
    }
}

impl Device for Pcnet {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        if offset < 16 {
            for (at, byte) in (offset as usize..).zip(data) {
                *byte = self.prom.get(at).copied().unwrap_or(0xff);
            }
            return Access::Ok;
        }
        let value = match self.window(offset, data.len()) {
            Some(0) => self.read_csr(),
            Some(1) => self.selected,
            Some(2) => {
                self.soft_reset();
                0
            }
            Some(3) => self.read_bcr(),
            _ => {
                data.fill(0xff);
                return Access::Ok;
            }
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u16;
        if offset < 16 {
            return Access::Ok;
        }
        // The first access of 32 bits to the data register makes all registers so wide.
        if !self.is_wide() && data.len() == 4 && offset == 16 {
            self.bcr[bcr::BUS] |= WIDE;
        }
        match self.window(offset, data.len()) {
            Some(0) => self.write_csr(value),
            Some(1) => self.selected = value & 0x7f,
            Some(3) => self.write_bcr(value),
            _ => {}
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.restart();
        self.port.clear();
        self.update();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn wake(&mut self, _id: usize) {
        self.receive();
    }

    fn quiesce(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
        self.send();
        self.receive();
    }
}

impl PciDevice for Pcnet {}
