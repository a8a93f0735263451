//! User mode's tools: the debugger's side of a program, spoken to by the real GDB; translations kept from run to run.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rhea_tests::boot::Scratch;
use rhea_tests::programs::{program, rhea, said};
use rhea_tests::skip;

/// What a user types, and what must come back, in this order.
const SESSION: &[(&str, &str)] = &[
    ("break twice", "Breakpoint 1"),
    ("continue", "Breakpoint 1, twice (n=3)"),
    ("print n + 1", "= 4"),
    ("backtrace", "in main ()"),
    ("stepi", ""),
    ("print $pc > (unsigned long)twice", "= 1"),
    ("info auxv", "AT_ENTRY"),
    ("info proc mappings", "[stack]"),
    ("info proc mappings", "[vdso]"),
    ("finish", ""),
    ("watch watched", "ardware watchpoint 2"),
    ("continue", "New value = 7"),
    ("delete 2", ""),
    ("continue", "Breakpoint 1, twice (n=21)"),
    ("info threads", "Thread 1."),
    ("set variable n = 30", ""),
    ("delete", ""),
    ("continue", "received signal SIGUSR1"),
    ("print calls", "= 2"),
    ("continue", "exited with code 07"),
];

#[test]
fn the_real_gdb_debugs_a_program() {
    if Command::new("gdb-multiarch").arg("--version").output().is_err() {
        skip("gdb-multiarch is not installed (resources/scripts/deps.sh test)");
        return;
    }
    for arch in ["riscv64", "x86_64", "i386"] {
        let Some(path) = program(arch, "debug") else { continue };
        let scratch = Scratch::new(&format!("user-gdb-{arch}"));
        let (socket, script) = (scratch.path("socket"), scratch.path("script"));
        let mut guest = rhea(&["-g", socket.to_str().unwrap()]);
        let guest = guest.arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !socket.exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let mut text =
            "set pagination off\nset confirm off\nset width 0\nset print entry-values no\n".to_owned();
        text += &format!("target remote {}\n", socket.display());
        SESSION.iter().for_each(|(command, _)| text += &format!("{command}\n"));
        fs::write(&script, text).unwrap();
        let gdb = Command::new("timeout")
            .args(["120", "gdb-multiarch", "-nx", "-q", "-batch", "-x"])
            .args([&script, &path])
            .output()
            .expect("gdb-multiarch runs");
        let heard = String::from_utf8_lossy(&gdb.stdout).into_owned();
        let mut rest = heard.as_str();
        for (command, expected) in SESSION {
            let Some(at) = rest.find(expected) else {
                panic!(
                    "{arch}: {command}: expected {expected:?} in\n{heard}\n{}",
                    String::from_utf8_lossy(&gdb.stderr)
                );
            };
            rest = &rest[at..];
        }
        let out = guest.wait_with_output().unwrap();
        assert_eq!(
            (out.status.code(), &out.stdout[..]),
            (Some(7), &b"6 60 10\n"[..]),
            "{arch}: {}",
            said(&out)
        );
    }
}

/// Both are guests: `ptrace` between them is Rhea's.
#[test]
fn the_real_gdb_as_a_guest_debugs_another() {
    const GDB: &str = "/usr/bin/gdb-multiarch";
    if !std::path::Path::new(GDB).exists() {
        skip("GDB under user mode: gdb-multiarch is not installed (resources/scripts/deps.sh test)");
        return;
    }
    let Some(path) = program("x86_64", "debug") else { return };
    let scratch = Scratch::new("user-gdb-guest");
    let script = scratch.path("script");
    let text = "set pagination off\nset confirm off\nset width 0\nset print entry-values no\nbreak twice\nrun\nbacktrace\nstepi\nprint n + 1\ncontinue\n\
        delete\ncontinue\nprint calls\ncontinue\n";
    fs::write(&script, text).unwrap();
    let out = rhea(&[GDB, "-nx", "-q", "-batch", "-x"]).args([&script, &path]).output().unwrap();
    let heard = said(&out);
    let mut rest = heard.as_str();
    for expected in [
        "Breakpoint 1, twice (n=3)",
        "in main ()",
        "= 4",
        "Breakpoint 1, twice (n=",
        "received signal SIGUSR1",
        "= 2",
        "exited with code 07",
    ] {
        let Some(at) = rest.find(expected) else { panic!("no {expected:?} in\n{heard}") };
        rest = &rest[at..];
    }
}

