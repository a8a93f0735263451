//! The tables a kernel in flat protected mode is given, and what of them only the running machine knows.

use machine::{Image, MachineError};

use crate::bytes::put;

/// Where the tables are.
pub(crate) const INFO: std::ops::Range<u64> = 0x1_0000..0x2_0000;
/// Bytes at their start that are the boot ROM's, with the place for what nobody wants to know.
pub(crate) const HEAD: usize = 0x100;
/// What the memory map can have.
const MAX_MAP: u64 = 128;
/// Size of an entry, whatever the table.
const ENTRY: usize = 24;

/// A part of the memory map: RAM or reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) ram: bool,
}

/// Offsets in the tables of what is still to be filled in; 0 is a place for what the kernel does not want to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Blanks {
    /// First base address of the memory map, which is the last of the tables.
    pub(crate) map: usize,
    /// 32 bits: number of entries.
    pub(crate) count: usize,
    /// 32 bits: what is there, and the bytes of all entries more.
    pub(crate) length: usize,
    /// The same again.
    pub(crate) total: usize,
    /// 32 bits: KiB of RAM from 0 on.
    pub(crate) lower: usize,
    /// 32 bits: KiB of RAM from 1 MiB on.
    pub(crate) upper: usize,
    /// 32 bits: where ACPI's root pointer is.
    pub(crate) rsdp: usize,
    /// A tag of Multiboot 2 that is to become one with a copy of it.
    pub(crate) rsdp_tag: usize,
}

/// Tables under construction.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) bytes: Vec<u8>,
    pub(crate) blanks: Blanks,
    /// Offset of what EBX leads to.
    start: usize,
}

impl Info {
    /// Empty ones.
    pub(super) fn new() -> Self {
        Info { bytes: vec![0; HEAD], blanks: Blanks::default(), start: HEAD }
    }

    /// Adds bytes at a multiple of eight; their offset.
    pub(super) fn add(&mut self, bytes: &[u8]) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.extend_from_slice(bytes);
        self.bytes.len() - bytes.len()
    }

    /// Adds text with its end; its address.
    pub(super) fn text(&mut self, text: &str) -> u64 {
        let at = self.add(&[text.as_bytes(), &[0]].concat());
        self.at(at)
    }

    /// The address of an offset.
    pub(super) fn at(&self, offset: usize) -> u64 {
        INFO.start + offset as u64
    }

    /// Sets a field.
    pub(super) fn put(&mut self, at: usize, value: u64, n: usize) {
        put(&mut self.bytes, at, value, n);
    }

    /// What EBX leads to begins at this offset.
    pub(super) fn starts_at(&mut self, offset: usize) {
        self.start = offset;
    }

    /// What EBX leads to.
    pub(crate) fn address(&self) -> u32 {
        self.at(self.start) as u32
    }

    /// Makes place for the memory map, behind all else. `own` bytes of an entry are before its base address, with this in them.
    pub(super) fn map(&mut self, own: &[u8]) -> Result<(), MachineError> {
        let at = self.add(&[]);
        self.blanks.map = at + own.len();
        let entry = [own, &vec![0; ENTRY - own.len()]].concat();
        // Eight bytes more for the end that Multiboot 2 has behind it.
        let all = [entry.repeat(MAX_MAP as usize), vec![0; 8]].concat();
        self.bytes.extend(all);
        let room = INFO.end - INFO.start;
        if self.bytes.len() as u64 > room {
            return Err(MachineError::Board(format!(
                "-append and -initrd: tables of {} bytes for the kernel; expected at most {room}",
                self.bytes.len()
            )));
        }
        Ok(())
    }

    /// Fills in what was left blank, on a board that knows it.
    pub(crate) fn fill(&mut self, map: &[Memory], rsdp: Option<u32>) {
        let blanks = self.blanks;
        let mut add = |at: usize, more: u64| {
            let value = crate::bytes::le(&self.bytes, at, 4) + more;
            self.put(at, value, 4);
        };
        let bytes = (map.len() * ENTRY) as u64;
        add(blanks.length, bytes);
        add(blanks.total, bytes);
        self.put(blanks.count, map.len() as u64, 4);
        for (i, m) in map.iter().enumerate() {
            let at = blanks.map + i * ENTRY;
            self.put(at, m.base, 8);
            self.put(at + 8, m.size, 8);
            self.put(at + 16, if m.ram { 1 } else { 2 }, 4);
            let kib = m.size >> 10;
            match m.base {
                0 => self.put(blanks.lower, kib.min(640), 4),
                0x10_0000 => self.put(blanks.upper, kib, 4),
                _ => {}
            }
        }
        // The end of Multiboot 2's list; behind the map of the others nobody looks.
        self.put(blanks.map + map.len() * ENTRY + 4, 8, 4);
        if let Some(rsdp) = rsdp {
            self.put(blanks.rsdp, rsdp.into(), 4);
        }
    }

    /// The tables as an image.
    pub(crate) fn image(&self) -> Image {
        Image::bytes("tables for the kernel", INFO.start, self.bytes.clone())
    }
}
