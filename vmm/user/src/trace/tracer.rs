//! The requests of a tracer, answered from the block of the thread they are about.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use accel::arch::GuestArch;
use accel::arch::x86_64::program;

use super::attach::{attach, interrupt};
use super::debug;
use super::{MAGIC, WORDS, changed, command, event, option, request, word};
use crate::host::{self, Errno, Sys};
use crate::sys::describe;
use crate::thread::Thread;

const ESRCH: Errno = Errno(libc::ESRCH);
const EIO: Errno = Errno(libc::EIO);
const EINVAL: Errno = Errno(libc::EINVAL);

const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;

/// The host's option to be told of `execve`.
pub(super) const HOST_EXEC: u64 = 16;

/// A traced thread as its tracer knows it.
pub(super) struct View {
    /// Address of its block, in its memory.
    at: u64,
    pub(super) words: Box<[u64; WORDS]>,
    /// It stands, and the words are its block's.
    stands: bool,
    /// Its memory may be written to through a file.
    open: bool,
    /// The host has told of its stop, and the program does not know of it yet.
    untold: bool,
}

/// Those a process traces, by number.
#[derive(Default)]
pub(crate) struct Tracees(Mutex<HashMap<i32, View>>);

fn remote(number: i64, pid: i32, ours: u64, theirs: u64, len: u64) -> Result<(), Errno> {
    let (here, there) = ([ours, len], [theirs, len]);
    let args = [pid as u64, here.as_ptr() as u64, 1, there.as_ptr() as u64, 1, 0];
    let n = host::call(number, &args)?;
    if n == len { Ok(()) } else { Err(EIO) }
}

pub(super) fn trace(request: i64, pid: i32, address: u64, data: u64) -> Sys {
    host::call(libc::SYS_ptrace, &[request as u64, pid as u64, address, data])
}

/// Lets a thread go on, for the host.
pub(super) fn go_on(pid: i32, signal: i32) {
    let _ = trace(request::CONT as i64, pid, 0, signal as u64);
}

/// What the host knows of the signal at which a thread stopped.
pub(super) fn info(pid: i32) -> Result<[u8; 128], Errno> {
    let mut info = [0u8; 128];
    trace(request::GETSIGINFO as i64, pid, 0, info.as_mut_ptr() as u64)?;
    Ok(info)
}

/// Has the signal at which a thread stopped look otherwise.
pub(super) fn set_info(pid: i32, info: &[u8; 128]) -> Sys {
    trace(request::SETSIGINFO as i64, pid, 0, info.as_ptr() as u64)
}

