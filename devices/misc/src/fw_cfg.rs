//! Firmware configuration device (QEMU `docs/specs/fw_cfg`): how firmware learns of the machine and gets kernels,
//! ACPI tables and settings.
//!
//! The guest selects an item by number and reads it byte by byte, or has it copied by DMA. Beyond the end of an
//! item there are zeroes. Files have names, found in a directory item. Two layouts of the same registers: `pio`
//! (selector 0, data 1, DMA 4; selector little-endian) and `mmio` (data 0, selector 8, DMA 16; big-endian).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, Bytes, Device, DeviceConfig, Dma, Properties, Property, PropertyError,
    RegionSpec, ResetKind, StateBlob, StateError, Wires, le_value,
};
use parking_lot::Mutex;

/// Contents of an item. Static contents are shared with whoever loaded them.
#[derive(Clone, PartialEq, Eq)]
enum Item {
    Fixed(Arc<[u8]>),
    /// The guest may write it by DMA.
    Writable(Vec<u8>),
    /// Made anew each time the guest selects it.
    Computed(Computed),
    /// One byte: what is thought of a writable file's contents, each time the guest selects it.
    Verdict(Verdict),
    /// Part of a file of the host.
    File(FilePart),
}

/// Contents that depend on what the guest has done so far; always of one length.
#[derive(Clone)]
struct Computed {
    len: usize,
    make: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
}

impl PartialEq for Computed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.make, &other.make)
    }
}

impl Eq for Computed {}

/// What is thought of contents.
type Think = dyn Fn(&[u8]) -> u8 + Send + Sync;

/// An opinion on another file.
#[derive(Clone)]
struct Verdict {
    of: String,
    think: Arc<Think>,
}

impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.think, &other.think)
    }
}

impl Eq for Verdict {}

/// A file that stays open, so that large contents need no memory.
#[derive(Clone)]
struct FilePart {
    file: Arc<Mutex<File>>,
    offset: u64,
    len: u64,
}

impl PartialEq for FilePart {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Eq for FilePart {}

impl FilePart {
    /// Reads; what cannot be read is zero.
    fn read(&self, at: u64, to: &mut [u8]) {
        to.fill(0);
        let n = self.len.saturating_sub(at).min(to.len() as u64) as usize;
        let mut file = self.file.lock();
        let read = file.seek(SeekFrom::Start(self.offset + at)).and_then(|_| file.read_exact(&mut to[..n]));
        if let Err(e) = read {
            tracing::warn!("fw_cfg: {e}");
        }
    }
}

impl Item {
    fn bytes(&self) -> &[u8] {
        match self {
            Item::Fixed(bytes) => bytes,
            Item::Writable(bytes) => bytes,
            Item::Computed(_) | Item::Verdict(_) | Item::File(_) => &[],
        }
    }

    fn len(&self) -> usize {
        match self {
            Item::Computed(computed) => computed.len,
            Item::Verdict(_) => 1,
            Item::File(part) => part.len as usize,
            other => other.bytes().len(),
        }
    }
}

/// Why an item was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// The directory has 55 bytes for a name.
    #[error("fw_cfg file '{0}': expected a name of 1 to 55 bytes")]
    Name(String),
    /// There is a file of that name already.
    #[error("fw_cfg file '{0}' exists already")]
    Exists(String),
    /// Sizes are 32-bit numbers.
    #[error("fw_cfg file '{0}': expected less than 4 GiB")]
    Size(String),
    /// File numbers are used up.
    #[error("fw_cfg file '{0}': no room in the directory")]
    Full(String),
}

/// The items a machine offers to its firmware.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FwCfgTable {
    items: BTreeMap<u16, Item>,
    /// In the order of their names, as the directory lists them.
    files: BTreeMap<String, Item>,
}

impl FwCfgTable {
    /// Sets a numbered item.
    pub fn add(&mut self, key: u16, data: impl Into<Arc<[u8]>>) {
        self.items.insert(key, Item::Fixed(data.into()));
    }

    /// Sets a numbered item to a 16-bit number.
    pub fn add_u16(&mut self, key: u16, value: u16) {
        self.add(key, value.to_le_bytes());
    }

    /// Sets a numbered item to a 32-bit number.
    pub fn add_u32(&mut self, key: u16, value: u32) {
        self.add(key, value.to_le_bytes());
    }

    /// Sets a numbered item to a 64-bit number.
    pub fn add_u64(&mut self, key: u16, value: u64) {
        self.add(key, value.to_le_bytes());
    }

