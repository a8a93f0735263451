//! Core dumps: the file that a program killed by a signal leaves for its debugger, in the form Linux gives it on the program's
//! architecture (System V gABI for ELF; notes after `include/uapi/linux/elfcore.h` and `fs/binfmt_elf.c` of Linux 6.12).
//!
//! Notes of the thread that the signal met: NT_PRSTATUS, NT_SIGINFO, NT_FPREGSET; of the process: NT_PRPSINFO, NT_AUXV, NT_FILE.
//! Registers of its other threads are not there. Memory: everything but file contents that have not been written to, of which the
//! first page is there as debuggers know files by it. The size is limited as the program asked (RLIMIT_CORE).

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::host;
use crate::mm::PAGE;
use crate::proc_files;
use crate::signal::{self, SigInfo};
use crate::thread::Thread;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Signals that dump by default.
const DUMPING: [i32; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// One stretch of memory.
struct Stretch {
    start: u64,
    end: u64,
    /// `PF_R` and its like.
    flags: u32,
    offset: u64,
    /// The file it shows, if it shows one.
    file: Option<String>,
    /// Bytes of it that are in the dump.
    kept: u64,
}

/// The bytes of notes, in the program's width.
struct Bytes {
    b: Vec<u8>,
    wide: bool,
}

impl Bytes {
    fn half(&mut self, v: u64) {
        self.b.extend((v as u16).to_le_bytes());
    }

    fn word(&mut self, v: u64) {
        self.b.extend((v as u32).to_le_bytes());
    }

    fn long(&mut self, v: u64) {
        if self.wide {
            self.b.extend(v.to_le_bytes());
        } else {
            self.word(v);
        }
    }

    /// Cut or filled up to `len` bytes.
    fn text(&mut self, text: &[u8], len: usize) {
        let n = text.len().min(len - 1);
        self.b.extend_from_slice(&text[..n]);
        self.b.resize(self.b.len() + len - n, 0);
    }

    fn align(&mut self, n: usize) {
        self.b.resize(self.b.len().next_multiple_of(n), 0);
    }

    fn note(&mut self, kind: u32, contents: &[u8]) {
        const NAME: &[u8; 8] = b"CORE\0\0\0\0";
        self.word(5);
        self.word(contents.len() as u64);
        self.word(kind.into());
        self.b.extend_from_slice(NAME);
        self.b.extend_from_slice(contents);
        self.align(4);
    }
}

fn id(number: i64) -> u64 {
    host::call(number, &[0]).unwrap_or(0)
}

/// Process, parent, group, session.
fn ids(o: &mut Bytes) {
    for call in [libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpgid, libc::SYS_getsid] {
        o.word(id(call));
    }
}

fn status(t: &mut Thread, signal: i32) -> Vec<u8> {
    let wide = t.process.abi.wide;
    let mut o = Bytes { b: Vec::new(), wide };
    [signal as u64, 0, 0].iter().for_each(|v| o.word(*v));
    o.half(signal as u64);
    o.align(if wide { 8 } else { 4 });
    o.long(0);
    o.long(t.mask);
    ids(&mut o);
    // Times.
    (0..8).for_each(|_| o.long(0));
    let registers = (t.process.abi.core_registers)(&mut *t.cpu);
    registers.iter().for_each(|v| o.long(*v));
    o.word(1);
    o.align(if wide { 8 } else { 4 });
    o.b
}

fn process_info(t: &Thread) -> Vec<u8> {
    let abi = t.process.abi;
    let mut o = Bytes { b: Vec::new(), wide: abi.wide };
    // Running.
    o.b.extend([0, b'R', 0, 0]);
    o.align(if abi.wide { 8 } else { 4 });
    o.long(0);
    let short = !abi.wide && abi.is_hosts();
    for call in [libc::SYS_getuid, libc::SYS_getgid] {
        if short { o.half(id(call)) } else { o.word(id(call)) }
    }
    ids(&mut o);
    let comm = std::fs::read("/proc/self/comm").unwrap_or_default();
    o.text(comm.trim_ascii_end(), 16);
    let arguments: Vec<&[u8]> = t.process.argv.iter().map(|a| a.as_bytes()).collect();
    o.text(&arguments.join(&b' '), 80);
    o.b
}

fn files(stretches: &[Stretch], wide: bool) -> Vec<u8> {
    let shown: Vec<(&Stretch, &String)> =
        stretches.iter().filter_map(|s| s.file.as_ref().map(|f| (s, f))).collect();
    let mut o = Bytes { b: Vec::new(), wide };
    o.long(shown.len() as u64);
    o.long(PAGE);
    for (s, _) in &shown {
        [s.start, s.end, s.offset / PAGE].iter().for_each(|v| o.long(*v));
    }
    for (_, name) in shown {
        o.b.extend_from_slice(name.as_bytes());
        o.b.push(0);
    }
    o.b
}

/// What is mapped, by the text of the program's own `/proc/self/maps`.
fn stretches(t: &Thread) -> Vec<Stretch> {
    let text = proc_files::text(&t.process, b"/proc/self/maps").unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let hex = |s: &str| u64::from_str_radix(s, 16).ok();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let rights = fields.next()?.as_bytes();
        let offset = hex(fields.next()?)?;
        let file = fields.nth(2).map(|_| line.splitn(6, ' ').nth(5).unwrap_or_default().trim().to_owned());
        let file = file.filter(|f| f.starts_with('/'));
        let right = |i: usize, bit: u32| if rights.get(i).is_some_and(|r| *r != b'-') { bit } else { 0 };
        let flags = right(0, 4) | right(1, 2) | right(2, 1);
        let shared = rights.get(3) == Some(&b's');
        let kept = match &file {
            _ if flags & 4 == 0 => 0,
            Some(_) if shared || flags & 2 == 0 => {
                if offset == 0 {
                    PAGE
                } else {
                    0
                }
            }
            _ => end - start,
        };
        Some(Stretch { start, end, flags, offset, file, kept: kept.min(end - start) })
    };
    text.lines().filter_map(parse).collect()
}

