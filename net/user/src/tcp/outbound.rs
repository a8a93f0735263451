//! The host's direction of a connection: what the guest has not acknowledged.
//!
//! Invariants: `segments` holds what is sent and not acknowledged, then what is not sent yet; the first `sent` of them are
//! sent. `una` and `next` are as in RFC 9293, 3.3.1.

use std::collections::VecDeque;

use super::conn::before;
use crate::out::{HEADROOM, Out};

/// One segment, or several that are cut on their way.
pub(super) struct Piece {
    pub(super) seq: u32,
    /// [`HEADROOM`] bytes for headers, then the payload and perhaps more.
    pub(super) buffer: Vec<u8>,
    pub(super) length: usize,
    /// Its one byte is urgent.
    pub(super) urgent: bool,
}

#[derive(Default)]
pub(super) struct Outbound {
    pub(super) una: u32,
    pub(super) next: u32,
    pub(super) segments: VecDeque<Piece>,
    pub(super) sent: usize,
    /// The guest's window.
    pub(super) window: usize,
}

impl Outbound {
    /// Bytes sent and not acknowledged.
    pub(super) fn flying(&self) -> usize {
        self.next.wrapping_sub(self.una) as usize
    }

    /// Whether everything sent is acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.una == self.next
    }

    /// Everything before `ack` has arrived; `false` if that is no news, or never was sent.
    pub(super) fn acknowledge(&mut self, ack: u32, out: &mut Out) -> bool {
        if !before(self.una, ack) || before(self.next, ack) {
            return false;
        }
        self.una = ack;
        while let Some(first) = self.segments.front() {
            if self.sent == 0 || before(ack, first.seq.wrapping_add(first.length as u32)) {
                break;
            }
            if let Some(piece) = self.segments.pop_front() {
                out.recycle(piece.buffer);
            }
            self.sent -= 1;
        }
        true
    }

    /// Appends what was read from the host into a buffer of [`Out::buffer`], in pieces of at most `most` bytes.
    pub(super) fn push(&mut self, buffer: Vec<u8>, length: usize, most: usize, urgent: bool, out: &mut Out) {
        let used = HEADROOM + length;
        // What is small shall not hold much.
        if length <= most && used >= buffer.len() / 2 {
            return self.append(buffer, length, urgent);
        }
        for part in buffer[HEADROOM..used].chunks(most) {
            let mut small = Vec::with_capacity(HEADROOM + part.len());
            small.resize(HEADROOM, 0);
            small.extend_from_slice(part);
            self.append(small, part.len(), urgent);
        }
        out.recycle(buffer);
    }

    fn append(&mut self, buffer: Vec<u8>, length: usize, urgent: bool) {
        // Behind what waits to be sent.
        let seq = self.segments.back().map_or(self.next, |last| last.seq.wrapping_add(last.length as u32));
        self.segments.push_back(Piece { seq, buffer, length, urgent });
    }
}
