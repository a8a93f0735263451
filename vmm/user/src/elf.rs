//! ELF headers of executables (System V gABI, "Object files"), little-endian, of 32 and 64 bits, from the first bytes of a file.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// `e_type` of programs.
pub(crate) const EXEC: u16 = 2;
/// `e_type` of position-independent programs.
pub(crate) const DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const HEADER: usize = 64;
/// More program headers than any program has.
const MOST_HEADERS: u16 = 512;

/// A segment to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) vaddr: u64,
    pub(crate) file_size: u64,
    pub(crate) mem_size: u64,
    /// Protection bits as `mmap` has them.
    pub(crate) prot: u32,
}

/// What a program's headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elf {
    pub(crate) machine: u16,
    /// 64-bit.
    pub(crate) wide: bool,
    pub(crate) kind: u16,
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) interp: Option<Vec<u8>>,
    /// Where the program headers are in memory, before the load bias.
    pub(crate) headers: u64,
    pub(crate) header_count: u16,
    pub(crate) exec_stack: bool,
}

/// The kind of a file that is to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ELF for this `e_machine`; the flag: 64-bit little-endian.
    Elf(u16, bool),
    /// A script: interpreter and its one argument.
    Script(Vec<u8>, Option<Vec<u8>>),
    /// Something else.
    Other,
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |x| u16::from_le_bytes([x[0], x[1]]))
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from(u16_at(b, at)) | u32::from(u16_at(b, at + 2)) << 16
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// Reads up to `len` bytes at `offset`.
fn read_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) | Err(_) => break,
            Ok(n) => done += n,
        }
    }
    out.truncate(done);
    out
}

/// What a file is, by its first bytes.
pub(crate) fn kind(file: &File) -> Kind {
    let head = read_at(file, 0, 256);
    if head.starts_with(b"\x7fELF") {
        return Kind::Elf(u16_at(&head, 18), head.get(4) == Some(&2) && head.get(5) == Some(&1));
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        let Some(end) = line.iter().position(|b| *b == b'\n').or((head.len() < 256).then_some(line.len()))
        else {
            return Kind::Other;
        };
        let blank = |b: &u8| *b == b' ' || *b == b'\t';
        let line = line[..end].trim_ascii();
        let split = line.iter().position(blank).unwrap_or(line.len());
        let (interp, rest) = line.split_at(split);
        if interp.is_empty() {
            return Kind::Other;
        }
        let rest = rest.trim_ascii();
        return Kind::Script(interp.to_vec(), (!rest.is_empty()).then(|| rest.to_vec()));
    }
    Kind::Other
}

/// Reads a program's headers.
///
/// # Errors
/// What is wrong with them, to go behind the file's name.
pub(crate) fn parse(file: &File) -> Result<Elf, String> {
    let h = read_at(file, 0, HEADER);
    if h.len() < HEADER || !h.starts_with(b"\x7fELF") {
        return Err("not an ELF file".into());
    }
    if !matches!(h[4], 1 | 2) || h[5] != 1 {
        return Err("not a little-endian ELF file".into());
    }
    let wide = h[4] == 2;
    let kind = u16_at(&h, 16);
    if kind != EXEC && kind != DYN {
        return Err("an ELF file, but not an executable".into());
    }
    let word = |b: &[u8], at: usize| if wide { u64_at(b, at) } else { u64::from(u32_at(b, at)) };
    // Offsets in the header, and in a program header.
    let (at, sizes, expected) = if wide { (32, 54, 56) } else { (28, 42, 32) };
    let (at, size, count) = (word(&h, at), u16_at(&h, sizes), u16_at(&h, sizes + 2));
    if size != expected || count == 0 || count > MOST_HEADERS {
        return Err(format!(
            "{count} program headers of {size} bytes, expected 1 to {MOST_HEADERS} of {expected}"
        ));
    }
    let [p_flags, p_offset, p_vaddr, p_filesz, p_memsz] =
        if wide { [4, 8, 16, 32, 40] } else { [24, 4, 8, 16, 20] };
    let table = read_at(file, at, usize::from(count) * usize::from(size));
    let mut elf = Elf {
        machine: u16_at(&h, 18),
        wide,
        kind,
        entry: word(&h, 24),
        segments: Vec::new(),
        interp: None,
        headers: 0,
        header_count: count,
        exec_stack: false,
    };
    let mut phdr = None;
    for p in table.chunks_exact(usize::from(size)) {
        let (flags, offset, vaddr) = (u32_at(p, p_flags), word(p, p_offset), word(p, p_vaddr));
        let (file_size, mem_size) = (word(p, p_filesz), word(p, p_memsz));
        match u32_at(p, 0) {
            PT_LOAD if mem_size != 0 => {
                let most = if wide { u64::MAX } else { 1 << 32 };
                let fits = mem_size >= file_size
                    && vaddr.checked_add(mem_size).is_some_and(|end| end <= most)
                    && offset.checked_add(file_size).is_some();
                if !fits {
                    return Err(format!("a segment at {vaddr:#x} that ends outside the address space"));
                }
                // PF_X 1, PF_W 2, PF_R 4.
                let prot = flags >> 2 & 1 | flags & 2 | (flags & 1) << 2;
                elf.segments.push(Segment { offset, vaddr, file_size, mem_size, prot });
                if (offset..offset + file_size).contains(&at) {
                    elf.headers = vaddr + (at - offset);
                }
            }
            PT_INTERP => {
                let mut name = read_at(file, offset, file_size.min(4096) as usize);
                if let Some(end) = name.iter().position(|b| *b == 0) {
                    name.truncate(end);
                }
                elf.interp = Some(name);
            }
            PT_PHDR => phdr = Some(vaddr),
            PT_GNU_STACK => elf.exec_stack = flags & 1 != 0,
            _ => {}
        }
    }
    if elf.segments.is_empty() {
        return Err("no segment to load".into());
    }
    elf.headers = phdr.unwrap_or(elf.headers);
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut f = tempfile::tempfile().unwrap();
        f.write_all(bytes).unwrap();
        f
    }

    #[test]
    fn kinds() {
        let k = |b: &[u8]| kind(&file(b));
        assert_eq!(k(b"#!/bin/sh -e x\nfoo"), Kind::Script(b"/bin/sh".into(), Some(b"-e x".into())));
        assert_eq!(k(b"#! /bin/sh"), Kind::Script(b"/bin/sh".into(), None));
        assert_eq!(k(b"#!\n"), Kind::Other);
        assert_eq!(k(b""), Kind::Other);
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(18, 0);
        elf.extend([243, 0]);
        assert_eq!(k(&elf), Kind::Elf(243, true));
    }

    #[test]
    fn bad_headers_are_refused() {
        assert!(parse(&file(b"")).is_err());
        let mut h = vec![0u8; 64];
        h[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(parse(&file(&h)).unwrap_err().contains("not an executable"));
        h[16] = 2;
        assert!(parse(&file(&h)).unwrap_err().contains("program headers"));
        h[32] = 64;
        h[54] = 56;
        h[56] = 1;
        assert!(parse(&file(&h)).unwrap_err().contains("no segment"));
        let mut p = vec![0u8; 56];
        p[0] = 1;
        p[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        p[40] = 9;
        h.extend(p);
        assert!(parse(&file(&h)).unwrap_err().contains("outside"));
    }
}
