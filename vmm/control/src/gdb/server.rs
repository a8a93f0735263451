//! The thread of the GDB server: one client after the other.

use super::target::Guest;
use super::{DebugStop, DebugTarget};
use crate::monitor::Control;
use crate::vm::{RunState, VmError};
use device::{CharBackend, CharEvent, CharReceiver};
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Longest packet in bytes.
const PACKET: usize = 16 << 10;
/// Input that may wait for the thread, in bytes.
const INPUT_LIMIT: usize = 256 << 10;

enum Message {
    Input(Vec<u8>),
    Opened,
    Closed,
    /// A vCPU met a debug request.
    Stop(DebugStop),
    /// Something else stopped the machine.
    Paused,
    /// The machine ends.
    Exit,
    End,
}

/// A running GDB server; dropping it ends it.
pub struct GdbServer {
    queue: Sender<Message>,
}

impl Drop for GdbServer {
    fn drop(&mut self) {
        let _ = self.queue.send(Message::End);
    }
}

/// Starts a GDB server on a chardev. Commands after `monitor` go to HMP on `control`.
pub fn serve(
    chardev: Arc<dyn CharBackend>,
    target: Arc<dyn DebugTarget>,
    control: Arc<Control>,
) -> io::Result<GdbServer> {
    let (queue, messages) = channel();
    let stops = queue.clone();
    target.set_stop_listener(Some(Box::new(move |stop| drop(stops.send(Message::Stop(stop))))));
    let events = queue.clone();
    target.vm().events().subscribe(move |event| match event.name {
        "STOP" => events.send(Message::Paused).is_ok(),
        "SHUTDOWN" => events.send(Message::Exit).is_ok(),
        _ => true,
    });
    let waiting = Arc::new(AtomicUsize::new(0));
    let closes = Arc::new(AtomicUsize::new(0));
    let server = Server {
        closes: closes.clone(),
        closes_seen: 0,
        chardev: chardev.clone(),
        target,
        control,
        messages,
        waiting: waiting.clone(),
        input: VecDeque::new(),
    };
    if chardev.is_open() {
        let _ = queue.send(Message::Opened);
    }
    std::thread::Builder::new().name("gdb".into()).spawn(move || server.run())?;
    chardev.set_receiver(Some(Box::new(Feed { queue: queue.clone(), waiting, closes })));
    Ok(GdbServer { queue })
}

struct Feed {
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    /// Clients that have gone, whether or not the thread knows.
    closes: Arc<AtomicUsize>,
}

impl CharReceiver for Feed {
    fn can_receive(&mut self) -> usize {
        INPUT_LIMIT.saturating_sub(self.waiting.load(Ordering::Acquire))
    }

    fn receive(&mut self, data: &[u8]) {
        self.waiting.fetch_add(data.len(), Ordering::AcqRel);
        let _ = self.queue.send(Message::Input(data.to_vec()));
    }

    fn event(&mut self, event: CharEvent) {
        let _ = match event {
            CharEvent::Opened => self.queue.send(Message::Opened),
            CharEvent::Closed => {
                self.closes.fetch_add(1, Ordering::AcqRel);
                self.queue.send(Message::Closed)
            }
            _ => Ok(()),
        };
    }
}

/// Where answers go.
struct Answers {
    chardev: Arc<dyn CharBackend>,
    buffer: Vec<u8>,
    closes: Arc<AtomicUsize>,
    /// `closes` while the client of these answers is there: the next one must not get them.
    visit: usize,
}

impl Connection for Answers {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.buffer.push(byte);
        Ok(())
    }

    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut rest = &self.buffer[..];
        while !rest.is_empty() && self.closes.load(Ordering::Acquire) == self.visit {
            let n = self.chardev.write(rest);
            rest = &rest[n..];
            if n == 0 {
                if !self.chardev.is_open() {
                    break;
                }
                // A debugger that does not read: packets are small and sockets are not, so this is rare.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.buffer.clear();
        Ok(())
    }
}

type Machine<'a> = GdbStubStateMachine<'a, Guest, Answers>;
type StubError = GdbStubError<VmError, io::Error>;

/// How a client's visit ended.
enum Left {
    /// It detached, or its connection broke.
    Gone,
    /// It wants the machine to end.
    Kill,
    /// The server ends.
    End,
}

struct Server {
    chardev: Arc<dyn CharBackend>,
    target: Arc<dyn DebugTarget>,
    control: Arc<Control>,
    messages: Receiver<Message>,
    waiting: Arc<AtomicUsize>,
    input: VecDeque<u8>,
    closes: Arc<AtomicUsize>,
    /// Of `closes`, those that have been dealt with.
    closes_seen: usize,
}

