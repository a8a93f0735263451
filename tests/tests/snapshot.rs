//! A machine saved in the middle of a boot goes on from there in another process; a damaged file is refused.
#![cfg(target_os = "linux")]

use std::{fs, path::Path};

use rhea_tests::{
    boot::{self, STEP, Scratch, linux_command, powers_off},
    process::Process,
    qmp::Qmp,
    tiny,
};
use serde_json::json;

/// A line of the kernel in the middle of its boot.
const MIDDLE: &str = "Serial: 8250/16550 driver";

/// Saves under the tag `middle` when the kernel has come half the way, and ends the process.
fn save(guest: &mut Process, socket: &Path) -> Result<(), String> {
    guest.console.expect(MIDDLE, STEP)?;
    let mut qmp = Qmp::connect(socket, STEP)?;
    qmp.execute("stop", json!(null))?;
    let said = qmp.execute("human-monitor-command", json!({ "command-line": "savevm middle" }))?;
    if said != "" {
        return Err(format!("savevm: {said}"));
    }
    qmp.execute("quit", json!(null))?;
    powers_off(guest)
}

/// Starts the machine with its snapshots under `home`.
fn start(home: &Scratch, vcpus: &str, extra: &[&str]) -> Option<Process> {
    let mut command = linux_command("")?;
    command.env("XDG_STATE_HOME", home.path("state")).args(["-name", "boot", "-smp", vcpus]).args(extra);
    Some(Process::piped(&mut command).expect("the binary starts"))
}

#[test]
fn riscv64_linux_saved_in_mid_boot_goes_on_in_another_process() {
    let scratch = Scratch::new("snapshot");
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    for vcpus in ["1", "2"] {
        let Some(mut guest) = start(&scratch, vcpus, &["-qmp", &option]) else { return };
        save(&mut guest, &socket).unwrap();
        let Some(mut guest) = start(&scratch, vcpus, &["-loadvm", "middle"]) else { return };
        guest.console.expect("GUEST-FLOAT 7464.534242052", STEP).unwrap();
        guest.console.expect("GUEST-DONE", STEP).unwrap();
        powers_off(&mut guest).unwrap();
        assert!(!guest.console.text().contains("OpenSBI v"), "it did not start over");
    }
    refused(&scratch);
}

