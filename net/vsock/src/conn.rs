//! One connection between a guest's port and a Unix socket.
//!
//! Each side tells the other how many bytes it keeps room for and how many it has read; nobody sends more than the
//! other has room for. What the guest sends waits here for a slow reader, at most [`ROOM`] bytes; what the host sends
//! waits in its own socket.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::UnixStream;

use crate::packet::{Header, op, shutdown};

/// Bytes kept for a reader on the host.
pub(crate) const ROOM: u32 = 256 << 10;
/// Longest first line of a host's client.
const LINE: usize = 32;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The host's client has not said yet which port it wants.
    Asking,
    /// The guest has been asked.
    Requested,
    /// Both sides agree.
    Open,
}

/// The connection.
pub(crate) struct Conn {
    pub(crate) stream: UnixStream,
    pub(crate) stage: Stage,
    /// Ports: the host's, the guest's.
    pub(crate) ports: (u32, u32),
    pub(crate) since: Instant,
    /// The first line as far as it has come.
    line: Vec<u8>,
    /// For the host.
    pending: VecDeque<u8>,
    /// Bytes passed on to the host, and as many as the guest was told of.
    forwarded: u32,
    told: u32,
    /// Bytes sent to the guest, and its room.
    sent: u32,
    room: (u32, u32),
    /// The socket may have something to read.
    pub(crate) readable: bool,
    /// The host will send no more, and the guest knows.
    ended: bool,
    /// What the guest will no longer do: [`shutdown`].
    gone: u32,
    /// The socket's sending side is shut.
    shut: bool,
}

/// What came out of reading the host's side.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// So many bytes.
    Data(usize),
    /// Nothing for now.
    Nothing,
    /// It has ended, which the guest is to be told.
    End,
    /// It has failed.
    Failed,
}

impl Conn {
    pub(crate) fn new(stream: UnixStream, stage: Stage, ports: (u32, u32), now: Instant) -> Self {
        Conn {
            stream,
            stage,
            ports,
            since: now,
            line: Vec::new(),
            pending: VecDeque::new(),
            forwarded: 0,
            told: 0,
            sent: 0,
            room: (0, 0),
            readable: false,
            ended: false,
            gone: 0,
            shut: false,
        }
    }

    /// A packet of this connection's to the guest, with what room there is.
    pub(crate) fn header(&mut self, op: u16, len: u32, flags: u32, cid: u64) -> Header {
        self.told = self.forwarded;
        Header {
            src: (crate::packet::HOST, self.ports.0),
            dst: (cid, self.ports.1),
            len,
            kind: crate::packet::STREAM,
            op,
            flags,
            buf_alloc: ROOM,
            fwd_cnt: self.forwarded,
        }
    }

    /// The guest says how much room it has.
    pub(crate) fn credit(&mut self, header: &Header) {
        self.room = (header.buf_alloc, header.fwd_cnt);
    }

    /// Bytes the guest has room for.
    fn allowance(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.room.1);
        self.room.0.saturating_sub(under_way) as usize
    }

    /// Whether there may be something for the guest, and it may have it.
    pub(crate) fn may_read(&self) -> bool {
        self.stage == Stage::Open
            && self.readable
            && !self.ended
            && self.gone & shutdown::RECEIVE == 0
            && self.allowance() > 0
    }

    /// Reads for the guest.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Got {
        let most = buffer.len().min(self.allowance());
        match self.stream.read(&mut buffer[..most]) {
            Ok(0) => {
                self.ended = true;
                Got::End
            }
            Ok(n) => {
                self.sent = self.sent.wrapping_add(n as u32);
                Got::Data(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Got::Nothing
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Got::Nothing,
            Err(_) => Got::Failed,
        }
    }

    /// Reads the first line of a host's client, `CONNECT PORT`. An error ends the connection.
    pub(crate) fn ask(&mut self) -> Result<Option<u32>, ()> {
        loop {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break,
                Ok(1) if self.line.len() < LINE => self.line.push(byte[0]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(()),
            }
        }
        let line = String::from_utf8_lossy(&self.line);
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next().map(str::parse), words.next()) {
            (Some(word), Some(Ok(port)), None) if word.eq_ignore_ascii_case("connect") => Ok(Some(port)),
            _ => Err(()),
        }
    }

    /// Queues bytes for the host and sends what can be sent. `false` if there are more than there was room for, or the
    /// host is gone.
    pub(crate) fn write(&mut self, data: &[u8]) -> bool {
        if self.pending.len() + data.len() > ROOM as usize {
            return false;
        }
        self.pending.extend(data);
        self.flush()
    }

    /// Sends what waits; `false` if the host is gone.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.stream.write(self.pending.as_slices().0) {
                Ok(n) => {
                    self.pending.drain(..n);
                    if self.stage == Stage::Open {
                        self.forwarded = self.forwarded.wrapping_add(n as u32);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.gone & shutdown::SEND != 0 && !self.shut {
            self.shut = true;
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        true
    }

    /// Tells the host's client that the guest has agreed. Not counted: the guest did not send it.
    pub(crate) fn agree(&mut self) -> bool {
        let line = format!("OK {}\n", self.ports.0);
        let done = self.stream.write(line.as_bytes());
        self.stage = Stage::Open;
        self.readable = true;
        done.is_ok_and(|n| n == line.len())
    }

    /// Whether the guest is to be told of room that it does not know of.
    pub(crate) fn owes_credit(&self) -> bool {
        self.stage == Stage::Open && self.forwarded.wrapping_sub(self.told) >= ROOM / 4
    }

    /// The guest will no longer do this.
    pub(crate) fn leaves(&mut self, flags: u32) {
        self.gone |= flags & (shutdown::RECEIVE | shutdown::SEND);
    }

    /// Nothing more will happen but the end.
    pub(crate) fn is_over(&self) -> bool {
        let both = shutdown::RECEIVE | shutdown::SEND;
        self.pending.is_empty() && (self.gone == both || (self.ended && self.gone & shutdown::SEND != 0))
    }

    /// The connection's operations that carry data or end it need this.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// A packet that opens, for the guest.
    pub(crate) fn request(&mut self, cid: u64) -> Header {
        self.stage = Stage::Requested;
        self.header(op::REQUEST, 0, 0, cid)
    }
}
