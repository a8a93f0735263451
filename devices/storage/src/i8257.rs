//! Two Intel 8237A DMA controllers as wired in an AT (datasheet 231466-005), with the page registers, and the handle by
//! which devices of the ISA bus use them.
//!
//! Region 0 is the first controller (from port 0x00), region 1 the second (from 0xc0, every other port), region 2 the page
//! registers (from 0x80). A device that has data asks for a channel ([`IsaDma::to_memory`]); if the channel is masked it is
//! woken when that changes. Block and cascade modes and memory-to-memory transfers are as good as unused on a PC: the mode
//! is kept, transfers are by demand.

use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, Dma, Properties, Property, PropertyError,
    RegionSpec, ResetKind, StateBlob, StateError, Waker, Wires, le_fill, le_value,
};
use parking_lot::Mutex;

const CHANNELS: usize = 8;
/// Channel whose page each register holds.
const PAGES: [Option<usize>; 16] = [
    None,
    Some(2),
    Some(3),
    Some(1),
    None,
    None,
    None,
    Some(0),
    None,
    Some(6),
    Some(7),
    Some(5),
    None,
    None,
    None,
    Some(4),
];

/// Mode register: which way data goes, whether the channel starts over at its end, counts down.
const TO_MEMORY: u8 = 1 << 2;
const FROM_MEMORY: u8 = 1 << 3;
const AUTO: u8 = 1 << 4;
const DOWN: u8 = 1 << 5;

device::state! {
    /// A channel.
    struct ChannelV1 {
        1 => base_address: u16, 2 => base_count: u16, 3 => address: u16, 4 => count: u16, 5 => mode: u8, 6 => page: u8,
        7 => masked: bool, 8 => done: bool,
    }
}

device::state! {
    /// Version 1.
    struct V1 {
        1 => channels: Vec<ChannelV1>, 2 => command: [u8; 2], 3 => high: [bool; 2], 4 => pages: [u8; 16],
    }
}

#[derive(Default)]
struct Shared {
    s: V1,
    waiting: [Option<Waker>; CHANNELS],
}

fn fresh() -> V1 {
    let channel = ChannelV1 { masked: true, ..ChannelV1::default() };
    V1 { channels: vec![channel; CHANNELS], ..V1::default() }
}

/// The DMA channels of an ISA bus. Clones are the same channels.
#[derive(Clone)]
pub struct IsaDma(Arc<Mutex<Shared>>);

impl Default for IsaDma {
    fn default() -> Self {
        IsaDma(Arc::new(Mutex::new(Shared { s: fresh(), ..Shared::default() })))
    }
}

impl std::fmt::Debug for IsaDma {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IsaDma")
    }
}

/// What has become of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that were moved.
    pub bytes: usize,
    /// The channel has come to its end.
    pub end: bool,
}

impl IsaDma {
    /// Gives data to memory by `channel`. `None` while the channel is masked: `waker` is called when it no longer is.
    pub fn to_memory(&self, channel: usize, memory: &Dma, data: &[u8], waker: &Waker) -> Option<Moved> {
        self.transfer(channel, TO_MEMORY, data.len(), waker, |at, address, n| {
            // Where there is no memory the data is lost, as on the bus.
            let _ = memory.write(address, &data[at..at + n]);
        })
    }

    /// Takes data from memory by `channel`.
    pub fn from_memory(&self, channel: usize, memory: &Dma, data: &mut [u8], waker: &Waker) -> Option<Moved> {
        self.transfer(channel, FROM_MEMORY, data.len(), waker, |at, address, n| {
            if memory.read(address, &mut data[at..at + n]).is_err() {
                data[at..at + n].fill(0xff);
            }
        })
    }

