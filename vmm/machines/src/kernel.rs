//! Kernels and firmware as images: ELF by its program headers, everything else as it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use machine::{Image, MachineError};
use object::Endianness;
use object::elf::{FileHeader32, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// Largest file that is taken for an executable.
const MAX_FILE: u64 = 1 << 32;

/// An image ready to be placed.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Pieces and where they go.
    pub(crate) images: Vec<Image>,
    /// Where to start.
    pub(crate) entry: u64,
    /// Memory it wants cleared: start and length.
    pub(crate) blank: Vec<(u64, u64)>,
    /// First address behind it, with what it needs beyond its file.
    pub(crate) end: u64,
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> MachineError + '_ {
    move |source| MachineError::File { path: path.into(), source }
}

/// Length of a file that must exist.
pub(crate) fn file_len(path: &Path) -> Result<u64, MachineError> {
    let meta = std::fs::metadata(path).map_err(file_error(path))?;
    if meta.is_dir() {
        let source = std::io::Error::other("is a directory, expected a file");
        return Err(MachineError::File { path: path.into(), source });
    }
    Ok(meta.len())
}

/// The first bytes of a file, `most` at most.
pub(crate) fn head(path: &Path, most: u64) -> Result<Vec<u8>, MachineError> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(file_error(path))?;
    file.take(most).read_to_end(&mut head).map_err(file_error(path))?;
    Ok(head)
}

fn bad(path: &Path, what: impl Into<String>) -> MachineError {
    MachineError::Board(format!("{}: {}", path.display(), what.into()))
}

fn elf<H: FileHeader<Endian = Endianness>>(
    path: &Path,
    name: &str,
    data: &[u8],
) -> Result<Loaded, MachineError>
where
    H::Word: Into<u64>,
{
    let parse = || -> object::Result<_> {
        let h = H::parse(data)?;
        let e = h.endian()?;
        Ok((h.e_entry(e).into(), e, h.program_headers(e, data)?))
    };
    let (mut entry, e, segments): (u64, _, _) =
        parse().map_err(|e| bad(path, format!("damaged ELF file: {e}")))?;
    let (mut images, mut blank) = (Vec::new(), Vec::new());
    let mut end = 0;
    for s in segments.iter().filter(|s| s.p_type(e) == PT_LOAD) {
        let (pa, va): (u64, u64) = (s.p_paddr(e).into(), s.p_vaddr(e).into());
        let (offset, len, size): (u64, u64, u64) =
            (s.p_offset(e).into(), s.p_filesz(e).into(), s.p_memsz(e).into());
        if offset.checked_add(len).is_none_or(|x| x > data.len() as u64) {
            return Err(bad(path, "damaged ELF file: a segment lies outside the file"));
        }
        if (va..va.saturating_add(size)).contains(&entry) && va != pa {
            entry = entry.wrapping_sub(va).wrapping_add(pa);
        }
        if len > 0 {
            images.push(Image::file(name, pa, path, offset, len));
        }
        if let Some(rest) = size.checked_sub(len).filter(|n| *n > 0) {
            blank.push((pa.saturating_add(len), rest));
        }
        end = end.max(pa.saturating_add(size));
    }
    if images.is_empty() {
        return Err(bad(path, "ELF file without anything to load"));
    }
    Ok(Loaded { images, entry, blank, end })
}

/// Loads an executable: an ELF file where it wants to be, anything else at `gpa`. `extra` is what a flat image of that kind
/// says it needs in memory.
pub(crate) fn load(
    path: &Path,
    name: &str,
    gpa: u64,
    extra: impl FnOnce(&[u8]) -> Option<u64>,
) -> Result<Loaded, MachineError> {
    let len = file_len(path)?;
    if len == 0 || len > MAX_FILE {
        return Err(bad(path, format!("{len} bytes long, expected a kernel or firmware image")));
    }
    let mut f = File::open(path).map_err(file_error(path))?;
    let mut head = vec![0; len.min(64) as usize];
    f.read_exact(&mut head).map_err(file_error(path))?;
    if head.starts_with(b"\x7fELF") {
        let data = std::fs::read(path).map_err(file_error(path))?;
        return match head.get(4) {
            Some(1) => elf::<FileHeader32<Endianness>>(path, name, &data),
            _ => elf::<FileHeader64<Endianness>>(path, name, &data),
        };
    }
    let size = extra(&head).unwrap_or(len).max(len);
    Ok(Loaded {
        images: vec![Image::file(name, gpa, path, 0, len)],
        entry: gpa,
        blank: Vec::new(),
        end: gpa.saturating_add(size),
    })
}
