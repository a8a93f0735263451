//! The kernel's network block devices (`linux/nbd.h`): a connected socket given to `/dev/nbdN`, over which the kernel sends the
//! requests that the device gets.
#![expect(unsafe_code, reason = "ioctls of network block devices")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

/// Numbers of the requests.
mod request {
    pub(super) const SET_SOCKET: u32 = 0xab00;
    pub(super) const SET_BLOCK_SIZE: u32 = 0xab01;
    pub(super) const DO_IT: u32 = 0xab03;
    pub(super) const CLEAR_SOCKET: u32 = 0xab04;
    pub(super) const CLEAR_QUEUE: u32 = 0xab05;
    pub(super) const SET_BLOCKS: u32 = 0xab07;
    pub(super) const DISCONNECT: u32 = 0xab08;
    pub(super) const SET_FLAGS: u32 = 0xab0a;
    /// `BLKROSET` of `linux/fs.h`, which takes the address of an int.
    pub(super) const SET_READ_ONLY: u32 = 0x125d;
}

/// Bytes of the blocks that the size is told in.
const BLOCK: u64 = 512;

/// A device.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Device(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn ioctl(&self, request: u32, value: libc::c_ulong) -> io::Result<()> {
        // SAFETY: all requests used here but one take a number or nothing; that one gets the address of an int that lives on.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, value) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives the device the socket of a server that has said what it gives: its size, and the flags of the export.
    pub(super) fn connect(
        &self,
        socket: BorrowedFd<'_>,
        size: u64,
        flags: u16,
        read_only: bool,
    ) -> io::Result<()> {
        let fd = libc::c_ulong::try_from(socket.as_raw_fd()).map_err(io::Error::other)?;
        self.ioctl(request::SET_SOCKET, fd)?;
        let set = || {
            self.ioctl(request::SET_BLOCK_SIZE, BLOCK)?;
            self.ioctl(request::SET_BLOCKS, size / BLOCK)?;
            self.ioctl(request::SET_FLAGS, flags.into())?;
            let flag = libc::c_int::from(read_only);
            self.ioctl(request::SET_READ_ONLY, &raw const flag as libc::c_ulong)
        };
        set().inspect_err(|_| drop(self.ioctl(request::CLEAR_SOCKET, 0)))
    }

    /// Serves the device until it is disconnected.
    pub(super) fn run(&self) -> io::Result<()> {
        let done = self.ioctl(request::DO_IT, 0);
        // Disconnected by `disconnect`, from another process.
        let done = match done {
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => Ok(()),
            other => other,
        };
        let _ = self.ioctl(request::CLEAR_QUEUE, 0);
        let _ = self.ioctl(request::CLEAR_SOCKET, 0);
        done
    }

    pub(super) fn disconnect(&self) -> io::Result<()> {
        self.ioctl(request::CLEAR_QUEUE, 0)?;
        self.ioctl(request::DISCONNECT, 0)?;
        self.ioctl(request::CLEAR_SOCKET, 0)
    }
}
