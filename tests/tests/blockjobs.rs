//! Disks of a machine: how they are opened (secrets, `json:` names, zero detection), and how they change under their user by
//! snapshots, jobs and exports by QMP. The machine has no guest: what writes its disks is an NBD client, through the same
//! edges as a device.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rhea_tests::boot::{self, STEP, Scratch};
use rhea_tests::qmp::Controlled;
use serde_json::{Value, json};

struct Machine {
    controlled: Controlled,
    scratch: Scratch,
}

impl Deref for Machine {
    type Target = Controlled;

    fn deref(&self) -> &Controlled {
        &self.controlled
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Controlled {
        &mut self.controlled
    }
}

impl Machine {
    fn new(name: &str) -> Self {
        Self::with(Scratch::new(name), &[])
    }

    fn with(scratch: Scratch, arguments: &[&str]) -> Self {
        let socket = scratch.path("qmp");
        let process = Command::new(boot::rhea())
            .args(["run", "-M", "none", "-S", "-nodefaults", "-display", "none", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Machine { controlled: Controlled::new(process, &socket), scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    #[track_caller]
    fn tool(&self, kind: &str, args: &[&str]) -> String {
        let out =
            Command::new(boot::rhea()).arg(kind).args(args).current_dir(self.path(".")).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{kind} {args:?}: {text}");
        text
    }

    /// Adds a qcow2 image of this name as a node of the same name.
    fn image(&mut self, name: &str) {
        let file = self.path(name).display().to_string();
        self.tool("img", &["create", "-q", "-f", "qcow2", &file, "4M"]);
        self.ok(
            "blockdev-add",
            json!({"driver": "qcow2", "node-name": name, "file": {"driver": "file", "filename": file}}),
        );
    }

    /// Gives a node to NBD clients, for writing.
    fn export(&mut self, node: &str) {
        let path = self.path("nbd").display().to_string();
        self.ok("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": path}}}));
        self.ok(
            "block-export-add",
            json!({"type": "nbd", "id": "e0", "node-name": node, "name": "disk", "writable": true}),
        );
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.path("nbd").display())
    }

    /// Writes or reads through the export.
    #[track_caller]
    fn io(&self, commands: &[&str]) {
        let mut args = vec!["-f", "raw"];
        commands.iter().for_each(|c| args.extend(["-c", c]));
        let uri = self.uri();
        args.push(&uri);
        let said = self.tool("io", &args);
        assert!(!said.contains("verification failed"), "{commands:?}: {said}");
    }

