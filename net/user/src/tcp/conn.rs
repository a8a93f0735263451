//! One TCP connection: the guest's end is made here, the other one is a stream of the host's.
//!
//! Source: RFC 9293 (states, acceptability, windows), RFC 7323 (window scale), RFC 6298 (back-off), RFC 5681 (duplicate
//! acknowledgements), RFC 5961 (resets), RFC 1122, 4.2.3.6 (keep-alive). There is no congestion between the guest and us, so
//! what the guest's window allows is sent.
//!
//! Invariants:
//! - payload of the guest's is acknowledged when it waits for the host or is written to it, never before;
//! - at most `share` bytes wait for the host and twice as many for the guest.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::host::Host;
use super::inbound::Inbound;
use super::outbound::Outbound;
use crate::icmp::{self, Unreachable};
use crate::out::{BUFFER, HEADROOM, Out, TcpHead, flag};
use crate::requests::Line;

/// Our window's scale: windows of up to 8 MiB.
const SCALE: u8 = 7;
/// First time-out of what is not acknowledged.
const TIMEOUT: Duration = Duration::from_millis(300);
/// The longest.
const LONGEST: Duration = Duration::from_secs(20);
/// Time-outs in a row before a connection is given up.
const TRIES: u32 = 12;
/// Silence after which the guest is asked whether it is still there, as Linux does it.
const IDLE: Duration = Duration::from_secs(7200);
/// Time between two such questions.
const AGAIN: Duration = Duration::from_secs(75);
/// Questions without an answer before it is taken to be gone.
const PROBES: u32 = 9;

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
    /// Our SYN has been sent (with ACK if the guest has sent one as well).
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
    /// The urgent pointer, if it counts.
    pub(crate) urgent: Option<u16>,
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A connection.
pub(crate) struct Conn {
    pub(crate) flow: Flow,
    pub(crate) host: Host,
    phase: Phase,
    /// Bytes it may keep for the host.
    share: usize,
    // From the guest.
    inbound: Inbound,
    need_ack: bool,
    /// Window last told, in bytes.
    told: usize,
    // To the guest.
    scale: Option<u8>,
    mss: u16,
    outbound: Outbound,
    host_ended: bool,
    end_sent: bool,
    duplicates: u32,
    /// After a loss: what had been sent then. Until it is acknowledged, each step shows the next hole.
    recover: Option<u32>,
    tries: u32,
    deadline: Option<Instant>,
    /// The timer that will look at the deadline.
    timer: Option<Instant>,
    /// When the guest last said something, and how often it has been asked since.
    heard: Instant,
    probes: u32,
    // The host's stream.
    readable: bool,
    /// An urgent byte is somewhere in it.
    urgent: bool,
    /// The guest had no room for what there was.
    blocked: bool,
    listed: bool,
}

/// The largest segment we take and, without the guest's word, give.
fn our_mss(flow: &Flow, out: &Out) -> u16 {
    (out.mtu_to(flow.guest.ip()) - if flow.guest.is_ipv4() { 40 } else { 60 }) as u16
}

impl Conn {
    fn new((flow, host): (Flow, Host), phase: Phase, isn: u32, share: usize, now: Instant) -> Self {
        Conn {
            flow,
            host,
            phase,
            share,
            inbound: Inbound::default(),
            need_ack: false,
            told: 0,
            scale: None,
            mss: 536,
            outbound: Outbound { una: isn, next: isn, ..Outbound::default() },
            host_ended: false,
            end_sent: false,
            duplicates: 0,
            recover: None,
            tries: 0,
            deadline: None,
            timer: None,
            heard: now,
            probes: 0,
            readable: false,
            urgent: false,
            blocked: false,
            listed: false,
        }
    }

    /// One the guest began with `syn`. It is answered once the host's side stands.
    pub(crate) fn from_guest(
        ends: (Flow, Host),
        syn: &Segment<'_>,
        isn: u32,
        share: usize,
        out: &Out,
        now: Instant,
    ) -> Self {
        let mut conn = Self::new(ends, Phase::Connecting, isn, share, now);
        conn.take_syn(syn, out);
        conn
    }

