//! `filter-rewriter`: lets a second guest take part in the TCP connections of a first one (COLO's secondary).
//!
//! Both guests get the same client's packets, but each chose a first sequence number of its own. The client knows the
//! first guest's. So what it acknowledges is shifted on its way to the second guest, and what that one sends is
//! shifted back. The difference becomes known when the client confirms the connection: IPv4 only, as on QEMU.
//!
//! Bounds: [`MOST`] connections; when there are more, the oldest are forgotten.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use super::{Direction, Filter, Verdict};

/// Connections kept.
const MOST: usize = 16384;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Bit of the virtio-net header: the checksum is not complete.
const NEEDS_CSUM: u8 = 1;

mod flag {
    pub(super) const FIN: u8 = 1;
    pub(super) const SYN: u8 = 2;
    pub(super) const RST: u8 = 4;
    pub(super) const ACK: u8 = 16;
}

/// The client's address and port, then the guest's.
type Flow = ([u8; 6], [u8; 6]);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The client has asked.
    Asked,
    /// The guest has agreed, with this first sequence number.
    Agreed(u32),
    /// The guest's numbers minus the client's idea of them.
    Shifted(u32),
}

#[derive(Default)]
struct Table {
    flows: HashMap<Flow, State>,
    order: VecDeque<Flow>,
}

impl Table {
    fn set(&mut self, flow: Flow, state: State) {
        if self.flows.insert(flow, state).is_some() {
            return;
        }
        self.order.push_back(flow);
        while self.flows.len() > MOST {
            let Some(oldest) = self.order.pop_front() else { break };
            self.flows.remove(&oldest);
        }
        // Those forgotten by themselves leave their place in the order.
        if self.order.len() > 2 * MOST {
            let flows = &self.flows;
            self.order.retain(|f| flows.contains_key(f));
        }
    }
}

/// Where a frame's TCP header begins, and its flow's ends as they are in the frame: source, destination.
fn tcp(frame: &[u8]) -> Option<(usize, [u8; 6], [u8; 6])> {
    let ip = frame.get(ETHERNET..)?;
    let length = usize::from(ip.first()? & 0xf) * 4;
    let whole = frame.get(12..14)? == [8, 0]
        && ip[0] >> 4 == 4
        && length >= 20
        && *ip.get(9)? == 6
        // No fragment.
        && ip.get(6..8).is_some_and(|f| f[0] & 0x3f == 0 && f[1] == 0);
    let head = ip.get(length..length + 20).filter(|_| whole)?;
    let end = |address: &[u8], port: &[u8]| <[u8; 6]>::try_from([address, port].concat()).ok();
    Some((ETHERNET + length, end(&ip[12..16], &head[..2])?, end(&ip[16..20], &head[2..4])?))
}

/// Changes a 32-bit field and its checksum (RFC 1624).
fn add(head: &mut [u8], at: usize, by: u32, sum: bool) {
    let read = |head: &[u8], i: usize| u16::from_be_bytes([head[i], head[i + 1]]);
    let old = u32::from(read(head, at)) << 16 | u32::from(read(head, at + 2));
    let new = old.wrapping_add(by);
    head[at..at + 4].copy_from_slice(&new.to_be_bytes());
    if !sum {
        return;
    }
    let not = |w: u32| u32::from(!(w as u16));
    let mut total = not(read(head, 16).into()) + not(old >> 16) + not(old) + (new >> 16) + (new & 0xffff);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    head[16..18].copy_from_slice(&(!(total as u16)).to_be_bytes());
}

/// Shifts numbers between a client and a second guest.
#[derive(Default)]
pub struct RewriterFilter(Mutex<Table>);

impl RewriterFilter {
    /// Knows no connection yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Filter for RewriterFilter {
    fn frame(&self, direction: Direction, frame: &[u8], header: usize) -> Verdict {
        let Some((head, payload)) = frame.split_at_checked(header) else { return Verdict::Pass };
        let Some((at, source, destination)) = tcp(payload) else { return Verdict::Pass };
        let to_guest = direction == Direction::FromNet;
        let flow = if to_guest { (source, destination) } else { (destination, source) };
        let segment = &payload[at..];
        let flags = segment[13];
        let number =
            |i: usize| u32::from_be_bytes([segment[i], segment[i + 1], segment[i + 2], segment[i + 3]]);
        let mut table = self.0.lock();
        let state = table.flows.get(&flow).copied();
        match (to_guest, state) {
            (true, _) if flags & (flag::SYN | flag::ACK) == flag::SYN => table.set(flow, State::Asked),
            (false, Some(State::Asked)) if flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK => {
                table.set(flow, State::Agreed(number(4)));
            }
            (true, Some(State::Agreed(first))) if flags & flag::ACK != 0 => {
                table.set(flow, State::Shifted(first.wrapping_sub(number(8).wrapping_sub(1))));
            }
            _ => {}
        }
        let state = table.flows.get(&flow).copied();
        if flags & flag::RST != 0 || (flags & flag::FIN != 0 && matches!(state, Some(State::Asked))) {
            table.flows.remove(&flow);
        }
        drop(table);
        let Some(State::Shifted(by)) = state.filter(|s| *s != State::Shifted(0)) else {
            return Verdict::Pass;
        };
        let mut new = frame.to_vec();
        let sum = head.first().is_none_or(|f| f & NEEDS_CSUM == 0);
        let segment = &mut new[header + at..];
        if to_guest && flags & flag::ACK != 0 {
            add(segment, 8, by, sum);
        } else if !to_guest {
            add(segment, 4, by.wrapping_neg(), sum);
        }
        Verdict::Replaced(new)
    }