    fn transfer(
        &self,
        channel: usize,
        way: u8,
        len: usize,
        waker: &Waker,
        mut step: impl FnMut(usize, u64, usize),
    ) -> Option<Moved> {
        let shared = &mut *self.0.lock();
        let disabled = shared.s.command[channel / 4 % 2] & 4 != 0;
        let c = shared.s.channels.get_mut(channel)?;
        if c.masked || disabled {
            shared.waiting[channel] = Some(waker.clone());
            return None;
        }
        let unit = if channel >= 4 { 2 } else { 1 };
        let mut moved = Moved { bytes: 0, end: false };
        while moved.bytes < len && !moved.end {
            let left = usize::from(c.count) + 1;
            // Addresses go round within their page.
            let room = if c.mode & DOWN != 0 { 1 } else { 0x1_0000 - usize::from(c.address) };
            let units = left.min(room).min((len - moved.bytes).div_ceil(unit));
            let n = (units * unit).min(len - moved.bytes);
            let page = u64::from(c.page);
            let address = match unit {
                1 => page << 16 | u64::from(c.address),
                _ => (page & 0xfe) << 16 | u64::from(c.address) << 1,
            };
            // A verify transfer, or one that goes the other way, moves nothing.
            if c.mode & (TO_MEMORY | FROM_MEMORY) == way {
                step(moved.bytes, address, n);
            }
            moved.bytes += n;
            c.address = if c.mode & DOWN != 0 {
                c.address.wrapping_sub(1)
            } else {
                c.address.wrapping_add(units as u16)
            };
            moved.end = units == left;
            c.count = c.count.wrapping_sub(units as u16);
        }
        if moved.end {
            c.done = true;
            if c.mode & AUTO != 0 {
                (c.address, c.count) = (c.base_address, c.base_count);
            } else {
                c.masked = true;
            }
        }
        Some(moved)
    }

    /// Takes those who wait for a channel that no longer stands still.
    fn ready(&self) -> Vec<Waker> {
        let shared = &mut *self.0.lock();
        let open = |i: usize, s: &V1| !s.channels[i].masked && s.command[i / 4] & 4 == 0;
        let (waiting, s) = (&mut shared.waiting, &shared.s);
        (0..CHANNELS).filter(|i| open(*i, s)).filter_map(|i| waiting[i].take()).collect()
    }
}

/// The controllers.
#[derive(Clone, Debug, Default)]
pub struct IsaDmaConfig {
    /// The channels, which devices hold as well.
    pub channels: IsaDma,
}

impl Properties for IsaDmaConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: "none".to_owned() })
    }
}

impl DeviceConfig for IsaDmaConfig {
    const KIND: &'static str = "i8257";
    const HELP: &'static str = "DMA controllers of an AT";

    fn regions(&self) -> Vec<RegionSpec> {
        let region = |name: &'static str, size| RegionSpec::new(name, size, AccessRule::BYTE);
        vec![region("first", 16), region("second", 32), region("pages", 16)]
    }

    fn build(self, _wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        self.channels.0.lock().s = fresh();
        Ok(Box::new(I8257 { channels: self.channels }))
    }
}

struct I8257 {
    channels: IsaDma,
}

fn byte(value: u16, high: bool) -> u8 {
    (if high { value >> 8 } else { value }) as u8
}

fn with_byte(value: u16, high: bool, byte: u8) -> u16 {
    if high { value & 0xff | u16::from(byte) << 8 } else { value & 0xff00 | u16::from(byte) }
}

fn read(s: &mut V1, chip: usize, register: usize) -> u8 {
    let channels = &mut s.channels[4 * chip..4 * chip + 4];
    match register {
        0..8 => {
            let c = &channels[register / 2];
            let value = if register.is_multiple_of(2) { c.address } else { c.count };
            let high = s.high[chip];
            s.high[chip] = !high;
            byte(value, high)
        }
        // Which channels have come to their end since this was read last.
        8 => channels
            .iter_mut()
            .enumerate()
            .fold(0, |bits, (i, c)| bits | u8::from(std::mem::take(&mut c.done)) << i),
        15 => channels.iter().enumerate().fold(0xf0, |bits, (i, c)| bits | u8::from(c.masked) << i),
        _ => 0,
    }
}

fn write(s: &mut V1, chip: usize, register: usize, value: u8) {
    let channels = &mut s.channels[4 * chip..4 * chip + 4];
    let one = usize::from(value & 3);
    match register {
        0..8 => {
            let c = &mut channels[register / 2];
            let high = s.high[chip];
            s.high[chip] = !high;
            let base = if register.is_multiple_of(2) { &mut c.base_address } else { &mut c.base_count };
            *base = with_byte(*base, high, value);
            if register.is_multiple_of(2) { c.address = c.base_address } else { c.count = c.base_count }
        }
        8 => s.command[chip] = value,
        10 => channels[one].masked = value & 4 != 0,
        11 => channels[one].mode = value & !3,
        12 => s.high[chip] = false,
        13 => {
            channels.iter_mut().for_each(|c| (c.masked, c.done) = (true, false));
            (s.high[chip], s.command[chip]) = (false, 0);
        }
        14 => channels.iter_mut().for_each(|c| c.masked = false),
        15 => channels.iter_mut().enumerate().for_each(|(i, c)| c.masked = value & 1 << i != 0),
        // Requests by software are for transfers between memory.
        _ => {}
    }
}

