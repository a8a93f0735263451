//! Names of generated code for `perf`: `-accel tcg,perfmap=on` writes `/tmp/perf-PID.map`, `-accel tcg,jitdump=on` writes
//! `jit-PID.dump` into the working directory, for `perf inject --jit`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use tcg_codegen::perf::{JitDump, PerfMap};

use crate::{
    Key,
    backend::{Backend, Code},
};

/// The files that are being written.
#[derive(Default)]
pub(crate) struct Profile {
    map: Option<Mutex<PerfMap>>,
    dump: Option<Mutex<(JitDump<File>, host::Marker)>>,
}

impl Profile {
    /// Creates the files that are asked for.
    pub(crate) fn open(map: bool, dump: bool) -> io::Result<Self> {
        let map = if map { Some(Mutex::new(PerfMap::create(Path::new("/tmp"))?)) } else { None };
        let dump = if dump {
            let path = format!("jit-{}.dump", std::process::id());
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
            let marker = host::Marker::new(&file)?;
            Some(Mutex::new((JitDump::new(file, host::now())?, marker)))
        } else {
            None
        };
        Ok(Self { map, dump })
    }

    /// Names a unit's code. A file that cannot be written any more is no reason to stop a guest.
    pub(crate) fn add(&self, key: Key, backend: &Backend, code: &Code) {
        if self.map.is_none() && self.dump.is_none() {
            return;
        }
        let Some(entry) = backend.entry(code) else { return };
        let name = format!("guest:{:#x}", key.pc);
        if let Some(m) = &self.map {
            let _ = m.lock().add(entry, code.len() as u32, &name);
        }
        if let (Some(d), Some(bytes)) = (&self.dump, backend.bytes(code)) {
            let _ = d.lock().0.add(host::now(), host::thread(), entry, &bytes, &name);
        }
    }
}

#[cfg(target_os = "linux")]
mod host {
    #![expect(unsafe_code, reason = "perf finds a jitdump file by an executable mapping of it")]

    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    const PAGE: usize = 4096;

    /// The mapping by which `perf record` notices the file.
    pub(super) struct Marker(usize);

    impl Marker {
        pub(super) fn new(file: &File) -> io::Result<Self> {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE);
            // SAFETY: a new mapping at an address the kernel chooses; nothing reads or runs it.
            let p = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, file.as_raw_fd(), 0) };
            if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(p as usize)) }
        }
    }

    impl Drop for Marker {
        fn drop(&mut self) {
            // SAFETY: unmaps what `new` mapped.
            unsafe { libc::munmap(self.0 as *mut _, PAGE) };
        }
    }

    /// The monotonic clock, which `perf record -k mono` uses, in nanoseconds.
    pub(super) fn now() -> u64 {
        clock(libc::CLOCK_MONOTONIC)
    }

    fn clock(id: libc::clockid_t) -> u64 {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes the structure it is given.
        unsafe { libc::clock_gettime(id, &raw mut t) };
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }

    /// CPU time of the calling thread in nanoseconds.
    pub(super) fn cpu() -> u64 {
        clock(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    /// CPU time of the process in nanoseconds.
    pub(super) fn process_cpu() -> u64 {
        clock(libc::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// The calling thread as the kernel numbers it.
    pub(super) fn thread() -> u32 {
        // SAFETY: no arguments.
        unsafe { libc::gettid() as u32 }
    }
}

#[cfg(not(target_os = "linux"))]
mod host {
    use std::fs::File;
    use std::io;

    pub(super) struct Marker;

    impl Marker {
        pub(super) fn new(_: &File) -> io::Result<Self> {
            Err(io::Error::new(io::ErrorKind::Unsupported, "perf is for Linux hosts"))
        }
    }

    pub(super) fn now() -> u64 {
        0
    }

    pub(super) fn cpu() -> u64 {
        0
    }

    pub(super) fn process_cpu() -> u64 {
        0
    }

    pub(super) fn thread() -> u32 {
        0
    }
}

/// CPU time of the calling thread in nanoseconds, for statistics; 0 on hosts that do not say.
pub(crate) fn cpu_ns() -> u64 {
    host::cpu()
}

/// CPU time of the process in nanoseconds; 0 on hosts that do not say.
pub(crate) fn process_cpu_ns() -> u64 {
    host::process_cpu()
}
