//! A guest made of packets, and real sockets on the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

const CID: u64 = 7;
const WAIT: Duration = Duration::from_secs(20);

struct Sink(Sender<Vec<u8>>, Arc<AtomicBool>);

impl NetReceiver for Sink {
    fn can_receive(&mut self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
    fn receive(&mut self, frame: &[u8]) {
        let _ = self.0.send(frame.to_vec());
    }
}

struct Guest {
    muxer: Muxer,
    packets: Receiver<Vec<u8>>,
    open: Arc<AtomicBool>,
    dir: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let muxer = Muxer::new(&dir.path().join("v"), CID).unwrap();
        let (tx, packets) = channel();
        let open = Arc::new(AtomicBool::new(true));
        muxer.set_receiver(Some(Box::new(Sink(tx, open.clone()))));
        Guest { muxer, packets, open, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn send(&self, ports: (u32, u32), op: u16, flags: u32, credit: (u32, u32), data: &[u8]) {
        let header = Header {
            src: (CID, ports.0),
            dst: (HOST, ports.1),
            len: data.len() as u32,
            kind: STREAM,
            op,
            flags,
            buf_alloc: credit.0,
            fwd_cnt: credit.1,
        };
        assert!(self.muxer.send(&[&header.bytes(), data]));
    }

    fn next(&self) -> (Header, Vec<u8>) {
        let packet = self.packets.recv_timeout(WAIT).unwrap();
        (Header::read(packet[..HEADER].try_into().unwrap()), packet[HEADER..].to_vec())
    }

    fn expect(&self, op: u16) -> Header {
        let (header, _) = self.next();
        assert_eq!(header.op, op, "{header:?}");
        assert_eq!((header.src.0, header.dst.0), (HOST, CID));
        header
    }
}

#[test]
fn the_guest_connects_to_the_host() {
    let guest = Guest::new();
    guest.send((1000, 52), op::REQUEST, 0, (4096, 0), b"");
    assert_eq!(guest.expect(op::RST).src.1, 52, "nobody listens");
    let listener = StdListener::bind(guest.path("v_52")).unwrap();
    guest.send((1000, 52), op::REQUEST, 0, (4096, 0), b"");
    assert_eq!(guest.expect(op::RESPONSE).buf_alloc, 256 << 10);
    let (mut host, _) = listener.accept().unwrap();
    guest.send((1000, 52), op::RW, 0, (4096, 0), b"hello");
    let mut got = [0; 5];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    // More than the guest has room for: it gets that much and no more until it has read.
    host.write_all(&[9; 10_000]).unwrap();
    let mut received = 0;
    while received < 4096 {
        let (header, data) = guest.next();
        assert_eq!((header.op, header.len as usize), (op::RW, data.len()));
        received += data.len();
    }
    assert_eq!(received, 4096);
    assert!(guest.packets.recv_timeout(Duration::from_millis(100)).is_err());
    guest.send((1000, 52), op::CREDIT_UPDATE, 0, (4096, 4096), b"");
    while received < 8192 {
        received += guest.next().1.len();
    }
    guest.send((1000, 52), op::CREDIT_UPDATE, 0, (4096, 8192), b"");
    while received < 10_000 {
        received += guest.next().1.len();
    }
    // The host ends its half; the guest's goes on.
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::SEND);
    guest.send((1000, 52), op::RW, 0, (4096, 10_000), b"bye");
    guest.send((1000, 52), op::SHUTDOWN, shutdown::SEND | shutdown::RECEIVE, (4096, 10_000), b"");
    guest.expect(op::RST);
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).unwrap();
    assert_eq!((&rest[..], guest.muxer.connections()), (&b"bye"[..], 0));
}

