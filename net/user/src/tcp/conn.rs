//! One TCP connection: the guest's end is made here, the other one is a stream of the host's.
//!
//! Source: RFC 9293 (states, acceptability, windows), RFC 7323 (window scale), RFC 6298 (back-off), RFC 5681 (duplicate
//! acknowledgements). There is no congestion between the guest and us, so what the guest's window allows is sent.
//!
//! Invariants:
//! - `segments` holds what is sent and not acknowledged, then what is not sent yet; the first `sent` of them are sent;
//! - payload of the guest's is acknowledged when it is in `inbound` or written to the host, never before;
//! - at most [`SEND_LIMIT`] bytes wait for the guest and [`RECEIVE_LIMIT`] for the host.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::host::Host;
use crate::out::{HEADROOM, Out, TcpHead, flag};

/// Most bytes kept until the host takes them.
const RECEIVE_LIMIT: usize = 512 << 10;
/// Most bytes kept until the guest has acknowledged them.
const SEND_LIMIT: usize = 1 << 20;
/// Our window's scale: windows of up to 8 MiB.
const SCALE: u8 = 7;
/// First time-out of what is not acknowledged.
const TIMEOUT: Duration = Duration::from_millis(300);
/// The longest.
const LONGEST: Duration = Duration::from_secs(20);
/// Time-outs in a row before a connection is given up.
const TRIES: u32 = 12;
/// Smaller writes are collected.
const DIRECT: usize = 16 << 10;

/// Both ends as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest wants it, the host's connection is under way.
    Connecting,
    /// Our SYN has been sent (with ACK if the guest began).
    SynSent {
        guest_began: bool,
    },
    Open,
    Dead,
}

/// A segment from the guest.
pub(crate) struct Segment<'a> {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

struct Outbound {
    seq: u32,
    /// [`HEADROOM`] bytes for headers, then the payload.
    buffer: Vec<u8>,
}

impl Outbound {
    fn len(&self) -> usize {
        self.buffer.len() - HEADROOM
    }
}

fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A connection.
pub(crate) struct Conn {
    pub(crate) flow: Flow,
    pub(crate) host: Host,
    phase: Phase,
    // From the guest.
    receive_next: u32,
    inbound: VecDeque<u8>,
    guest_ended: bool,
    host_told: bool,
    need_ack: bool,
    /// Window last told, in bytes.
    told: usize,
    // To the guest.
    scale: Option<u8>,
    mss: u16,
    una: u32,
    next: u32,
    window: usize,
    segments: VecDeque<Outbound>,
    sent: usize,
    host_ended: bool,
    end_sent: bool,
    duplicates: u32,
    /// After a loss: what had been sent then. Until it is acknowledged, each step shows the next hole.
    recover: Option<u32>,
    tries: u32,
    deadline: Option<Instant>,
    /// The timer that will look at the deadline.
    timer: Option<Instant>,
    // The host's stream.
    readable: bool,
    writable: bool,
}

/// The largest segment we take and, without the guest's word, give.
fn our_mss(flow: &Flow, out: &Out) -> u16 {
    (out.mtu() - if flow.guest.is_ipv4() { 40 } else { 60 }) as u16
}

impl Conn {
    fn new(flow: Flow, host: Host, phase: Phase, isn: u32) -> Self {
        Conn {
            flow,
            host,
            phase,
            receive_next: 0,
            inbound: VecDeque::new(),
            guest_ended: false,
            host_told: false,
            need_ack: false,
            told: 0,
            scale: None,
            mss: 536,
            una: isn,
            next: isn,
            window: 0,
            segments: VecDeque::new(),
            sent: 0,
            host_ended: false,
            end_sent: false,
            duplicates: 0,
            recover: None,
            tries: 0,
            deadline: None,
            timer: None,
            readable: false,
            writable: false,
        }
    }

    /// One the guest began with `syn`. It is answered once the host's side stands.
    pub(crate) fn from_guest(flow: Flow, host: Host, syn: &Segment<'_>, isn: u32, out: &Out) -> Self {
        let mut conn = Self::new(flow, host, Phase::Connecting, isn);
        conn.receive_next = syn.seq.wrapping_add(1);
        conn.take_syn_options(syn, out);
        conn.window = syn.window.into();
        conn
    }

