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

pub use error::ChardevError;
pub use host::restore_terminal;
pub use mux::{Mux, PortKind};
pub use ringbuf::Ringbuf;

use crate::config::{Chardev, ChardevKind};
use crate::vm::{ChardevInfo, VmError};
use device::{CharBackend, NullChar};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tee::Tee;

/// What to do when the user leaves by the terminal's escape key.
pub type Quit = Arc<dyn Fn() + Send + Sync>;

/// All character back ends of one machine. Dropping it closes them and restores the terminal.
pub struct Chardevs {
    list: BTreeMap<String, Entry>,
    // After the list: the back ends must be gone before the thread that polls them.
    _host: host::Host,
}

struct Entry {
    backend: Arc<dyn CharBackend>,
    mux: Option<Arc<Mux>>,
    ring: Option<Arc<Ringbuf>>,
    filename: String,
    taken: Mutex<bool>,
}

impl Chardevs {
    /// Opens all of them. A socket server with `wait` blocks here until its client has come. `quit` is called
    /// on Ctrl-A x.
    pub fn open(configs: &[Chardev], quit: &Quit) -> Result<Self, ChardevError> {
        let mut host = host::Host::new()?;
        let mut list = BTreeMap::new();
        for config in configs {
            let entry = open_one(&mut host, config, quit)
                .map_err(|e| ChardevError::Open { id: config.id.clone(), reason: e.to_string() })?;
            list.insert(config.id.clone(), entry);
        }
        host.start()?;
        Ok(Self { list, _host: host })
    }

    /// Connects a front end. A back end without `mux=on` has one only.
    pub fn connect(&self, id: &str, kind: PortKind) -> Result<Arc<dyn CharBackend>, ChardevError> {
        let entry = self.list.get(id).ok_or_else(|| ChardevError::Unknown(id.to_owned()))?;
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
        let one = |(label, e): (&String, &Entry)| ChardevInfo {
            label: label.clone(),
            filename: e.filename.clone(),
            frontend_open: *e.taken.lock() || e.mux.as_ref().is_some_and(|m| m.ports() > 0),
        };
        self.list.iter().map(one).collect()
    }

    fn ring(&self, id: &str) -> Result<&Ringbuf, VmError> {
        let entry = self.list.get(id).ok_or_else(|| VmError::DeviceNotFound(id.to_owned()))?;
        entry.ring.as_deref().ok_or_else(|| VmError::Failed(format!("chardev '{id}' is no ringbuf")))
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

fn open_one(host: &mut host::Host, config: &Chardev, quit: &Quit) -> Result<Entry, ChardevError> {
    let mut ring = None;
    let mut filename = config.kind.name().to_owned();
    let mut backend: Arc<dyn CharBackend> = match &config.kind {
        ChardevKind::Null | ChardevKind::Vc => Arc::new(NullChar),
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
    if let Some(path) = &config.logfile {
        backend = Arc::new(Tee::new(backend, path, config.logappend)?);
    }
    let mux = config.mux.then(|| Mux::new(backend.clone(), quit.clone()));
    if mux.is_some() {
        filename = format!("mux:{filename}");
    }
    Ok(Entry { backend, mux, ring, filename, taken: Mutex::new(false) })
}

impl Drop for Chardevs {
    fn drop(&mut self) {
        // Receivers hold the devices, which hold the back ends: this breaks the ring.
        for entry in self.list.values() {
            entry.backend.set_receiver(None);
        }
        restore_terminal();
    }
}
