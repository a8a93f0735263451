//! The process in the background, and the way a management program asks a binary what it can do: a machine of nothing,
//! stopped, in the background, with QMP on a socket.
#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::symlink,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rhea_tests::{
    boot::{self, STEP, Scratch},
    qmp::Qmp,
};
use serde_json::{Value, json};

fn gone(what: &std::path::Path) {
    let deadline = Instant::now() + STEP;
    while what.exists() {
        assert!(Instant::now() < deadline, "{} is still there", what.display());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_management_program_finds_out_what_there_is() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("probe");
    let binary = scratch.path("qemu-system-riscv64");
    symlink(boot::rhea(), &binary).unwrap();
    let (socket, pidfile) = (scratch.path("monitor"), scratch.path("pid"));
    let probe = |machine: &str| {
        let output = Command::new(&binary)
            .args(["-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", machine])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-pidfile")
            .arg(&pidfile)
            .args([
                "-daemonize",
                "-sandbox",
                "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            ])
            .output()
            .expect("the binary starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(probe("none,accel=kvm:tcg"), (Some(0), String::new()));
    let pid = fs::read_to_string(&pidfile).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "a filter is in force: {status}");
    // A second one fails in the foreground.
    let (code, said) = probe("none,accel=kvm:tcg");
    assert!(code == Some(1) && said.contains("monitor"), "{said}");

    let mut qmp = Qmp::connect(&socket, STEP).unwrap();
    let mut ask = |command: &str, arguments: Value| qmp.execute(command, arguments);
    assert_eq!(ask("query-target", json!(null)).unwrap(), json!({"arch": "riscv64"}));
    assert_eq!(ask("query-status", json!(null)).unwrap(), json!({"running": false, "status": "prelaunch"}));
    assert_eq!(ask("query-cpus-fast", json!(null)).unwrap(), json!([]));
    assert_eq!(ask("query-kvm", json!(null)).unwrap()["enabled"], false);
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect()
    };
    let has = |list: &Value, name: &str| assert!(names(list).iter().any(|n| n == name), "{name} in {list}");
    has(&ask("query-machines", json!(null)).unwrap(), "virt");
    has(&ask("query-cpu-definitions", json!(null)).unwrap(), "rv64");
    has(&ask("query-commands", json!(null)).unwrap(), "migrate");
    let schema = ask("query-qmp-schema", json!(null)).unwrap();
    has(&schema, "blockdev-add");
    // Every type that the schema uses is in it.
    let all = names(&schema);
    for entry in schema.as_array().unwrap() {
        let members = entry["members"].as_array().into_iter().flatten().map(|m| &m["type"]);
        for used in
            [&entry["arg-type"], &entry["ret-type"], &entry["element-type"]].into_iter().chain(members)
        {
            assert!(used.as_str().is_none_or(|u| all.iter().any(|n| n == u)), "{used} of {entry}");
        }
    }
    has(&ask("qom-list-types", json!({"implements": "device"})).unwrap(), "virtio-blk-device");
    has(&ask("qom-list-properties", json!({"typename": "virt-machine"})).unwrap(), "memory-backend");
    has(&ask("device-list-properties", json!({"typename": "virtio-blk-device"})).unwrap(), "drive");
    has(&ask("qom-list-properties", json!({"typename": "memory-backend-memfd"})).unwrap(), "hugetlb");
    let options = ask("query-command-line-options", json!(null)).unwrap();
    assert!(options.as_array().unwrap().iter().any(|o| o["option"] == "smp-opts"), "{options}");
    assert!(ask("query-migrate-capabilities", json!(null)).unwrap().as_array().unwrap().len() > 3);
    let e = ask("device-list-properties", json!({"typename": "teapot"})).unwrap_err();
    assert!(e.starts_with("DeviceNotFound"), "{e}");
    ask("quit", json!(null)).unwrap();
    gone(&pidfile);
}

#[test]
fn a_daemon_that_cannot_start_says_so_and_leaves_nothing() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("no-daemon");
    for (bad, words) in [
        (&["-kernel", "/nonexistent/kernel", "-display", "none"][..], "/nonexistent/kernel"),
        (&["-serial", "stdio"], "stdio"),
        (&["-nographic"], "stdio"),
    ] {
        let output = Command::new(boot::rhea())
            .args(["run", "--arch", "riscv64", "-M", "virt", "-daemonize", "-pidfile"])
            .arg(scratch.path("pid"))
            .args(bad)
            .output()
            .expect("the binary starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && said.trim_end().lines().count() == 1, "{bad:?}: {said}");
        assert_eq!(scratch.names(), Vec::<String>::new());
    }
}
