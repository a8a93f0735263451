//! What sits on a cable and sees its frames: QEMU's network filters.

mod buffer;
mod dump;
mod impair;
mod mirror;
mod replay;
mod rewriter;

use crate::cable::Reentry;

pub use buffer::BufferFilter;
pub use dump::DumpFilter;
pub use impair::{ImpairFilter, Impairment};
pub use mirror::{FrameCodec, FrameSink, MirrorFilter, RedirectFilter};
pub use replay::ReplayFilter;
pub use rewriter::RewriterFilter;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the NIC to the back end (QEMU's `rx`: what the back end receives).
    ToNet,
    /// From the back end to the NIC (QEMU's `tx`).
    FromNet,
}

/// Which frames a filter sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queue {
    /// Both ways.
    #[default]
    All,
    /// [`Direction::ToNet`].
    Rx,
    /// [`Direction::FromNet`].
    Tx,
}

impl Queue {
    /// Reads `all`, `rx` or `tx`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "all" => Queue::All,
            "rx" => Queue::Rx,
            "tx" => Queue::Tx,
            _ => return None,
        })
    }

    pub(crate) fn covers(self, direction: Direction) -> bool {
        match self {
            Queue::All => true,
            Queue::Rx => direction == Direction::ToNet,
            Queue::Tx => direction == Direction::FromNet,
        }
    }

    /// The directions it covers.
    fn directions(self) -> impl Iterator<Item = Direction> {
        [Direction::FromNet, Direction::ToNet].into_iter().filter(move |d| self.covers(*d))
    }
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// The filter has it (or nobody).
    Taken,
    /// Another goes on in its place.
    Replaced(Vec<u8>),
}

/// A filter. It is called with locks of the NIC held and must neither wait nor give frames back inside the call.
pub trait Filter: Send + Sync {
    /// Sees a frame that has `header` bytes of virtio-net header before it.
    fn frame(&self, direction: Direction, frame: &[u8], header: usize) -> Verdict;

    /// Is put on a cable, once, before any frame.
    fn attach(&self, back: Reentry) {
        let _ = back;
    }

    /// Whether it wants frames as they are on a wire: of at most the MTU, with checksums. The NIC then offers no
    /// offloads, if the filter is there before the NIC is.
    fn wants_plain(&self) -> bool {
        false
    }
}
