//! Transmit descriptors to frames: checksums, segments, tags (82540EM manual, 3.3 to 3.5; 82574L datasheet, 7.2, which has the
//! same legacy, context and data descriptors).

use device::{Dma, StateError};

use crate::checksum;

/// Size of a descriptor.
pub(crate) const DESCRIPTOR: u64 = 16;
/// Longest that descriptors may add up to: a packet of the Internet Protocol with its headers.
pub(crate) const MAX_FRAME: usize = 66 << 10;

/// Bits of a descriptor's command.
mod command {
    pub(super) const END: u8 = 1 << 0;
    pub(super) const CHECKSUM: u8 = 1 << 2;
    pub(super) const SEGMENT: u8 = 1 << 2;
    pub(super) const REPORT: u8 = 1 << 3;
    pub(super) const EXTENDED: u8 = 1 << 5;
    pub(super) const TAG: u8 = 1 << 6;
}

/// Options of a frame: checksums to insert, as descriptors have them, and segmentation.
const IP_CHECKSUM: u16 = 1 << 0;
const CHECKSUM: u16 = 1 << 1;
const SEGMENTED: u16 = 1 << 8;

/// What a context descriptor says of the frames after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// Start, place and end of the header's checksum and of the payload's; an end of 0 is the frame's.
    pub(crate) ip: [u16; 3],
    pub(crate) payload: [u16; 3],
    /// The packets are TCP, and IPv4.
    pub(crate) tcp: bool,
    pub(crate) ipv4: bool,
    pub(crate) header: u8,
    pub(crate) segment: u16,
}

impl Context {
    fn from_bytes(d: &[u8; 16]) -> Self {
        let part = |at: usize| [d[at].into(), d[at + 1].into(), u16::from_le_bytes([d[at + 2], d[at + 3]])];
        Context {
            ip: part(0),
            payload: part(4),
            tcp: d[11] & 1 != 0,
            ipv4: d[11] & 2 != 0,
            header: d[13],
            segment: u16::from_le_bytes([d[14], d[15]]),
        }
    }

    fn insert(frame: &mut [u8], [start, at, end]: [u16; 3]) {
        let end = if end == 0 { frame.len() } else { usize::from(end) + 1 };
        checksum::insert(frame, start.into(), at.into(), end);
    }

    fn checksums(&self, frame: &mut [u8], options: u16) {
        if options & CHECKSUM != 0 {
            Self::insert(frame, self.payload);
        }
        if options & IP_CHECKSUM != 0 {
            Self::insert(frame, self.ip);
        }
    }

    /// Cuts a packet into segments, each with headers of its own.
    fn segments(&self, packet: &[u8], options: u16, mut send: impl FnMut(&[u8])) {
        let header = usize::from(self.header).min(packet.len());
        let (head, body) = packet.split_at(header);
        let size = usize::from(self.segment).max(1);
        let count = body.len().div_ceil(size).max(1);
        for i in 0..count {
            let part = &body[(i * size).min(body.len())..((i + 1) * size).min(body.len())];
            let mut frame = [head, part].concat();
            self.fix(&mut frame, i, i * size, i + 1 == count);
            self.checksums(&mut frame, options);
            send(&frame);
        }
    }

