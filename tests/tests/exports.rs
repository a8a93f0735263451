//! `rhea storage-daemon`: nodes and exports of them without a machine, and exports by QMP.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rhea_tests::boot::{self, STEP, Scratch};
use rhea_tests::qmp::Controlled;
use serde_json::json;

#[track_caller]
fn tool(words: &[&str]) -> String {
    let out = Command::new(boot::rhea()).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !text.contains("failed"), "{words:?}: {text}");
    text
}

fn daemon(words: &[&str]) -> Command {
    let mut command = Command::new(boot::rhea());
    command.arg("storage-daemon").args(words).stdin(Stdio::null());
    command
}

fn appears(path: &Path) {
    let deadline = Instant::now() + STEP;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} appears", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_daemon_gives_disks_to_others() {
    let scratch = Scratch::new("storage-daemon");
    let path = |name: &str| scratch.path(name).display().to_string();
    let (disk, qmp, nbd, blk, pid) = (path("disk"), path("qmp"), path("nbd"), path("blk"), path("pid"));
    tool(&["img", "create", "-q", "-f", "qcow2", &disk, "4M"]);
    let process = daemon(&[
        "--blockdev",
        &format!("driver=file,node-name=f,filename={disk},aio=io_uring"),
        "--blockdev",
        "driver=qcow2,node-name=q,file=f",
        "--chardev",
        &format!("socket,id=m,path={qmp},server=on,wait=off"),
        "--monitor",
        "m",
        "--nbd-server",
        &format!("addr.type=unix,addr.path={nbd}"),
        "--export",
        "nbd,id=n,node-name=q,name=disk,writable=on",
        &format!("--pidfile={pid}"),
    ]);
    let mut it = Controlled::new({ process }.spawn().unwrap(), &scratch.path("qmp"));
    let uri = format!("nbd+unix:///disk?socket={nbd}");
    tool(&["io", "-f", "raw", "-c", "write -P 7 1M 64k", &uri]);
    assert!(std::fs::read_to_string(&pid).unwrap().trim().parse::<u32>().is_ok());
    // The node has a writer: a second is refused, a reader is not.
    let export = |writable: bool| {
        json!({"type": "vhost-user-blk", "id": "v", "node-name": "q", "writable": writable, "num-queues": 2,
            "addr": {"type": "unix", "path": blk}})
    };
    it.refused("block-export-add", export(true), "in use by NBD export 'n'");
    it.ok("block-export-add", export(false));
    appears(&scratch.path("blk"));
    let all = it.ok("query-block-exports", json!(null));
    let kinds: Vec<_> = all.as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["nbd", "vhost-user-blk"]);
    for (arguments, words) in [
        (json!({"type": "fuse", "id": "x", "node-name": "q"}), "'mountpoint' is missing"),
        (
            json!({"type": "fuse", "id": "x", "node-name": "q", "mountpoint": path("none")}),
            "none: No such file",
        ),
        (json!({"type": "vhost-user-blk", "id": "x", "node-name": "q"}), "'addr' is missing"),
        (json!({"type": "vhost-user-blk", "id": "x", "node-name": "q", "name": "y"}), "'name' is unexpected"),
        (json!({"type": "pigeon", "id": "x", "node-name": "q"}), "expected nbd"),
    ] {
        it.refused("block-export-add", arguments, words);
    }
    it.ok("nbd-server-stop", json!(null));
    it.ok("block-export-del", json!({"id": "v"}));
    assert!(!scratch.path("blk").exists());
    fuse(&mut it, &scratch);
    it.ok("quit", json!(null));
}