    fn wants_plain(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 6] = [10, 0, 0, 1, 0x12, 0x34];
    const GUEST: [u8; 6] = [10, 0, 0, 2, 0, 80];

    fn sum(data: &[u8]) -> u16 {
        let mut total: u32 =
            data.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    fn pseudo(frame: &[u8]) -> Vec<u8> {
        let segment = &frame[34..];
        [&frame[26..34], &[0, 6], &(segment.len() as u16).to_be_bytes(), segment].concat()
    }

    fn frame(from: [u8; 6], to: [u8; 6], seq: u32, ack: u32, flags: u8) -> Vec<u8> {
        let mut f = vec![0; 12];
        f.extend_from_slice(&[8, 0, 0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0]);
        f.extend_from_slice(&[&from[..4], &to[..4], &from[4..], &to[4..]].concat());
        f.extend_from_slice(&seq.to_be_bytes());
        f.extend_from_slice(&ack.to_be_bytes());
        f.extend_from_slice(&[0x50, flags, 1, 0, 0, 0, 0, 0, b'a', b'b', b'c']);
        let s = !sum(&pseudo(&f));
        f[50..52].copy_from_slice(&s.to_be_bytes());
        f
    }

    #[test]
    fn numbers_are_shifted_once_both_are_known() {
        let filter = RewriterFilter::new();
        let (syn, ack) = (flag::SYN, flag::ACK);
        let pass = |d, f: &[u8]| match filter.frame(d, f, 0) {
            Verdict::Pass => f.to_vec(),
            Verdict::Replaced(new) => new,
            Verdict::Taken => panic!("taken"),
        };
        let (inward, outward) = (Direction::FromNet, Direction::ToNet);
        let asks = frame(CLIENT, GUEST, 100, 0, syn);
        assert_eq!(pass(inward, &asks), asks);
        let agrees = frame(GUEST, CLIENT, 0xffff_fff0, 101, syn | ack);
        assert_eq!(pass(outward, &agrees), agrees, "the client never sees this one");
        // The client confirms what the first guest said: 5000.
        let confirmed = pass(inward, &frame(CLIENT, GUEST, 101, 5001, ack));
        assert_eq!(confirmed, frame(CLIENT, GUEST, 101, 0xffff_fff1, ack));
        assert_eq!(sum(&pseudo(&confirmed)), 0xffff);
        let data = pass(outward, &frame(GUEST, CLIENT, 0x20, 101, ack));
        assert_eq!(data, frame(GUEST, CLIENT, 5000 + 0x30, 101, ack));
        assert_eq!(sum(&pseudo(&data)), 0xffff);
        pass(inward, &frame(CLIENT, GUEST, 101, 5001, flag::RST));
        let later = frame(GUEST, CLIENT, 0x20, 101, ack);
        assert_eq!(pass(outward, &later), later);
    }

    #[test]
    fn fuzz_frames_and_few_connections_are_kept() {
        let filter = RewriterFilter::new();
        let mut seed = 11u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32
        };
        for i in 0..60_000u32 {
            let mut client = CLIENT;
            client[2..6].copy_from_slice(&i.to_be_bytes());
            let mut f = frame(client, GUEST, random(), random(), flag::SYN);
            if i % 3 == 0 {
                f.truncate(random() as usize % 60);
                for _ in 0..3 {
                    let at = random() as usize % f.len().max(1);
                    if let Some(byte) = f.get_mut(at) {
                        *byte = random() as u8;
                    }
                }
            }
            let way = if random() % 2 == 0 { Direction::FromNet } else { Direction::ToNet };
            filter.frame(way, &f, random() as usize % 2 * 12);
        }
        let table = filter.0.lock();
        assert!(table.flows.len() <= MOST && table.order.len() <= 2 * MOST + 1);
    }
}
