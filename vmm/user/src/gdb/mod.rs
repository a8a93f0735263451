//! The debugger of a program (`-g`): GDB's remote protocol on a TCP port of this host, or on a Unix socket.
//!
//! A thread of Rhea's own speaks the protocol; it is no thread of the program and takes none of its signals. Registers are
//! described by `control::gdb`, as for machines. A child of the program is not debugged.

mod files;
mod points;
mod resume;
mod target;
mod world;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError};

use self::target::Guest;
pub(crate) use self::world::{Debugger, Stop};
use crate::host;
use crate::process::Process;
use crate::signal::OPEN;

/// Longest packet in bytes.
const PACKET: usize = 16 << 10;

enum Message {
    Input(Vec<u8>),
    Closed,
    Stop(i32, Stop),
}

/// Where a debugger connects.
enum Place {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A place where a debugger may connect.
struct Port(Place);

impl Port {
    /// By a port's number, or a socket's path.
    fn open(text: &str) -> Result<Self, String> {
        match text.parse::<u16>() {
            Ok(port) => TcpListener::bind(("127.0.0.1", port)).map(|l| Self(Place::Tcp(l))),
            Err(_) if text.contains('/') => {
                UnixListener::bind(text).map(|l| Self(Place::Unix(l, text.into())))
            }
            Err(_) => return Err(format!("'{text}' is neither a port nor the path of a socket")),
        }
        .map_err(|e| format!("{text}: {e}"))
    }

    /// Waits for the client: its two halves, above the descriptors a guest uses.
    fn accept(&self) -> io::Result<(File, File)> {
        let fd: OwnedFd = match &self.0 {
            Place::Tcp(l) => {
                let (s, _) = l.accept()?;
                s.set_nodelay(true)?;
                s.into()
            }
            Place::Unix(l, path) => {
                let (s, _) = l.accept()?;
                // There is one client.
                let _ = std::fs::remove_file(path);
                s.into()
            }
        };
        let high = || host::high(fd.as_raw_fd()).map_err(|e| io::Error::from_raw_os_error(e.0));
        Ok((high()?, high()?))
    }
}

/// Waits for a debugger, which finds the program before its first instruction. What the process is to know of it; the
/// conversation begins with [`Pending::begin`].
pub(crate) fn wait(text: &str) -> Result<(Arc<Debugger>, Pending), String> {
    let port = Port::open(text).map_err(|e| format!("-g: {e}"))?;
    let (input, output) = port.accept().map_err(|e| format!("-g: {e}"))?;
    let (queue, messages) = channel();
    let debugger = Arc::new(Debugger::new(queue.clone()));
    Ok((debugger.clone(), Pending { debugger, input, output, queue, messages }))
}

/// A client that waits for the program.
pub(crate) struct Pending {
    debugger: Arc<Debugger>,
    input: File,
    output: File,
    queue: Sender<Message>,
    messages: Receiver<Message>,
}

impl Pending {
    /// Begins to talk to the client. The calling thread becomes the program's first.
    pub(crate) fn begin(self, process: Arc<Process>) -> io::Result<()> {
        let Self { debugger, mut input, output, queue, messages } = self;
        let old = host::get_mask();
        host::set_mask(!OPEN);
        let reader = std::thread::Builder::new().name("gdb-in".into()).spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = input.read(&mut buf) {
                if queue.send(Message::Input(buf[..n].to_vec())).is_err() {
                    return;
                }
            }
            let _ = queue.send(Message::Closed);
        });
        let talker = std::thread::Builder::new().name("gdb".into()).spawn(move || {
            let killed = talk(process, &debugger, output, &messages);
            if killed {
                host::exit_group(128 + libc::SIGKILL);
            }
            debugger.end();
        });
        host::set_mask(old);
        reader.and(talker).map(|_| ())
    }
}

/// Where answers go.
struct Answers {
    stream: File,
    buffer: Vec<u8>,
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
        let r = self.stream.write_all(&self.buffer).and_then(|()| self.stream.flush());
        self.buffer.clear();
        r
    }
}

/// True if the client wants the program to end.
fn talk(process: Arc<Process>, debugger: &Arc<Debugger>, stream: File, messages: &Receiver<Message>) -> bool {
    debugger.first_stands();
    let Some(mut guest) = Guest::new(process, debugger.clone()) else { return false };
    converse(Answers { stream, buffer: Vec::new() }, &mut guest, messages).unwrap_or(false)
}

type StubError = GdbStubError<&'static str, io::Error>;

fn converse(answers: Answers, guest: &mut Guest, messages: &Receiver<Message>) -> Result<bool, StubError> {
    let Ok(stub) = GdbStub::builder(answers).packet_buffer_size(PACKET).build() else { return Ok(false) };
    let mut machine = stub.run_state_machine(guest)?;
    let mut input = std::collections::VecDeque::new();
    loop {
        let next = match input.pop_front() {
            Some(b) => Next::Byte(b),
            None => match &machine {
                GdbStubStateMachine::CtrlCInterrupt(_) | GdbStubStateMachine::Disconnected(_) => {
                    Next::Nothing
                }
                _ => match messages.recv() {
                    Ok(Message::Input(data)) => {
                        input.extend(data);
                        continue;
                    }
                    Ok(Message::Stop(tid, stop)) => Next::Stop(tid, stop),
                    Ok(Message::Closed) | Err(_) => return Ok(false),
                },
            },
        };
        machine = match (machine, next) {
            (GdbStubStateMachine::Idle(m), Next::Byte(b)) => m.incoming_data(guest, b)?,
            (GdbStubStateMachine::Idle(m), _) => m.into(),
            (GdbStubStateMachine::Running(m), Next::Byte(b)) => m.incoming_data(guest, b)?,
            (GdbStubStateMachine::Running(m), Next::Stop(tid, stop)) => {
                if !matches!(stop, Stop::Exited(_) | Stop::Killed(_)) {
                    guest.debugger.stop_all();
                }
                let reason = guest.reason(tid, stop);
                m.report_stop(guest, reason)?
            }
            (GdbStubStateMachine::Running(m), Next::Nothing) => m.into(),
            (GdbStubStateMachine::CtrlCInterrupt(m), _) => {
                guest.debugger.stop_all();
                // A thread may have stopped by itself just before.
                let mut found = (guest.any_thread(), Stop::Asked);
                while let Ok(message) = messages.try_recv() {
                    match message {
                        Message::Stop(tid, stop) => found = (tid, stop),
                        Message::Input(data) => input.extend(data),
                        Message::Closed => return Ok(false),
                    }
                }
                let reason = guest.reason(found.0, found.1);
                m.interrupt_handled(guest, Some(reason))?
            }
            (GdbStubStateMachine::Disconnected(m), _) => {
                return Ok(matches!(m.get_reason(), DisconnectReason::Kill));
            }
        };
    }
}

enum Next {
    Byte(u8),
    Stop(i32, Stop),
    Nothing,
}