/// The disk as a file, where the host lets us.
fn fuse(it: &mut Controlled, scratch: &Scratch) {
    let path = scratch.path("file");
    std::fs::write(&path, "covered").unwrap();
    let arguments = json!({"type": "fuse", "id": "f", "node-name": "q", "mountpoint": path.display().to_string(), "writable": true});
    if let Err(e) = it.qmp.execute("block-export-add", arguments) {
        assert!(["/dev/fuse", "not permitted", "denied"].iter().any(|w| e.contains(w)), "{e}");
        eprintln!("skipped: {e}");
        return;
    }
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut back = [0; 3];
    file.read_exact_at(&mut back, (1 << 20) + 65534 - 1).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(back, [7, 7, 7]);
    file.write_all_at(&[9; 5000], 100).unwrap();
    file.sync_all().unwrap();
    drop(file);
    it.ok("block-export-del", json!({"id": "f"}));
    assert_eq!(std::fs::read(&path).unwrap(), b"covered");
}

/// A boot sector that writes itself to the second sector, says on the serial port how that went (`K` or `E`), and ends QEMU.
const BOOT: &[u8] = &[
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // segments
    0xb8, 0x01, 0x03, 0xb9, 0x02, 0x00, 0xb6, 0x00, 0xbb, 0x00, 0x7c, 0xcd, 0x13, // write one sector
    0xb0, b'K', 0x73, 0x02, 0xb0, b'E', 0xba, 0xf8, 0x03, 0xee, // say
    0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd, // end
];

#[test]
fn qemu_boots_from_our_vhost_user_disk() {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        println!("SKIPPED: qemu-system-x86_64 is not installed");
        return;
    }
    let scratch = Scratch::new("vhost-user-blk");
    let path = |name: &str| scratch.path(name).display().to_string();
    let (raw, disk, blk, serial) = (path("raw"), path("disk"), path("blk"), path("serial"));
    let mut sector = BOOT.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let mut data = sector.clone();
    data.resize(8 << 20, 0);
    std::fs::write(&raw, &data).unwrap();
    tool(&["img", "convert", "-f", "raw", "-O", "qcow2", &raw, &disk]);
    let mut process = daemon(&[
        "--blockdev",
        &format!("driver=qcow2,node-name=q,file.driver=file,file.filename={disk}"),
        "--export",
        &format!("vhost-user-blk,id=v,node-name=q,writable=on,num-queues=2,addr.type=unix,addr.path={blk}"),
    ])
    .spawn()
    .unwrap();
    appears(&scratch.path("blk"));
    let status = Command::new("timeout")
        .args(["120", "qemu-system-x86_64", "-M", "q35", "-m", "64M", "-nodefaults", "-display", "none"])
        .args(["-object", "memory-backend-memfd,id=mem,size=64M,share=on", "-numa", "node,memdev=mem"])
        .args(["-chardev", &format!("socket,id=c,path={blk}"), "-serial", &format!("file:{serial}")])
        .args(["-device", "vhost-user-blk-pci,chardev=c,num-queues=2,bootindex=0"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .status()
        .unwrap();
    let said = std::fs::read_to_string(&serial).unwrap_or_default();
    let _ = Command::new("kill").arg(process.id().to_string()).status();
    assert!(process.wait().unwrap().success());
    assert_eq!((said.as_str(), status.code()), ("K", Some(0x21)));
    assert!(tool(&["img", "check", &disk]).contains("No errors"));
    tool(&["img", "convert", "-f", "qcow2", "-O", "raw", &disk, &raw]);
    data[512..1024].copy_from_slice(&sector);
    assert!(std::fs::read(&raw).unwrap() == data);
}

#[test]
fn what_a_daemon_is_given_wrong_is_named() {
    for (words, text) in [
        (vec!["--export", "nbd,id=a,node-name=none"], "block node 'none' does not exist"),
        (vec!["--blockdev", "driver=fiel,node-name=a"], "Unknown driver 'fiel'"),
        (vec!["--nbd-server", "addr.type=pigeon"], "--nbd-server addr.type=pigeon: argument 'addr'"),
        (vec!["--monitro", "x"], "did you mean '--monitor'"),
        (
            vec!["--blockdev", "file,node-name=a,filename=/dev/null,aio=native"],
            "aio=native needs cache.direct=on",
        ),
    ] {
        let out = daemon(&words).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(text), "{words:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}