    #[track_caller]
    fn event(&mut self, name: &str) -> Value {
        self.qmp.event(name).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Waits until no job is left.
    fn idle(&mut self) {
        let until = Instant::now() + STEP;
        while !self.ok("query-block-jobs", json!({})).as_array().unwrap().is_empty() {
            assert!(Instant::now() < until, "a job does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn names(&mut self) -> Vec<String> {
        let all = self.ok("query-named-block-nodes", json!({}));
        let mut names: Vec<String> =
            all.as_array().unwrap().iter().map(|n| n["node-name"].as_str().unwrap().to_owned()).collect();
        names.retain(|n| !n.starts_with('#'));
        names
    }

    fn end(mut self) -> Scratch {
        self.controlled.end();
        self.scratch
    }
}

#[test]
fn snapshots_streams_and_commits() {
    let mut m = Machine::new("chain");
    m.image("base");
    m.export("base");
    m.io(&["write -P 1 0 4M"]);
    for (i, name) in ["one", "two", "three"].iter().enumerate() {
        let file = m.path(name).display().to_string();
        let node = if i == 0 { "base" } else { ["one", "two"][i - 1] };
        m.ok(
            "blockdev-snapshot-sync",
            json!({"node-name": node, "snapshot-file": file, "snapshot-node-name": name}),
        );
        let (at, pattern) = (i << 20, i + 2);
        m.io(&[&format!("write -P {pattern} {at} 1M"), &format!("write -P {pattern} 3M {}", 64 << 10 << i)]);
    }
    let checks =
        ["read -P 2 0 1M", "read -P 3 1M 1M", "read -P 4 2M 1M", "read -P 4 3M 256k", "read -P 1 3328k 768k"];
    m.io(&checks);
    // What lies between goes into the base.
    m.refused(
        "block-commit",
        json!({"device": "three", "top-node": "base", "base-node": "one"}),
        "not below",
    );
    m.refused("block-commit", json!({"device": "three", "top-node": "nope"}), "not in the backing chain");
    m.ok("block-commit", json!({"job-id": "c", "device": "three", "top-node": "two", "base-node": "base"}));
    assert_eq!(m.event("BLOCK_JOB_COMPLETED")["data"]["type"], "commit");
    m.idle();
    m.io(&checks);
    m.ok("blockdev-del", json!({"node-name": "two"}));
    m.ok("blockdev-del", json!({"node-name": "one"}));
    m.refused("blockdev-del", json!({"node-name": "base"}), "in use");
    // The active image goes there as well, while it is written.
    m.ok("block-commit", json!({"job-id": "c", "device": "three", "speed": 1 << 20}));
    m.io(&["write -P 9 512k 64k"]);
    m.ok("block-job-set-speed", json!({"device": "c", "speed": 0}));
    m.event("BLOCK_JOB_READY");
    m.io(&["write -P 8 640k 64k"]);
    m.ok("job-complete", json!({"id": "c"}));
    let done = m.event("BLOCK_JOB_COMPLETED");
    assert!(done["data"].get("error").is_none(), "{done}");
    m.idle();
    let mut checks: Vec<&str> = checks[1..].to_vec();
    checks.extend(["read -P 2 0 512k", "read -P 9 512k 64k", "read -P 8 640k 64k"]);
    m.io(&checks);
    m.ok("blockdev-del", json!({"node-name": "three"}));
    assert_eq!(m.names(), ["base"]);
    // An overlay takes everything up.
    let file = m.path("four").display().to_string();
    m.ok(
        "blockdev-snapshot-sync",
        json!({"node-name": "base", "snapshot-file": file, "snapshot-node-name": "four"}),
    );
    m.ok("block-stream", json!({"job-id": "s", "device": "four"}));
    m.event("BLOCK_JOB_COMPLETED");
    m.idle();
    m.ok("blockdev-del", json!({"node-name": "base"}));
    m.io(&checks);
    let info = m.tool("img", &["info", "-U", "four"]);
    assert!(!info.contains("backing"), "{info}");
    m.ok("block-export-del", json!({"id": "e0"}));
    m.ok("blockdev-del", json!({"node-name": "four"}));
    m.tool("img", &["check", "four"]);
    m.tool("img", &["check", "base"]);
    m.end();
}

#[test]
fn mirrors_and_backups() {
    let mut m = Machine::new("mirror");
    m.image("disk");
    m.export("disk");
    m.io(&["write -P 1 0 4M"]);
    m.ok("block-dirty-bitmap-add", json!({"node": "disk", "name": "b"}));
    let full = m.path("full").display().to_string();
    let actions = json!([
        {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "b"}},
        {"type": "drive-backup", "data": {"job-id": "b", "device": "disk", "target": full, "sync": "full", "format": "qcow2"}},
    ]);
    m.ok("transaction", json!({"actions": actions}));
    m.event("BLOCK_JOB_COMPLETED");
    m.idle();
    m.io(&["write -P 2 1M 192k"]);
    // None of a transaction happens if one part fails.
    let actions = json!([
        {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "b"}},
        {"type": "abort", "data": {}},
    ]);
    m.refused("transaction", json!({"actions": actions}), "Abort");
    let inc = m.path("inc").display().to_string();
    m.tool("img", &["create", "-q", "-f", "qcow2", "-b", "full", "-F", "qcow2", &inc]);
    m.ok(
        "drive-backup",
        json!({"job-id": "b", "device": "disk", "target": inc, "sync": "incremental", "bitmap": "b", "mode": "existing", "format": "qcow2"}),
    );
    let done = m.event("BLOCK_JOB_COMPLETED");
    assert_eq!((&done["data"]["len"], done["data"].get("error")), (&json!(192 << 10), None), "{done}");
    m.idle();
    let same = m.tool("img", &["compare", "-U", "-f", "raw", "-F", "qcow2", &m.uri(), "inc"]);
    assert!(same.contains("identical"), "{same}");
    // A mirror onto a node takes the disk over.
    m.image("target");
    m.refused("blockdev-mirror", json!({"device": "disk", "target": "disk", "sync": "full"}), "same");
    m.refused("blockdev-mirror", json!({"device": "disk", "target": "target", "sync": "half"}), "half");
    for copy_mode in ["background", "write-blocking"] {
        let (from, to) = if copy_mode == "background" { ("disk", "target") } else { ("target", "disk") };
        m.ok(
            "blockdev-mirror",
            json!({"job-id": "m", "device": from, "target": to, "sync": "full", "copy-mode": copy_mode, "auto-dismiss": false}),
        );
        m.event("BLOCK_JOB_READY");
        m.io(&["write -P 7 2M 64k", "discard 0 64k", "write -z 128k 64k"]);
        m.refused("blockdev-del", json!({"node-name": to}), "in use");
        m.ok("block-job-complete", json!({"device": "m"}));
        m.event("BLOCK_JOB_COMPLETED");
        m.io(&["read -P 7 2M 64k", "read -P 0 128k 64k", "read -P 2 1M 192k", "read -P 1 3M 1M"]);
        let jobs = m.ok("query-jobs", json!({}));
        assert_eq!((&jobs[0]["status"], &jobs[0]["id"]), (&json!("concluded"), &json!("m")), "{jobs}");
        m.ok("job-dismiss", json!({"id": "m"}));
        m.idle();
    }
    m.ok("blockdev-del", json!({"node-name": "target"}));
    m.refused("job-cancel", json!({"id": "m"}), "not found");
    m.refused("block-export-add", json!({"type": "nbd", "id": "e0", "node-name": "disk"}), "already");
    m.ok("nbd-server-stop", json!({}));
    m.refused("nbd-server-stop", json!({}), "not running");
    let scratch = m.end();
    let check =
        Command::new(boot::rhea()).args(["img", "check", "disk"]).current_dir(scratch.path(".")).status();
    assert!(check.unwrap().success());
}

#[test]
fn bitmaps_outlive_the_machine() {
    let mut m = Machine::new("bitmaps");
    m.image("disk");
    m.export("disk");
    m.ok(
        "block-dirty-bitmap-add",
        json!({"node": "disk", "name": "kept", "persistent": true, "granularity": 4096}),
    );
    m.ok("block-dirty-bitmap-add", json!({"node": "disk", "name": "gone"}));
    m.refused("block-dirty-bitmap-add", json!({"node": "disk", "name": "gone"}), "already exists");
    m.refused(
        "block-dirty-bitmap-add",
        json!({"node": "disk", "name": "x", "granularity": 77}),
        "power of two",
    );
    m.io(&["write -P 1 64k 4k", "write -P 1 1M 5k"]);
    m.ok("block-dirty-bitmap-disable", json!({"node": "disk", "name": "gone"}));
    m.ok("block-dirty-bitmap-merge", json!({"node": "disk", "target": "kept", "bitmaps": ["gone"]}));
    // A client sees it, and nobody changes it meanwhile.
    m.ok(
        "block-export-add",
        json!({"type": "nbd", "id": "e1", "node-name": "disk", "name": "dirty", "bitmaps": ["gone"]}),
    );
    m.refused("block-dirty-bitmap-clear", json!({"node": "disk", "name": "gone"}), "in use");
    let names = format!(
        "driver=nbd,server.type=unix,server.path={},export=dirty,x-dirty-bitmap=qemu:dirty-bitmap:gone",
        m.path("nbd").display()
    );
    let map = m.tool("img", &["map", "--output=json", "--image-opts", &names]);
    assert!(
        map.contains("\"start\": 65536, \"length\": 65536") && map.contains("\"start\": 1048576"),
        "{map}"
    );
    let scratch = m.end();
    let info =
        Command::new(boot::rhea()).args(["img", "info", "disk"]).current_dir(scratch.path(".")).output();
    let info = String::from_utf8_lossy(&info.unwrap().stdout).into_owned();
    assert!(info.contains("name: kept") && !info.contains("gone") && !info.contains("in-use"), "{info}");
}

#[test]
fn filters_and_protocols_by_name() {
    let mut m = Machine::new("filters");
    m.image("disk");
    m.ok("object-add", json!({"qom-type": "throttle-group", "id": "g", "limits": {"iops-total": 100000}}));
    m.ok(
        "blockdev-add",
        json!({"driver": "throttle", "node-name": "slow", "file": "disk", "throttle-group": "g"}),
    );
    m.ok(
        "blockdev-add",
        json!({"driver": "blkdebug", "node-name": "bad", "image": "slow", "inject-error": [{"event": "none", "iotype": "read", "sector": 100, "errno": 5}]}),
    );
    m.export("bad");
    m.io(&["write -P 3 0 1M", "read -P 3 0 50k"]);
    let out =
        Command::new(boot::rhea()).args(["io", "-f", "raw", "-c", "read 0 64k", &m.uri()]).output().unwrap();
    assert!(!out.status.success(), "the fault is injected: {out:?}");
    // A client of our own server, with a cache on top.
    let path = m.path("nbd").display().to_string();
    m.ok(
        "blockdev-add",
        json!({"driver": "nbd", "node-name": "net", "server": {"type": "unix", "path": path}, "export": "disk", "read-only": true}),
    );
    m.ok("blockdev-add", json!({"driver": "raw", "node-name": "part", "file": "net", "offset": 4096, "size": 8192, "read-only": true}));
    assert_eq!(m.names(), ["bad", "disk", "net", "part", "slow"]);
    for (name, options, words) in [
        ("quorum", json!({"children": ["part"], "vote-threshold": 2, "read-only": true}), "vote-threshold=2"),
        ("throttle", json!({"file": "part", "throttle-group": "h"}), "'h'"),
        ("blkdebug", json!({"image": "part", "inject-error": [{"event": "l1_update"}]}), "l1_update"),
        ("compress", json!({"file": "part"}), "compressed"),
        ("nbd", json!({"server": {"type": "unix", "path": "/nonexistent"}}), "/nonexistent"),
        ("qcow2", json!({"file": "part", "nonsense": 1}), "nonsense"),
        ("throttle", json!({"file": "disk", "throttle-group": "g"}), "in use"),
    ] {
        let mut all = options;
        all["driver"] = name.into();
        all["node-name"] = "x".into();
        m.refused("blockdev-add", all, words);
    }
    assert_eq!(m.names(), ["bad", "disk", "net", "part", "slow"]);
    m.end();
}

/// The tool on a file, which is to fail; what it says.
fn refused_io(file: &std::path::Path, object: &str, keys: &str) -> String {
    let out = Command::new(boot::rhea())
        .args(["io", "--object", object, "--image-opts", "-c", "read 0 512"])
        .arg(format!("{keys},file.filename={}", file.display()))
        .output()
        .unwrap();
    assert!(!out.status.success(), "{keys}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn encrypted_disks_have_their_keys_from_secrets() {
    let mut m = Machine::new("secrets");
    std::fs::write(m.path("key"), "c3dvcmRmaXNo").unwrap();
    let file = m.path("key").display().to_string();
    m.ok("object-add", json!({"qom-type": "secret", "id": "s", "file": file, "format": "base64"}));
    m.ok("object-add", json!({"qom-type": "secret", "id": "wrong", "data": "sword,fish"}));
    m.refused(
        "object-add",
        json!({"qom-type": "secret", "id": "x", "data": "hidden!", "format": "base64"}),
        "base64",
    );
    m.refused(
        "object-add",
        json!({"qom-type": "secret", "id": "x", "file": "/nonexistent/x"}),
        "/nonexistent/x",
    );
    // The slots' hardening is for the tool to measure; here it only takes time.
    let secret = "secret,id=s,data=swordfish";
    for (name, format, options) in [
        ("luks", "luks", "key-secret=s,iter-time=10"),
        ("base", "qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
        ("old", "qcow", "encrypt.format=aes,encrypt.key-secret=s"),
    ] {
        m.tool("img", &["create", "-q", "--object", secret, "-f", format, "-o", options, name, "1M"]);
        let node = |key: Option<&str>| {
            let mut node = json!({
                "driver": format, "node-name": name, "file": {"driver": "file", "filename": m.path(name)},
            });
            match (key, format) {
                (None, _) => {}
                (Some(key), "luks") => node["key-secret"] = key.into(),
                (Some(key), _) => node["encrypt"] = json!({"key-secret": key}),
            }
            node
        };
        let (none, wrong, gone, right) =
            (node(None), node(Some("wrong")), node(Some("gone")), node(Some("s")));
        m.refused("blockdev-add", none, "key-secret");
        m.refused("blockdev-add", gone, "gone");
        if name != "old" {
            m.refused("blockdev-add", wrong, "invalid password");
        }
        m.ok("blockdev-add", right);
        let nodes = m.ok("query-named-block-nodes", json!({}));
        let of_name = |n: &&Value| n["node-name"] == name;
        assert_eq!(nodes.as_array().unwrap().iter().find(of_name).unwrap()["encrypted"], true);
        m.export(name);
        m.io(&["write -P 0x5a 64k 64k", "read -P 0x5a 64k 64k"]);
        m.ok("nbd-server-stop", json!({}));
        m.ok("blockdev-del", json!({"node-name": name}));
        let bytes = std::fs::read(m.path(name)).unwrap();
        assert!(!bytes.windows(64).any(|w| w == [0x5a; 64]), "{name} was written in the clear");
        let (key, bad) = if format == "luks" {
            ("key-secret=s", "key-secret=t")
        } else {
            ("encrypt.key-secret=s", "encrypt.key-secret=t")
        };
        let keys = format!("driver={format},{key},file.filename={name}");
        let said = m.tool("io", &["--object", secret, "--image-opts", "-c", "read -P 0x5a 64k 64k", &keys]);
        assert!(!said.contains("verification failed"), "{said}");
        let said = refused_io(&m.path(name), "secret,id=u,data=x", &format!("driver={format},{bad}"));
        assert!(said.contains("secret 't'"), "{said}");
    }
    // A backing file's key goes beside the overlay, which names the file.
    m.tool("img", &["create", "-q", "-f", "qcow2", "-u", "-b", "base", "-F", "qcow2", "top", "1M"]);
    let top = m.path("top").display().to_string();
    let node = json!({
        "driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": top},
        "backing": {"encrypt": {"key-secret": "s"}},
    });
    m.ok("blockdev-add", node);
    m.export("top");
    m.io(&["read -P 0x5a 64k 64k"]);
    m.ok("nbd-server-stop", json!({}));
    m.ok("blockdev-del", json!({"node-name": "top"}));
    m.ok("object-del", json!({"id": "s"}));
    let base = m.path("base");
    m.refused(
        "blockdev-add",
        json!({"driver": "qcow2", "node-name": "base", "encrypt": {"key-secret": "s"},
            "file": {"driver": "file", "filename": base}}),
        "secret 's'",
    );
    m.end();
}

#[test]
fn drives_by_name_and_zeroes_that_are_found() {
    let scratch = Scratch::new("drives");
    let (disk, luks, folder) = (scratch.path("disk"), scratch.path("luks"), scratch.path("folder"));
    let tool =
        |args: &[&str]| assert!(Command::new(boot::rhea()).arg("img").args(args).status().unwrap().success());
    tool(&["create", "-q", "-f", "qcow2", disk.to_str().unwrap(), "1M"]);
    let options = "key-secret=s,iter-time=10";
    tool(&[
        "create",
        "-q",
        "--object",
        "secret,id=s,data=a,,b",
        "-f",
        "luks",
        "-o",
        options,
        luks.to_str().unwrap(),
        "1M",
    ]);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("hello.txt"), "hello").unwrap();
    let name = json!({"driver": "qcow2", "file.driver": "file", "file": {"filename": disk}})
        .to_string()
        .replace(',', ",,");
    let mut m = Machine::with(
        scratch,
        &[
            "-object",
            "secret,id=s,data=a,,b",
            "-drive",
            &format!("if=none,id=d,discard=unmap,detect-zeroes=unmap,node-name=disk,file=json:{name}"),
            "-drive",
            &format!("if=none,id=e,format=luks,key-secret=s,node-name=luks,file={}", luks.display()),
            "-drive",
            &format!("if=none,id=f,node-name=folder,file=fat:{}", folder.display()),
        ],
    );
    assert_eq!(m.names(), ["disk", "folder", "luks"]);
    let block = m.ok("query-block", json!({}));
    let shown: Vec<_> = block.as_array().unwrap().iter().map(|b| &b["inserted"]["detect_zeroes"]).collect();
    assert_eq!(shown, ["unmap", "off", "off"]);
    m.tool("img", &["create", "-q", "-f", "qcow2", "zero", "1M"]);
    let node = json!({
        "driver": "qcow2", "node-name": "zero", "discard": "unmap", "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": m.path("zero")},
    });
    m.ok("blockdev-add", node);
    m.export("zero");
    m.io(&[
        "write -P 1 0 1M",
        "write -z 0 64k",
        "write -P 0 64k 128k",
        "read -P 0 0 192k",
        "read -P 1 192k 832k",
    ]);
    m.ok("block_resize", json!({"node-name": "zero", "size": 2 << 20}));
    let sizes = m.ok("query-named-block-nodes", json!({}));
    let disk = sizes.as_array().unwrap().iter().find(|n| n["node-name"] == "zero").unwrap();
    assert_eq!(disk["image"]["virtual-size"], 2 << 20);
    let map = m.tool("img", &["map", "-U", "--output=json", "zero"]);
    let map: Value = serde_json::from_str(&map).unwrap();
    let data = map.as_array().unwrap().iter().find(|e| e["data"] == true).unwrap();
    assert_eq!(data["start"], 192 << 10, "{map}");
    for (options, words) in [
        ("detect-zeroes=unmap", "discard=unmap"),
        ("werror=maybe", "maybe"),
        ("rerror=enospc", "ignore, stop, report"),
        ("file=json:[]", "JSON object"),
    ] {
        let out = Command::new(boot::rhea())
            .args(["run", "-M", "none", "-display", "none", "-drive"])
            .arg(format!(
                "if=none,id=x,format=raw,{}{options}",
                if options.contains("file=") { "" } else { "file=/dev/null," }
            ))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            !out.status.success() && said.contains(words) && said.lines().count() == 1,
            "{options}: {said}"
        );
    }
    m.end();
}

