//! `filter-mirror` and `filter-redirector`: frames to and from a byte stream.
//!
//! In the stream a frame is preceded by its length in four bytes, big endian, and with `vnet_hdr_support` then by the
//! length of its virtio-net header in four more, as on QEMU.

use parking_lot::Mutex;

use super::{Direction, Filter, Queue, Verdict};
use crate::MAX_FRAME;
use crate::cable::Reentry;

/// Takes a whole piece of the stream or, if there is no room for it, nothing.
pub type FrameSink = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Longest frame that is taken from a stream.
const LONGEST: usize = 4096 + 65536;
/// Longest virtio-net header.
const MOST_HEADER: usize = 20;

/// Frames out of a stream.
#[derive(Debug, Default)]
pub struct FrameCodec {
    buffer: Vec<u8>,
    /// Frames say how long their header is.
    headers: bool,
}

impl FrameCodec {
    /// For a stream with or without lengths of headers.
    pub fn new(headers: bool) -> Self {
        FrameCodec { buffer: Vec::new(), headers }
    }

    /// A frame as it goes into the stream.
    fn encode(headers: bool, frame: &[u8], header: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + frame.len());
        out.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        if headers {
            out.extend_from_slice(&(header as u32).to_be_bytes());
        }
        out.extend_from_slice(frame);
        out
    }

    /// Takes bytes of the stream; `each` gets the frames that are whole now, with the length of their header. False if
    /// the stream makes no sense: it begins anew with what comes next.
    pub fn decode(&mut self, data: &[u8], mut each: impl FnMut(&[u8], usize)) -> bool {
        self.buffer.extend_from_slice(data);
        let mut at = 0;
        let prefix = if self.headers { 8 } else { 4 };
        while let Some(head) = self.buffer[at..].get(..prefix) {
            let word =
                |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]) as usize;
            let (length, header) = (word(0), if self.headers { word(4) } else { 0 });
            if length > LONGEST || header > MOST_HEADER.min(length) {
                self.buffer.clear();
                return false;
            }
            let Some(frame) = self.buffer[at + prefix..].get(..length) else { break };
            if length <= MAX_FRAME {
                each(frame, header);
            }
            at += prefix + length;
        }
        self.buffer.drain(..at);
        true
    }

    /// Forgets what is not whole.
    pub fn clear(&mut self) {
        self.buffer.clear();
    }
}

/// Copies frames.
pub struct MirrorFilter {
    out: FrameSink,
    headers: bool,
}

impl MirrorFilter {
    /// Copies to `out`.
    pub fn new(out: FrameSink, headers: bool) -> Self {
        MirrorFilter { out, headers }
    }
}

/// A frame as a stream without headers has it.
fn shown(frame: &[u8], header: usize, headers: bool) -> Vec<u8> {
    if headers {
        FrameCodec::encode(true, frame, header)
    } else {
        FrameCodec::encode(false, frame.get(header..).unwrap_or_default(), 0)
    }
}

impl Filter for MirrorFilter {
    fn frame(&self, _direction: Direction, frame: &[u8], header: usize) -> Verdict {
        (self.out)(&shown(frame, header, self.headers));
        Verdict::Pass
    }

    fn wants_plain(&self) -> bool {
        !self.headers
    }
}

/// Frames leave the cable here for one stream, and others come onto it from another.
pub struct RedirectFilter {
    out: Option<FrameSink>,
    headers: bool,
    queue: Queue,
    back: Mutex<Option<Reentry>>,
}

impl RedirectFilter {
    /// Sends frames to `out`, if that is given. What is [fed](Self::feed) to it goes the ways of `queue`.
    pub fn new(out: Option<FrameSink>, headers: bool, queue: Queue) -> Self {
        RedirectFilter { out, headers, queue, back: Mutex::default() }
    }

    /// A decoder for what is fed.
    pub fn codec(&self) -> FrameCodec {
        FrameCodec::new(self.headers)
    }

    /// Puts a frame with `header` bytes of virtio-net header onto the cable.
    pub fn feed(&self, frame: &[u8], header: usize) {
        let Some(back) = self.back.lock().clone() else { return };
        let Some(payload) = frame.get(header..) else { return };
        let here = back.header();
        let whole = if here == header {
            frame.to_vec()
        } else {
            [&[0; MOST_HEADER][..here.min(MOST_HEADER)], payload].concat()
        };
        for direction in self.queue.directions() {
            back.pass(direction, whole.clone());
        }
    }
}

impl Filter for RedirectFilter {
    fn frame(&self, _direction: Direction, frame: &[u8], header: usize) -> Verdict {
        let Some(out) = &self.out else { return Verdict::Pass };
        out(&shown(frame, header, self.headers));
        Verdict::Taken
    }

    fn attach(&self, back: Reentry) {
        *self.back.lock() = Some(back);
    }

    fn wants_plain(&self) -> bool {
        !self.headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let frames: Vec<Vec<u8>> = (1..40u8).map(|i| vec![i; usize::from(i) * 7]).collect();
        for headers in [false, true] {
            let stream: Vec<u8> = frames
                .iter()
                .flat_map(|f| FrameCodec::encode(headers, f, if headers { 2 } else { 0 }))
                .collect();
            for step in [1, 3, 8, 1000, stream.len()] {
                let mut codec = FrameCodec::new(headers);
                let mut got = Vec::new();
                for piece in stream.chunks(step) {
                    assert!(codec.decode(piece, |f, h| {
                        assert_eq!(h, if headers { 2 } else { 0 });
                        got.push(f.to_vec());
                    }));
                }
                assert_eq!(got, frames);
                assert!(codec.buffer.is_empty());
            }
        }
    }

    #[test]
    fn nonsense_is_bounded() {
        let mut seed = 3u64;
        let mut codec = FrameCodec::new(true);
        for _ in 0..5000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let bytes = (seed >> 20).to_be_bytes();
            codec.decode(&bytes[..(seed >> 60) as usize % 9], |f, h| assert!(h <= f.len()));
            assert!(codec.buffer.len() <= LONGEST + 8);
        }
    }
}
