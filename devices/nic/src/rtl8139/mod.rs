//! Realtek RTL8139C+ Fast Ethernet controller (RTL8139C(L)+ datasheet, rev. 1.2): the ring of the older chips, and the
//! descriptors of this one.
//!
//! Base address register 0 has the registers in port space, 1 in memory. Not there: large send, tags of virtual LANs,
//! wake-up, the boot ROM.

mod descriptors;
mod ring;
mod state;
#[cfg(test)]
mod tests;

use device::{
    Access, AccessRule, BuildError, Clock, Device, Dma, ResetKind, StateBlob, StateError, Timer, Wires,
    le_value,
};
use net::MacAddr;
use pci::{BarKind, Function, FunctionSpec, PciConfig, PciDevice, class};

use crate::card::card_config;
use crate::eeprom::{self, Eeprom};
use crate::frame::hash_of_first;
use crate::port::{Port, address};

card_config! {
    /// The card.
    Rtl8139Config
}

const SIZE: usize = 0x100;
/// Frequency of the timer: that of the bus.
const TIMER_HZ: u64 = 33_000_000;
/// Longest frame that the chip takes or sends, by the size of its fields.
const MAX_FRAME: usize = 0x1fff;
/// Most that descriptors of one frame may add up to.
const MAX_PACKET: usize = 64 << 10;

/// Offsets.
mod reg {
    pub(super) const ADDRESS: usize = 0x00;
    pub(super) const MULTICAST: usize = 0x08;
    /// Four of each: status and address of what is sent.
    pub(super) const SEND_STATUS: usize = 0x10;
    pub(super) const SEND_ADDRESS: usize = 0x20;
    pub(super) const RING: usize = 0x30;
    pub(super) const COMMAND: usize = 0x37;
    pub(super) const READ_POINTER: usize = 0x38;
    pub(super) const WRITE_POINTER: usize = 0x3a;
    pub(super) const MASK: usize = 0x3c;
    pub(super) const STATUS: usize = 0x3e;
    pub(super) const SEND_CONFIG: usize = 0x40;
    pub(super) const RECEIVE_CONFIG: usize = 0x44;
    pub(super) const TIMER: usize = 0x48;
    pub(super) const MISSED: usize = 0x4c;
    pub(super) const EEPROM: usize = 0x50;
    pub(super) const CONFIG0: usize = 0x51;
    pub(super) const CONFIG1: usize = 0x52;
    pub(super) const TIMER_INTERRUPT: usize = 0x54;
    pub(super) const MEDIA: usize = 0x58;
    pub(super) const CONFIG3: usize = 0x59;
    pub(super) const SEND_SUMMARY: usize = 0x60;
    pub(super) const PHY_CONTROL: usize = 0x62;
    pub(super) const PHY_STATUS: usize = 0x64;
    pub(super) const PHY_OFFERS: usize = 0x66;
    pub(super) const PHY_PARTNER: usize = 0x68;
    pub(super) const PHY_EXPANSION: usize = 0x6a;
    pub(super) const CONFIG5: usize = 0xd8;
    pub(super) const POLL: usize = 0xd9;
    pub(super) const PLUS: usize = 0xe0;
    pub(super) const RECEIVE_DESCRIPTORS: usize = 0xe4;
}

/// Bits of interrupt mask and status.
mod cause {
    pub(super) const RECEIVED: u16 = 1 << 0;
    pub(super) const SENT: u16 = 1 << 2;
    pub(super) const LINK: u16 = 1 << 5;
    pub(super) const NO_DESCRIPTOR: u16 = 1 << 7;
    pub(super) const SOFTWARE: u16 = 1 << 8;
    pub(super) const TIMER: u16 = 1 << 14;
}

/// Command: the ring is empty, sending, receiving, reset.
const EMPTY: u8 = 1 << 0;
const SEND: u8 = 1 << 2;
const RECEIVE: u8 = 1 << 3;
const RESET: u8 = 1 << 4;

/// Receive configuration: what is taken.
mod accept {
    pub(super) const ALL: u32 = 1 << 0;
    pub(super) const OWN: u32 = 1 << 1;
    pub(super) const MULTICAST: u32 = 1 << 2;
    pub(super) const BROADCAST: u32 = 1 << 3;
}

