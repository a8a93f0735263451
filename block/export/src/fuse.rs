//! A disk as a regular file of the host, through FUSE (Linux's `include/uapi/linux/fuse.h`, protocol 7.31): the file that is
//! there is covered by one whose contents are the disk's. Mounting needs the right to mount, or libfuse's set-uid helper
//! `fusermount3`, which does it for the owner of the file (its manual, and `_FUSE_COMMFD` in libfuse's `mount.c`).
//!
//! The kernel is the only client; what it hands on from programs is checked like any other request.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use block::BlockError;
use parking_lot::Mutex;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::Export;

/// Threads that serve one file.
const THREADS: usize = 4;
/// Most data of a request, in bytes.
const MAX_WRITE: u32 = 1 << 20;
/// What the kernel wants of the buffer beside that.
const EXTRA: usize = 8192;
const IN_HEADER: usize = 40;

mod op {
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const ACCESS: u32 = 34;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const LSEEK: u32 = 46;
}

mod errno {
    pub(super) const EIO: i32 = 5;
    pub(super) const EACCES: i32 = 13;
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ENOSPC: i32 = 28;
    pub(super) const ENOSYS: i32 = 38;
    pub(super) const ENXIO: i32 = 6;
    pub(super) const EOPNOTSUPP: i32 = 95;
}

/// `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE` of fallocate.
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 16;
/// Of an opened file: the host keeps no copy of what is read.
const DIRECT_IO: u32 = 1;
/// In `SETATTR`: the size is meant; mode or owner are.
const SET_SIZE: u32 = 1 << 3;
const SET_MODE_OR_OWNER: u32 = 7;

/// How a disk is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FuseOptions {
    /// Writes beyond the end make the disk larger.
    pub growable: bool,
    /// Users other than ours may open the file, as its mode says; if nothing is said, where only root is ours.
    pub allow_other: Option<bool>,
}

struct Shared {
    export: Export,
    growable: bool,
    device: File,
    ended: AtomicBool,
}

/// A file that is a disk. It is uncovered when this is dropped.
pub struct FuseExport {
    mountpoint: PathBuf,
    /// The helper has mounted it, and has to take it away.
    helped: bool,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

fn failed(path: &Path, source: io::Error) -> BlockError {
    BlockError::Open { path: path.display().to_string(), source }
}

/// Mounts with our own rights.
fn by_ourselves(path: &Path, mode: u32, others: &str) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let data = format!("fd={},rootmode={mode:o},user_id={user},group_id={group}{others}", device.as_raw_fd());
    let data = std::ffi::CString::new(data).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("rhea", path, "fuse.rhea", flags, Some(data.as_c_str()))?;
    Ok(device)
}

/// Runs the helper. It finds the socket for what it has to say as its standard input.
fn helper(options: &[&str], path: &Path, socket: Option<OwnedFd>) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(options).arg("--").arg(path).stdout(Stdio::null());
    match socket {
        Some(socket) => command.env("_FUSE_COMMFD", "0").stdin(socket),
        None => command.stdin(Stdio::null()),
    };
    let out = command.output()?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let line = said.lines().next().unwrap_or("fusermount3 has failed").trim().to_owned();
    Err(io::Error::other(line))
}

/// Mounts by the helper, which sends the device it has opened. No error if there is no helper.
fn by_helper(path: &Path, others: &str) -> Result<File, Option<io::Error>> {
    let (ours, theirs) = UnixStream::pair().map_err(Some)?;
    let options = format!("fsname=rhea,subtype=rhea,nosuid,nodev{others}");
    helper(&["-o", &options], path, Some(theirs.into()))
        .map_err(|e| Some(e).filter(|e| e.kind() != io::ErrorKind::NotFound))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let parts = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(&ours, parts, &mut control, RecvFlags::CMSG_CLOEXEC).map_err(|e| Some(e.into()))?;
    let device = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    device.map(File::from).ok_or_else(|| Some(io::Error::other("fusermount3 has sent no descriptor")))
}

impl FuseExport {
    /// Covers the regular file at `mountpoint`.
    pub fn mount(mountpoint: &Path, export: Export, options: &FuseOptions) -> Result<Self, BlockError> {
        let found = std::fs::metadata(mountpoint).map_err(|e| failed(mountpoint, e))?;
        if !found.is_file() {
            let what = "expected a regular file to be covered".into();
            return Err(BlockError::Format { path: mountpoint.display().to_string(), what });
        }
        let path = std::fs::canonicalize(mountpoint).map_err(|e| failed(mountpoint, e))?;
        let allow = options.allow_other.unwrap_or_else(|| rustix::process::geteuid().is_root());
        let others = if allow { ",allow_other,default_permissions" } else { "" };
        let mode = if export.read_only { 0o100_400 } else { 0o100_600 };
        let (device, helped) = match by_ourselves(&path, mode, others) {
            Ok(device) => (device, false),
            Err(own) if own.kind() == io::ErrorKind::PermissionDenied => {
                let device = by_helper(&path, others).map_err(|e| match e {
                    Some(e) => failed(mountpoint, e),
                    // There is none: what kept us from doing it is what there is to say.
                    None => failed(mountpoint, own),
                })?;
                (device, true)
            }
            Err(e) => return Err(failed(mountpoint, e)),
        };
        let growable = options.growable;
        let shared = Arc::new(Shared { export, growable, device, ended: AtomicBool::new(false) });
        let threads = Mutex::default();
        let out = FuseExport { mountpoint: path, helped, shared: shared.clone(), threads };
        for _ in 0..THREADS {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("fuse".into()).spawn(move || shared.work())?;
            out.threads.lock().push(thread);
        }
        Ok(out)
    }

