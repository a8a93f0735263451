//! The tun driver's device file and its ioctls (`Documentation/networking/tuntap.rst`, `linux/if_tun.h`).
#![expect(unsafe_code, reason = "ioctls of /dev/net/tun")]

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::fd::Carrier;

/// Bytes of an interface name with its terminating zero.
pub(super) const NAME_SIZE: usize = 16;

/// Datagrams in one frame, for IPv4 and IPv6: the kernel has them from Linux 6.2 on, and takes both or neither.
const USO: libc::c_uint = 0x20 | 0x40;

/// virtio-net feature bits and the tun offloads they stand for.
const OFFLOADS: [(u64, libc::c_uint); 6] = [
    (1 << 1, libc::TUN_F_CSUM),
    (1 << 7, libc::TUN_F_TSO4),
    (1 << 8, libc::TUN_F_TSO6),
    (1 << 9, libc::TUN_F_TSO_ECN),
    (1 << 10, libc::TUN_F_UFO),
    (1 << 54 | 1 << 55, USO),
];

/// One queue of a tap device.
pub(super) struct Queue(OwnedFd);

/// The interface request of `TUNSETIFF`: name and flags, padded to the kernel's size.
#[repr(C)]
struct Request {
    name: [u8; NAME_SIZE],
    flags: libc::c_short,
    padding: [u8; 22],
}

impl Request {
    fn name(&self) -> String {
        let end = self.name.iter().position(|&b| b == 0).unwrap_or(NAME_SIZE);
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

impl Queue {
    /// Opens one queue of the interface `name` (at most 15 bytes); makes the interface if there is none. Returns its
    /// name too.
    pub(super) fn open(name: &str, vnet_header: bool, multiqueue: bool) -> io::Result<(Self, String)> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let fd = OwnedFd::from(file);
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        for (on, flag) in [(vnet_header, libc::IFF_VNET_HDR), (multiqueue, libc::IFF_MULTI_QUEUE)] {
            flags |= if on { flag } else { 0 };
        }
        let mut request = Request { name: [0; NAME_SIZE], flags: flags as libc::c_short, padding: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: `request` has the layout and size of struct ifreq, which the kernel reads and writes.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((Queue(fd), request.name()))
    }

    /// Takes an open queue; says its interface's name and whether frames have virtio-net headers.
    pub(super) fn inherited(fd: OwnedFd) -> io::Result<(Self, String, bool)> {
        let mut request = Request { name: [0; NAME_SIZE], flags: 0, padding: [0; 22] };
        // SAFETY: as above.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let header = libc::c_int::from(request.flags) & libc::IFF_VNET_HDR != 0;
        Ok((Queue(fd), request.name(), header))
    }

    /// Sets the length of the header and the offloads of the guest.
    pub(super) fn set_offload(&self, header: usize, guest_features: u64) -> io::Result<()> {
        let size = header as libc::c_int;
        let offload =
            OFFLOADS.iter().filter(|(bits, _)| guest_features & bits == *bits).fold(0, |all, (_, f)| all | f);
        let fd = self.0.as_raw_fd();
        // SAFETY: TUNSETVNETHDRSZ reads an int; TUNSETOFFLOAD takes its argument by value.
        let done = unsafe {
            libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const size) >= 0
                && libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) >= 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sets the length of the header alone.
    pub(super) fn set_header(&self, header: usize) -> io::Result<()> {
        let size = header as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        if done >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Has the device use this queue, or not. A device of one queue always does.
    pub(super) fn set_attached(&self, attached: bool) {
        let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        let mut request = Request { name: [0; NAME_SIZE], flags: flag as libc::c_short, padding: [0; 22] };
        // SAFETY: `request` has the layout and size of struct ifreq, which the kernel reads. That it is refused means that
        // things are so already.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETQUEUE, &raw mut request) };
    }

    /// Whether the kernel knows of several datagrams in one frame. No offload is set afterwards.
    pub(super) fn has_uso(&self) -> bool {
        let set = |offload: libc::c_uint| {
            // SAFETY: TUNSETOFFLOAD takes its argument by value.
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) >= 0 }
        };
        let has = set(libc::TUN_F_CSUM | USO);
        set(0);
        has
    }

    /// Limits what the host's kernel keeps of what we sent.
    pub(super) fn set_send_buffer(&self, bytes: u32) -> io::Result<()> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // SAFETY: TUNSETSNDBUF reads an int.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETSNDBUF, &raw const bytes) };
        if done >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Carrier for Queue {
    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.0, frame)?;
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        Ok(Some(0..rustix::io::read(&self.0, buffer)?))
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        // The interface was deleted.
        error.raw_os_error() == Some(libc::EBADFD)
    }
}
