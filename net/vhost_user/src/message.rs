//! Messages: a header of request, flags and size, and what follows it, all in the host's byte order.

use std::os::fd::OwnedFd;

use crate::{Error, MOST_REGIONS, Region};

/// Longest payload that is taken.
pub(crate) const LONGEST: usize = 4096;
/// Length of the header.
pub(crate) const HEADER: usize = 12;

/// Bits of a header's flags.
pub(crate) mod flag {
    /// The protocol's version; there is one.
    pub(crate) const VERSION: u32 = 1;
    pub(crate) const VERSION_MASK: u32 = 3;
    pub(crate) const REPLY: u32 = 1 << 2;
    pub(crate) const NEED_REPLY: u32 = 1 << 3;
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $id:literal,)*) => {
        $($(#[$doc])* pub const $name: u32 = $id;)*

        /// The name of a request.
        pub(crate) fn name(id: u32) -> &'static str {
            match id {
                $($name => stringify!($name),)*
                _ => "a request of an unknown kind",
            }
        }
    };
}

/// What a front end asks for.
pub mod request {
    requests! {
        /// Features of the device.
        GET_FEATURES = 1,
        /// Those that are used.
        SET_FEATURES = 2,
        /// The sender is the owner from now on.
        SET_OWNER = 3,
        /// No longer; out of use.
        RESET_OWNER = 4,
        /// The memory's pieces, each with its file.
        SET_MEM_TABLE = 5,
        /// The dirty log.
        SET_LOG_BASE = 6,
        /// An event for the dirty log.
        SET_LOG_FD = 7,
        /// A ring's number of entries.
        SET_VRING_NUM = 8,
        /// Where a ring is.
        SET_VRING_ADDR = 9,
        /// The entry a ring begins with.
        SET_VRING_BASE = 10,
        /// The same asked for; the ring stops.
        GET_VRING_BASE = 11,
        /// The event of new entries.
        SET_VRING_KICK = 12,
        /// The event of used entries.
        SET_VRING_CALL = 13,
        /// The event of a ring's error.
        SET_VRING_ERR = 14,
        /// Protocol features.
        GET_PROTOCOL_FEATURES = 15,
        /// Those that are used.
        SET_PROTOCOL_FEATURES = 16,
        /// Most queues.
        GET_QUEUE_NUM = 17,
        /// A ring is in use, or not.
        SET_VRING_ENABLE = 18,
        /// The guest has moved.
        SEND_RARP = 19,
        /// The network's MTU.
        NET_SET_MTU = 20,
        /// The channel for the back end's requests.
        SET_BACKEND_REQ_FD = 21,
        /// Address translations.
        IOTLB_MSG = 22,
        /// A ring's byte order.
        SET_VRING_ENDIAN = 23,
        /// Part of the device's configuration.
        GET_CONFIG = 24,
        /// The same to be written.
        SET_CONFIG = 25,
        /// Memory for requests under way.
        GET_INFLIGHT_FD = 31,
        /// The same given back.
        SET_INFLIGHT_FD = 32,
        /// The device starts anew.
        RESET_DEVICE = 34,
        /// Most pieces of memory.
        GET_MAX_MEM_SLOTS = 36,
        /// One more piece.
        ADD_MEM_REG = 37,
        /// One less.
        REM_MEM_REG = 38,
        /// The device status.
        SET_STATUS = 39,
        /// The same asked for.
        GET_STATUS = 40,
    }
}

/// What a back end asks for.
pub mod backend {
    /// The configuration has changed.
    pub const CONFIG_CHANGE: u32 = 2;
}

/// A message.
#[derive(Debug, Default)]
pub struct Message {
    /// What it is about.
    pub request: u32,
    pub(crate) flags: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// Where a ring is, by addresses of the front end's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VringAddress {
    /// Which ring.
    pub index: u32,
    /// Bit 0: writes to the used ring are logged.
    pub flags: u32,
    /// The table of descriptors.
    pub descriptors: u64,
    /// The used ring.
    pub used: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring in the log.
    pub log: u64,
}

impl Message {
    /// One with numbers of 64 bits.
    pub fn words(request: u32, words: &[u64]) -> Self {
        let payload = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        Message { request, payload, ..Message::default() }
    }

    /// One about a ring, with a number.
    pub fn vring(request: u32, index: u32, number: u32) -> Self {
        let payload = [index, number].iter().flat_map(|w| w.to_ne_bytes()).collect();
        Message { request, payload, ..Message::default() }
    }

    /// Whether an answer is asked for, beyond those that the request has anyway.
    pub fn wants_answer(&self) -> bool {
        self.flags & flag::NEED_REPLY != 0
    }