impl Tracees {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<i32, View>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of `/proc` is a traced program's own: its auxiliary vector. Its memory is the host's file, but whoever has that
    /// may change code without a request.
    pub(crate) fn file(&self, path: &[u8]) -> Option<Result<Vec<u8>, Errno>> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?;
        let (pid, rest) = path.split_once('/')?;
        let pid = pid.parse().ok()?;
        let mut all = self.lock();
        let view = all.get_mut(&pid)?;
        let words = &view.words;
        match rest.rsplit('/').next()? {
            // The host's addresses are not the program's.
            "mem" if words[word::BASE] != 0 => Some(Err(Errno(libc::EACCES))),
            "mem" => {
                view.open = true;
                None
            }
            "auxv" => Some(view.named(pid, word::AUXV)),
            _ => None,
        }
    }

    /// The program of a traced process, for the path of its link in `/proc`.
    pub(crate) fn exe(&self, path: &[u8]) -> Option<Vec<u8>> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?.strip_suffix("/exe")?;
        let pid = path.split_once('/').map_or(path, |(pid, _)| pid).parse().ok()?;
        self.lock().get(&pid)?.named(pid, word::EXE).ok().filter(|p| !p.is_empty())
    }

    /// A thread has stopped itself, with its block at this address: what `wait` tells of it.
    pub(super) fn stopped(&self, pid: i32, at: u64) -> Option<u32> {
        let mut words = Box::new([0u64; WORDS]);
        remote(libc::SYS_process_vm_readv, pid, words.as_mut_ptr() as u64, at, WORDS as u64 * 8).ok()?;
        if words[0] != MAGIC {
            return None;
        }
        let status = words[word::STATUS] as u32;
        let mut all = self.lock();
        let open = all.get(&pid).is_some_and(|v| v.open);
        all.insert(pid, View { at, words, stands: status != 0, open, untold: false });
        Some(status)
    }

    /// True if a thread has said where its block is.
    pub(super) fn knows(&self, pid: i32) -> bool {
        self.lock().contains_key(&pid)
    }

    /// A stop that was only looked at: that of this thread, or any of those for a number that is none. It is told of once more if
    /// `again`.
    pub(super) fn untold(&self, which: i32, again: bool) -> Option<(i32, u32)> {
        let mut all = self.lock();
        let fits = |pid: &i32| which <= 0 || *pid == which;
        let (pid, view) = all.iter_mut().find(|(pid, v)| fits(pid) && v.untold && v.stands)?;
        view.untold = again;
        Some((*pid, (view.words[word::STATUS] as u32) << 8 | 0x7f))
    }

    /// The stop of a thread was only looked at.
    pub(super) fn tell_again(&self, pid: i32) {
        if let Some(v) = self.lock().get_mut(&pid) {
            v.untold = true;
        }
    }

    /// Lets a thread that only said that it is there go on, with a wish or 0.
    pub(super) fn greet(&self, pid: i32, wish: u64) {
        let mut options = HOST_EXEC;
        if let Some(v) = self.lock().get_mut(&pid) {
            v.words[word::COMMAND] = command::CONT;
            v.words[word::REQUEST] = wish;
            options |= v.words[word::OPTIONS] & option::HOSTS;
            v.write_back(pid);
        }
        let _ = trace(request::SETOPTIONS as i64, pid, 0, options);
        go_on(pid, 0);
    }

    /// Leaves a wish for a thread that runs: a signal with its information, or another one; false if it is not known yet. Whoever
    /// calls this sees to it that the thread looks.
    pub(super) fn wish_for(&self, pid: i32, wish: u64, info: Option<&[u8; 128]>) -> bool {
        let mut all = self.lock();
        let Some(view) = all.get_mut(&pid) else { return false };
        // The block of one that stands is written back as a whole.
        if view.stands {
            view.words[word::REQUEST] = wish;
            return info.is_none();
        }
        let there = |n: usize| view.at + n as u64 * 8;
        let write = |from: u64, to: u64, len| remote(libc::SYS_process_vm_writev, pid, from, to, len).is_ok();
        info.is_none_or(|i| write(i.as_ptr() as u64, there(word::INFO), 128))
            && write((&raw const wish) as u64, there(word::REQUEST), 8)
    }

    /// A thread has ended.
    pub(super) fn forget(&self, pid: i32) {
        self.lock().remove(&pid);
    }
}

impl View {
    fn write_back(&mut self, pid: i32) {
        let (ours, len) = (self.words.as_ptr() as u64, WORDS as u64 * 8);
        let _ = remote(libc::SYS_process_vm_writev, pid, ours, self.at, len);
    }

    /// Bytes of the thread's whose address and length are in two words.
    fn named(&self, pid: i32, word: usize) -> Result<Vec<u8>, Errno> {
        let (at, len) = (self.words[word], self.words[word + 1].min(4096));
        let mut b = vec![0; len as usize];
        if len != 0 {
            remote(libc::SYS_process_vm_readv, pid, b.as_mut_ptr() as u64, at, len)?;
        }
        Ok(b)
    }

    fn bytes(&self, first: usize, len: usize) -> Vec<u8> {
        self.words[first..].iter().flat_map(|w| w.to_le_bytes()).take(len).collect()
    }

    fn set_bytes(&mut self, first: usize, bytes: &[u8]) {
        for (w, b) in self.words[first..].iter_mut().zip(bytes.chunks(8)) {
            let mut all = w.to_le_bytes();
            all[..b.len()].copy_from_slice(b);
            *w = u64::from_le_bytes(all);
        }
    }

    /// Registers as `elf_gregset_t` has them.
    fn registers(&self, wide: bool) -> Vec<u8> {
        let n = self.words[word::REGISTERS] as usize;
        let all = &self.words[word::FIRST_REGISTER..][..n.min(64)];
        if wide { all.iter().flat_map(|w| w.to_le_bytes()).collect() } else { narrow(all) }
    }

    fn set_registers(&mut self, bytes: &[u8], wide: bool) {
        let size = if wide { 8 } else { 4 };
        let n = (self.words[word::REGISTERS] as usize).min(64);
        for (w, b) in self.words[word::FIRST_REGISTER..][..n].iter_mut().zip(bytes.chunks_exact(size)) {
            let mut all = [0; 8];
            all[..size].copy_from_slice(b);
            *w = u64::from_le_bytes(all);
        }
        self.words[word::CHANGED] |= changed::REGISTERS;
    }

    fn floats(&self) -> Vec<u8> {
        self.bytes(word::FIRST_FLOAT, (self.words[word::FLOATS] as usize).min(1024))
    }

    fn set_floats(&mut self, bytes: &[u8]) {
        let most = (self.words[word::FLOATS] as usize).min(1024);
        self.set_bytes(word::FIRST_FLOAT, &bytes[..bytes.len().min(most)]);
        self.words[word::CHANGED] |= changed::FLOATS;
    }

