//! Kernels that start in flat 32-bit protected mode: Multiboot 1 and 2, and ELF files with a PVH entry.
//!
//! A [`Flat`] is such a kernel with its modules, all placed, and an [`Info`], the tables it is given. A board that knows where
//! its RAM is fills in what is left blank of these; one with firmware leaves that to its boot ROM, which asks the firmware.

mod info;
mod multiboot;
mod multiboot2;
mod pvh;

use std::path::{Path, PathBuf};

use machine::{Image, MachineError};

pub(crate) use self::info::{HEAD, INFO, Info, Memory};
use crate::kernel;

/// Kernels are placed from here on, or below where the tables are.
const HIGH: u64 = 0x10_0000;
/// Space below 1 MiB that nobody else uses while a kernel is started, beyond the tables.
const LOW: std::ops::Range<u64> = INFO.end..0x8_0000;
/// Most modules: what firmware's list of items has place for, by far.
const MAX_MODULES: usize = 64;
const PAGE: u64 = 4096;

/// Part of a file and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) gpa: u64,
}

/// A kernel to start in flat protected mode.
#[derive(Debug)]
pub(crate) struct Flat {
    /// The kernel itself.
    pub(crate) kernel: Vec<Piece>,
    /// Memory it wants cleared: start and length.
    pub(crate) blank: Vec<(u64, u64)>,
    /// Files given with it, whole.
    pub(crate) modules: Vec<Piece>,
    pub(crate) entry: u32,
    /// What EAX says.
    pub(crate) magic: u32,
    /// What EBX leads to.
    pub(crate) info: Info,
}

impl Flat {
    /// All of it but the tables, as images.
    pub(crate) fn images(&self) -> Vec<Image> {
        let file = |name: &str, p: &Piece| Image::file(name, p.gpa, p.path.clone(), p.offset, p.len);
        let mut images: Vec<_> =
            self.blank.iter().map(|(at, len)| Image::zero("kernel", *at, *len)).collect();
        images.extend(self.kernel.iter().map(|p| file("kernel", p)));
        images.extend(self.modules.iter().map(|p| file("module", p)));
        images
    }
}

/// What the user gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) kernel: &'a Path,
    /// A file, or for Multiboot a list of files with words for each.
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) append: &'a str,
    /// End of the RAM below 4 GiB that may be used.
    pub(crate) top: u64,
}

impl Given<'_> {
    fn bad(&self, what: impl std::fmt::Display) -> MachineError {
        MachineError::Board(format!("{}: {what}", self.kernel.display()))
    }

    fn no_room(&self, what: &Path, len: u64) -> MachineError {
        let top = self.top >> 20;
        MachineError::Board(format!("{}: {len} bytes do not fit into {top} MiB of RAM", what.display()))
    }
}

/// A kernel's parts before its modules have their places.
#[derive(Debug, Default)]
struct Parts {
    kernel: Vec<Piece>,
    blank: Vec<(u64, u64)>,
    entry: u32,
    end: u64,
}

impl Parts {
    /// The parts of an ELF file.
    fn elf(given: &Given<'_>) -> Result<Self, MachineError> {
        let loaded = kernel::load(given.kernel, "kernel", HIGH, |_| None)?;
        let piece = |image: Image| match image.source {
            machine::Source::File { path, offset, len } => Some(Piece { path, offset, len, gpa: image.gpa }),
            _ => None,
        };
        let kernel = loaded.images.into_iter().filter_map(piece).collect();
        let entry = u32::try_from(loaded.entry).map_err(|_| given.bad("it starts beyond 4 GiB"))?;
        Ok(Parts { kernel, blank: loaded.blank, entry, end: loaded.end })
    }

    /// Refuses what lies where there is no room.
    fn check(&self, given: &Given<'_>) -> Result<(), MachineError> {
        let ranges = self.kernel.iter().map(|p| (p.gpa, p.len)).chain(self.blank.iter().copied());
        for (at, len) in ranges {
            let end =
                at.checked_add(len).ok_or_else(|| given.bad("a segment goes beyond the end of memory"))?;
            if end > given.top {
                return Err(given.no_room(given.kernel, end));
            }
            if at < HIGH && !(at >= LOW.start && end <= LOW.end) {
                return Err(given.bad(format!(
                    "a segment lies at {at:#x}; expected it from {HIGH:#x} on, or within {:#x} to {:#x}",
                    LOW.start, LOW.end
                )));
            }
        }
        Ok(())
    }
}

/// A module: its file, where it is, and its words.
#[derive(Debug)]
struct Module {
    piece: Piece,
    words: String,
}

/// The list of modules in `-initrd`, `FILE words,FILE words`, a comma doubled where a name has one; each on pages of its own
/// from `end` on.
fn modules(given: &Given<'_>, mut end: u64) -> Result<Vec<Module>, MachineError> {
    let Some(list) = given.initrd else { return Ok(Vec::new()) };
    let Some(list) = list.to_str() else {
        return Err(MachineError::Board(format!("-initrd {}: expected a list in UTF-8", list.display())));
    };
    let mut all = Vec::new();
    for item in list.replace(",,", "\0").split(',') {
        let words = item.replace('\0', ",").trim_start().to_owned();
        let path = PathBuf::from(words.split(' ').next().unwrap_or_default());
        if path.as_os_str().is_empty() {
            return Err(MachineError::Board(format!("-initrd {list}: expected FILE WORDS,FILE WORDS")));
        }
        let len = kernel::file_len(&path)?;
        let gpa = end.next_multiple_of(PAGE);
        end = gpa + len;
        if end > given.top {
            return Err(given.no_room(&path, len));
        }
        all.push(Module { piece: Piece { path, offset: 0, len, gpa }, words });
    }
    if all.len() > MAX_MODULES {
        return Err(MachineError::Board(format!(
            "-initrd: {} modules; there can be {MAX_MODULES}",
            all.len()
        )));
    }
    Ok(all)
}

/// Reads a kernel of one of these kinds; nothing if it is none. An ELF file that is none is refused.
pub(crate) fn read(given: &Given<'_>) -> Result<Option<Flat>, MachineError> {
    if given.append.contains('\0') {
        return Err(MachineError::Board("-append: expected a line without a NUL".into()));
    }
    let head = kernel::head(given.kernel, multiboot2::SEARCHED)?;
    if let Some(flat) = multiboot::read(given, &head)? {
        return Ok(Some(flat));
    }
    if let Some(flat) = multiboot2::read(given, &head)? {
        return Ok(Some(flat));
    }
    if head.starts_with(b"\x7fELF") { pvh::read(given).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests;