    fn bad(&self, expected: &str) -> Error {
        Error::protocol(self.request, format!("{} bytes of payload, expected {expected}", self.payload.len()))
    }

    fn pieces<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.payload.get(at..at + N)?.try_into().ok()
    }

    pub(crate) fn u32_at(&self, at: usize) -> Result<u32, Error> {
        self.pieces(at).map(u32::from_ne_bytes).ok_or_else(|| self.bad("more"))
    }

    pub(crate) fn u64_at(&self, at: usize) -> Result<u64, Error> {
        self.pieces(at).map(u64::from_ne_bytes).ok_or_else(|| self.bad("more"))
    }

    /// Its one number.
    pub fn word(&self) -> Result<u64, Error> {
        if self.payload.len() == 8 { self.u64_at(0) } else { Err(self.bad("8")) }
    }

    /// A ring's index, and a number.
    pub fn as_vring(&self) -> Result<(u32, u32), Error> {
        if self.payload.len() == 8 { Ok((self.u32_at(0)?, self.u32_at(4)?)) } else { Err(self.bad("8")) }
    }

    /// A ring's index, and the event that came with it; there may be none.
    pub fn as_event(&mut self) -> Result<(u32, Option<OwnedFd>), Error> {
        let word = self.word()?;
        let none = word & 0x100 != 0;
        match (self.fds.pop(), none) {
            (Some(fd), false) if self.fds.is_empty() => Ok(((word & 0xff) as u32, Some(fd))),
            (None, true) => Ok(((word & 0xff) as u32, None)),
            _ => Err(Error::protocol(self.request, "expected one descriptor, or none where it says so")),
        }
    }

    /// Where a ring is.
    pub fn as_address(&self) -> Result<VringAddress, Error> {
        if self.payload.len() != 40 {
            return Err(self.bad("40"));
        }
        Ok(VringAddress {
            index: self.u32_at(0)?,
            flags: self.u32_at(4)?,
            descriptors: self.u64_at(8)?,
            used: self.u64_at(16)?,
            available: self.u64_at(24)?,
            log: self.u64_at(32)?,
        })
    }

    /// The message that says where a ring is.
    pub fn address(a: &VringAddress) -> Self {
        let mut message = Message::vring(request::SET_VRING_ADDR, a.index, a.flags);
        for word in [a.descriptors, a.used, a.available, a.log] {
            message.payload.extend(word.to_ne_bytes());
        }
        message
    }

    fn region_at(&self, at: usize) -> Result<Region, Error> {
        let word = |i: usize| self.u64_at(at + 8 * i);
        Ok(Region { guest: word(0)?, size: word(1)?, user: word(2)?, offset: word(3)? })
    }

    /// The memory's pieces, in the order of their descriptors.
    pub fn as_table(&self) -> Result<Vec<Region>, Error> {
        let count = self.u32_at(0)? as usize;
        if count > MOST_REGIONS || self.payload.len() != 8 + 32 * count {
            return Err(self.bad("8 and 32 for each of at most 8 pieces"));
        }
        (0..count).map(|i| self.region_at(8 + 32 * i)).collect()
    }

    /// The message with the memory's pieces; descriptors are added by who sends it.
    pub fn table(regions: &[Region]) -> Self {
        let mut message = Message::vring(request::SET_MEM_TABLE, regions.len() as u32, 0);
        regions.iter().for_each(|r| message.push_region(r));
        message
    }

    /// One piece of memory.
    pub fn as_region(&self) -> Result<Region, Error> {
        if self.payload.len() == 40 { self.region_at(8) } else { Err(self.bad("40")) }
    }

    fn push_region(&mut self, r: &Region) {
        for word in [r.guest, r.size, r.user, r.offset] {
            self.payload.extend(word.to_ne_bytes());
        }
    }

    /// Part of the configuration: where it begins, and the bytes.
    pub fn as_config(&self) -> Result<(u32, &[u8]), Error> {
        let (offset, size) = (self.u32_at(0)?, self.u32_at(4)? as usize);
        match self.payload.get(12..) {
            Some(bytes) if bytes.len() == size => Ok((offset, bytes)),
            _ => Err(self.bad("12 and as many as it says")),
        }
    }

    /// A message with part of the configuration.
    pub fn config(request: u32, offset: u32, bytes: &[u8]) -> Self {
        let mut message = Message::vring(request, offset, bytes.len() as u32);
        message.payload.extend(0u32.to_ne_bytes());
        message.payload.extend_from_slice(bytes);
        message
    }
}
