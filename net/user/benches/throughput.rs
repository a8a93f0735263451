//! What the user network itself costs: CPU seconds of its thread for a gigabyte in each direction, with a network card
//! that costs nothing on the guest's side and a sink or a source behind a loopback socket of the host; and for connections that
//! are opened and closed, with the memory these leave behind.
//!
//! Usage: `cargo bench -p net_user`; Linux only, since a thread's CPU time is read from `/proc`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by ending")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use net::{Endpoint, NetReceiver};
use net_user::{UserConfig, UserNet};
use smoltcp::wire::{Ipv4Packet, TcpPacket, checksum};

const BYTES: u64 = 1 << 30;
/// Bytes that are acknowledged at once.
const BATCH: u64 = 32 << 10;
/// Connections, one after the other, after as many that warm up.
const CONNECTIONS: u32 = 10_000;
const VNET: usize = 12;
/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 54;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// What a guest takes: checksums and TSO of either kind.
const OFFLOADS: u64 = 1 << 1 | 1 << 7 | 1 << 8;

/// The guest's end of one connection.
#[derive(Default)]
struct End {
    /// The network's SYN-ACK: its sequence number.
    began: Option<u32>,
    /// Acknowledged of what we sent, and the window.
    acked: u32,
    window: u32,
    /// Next byte expected.
    next: u32,
    received: u64,
    /// An acknowledgement is due: there is one for each [`BATCH`], as of a guest that empties its ring first.
    due: bool,
    acknowledged: u64,
    /// Somebody waits for a change; the card costs nothing else.
    waits: bool,
    /// The network has ended its direction.
    ended: bool,
}

struct Nic(Arc<(Mutex<End>, Condvar)>);

impl NetReceiver for Nic {
    fn can_receive(&mut self) -> bool {
        true
    }
    fn receive(&mut self, frame: &[u8]) {
        let Some(ip) = frame.get(VNET + 14..).filter(|_| frame[VNET + 12..VNET + 14] == [8, 0]) else {
            return;
        };
        // The length of a long segment is in the packet too.
        let packet = TcpPacket::new_unchecked(&ip[20..]);
        let length = ip.len() - 20 - usize::from(packet.header_len());
        let (lock, changed) = &*self.0;
        let mut end = lock.lock().unwrap();
        if packet.syn() {
            end.next = (packet.seq_number().0 as u32).wrapping_add(1);
            end.began = Some(end.next);
        } else if packet.fin() {
            end.next = (packet.seq_number().0 as u32).wrapping_add(1);
            end.ended = true;
        } else if length > 0 {
            end.next = (packet.seq_number().0 as u32).wrapping_add(length as u32);
            end.received += length as u64;
            end.due |= end.received - end.acknowledged >= BATCH || end.received >= BYTES;
        }
        end.acked = packet.ack_number().0 as u32;
        end.window = u32::from(packet.window_len()) << if packet.syn() { 0 } else { 7 };
        if end.waits && (length == 0 || end.due) {
            end.waits = false;
            changed.notify_one();
        }
    }
}

/// Waits while something is so.
fn wait((lock, changed): &(Mutex<End>, Condvar), so: impl Fn(&End) -> bool) -> MutexGuard<'_, End> {
    let mut end = lock.lock().unwrap();
    while so(&end) {
        end.waits = true;
        end = changed.wait(end).unwrap();
    }
    end
}

/// A frame of the guest's, without checksum: the header says that it is to be filled in.
fn frame(
    (own, port): (u16, u16),
    (seq, ack): (u32, u32),
    flags: u8,
    options: &[u8],
    length: usize,
) -> Vec<u8> {
    let header = HEADERS + options.len();
    let mut f = vec![0; VNET + header + length];
    f[0] = 1;
    let e = &mut f[VNET..];
    e[..6].copy_from_slice(&[0x52, 0x55, 10, 0, 2, 2]);
    e[6..12].copy_from_slice(&MAC);
    e[12..14].copy_from_slice(&[8, 0]);
    e[14] = 0x45;
    e[22] = 64;
    e[23] = 6;
    e[16..18].copy_from_slice(&((header - 14 + length) as u16).to_be_bytes());
    e[26..30].copy_from_slice(&[10, 0, 2, 15]);
    e[30..34].copy_from_slice(&[10, 0, 2, 2]);
    let sum = !checksum::data(&e[14..34]);
    Ipv4Packet::new_unchecked(&mut e[14..]).set_checksum(sum);
    e[34..36].copy_from_slice(&own.to_be_bytes());
    e[36..38].copy_from_slice(&port.to_be_bytes());
    e[38..42].copy_from_slice(&seq.to_be_bytes());
    e[42..46].copy_from_slice(&ack.to_be_bytes());
    e[46] = ((header - 34) / 4 * 16) as u8;
    e[47] = flags;
    e[48..50].copy_from_slice(&0xffffu16.to_be_bytes());
    e[54..header].copy_from_slice(options);
    f
}

