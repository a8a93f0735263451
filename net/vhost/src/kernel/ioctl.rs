//! The ioctls themselves.
#![expect(unsafe_code, reason = "ioctls of the kernel's vhost drivers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use vhost_user::VringAddress;

use super::Driver;
use crate::Event;

/// An open device of one of the drivers.
pub(super) struct Descriptor(pub(super) OwnedFd);

/// Directions of an ioctl's data: none, into the kernel, out of it.
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// The number of an ioctl of the group that vhost has (`asm-generic/ioctl.h`).
const fn number(direction: u32, id: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | 0xaf << 8 | id
}

/// A ring and a number.
#[repr(C)]
struct VringState {
    index: u32,
    number: u32,
}

/// A ring and a descriptor, or -1.
#[repr(C)]
struct VringFile {
    index: u32,
    fd: i32,
}

/// Where a ring is.
#[repr(C)]
struct VringPlace {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

const GET_FEATURES: u32 = number(READ, 0x00, 8);
const SET_FEATURES: u32 = number(WRITE, 0x00, 8);
const SET_OWNER: u32 = number(NONE, 0x01, 0);
/// Its size is that of the header; the pieces follow.
const SET_MEM_TABLE: u32 = number(WRITE, 0x03, 8);
const SET_VRING_NUM: u32 = number(WRITE, 0x10, 8);
const SET_VRING_ADDR: u32 = number(WRITE, 0x11, 40);
const SET_VRING_BASE: u32 = number(WRITE, 0x12, 8);
const GET_VRING_BASE: u32 = number(WRITE | READ, 0x12, 8);
const SET_VRING_KICK: u32 = number(WRITE, 0x20, 8);
const SET_VRING_CALL: u32 = number(WRITE, 0x21, 8);
const NET_SET_BACKEND: u32 = number(WRITE, 0x30, 8);
const VSOCK_SET_GUEST_CID: u32 = number(WRITE, 0x60, 8);
const VSOCK_SET_RUNNING: u32 = number(WRITE, 0x61, 4);

impl Descriptor {
    /// An ioctl whose argument points to a `T`.
    fn with<T>(&self, request: u32, argument: *mut T) -> io::Result<()> {
        // SAFETY: callers pass a value of the size and layout that the request's number stands for, which lives for the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, argument) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn state(&self, request: u32, index: u32, number: u32) -> io::Result<u32> {
        let mut state = VringState { index, number };
        self.with(request, &raw mut state)?;
        Ok(state.number)
    }

    fn file(&self, request: u32, index: u32, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut file = VringFile { index, fd: fd.map_or(-1, |fd| fd.as_raw_fd()) };
        self.with(request, &raw mut file)
    }
}

impl Driver for Descriptor {
    fn features(&self) -> io::Result<u64> {
        let mut features = 0u64;
        self.with(GET_FEATURES, &raw mut features)?;
        Ok(features)
    }

    fn set_owner(&self) -> io::Result<()> {
        self.with(SET_OWNER, std::ptr::null_mut::<()>())
    }

    fn set_features(&self, mut features: u64) -> io::Result<()> {
        self.with(SET_FEATURES, &raw mut features)
    }

    fn set_memory(&self, pieces: &[[u64; 3]]) -> io::Result<()> {
        // The header is a count and padding; a piece has a fourth word that is zero.
        let mut words = vec![0u64];
        words.extend(pieces.iter().flat_map(|[guest, size, user]| [*guest, *size, *user, 0]));
        let count = (pieces.len() as u32).to_ne_bytes();
        words[0] = u64::from_ne_bytes([count[0], count[1], count[2], count[3], 0, 0, 0, 0]);
        self.with(SET_MEM_TABLE, words.as_mut_ptr())
    }

    fn set_size(&self, ring: u32, entries: u32) -> io::Result<()> {
        self.state(SET_VRING_NUM, ring, entries).map(drop)
    }

    fn set_base(&self, ring: u32, base: u32) -> io::Result<()> {
        self.state(SET_VRING_BASE, ring, base).map(drop)
    }

    fn base(&self, ring: u32) -> io::Result<u32> {
        self.state(GET_VRING_BASE, ring, 0)
    }

    fn set_address(&self, a: &VringAddress) -> io::Result<()> {
        let mut place = VringPlace {
            index: a.index,
            flags: a.flags,
            descriptors: a.descriptors,
            used: a.used,
            available: a.available,
            log: a.log,
        };
        self.with(SET_VRING_ADDR, &raw mut place)
    }

    fn set_kick(&self, ring: u32, event: &Event) -> io::Result<()> {
        self.file(SET_VRING_KICK, ring, Some(event.as_fd()))
    }

    fn set_call(&self, ring: u32, event: &Event) -> io::Result<()> {
        self.file(SET_VRING_CALL, ring, Some(event.as_fd()))
    }

    fn set_socket(&self, ring: u32, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.file(NET_SET_BACKEND, ring, socket)
    }

    fn set_cid(&self, mut cid: u64) -> io::Result<()> {
        self.with(VSOCK_SET_GUEST_CID, &raw mut cid)
    }

    fn set_running(&self, on: bool) -> io::Result<()> {
        let mut on = libc::c_int::from(on);
        self.with(VSOCK_SET_RUNNING, &raw mut on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the numbers that `linux/vhost.h` makes on most hosts.
    #[test]
    fn numbers() {
        let expected = [
            (GET_FEATURES, 0x8008_af00),
            (SET_FEATURES, 0x4008_af00),
            (SET_OWNER, 0xaf01),
            (SET_MEM_TABLE, 0x4008_af03),
            (SET_VRING_NUM, 0x4008_af10),
            (SET_VRING_ADDR, 0x4028_af11),
            (SET_VRING_BASE, 0x4008_af12),
            (GET_VRING_BASE, 0xc008_af12),
            (SET_VRING_KICK, 0x4008_af20),
            (SET_VRING_CALL, 0x4008_af21),
            (NET_SET_BACKEND, 0x4008_af30),
            (VSOCK_SET_GUEST_CID, 0x4008_af60),
            (VSOCK_SET_RUNNING, 0x4004_af61),
        ];
        for (number, wanted) in expected {
            assert_eq!(number, wanted, "{wanted:#x}");
        }
    }
}
