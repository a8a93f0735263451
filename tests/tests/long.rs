//! The long boots (`make boot-tests`): Debian's installer to its first dialog, a reset and a second boot, Linux
//! on `microvm` under KVM, Linux on the interpreter, and Debian's riscv64 programs compared with QEMU's user mode.
#![cfg(target_os = "linux")]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rhea_tests::{
    boot::{self, Linux, STEP, Scratch, powers_off},
    process::Process,
    skip, workspace,
};

/// A boot that is slow by nature.
const LONG: Duration = Duration::from_secs(1800);

#[test]
fn debian_installer_reaches_its_first_dialog() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let installer = boot::guest("riscv64/installer-initrd.gz").and_then(|file| Linux::with("riscv64", file));
    let Some(installer) = installer else { return };
    let mut guest = installer.start("virt", "", &["-m", "1024", "-smp", "2"]);
    guest.console.expect("[!!] Select a language", LONG).unwrap();
}

#[test]
fn riscv64_linux_resets_and_boots_again() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let Some(linux) = Linux::debian("riscv64") else { return };
    // Not as elsewhere: a reset does not end it.
    let mut command = Command::new(boot::rhea());
    command.args(["run", "--arch", "riscv64", "-M", "virt", "-nographic", "-m", "512"]);
    let mut guest = Process::piped(command.args(linux.options("guest.reboot"))).unwrap();
    for _ in 0..3 {
        guest.console.expect("GUEST-DONE", LONG).unwrap();
    }
}

#[test]
fn riscv64_linux_on_the_interpreter_powers_off() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let Some(linux) = Linux::debian("riscv64") else { return };
    let mut guest = linux.start("virt", "", &["-accel", "tcg,backend=interp", "-m", "256"]);
    guest.console.expect("GUEST-FLOAT 7464.534242052", LONG).unwrap();
    guest.console.expect("GUEST-DONE", LONG).unwrap();
    powers_off(&mut guest).unwrap();
}

/// Debian's amd64 kernel on one processor of the multiprocessor table, and on more that ACPI names, to its power-off.
#[test]
fn x86_64_linux_on_microvm_with_few_and_many_processors() {
    if !boot::has_board("x86_64", "microvm") {
        return;
    }
    let Some(linux) = Linux::debian("x86_64") else { return };
    for (acpi, vcpus, words) in [("off", 1, "guest.reboot reboot=t"), ("on", 4, ""), ("on", 8, "")] {
        let (board, count) = (format!("microvm,acpi={acpi}"), vcpus.to_string());
        let mut guest = linux.start(&board, words, &["-accel", "tcg", "-m", "512", "-smp", &count]);
        guest.console.expect("GUEST-INIT-OK x86_64", LONG).unwrap();
        guest.console.expect(&format!("cpus={vcpus}"), LONG).unwrap();
        guest.console.expect("GUEST-DONE", LONG).unwrap();
        let (status, _) = guest.wait(LONG).unwrap();
        assert_eq!(status.code(), Some(0), "{acpi}, {vcpus}");
    }
}

#[test]
fn x86_64_linux_on_microvm_under_kvm_ends() {
    if !boot::has_board("x86_64", "microvm") || !boot::has_native_kvm() {
        return;
    }
    let Some(linux) = Linux::debian("x86_64") else { return };
    let mut guest = linux.start("microvm", "guest.reboot", &["-accel", "kvm", "-m", "512"]);
    guest.console.expect("GUEST-INIT-OK x86_64", LONG).unwrap();
    guest.console.expect("GUEST-FLOAT 7464.534242052", LONG).unwrap();
    guest.console.expect("GUEST-DONE", LONG).unwrap();
    powers_off(&mut guest).unwrap();
}

/// OVMF to its shell: on both PCs in flash, and as a plain ROM.
#[test]
fn ovmf_gives_its_shell() {
    if !boot::has_board("x86_64", "pc") || !boot::has_board("x86_64", "q35") {
        return;
    }
    let scratch = Scratch::new("ovmf-long");
    let Some(flash) = boot::ovmf("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", &scratch) else { return };
    let rom = vec!["-bios".to_owned(), "/usr/share/ovmf/OVMF.fd".to_owned()];
    for (board, firmware) in [("pc", &flash), ("q35,hpet=on", &flash), ("q35", &rom)] {
        let mut command = boot::command("x86_64", board, &["-accel", "tcg", "-m", "256"]);
        let mut guest = Process::piped(command.args(firmware)).unwrap();
        guest.console.expect("Shell> ", LONG).unwrap();
        guest.console.send("reset -s\r").unwrap();
        let (status, _) = guest.wait(STEP).unwrap();
        assert_eq!(status.code(), Some(0), "{board}");
    }
}

/// The programs of `resources/guest/programs` say the same in a guest as under QEMU's user mode.
#[test]
fn riscv64_programs_say_what_they_say_elsewhere() {
    let Some(python) = boot::guest("userland/usr/bin/python3") else { return };
    let tree = python.ancestors().nth(3).expect("usr/bin/python3 is below it");
    let programs = workspace::root().join("resources/guest/programs");
    let Some(wanted) = programs_elsewhere(tree, &programs) else { return };
    let scratch = Scratch::new("programs");
    let initrd = scratch.path("initrd");
    let linux = Linux::with("riscv64", initrd.clone());
    let (Some(linux), Some(busybox)) = (linux, boot::guest("riscv64/busybox")) else { return };
    let made = Command::new(env!("CARGO_BIN_EXE_mkinitrd"))
        .arg(&initrd)
        .arg(workspace::root().join("resources/guest/init"))
        .arg(&busybox)
        .arg(format!("/={}", tree.display()))
        .arg(format!("programs={}", programs.display()))
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mkinitrd failed");
    for cpu in ["rv64", "rv64,v=true,vlen=256", "rva22s64"] {
        let mut guest = linux.start("virt", "quiet", &["-cpu", cpu, "-m", "1024", "-smp", "2"]);
        guest.console.expect("GUEST-IRQS", LONG).unwrap();
        let said = guest.console.expect("PROGRAMS-END", LONG).unwrap().replace('\r', "");
        let said = said.split_once("PROGRAM").expect("a program has run").1;
        let wanted = wanted.split_once("PROGRAM").expect("a program has run").1;
        for (line, (here, there)) in said.lines().zip(wanted.lines()).enumerate() {
            assert_eq!(here, there, "-cpu {cpu}: line {}", line + 1);
        }
        assert_eq!(said.trim_end().lines().count(), wanted.trim_end().lines().count(), "-cpu {cpu}");
        guest.console.expect("GUEST-DONE", LONG).unwrap();
    }
}

/// What the programs say under `qemu-riscv64`; `None`, said aloud, if that is not installed.
fn programs_elsewhere(tree: &Path, programs: &Path) -> Option<String> {
    if Command::new("qemu-riscv64").arg("--version").output().is_err() {
        skip("qemu-riscv64 is not installed, no programs were compared");
        return None;
    }
    let script = "run() { echo \"PROGRAM $1\"; name=$1; shift; \
        qemu-riscv64 -cpu max -L \"$TREE\" -E PYTHONHOME=/usr \"$TREE/usr/bin/$name\" \"$@\" 2>&1; echo \"STATUS $?\"; }; \
        . \"$PROGRAMS\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .env("TREE", tree)
        .env("PROGRAMS", programs)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .expect("sh is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = text.lines().filter(|line| line.starts_with("STATUS ") && *line != "STATUS 0").count();
    assert_eq!(failed, 0, "programs failed under QEMU:\n{text}");
    Some(text)
}