/// Command register of the new chip: descriptors for sending, for receiving.
const PLUS_SEND: u16 = 1 << 0;
const PLUS_RECEIVE: u16 = 1 << 1;

/// What the EEPROM's register says of its lines, and its mode in which the configuration may be written.
const EE_DATA_OUT: u8 = 1 << 0;
const EE_DATA_IN: u8 = 1 << 1;
const EE_CLOCK: u8 = 1 << 2;
const EE_SELECT: u8 = 1 << 3;
const EE_MODE: u8 = 3 << 6;

/// Version of the chip, in the send configuration.
const VERSION: u32 = 0x7480_0000;
/// Link status as the PHY shows it: link, negotiation done.
const PHY_LINK: u16 = 0x24;
/// Media status: there is no link.
const NO_LINK: u8 = 1 << 2;

impl PciConfig for Rtl8139Config {
    const KIND: &'static str = "rtl8139";
    const HELP: &'static str = "Realtek RTL8139C+ Fast Ethernet card";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(0x10ec, 0x8139, class::ETHERNET)
            .revision(0x20)
            .bar(0, SIZE as u64, BarKind::Ports(AccessRule::UP_TO_4))
            .bar(1, SIZE as u64, BarKind::Memory(AccessRule::UP_TO_4))
    }

    fn nics(&self) -> Vec<&'static str> {
        vec!["netdev"]
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        let mac = address(self.mac.as_ref(), wires)?;
        let mut card = Rtl8139 {
            function,
            dma: wires.dma()?,
            port: Port::new(&self.backend, wires, wires.waker(0)),
            clock: wires.clock(),
            timer: wires.timer(0),
            eeprom: Eeprom::new(words(mac)),
            mac,
            r: [0; SIZE],
            timer_base: 0,
            send_at: 0,
            receive_at: 0,
            frame: Vec::new(),
            paused: false,
        };
        card.restart();
        Ok(Box::new(card))
    }
}

/// Contents of the EEPROM (chapter 7.2): identity, and the address at word 7.
fn words(mac: MacAddr) -> [u16; eeprom::WORDS] {
    let mut words = [0; eeprom::WORDS];
    words[..5].copy_from_slice(&[0x8129, 0x10ec, 0x8139, 0x10ec, 0x8139]);
    for (word, pair) in words[7..10].iter_mut().zip(mac.0.chunks(2)) {
        *word = u16::from_le_bytes([pair[0], pair[1]]);
    }
    words
}

struct Rtl8139 {
    function: Function,
    dma: Dma,
    port: Port,
    clock: Clock,
    timer: Timer,
    eeprom: Eeprom,
    mac: MacAddr,
    /// The registers as the guest reads them, but for those that are computed.
    r: [u8; SIZE],
    /// When the timer was at 0.
    timer_base: u64,
    /// The descriptors that come next.
    send_at: u32,
    receive_at: u32,
    /// The frame whose descriptors come in.
    frame: Vec<u8>,
    paused: bool,
}