    /// `struct ptrace_syscall_info`.
    fn call_info(&self, audit: u32) -> Vec<u8> {
        let w = &self.words;
        let when = w[word::CALL];
        let mut b = vec![when as u8, 0, 0, 0];
        b.extend(audit.to_le_bytes());
        b.extend(w[word::PC].to_le_bytes());
        b.extend(w[word::SP].to_le_bytes());
        match when {
            1 | 3 => b.extend(w[word::NUMBER..][..7].iter().flat_map(|w| w.to_le_bytes())),
            2 => {
                b.extend(w[word::RESULT].to_le_bytes());
                b.push(w[word::FAILED] as u8);
            }
            _ => {}
        }
        if when == 3 {
            b.extend((w[word::RESULT] as u32).to_le_bytes());
        }
        b
    }

    /// The stop is one of a seized thread that no signal has caused.
    fn is_event_stop(&self) -> bool {
        self.words[word::STATUS] >> 8 == event::STOP
    }
}

fn narrow(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| (*w as u32).to_le_bytes()).collect()
}

/// `ptrace`.
pub(crate) fn ptrace(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let [what, pid, address, data, ..] = *a;
    if what == request::TRACEME {
        return t.trace_me();
    }
    let process = t.process.clone();
    let pid = pid as i32;
    match what {
        request::ATTACH | request::SEIZE => return attach(t, what, pid, address, data),
        request::INTERRUPT => return interrupt(t, pid),
        _ => {}
    }
    let mut all = process.tracees.lock();
    let view = all.get_mut(&pid).filter(|v| v.stands).ok_or(ESRCH)?;
    let (mm, abi) = (&process.mm, process.abi);
    let size = if abi.wide { 8 } else { 4 };
    match what {
        request::PEEKTEXT | request::PEEKDATA => {
            let w = peek(pid, view.words[word::BASE].wrapping_add(address))?;
            mm.write(data, &w.to_le_bytes()[..size])?;
        }
        request::POKETEXT | request::POKEDATA => poke(view, pid, address, data, size)?,
        request::PEEKUSER => {
            if let Some(n) = debug::at(abi, address) {
                let fixed = if n == debug::STATUS { debug::STATUS_FIXED } else { 0 };
                mm.write(data, &(view.words[word::DEBUG + n] | fixed).to_le_bytes()[..size])?;
                return Ok(0);
            }
            let at = address as usize;
            let registers = view.registers(abi.wide);
            // What lies behind the registers is zeros.
            let w = registers.get(at..at.saturating_add(size)).map_or(vec![0; size], <[u8]>::to_vec);
            mm.write(data, &w)?;
        }
        request::POKEUSER => {
            if let Some(n) = debug::at(abi, address) {
                debug::set(&mut view.words[word::DEBUG..][..debug::COUNT], n, data)?;
                return Ok(0);
            }
            let mut registers = view.registers(abi.wide);
            let at = address as usize;
            let Some(place) = registers.get_mut(at..at.saturating_add(size)) else {
                return if data == 0 { Ok(0) } else { Err(EIO) };
            };
            place.copy_from_slice(&data.to_le_bytes()[..size]);
            view.set_registers(&registers, abi.wide);
        }
        request::GETREGS if abi.is_hosts() => mm.write(data, &view.registers(abi.wide))?,
        request::GETFPREGS if abi.is_hosts() => mm.write(data, &view.floats())?,
        request::SETREGS if abi.is_hosts() => {
            let mut b = view.registers(abi.wide);
            mm.read(data, &mut b)?;
            view.set_registers(&b, abi.wide);
        }
        request::SETFPREGS if abi.is_hosts() => {
            let mut b = view.floats();
            mm.read(data, &mut b)?;
            view.set_floats(&b);
        }
        request::GETREGSET | request::SETREGSET => {
            let (at, len) = vector(t, data)?;
            // The kernel counts in registers, even where less of one is used.
            if len % if address == NT_PRFPREG && !abi.is_hosts() { 8 } else { size } != 0 {
                return Err(EINVAL);
            }
            let mut b = match address {
                NT_PRSTATUS => view.registers(abi.wide),
                NT_PRFPREG => view.floats(),
                _ => return Err(EINVAL),
            };
            b.truncate(len);
            if what == request::GETREGSET {
                mm.write(at, &b)?;
            } else {
                mm.read(at, &mut b)?;
                if address == NT_PRSTATUS { view.set_registers(&b, abi.wide) } else { view.set_floats(&b) }
            }
            mm.write(data + size as u64, &(b.len() as u64).to_le_bytes()[..size])?;
        }
        request::GETSIGINFO => {
            if view.words[word::NO_INFO] != 0 {
                return Err(EINVAL);
            }
            let mut b = [0; 128];
            b.copy_from_slice(&view.bytes(word::INFO, 128));
            mm.write(data, &if abi.wide { b } else { crate::sys::info_to_guest(&b) })?;
        }
        request::SETSIGINFO if abi.wide => {
            let mut b = [0; 128];
            mm.read(data, &mut b)?;
            view.set_bytes(word::INFO, &b);
        }
        request::GETEVENTMSG => mm.write(data, &view.words[word::MESSAGE].to_le_bytes()[..size])?,
        request::SETOPTIONS => {
            if data & !option::ALL != 0 {
                return Err(EINVAL);
            }
            trace(request::SETOPTIONS as i64, pid, 0, data & option::HOSTS | HOST_EXEC)?;
            view.words[word::OPTIONS] = data | view.words[word::OPTIONS] & option::SEIZED;
        }
        request::GET_SYSCALL_INFO => {
            let info = view.call_info(abi.audit());
            let n = info.len().min(address as usize);
            mm.write(data, &info[..n])?;
            return Ok(info.len() as u64);
        }
        request::GETSIGMASK | request::SETSIGMASK => {
            if address != 8 {
                return Err(EINVAL);
            }
            if what == request::GETSIGMASK {
                mm.write_u64(data, view.words[word::MASK])?;
            } else {
                view.words[word::MASK] = mm.read_u64(data)?;
                view.words[word::CHANGED] |= changed::MASK;
            }
        }
        request::GET_THREAD_AREA if abi.arch == GuestArch::I386 => {
            let n = address.checked_sub(program::TLS_FIRST.into()).filter(|n| *n < program::TLS_COUNT as u64);
            let n = n.ok_or(EINVAL)?;
            mm.write(data, &describe(address as u32, view.words[word::SEGMENTS + n as usize]))?;
        }
        request::LISTEN if !view.is_event_stop() => return Err(EIO),
        request::CONT | request::SYSCALL | request::SINGLESTEP | request::DETACH | request::LISTEN => {
            view.words[word::COMMAND] = match what {
                request::CONT => command::CONT,
                request::SYSCALL => command::CALLS,
                request::SINGLESTEP => command::STEP,
                request::LISTEN => command::LISTEN,
                _ => command::DETACH,
            };
            view.words[word::SIGNAL] = if what == request::LISTEN { 0 } else { data & 0x7f };
            view.stands = false;
            if view.open {
                view.words[word::CHANGED] |= changed::MEMORY;
                (view.words[word::WRITTEN], view.words[word::WRITTEN + 1]) = (0, u64::MAX);
            }
            view.write_back(pid);
            if what == request::DETACH {
                all.remove(&pid);
                return trace(request::DETACH as i64, pid, 0, 0);
            }
            go_on(pid, 0);
        }
        request::KILL => return host::call(libc::SYS_tkill, &[pid as u64, libc::SIGKILL as u64]),
        _ => return Err(EIO),
    }
    Ok(0)
}

