//! NE2000: National DP8390D network interface controller (datasheet TL/F/8582) with 16 KiB of memory for packets, as on
//! Novell's card for the ISA bus and on Realtek's RTL8029 for PCI.
//!
//! The card's ports: 0 to 15 are the controller's registers, in pages; 16 to 23 move data between the host and the card's
//! memory; 31 resets. Memory begins with the station address (each byte twice on a 16-bit card), packets are at 0x4000.

mod cards;
mod registers;
#[cfg(test)]
mod tests;

use device::{Bytes, IrqLine, StateError};
use net::MacAddr;
use pci::Function;

pub use cards::{Ne2kIsaConfig, Ne2kPciConfig};

use crate::frame::{MIN_FRAME, check_sequence, hash_of_first};
use crate::port::Port;

/// Ports of a card.
const PORTS: u64 = 32;
/// The card's memory as the controller sees it: addresses, then packets.
const MEMORY_END: usize = 0xc000;
const PACKETS: usize = 0x4000;
const PAGE: usize = 256;
/// Before each packet in the ring: status, next page, length.
const HEADER: usize = 4;

/// Command register: stop, start, send, what the data port does, page.
mod command {
    pub(super) const STOP: u8 = 1 << 0;
    pub(super) const START: u8 = 1 << 1;
    pub(super) const SEND: u8 = 1 << 2;
    pub(super) const REMOTE: u8 = 7 << 3;
    pub(super) const REMOTE_READ: u8 = 1 << 3;
    pub(super) const REMOTE_WRITE: u8 = 2 << 3;
    pub(super) const REMOTE_NONE: u8 = 4 << 3;
}

/// Interrupt status.
mod cause {
    pub(super) const RECEIVED: u8 = 1 << 0;
    pub(super) const SENT: u8 = 1 << 1;
    pub(super) const REMOTE_DONE: u8 = 1 << 6;
    pub(super) const RESET: u8 = 1 << 7;
}

/// Receive configuration: what is taken.
mod accept {
    pub(super) const BROADCAST: u8 = 1 << 2;
    pub(super) const MULTICAST: u8 = 1 << 3;
    pub(super) const ALL: u8 = 1 << 4;
    pub(super) const MONITOR: u8 = 1 << 5;
}

/// Receive status: good, for a group.
const GOOD: u8 = 1 << 0;
const GROUP: u8 = 1 << 5;
/// Data configuration: the data port is 16 bits wide.
const WIDE: u8 = 1 << 0;
/// Transmit configuration: loopback.
const LOOPBACK: u8 = 3 << 1;

device::state! {
    /// The controller's registers.
    struct Core {
        1 => command: u8, 2 => page_start: u8, 3 => page_stop: u8, 4 => boundary: u8, 5 => current: u8,
        6 => send_page: u8, 7 => send_count: u16, 8 => status: u8, 9 => mask: u8, 10 => remote_at: u16,
        11 => remote_count: u16, 12 => receive_config: u8, 13 => send_config: u8, 14 => data_config: u8,
        15 => receive_status: u8, 16 => send_status: u8, 17 => address: [u8; 6], 18 => group: [u8; 8],
    }
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => core: Core, 2 => packets: Bytes }
}

/// Where the card's interrupt goes.
enum Interrupt {
    Line(IrqLine),
    Function(Function),
}

impl Interrupt {
    fn set(&self, level: bool) {
        match self {
            Interrupt::Line(line) => line.set(level),
            Interrupt::Function(function) => function.set_pin(level),
        }
    }
}

/// The card.
struct Ne2000 {
    port: Port,
    interrupt: Interrupt,
    mac: MacAddr,
    core: Core,
    /// Packets, from 0x4000 on.
    packets: Vec<u8>,
    paused: bool,
}

impl Ne2000 {
    fn new(port: Port, interrupt: Interrupt, mac: MacAddr) -> Self {
        let packets = vec![0; MEMORY_END - PACKETS];
        let mut card = Ne2000 { port, interrupt, mac, core: Core::default(), packets, paused: false };
        card.restart();
        card
    }

    fn restart(&mut self) {
        self.core = Core {
            command: command::STOP | command::REMOTE_NONE,
            status: cause::RESET,
            page_start: 0x40,
            page_stop: 0x80,
            boundary: 0x40,
            current: 0x40,
            ..Core::default()
        };
    }

    fn level(&self) -> bool {
        self.core.status & self.core.mask & !cause::RESET != 0
    }

    fn raise(&mut self, causes: u8) {
        self.core.status |= causes;
        self.interrupt.set(self.level());
    }

    /// A byte of the card's memory.
    fn load(&self, at: usize) -> u8 {
        match at {
            // Each byte of the address twice, then the marks of a 16-bit card.
            0..12 => self.mac.0[at / 2],
            28..32 => 0x57,
            PACKETS.. => self.packets.get(at - PACKETS).copied().unwrap_or(0xff),
            _ => 0,
        }
    }

    fn store(&mut self, at: usize, value: u8) {
        if let Some(byte) = at.checked_sub(PACKETS).and_then(|at| self.packets.get_mut(at)) {
            *byte = value;
        }
    }

    /// Bounds of the ring, if it is one.
    fn ring(&self) -> Option<(usize, usize)> {
        let (start, stop) =
            (usize::from(self.core.page_start) * PAGE, usize::from(self.core.page_stop) * PAGE);
        (PACKETS <= start && start < stop && stop <= MEMORY_END).then_some((start, stop))
    }

