//! What monitors do with networks, on a machine that stands before its first instruction.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rhea_tests::boot::{self, STEP, Scratch};
use rhea_tests::qmp::Controlled;
use serde_json::{Value, json};

fn machine(scratch: &Scratch, arguments: &[&str]) -> Controlled {
    let socket = scratch.path("qmp");
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let mut all =
        vec!["-m", "64", "-S", "-display", "none", "-qmp", &qmp, "-serial", "none", "-monitor", "none"];
    all.extend(arguments);
    let mut command = boot::command("riscv64", "virt", &all);
    Controlled::new(command.stdin(Stdio::null()).spawn().unwrap(), &socket)
}

fn hmp(m: &mut Controlled, line: &str) -> String {
    let told = m.ok("human-monitor-command", json!({"command-line": line}));
    told.as_str().unwrap().replace('\r', "")
}

/// The next frame that a stream back end sends.
fn frame(peer: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn cards_have_addresses_and_make_them_known() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("announce");
    let path = scratch.path("wire");
    let listener = UnixListener::bind(&path).unwrap();
    let wire = format!("stream,id=a,addr.type=unix,addr.path={}", path.display());
    let mut arguments = vec!["-netdev", &wire, "-device", "virtio-net-device,netdev=a,id=one"];
    let given = "virtio-net-device,id=three,mac=52:54:00:12:34:57";
    arguments.extend(["-device", given, "-device", "virtio-net-device,id=two"]);
    let mut m = machine(&scratch, &arguments);
    let filters = m.ok("query-rx-filter", json!({}));
    let macs: Vec<&Value> = filters.as_array().unwrap().iter().map(|f| &f["main-mac"]).collect();
    // Those that are given are not given away, though QEMU does not look ahead either.
    assert_eq!(macs, ["52:54:00:12:34:56", "52:54:00:12:34:57", "52:54:00:12:34:58"]);
    let how = json!({"initial": 10, "max": 20, "rounds": 3, "step": 5});
    m.ok("announce-self", how);
    let mut peer = listener.accept().unwrap().0;
    peer.set_read_timeout(Some(STEP)).unwrap();
    for _ in 0..3 {
        let got = frame(&mut peer);
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        assert_eq!((&got[..6], &got[6..12], &got[12..14]), (&[0xff; 6][..], &mac[..], &[0x80, 0x35][..]));
        assert_eq!((&got[20..22], &got[22..28], &got[32..38]), (&[0, 3][..], &mac[..], &mac[..]));
    }
    hmp(&mut m, "announce_self one");
    frame(&mut peer);
    let few = json!({"initial": 10, "max": 20, "rounds": 0, "step": 5});
    m.refused("announce-self", few, "'rounds' expects a number from 1 to 1000");
    m.ok("set_link", json!({"name": "one", "up": false}));
    m.refused("set_link", json!({"name": "none", "up": false}), "none");
    m.ok("netdev_del", json!({"id": "a"}));
    m.ok("netdev_add", json!({"type": "user", "id": "a"}));
}

#[test]
fn ports_come_and_go() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("hostfwd");
    let mut m = machine(&scratch, &["-netdev", "user,id=net7", "-device", "virtio-net-device,netdev=net7"]);
    assert_eq!(hmp(&mut m, "hostfwd_add tcp:127.0.0.1:0-:22"), "");
    let list = hmp(&mut m, "info usernet");
    assert!(list.starts_with("Hub -1 (net7):\n  Protocol[State]    FD  Source Address  Port"), "{list}");
    let line = list.lines().find(|l| l.contains("TCP[HOST_FORWARD]")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, "127.0.0.1", port, "10.0.2.15", "22", "0", "0"] = words[..] else { panic!("{line}") };
    let address = ("127.0.0.1", port.parse::<u16>().unwrap());
    let _client = TcpStream::connect(address).unwrap();
    while !hmp(&mut m, "info usernet").contains("TCP[SYN_SENT]") {}
    let told = hmp(&mut m, "hostfwd_remove net7 tcp:127.0.0.1:0");
    assert_eq!(told, "host forwarding rule for tcp:127.0.0.1:0 removed\n");
    assert!(hmp(&mut m, "hostfwd_remove tcp:127.0.0.1:0").ends_with("not found\n"));
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(hmp(&mut m, "hostfwd_add udp:127.0.0.1:0-:53"), "");
    assert!(hmp(&mut m, "info usernet").contains("UDP[HOST_FORWARD]"));
    assert!(hmp(&mut m, "hostfwd_add tcp:1").contains("is not of the form [tcp|udp]:"));
    assert!(hmp(&mut m, "hostfwd_add none tcp::1-:2").contains("netdev 'none' is no user network"));
}
