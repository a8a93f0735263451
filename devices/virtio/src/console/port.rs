//! One port of the console: its two queues, its backend and what is on the way between them.

use std::collections::VecDeque;
use std::sync::Arc;

use ::device::{Bytes, CharBackend, StateError};

use crate::chain::Chain;
use crate::device::Progress;
use crate::queue::Virtqueue;

/// Bytes of input held for the driver.
pub(super) const INPUT: usize = 4096;
/// Bytes of output passed on at a time.
const PIECE: usize = 4096;
/// Bytes of output passed on before others have their turn.
const TURN: usize = 1 << 20;

/// Control messages that wait for a buffer, in the order they are sent in.
pub(super) mod pending {
    pub(in crate::console) const ADD: u8 = 1 << 0;
    pub(in crate::console) const CONSOLE: u8 = 1 << 1;
    pub(in crate::console) const RESIZE: u8 = 1 << 2;
    pub(in crate::console) const NAME: u8 = 1 << 3;
    pub(in crate::console) const OPEN: u8 = 1 << 4;
    pub(in crate::console) const ALL: u8 = 0x1f;
}

/// A buffer whose output is on its way.
struct Sending {
    chain: Chain,
    /// Read from the buffer and not yet taken by the backend.
    rest: Vec<u8>,
}

pub(super) struct Port {
    pub(super) backend: Arc<dyn CharBackend>,
    pub(super) name: String,
    pub(super) rx: Option<Arc<Virtqueue>>,
    pub(super) tx: Option<Arc<Virtqueue>>,
    pub(super) input: VecDeque<u8>,
    /// The backend was told that there is no room.
    pub(super) blocked: bool,
    sending: Option<Sending>,
    /// Bytes of the buffer being sent that the backend has taken.
    sent: u64,
    /// The guest has the port open.
    pub(super) guest_open: bool,
    /// What the guest was told of the backend.
    pub(super) told_open: bool,
    pub(super) pending: u8,
}

::device::state! {
    /// Saved state of a port.
    pub(super) struct SavedPort {
        1 => input: Bytes, 2 => sent: u64, 3 => guest_open: bool, 4 => told_open: bool, 5 => pending: u8,
    }
}

impl SavedPort {
    pub(super) fn check(&self) -> Result<(), StateError> {
        StateError::at_most("input", self.input.0.len(), INPUT)?;
        StateError::at_most("pending", self.pending, pending::ALL).map(drop)
    }
}

impl Port {
    pub(super) fn new(backend: Arc<dyn CharBackend>, name: &str) -> Self {
        Port {
            backend,
            name: name.to_owned(),
            rx: None,
            tx: None,
            input: VecDeque::new(),
            blocked: false,
            sending: None,
            sent: 0,
            guest_open: false,
            told_open: false,
            pending: 0,
        }
    }

    /// Moves input into the driver's buffers.
    pub(super) fn deliver(&mut self) {
        let Some(queue) = self.rx.clone() else { return };
        let mut given = false;
        while !self.input.is_empty() {
            let Some(mut chain) = queue.pop() else {
                if queue.enable_notification() {
                    continue;
                }
                break;
            };
            if chain.writable() == 0 {
                queue.fail("an input buffer without room");
                break;
            }
            let n = chain.write(self.input.make_contiguous());
            self.input.drain(..n);
            queue.push(chain);
            given = true;
        }
        if given {
            queue.signal();
            self.unblock();
        }
    }

    /// Lets a backend that waits for room go on.
    pub(super) fn unblock(&mut self) {
        if self.input.len() < INPUT && std::mem::take(&mut self.blocked) {
            self.backend.accept_input();
        }
    }

    /// Passes output to the backend until one of them has had enough.
    pub(super) fn transmit(&mut self) -> Progress {
        let Some(queue) = self.tx.clone() else { return Progress::Done };
        let mut turn = TURN;
        let progress = loop {
            let Some(sending) = &mut self.sending else {
                let Some(mut chain) = queue.pop() else {
                    if queue.enable_notification() {
                        continue;
                    }
                    break Progress::Done;
                };
                // After a restore, part of the buffer has been sent already.
                chain.skip(self.sent);
                self.sending = Some(Sending { chain, rest: Vec::new() });
                // An empty buffer is work too.
                turn = turn.saturating_sub(64);
                continue;
            };
            if sending.rest.is_empty() {
                if turn == 0 {
                    break Progress::More;
                }
                let n = sending.chain.readable().min(PIECE as u64) as usize;
                sending.rest.resize(n, 0);
                sending.chain.read(&mut sending.rest);
                turn = turn.saturating_sub(n);
            }
            let taken = self.backend.write(&sending.rest).min(sending.rest.len());
            sending.rest.drain(..taken);
            self.sent += taken as u64;
            if !sending.rest.is_empty() {
                break Progress::Done;
            }
            if sending.chain.readable() == 0
                && let Some(sending) = self.sending.take()
            {
                self.sent = 0;
                queue.push(sending.chain);
            }
        };
        queue.signal();
        progress
    }

    /// Puts the buffer being sent back into its queue.
    pub(super) fn stop_output(&mut self) {
        if let (Some(queue), Some(sending)) = (&self.tx, self.sending.take()) {
            queue.unpop(sending.chain);
            self.sent = 0;
        }
    }

    /// Queues have been stopped.
    pub(super) fn reset(&mut self) {
        self.input.clear();
        self.sending = None;
        self.sent = 0;
        (self.guest_open, self.told_open, self.pending) = (false, false, 0);
        self.unblock();
    }

    pub(super) fn save(&self) -> SavedPort {
        SavedPort {
            input: Bytes(self.input.iter().copied().collect()),
            sent: self.sent,
            guest_open: self.guest_open,
            told_open: self.told_open,
            pending: self.pending,
        }
    }

    pub(super) fn restore(&mut self, saved: &SavedPort) {
        self.input = saved.input.0.iter().copied().collect();
        self.sent = saved.sent;
        (self.guest_open, self.told_open) = (saved.guest_open, saved.told_open);
        self.pending = saved.pending;
    }
}
