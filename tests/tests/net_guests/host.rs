//! What the host offers to the guests: a name server, a web server and what takes data, servers of programs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

/// A process that ends with us.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Data of numbers that never repeat.
pub(crate) fn data(mib: usize) -> Vec<u8> {
    let mut next = 0x1234_5678_9abc_def0_u64;
    (0..mib << 17)
        .flat_map(|_| {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            next.to_le_bytes()
        })
        .collect()
}

/// What `sha256sum` says of it.
pub(crate) fn sha256(data: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum is installed");
    child.stdin.take().expect("its input").write_all(data).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

/// A port that is free.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

/// Serves one connection.
fn serve<T: Send + 'static>(f: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    (port, thread::spawn(move || f(listener.accept().expect("a connection").0)))
}

/// Gives `data` to whoever asks for anything by HTTP, once.
pub(crate) fn web(data: Vec<u8>) -> u16 {
    let each = move |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 4096]);
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", data.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&data));
    };
    serve(each).0
}

/// Takes all of one connection, and gives its checksum.
pub(crate) fn sink() -> (u16, JoinHandle<String>) {
    serve(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("the data");
        sha256(&all)
    })
}

/// A name server at this host's resolver's address, to which every name is 192.0.2.77. The file that names the resolver is
/// this namespace's own.
pub(crate) fn name_server(resolv_conf: &std::path::Path) {
    std::fs::write(resolv_conf, "nameserver 127.0.0.1\n").expect("a file");
    let bound = Command::new("mount").arg("--bind").arg(resolv_conf).arg("/etc/resolv.conf").status();
    assert!(bound.is_ok_and(|s| s.success()), "mount --bind");
    let socket = UdpSocket::bind("127.0.0.1:53").expect("the port of names");
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut query) {
            let query = &query[..n];
            // Behind the header: the name up to an empty label, type and class.
            let Some(end) = query.get(12..).and_then(|q| q.iter().position(|b| *b == 0)).map(|i| 12 + i + 5)
            else {
                continue;
            };
            let Some(question) = query.get(12..end) else { continue };
            let is_v4 = question[question.len() - 3] == 1;
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, is_v4.into(), 0, 0, 0, 0]);
            answer.extend(question);
            if is_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}
