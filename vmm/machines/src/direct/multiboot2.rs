//! Multiboot 2 kernels.
//!
//! Multiboot2 Specification 2.0: 3.1 (header and its tags), 3.3 (machine state), 3.6 (information). As from a boot loader on a
//! BIOS in text mode: no frame buffer, no EFI.

use machine::MachineError;

use super::multiboot::by_addresses;
use super::{Flat, Given, Info, Parts, modules};
use crate::bytes::le;

const HEADER_MAGIC: u64 = 0xe852_50d6;
/// What EAX says.
const MAGIC: u32 = 0x36d7_6289;
/// The header is within so much of the file.
pub(super) const SEARCHED: u64 = 32768;
/// A tag the loader may ignore.
const OPTIONAL: u64 = 1;

/// Tags of a header.
mod asks {
    pub(super) const END: u64 = 0;
    pub(super) const INFORMATION: u64 = 1;
    pub(super) const ADDRESSES: u64 = 2;
    pub(super) const ENTRY: u64 = 3;
    pub(super) const FRAME_BUFFER: u64 = 5;
    /// Console flags, module alignment, EFI and its entries, relocation: nothing that does not hold anyway.
    pub(super) const KNOWN: std::ops::RangeInclusive<u64> = 1..=10;
}

/// Tags of the information.
mod tag {
    pub(super) const LINE: u32 = 1;
    pub(super) const LOADER: u32 = 2;
    pub(super) const MODULE: u32 = 3;
    pub(super) const MEMORY: u32 = 4;
    pub(super) const MAP: u32 = 6;
    /// Not a tag of anybody's until the root pointer is found.
    pub(super) const NONE: u32 = 0xffff_0000;
    /// The last one that is defined.
    pub(super) const LAST: u64 = 21;
}

/// Bytes of ACPI's root pointer in its first version.
const RSDP: usize = 20;

/// What a header asks for.
#[derive(Debug, Default)]
struct Asks {
    addresses: Option<[u64; 4]>,
    entry: Option<u32>,
}

/// Where the header is.
fn find(head: &[u8]) -> Option<usize> {
    let sums = |at: &usize| {
        let words = (0..4).map(|n| le(head, at + 4 * n, 4));
        le(head, *at, 4) == HEADER_MAGIC && words.sum::<u64>().is_multiple_of(1 << 32)
    };
    (0..head.len().saturating_sub(15)).step_by(8).find(sums)
}

fn asks(given: &Given<'_>, head: &[u8], at: usize) -> Result<Asks, MachineError> {
    if le(head, at + 4, 4) != 0 {
        return Err(given.bad("its Multiboot 2 header is for another architecture than i386"));
    }
    let end = at + le(head, at + 8, 4) as usize;
    let (mut asks, mut next) = (Asks::default(), at + 16);
    while next + 8 <= end.min(head.len()) {
        let (kind, optional) = (le(head, next, 2), le(head, next + 2, 2) & OPTIONAL != 0);
        let size = le(head, next + 4, 4) as usize;
        let field = |n: usize| le(head, next + 8 + 4 * n, 4);
        match kind {
            asks::END => return Ok(asks),
            asks::INFORMATION if !optional => {
                let unknown = (0..size.saturating_sub(8) / 4).map(field).find(|kind| *kind > tag::LAST);
                if let Some(unknown) = unknown {
                    return Err(
                        given.bad(format!("its Multiboot 2 header asks for unknown information {unknown}"))
                    );
                }
            }
            asks::ADDRESSES => asks.addresses = Some([field(0), field(1), field(2), field(3)]),
            asks::ENTRY => asks.entry = Some(field(0) as u32),
            asks::FRAME_BUFFER if !optional => {
                return Err(
                    given.bad("its Multiboot 2 header asks for a frame buffer; there is text mode alone")
                );
            }
            kind if !asks::KNOWN.contains(&kind) && !optional => {
                return Err(given.bad(format!("its Multiboot 2 header has the unknown tag {kind}")));
            }
            _ => {}
        }
        next += size.max(8).next_multiple_of(8);
    }
    Err(given.bad("damaged kernel: its Multiboot 2 header has no end"))
}

/// Adds a tag; its offset.
fn add(info: &mut Info, kind: u32, contents: &[u8]) -> usize {
    let size = 8 + contents.len() as u32;
    info.add(&[&kind.to_le_bytes()[..], &size.to_le_bytes(), contents].concat())
}

/// Reads a kernel; nothing if it is no Multiboot 2 kernel.
pub(super) fn read(given: &Given<'_>, head: &[u8]) -> Result<Option<Flat>, MachineError> {
    let Some(at) = find(head) else { return Ok(None) };
    let asks = asks(given, head, at)?;
    let mut parts = if let Some(addresses) = asks.addresses {
        let entry = asks.entry.ok_or_else(|| given.bad("its Multiboot 2 header has no entry"))?;
        by_addresses(given, at as u64, addresses, entry)?
    } else if head.starts_with(b"\x7fELF") {
        Parts::elf(given)?
    } else {
        return Err(given.bad("a Multiboot 2 kernel that says not where it is to be loaded"));
    };
    parts.entry = asks.entry.unwrap_or(parts.entry);
    parts.check(given)?;
    let modules = modules(given, parts.end.max(super::HIGH))?;

    let mut info = Info::new();
    let start = info.add(&[0; 8]);
    info.starts_at(start);
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    add(&mut info, tag::LINE, &text(given.append));
    add(&mut info, tag::LOADER, &text("rhea"));
    for m in &modules {
        let range = [m.piece.gpa as u32, (m.piece.gpa + m.piece.len) as u32].map(u32::to_le_bytes).concat();
        // The words alone: a boot loader leaves out the name of the file.
        let words = m.words.split_once(' ').map_or("", |(_, words)| words);
        add(&mut info, tag::MODULE, &[range, text(words)].concat());
    }
    let memory = add(&mut info, tag::MEMORY, &[0; 8]);
    (info.blanks.lower, info.blanks.upper) = (memory + 8, memory + 12);
    info.blanks.rsdp_tag = add(&mut info, tag::NONE, &[0; RSDP]);
    // Size of an entry, version; the tag's size grows with the map.
    let map = add(&mut info, tag::MAP, &[24, 0, 0, 0, 0, 0, 0, 0]);
    info.map(&[])?;
    info.blanks.length = map + 4;
    info.blanks.total = start;
    let total = info.blanks.map + 8 - start;
    info.put(start, total as u64, 4);
    Ok(Some(Flat {
        kernel: parts.kernel,
        blank: parts.blank,
        modules: modules.into_iter().map(|m| m.piece).collect(),
        entry: parts.entry,
        magic: MAGIC,
        info,
    }))
}