    /// Where it is.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for FuseExport {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        let uncovered = match self.helped {
            true => helper(&["-u", "-q", "-z"], &self.mountpoint, None).map(drop),
            false => unmount(&self.mountpoint, UnmountFlags::DETACH).map_err(io::Error::from),
        };
        if let Err(e) = uncovered {
            tracing::warn!("{}: {e}", self.mountpoint.display());
            // Whoever waits for requests cannot be woken then.
            return;
        }
        // They end once the last program has closed the file; who still has it open keeps them, not us.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        for thread in self.threads.lock().drain(..) {
            while !thread.is_finished() && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        let _ = self.shared.export.node.flush();
    }
}

/// A number of a request; zero beyond its end.
fn le<const N: usize>(data: &[u8], at: usize) -> u64 {
    let bytes = data.get(at..at + N).unwrap_or_default();
    bytes.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b))
}

fn number(error: &BlockError) -> i32 {
    match error {
        BlockError::ReadOnly => errno::EACCES,
        BlockError::OutOfRange { .. } => errno::EINVAL,
        BlockError::Unsupported(_) => errno::EOPNOTSUPP,
        e if e.is_no_space() => errno::ENOSPC,
        _ => errno::EIO,
    }
}

impl Shared {
    fn work(&self) {
        let mut buffer = vec![0; MAX_WRITE as usize + EXTRA];
        loop {
            match (&self.device).read(&mut buffer) {
                Ok(n) if n >= IN_HEADER => self.one(&buffer[..n]),
                Ok(_) => {}
                // ENOENT: the request was taken back. ENODEV: unmounted.
                Err(e) if matches!(e.raw_os_error(), Some(2 | 4 | 11)) => {}
                Err(_) => return,
            }
            if self.ended.load(Ordering::Acquire) {
                return;
            }
        }
    }

    fn one(&self, request: &[u8]) {
        let (opcode, unique) = (le::<4>(request, 4) as u32, le::<8>(request, 8));
        if matches!(opcode, op::FORGET | op::BATCH_FORGET | op::INTERRUPT) {
            return;
        }
        let body = &request[IN_HEADER..];
        let (error, data) = match self.serve(opcode, body) {
            Ok(data) => (0, data),
            Err(e) => (-e, Vec::new()),
        };
        let mut head = ((16 + data.len()) as u32).to_le_bytes().to_vec();
        head.extend(error.to_le_bytes());
        head.extend(unique.to_le_bytes());
        // The kernel may have given up waiting.
        let _ = (&self.device).write_vectored(&[IoSlice::new(&head), IoSlice::new(&data)]);
    }

