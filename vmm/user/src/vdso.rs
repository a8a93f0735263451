//! The object every program finds in its memory (`AT_SYSINFO_EHDR`; vdso(7)): functions that tell the time and the like, and
//! where signal handlers return to. It is made when a program starts, by the architecture's list.
//!
//! Each function is the system call of its name; those are answered by the host's own such object where that can
//! ([`crate::sys`]), so that the host's kernel is not entered.
//!
//! One page: ELF header, program headers, symbols with their strings, hash table and versions (System V gABI, "Dynamic Linking";
//! Linux Standard Base, "Symbol Versioning"), dynamic section, code, section headers.

use crate::abi::Abi;
use crate::mm::PAGE;

/// What is in an architecture's object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vdso {
    /// Version of all its symbols.
    pub(crate) version: &'static str,
    /// Functions: name and code.
    pub(crate) functions: &'static [(&'static str, &'static [u8])],
    /// Symbols in the code where handlers return to: name and offset there.
    pub(crate) returns: &'static [(&'static str, u64)],
}

/// The function whose address is `AT_SYSINFO`.
pub(crate) const ENTRY: &str = "__kernel_vsyscall";

const SONAME: &str = "linux-vdso.so.1";
/// `R` and `X`.
const READ_EXEC: u32 = 5;
const READ: u32 = 4;
/// Symbols are global functions in the section of code.
const GLOBAL_FUNCTION: u8 = 0x12;
const TEXT: u16 = 1;

/// An object, and where in it handlers return to.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sigreturn: u64,
    /// [`ENTRY`].
    pub(crate) entry: Option<u64>,
}

/// The hash function of symbol names.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0, |h: u32, b| {
        let h = (h << 4).wrapping_add(b.into());
        let top = h & 0xf000_0000;
        (h ^ top >> 24) & !top
    })
}

/// Bytes of the object as they come.
struct Out {
    bytes: Vec<u8>,
    wide: bool,
}

impl Out {
    fn at(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn align(&mut self, n: usize) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(n), 0);
        self.at()
    }

    fn half(&mut self, v: u16) {
        self.bytes.extend(v.to_le_bytes());
    }

    fn word(&mut self, v: u32) {
        self.bytes.extend(v.to_le_bytes());
    }

    /// A number of the architecture's width.
    fn long(&mut self, v: u64) {
        if self.wide {
            self.bytes.extend(v.to_le_bytes());
        } else {
            self.word(v as u32);
        }
    }

    fn symbol(&mut self, name: u32, value: u64, size: u64, info: u8, section: u16) {
        self.word(name);
        if self.wide {
            self.bytes.extend([info, 0]);
            self.half(section);
            self.long(value);
            self.long(size);
        } else {
            self.long(value);
            self.long(size);
            self.bytes.extend([info, 0]);
            self.half(section);
        }
    }

    fn program_header(&mut self, kind: u32, flags: u32, at: u64, size: u64, align: u64) {
        self.word(kind);
        if self.wide {
            self.word(flags);
        }
        // Offset and addresses are the same.
        [at, at, at, size, size].iter().for_each(|v| self.long(*v));
        if !self.wide {
            self.word(flags);
        }
        self.long(align);
    }

    fn section(
        &mut self,
        name: u32,
        kind: u32,
        flags: u64,
        place: std::ops::Range<u64>,
        link: u32,
        entry: u64,
    ) {
        self.word(name);
        self.word(kind);
        let size = place.end - place.start;
        [flags, place.start, place.start, size].iter().for_each(|v| self.long(*v));
        self.word(link);
        // Of symbols: the first that is global.
        self.word(u32::from(kind == 11));
        self.long(8);
        self.long(entry);
    }
}

/// Strings one after the other, and where each begins.
fn strings<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<u8>, Vec<u32>) {
    let (mut bytes, mut starts) = (vec![0], Vec::new());
    for n in names {
        starts.push(bytes.len() as u32);
        bytes.extend_from_slice(n.as_bytes());
        bytes.push(0);
    }
    (bytes, starts)
}

