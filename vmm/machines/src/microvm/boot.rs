//! Direct boot of x86 kernels: bzImage by the 64-bit protocol, ELF by PVH.
//!
//! Linux Documentation/arch/x86/boot.rst and zero-page.rst; the x86/HVM direct boot ABI of the Xen project
//! (`hvm/start_info.h`), ELF note 18.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use machine::{Board, Image, MachineError};
use object::Endianness;
use object::elf::{FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::BoardConfig;
use crate::kernel;

const GDT: u64 = 0x500;
const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6100;
const MEMORY_MAP: u64 = 0x6200;
const ZERO_PAGE: u64 = 0x7000;
/// PML4, PDPT and four page directories: 4 GiB of identical addresses.
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line: what Linux takes.
const MAX_COMMAND_LINE: usize = 2047;
/// End of the RAM below 1 MiB that is free for the kernel; the multiprocessor table stands there.
pub(super) const LOW_END: u64 = 0x9_fc00;
const HIGH: u64 = 0x10_0000;
/// Type of the note that gives the 32-bit physical entry (XEN_ELFNOTE_PHYS32_ENTRY).
const PVH_NOTE: u32 = 18;

/// Where the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// 64-bit mode, RSI = zero page.
    Long { entry: u64 },
    /// 32-bit mode, EBX = start info.
    Flat { entry: u64 },
    /// The reset vector.
    Reset,
}

/// A piece of the memory map: usable or reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) base: u64,
    pub(super) size: u64,
    pub(super) ram: bool,
}

/// What the kernel is told of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// The command line.
    pub(super) append: &'a str,
    pub(super) map: &'a [Piece],
    /// Where ACPI's root pointer stands.
    pub(super) acpi: Option<u32>,
}

fn bad(path: &Path, what: &str) -> MachineError {
    MachineError::Board(format!("{}: {what}", path.display()))
}

/// What the header of a bzImage says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// First byte of the protected-mode kernel in the file.
    payload: u64,
    relocatable: bool,
    preferred: u64,
    init_size: u64,
    initrd_max: u64,
    /// Bytes 0x1f1 to the end of the header.
    setup: Vec<u8>,
}

fn le(data: &[u8], at: usize, n: usize) -> u64 {
    data.get(at..at + n).map_or(0, |b| b.iter().rev().fold(0, |v, x| v << 8 | u64::from(*x)))
}

/// Reads the header at the start of a file; nothing if it is no bzImage.
fn header(path: &Path, head: &[u8]) -> Result<Option<Header>, MachineError> {
    if head.get(0x202..0x206) != Some(b"HdrS".as_slice()) {
        return Ok(None);
    }
    let version = le(head, 0x206, 2);
    if version < 0x20c || le(head, 0x236, 2) & 1 == 0 {
        return Err(bad(path, "this kernel has no 64-bit entry (boot protocol 2.12 or later)"));
    }
    let sectors = match le(head, 0x1f1, 1) {
        0 => 4,
        n => n,
    };
    let end = 0x202 + le(head, 0x201, 1) as usize;
    let Some(setup) = head.get(0x1f1..end) else {
        return Err(bad(path, "damaged kernel: its header is cut off"));
    };
    Ok(Some(Header {
        payload: (sectors + 1) * 512,
        relocatable: le(head, 0x234, 1) != 0,
        preferred: le(head, 0x258, 8),
        init_size: le(head, 0x260, 4),
        initrd_max: le(head, 0x22c, 4),
        setup: setup.to_vec(),
    }))
}

fn put(page: &mut [u8], at: usize, value: u64, n: usize) {
    page[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
}

/// The zero page.
fn zero_page(h: &Header, load: u64, initrd: Option<(u64, u64)>, told: &Told<'_>) -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[0x1f1..0x1f1 + h.setup.len()].copy_from_slice(&h.setup);
    // A boot loader without a number of its own; the kernel was loaded high.
    page[0x210] = 0xff;
    page[0x211] |= 1;
    put(&mut page, 0x214, load, 4);
    put(&mut page, 0x228, COMMAND_LINE, 4);
    put(&mut page, 0x70, told.acpi.unwrap_or(0).into(), 8);
    if let Some((at, len)) = initrd {
        put(&mut page, 0x218, at, 4);
        put(&mut page, 0x21c, len, 4);
    }
    page[0x1e8] = told.map.len() as u8;
    for (i, p) in told.map.iter().enumerate() {
        let at = 0x2d0 + 20 * i;
        put(&mut page, at, p.base, 8);
        put(&mut page, at + 8, p.size, 8);
        put(&mut page, at + 16, if p.ram { 1 } else { 2 }, 4);
    }
    page
}

/// Page tables that map the first 4 GiB to themselves in pages of 2 MiB.
fn page_tables() -> Vec<u8> {
    let entry = |v: u64| v.to_le_bytes();
    let mut t = vec![0; 6 * 4096];
    t[..8].copy_from_slice(&entry((PAGE_TABLES + 0x1000) | 3));
    for i in 0..4usize {
        let directory = PAGE_TABLES + 0x2000 + 0x1000 * i as u64;
        t[0x1000 + 8 * i..0x1008 + 8 * i].copy_from_slice(&entry(directory | 3));
    }
    for i in 0..2048usize {
        t[0x2000 + 8 * i..0x2008 + 8 * i].copy_from_slice(&entry((i as u64) << 21 | 0x83));
    }
    t
}

/// The physical entry point that an ELF file gives in its PVH note.
fn pvh_entry<H: FileHeader<Endian = Endianness>>(data: &[u8]) -> Option<u64> {
    let h = H::parse(data).ok()?;
    let e = h.endian().ok()?;
    for segment in h.program_headers(e, data).ok()? {
        let Ok(Some(mut notes)) = segment.notes(e, data) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Xen" && note.n_type(e).0 == PVH_NOTE {
                return Some(le(note.desc(), 0, note.desc().len().min(8)));
            }
        }
    }
    None
}

