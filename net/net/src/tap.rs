//! Linux tap devices (`Documentation/networking/tuntap.rst`, `linux/if_tun.h`).
#![expect(unsafe_code, reason = "ioctls of /dev/net/tun")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fd::FdEndpoint;
use crate::{Endpoint, NetError, NetReceiver};

/// Bytes of an interface name with its terminating zero.
const NAME_SIZE: usize = 16;

/// virtio-net feature bits and the tun offloads they stand for.
const OFFLOADS: [(u64, libc::c_uint); 5] = [
    (1 << 1, libc::TUN_F_CSUM),
    (1 << 7, libc::TUN_F_TSO4),
    (1 << 8, libc::TUN_F_TSO6),
    (1 << 9, libc::TUN_F_TSO_ECN),
    (1 << 10, libc::TUN_F_UFO),
];

/// How to open a tap device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapOptions {
    /// Name of the interface, or a pattern such as `tap%d`; the host chooses one if empty.
    pub name: String,
    /// Carry virtio-net headers, so that offloads can be used.
    pub vnet_header: bool,
}

/// A tap device. It is gone with the last handle unless it was made persistent.
pub struct Tap {
    end: FdEndpoint,
    name: String,
    header: AtomicUsize,
}

/// The interface request of `TUNSETIFF`: name and flags, padded to the kernel's size.
#[repr(C)]
struct Request {
    name: [u8; NAME_SIZE],
    flags: libc::c_short,
    padding: [u8; 22],
}

impl Tap {
    /// Opens or makes the device; needs the right to do so on this host.
    pub fn open(options: &TapOptions) -> Result<Self, NetError> {
        if options.name.len() >= NAME_SIZE {
            return Err(NetError::Option(format!("tap name '{}': expected at most 15 bytes", options.name)));
        }
        let failed = |e| NetError::host(format!("tap device '{}'", options.name), e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(failed)?;
        let fd = OwnedFd::from(file);
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        if options.vnet_header {
            flags |= libc::IFF_VNET_HDR;
        }
        let mut request = Request { name: [0; NAME_SIZE], flags: flags as libc::c_short, padding: [0; 22] };
        request.name[..options.name.len()].copy_from_slice(options.name.as_bytes());
        // SAFETY: `request` has the layout and size of struct ifreq, which the kernel reads and writes.
        if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let end = request.name.iter().position(|&b| b == 0).unwrap_or(NAME_SIZE);
        let name = String::from_utf8_lossy(&request.name[..end]).into_owned();
        let header = if options.vnet_header { 10 } else { 0 };
        Ok(Tap { end: FdEndpoint::new(&name, fd)?, name, header: AtomicUsize::new(header) })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Endpoint for Tap {
    fn send(&self, frame: &[&[u8]]) -> bool {
        self.end.send(frame)
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.end.set_receiver(receiver);
    }

    fn accept_input(&self) {
        self.end.accept_input();
    }

    fn vnet_header(&self) -> usize {
        self.header.load(Ordering::Relaxed)
    }

    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        if self.vnet_header() == 0 || !matches!(header, 10 | 12) {
            return false;
        }
        let size = header as libc::c_int;
        let offload =
            OFFLOADS.iter().filter(|(bit, _)| guest_features & bit != 0).fold(0, |all, (_, f)| all | f);
        let fd = self.end.fd().as_raw_fd();
        // SAFETY: TUNSETVNETHDRSZ reads an int; TUNSETOFFLOAD takes its argument by value.
        let done = unsafe {
            libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const size) >= 0
                && libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) >= 0
        };
        if done {
            self.header.store(header, Ordering::Relaxed);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_or_says_why_not() {
        match Tap::open(&TapOptions { name: "rheatest%d".into(), vnet_header: true }) {
            Ok(tap) => {
                assert!(tap.name().starts_with("rheatest"), "{}", tap.name());
                assert!(tap.set_offload(12, 1 << 1));
                assert_eq!(tap.vnet_header(), 12);
                assert!(!tap.set_offload(11, 0));
            }
            // A host that does not let us: the error must name the device.
            Err(e) => assert!(e.to_string().contains("tap device 'rheatest%d'"), "{e}"),
        }
        let error = Tap::open(&TapOptions { name: "a-name-much-too-long".into(), vnet_header: false });
        assert!(error.err().unwrap().to_string().contains("at most 15 bytes"));
    }
}
