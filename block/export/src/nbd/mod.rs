//! The NBD server (the NBD project's `doc/proto.md`): fixed newstyle, TLS, structured replies, block status.

mod handshake;
mod serve;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use block_nbd::{Address, Authz, Listener, Socket, TlsServer, channel};
use parking_lot::{Condvar, Mutex};

use crate::Export;

/// How a server is to work.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Clients have to use TLS, with these credentials.
    pub tls: Option<TlsServer>,
    /// Who may, by the name in their certificate.
    pub authz: Option<Authz>,
    /// Clients at a time; 0 is no limit.
    pub max_connections: usize,
    /// Seconds that a client has to choose an export; 0 is no limit.
    pub handshake_limit: u64,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions { tls: None, authz: None, max_connections: 0, handshake_limit: 10 }
    }
}

/// One client.
struct Client {
    socket: Socket,
    /// The export it has chosen.
    export: Option<String>,
}

#[derive(Default)]
struct State {
    exports: BTreeMap<String, Arc<Export>>,
    clients: BTreeMap<u64, Client>,
    next: u64,
    /// Clients that have come to choose an export, in all.
    served: u64,
    closing: bool,
}

/// A server of any number of exports.
pub struct NbdServer {
    options: ServerOptions,
    state: Mutex<State>,
    changed: Condvar,
    /// Where it listens.
    address: Mutex<Option<Address>>,
    /// The thread that takes clients.
    acceptor: Mutex<Option<JoinHandle<()>>>,
    stopped: AtomicBool,
}

impl std::fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NbdServer({:?})", self.address.lock())
    }
}

impl NbdServer {
    /// A server without exports that does not listen yet.
    pub fn new(options: ServerOptions) -> Arc<Self> {
        Arc::new(NbdServer {
            options,
            state: Mutex::default(),
            changed: Condvar::new(),
            address: Mutex::new(None),
            acceptor: Mutex::new(None),
            stopped: AtomicBool::new(false),
        })
    }

    /// Offers an export; false if there is one of its name.
    pub fn add(&self, export: Export) -> bool {
        let mut state = self.state.lock();
        let free = !state.exports.contains_key(&export.name);
        if free {
            state.exports.insert(export.name.clone(), Arc::new(export));
        }
        free
    }

    /// Takes an export away. Its clients keep it from that (`Err` has their number) unless `force` ends them.
    pub fn remove(&self, name: &str, force: bool) -> Option<Result<(), usize>> {
        let mut state = self.state.lock();
        state.exports.get(name)?;
        let of_it = |c: &Client| c.export.as_deref() == Some(name);
        let users = state.clients.values().filter(|c| of_it(c)).count();
        if users != 0 && !force {
            return Some(Err(users));
        }
        state.exports.remove(name);
        state.clients.values().filter(|c| of_it(c)).for_each(|c| c.socket.shutdown());
        while state.clients.values().any(of_it) {
            self.changed.wait(&mut state);
        }
        Some(Ok(()))
    }

    /// Names of all exports.
    pub fn names(&self) -> Vec<String> {
        self.state.lock().exports.keys().cloned().collect()
    }

    /// Begins to take clients; returns at once.
    pub fn listen(self: &Arc<Self>, listener: Listener) -> io::Result<()> {
        *self.address.lock() = Some(listener.address()?);
        let server = self.clone();
        let thread =
            std::thread::Builder::new().name("nbd-accept".into()).spawn(move || server.accept(&listener))?;
        *self.acceptor.lock() = Some(thread);
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> Option<Address> {
        self.address.lock().clone()
    }

    fn accept(self: &Arc<Self>, listener: &Listener) {
        loop {
            let socket = listener.accept();
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            match socket.and_then(|s| self.begin(s)) {
                Ok(()) => {}
                Err(e) => {
                    tracing::debug!("nbd: a client could not be taken: {e}");
                    // Out of descriptors or the like: not again at once.
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// Takes a client whose socket is connected.
    pub fn begin(self: &Arc<Self>, socket: Socket) -> io::Result<()> {
        let copy = socket.try_clone()?;
        let id = {
            let mut state = self.state.lock();
            while self.options.max_connections != 0
                && state.clients.len() >= self.options.max_connections
                && !state.closing
            {
                // The next ones wait in the listener's queue.
                self.changed.wait(&mut state);
            }
            if state.closing {
                return Ok(());
            }
            state.next += 1;
            let id = state.next;
            state.clients.insert(id, Client { socket: copy, export: None });
            id
        };
        let server = self.clone();
        let spawned = std::thread::Builder::new().name("nbd-client".into()).spawn(move || {
            // Whatever happens in there, the client is gone afterwards.
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.client(id, socket)));
            if let Ok(Err(e)) = caught {
                tracing::debug!("nbd: client {id}: {e}");
            }
            server.gone(id);
        });
        if let Err(e) = spawned {
            self.gone(id);
            return Err(e);
        }
        Ok(())
    }

    fn gone(&self, id: u64) {
        self.state.lock().clients.remove(&id);
        self.changed.notify_all();
    }

    fn client(self: &Arc<Self>, id: u64, socket: Socket) -> io::Result<()> {
        let (reader, writer) = channel(socket)?;
        let limit = match self.options.handshake_limit {
            0 => None,
            n => Some(Duration::from_secs(n)),
        };
        match handshake::run(self, reader, writer, limit)? {
            Some(chosen) => {
                {
                    // Under the lock: an export that is being taken away is not chosen any more.
                    let mut state = self.state.lock();
                    let known = state.exports.get(&chosen.export.name);
                    if !known.is_some_and(|e| Arc::ptr_eq(e, &chosen.export)) {
                        return Ok(());
                    }
                    state.served += 1;
                    if let Some(c) = state.clients.get_mut(&id) {
                        c.export = Some(chosen.export.name.clone());
                    }
                }
                serve::run(chosen)
            }
            None => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Option<Arc<Export>> {
        self.state.lock().exports.get(name).cloned()
    }

    fn all(&self) -> Vec<Arc<Export>> {
        self.state.lock().exports.values().cloned().collect()
    }

    /// Waits until the last client has gone after at least one has chosen an export, or until the server is stopped.
    pub fn wait_idle(&self) {
        let mut state = self.state.lock();
        while !state.closing && (state.served == 0 || !state.clients.is_empty()) {
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the server is stopped.
    pub fn wait_stopped(&self) {
        let mut state = self.state.lock();
        while !state.closing {
            self.changed.wait(&mut state);
        }
    }

    /// Ends all clients and takes no more; returns when none is left.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.clients.values().for_each(|c| c.socket.shutdown());
        self.changed.notify_all();
        while !state.clients.is_empty() {
            self.changed.wait(&mut state);
        }
        state.exports.clear();
        drop(state);
        if !self.stopped.swap(true, Ordering::AcqRel)
            && let Some(address) = self.address.lock().take()
        {
            // Whoever accepts looks up once more.
            let _ = Socket::connect(&address);
        }
        // Under the lock: whoever else stops it waits as well. The listener's socket is gone afterwards.
        let mut acceptor = self.acceptor.lock();
        if let Some(thread) = acceptor.take() {
            let _ = thread.join();
        }
    }
}
