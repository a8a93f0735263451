//! `-display curses`: the display's text in the terminal, its keyboard as the machine's. Alt and a digit, or Escape and then at once
//! a digit, chooses what is shown: the display, then the text consoles (`vc`), which are the monitor and the serial ports.
//!
//! The terminal is a character back end as that of `-serial stdio`, so this knows nothing of the host's terminals. One thread paints
//! what has changed, 25 times a second, and types.

mod keys;
mod paint;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use control::chardev::TextConsole;
use control::vm::{KeyId, Vm};
use device::{CharBackend, CharEvent, CharReceiver, Surface, TextScreen};
use parking_lot::Mutex;

use self::keys::Typed;
use self::paint::Painter;
use crate::console;
use crate::vm::RheaVm;

/// From one look at the display to the next.
const FRAME: Duration = Duration::from_millis(40);
/// How long keys stay down.
const HOLD_MS: u64 = 20;
/// Bytes of the terminal that wait to be looked at.
const WAITING: usize = 4096;

/// The display; it ends when this is dropped.
pub(crate) struct Curses {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What comes from the terminal.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<VecDeque<u8>>>);

impl CharReceiver for Arrivals {
    fn can_receive(&mut self) -> usize {
        WAITING.saturating_sub(self.0.lock().len())
    }

    fn receive(&mut self, data: &[u8]) {
        self.0.lock().extend(data);
    }

    fn event(&mut self, _event: CharEvent) {}
}

struct Terminal {
    vm: Weak<RheaVm>,
    backend: Arc<dyn CharBackend>,
    arrivals: Arrivals,
    consoles: Vec<Arc<TextConsole>>,
    /// What is shown: the display, or a console by its number from 1.
    shown: usize,
    painter: Painter,
    surface: Surface,
    /// What the terminal has not taken yet.
    pending: VecDeque<u8>,
}

/// Starts it on a terminal.
pub(crate) fn start(
    vm: &Arc<RheaVm>,
    backend: Arc<dyn CharBackend>,
    consoles: Vec<Arc<TextConsole>>,
) -> Result<Curses> {
    let arrivals = Arrivals::default();
    backend.set_receiver(Some(Box::new(arrivals.clone())));
    let mut terminal = Terminal {
        vm: Arc::downgrade(vm),
        backend,
        arrivals,
        consoles,
        shown: 0,
        painter: Painter::default(),
        surface: Surface::default(),
        pending: VecDeque::new(),
    };
    let end = Arc::new(AtomicBool::new(false));
    let ended = end.clone();
    let work = move || {
        while !ended.load(Ordering::Relaxed) && terminal.frame() {
            std::thread::sleep(FRAME);
        }
        terminal.backend.set_receiver(None);
        terminal.backend.write(paint::END.as_bytes());
    };
    let thread = std::thread::Builder::new().name("curses".into()).spawn(work).context("display thread")?;
    Ok(Curses { end, thread: Some(thread) })
}

impl Drop for Curses {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Terminal {
    /// Types and paints; false when the machine is gone.
    fn frame(&mut self) -> bool {
        let Some(vm) = self.vm.upgrade() else { return false };
        self.type_in(&vm);
        self.consoles.iter().for_each(|console| console.deliver());
        // A terminal that is slow sees fewer pictures.
        if self.pending.is_empty() {
            let screen = self.screen(&vm);
            self.pending.extend(self.painter.paint(screen).bytes());
        }
        let taken = self.backend.write(self.pending.make_contiguous());
        self.pending.drain(..taken.min(self.pending.len()));
        true
    }

    fn type_in(&mut self, vm: &RheaVm) {
        let bytes: Vec<u8> = self.arrivals.0.lock().drain(..).collect();
        if bytes.is_empty() {
            return;
        }
        self.backend.accept_input();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (typed, length) = keys::next(rest);
            let (now, later) = rest.split_at(length.max(1));
            rest = later;
            let console = self.shown.checked_sub(1).and_then(|at| self.consoles.get(at));
            match (typed, console) {
                (Typed::Console(number), _) if number <= self.consoles.len() => {
                    self.shown = number;
                    self.painter.forget();
                }
                (Typed::Console(_), _) => {}
                (_, Some(console)) => console.type_in(now),
                (Typed::Keys(names), None) if !names.is_empty() => {
                    let keys: Vec<_> = names.iter().map(|name| KeyId::Name((*name).to_owned())).collect();
                    // A machine without a keyboard hears nothing.
                    let _ = vm.send_keys(&keys, HOLD_MS);
                }
                (Typed::Keys(_), None) => {}
            }
        }
    }

    fn screen(&mut self, vm: &RheaVm) -> TextScreen {
        if let Some(console) = self.shown.checked_sub(1).and_then(|at| self.consoles.get(at)) {
            return console.screen();
        }
        match console::screen(&vm.machine, &mut self.surface) {
            None => paint::notice("There is no display"),
            Some(Some(screen)) => screen,
            Some(None) => {
                let (width, height) = (self.surface.width, self.surface.height);
                paint::notice(&format!("{width} x {height} Graphic mode"))
            }
        }
    }
}
