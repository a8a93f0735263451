//! The user's side of a machine: its keyboard, mouse and display.

use std::fs::File;
use std::io::BufWriter;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use control::vm::{InputEvent, KeyId, VmError};
use device::{Device, DeviceCell, Surface, TextScreen};
use display::{PictureFormat, write_picture};
use input::{Button, I8042, Key, Motion};
use machine::Machine;
use parking_lot::Mutex;

type Answer<T> = Result<T, VmError>;

/// Combinations of keys that wait for their turn.
const WAITING: usize = 1024;
/// Longest that keys stay down.
const MAX_HOLD: Duration = Duration::from_secs(60);
/// Between two combinations.
const PAUSE: Duration = Duration::from_millis(20);

fn failed<T>(text: impl Into<String>) -> Answer<T> {
    Err(VmError::Failed(text.into()))
}

/// Calls `f` on the first device that it takes.
fn first<R>(machine: &Machine, mut f: impl FnMut(&mut dyn Device) -> Option<R>) -> Option<R> {
    machine.devices().iter().find_map(|(_, cell): &(String, Arc<DeviceCell>)| cell.with(&mut f))
}

fn controller<R>(machine: &Machine, mut f: impl FnMut(&mut I8042) -> R) -> Option<R> {
    first(machine, |device| device.as_any()?.downcast_mut().map(&mut f))
}

fn key(id: &KeyId) -> Answer<&'static Key> {
    let key = match id {
        KeyId::Name(name) => Key::named(name),
        KeyId::Number(number) => Key::numbered(*number),
    };
    key.ok_or_else(|| VmError::Failed(format!("there is no key '{id}'")))
}

/// Keys pressed together, for so long.
type Chord = (Vec<&'static Key>, Duration);

/// Presses combinations of keys one after the other, on a thread that starts with the first.
pub(crate) struct Typist {
    machine: Weak<Machine>,
    queue: Mutex<Option<SyncSender<Chord>>>,
}

impl Typist {
    pub(crate) fn new(machine: &Arc<Machine>) -> Self {
        Self { machine: Arc::downgrade(machine), queue: Mutex::default() }
    }

    /// See [`control::vm::Vm::send_keys`].
    pub(crate) fn press(&self, keys: &[KeyId], hold_ms: u64) -> Answer<()> {
        let keys = keys.iter().map(key).collect::<Answer<Vec<_>>>()?;
        let there = self.machine.upgrade().and_then(|m| controller(&m, |_| ()));
        if there.is_none() {
            return failed("There is no keyboard");
        }
        let mut queue = self.queue.lock();
        let sender = match &*queue {
            Some(sender) => sender,
            None => {
                let (sender, receiver) = sync_channel(WAITING);
                let machine = self.machine.clone();
                let thread = std::thread::Builder::new().name("typist".into());
                thread.spawn(move || work(&machine, &receiver)).or_else(|e| failed(e.to_string()))?;
                queue.insert(sender)
            }
        };
        match sender.try_send((keys, Duration::from_millis(hold_ms).min(MAX_HOLD))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => failed("too many keys are waiting to be pressed"),
            Err(TrySendError::Disconnected(_)) => failed("the machine is going away"),
        }
    }
}

fn work(machine: &Weak<Machine>, queue: &Receiver<Chord>) {
    let press = |key: &Key, down: bool| machine.upgrade().and_then(|m| controller(&m, |c| c.key(key, down)));
    while let Ok((keys, hold)) = queue.recv() {
        if keys.iter().any(|key| press(key, true).is_none()) {
            return;
        }
        std::thread::sleep(hold);
        keys.iter().rev().for_each(|key| {
            press(key, false);
        });
        std::thread::sleep(PAUSE);
    }
}

fn motion(event: &InputEvent) -> Answer<Motion> {
    let still = Motion::default();
    match event {
        InputEvent::Key { .. } => Ok(still),
        InputEvent::Move { dx, dy } => Ok(Motion { dx: *dx, dy: *dy, ..still }),
        InputEvent::Button { button, down } => match button.as_str() {
            "wheel-up" => Ok(Motion { wheel: if *down { -1 } else { 0 }, ..still }),
            "wheel-down" => Ok(Motion { wheel: i32::from(*down), ..still }),
            name => match Button::NAMES.iter().find(|(n, _)| *n == name) {
                Some((_, button)) => Ok(Motion { button: Some((*button, *down)), ..still }),
                None => failed(format!("there is no mouse button '{name}'")),
            },
        },
    }
}

/// See [`control::vm::Vm::input`].
pub(crate) fn input(machine: &Machine, events: &[InputEvent]) -> Answer<()> {
    // Everything is understood before anything happens.
    let keys = events.iter().map(|event| match event {
        InputEvent::Key { key: id, down } => key(id).map(|key| Some((key, *down))),
        _ => Ok(None),
    });
    let keys = keys.collect::<Answer<Vec<_>>>()?;
    let motions = events.iter().map(motion).collect::<Answer<Vec<_>>>()?;
    let done = controller(machine, |c| {
        for (key, motion) in keys.iter().zip(&motions) {
            match key {
                Some((key, down)) => c.key(key, *down),
                None => c.motion(motion),
            };
        }
    });
    done.ok_or_else(|| VmError::Failed("There is no keyboard or mouse".into()))
}

/// See [`control::vm::Vm::screendump`].
pub(crate) fn screendump(machine: &Machine, file: &str, format: &str) -> Answer<()> {
    let Some(format) = PictureFormat::named(format) else {
        return failed(format!("'format' expects ppm or png, got '{format}'"));
    };
    let mut surface = Surface::default();
    let shown = first(machine, |device| device.display().map(|d| d.refresh(&mut surface, true)));
    if shown.is_none() {
        return failed("There is no console to take a screendump from");
    }
    let to = File::create(file).or_else(|e| failed(format!("cannot write '{file}': {e}")))?;
    write_picture(&surface, format, BufWriter::new(to))
        .or_else(|e| failed(format!("cannot write '{file}': {e}")))
}

/// What the first display shows: its text; nothing but a picture, brought up to date, if it is in a graphic mode. `None` without a
/// display.
pub(crate) fn screen(machine: &Machine, surface: &mut Surface) -> Option<Option<TextScreen>> {
    first(machine, |device| {
        let display = device.display()?;
        let text = display.text();
        if text.is_none() {
            display.refresh(surface, false);
        }
        Some(text)
    })
}

/// The text on the display.
pub(crate) fn text(machine: &Machine) -> Answer<String> {
    match first(machine, |device| device.display().map(|d| d.text())) {
        None => failed("There is no display"),
        Some(None) => failed("The display shows no text but a picture"),
        Some(Some(screen)) => Ok(screen.lines().iter().map(|line| format!("{line}\n")).collect()),
    }
}