    fn serve(&self, opcode: u32, body: &[u8]) -> Result<Vec<u8>, i32> {
        let node = &self.export.node;
        let (offset, len) = (le::<8>(body, 8), le::<4>(body, 16));
        match opcode {
            op::INIT => Ok(self.init(body)),
            op::GETATTR => Ok(self.attributes()),
            op::SETATTR => {
                let what = le::<4>(body, 0) as u32;
                if what & SET_MODE_OR_OWNER != 0 {
                    return Err(errno::EOPNOTSUPP);
                }
                // Times are not kept.
                if what & SET_SIZE != 0 {
                    self.resize(le::<8>(body, 16))?;
                }
                Ok(self.attributes())
            }
            op::OPEN => {
                // The flags of open(2): anything but reading.
                if le::<4>(body, 0) & 3 != 0 && self.export.read_only {
                    return Err(errno::EACCES);
                }
                let mut out = vec![0; 16];
                out[8..12].copy_from_slice(&DIRECT_IO.to_le_bytes());
                Ok(out)
            }
            op::READ => {
                let size = node.size();
                let n = size.saturating_sub(offset).min(len).min(MAX_WRITE.into());
                let mut data = vec![0; n as usize];
                node.read(offset, &mut [IoSliceMut::new(&mut data)]).map_err(|e| number(&e))?;
                Ok(data)
            }
            op::WRITE => {
                let data = body.get(40..).unwrap_or_default();
                let data = &data[..data.len().min(len as usize)];
                let end = self.room(offset, data.len() as u64)?;
                let data = &data[..(end - offset) as usize];
                node.write(offset, &[IoSlice::new(data)], false).map_err(|e| number(&e))?;
                let mut out = vec![0; 8];
                out[..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
                Ok(out)
            }
            op::FALLOCATE => self.allocate(offset, le::<8>(body, 16), le::<4>(body, 24) as u32),
            op::LSEEK => self.seek(offset, le::<4>(body, 16)),
            op::FSYNC | op::FLUSH => {
                if !self.export.read_only {
                    node.flush().map_err(|e| number(&e))?;
                }
                Ok(Vec::new())
            }
            op::STATFS => {
                let mut out = vec![0; 80];
                let blocks = (node.size() / 512).to_le_bytes();
                out[..8].copy_from_slice(&blocks);
                for (at, n) in [(40, 512u32), (44, 255), (48, 512)] {
                    out[at..at + 4].copy_from_slice(&n.to_le_bytes());
                }
                Ok(out)
            }
            op::RELEASE | op::ACCESS | op::DESTROY => Ok(Vec::new()),
            _ => Err(errno::ENOSYS),
        }
    }

    fn init(&self, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 64];
        let mut put = |at: usize, n: u32| out[at..at + 4].copy_from_slice(&n.to_le_bytes());
        put(0, 7);
        put(4, (le::<4>(body, 4) as u32).min(31));
        put(8, le::<4>(body, 8) as u32);
        // ASYNC_READ, BIG_WRITES, PARALLEL_DIROPS and MAX_PAGES, as far as the kernel has them.
        put(12, le::<4>(body, 12) as u32 & (1 | 1 << 5 | 1 << 18 | 1 << 22));
        put(16, 16 | 12 << 16);
        put(20, MAX_WRITE);
        put(24, 1);
        put(28, MAX_WRITE / 4096);
        out
    }

    fn attributes(&self) -> Vec<u8> {
        let size = self.export.node.size();
        let mut out = vec![0; 104];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &1u64.to_le_bytes());
        put(24, &size.to_le_bytes());
        let space = self.export.node.allocated_size().unwrap_or(size);
        put(32, &space.div_ceil(512).to_le_bytes());
        let mode: u32 = if self.export.read_only { 0o100_400 } else { 0o100_600 };
        put(76, &mode.to_le_bytes());
        put(80, &1u32.to_le_bytes());
        put(84, &rustix::process::getuid().as_raw().to_le_bytes());
        put(88, &rustix::process::getgid().as_raw().to_le_bytes());
        put(96, &4096u32.to_le_bytes());
        out
    }

    fn resize(&self, size: u64) -> Result<(), i32> {
        if self.export.read_only {
            return Err(errno::EACCES);
        }
        self.export.node.resize(size.next_multiple_of(block::SECTOR)).map_err(|e| number(&e))
    }

    /// Where a change of a range ends: the disk's end, unless it may grow.
    fn room(&self, offset: u64, len: u64) -> Result<u64, i32> {
        if self.export.read_only {
            return Err(errno::EACCES);
        }
        let end = offset.checked_add(len).ok_or(errno::EINVAL)?;
        let size = self.export.node.size();
        if end > size {
            if self.growable {
                self.resize(end)?;
                return Ok(end);
            }
            if offset >= size {
                return Err(errno::EIO);
            }
        }
        Ok(end.min(size.max(offset)))
    }

    fn allocate(&self, offset: u64, len: u64, mode: u32) -> Result<Vec<u8>, i32> {
        let node = &self.export.node;
        let end = match mode & KEEP_SIZE {
            0 => self.room(offset, len)?,
            _ if self.export.read_only => return Err(errno::EACCES),
            _ => offset.saturating_add(len).min(node.size()).max(offset),
        };
        match mode & !KEEP_SIZE {
            PUNCH_HOLE => node.write_zeroes(offset, end - offset, true).map_err(|e| number(&e))?,
            ZERO_RANGE => node.write_zeroes(offset, end - offset, false).map_err(|e| number(&e))?,
            0 => {}
            _ => return Err(errno::EOPNOTSUPP),
        }
        Ok(Vec::new())
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    fn seek(&self, offset: u64, whence: u64) -> Result<Vec<u8>, i32> {
        const STEP: u64 = 1 << 30;
        let hole = match whence {
            3 => false,
            4 => true,
            _ => return Err(errno::EINVAL),
        };
        let size = self.export.node.size();
        if offset >= size {
            return Err(errno::ENXIO);
        }
        let mut at = offset;
        while at < size {
            let end = (at + STEP).min(size);
            let pieces = (self.export.status)(at..end).map_err(|e| number(&e))?;
            if let Some(p) = pieces.iter().find(|p| p.zero == hole) {
                return Ok(p.range.start.max(offset).to_le_bytes().to_vec());
            }
            at = end;
        }
        if hole { Ok(size.to_le_bytes().to_vec()) } else { Err(errno::ENXIO) }
    }
}
