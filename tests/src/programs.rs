//! Programs for user mode: compiled from `tests/programs/user`, and how Rhea runs them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{boot, skip, workspace};

/// Architectures of the test programs, with what compiles for them.
pub const COMPILERS: [(&str, &[&str]); 3] =
    [("riscv64", &["riscv64-linux-gnu-gcc"]), ("x86_64", &["gcc"]), ("i386", &["i686-linux-gnu-gcc"])];

/// Where what is compiled stays from run to run.
fn scratch() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    target.map_or_else(|| workspace::root().join("target"), PathBuf::from).join("tmp/user")
}

/// A static program, compiled once; `None` (said once) without a compiler.
pub fn program(arch: &str, name: &str) -> Option<PathBuf> {
    static MISSING: OnceLock<Vec<&str>> = OnceLock::new();
    let without = |c: &[&str]| Command::new(c[0]).arg("--version").stdout(Stdio::null()).status().is_err();
    let missing =
        MISSING.get_or_init(|| COMPILERS.iter().filter(|(_, c)| without(c)).map(|(a, _)| *a).collect());
    if missing.contains(&arch) {
        skip(&format!("{name} of user mode: no compiler for {arch}"));
        return None;
    }
    let (_, compiler) = COMPILERS.iter().find(|(a, _)| *a == arch).expect("a known architecture");
    let dir = scratch().join(arch);
    fs::create_dir_all(&dir).expect("a folder");
    let sources = workspace::root().join("tests/programs/user");
    let source = sources.join(format!("{name}.c"));
    let out = dir.join(name);
    let newer = |a: &PathBuf, b: &PathBuf| {
        let time = |p: &PathBuf| fs::metadata(p).and_then(|m| m.modified()).ok();
        time(a) > time(b)
    };
    if !newer(&out, &source) || !newer(&out, &sources.join("arch.h")) {
        // Under another name first: a test beside this one may be about to run the same program.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let part = dir.join(format!("{name}.{}.{made}", std::process::id()));
        let done = Command::new(compiler[0])
            .args(&compiler[1..])
            .args(["-O1", "-g", "-static", "-pthread", "-w", "-o"])
            .args([&part, &source])
            .output()
            .expect("a program that runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::rename(&part, &out).expect("a program in its place");
    }
    Some(out)
}

/// Rhea's user mode with these options.
pub fn rhea(arguments: &[&str]) -> Command {
    let mut c = Command::new(boot::rhea());
    // Translations of these runs are not the user's.
    let caches = scratch().join("caches");
    c.arg("user").args(arguments).env("LC_ALL", "C").env("XDG_CACHE_HOME", caches);
    c
}

/// What a program said, and how it ended.
pub fn said(o: &Output) -> String {
    format!("{}{}{}", o.status, String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}
