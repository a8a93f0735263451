//! Plugins of the translator: what they count is what the interpreter executed, what they see is what a program did, and one
//! in C compiled here uses all of the interface.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rhea_tests::programs::{COMPILERS, program, rhea, said};
use rhea_tests::tiny::{self, RISCV_STORE};
use rhea_tests::{boot, skip, workspace};

/// What Rhea wrote to its log while it ran a program, and the program's output.
fn run(options: &[&str], path: &Path) -> (String, String) {
    let out = rhea(options).arg(path).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(out.status.code().is_some(), "{}", said(&out));
    (text(&out.stderr), text(&out.stdout))
}

/// The number behind `name` in a text.
fn number(text: &str, name: &str) -> u64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let names: Vec<&str> = name.split_whitespace().collect();
    let at = words.windows(names.len()).position(|w| w == names);
    let n = at.and_then(|at| words.get(at + names.len())?.parse().ok());
    n.unwrap_or_else(|| panic!("no {name} in {text:?}"))
}

#[test]
fn eight_instructions_are_eight() {
    let dir = boot::Scratch::new("plugin-tiny");
    let path = dir.path("tiny");
    fs::write(&path, tiny::riscv_program()).unwrap();
    for options in [&["-plugin", "count"][..], &["-interp", "-plugin", "file=count"]] {
        assert_eq!(run(options, &path), ("instructions: 8\n".into(), stem(&path)));
    }
}

/// The first five bytes of a program's name, which is what the smallest one writes.
fn stem(path: &Path) -> String {
    path.to_string_lossy().chars().take(5).collect()
}

#[test]
fn counts_are_the_interpreters_own() {
    for (arch, _) in COMPILERS {
        let Some(path) = program(arch, "stores") else { continue };
        let (counted, _) = run(&["-seed", "1", "-plugin", "count"], &path);
        let (both, _) = run(&["-seed", "1", "-interp", "-d", "stats", "-plugin", "count"], &path);
        let executed = number(&both, "guest instructions interpreted");
        assert_eq!(number(&both, "instructions:"), executed, "{arch}");
        assert_eq!(number(&counted, "instructions:"), executed, "{arch}");
        assert!(executed > 1000, "{arch}: {executed}");
    }
}

/// Compiles the plugin in C; `None` (said) without a compiler.
fn compiled(dir: &boot::Scratch) -> Option<PathBuf> {
    let (root, out) = (workspace::root(), dir.path("watch.so"));
    let done = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-I"])
        .arg(root.join("tcg/plugin/include"))
        .arg("-o")
        .args([&out, &root.join("tests/programs/plugin/watch.c")])
        .output();
    let Ok(done) = done else {
        skip("plugins in C: no compiler");
        return None;
    };
    assert!(done.status.success(), "{}", said(&done));
    Some(out)
}

#[test]
fn a_plugin_in_c_sees_what_a_program_does() {
    let dir = boot::Scratch::new("plugin-c");
    let Some(object) = compiled(&dir) else { return };
    for (arch, _) in COMPILERS {
        let Some(path) = program(arch, "stores") else { continue };
        let (_, said) = run(&["-seed", "1"], &path);
        let (at, sum) = said.trim().split_once(' ').unwrap();
        assert_eq!(sum, "2080");
        let plugin = format!("file={},at={at}", object.display());
        let (text, again) = run(&["-seed", "1", "-plugin", &plugin, "-plugin", "count"], &path);
        assert_eq!(again, said, "{arch}");
        assert!(text.starts_with(&format!("{arch} counted ")), "{text}");
        let (counted, calls) = (number(&text, "counted"), number(&text, "calls"));
        assert_eq!([calls, number(&text, "blocks"), number(&text, "instructions:")], [counted; 3], "{arch}");
        assert_eq!([number(&text, "loads"), number(&text, "stores")], [64; 2], "{arch}");
        assert_eq!([number(&text, "sum"), number(&text, "threads")], [2 * 2080, 1], "{arch}");
    }
}

#[test]
fn accesses_of_helpers_are_seen() {
    // String instructions copy whole pages at once; all of the C library's zeros and copies count here.
    let Some(path) = program("x86_64", "stores") else { return };
    let lines = |options: &[&str]| run(options, &path).0.lines().count();
    let compiled = lines(&["-seed", "1", "-plugin", "memtrace"]);
    assert_eq!(compiled, lines(&["-seed", "1", "-interp", "-plugin", "memtrace"]));
    assert!(compiled > 500, "{compiled}");
}

#[test]
fn hot_blocks_come_first() {
    let Some(path) = program("riscv64", "stores") else { return };
    let (text, _) = run(&["-plugin", "hotblocks,top=3"], &path);
    let times: Vec<u64> =
        text.lines().skip(2).map(|l| l.split_whitespace().nth(1).unwrap().parse().unwrap()).collect();
    assert!(times.len() == 3 && times.is_sorted_by(|a, b| a >= b) && times[0] >= 64, "{text}");
}

#[test]
fn machines_have_plugins_too() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let dir = boot::Scratch::new("plugin-system");
    let (firmware, log) = (dir.path("firmware"), dir.path("log"));
    fs::write(&firmware, tiny::riscv_store()).unwrap();
    for backend in ["jit", "interp"] {
        let mut command =
            boot::command("riscv64", "virt", &["-display", "none", "-plugin", "memtrace,stores=on"]);
        command.args(["-plugin", "count", "-accel", &format!("tcg,backend={backend}"), "-D"]);
        let out = command.arg(&log).arg("-bios").arg(&firmware).output().unwrap();
        assert!(out.status.success(), "{}", said(&out));
        let text = fs::read_to_string(&log).unwrap();
        let store = format!("0 0x80000010 store 4 {RISCV_STORE:#x} 0x2a\n");
        assert!(text.starts_with(&store) && text.contains("store 4 0x100000 0x5555\n"), "{text}");
        assert!(number(&text, "instructions:") >= 9, "{text}");
    }
}

#[test]
fn what_cannot_be_loaded_is_said() {
    let dir = boot::Scratch::new("plugin-bad");
    let path = dir.path("tiny");
    fs::write(&path, tiny::riscv_program()).unwrap();
    let object = dir.path("text.so");
    fs::write(&object, "no object").unwrap();
    let name = object.to_string_lossy().into_owned();
    for (option, what) in [
        ("nothing.so", "nothing.so: No such file or directory"),
        (name.as_str(), "text.so"),
        ("count,x=1", "plugin count: no argument 'x'; there are: vcpus=on"),
        ("hotblocks,top=many", "top: expected a number, got 'many'"),
        ("file=", "expected [file=]NAME[,key=value...]"),
    ] {
        let out = rhea(&["-plugin", option]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            matches!(out.status.code(), Some(126 | 127)) && text.contains(what) && text.lines().count() == 1,
            "{text}"
        );
    }
}
