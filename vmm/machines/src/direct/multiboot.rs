//! Multiboot 1 kernels.
//!
//! Multiboot Specification 0.6.96: 3.1 (header), 3.2 (machine state), 3.3 (information). Words for kernel and modules begin with
//! the file's name.

use machine::MachineError;

use super::{Flat, Given, Info, Parts, Piece, modules};
use crate::bytes::le;
use crate::kernel;

const HEADER_MAGIC: u64 = 0x1bad_b002;
/// What EAX says.
const MAGIC: u32 = 0x2bad_b002;
/// The header is within so much of the file.
const SEARCHED: usize = 8192;
/// The header says where to load the file.
const ADDRESSES: u64 = 1 << 16;
/// What a loader must not ignore: page-aligned modules, memory sizes, a video mode. There is text mode alone, which kernels
/// are told by the absence of a frame buffer.
const KNOWN: u64 = 0b111;
const MUST_KNOW: u64 = 0xffff;
/// Fields that are there: memory sizes, boot device, command line, modules, memory map, loader's name.
const PRESENT: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// First hard disk, first partition.
const BOOT_DEVICE: u64 = 0x8000_ffff;

/// Where the header is.
fn find(head: &[u8]) -> Option<usize> {
    let sums = |at: &usize| {
        le(head, *at, 4) == HEADER_MAGIC
            && (HEADER_MAGIC + le(head, at + 4, 4) + le(head, at + 8, 4)).is_multiple_of(1 << 32)
    };
    (0..head.len().min(SEARCHED).saturating_sub(11)).step_by(4).find(sums)
}

/// The parts of a file whose header says where they go: addresses of the header, of load start and end, and of the end of the
/// cleared memory.
pub(super) fn by_addresses(
    given: &Given<'_>,
    header_at: u64,
    [header, load, load_end, bss_end]: [u64; 4],
    entry: u32,
) -> Result<Parts, MachineError> {
    let total = kernel::file_len(given.kernel)?;
    let bad = || given.bad("damaged kernel: the addresses in its Multiboot header contradict each other");
    let offset = header.checked_sub(load).and_then(|n| header_at.checked_sub(n)).ok_or_else(bad)?;
    let len = if load_end == 0 { total - offset } else { load_end.checked_sub(load).ok_or_else(bad)? };
    if offset + len > total {
        return Err(given.bad("damaged kernel: it is cut off"));
    }
    let end = load + len;
    let blank = if bss_end > end { vec![(end, bss_end - end)] } else { Vec::new() };
    if bss_end != 0 && bss_end < end {
        return Err(bad());
    }
    let kernel = vec![Piece { path: given.kernel.into(), offset, len, gpa: load }];
    Ok(Parts { kernel, blank, entry, end: end.max(bss_end) })
}

/// Reads a kernel; nothing if it is no Multiboot 1 kernel.
pub(super) fn read(given: &Given<'_>, head: &[u8]) -> Result<Option<Flat>, MachineError> {
    let Some(at) = find(head) else { return Ok(None) };
    let flags = le(head, at + 4, 4);
    let unknown = flags & MUST_KNOW & !KNOWN;
    if unknown != 0 {
        return Err(given.bad(format!("its Multiboot header asks for unknown features {unknown:#x}")));
    }
    let parts = if flags & ADDRESSES != 0 {
        let field = |n: usize| le(head, at + 12 + 4 * n, 4);
        by_addresses(given, at as u64, [field(0), field(1), field(2), field(3)], field(4) as u32)?
    } else if head.starts_with(b"\x7fELF\x01") {
        Parts::elf(given)?
    } else if head.starts_with(b"\x7fELF") {
        return Err(given.bad("a 64-bit ELF file; Multiboot 1 starts 32-bit ones"));
    } else {
        return Err(given.bad("a Multiboot kernel that says not where it is to be loaded"));
    };
    parts.check(given)?;
    let modules = modules(given, parts.end.max(super::HIGH))?;

    let mut info = Info::new();
    let table = info.add(&[0; 116]);
    info.starts_at(table);
    info.put(table, PRESENT, 4);
    (info.blanks.lower, info.blanks.upper) = (table + 4, table + 8);
    info.put(table + 12, BOOT_DEVICE, 4);
    let line = info.text(format!("{} {}", given.kernel.display(), given.append).trim_end());
    info.put(table + 16, line, 4);
    let list = info.add(&vec![0; 16 * modules.len()]);
    for (i, m) in modules.iter().enumerate() {
        let row = list + 16 * i;
        let words = info.text(&m.words);
        info.put(row, m.piece.gpa, 4);
        info.put(row + 4, m.piece.gpa + m.piece.len, 4);
        info.put(row + 8, words, 4);
    }
    info.put(table + 20, modules.len() as u64, 4);
    let list = info.at(list);
    info.put(table + 24, list, 4);
    let name = info.text("rhea");
    info.put(table + 64, name, 4);
    // An entry begins with the size of the rest.
    info.map(&20u32.to_le_bytes())?;
    info.blanks.length = table + 44;
    let map = info.at(info.blanks.map - 4);
    info.put(table + 48, map, 4);
    Ok(Some(Flat {
        kernel: parts.kernel,
        blank: parts.blank,
        modules: modules.into_iter().map(|m| m.piece).collect(),
        entry: parts.entry,
        magic: MAGIC,
        info,
    }))
}