    /// Adds a file.
    pub fn add_file(&mut self, name: &str, data: impl Into<Arc<[u8]>>) -> Result<(), FwCfgError> {
        self.insert(name, Item::Fixed(data.into()))
    }

    /// Adds a file the guest may write (`data` are its contents after reset).
    pub fn add_writable_file(&mut self, name: &str, data: Vec<u8>) -> Result<(), FwCfgError> {
        self.insert(name, Item::Writable(data))
    }

    /// Sets a numbered item to `len` bytes that are made when the guest selects it.
    pub fn add_computed(&mut self, key: u16, len: usize, make: impl Fn() -> Vec<u8> + Send + Sync + 'static) {
        self.items.insert(key, Item::Computed(Computed { len, make: Arc::new(make) }));
    }

    /// Adds a file of `len` bytes that is made when the guest selects it.
    pub fn add_computed_file(
        &mut self,
        name: &str,
        len: usize,
        make: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<(), FwCfgError> {
        self.insert(name, Item::Computed(Computed { len, make: Arc::new(make) }))
    }

    /// Adds a file of one byte, which is what `think` says to the contents of the writable file `of` when the guest selects it.
    pub fn add_verdict(
        &mut self,
        name: &str,
        of: &str,
        think: impl Fn(&[u8]) -> u8 + Send + Sync + 'static,
    ) -> Result<(), FwCfgError> {
        self.insert(name, Item::Verdict(Verdict { of: of.to_owned(), think: Arc::new(think) }))
    }

    /// Sets a numbered item to `len` bytes of an open file from `offset`.
    pub fn add_part(&mut self, key: u16, file: File, offset: u64, len: u64) {
        self.items.insert(key, Item::File(FilePart { file: Arc::new(Mutex::new(file)), offset, len }));
    }

    /// Whether there is a file of this name.
    pub fn has_file(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    fn insert(&mut self, name: &str, item: Item) -> Result<(), FwCfgError> {
        if name.is_empty() || name.len() >= NAME_SIZE || name.contains('\0') {
            return Err(FwCfgError::Name(name.to_owned()));
        }
        if u32::try_from(item.len()).is_err() {
            return Err(FwCfgError::Size(name.to_owned()));
        }
        if self.files.len() >= MAX_FILES {
            return Err(FwCfgError::Full(name.to_owned()));
        }
        if self.files.contains_key(name) {
            return Err(FwCfgError::Exists(name.to_owned()));
        }
        self.files.insert(name.to_owned(), item);
        Ok(())
    }

    /// All items by number, the directory included.
    fn numbered(self, dma: bool) -> BTreeMap<u16, Item> {
        let mut items = self.items;
        let fixed = |data: Vec<u8>| Item::Fixed(data.into());
        items.insert(key::SIGNATURE, fixed(b"QEMU".to_vec()));
        items.insert(key::ID, fixed(u32::to_le_bytes(if dma { 3 } else { 1 }).to_vec()));
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for (number, (name, item)) in (key::FIRST_FILE..).zip(self.files) {
            directory.extend((item.len() as u32).to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0, 0]);
            let mut field = [0; NAME_SIZE];
            field[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend(field);
            items.insert(number, item);
        }
        items.insert(key::DIRECTORY, fixed(directory));
        items
    }
}

impl std::fmt::Debug for FwCfgTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = self.files.iter().map(|(name, item)| (name, item.len()));
        f.debug_map().entries(self.items.iter().map(|(k, i)| (k, i.len()))).entries(files).finish()
    }
}

const NAME_SIZE: usize = 56;
const MAX_FILES: usize = 0x1000;

mod key {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const ID: u16 = 0x01;
    pub(super) const DIRECTORY: u16 = 0x19;
    pub(super) const FIRST_FILE: u16 = 0x20;
}

/// Firmware configuration device.
#[derive(Clone, Debug, Default)]
pub struct FwCfgConfig {
    /// What it offers.
    pub table: FwCfgTable,
    /// Leave out the DMA interface.
    pub no_dma: bool,
}

impl Properties for FwCfgConfig {
    fn properties() -> Vec<Property> {
        Vec::new()
    }

    fn set(&mut self, name: &str, _value: &str) -> Result<(), PropertyError> {
        Err(PropertyError::Unknown { name: name.to_owned(), known: String::new() })
    }
}

const PIO: usize = 0;