/// The name of the file, in the working directory.
fn name(t: &Thread) -> String {
    let program = t.process.exe.rsplit('/').next().unwrap_or_default();
    let seconds = host::clock(libc::CLOCK_REALTIME).map_or(0, |c| c[0]);
    format!("qemu_{program}_{}_{}.core", date(seconds), std::process::id())
}

/// Year, month, day, hour, minute and second of universal time (days to dates after H. Hinnant's "chrono-Compatible Low-Level
/// Date Algorithms").
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400 + 719_468, seconds % 86400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (d, m) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + u64::from(m <= 2);
    format!("{y:04}{m:02}{d:02}-{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Bytes a dump may have.
fn limit() -> u64 {
    let mut limit = [0u64; 2];
    let _ = host::call(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE.into(), 0, limit.as_mut_ptr() as u64]);
    limit[0]
}

/// The signals that leave a dump, as the limit is now.
pub(crate) fn signals() -> u64 {
    if limit() < PAGE { 0 } else { DUMPING.iter().fold(0, |all, s| all | signal::bit(*s)) }
}

/// A file that takes no more than so many bytes.
struct Limited(BufWriter<File>, u64);

impl Limited {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let n = (bytes.len() as u64).min(self.1);
        self.1 -= n;
        self.0.write_all(&bytes[..n as usize])
    }
}

/// Writes a dump if this signal makes one and the program may leave one.
pub(crate) fn write(t: &mut Thread, signal: i32, info: &SigInfo) {
    let limit = limit();
    let dumpable = host::call(libc::SYS_prctl, &[libc::PR_GET_DUMPABLE as u64]) == Ok(1);
    if !DUMPING.contains(&signal) || limit < PAGE || !dumpable {
        return;
    }
    let path = name(t);
    // Never into something that is there already.
    let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) else { return };
    let done = write_to(t, signal, info, &mut Limited(BufWriter::new(file), limit));
    if done.is_ok() {
        t.process.log(&format!("rhea: uncaught signal {signal} - core dumped to {path}\n"));
    } else {
        let _ = std::fs::remove_file(&path);
    }
}

fn write_to(t: &mut Thread, signal: i32, info: &SigInfo, out: &mut Limited) -> io::Result<()> {
    let abi = t.process.abi;
    let wide = abi.wide;
    let stretches = stretches(t);
    let mut notes = Bytes { b: Vec::new(), wide };
    let contents = status(t, signal);
    notes.note(NT_PRSTATUS, &contents);
    notes.note(NT_PRPSINFO, &process_info(t));
    notes.note(NT_SIGINFO, &if wide { info.0 } else { crate::sys::info_to_guest(&info.0) });
    notes.note(NT_AUXV, &t.process.auxv);
    notes.note(NT_FILE, &files(&stretches, wide));
    let floats = (abi.core_floats)(&mut *t.cpu);
    notes.note(NT_FPREGSET, &floats);

    let (header, program) = if wide { (64u64, 56u64) } else { (52, 32) };
    let count = stretches.len() as u64 + 1;
    // More segments than the header can count: what is above is lost.
    let count = count.min(0xfffe);
    let stretches = &stretches[..count as usize - 1];
    let notes_at = header + program * count;
    let first = (notes_at + notes.b.len() as u64).next_multiple_of(PAGE);
    let mut h = Bytes { b: vec![0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1, 1], wide };
    h.b.resize(16, 0);
    h.half(ET_CORE.into());
    h.half(abi.machine.into());
    h.word(1);
    [0, header, 0].iter().for_each(|v| h.long(*v));
    h.word(abi.elf_flags.into());
    [header, program, count, 0, 0, 0].iter().for_each(|v| h.half(*v));
    let segment = |h: &mut Bytes, kind: u32, flags: u32, at: u64, start: u64, sizes: [u64; 2], align: u64| {
        h.word(kind.into());
        if wide {
            h.word(flags.into());
        }
        [at, start, 0, sizes[0], sizes[1]].iter().for_each(|v| h.long(*v));
        if !wide {
            h.word(flags.into());
        }
        h.long(align);
    };
    segment(&mut h, PT_NOTE, 0, notes_at, 0, [notes.b.len() as u64, 0], 4);
    let mut at = first;
    for s in stretches {
        segment(&mut h, PT_LOAD, s.flags, at, s.start, [s.kept, s.end - s.start], PAGE);
        at += s.kept;
    }
    out.put(&h.b)?;
    out.put(&notes.b)?;
    out.put(&vec![0; (first - notes_at) as usize - notes.b.len()])?;
    let mut page = [0; PAGE as usize];
    for s in stretches {
        for at in (s.start..s.start + s.kept).step_by(PAGE as usize) {
            if out.1 == 0 {
                break;
            }
            // What cannot be read, such as what lies behind the end of a file, is zeros.
            if t.process.mm.read(at, &mut page).is_err() {
                page.fill(0);
            }
            out.put(&page)?;
        }
    }
    out.0.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "19700101-000000");
        assert_eq!(date(951_782_400), "20000229-000000");
        assert_eq!(date(1_704_067_199), "20231231-235959");
        assert_eq!(date(4_107_542_400), "21000301-000000");
    }
}
