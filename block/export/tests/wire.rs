//! The wire under attack: a client and a server of ours with somebody between them who changes bytes, and a server that is
//! sent noise. Nothing may panic, hang or take memory without bound, and what goes through unchanged is right.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use block::{BlockNode, MemoryNode};
use block_export::{Export, NbdServer, ServerOptions};
use block_nbd::{Address, NbdNode, NbdOptions, Socket, proto};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn server(node: Arc<dyn BlockNode>) -> Arc<NbdServer> {
    let server = NbdServer::new(ServerOptions { handshake_limit: 1, ..ServerOptions::default() });
    let mut export = Export::new("e", node, false);
    export.depth = true;
    export.bitmaps.push(("b".into(), Arc::new(vec![100..200, 300..4000])));
    assert!(server.add(export));
    server
}

/// Carries bytes from one end to the other and changes one of every `rate` or so.
fn carry(mut from: UnixStream, mut to: UnixStream, mut random: Random, rate: u64) {
    let mut buffer = [0; 4096];
    from.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
    let mut next = random.below(rate);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut at = 0;
        while next < (n - at) as u64 {
            at += next as usize;
            buffer[at] = match random.below(3) {
                0 => random.next() as u8,
                1 => buffer[at] ^ 1 << random.below(8),
                _ => [0, 0xff, 0x7f, 1][random.below(4) as usize],
            };
            next = random.below(2 * rate) + 1;
        }
        next = next.saturating_sub((n - at) as u64);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn changed_bytes_break_a_connection_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let node = Arc::new(MemoryNode::new("m", 1 << 20));
    let server = server(node);
    let seed = AtomicUsize::new(0);
    let rounds = if cfg!(feature = "long") { 20_000 } else { 60 };
    std::thread::scope(|scope| {
        let (server, seed) = (&server, &seed);
        scope.spawn(move || {
            loop {
                let (client, _) = listener.accept().unwrap();
                let n = seed.load(Ordering::Relaxed);
                if n == usize::MAX {
                    return;
                }
                let (ours, theirs) = UnixStream::pair().unwrap();
                server.begin(Socket::Unix(theirs)).unwrap();
                let rate = [30, 100, 400, 2000][n % 4];
                let (c2, o2) = (client.try_clone().unwrap(), ours.try_clone().unwrap());
                let n = n as u64 + 1;
                std::thread::spawn(move || carry(client, ours, Random(n * 0x9e37_79b9), rate));
                std::thread::spawn(move || carry(o2, c2, Random(n * 0x7f4a_7c15), rate));
            }
        });
        let mut opened = 0;
        for round in 0..rounds {
            seed.store(round, Ordering::Relaxed);
            let mut options = NbdOptions::new(Address::Unix(path.clone()), "e");
            options.bitmap = (round % 3 == 0).then(|| "qemu:dirty-bitmap:b".to_owned());
            let Ok(node) = NbdNode::open(options) else { continue };
            opened += 1;
            let size = node.size().max(1);
            let mut data = vec![0; 9000.min(size) as usize];
            for i in 0..6 {
                let _ =
                    node.write(i * 512 % size, &[IoSlice::new(&data[..512.min(size) as usize])], i % 2 == 0);
                let _ = node.read(0, &mut [IoSliceMut::new(&mut data)]);
                let _ = node.status(0..size.min(1 << 30));
                let _ = node.write_zeroes(0, size.min(4096), true);
                let _ = node.flush();
            }
        }
        seed.store(usize::MAX, Ordering::Relaxed);
        let _ = UnixStream::connect(&path);
        assert!(opened > rounds / 10, "{opened} of {rounds} got through the negotiation");
    });
    server.stop();
}

