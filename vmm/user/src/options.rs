//! The command line of user mode, which is qemu-user's, and its environment.

use std::ffi::CString;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};

use crate::cache::{Store, Wanted};
use crate::host;
use accel::{CpuModel, LogItems, LogSink};
use tcg_engine::hot::HotMode;

/// What was asked for.
#[derive(Clone, Default)]
pub(crate) struct Options {
    pub(crate) arch: Option<String>,
    pub(crate) sysroot: Option<String>,
    pub(crate) set_env: Vec<String>,
    pub(crate) unset_env: Vec<String>,
    pub(crate) argv0: Option<String>,
    pub(crate) release: Option<String>,
    pub(crate) cpu: CpuModel,
    cpu_text: Option<String>,
    pub(crate) stack_size: u64,
    pub(crate) base: u64,
    pub(crate) reserved: Option<u64>,
    pub(crate) strace: bool,
    pub(crate) items: LogItems,
    items_text: Option<String>,
    /// `-d help`.
    asks_items: bool,
    /// Addresses of code that is logged; all if there are none.
    only: Vec<RangeInclusive<u64>>,
    only_text: Option<String>,
    pub(crate) log_file: Option<String>,
    pub(crate) seed: Option<u64>,
    pub(crate) gdb: Option<String>,
    /// A descriptor with filters of system calls.
    pub(crate) filters: Option<u64>,
    /// Options with which another program traces this one.
    pub(crate) traced: Option<u64>,
    /// The personality it was given before it was executed.
    pub(crate) personality: Option<u32>,
    pub(crate) cache: Wanted,
    pub(crate) interp: bool,
    pub(crate) perfmap: bool,
    pub(crate) jitdump: bool,
    /// Bytes of code memory; 0 for the default.
    pub(crate) code_size: usize,
    pub(crate) hot: HotMode,
    pub(crate) plugins: Vec<String>,
    out: Option<Arc<Mutex<std::fs::File>>>,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
}

/// MiB of code memory that may be asked for, as for machines.
const CODE_MIB: std::ops::RangeInclusive<usize> = 4..=1024;
/// Default stack, as on Linux.
const STACK: u64 = 8 << 20;

/// One option: name, the variable of the environment that stands for it, its argument's name, what it does.
struct Opt {
    name: &'static str,
    env: Option<&'static str>,
    arg: Option<&'static str>,
    help: &'static str,
    set: fn(&mut Options, &str) -> Result<(), String>,
}

