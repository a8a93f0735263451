//! Parallel NOR flash with Intel's command set: one chip, or several side by side on a wider bus.
//!
//! Intel StrataFlash Embedded Memory (P30) datasheet (306666), chapters 9 to 11; JESD68.01 for the query. In read-array mode the
//! guest reads the memory itself; a write that leaves the mode has reads come here, until the guest returns to it. Programming
//! clears bits, erasing sets those of a block. Nothing takes time: the status register is ready whenever it is asked.
//!
//! The contents live in the device's memory and, at once, on its disk. A chip whose disk is read-only refuses to be changed.
//! Emulated machines' firmware tells flash from ROM by a status that is zero after it was cleared, so it is.
//!
//! With `secure`, commands are those of vCPUs in their secure mode (system management mode) alone; for everybody else the chip is
//! a ROM.

use std::sync::Arc;

use block::Disk;
use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, GuestLog, Properties, Property, PropertyError,
    PropertyValue, RamSpec, RegionSpec, ResetKind, Spaces, StateBlob, StateError, Wires, le_value,
};
use guest_memory::{MemoryError, PAGE_SIZE, RamBlock};

use crate::cfi;

/// A flash chip, or a bank of them.
#[derive(Clone, Debug)]
pub struct PflashConfig {
    /// Where its contents are kept; erased flash without.
    pub disk: Option<Disk>,
    /// Size in bytes, a multiple of the erase block.
    pub size: u64,
    /// Bytes of an erase block, of all chips together.
    pub block: u64,
    /// Bytes of the bus: 1, 2 or 4.
    pub width: u8,
    /// Bytes of one chip.
    pub device_width: u8,
    /// Only vCPUs in their secure mode give commands.
    pub secure: bool,
}

impl Default for PflashConfig {
    fn default() -> Self {
        PflashConfig { disk: None, size: 1 << 20, block: 4096, width: 1, device_width: 1, secure: false }
    }
}

const MEMORY: &str = "flash";

impl Properties for PflashConfig {
    fn properties() -> Vec<Property> {
        let help = "Commands are for system management mode alone.";
        vec![Property { name: "secure", ty: bool::TYPE, default: false.show(), help }]
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        if name != "secure" {
            return Err(PropertyError::Unknown { name: name.to_owned(), known: "secure".to_owned() });
        }
        let bad = || PropertyError::Value { name: "secure", expected: bool::TYPE, value: value.to_owned() };
        self.secure = bool::parse(value).ok_or_else(bad)?;
        Ok(())
    }
}

impl DeviceConfig for PflashConfig {
    const KIND: &'static str = "cfi.pflash01";
    const HELP: &'static str = "parallel flash with Intel's command set";

    fn regions(&self) -> Vec<RegionSpec> {
        let region = RegionSpec::new(MEMORY, self.size, AccessRule::ANY).over(MEMORY);
        vec![if self.secure { region.secure() } else { region }]
    }

    fn rams(&self) -> Vec<RamSpec> {
        vec![RamSpec::new(MEMORY, self.size)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let widths = (self.width, self.device_width);
        if !matches!(widths, (1, 1) | (2, 1 | 2) | (4, 1 | 2 | 4)) {
            return Err(wires.bad_property("width", "expected 1, 2 or 4, of chips not wider than that"));
        }
        let whole = |n: u64, of: u64| of != 0 && n != 0 && n.is_multiple_of(of);
        if !whole(self.size, self.block) || !whole(self.size, PAGE_SIZE) || !whole(self.block, 256) {
            return Err(wires.bad_property("size", "expected a multiple of the erase block"));
        }
        let chips = u64::from(self.width / self.device_width);
        let chip = Pflash {
            ram: wires.ram(MEMORY)?,
            log: wires.log(),
            region: format!("{}.{MEMORY}", wires.path().rsplit('/').next().unwrap_or_default()),
            spaces: wires.spaces(),
            direct: true,
            disk: self.disk,
            block: self.block,
            width: self.width.into(),
            device_width: self.device_width.into(),
            query: cfi::query(self.size / chips, self.block / chips),
            r: Registers::default(),
            changed_behind: false,
        };
        chip.load().map_err(|e| wires.host_error(e))?;
        Ok(Box::new(chip))
    }
}

/// What the chip is doing, and with that what a read gives and what a write means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Array,
    Status,
    Identifier,
    Query,
    /// The next write is programmed.
    Program,
    /// A block erase waits for its confirmation.
    Erase,
    /// A change of locks waits for what it is.
    Lock,
    /// A buffer's count comes, then so many words, then a confirmation.
    Count,
    Buffer,
    Confirm,
}

