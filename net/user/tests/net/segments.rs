//! TCP against scripted segments (RFC 9293; RFC 5961 for resets).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use net_user::UserConfig;

use crate::config;
use crate::guest::{STEP, pattern};
use crate::raw::{ACK, Conn, FIN, RST, Raw, SYN, Tcp, URG};

/// Long enough for anything that would come.
const QUIET: Duration = Duration::from_millis(120);

fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(STEP)).unwrap();
    stream
}

fn take(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    stream.read_exact(&mut data).unwrap();
    data
}

#[test]
fn segments_out_of_order_and_overlapping() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let conn = Conn::open(&raw, 40000, port, &[]);
    let mut stream = accept(&listener);
    let data = pattern(100);
    // Behind a gap: acknowledged is what came before it.
    conn.send_at(60, 0, &data[60..80]);
    assert_eq!(raw.segment().ack, conn.seq);
    conn.send_at(30, 0, &data[30..70]);
    assert_eq!(raw.segment().ack, conn.seq);
    conn.send_at(0, 0, &data[..40]);
    conn.acknowledged(80);
    // Nothing new, then something that begins in what is known.
    conn.send_at(10, 0, &data[10..50]);
    assert_eq!(raw.segment().ack, conn.seq.wrapping_add(80));
    conn.send_at(70, FIN, &data[70..100]);
    conn.acknowledged(101);
    assert_eq!(take(&mut stream, 100), data);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_end_before_its_data() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let mut conn = Conn::open(&raw, 40000, port, &[]);
    let mut stream = accept(&listener);
    conn.send_at(5, FIN, b"world");
    assert_eq!(raw.segment().ack, conn.seq);
    conn.send_at(0, 0, b"hello");
    conn.acknowledged(11);
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "helloworld");
    // The other side ends later, and both are gone.
    drop(stream);
    let end = raw.segment_with(|s| s.flags & FIN != 0);
    conn.seq = conn.seq.wrapping_add(11);
    conn.ack = end.seq.wrapping_add(1);
    conn.send(0, &[]);
    raw.gone();
    // An end that comes again gets the same answer as before.
    conn.seq = conn.seq.wrapping_sub(1);
    conn.send(FIN, &[]);
    let again = raw.segment();
    assert_eq!((again.flags, again.ack, again.seq), (ACK, conn.seq.wrapping_add(1), conn.ack));
}

#[test]
fn the_guests_window_shuts_and_opens() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let mut conn = Conn::open(&raw, 40000, port, &[]);
    conn.window = 0;
    conn.send(0, &[]);
    let mut stream = accept(&listener);
    // The first acknowledgement, with its window of 8000, may have let some through.
    std::thread::sleep(QUIET);
    stream.write_all(b"for later").unwrap();
    // Only probes come, which have nothing new.
    let probe = raw.segment();
    assert_eq!((probe.data.as_slice(), probe.seq.wrapping_add(1)), (&[][..], conn.ack));
    conn.window = 4;
    conn.send(0, &[]);
    assert_eq!(raw.segment_with(|s| !s.data.is_empty()).data, b"for ");
    conn.ack = conn.ack.wrapping_add(4);
    conn.window = 100;
    conn.send(0, &[]);
    assert_eq!(raw.segment_with(|s| !s.data.is_empty()).data, b"later");
}

#[test]
fn our_window_shuts_and_opens() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    // With a scale of ours, so that windows beyond 64 KiB are told.
    let mut conn = Conn::open(&raw, 40000, port, &[3, 3, 0, 1]);
    let mut stream = accept(&listener);
    let data = pattern(32 << 20);
    let mut sent = 0;
    // The host's sockets take much, then the network keeps some, then nothing more has room.
    while sent < data.len() {
        conn.send(0, &data[sent..sent + 32768]);
        let answer = raw.segment();
        let taken = answer.ack.wrapping_sub(conn.seq) as usize;
        conn.seq = answer.ack;
        sent += taken;
        if answer.window == 0 {
            break;
        }
    }
    assert!(sent < data.len(), "there is no end to what the host takes");
    // One byte more is not taken.
    conn.send(0, &data[sent..=sent]);
    assert_eq!(raw.segment().ack, conn.seq);
    assert_eq!(take(&mut stream, sent), data[..sent]);
    let open = raw.segment_with(|s| s.window > 0);
    assert_eq!(open.ack, conn.seq);
}