impl DeviceConfig for FwCfgConfig {
    const KIND: &'static str = "fw_cfg";
    const HELP: &'static str = "firmware configuration device";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("pio", 12, AccessRule::ANY), RegionSpec::new("mmio", 24, AccessRule::ANY)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let dma = if self.no_dma { None } else { Some(wires.dma()?) };
        let numbers =
            (key::FIRST_FILE..).zip(self.table.files.keys()).map(|(n, name)| (name.clone(), n)).collect();
        let items = self.table.numbered(dma.is_some());
        let fresh = items.clone();
        Ok(Box::new(FwCfg { fresh, items, numbers, dma, made: Vec::new(), r: Registers::default() }))
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Registers {
    selected: u16,
    offset: u32,
    /// High half of the address of the next DMA descriptor.
    dma_high: u32,
}

struct FwCfg {
    /// The items after reset.
    fresh: BTreeMap<u16, Item>,
    items: BTreeMap<u16, Item>,
    /// Numbers of the files.
    numbers: BTreeMap<String, u16>,
    dma: Option<Dma>,
    /// Contents of the selected item, if they are computed.
    made: Vec<u8>,
    r: Registers,
}

/// What a DMA read of the DMA register gives: "QEMU CFG".
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

const DMA_ERROR: u32 = 1 << 0;
const DMA_READ: u32 = 1 << 1;
const DMA_SKIP: u32 = 1 << 2;
const DMA_SELECT: u32 = 1 << 3;
const DMA_WRITE: u32 = 1 << 4;

/// What an offset means.
enum Register {
    Selector,
    Data,
    /// With the byte offset in the register.
    Dma(usize),
}

fn decode(region: usize, offset: u64, len: usize) -> Option<Register> {
    match (region, offset, len) {
        (PIO, 0, 2) | (1, 8, 2) => Some(Register::Selector),
        (PIO, 1, 1) | (1, 0..8, _) => Some(Register::Data),
        (PIO, 4..12, _) => Some(Register::Dma(offset as usize - 4)),
        (1, 16..24, _) => Some(Register::Dma(offset as usize - 16)),
        _ => None,
    }
}

impl FwCfg {
    /// Copies on from the selected item.
    fn take(&mut self, to: &mut [u8]) {
        let item = match self.items.get(&self.r.selected) {
            Some(Item::File(part)) => {
                part.read(self.r.offset.into(), to);
                self.r.offset = self.r.offset.saturating_add(to.len() as u32);
                return;
            }
            Some(Item::Computed(_) | Item::Verdict(_)) => &self.made,
            item => item.map_or(&[][..], Item::bytes),
        };
        let rest = item.get(self.r.offset as usize..).unwrap_or_default();
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        to[n..].fill(0);
        self.r.offset = self.r.offset.saturating_add(to.len() as u32);
    }

    fn select(&mut self, key: u16) {
        self.r.selected = key;
        self.r.offset = 0;
        self.make();
    }

    fn make(&mut self) {
        self.made = match self.items.get(&self.r.selected) {
            Some(Item::Computed(computed)) => (computed.make)(),
            Some(Item::Verdict(verdict)) => {
                let of = self.numbers.get(&verdict.of).and_then(|key| self.items.get(key));
                vec![(verdict.think)(of.map_or(&[], Item::bytes))]
            }
            _ => Vec::new(),
        };
    }

    /// Runs the DMA descriptor at an address; its control word tells the guest how it went.
    fn run_dma(&mut self, descriptor: u64) {
        let Some(dma) = self.dma.clone() else { return };
        let mut words = [0; 16];
        if dma.read(descriptor, &mut words).is_err() {
            return;
        }
        let word = |i: usize| u32::from_be_bytes([words[i], words[i + 1], words[i + 2], words[i + 3]]);
        let (control, length) = (word(0), word(4));
        let address = u64::from(word(8)) << 32 | u64::from(word(12));
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = if control & DMA_READ != 0 {
            self.dma_read(&dma, address, length)
        } else if control & DMA_WRITE != 0 {
            self.dma_write(&dma, address, length)
        } else {
            if control & DMA_SKIP != 0 {
                self.r.offset = self.r.offset.saturating_add(length);
            }
            true
        };
        let result = if done { 0 } else { DMA_ERROR };
        // The descriptor has just been read, so it is RAM, or ROM that stays as it is.
        let _ = dma.write(descriptor, &result.to_be_bytes());
    }

    fn dma_read(&mut self, dma: &Dma, mut address: u64, mut length: u32) -> bool {
        let mut chunk = vec![0; length.min(64 << 10) as usize];
        while length > 0 {
            let n = length.min(chunk.len() as u32);
            self.take(&mut chunk[..n as usize]);
            if dma.write(address, &chunk[..n as usize]).is_err() {
                return false;
            }
            address = address.wrapping_add(n.into());
            length -= n;
        }
        true
    }

