//! The rhea command.
//!
//! `rhea run` takes QEMU's options; the same binary acts as `qemu-system-ARCH` when it is started under that name, and as
//! `qemu-ARCH` for programs.

mod accels;
#[cfg_attr(not(unix), expect(dead_code, reason = "what plugs devices is for Unix hosts"))]
mod backends;
mod balloon;
mod blockcommands;
mod blockjobs;
mod chardevs;
mod commit;
mod console;
mod cpus;
mod curses;
mod devices;
mod exports;
mod failures;
mod filters;
mod firmware;
mod guests;
mod handover;
mod host;
#[cfg(unix)]
mod iothreads;
mod launch;
mod list;
mod log;
mod media;
mod migration;
mod netdevs;
mod nodes;
mod none;
#[cfg_attr(not(unix), expect(dead_code, reason = "what plugs devices is for Unix hosts"))]
mod objects;
#[cfg(unix)]
mod plug;
#[cfg(not(unix))]
#[path = "plug_none.rs"]
mod plug;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod programs;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "programs_none.rs"]
mod programs;
mod qom;
mod run;
mod rx_filter;
mod savevm;
mod storage_daemon;
mod transaction;
mod vm;

use std::path::Path;
use std::process::ExitCode;

use control::{Invocation, nearest};

/// Architecture when the user names none: the one `make run` shows.
const DEFAULT_ARCH: &str = "riscv64";

const USAGE: &str = "\
usage: rhea COMMAND [ARGUMENTS]

commands:
  run [--arch ARCH] [OPTIONS]   run a machine; OPTIONS are those of qemu-system-ARCH
  img COMMAND [OPTIONS]         make, convert and look at disk images; OPTIONS are those of qemu-img
  io [OPTIONS] FILE             single requests on a disk image; OPTIONS are those of qemu-io
  nbd [OPTIONS] FILE            give a disk image to others over the network; OPTIONS are those of qemu-nbd
  storage-daemon [OPTIONS]      block nodes and exports of them without a machine; OPTIONS are those of
                                qemu-storage-daemon
  user [OPTIONS] PROGRAM [ARGUMENTS]
                                run a Linux program of another architecture; OPTIONS are those of
                                qemu-ARCH ('rhea user --help' lists them)
  binfmt install|remove|status [ARCH...]
                                make the kernel start such programs with rhea
  archs                         list the guest architectures
  help                          print this text
  version                       print the version

'rhea run --help' lists all options. Started under the name qemu-system-ARCH or qemu-ARCH,
this program takes that program's options directly; so it does as qemu-img, qemu-io,
qemu-nbd and qemu-storage-daemon.
";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let name = if args.is_empty() { String::new() } else { args.remove(0) };
    let name = Path::new(&name).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(code) = user::started_by_kernel(&args, &guests::programs()) {
        return ExitCode::from(code);
    }
    if let Some(arch) = name.strip_prefix("qemu-system-") {
        return run(&name, arch, &args);
    }
    match name.as_str() {
        "qemu-img" => return block_tool::img(&name, &args),
        "qemu-io" => return block_tool::qemu_io(&name, &args),
        "qemu-nbd" => return block_tool::qemu_nbd(&name, &args),
        "qemu-storage-daemon" => return storage_daemon::run(&name, &args),
        _ => {}
    }
    let runs = |a: &&str| guests::programs().iter().any(|g| g.arch.name() == *a);
    if let Some(arch) = name.strip_prefix("qemu-").filter(runs) {
        return ExitCode::from(user::run(&name, &args, Some(arch), &guests::programs()));
    }
    let Some(command) = args.first().cloned() else {
        eprint!("{USAGE}");
        return ExitCode::FAILURE;
    };
    match command.as_str() {
        "run" => {
            args.remove(0);
            let (arch, rest) = match split_arch(&args) {
                Ok(x) => x,
                Err(e) => return fail("rhea", &e),
            };
            run("rhea", &arch, &rest)
        }
        "img" => block_tool::img("rhea img", &args[1..]),
        "io" => block_tool::qemu_io("rhea io", &args[1..]),
        "nbd" => block_tool::qemu_nbd("rhea nbd", &args[1..]),
        "storage-daemon" => storage_daemon::run("rhea storage-daemon", &args[1..]),
        "user" => ExitCode::from(user::run("rhea user", &args[1..], None, &guests::programs())),
        "binfmt" => ExitCode::from(user::binfmt(&args[1..], &guests::programs())),
        "archs" => {
            list::archs().iter().for_each(|a| println!("{a}"));
            ExitCode::SUCCESS
        }
        "help" | "--help" | "-h" | "-help" => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        "version" | "--version" | "-version" => {
            println!("{}", version("rhea"));
            ExitCode::SUCCESS
        }
        other => {
            let known =
                ["run", "img", "io", "nbd", "storage-daemon", "user", "binfmt", "archs", "help", "version"];
            let hint = nearest(other, known).map_or(String::new(), |n| format!("; did you mean '{n}'?"));
            fail("rhea", &format!("unknown command '{other}'{hint} (see 'rhea help')"))
        }
    }
}

/// Takes `--arch ARCH` out of the arguments of `run`.
fn split_arch(args: &[String]) -> Result<(String, Vec<String>), String> {
    let mut rest = args.to_vec();
    let Some(at) = rest.iter().position(|a| a == "--arch" || a == "-arch") else {
        return Ok((DEFAULT_ARCH.into(), rest));
    };
    if at + 1 >= rest.len() {
        return Err(format!("--arch needs an architecture: one of {}", list::archs().join(", ")));
    }
    let arch = rest.remove(at + 1);
    rest.remove(at);
    Ok((arch, rest))
}

fn version(name: &str) -> String {
    format!("{name} (Rhea) {}", env!("CARGO_PKG_VERSION"))
}

fn fail(name: &str, message: &str) -> ExitCode {
    eprintln!("{name}: {message}");
    ExitCode::FAILURE
}

/// An error and its causes in one line; a cause that the text before it tells already is left out.
fn one_line(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain().map(|c| c.to_string().replace(['\n', '\r'], " ")) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Architectures by other names: a 32-bit guest runs on the 64-bit processor.
const ALIASES: [(&str, &str); 1] = [("i386", "x86_64")];

fn run(name: &str, arch: &str, args: &[String]) -> ExitCode {
    let arch = ALIASES.iter().find(|(alias, _)| *alias == arch).map_or(arch, |(_, arch)| arch);
    if !list::archs().contains(&arch) {
        let hint = nearest(arch, list::archs()).map_or(String::new(), |n| format!("; did you mean '{n}'?"));
        let all = list::archs().join(", ");
        return fail(name, &format!("unknown guest architecture '{arch}'{hint} There are: {all}"));
    }
    match control::parse(args, arch) {
        Ok(Invocation::Help(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Version) => {
            println!("{}", version(name));
            ExitCode::SUCCESS
        }
        Ok(Invocation::List { what, config }) => match list::show(&what, &config) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(e) => fail(name, &e.to_string()),
        },
        Ok(Invocation::Run(config)) => {
            let prefix = log::Prefix::of(&config);
            match run::run(*config, &[]) {
                Ok(code) => ExitCode::from(code),
                Err(e) => {
                    control::chardev::restore_terminal();
                    // One line, whatever the host's words are.
                    fail(&format!("{prefix}{name}"), &one_line(&e))
                }
            }
        }
        Err(e) => fail(name, &e.to_string()),
    }
}
