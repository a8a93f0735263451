//! Errors that the guest is told: of closed ports, of hops used up, of packets too long for their way.
#![cfg(target_os = "linux")]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use net_user::UserConfig;

use crate::guest::STEP;
use crate::raw::{Conn, GATEWAY, Ip, Raw, ipv4, udp};

const DONT_FRAGMENT: u16 = 0x4000;

/// The next ICMP message.
fn message(raw: &Raw) -> Ip {
    raw.packet("a message", STEP, |p| (p.protocol == 1).then_some(p)).unwrap()
}

fn closed_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_closed_port_is_reported() {
    let raw = Raw::new(UserConfig::default());
    let port = closed_port();
    for _ in 0..2 {
        raw.ip(&ipv4(GATEWAY, 17, (64, DONT_FRAGMENT), &udp(5000, port, b"anybody?")));
        let m = message(&raw);
        assert_eq!((m.src, &m.payload[..2]), (IpAddr::V4(GATEWAY), &[3, 3][..]));
        // What it quotes is what we sent, as we sent it.
        let quoted = &m.payload[8..];
        assert_eq!(quoted[12..20], [10, 0, 2, 15, 10, 0, 2, 2]);
        assert_eq!(quoted[20..24], [&5000u16.to_be_bytes()[..], &port.to_be_bytes()].concat());
        assert_eq!(quoted[28..], *b"anybody?");
    }
}

#[test]
fn hops_come_to_an_end() {
    let raw = Raw::new(UserConfig::default());
    let far = Ipv4Addr::new(192, 0, 2, 1);
    raw.ip(&ipv4(far, 17, (1, 0), &udp(5000, 33434, b"trace")));
    let m = message(&raw);
    assert_eq!((m.src, &m.payload[..2]), (IpAddr::V4(GATEWAY), &[11, 0][..]));
    assert_eq!(m.payload[8 + 16..8 + 20], far.octets());
    // The host itself is no hop away.
    raw.ip(&ipv4(GATEWAY, 17, (1, 0), &udp(5000, closed_port(), b"trace")));
    assert_eq!(message(&raw).payload[..2], [3, 3]);
}

/// The guest says that the way to it is narrow: segments become shorter, even those that are under way.
#[test]
fn segments_fit_a_narrow_way() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let raw = Raw::new(UserConfig::default());
    let port = listener.local_addr().unwrap().port();
    let conn = Conn::open(&raw, 40000, port, &[2, 4, 5, 0xb4]);
    let mut stream = listener.accept().unwrap().0;
    std::io::Write::write_all(&mut stream, &[7; 4000]).unwrap();
    let long = raw.segment_with(|s| !s.data.is_empty());
    assert_eq!(long.data.len(), 1460);
    // A message that quotes the segment's header.
    let mut m = vec![3, 4, 0, 0, 0, 0];
    m.extend(600u16.to_be_bytes());
    let mut quoted = vec![0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15];
    quoted.extend([&port.to_be_bytes()[..], &40000u16.to_be_bytes(), &long.seq.to_be_bytes()].concat());
    m.extend(quoted);
    let sum = !smoltcp::wire::checksum::data(&m);
    m[2..4].copy_from_slice(&sum.to_be_bytes());
    raw.ip(&ipv4(GATEWAY, 1, (64, 0), &m));
    let again = raw.segment_with(|s| s.seq == conn.ack && s.data.len() < 1460);
    assert_eq!(again.data.len(), 560);
}

/// Runs one of this program's tests in a network of its own; false if this host does not let us.
fn in_namespace(test: &str, setup: &str) -> bool {
    let me = std::env::current_exe().unwrap();
    let script = format!("{setup} && exec \"$0\" --exact {test} --nocapture");
    let out = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", &script])
        .arg(me)
        .env("RHEA_NAMESPACE", "1")
        .output();
    let Ok(out) = out else { return false };
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if !text.contains("running 1 test") {
        println!("SKIPPED: no network namespaces here: {text}");
        return false;
    }
    assert!(out.status.success(), "{text}");
    true
}

#[test]
fn packets_too_long_for_the_way_are_reported() {
    if std::env::var_os("RHEA_NAMESPACE").is_none() {
        let setup = "ip link set lo mtu 1400 up && ip route add unreachable 192.0.2.0/24";
        in_namespace("errors::packets_too_long_for_the_way_are_reported", setup);
        return;
    }
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = server.local_addr().unwrap().port();
    let raw = Raw::new(UserConfig::default());
    let long = udp(5000, port, &[7; 1440]);
    raw.ip(&ipv4(GATEWAY, 17, (64, DONT_FRAGMENT), &long));
    let m = message(&raw);
    assert_eq!((&m.payload[..2], &m.payload[6..8]), (&[3, 4][..], &1400u16.to_be_bytes()[..]));
    // The same may go in fragments.
    raw.ip(&ipv4(GATEWAY, 17, (64, 0), &long));
    let mut buffer = [0; 2000];
    assert_eq!(server.recv(&mut buffer).unwrap(), 1440);
    // What has no way at all, by either protocol.
    let nowhere = Ipv4Addr::new(192, 0, 2, 9);
    raw.ip(&ipv4(nowhere, 17, (64, 0), &udp(5001, 9, b"x")));
    assert_eq!(message(&raw).payload[..2], [3, 0]);
    let mut syn = vec![0; 20];
    syn[..4].copy_from_slice(&[0x9c, 0x40, 0, 9]);
    (syn[12], syn[13]) = (0x50, 2);
    let pseudo = smoltcp::wire::checksum::pseudo_header(
        &IpAddr::from([10, 0, 2, 15]).into(),
        &IpAddr::V4(nowhere).into(),
        smoltcp::wire::IpProtocol::Tcp,
        20,
    );
    let sum = !smoltcp::wire::checksum::combine(&[pseudo, smoltcp::wire::checksum::data(&syn)]);
    syn[16..18].copy_from_slice(&sum.to_be_bytes());
    raw.ip(&ipv4(nowhere, 6, (64, 0), &syn));
    assert_eq!(message(&raw).payload[..2], [3, 1]);
}
