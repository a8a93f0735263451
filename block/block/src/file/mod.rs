//! The file protocol: a host file or block device, byte for byte, that grows when it is written beyond its end.
//!
//! Formats stand on it. It is locked while it is open, in the way QEMU does it on Linux, so that neither two of us
//! nor one of us and a QEMU write one image together. Reads beyond the end give zeroes.

#[cfg(target_os = "linux")]
mod aio;
mod direct;
mod engine;
#[cfg(target_os = "linux")]
mod linux;
mod transfer;
#[cfg(target_os = "linux")]
mod uring;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::BlockError;
use crate::node::{BlockNode, Extent, NodeInfo, write_zero_buffers};

use direct::Direct;
pub use engine::{Aio, CacheMode};

/// Who else may use a file while it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Others may read it, nobody else may write it.
    #[default]
    Readers,
    /// Anybody may do anything (`force-share`): for looking at an image in use.
    All,
    /// No lock is taken or looked at.
    Unlocked,
}

/// How to open a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Open for reading only.
    pub read_only: bool,
    /// Who else may use it.
    pub sharing: Sharing,
    /// Discards give space back to the host.
    pub discard: bool,
    /// Flushes do nothing: fast, and the image is lost with the host.
    pub unsafe_cache: bool,
    /// Past the host's page cache.
    pub direct: bool,
    /// How requests reach the host.
    pub aio: Aio,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions {
            read_only: false,
            sharing: Sharing::Readers,
            discard: true,
            unsafe_cache: false,
            direct: false,
            aio: Aio::Threads,
        }
    }
}

impl FileOptions {
    /// How the host is to open the file.
    fn host(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.read_only);
        #[cfg(target_os = "linux")]
        if self.direct {
            use std::os::unix::fs::OpenOptionsExt;
            options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
        }
        options
    }
}

/// A host file.
#[derive(Debug)]
pub struct FileNode {
    path: PathBuf,
    file: File,
    options: FileOptions,
    regular: bool,
    /// The way that this host has.
    aio: Aio,
    /// Past the page cache.
    direct: Option<Direct>,
    /// Length in bytes.
    size: AtomicU64,
    /// A range known to be data. Finding the end of one costs the host a look at all of it, so it is not asked again
    /// for every part; nobody else writes the file.
    data: Mutex<Range<u64>>,
}

impl FileNode {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>, options: FileOptions) -> Result<Self, BlockError> {
        let path = path.as_ref().to_path_buf();
        let opened = options.host().open(&path);
        Self::adopt(path, opened, options)
    }

    /// Makes a file, or empties the one that is there if nobody uses it.
    pub fn create(path: impl AsRef<Path>, options: FileOptions) -> Result<Self, BlockError> {
        let path = path.as_ref().to_path_buf();
        // Emptied only once it is locked.
        let opened = options.host().write(true).create(true).truncate(false).open(&path);
        let node = Self::adopt(path, opened, options)?;
        if node.regular {
            node.file.set_len(0)?;
            node.size.store(0, Ordering::Relaxed);
        }
        Ok(node)
    }

    fn adopt(path: PathBuf, opened: io::Result<File>, options: FileOptions) -> Result<Self, BlockError> {
        let failed = |source| BlockError::Open { path: path.display().to_string(), source };
        let refused =
            |what: &str| Err(BlockError::Format { path: path.display().to_string(), what: what.into() });
        if options.aio == Aio::Native && !options.direct {
            return refused("aio=native needs cache.direct=on (cache=none or directsync)");
        }
        if options.direct && cfg!(not(target_os = "linux")) {
            return refused("cache.direct=on (cache=none or directsync) is for Linux hosts");
        }
        let mut file = match opened {
            Err(e) if options.direct && e.kind() == io::ErrorKind::InvalidInput => {
                return refused(
                    "its file system has no O_DIRECT: expected cache.direct=off (not cache=none or directsync)",
                );
            }
            other => other.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        lock(&file, &path, !options.read_only, options.sharing)?;
        // Also right for block devices, whose metadata say 0.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(FileNode {
            regular: metadata.is_file(),
            aio: options.aio.or_threads(),
            direct: options.direct.then(|| Direct::of(&file)),
            path,
            file,
            options,
            size: AtomicU64::new(size),
            data: Mutex::new(0..0),
        })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a regular file, which grows and has holes.
    pub fn is_regular(&self) -> bool {
        self.regular
    }

    /// The way requests go: plain calls where the host has not what was asked for.
    pub fn aio(&self) -> Aio {
        self.aio
    }

    /// Held while something is changed other than by [`Direct::write`].
    #[cfg(target_os = "linux")]
    fn shared(&self) -> Option<parking_lot::RwLockReadGuard<'_, ()>> {
        self.direct.as_ref().map(|d| d.order.read())
    }

    /// Takes space on the host for a range, which reads as zero where the file was shorter.
    pub fn reserve(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        #[cfg(target_os = "linux")]
        {
            let _shared = self.shared();
            match linux::reserve(&self.file, offset, len) {
                Ok(()) => {
                    self.size.fetch_max(offset + len, Ordering::Relaxed);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(e) => return Err(e.into()),
            }
        }
        write_zero_buffers(self, offset, len)
    }

    #[cfg(target_os = "linux")]
    fn holes(&self, range: Range<u64>) -> io::Result<Vec<Extent>> {
        let size = self.size.load(Ordering::Relaxed);
        let mut out = Vec::new();
        let mut at = range.start;
        let push = |out: &mut Vec<Extent>, range: Range<u64>, zero: bool| {
            if !range.is_empty() {
                let offset = Some(range.start);
                out.push(Extent { offset, ..Extent::new(range, !zero, zero) });
            }
        };
        {
            let known = self.data.lock();
            if known.contains(&at) {
                let end = known.end.min(range.end);
                push(&mut out, at..end, false);
                at = end;
            }
        }
        while at < range.end.min(size) {
            let data = linux::next_data(&self.file, at)?.unwrap_or(size).clamp(at, range.end);
            push(&mut out, at..data, true);
            if data >= range.end {
                at = data;
                break;
            }
            let hole = if data < size { linux::next_hole(&self.file, data)? } else { size };
            // A file system may report no progress; a byte of it is then taken as data.
            let hole = hole.max(data + 1);
            *self.data.lock() = data..hole.min(size);
            let hole = hole.min(range.end);
            push(&mut out, data..hole, false);
            at = hole;
        }
        push(&mut out, at..range.end, true);
        Ok(out)
    }
}

