//! Several front ends on one back end: Ctrl-A switches between them (`-nographic`, `mon:stdio`).
//!
//! Output of all front ends goes through. Input goes to the one in focus. Ctrl-A is the escape: `x` ends the
//! process, `c` moves the focus on, `b` sends a break, `s` writes the disks back, `t` puts the time before each line, `h`
//! shows help, Ctrl-A sends itself.
//!
//! Locks: `state` is never held while a receiver runs, so front ends may write from inside `receive`.

use super::{ChardevError, Keys};
use device::{CharBackend, CharControl, CharEvent, CharReceiver};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Most front ends.
const MAX_PORTS: usize = 8;
/// Input kept for a front end that cannot take it yet, in bytes.
const BUFFER: usize = 4096;
const ESCAPE: u8 = 1;

const HELP: &str = "\r\nC-a h    this help\r\nC-a x    end the process\r\nC-a c    switch between console and monitor\r\n\
                    C-a b    send a break\r\nC-a s    write the disks back to their files\r\n\
                    C-a t    time before each line, on or off\r\nC-a C-a  send C-a\r\n";

/// What sits at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A device: always open.
    Device,
    /// A monitor: sees the focus coming and going as opening and closing.
    Monitor,
}

/// The shared back end.
pub struct Mux {
    inner: Arc<dyn CharBackend>,
    keys: Keys,
    state: Mutex<State>,
    output: Mutex<Output>,
}

/// Output on its way, with the time before each line if that is wanted.
#[derive(Default)]
struct Output {
    /// When the time was switched on.
    since: Option<Instant>,
    /// The next byte begins a line.
    fresh: bool,
    /// Of a time, what the back end has not taken yet.
    pending: Vec<u8>,
}

impl Output {
    fn write(&mut self, inner: &dyn CharBackend, data: &[u8]) -> usize {
        let mut done = 0;
        loop {
            if !self.pending.is_empty() {
                let n = inner.write(&self.pending);
                self.pending.drain(..n);
                if !self.pending.is_empty() {
                    return done;
                }
            }
            let rest = &data[done..];
            let Some(since) = self.since else { return done + inner.write(rest) };
            if rest.is_empty() {
                return done;
            }
            if std::mem::take(&mut self.fresh) {
                let (s, ms) = (since.elapsed().as_secs(), since.elapsed().subsec_millis());
                let time = format!("[{:02}:{:02}:{:02}.{ms:03}] ", s / 3600, s / 60 % 60, s % 60);
                self.pending = time.into_bytes();
                continue;
            }
            let line = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
            let n = inner.write(&rest[..line]);
            done += n;
            if n < line {
                return done;
            }
            self.fresh = rest[n - 1] == b'\n';
        }
    }
}

#[derive(Default)]
struct State {
    ports: Vec<Arc<Port>>,
    focus: usize,
    escaped: bool,
}

struct Port {
    kind: PortKind,
    receiver: Mutex<Option<Box<dyn CharReceiver>>>,
    waiting: Mutex<VecDeque<u8>>,
}

impl Port {
    /// Delivers what waits, as far as the receiver can take it.
    fn flush(&self) {
        let mut receiver = self.receiver.lock();
        let Some(receiver) = receiver.as_mut() else { return };
        loop {
            let room = receiver.can_receive();
            let data: Vec<u8> = {
                let mut waiting = self.waiting.lock();
                let n = room.min(waiting.len());
                waiting.drain(..n).collect()
            };
            if data.is_empty() {
                return;
            }
            receiver.receive(&data);
        }
    }

    fn event(&self, event: CharEvent) {
        if let Some(receiver) = self.receiver.lock().as_mut() {
            receiver.event(event);
        }
    }
}

impl Mux {
    /// Shares a back end.
    pub fn new(inner: Arc<dyn CharBackend>, keys: Keys) -> Arc<Self> {
        let mux = Arc::new(Self { inner, keys, state: Mutex::default(), output: Mutex::default() });
        mux.inner.set_receiver(Some(Box::new(Input { mux: Arc::downgrade(&mux) })));
        mux
    }

    /// Number of front ends.
    pub fn ports(&self) -> usize {
        self.state.lock().ports.len()
    }

    /// Adds a front end. The first device has the focus.
    pub fn port(self: &Arc<Self>, kind: PortKind) -> Result<Arc<dyn CharBackend>, ChardevError> {
        let mut state = self.state.lock();
        if state.ports.len() == MAX_PORTS {
            return Err(ChardevError::MuxFull(MAX_PORTS));
        }
        let port = Arc::new(Port { kind, receiver: Mutex::default(), waiting: Mutex::default() });
        if kind == PortKind::Device && !state.ports.iter().any(|p| p.kind == PortKind::Device) {
            state.focus = state.ports.len();
        }
        state.ports.push(port.clone());
        Ok(Arc::new(PortBackend { mux: self.clone(), port }))
    }