/// CPU seconds of this process' thread of that name.
fn cpu(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let ours = tasks
        .flatten()
        .map(|t| t.path())
        .find(|t| std::fs::read_to_string(t.join("comm")).is_ok_and(|comm| comm.trim() == name));
    let text = std::fs::read_to_string(ours.unwrap().join("schedstat")).unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// One direction; `segment` is the payload of a frame of the guest's.
fn run(outward: bool, segment: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut moved = 0;
        while moved < BYTES {
            moved += if outward { stream.read(&mut buffer).unwrap() } else { stream.write(&buffer).unwrap() }
                as u64;
        }
        stream
    });
    let port = (40000, port);
    let net = UserNet::new(UserConfig::default()).unwrap();
    let end = Arc::new((Mutex::new(End::default()), Condvar::new()));
    net.set_receiver(Some(Box::new(Nic(end.clone()))));
    net.set_offload(VNET, if segment > 1460 { OFFLOADS } else { 0 });
    // Maximum segment size, no-operation, window scale.
    net.send(&[&frame(port, (0, 0), 2, &[2, 4, 5, 0xb4, 1, 3, 3, 7], 0)]);
    let ack = wait(&end, |e| e.began.is_none()).next;
    net.send(&[&frame(port, (1, ack), 16, &[], 0)]);
    let before = cpu("net-user");
    if outward {
        let (mut sent, mut seq) = (0u64, 1u32);
        let mut data = frame(port, (0, ack), 16, &[], segment);
        while sent < BYTES {
            // Full segments only: the window is waited for.
            drop(wait(&end, |e| e.window < seq.wrapping_sub(e.acked).wrapping_add(segment as u32)));
            data[VNET + 38..VNET + 42].copy_from_slice(&seq.to_be_bytes());
            if net.send(&[&data]) {
                sent += segment as u64;
                seq = seq.wrapping_add(segment as u32);
            }
        }
    } else {
        loop {
            let mut e = wait(&end, |e| !e.due);
            (e.due, e.acknowledged) = (false, e.received);
            let (next, done) = (e.next, e.received >= BYTES);
            drop(e);
            net.send(&[&frame(port, (1, next), 16, &[], 0)]);
            if done {
                break;
            }
        }
    }
    let _stream = peer.join().unwrap();
    let used = cpu("net-user") - before;
    let direction = if outward { "guest to host" } else { "host to guest" };
    println!(
        "| {direction}, segments of {segment} | {:.1} Gbit per CPU second |",
        BYTES as f64 * 8.0 / 1e9 / used
    );
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Connections that the host's peer ends at once.
fn connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().flatten().for_each(drop));
    let net = UserNet::new(UserConfig::default()).unwrap();
    let end = Arc::new((Mutex::new(End::default()), Condvar::new()));
    net.set_receiver(Some(Box::new(Nic(end.clone()))));
    let some = |from: u32| {
        for i in from..from + CONNECTIONS {
            let ports = (1024 + (i % 60_000) as u16, port);
            *end.0.lock().unwrap() = End::default();
            net.send(&[&frame(ports, (0, 0), 2, &[2, 4, 5, 0xb4], 0)]);
            let ack = wait(&end, |e| e.began.is_none()).next;
            net.send(&[&frame(ports, (1, ack), 16, &[], 0)]);
            let ack = wait(&end, |e| !e.ended).next;
            net.send(&[&frame(ports, (1, ack), 17, &[], 0)]);
            drop(wait(&end, |e| e.acked != 2));
        }
    };
    some(0);
    let (before, memory) = (cpu("net-user"), resident());
    some(CONNECTIONS);
    let (used, gained) = (cpu("net-user") - before, resident() as i64 - memory as i64);
    println!("| connections opened and closed | {:.0} a CPU second |", f64::from(CONNECTIONS) / used);
    println!("| memory gained by {CONNECTIONS} of them, after as many | {gained} KiB |");
}

fn main() {
    if !cfg!(target_os = "linux") {
        return println!("SKIPPED: a thread's CPU time is read from /proc");
    }
    for (outward, segment) in [(true, 65160), (false, 65160), (true, 1460), (false, 1460)] {
        run(outward, segment);
    }
    connections();
}