impl Server {
    fn run(mut self) {
        loop {
            match self.messages.recv() {
                Ok(Message::Opened) => {}
                // Whatever is not for a client has nobody to go to.
                Ok(Message::Input(data)) => {
                    self.consumed(data.len());
                    continue;
                }
                Ok(Message::Closed) => {
                    self.closes_seen += 1;
                    continue;
                }
                Ok(Message::End) | Err(_) => break,
                Ok(_) => continue,
            }
            match self.visit() {
                Left::Gone => {}
                Left::Kill => self.target.vm().quit(),
                Left::End => break,
            }
        }
        self.target.set_stop_listener(None);
    }

    fn consumed(&self, n: usize) {
        if self.waiting.fetch_sub(n, Ordering::AcqRel) >= INPUT_LIMIT {
            self.chardev.accept_input();
        }
    }

    fn visit(&mut self) -> Left {
        self.input.clear();
        if let Err(e) = self.target.vm().stop() {
            tracing::warn!(error = %e, "the guest cannot be stopped for the debugger");
        }
        let mut guest = match Guest::new(self.target.clone(), self.control.clone()) {
            Ok(guest) => guest,
            Err(e) => {
                tracing::warn!(error = %e, "no debugging");
                return Left::Gone;
            }
        };
        let answers = Answers {
            chardev: self.chardev.clone(),
            buffer: Vec::new(),
            closes: self.closes.clone(),
            visit: self.closes_seen,
        };
        let result = self.converse(answers, &mut guest);
        match result {
            Ok(left @ (Left::Kill | Left::End)) => return left,
            Ok(Left::Gone) => {}
            Err(e) => tracing::warn!(error = %e, "debugging ends"),
        }
        guest.detach();
        Left::Gone
    }

    fn converse(&mut self, answers: Answers, guest: &mut Guest) -> Result<Left, StubError> {
        let Ok(stub) = GdbStub::builder(answers).packet_buffer_size(PACKET).build() else {
            return Ok(Left::Gone);
        };
        let mut machine: Machine<'_> = stub.run_state_machine(guest)?;
        loop {
            machine = match machine {
                GdbStubStateMachine::Idle(idle) => match self.next() {
                    Next::Byte(b) => idle.incoming_data(guest, b)?,
                    Next::Left(left) => return Ok(left),
                    // The client knows already that the guest stands.
                    Next::Paused => idle.into(),
                    Next::Stop(stop) => {
                        guest.postpone(stop);
                        idle.into()
                    }
                    Next::Exit => return Ok(Left::Gone),
                },
                GdbStubStateMachine::Running(running) => {
                    match guest.due().map_or_else(|| self.next(), Next::Stop) {
                        Next::Byte(b) => running.incoming_data(guest, b)?,
                        Next::Left(left) => return Ok(left),
                        // From before the guest was resumed.
                        Next::Stop(stop) if stop.run != self.target.run_number() => {
                            guest.postpone(stop);
                            running.into()
                        }
                        Next::Stop(stop) => {
                            let reason = guest.reason(stop);
                            running.report_stop(guest, reason)?
                        }
                        // The machine runs on, or a vCPU that met something is heard of next.
                        Next::Paused
                            if matches!(self.target.vm().status(), RunState::Running | RunState::Debug) =>
                        {
                            running.into()
                        }
                        Next::Paused => running.report_stop(guest, Guest::interrupted())?,
                        Next::Exit => running.report_stop(guest, MultiThreadStopReason::Exited(0))?,
                    }
                }
                GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                    if let Err(e) = self.target.vm().stop() {
                        tracing::warn!(error = %e, "the guest cannot be interrupted");
                    }
                    interrupt.interrupt_handled(guest, Some(Guest::interrupted()))?
                }
                GdbStubStateMachine::Disconnected(gone) => {
                    return Ok(match gone.get_reason() {
                        DisconnectReason::Kill => Left::Kill,
                        DisconnectReason::Disconnect
                        | DisconnectReason::TargetExited(_)
                        | DisconnectReason::TargetTerminated(_) => Left::Gone,
                    });
                }
            };
        }
    }

    fn next(&mut self) -> Next {
        if let Some(b) = self.input.pop_front() {
            return Next::Byte(b);
        }
        loop {
            match self.messages.recv() {
                Ok(Message::Input(data)) => {
                    self.consumed(data.len());
                    self.input.extend(data);
                    if let Some(b) = self.input.pop_front() {
                        return Next::Byte(b);
                    }
                }
                Ok(Message::Closed) => {
                    self.closes_seen += 1;
                    return Next::Left(Left::Gone);
                }
                Ok(Message::Stop(stop)) => return Next::Stop(stop),
                Ok(Message::Paused) => return Next::Paused,
                Ok(Message::Exit) => return Next::Exit,
                Ok(Message::Opened) => {}
                Ok(Message::End) | Err(_) => return Next::Left(Left::End),
            }
        }
    }
}

enum Next {
    Byte(u8),
    Stop(DebugStop),
    Paused,
    Exit,
    Left(Left),
}
