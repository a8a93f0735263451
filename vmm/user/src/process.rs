//! A guest process: what its threads share.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcg_engine::user::UserMachine;

use crate::abi::Abi;
use crate::cache::Store;
use crate::gdb::Debugger;
use crate::host;
use crate::mm::Mm;
use crate::options::Options;
use crate::signal::Action;
use crate::sys::Table;
use crate::trace::Tracees;

/// How guest paths become host paths: absolute ones are looked for below the sysroot first, but for those of what only the kernel
/// at work can show, where a sysroot has empty directories.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    sysroot: Option<String>,
}

impl Paths {
    /// With a sysroot (`-L`); the root itself and what does not exist are none.
    pub(crate) fn new(sysroot: Option<&str>) -> Self {
        let root = sysroot.map(|s| s.trim_end_matches('/').to_owned()).filter(|s| !s.is_empty());
        Self { sysroot: root.filter(|s| std::path::Path::new(s).is_dir()) }
    }

    /// True if paths may change at all.
    pub(crate) fn any(&self) -> bool {
        self.sysroot.is_some()
    }

    /// The host path of a guest path.
    pub(crate) fn host(&self, path: &str) -> String {
        match String::from_utf8(self.host_bytes(path.as_bytes())) {
            Ok(p) => p,
            Err(_) => path.to_owned(),
        }
    }

    /// The same for any bytes.
    pub(crate) fn host_bytes(&self, path: &[u8]) -> Vec<u8> {
        const KERNELS: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];
        let below = |k: &&[u8]| path.strip_prefix(*k).is_some_and(|r| matches!(r.first(), None | Some(b'/')));
        if let Some(root) = &self.sysroot
            && path.first() == Some(&b'/')
            && path.len() > 1
            && !KERNELS.iter().any(below)
        {
            let mut full = root.clone().into_bytes();
            full.extend_from_slice(path);
            if let Ok(c) = CString::new(full) {
                let here = libc::AT_FDCWD as u64;
                // The entry itself counts, not what it leads to: links of the sysroot mean the sysroot.
                let flags = libc::AT_SYMLINK_NOFOLLOW as u64;
                if host::call(libc::SYS_faccessat2, &[here, host::arg(&c), 0, flags]).is_ok() {
                    return c.into_bytes();
                }
            }
        }
        path.to_vec()
    }
}

/// Shared by the threads of one process.
pub(crate) struct Process {
    pub(crate) abi: &'static Abi,
    pub(crate) mm: Arc<Mm>,
    pub(crate) machine: Arc<dyn UserMachine>,
    pub(crate) paths: Paths,
    pub(crate) options: Options,
    pub(crate) calls: Arc<Table>,
    actions: Mutex<[Action; 65]>,
    /// Threads by id.
    pub(crate) threads: Mutex<BTreeSet<i32>>,
    /// The guest's path of the program.
    pub(crate) exe: String,
    pub(crate) argv: Vec<CString>,
    pub(crate) auxv: Vec<u8>,
    pub(crate) sigreturn: u64,
    pub(crate) vdso: u64,
    pub(crate) stack: std::ops::Range<u64>,
    pub(crate) code: std::ops::Range<u64>,
    /// Rhea's own executable, open, for the programs this one executes.
    pub(crate) rhea: AtomicI32,
    /// Where its translations are kept; not those of a child in its memory.
    pub(crate) store: Option<Store>,
    /// It is a child in its parent's memory.
    borrowed: bool,
    /// Who debugs it.
    pub(crate) debugger: Option<Arc<Debugger>>,
    /// Those it traces.
    pub(crate) tracees: Tracees,
    /// Group stops and their ends, counted, above the signal of the last.
    pub(crate) group: AtomicU64,
    /// Its personality, as `personality` tells it.
    pub(crate) personality: AtomicU32,
    /// Bits of system call numbers already said to be missing.
    missing: [AtomicU64; 16],
}

