//! How requests reach the host: by calls of the thread that has one, by `io_uring`, or by Linux AIO.
//!
//! Nodes are synchronous, so that each waits for its own request whichever way it goes. `io_uring` has the data and the
//! flush behind it in one call; where the host refuses it (an old kernel, a sandbox) plain calls do.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};

use super::transfer;

/// A way to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aio {
    /// Plain calls on the thread that has the request.
    #[default]
    Threads,
    /// Linux AIO; only past the host's page cache.
    Native,
    /// `io_uring`.
    IoUring,
}

impl Aio {
    /// Names in options.
    pub const NAMES: [(&'static str, Self); 3] =
        [("threads", Self::Threads), ("native", Self::Native), ("io_uring", Self::IoUring)];

    /// The way of a name.
    pub fn find(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, a)| *a)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, a)| *a == self).map_or("threads", |(n, _)| n)
    }

    /// The same, or plain calls where this host has nothing better.
    pub(super) fn or_threads(self) -> Self {
        let there = match self {
            Aio::Threads => true,
            #[cfg(target_os = "linux")]
            Aio::Native => super::aio::is_there(),
            #[cfg(target_os = "linux")]
            Aio::IoUring => super::uring::is_there(),
            #[cfg(not(target_os = "linux"))]
            _ => false,
        };
        if there { self } else { Aio::Threads }
    }

    /// Reads once; less than all may come, and nothing where another way is to be tried.
    pub(super) fn read(self, file: &File, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        match self {
            #[cfg(target_os = "linux")]
            Aio::Native => super::aio::read(file, bufs, offset),
            #[cfg(target_os = "linux")]
            Aio::IoUring => super::uring::read(file, bufs, offset),
            _ => transfer::first_read(file, bufs, offset),
        }
    }

    /// Writes once, with a flush behind it if asked for; says how much was written, and whether that is stable.
    pub(super) fn write(
        self,
        file: &File,
        bufs: &[IoSlice<'_>],
        offset: u64,
        sync: bool,
    ) -> io::Result<(usize, bool)> {
        let _ = sync;
        match self {
            #[cfg(target_os = "linux")]
            Aio::Native => Ok((super::aio::write(file, bufs, offset)?, false)),
            #[cfg(target_os = "linux")]
            Aio::IoUring => super::uring::write(file, bufs, offset, sync),
            _ => Ok((transfer::first_write(file, bufs, offset)?, false)),
        }
    }

    /// Makes what has been written stable.
    pub(super) fn sync(self, file: &File) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Aio::IoUring => super::uring::sync(file),
            _ => file.sync_data(),
        }
    }
}

/// What the host keeps of a disk, and when a write is done: the values of `cache=` and of the tools' `-t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheMode {
    /// Past the host's page cache.
    pub direct: bool,
    /// Flushes do nothing.
    pub no_flush: bool,
    /// A write is done when it is stable.
    pub write_through: bool,
}

impl CacheMode {
    /// Names in options.
    pub const NAMES: [&'static str; 5] = ["none", "writeback", "writethrough", "directsync", "unsafe"];

    /// The mode of a name.
    pub fn find(name: &str) -> Option<Self> {
        let (direct, no_flush, write_through) = match name {
            "none" | "off" => (true, false, false),
            "writeback" => (false, false, false),
            "writethrough" => (false, false, true),
            "directsync" => (true, false, true),
            "unsafe" => (false, true, false),
            _ => return None,
        };
        Some(CacheMode { direct, no_flush, write_through })
    }
}