/// Saved by the translator's host code, carried on by its interpreter, saved there, and brought to the end by host code.
#[test]
fn a_snapshot_changes_the_back_end_in_mid_boot() {
    let scratch = Scratch::new("snapshot-backends");
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let Some(mut guest) = start(&scratch, "1", &["-qmp", &option]) else { return };
    save(&mut guest, &socket).unwrap();
    let interp = ["-accel", "tcg,backend=interp", "-loadvm", "middle", "-S", "-qmp", &option];
    let mut guest = start(&scratch, "1", &interp).expect("it ran before");
    let mut qmp = Qmp::connect(&socket, STEP).unwrap();
    let pc = |qmp: &mut Qmp| {
        let line = json!({ "command-line": "info registers" });
        qmp.execute("human-monitor-command", line).unwrap()
    };
    let before = pc(&mut qmp);
    qmp.execute("cont", json!(null)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    qmp.execute("stop", json!(null)).unwrap();
    assert_ne!(pc(&mut qmp), before, "the interpreter has not moved");
    let said = qmp.execute("human-monitor-command", json!({ "command-line": "savevm middle" })).unwrap();
    assert_eq!(said, "");
    qmp.execute("quit", json!(null)).unwrap();
    powers_off(&mut guest).unwrap();
    let mut guest = start(&scratch, "1", &["-loadvm", "middle"]).expect("it ran before");
    guest.console.expect("GUEST-DONE", STEP).unwrap();
    powers_off(&mut guest).unwrap();
}

/// `microvm` with a guest that counts timer interrupts is saved under one accelerator and goes on under the other, twice:
/// the hypervisor's registers, interrupt controllers and timers are the translator's and the other way round.
#[test]
fn an_x86_machine_changes_its_accelerator() {
    if !boot::has_board("x86_64", "microvm") || !boot::has_kvm() {
        return;
    }
    let scratch = Scratch::new("snapshot-accelerators");
    let (socket, kernel) = (scratch.path("socket"), scratch.path("kernel"));
    fs::write(&kernel, tiny::x86_pvh(tiny::X86::Ticks)).unwrap();
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let exit = format!("isa-debug-exit,iobase={:#x},iosize=4", tiny::DEBUG_EXIT_PORT);
    let run = |accelerator: &str, extra: &[&str]| {
        let common = ["-name", "boot", "-m", "64", "-cpu", "qemu64", "-device", &exit, "-qmp", &option];
        let mut command = boot::command("x86_64", "microvm", &common);
        command
            .env("XDG_STATE_HOME", scratch.path("state"))
            .args(["-accel", accelerator, "-kernel"])
            .arg(&kernel);
        Process::piped(command.args(extra)).expect("the binary starts")
    };
    // Every placement of the controllers that KVM has, and the translator between them.
    let kvm = |chips: &str| format!("kvm,kernel-irqchip={chips}");
    let stages =
        [kvm("on"), "tcg".into(), kvm("split"), "tcg,backend=interp".into(), kvm("off"), "tcg".into()];
    let mut seen = b'a';
    for (stage, accelerator) in stages.iter().enumerate() {
        let extra: &[&str] = if stage == 0 { &[] } else { &["-loadvm", "middle"] };
        let mut guest = run(accelerator, extra);
        seen += 2;
        guest.console.expect(&format!("TICK {}", seen as char), STEP).unwrap();
        let mut qmp = Qmp::connect(&socket, STEP).unwrap();
        qmp.execute("stop", json!(null)).unwrap();
        let line = json!({ "command-line": "savevm middle" });
        assert_eq!(qmp.execute("human-monitor-command", line).unwrap(), "", "{accelerator}");
        qmp.execute("quit", json!(null)).unwrap();
        powers_off(&mut guest).unwrap();
        let text = guest.console.text();
        assert!(!text.contains("BAD"), "{accelerator}: {text}");
        assert_eq!(text.contains("TICK a"), stage == 0, "{accelerator}: {text}");
        let last = |line: &str| line.strip_prefix("TICK ").and_then(|letter| letter.bytes().next());
        seen = text.lines().filter_map(last).next_back().expect("it printed");
    }
    let mut guest = run("kvm", &["-loadvm", "middle"]);
    let (status, _) = guest.wait(STEP).unwrap();
    assert_eq!(status.code(), Some(i32::from(tiny::DEBUG_EXIT_VALUE) << 1 | 1), "{}", guest.console.text());
}

/// A saved machine cut short, or with a changed byte, ends in one line and exit code 1.
fn refused(scratch: &Scratch) {
    let file = &scratch.path("state/rhea/snapshots/boot/middle.rhea");
    let whole = fs::read(file).expect("the snapshot is there");
    let half = whole[..whole.len() / 2].to_vec();
    let mut changed = whole.clone();
    changed[whole.len() / 3] ^= 0x10;
    for (what, bytes) in [("cut short", half), ("changed", changed), ("empty", Vec::new())] {
        fs::write(file, bytes).expect("the scratch folder is writable");
        let mut guest = start(scratch, "2", &["-loadvm", "middle"]).expect("it ran before");
        let (status, _) = guest.wait(STEP).expect("it ends at once");
        while !guest.console.is_closed() {
            guest.console.pump(std::time::Duration::from_millis(10));
        }
        let printed = guest.console.text();
        assert_eq!(status.code(), Some(1), "{what}: {printed}");
        assert_eq!(printed.trim_end().lines().count(), 1, "{what}: {printed}");
    }
}