    /// Writes must lie within a writable item.
    fn dma_write(&mut self, dma: &Dma, address: u64, length: u32) -> bool {
        let Some(Item::Writable(bytes)) = self.items.get_mut(&self.r.selected) else { return false };
        let start = self.r.offset as usize;
        let part = start.checked_add(length as usize).and_then(|end| bytes.get_mut(start..end));
        let Some(part) = part else { return false };
        let mut data = vec![0; length as usize];
        let done = dma.read(address, &mut data).is_ok();
        if done {
            part.copy_from_slice(&data);
            self.r.offset += length;
        }
        done
    }

    fn write_dma_register(&mut self, at: usize, data: &[u8]) -> Access {
        let value = data.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        match (at, data.len()) {
            _ if self.dma.is_none() => return Access::NoRegister,
            (0, 4) => self.r.dma_high = value as u32,
            (4, 4) => {
                let high = u64::from(std::mem::take(&mut self.r.dma_high));
                self.run_dma(high << 32 | value);
            }
            (0, 8) => {
                self.r.dma_high = 0;
                self.run_dma(value);
            }
            _ => return Access::BadSize,
        }
        Access::Ok
    }

    fn writable(items: &BTreeMap<u16, Item>) -> impl Iterator<Item = (u16, &Vec<u8>)> {
        items.iter().filter_map(|(key, item)| match item {
            Item::Writable(bytes) => Some((*key, bytes)),
            _ => None,
        })
    }
}

impl Device for FwCfg {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        match decode(region, offset, data.len()) {
            Some(Register::Data) => self.take(data),
            Some(Register::Dma(at)) if self.dma.is_some() && at + data.len() <= 8 => {
                data.copy_from_slice(&DMA_SIGNATURE[at..at + data.len()]);
            }
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        match decode(region, offset, data.len()) {
            Some(Register::Selector) => {
                let key = le_value(data) as u16;
                self.select(if region == PIO { key } else { key.swap_bytes() });
            }
            // Writing through the data register was given up long ago.
            Some(Register::Data) => return Access::ReadOnly,
            Some(Register::Dma(at)) => return self.write_dma_register(at, data),
            None => return Access::NoRegister,
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.r = Registers::default();
        self.made.clear();
        self.items = self.fresh.clone();
    }

    fn save(&self) -> StateBlob {
        let state = state::V1 {
            selected: self.r.selected,
            offset: self.r.offset,
            dma_high: self.r.dma_high,
            written: Self::writable(&self.items)
                .map(|(key, bytes)| state::Written { key, data: Bytes(bytes.clone()) })
                .collect(),
        };
        StateBlob::new(FwCfgConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(FwCfgConfig::KIND, 1)?;
        let mut items = self.items.clone();
        for written in s.written {
            match items.get_mut(&written.key) {
                Some(Item::Writable(bytes)) if bytes.len() == written.data.0.len() => *bytes = written.data.0,
                _ => {
                    let what = format!("expected no contents of item {:#x} in this size", written.key);
                    return Err(StateError::new("written", what));
                }
            }
        }
        self.items = items;
        self.r = Registers { selected: s.selected, offset: s.offset, dma_high: s.dma_high };
        self.make();
        Ok(())
    }
}

mod state {
    use device::Bytes;

    device::state! {
        /// Contents of a file the guest may write.
        pub(super) struct Written { 1 => key: u16, 2 => data: Bytes }
    }
    device::state! {
        /// Saved state of a fw_cfg, version 1.
        pub(super) struct V1 {
            1 => selected: u16,
            2 => offset: u32,
            3 => dma_high: u32,
            4 => written: Vec<Written>,
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, RAM_BASE, check};

    use super::*;

    fn config() -> FwCfgConfig {
        let mut table = FwCfgTable::default();
        table.add_u16(5, 4);
        table.add_file("opt/hello", *b"hello").unwrap();
        table.add_file("etc/first", vec![1; 100_000]).unwrap();
        table.add_writable_file("etc/guest", vec![0; 8]).unwrap();
        FwCfgConfig { table, no_dma: false }
    }

    fn read_item(b: &Bench, key: u64, len: usize) -> Vec<u8> {
        b.write(0, 0, 2, key);
        (0..len).map(|_| b.read(0, 1, 1) as u8).collect()
    }

    #[test]
    fn items_and_directory() {
        let b = Bench::new(config());
        assert_eq!(read_item(&b, 0, 5), b"QEMU\0");
        assert_eq!(read_item(&b, 1, 4), [3, 0, 0, 0]);
        assert_eq!(read_item(&b, 5, 3), [4, 0, 0]);
        assert_eq!(read_item(&b, 0x7777, 2), [0, 0]);
        let directory = read_item(&b, 0x19, 4 + 3 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 3]);
        assert_eq!(directory[4..12], [0, 1, 0x86, 0xa0, 0, 0x20, 0, 0]);
        assert!(directory[12..].starts_with(b"etc/first\0"));
        assert!(directory[4 + 2 * 64..].starts_with(b"\0\0\0\x05\0\x22\0\0opt/hello\0"));
        assert_eq!(read_item(&b, 0x22, 6), b"hello\0");
        b.write(1, 8, 2, 0x2200);
        assert_eq!(b.read(1, 0, 4), u64::from(u32::from_le_bytes(*b"hell")), "mmio: big-endian selector");
    }