impl Rtl8139 {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.r[at], self.r[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.r[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// As after power-on.
    fn restart(&mut self) {
        self.r = [0; SIZE];
        let mac = self.mac.0;
        self.put(reg::ADDRESS, &mac);
        self.put(reg::CONFIG0, &[0x00, 0x0c]);
        self.put(reg::CONFIG3, &[1, 0x80]);
        self.put(reg::PHY_CONTROL, &0x1100u16.to_le_bytes());
        self.put(reg::PHY_STATUS, &0x7809u16.to_le_bytes());
        self.put(reg::PHY_OFFERS, &0x05e1u16.to_le_bytes());
        self.eeprom.reset();
        self.soft_reset();
        let up = self.port.is_up();
        self.set_link(up);
    }

    /// A reset by command: everything but address, filter and what the EEPROM holds.
    fn soft_reset(&mut self) {
        for n in 0..4 {
            self.put(reg::SEND_STATUS + 4 * n, &ring::OWN.to_le_bytes());
            self.put(reg::SEND_ADDRESS + 4 * n, &[0; 4]);
        }
        self.put(reg::RING, &[0; 4]);
        self.r[reg::COMMAND] = 0;
        self.put(reg::READ_POINTER, &0xfff0u16.to_le_bytes());
        self.put(reg::WRITE_POINTER, &[0; 2]);
        self.put(reg::MASK, &[0; 4]);
        self.put(reg::SEND_CONFIG, &VERSION.to_le_bytes());
        self.put(reg::RECEIVE_CONFIG, &[0; 4]);
        self.put(reg::MISSED, &[0; 4]);
        self.put(reg::TIMER_INTERRUPT, &[0; 4]);
        self.put(reg::PLUS, &[0; 2]);
        (self.send_at, self.receive_at) = (0, 0);
        self.frame.clear();
        self.timer_base = self.clock.now();
        self.arm();
    }

    fn set_link(&mut self, up: bool) -> bool {
        let before = self.r[reg::MEDIA] & NO_LINK == 0;
        self.r[reg::MEDIA] = if up { 0 } else { NO_LINK };
        let status = self.u16(reg::PHY_STATUS) & !PHY_LINK | if up { PHY_LINK } else { 0 };
        self.put(reg::PHY_STATUS, &status.to_le_bytes());
        let partner: u16 = if up { 0x45e1 } else { 0 };
        self.put(reg::PHY_PARTNER, &partner.to_le_bytes());
        self.put(reg::PHY_EXPANSION, &u16::from(up).to_le_bytes());
        before != up
    }

    fn update_pin(&self) {
        self.function.interrupt(self.u16(reg::STATUS) & self.u16(reg::MASK) != 0);
    }

    fn raise(&mut self, causes: u16) {
        let status = self.u16(reg::STATUS) | causes;
        self.put(reg::STATUS, &status.to_le_bytes());
        self.update_pin();
    }

    /// Ticks since the timer was at 0; the guest sees the lower half.
    fn ticks(&self) -> u64 {
        Clock::ticks_of_ns(self.clock.now().saturating_sub(self.timer_base), TIMER_HZ)
    }

    /// The timer interrupts when it reaches its register, if that is not 0.
    fn arm(&mut self) {
        let (at, now) = (u64::from(self.u32(reg::TIMER_INTERRUPT)), self.ticks());
        let next = now & !0xffff_ffff | at;
        let next = if next <= now { next.saturating_add(1 << 32) } else { next };
        let deadline = self.timer_base.saturating_add(Clock::ns_of_ticks(next, TIMER_HZ));
        self.timer.set((at != 0).then_some(deadline));
    }

    /// Whether a frame is one of those that the guest wants.
    fn accepts(&self, frame: &[u8]) -> bool {
        let config = self.u32(reg::RECEIVE_CONFIG);
        let Some(to) = frame.first_chunk::<6>() else { return false };
        let has = |bit| config & bit != 0;
        has(accept::ALL)
            || match to {
                [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => has(accept::BROADCAST),
                [first, ..] if first & 1 != 0 => {
                    has(accept::MULTICAST) && self.u64(reg::MULTICAST) >> hash_of_first(to) & 1 != 0
                }
                _ => has(accept::OWN) && self.r[..6] == to[..],
            }
    }

    /// Takes frames as far as there is room for them.
    fn receive(&mut self) {
        let mut taken = false;
        while !self.paused && self.r[reg::COMMAND] & RECEIVE != 0 {
            let plus = self.u16(reg::PLUS) & PLUS_RECEIVE != 0;
            let room = if plus { self.descriptor_room() } else { self.ring_room() };
            let fits = |frame: &[u8]| !self.accepts(frame) || frame.len() <= room;
            let Some(frame) = self.port.take(fits) else {
                break;
            };
            taken = true;
            if self.accepts(&frame) && frame.len() + 4 <= MAX_FRAME {
                if plus { self.store_by_descriptor(frame) } else { self.store_in_ring(frame) }
            }
        }
        if taken {
            self.port.taken();
        }
    }

    fn read_byte(&mut self, at: usize) -> u8 {
        match at {
            reg::COMMAND => self.r[at] | if self.ring_is_empty() { EMPTY } else { 0 },
            reg::EEPROM => {
                let out = if self.eeprom.data_out() { EE_DATA_OUT } else { 0 };
                self.r[at] & !EE_DATA_OUT | out
            }
            _ if (reg::TIMER..reg::TIMER + 4).contains(&at) => {
                (self.ticks() >> (8 * (at - reg::TIMER))) as u8
            }
            _ if (reg::SEND_SUMMARY..reg::SEND_SUMMARY + 2).contains(&at) => {
                self.send_summary().to_le_bytes()[at - reg::SEND_SUMMARY]
            }
            _ => self.r.get(at).copied().unwrap_or(0),
        }
    }

    fn write_byte(&mut self, at: usize, value: u8) {
        match at {
            reg::COMMAND => {
                if value & RESET != 0 {
                    self.soft_reset();
                    self.update_pin();
                } else {
                    self.r[at] = value & (SEND | RECEIVE);
                }
            }
            reg::EEPROM => {
                self.r[at] = value & !EE_DATA_OUT;
                // The lines are the EEPROM's in its own mode alone.
                let on = value & EE_MODE == 0x80;
                let has = |bit: u8| value & bit != 0;
                self.eeprom.set_lines(on && has(EE_SELECT), has(EE_CLOCK), has(EE_DATA_IN));
            }
            // A poll: the normal queue, or both.
            reg::POLL if value & 0xc0 != 0 => self.send_descriptors(),
            reg::POLL => self.raise(if value & 1 != 0 { cause::SOFTWARE } else { 0 }),
            reg::CONFIG0 | reg::CONFIG1 | reg::CONFIG3 | 0x5a | reg::CONFIG5 => {
                if self.r[reg::EEPROM] & EE_MODE == EE_MODE {
                    self.r[at] = value;
                }
            }
            // Status of others.
            reg::WRITE_POINTER | 0x3b | reg::MEDIA | 0x5e | 0x60..=0x61 | 0x64..=0x65 | 0x68..=0x6b => {}
            // A reset of the PHY is over at once.
            0x63 => self.r[at] = value & 0x3d,
            _ => {
                if let Some(register) = self.r.get_mut(at) {
                    *register = value;
                }
            }
        }
    }

    /// What follows a write once all its bytes are there.
    fn written(&mut self, at: usize, len: usize) {
        let touches = |of: usize, size: usize| at < of + size && of < at + len;
        for n in 0..4 {
            if touches(reg::SEND_STATUS + 4 * n, 4) {
                self.send_buffer(n);
            }
        }
        if touches(reg::SEND_CONFIG, 4) {
            let config = self.u32(reg::SEND_CONFIG) & 0x0307_07f1 | VERSION;
            self.put(reg::SEND_CONFIG, &config.to_le_bytes());
        }
        if touches(reg::TIMER, 4) {
            self.timer_base = self.clock.now();
            self.put(reg::TIMER, &[0; 4]);
            self.arm();
        }
        if touches(reg::TIMER_INTERRUPT, 4) {
            self.arm();
        }
        if touches(reg::MISSED, 4) {
            self.put(reg::MISSED, &[0; 4]);
        }
        if touches(reg::RECEIVE_DESCRIPTORS, 8) {
            self.receive_at = 0;
        }
        if touches(reg::SEND_ADDRESS, 8) {
            self.send_at = 0;
        }
        if touches(reg::MASK, 2) {
            self.update_pin();
        }
        if touches(reg::COMMAND, 1) || touches(reg::READ_POINTER, 2) || touches(reg::RECEIVE_CONFIG, 4) {
            self.receive();
        }
    }
}

impl Device for Rtl8139 {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = self.read_byte(at);
        }
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let at = offset as usize;
        // Status is cleared by ones, and only those that are written.
        for (at, byte) in (at..).zip(data) {
            if (reg::STATUS..reg::STATUS + 2).contains(&at) {
                self.r[at] &= !byte;
            } else {
                self.write_byte(at, *byte);
            }
        }
        if (reg::STATUS - 1..reg::STATUS + 2).contains(&at) || le_value(data) != 0 && at == reg::MASK {
            self.update_pin();
            self.receive();
        }
        self.written(at, data.len());
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.restart();
        self.port.clear();
        self.update_pin();
    }

    fn save(&self) -> StateBlob {
        state::save(self)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state::restore(self, state)
    }

    fn timer(&mut self, _id: usize) {
        self.raise(cause::TIMER);
        self.arm();
    }

    fn wake(&mut self, _id: usize) {
        let up = self.port.is_up();
        if self.set_link(up) {
            self.raise(cause::LINK);
        }
        self.receive();
    }

    fn quiesce(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
        self.wake(0);
    }
}

impl PciDevice for Rtl8139 {}
