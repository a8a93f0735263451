//! Addresses, names, echoes, datagrams and files.

use std::net::UdpSocket;
use std::thread;

use crate::config;
use crate::guest::{Guest, MAC, pattern};
use net::Endpoint;
use net_user::{UserConfig, UserNet};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{dhcpv4, icmp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpEndpoint};

fn udp_socket(guest: &mut Guest, port: u16) -> smoltcp::iface::SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 128 << 10]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).unwrap();
    guest.sockets.add(socket)
}

/// Sends a datagram and gives the first that comes back.
fn ask(
    guest: &mut Guest,
    handle: smoltcp::iface::SocketHandle,
    to: &str,
    data: &[u8],
) -> (IpEndpoint, Vec<u8>) {
    let to: std::net::SocketAddr = to.parse().unwrap();
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(data, IpEndpoint::from(to)).unwrap();
    guest.until("an answer", |g| {
        let socket = g.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket.recv().ok().map(|(bytes, meta)| (meta.endpoint, bytes.to_vec()))
    })
}

#[test]
fn dhcp_gives_an_address() {
    let options = [("net", "192.168.9.0/24"), ("dhcpstart", "192.168.9.40"), ("hostname", "guest")];
    let mut guest = Guest::bare(config(&options));
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let got = guest.until("a lease", |g| match g.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
        Some(dhcpv4::Event::Configured(c)) => {
            Some((c.address.to_string(), c.router.unwrap().to_string(), c.dns_servers[0].to_string()))
        }
        _ => None,
    });
    assert_eq!(got, ("192.168.9.40/24".into(), "192.168.9.2".into(), "192.168.9.3".into()));
}

#[test]
fn datagrams_go_out_and_back() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = format!("10.0.2.2:{}", server.local_addr().unwrap().port());
    let echo = thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        for _ in 0..2 {
            let (n, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..n], from).unwrap();
        }
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = udp_socket(&mut guest, 5000);
    let (from, data) = ask(&mut guest, handle, &to, b"small");
    assert_eq!((from.to_string(), data.as_slice()), (to.clone(), &b"small"[..]));
    // Longer than a frame: in fragments both ways, as far as the guest's stack goes.
    let long = pattern(1400);
    assert!(ask(&mut guest, handle, &to, &long).1 == long);
    echo.join().unwrap();
}

#[test]
fn a_udp_port_of_the_host_leads_in() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut guest = Guest::new(config(&[("hostfwd", &format!("udp:127.0.0.1:{port}-:6000"))]));
    let handle = udp_socket(&mut guest, 6000);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(crate::guest::STEP)).unwrap();
    client.send_to(b"ping", ("127.0.0.1", port)).unwrap();
    let peer = guest.until("a datagram", |g| {
        let socket = g.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket.recv().ok().map(|(bytes, meta)| {
            assert_eq!(bytes, b"ping");
            meta.endpoint
        })
    });
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(b"pong", peer).unwrap();
    let answer = thread::spawn(move || {
        let mut buffer = [0; 16];
        let (n, _) = client.recv_from(&mut buffer).unwrap();
        buffer[..n].to_vec()
    });
    guest.until("the answer", |_| answer.is_finished().then_some(()));
    assert_eq!(answer.join().unwrap(), b"pong");
}

#[test]
fn the_gateway_answers_pings() {
    let mut guest = Guest::new(UserConfig::default());
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(77)).unwrap();
    let handle = guest.sockets.add(socket);
    let echo = Icmpv4Repr::EchoRequest { ident: 77, seq_no: 1, data: b"are you there" };
    let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
    let buffer =
        socket.send(echo.buffer_len(), "10.0.2.2".parse::<std::net::IpAddr>().unwrap().into()).unwrap();
    echo.emit(&mut Icmpv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
    let answer = guest.until("an echo", |g| {
        g.sockets.get_mut::<icmp::Socket<'_>>(handle).recv().ok().map(|(bytes, _)| bytes.to_vec())
    });
    let packet = Icmpv4Packet::new_checked(&answer[..]).unwrap();
    assert_eq!(packet.data(), b"are you there");
}

#[test]
fn files_come_by_tftp() {
    let folder = tempfile::tempdir().unwrap();
    let data = pattern(3000);
    std::fs::write(folder.path().join("boot.img"), &data).unwrap();
    let mut guest = Guest::new(config(&[("tftp", folder.path().to_str().unwrap())]));
    let handle = udp_socket(&mut guest, 5000);
    let (_, oack) =
        ask(&mut guest, handle, "10.0.2.2:69", b"\0\x01boot.img\0octet\0blksize\x001024\0tsize\x000\0");
    assert_eq!(oack, b"\0\x06blksize\x001024\0tsize\x003000\0");
    let mut got = Vec::new();
    for number in 0u8..3 {
        let (_, block) = ask(&mut guest, handle, "10.0.2.2:69", &[0, 4, 0, number]);
        assert_eq!(block[..4], [0, 3, 0, number + 1]);
        got.extend_from_slice(&block[4..]);
    }
    assert!(got == data);
    let (_, error) = ask(&mut guest, handle, "10.0.2.2:69", b"\0\x01../secret\0octet\0");
    assert_eq!(error[..4], [0, 5, 0, 1]);
}

/// Headers that look right, so that random bytes get far.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x0806), any::<u16>()];
    let body = proptest::collection::vec(any::<u8>(), 0..200);
    (kinds, any::<bool>(), 0u8..60, any::<[u8; 4]>(), body).prop_map(|(kind, trusted, protocol, to, body)| {
        let mut f = vec![0; 12];
        f[0] = trusted.into();
        f.extend([0x52, 0x55, 10, 0, 2, 2]);
        f.extend(MAC);
        f.extend(kind.to_be_bytes());
        match kind {
            0x0800 => {
                let mut ip = vec![
                    0x45,
                    0,
                    0,
                    0,
                    0,
                    1,
                    0,
                    to[0] & 0x3f,
                    64,
                    [1, 6, 17, protocol][usize::from(to[1] & 3)],
                    0,
                    0,
                ];
                ip.extend([10, 0, 2, 15, 10, 0, 2, to[2] & 3]);
                let total = (20 + body.len()) as u16;
                ip[2..4].copy_from_slice(&total.to_be_bytes());
                if to[3] & 7 != 0 {
                    ip[6..8].fill(0);
                }
                let sum = !smoltcp::wire::checksum::data(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                f.extend(ip);
            }
            0x86dd => {
                f.extend([0x60, 0, 0, 0]);
                f.extend((body.len() as u16).to_be_bytes());
                f.extend([[6, 17, 58, protocol][usize::from(to[1] & 3)], 64]);
                f.extend([0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x15]);
                f.extend([0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, to[2] & 3]);
            }
            _ => {}
        }
        f.extend(body);
        f
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn fuzz_frames_of_any_content(all in proptest::collection::vec(frames(), 1..60)) {
        // Restricted, so that nothing is sent anywhere.
        let net = UserNet::new(config(&[("restrict", "on"), ("tftp", ".")])).unwrap();
        for frame in &all {
            net.send(&[frame]);
        }
        // A worker that has ended would not take the last one.
        std::thread::sleep(std::time::Duration::from_millis(2));
        prop_assert!(net.send(&[&[0; 60]]));
        prop_assert_eq!(net.connections(), 0);
    }
}