#[test]
fn windows_are_scaled_if_both_say_so() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let plain = Conn::open(&raw, 40000, port, &[2, 4, 5, 0xb4]);
    assert_eq!(plain.syn_ack.options, [2, 4, 5, 0xb4]);
    plain.send(0, b"x");
    assert_eq!(plain.acknowledged(1).window, 0xffff);
    let mut scaled = Conn::open(&raw, 40001, port, &[2, 4, 5, 0xb4, 3, 3, 4, 1]);
    assert_eq!(scaled.syn_ack.options, [2, 4, 5, 0xb4, 1, 3, 3, 7]);
    let _first = accept(&listener);
    let mut stream = accept(&listener);
    scaled.send(0, b"x");
    // 512 KiB, without the one byte if the host has not taken it.
    assert!((4095..=4096).contains(&scaled.acknowledged(1).window));
    // 300 times 16 bytes fit, no more.
    scaled.seq = scaled.seq.wrapping_add(1);
    scaled.window = 300;
    scaled.send(0, &[]);
    std::thread::sleep(QUIET);
    stream.write_all(&pattern(20000)).unwrap();
    let mut got = 0;
    while let Some(s) = raw.maybe_segment(QUIET) {
        let end = s.seq.wrapping_sub(scaled.ack) as usize + s.data.len();
        got = got.max(end);
    }
    assert_eq!(got, 4800);
}

/// Makes a client of the host's connect to the guest; gives it, and the network's SYN.
fn knock(raw: &Raw, port: u16) -> (TcpStream, Tcp) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(STEP)).unwrap();
    let syn = raw.segment();
    assert_eq!((syn.flags, syn.to), (SYN, 7000));
    (stream, syn)
}

fn forwarded() -> (Raw, u16) {
    let port = server().1;
    (Raw::new(config(&[("hostfwd", &format!("tcp:127.0.0.1:{port}-:7000"))])), port)
}

#[test]
fn both_begin_at_once() {
    let (raw, port) = forwarded();
    let (mut stream, syn) = knock(&raw, port);
    let (from, to) = (syn.to, syn.from);
    let ours = Tcp { from, to, seq: 1000, window: 8000, ..Tcp::default() };
    raw.tcp(&Tcp { flags: SYN, ..ours.clone() });
    let answer = raw.segment();
    assert_eq!((answer.flags, answer.seq, answer.ack), (SYN | ACK, syn.seq, 1001));
    let ack = syn.seq.wrapping_add(1);
    raw.tcp(&Tcp { flags: SYN | ACK, ack, ..ours.clone() });
    assert_eq!(raw.segment_with(|s| s.flags == ACK).ack, 1001);
    raw.tcp(&Tcp { flags: ACK, seq: 1001, ack, data: b"hi".to_vec(), ..ours });
    assert_eq!(take(&mut stream, 2), b"hi");
}

#[test]
fn both_end_at_once() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let mut conn = Conn::open(&raw, 40000, port, &[]);
    let stream = accept(&listener);
    stream.shutdown(Shutdown::Write).unwrap();
    let end = raw.segment_with(|s| s.flags & FIN != 0);
    // Our end, sent before theirs was seen.
    conn.send(FIN, &[]);
    conn.acknowledged(1);
    raw.connections(1);
    conn.seq = conn.seq.wrapping_add(1);
    conn.ack = end.seq.wrapping_add(1);
    conn.send(0, &[]);
    raw.gone();
}

