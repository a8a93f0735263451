//! TCP between a guest and servers and clients on this host.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::config;
use crate::guest::{Guest, pattern};
use net_user::UserConfig;
use smoltcp::socket::tcp;

/// A server that gives back what it gets, for `count` connections.
fn echo(count: usize) -> (u16, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let each: Vec<_> = (0..count)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                thread::spawn(move || {
                    let mut out = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut out);
                    let _ = out.shutdown(Shutdown::Write);
                })
            })
            .collect();
        each.into_iter().for_each(|t| t.join().unwrap());
    });
    (port, server)
}

fn host(port: u16) -> SocketAddr {
    SocketAddr::new("10.0.2.2".parse().unwrap(), port)
}

fn gone(guest: &mut Guest) {
    guest.until("connections to go", |g| (g.net.connections() == 0).then_some(()));
}

#[test]
fn data_goes_both_ways_and_ends() {
    let (port, server) = echo(1);
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port), 40000);
    let data = pattern(3 << 20);
    assert!(guest.exchange(handle, &data) == data);
    server.join().unwrap();
    gone(&mut guest);
}

#[test]
fn nothing_is_lost_on_a_bad_wire() {
    let (port, server) = echo(1);
    let mut guest = Guest::new(UserConfig::default());
    {
        let mut wire = guest.wire.lock().unwrap();
        (wire.lose, wire.room) = (Some(13), 3);
    }
    let handle = guest.connect(host(port), 40000);
    let data = pattern(300 << 10);
    assert!(guest.exchange(handle, &data) == data);
    guest.wire.lock().unwrap().lose = None;
    server.join().unwrap();
    gone(&mut guest);
}

#[test]
fn one_side_may_end_first() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port), 40000);
    let mut got = Vec::new();
    guest.until("the server's end", |g| {
        let socket = g.socket(handle);
        if socket.can_recv() {
            socket.recv(|b| (b.len(), got.extend_from_slice(b))).unwrap();
        }
        (socket.state() == tcp::State::CloseWait && got == b"hello").then_some(())
    });
    assert!(guest.exchange(handle, b"and on it goes").is_empty());
    guest.until("the server", |_| server.is_finished().then_some(()));
    assert_eq!(server.join().unwrap(), b"and on it goes");
    gone(&mut guest);
}

#[test]
fn a_refused_connection_is_reset() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port), 40000);
    guest.until("reset", |g| (g.socket(handle).state() == tcp::State::Closed).then_some(()));
    let mut guest = Guest::new(config(&[("restrict", "on")]));
    let handle = guest.connect(host(port), 40000);
    guest.until("reset", |g| (g.socket(handle).state() == tcp::State::Closed).then_some(()));
    gone(&mut guest);
}

#[test]
fn resets_pass_through() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port), 40000);
    guest.until("established", |g| g.socket(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    guest.socket(handle).abort();
    let error = thread::spawn(move || stream.read(&mut [0; 8]).map_err(|e| e.kind()));
    gone(&mut guest);
    assert_eq!(error.join().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    // And the other way.
    let handle = guest.connect(host(port), 40001);
    guest.until("established", |g| g.socket(handle).may_send().then_some(()));
    let (stream, _) = listener.accept().unwrap();
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    guest.until("reset", |g| (g.socket(handle).state() == tcp::State::Closed).then_some(()));
}

fn serve_in_guest(guest: &mut Guest, port: u16, client: thread::JoinHandle<Vec<u8>>) -> Vec<u8> {
    let handle = guest.tcp();
    guest.socket(handle).listen(port).unwrap();
    let mut ended = false;
    guest.until("client", |g| {
        let socket = g.socket(handle);
        if socket.can_recv() && socket.can_send() {
            let bytes = socket.recv(|b| (b.len(), b.to_vec())).unwrap();
            // What comes in at a time is less than the buffer.
            assert_eq!(socket.send_slice(&bytes), Ok(bytes.len()));
        }
        if socket.state() == tcp::State::CloseWait && !socket.can_recv() && !ended {
            socket.close();
            ended = true;
        }
        (ended && client.is_finished()).then_some(())
    });
    client.join().unwrap()
}

fn client(
    mut stream: impl Read + Write + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        stream.write_all(b"from outside").unwrap();
        end();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        back
    })
}

#[test]
fn a_port_of_the_host_leads_in() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut guest = Guest::new(config(&[("hostfwd", &format!("tcp:127.0.0.1:{port}-:7000"))]));
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let other = stream.try_clone().unwrap();
    let client = client(stream, move || other.shutdown(Shutdown::Write).unwrap());
    assert_eq!(serve_in_guest(&mut guest, 7000, client), b"from outside");
    gone(&mut guest);
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let rule = config(&[("hostfwd", &format!("tcp:127.0.0.1:{port}-:22"))]);
    let text = net_user::UserNet::new(rule).err().unwrap().to_string();
    assert!(text.contains(&port.to_string()), "{text}");
}

#[cfg(unix)]
#[test]
fn a_unix_socket_leads_in_and_goes() {
    use std::os::unix::net::UnixStream;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a-b.sock");
    let mut guest = Guest::new(config(&[("hostfwd", &format!("unix:{}-:7000", path.display()))]));
    let stream = UnixStream::connect(&path).unwrap();
    let other = stream.try_clone().unwrap();
    let client = client(stream, move || other.shutdown(Shutdown::Write).unwrap());
    assert_eq!(serve_in_guest(&mut guest, 7000, client), b"from outside");
    drop(guest);
    assert!(!path.exists());
}

#[cfg(unix)]
#[test]
fn an_address_of_the_guests_network_leads_to_a_program() {
    let rule = "tcp:10.0.2.100:1234-cmd:tr a-z A-Z";
    let mut guest = Guest::new(config(&[("guestfwd", rule), ("restrict", "on")]));
    let handle = guest.connect("10.0.2.100:1234".parse().unwrap(), 40000);
    assert_eq!(guest.exchange(handle, b"quiet"), b"QUIET");
    gone(&mut guest);
}

#[test]
fn ipv6_reaches_the_host() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        println!("SKIPPED: this host has no IPv6 loopback");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(format!("[fec0::2]:{port}").parse().unwrap(), 40000);
    let data = pattern(100_000);
    assert!(guest.exchange(handle, &data) == data);
    server.join().unwrap();
}

#[test]
fn many_connections_come_and_go() {
    const COUNT: u16 = 200;
    let (port, server) = echo(COUNT.into());
    let mut guest = Guest::new(UserConfig::default());
    for i in 0..COUNT {
        let handle = guest.connect(host(port), 30000 + i);
        assert_eq!(guest.exchange(handle, &i.to_be_bytes()), i.to_be_bytes());
        guest.sockets.remove(handle);
    }
    server.join().unwrap();
    gone(&mut guest);
}
