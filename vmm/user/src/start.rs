//! From a command line to a running program.

use std::ffi::CString;
use std::os::fd::IntoRawFd as _;
use std::path::Path;
use std::sync::Arc;

use tcg_engine::user::UserOptions;
use tcg_plugin::{PluginError, Plugins};

use crate::abi::{self, Abi};
use crate::load::{self, Start};
use crate::mm::{Mm, PAGE};
use crate::options::{self, Invocation, Options};
use crate::process::{Parts, Paths, Process};
use crate::sys::Filter;
use crate::thread::Thread;
use crate::{Guest, dump, elf, gdb, host, signal};

pub use crate::binfmt::binfmt;

/// Runs a program; `arch` is known if the command's name tells it. Returns only if it could not be started or has ended in an
/// ordinary way, with its code.
pub fn run(name: &str, args: &[String], arch: Option<&str>, guests: &[Guest]) -> u8 {
    match try_run(name, args, arch, guests) {
        Ok(code) => code as u8,
        Err(e) => {
            eprintln!("{name}: {e}");
            // As shells have it for what cannot be executed.
            if e.contains("No such file") { 127 } else { 126 }
        }
    }
}

/// Runs the program for which the kernel started Rhea (`rhea binfmt install`): its path, the name it was called by, its arguments.
/// `None` if that is not how Rhea was started.
pub fn started_by_kernel(args: &[String], guests: &[Guest]) -> Option<u8> {
    if !host::started_by_binfmt() {
        return None;
    }
    let [path, argv0, rest @ ..] = args else { return None };
    let mut all = vec!["-0".to_owned(), argv0.clone(), "--".to_owned(), path.clone()];
    all.extend_from_slice(rest);
    Some(run("rhea", &all, None, guests))
}

fn try_run(name: &str, args: &[String], arch: Option<&str>, guests: &[Guest]) -> Result<i32, String> {
    if std::env::var_os("QEMU_VERSION").is_some() {
        println!("{name} (Rhea) {}", env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    let mut o = match options::parse(args, |n| std::env::var(n).ok())? {
        Invocation::Run(o) => *o,
        Invocation::Help => {
            print!("{}", options::help(name));
            return Ok(0);
        }
        Invocation::Version => {
            println!("{name} (Rhea) {}", env!("CARGO_PKG_VERSION"));
            return Ok(0);
        }
        Invocation::Items => {
            print!("{}", options::items());
            return Ok(0);
        }
        Invocation::Models(named) => {
            let guest = find(guests, arch.or(named.as_deref()).unwrap_or(abi::ALL[0].name))?;
            for (name, about) in (guest.models)(guest.arch) {
                println!("{name:16} {about}");
            }
            return Ok(0);
        }
    };
    let arch = match (arch, o.arch.as_deref()) {
        (Some(a), Some(b)) if a != b => return Err(format!("-arch {b}: {name} runs programs of {a}")),
        (a, b) => a.or(b).map(str::to_owned),
    };
    // What came before is most of what starting needs of memory.
    host::forget_own_pages();
    o.open_log()?;
    let filters = match o.filters {
        // Without them the program could do what it must not.
        Some(fd) => Some(Filter::take_over(fd).ok_or("-filters: not a descriptor with filters")?),
        None => None,
    };
    let paths = Paths::new(o.sysroot.as_deref());
    let argv0 = o.argv0.clone().unwrap_or_else(|| o.program.clone());
    let argv: Vec<CString> =
        std::iter::once(&argv0).chain(&o.args).filter_map(|a| CString::new(a.as_str()).ok()).collect();
    let program = load::resolve(&o.program, argv, &paths).map_err(|e| e.to_string())?;
    let guest = match arch.as_deref() {
        Some(a) => find(guests, a)?,
        None => by_file(guests, &program)?,
    };
    let Some(abi) = abi::of(guest.arch) else { return Err(format!("{} has no user mode", guest.arch)) };
    let limit = o.reserved.map_or(abi.limit, |r| r.min(abi.limit));
    let base = if o.base == 0 && !abi.wide { window(limit)? } else { o.base };
    let mm = Arc::new(Mm::new(base, abi.top.min(limit - PAGE), limit));
    if base == o.base {
        reserve(&o, limit)?;
    }
    let exe = std::fs::canonicalize(&program.path).or_else(|_| std::path::absolute(&program.path));
    let exe = exe.map_or_else(|_| program.path.clone(), |p| p.to_string_lossy().into_owned());
    let store = o.store(&exe, abi.name)?;
    let kept = store.as_ref().map(|s| s.kept.clone());
    let (log, text) = (o.clone(), |e: PluginError| e.to_string());
    let output = move |text: &str| log.log(text);
    let plugins = Plugins::load(&o.plugins, abi.name, false, Arc::new(output)).map_err(text)?;
    let engine = UserOptions {
        interp: o.interp,
        code_size: o.code_size,
        perfmap: o.perfmap,
        jitdump: o.jitdump,
        hot: o.hot,
        kept,
        plugins,
    };
    let machine =
        (guest.make)(guest.arch, &o.cpu, mm.clone(), &engine, o.sink()).map_err(|e| e.to_string())?;
    mm.set_machine(machine.clone());
    // A client may take its time; the program's first instruction waits for it.
    let debugged = o.gdb.as_deref().map(gdb::wait).transpose()?;
    signal::catch(if debugged.is_some() || o.traced.is_some() { u64::MAX } else { dump::signals() });
    // From here on faults are the guest's.
    let actions = signal::inherited();
    let envp = environment(&o);
    let start = Start {
        argv: &program.argv,
        envp: &envp,
        execfn: &o.program,
        hwcap: machine.hwcap(),
        stack_size: o.stack_size,
        random: random(o.seed),
    };
    let image = load::load(&mm, abi, &program, &paths, &start).map_err(|e| e.to_string())?;
    let base = Path::new(&o.program).file_name().map(|n| n.to_string_lossy().into_owned());
    if let Ok(comm) = CString::new(base.unwrap_or_default()) {
        let _ = host::call(libc::SYS_prctl, &[libc::PR_SET_NAME as u64, host::arg(&comm)]);
    }
    let mut cpu = machine.new_cpu();
    cpu.set_pc(image.entry);
    cpu.set_reg(abi.sp, image.sp);
    let argv = program.argv;
    drop(program.file);
    let (debugger, client) = debugged.unzip();
    let parts =
        Parts { abi, mm, machine, paths, options: o, exe, argv, image, rhea: own_file(), store, debugger };
    let process = Process::new(parts);
    *process.actions() = actions;
    let mask = host::get_mask();
    if let Some(client) = client {
        client.begin(process.clone()).map_err(|e| format!("-g: {e}"))?;
    }
    let mut thread = Thread::new(process.clone(), cpu, mask, true);
    thread.filters = filters;
    host::forget_own_pages();
    Ok(thread.run())
}

fn find<'a>(guests: &'a [Guest], arch: &str) -> Result<&'a Guest, String> {
    let known = |g: &&Guest| abi::of(g.arch).is_some_and(|a| a.name == arch);
    guests.iter().find(known).ok_or_else(|| {
        let names: Vec<_> = abi::ALL.iter().map(|a| a.name).collect();
        format!("no user mode for architecture '{arch}', expected one of {}", names.join(", "))
    })
}