#[test]
fn a_reset_in_every_state() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let options = [2, 4, 5, 0xb4];
    // Our SYN is answered, the answer is not acknowledged yet.
    let syn = Tcp { from: 30000, to: port, seq: 99, flags: SYN, window: 100, ..Tcp::default() };
    raw.tcp(&syn);
    let answer = raw.segment();
    raw.tcp(&Tcp { seq: 5000, flags: RST, ..syn.clone() });
    std::thread::sleep(QUIET);
    assert_eq!(raw.net.connections(), 1, "a reset of nothing");
    raw.tcp(&Tcp { seq: 100, ack: answer.seq.wrapping_add(1), flags: RST | ACK, ..syn });
    raw.gone();
    let mut first = accept(&listener);
    assert!(first.read(&mut [0]).is_err());
    // Established; one that is not exact is challenged.
    let conn = Conn::open(&raw, 30001, port, &options);
    let mut stream = accept(&listener);
    conn.send_at(5, RST, &[]);
    assert_eq!(raw.segment().flags, ACK);
    raw.connections(1);
    conn.send(RST, &[]);
    raw.gone();
    assert!(stream.read(&mut [0]).is_err());
    // A SYN in between is challenged as well.
    let conn = Conn::open(&raw, 30002, port, &options);
    let stream = accept(&listener);
    raw.tcp(&Tcp { from: 30002, to: port, seq: 77, flags: SYN, window: 9, ..Tcp::default() });
    assert_eq!(raw.segment().flags, ACK);
    // The host's side has ended.
    stream.shutdown(Shutdown::Write).unwrap();
    raw.segment_with(|s| s.flags & FIN != 0);
    conn.send(RST, &[]);
    raw.gone();
    // Ours has.
    let mut conn = Conn::open(&raw, 30003, port, &options);
    let _stream = accept(&listener);
    conn.send(FIN, &[]);
    conn.acknowledged(1);
    conn.seq = conn.seq.wrapping_add(1);
    conn.send(RST, &[]);
    raw.gone();
    // None there at all: a reset is not answered, anything else with a reset.
    conn.send(RST, &[]);
    assert!(raw.maybe_segment(QUIET).is_none());
    conn.send(0, b"lost");
    let answer = raw.segment();
    assert_eq!((answer.flags, answer.seq), (RST, conn.ack));
    // The network has sent a SYN.
    let (raw, port) = forwarded();
    let (mut stream, syn) = knock(&raw, port);
    let refusal = Tcp { from: syn.to, to: syn.from, flags: RST | ACK, ..Tcp::default() };
    raw.tcp(&Tcp { ack: syn.seq, ..refusal.clone() });
    std::thread::sleep(QUIET);
    assert_eq!(raw.net.connections(), 1, "a refusal of nothing");
    raw.tcp(&Tcp { ack: syn.seq.wrapping_add(1), ..refusal });
    raw.gone();
    assert!(stream.read(&mut [0]).is_err());
}

#[test]
fn an_acknowledgement_of_another_connection_is_reset() {
    let (raw, port) = forwarded();
    let (_stream, syn) = knock(&raw, port);
    let stale = Tcp { from: syn.to, to: syn.from, seq: 1, ack: syn.seq, flags: ACK, ..Tcp::default() };
    raw.tcp(&stale);
    let reset = raw.segment_with(|s| s.flags & RST != 0);
    assert_eq!(reset.seq, stale.ack);
    raw.connections(1);
}

#[test]
fn a_question_whether_we_are_there_is_answered() {
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let conn = Conn::open(&raw, 40000, port, &[]);
    let _stream = accept(&listener);
    for probe in [&[][..], &[0][..]] {
        conn.send_at(-1, 0, probe);
        let answer = raw.segment();
        assert_eq!((answer.flags, answer.ack), (ACK, conn.seq));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn urgent_bytes_go_both_ways() {
    use rustix::net::RecvFlags;
    let (listener, port) = server();
    let raw = Raw::new(UserConfig::default());
    let mut conn = Conn::open(&raw, 40000, port, &[]);
    let mut stream = accept(&listener);
    conn.send_urgent(b"abc!");
    conn.acknowledged(4);
    assert_eq!(take(&mut stream, 3), b"abc");
    let mut byte = [0];
    let end = std::time::Instant::now() + STEP;
    while rustix::net::recv(&stream, &mut byte[..], RecvFlags::OOB).is_err() {
        assert!(std::time::Instant::now() < end, "no urgent byte");
    }
    assert_eq!(byte, *b"!");
    conn.seq = conn.seq.wrapping_add(4);
    conn.send(0, b"on");
    assert_eq!(take(&mut stream, 2), b"on");
    // And back: the pointer names the byte behind the urgent one.
    socket2::SockRef::from(&stream).send_out_of_band(b"xy?").unwrap();
    stream.write_all(b"after").unwrap();
    let (mut got, mut urgent) = (Vec::new(), None);
    while got.len() < 8 {
        let s = raw.segment_with(|s| !s.data.is_empty());
        let at = s.seq.wrapping_sub(conn.ack) as usize;
        if at != got.len() {
            continue;
        }
        if s.flags & URG != 0 {
            urgent = Some(at + usize::from(s.urgent) - 1);
        }
        got.extend(s.data);
    }
    assert_eq!((got.as_slice(), urgent), (&b"xy?after"[..], Some(2)));
}
