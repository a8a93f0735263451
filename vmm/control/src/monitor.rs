//! What monitors share: the machine they control, and the conversation that a chardev carries.
//!
//! Each monitor has a thread of its own, fed through a queue by the chardev and the event bus, so a command
//! that takes long (stopping the vCPUs, saving a snapshot) holds up nobody else.

use crate::handed::Handed;
use crate::qmp::Jobs;
use crate::vm::{Event, Vm};
use device::{CharBackend, CharEvent, CharReceiver};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Input that may wait for the monitor's thread, in bytes.
const INPUT_LIMIT: usize = 64 << 10;
/// Events that may wait while a client does not read; later ones are dropped.
const EVENT_LIMIT: usize = 4096;

/// One machine under control; all its monitors share this.
pub struct Control {
    /// The machine.
    pub vm: Arc<dyn Vm>,
    /// Its jobs.
    pub jobs: Jobs,
    /// Files that clients handed over.
    pub(crate) handed: Handed,
}

impl Control {
    /// Control of a machine.
    pub fn new(vm: Arc<dyn Vm>) -> Arc<Self> {
        Arc::new(Self { vm, jobs: Jobs::default(), handed: Handed::default() })
    }
}

/// A conversation with one client: bytes in, bytes out.
pub trait Session: Send {
    /// A client has come.
    fn opened(&mut self, out: &mut Vec<u8>);
    /// It sent something.
    fn input(&mut self, data: &[u8], out: &mut Vec<u8>);
    /// Something happened to the machine.
    fn event(&mut self, event: &Event, out: &mut Vec<u8>);
    /// The client asked to end the process. The caller sends what is in `out` first, then calls [`Vm::quit`].
    fn wants_quit(&self) -> bool;
}

enum Message {
    Input(Vec<u8>),
    Char(CharEvent),
    Event(Box<Event>),
    End,
}

/// A running monitor; dropping it ends the conversation, after what was announced before has been sent.
pub struct Monitor {
    queue: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.queue.send(Message::End);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// Starts a monitor on a chardev.
pub fn serve(
    chardev: Arc<dyn CharBackend>,
    session: Box<dyn Session>,
    control: &Arc<Control>,
) -> io::Result<Monitor> {
    let (queue, messages) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let events = Arc::new(AtomicUsize::new(0));
    let (event_queue, event_count) = (queue.clone(), events.clone());
    control.vm.events().subscribe(move |event| {
        if event_count.load(Ordering::Relaxed) >= EVENT_LIMIT {
            return true;
        }
        event_count.fetch_add(1, Ordering::Relaxed);
        event_queue.send(Message::Event(Box::new(event.clone()))).is_ok()
    });
    let gate = Arc::new(Gate::default());
    let server = Server {
        gate: gate.clone(),
        closes_seen: 0,
        chardev: chardev.clone(),
        session,
        control: control.clone(),
        messages,
        waiting: waiting.clone(),
        events,
        later: VecDeque::new(),
    };
    let thread = std::thread::Builder::new().name("monitor".into()).spawn(move || server.run())?;
    let feed = Feed { queue: queue.clone(), waiting, gate: gate.clone() };
    chardev.set_receiver(Some(Box::new(feed)));
    // A client that was there already must be greeted once, and before anything it has sent is read.
    if chardev.is_open() && !gate.greeted.swap(true, Ordering::AcqRel) {
        let _ = queue.send(Message::Char(CharEvent::Opened));
    }
    gate.started.store(true, Ordering::Release);
    chardev.accept_input();
    Ok(Monitor { queue, thread: Some(thread) })
}

#[derive(Default)]
struct Gate {
    started: AtomicBool,
    greeted: AtomicBool,
    /// Clients that have gone, whether or not the thread knows.
    closes: AtomicUsize,
}

/// The chardev's side: puts everything into the queue.
struct Feed {
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

impl CharReceiver for Feed {
    fn can_receive(&mut self) -> usize {
        if !self.gate.started.load(Ordering::Acquire) {
            return 0;
        }
        INPUT_LIMIT.saturating_sub(self.waiting.load(Ordering::Acquire))
    }

    fn receive(&mut self, data: &[u8]) {
        self.waiting.fetch_add(data.len(), Ordering::AcqRel);
        let _ = self.queue.send(Message::Input(data.to_vec()));
    }

    fn event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Opened if self.gate.greeted.swap(true, Ordering::AcqRel) => return,
            CharEvent::Closed => {
                self.gate.closes.fetch_add(1, Ordering::AcqRel);
                self.gate.greeted.store(false, Ordering::Release);
            }
            _ => {}
        }
        let _ = self.queue.send(Message::Char(event));
    }
}

/// The monitor's thread.
struct Server {
    chardev: Arc<dyn CharBackend>,
    session: Box<dyn Session>,
    control: Arc<Control>,
    messages: Receiver<Message>,
    waiting: Arc<AtomicUsize>,
    events: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    /// Of the closes, those that have been dealt with.
    closes_seen: usize,
    /// Messages that came while output was waiting for room.
    later: VecDeque<Message>,
}

impl Server {
    fn run(mut self) {
        let mut quitting = false;
        while let Some(message) = self.later.pop_front().or_else(|| self.messages.recv().ok()) {
            let mut out = Vec::new();
            match message {
                Message::End => return,
                Message::Char(CharEvent::Opened) => self.session.opened(&mut out),
                Message::Char(CharEvent::Closed) => self.closes_seen += 1,
                Message::Char(_) => {}
                Message::Event(event) => self.tell(&event, &mut out),
                Message::Input(data) => {
                    self.control.handed.receive(self.chardev.take_files());
                    // A command at a time: what one announces comes before its own answer, not before that of another.
                    for piece in data.split_inclusive(|byte| matches!(byte, b'}' | b'\n')) {
                        let mut answer = Vec::new();
                        self.session.input(piece, &mut answer);
                        self.announce(&mut out);
                        out.append(&mut answer);
                    }
                    let before = self.waiting.fetch_sub(data.len(), Ordering::AcqRel);
                    if before >= INPUT_LIMIT {
                        self.chardev.accept_input();
                    }
                }
            }
            if !self.send(&out) {
                return;
            }
            if !quitting && self.session.wants_quit() {
                // The conversation goes on to its end: the client will want to see the SHUTDOWN event.
                quitting = true;
                self.control.vm.quit();
            }
        }
    }

    /// Tells of what has happened so far, before anything else that waits: clients of QEMU find what a command has done at once
    /// ahead of its answer.
    fn announce(&mut self, out: &mut Vec<u8>) {
        self.later.extend(self.messages.try_iter());
        for message in std::mem::take(&mut self.later) {
            match message {
                Message::Event(event) => self.tell(&event, out),
                other => self.later.push_back(other),
            }
        }
    }

    fn tell(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.session.event(event, out);
    }

    /// Writes all of it, waiting for room; false when the monitor ends. What belongs to a client that has gone
    /// must not reach the next one.
    fn send(&mut self, mut out: &[u8]) -> bool {
        while !out.is_empty() && self.gate.closes.load(Ordering::Acquire) == self.closes_seen {
            let n = self.chardev.write(out);
            out = &out[n..];
            if out.is_empty() {
                break;
            }
            loop {
                match self.messages.recv() {
                    Ok(Message::Char(CharEvent::Writable)) => break,
                    Ok(Message::Char(CharEvent::Closed)) => {
                        self.closes_seen += 1;
                        return true;
                    }
                    Ok(Message::End) | Err(_) => return false,
                    Ok(other) => self.later.push_back(other),
                }
            }
        }
        true
    }
}
