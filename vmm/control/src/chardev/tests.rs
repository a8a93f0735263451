//! Back ends against the host's own ends, and the escape keys.

use super::*;
use device::{CharEvent, CharReceiver};
use parking_lot::Condvar;
use std::time::Duration;

/// A receiver whose room is decided by the test.
#[derive(Clone, Default)]
struct Probe(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Default)]
struct Seen {
    data: Vec<u8>,
    events: Vec<CharEvent>,
    room: usize,
}

impl Probe {
    fn new(room: usize) -> Self {
        let p = Self::default();
        p.0.0.lock().room = room;
        p
    }

    fn boxed(&self) -> Option<Box<dyn CharReceiver>> {
        Some(Box::new(self.clone()))
    }

    /// Waits until what was seen fits; the limit is for a broken back end only.
    fn wait(&self, what: &str, fits: impl Fn(&Seen) -> bool) {
        let mut seen = self.0.0.lock();
        while !fits(&seen) {
            let late = self.0.1.wait_for(&mut seen, Duration::from_secs(60)).timed_out();
            assert!(!late, "{what}: {:?} {:?}", seen.data.escape_ascii().to_string(), seen.events);
        }
    }

    fn wait_data(&self, data: &[u8]) {
        self.wait("data", |s| s.data == data);
    }

    fn wait_event(&self, event: CharEvent) {
        self.wait("event", |s| s.events.contains(&event));
        self.0.0.lock().events.clear();
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.0.lock().data)
    }
}

impl CharReceiver for Probe {
    fn can_receive(&mut self) -> usize {
        self.0.0.lock().room
    }

    fn receive(&mut self, data: &[u8]) {
        let mut seen = self.0.0.lock();
        seen.room = seen.room.saturating_sub(data.len());
        seen.data.extend_from_slice(data);
        self.0.1.notify_all();
    }

    fn event(&mut self, event: CharEvent) {
        self.0.0.lock().events.push(event);
        self.0.1.notify_all();
    }
}

/// A back end in memory.
#[derive(Default)]
struct Line {
    written: Mutex<Vec<u8>>,
    receiver: Mutex<Option<Box<dyn CharReceiver>>>,
}

impl Line {
    fn type_in(&self, data: &[u8]) {
        let mut receiver = self.receiver.lock();
        let receiver = receiver.as_mut().unwrap();
        let n = receiver.can_receive().min(data.len());
        receiver.receive(&data[..n]);
    }

    fn written(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.written.lock())).unwrap()
    }
}

impl CharBackend for Line {
    fn write(&self, data: &[u8]) -> usize {
        self.written.lock().extend_from_slice(data);
        data.len()
    }

    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>) {
        *self.receiver.lock() = receiver;
    }

    fn accept_input(&self) {
        if let Some(r) = self.receiver.lock().as_mut() {
            r.can_receive();
        }
    }
}

fn quiet() -> Keys {
    Keys { quit: Arc::new(|| {}), save: Arc::new(|| Ok(0)) }
}

#[test]
fn escape_keys() {
    let line = Arc::new(Line::default());
    let quits = Arc::new(Mutex::new(0));
    let counter = quits.clone();
    let keys = Keys { quit: Arc::new(move || *counter.lock() += 1), save: Arc::new(|| Ok(2)) };
    let mux = Mux::new(line.clone(), keys);
    let monitor = mux.port(PortKind::Monitor).unwrap();
    let console = mux.port(PortKind::Device).unwrap();
    let (m, c) = (Probe::new(4096), Probe::new(4096));
    monitor.set_receiver(m.boxed());
    console.set_receiver(c.boxed());
    assert!(console.is_open() && !monitor.is_open(), "the device has the focus though it came second");

    line.type_in(b"ls\x01\x01\r");
    assert_eq!(c.take(), b"ls\x01\r");
    line.type_in(b"a\x01cb");
    assert_eq!((c.take(), m.take()), (b"a".to_vec(), b"b".to_vec()));
    m.wait_event(CharEvent::Opened);
    line.type_in(b"\x01c");
    m.wait_event(CharEvent::Closed);
    line.type_in(b"\x01b");
    c.wait_event(CharEvent::Break);
    assert_eq!(line.written(), "");
    line.type_in(b"\x01h");
    assert!(line.written().contains("C-a x"));
    line.type_in(b"\x01?\x01z");
    line.written();
    line.type_in(b"\x01s");
    assert!(line.written().contains("2 disks written back"));
    assert_eq!(*quits.lock(), 0);
    line.type_in(b"\x01x");
    assert_eq!(*quits.lock(), 1);
    assert!(line.written().ends_with("terminated\r\n"));
    assert!(c.take().is_empty() && m.take().is_empty());
    // The escape key and its letter may come apart.
    line.type_in(b"\x01");
    line.type_in(b"c");
    m.wait_event(CharEvent::Opened);
    monitor.write(b"hello");
    assert_eq!(line.written(), "hello");
}