    /// Makes the headers those of segment `number`, whose data begins at `offset`.
    fn fix(&self, frame: &mut [u8], number: usize, offset: usize, last: bool) {
        let len = frame.len();
        let (ip, payload) = (usize::from(self.ip[0]), usize::from(self.payload[0]));
        let put = |frame: &mut [u8], at: usize, value: u16| {
            if let Some(field) = frame.get_mut(at..at + 2) {
                field.copy_from_slice(&value.to_be_bytes());
            }
        };
        let after_ip = len.saturating_sub(ip);
        if self.ipv4 {
            put(frame, ip + 2, after_ip as u16);
            if let Some(field) = frame.get_mut(ip + 4..ip + 6) {
                let id = u16::from_be_bytes([field[0], field[1]]).wrapping_add(number as u16);
                field.copy_from_slice(&id.to_be_bytes());
            }
        } else {
            put(frame, ip + 4, after_ip.saturating_sub(40) as u16);
        }
        let after = len.saturating_sub(payload);
        if self.tcp {
            if let Some(field) = frame.get_mut(payload + 4..payload + 8) {
                let sequence = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
                field.copy_from_slice(&sequence.wrapping_add(offset as u32).to_be_bytes());
            }
            if let Some(flags) = frame.get_mut(payload + 13).filter(|_| !last) {
                // Push and the end of the stream belong to the last.
                *flags &= !0x09;
            }
        } else {
            put(frame, payload + 4, after as u16);
        }
        // The host has put the sum of a pseudo-header without its length there.
        let at = usize::from(self.payload[1]);
        if let Some(field) = frame.get_mut(at..at + 2) {
            let sum = u32::from(u16::from_be_bytes([field[0], field[1]])) + after as u32;
            field.copy_from_slice(&((sum as u16).wrapping_add((sum >> 16) as u16)).to_be_bytes());
        }
    }
}

/// The frame whose descriptors come in, and what the last context descriptor said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) frame: Vec<u8>,
    pub(crate) context: Context,
    /// What the frame's first data descriptor asked for: checksums to insert, and whether it is cut into segments.
    pub(crate) options: u16,
}

/// Whether the host wants to hear of a descriptor that is done.
pub(crate) fn reports(d: &[u8; 16]) -> bool {
    d[11] & command::REPORT != 0
}

impl Sender {
    /// Takes the next descriptor, and sends what it completes. `tags` is the type of the tags that frames may get.
    pub(crate) fn descriptor(
        &mut self,
        d: &[u8; 16],
        dma: &Dma,
        tags: Option<u16>,
        mut send: impl FnMut(&[u8]),
    ) {
        let what = d[11];
        let extended = what & command::EXTENDED != 0;
        let word = u32::from_le_bytes([d[8], d[9], d[10], 0]);
        if extended && word >> 20 & 15 == 0 {
            self.context = Context::from_bytes(d);
            return;
        }
        let len = if extended { word & 0xf_ffff } else { word & 0xffff } as usize;
        let address = u64::from_le_bytes([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]);
        if self.frame.is_empty() && extended {
            let segmented = if what & command::SEGMENT != 0 { SEGMENTED } else { 0 };
            self.options = u16::from(d[13] & 3) | segmented;
        } else if self.frame.is_empty() {
            self.options = 0;
        }
        let start = self.frame.len();
        // What is longer than any packet is cut off.
        let end = (start + len).min(MAX_FRAME);
        self.frame.resize(end, 0);
        if dma.read(address, &mut self.frame[start..end]).is_err() {
            self.frame[start..end].fill(0);
        }
        if what & command::END == 0 {
            return;
        }
        let mut frame = std::mem::take(&mut self.frame);
        if !extended && what & command::CHECKSUM != 0 {
            checksum::insert(&mut frame, d[13].into(), d[10].into(), usize::MAX);
        }
        let tag = tags.filter(|_| what & command::TAG != 0).map(|kind| {
            let [a, b] = kind.to_be_bytes();
            [a, b, d[15], d[14]]
        });
        let mut send = |frame: &[u8]| match tag {
            Some(tag) if frame.len() >= 12 => send(&[&frame[..12], &tag, &frame[12..]].concat()),
            _ => send(frame),
        };
        if self.options & SEGMENTED != 0 {
            self.context.segments(&frame, self.options, send);
        } else {
            self.context.checksums(&mut frame, self.options);
            send(&frame);
        }
    }
}

/// Numbers from a saved state, as many as there have to be.
pub(crate) fn exactly<const N: usize>(field: &str, values: &[u16]) -> Result<[u16; N], StateError> {
    values
        .try_into()
        .map_err(|_| StateError::new(field, format!("expected {N} values, found {}", values.len())))
}
