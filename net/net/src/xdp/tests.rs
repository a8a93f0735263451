//! Two ends of a cable of the kernel's, in a network of the test's own.

use std::io::Write;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::*;
use crate::Endpoint;
use crate::testing::Sink;

fn skip(why: &str) {
    // Past the test harness's capture.
    let _ = std::io::stderr().write_all(format!("\nSKIPPED: af-xdp: {why}\n").as_bytes());
}

/// Runs a test of this file again in a network of its own; true if that is where we are.
fn in_namespace(name: &str) -> bool {
    if std::env::var_os("RHEA_TEST_NAMESPACE").is_some() {
        return true;
    }
    let made = Command::new("unshare").args(["--net", "ip", "link", "add", "v0", "type", "veth"]).output();
    if !made.is_ok_and(|o| o.status.success()) {
        skip("needs root, unshare, ip and virtual Ethernet cables");
        return false;
    }
    let own = std::env::current_exe().unwrap();
    let test = format!("xdp::tests::{name}");
    let status = Command::new("unshare")
        .arg("--net")
        .arg(own)
        .args(["--exact", &test, "--nocapture"])
        .env("RHEA_TEST_NAMESPACE", "1")
        .status();
    assert!(status.unwrap().success(), "{name} failed in its namespace");
    false
}

fn ip(line: &str) {
    assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
}

fn options(ifname: &str, mode: XdpMode) -> XdpOptions {
    let ifname = ifname.to_owned();
    XdpOptions { ifname, mode, force_copy: false, queues: 1, start_queue: 0, sockets: None }
}

/// The next frame of ours: the kernel has its own to say on a new cable.
fn next(frames: &Receiver<Vec<u8>>) -> Vec<u8> {
    loop {
        let frame = frames.recv_timeout(Duration::from_secs(20)).unwrap();
        if frame.get(12..14) == Some(&[0x88, 0xb5]) {
            return frame;
        }
    }
}

#[test]
fn frames_pass_between_interfaces() {
    if !in_namespace("frames_pass_between_interfaces") {
        return;
    }
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
    let near = match Xdp::open(options("v0", XdpMode::Skb)) {
        Ok(near) => near,
        Err(e) => {
            assert!(e.to_string().contains("interface 'v0'"), "{e}");
            return skip(&e.to_string());
        }
    };
    let far = Xdp::open(options("v1", XdpMode::Any)).unwrap();
    let (sink, open, here) = Sink::new();
    near.set_receiver(Some(sink));
    let (sink, _, there) = Sink::new();
    far.set_receiver(Some(sink));
    for i in 0..2000u32 {
        let mut frame = vec![0xff; 12];
        frame.extend([0x88, 0xb5]);
        frame.extend(i.to_le_bytes());
        frame.resize(60 + (i as usize * 7) % 1400, i as u8);
        assert!(near.send(&[&frame[..20], &frame[20..]]));
        assert_eq!(next(&there), frame);
        assert!(far.send(&[&frame]));
        assert_eq!(next(&here), frame);
    }
    // A guest that does not read: the rings hold what they hold, and what comes then is lost.
    open.store(false, std::sync::atomic::Ordering::SeqCst);
    let frame = [&[0xff; 12][..], &[0x88, 0xb5], &[7; 50]].concat();
    for _ in 0..3000 {
        far.send(&[&frame]);
    }
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    near.accept_input();
    assert_eq!(next(&here), frame);
    assert!(!near.send(&[&[0; 5000]]), "longer than a chunk");
    let busy = Xdp::open(options("v1", XdpMode::Any)).err().unwrap().to_string();
    assert!(busy.contains("somebody else has it"), "{busy}");
    let many = Xdp::open(XdpOptions { start_queue: 40, ..options("v1", XdpMode::Any) }).err().unwrap();
    assert!(many.to_string().contains("queue 40"), "{many}");
    // The interface is the host's again, and goes.
    drop(near);
    let again = Xdp::open(options("v0", XdpMode::Any)).unwrap();
    let (sink, _, _here) = Sink::new();
    again.set_receiver(Some(sink));
    ip("link del v0");
    drop(again);
}

#[test]
fn what_is_not_there_is_named() {
    let error = Xdp::open(options("nosuch0", XdpMode::Any)).err().unwrap().to_string();
    assert!(error.contains("interface 'nosuch0'") && error.contains("no such interface"), "{error}");
    let none = Xdp::open(XdpOptions { queues: 0, ..options("lo", XdpMode::Any) }).err().unwrap();
    assert!(none.to_string().contains("queues=0: expected 1 to 256"), "{none}");
    let few = XdpOptions { sockets: Some(Vec::new()), ..options("lo", XdpMode::Any) };
    assert!(Xdp::open(few).err().unwrap().to_string().contains("sock-fds"));
}
