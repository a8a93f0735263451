//! From a path to a program in memory: segments, its dynamic linker, and the stack it starts with (System V gABI,
//! "Process initialization"; auxiliary vector after `fs/binfmt_elf.c` of Linux 6.12).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use crate::abi::Abi;
use crate::elf::{self, Elf, Kind};
use crate::host;
use crate::mm::{Mm, PAGE, prot};
use crate::process::Paths;
use crate::vdso;

/// Most interpreters of interpreters.
const SCRIPT_DEPTH: usize = 5;

/// `AT_SYSINFO` of i386.
const AT_SYSINFO: u64 = 32;

const PRIVATE: i32 = libc::MAP_PRIVATE;
const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Why a program cannot be run; one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{path}: {source}")]
    Open { path: String, source: std::io::Error },
    #[error("{path}: {problem}")]
    Bad { path: String, problem: String },
    #[error("{path}: is for another machine (ELF machine {machine}), this runs {expected} programs")]
    Machine { path: String, machine: u16, expected: &'static str },
    #[error("{path}: its dynamic linker {interp} is missing; give the root of its system with -L DIR")]
    Interp { path: String, interp: String },
    #[error("{path}: cannot map {what}: {source}{}", advice(source))]
    Map { path: String, what: String, source: std::io::Error },
}

/// What may help where memory cannot be mapped.
fn advice(e: &std::io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::EEXIST) => "; something is there already: have the program elsewhere with -B",
        Some(libc::ENOMEM) => "; it is beyond what a program has (-R), or memory is short",
        Some(libc::EPERM) => "; the host keeps the lowest addresses: have the program elsewhere with -B",
        _ => "",
    }
}

/// What to run: resolved through scripts.
pub(crate) struct Program {
    /// Path to open.
    pub(crate) path: String,
    pub(crate) file: File,
    pub(crate) argv: Vec<CString>,
}

/// A program in memory.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) entry: u64,
    pub(crate) sp: u64,
    /// Where a signal handler returns to.
    pub(crate) sigreturn: u64,
    /// The page with [`crate::vdso`].
    pub(crate) vdso: u64,
    pub(crate) auxv: Vec<u8>,
    pub(crate) stack: std::ops::Range<u64>,
    pub(crate) code: std::ops::Range<u64>,
}

/// What goes on the stack.
pub(crate) struct Start<'a> {
    pub(crate) argv: &'a [CString],
    pub(crate) envp: &'a [CString],
    pub(crate) execfn: &'a str,
    pub(crate) hwcap: u64,
    pub(crate) stack_size: u64,
    /// 16 bytes for `AT_RANDOM`.
    pub(crate) random: [u8; 16],
}

fn cstring(s: impl Into<Vec<u8>>) -> CString {
    let mut bytes: Vec<u8> = s.into();
    bytes.retain(|b| *b != 0);
    CString::new(bytes).unwrap_or_default()
}

/// Follows scripts to the program that really runs.
pub(crate) fn resolve(path: &str, argv: Vec<CString>, paths: &Paths) -> Result<Program, LoadError> {
    let mut path = path.to_owned();
    let mut argv = argv;
    for _ in 0..SCRIPT_DEPTH {
        let real = paths.host(&path);
        let file = File::open(&real).map_err(|source| LoadError::Open { path: path.clone(), source })?;
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err(LoadError::Bad { path, problem: "is a directory".into() });
        }
        match elf::kind(&file) {
            Kind::Script(interp, arg) => {
                let mut new = vec![cstring(interp.clone())];
                new.extend(arg.map(cstring));
                new.push(cstring(path.clone()));
                new.extend(argv.into_iter().skip(1));
                argv = new;
                path = String::from_utf8_lossy(&interp).into_owned();
            }
            Kind::Elf(..) => return Ok(Program { path, file, argv }),
            Kind::Other => {
                return Err(LoadError::Bad { path, problem: "neither an ELF program nor a script".into() });
            }
        }
    }
    Err(LoadError::Bad { path, problem: "too many interpreters of interpreters".into() })
}

fn down(n: u64) -> u64 {
    n / PAGE * PAGE
}

fn os(e: host::Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(e.0)
}