/// The start info of PVH with its module list and memory map, as images.
fn start_info(initrd: Option<(u64, u64)>, told: &Told<'_>) -> Vec<Image> {
    let mut info = vec![0; 56];
    put(&mut info, 0, 0x336e_c578, 4);
    put(&mut info, 4, 1, 4);
    put(&mut info, 24, COMMAND_LINE, 8);
    put(&mut info, 32, told.acpi.unwrap_or(0).into(), 8);
    put(&mut info, 40, MEMORY_MAP, 8);
    put(&mut info, 48, told.map.len() as u64, 4);
    let mut images = Vec::new();
    if let Some((at, len)) = initrd {
        put(&mut info, 12, 1, 4);
        put(&mut info, 16, MODULES, 8);
        let mut module = vec![0; 32];
        put(&mut module, 0, at, 8);
        put(&mut module, 8, len, 8);
        images.push(Image::bytes("modules", MODULES, module));
    }
    let mut table = Vec::new();
    for p in told.map {
        let mut row = vec![0; 24];
        put(&mut row, 0, p.base, 8);
        put(&mut row, 8, p.size, 8);
        put(&mut row, 16, if p.ram { 1 } else { 2 }, 4);
        table.extend(row);
    }
    images.push(Image::bytes("memory map", MEMORY_MAP, table));
    images.push(Image::bytes("start info", START_INFO, info));
    images
}

/// Where the vCPU finds what it is told of: RSI or EBX, and CR3.
pub(super) const TOLD_LONG: u64 = ZERO_PAGE;
/// As [`TOLD_LONG`] for PVH.
pub(super) const TOLD_FLAT: u64 = START_INFO;
/// Root of the page tables.
pub(super) const CR3: u64 = PAGE_TABLES;
/// The descriptor table and its limit.
pub(super) const GDT_PLACE: (u64, u16) = (GDT, 31);