#[test]
fn translations_are_kept_for_the_next_run() {
    for arch in ["riscv64", "x86_64", "i386"] {
        let Some(path) = program(arch, "signals") else { continue };
        let scratch = Scratch::new(&format!("user-cache-{arch}"));
        let dir = scratch.path("cache");
        // How many units an earlier process made.
        let reused = || {
            let out = rhea(&["-cache", dir.to_str().unwrap(), "-d", "stats"]).arg(&path).output().unwrap();
            assert_eq!(out.stdout, b"signals ok\n", "{arch}: {}", said(&out));
            let stats = String::from_utf8_lossy(&out.stderr).into_owned();
            let line = stats.lines().find_map(|l| l.strip_prefix("units of earlier processes"));
            line.and_then(|l| l.trim().parse::<u64>().ok()).unwrap_or_else(|| panic!("{stats}"))
        };
        assert_eq!(reused(), 0, "{arch}");
        let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{arch}: {files:?}");
        assert!(reused() > 100, "{arch}");
        // One byte is wrong: the file is of no use, and another one takes its place.
        let mut bytes = fs::read(&files[0]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&files[0], bytes).unwrap();
        assert_eq!(reused(), 0, "{arch}");
        assert!(reused() > 100, "{arch}");
        let out = rhea(&["-cache", "off", "-d", "stats"]).arg(&path).output().unwrap();
        assert!(
            String::from_utf8_lossy(&out.stderr).contains("units of earlier processes         0\n"),
            "{}",
            said(&out)
        );
    }
}

#[test]
fn where_a_debugger_is_to_connect_must_be_a_place() {
    let Some(path) = program("x86_64", "debug") else { return };
    let out = rhea(&["-g", "nowhere"]).arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("-g: 'nowhere' is neither a port nor the path of a socket"), "{}", said(&out));
}

#[test]
fn a_program_that_is_killed_leaves_a_core() {
    let gdb = Command::new("gdb-multiarch").arg("--version").output().is_ok();
    if !gdb {
        skip(
            "gdb-multiarch is not installed (resources/scripts/deps.sh test): cores are made, not looked at",
        );
    }
    for arch in ["riscv64", "x86_64", "i386"] {
        let Some(path) = program(arch, "aborts") else { continue };
        let scratch = Scratch::new(&format!("user-core-{arch}"));
        let shell = |limit: &str| {
            let mut c = Command::new("sh");
            c.args(["-c", &format!("ulimit -c {limit}; cd \"$0\"; exec \"$@\"")]).arg(scratch.path("."));
            let rhea = rhea(&[]);
            c.arg(rhea.get_program()).args(rhea.get_args()).arg(&path).env("LC_ALL", "C");
            c.output().unwrap()
        };
        let none = shell("0");
        assert!(scratch.names().is_empty(), "{arch}: {}", said(&none));
        let out = shell("unlimited");
        let names = scratch.names();
        assert!(names.len() == 1 && names[0].starts_with("qemu_aborts_"), "{arch}: {names:?} {}", said(&out));
        if !gdb {
            continue;
        }
        let looked = Command::new("gdb-multiarch")
            .args([
                "-nx",
                "-q",
                "-batch",
                "-ex",
                "backtrace",
                "-ex",
                "print kept",
                "-ex",
                "info auxv",
                "-ex",
                "info float",
            ])
            .args([&path, &scratch.path(&names[0])])
            .output()
            .unwrap();
        let heard = said(&looked);
        for expected in ["Program terminated with signal SIGABRT", "in main ()", "= 77", "AT_ENTRY"] {
            assert!(heard.contains(expected), "{arch}: no {expected:?} in\n{heard}");
        }
    }
}