/// Maps the segments of `elf`; the load bias.
fn map_elf(mm: &Mm, path: &str, file: &File, elf: &Elf, hint: u64) -> Result<u64, LoadError> {
    let fail = |at: u64, e| LoadError::Map {
        path: path.to_owned(),
        what: format!("the segment at {at:#x}"),
        source: os(e),
    };
    let low = elf.segments.iter().map(|s| down(s.vaddr)).min().unwrap_or(0);
    let high = elf.segments.iter().map(|s| s.vaddr + s.mem_size).max().unwrap_or(0);
    let span = high - low;
    let bias = if elf.kind == elf::DYN {
        let at = mm.mmap(hint, span, 0, ANON | libc::MAP_NORESERVE, -1, 0).map_err(|e| fail(low, e))?;
        at.wrapping_sub(low)
    } else {
        0
    };
    let fixed = if elf.kind == elf::DYN { libc::MAP_FIXED } else { libc::MAP_FIXED_NOREPLACE };
    let mut mapped = 0;
    for s in &elf.segments {
        let vaddr = s.vaddr.wrapping_add(bias);
        let start = down(vaddr);
        let err = |e| fail(s.vaddr, e);
        // Segments of one page overlap it: the later one wins there, as in the kernel.
        let fixed = if start < mapped { libc::MAP_FIXED } else { fixed };
        let file_end = vaddr + s.file_size;
        let end = vaddr + s.mem_size;
        let page_end = file_end.next_multiple_of(PAGE);
        if s.file_size != 0 {
            let head = vaddr - start;
            if s.offset % PAGE != head {
                return Err(LoadError::Bad {
                    path: path.to_owned(),
                    problem: format!("segment at {:#x} is not aligned to its place in the file", s.vaddr),
                });
            }
            let len = s.file_size + head;
            mm.mmap(start, len, s.prot, PRIVATE | fixed, file.as_raw_fd(), s.offset - head).map_err(err)?;
        }
        if end > file_end {
            // The rest of the last page of the file, then pages of zeros.
            if s.file_size != 0 && page_end > file_end && s.prot & prot::WRITE != 0 {
                let zeros = vec![0; (page_end - file_end) as usize];
                mm.write(file_end, &zeros).map_err(err)?;
            }
            let zero = if s.file_size == 0 { start } else { page_end };
            if end > zero {
                mm.mmap(zero, end - zero, s.prot, ANON | fixed, -1, 0).map_err(err)?;
            }
        }
        mapped = end.next_multiple_of(PAGE);
    }
    Ok(bias)
}

/// Loads a program and makes its stack.
pub(crate) fn load(
    mm: &Mm,
    abi: &Abi,
    program: &Program,
    paths: &Paths,
    start: &Start<'_>,
) -> Result<Image, LoadError> {
    let path = &program.path;
    let bad = |problem| LoadError::Bad { path: path.clone(), problem };
    let parse = |path: &str, file: &File| {
        let elf = elf::parse(file).map_err(|problem| LoadError::Bad { path: path.to_owned(), problem })?;
        if !abi.fits(elf.machine, elf.wide) {
            let (path, machine) = (path.to_owned(), elf.machine);
            return Err(LoadError::Machine { path, machine, expected: abi.name });
        }
        Ok(elf)
    };
    let elf = parse(path, &program.file)?;
    let bias = map_elf(mm, path, &program.file, &elf, abi.pie_base)?;
    let end = elf.segments.iter().map(|s| s.vaddr + s.mem_size).max().unwrap_or(0) + bias;
    let code = elf.segments.iter().find(|s| s.prot & prot::EXEC != 0);
    let code = code.map_or(0..0, |s| s.vaddr + bias..s.vaddr + bias + s.mem_size);
    let heap = end.next_multiple_of(PAGE);
    mm.lock().heap = heap..heap;
    let (mut entry, mut interp_base) = (elf.entry.wrapping_add(bias), 0);
    if let Some(name) = &elf.interp {
        let interp = String::from_utf8_lossy(name).into_owned();
        let real = paths.host(&interp);
        let missing = || LoadError::Interp { path: path.clone(), interp: interp.clone() };
        let file = File::open(&real).map_err(|_| missing())?;
        let linker = parse(&interp, &file)?;
        interp_base = map_elf(mm, &interp, &file, &linker, 0)?;
        entry = linker.entry.wrapping_add(interp_base);
    }
    let map = |len, p, what: &str| {
        mm.mmap(0, len, p, ANON | libc::MAP_NORESERVE, -1, 0).map_err(|e| LoadError::Map {
            path: path.clone(),
            what: what.to_owned(),
            source: os(e),
        })
    };
    // A page nobody can write to, then the stack with a page below it that stays free.
    let object = vdso::make(abi);
    let vdso = map(PAGE, prot::READ | prot::WRITE, "the vDSO")?;
    mm.write(vdso, &object.bytes).map_err(|e| bad(os(e).to_string()))?;
    mm.mprotect(vdso, PAGE, prot::READ | prot::EXEC).map_err(|e| bad(os(e).to_string()))?;
    let size = start.stack_size.next_multiple_of(PAGE).max(16 * PAGE);
    let exec = if elf.exec_stack { prot::EXEC } else { 0 };
    let bottom = map(size + PAGE, prot::READ | prot::WRITE | exec, "the stack")?;
    mm.mprotect(bottom, PAGE, 0).map_err(|e| bad(os(e).to_string()))?;
    let stack = bottom + PAGE..bottom + PAGE + size;
    let mut aux = vec![
        (libc::AT_PHDR, elf.headers.wrapping_add(bias)),
        (libc::AT_PHENT, if abi.wide { 56 } else { 32 }),
        (libc::AT_PHNUM, elf.header_count.into()),
        (libc::AT_PAGESZ, PAGE),
        (libc::AT_BASE, interp_base),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, elf.entry.wrapping_add(bias)),
        (libc::AT_HWCAP, start.hwcap),
        (libc::AT_CLKTCK, 100),
        (libc::AT_SYSINFO_EHDR, vdso),
    ];
    aux.extend(object.entry.map(|at| (AT_SYSINFO, vdso + at)));
    let (sp, auxv) = make_stack(mm, abi, &stack, start, &aux)
        .ok_or_else(|| bad("arguments and environment do not fit on the stack; see -s".into()))?;
    let sigreturn = vdso + object.sigreturn;
    Ok(Image { entry, sp, sigreturn, vdso, auxv, stack, code })
}