/// The guest a program is for, by its header.
fn by_file<'a>(guests: &'a [Guest], p: &load::Program) -> Result<&'a Guest, String> {
    let kind = elf::kind(&p.file);
    let elf::Kind::Elf(machine, _) = kind else {
        return Err(format!("{}: not an ELF program", p.path));
    };
    let abi = Abi::of_file(&kind).ok_or_else(|| {
        let names: Vec<_> = abi::ALL.iter().map(|a| a.name).collect();
        format!("{}: ELF machine {machine} is none of {}", p.path, names.join(", "))
    })?;
    find(guests, abi.name)
}

/// The base of a 32-bit program: 0 if nothing of Rhea's is in the low 4 GiB, else that of a window of its own, with room
/// behind it where accesses across its end fault.
fn window(limit: u64) -> Result<u64, String> {
    const BEHIND: u64 = 1 << 20;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let start = |line: &str| line.split('-').next().and_then(|s| u64::from_str_radix(s, 16).ok());
    if maps.lines().next().and_then(start).is_some_and(|first| first >= 1 << 32) {
        return Ok(0);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let args = [0, limit.next_multiple_of(1 << 32) + BEHIND, 0, flags as u64, u64::MAX, 0];
    host::call(libc::SYS_mmap, &args).map_err(|e| {
        format!("cannot reserve 4 GiB for the program ({})", std::io::Error::from_raw_os_error(e.0))
    })
}

/// With a base, the guest's whole space is taken at once, so that nothing of Rhea's comes into it.
fn reserve(o: &Options, limit: u64) -> Result<(), String> {
    if o.base == 0 {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let args = [o.base, limit, 0, flags as u64, u64::MAX, 0];
    host::call(libc::SYS_mmap, &args).map(|_| ()).map_err(|e| {
        let e = std::io::Error::from_raw_os_error(e.0);
        format!(
            "-B: cannot reserve {limit:#x} bytes at {:#x} ({e}); try another base or a smaller -R",
            o.base
        )
    })
}

/// The program's environment: Rhea's own, without what is meant for Rhea, and as the options have it.
fn environment(o: &Options) -> Vec<CString> {
    use std::os::unix::ffi::OsStringExt;
    let mut vars: Vec<(Vec<u8>, Vec<u8>)> =
        std::env::vars_os().map(|(k, v)| (k.into_vec(), v.into_vec())).collect();
    vars.retain(|(k, _)| !o.unset_env.iter().any(|u| u.as_bytes() == k));
    for e in &o.set_env {
        if let Some((k, v)) = e.split_once('=') {
            vars.retain(|(x, _)| x != k.as_bytes());
            vars.push((k.into(), v.into()));
        }
    }
    vars.into_iter().filter_map(|(k, v)| CString::new([k, vec![b'='], v].concat()).ok()).collect()
}

fn random(seed: Option<u64>) -> [u8; 16] {
    let mut out = [0; 16];
    match seed {
        Some(s) => {
            // SplitMix64.
            let mut x = s;
            for half in out.chunks_exact_mut(8) {
                x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = x;
                z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                half.copy_from_slice(&(z ^ z >> 31).to_le_bytes());
            }
        }
        None => {
            let _ = host::call(libc::SYS_getrandom, &[out.as_mut_ptr() as u64, 16, 0]);
        }
    }
    out
}

/// Rhea's own executable, open above the descriptors a guest uses.
fn own_file() -> i32 {
    let here = libc::AT_FDCWD as u64;
    let flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    let Ok(fd) = host::call(libc::SYS_openat, &[here, host::arg(c"/proc/self/exe"), flags]) else {
        return -1;
    };
    match host::high(fd as i32) {
        Ok(moved) => {
            let _ = host::call(libc::SYS_close, &[fd]);
            moved.into_raw_fd()
        }
        Err(_) => fd as i32,
    }
}
