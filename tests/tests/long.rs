//! The long boots (`make boot-tests`): Debian's installer to its first dialog, a reset and a second boot, Linux
//! on `microvm` under KVM, and Linux on the interpreter.
#![cfg(target_os = "linux")]

use std::{path::Path, time::Duration};

use rhea_tests::boot::{self, APPEND, STEP};

/// A boot that is slow by nature.
const LONG: Duration = Duration::from_secs(1800);

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of guests are UTF-8")
}

#[test]
fn debian_installer_reaches_its_first_dialog() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let (Some(firmware), Some(kernel), Some(initrd)) = (
        boot::guest("riscv64/fw_dynamic.bin"),
        boot::guest("riscv64/linux"),
        boot::guest("riscv64/installer-initrd.gz"),
    ) else {
        return;
    };
    let arguments = [
        "-m",
        "1024",
        "-smp",
        "2",
        "-bios",
        text(&firmware),
        "-kernel",
        text(&kernel),
        "-initrd",
        text(&initrd),
        "-append",
        APPEND,
    ];
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();
    guest.console.expect("[!!] Select a language", LONG).unwrap();
}

#[test]
fn riscv64_linux_resets_and_boots_again() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let (Some(firmware), Some(kernel), Some(initrd)) = (
        boot::guest("riscv64/fw_dynamic.bin"),
        boot::guest("riscv64/linux"),
        boot::guest("riscv64/initrd.gz"),
    ) else {
        return;
    };
    let append = format!("{APPEND} guest.reboot");
    let mut command = std::process::Command::new(boot::rhea());
    command.args([
        "run",
        "--arch",
        "riscv64",
        "-M",
        "virt",
        "-nographic",
        "-m",
        "512",
        "-bios",
        text(&firmware),
    ]);
    command.args(["-kernel", text(&kernel), "-initrd", text(&initrd), "-append", &append]);
    let mut guest = rhea_tests::process::Process::piped(&mut command).unwrap();
    for _ in 0..3 {
        guest.console.expect("GUEST-DONE", LONG).unwrap();
    }
}

#[test]
fn riscv64_linux_on_the_interpreter_powers_off() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let (Some(firmware), Some(kernel), Some(initrd)) = (
        boot::guest("riscv64/fw_dynamic.bin"),
        boot::guest("riscv64/linux"),
        boot::guest("riscv64/initrd.gz"),
    ) else {
        return;
    };
    let arguments = [
        "-accel",
        "tcg,backend=interp",
        "-m",
        "256",
        "-bios",
        text(&firmware),
        "-kernel",
        text(&kernel),
        "-initrd",
        text(&initrd),
        "-append",
        APPEND,
    ];
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();
    guest.console.expect("GUEST-FLOAT 7464.534242052", LONG).unwrap();
    guest.console.expect("GUEST-DONE", LONG).unwrap();
    let (status, _) = guest.wait(STEP).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn x86_64_linux_on_microvm_under_kvm_ends() {
    if !boot::has_board("x86_64", "microvm") || !boot::has_kvm() {
        return;
    }
    let (Some(kernel), Some(initrd)) = (boot::guest("x86_64/linux"), boot::guest("x86_64/initrd.gz")) else {
        return;
    };
    let append = format!("{APPEND} guest.reboot");
    let arguments = [
        "-accel",
        "kvm",
        "-m",
        "512",
        "-kernel",
        text(&kernel),
        "-initrd",
        text(&initrd),
        "-append",
        &append,
    ];
    let mut guest = boot::start("x86_64", "microvm", &arguments).unwrap();
    guest.console.expect("GUEST-INIT-OK x86_64", LONG).unwrap();
    guest.console.expect("GUEST-FLOAT 7464.534242052", LONG).unwrap();
    guest.console.expect("GUEST-DONE", LONG).unwrap();
    let (status, _) = guest.wait(STEP).unwrap();
    assert_eq!(status.code(), Some(0));
}
