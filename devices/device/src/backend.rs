//! Character backends: the host's end of a serial line.

use std::fs::File;

/// Something that happened on the host's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharEvent {
    /// Somebody connected.
    Opened,
    /// The peer is gone.
    Closed,
    /// A break condition was received.
    Break,
    /// A backend that took less than it was offered can take more.
    Writable,
}

/// What a device asks of the line beyond data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharControl {
    /// Line parameters: bits a second, data bits, stop bits, parity as `N`, `E`, `O`, `M` or `S`.
    Line {
        /// Bits a second.
        baud: u32,
        /// 5 to 8.
        data_bits: u8,
        /// 1 or 2.
        stop_bits: u8,
        /// `N`, `E`, `O`, `M` or `S`.
        parity: char,
    },
    /// Break condition on or off.
    Break(bool),
    /// Modem control outputs.
    Modem {
        /// Data terminal ready.
        dtr: bool,
        /// Request to send.
        rts: bool,
    },
}

/// The host's end of a character device. Shared by the device and the backend's own thread.
///
/// The device calls these with its own lock held, and the backend calls the receiver, which takes that lock: an
/// implementation must hold none of the locks that these methods take while it calls the receiver (keep it in an
/// `Arc` of its own).
pub trait CharBackend: Send + Sync {
    /// Offers data; returns how much was taken, at once. After a short count [`CharEvent::Writable`] follows.
    fn write(&self, data: &[u8]) -> usize;

    /// Sets where input goes, replacing an earlier receiver. Input that came before waits for it.
    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>);

    /// The receiver has room again after [`CharReceiver::can_receive`] said 0.
    fn accept_input(&self) {}

    /// Line and modem settings; ignored by backends without a line.
    fn control(&self, control: CharControl) {
        let _ = control;
    }

    /// Whether a peer is connected (always, for a file).
    fn is_open(&self) -> bool {
        true
    }

    /// Files that the peer has sent along with its input, oldest first.
    fn take_files(&self) -> Vec<File> {
        Vec::new()
    }
}

/// The device's end of a character backend.
pub trait CharReceiver: Send {
    /// How many bytes may be given now. If 0, the device calls [`CharBackend::accept_input`] when that changes.
    fn can_receive(&mut self) -> usize;

    /// Takes input, at most what [`CharReceiver::can_receive`] said. Must cope with more: a reset can come
    /// between.
    fn receive(&mut self, data: &[u8]);

    /// Something happened on the line.
    fn event(&mut self, event: CharEvent) {
        let _ = event;
    }
}

/// Swallows output, never has input.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullChar;

impl CharBackend for NullChar {
    fn write(&self, data: &[u8]) -> usize {
        data.len()
    }

    fn set_receiver(&self, _receiver: Option<Box<dyn CharReceiver>>) {}
}
