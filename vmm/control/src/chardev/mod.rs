//! Character back ends: opened from their configuration, shared out to devices, monitors and the debugger.
//!
//! All of them implement the device contract's [`CharBackend`]. Those that move bytes of the host live in
//! `unix` (one thread polls the descriptors of a machine) or, on other hosts, in `portable` (a thread each).

mod error;
#[cfg(not(unix))]
#[path = "portable.rs"]
mod host;
#[cfg(unix)]
#[path = "unix/mod.rs"]
mod host;
mod mux;
mod ringbuf;
mod tee;
#[cfg(unix)]
mod telnet;
#[cfg(test)]
mod tests;
mod vc;

pub use error::ChardevError;
#[cfg(unix)]
pub use host::duplicate as inherited;
pub use host::restore_terminal;
pub use mux::{Mux, PortKind};
pub use ringbuf::Ringbuf;
pub use vc::TextConsole;

#[cfg(unix)]
pub(crate) use host::{duplicate as duplicate_fd, remove_stale as remove_stale_socket};

use crate::config::{Chardev, ChardevKind, VmConfig};
use crate::vm::{ChardevInfo, VmError};
use device::{CharBackend, NullChar};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tee::Tee;

/// What the terminal's escape keys do to the machine.
#[derive(Clone)]
pub struct Keys {
    /// The user leaves (Ctrl-A x).
    pub quit: Arc<dyn Fn() + Send + Sync>,
    /// Writes that are kept beside a disk go into it (Ctrl-A s): how many disks there were, or why not.
    pub save: Arc<dyn Fn() -> Result<usize, String> + Send + Sync>,
}

/// All character back ends of one machine. Dropping it closes them and restores the terminal.
pub struct Chardevs {
    list: Mutex<BTreeMap<String, Arc<Entry>>>,
    // After the list: the back ends must be gone before the thread that polls them.
    host: Mutex<host::Host>,
    keys: Keys,
}

struct Entry {
    backend: Arc<dyn CharBackend>,
    /// The same without what is put around it.
    inner: Arc<dyn CharBackend>,
    mux: Option<Arc<Mux>>,
    ring: Option<Arc<Ringbuf>>,
    console: Option<Arc<TextConsole>>,
    kind: &'static str,
    filename: String,
    taken: Mutex<bool>,
}

impl Chardevs {
    /// Opens all of them. A socket server with `wait` blocks here until its client has come. `keys` are
    /// what Ctrl-A and another key do.
    pub fn open(config: &VmConfig, keys: &Keys) -> Result<Self, ChardevError> {
        let all = Self {
            list: Mutex::default(),
            host: Mutex::new(host::Host::new(&config.fd_sets)?),
            keys: keys.clone(),
        };
        for chardev in &config.chardevs {
            all.open_one(chardev)?;
        }
        all.host.lock().start()?;
        Ok(all)
    }

    fn open_one(&self, config: &Chardev) -> Result<Arc<Entry>, ChardevError> {
        let opened = open_one(&mut self.host.lock(), config, &self.keys);
        let entry =
            opened.map_err(|e| ChardevError::Open { id: config.id.clone(), reason: e.to_string() })?;
        let entry = Arc::new(entry);
        self.list.lock().insert(config.id.clone(), entry.clone());
        Ok(entry)
    }

    /// Opens one more; the path of its terminal if it is one.
    pub fn add(&self, config: &Chardev) -> Result<Option<String>, VmError> {
        if self.list.lock().contains_key(&config.id) {
            return Err(VmError::Failed(format!("Chardev with id '{}' already exists", config.id)));
        }
        let failed = |e: ChardevError| VmError::Failed(e.to_string());
        let entry = self.open_one(config).map_err(failed)?;
        self.host.lock().start().map_err(failed)?;
        Ok(entry.filename.strip_prefix("pty:").map(str::to_owned))
    }