    /// One from the host's side; the guest is asked right away.
    pub(crate) fn to_guest(ends: (Flow, Host), isn: u32, share: usize, out: &mut Out, now: Instant) -> Self {
        let mut conn = Self::new(ends, Phase::SynSent { guest_began: false }, isn, share, now);
        conn.outbound.next = isn.wrapping_add(1);
        conn.send_syn(out);
        conn.arm(now);
        conn
    }

    fn take_syn(&mut self, syn: &Segment<'_>, out: &Out) {
        self.inbound.next = syn.seq.wrapping_add(1);
        self.mss = syn.mss.unwrap_or(536).clamp(64, our_mss(&self.flow, out));
        self.scale = syn.scale.map(|s| s.min(14));
        // Windows of SYNs are not scaled.
        self.outbound.window = syn.window.into();
    }

    /// What users are told of it.
    pub(crate) fn line(&self) -> Line {
        let state = match self.phase {
            Phase::Connecting => "SYN_RCVD",
            Phase::SynSent { .. } => "SYN_SENT",
            Phase::Open if self.end_sent && self.inbound.is_done() => "LAST_ACK",
            Phase::Open if self.end_sent => "FIN_WAIT_1",
            Phase::Open if self.inbound.is_done() => "CLOSE_WAIT",
            Phase::Open => "ESTABLISHED",
            Phase::Dead => "CLOSED",
        };
        Line {
            what: format!("TCP[{state}]"),
            fd: self.host.descriptor(),
            from: self.flow.guest,
            to: self.flow.remote,
            waiting: (self.inbound.waiting(), self.outbound.segments.iter().map(|s| s.length).sum()),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    /// Number of the next byte of either side, if both have ended in order.
    pub(crate) fn ended_well(&self) -> Option<(u32, u32)> {
        let both = self.inbound.is_done() && self.end_sent && self.outbound.is_acknowledged();
        both.then_some((self.outbound.next, self.inbound.next))
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

    /// Whether it waits for room on the guest's side and is in no list of such connections; from now on it is.
    pub(crate) fn enlist(&mut self) -> bool {
        self.blocked && !std::mem::replace(&mut self.listed, true)
    }

    /// It is in that list no more.
    pub(crate) fn delist(&mut self) {
        self.listed = false;
    }

    /// How much it may keep from now on.
    pub(crate) fn set_share(&mut self, share: usize) {
        self.share = share;
    }

    /// Notes what the host's stream can do.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool, urgent: bool) {
        self.readable |= readable | urgent;
        self.inbound.writable |= writable;
        self.urgent |= urgent;
    }

    /// Packets to the guest must not be longer than this.
    pub(crate) fn narrowed(&mut self, out: &mut Out, now: Instant) {
        self.mss = self.mss.min(our_mss(&self.flow, out));
        if self.phase == Phase::Open && !self.outbound.is_acknowledged() {
            self.resend(out);
            self.arm(now);
        }
    }

    fn arm(&mut self, now: Instant) {
        let wait = TIMEOUT.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.deadline = Some(now + wait);
    }

    fn free(&self) -> usize {
        self.share.saturating_sub(self.inbound.waiting())
    }

    fn head(&mut self, seq: u32, flags: u8) -> TcpHead {
        let free = self.free();
        self.told = free;
        self.need_ack = false;
        let shift = if self.scale.is_some() { SCALE } else { 0 };
        TcpHead {
            seq,
            ack: self.inbound.next,
            flags: flags | flag::ACK,
            window: u16::try_from(free >> shift).unwrap_or(u16::MAX),
            ..TcpHead::default()
        }
    }

    fn send(&self, head: &TcpHead, out: &mut Out) {
        out.tcp_control(self.flow.remote, self.flow.guest, head);
    }

    fn send_syn(&mut self, out: &mut Out) {
        let guest_began = self.phase == Phase::SynSent { guest_began: true };
        let scale = (!guest_began || self.scale.is_some()).then_some(SCALE);
        let head = TcpHead {
            seq: self.outbound.next.wrapping_sub(1),
            ack: if guest_began { self.inbound.next } else { 0 },
            flags: flag::SYN | if guest_began { flag::ACK } else { 0 },
            window: u16::try_from(self.share).unwrap_or(u16::MAX),
            options: Some((our_mss(&self.flow, out), scale)),
            ..TcpHead::default()
        };
        // More than a SYN can say becomes known with the first segment.
        self.told = self.share;
        self.send(&head, out);
    }

    /// Ends it, and tells the guest.
    pub(crate) fn reset(&mut self, out: &mut Out) {
        if self.phase != Phase::Dead {
            let (seq, ack) = (self.outbound.next, self.inbound.next);
            self.send(&TcpHead { seq, ack, flags: flag::RST | flag::ACK, ..TcpHead::default() }, out);
            self.abort();
        }
    }

    /// Ends it, and tells the host's peer.
    fn abort(&mut self) {
        self.host.abort();
        self.phase = Phase::Dead;
    }

    /// The host could not connect.
    fn refused(&mut self, error: &io::Error, out: &mut Out) {
        let what = match error.kind() {
            io::ErrorKind::HostUnreachable => Unreachable::Host,
            io::ErrorKind::NetworkUnreachable => Unreachable::Network,
            _ => return self.reset(out),
        };
        let mut syn = Vec::new();
        syn.extend(self.flow.guest.port().to_be_bytes());
        syn.extend(self.flow.remote.port().to_be_bytes());
        syn.extend(self.inbound.next.wrapping_sub(1).to_be_bytes());
        syn.extend([0, 0, 0, 0, 0x50, flag::SYN, 0, 0, 0, 0, 0, 0]);
        icmp::no_way(what, (self.flow.guest.ip(), self.flow.remote.ip()), &syn, out);
        self.abort();
    }

    /// Takes a segment from the guest.
    pub(crate) fn segment(&mut self, s: &Segment<'_>, out: &mut Out, now: Instant) {
        (self.heard, self.probes) = (now, 0);
        let go_on = match self.phase {
            Phase::Dead => false,
            Phase::Connecting => {
                if s.has(flag::RST) {
                    self.abort();
                } else if s.has(flag::SYN) && !s.has(flag::ACK) {
                    // Again, or by another that has taken the first one's place.
                    self.take_syn(s, out);
                }
                false
            }
            Phase::SynSent { guest_began: true } => self.answered(s, out),
            Phase::SynSent { guest_began: false } => {
                self.answered_first(s, out);
                false
            }
            Phase::Open if s.has(flag::RST) => {
                // Only an exact one counts (RFC 5961); others are challenged.
                if s.seq == self.inbound.next {
                    self.abort();
                } else {
                    self.need_ack = true;
                }
                false
            }
            Phase::Open if s.has(flag::SYN) => {
                self.need_ack = true;
                false
            }
            Phase::Open => true,
        };
        if go_on {
            if s.has(flag::ACK) {
                self.acknowledged(s, out, now);
            }
            self.payload(s);
        }
    }

    /// Our SYN with its ACK has been sent; whether the segment is of the connection that stands now.
    fn answered(&mut self, s: &Segment<'_>, out: &mut Out) -> bool {
        let acknowledges = s.has(flag::ACK) && s.ack == self.outbound.next;
        if s.has(flag::RST) {
            if s.seq == self.inbound.next {
                self.abort();
            }
            return false;
        }
        if s.has(flag::SYN) {
            // Both began at once, or it has not seen our answer.
            if acknowledges && s.seq.wrapping_add(1) == self.inbound.next {
                self.take_syn(s, out);
                self.opened();
                self.need_ack = true;
            } else {
                self.send_syn(out);
            }
            return false;
        }
        if !acknowledges {
            self.reset(out);
            return false;
        }
        self.opened();
        true
    }

    /// Our SYN has been sent, and the guest has not sent one so far.
    fn answered_first(&mut self, s: &Segment<'_>, out: &mut Out) {
        let acknowledges = s.has(flag::ACK) && s.ack == self.outbound.next;
        if s.has(flag::RST) {
            if acknowledges {
                self.abort();
            }
        } else if s.has(flag::ACK) && !acknowledges {
            // Of a connection that is no more.
            self.send(&TcpHead { seq: s.ack, flags: flag::RST, ..TcpHead::default() }, out);
        } else if s.has(flag::SYN) {
            self.take_syn(s, out);
            if acknowledges {
                self.opened();
                self.need_ack = true;
            } else {
                // It has begun at the same time.
                self.phase = Phase::SynSent { guest_began: true };
                self.send_syn(out);
            }
        }
    }

    fn opened(&mut self) {
        self.outbound.una = self.outbound.next;
        self.phase = Phase::Open;
        self.deadline = None;
        self.tries = 0;
        // The stream may have been ready for long.
        self.ready(true, true, false);
    }

    fn acknowledged(&mut self, s: &Segment<'_>, out: &mut Out, now: Instant) {
        let window = usize::from(s.window) << self.scale.unwrap_or(0);
        if self.outbound.acknowledge(s.ack, out) {
            (self.duplicates, self.tries) = (0, 0);
            if self.outbound.is_acknowledged() {
                self.deadline = None;
            } else {
                self.arm(now);
            }
            match self.recover {
                Some(point) if before(s.ack, point) => self.resend(out),
                _ => self.recover = None,
            }
        } else if s.ack == self.outbound.una
            && s.payload.is_empty()
            && window == self.outbound.window
            && self.outbound.sent > 0
        {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.resend(out);
            }
        }
        if !before(s.ack, self.outbound.una) {
            self.outbound.window = window;
        }
    }

    fn payload(&mut self, s: &Segment<'_>) {
        if s.payload.is_empty() && !s.has(flag::FIN) {
            // A probe of whether we are still there.
            self.need_ack |= before(s.seq, self.inbound.next);
            return;
        }
        self.need_ack = true;
        let room = self.free();
        self.inbound.take(s, room, &mut self.host);
    }

    /// Sends the first segment that is not acknowledged again.
    fn resend(&mut self, out: &mut Out) {
        self.recover.get_or_insert(self.outbound.next);
        if self.outbound.sent > 0 {
            self.transmit(0, out);
        } else if self.end_sent {
            self.send_end(out);
        }
    }

    fn transmit(&mut self, index: usize, out: &mut Out) -> bool {
        let Some(piece) = self.outbound.segments.get(index) else { return false };
        let (seq, length, urgent) = (piece.seq, piece.length, piece.urgent);
        let mut head = self.head(seq, flag::PSH);
        if urgent {
            head.flags |= flag::URG;
            head.urgent = 1;
        }
        let (ends, mss) = ((self.flow.remote, self.flow.guest), self.mss);
        let cut = out.takes_long(self.flow.guest.is_ipv6()).then_some(mss);
        let buffer = &mut self.outbound.segments[index].buffer[..HEADROOM + length];
        if cut.is_some() || length <= mss.into() {
            return out.tcp_data(ends, &head, buffer, cut);
        }
        // It was made when more fitted into a packet.
        let mut sent = true;
        for (i, part) in buffer[HEADROOM..].chunks(mss.into()).enumerate() {
            head.seq = seq.wrapping_add((i * usize::from(mss)) as u32);
            let mut frame = vec![0; HEADROOM];
            frame.extend_from_slice(part);
            sent = sent && out.tcp_data(ends, &head, &mut frame, None);
        }
        sent
    }

    fn send_end(&mut self, out: &mut Out) {
        let head = self.head(self.outbound.next.wrapping_sub(1), flag::FIN);
        self.send(&head, out);
    }

    /// Moves what can be moved in both directions.
    pub(crate) fn pump(&mut self, out: &mut Out, now: Instant) {
        self.blocked = false;
        match self.phase {
            Phase::Dead | Phase::SynSent { .. } => return,
            Phase::Connecting => match self.host.connected() {
                None => return,
                Some(Err(e)) => return self.refused(&e, out),
                Some(Ok(())) => {
                    self.outbound.next = self.outbound.una.wrapping_add(1);
                    self.phase = Phase::SynSent { guest_began: true };
                    self.send_syn(out);
                    self.arm(now);
                    return;
                }
            },
            Phase::Open => {}
        }
        if !self.inbound.flush(&mut self.host) || !self.read_host(out, now) {
            return self.reset(out);
        }
        if self.host_ended && !self.end_sent && self.outbound.sent == self.outbound.segments.len() {
            self.outbound.next = self.outbound.next.wrapping_add(1);
            self.end_sent = true;
            self.send_end(out);
            self.arm(now);
        }
        // A window that was nearly shut and is open again must be told of.
        let free = self.free();
        if self.need_ack || (free >= self.told + self.share / 4 && self.told < self.share / 2) {
            let head = self.head(self.outbound.next, 0);
            self.send(&head, out);
        }
        if self.ended_well().is_some() {
            self.phase = Phase::Dead;
        }
    }

    /// Sends what is there, and reads from the host what the guest's window allows; `false` if the host is gone.
    fn read_host(&mut self, out: &mut Out, now: Instant) -> bool {
        loop {
            while self.outbound.sent < self.outbound.segments.len() {
                if !self.transmit(self.outbound.sent, out) {
                    self.blocked = true;
                    return true;
                }
                let length = self.outbound.segments[self.outbound.sent].length as u32;
                self.outbound.next = self.outbound.next.wrapping_add(length);
                self.outbound.sent += 1;
                if self.deadline.is_none() {
                    self.arm(now);
                }
            }
            if !self.readable || self.host_ended {
                return true;
            }
            let allowed = self.outbound.window.min(2 * self.share).saturating_sub(self.outbound.flying());
            if allowed == 0 {
                if self.outbound.window == 0 && self.deadline.is_none() {
                    // The window's opening might be lost.
                    self.arm(now);
                }
                return true;
            }
            if !out.has_room() {
                self.blocked = true;
                return true;
            }
            let urgent = self.urgent && self.host.at_mark();
            // Whole segments, so that only the last is short.
            let mss = usize::from(self.mss);
            let most = (BUFFER - HEADROOM) / mss * mss;
            let piece = if out.takes_long(self.flow.guest.is_ipv6()) { most } else { mss };
            let length = if urgent { 1 } else { most.min(allowed) };
            let mut buffer = out.buffer();
            match self.host.read(&mut buffer[HEADROOM..HEADROOM + length]) {
                Ok(n) if n > 0 => {
                    self.urgent &= !urgent;
                    self.outbound.push(buffer, n, piece, urgent, out);
                    continue;
                }
                Ok(_) => self.host_ended = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            out.recycle(buffer);
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
            Phase::Open if self.outbound.is_acknowledged() => {
                // A shut window.
                self.tries = self.tries.min(4);
                self.probe(out);
            }
            Phase::Open => self.resend(out),
            Phase::Connecting | Phase::Dead => return,
        }
        self.arm(now);
    }

    /// Makes the guest answer, by a byte that it has had already.
    fn probe(&mut self, out: &mut Out) {
        let head = self.head(self.outbound.next.wrapping_sub(1), 0);
        self.send(&head, out);
    }

    /// Looks, from time to time, whether the guest is still there.
    pub(crate) fn watch(&mut self, out: &mut Out, now: Instant) {
        let silent = now.saturating_duration_since(self.heard) >= IDLE + AGAIN * self.probes;
        if self.phase != Phase::Open || !silent || !self.outbound.is_acknowledged() {
            return;
        }
        self.probes += 1;
        if self.probes > PROBES {
            return self.reset(out);
        }
        self.probe(out);
    }
}