/// Puts kernel, initial RAM disk, command line and tables into the RAM below `low_top`.
pub(super) fn place(
    b: &mut Board,
    c: &BoardConfig,
    path: &Path,
    told: &Told<'_>,
    low_top: u64,
) -> Result<Start, MachineError> {
    let append = told.append;
    if append.len() > MAX_COMMAND_LINE || append.contains('\0') {
        return Err(MachineError::Board(format!(
            "-append: {} bytes; at most {MAX_COMMAND_LINE} without a NUL are possible",
            append.len()
        )));
    }
    let len = kernel::file_len(path)?;
    let mut head = Vec::new();
    let file_error = |source| MachineError::File { path: path.into(), source };
    File::open(path).map_err(file_error)?.take(4096).read_to_end(&mut head).map_err(file_error)?;
    let no_room = |what: &Path, len: u64| {
        let ram = c.ram >> 20;
        MachineError::Board(format!("{}: {len} bytes do not fit into {ram} MiB of RAM", what.display()))
    };

    let mut images = Vec::new();
    let (start, end, initrd_max);
    let setup = header(path, &head)?;
    if let Some(h) = &setup {
        let body = len.checked_sub(h.payload).ok_or_else(|| bad(path, "damaged kernel: it is cut off"))?;
        let need = body.max(h.init_size);
        let fits = |at: u64| at >= HIGH && at.checked_add(need).is_some_and(|e| e <= low_top);
        let load = match (fits(h.preferred), h.relocatable) {
            (true, _) => h.preferred,
            (false, true) if fits(HIGH) => HIGH,
            _ => return Err(no_room(path, need)),
        };
        images.push(Image::file("kernel", load, path, h.payload, body));
        (start, end, initrd_max) = (Start::Long { entry: load + 0x200 }, load + need, h.initrd_max);
    } else if head.starts_with(b"\x7fELF") {
        let loaded = kernel::load(path, "kernel", HIGH, |_| None)?;
        let data = std::fs::read(path).map_err(file_error)?;
        let entry = match data.get(4) {
            Some(1) => pvh_entry::<FileHeader32<Endianness>>(&data),
            _ => pvh_entry::<FileHeader64<Endianness>>(&data),
        };
        let entry = entry.ok_or_else(|| {
            bad(path, "ELF file without a PVH entry; build the kernel with CONFIG_PVH, or give its bzImage")
        })?;
        if loaded.end > low_top {
            return Err(no_room(path, loaded.end));
        }
        images.extend(loaded.images);
        (start, end, initrd_max) = (Start::Flat { entry }, loaded.end, u64::from(u32::MAX));
    } else {
        return Err(bad(path, "neither a bzImage nor an ELF file"));
    }

    let mut initrd = None;
    if let Some(p) = &c.initrd {
        let len = kernel::file_len(p)?;
        let top = low_top.min(initrd_max + 1);
        let at =
            top.checked_sub(len).map(|a| a & !0xfff).filter(|a| *a >= end).ok_or_else(|| no_room(p, len))?;
        images.push(Image::file("initrd", at, p, 0, len));
        initrd = Some((at, len));
    }
    match (&setup, start) {
        (Some(h), Start::Long { entry }) => {
            images.push(Image::bytes("zero page", ZERO_PAGE, zero_page(h, entry - 0x200, initrd, told)));
            images.push(Image::bytes("page tables", PAGE_TABLES, page_tables()));
        }
        _ => images.extend(start_info(initrd, told)),
    }
    let mut line = append.as_bytes().to_vec();
    line.push(0);
    images.push(Image::bytes("command line", COMMAND_LINE, line));
    // For both modes: null, 32-bit code (8), 64-bit code (0x10) or data (0x10), data (0x18).
    let third: u64 =
        if matches!(start, Start::Long { .. }) { 0x00af_9b00_0000_ffff } else { 0x00cf_9300_0000_ffff };
    let gdt = [0, 0x00cf_9b00_0000_ffff, third, 0x00cf_9300_0000_ffff];
    images.push(Image::bytes("gdt", GDT, gdt.iter().flat_map(|d| d.to_le_bytes()).collect()));
    for image in images {
        b.image(image);
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: u16, flags: u16) -> Vec<u8> {
        let mut k = vec![0; 2048];
        k[0x1f1] = 1;
        k[0x201] = 0x66;
        k[0x202..0x206].copy_from_slice(b"HdrS");
        k[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        k[0x234] = 1;
        k[0x236..0x238].copy_from_slice(&flags.to_le_bytes());
        k[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        k
    }

    #[test]
    fn headers_are_read_and_refused_by_name() {
        let path = Path::new("vmlinuz");
        let h = header(path, &image(0x20f, 1)).unwrap().unwrap();
        assert_eq!((h.payload, h.preferred, h.setup.len()), (1024, 0x100_0000, 0x77));
        assert_eq!(header(path, b"\x7fELF").unwrap(), None);
        let e = header(path, &image(0x20f, 0)).unwrap_err().to_string();
        assert!(e.contains("vmlinuz") && e.contains("64-bit entry"), "{e}");
        assert!(header(path, &image(0x20f, 1)[..0x220]).is_err());
    }

    #[test]
    fn the_zero_page_holds_what_the_kernel_is_to_know() {
        let h = header(Path::new("k"), &image(0x20f, 1)).unwrap().unwrap();
        let map =
            [Piece { base: 0, size: LOW_END, ram: true }, Piece { base: LOW_END, size: 0x400, ram: false }];
        let told = Told { append: "", map: &map, acpi: Some(0xe_0000) };
        let p = zero_page(&h, HIGH, Some((0x123_4000, 0x55)), &told);
        assert_eq!(le(&p, 0x70, 8), 0xe_0000);
        assert_eq!(le(&p, 0x202, 4), u64::from(u32::from_le_bytes(*b"HdrS")));
        assert_eq!((le(&p, 0x218, 4), le(&p, 0x21c, 4), le(&p, 0x228, 4)), (0x123_4000, 0x55, COMMAND_LINE));
        assert_eq!((p[0x1e8], le(&p, 0x2d0 + 20, 8), le(&p, 0x2d0 + 36, 4)), (2, LOW_END, 2));
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        let t = page_tables();
        for gpa in [0u64, 0x1234_5678, 0xffff_ffff] {
            let entry = |table: u64, index: u64| le(&t, (table - PAGE_TABLES + 8 * index) as usize, 8);
            let l4 = entry(PAGE_TABLES, gpa >> 39 & 511) & !0xfff;
            let l3 = entry(l4, gpa >> 30 & 511) & !0xfff;
            let l2 = entry(l3, gpa >> 21 & 511);
            assert_eq!(l2 & !0x1f_ffff | gpa & 0x1f_ffff, gpa);
        }
    }
}