    /// Closes one that has no front end.
    pub fn remove(&self, id: &str) -> Result<(), VmError> {
        let mut list = self.list.lock();
        let Some(entry) = list.get(id) else {
            return Err(VmError::Failed(format!("Chardev '{id}' not found")));
        };
        if entry.in_use() {
            return Err(VmError::Failed(format!("Chardev '{id}' is busy")));
        }
        entry.backend.set_receiver(None);
        self.host.lock().remove(&entry.inner);
        list.remove(id);
        Ok(())
    }

    /// Connects a front end. A back end without `mux=on` has one only.
    pub fn connect(&self, id: &str, kind: PortKind) -> Result<Arc<dyn CharBackend>, ChardevError> {
        let entry = self.list.lock().get(id).cloned().ok_or_else(|| ChardevError::Unknown(id.to_owned()))?;
        if let Some(mux) = &entry.mux {
            return mux.port(kind);
        }
        let mut taken = entry.taken.lock();
        if std::mem::replace(&mut *taken, true) {
            return Err(ChardevError::InUse(id.to_owned()));
        }
        Ok(entry.backend.clone())
    }

    /// For `query-chardev` and `info chardev`.
    pub fn info(&self) -> Vec<ChardevInfo> {
        let one = |(label, e): (&String, &Arc<Entry>)| ChardevInfo {
            label: label.clone(),
            kind: e.kind,
            filename: e.filename.clone(),
            frontend_open: e.in_use(),
        };
        self.list.lock().iter().map(one).collect()
    }

    /// The text consoles, in the order of their names.
    pub fn consoles(&self) -> Vec<Arc<TextConsole>> {
        self.list.lock().values().filter_map(|entry| entry.console.clone()).collect()
    }

    fn ring(&self, id: &str) -> Result<Arc<Ringbuf>, VmError> {
        let entry = self.list.lock().get(id).cloned();
        let entry = entry.ok_or_else(|| VmError::DeviceNotFound(id.to_owned()))?;
        entry.ring.clone().ok_or_else(|| VmError::Failed(format!("chardev '{id}' is no ringbuf")))
    }

    /// Takes up to `size` of the oldest bytes out of a ringbuf.
    pub fn ringbuf_read(&self, id: &str, size: usize) -> Result<Vec<u8>, VmError> {
        Ok(self.ring(id)?.take(size))
    }

    /// Writes into a ringbuf as the guest would.
    pub fn ringbuf_write(&self, id: &str, data: &[u8]) -> Result<(), VmError> {
        self.ring(id)?.write(data);
        Ok(())
    }
}

impl Entry {
    fn in_use(&self) -> bool {
        *self.taken.lock() || self.mux.as_ref().is_some_and(|m| m.ports() > 0)
    }
}

fn open_one(host: &mut host::Host, config: &Chardev, keys: &Keys) -> Result<Entry, ChardevError> {
    let (mut ring, mut console) = (None, None);
    let mut filename = config.kind.name().to_owned();
    let mut backend: Arc<dyn CharBackend> = match &config.kind {
        ChardevKind::Null => Arc::new(NullChar),
        ChardevKind::Vc => console.insert(Arc::<TextConsole>::default()).clone(),
        ChardevKind::Ringbuf { size } => {
            let size =
                usize::try_from(*size).map_err(|_| ChardevError::Unsupported("a ringbuf of this size"))?;
            ring.insert(Arc::new(Ringbuf::new(size))).clone()
        }
        kind => {
            let (backend, name) = host.open(kind)?;
            filename = name;
            backend
        }
    };
    let inner = backend.clone();
    if let Some(path) = &config.logfile {
        backend = Arc::new(Tee::new(backend, path, config.logappend)?);
    }
    let mux = config.mux.then(|| Mux::new(backend.clone(), keys.clone()));
    if mux.is_some() {
        filename = format!("mux:{filename}");
    }
    Ok(Entry {
        backend,
        inner,
        mux,
        ring,
        console,
        kind: config.kind.name(),
        filename,
        taken: Mutex::new(false),
    })
}

impl Drop for Chardevs {
    fn drop(&mut self) {
        // Receivers hold the devices, which hold the back ends: this breaks the ring.
        for entry in self.list.get_mut().values() {
            entry.backend.set_receiver(None);
        }
        restore_terminal();
    }
}