#[test]
fn a_mux_keeps_input_for_a_slow_front_end() {
    let line = Arc::new(Line::default());
    let mux = Mux::new(line.clone(), quiet());
    let console = mux.port(PortKind::Device).unwrap();
    let c = Probe::new(2);
    console.set_receiver(c.boxed());
    line.type_in(b"12345");
    c.wait_data(b"12");
    c.0.0.lock().room = 10;
    console.accept_input();
    c.wait_data(b"12345");
    for _ in 1..8 {
        mux.port(PortKind::Device).unwrap();
    }
    assert_eq!(
        mux.port(PortKind::Device).err().unwrap().to_string(),
        "a mux chardev has at most 8 front ends"
    );
}

#[test]
fn a_ring_buffer_keeps_the_end() {
    let r = Ringbuf::new(4);
    assert_eq!(r.write(b"ab"), 2);
    assert_eq!(r.write(b"cde"), 3);
    assert_eq!(r.take(2), b"bc");
    r.write(b"0123456789");
    assert_eq!(r.take(100), b"6789");
    assert!(r.take(1).is_empty());
}

fn open(line: &str) -> Chardevs {
    let args: Vec<&str> = line.split_whitespace().collect();
    let mut all = vec!["-nodefaults"];
    for a in args {
        all.extend(["-chardev", a]);
    }
    let Ok(crate::Invocation::Run(config)) = crate::parse(&all, "riscv64") else { panic!("{line}") };
    Chardevs::open(&config, &quiet()).unwrap()
}

