//! A running machine moves to another process; whatever goes wrong, exactly one of the two goes on.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rhea_tests::{
    boot::{self, STEP, Scratch},
    process::Process,
    qmp::Qmp,
    tiny,
};
use serde_json::{Value, json};

/// A machine under control.
struct Machine {
    process: Process,
    qmp: Qmp,
}

impl Machine {
    fn start(scratch: &Scratch, name: &str, extra: &[&str]) -> Self {
        let socket = scratch.path(name);
        let firmware = scratch.path("firmware");
        if !firmware.exists() {
            fs::write(&firmware, tiny::riscv_count()).unwrap();
        }
        let option = format!("unix:{},server=on,wait=off", socket.display());
        let base = ["-m", "16", "-bios", firmware.to_str().unwrap(), "-qmp", &option];
        let process = boot::start("riscv64", "virt", &[&base, extra].concat()).unwrap();
        let qmp = Qmp::connect(&socket, STEP).unwrap();
        Self { process, qmp }
    }

    fn status(&mut self) -> String {
        self.qmp.execute("query-status", json!(null)).unwrap()["status"].as_str().unwrap().to_owned()
    }

    /// What the guest has counted to.
    fn count(&mut self) -> u64 {
        let line = format!("xp /1dg {:#x}", tiny::RISCV_STORE);
        let said = self.qmp.execute("human-monitor-command", json!({ "command-line": line })).unwrap();
        let text = said.as_str().unwrap();
        text.split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
    }

    fn counts(&mut self) {
        let before = self.count();
        let deadline = Instant::now() + STEP;
        while self.count() <= before {
            assert!(Instant::now() < deadline, "the guest stands at {before}");
        }
    }

    fn migrate(&mut self, uri: &str) {
        self.qmp.execute("migrate", json!({ "uri": uri })).unwrap();
    }

    /// Waits for the end of a migration.
    fn end(&mut self) -> Value {
        let deadline = Instant::now() + STEP;
        loop {
            let info = self.qmp.execute("query-migrate", json!(null)).unwrap();
            if matches!(info["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
                return info;
            }
            assert!(Instant::now() < deadline, "{info}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end of the process: exit code and what it printed.
    fn leaves(mut self) -> (Option<i32>, String) {
        let (status, _) = self.process.wait(STEP).unwrap();
        while !self.process.console.is_closed() {
            self.process.console.pump(Duration::from_millis(10));
        }
        (status.code(), self.process.console.text())
    }

    fn quit(mut self) {
        self.qmp.execute("quit", json!(null)).unwrap();
        assert_eq!(self.leaves().0, Some(0));
    }
}

#[test]
fn a_running_machine_moves() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("migrate");
    let disk = scratch.path("disk");
    fs::write(&disk, [0; 65536]).unwrap();
    let disk = ["-blockdev", &format!("file,node-name=d,filename={}", disk.display())].map(str::to_owned);
    let extra = [&disk[0], &disk[1], "-device", "virtio-blk-device,drive=d"];
    let way = format!("unix:{}", scratch.path("way").display());

    let mut source = Machine::start(&scratch, "a", &extra);
    source.counts();
    let mut target = Machine::start(&scratch, "b", &[&extra[..], &["-incoming", "defer"]].concat());
    assert_eq!(target.status(), "inmigrate");
    target.qmp.execute("migrate-incoming", json!({ "uri": way })).unwrap();
    source.migrate(&way);
    assert_eq!(source.qmp.event("MIGRATION").unwrap()["data"]["status"], "setup");
    let info = source.end();
    assert_eq!(info["status"], "completed", "{info}");
    assert_eq!(source.status(), "postmigrate");
    let moved = source.count();
    target.counts();
    assert!(target.count() > moved && source.count() == moved, "the source stands, the target goes on");
    assert_eq!(target.status(), "running");
    // The disk has changed hands.
    let e = source.qmp.execute("cont", json!(null)).unwrap_err();
    assert!(e.contains("in use by another process"), "{e}");
    target.quit();
    source.qmp.execute("cont", json!(null)).unwrap();
    source.counts();
    source.quit();
}

#[test]
fn a_machine_that_is_not_taken_goes_on() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("migrate-fails");
    let way = format!("unix:{}", scratch.path("way").display());
    let mut source = Machine::start(&scratch, "a", &[]);
    source.migrate(&way);
    let info = source.end();
    assert!(info["error-desc"].as_str().unwrap().contains("way: No such file"), "{info}");
    source.counts();

    // Another machine refuses, and says why on both sides.
    let other = Machine::start(&scratch, "b", &["-device", "virtio-rng-device", "-incoming", &way]);
    source.migrate(&way);
    let info = source.end();
    let why = info["error-desc"].as_str().unwrap();
    assert!(why.contains("board: lacks 'device virtio-rng-device"), "{info}");
    let (code, said) = other.leaves();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("board: lacks") && said.trim_end().lines().count() == 1, "{said}");
    source.counts();

    // A slow way out is cancelled.
    source.qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 1024 })).unwrap();
    source.migrate(&format!("file:{}", scratch.path("slow").display()));
    thread::sleep(Duration::from_millis(50));
    source.qmp.execute("migrate_cancel", json!(null)).unwrap();
    assert_eq!(source.end()["status"], "cancelled");
    source.counts();
    let e = source.qmp.execute("migrate", json!({ "uri": "pigeon:x" })).unwrap_err();
    assert!(e.contains("unknown migration protocol: pigeon:x; expected tcp:HOST:PORT"), "{e}");
    source.quit();
}