#[test]
fn the_host_connects_to_the_guest() {
    let guest = Guest::new();
    let mut host = StdStream::connect(guest.path("v")).unwrap();
    host.write_all(b"CONNECT 80\n").unwrap();
    let asked = guest.expect(op::REQUEST);
    assert_eq!(asked.dst.1, 80);
    guest.send((80, asked.src.1), op::RESPONSE, 0, (1 << 20, 0), b"");
    let mut reader = BufReader::new(host.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("OK {}\n", asked.src.1));
    // A megabyte each way, with credit as it goes.
    let wanted: Vec<u8> = (0..1 << 20).map(|i: u32| (i >> 3) as u8).collect();
    let copy = wanted.clone();
    let writer = std::thread::spawn(move || host.write_all(&copy).map(|()| host));
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        let (header, data) = guest.next();
        assert_eq!(header.op, op::RW);
        got.extend(data);
        guest.send((80, asked.src.1), op::CREDIT_UPDATE, 0, (1 << 17, got.len() as u32), b"");
    }
    assert!(got == wanted);
    let host = writer.join().unwrap().unwrap();
    let (mut sent, mut room) = (0usize, asked.buf_alloc as usize);
    let reading = std::thread::spawn(move || {
        let mut all = vec![0; 1 << 20];
        reader.read_exact(&mut all).map(|()| all)
    });
    while sent < wanted.len() {
        if room - sent >= 32 << 10 {
            guest.send(
                (80, asked.src.1),
                op::RW,
                0,
                (1 << 20, got.len() as u32),
                &wanted[sent..sent + (32 << 10)],
            );
            sent += 32 << 10;
        } else {
            let header = guest.next().0;
            assert_eq!(header.op, op::CREDIT_UPDATE);
            room = (header.fwd_cnt + header.buf_alloc) as usize;
        }
    }
    assert!(reading.join().unwrap().unwrap() == wanted);
    guest.send((80, asked.src.1), op::RST, 0, (0, 0), b"");
    let mut rest = Vec::new();
    (&host).read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() && guest.muxer.connections() == 0);
}

#[test]
fn bad_clients_and_slow_guests() {
    let guest = Guest::new();
    for bad in [&b"HELLO\n"[..], b"CONNECT\n", b"CONNECT 4294967296\n", b"CONNECT 1 2\n", &[b'x'; 100]] {
        let mut host = StdStream::connect(guest.path("v")).unwrap();
        let _ = host.write_all(bad);
        let mut rest = Vec::new();
        // Closed with or without what it had not read.
        let _ = host.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    let mut host = StdStream::connect(guest.path("v")).unwrap();
    host.write_all(b"connect 5\n").unwrap();
    guest.expect(op::REQUEST);
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).unwrap();
    guest.expect(op::RST);
    assert_eq!(guest.muxer.connections(), 0, "the guest did not answer");
    // A guest that takes nothing while it floods: bounded.
    guest.open.store(false, Ordering::SeqCst);
    for i in 0..50_000 {
        guest.send((i, 9), op::RW, 0, (0, 0), b"x");
    }
    assert!(guest.muxer.shared.state.lock().answers.len() <= ANSWERS);
    // More than there is room for ends the connection.
    let listener = StdListener::bind(guest.path("v_1")).unwrap();
    guest.send((1, 1), op::REQUEST, 0, (0, 0), b"");
    let _host = listener.accept().unwrap();
    let sent = (0..100).take_while(|_| {
        guest.send((1, 1), op::RW, 0, (0, 0), &[0; 60_000]);
        guest.muxer.connections() == 1
    });
    assert!(sent.count() < 20);
    assert_eq!(
        Muxer::new(&guest.path("w"), 2).err().unwrap().to_string(),
        "guest-cid=2: expected 3 to 4294967294"
    );
    let missing = Muxer::new(Path::new("/no/such/folder/v"), 3).err().unwrap().to_string();
    assert!(missing.starts_with("vsock socket /no/such/folder/v: "), "{missing}");
}

#[test]
fn fuzz_packets() {
    let guest = Guest::new();
    let listener = StdListener::bind(guest.path("v_1")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut hosts = Vec::new();
    let mut seed = 5u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for _ in 0..20_000 {
        let data = vec![1; random(50) as usize];
        let header = Header {
            src: (if random(20) == 0 { random(9) } else { CID }, random(3) as u32),
            dst: (if random(20) == 0 { random(9) } else { HOST }, random(3) as u32),
            len: if random(20) == 0 { random(1 << 32) as u32 } else { data.len() as u32 },
            kind: if random(20) == 0 { random(4) as u16 } else { STREAM },
            op: random(9) as u16,
            flags: random(4) as u32,
            buf_alloc: random(1 << 32) as u32,
            fwd_cnt: random(1 << 32) as u32,
        };
        guest.muxer.send(&[&header.bytes(), &data]);
        if let Ok((host, _)) = listener.accept() {
            hosts.push(host);
            hosts.truncate(3);
        }
        while guest.packets.try_recv().is_ok() {}
    }
    assert!(!guest.muxer.send(&[&[0; 10]]));
    assert!(guest.muxer.connections() <= 3);
}
