//! ELF kernels with a PVH entry.
//!
//! The x86/HVM direct boot ABI of the Xen project (`hvm/start_info.h`), ELF note 18 (XEN_ELFNOTE_PHYS32_ENTRY).

use machine::MachineError;
use object::Endianness;
use object::elf::{FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use super::{Flat, Given, Info, PAGE, Parts, Piece};
use crate::bytes::le;
use crate::kernel;

const NOTE: u32 = 18;
const MAGIC: u64 = 0x336e_c578;

/// The physical entry point that an ELF file gives in its note.
fn entry<H: FileHeader<Endian = Endianness>>(data: &[u8]) -> Option<u64> {
    let h = H::parse(data).ok()?;
    let e = h.endian().ok()?;
    for segment in h.program_headers(e, data).ok()? {
        let Ok(Some(mut notes)) = segment.notes(e, data) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Xen" && note.n_type(e).0 == NOTE {
                return Some(le(note.desc(), 0, note.desc().len().min(8)));
            }
        }
    }
    None
}

/// Reads an ELF file.
pub(super) fn read(given: &Given<'_>) -> Result<Flat, MachineError> {
    let file_error = |source| MachineError::File { path: given.kernel.into(), source };
    let parts = Parts::elf(given)?;
    let data = std::fs::read(given.kernel).map_err(file_error)?;
    let entry = match data.get(4) {
        Some(1) => entry::<FileHeader32<Endianness>>(&data),
        _ => entry::<FileHeader64<Endianness>>(&data),
    };
    let entry = entry.and_then(|at| u32::try_from(at).ok()).ok_or_else(|| {
        given.bad(
            "ELF file without a PVH entry or a Multiboot header; build the kernel with CONFIG_PVH, or give its bzImage",
        )
    })?;
    parts.check(given)?;
    let mut modules = Vec::new();
    if let Some(path) = given.initrd {
        let len = kernel::file_len(path)?;
        let at = given.top.checked_sub(len).map(|at| at & !(PAGE - 1)).filter(|at| *at >= parts.end);
        let gpa = at.ok_or_else(|| given.no_room(path, len))?;
        modules.push(Piece { path: path.into(), offset: 0, len, gpa });
    }

    let mut info = Info::new();
    let table = info.add(&[0; 56]);
    info.starts_at(table);
    info.put(table, MAGIC, 4);
    info.put(table + 4, 1, 4);
    let line = info.text(given.append);
    info.put(table + 24, line, 8);
    if let Some(m) = modules.first() {
        let row = info.add(&[0; 32]);
        info.put(row, m.gpa, 8);
        info.put(row + 8, m.len, 8);
        let list = info.at(row);
        info.put(table + 12, 1, 4);
        info.put(table + 16, list, 8);
    }
    info.map(&[])?;
    (info.blanks.rsdp, info.blanks.count) = (table + 32, table + 48);
    let map = info.at(info.blanks.map);
    info.put(table + 40, map, 8);
    Ok(Flat { kernel: parts.kernel, blank: parts.blank, modules, entry, magic: 0, info })
}
