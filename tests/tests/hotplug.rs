//! Devices that come and go: Debian's kernel sees a disk appear and vanish on `pc` (ACPI) and on `q35` (a PCI Express slot),
//! and machines that stand before their first instruction answer `device_add` and `device_del`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::Path;
use std::process::{Command, Stdio};

use rhea_tests::boot::{self, Linux, STEP, Scratch};
use rhea_tests::qmp::{Controlled, Qmp};
use serde_json::{Value, json};

/// What the guest does: says what disks there are whenever that changes.
const SCRIPT: &str = "\
last=; n=0
echo WATCHING
while [ $n -lt 3000 ]; do
  now=$(ls /sys/block | tr '\\n' ' ')
  [ \"$now\" = \"$last\" ] || echo \"DISKS [$now]\"
  last=$now; n=$((n+1)); sleep 0.1
done
";

fn disk(scratch: &Scratch) -> String {
    let path = scratch.path("disk.img");
    std::fs::write(&path, vec![0x5a; 4 << 20]).unwrap();
    path.display().to_string()
}

fn add_node(qmp: &mut Qmp, format: &str, file: &str) {
    let node = json!({"driver": format, "node-name": "n0", "file": {"driver": "file", "filename": file}});
    qmp.execute("blockdev-add", node).unwrap();
}

/// A disk comes and goes twice under Debian's kernel.
fn comes_and_goes(board: &str, slot: &[&str], bus: Option<&str>) {
    if !boot::has_board("x86_64", board) {
        return;
    }
    let scratch = Scratch::new(&format!("hotplug-{board}"));
    let Some(linux) = Linux::running(env!("CARGO_BIN_EXE_mkinitrd"), &scratch, SCRIPT) else { return };
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let arguments = ["-accel", "tcg", "-m", "256", "-qmp", &option];
    let mut guest = linux.start(board, "quiet", &[&arguments[..], slot].concat());
    let mut qmp = Qmp::connect(&socket, STEP).unwrap();
    guest.console.expect("WATCHING", STEP).unwrap();
    add_node(&mut qmp, "raw", &disk(&scratch));
    for id in ["first", "second"] {
        let mut device = json!({"driver": "nvme", "id": id, "drive": "n0", "serial": "rhea"});
        if let Some(bus) = bus {
            device["bus"] = json!(bus);
        }
        qmp.execute("device_add", device).unwrap();
        guest.console.expect("DISKS [nvme0n1", STEP).unwrap();
        let e = qmp.execute("blockdev-del", json!({"node-name": "n0"})).unwrap_err();
        assert!(e.contains("in use"), "{e}");
        qmp.execute("device_del", json!({"id": id})).unwrap();
        let event = qmp.event("DEVICE_DELETED").unwrap();
        assert_eq!(event["data"], json!({"device": id, "path": format!("/machine/peripheral/{id}")}));
        guest.console.expect("DISKS [", STEP).unwrap();
        assert!(!guest.console.text().ends_with("nvme0n1"));
    }
    qmp.execute("blockdev-del", json!({"node-name": "n0"})).unwrap();
    qmp.execute("quit", Value::Null).unwrap();
    boot::powers_off(&mut guest).unwrap();
}

#[test]
fn x86_64_linux_sees_a_disk_come_and_go_by_acpi() {
    comes_and_goes("pc", &[], None);
}

#[test]
fn x86_64_linux_sees_a_disk_come_and_go_in_a_slot() {
    comes_and_goes("q35", &["-device", "pcie-root-port,id=rp,slot=1,chassis=1"], Some("rp"));
}

/// A machine that stands.
fn standing(state: &Path, socket: &Path, board: &str, more: &[&str]) -> Controlled {
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let _ = std::fs::remove_file(socket);
    let mut command = boot::command("x86_64", board, &["-S", "-accel", "tcg", "-m", "64", "-nodefaults"]);
    command.args(["-qmp", &option]).args(more).env("XDG_STATE_HOME", state);
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    Controlled::new(process, socket)
}

#[test]
fn what_was_plugged_is_saved_and_what_cannot_be_is_refused() {
    if !boot::has_board("x86_64", "pc") || !boot::has_board("x86_64", "q35") {
        return;
    }
    let scratch = Scratch::new("hotplug");
    let (state, socket) = (scratch.path("state"), scratch.path("socket"));
    let file = scratch.path("disk.qcow2").display().to_string();
    let mut make = Command::new(boot::rhea());
    assert!(make.args(["img", "create", "-q", "-f", "qcow2", &file, "4M"]).status().unwrap().success());
    let mut m = standing(&state, &socket, "pc", &["-device", "virtio-scsi-pci,id=scsi0"]);
    add_node(&mut m.qmp, "qcow2", &file);
    m.refused("device_add", json!({"driver": "floppy", "id": "f"}), "does not support hotplugging");
    m.refused("device_add", json!({"driver": "nothing"}), "'nothing' is not a valid device model name");
    m.refused("device_add", json!({"driver": "nvme", "drive": "n0", "bus": "no"}), "Bus 'no' not found");
    m.refused("device_add", json!({"driver": "VGA"}), "Device 'VGA' does not support hotplugging");
    m.refused("device_add", json!({"driver": "nvme", "drive": "n1"}), "'n1'");
    m.refused("device_add", json!({"driver": "nvme", "drive": "n0", "addr": "1"}), "1.0 is not free");
    m.refused(
        "device_add",
        json!({"driver": "virtio-rng-pci", "id": "scsi0"}),
        "Duplicate device ID 'scsi0'",
    );
    m.refused("device_del", json!({"id": "no"}), "Device 'no' not found");
    // Drives of a SCSI adapter come and go at once.
    m.ok("device_add", json!({"driver": "scsi-hd", "id": "sd", "drive": "n0", "scsi-id": 3}));
    m.refused("device_add", json!({"driver": "scsi-cd", "scsi-id": 3}), "taken");
    m.ok("device_del", json!({"id": "sd"}));
    assert_eq!(m.qmp.event("DEVICE_DELETED").unwrap()["data"]["device"], "sd");
    // A network and a card for it.
    m.ok("netdev_add", json!({"type": "user", "id": "u0"}));
    m.ok("device_add", json!({"driver": "e1000", "id": "card", "netdev": "u0", "addr": "5"}));
    m.ok("device_add", json!({"driver": "nvme", "id": "disk", "drive": "n0", "serial": "a", "addr": "6"}));
    assert_eq!(m.ok("human-monitor-command", json!({"command-line": "savevm plugged"})), "");
    // No guest answers, until it starts over.
    m.ok("device_del", json!({"id": "card"}));
    m.ok("system_reset", Value::Null);
    assert_eq!(m.qmp.event("DEVICE_DELETED").unwrap()["data"]["device"], "card");
    m.ok("netdev_del", json!({"id": "u0"}));
    let said = m.ok("human-monitor-command", json!({"command-line": "loadvm plugged"}));
    assert!(said.as_str().unwrap().contains("board"), "{said}");
    drop(m);
    // The same machine from the start.
    let node = format!("driver=qcow2,node-name=n0,file.driver=file,file.filename={file}");
    let mut m = standing(
        &state,
        &socket,
        "pc",
        &[
            "-blockdev",
            &node,
            "-netdev",
            "user,id=u0",
            "-device",
            "virtio-scsi-pci,id=scsi0,addr=2",
            "-device",
            "e1000,id=card,netdev=u0,addr=5",
            "-device",
            "nvme,id=disk,drive=n0,serial=a,addr=6",
        ],
    );
    assert_eq!(m.ok("human-monitor-command", json!({"command-line": "loadvm plugged"})), "");
    drop(m);
    let port = ["-device", "pcie-root-port,id=rp", "-device", "virtio-rng-pci,id=rng"];
    let mut m = standing(&state, &socket, "q35", &port);
    m.refused("device_add", json!({"driver": "e1000"}), "Bus 'pcie.0' does not support hotplugging");
    m.refused("device_del", json!({"id": "rng"}), "Bus 'pcie.0' does not support hotplugging");
    m.ok("device_add", json!({"driver": "e1000", "bus": "rp", "id": "card"}));
    m.refused("device_add", json!({"driver": "e1000", "bus": "rp"}), "slot");
    m.refused("device_add", json!({"driver": "pcie-root-port", "bus": "rp"}), "does not support hotplugging");
}