/// An `iovec` of the guest's: address and length.
fn vector(t: &Thread, at: u64) -> Result<(u64, usize), Errno> {
    let mm = &t.process.mm;
    if t.process.abi.wide {
        Ok((mm.read_u64(at)?, mm.read_u64(at + 8)? as usize))
    } else {
        Ok((mm.read_u32(at)?.into(), mm.read_u32(at + 4)? as usize))
    }
}

/// A word of the thread's memory, whatever its protection.
fn peek(pid: i32, at: u64) -> Result<u64, Errno> {
    let mut w = 0u64;
    trace(request::PEEKDATA as i64, pid, at, (&raw mut w) as u64).map_err(|_| EIO)?;
    Ok(w)
}

fn poke(view: &mut View, pid: i32, address: u64, data: u64, size: usize) -> Result<(), Errno> {
    let at = view.words[word::BASE].wrapping_add(address);
    let mut w = data;
    if size == 4 {
        w = peek(pid, at)? & !0xffff_ffff | data & 0xffff_ffff;
    }
    trace(request::POKEDATA as i64, pid, at, w).map_err(|_| EIO)?;
    let end = address.saturating_add(size as u64);
    let w = &mut view.words;
    let (from, to) = if w[word::CHANGED] & changed::MEMORY != 0 {
        (w[word::WRITTEN].min(address), w[word::WRITTEN + 1].max(end))
    } else {
        (address, end)
    };
    w[word::CHANGED] |= changed::MEMORY;
    (w[word::WRITTEN], w[word::WRITTEN + 1]) = (from, to);
    Ok(())
}