#[test]
fn noise_and_greed_are_refused() {
    let server = server(Arc::new(MemoryNode::new("m", 1 << 20)));
    let mut random = Random(99);
    let talk = |bytes: &[u8]| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        server.begin(Socket::Unix(theirs)).unwrap();
        let _ = ours.write_all(bytes);
        let _ = ours.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = ours.read_to_end(&mut answer);
        answer
    };
    for _ in 0..200 {
        let noise: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
        talk(&noise);
        // Past the flags, so that options are looked at; then past the choice, so that requests are.
        talk(&[&3u32.to_be_bytes()[..], &noise].concat());
        let mut chosen = 3u32.to_be_bytes().to_vec();
        chosen.extend(proto::OPTION_MAGIC.to_be_bytes());
        chosen.extend(proto::option::EXPORT_NAME.to_be_bytes());
        chosen.extend(1u32.to_be_bytes());
        chosen.push(b'e');
        for _ in 0..4 {
            chosen.extend(proto::REQUEST.to_be_bytes());
            chosen.extend([0, random.below(2) as u8, 0, random.below(9) as u8]);
            chosen.extend(random.next().to_be_bytes());
            chosen.extend((random.next() >> random.below(64)).to_be_bytes());
            chosen.extend(((random.next() as u32) >> random.below(32)).to_be_bytes());
        }
        let answer = talk(&chosen);
        assert!(answer.len() < 40 << 20, "{} bytes", answer.len());
    }
    // An option that claims four gigabytes costs nothing.
    let mut greedy = 3u32.to_be_bytes().to_vec();
    greedy.extend(proto::OPTION_MAGIC.to_be_bytes());
    greedy.extend(proto::option::GO.to_be_bytes());
    greedy.extend(u32::MAX.to_be_bytes());
    assert_eq!(talk(&greedy).len(), 18);
    server.stop();
}

#[test]
fn a_server_that_talks_nonsense_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let hello = |rest: &[u8]| {
        [&proto::MAGIC.to_be_bytes()[..], &proto::OPTION_MAGIC.to_be_bytes(), &[0, 3], rest].concat()
    };
    let reply = |option: u32, kind: u32, len: u32| {
        let mut out = proto::REPLY_MAGIC.to_be_bytes().to_vec();
        [option, kind, len].iter().for_each(|n| out.extend(n.to_be_bytes()));
        out
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "no NBD server"),
        (hello(&[1; 20]), "a reply with magic"),
        (hello(&reply(8, proto::reply::ACK, u32::MAX)), "at most"),
        (hello(&[reply(8, 1, 0), reply(10, 1, 0), reply(7, 1, 0)].concat()), "does not tell the size"),
        (
            hello(&[reply(8, 1, 0), reply(10, 1, 0), reply(7, proto::reply::UNKNOWN, 0)].concat()),
            "no such export",
        ),
        (hello(&[]), "s: "),
    ];
    let answers: Vec<Vec<u8>> = cases.iter().map(|(a, _)| a.clone()).collect();
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(&answer).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = client.read_to_end(&mut Vec::new());
        }
    });
    for (_, words) in &cases {
        let e = NbdNode::open(NbdOptions::new(Address::Unix(path.clone()), "x")).unwrap_err().to_string();
        assert!(e.contains(words) && !e.contains('\n'), "{words}: {e}");
    }
    thread.join().unwrap();
}

#[test]
fn exports_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(Arc::new(MemoryNode::new("m", 1 << 20)));
    server.listen(block_nbd::Listener::bind(&Address::Unix(path.clone())).unwrap()).unwrap();
    let open = |name: &str| NbdNode::open(NbdOptions::new(Address::Unix(path.clone()), name));
    let node = Arc::new(open("e").unwrap());
    // Many threads on one connection.
    std::thread::scope(|scope| {
        for t in 0..8u8 {
            let node = node.clone();
            scope.spawn(move || {
                for i in 0..50u64 {
                    let at = u64::from(t) * 65536 + i * 512;
                    node.write(at, &[IoSlice::new(&[t; 300]), IoSlice::new(&[t + 1; 212])], false).unwrap();
                    let (mut a, mut b) = ([9; 300], [9; 212]);
                    node.read(at, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)]).unwrap();
                    assert!(a == [t; 300] && b == [t + 1; 212]);
                }
            });
        }
    });
    let e = node.read(u64::from(u32::MAX), &mut [IoSliceMut::new(&mut [0; 1])]).unwrap_err().to_string();
    assert!(e.contains("beyond the export"), "{e}");
    let bitmap = NbdNode::open(NbdOptions {
        bitmap: Some("qemu:dirty-bitmap:b".into()),
        ..NbdOptions::new(Address::Unix(path.clone()), "e")
    });
    let dirty: Vec<_> = bitmap
        .unwrap()
        .status(0..5000)
        .unwrap()
        .into_iter()
        .filter(|e| !e.allocated)
        .map(|e| e.range)
        .collect();
    assert_eq!(dirty, [100..200, 300..4000]);
    assert!(open("f").unwrap_err().to_string().contains("no such export"));
    assert_eq!(server.remove("e", false), Some(Err(1)));
    assert_eq!(server.remove("e", true), Some(Ok(())));
    assert!(node.flush().is_err() && open("e").is_err() && server.remove("e", true).is_none());
    server.stop();
    assert!(!path.exists());
}