    /// One from the host's side; the guest is asked right away.
    pub(crate) fn to_guest(flow: Flow, host: Host, isn: u32, out: &mut Out, now: Instant) -> Self {
        let mut conn = Self::new(flow, host, Phase::SynSent { guest_began: false }, isn);
        conn.next = isn.wrapping_add(1);
        conn.send_syn(out);
        conn.arm(now);
        conn
    }

    fn take_syn_options(&mut self, syn: &Segment<'_>, out: &Out) {
        self.mss = syn.mss.unwrap_or(536).clamp(64, our_mss(&self.flow, out));
        self.scale = syn.scale.map(|s| s.min(14));
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether a timer will look in time.
    pub(crate) fn is_timed(&self, now: Instant) -> bool {
        self.timer.is_some_and(|at| at > now && self.deadline.is_none_or(|d| at <= d))
    }

    /// A timer has been set.
    pub(crate) fn set_timed(&mut self, at: Instant) {
        self.timer = Some(at);
    }

    /// Notes what the host's stream can do.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    fn arm(&mut self, now: Instant) {
        let wait = TIMEOUT.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.deadline = Some(now + wait);
    }

    fn free(&self) -> usize {
        RECEIVE_LIMIT.saturating_sub(self.inbound.len())
    }

    fn head(&mut self, seq: u32, flags: u8) -> TcpHead {
        let free = self.free();
        self.told = free;
        self.need_ack = false;
        let shift = if self.scale.is_some() { SCALE } else { 0 };
        TcpHead {
            seq,
            ack: self.receive_next,
            flags: flags | flag::ACK,
            window: u16::try_from(free >> shift).unwrap_or(u16::MAX),
            options: None,
        }
    }

    fn send_syn(&mut self, out: &mut Out) {
        let guest_began = self.phase == Phase::SynSent { guest_began: true };
        let scale = (!guest_began || self.scale.is_some()).then_some(SCALE);
        let head = TcpHead {
            seq: self.next.wrapping_sub(1),
            ack: if guest_began { self.receive_next } else { 0 },
            flags: flag::SYN | if guest_began { flag::ACK } else { 0 },
            // Windows of SYNs are not scaled.
            window: u16::MAX,
            options: Some((our_mss(&self.flow, out), scale)),
        };
        self.told = u16::MAX.into();
        out.tcp_control(self.flow.remote, self.flow.guest, &head);
    }

    /// Ends it, and tells the guest.
    pub(crate) fn reset(&mut self, out: &mut Out) {
        if self.phase != Phase::Dead {
            let head = TcpHead {
                seq: self.next,
                ack: self.receive_next,
                flags: flag::RST | flag::ACK,
                ..TcpHead::default()
            };
            out.tcp_control(self.flow.remote, self.flow.guest, &head);
            self.abort();
        }
    }

    /// Ends it, and tells the host's peer.
    fn abort(&mut self) {
        self.host.abort();
        self.phase = Phase::Dead;
    }

    /// Takes a segment from the guest.
    pub(crate) fn segment(&mut self, s: &Segment<'_>, out: &mut Out, now: Instant) {
        match self.phase {
            Phase::Dead => return,
            Phase::Connecting => {
                if s.has(flag::RST) {
                    self.abort();
                }
                return;
            }
            Phase::SynSent { guest_began: true } => {
                if s.has(flag::RST) {
                    return self.abort();
                }
                if s.has(flag::SYN) {
                    return self.send_syn(out);
                }
                if !s.has(flag::ACK) || s.ack != self.next {
                    return self.reset(out);
                }
                self.opened();
            }
            Phase::SynSent { guest_began: false } => {
                let acceptable = s.has(flag::ACK) && s.ack == self.next;
                if s.has(flag::RST) {
                    if acceptable {
                        self.abort();
                    }
                    return;
                }
                if !s.has(flag::SYN) || !acceptable {
                    return;
                }
                self.receive_next = s.seq.wrapping_add(1);
                self.take_syn_options(s, out);
                self.opened();
                self.window = s.window.into();
                self.need_ack = true;
                return;
            }
            Phase::Open => {
                if s.has(flag::RST) {
                    // Only an exact one counts (RFC 5961); others are challenged.
                    if s.seq == self.receive_next {
                        return self.abort();
                    }
                    self.need_ack = true;
                    return;
                }
                if s.has(flag::SYN) {
                    self.need_ack = true;
                    return;
                }
            }
        }
        if s.has(flag::ACK) {
            self.acknowledged(s, out, now);
        }
        self.payload(s);
    }