#[test]
fn a_set_hands_each_back_end_out_once() {
    let set = open("null,id=a ringbuf,id=r,size=16 null,id=m,mux=on vc,id=v");
    assert!(set.connect("a", PortKind::Device).is_ok());
    let e = set.connect("a", PortKind::Device).err().unwrap().to_string();
    assert_eq!(e, "chardev 'a' is in use; give it mux=on to share it");
    assert_eq!(set.connect("b", PortKind::Device).err().unwrap().to_string(), "chardev 'b' is not known");
    assert!(set.connect("m", PortKind::Device).is_ok() && set.connect("m", PortKind::Monitor).is_ok());
    set.connect("r", PortKind::Device).unwrap().write(b"hello");
    set.ringbuf_write("r", b"!").unwrap();
    assert_eq!(set.ringbuf_read("r", 99).unwrap(), b"hello!");
    assert_eq!(set.ringbuf_read("a", 1).unwrap_err().to_string(), "chardev 'a' is no ringbuf");
    let info: Vec<_> = set.info().into_iter().map(|i| (i.label, i.filename, i.frontend_open)).collect();
    let want = [("a", "null", true), ("m", "mux:null", true), ("r", "ringbuf", true), ("v", "null", false)];
    for (got, want) in info.iter().zip(want).take(3) {
        assert_eq!((got.0.as_str(), got.1.as_str(), got.2), want);
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn read_n(from: &mut impl Read, n: usize) -> Vec<u8> {
        let mut data = vec![0; n];
        from.read_exact(&mut data).unwrap();
        data
    }

    #[test]
    fn a_server_takes_one_client_after_the_other() {
        let dir = folder();
        let path = dir.path().join("s");
        let set = open(&format!("socket,id=c,path={},server=on,wait=off", path.display()));
        let c = set.connect("c", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        assert!(!c.is_open());
        assert_eq!(c.write(b"lost"), 4, "nobody listens");
        for round in [b"one", b"two"] {
            let mut client = UnixStream::connect(&path).unwrap();
            p.wait_event(CharEvent::Opened);
            assert_eq!(c.write(b"hello"), 5);
            assert_eq!(read_n(&mut client, 5), b"hello");
            client.write_all(round).unwrap();
            p.wait_data(round);
            p.take();
            drop(client);
            p.wait_event(CharEvent::Closed);
        }
        drop(set);
        drop(c);
        assert!(!path.exists(), "the socket file goes with its server");
    }

    #[test]
    fn input_waits_for_room() {
        let dir = folder();
        let path = dir.path().join("s");
        let set = open(&format!("socket,id=c,path={},server=on,wait=off", path.display()));
        let c = set.connect("c", PortKind::Device).unwrap();
        let p = Probe::new(3);
        c.set_receiver(p.boxed());
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"0123456789").unwrap();
        p.wait_data(b"012");
        p.0.0.lock().room = 4;
        c.accept_input();
        p.wait_data(b"0123456");
        p.0.0.lock().room = 100;
        c.accept_input();
        p.wait_data(b"0123456789");
    }

    #[test]
    fn output_that_does_not_fit_is_announced() {
        let dir = folder();
        let path = dir.path().join("s");
        let set = open(&format!("socket,id=c,path={},server=on,wait=off", path.display()));
        let c = set.connect("c", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        let mut client = UnixStream::connect(&path).unwrap();
        p.wait_event(CharEvent::Opened);
        let block = [7; 4096];
        let mut sent = 0;
        loop {
            let n = c.write(&block);
            sent += n;
            if n < block.len() {
                break;
            }
            assert!(sent < 1 << 30, "it never filled");
        }
        let mut got = vec![0; sent];
        client.read_exact(&mut got).unwrap();
        p.wait_event(CharEvent::Writable);
        assert!(c.write(&block) > 0);
    }

    #[test]
    fn a_client_connects_again() {
        let dir = folder();
        let path = dir.path().join("s");
        let set = open(&format!("socket,id=c,path={},reconnect-ms=10", path.display()));
        let c = set.connect("c", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        let listener = UnixListener::bind(&path).unwrap();
        for _ in 0..2 {
            let (mut server, _) = listener.accept().unwrap();
            p.wait_event(CharEvent::Opened);
            server.write_all(b"x").unwrap();
            p.wait_data(b"x");
            p.take();
            drop(server);
            p.wait_event(CharEvent::Closed);
        }
    }

    #[test]
    fn tcp_client_and_telnet_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let set = open(&format!("socket,id=c,host=127.0.0.1,port={port},telnet=on,nodelay=on"));
        let (mut peer, _) = listener.accept().unwrap();
        let c = set.connect("c", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        assert_eq!(c.write(&[1, 255, 2]), 3);
        let mut want = telnet::GREETING.to_vec();
        want.extend([1, 255, 255, 2]);
        assert_eq!(read_n(&mut peer, want.len()), want);
        peer.write_all(&[b'a', 255, 253, 3, 255, 243, b'b']).unwrap();
        p.wait_data(b"ab");
        p.wait_event(CharEvent::Break);
    }

    #[test]
    fn datagrams() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = peer.local_addr().unwrap().port();
        let set = open(&format!("udp,id=u,host=127.0.0.1,port={port},localaddr=127.0.0.1"));
        let c = set.connect("u", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        c.write(b"ping");
        let mut data = [0; 16];
        let (n, from) = peer.recv_from(&mut data).unwrap();
        assert_eq!(&data[..n], b"ping");
        peer.send_to(b"pong", from).unwrap();
        p.wait_data(b"pong");
    }

    #[test]
    fn files_and_logs() {
        let dir = folder();
        let path = |n: &str| dir.path().join(n).display().to_string();
        std::fs::write(path("in"), "input").unwrap();
        std::fs::write(path("log"), "old ").unwrap();
        let line = format!(
            "file,id=f,path={},input-path={},logfile={},logappend=on",
            path("out"),
            path("in"),
            path("log")
        );
        let set = open(&line);
        let c = set.connect("f", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        p.wait_data(b"input");
        let mut left: &[u8] = &[b'z'; 2000];
        while !left.is_empty() {
            left = &left[c.write(left)..];
        }
        assert_eq!(std::fs::read(path("out")).unwrap(), [b'z'; 2000]);
        assert_eq!(std::fs::read(path("log")).unwrap().len(), 2004);
    }

    #[test]
    fn a_pty_has_clients_that_come_and_go() {
        let dir = folder();
        let link = dir.path().join("tty");
        let set = open(&format!("pty,id=p,path={}", link.display()));
        let c = set.connect("p", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        for _ in 0..2 {
            let mut tty = std::fs::OpenOptions::new().read(true).write(true).open(&link).unwrap();
            tty.write_all(b"\x03a\r\n").unwrap();
            p.wait_data(b"\x03a\r\n");
            p.take();
            assert_eq!(c.write(b"out\n"), 4);
            assert_eq!(read_n(&mut tty, 4), b"out\n");
        }
        assert!(set.info()[0].filename.starts_with("pty:/dev/"));
        drop((c, set));
        assert!(!link.exists());
    }

    #[test]
    fn pipes() {
        let dir = folder();
        let path = dir.path().join("fifo");
        for end in ["in", "out"] {
            let made = std::process::Command::new("mkfifo").arg(format!("{}.{end}", path.display())).status();
            if !made.is_ok_and(|s| s.success()) {
                return;
            }
        }
        let set = open(&format!("pipe,id=p,path={}", path.display()));
        let c = set.connect("p", PortKind::Device).unwrap();
        let p = Probe::new(4096);
        c.set_receiver(p.boxed());
        std::fs::write(format!("{}.in", path.display()), "to the guest").unwrap();
        p.wait_data(b"to the guest");
        c.write(b"reply");
        let mut out = std::fs::File::open(format!("{}.out", path.display())).unwrap();
        assert_eq!(read_n(&mut out, 5), b"reply");
    }

    #[test]
    fn errors_name_the_back_end() {
        for (line, want) in [
            (
                "file,id=f,path=/nonexistent/x",
                "chardev 'f': cannot open '/nonexistent/x': No such file or directory (os error 2)",
            ),
            (
                "pipe,id=f,path=/nonexistent/x",
                "chardev 'f': cannot open pipe '/nonexistent/x': No such file or directory (os error 2)",
            ),
            (
                "socket,id=f,path=/nonexistent/x",
                "chardev 'f': cannot connect to unix:/nonexistent/x: No such file or directory (os error 2)",
            ),
            (
                "socket,id=f,fd=12345",
                "chardev 'f': cannot connect to fd:12345: Bad file descriptor (os error 9)",
            ),
        ] {
            let Ok(crate::Invocation::Run(config)) = crate::parse(&["-nodefaults", "-chardev", line], "x")
            else {
                panic!()
            };
            assert_eq!(Chardevs::open(&config, &quiet()).err().unwrap().to_string(), want);
        }
    }

    #[test]
    fn qmp_over_a_socket() {
        use crate::monitor::{Control, serve};
        use crate::testing::FakeVm;
        use std::io::{BufRead, BufReader};
        let dir = folder();
        let path = dir.path().join("q");
        let set = open(&format!("socket,id=q,path={},server=on,wait=off", path.display()));
        let vm = Arc::new(FakeVm::default());
        let control = Control::new(vm.clone());
        let session = Box::new(crate::qmp::Session::new(control.clone(), false));
        let _monitor = serve(set.connect("q", PortKind::Monitor).unwrap(), session, &control).unwrap();
        for _ in 0..2 {
            let client = UnixStream::connect(&path).unwrap();
            // Sent before the greeting was read; still answered after it.
            (&client).write_all(b"{'execute':'qmp_capabilities'}{'execute':'stop'}").unwrap();
            let mut lines = BufReader::new(&client).lines().map(Result::unwrap);
            assert!(lines.next().unwrap().starts_with(r#"{"QMP":"#));
            let answers: Vec<String> = (0..3).map(|_| lines.next().unwrap()).collect();
            // What a command has done at once is told before it is answered.
            assert_eq!([&*answers[0], &*answers[2]], [r#"{"return":{}}"#; 2], "{answers:?}");
            assert!(answers[1].contains("STOP"), "{answers:?}");
        }
        let client = UnixStream::connect(&path).unwrap();
        (&client).write_all(b"{'execute':'qmp_capabilities'}{'execute':'quit'}").unwrap();
        let mut lines = BufReader::new(&client).lines().map(Result::unwrap);
        assert!(lines.nth(2).unwrap().contains("return"));
        assert!(lines.next().unwrap().contains("SHUTDOWN"));
        while !vm.calls().contains(&"quit".to_owned()) {
            std::thread::yield_now();
        }
    }
}