/// What a process is made from.
pub(crate) struct Parts {
    pub(crate) abi: &'static Abi,
    pub(crate) mm: Arc<Mm>,
    pub(crate) machine: Arc<dyn UserMachine>,
    pub(crate) paths: Paths,
    pub(crate) options: Options,
    pub(crate) exe: String,
    pub(crate) argv: Vec<CString>,
    pub(crate) image: crate::load::Image,
    pub(crate) rhea: i32,
    pub(crate) store: Option<Store>,
    pub(crate) debugger: Option<Arc<Debugger>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    pub(crate) fn new(p: Parts) -> Arc<Self> {
        let personality = p
            .options
            .personality
            .unwrap_or_else(|| host::call(libc::SYS_personality, &[u32::MAX.into()]).unwrap_or(0) as u32);
        Arc::new(Self {
            abi: p.abi,
            mm: p.mm,
            machine: p.machine,
            paths: p.paths,
            options: p.options,
            calls: Arc::new(Table::new(p.abi)),
            actions: Mutex::new([Action::default(); 65]),
            threads: Mutex::default(),
            exe: p.exe,
            argv: p.argv,
            auxv: p.image.auxv,
            sigreturn: p.image.sigreturn,
            vdso: p.image.vdso,
            stack: p.image.stack,
            code: p.image.code,
            rhea: AtomicI32::new(p.rhea),
            store: p.store,
            borrowed: false,
            debugger: p.debugger,
            tracees: Tracees::default(),
            group: AtomicU64::new(0),
            personality: AtomicU32::new(personality),
            missing: [const { AtomicU64::new(0) }; 16],
        })
    }

    /// A process of its own in the same memory, for a child of `vfork`.
    pub(crate) fn for_child(&self) -> Arc<Self> {
        Arc::new(Self {
            abi: self.abi,
            mm: self.mm.clone(),
            machine: self.machine.clone(),
            paths: self.paths.clone(),
            options: self.options.clone(),
            calls: self.calls.clone(),
            actions: Mutex::new(*self.actions()),
            threads: Mutex::default(),
            exe: self.exe.clone(),
            argv: self.argv.clone(),
            auxv: self.auxv.clone(),
            sigreturn: self.sigreturn,
            vdso: self.vdso,
            stack: self.stack.clone(),
            code: self.code.clone(),
            rhea: AtomicI32::new(self.rhea.load(Ordering::Relaxed)),
            store: None,
            borrowed: true,
            debugger: None,
            tracees: Tracees::default(),
            group: AtomicU64::new(0),
            personality: AtomicU32::new(self.personality.load(Ordering::Relaxed)),
            missing: [const { AtomicU64::new(0) }; 16],
        })
    }

    /// What the guest does with each signal.
    pub(crate) fn actions(&self) -> MutexGuard<'_, [Action; 65]> {
        lock(&self.actions)
    }

    /// The threads.
    pub(crate) fn threads(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        lock(&self.threads)
    }

    /// Says once that a system call is missing.
    pub(crate) fn say_missing(&self, number: u64, name: Option<&str>) {
        let Some(word) = self.missing.get(number as usize / 64) else { return };
        let bit = 1 << (number % 64);
        if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let name = name.unwrap_or("unknown");
            self.log(&format!("system call {number} ({name}) is not implemented\n"));
        }
    }

    /// What is printed when the process ends.
    pub(crate) fn at_end(&self) {
        self.end_plugins();
        if self.options.items.contains(accel::LogItems::STATS) {
            self.log(&self.machine.stats());
        }
        self.keep_translations();
    }

    /// Tells plugins that the process ends, or becomes another program; not for a child in its parent's memory, whose work
    /// they count as the parent's.
    pub(crate) fn end_plugins(&self) {
        if !self.borrowed {
            self.machine.at_end();
        }
    }

    /// True for a child in its parent's memory.
    pub(crate) fn is_borrowed(&self) -> bool {
        self.borrowed
    }

    /// Writes translations for the next run: the process ends, or becomes another program.
    pub(crate) fn keep_translations(&self) {
        if let Some(store) = &self.store {
            store.save();
        }
    }

    /// Writes to the log.
    pub(crate) fn log(&self, text: &str) {
        self.options.log(text);
    }

    /// Forks; 0 in the child, whose only thread is the caller's.
    pub(crate) fn fork(&self) -> i64 {
        // Nobody else may hold what the child will need. The order is that of `mm`'s rule.
        let threads = self.threads();
        let actions = self.actions();
        let pid = self.machine.fork(&mut || {
            let map = self.mm.lock();
            let pid = host::fork();
            drop(map);
            pid
        });
        drop(actions);
        let mut threads = threads;
        if pid == 0 {
            threads.clear();
            threads.insert(host::gettid());
        }
        pid
    }
}
