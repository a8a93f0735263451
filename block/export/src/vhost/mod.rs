//! A disk as the rings of a virtio block device that another process's guest uses: the vhost-user back end (virtio 1.2, 5.2;
//! the protocol is `vhost_user`'s).
//!
//! One front end at a time; when it goes, the next is waited for. Rings, and what is in them, are the guest's word.

mod queue;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use block::{BlockError, SECTOR};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use vhost_user::{Back, Device, Error, Event, Ring, feature, protocol};

use crate::Export;
use queue::Queue;
use request::{MOST_RANGES, MOST_SECTORS, Target};

/// Feature bits of a block device.
mod bit {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const BLOCK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MULTI_QUEUE: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Where the write cache's switch is in the configuration.
const WRITEBACK: usize = 32;
/// Length of the configuration, with all that later features have, in bytes.
const CONFIG: usize = 96;

/// How a disk is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostOptions {
    /// Bytes of a block: a power of two from 512 to 2 MiB.
    pub block_size: u32,
    /// Rings, at least one.
    pub queues: u16,
}

impl Default for VhostOptions {
    fn default() -> Self {
        VhostOptions { block_size: SECTOR as u32, queues: 1 }
    }
}

/// The disk and how it is used at the moment.
struct Disk {
    export: Export,
    options: VhostOptions,
    /// The driver flushes, and has not switched the cache off.
    flushes: AtomicBool,
    writeback: AtomicBool,
}

impl Disk {
    fn target(&self) -> Target<'_> {
        Target {
            node: &*self.export.node,
            read_only: self.export.read_only,
            write_through: !self.flushes.load(Ordering::Acquire) || !self.writeback.load(Ordering::Acquire),
            serial: &self.export.name,
        }
    }

    fn config(&self) -> Vec<u8> {
        let mut out = vec![0; CONFIG];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.export.node.size() / SECTOR).to_le_bytes());
        put(12, &126u32.to_le_bytes());
        put(20, &self.options.block_size.to_le_bytes());
        let blocks = u16::try_from(4096 / self.options.block_size).unwrap_or(1).max(1);
        put(26, &blocks.to_le_bytes());
        put(WRITEBACK, &[self.writeback.load(Ordering::Acquire).into()]);
        put(34, &self.options.queues.to_le_bytes());
        put(36, &MOST_SECTORS.to_le_bytes());
        put(40, &MOST_RANGES.to_le_bytes());
        put(44, &(self.options.block_size / SECTOR as u32).to_le_bytes());
        put(48, &MOST_SECTORS.to_le_bytes());
        put(52, &MOST_RANGES.to_le_bytes());
        put(56, &[1]);
        out
    }
}

/// The device of one session.
struct Blk {
    disk: Arc<Disk>,
    running: BTreeMap<u16, Queue>,
}

impl Device for Blk {
    fn features(&self) -> u64 {
        let own = bit::SEG_MAX | bit::BLOCK_SIZE | bit::TOPOLOGY | bit::FLUSH | bit::CONFIG_WCE;
        let changes =
            if self.disk.export.read_only { bit::READ_ONLY } else { bit::DISCARD | bit::WRITE_ZEROES };
        let many = if self.disk.options.queues > 1 { bit::MULTI_QUEUE } else { 0 };
        own | changes | many | feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC
    }

    fn protocol_features(&self) -> u64 {
        protocol::CONFIG | protocol::BACKEND_REQ
    }

    fn queues(&self) -> u16 {
        self.disk.options.queues
    }

    fn set_features(&mut self, features: u64) {
        self.disk.flushes.store(features & bit::FLUSH != 0, Ordering::Release);
    }

    fn start(&mut self, index: u16, ring: Ring) {
        let kick = ring.kick.try_clone();
        match Queue::start(self.disk.clone(), ring) {
            Ok(queue) => drop(self.running.insert(index, queue)),
            Err(e) => tracing::warn!("vhost-user-blk: ring {index}: {e}"),
        }
        // What was there before we were.
        if let Ok(kick) = kick {
            kick.signal();
        }
    }

    fn stop(&mut self, index: u16) -> u16 {
        self.running.remove(&index).map_or(0, Queue::stop)
    }

    fn config(&self) -> Vec<u8> {
        self.disk.config()
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8]) -> bool {
        let [on @ (0 | 1)] = *bytes else { return false };
        if offset as usize != WRITEBACK {
            return false;
        }
        self.disk.writeback.store(on == 1, Ordering::Release);
        true
    }
}

