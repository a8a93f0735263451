//! Registration with the host's kernel (`Documentation/admin-guide/binfmt-misc.rst`): programs of a guest architecture start
//! Rhea by themselves.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Guest, abi, elf};

/// The binary that needs no shared libraries.
const STATIC: &str = "rhea-static";

const DIR: &str = "/proc/sys/fs/binfmt_misc";
const USAGE: &str = "usage: rhea binfmt install|remove|status [ARCH...]";

fn entry(name: &str) -> String {
    format!("rhea-{name}")
}

/// The line for `register`. Flags: P keeps the name the program was called by, O and C take file and rights from the
/// program, F opens Rhea now, so that it is found inside of containers.
fn line(name: &str, machine: u16, wide: bool, exe: &str) -> String {
    let [low, high] = machine.to_le_bytes();
    let hex = |b: &[u8]| b.iter().map(|b| format!("\\x{b:02x}")).collect::<String>();
    let mut magic = *b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00";
    magic[4] = if wide { 2 } else { 1 };
    magic[18] = low;
    magic[19] = high;
    // Any OS ABI and padding; executables and shared objects (2 and 3).
    let mask = *b"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    format!(":{}:M::{}:{}:{exe}:POCF\n", entry(name), hex(&magic), hex(&mask))
}

/// What the kernel is to start: Rhea's own file, or the one beside it that needs no shared libraries. A foreign root has none of the
/// host's.
fn starter() -> std::io::Result<PathBuf> {
    let own = std::fs::read_link("/proc/self/exe")?;
    let needs =
        |path: &Path| File::open(path).is_ok_and(|f| elf::parse(&f).is_ok_and(|e| e.interp.is_some()));
    let beside = own.with_file_name(STATIC);
    if !needs(&own) {
        return Ok(own);
    }
    if beside.exists() && !needs(&beside) {
        return Ok(beside);
    }
    eprintln!(
        "rhea: {} needs shared libraries, which a foreign root does not have; 'make install-static' puts {STATIC} beside it",
        own.display()
    );
    Ok(own)
}

/// `rhea binfmt`.
pub fn binfmt(args: &[String], guests: &[Guest]) -> u8 {
    match try_binfmt(args, guests) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("rhea: {e}");
            1
        }
    }
}

fn try_binfmt(args: &[String], guests: &[Guest]) -> Result<(), String> {
    let Some((command, names)) = args.split_first() else { return Err(USAGE.into()) };
    // What the host's own processor runs must stay the host's.
    let known: Vec<_> = guests.iter().filter_map(|g| abi::of(g.arch)).filter(|a| !a.is_hosts()).collect();
    if let Some(own) = names.iter().find(|n| abi::ALL.iter().any(|a| a.name == **n && a.is_hosts())) {
        return Err(format!("{own} programs are the host's own; start them with 'rhea user --arch {own}'"));
    }
    if let Some(bad) = names.iter().find(|n| !known.iter().any(|a| a.name == **n)) {
        let all: Vec<_> = known.iter().map(|a| a.name).collect();
        return Err(format!("no user mode for architecture '{bad}', expected one of {}", all.join(", ")));
    }
    let chosen = known.iter().filter(|a| names.is_empty() || names.iter().any(|n| n == a.name));
    if !Path::new(DIR).join("register").exists() && command != "status" {
        return Err(format!("{DIR}/register: not there; mount it: mount -t binfmt_misc binfmt_misc {DIR}"));
    }
    for a in chosen {
        let path = Path::new(DIR).join(entry(a.name));
        let fail = |e: std::io::Error| format!("{}: {e}", path.display());
        match command.as_str() {
            "install" => {
                if path.exists() {
                    std::fs::write(&path, "-1").map_err(fail)?;
                }
                let exe = starter().map_err(fail)?;
                let register = Path::new(DIR).join("register");
                std::fs::write(&register, line(a.name, a.machine, a.wide, &exe.to_string_lossy()))
                    .map_err(|e| format!("{}: {e}", register.display()))?;
                println!("{}: installed", a.name);
            }
            "remove" => {
                if path.exists() {
                    std::fs::write(&path, "-1").map_err(fail)?;
                }
                println!("{}: removed", a.name);
            }
            "status" => {
                let state = match std::fs::read_to_string(&path) {
                    Ok(text) => text.lines().take(2).collect::<Vec<_>>().join(", "),
                    Err(_) => "not installed".into(),
                };
                println!("{}: {state}", a.name);
            }
            other => return Err(format!("unknown command '{other}'; {USAGE}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_short_enough_and_names_the_machine() {
        let l = line("riscv64", 243, true, "/usr/bin/rhea");
        assert!(l.len() < 256 * 4, "{}", l.len());
        assert!(l.starts_with(":rhea-riscv64:M::\\x7f\\x45\\x4c\\x46"));
        assert!(l.contains("\\x02\\x00\\xf3\\x00:"));
        assert!(l.ends_with(":/usr/bin/rhea:POCF\n"));
        assert!(line("riscv32", 243, false, "/r").starts_with(":rhea-riscv32:M::\\x7f\\x45\\x4c\\x46\\x01"));
    }
}