/// Strings at the top, then `argc`, `argv`, `envp` and the auxiliary vector at the stack pointer.
fn make_stack(
    mm: &Mm,
    abi: &Abi,
    stack: &std::ops::Range<u64>,
    start: &Start<'_>,
    aux: &[(u64, u64)],
) -> Option<(u64, Vec<u8>)> {
    let mut at = stack.end - 16;
    let mut push = |bytes: &[u8]| {
        at = at.checked_sub(bytes.len() as u64).filter(|a| *a > stack.start + 4 * PAGE)?;
        mm.write(at, bytes).ok()?;
        Some(at)
    };
    let execfn = push(cstring(start.execfn).as_bytes_with_nul())?;
    let envp: Option<Vec<u64>> = start.envp.iter().rev().map(|s| push(s.as_bytes_with_nul())).collect();
    let argv: Option<Vec<u64>> = start.argv.iter().rev().map(|s| push(s.as_bytes_with_nul())).collect();
    let platform =
        if abi.platform { Some(push(cstring(abi.machine_name).as_bytes_with_nul())?) } else { None };
    let random = push(&start.random)?;
    let (envp, argv) = (envp?, argv?);
    let id = |n| host::call(n, &[]).unwrap_or(0);
    let (uid, euid) = (id(libc::SYS_getuid), id(libc::SYS_geteuid));
    let (gid, egid) = (id(libc::SYS_getgid), id(libc::SYS_getegid));
    let secure = u64::from(uid != euid || gid != egid);
    let mut auxv: Vec<(u64, u64)> = aux.to_vec();
    auxv.extend([
        (libc::AT_UID, uid),
        (libc::AT_EUID, euid),
        (libc::AT_GID, gid),
        (libc::AT_EGID, egid),
        (libc::AT_SECURE, secure),
        (libc::AT_RANDOM, random),
        (libc::AT_EXECFN, execfn),
    ]);
    auxv.extend(platform.map(|p| (libc::AT_PLATFORM, p)));
    auxv.extend(abi.hwcap2.map(|h| (libc::AT_HWCAP2, h)));
    auxv.extend(abi.signal_stack.map(|s| (libc::AT_MINSIGSTKSZ, s)));
    auxv.push((libc::AT_NULL, 0));
    let width = if abi.wide { 8 } else { 4 };
    let bytes = |w: &u64| w.to_le_bytes()[..width].to_vec();
    let auxv: Vec<u8> = auxv.iter().flat_map(|(k, v)| [bytes(k), bytes(v)].concat()).collect();
    let mut words: Vec<u64> = vec![argv.len() as u64];
    words.extend(argv.iter().rev());
    words.push(0);
    words.extend(envp.iter().rev());
    words.push(0);
    let mut block: Vec<u8> = words.iter().flat_map(bytes).collect();
    block.extend_from_slice(&auxv);
    let sp = at.checked_sub(block.len() as u64)? & !15;
    if sp < stack.start + PAGE {
        return None;
    }
    mm.write(sp, &block).ok()?;
    Some((sp, auxv))
}
