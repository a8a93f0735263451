//! A tap device on a bridge (`linux/if_tun.h`, `linux/sockios.h`).
#![expect(unsafe_code, reason = "ioctls of network interfaces")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of an interface name with its terminating zero.
const NAME_SIZE: usize = 16;

/// `SIOCBRADDIF`: adds a port to a bridge.
const ADD_PORT: libc::c_ulong = 0x89a2;

/// struct ifreq: a name and a union of 24 bytes.
#[repr(C, align(8))]
struct Request {
    name: [u8; NAME_SIZE],
    data: [u8; 24],
}

impl Request {
    fn new(name: &str) -> Option<Self> {
        let mut request = Request { name: [0; NAME_SIZE], data: [0; 24] };
        (name.len() < NAME_SIZE).then(|| request.name[..name.len()].copy_from_slice(name.as_bytes()))?;
        Some(request)
    }
}

fn ioctl(fd: &OwnedFd, number: libc::c_ulong, request: &mut Request) -> io::Result<()> {
    // SAFETY: all requests used here take a struct ifreq, whose size and layout `Request` has.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), number as _, std::ptr::from_mut(request)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The descriptor with this number, borrowed for the program's life.
pub(crate) fn inherited(fd: u32) -> Option<BorrowedFd<'static>> {
    let raw = i32::try_from(fd).ok()?;
    // SAFETY: fcntl only looks the number up.
    let open = unsafe { libc::fcntl(raw, libc::F_GETFD) } >= 0;
    // SAFETY: it is open and stays so: nothing in this program closes it.
    open.then(|| unsafe { BorrowedFd::borrow_raw(raw) })
}

/// Makes a tap device, puts it on `bridge` with the bridge's MTU, and sets it up.
pub(crate) fn on_bridge(bridge: &str, vnet_header: bool) -> Result<OwnedFd, String> {
    let bad = || format!("bridge name '{bridge}': expected at most 15 bytes");
    let control = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .map_err(|e| format!("socket: {e}"))?;
    let mut of_bridge = Request::new(bridge).ok_or_else(bad)?;
    ioctl(&control, libc::SIOCGIFMTU as _, &mut of_bridge).map_err(|e| format!("bridge {bridge}: {e}"))?;
    let mtu = of_bridge.data;

    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let tap = OwnedFd::from(file.map_err(|e| format!("/dev/net/tun: {e}"))?);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | if vnet_header { libc::IFF_VNET_HDR } else { 0 };
    let mut device = Request::new("tap%d").ok_or_else(bad)?;
    device.data[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
    let failed = |what: &'static str| {
        move |e: io::Error| format!("{what}: {e} (the helper needs CAP_NET_ADMIN: is it set-uid root?)")
    };
    ioctl(&tap, libc::TUNSETIFF as _, &mut device).map_err(failed("tap device"))?;
    let end = device.name.iter().position(|&b| b == 0).unwrap_or(NAME_SIZE);
    let name = String::from_utf8_lossy(&device.name[..end]).into_owned();

    let mut request = Request::new(&name).ok_or_else(bad)?;
    // Linux gives a bridge the lowest address of its ports: one that begins with 0xfe does not change it.
    ioctl(&control, libc::SIOCGIFHWADDR as _, &mut request).map_err(failed("address"))?;
    request.data[2] = 0xfe;
    ioctl(&control, libc::SIOCSIFHWADDR as _, &mut request).map_err(failed("address"))?;
    request.data = mtu;
    ioctl(&control, libc::SIOCSIFMTU as _, &mut request).map_err(failed("MTU"))?;

    let index = rustix::net::netdevice::name_to_index(&control, &name).map_err(|e| format!("{name}: {e}"))?;
    of_bridge.data = [0; 24];
    of_bridge.data[..4].copy_from_slice(&index.to_ne_bytes());
    ioctl(&control, ADD_PORT, &mut of_bridge)
        .map_err(|e| format!("cannot put a device on {bridge}: {e} (is it a bridge?)"))?;

    request.data = [0; 24];
    ioctl(&control, libc::SIOCGIFFLAGS as _, &mut request).map_err(failed("flags"))?;
    let up = u16::from_ne_bytes([request.data[0], request.data[1]]) | libc::IFF_UP as u16;
    request.data[..2].copy_from_slice(&up.to_ne_bytes());
    ioctl(&control, libc::SIOCSIFFLAGS as _, &mut request).map_err(failed("flags"))?;
    Ok(tap)
}
