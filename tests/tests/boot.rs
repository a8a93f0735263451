//! Boots short enough for every run of the tests: a Linux kernel to power-off and to a shell, U-Boot in both of
//! its modes, a machine driven over QMP, `make run` on a terminal.
#![cfg(target_os = "linux")]

use std::{path::Path, process::Command, time::Duration};

use rhea_tests::{
    boot::{self, Linux, STEP, Scratch, linux, powers_off},
    process::Process,
    qmp::Qmp,
    workspace,
};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of guests are UTF-8")
}

/// Follows the guest's own checks; the sums are those of a real machine.
fn self_checks(guest: &mut Process, arch: &str, cpus: usize) -> Result<(), String> {
    let console = &mut guest.console;
    console.expect(&format!("GUEST-INIT-OK {arch}"), STEP)?;
    console.expect(&format!(" cpus={cpus}"), STEP)?;
    console.expect("GUEST-SHA256 de2f256064a0af797747c2b97505dc0b9f3df0de4f489eac731c23ae9ca9cc31", STEP)?;
    console.expect("GUEST-AWK 2668667000", STEP)?;
    console.expect("GUEST-FLOAT 7464.534242052", STEP)?;
    console.expect("GUEST-DONE", STEP)?;
    Ok(())
}

#[test]
fn riscv64_linux_powers_off() {
    let Some(mut guest) = linux("", &[]) else { return };
    self_checks(&mut guest, "riscv64", 1).and_then(|()| powers_off(&mut guest)).unwrap();
}

#[test]
fn riscv64_linux_with_four_vcpus_powers_off() {
    let Some(mut guest) = linux("", &["-smp", "4"]) else { return };
    self_checks(&mut guest, "riscv64", 4).and_then(|()| powers_off(&mut guest)).unwrap();
}

#[test]
fn riscv64_linux_gives_a_shell() {
    let Some(mut guest) = linux("quiet guest.shell", &[]) else { return };
    let mut session = || -> Result<(), String> {
        guest.console.expect("GUEST-DONE", STEP)?;
        guest.console.expect("# ", STEP)?;
        guest.console.send("echo answer=$((6 * 7))\n").map_err(|error| error.to_string())?;
        guest.console.expect("answer=42", STEP)?;
        guest.console.send("exit\n").map_err(|error| error.to_string())?;
        powers_off(&mut guest)
    };
    session().unwrap();
}

/// Debian's amd64 kernel in the translator on two processors that ACPI names; it ends with a triple fault.
#[test]
fn x86_64_linux_on_microvm_in_the_translator_resets() {
    if !boot::has_board("x86_64", "microvm") {
        return;
    }
    let Some(linux) = Linux::debian("x86_64") else { return };
    let mut guest =
        linux.start("microvm", "guest.reboot reboot=t", &["-accel", "tcg", "-smp", "2", "-m", "512"]);
    self_checks(&mut guest, "x86_64", 2).unwrap();
    let (status, _) = guest.wait(STEP).unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Whether SeaBIOS is installed where Debian puts it; said aloud when not.
fn seabios() -> bool {
    let there = Path::new("/usr/share/seabios/bios-256k.bin").is_file();
    if !there {
        rhea_tests::skip("the package seabios is not installed");
    }
    there
}

/// SeaBIOS finds its hardware and nothing to boot from.
#[test]
fn seabios_on_the_pc_boards_finds_no_disk() {
    for board in ["pc", "q35", "isapc"] {
        if !boot::has_board("x86_64", board) || !seabios() {
            return;
        }
        let mut guest = boot::start("x86_64", board, &["-accel", "tcg"]).unwrap();
        guest.console.expect("SeaBIOS (version", STEP).unwrap();
        guest.console.expect("No bootable device.", STEP).unwrap();
    }
}

/// OVMF's build with system management mode and Secure Boot, in flash that only that mode can write, to its shell; what it
/// keeps in its variables is in the file afterwards.
#[test]
fn ovmf_with_system_management_mode_gives_its_shell() {
    let scratch = Scratch::new("ovmf");
    if !boot::has_board("x86_64", "q35") {
        return;
    }
    let Some(flash) = boot::ovmf("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd", &scratch) else { return };
    let mut command = boot::command("x86_64", "q35,smm=on", &["-accel", "tcg", "-m", "256"]);
    command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]).args(flash);
    let mut guest = Process::piped(&mut command).unwrap();
    guest.console.expect("UEFI Interactive Shell", STEP).unwrap();
    guest.console.expect("any other key to continue", STEP).unwrap();
    guest.console.send("x").unwrap();
    guest.console.expect("Shell> ", STEP).unwrap();
    guest.console.send("ver\r").unwrap();
    guest.console.expect("UEFI v2.70", STEP).unwrap();
    guest.console.expect("Shell> ", STEP).unwrap();
    guest.console.send("reset -s\r").unwrap();
    powers_off(&mut guest).unwrap();
    let vars = std::fs::read(scratch.path("vars.fd")).unwrap();
    let name: Vec<u8> = "BootOrder".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(vars.windows(name.len()).any(|w| w == name), "the boot order is kept");
}