#[cfg(target_os = "linux")]
fn lock(file: &File, path: &Path, write: bool, sharing: Sharing) -> Result<(), BlockError> {
    if sharing == Sharing::Unlocked {
        return Ok(());
    }
    linux::lock_image(file, path, write, sharing == Sharing::All)
}

#[cfg(target_os = "linux")]
fn unlock(file: &File) -> io::Result<()> {
    linux::unlock_image(file)
}

#[cfg(not(target_os = "linux"))]
fn unlock(file: &File) -> io::Result<()> {
    file.unlock()
}

#[cfg(not(target_os = "linux"))]
fn lock(file: &File, path: &Path, write: bool, sharing: Sharing) -> Result<(), BlockError> {
    use std::fs::TryLockError;
    if sharing != Sharing::Readers {
        return Ok(());
    }
    let path = || path.display().to_string();
    match if write { file.try_lock() } else { file.try_lock_shared() } {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(BlockError::InUse { path: path(), writer: !write }),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(source)) => Err(BlockError::Open { path: path(), source }),
    }
}

impl Drop for FileNode {
    fn drop(&mut self) {
        // A program that is just being started has a copy of the descriptor until it is loaded, and the lock would last as long.
        let _ = unlock(&self.file);
    }
}

impl BlockNode for FileNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("file:{}", self.path.display()),
            size: self.size.load(Ordering::Relaxed),
            read_only: self.options.read_only,
            granularity: 4096,
            can_discard: self.options.discard && cfg!(target_os = "linux"),
        }
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        match &self.direct {
            None => transfer::read_vectored(&self.file, self.aio, bufs, offset)?,
            Some(direct) => direct.read(&self.file, self.aio, bufs, offset)?,
        }
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        if let Some(direct) = &self.direct {
            direct.write(&self.file, self.aio, bufs, offset, &self.size)?;
            return if fua { self.flush() } else { Ok(()) };
        }
        let sync = fua && !self.options.unsafe_cache;
        let (end, stable) = transfer::write_vectored(&self.file, self.aio, bufs, offset, sync)?;
        self.size.fetch_max(end, Ordering::Relaxed);
        if fua && !stable { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.options.unsafe_cache || self.options.read_only {
            return Ok(());
        }
        Ok(self.aio.sync(&self.file)?)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        *self.data.lock() = 0..0;
        #[cfg(target_os = "linux")]
        if self.options.discard {
            let _shared = self.shared();
            return match linux::punch_hole(&self.file, offset, len) {
                Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(e.into()),
                _ => Ok(()),
            };
        }
        let _ = (offset, len);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        *self.data.lock() = 0..0;
        #[cfg(target_os = "linux")]
        {
            // Both keep the length, so a range beyond it becomes one first.
            if self.regular && offset + len > self.size() {
                self.resize(offset + len)?;
            }
            let _shared = self.shared();
            let quick = if unmap && self.options.discard {
                linux::punch_hole(&self.file, offset, len)
            } else {
                linux::zero_range(&self.file, offset, len)
            };
            match quick {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(e) => return Err(e.into()),
            }
        }
        let _ = unmap;
        write_zero_buffers(self, offset, len)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        #[cfg(target_os = "linux")]
        if self.regular {
            return Ok(self.holes(range)?);
        }
        Ok(vec![Extent { offset: Some(range.start), ..Extent::new(range, true, false) }])
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        *self.data.lock() = 0..0;
        let _alone = self.direct.as_ref().map(|d| d.order.write());
        if self.regular {
            self.file.set_len(size)?;
            self.size.store(size, Ordering::Relaxed);
        } else if size > self.size() {
            return Err(BlockError::Unsupported("growing a device"));
        }
        Ok(())
    }

    fn allocated_size(&self) -> Option<u64> {
        #[cfg(unix)]
        return Some(std::os::unix::fs::MetadataExt::blocks(&self.file.metadata().ok()?) * 512);
        #[cfg(not(unix))]
        return Some(self.size());
    }

    fn grows(&self) -> bool {
        self.regular
    }

    fn relock(&self, locked: bool) -> Result<(), BlockError> {
        match locked {
            true => {
                lock(&self.file, &self.path, !self.options.read_only, self.options.sharing)?;
                // Somebody else may have had it meanwhile.
                let size = (&self.file).seek(SeekFrom::End(0))?;
                self.size.store(size, Ordering::Relaxed);
                *self.data.lock() = 0..0;
                Ok(())
            }
            false => Ok(unlock(&self.file)?),
        }
    }
}

#[cfg(test)]
mod tests;