    fn opened(&mut self) {
        self.una = self.next;
        self.phase = Phase::Open;
        self.deadline = None;
        self.tries = 0;
        // The stream may have been ready for long.
        self.ready(true, true);
    }

    fn acknowledged(&mut self, s: &Segment<'_>, out: &mut Out, now: Instant) {
        let window = usize::from(s.window) << self.scale.unwrap_or(0);
        if before(self.una, s.ack) && !before(self.next, s.ack) {
            self.una = s.ack;
            (self.duplicates, self.tries) = (0, 0);
            while let Some(first) = self.segments.front() {
                if self.sent == 0 || before(s.ack, first.seq.wrapping_add(first.len() as u32)) {
                    break;
                }
                self.segments.pop_front();
                self.sent -= 1;
            }
            if self.una == self.next {
                self.deadline = None;
            } else {
                self.arm(now);
            }
            match self.recover {
                Some(point) if before(s.ack, point) => self.resend(out),
                _ => self.recover = None,
            }
        } else if s.ack == self.una && s.payload.is_empty() && window == self.window && self.sent > 0 {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.resend(out);
            }
        }
        if !before(s.ack, self.una) {
            self.window = window;
        }
    }

    fn payload(&mut self, s: &Segment<'_>) {
        let end = s.has(flag::FIN);
        if s.payload.is_empty() && !end {
            // A probe of whether we are still there.
            self.need_ack |= before(s.seq, self.receive_next);
            return;
        }
        self.need_ack = true;
        let known = self.receive_next.wrapping_sub(s.seq);
        if before(self.receive_next, s.seq) || known as usize > s.payload.len() || self.guest_ended {
            return;
        }
        let mut new = &s.payload[known as usize..];
        self.receive_next = self.receive_next.wrapping_add(new.len().min(self.free()) as u32);
        let whole = new.len() <= self.free();
        if !whole {
            new = &new[..self.free()];
        }
        if self.inbound.is_empty() && self.writable && new.len() >= DIRECT {
            match self.host.write(&[IoSlice::new(new)]) {
                Ok(n) => {
                    self.writable = n == new.len();
                    new = &new[n..];
                }
                // What it is shows when the rest is written.
                Err(e) => self.writable = e.kind() != io::ErrorKind::WouldBlock,
            }
        }
        self.inbound.extend(new);
        if end && whole {
            self.receive_next = self.receive_next.wrapping_add(1);
            self.guest_ended = true;
        }
    }

    /// Sends the first segment that is not acknowledged again.
    fn resend(&mut self, out: &mut Out) {
        self.recover.get_or_insert(self.next);
        if self.sent > 0 {
            self.transmit(0, out);
        } else if self.end_sent {
            self.send_end(out);
        }
    }

    fn transmit(&mut self, index: usize, out: &mut Out) -> bool {
        let Some(seq) = self.segments.get(index).map(|s| s.seq) else { return false };
        let head = self.head(seq, flag::PSH);
        let cut = out.tcp_room(self.flow.guest.is_ipv6(), self.mss).1.then_some(self.mss);
        let segment = &mut self.segments[index];
        out.tcp_data(self.flow.remote, self.flow.guest, &head, &mut segment.buffer, cut)
    }

    fn send_end(&mut self, out: &mut Out) {
        let head = self.head(self.next.wrapping_sub(1), flag::FIN);
        out.tcp_control(self.flow.remote, self.flow.guest, &head);
    }

    /// Moves what can be moved in both directions.
    pub(crate) fn pump(&mut self, out: &mut Out, now: Instant) {
        match self.phase {
            Phase::Dead => return,
            Phase::Connecting => match self.host.connected() {
                None => return,
                Some(Err(_)) => return self.reset(out),
                Some(Ok(())) => {
                    self.next = self.una.wrapping_add(1);
                    self.phase = Phase::SynSent { guest_began: true };
                    self.send_syn(out);
                    self.arm(now);
                    return;
                }
            },
            Phase::SynSent { .. } => return,
            Phase::Open => {}
        }
        if !self.write_host() || !self.read_host(out, now) {
            return self.reset(out);
        }
        if self.host_ended && !self.end_sent && self.sent == self.segments.len() {
            self.next = self.next.wrapping_add(1);
            self.end_sent = true;
            self.send_end(out);
            self.arm(now);
        }
        // A window that was nearly shut and is open again must be told of.
        let free = self.free();
        if self.need_ack || (free >= self.told + RECEIVE_LIMIT / 4 && self.told < RECEIVE_LIMIT / 2) {
            let head = self.head(self.next, 0);
            out.tcp_control(self.flow.remote, self.flow.guest, &head);
        }
        if self.host_told && self.end_sent && self.una == self.next {
            self.phase = Phase::Dead;
        }
    }

    /// Writes to the host; `false` if it is gone.
    fn write_host(&mut self) -> bool {
        while self.writable && !self.inbound.is_empty() {
            let (a, b) = self.inbound.as_slices();
            match self.host.write(&[IoSlice::new(a), IoSlice::new(b)]) {
                Ok(n) => {
                    self.inbound.drain(..n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.inbound.is_empty() && self.inbound.capacity() > DIRECT {
            self.inbound = VecDeque::new();
        }
        if self.guest_ended && self.inbound.is_empty() && !self.host_told {
            self.host.end_writes();
            self.host_told = true;
        }
        true
    }

    /// Sends what is there, and reads from the host what the guest's window allows; `false` if the host is gone.
    fn read_host(&mut self, out: &mut Out, now: Instant) -> bool {
        loop {
            while self.sent < self.segments.len() {
                if !self.transmit(self.sent, out) {
                    return true;
                }
                let length = self.segments[self.sent].len() as u32;
                self.next = self.next.wrapping_add(length);
                self.sent += 1;
                if self.deadline.is_none() {
                    self.arm(now);
                }
            }
            let flying = self.next.wrapping_sub(self.una) as usize;
            let allowed = self.window.min(SEND_LIMIT).saturating_sub(flying);
            if !self.readable || self.host_ended || allowed == 0 || !out.has_room() {
                if self.readable && !self.host_ended && self.window == 0 && self.deadline.is_none() {
                    // The window's opening might be lost.
                    self.arm(now);
                }
                return true;
            }
            let (room, _) = out.tcp_room(self.flow.guest.is_ipv6(), self.mss);
            // Whole segments, so that only the last is short.
            let most = room.min(65535 - HEADROOM) / usize::from(self.mss) * usize::from(self.mss);
            let length = most.min(allowed);
            let mut buffer = vec![0; HEADROOM + length];
            match self.host.read(&mut buffer[HEADROOM..]) {
                Ok(0) => self.host_ended = true,
                Ok(n) => {
                    buffer.truncate(HEADROOM + n);
                    if n < length / 2 {
                        buffer.shrink_to_fit();
                    }
                    let seq = self.next;
                    self.segments.push_back(Outbound { seq, buffer });
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Its time has run out.
    pub(crate) fn timed_out(&mut self, out: &mut Out, now: Instant) {
        self.deadline = None;
        self.tries += 1;
        if self.tries > TRIES {
            return self.reset(out);
        }
        match self.phase {
            Phase::SynSent { .. } => self.send_syn(out),
            Phase::Open if self.una == self.next => {
                // Probes a shut window with a byte that has been had already.
                self.tries = self.tries.min(4);
                let head = self.head(self.next.wrapping_sub(1), 0);
                out.tcp_control(self.flow.remote, self.flow.guest, &head);
            }
            Phase::Open => self.resend(out),
            Phase::Connecting | Phase::Dead => return,
        }
        self.arm(now);
    }
}