    /// Bytes that the ring has room for.
    fn room(&self) -> usize {
        let Some((start, stop)) = self.ring() else { return 0 };
        let (write, read) = (usize::from(self.core.current) * PAGE, usize::from(self.core.boundary) * PAGE);
        if write < read { read - write } else { (stop - start).saturating_sub(write.saturating_sub(read)) }
    }

    fn accepts(&self, frame: &[u8]) -> bool {
        let has = |bit| self.core.receive_config & bit != 0;
        let Some(to) = frame.first_chunk::<6>() else { return false };
        match to {
            _ if has(accept::MONITOR) => false,
            _ if has(accept::ALL) => true,
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => has(accept::BROADCAST),
            [first, ..] if first & 1 != 0 => {
                let hash = hash_of_first(to);
                has(accept::MULTICAST) && self.core.group[hash as usize / 8] >> (hash % 8) & 1 != 0
            }
            _ => self.core.address == *to,
        }
    }

    /// Takes frames as far as there is room for them.
    fn receive(&mut self) {
        let mut taken = false;
        while !self.paused && self.core.command & command::STOP == 0 && self.core.send_config & LOOPBACK == 0
        {
            let room = self.room();
            // Header, check sequence, and a page that keeps a full ring from looking empty.
            let needed = |frame: &[u8]| frame.len().max(MIN_FRAME) + HEADER + 4 + PAGE;
            let Some(mut frame) = self.port.take(|frame| !self.accepts(frame) || needed(frame) <= room)
            else {
                break;
            };
            taken = true;
            if self.accepts(&frame) {
                frame.resize(frame.len().max(MIN_FRAME), 0);
                self.put(&frame);
            }
        }
        if taken {
            self.port.taken();
        }
    }

    /// Writes a frame into the ring.
    fn put(&mut self, frame: &[u8]) {
        let Some((start, stop)) = self.ring() else { return };
        let total = frame.len() + 4 + HEADER;
        let first = usize::from(self.core.current) * PAGE;
        let wrap = |at: usize| if at >= stop { start + (at - stop) % (stop - start) } else { at };
        let next = (wrap(first + total.next_multiple_of(PAGE)) / PAGE) as u8;
        let group = if frame.first().is_some_and(|byte| byte & 1 != 0) { GROUP } else { 0 };
        self.core.receive_status = GOOD | group;
        let [low, high] = (total as u16).to_le_bytes();
        let bytes =
            [&[self.core.receive_status, next, low, high][..], frame, &check_sequence(frame)].concat();
        for (i, byte) in bytes.into_iter().enumerate() {
            self.store(wrap(first + i), byte);
        }
        self.core.current = next;
        self.raise(cause::RECEIVED);
    }

    /// Sends the packet that the registers point at.
    fn send(&mut self) {
        let at = usize::from(self.core.send_page) * PAGE;
        let frame: Vec<u8> = (0..usize::from(self.core.send_count)).map(|i| self.load(at + i)).collect();
        if self.core.send_config & LOOPBACK == 0 && !self.paused {
            self.port.send(&frame);
        }
        self.core.send_status = 1;
        self.core.command &= !command::SEND;
        self.raise(cause::SENT);
    }

    /// Moves on by `len` bytes of what the data port does.
    fn advance(&mut self, len: u16) {
        let core = &mut self.core;
        core.remote_at = core.remote_at.wrapping_add(len);
        // The ring goes round for what is read out of it.
        if core.page_stop != 0 && core.remote_at == u16::from(core.page_stop) << 8 {
            core.remote_at = u16::from(core.page_start) << 8;
        }
        core.remote_count = core.remote_count.saturating_sub(len);
        if core.remote_count == 0 {
            self.raise(cause::REMOTE_DONE);
        }
    }

    fn read_data(&mut self, data: &mut [u8]) {
        let wide = self.core.data_config & WIDE != 0;
        // A byte-wide controller gives a byte whatever the host asks for.
        let step = if wide { data.len().max(2) } else { 1 };
        data.fill(0);
        if self.core.remote_count == 0 {
            return;
        }
        let at = usize::from(self.core.remote_at);
        for (i, byte) in data.iter_mut().enumerate().take(step) {
            *byte = self.load(at + i);
        }
        self.advance(step as u16);
    }

    fn write_data(&mut self, data: &[u8]) {
        let wide = self.core.data_config & WIDE != 0;
        let step = if wide { data.len().max(2) } else { 1 };
        if self.core.remote_count == 0 {
            return;
        }
        let at = usize::from(self.core.remote_at);
        for (i, byte) in data.iter().enumerate().take(step) {
            self.store(at + i, *byte);
        }
        self.advance(step as u16);
    }

    fn save(&self) -> V1 {
        V1 { core: self.core.clone(), packets: Bytes(self.packets.clone()) }
    }

    fn restore(&mut self, s: V1) -> Result<(), StateError> {
        if s.packets.0.len() != self.packets.len() {
            let text = format!("expected {} bytes, found {}", self.packets.len(), s.packets.0.len());
            return Err(StateError::new("packets", text));
        }
        self.core = s.core;
        self.packets = s.packets.0;
        if let Interrupt::Line(line) = &self.interrupt {
            line.import(self.level());
        }
        Ok(())
    }
}
