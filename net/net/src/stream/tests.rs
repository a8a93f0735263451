//! Peers that come, go, read slowly and speak nonsense.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::testing::Sink;

const WAIT: Duration = Duration::from_secs(20);

fn listening(peer: StreamPeer) -> (Stream, Receiver<StreamEvent>) {
    let (tx, events) = channel();
    let stream = Stream::new(peer, Some(Box::new(move |e| drop(tx.send(e))))).unwrap();
    (stream, events)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

#[test]
fn one_peer_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net");
    let (end, events) = listening(StreamPeer::Listen(Address::path(&path)));
    let (sink, _, frames) = Sink::new();
    end.set_receiver(Some(sink));
    assert!(!end.send(&[&[0; 60]]), "nobody is there");
    for round in 0..3u8 {
        let mut peer = UnixStream::connect(&path).unwrap();
        assert!(matches!(events.recv_timeout(WAIT).unwrap(), StreamEvent::Connected(_)));
        // In pieces, and two at once.
        let both = [framed(&[round; 60]), framed(&[round; 1514])].concat();
        for piece in both.chunks(50) {
            peer.write_all(piece).unwrap();
        }
        assert_eq!(frames.recv_timeout(WAIT).unwrap(), [round; 60]);
        assert_eq!(frames.recv_timeout(WAIT).unwrap(), [round; 1514]);
        assert!(end.send(&[b"abc", b"defg"]));
        let mut got = [0; 11];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got, *b"\0\0\0\x07abcdefg");
        drop(peer);
        assert_eq!(events.recv_timeout(WAIT).unwrap(), StreamEvent::Disconnected);
    }
}

#[test]
fn a_client_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::inet(&listener.local_addr().unwrap().to_string()).unwrap();
    let (_end, events) = listening(StreamPeer::Connect(address.clone(), Some(Duration::from_millis(20))));
    for _ in 0..3 {
        let (peer, _) = listener.accept().unwrap();
        assert!(matches!(events.recv_timeout(WAIT).unwrap(), StreamEvent::Connected(_)));
        drop(peer);
        assert_eq!(events.recv_timeout(WAIT).unwrap(), StreamEvent::Disconnected);
    }
    drop(listener);
    let error = Stream::new(StreamPeer::Connect(address.clone(), None), None).err().unwrap().to_string();
    assert!(error.contains(&format!("cannot connect to {address}")) && error.contains("refused"), "{error}");
}

#[test]
fn slow_ends_cost_bounded_memory() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let end = Stream::new(StreamPeer::Connected(ours.into()), None).unwrap();
    let frame = [7; 60_000];
    let taken = (0..1000).filter(|_| end.send(&[&frame])).count();
    assert!((PENDING / 60_000..PENDING / 60_000 + 20).contains(&taken), "{taken}");
    let mut got = vec![0; taken * 60_004];
    theirs.read_exact(&mut got).unwrap();
    assert!(got.chunks(60_004).all(|f| f == framed(&frame)));
    // A guest without room: what comes waits in the sockets.
    let (sink, open, frames) = Sink::new();
    open.store(false, Ordering::SeqCst);
    end.set_receiver(Some(sink));
    theirs.set_nonblocking(true).unwrap();
    let wanted: Vec<u8> = (0..50_000).flat_map(|i: u32| framed(&i.to_be_bytes().repeat(16))).collect();
    let mut written = 0;
    while let Ok(n) = theirs.write(&wanted[written..]) {
        written += n;
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(written < wanted.len());
    theirs.set_nonblocking(false).unwrap();
    open.store(true, Ordering::SeqCst);
    end.accept_input();
    let writer = std::thread::spawn(move || theirs.write_all(&wanted[written..]));
    for i in 0..50_000u32 {
        assert_eq!(frames.recv_timeout(WAIT).unwrap()[..4], i.to_be_bytes());
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn nonsense_ends_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (_end, events) = listening(StreamPeer::Listen(Address::inet(&address.to_string()).unwrap()));
    let mut peer = TcpStream::connect(address).unwrap();
    assert!(matches!(events.recv_timeout(WAIT).unwrap(), StreamEvent::Connected(_)));
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(events.recv_timeout(WAIT).unwrap(), StreamEvent::Disconnected);
}

#[test]
fn fuzz_any_bytes_are_frames_or_nonsense() {
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    for _ in 0..2000 {
        let mut reader = Reader::new();
        let mut total = 0;
        for _ in 0..random() % 6 {
            let n = random() % 3000;
            for byte in &mut reader.room()[..n] {
                *byte = if random() % 3 == 0 { random() as u8 } else { 0 };
            }
            reader.to += n;
            while let Found::Frame(range) = reader.next() {
                assert!(range.end <= reader.to && range.start >= reader.from + PREFIX);
                total += 1;
                reader.from = range.end;
            }
        }
        assert!(total < 20_000);
    }
}