/// Where front ends come in.
#[derive(Debug)]
pub enum VhostSocket {
    /// A socket at this path.
    Path(PathBuf),
    /// One that listens already.
    Listener(UnixListener),
}

/// A disk given to front ends. It is taken away when this is dropped.
pub struct VhostExport {
    stop: Arc<Event>,
    resized: Arc<Event>,
    session: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
    path: Option<PathBuf>,
}

fn failed(path: &Path, source: io::Error) -> BlockError {
    BlockError::Open { path: path.display().to_string(), source }
}

impl VhostExport {
    /// Listens for front ends.
    pub fn listen(at: VhostSocket, export: Export, options: VhostOptions) -> Result<Self, BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: format!("export '{}'", export.name), what });
        if !options.block_size.is_power_of_two() || !(512..=2 << 20).contains(&options.block_size) {
            return bad(format!(
                "logical-block-size {}: expected a power of two from 512 to 2097152",
                options.block_size
            ));
        }
        if options.queues == 0 || options.queues > 1024 {
            return bad(format!("num-queues {}: expected 1 to 1024", options.queues));
        }
        let (listener, path) = match at {
            VhostSocket::Path(path) => {
                remove_stale(&path);
                (UnixListener::bind(&path).map_err(|e| failed(&path, e))?, Some(path))
            }
            VhostSocket::Listener(listener) => (listener, None),
        };
        let disk = Arc::new(Disk {
            export,
            options,
            flushes: AtomicBool::new(false),
            writeback: AtomicBool::new(true),
        });
        let (stop, resized) = (Arc::new(Event::new()?), Arc::new(Event::new()?));
        let session = Arc::new(Mutex::new(None));
        let (stopped, changed, current) = (stop.clone(), resized.clone(), session.clone());
        let thread = std::thread::Builder::new()
            .name("vhost-user-blk".into())
            .spawn(move || accept(&listener, &disk, &stopped, &changed, &current))?;
        Ok(VhostExport { stop, resized, session, thread: Some(thread), path })
    }
}

impl VhostExport {
    /// The disk has another size: its driver is told.
    pub fn resized(&self) {
        self.resized.signal();
    }
}

impl Drop for VhostExport {
    fn drop(&mut self) {
        self.stop.signal();
        if let Some(session) = &*self.session.lock() {
            let _ = session.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if socket && UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}

fn host(source: io::Error) -> Error {
    Error::Host { what: "vhost-user socket", source }
}

/// Serves a front end until it is gone.
fn session(socket: UnixStream, disk: &Arc<Disk>, resized: &Event) -> Result<Infallible, Error> {
    let ready = socket.try_clone().map_err(host)?;
    let mut back = Back::new(socket, Blk { disk: disk.clone(), running: BTreeMap::new() });
    loop {
        let mut fds = [PollFd::new(&ready, PollFlags::IN), PollFd::new(resized, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(host(e.into())),
        }
        let (asked, changed) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if changed && resized.take() {
            // A front end that does not take it has the size all the same when it asks.
            if let Err(e) = back.config_changed() {
                tracing::debug!("vhost-user-blk '{}': {e}", disk.export.name);
            }
        }
        if asked {
            back.step()?;
        }
    }
}

fn accept(
    listener: &UnixListener,
    disk: &Arc<Disk>,
    stop: &Event,
    resized: &Event,
    current: &Mutex<Option<UnixStream>>,
) {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        // Whoever reads it takes it: the flag is for all that follows.
        if stop.take() {
            return;
        }
        let Ok((socket, _)) = listener.accept() else { continue };
        let Ok(copy) = socket.try_clone() else { continue };
        *current.lock() = Some(copy);
        // Whoever wants an end sees the socket, or we see the wish.
        if stop.take() {
            return;
        }
        disk.writeback.store(true, Ordering::Release);
        let Err(end) = session(socket, disk, resized);
        *current.lock() = None;
        if !matches!(end, Error::Gone) {
            tracing::warn!("vhost-user-blk '{}': {end}", disk.export.name);
        }
        if !disk.export.read_only
            && let Err(e) = disk.export.node.flush()
        {
            tracing::warn!("vhost-user-blk '{}': {e}", disk.export.name);
        }
    }
}
