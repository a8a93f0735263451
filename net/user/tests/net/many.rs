//! Ten thousand connections at a time.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};

use net_user::UserConfig;

use crate::raw::{ACK, FIN, Raw, SYN, Tcp};

const COUNT: usize = 10_000;
/// The first of the guest's ports.
const FIRST: u16 = 2000;

/// Takes part of the test in another process, so that the limit of descriptors goes further: accepts all connections, then
/// gives each its byte back, then waits for all to end.
#[test]
fn server() {
    let Some(count) = std::env::var("RHEA_SERVE").ok().and_then(|n| n.parse().ok()) else { return };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, {
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current = limit.maximum;
        limit
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("PORT {}", listener.local_addr().unwrap().port());
    let mut all: Vec<_> = (0..count).map(|_: usize| listener.accept().unwrap().0).collect();
    let mut byte = [0];
    for stream in &mut all {
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
    }
    for stream in &mut all {
        assert_eq!(stream.read(&mut byte).unwrap(), 0);
    }
}

/// The process, its port, and what it says, which must go somewhere.
struct Server(Child, u16, BufReader<ChildStdout>);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> Server {
    let me = std::env::current_exe().unwrap();
    let mut command = Command::new(me);
    command.args(["--exact", "many::server", "--nocapture"]).env("RHEA_SERVE", COUNT.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let lines = output.by_ref().lines();
    let port = lines.map_while(Result::ok).find_map(|l| l.split_once("PORT ")?.1.parse().ok());
    Server(child, port.unwrap(), output)
}

/// Bytes of memory this process holds.
pub(crate) fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn ten_thousand_connections() {
    let raw = Raw::new(UserConfig::default());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if limit.is_some_and(|n| n < COUNT as u64 + 100) {
        println!("SKIPPED: this host lets a process have {limit:?} descriptors");
        return;
    }
    let mut server = start();
    let before = resident();
    let port = server.1;
    let own = |i: usize| Tcp { from: FIRST + i as u16, to: port, window: 8000, ..Tcp::default() };
    let mut next = vec![0u32; COUNT];
    // A few at a time, as the host's queue of new connections is not endless.
    for all in (0..COUNT).collect::<Vec<_>>().chunks(100) {
        for &i in all {
            raw.tcp(&Tcp { flags: SYN, seq: 0, ..own(i) });
        }
        for _ in all {
            let answer = raw.segment();
            assert_eq!(answer.flags, SYN | ACK);
            let i = usize::from(answer.to - FIRST);
            next[i] = answer.seq.wrapping_add(1);
            raw.tcp(&Tcp { flags: ACK, seq: 1, ack: next[i], ..own(i) });
        }
    }
    raw.connections(COUNT);
    let each = resident().saturating_sub(before) / COUNT;
    assert!(each < 4096, "a silent connection takes {each} bytes");
    for (i, ack) in next.iter().copied().enumerate() {
        raw.tcp(&Tcp { flags: ACK, seq: 1, ack, data: vec![i as u8], ..own(i) });
    }
    for _ in 0..COUNT {
        let back = raw.segment_with(|s| !s.data.is_empty());
        let i = usize::from(back.to - FIRST);
        assert_eq!((back.data[0], back.seq), (i as u8, next[i]));
        next[i] = next[i].wrapping_add(1);
        raw.tcp(&Tcp { flags: ACK | FIN, seq: 2, ack: next[i], ..own(i) });
    }
    for _ in 0..COUNT {
        let end = raw.segment_with(|s| s.flags & FIN != 0);
        let i = usize::from(end.to - FIRST);
        raw.tcp(&Tcp { flags: ACK, seq: 3, ack: end.seq.wrapping_add(1), ..own(i) });
    }
    raw.gone();
    drop(raw);
    let Server(child, _, output) = &mut server;
    let _ = output.read_to_end(&mut Vec::new());
    assert!(child.wait().unwrap().success());
}