/// The object of an architecture.
pub(crate) fn make(abi: &Abi) -> Image {
    let v = &abi.vdso;
    let wide = abi.wide;
    let (header, program, section) = if wide { (64, 56, 64) } else { (52, 32, 40) };
    let mut o = Out { bytes: vec![0; header + 2 * program], wide };
    let names = v.functions.iter().map(|f| f.0).chain(v.returns.iter().map(|r| r.0));
    let (text, starts) = strings(names.clone().chain([SONAME, v.version]));
    let count = starts.len() - 2;
    let [soname, version] = [starts[count], starts[count + 1]];

    // Places of the code are known once everything in front of it has its size.
    let dynstr = o.at();
    o.bytes.extend_from_slice(&text);
    let table = o.align(4);
    // One bucket: all symbols in a row.
    [1, count as u32 + 1, 1].iter().for_each(|w| o.word(*w));
    o.word(0);
    (1..=count as u32).for_each(|i| o.word(if i == count as u32 { 0 } else { i + 1 }));
    let versym = o.align(2);
    o.half(0);
    (0..count).for_each(|_| o.half(2));
    let verdef = o.align(4);
    for (index, base, name, text) in [(1, 1, soname, SONAME), (2, 0, version, v.version)] {
        [1, base, index, 1].iter().for_each(|h| o.half(*h));
        let next = if index == 1 { 28 } else { 0 };
        [hash(text), 20, next, name, 0].iter().for_each(|w| o.word(*w));
    }
    let dynsym = o.align(8);
    let symbol: u64 = if wide { 24 } else { 16 };
    let dynamic = dynsym + symbol * (count as u64 + 1);
    let entries = 10;
    let code = (dynamic + entries * if wide { 16 } else { 8 }).next_multiple_of(16);

    // The code's layout, then symbols that know it.
    let mut at = code + (abi.sigreturn_code.len() as u64).next_multiple_of(16);
    let mut places: Vec<(u64, u64)> = Vec::new();
    for (_, bytes) in v.functions {
        places.push((at, bytes.len() as u64));
        at += (bytes.len() as u64).next_multiple_of(16);
    }
    places.extend(v.returns.iter().map(|(_, offset)| (code + offset, 0)));
    o.symbol(0, 0, 0, 0, 0);
    for (name, (value, size)) in starts.iter().zip(&places) {
        o.symbol(*name, *value, *size, GLOBAL_FUNCTION, TEXT);
    }
    const HASH: u64 = 4;
    const VERSYM: u64 = 0x6fff_fff0;
    let rows = [
        (14, soname.into()),
        (HASH, table),
        (5, dynstr),
        (6, dynsym),
        (10, text.len() as u64),
        (11, symbol),
        (VERSYM, versym),
        (0x6fff_fffc, verdef),
        (0x6fff_fffd, 2),
        (0, 0),
    ];
    for (tag, value) in rows {
        o.long(tag);
        o.long(value);
    }
    o.align(16);
    o.bytes.extend_from_slice(abi.sigreturn_code);
    for (_, bytes) in v.functions {
        o.align(16);
        o.bytes.extend_from_slice(bytes);
    }
    let code_end = o.at();
    let (section_names, s) = strings([".text", ".dynsym", ".dynstr", ".shstrtab"].into_iter());
    let shstr = o.at();
    o.bytes.extend_from_slice(&section_names);
    let sections = o.align(8);
    o.section(0, 0, 0, 0..0, 0, 0);
    o.section(s[0], 1, 6, code..code_end, 0, 0);
    o.section(s[1], 11, 2, dynsym..dynamic, 3, symbol);
    o.section(s[2], 3, 2, dynstr..dynstr + text.len() as u64, 0, 0);
    o.section(s[3], 3, 0, shstr..shstr + section_names.len() as u64, 0, 0);
    let end = o.at();
    debug_assert!(end <= PAGE);

    let mut h = Out { bytes: vec![0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1, 1], wide };
    h.bytes.resize(16, 0);
    h.half(crate::elf::DYN);
    h.half(abi.machine);
    h.word(1);
    [0, header as u64, sections].iter().for_each(|v| h.long(*v));
    h.word(abi.elf_flags);
    [header, program, 2, section, 5, 4].iter().for_each(|v| h.half(*v as u16));
    h.program_header(1, READ_EXEC, 0, end, PAGE);
    h.program_header(2, READ, dynamic, rows.len() as u64 * if wide { 16 } else { 8 }, 8);
    o.bytes[..h.bytes.len()].copy_from_slice(&h.bytes);
    let entry = v.functions.iter().position(|f| f.0 == ENTRY).map(|i| places[i].0);
    Image { bytes: o.bytes, sigreturn: code, entry }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi;

    #[test]
    fn objects_fit_and_are_programs_headers() {
        for abi in abi::ALL {
            let image = make(abi);
            assert!(image.bytes.len() as u64 <= PAGE, "{}", abi.name);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("vdso");
            std::fs::write(&path, &image.bytes).unwrap();
            let elf = crate::elf::parse(&std::fs::File::open(&path).unwrap()).unwrap();
            assert_eq!((elf.machine, elf.wide, elf.kind), (abi.machine, abi.wide, crate::elf::DYN));
            let at = image.sigreturn as usize;
            assert!(image.bytes[at..].starts_with(abi.sigreturn_code));
            // What a linker of the host's says of it, if it is there.
            let Ok(out) =
                std::process::Command::new("readelf").args(["-W", "--dyn-syms"]).arg(&path).output()
            else {
                continue;
            };
            let said =
                String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
            for (name, _) in abi.vdso.functions {
                assert!(said.contains(&format!("{name}@@{}", abi.vdso.version)), "{name} in\n{said}");
            }
            assert!(!said.to_lowercase().contains("warning"), "{said}");
        }
    }

    #[test]
    fn names_have_the_hash_the_standard_says() {
        assert_eq!((hash(""), hash("printf"), hash("LINUX_2.6")), (0, 0x0779_05a6, 0x03ae_75f6));
    }
}