    fn focused(&self) -> Option<Arc<Port>> {
        let state = self.state.lock();
        state.ports.get(state.focus).cloned()
    }

    /// One input byte.
    fn byte(&self, byte: u8) {
        let escaped = {
            let mut state = self.state.lock();
            let escaped = std::mem::take(&mut state.escaped);
            state.escaped = !escaped && byte == ESCAPE;
            if state.escaped {
                return;
            }
            escaped
        };
        if !escaped || byte == ESCAPE {
            if let Some(port) = self.focused() {
                let mut waiting = port.waiting.lock();
                // Beyond the buffer a byte is lost; `can_receive` keeps that from happening.
                if waiting.len() < BUFFER {
                    waiting.push_back(byte);
                }
            }
            return;
        }
        match byte {
            b'x' => {
                self.inner.write(b"\r\nRhea: terminated\r\n");
                (self.keys.quit)();
            }
            b'c' => self.next_focus(),
            b's' => {
                let text = match (self.keys.save)() {
                    Ok(n) => format!("\r\nRhea: {n} disks written back\r\n"),
                    Err(e) => format!("\r\nRhea: {e}\r\n"),
                };
                self.inner.write(text.as_bytes());
            }
            b't' => {
                let mut output = self.output.lock();
                output.since = if output.since.is_none() { Some(Instant::now()) } else { None };
                output.fresh = false;
            }
            b'b' => {
                if let Some(port) = self.focused() {
                    port.event(CharEvent::Break);
                }
            }
            b'h' | b'?' => {
                self.inner.write(HELP.as_bytes());
            }
            _ => {}
        }
    }

    fn next_focus(&self) {
        let (old, new) = {
            let mut state = self.state.lock();
            if state.ports.len() < 2 {
                return;
            }
            let old = state.focus;
            state.focus = (old + 1) % state.ports.len();
            (state.ports[old].clone(), state.ports[state.focus].clone())
        };
        if old.kind == PortKind::Monitor {
            old.event(CharEvent::Closed);
        }
        if new.kind == PortKind::Monitor {
            new.event(CharEvent::Opened);
        }
    }
}

/// What the back end's thread sees.
struct Input {
    mux: Weak<Mux>,
}

impl CharReceiver for Input {
    fn can_receive(&mut self) -> usize {
        let Some(port) = self.mux.upgrade().and_then(|m| m.focused()) else { return 0 };
        // This also runs when a front end has said that it can take more.
        port.flush();
        let waiting = port.waiting.lock().len();
        BUFFER - waiting.min(BUFFER)
    }

    fn receive(&mut self, data: &[u8]) {
        let Some(mux) = self.mux.upgrade() else { return };
        for byte in data {
            let before = mux.focused();
            mux.byte(*byte);
            // What was typed before a switch belongs to the front end before it.
            if let (Some(a), Some(b)) = (&before, &mux.focused())
                && !Arc::ptr_eq(a, b)
            {
                a.flush();
            }
        }
        if let Some(port) = mux.focused() {
            port.flush();
        }
    }

    fn event(&mut self, event: CharEvent) {
        let Some(mux) = self.mux.upgrade() else { return };
        let ports = mux.state.lock().ports.clone();
        let focused = mux.focused();
        for port in ports {
            let in_focus = focused.as_ref().is_some_and(|f| Arc::ptr_eq(f, &port));
            match event {
                CharEvent::Writable => port.event(event),
                CharEvent::Opened | CharEvent::Closed if port.kind == PortKind::Device || in_focus => {
                    port.event(event)
                }
                CharEvent::Break if in_focus => port.event(event),
                _ => {}
            }
        }
    }
}

/// What a front end sees.
struct PortBackend {
    mux: Arc<Mux>,
    port: Arc<Port>,
}

impl CharBackend for PortBackend {
    fn write(&self, data: &[u8]) -> usize {
        self.mux.output.lock().write(&*self.mux.inner, data)
    }

    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>) {
        *self.port.receiver.lock() = receiver;
        // Input may have waited for it.
        self.mux.inner.accept_input();
    }

    fn accept_input(&self) {
        self.mux.inner.accept_input();
    }

    fn control(&self, control: CharControl) {
        self.mux.inner.control(control);
    }

    fn is_open(&self) -> bool {
        self.mux.inner.is_open()
            && (self.port.kind == PortKind::Device
                || self.mux.focused().is_some_and(|f| Arc::ptr_eq(&f, &self.port)))
    }
}