    fn dma(b: &Bench, control: u32, length: u32, address: u64) -> u32 {
        let mut words = control.to_be_bytes().to_vec();
        words.extend(length.to_be_bytes());
        words.extend(address.to_be_bytes());
        b.ram().write(0x100, &words).unwrap();
        let descriptor = (RAM_BASE + 0x100).swap_bytes();
        b.write(0, 4, 4, descriptor & 0xffff_ffff);
        b.write(0, 8, 4, descriptor >> 32);
        let mut result = [0; 4];
        b.ram().read(0x100, &mut result).unwrap();
        u32::from_be_bytes(result)
    }

    #[test]
    fn dma_reads_skips_and_writes() {
        let b = Bench::new(config());
        assert_eq!(b.read(0, 4, 8), u64::from_le_bytes(*b"QEMU CFG"));
        assert_eq!(dma(&b, DMA_SELECT | DMA_SKIP | 0x22 << 16, 1, 0), 0);
        assert_eq!(dma(&b, DMA_READ, 6, RAM_BASE + 0x200), 0);
        let mut data = [9; 6];
        b.ram().read(0x200, &mut data).unwrap();
        assert_eq!(&data, b"ello\0\0");
        assert_eq!(dma(&b, DMA_SELECT | DMA_READ | 0x20 << 16, 100_001, RAM_BASE + 0x1000), 0);
        let mut end = [9; 2];
        b.ram().read(0x1000 + 99_999, &mut end).unwrap();
        assert_eq!(end, [1, 0]);
        assert_eq!(dma(&b, DMA_SELECT | DMA_READ | 0x20 << 16, 4, 0x1000), DMA_ERROR, "no RAM there");
        assert_eq!(dma(&b, DMA_SELECT | DMA_WRITE | 0x21 << 16, 4, RAM_BASE + 0x200), 0);
        assert_eq!(dma(&b, DMA_WRITE, 5, RAM_BASE + 0x200), DMA_ERROR, "beyond the file");
        assert_eq!(read_item(&b, 0x21, 8), b"ello\0\0\0\0");
        assert_eq!(dma(&b, DMA_SELECT | DMA_WRITE | 0x22 << 16, 1, RAM_BASE), DMA_ERROR, "not writable");
    }

    #[test]
    fn a_verdict_is_given_when_it_is_asked_for() {
        let mut c = config();
        c.table.add_verdict("etc/ok", "etc/guest", |data| data.iter().copied().max().unwrap_or(9)).unwrap();
        let b = Bench::new(c);
        assert_eq!(read_item(&b, 0x22, 2), [0, 0], "etc/ok stands before opt/hello");
        b.ram().write(0x200, &[3, 7]).unwrap();
        assert_eq!(dma(&b, DMA_SELECT | DMA_WRITE | 0x21 << 16, 2, RAM_BASE + 0x200), 0);
        assert_eq!(read_item(&b, 0x22, 2), [7, 0]);
    }

    #[test]
    fn bad_files_are_refused() {
        let mut table = FwCfgTable::default();
        table.add_file("a", []).unwrap();
        assert_eq!(table.add_file("a", []), Err(FwCfgError::Exists("a".into())));
        assert!(matches!(table.add_file(&"x".repeat(56), []), Err(FwCfgError::Name(_))));
        assert!(matches!(table.add_file("", []), Err(FwCfgError::Name(_))));
    }

    #[test]
    fn passes_the_common_tests() {
        check(config());
        check(FwCfgConfig { no_dma: true, ..config() });
    }
}
