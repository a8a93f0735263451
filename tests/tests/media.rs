//! Media changed by QMP in drives of every controller, of a PC that stands before its first instruction.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};

use rhea_tests::boot::{self, Scratch};
use rhea_tests::qmp::Controlled;
use serde_json::{Value, json};

struct Machine(Controlled);

impl Deref for Machine {
    type Target = Controlled;
    fn deref(&self) -> &Controlled {
        &self.0
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Controlled {
        &mut self.0
    }
}

impl Machine {
    /// Awaits that a tray has moved.
    #[track_caller]
    fn moved(&mut self, id: &str, open: bool) {
        let event = self.qmp.event("DEVICE_TRAY_MOVED").unwrap();
        assert_eq!((&event["data"]["id"], &event["data"]["tray-open"]), (&json!(id), &json!(open)));
    }

    /// The file in a drive, and whether its tray is open.
    fn medium(&mut self, qdev: &str) -> (Value, Value) {
        let all = self.ok("query-block", json!({}));
        let drive = all.as_array().unwrap().iter().find(|d| d["qdev"] == qdev).unwrap();
        assert_eq!(drive["removable"], true);
        (drive["inserted"]["file"].clone(), drive["tray_open"].clone())
    }
}

#[test]
fn media_change() {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let scratch = Scratch::new("media");
    let file = |name: &str| {
        let path = scratch.path(name);
        std::fs::write(&path, vec![name.as_bytes()[0]; 40 << 10]).unwrap();
        path.display().to_string()
    };
    let [a, b, f] = ["a", "b", "f"].map(file);
    let socket = scratch.path("qmp");
    let process = Command::new(boot::rhea())
        .args([
            "run",
            "--arch",
            "x86_64",
            "-M",
            "pc",
            "-accel",
            "tcg",
            "-S",
            "-nodefaults",
            "-display",
            "none",
        ])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
        .args(["-drive", &format!("if=none,id=c0,file={a},format=raw,media=cdrom")])
        .args(["-device", "ide-cd,drive=c0,id=cd", "-device", "virtio-scsi-pci", "-device", "scsi-cd,id=sc"])
        .args(["-drive", &format!("if=floppy,id=f0,file={f},format=raw")])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut m = Machine(Controlled::new(process, &socket));
    assert_eq!(m.medium("cd"), (json!(a), json!(false)));
    assert_eq!(m.medium("sc"), (Value::Null, json!(false)));

    // Step by step, with a node.
    m.refused("blockdev-remove-medium", json!({"id": "cd"}), "not open");
    m.ok("blockdev-open-tray", json!({"id": "cd"}));
    m.moved("cd", true);
    m.ok(
        "blockdev-add",
        json!({"driver": "raw", "node-name": "x", "read-only": true,
        "file": {"driver": "file", "filename": b}}),
    );
    m.refused("blockdev-insert-medium", json!({"id": "cd", "node-name": "x"}), "already is a medium");
    m.ok("blockdev-remove-medium", json!({"id": "cd"}));
    m.ok("blockdev-insert-medium", json!({"id": "cd", "node-name": "x"}));
    m.ok("blockdev-close-tray", json!({"id": "cd"}));
    m.moved("cd", false);
    m.refused("blockdev-del", json!({"node-name": "x"}), "in use");
    assert_eq!(m.medium("cd"), (json!(b), json!(false)));
    m.ok("eject", json!({"device": "c0"}));
    m.moved("cd", true);
    assert_eq!(m.medium("cd"), (Value::Null, json!(true)));
    m.ok("blockdev-del", json!({"node-name": "x"}));

    // All at once. What cannot be opened changes nothing.
    m.ok("blockdev-change-medium", json!({"id": "sc", "filename": b}));
    m.moved("sc", true);
    m.moved("sc", false);
    m.refused("blockdev-change-medium", json!({"id": "sc", "filename": "/nonexistent/d"}), "/nonexistent/d");
    assert_eq!(m.medium("sc"), (json!(b), json!(false)));
    m.ok("human-monitor-command", json!({"command-line": format!("change f0 {a} raw")}));
    assert_eq!(m.medium("f0"), (json!(a), Value::Null));
    m.ok("human-monitor-command", json!({"command-line": "eject f0"}));
    // The image is free again.
    m.ok("blockdev-change-medium", json!({"id": "cd", "filename": a, "read-only-mode": "read-only"}));
    m.refused("blockdev-open-tray", json!({"id": "f0"}), "does not have a tray");
    m.refused("eject", json!({"device": "zz"}), "not found");
}