const OPTIONS: &[Opt] = &[
    Opt {
        name: "arch",
        env: None,
        arg: Some("ARCH"),
        help: "architecture of the program; its file says otherwise",
        set: |o, v| {
            o.arch = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "L",
        env: Some("QEMU_LD_PREFIX"),
        arg: Some("DIR"),
        help: "look for absolute paths below DIR first",
        set: |o, v| {
            o.sysroot = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "E",
        env: Some("QEMU_SET_ENV"),
        arg: Some("VAR=VALUE"),
        help: "set a variable of the program's environment",
        set: |o, v| {
            let list: Vec<String> = v.split(',').map(str::to_owned).collect();
            if let Some(bad) = list.iter().find(|e| !e.contains('=')) {
                return Err(format!("'{bad}' is not VAR=VALUE"));
            }
            o.set_env.extend(list);
            Ok(())
        },
    },
    Opt {
        name: "U",
        env: Some("QEMU_UNSET_ENV"),
        arg: Some("VAR"),
        help: "remove a variable of the program's environment",
        set: |o, v| {
            o.unset_env.extend(v.split(',').map(str::to_owned));
            Ok(())
        },
    },
    Opt {
        name: "0",
        env: Some("QEMU_ARGV0"),
        arg: Some("ARGV0"),
        help: "what the program sees as its name",
        set: |o, v| {
            o.argv0 = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "cpu",
        env: Some("QEMU_CPU"),
        arg: Some("MODEL"),
        help: "CPU model and features; 'help' lists the models",
        set: |o, v| {
            o.cpu_text = Some(v.to_owned());
            let mut parts = v.split(',');
            o.cpu.name = parts.next().unwrap_or_default().to_owned();
            o.cpu.features = parts
                .map(|f| match (f.strip_prefix('+'), f.strip_prefix('-'), f.split_once('=')) {
                    (Some(f), ..) => (f.to_owned(), "on".to_owned()),
                    (_, Some(f), _) => (f.to_owned(), "off".to_owned()),
                    (.., Some((k, v))) => (k.to_owned(), v.to_owned()),
                    _ => (f.to_owned(), "on".to_owned()),
                })
                .collect();
            Ok(())
        },
    },
    Opt {
        name: "r",
        env: Some("QEMU_UNAME"),
        arg: Some("RELEASE"),
        help: "kernel release that uname tells",
        set: |o, v| {
            o.release = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "s",
        env: Some("QEMU_STACK_SIZE"),
        arg: Some("SIZE"),
        help: "bytes of the stack (suffixes K, M, G)",
        set: |o, v| {
            o.stack_size = size(v)?;
            if !(64 << 10..=1 << 30).contains(&o.stack_size) {
                return Err(format!("'{v}' is not between 64K and 1G"));
            }
            Ok(())
        },
    },
    Opt {
        name: "B",
        env: Some("QEMU_GUEST_BASE"),
        arg: Some("ADDRESS"),
        help: "host address of guest address 0",
        set: |o, v| {
            o.base = size(v)?;
            if o.base % (1 << 16) != 0 || o.base >= 1 << 46 {
                return Err(format!("'{v}' is not a multiple of 64K below 2^46"));
            }
            Ok(())
        },
    },
    Opt {
        name: "R",
        env: Some("QEMU_RESERVED_VA"),
        arg: Some("SIZE"),
        help: "bytes of guest address space",
        set: |o, v| {
            let n = size(v)?;
            if n != 0 && !(256 << 20..=1 << 46).contains(&n) {
                return Err(format!("'{v}' is not between 256M and 64T"));
            }
            o.reserved = (n != 0).then_some(n / 4096 * 4096);
            Ok(())
        },
    },
    Opt {
        name: "p",
        env: Some("QEMU_PAGESIZE"),
        arg: Some("BYTES"),
        help: "page size of the guest: 4096",
        set: |_, v| if size(v)? == 4096 { Ok(()) } else { Err(format!("'{v}': the page size is 4096")) },
    },
    Opt {
        name: "seed",
        env: Some("QEMU_RAND_SEED"),
        arg: Some("N"),
        help: "seed of the bytes a program is given to start its random numbers",
        set: |o, v| {
            o.seed = Some(v.parse().map_err(|_| format!("'{v}' is not a number"))?);
            Ok(())
        },
    },
    Opt {
        name: "g",
        env: Some("QEMU_GDB"),
        arg: Some("PORT"),
        help: "wait for GDB on this port of 127.0.0.1, or on a socket of this path",
        set: |o, v| {
            o.gdb = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "strace",
        env: Some("QEMU_STRACE"),
        arg: None,
        help: "print system calls",
        set: |o, _| {
            o.strace = true;
            Ok(())
        },
    },
    Opt {
        name: "d",
        env: Some("QEMU_LOG"),
        arg: Some("ITEMS"),
        help: "what to log: in_asm, op, op_opt, out_asm, exec, cpu, int, unimp, nochain, strace, stats, plugin",
        set: |o, v| {
            if v == "help" {
                o.asks_items = true;
                return Ok(());
            }
            for item in v.split(',') {
                match ITEMS.iter().find(|i| i.0 == item) {
                    Some((_, bits)) => o.items |= *bits,
                    None if item == "strace" => o.strace = true,
                    None if item == "page" => {}
                    None => {
                        let names: Vec<_> = ITEMS.iter().map(|i| i.0).collect();
                        return Err(format!("'{item}' is none of {}, strace", names.join(", ")));
                    }
                }
            }
            o.items_text = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "dfilter",
        env: Some("QEMU_DFILTER"),
        arg: Some("RANGE[,...]"),
        help: "log code at these addresses alone: FROM..TO, FROM+LENGTH or TO-LENGTH",
        set: |o, v| {
            o.only = v.split(',').map(range).collect::<Result<_, _>>()?;
            o.only_text = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "trace",
        env: Some("QEMU_TRACE"),
        arg: Some("PATTERN"),
        help: "refused: there are no trace events",
        set: |_, _| Err("there are no trace events; '-d help' lists what can be logged".to_owned()),
    },
    Opt {
        name: "D",
        env: Some("QEMU_LOG_FILENAME"),
        arg: Some("FILE"),
        help: "write the log to FILE; %d is the process's number",
        set: |o, v| {
            o.log_file = Some(v.to_owned());
            Ok(())
        },
    },
    Opt {
        name: "filters",
        env: None,
        arg: Some("FD"),
        help: "a descriptor with filters of system calls, as Rhea passes it to itself",
        set: |o, v| {
            o.filters = Some(v.parse().map_err(|_| format!("'{v}' is no descriptor"))?);
            Ok(())
        },
    },
    Opt {
        name: "traced",
        env: None,
        arg: Some("OPTIONS"),
        help: "the program is traced by another one, as Rhea passes it to itself",
        set: |o, v| {
            o.traced = Some(v.parse().map_err(|_| format!("'{v}' is no number"))?);
            Ok(())
        },
    },
    Opt {
        name: "personality",
        env: None,
        arg: Some("N"),
        help: "the program's personality, as Rhea passes it to itself",
        set: |o, v| {
            o.personality = Some(v.parse().map_err(|_| format!("'{v}' is no number"))?);
            Ok(())
        },
    },
    Opt {
        name: "cache",
        env: Some("RHEA_CACHE"),
        arg: Some("DIR"),
        help: "keep translations in DIR, or 'off'; by default in rhea of the user's caches",
        set: |o, v| {
            o.cache = if v == "off" { Wanted::Off } else { Wanted::In(v.into()) };
            Ok(())
        },
    },
    Opt {
        name: "plugin",
        env: Some("QEMU_PLUGIN"),
        arg: Some("NAME[,KEY=VALUE...]"),
        help: "load a plugin: a shared object, or count, hotblocks or memtrace",
        set: |o, v| {
            o.plugins.push(v.to_owned());
            o.items |= LogItems::PLUGIN;
            Ok(())
        },
    },
    Opt {
        name: "interp",
        env: None,
        arg: None,
        help: "run the interpreter",
        set: |o, _| {
            o.interp = true;
            Ok(())
        },
    },
    Opt {
        name: "hot",
        env: Some("RHEA_HOT"),
        arg: Some("on|off|now"),
        help: "translate hot code once more in the background; now: all code that runs several times, for tests",
        set: |o, v| {
            o.hot = v.parse()?;
            Ok(())
        },
    },
    Opt {
        name: "perfmap",
        env: Some("QEMU_PERFMAP"),
        arg: None,
        help: "write /tmp/perf-PID.map",
        set: |o, _| {
            o.perfmap = true;
            Ok(())
        },
    },
    Opt {
        name: "jitdump",
        env: Some("QEMU_JITDUMP"),
        arg: None,
        help: "write jit-PID.dump for perf inject",
        set: |o, _| {
            o.jitdump = true;
            Ok(())
        },
    },
    Opt {
        name: "tb-size",
        env: Some("QEMU_TB_SIZE"),
        arg: Some("MIB"),
        help: "MiB of memory for translated code",
        set: |o, v| {
            let mib = v.parse::<usize>().ok().filter(|n| CODE_MIB.contains(n));
            let (least, most) = (CODE_MIB.start(), CODE_MIB.end());
            let mib =
                mib.ok_or_else(|| format!("'{v}' is not a number of MiB between {least} and {most}"))?;
            o.code_size = mib << 20;
            Ok(())
        },
    },
    Opt {
        name: "one-insn-per-tb",
        env: Some("QEMU_ONE_INSN_PER_TB"),
        arg: None,
        help: "taken as QEMU has it: units stay as they are, traps are exact in any case",
        set: |_, _| Ok(()),
    },
    Opt {
        name: "t",
        env: Some("QEMU_RTSIG_MAP"),
        arg: Some("TSIG,HSIG,N"),
        help: "taken as QEMU has it: every real-time signal of a program is the host's of its number",
        set: |_, _| Ok(()),
    },
];

const ITEMS: &[(&str, LogItems)] = &[
    ("in_asm", LogItems::IN_ASM),
    ("op", LogItems::IR),
    ("op_opt", LogItems::IR_OPT),
    ("out_asm", LogItems::OUT_ASM),
    ("exec", LogItems::EXEC),
    ("cpu", LogItems::CPU),
    ("int", LogItems::INT),
    ("unimp", LogItems::UNIMP),
    ("nochain", LogItems::NOCHAIN),
    ("stats", LogItems::STATS),
    ("plugin", LogItems::PLUGIN),
];

/// A size: decimal, hexadecimal or octal, with a suffix.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(b'T' | b't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let n = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    n.ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(bad)
}

/// A range of addresses: `FROM..TO`, both of which belong to it, `FROM+LENGTH`, or `TO-LENGTH`.
fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let bad = || format!("'{text}' is none of FROM..TO, FROM+LENGTH, TO-LENGTH");
    let number = |t: &str| match t.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => t.parse().ok(),
    };
    let parts = |by| text.split_once(by).and_then(|(a, b)| Some((number(a)?, number(b)?)));
    let less = |len: u64| len.checked_sub(1);
    let found = if text.contains("..") {
        parts("..").filter(|(a, b)| a <= b)
    } else if text.contains('+') {
        parts("+").and_then(|(a, n)| Some((a, a.checked_add(less(n)?)?)))
    } else {
        parts("-").and_then(|(b, n)| Some((b.checked_sub(less(n)?)?, b)))
    };
    found.map(|(a, b)| a..=b).ok_or_else(bad)
}

/// What a command line says to do.
pub(crate) enum Invocation {
    Run(Box<Options>),
    Help,
    Version,
    /// Of an architecture, if one was named.
    Models(Option<String>),
    /// What can be logged.
    Items,
}

/// Reads the environment, then the arguments in front of the program.
pub(crate) fn parse(args: &[String], env: impl Fn(&str) -> Option<String>) -> Result<Invocation, String> {
    let mut o = Options { stack_size: STACK, ..Options::default() };
    for opt in OPTIONS {
        if let Some(v) = opt.env.and_then(&env) {
            (opt.set)(&mut o, &v).map_err(|e| format!("{}: {e}", opt.env.unwrap_or_default()))?;
        }
    }
    let mut rest = args.iter();
    let program = loop {
        let Some(arg) = rest.next() else {
            return asked(&o).ok_or_else(|| "no program is named; see --help".into());
        };
        if arg == "--" {
            break rest.next().ok_or("no program is named behind --")?.clone();
        }
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|n| !n.is_empty())
        else {
            break arg.clone();
        };
        match name {
            "h" | "help" => return Ok(Invocation::Help),
            "version" => return Ok(Invocation::Version),
            _ => {}
        }
        let (name, given) = match name.split_once('=') {
            Some((name, value)) if arg.starts_with("--") => (name, Some(value)),
            _ => (name, None),
        };
        let Some(opt) = OPTIONS.iter().find(|o| o.name == name) else {
            return Err(format!("unknown option '{arg}'; see --help"));
        };
        let value = match opt.arg {
            None if given.is_some() => return Err(format!("-{name} has no argument")),
            Some(_) if let Some(value) = given => value,
            Some(what) => rest.next().ok_or_else(|| format!("-{name} needs an argument: {what}"))?.as_str(),
            None => "",
        };
        (opt.set)(&mut o, value).map_err(|e| format!("-{name}: {e}"))?;
    };
    if let Some(list) = asked(&o) {
        return Ok(list);
    }
    o.program = program;
    o.args = rest.cloned().collect();
    Ok(Invocation::Run(Box::new(o)))
}

/// A list that is asked for in place of a run.
fn asked(o: &Options) -> Option<Invocation> {
    match (o.cpu.name == "help", o.asks_items) {
        (true, _) => Some(Invocation::Models(o.arch.clone())),
        (_, true) => Some(Invocation::Items),
        _ => None,
    }
}

/// Text of `-d help`.
pub(crate) fn items() -> String {
    ITEMS.iter().map(|i| i.0).chain(["strace"]).collect::<Vec<_>>().join("\n") + "\n"
}

/// Text of `--help`.
pub(crate) fn help(name: &str) -> String {
    let mut text = format!(
        "usage: {name} [OPTIONS] PROGRAM [ARGUMENTS]\n\noptions (and variables of the environment):\n"
    );
    for o in OPTIONS {
        let left = format!("-{} {}", o.name, o.arg.unwrap_or_default());
        let env = o.env.map_or(String::new(), |e| format!(" ({e})"));
        text.push_str(&format!("  {left:<16} {}{env}\n", o.help));
    }
    text.push_str("  -version         print the version\n  -help            print this text\n");
    text
}

/// What a program inherits from the one that executes it, and the host's kernel does not pass on.
#[derive(Default)]
pub(crate) struct Inherited {
    pub(crate) filters: Option<i32>,
    pub(crate) traced: Option<u64>,
    pub(crate) personality: u32,
}

impl Options {
    /// Opens the log.
    pub(crate) fn open_log(&mut self) -> Result<(), String> {
        if let Some(name) = &self.log_file {
            let path = name.replace("%d", &std::process::id().to_string());
            let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
            let file = file.map_err(|e| format!("-D: {path}: {e}"))?;
            // The program's first descriptor is the one it has without a log.
            let file = host::high(file.as_raw_fd()).unwrap_or(file);
            self.out = Some(Arc::new(Mutex::new(file)));
            // A program that is executed from another folder goes on with the same log.
            self.log_file =
                std::path::absolute(name).ok().and_then(|p| p.into_os_string().into_string().ok());
        }
        Ok(())
    }

    /// The store of translations of a program, unless something is to be seen of translating or the program is debugged.
    pub(crate) fn store(&self, exe: &str, arch: &str) -> Result<Option<Store>, String> {
        if self.interp || self.gdb.is_some() || !LogItems::STATS.contains(self.items) {
            return Ok(None);
        }
        let cpu = self.cpu_text.as_deref().unwrap_or_default();
        Store::open(&self.cache, exe, &format!("{arch} {cpu} {}", self.base != 0))
    }

    /// True if anything is logged.
    pub(crate) fn log_enabled(&self) -> bool {
        !self.items.difference(LogItems::PLUGIN).is_empty() || self.strace
    }

    /// Writes to the log; a failing log never disturbs the guest.
    pub(crate) fn log(&self, text: &str) {
        let _ = match &self.out {
            Some(f) => f.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write_all(text.as_bytes()),
            None => std::io::stderr().write_all(text.as_bytes()),
        };
    }

    /// The engine's log.
    pub(crate) fn sink(&self) -> LogSink {
        if self.items.is_empty() {
            return LogSink::none();
        }
        struct Out(Options);
        impl std::io::Write for Out {
            fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
                self.0.log(&String::from_utf8_lossy(b));
                Ok(b.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        LogSink::new(self.items, Box::new(Out(self.clone()))).only(&self.only)
    }

    /// Arguments with which Rhea runs another program the same way, up to the program; `same` if it is of the same architecture,
    /// for which alone the processor and the layout of memory were chosen.
    pub(crate) fn for_exec(
        &self,
        arch: &str,
        same: bool,
        Inherited { filters, traced, personality }: Inherited,
        argv0: &CString,
    ) -> Vec<CString> {
        let mut a: Vec<String> = ["rhea", "user", "--arch", arch].map(str::to_owned).to_vec();
        let mut add = |name: &str, v: Option<String>| {
            if let Some(v) = v {
                a.push(format!("-{name}"));
                a.push(v);
            }
        };
        add("L", self.sysroot.clone());
        add("cpu", self.cpu_text.clone().filter(|_| same));
        add("r", self.release.clone());
        add("s", (self.stack_size != STACK).then(|| self.stack_size.to_string()));
        add("B", (self.base != 0 && same).then(|| self.base.to_string()));
        add("R", self.reserved.filter(|_| same).map(|r| r.to_string()));
        add("d", self.items_text.clone());
        add("dfilter", self.only_text.clone());
        add("D", self.log_file.clone());
        add("tb-size", (self.code_size != 0).then(|| (self.code_size >> 20).to_string()));
        for p in &self.plugins {
            add("plugin", Some(p.clone()));
        }
        add("filters", filters.map(|fd| fd.to_string()));
        add("traced", traced.map(|options| options.to_string()));
        add("personality", (personality != 0).then(|| personality.to_string()));
        add(
            "cache",
            match &self.cache {
                Wanted::Usual => None,
                Wanted::Off => Some("off".to_owned()),
                Wanted::In(dir) => Some(dir.to_string_lossy().into_owned()),
            },
        );
        add(
            "hot",
            match self.hot {
                mode if mode == HotMode::default() => None,
                HotMode::On => Some("on".to_owned()),
                HotMode::Off => Some("off".to_owned()),
                HotMode::Now => Some("now".to_owned()),
            },
        );
        if self.strace {
            a.push("-strace".into());
        }
        for (on, name) in [(self.interp, "-interp"), (self.perfmap, "-perfmap"), (self.jitdump, "-jitdump")] {
            if on {
                a.push(name.into());
            }
        }
        a.push("-0".into());
        let mut out: Vec<CString> = a.into_iter().filter_map(|s| CString::new(s).ok()).collect();
        out.push(argv0.clone());
        out.extend(CString::new("--"));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Options, String> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        match parse(&args, |_| None)? {
            Invocation::Run(o) => Ok(*o),
            _ => Err("not a run".into()),
        }
    }

    #[test]
    fn options_end_at_the_program() {
        let o = run(&["-L", "/x", "-E", "A=1,B=2", "-0", "sh", "-s", "1M", "prog", "-L", "y"]).unwrap();
        assert_eq!(o.sysroot.as_deref(), Some("/x"));
        assert_eq!(o.set_env, ["A=1", "B=2"]);
        assert_eq!(o.stack_size, 1 << 20);
        assert_eq!((o.program.as_str(), o.args.len()), ("prog", 2));
        let o = run(&["--cache=off", "--arch", "riscv64", "-E", "A=b", "prog", "--x=y"]).unwrap();
        assert_eq!((o.arch.as_deref(), &o.args[..]), (Some("riscv64"), &["--x=y".to_owned()][..]));
        assert!(run(&["--strace=1", "p"]).err().unwrap().contains("no argument"));
        assert_eq!(run(&["--", "-x"]).unwrap().program, "-x");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let e = |a: &[&str]| run(a).err().unwrap_or_default();
        assert_eq!(e(&["-E", "A", "p"]), "-E: 'A' is not VAR=VALUE");
        assert_eq!(e(&["-s", "1", "p"]), "-s: '1' is not between 64K and 1G");
        assert_eq!(e(&["-zz", "p"]), "unknown option '-zz'; see --help");
        assert_eq!(e(&["-L"]), "-L needs an argument: DIR");
        assert_eq!(e(&[]), "no program is named; see --help");
        assert_eq!(
            e(&["-dfilter", "5-9", "p"]),
            "-dfilter: '5-9' is none of FROM..TO, FROM+LENGTH, TO-LENGTH"
        );
        assert!(e(&["-trace", "x", "p"]).contains("no trace events"));
        assert!(e(&["-d", "foo", "p"]).starts_with("-d: 'foo' is none of in_asm"));
    }

    #[test]
    fn ranges_of_addresses() {
        let o = run(&["-dfilter", "0x1000..0x1fff,4096+16,0x20-0x10", "p"]).unwrap();
        assert_eq!(o.only, [0x1000..=0x1fff, 4096..=4111, 0x11..=0x20]);
        assert!(range("5..4").is_err() && range("1+0").is_err() && range("1").is_err());
    }

    #[test]
    fn what_qemu_takes_is_taken() {
        let o = run(&["-tb-size", "64", "-one-insn-per-tb", "-t", "34,34,2", "-jitdump", "p"]).unwrap();
        assert_eq!((o.code_size, o.jitdump, o.perfmap, o.program.as_str()), (64 << 20, true, false, "p"));
        let text = format!("{:?}", o.for_exec("i386", true, Inherited::default(), &CString::default()));
        assert!(text.contains("\"-tb-size\", \"64\"") && text.contains("-jitdump"), "{text}");
        assert!(run(&["-tb-size", "0", "p"]).err().unwrap().contains("between 4 and 1024"));
        let help = parse(&["-d".to_owned(), "help".to_owned()], |_| None);
        assert!(matches!(help, Ok(Invocation::Items)) && items().lines().any(|l| l == "out_asm"));
    }

    #[test]
    fn another_architecture_has_its_own_layout() {
        let o = run(&["-B", "1M", "-cpu", "max", "-L", "/x", "p"]).unwrap();
        let text =
            |same| format!("{:?}", o.for_exec("i386", same, Inherited::default(), &CString::default()));
        assert!(text(true).contains("-B") && text(true).contains("-cpu"));
        assert!(!text(false).contains("-B") && !text(false).contains("-cpu") && text(false).contains("-L"));
    }

    #[test]
    fn the_environment_comes_first() {
        let env = |n: &str| (n == "QEMU_LD_PREFIX").then(|| "/a".to_owned());
        let Ok(Invocation::Run(o)) = parse(&["p".to_owned()], env) else { panic!() };
        assert_eq!(o.sysroot.as_deref(), Some("/a"));
    }
}
