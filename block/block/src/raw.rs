//! Raw images: a host file or block device whose bytes are the disk's.
//!
//! An image is locked while it is open, in the way QEMU does it on Linux, so that neither two of us nor one of
//! us and a QEMU write one image together.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::node::{BlockNode, NodeInfo, write_zero_buffers};
use crate::{BlockError, SECTOR};

/// How to open a raw image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOptions {
    /// Open for reading only.
    pub read_only: bool,
    /// Lock the image against other users.
    pub lock: bool,
    /// Pass the guest's discards on to the host file.
    pub discard: bool,
    /// Flushes do nothing: fast, and the image is lost with the host.
    pub unsafe_cache: bool,
}

impl Default for RawOptions {
    fn default() -> Self {
        RawOptions { read_only: false, lock: true, discard: true, unsafe_cache: false }
    }
}

/// A raw image.
#[derive(Debug)]
pub struct RawFile {
    path: PathBuf,
    file: File,
    options: RawOptions,
    /// Size of the disk: the file's, rounded up to a sector.
    size: AtomicU64,
}

impl RawFile {
    /// Opens an image.
    pub fn open(path: impl AsRef<Path>, options: RawOptions) -> Result<Self, BlockError> {
        let path = path.as_ref().to_path_buf();
        let failed = |source| BlockError::Open { path: path.display().to_string(), source };
        let mut file = OpenOptions::new().read(true).write(!options.read_only).open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        if options.lock {
            lock(&file, &path, !options.read_only)?;
        }
        // Also right for block devices, whose metadata say 0.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let size = size.checked_next_multiple_of(SECTOR).unwrap_or(size);
        Ok(RawFile { path, file, options, size: AtomicU64::new(size) })
    }

    /// Path of the image.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(target_os = "linux")]
fn lock(file: &File, path: &Path, write: bool) -> Result<(), BlockError> {
    crate::linux::lock_image(file, path, write)
}

#[cfg(not(target_os = "linux"))]
fn lock(file: &File, path: &Path, write: bool) -> Result<(), BlockError> {
    use std::fs::TryLockError;
    let path = || path.display().to_string();
    match if write { file.try_lock() } else { file.try_lock_shared() } {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(BlockError::InUse { path: path(), writer: !write }),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(source)) => Err(BlockError::Open { path: path(), source }),
    }
}

#[cfg(unix)]
fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(unix)]
fn write_once(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, buf, offset)
}

#[cfg(windows)]
fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    match std::os::windows::fs::FileExt::seek_read(file, buf, offset) {
        // ERROR_HANDLE_EOF: there is no such thing as a read at the end.
        Err(e) if e.raw_os_error() == Some(38) => Ok(0),
        other => other,
    }
}

#[cfg(windows)]
fn write_once(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, buf, offset)
}

/// Fills `buf`; what lies beyond the end of the file reads as zero.
pub(crate) fn read_file(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match read_once(file, buf, offset) {
            Ok(0) => {
                buf.fill(0);
                return Ok(());
            }
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of `buf`.
pub(crate) fn write_file(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match write_once(file, buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl BlockNode for RawFile {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("raw:{}", self.path.display()),
            size: self.size.load(Ordering::Relaxed),
            read_only: self.options.read_only,
            granularity: 4096,
            can_discard: self.options.discard && cfg!(target_os = "linux"),
        }
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        for buf in bufs {
            read_file(&self.file, buf, offset)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        for buf in bufs {
            write_file(&self.file, buf, offset)?;
            offset += buf.len() as u64;
        }
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.options.unsafe_cache {
            return Ok(());
        }
        Ok(self.file.sync_data()?)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        #[cfg(target_os = "linux")]
        if self.options.discard {
            return match crate::linux::punch_hole(&self.file, offset, len) {
                Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(e.into()),
                _ => Ok(()),
            };
        }
        let _ = (offset, len);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        #[cfg(target_os = "linux")]
        {
            let quick = if unmap && self.options.discard {
                crate::linux::punch_hole(&self.file, offset, len)
            } else {
                crate::linux::zero_range(&self.file, offset, len)
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

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        self.file.set_len(size)?;
        self.size.store(size.checked_next_multiple_of(SECTOR).unwrap_or(size), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(data: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(data).unwrap();
        file
    }

    fn read(node: &RawFile, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0xee; len];
        node.read(offset, &mut [IoSliceMut::new(&mut data)]).unwrap();
        data
    }

    #[test]
    fn reads_writes_and_pads_the_last_sector() {
        let file = image(&[7; 1000]);
        let node = RawFile::open(file.path(), RawOptions::default()).unwrap();
        assert_eq!(node.info().size, 1024);
        assert_eq!(read(&node, 998, 4), [7, 7, 0, 0]);
        node.write(1, &[IoSlice::new(&[1, 2]), IoSlice::new(&[3])], true).unwrap();
        assert_eq!(read(&node, 0, 5), [7, 1, 2, 3, 7]);
        node.write_zeroes(2, 600, true).unwrap();
        assert_eq!(read(&node, 600, 4), [0, 0, 7, 7]);
        node.discard(0, 512).unwrap();
        node.resize(4096).unwrap();
        assert_eq!(node.info().size, 4096);
    }

    #[test]
    fn two_writers_are_refused() {
        let file = image(&[0; 512]);
        let reader = || RawFile::open(file.path(), RawOptions { read_only: true, ..RawOptions::default() });
        let writer = || RawFile::open(file.path(), RawOptions::default());
        let first = writer().unwrap();
        assert!(matches!(writer(), Err(BlockError::InUse { .. })));
        let text = reader().unwrap_err().to_string();
        assert!(text.contains("in use by another process that writes it"), "{text}");
        drop(first);
        let (_a, _b) = (reader().unwrap(), reader().unwrap());
        assert!(matches!(writer(), Err(BlockError::InUse { .. })));
        RawFile::open(file.path(), RawOptions { lock: false, ..RawOptions::default() }).unwrap();
        let text = RawFile::open("/nonexistent/x.img", RawOptions::default()).unwrap_err().to_string();
        assert!(text.starts_with("/nonexistent/x.img: "), "{text}");
    }
}
