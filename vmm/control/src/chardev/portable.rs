//! Back ends on hosts without poll(2): standard input and output, files and TCP, a thread for each input.

use super::ChardevError;
use crate::config::{ChardevKind, FdInSet, SocketAddress};
use device::{CharBackend, CharEvent, CharReceiver};
use parking_lot::{Condvar, Mutex};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Nothing is shared between back ends here.
pub(super) struct Host;

type Input = Box<dyn Read + Send>;
type Output = Box<dyn Write + Send>;

impl Host {
    pub(super) fn new(sets: &[FdInSet]) -> Result<Self, ChardevError> {
        if sets.is_empty() { Ok(Self) } else { Err(ChardevError::Unsupported("-add-fd")) }
    }

    pub(super) fn open(
        &mut self,
        kind: &ChardevKind,
    ) -> Result<(Arc<dyn CharBackend>, String), ChardevError> {
        let (source, output, name): (Source, Option<Output>, String) = match kind {
            ChardevKind::Stdio { .. } => {
                (Source::Fixed(Box::new(io::stdin())), Some(Box::new(io::stdout())), "stdio".into())
            }
            ChardevKind::File { path, append, input_path } => {
                let failed = |path: &str| ChardevError::host(format!("cannot open '{path}'"));
                let mut options = OpenOptions::new();
                options.create(true).write(true).append(*append).truncate(!append);
                let output = options.open(path).map_err(failed(path))?;
                let input: Input = match input_path {
                    Some(p) => Box::new(File::open(p).map_err(failed(p))?),
                    None => Box::new(io::empty()),
                };
                (Source::Fixed(input), Some(Box::new(output)), format!("file:{path}"))
            }
            ChardevKind::Socket { addr, server, wait, telnet: false, nodelay, reconnect_ms: 0 } => {
                let SocketAddress::Inet { host, port } = addr else {
                    return Err(ChardevError::Unsupported("a socket that is not TCP"));
                };
                let host = if host.is_empty() { "localhost" } else { host };
                let failed = || ChardevError::host(format!("cannot open {addr}"));
                if *server {
                    let listener = TcpListener::bind((host, *port)).map_err(failed())?;
                    let first = if *wait { Some(listener.accept().map_err(failed())?.0) } else { None };
                    (Source::Server { listener, first, nodelay: *nodelay }, None, format!("{addr},server=on"))
                } else {
                    let stream = TcpStream::connect((host, *port)).map_err(failed())?;
                    let output = stream.try_clone().map_err(failed())?;
                    (Source::Fixed(Box::new(stream)), Some(Box::new(output)), addr.to_string())
                }
            }
            _ => return Err(ChardevError::Unsupported("this back end")),
        };
        let shared = Arc::new(Shared {
            output: Mutex::new(output),
            receiver: Mutex::default(),
            nudge: (Mutex::new(false), Condvar::new()),
            stop: AtomicBool::new(false),
        });
        let thread = shared.clone();
        std::thread::Builder::new()
            .name("chardev".into())
            .spawn(move || source.run(&thread))
            .map_err(ChardevError::host("cannot start the chardev thread"))?;
        Ok((Arc::new(Threaded { shared }), name))
    }

    /// Nothing else holds a back end here.
    pub(super) fn remove(&mut self, _: &Arc<dyn CharBackend>) {}

    pub(super) fn start(&mut self) -> Result<(), ChardevError> {
        Ok(())
    }
}

/// Where input comes from.
enum Source {
    Fixed(Input),
    Server { listener: TcpListener, first: Option<TcpStream>, nodelay: bool },
}

struct Shared {
    output: Mutex<Option<Output>>,
    receiver: Mutex<Option<Box<dyn CharReceiver>>>,
    nudge: (Mutex<bool>, Condvar),
    stop: AtomicBool,
}

impl Source {
    fn run(self, shared: &Shared) {
        match self {
            Self::Fixed(mut input) => shared.pump(&mut *input),
            Self::Server { listener, mut first, nodelay } => {
                while !shared.stop.load(Ordering::Acquire) {
                    let stream = match first.take() {
                        Some(s) => s,
                        None => match listener.accept() {
                            Ok((s, _)) => s,
                            Err(_) => return,
                        },
                    };
                    let _ = stream.set_nodelay(nodelay);
                    let (Ok(output), mut input) = (stream.try_clone(), stream) else { continue };
                    *shared.output.lock() = Some(Box::new(output));
                    shared.event(CharEvent::Opened);
                    shared.pump(&mut input);
                    *shared.output.lock() = None;
                    shared.event(CharEvent::Closed);
                }
            }
        }
    }
}

impl Shared {
    fn event(&self, event: CharEvent) {
        if let Some(receiver) = self.receiver.lock().as_mut() {
            receiver.event(event);
        }
    }

    fn pump(&self, input: &mut dyn Read) {
        let mut buffer = [0; 4096];
        while let Ok(n) = input.read(&mut buffer) {
            if n == 0 || self.stop.load(Ordering::Acquire) {
                return;
            }
            let mut rest = &buffer[..n];
            while !rest.is_empty() && !self.stop.load(Ordering::Acquire) {
                *self.nudge.0.lock() = false;
                let taken = match self.receiver.lock().as_mut() {
                    None => 0,
                    Some(receiver) => {
                        let n = receiver.can_receive().min(rest.len());
                        if n > 0 {
                            receiver.receive(&rest[..n]);
                        }
                        n
                    }
                };
                rest = &rest[taken..];
                if taken == 0 {
                    let mut nudged = self.nudge.0.lock();
                    while !*nudged {
                        self.nudge.1.wait(&mut nudged);
                    }
                }
            }
        }
    }
}

struct Threaded {
    shared: Arc<Shared>,
}

impl CharBackend for Threaded {
    fn write(&self, data: &[u8]) -> usize {
        // Blocks when the host's side is full: the best there is without poll(2). Errors lose the output.
        if let Some(output) = self.shared.output.lock().as_mut() {
            let _ = output.write_all(data).and_then(|()| output.flush());
        }
        data.len()
    }

    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>) {
        *self.shared.receiver.lock() = receiver;
        self.accept_input();
    }

    fn accept_input(&self) {
        *self.shared.nudge.0.lock() = true;
        self.shared.nudge.1.notify_all();
    }

    fn is_open(&self) -> bool {
        self.shared.output.lock().is_some()
    }
}

impl Drop for Threaded {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.accept_input();
    }
}

/// There is no terminal mode to restore.
pub fn restore_terminal() {}
