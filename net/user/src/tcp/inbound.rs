//! The guest's direction of a connection: what has come and waits for the host.
//!
//! Source: RFC 9293, 3.10.7.4 (what of a segment is new) and 3.8.5 (urgent data).
//!
//! Invariants: `ready` is what was acknowledged and the host has not taken; `early` lies beyond a gap, inside the window that
//! was told, and is not acknowledged.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use super::conn::{Segment, before};
use super::host::Host;
use crate::out::flag;

/// Pieces beyond a gap that are kept.
const EARLY: usize = 32;
/// Smaller payloads are collected before they are written.
const DIRECT: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Inbound {
    /// The next byte's number.
    pub(super) next: u32,
    ready: VecDeque<u8>,
    early: Vec<(u32, Vec<u8>)>,
    /// Number of the guest's FIN, if that has come.
    end: Option<u32>,
    /// All has come.
    ended: bool,
    /// The host knows that all has come.
    told: bool,
    /// Bytes of `ready` before the urgent one.
    urgent: Option<usize>,
    /// The host takes more.
    pub(super) writable: bool,
}

impl Inbound {
    /// Bytes that wait for the host.
    pub(super) fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Whether the guest has ended and the host knows.
    pub(super) fn is_done(&self) -> bool {
        self.told
    }

    /// Takes a segment's payload and FIN; `room` is the window.
    pub(super) fn take(&mut self, s: &Segment<'_>, room: usize, host: &mut Host) {
        if self.ended {
            return;
        }
        if before(self.next, s.seq) {
            return self.keep_early(s, room);
        }
        let known = self.next.wrapping_sub(s.seq) as usize;
        let Some(mut new) = s.payload.get(known..) else { return };
        let whole = new.len() <= room;
        new = &new[..new.len().min(room)];
        if let Some(pointer) = s.urgent {
            // It names the byte behind the urgent one.
            let at = s.seq.wrapping_add(u32::from(pointer)).wrapping_sub(1).wrapping_sub(self.next) as usize;
            if at < new.len() {
                self.urgent = Some(self.ready.len() + at);
            }
        }
        self.next = self.next.wrapping_add(new.len() as u32);
        if whole && s.has(flag::FIN) {
            self.end = Some(self.next);
        }
        if self.ready.is_empty() && self.urgent.is_none() && self.writable && new.len() >= DIRECT {
            match host.write(&[IoSlice::new(new)]) {
                Ok(n) => {
                    self.writable = n == new.len();
                    new = &new[n..];
                }
                // What it is shows when the rest is written.
                Err(e) => self.writable = e.kind() != io::ErrorKind::WouldBlock,
            }
        }
        self.ready.extend(new);
        self.join_early();
        if self.end == Some(self.next) {
            self.next = self.next.wrapping_add(1);
            self.ended = true;
            self.early = Vec::new();
        }
    }

    /// Keeps what comes behind a gap.
    fn keep_early(&mut self, s: &Segment<'_>, room: usize) {
        let gap = s.seq.wrapping_sub(self.next) as usize;
        let kept: usize = self.early.iter().map(|(_, data)| data.len()).sum();
        let length = s.payload.len();
        if gap + length > room || kept + length > room || self.early.len() >= EARLY {
            return;
        }
        if s.has(flag::FIN) {
            self.end = Some(s.seq.wrapping_add(length as u32));
        }
        let again = self.early.iter().any(|(seq, data)| *seq == s.seq && data.len() >= length);
        if length > 0 && !again {
            self.early.push((s.seq, s.payload.to_vec()));
        }
    }

    /// Moves what has no gap before it any more.
    fn join_early(&mut self) {
        while let Some(i) = self.early.iter().position(|(seq, _)| !before(self.next, *seq)) {
            let (seq, data) = self.early.swap_remove(i);
            let new = data.get(self.next.wrapping_sub(seq) as usize..).unwrap_or_default();
            self.next = self.next.wrapping_add(new.len() as u32);
            self.ready.extend(new);
        }
    }

    /// Writes to the host; `false` if it is gone.
    pub(super) fn flush(&mut self, host: &mut Host) -> bool {
        while self.writable && !self.ready.is_empty() {
            let plain = self.urgent.unwrap_or(self.ready.len());
            let done = if plain == 0 {
                host.write_urgent(self.ready[0])
            } else {
                let (a, b) = self.ready.as_slices();
                let a = &a[..a.len().min(plain)];
                let b = &b[..b.len().min(plain - a.len())];
                host.write(&[IoSlice::new(a), IoSlice::new(b)])
            };
            match done {
                Ok(n) => {
                    self.ready.drain(..n);
                    self.urgent = match self.urgent {
                        Some(0) if n > 0 => None,
                        at => at.map(|at| at - n),
                    };
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.ready.is_empty() && self.ready.capacity() > DIRECT {
            self.ready = VecDeque::new();
        }
        if self.ended && self.ready.is_empty() && !self.told {
            host.end_writes();
            self.told = true;
        }
        true
    }
}