/// Debian's amd64 kernel through SeaBIOS, with ACPI and PCI Express, to power-off.
#[test]
fn x86_64_linux_on_q35_in_the_translator_powers_off() {
    if !boot::has_board("x86_64", "q35") || !seabios() {
        return;
    }
    let Some(linux) = Linux::debian("x86_64") else { return };
    let arguments = ["-accel", "tcg", "-m", "512"];
    let port = ["-device", "pcie-root-port,id=port", "-device", "virtio-rng-pci,bus=port"];
    let mut guest = linux.start("q35", "", &[&arguments[..], &port].concat());
    guest.console.expect("ECAM [mem 0xb0000000-0xbfffffff]", STEP).unwrap();
    guest.console.expect("pci 0000:01:00.0: [1af4:1044]", STEP).unwrap();
    self_checks(&mut guest, "x86_64", 1).and_then(|()| powers_off(&mut guest)).unwrap();
}

fn u_boot(guest: &mut Process) -> Result<(), String> {
    guest.console.expect("U-Boot 20", STEP)?;
    guest.console.expect("Hit any key to stop autoboot", STEP)?;
    guest.console.send("\n").map_err(|error| error.to_string())?;
    guest.console.expect("=> ", STEP)?;
    guest.console.send("setexpr x 0x1234 * 0x10; printenv x\n").map_err(|error| error.to_string())?;
    guest.console.expect("x=12340", STEP)?;
    guest.console.send("poweroff\n").map_err(|error| error.to_string())?;
    powers_off(guest)
}

#[test]
fn riscv64_u_boot_in_machine_mode_gives_its_prompt() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let Some(firmware) = boot::guest("riscv64/u-boot-m.bin") else { return };
    let mut guest = boot::start("riscv64", "virt", &["-m", "256", "-bios", text(&firmware)]).unwrap();
    u_boot(&mut guest).unwrap();
}

#[test]
fn riscv64_u_boot_over_opensbi_gives_its_prompt() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let (Some(firmware), Some(kernel)) =
        (boot::guest("riscv64/fw_dynamic.bin"), boot::guest("riscv64/u-boot-s.bin"))
    else {
        return;
    };
    let arguments = ["-m", "256", "-bios", text(&firmware), "-kernel", text(&kernel)];
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();
    guest.console.expect("OpenSBI v", STEP).unwrap();
    u_boot(&mut guest).unwrap();
}

#[test]
fn riscv64_linux_is_driven_over_qmp() {
    let scratch = Scratch::new("qmp");
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let Some(mut guest) = linux("guest.idle=1000", &["-qmp", &option]) else { return };
    let mut session = || -> Result<(), String> {
        let mut qmp = Qmp::connect(&socket, STEP)?;
        guest.console.expect("GUEST-IDLE", STEP)?;
        expect_status(&mut qmp, "running")?;
        qmp.execute("stop", Value::Null)?;
        qmp.event("STOP")?;
        expect_status(&mut qmp, "paused")?;
        qmp.execute("cont", Value::Null)?;
        qmp.event("RESUME")?;
        expect_status(&mut qmp, "running")?;
        let refused = qmp.execute("no-such-command", Value::Null);
        if !refused.as_ref().is_err_and(|error| error.starts_with("CommandNotFound")) {
            return Err(format!("no-such-command: {refused:?}"));
        }
        qmp.execute("quit", Value::Null)?;
        powers_off(&mut guest)
    };
    session().unwrap();
    assert!(!socket.exists(), "the socket is removed at the end");
}

fn expect_status(qmp: &mut Qmp, expected: &str) -> Result<(), String> {
    let status = qmp.execute("query-status", Value::Null)?;
    if status["status"] == expected {
        Ok(())
    } else {
        Err(format!("query-status: {status}, expected {expected}"))
    }
}

#[test]
fn make_run_gives_a_shell_on_the_terminal() {
    if !boot::has_board("x86_64", "q35") || boot::guest("x86_64/linux").is_none() {
        return;
    }
    let root = workspace::root();
    // A binary that is there already is not built again.
    let binary = std::env::var("RHEA_BIN").ok().map(|path| format!("RHEA={path}"));
    let arguments = binary.as_deref().map_or(vec!["run"], |binary| vec!["-o", "build", "run", binary]);
    let mut run = Process::on_terminal("make", &arguments, |command| {
        // What the outer make or cargo tells its children is not for this one.
        command.current_dir(&root).env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("CARGO");
        boot::forget_cargo(command);
    })
    .unwrap();
    let mut session = || -> Result<(), String> {
        run.console.expect("GUEST-INIT-OK", Duration::from_secs(600))?;
        run.console.expect("# ", STEP)?;
        run.console.send("echo answer=$((6 * 7))\r").map_err(|error| error.to_string())?;
        run.console.expect("answer=42", STEP)?;
        // Ctrl-C belongs to the guest: it ends the guest's command, not the emulator.
        // The command itself speaks first: until it has the terminal, the key would reach the shell, and between the
        // shell's fork and its exec it would be lost.
        run.console
            .send("sh -c 'echo busy=$((1 + 1)); exec sleep 1000'\r")
            .map_err(|error| error.to_string())?;
        run.console.expect("busy=2", STEP)?;
        run.console.send("\x03").map_err(|error| error.to_string())?;
        run.console.send("echo again=$((7 * 7))\r").map_err(|error| error.to_string())?;
        run.console.expect("again=49", STEP)?;
        // Ctrl-A x leaves.
        run.console.send("\x01x").map_err(|error| error.to_string())?;
        let (status, _) = run.wait(STEP)?;
        if status.success() { Ok(()) } else { Err(format!("{status}; it printed:\n{}", run.console.tail())) }
    };
    session().unwrap();
}

#[test]
fn the_binary_says_what_it_is() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let output = Command::new(boot::rhea()).arg("--version").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).to_lowercase().contains("rhea"));
}