#[test]
fn options_of_an_image_in_use_are_amended() {
    let mut m = Machine::new("amend");
    let secrets = ["secret,id=s,data=first", "secret,id=t,data=second"];
    m.ok("object-add", json!({"qom-type": "secret", "id": "s", "data": "first"}));
    m.ok("object-add", json!({"qom-type": "secret", "id": "t", "data": "second"}));
    m.image("disk");
    m.tool(
        "img",
        &[
            "create",
            "-q",
            "--object",
            secrets[0],
            "-f",
            "luks",
            "-o",
            "key-secret=s,iter-time=10",
            "luks",
            "1M",
        ],
    );
    let luks = m.path("luks");
    m.ok(
        "blockdev-add",
        json!({"driver": "luks", "node-name": "luks", "key-secret": "s", "file": {"driver": "file", "filename": luks}}),
    );
    let amend = |m: &mut Machine, node: &str, options: Value| {
        m.ok("x-blockdev-amend", json!({"job-id": "a", "node-name": node, "options": options}));
        let until = Instant::now() + STEP;
        loop {
            let jobs = m.ok("query-jobs", json!({}));
            if jobs[0]["status"] == "concluded" {
                m.ok("job-dismiss", json!({"id": "a"}));
                return jobs[0]["error"].as_str().unwrap_or_default().to_owned();
            }
            assert!(Instant::now() < until, "the job does not end: {jobs}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let new = json!({"driver": "luks", "state": "active", "new-secret": "t", "iter-time": 10});
    assert_eq!(amend(&mut m, "luks", new), "");
    assert_eq!(amend(&mut m, "disk", json!({"driver": "qcow2", "lazy-refcounts": true})), "");
    let e = amend(&mut m, "disk", json!({"driver": "qcow2", "cluster-size": 512}));
    assert!(e.contains("cluster_size"), "{e}");
    let wrong = json!({"job-id": "a", "node-name": "disk", "options": {"driver": "luks"}});
    m.refused("x-blockdev-amend", wrong, "node 'disk' is qcow2");
    let info = m.tool("img", &["info", "-U", "disk"]);
    assert!(info.contains("lazy refcounts: true"), "{info}");
    m.ok("blockdev-del", json!({"node-name": "luks"}));
    let opts = "driver=luks,key-secret=t,file.filename=luks";
    m.tool("io", &["--object", secrets[1], "--image-opts", "-c", "read 0 512", opts]);
    m.end();
}

#[test]
fn a_drive_with_snapshot_on_is_saved_and_committed() {
    let scratch = Scratch::new("temporary");
    let file = scratch.path("disk");
    std::fs::write(&file, vec![1; 4 << 20]).unwrap();
    let drive =
        format!("if=none,id=d,format=raw,snapshot=on,throttling.bps-total=1G,file={}", file.display());
    let mut m = Machine::with(scratch, &["-drive", &drive]);
    let monitor = |m: &mut Machine, line: &str| {
        let said = m.ok("human-monitor-command", json!({ "command-line": line }));
        said.as_str().unwrap().to_owned()
    };
    assert_eq!(monitor(&mut m, "savevm a"), "");
    assert_eq!(monitor(&mut m, "loadvm a"), "");
    let list = monitor(&mut m, "info snapshots");
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "List of snapshots present on all disks:");
    assert_eq!(lines[1], "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT");
    assert!(lines[2].starts_with("--      a ") && lines.len() == 3, "{list}");
    m.refused("migrate", json!({"uri": "exec:cat"}), "'d'");
    assert!(monitor(&mut m, "commit nothing").contains("nothing"));
    assert_eq!(monitor(&mut m, "commit d"), "");
    let scratch = m.end();
    assert!(std::fs::read(scratch.path("disk")).unwrap().iter().all(|b| *b == 1));
}

#[test]
fn a_disk_is_committed_to_its_backing_file() {
    let mut m = Machine::new("commit");
    m.tool("img", &["create", "-q", "-f", "qcow2", "base", "4M"]);
    m.tool("img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top", "6M"]);
    let file = m.path("top").display().to_string();
    m.ok(
        "blockdev-add",
        json!({"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": file}}),
    );
    m.export("top");
    m.io(&["write -P 5 0 1M", "write -P 6 5M 1M"]);
    let said = m.ok("human-monitor-command", json!({ "command-line": "commit all" }));
    assert_eq!(said, "");
    m.io(&["read -P 5 0 1M", "read -P 6 5M 1M", "write -P 7 1M 64k"]);
    let scratch = m.end();
    let run = |args: &[&str]| {
        let out = Command::new(boot::rhea()).args(args).current_dir(scratch.path(".")).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    let said = run(&["io", "-c", "read -P 5 0 1M", "-c", "read -P 0 1M 1M", "-c", "read -P 6 5M 1M", "base"]);
    assert!(!said.contains("failed") && said.matches("read 1048576").count() == 3, "{said}");
    assert!(
        run(&["img", "check", "base"]).contains("No errors")
            && run(&["img", "check", "top"]).contains("No errors")
    );
}

#[test]
fn a_machine_is_saved_with_its_disks() {
    let mut m = Machine::new("savevm");
    m.image("one");
    m.image("two");
    m.tool("img", &["create", "-q", "-f", "qcow2", "-u", "-b", "two", "-F", "qcow2", "top", "4M"]);
    let (raw, top) = (m.path("raw").display().to_string(), m.path("top").display().to_string());
    m.ok("object-add", json!({"qom-type": "throttle-group", "id": "g"}));
    m.ok("blockdev-del", json!({"node-name": "two"}));
    m.ok(
        "blockdev-add",
        json!({"driver": "throttle", "node-name": "slow", "throttle-group": "g", "file": {
            "driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": top}}}),
    );
    m.export("one");
    let monitor = |m: &mut Machine, line: &str| {
        let said = m.ok("human-monitor-command", json!({ "command-line": line }));
        said.as_str().unwrap().to_owned()
    };
    m.io(&["write -P 1 0 1M"]);
    assert_eq!(monitor(&mut m, "savevm first"), "");
    m.io(&["write -P 2 0 1M", "write -P 3 2M 1M"]);
    m.ok(
        "snapshot-save",
        json!({"job-id": "j", "tag": "second", "vmstate": "slow", "devices": ["one", "slow"]}),
    );
    m.ok(
        "snapshot-save",
        json!({"job-id": "k", "tag": "second", "vmstate": "slow", "devices": ["one", "slow"]}),
    );
    m.ok("snapshot-save", json!({"job-id": "l", "tag": "third", "vmstate": "two", "devices": ["one"]}));
    let jobs = m.ok("query-jobs", json!({}));
    let error = |i: usize| jobs[i]["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(error(0), "");
    assert!(error(1).contains("already exists") && error(2).contains("'two'"), "{jobs}");
    for tag in ["first", "second"] {
        assert!(monitor(&mut m, "info snapshots").contains(tag));
    }
    m.io(&["write -P 4 0 4M"]);
    assert_eq!(monitor(&mut m, "loadvm first"), "");
    m.io(&["read -P 1 0 1M", "read -P 0 1M 3M"]);
    m.ok(
        "snapshot-load",
        json!({"job-id": "n", "tag": "second", "vmstate": "slow", "devices": ["one", "slow"]}),
    );
    m.io(&["read -P 2 0 1M", "read -P 3 2M 1M", "read -P 0 1M 1M"]);
    // The state of the first is in the first disk, that of the second in the other.
    let nodes = m.ok("query-named-block-nodes", json!({}));
    let sizes = |name: &str| {
        let node = nodes.as_array().unwrap().iter().find(|n| n["node-name"] == name).unwrap();
        let list = node["image"]["snapshots"].as_array().unwrap();
        list.iter().map(|s| s["vm-state-size"].as_u64().unwrap() != 0).collect::<Vec<_>>()
    };
    assert_eq!((sizes("one"), sizes("top")), (vec![true, false], vec![false, true]));
    // Saving again under a name takes its place.
    assert_eq!(monitor(&mut m, "savevm first"), "");
    assert!(monitor(&mut m, "delvm third").contains("does not exist"));
    assert_eq!(monitor(&mut m, "delvm second"), "");
    assert!(monitor(&mut m, "loadvm second").contains("does not exist"));
    // Snapshots of one disk.
    m.ok("blockdev-snapshot-internal-sync", json!({"device": "one", "name": "disk"}));
    m.refused("blockdev-snapshot-internal-sync", json!({"device": "one", "name": "disk"}), "already exists");
    let actions = json!([
        {"type": "blockdev-snapshot-internal-sync", "data": {"device": "one", "name": "none"}},
        {"type": "abort", "data": {}},
    ]);
    m.refused("transaction", json!({ "actions": actions }), "Abort");
    let delete = "blockdev-snapshot-delete-internal-sync";
    m.refused(delete, json!({"device": "one", "name": "none"}), "does not exist");
    m.refused(delete, json!({"device": "one"}), "must be provided");
    assert_eq!(m.ok(delete, json!({"device": "one", "name": "disk"}))["name"], "disk");
    // A disk that cannot is in the way; one that is read is not.
    m.tool("img", &["create", "-q", "-f", "raw", "raw", "1M"]);
    let node = |read_only: bool| {
        json!({"driver": "raw", "node-name": "raw", "read-only": read_only,
            "file": {"driver": "file", "filename": raw}})
    };
    m.ok("blockdev-add", node(true));
    assert_eq!(monitor(&mut m, "savevm first"), "");
    m.ok("blockdev-del", json!({"node-name": "raw"}));
    m.ok("blockdev-add", node(false));
    assert!(monitor(&mut m, "savevm first").contains("'raw' is writable but does not support snapshots"));
    m.refused("blockdev-snapshot-internal-sync", json!({"device": "raw", "name": "x"}), "'raw'");
    m.ok("blockdev-del", json!({"node-name": "raw"}));
    // A bitmap would not know what changes.
    m.ok("block-dirty-bitmap-add", json!({"node": "one", "name": "b"}));
    assert!(monitor(&mut m, "loadvm first").contains("active dirty bitmaps"));
    let scratch = m.end();
    for name in ["one", "top"] {
        let check =
            Command::new(boot::rhea()).args(["img", "check", name]).current_dir(scratch.path(".")).output();
        let said = String::from_utf8_lossy(&check.unwrap().stdout).into_owned();
        assert!(said.contains("No errors"), "{name}: {said}");
    }
}
