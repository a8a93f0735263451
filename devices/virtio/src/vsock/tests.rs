use std::io::{Read, Write};

use ::device::test_bench::{Bench, check};
use net_vsock::{Header, Muxer, STREAM, op};

use super::*;
use crate::Mmio;
use crate::test_driver::{Driver, Piece, Token, hostile_rings};

fn config() -> Mmio<VsockConfig> {
    Mmio::new(VsockConfig::default(), VsockBackend(None))
}

fn packet(op: u16, ports: (u32, u32), data: &[u8]) -> Vec<u8> {
    let header = Header {
        src: (3, ports.0),
        dst: (2, ports.1),
        len: data.len() as u32,
        kind: STREAM,
        op,
        buf_alloc: 1 << 16,
        ..Header::default()
    };
    [&header.bytes()[..], data].concat()
}

/// Waits for a received packet and gives the buffer back.
fn receive(driver: &mut Driver<'_>, tokens: &mut std::collections::VecDeque<Token>) -> (Header, Vec<u8>) {
    let (head, len) = driver.wait(0);
    let token = tokens.pop_front().unwrap();
    assert_eq!(head, token.head);
    let bytes = driver.written(&token);
    let header = Header::read(bytes[..HEADER].try_into().unwrap());
    assert_eq!(len as usize, HEADER + header.len as usize);
    tokens.push_back(driver.add(0, &[Piece::In(300)]));
    driver.kick(0);
    (header, bytes[HEADER..len as usize].to_vec())
}

#[test]
fn a_stream_through_the_muxer() {
    let dir = tempfile::tempdir().unwrap();
    let muxer = Arc::new(Muxer::new(&dir.path().join("v"), 3).unwrap());
    let bench = Bench::new(Mmio::new(VsockConfig::default(), VsockBackend(Some(muxer))));
    let mut driver = Driver::start(&bench, !0, &[16; 3]);
    assert_eq!(bench.read(0, 0x100, 4), 3);
    let mut tokens: std::collections::VecDeque<_> =
        (0..4).map(|_| driver.add(0, &[Piece::In(300)])).collect();
    driver.kick(0);
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("v_9")).unwrap();
    driver.ask(1, &[Piece::Out(&packet(op::REQUEST, (5, 9), b""))]);
    assert_eq!(receive(&mut driver, &mut tokens).0.op, op::RESPONSE);
    let (mut host, _) = listener.accept().unwrap();
    let data: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
    let whole = packet(op::RW, (5, 9), &data);
    driver.ask(1, &[Piece::Out(&whole[..50]), Piece::Out(&whole[50..])]);
    let mut got = vec![0; 1000];
    host.read_exact(&mut got).unwrap();
    assert_eq!(got, data);
    // Larger than the driver's buffers: it comes in pieces.
    host.write_all(&data).unwrap();
    let mut got = Vec::new();
    while got.len() < 1000 {
        let (header, piece) = receive(&mut driver, &mut tokens);
        assert_eq!((header.op, header.dst), (op::RW, (3, 5)));
        got.extend(piece);
    }
    assert_eq!(got, data);
    // A saved machine finds its connections gone, and says so.
    bench.cell().quiesce();
    let saved = bench.cell().save();
    let twin = Bench::new(config());
    let mut moved = driver.moved(&twin);
    twin.cell().restore(&saved).unwrap();
    twin.cell().resume();
    let (event, _) = moved.ask(2, &[Piece::In(4)]);
    assert_eq!(event, [0; 4]);
    bench.cell().resume();
}

#[test]
fn bad_packets_go_nowhere() {
    let bench = Bench::new(config());
    let mut driver = Driver::start(&bench, !0, &[16; 3]);
    let mut long = packet(op::RW, (1, 2), &[1; 10]);
    long[24] = 11;
    for bad in [&long[..], &long[..20], &packet(op::REQUEST, (1, 2), b"data")] {
        driver.ask(1, &[Piece::Out(bad)]);
    }
    assert!(!driver.needs_reset());
    let mut config = config();
    ::device::Properties::set(&mut config, "guest-cid", "2").unwrap();
    assert_eq!(config.config.guest_cid, 2);
}

#[test]
fn passes_the_common_tests() {
    check(config());
}

#[test]
fn fuzz_hostile_rings() {
    hostile_rings(&config(), 3, config, |_| ());
}