impl Mode {
    const ALL: [Mode; 10] = [
        Mode::Array,
        Mode::Status,
        Mode::Identifier,
        Mode::Query,
        Mode::Program,
        Mode::Erase,
        Mode::Lock,
        Mode::Count,
        Mode::Buffer,
        Mode::Confirm,
    ];
}

/// Status register.
mod status {
    pub(super) const READY: u8 = 1 << 7;
    pub(super) const ERASE_FAILED: u8 = 1 << 5;
    pub(super) const PROGRAM_FAILED: u8 = 1 << 4;
    pub(super) const LOCKED: u8 = 1 << 1;
    /// Both failures: the commands were out of order.
    pub(super) const SEQUENCE: u8 = ERASE_FAILED | PROGRAM_FAILED;
}

/// Commands.
mod command {
    pub(super) const LOCK_BLOCK: u8 = 0x01;
    pub(super) const WORD_PROGRAM: [u8; 2] = [0x10, 0x40];
    pub(super) const BLOCK_ERASE: u8 = 0x20;
    pub(super) const LOCK_DOWN: u8 = 0x2f;
    pub(super) const CLEAR_STATUS: u8 = 0x50;
    pub(super) const LOCK_SETUP: u8 = 0x60;
    pub(super) const READ_STATUS: u8 = 0x70;
    pub(super) const READ_IDENTIFIER: u8 = 0x90;
    pub(super) const READ_QUERY: u8 = 0x98;
    pub(super) const CONFIRM: u8 = 0xd0;
    pub(super) const BUFFERED_PROGRAM: u8 = 0xe8;
    /// The second is AMD's, the last what emulated chips always took as well.
    pub(super) const READ_ARRAY: [u8; 3] = [0xff, 0xf0, 0x00];
}

/// Manufacturer and device: Intel, 28F128J3.
const IDENTIFIER: [u8; 2] = [0x89, 0x18];

#[derive(Clone, Debug, PartialEq)]
struct Registers {
    mode: Mode,
    status: u8,
    /// Words still to come into the buffer.
    left: u32,
    /// Where the first of them goes, and all so far: erased where nothing came.
    start: u64,
    buffer: Vec<u8>,
}

impl Default for Registers {
    fn default() -> Self {
        Registers { mode: Mode::Array, status: status::READY, left: 0, start: 0, buffer: Vec::new() }
    }
}

struct Pflash {
    ram: Arc<RamBlock>,
    log: Arc<GuestLog>,
    /// Its region's name in the machine.
    region: String,
    spaces: Option<Spaces>,
    /// The guest reads the memory itself.
    direct: bool,
    disk: Option<Disk>,
    block: u64,
    width: usize,
    device_width: usize,
    query: [u8; cfi::LEN],
    r: Registers,
    /// The memory was restored: the disk has to follow before the machine goes on.
    changed_behind: bool,
}

/// What moves between disk and memory at once.
const CHUNK: usize = 64 << 10;

