//! Every bad option ends in one line that names what was wrong and what is allowed, with exit code 1.
#![cfg(target_os = "linux")]

use std::{process::Command, time::Duration};

use rhea_tests::{
    boot::{self, Scratch},
    process::Process,
};

/// Arguments after `rhea run`, and what the line must hold: the bad thing first, then what was expected.
const BAD: &[(&[&str], &[&str])] = &[
    (&["-M", "virtt"], &["virtt", "virt"]),
    (&["-M", "virt", "-cpu", "rv65"], &["rv65"]),
    (&["-M", "virt", "-m", "0"], &["-m"]),
    (&["-M", "virt", "-m", "12parsecs"], &["12parsecs"]),
    (&["-M", "virt", "-m", "16777216T"], &["-m"]),
    (&["-M", "virt", "-smp", "0"], &["smp"]),
    (&["-M", "virt", "-smp", "1000000"], &["1000000"]),
    (&["-M", "virt", "-kernel", "/nonexistent/kernel"], &["/nonexistent/kernel"]),
    (&["-M", "virt", "-bios", "/nonexistent/firmware"], &["/nonexistent/firmware"]),
    (&["-M", "virt", "-accel", "warp"], &["warp", "tcg"]),
    (&["-M", "virt", "-device", "virtio-teapot"], &["virtio-teapot"]),
    (&["-M", "virt", "-device", "virtio-rng-device,flavour=mint"], &["flavour"]),
    (&["-M", "virt", "-drive", "file=/nonexistent/disk,if=none,id=d"], &["/nonexistent/disk"]),
    (&["-M", "virt", "-kernal", "x"], &["kernal", "kernel"]),
    (&["-M", "virt", "-qmp", "carrier-pigeon"], &["carrier-pigeon"]),
    (&["-M", "virt", "-serial", "semaphore"], &["semaphore"]),
    (&["-M", "virt", "-gdb", "carrier-pigeon"], &["carrier-pigeon"]),
    (&["-M", "virt", "-netdev", "telepathy,id=n"], &["telepathy"]),
    (&["-M", "virt", "-kernel", "/dev/null"], &["/dev/null"]),
    (&["-M", "virt", "-kernel", "/"], &["/", "directory"]),
    (&["-M", "virt", "-bios", "none", "-initrd", "/nonexistent/initrd"], &["initrd"]),
    (&["-M", "virt,colour=red"], &["colour"]),
    (&["-M", "virt", "-cpu", "rv64,wings=on"], &["wings"]),
    (&["-M", "virt", "-accel", "tcg,backend=steam"], &["steam"]),
    (&["-M", "virt", "-smp", "2", "-smp"], &["smp"]),
    (&["-M", "virt", "-loadvm", "/nonexistent/snapshot"], &["/nonexistent/snapshot"]),
    (&["-M", "virt", "/nonexistent/positional"], &["/nonexistent/positional"]),
];

/// Runs to the end, which a bad option reaches at once: exit code and all that was printed.
fn run(arguments: &[&str]) -> Result<(Option<i32>, String), String> {
    let mut process =
        Process::piped(Command::new(boot::rhea()).args(arguments)).map_err(|error| error.to_string())?;
    let (status, _) = process.wait(Duration::from_secs(60))?;
    // What was still in the pipe when it ended.
    while !process.console.is_closed() {
        process.console.pump(Duration::from_millis(10));
    }
    Ok((status.code(), process.console.text()))
}

#[test]
fn bad_options_are_named_in_one_line() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let mut breaches = Vec::new();
    for (arguments, words) in BAD {
        let mut complain = |what: String| breaches.push(format!("{arguments:?}: {what}"));
        let (code, printed) = match run(&[&["run", "--arch", "riscv64", "-nographic"], *arguments].concat()) {
            Ok(end) => end,
            Err(error) => {
                complain(error);
                continue;
            }
        };
        if code != Some(1) {
            complain(format!("exit code {code:?}, expected 1; printed {printed:?}"));
        }
        if printed.trim_end().lines().count() != 1 {
            complain(format!("expected one line; printed {printed:?}"));
        }
        for word in *words {
            if !printed.contains(word) {
                complain(format!("expected {word:?} in it; printed {printed:?}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn every_list_can_be_asked_for() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let lists: &[(&[&str], &str)] = &[
        (&["-M", "help"], "virt"),
        (&["-M", "virt", "-cpu", "help"], "rv64"),
        (&["-accel", "help"], "tcg"),
        (&["-device", "help"], "virtio-blk-device"),
        (&["-device", "virtio-blk-device,help"], "serial"),
        (&["--help"], "-kernel"),
        (&["--version"], "Rhea"),
    ];
    for (arguments, expected) in lists {
        let (code, printed) = run(&[&["run", "--arch", "riscv64"], *arguments].concat()).unwrap();
        assert_eq!(code, Some(0), "{arguments:?}: {printed}");
        assert!(printed.contains(expected), "{arguments:?}: expected {expected:?} in {printed}");
    }
}

#[test]
fn an_unknown_architecture_is_named() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let (code, printed) = run(&["run", "--arch", "pdp12", "-M", "virt"]).unwrap();
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("pdp12") && printed.contains("riscv64"), "{printed}");
}

#[test]
fn nothing_is_created_when_an_option_is_bad() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("options");
    let pidfile = scratch.path("pid").display().to_string();
    let socket = format!("unix:{},server=on,wait=off", scratch.path("qmp").display());
    let bad = ["-M", "virt", "-nographic", "-kernel", "/nonexistent/kernel"];
    let end =
        run(&[&["run", "--arch", "riscv64"], &bad[..], &["-pidfile", &pidfile, "-qmp", &socket]].concat());
    let (code, printed) = end.unwrap();
    assert_eq!(code, Some(1), "{printed}");
    assert_eq!(scratch.names(), Vec::<String>::new(), "left behind");
}
