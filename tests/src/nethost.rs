//! What the host offers to guests on networks: a name server, a web server and what takes data, servers of programs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

/// A process that ends with us.
pub struct Running(
    /// The process.
    pub Child,
);

impl Running {
    /// Starts one without input, whose output is dropped.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(command: &mut Command) -> Self {
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Numbers that never repeat.
pub struct Numbers(u64);

impl Default for Numbers {
    fn default() -> Self {
        Numbers(0x1234_5678_9abc_def0)
    }
}

impl Numbers {
    /// Fills a block, whose length is a multiple of 8, with the next of them.
    pub fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

/// The first of them, as many MiB.
pub fn data(mib: usize) -> Vec<u8> {
    let mut all = vec![0; mib << 20];
    Numbers::default().fill(&mut all);
    all
}

/// What `sha256sum` says of what is written into it.
pub struct Sum(Child);

impl Sum {
    /// Begins with nothing.
    ///
    /// # Panics
    /// When `sha256sum` is not installed.
    pub fn begin() -> Self {
        let mut command = Command::new("sha256sum");
        Sum(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum is installed"))
    }

    /// Adds bytes.
    ///
    /// # Panics
    /// When `sha256sum` has ended.
    pub fn add(&mut self, data: &[u8]) {
        self.0.stdin.as_mut().expect("its input").write_all(data).expect("it reads");
    }

    /// The sum of all.
    ///
    /// # Panics
    /// When `sha256sum` fails.
    pub fn end(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
    }
}

/// What `sha256sum` says of some bytes.
///
/// # Panics
/// When it is not installed.
pub fn sha256(data: &[u8]) -> String {
    let mut sum = Sum::begin();
    sum.add(data);
    sum.end()
}

/// A port that is free.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

/// Serves one connection; its port.
///
/// # Panics
/// When there is no port, or nobody comes.
pub fn serve<T: Send + 'static>(f: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    (port, thread::spawn(move || f(listener.accept().expect("a connection").0)))
}

/// Gives `data` to whoever asks for anything by HTTP, once.
pub fn web(data: Vec<u8>) -> u16 {
    let each = move |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 4096]);
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", data.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&data));
    };
    serve(each).0
}

/// Takes all of one connection, and gives its checksum.
///
/// # Panics
/// When it breaks off.
pub fn sink() -> (u16, JoinHandle<String>) {
    serve(|mut stream| {
        let (mut sum, mut block) = (Sum::begin(), vec![0; 1 << 20]);
        loop {
            match stream.read(&mut block).expect("the data") {
                0 => return sum.end(),
                n => sum.add(&block[..n]),
            }
        }
    })
}

/// A name server at this host's resolver's address, to which every name is 192.0.2.77. The file that names the resolver is
/// this namespace's own.
///
/// # Panics
/// When the namespace does not let it be.
pub fn name_server(resolv_conf: &std::path::Path) {
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