impl Pflash {
    /// Fills the memory.
    fn load(&self) -> Result<(), String> {
        let size = self.ram.size();
        let Some(disk) = &self.disk else {
            return self.ram.fill(0, size, 0xff).map_err(|e| e.to_string());
        };
        if disk.len() < size {
            return Err(format!("disk '{}' has {} bytes, expected {size}", disk.id(), disk.len()));
        }
        let mut chunk = vec![0; CHUNK];
        for at in (0..size).step_by(CHUNK) {
            let part = &mut chunk[..(size - at).min(CHUNK as u64) as usize];
            disk.read_at(at, part).map_err(|e| format!("disk '{}': {e}", disk.id()))?;
            self.ram.write(at, part).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn read_only(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::read_only)
    }

    /// Puts part of the memory onto the disk; false if that failed.
    fn store(&self, at: u64, len: u64) -> bool {
        let Some(disk) = &self.disk else { return true };
        let mut data = vec![0; len as usize];
        let read = self.ram.read(at, &mut data).map_err(|e| e.to_string());
        let done = read.and_then(|()| disk.write_at(at, &data).map_err(|e| e.to_string()));
        if let Err(e) = &done {
            tracing::warn!("flash disk '{}': {e}", disk.id());
        }
        done.is_ok()
    }

    /// Makes the disk what the memory is.
    fn follow(&self) {
        let size = self.ram.size();
        let Some(disk) = self.disk.as_ref().filter(|d| !d.read_only()) else { return };
        let (mut here, mut there) = (vec![0; CHUNK], vec![0; CHUNK]);
        for at in (0..size).step_by(CHUNK) {
            let len = (size - at).min(CHUNK as u64) as usize;
            let both =
                self.ram.read(at, &mut here[..len]).is_ok() && disk.read_at(at, &mut there[..len]).is_ok();
            if !both || here != there {
                self.store(at, len as u64);
            }
        }
    }

    /// Has reads go to the memory, or come here.
    fn map(&mut self) {
        let direct = self.r.mode == Mode::Array;
        if self.direct == direct {
            return;
        }
        self.direct = direct;
        if let Some(spaces) = &self.spaces
            && let Err(e) = remap(spaces, &self.region, direct)
        {
            tracing::warn!("{}: {e}", self.region);
        }
    }

    fn set_mode(&mut self, mode: Mode) {
        self.r.mode = mode;
        self.map();
    }

    /// Ends an operation that may have failed with `failure`.
    fn done(&mut self, ok: bool, failure: u8) {
        self.r.status |= status::READY | if ok { 0 } else { failure };
        self.set_mode(Mode::Status);
    }

    /// Clears the bits that are clear in `data`.
    fn program(&mut self, at: u64, data: &[u8]) {
        let mut now = vec![0; data.len()];
        let inside = self.ram.read(at, &mut now).is_ok();
        if self.read_only() || !inside {
            return self.done(false, status::PROGRAM_FAILED | status::LOCKED);
        }
        now.iter_mut().zip(data).for_each(|(now, data)| *now &= data);
        let ok = self.ram.write(at, &now).is_ok() && self.store(at, now.len() as u64);
        self.done(ok, status::PROGRAM_FAILED);
    }

    fn erase(&mut self, at: u64) {
        if self.read_only() {
            return self.done(false, status::ERASE_FAILED | status::LOCKED);
        }
        let at = at / self.block * self.block;
        let ok = self.ram.fill(at, self.block, 0xff).is_ok() && self.store(at, self.block);
        self.done(ok, status::ERASE_FAILED);
    }

    /// Bytes of the write buffer of all chips.
    fn buffer_size(&self) -> u64 {
        (1 << cfi::BUFFER_BITS) * (self.width / self.device_width) as u64
    }

    /// The number of words that are to come.
    fn count(&mut self, value: u64) {
        let last = if self.device_width == 1 { value & 0xff } else { value & 0xffff };
        if (last + 1) * self.width as u64 > self.buffer_size() {
            return self.done(false, status::SEQUENCE);
        }
        (self.r.left, self.r.buffer) = (last as u32 + 1, Vec::new());
        self.set_mode(Mode::Buffer);
    }

    /// A word for the buffer, all of which is for one aligned stretch of the buffer's size.
    fn collect(&mut self, offset: u64, data: &[u8]) {
        let size = self.buffer_size();
        if self.r.buffer.is_empty() {
            self.r.start = offset / size * size;
            self.r.buffer = vec![0xff; size as usize];
        }
        let at = offset.checked_sub(self.r.start).map(|at| at as usize);
        let Some(to) = at.and_then(|at| self.r.buffer.get_mut(at..at + data.len())) else {
            return self.done(false, status::SEQUENCE);
        };
        to.copy_from_slice(data);
        self.r.left = self.r.left.saturating_sub((data.len() / self.width).max(1) as u32);
        if self.r.left == 0 {
            self.set_mode(Mode::Confirm);
        }
    }

    fn flush_buffer(&mut self) {
        let (start, buffer) = (self.r.start, std::mem::take(&mut self.r.buffer));
        let len = (self.ram.size().saturating_sub(start)).min(buffer.len() as u64) as usize;
        self.program(start, &buffer[..len]);
    }

    fn command(&mut self, value: u8) {
        match value {
            _ if command::READ_ARRAY.contains(&value) => self.set_mode(Mode::Array),
            _ if command::WORD_PROGRAM.contains(&value) => self.set_mode(Mode::Program),
            command::BLOCK_ERASE => self.set_mode(Mode::Erase),
            command::CLEAR_STATUS => {
                self.r.status = 0;
                self.set_mode(Mode::Array);
            }
            command::LOCK_SETUP => self.set_mode(Mode::Lock),
            command::READ_STATUS => self.set_mode(Mode::Status),
            command::READ_IDENTIFIER => self.set_mode(Mode::Identifier),
            command::READ_QUERY => self.set_mode(Mode::Query),
            command::BUFFERED_PROGRAM => {
                self.r.status |= status::READY;
                self.set_mode(Mode::Count);
            }
            _ => {
                self.log.guest_error(format_args!("command {value:#x} is not one of Intel's set"));
                self.set_mode(Mode::Array);
            }
        }
    }

    /// A byte of what each chip answers at an address of its own.
    fn answer(&self, offset: u64) -> u8 {
        // Wider chips answer in their low byte.
        if !(offset as usize).is_multiple_of(self.device_width) {
            return 0;
        }
        let at = offset as usize / self.width;
        let of = |bytes: &[u8]| bytes.get(at).copied().unwrap_or(0);
        match self.r.mode {
            Mode::Identifier => of(&IDENTIFIER),
            Mode::Query => of(&self.query),
            _ => self.r.status,
        }
    }
}

fn remap(spaces: &Spaces, region: &str, direct: bool) -> Result<(), MemoryError> {
    let mut tx = spaces.memory.update();
    if let Some(id) = tx.find(region) {
        tx.set_direct(id, direct)?;
    }
    tx.commit()
}

impl Device for Pflash {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        if self.r.mode == Mode::Array {
            return self.ram.read(offset, data).map_or(Access::NoRegister, |()| Access::Ok);
        }
        for (at, byte) in (offset..).zip(data) {
            *byte = self.answer(at);
        }
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data);
        let byte = value as u8;
        match self.r.mode {
            Mode::Program => self.program(offset, data),
            Mode::Erase if byte == command::CONFIRM => self.erase(offset),
            Mode::Erase => self.done(false, status::SEQUENCE),
            Mode::Lock if command::READ_ARRAY.contains(&byte) => self.set_mode(Mode::Array),
            // No block is ever locked.
            Mode::Lock => {
                let known = matches!(byte, command::LOCK_BLOCK | command::LOCK_DOWN | command::CONFIRM);
                self.done(known, status::SEQUENCE);
            }
            Mode::Count => self.count(value),
            Mode::Buffer => self.collect(offset, data),
            Mode::Confirm if byte == command::CONFIRM => self.flush_buffer(),
            Mode::Confirm => self.done(false, status::SEQUENCE),
            Mode::Array | Mode::Status | Mode::Identifier | Mode::Query => self.command(byte),
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.r = Registers::default();
        self.map();
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.changed_behind) {
            self.follow();
        }
    }

    fn save(&self) -> StateBlob {
        let r = &self.r;
        let state = state::V1 {
            mode: Mode::ALL.iter().position(|m| *m == r.mode).unwrap_or_default() as u8,
            status: r.status,
            left: r.left,
            start: r.start,
            buffer: device::Bytes(r.buffer.clone()),
        };
        StateBlob::new(PflashConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(PflashConfig::KIND, 1)?;
        let Some(mode) = Mode::ALL.get(usize::from(s.mode)).copied() else {
            return Err(StateError::new("mode", format!("expected at most 9, found {}", s.mode)));
        };
        let size = self.buffer_size();
        StateError::at_most("left", u64::from(s.left), size / self.width as u64)?;
        let buffer = s.buffer.0;
        let fits = buffer.is_empty() || buffer.len() as u64 == size;
        if !fits || mode == Mode::Confirm && buffer.is_empty() {
            return Err(StateError::new("buffer", format!("expected {size} bytes")));
        }
        if !s.start.is_multiple_of(size) || s.start >= self.ram.size() {
            return Err(StateError::new("start", "expected a place in the chip"));
        }
        self.r = Registers { mode, status: s.status, left: s.left, start: s.start, buffer };
        self.changed_behind = true;
        self.map();
        Ok(())
    }
}

mod state {
    device::state! {
        /// Saved state of flash, version 1. Its contents are saved with the machine's memory.
        pub(super) struct V1 {
            1 => mode: u8,
            2 => status: u8,
            3 => left: u32,
            4 => start: u64,
            5 => buffer: device::Bytes,
        }
    }
}