#[test]
fn a_machine_waits_in_a_file() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("migrate-file");
    let file = scratch.path("file");
    let mut source = Machine::start(&scratch, "a", &[]);
    source.counts();
    source.migrate(&format!("exec:cat > {}", file.display()));
    assert_eq!(source.end()["status"], "completed");
    let left = source.count();
    source.quit();
    let uri = format!("file:{}", file.display());
    let mut target = Machine::start(&scratch, "b", &["-incoming", &uri]);
    target.end();
    target.counts();
    assert!(target.count() > left);
    target.quit();
    // Cut short, it is refused in one line.
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 100]).unwrap();
    let (code, said) = Machine::start_quietly(&scratch, &uri);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ends too early") && said.trim_end().lines().count() == 1, "{said}");
}

/// What a tool of Rhea's says.
#[track_caller]
fn tool(words: &[&str]) -> String {
    let out = std::process::Command::new(boot::rhea()).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !text.contains("failed"), "{words:?}: {text}");
    text
}

impl Machine {
    /// Does requests of `rhea io` on node `d` through an export.
    #[track_caller]
    fn io(&mut self, scratch: &Scratch, commands: &[&str]) {
        let socket = scratch.path("nbd").display().to_string();
        let add = json!({"type": "nbd", "id": "e", "node-name": "d", "writable": true});
        self.qmp
            .execute("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}))
            .unwrap();
        self.qmp.execute("block-export-add", add).unwrap();
        let uri = format!("nbd+unix:///d?socket={socket}");
        let mut words = vec!["io", "-f", "raw", &uri];
        commands.iter().for_each(|c| words.extend(["-c", c]));
        tool(&words);
        self.qmp.execute("nbd-server-stop", json!(null)).unwrap();
    }
}

#[test]
fn qcow2_disks_change_hands() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("migrate-qcow2");
    let (base, top, other) = (scratch.path("base"), scratch.path("top"), scratch.path("other"));
    let names = [&base, &top, &other].map(|p| p.display().to_string());
    tool(&["img", "create", "-q", "-f", "qcow2", &names[0], "8M"]);
    tool(&["io", "-f", "qcow2", "-c", "write -P 1 0 8M", &names[0]]);
    tool(&["img", "create", "-q", "-f", "qcow2", "-b", &names[0], "-F", "qcow2", &names[1]]);
    tool(&["img", "create", "-q", "-f", "qcow2", &names[2], "8M"]);
    let disk = format!("qcow2,node-name=d,file.driver=file,file.filename={}", names[1]);
    let used = format!("qcow2,node-name=u,file.driver=file,file.filename={}", names[2]);
    let extra = ["-blockdev", &disk, "-blockdev", &used, "-device", "virtio-blk-device,drive=u"];
    let way = format!("unix:{}", scratch.path("way").display());
    let mut source = Machine::start(&scratch, "a", &extra);
    let add = json!({"node": "d", "name": "b", "persistent": true});
    source.qmp.execute("block-dirty-bitmap-add", add).unwrap();
    let mut target = Machine::start(&scratch, "b", &[&extra[..], &["-incoming", "defer"]].concat());
    // All of this the target cannot know from what it has seen of the image.
    source.io(&scratch, &["write -P 2 64k 1M", "write -P 3 5M 100k"]);
    let add = json!({"type": "nbd", "id": "e", "node-name": "d"});
    let socket = scratch.path("nbd").display().to_string();
    source
        .qmp
        .execute("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}))
        .unwrap();
    source.qmp.execute("block-export-add", add).unwrap();
    let e = source.qmp.execute("migrate", json!({ "uri": way })).unwrap_err();
    assert!(e.contains("block export 'e' gives a disk to others"), "{e}");
    source.qmp.execute("nbd-server-stop", json!(null)).unwrap();
    target.qmp.execute("migrate-incoming", json!({ "uri": way })).unwrap();
    source.migrate(&way);
    let info = source.end();
    assert_eq!(info["status"], "completed", "{info}");
    target.counts();
    let nodes = target.qmp.execute("query-named-block-nodes", json!(null)).unwrap();
    let node = nodes.as_array().unwrap().iter().find(|n| n["node-name"] == "d").unwrap();
    let bitmap = &node["dirty-bitmaps"][0];
    assert_eq!((&bitmap["name"], &bitmap["count"]), (&json!("b"), &json!(18 * 65536)), "{node}");
    target.io(&scratch, &["read -P 2 64k 1M", "read -P 3 5M 100k", "read -P 1 2M 1M", "write -P 4 7M 64k"]);
    // Away and back again: what it was known by here is not what it is now.
    let e = source.qmp.execute("cont", json!(null)).unwrap_err();
    assert!(e.contains("in use by another process"), "{e}");
    target.quit();
    source.qmp.execute("cont", json!(null)).unwrap();
    source.counts();
    source.io(&scratch, &["read -P 4 7M 64k", "read -P 2 64k 1M", "write -P 5 0 64k"]);
    // To a file, as programs that save a machine do.
    let file = scratch.path("file");
    source.migrate(&format!("exec:cat > {}", file.display()));
    assert_eq!(source.end()["status"], "completed");
    source.quit();
    let uri = format!("file:{}", file.display());
    let mut back = Machine::start(&scratch, "c", &[&extra[..], &["-incoming", &uri]].concat());
    back.end();
    back.counts();
    back.io(&scratch, &["read -P 5 0 64k", "read -P 4 7M 64k"]);
    back.quit();
    assert!(tool(&["img", "check", &names[1]]).contains("No errors"));
    tool(&["io", "-r", "-f", "qcow2", "-c", "read -P 5 0 64k", "-c", "read -P 3 5M 100k", &names[1]]);
}

impl Machine {
    /// Starts one that ends by itself.
    fn start_quietly(scratch: &Scratch, uri: &str) -> (Option<i32>, String) {
        let firmware = scratch.path("firmware");
        let arguments = ["-m", "16", "-bios", firmware.to_str().unwrap(), "-incoming", uri];
        let mut process = boot::start("riscv64", "virt", &arguments).unwrap();
        let (status, _) = process.wait(STEP).unwrap();
        while !process.console.is_closed() {
            process.console.pump(Duration::from_millis(10));
        }
        (status.code(), process.console.text())
    }
}