impl Device for I8257 {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        let s = &mut self.channels.0.lock().s;
        let value = match region {
            0 => read(s, 0, offset as usize),
            1 => read(s, 1, offset as usize / 2),
            _ => s.pages[offset as usize & 15],
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u8;
        {
            let s = &mut self.channels.0.lock().s;
            match region {
                0 => write(s, 0, offset as usize, value),
                1 => write(s, 1, offset as usize / 2, value),
                _ => {
                    s.pages[offset as usize & 15] = value;
                    if let Some(channel) = PAGES[offset as usize & 15] {
                        s.channels[channel].page = value;
                    }
                }
            }
        }
        self.channels.ready().iter().for_each(Waker::wake);
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        let shared = &mut *self.channels.0.lock();
        *shared = Shared { s: fresh(), ..Shared::default() };
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(IsaDmaConfig::KIND, 1, &self.channels.0.lock().s)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(IsaDmaConfig::KIND, 1)?;
        if s.channels.len() != CHANNELS {
            return Err(StateError::new("channels", format!("expected {CHANNELS}")));
        }
        self.channels.0.lock().s = s;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};
    use device::{Clock, ClockSource, TimerQueue, WiresBuilder};
    use guest_memory::{AddressSpace, RamBlock, Region, Unassigned};

    use super::*;

    #[test]
    fn a_channel_moves_to_its_end() {
        let config = IsaDmaConfig::default();
        let b = Bench::new(config.clone());
        let space = AddressSpace::memory(Unassigned::Zeros);
        let ram = RamBlock::anonymous("low", 1 << 20).unwrap();
        space.add(Region::ram("low", ram.clone()).at(0)).unwrap();
        let (memory, timers) = (Dma::new(space), TimerQueue::new(Clock::new(ClockSource::Counted)));
        let waker = WiresBuilder::new("x", &timers).build().waker(0);
        let dma = &config.channels;
        assert_eq!(dma.to_memory(2, &memory, &[1; 4], &waker), None, "masked");
        // Channel 2: 10 bytes from 0x2fff8 on, to memory.
        for (port, value) in [(12, 0), (4, 0xf8), (4, 0xff), (5, 9), (5, 0), (11, 0x46), (10, 2)] {
            b.write(0, port, 1, value);
        }
        b.write(2, 1, 1, 2);
        assert_eq!(dma.to_memory(2, &memory, &[7; 6], &waker), Some(Moved { bytes: 6, end: false }));
        assert_eq!(b.read(0, 4, 1) | b.read(0, 4, 1) << 8, 0xfffe);
        assert_eq!(dma.to_memory(2, &memory, &[8; 6], &waker), Some(Moved { bytes: 4, end: true }));
        let mut back = [0; 8];
        ram.read(0x2_fff8, &mut back).unwrap();
        assert_eq!(back, [7, 7, 7, 7, 7, 7, 8, 8]);
        ram.read(0x2_0000, &mut back).unwrap();
        assert_eq!(back[..3], [8, 8, 0], "round in the page");
        assert_eq!((b.read(0, 8, 1), b.read(0, 8, 1), b.read(0, 15, 1)), (4, 0, 0xff));
        // Words on the second controller.
        for (port, value) in [(24, 0), (4, 0x80), (4, 0), (6, 1), (6, 0), (22, 0x49), (20, 1)] {
            b.write(1, port, 1, value);
        }
        b.write(2, 0xb, 1, 2);
        ram.write(0x2_0100, &[1, 2, 3, 4]).unwrap();
        let mut data = [0; 6];
        assert_eq!(dma.from_memory(5, &memory, &mut data, &waker), Some(Moved { bytes: 4, end: true }));
        assert_eq!(data, [1, 2, 3, 4, 0, 0]);
    }

    #[test]
    fn passes_the_common_tests() {
        // Each machine has channels of its own.
        #[derive(Clone, Debug, Default)]
        struct Own;
        impl Properties for Own {
            fn properties() -> Vec<Property> {
                Vec::new()
            }
            fn set(&mut self, _: &str, _: &str) -> Result<(), PropertyError> {
                Ok(())
            }
        }
        impl DeviceConfig for Own {
            const KIND: &'static str = "own";
            const HELP: &'static str = "";
            fn regions(&self) -> Vec<RegionSpec> {
                DeviceConfig::regions(&IsaDmaConfig::default())
            }
            fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
                DeviceConfig::build(IsaDmaConfig::default(), wires)
            }
        }
        check(Own);
    }
}
