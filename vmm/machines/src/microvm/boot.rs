//! Direct boot of x86 kernels: bzImage by the 64-bit protocol, or the 32-bit one if it has no other, the rest in flat protected mode ([`crate::direct`]).
//!
//! Linux Documentation/arch/x86/boot.rst and zero-page.rst.

use std::path::Path;

use machine::{Board, Image, MachineError};

use crate::bytes::{le, put};
use crate::direct::{self, Flat, Given, Memory};
use crate::{BoardConfig, kernel};

const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
/// PML4, PDPT and four page directories: 4 GiB of identical addresses.
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line: what Linux takes.
const MAX_COMMAND_LINE: usize = 2047;
/// End of the RAM below 1 MiB that is free for the kernel; the multiprocessor table stands there.
pub(super) const LOW_END: u64 = 0x9_fc00;
const HIGH: u64 = 0x10_0000;

/// Where the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// 64-bit mode, RSI = zero page.
    Long { entry: u64 },
    /// 32-bit mode with the selectors of Linux, ESI = zero page.
    Boot { entry: u64 },
    /// 32-bit mode with these in EAX and EBX.
    Flat { entry: u64, eax: u32, ebx: u32 },
    /// The reset vector.
    Reset,
}

/// What the kernel is told of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// The command line.
    pub(super) append: &'a str,
    pub(super) map: &'a [Memory],
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
    /// It has an entry in 64-bit mode.
    long: bool,
    relocatable: bool,
    preferred: u64,
    init_size: u64,
    initrd_max: u64,
    /// Bytes 0x1f1 to the end of the header.
    setup: Vec<u8>,
}

/// Reads the header at the start of a file; nothing if it is no bzImage.
fn header(path: &Path, head: &[u8]) -> Result<Option<Header>, MachineError> {
    if head.get(0x202..0x206) != Some(b"HdrS".as_slice()) {
        return Ok(None);
    }
    let version = le(head, 0x206, 2);
    if version < 0x20a {
        return Err(bad(path, "this kernel is too old to be started directly (boot protocol 2.10 or later)"));
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
        long: version >= 0x20c && le(head, 0x236, 2) & 1 != 0,
        relocatable: le(head, 0x234, 1) != 0,
        preferred: le(head, 0x258, 8),
        init_size: le(head, 0x260, 4),
        initrd_max: le(head, 0x22c, 4),
        setup: setup.to_vec(),
    }))
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

/// Where a bzImage finds what it is told of: RSI or ESI.
pub(super) const TOLD_LONG: u64 = ZERO_PAGE;
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
    let given = Given { kernel: path, initrd: c.initrd.as_deref(), append, top: low_top };
    let head = kernel::head(path, 4096)?;
    let (start, images) = match header(path, &head)? {
        Some(h) => bzimage(&h, &given, c, told)?,
        None => match direct::read(&given)? {
            Some(kernel) => flat(kernel, told),
            None => return Err(bad(path, "neither a bzImage nor an ELF file nor a Multiboot kernel")),
        },
    };
    // For all modes: null, 32-bit code (8), code of 64 or 32 bits (0x10) or data (0x10), data (0x18).
    let third: u64 = match start {
        Start::Long { .. } => 0x00af_9b00_0000_ffff,
        Start::Boot { .. } => 0x00cf_9b00_0000_ffff,
        _ => 0x00cf_9300_0000_ffff,
    };
    let gdt = [0, 0x00cf_9b00_0000_ffff, third, 0x00cf_9300_0000_ffff];
    b.image(Image::bytes("gdt", GDT, gdt.iter().flat_map(|d| d.to_le_bytes()).collect()));
    for image in images {
        b.image(image);
    }
    Ok(start)
}

/// A kernel in flat mode with its tables.
fn flat(mut kernel: Flat, told: &Told<'_>) -> (Start, Vec<Image>) {
    kernel.info.fill(told.map, told.acpi);
    let mut images = kernel.images();
    images.push(kernel.info.image());
    let start = Start::Flat { entry: kernel.entry.into(), eax: kernel.magic, ebx: kernel.info.address() };
    (start, images)
}

/// A bzImage with its tables.
fn bzimage(
    h: &Header,
    given: &Given<'_>,
    c: &BoardConfig,
    told: &Told<'_>,
) -> Result<(Start, Vec<Image>), MachineError> {
    let (path, low_top) = (given.kernel, given.top);
    let len = kernel::file_len(path)?;
    let no_room = |what: &Path, len: u64| {
        let ram = c.ram >> 20;
        MachineError::Board(format!("{}: {len} bytes do not fit into {ram} MiB of RAM", what.display()))
    };
    let body = len.checked_sub(h.payload).ok_or_else(|| bad(path, "damaged kernel: it is cut off"))?;
    let need = body.max(h.init_size);
    let fits = |at: u64| at >= HIGH && at.checked_add(need).is_some_and(|e| e <= low_top);
    let load = match (fits(h.preferred), h.relocatable) {
        (true, _) => h.preferred,
        (false, true) if fits(HIGH) => HIGH,
        _ => return Err(no_room(path, need)),
    };
    let mut images = vec![Image::file("kernel", load, path, h.payload, body)];
    let mut initrd = None;
    if let Some(p) = &c.initrd {
        let len = kernel::file_len(p)?;
        let top = low_top.min(h.initrd_max + 1);
        let at = top.checked_sub(len).map(|a| a & !0xfff).filter(|a| *a >= load + need);
        let at = at.ok_or_else(|| no_room(p, len))?;
        images.push(Image::file("initrd", at, p, 0, len));
        initrd = Some((at, len));
    }
    images.push(Image::bytes("zero page", ZERO_PAGE, zero_page(h, load, initrd, told)));
    images.push(Image::bytes("page tables", PAGE_TABLES, page_tables()));
    let mut line = given.append.as_bytes().to_vec();
    line.push(0);
    images.push(Image::bytes("command line", COMMAND_LINE, line));
    let start = if h.long { Start::Long { entry: load + 0x200 } } else { Start::Boot { entry: load } };
    Ok((start, images))
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
        assert!(h.long && !header(path, &image(0x20f, 0)).unwrap().unwrap().long);
        let e = header(path, &image(0x209, 0)).unwrap_err().to_string();
        assert!(e.contains("vmlinuz") && e.contains("too old"), "{e}");
        assert!(header(path, &image(0x20f, 1)[..0x220]).is_err());
    }

    #[test]
    fn the_zero_page_holds_what_the_kernel_is_to_know() {
        let h = header(Path::new("k"), &image(0x20f, 1)).unwrap().unwrap();
        let map =
            [Memory { base: 0, size: LOW_END, ram: true }, Memory { base: LOW_END, size: 0x400, ram: false }];
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
