//! The error queue of a socket (ip(7), `linux/errqueue.h`) and the urgent mark of a stream (tcp(7)).
#![expect(unsafe_code, reason = "recvmsg with control data, a socket option and an ioctl")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use super::HostError;
use crate::icmp::Trouble;

/// Kinds of origins (`SO_EE_ORIGIN_*`).
const LOCAL: u8 = 1;
const ICMP: u8 = 2;
const ICMP6: u8 = 3;
/// Length of `struct sock_extended_err`.
const EXTENDED: usize = 16;
/// The ioctl that asks whether a stream stands at its urgent mark.
const SIOCATMARK: libc::c_ulong = 0x8905;

/// Asks for the errors of a socket's packets. A host that refuses tells less.
pub(crate) fn watch(socket: &impl AsFd, v6: bool) {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is an int, which lives for the call.
    let done =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const on).cast(), size) };
    if done < 0 {
        tracing::debug!("user network: the host tells no errors: {}", std::io::Error::last_os_error());
    }
}

/// Says whether a socket's packets may be sent in fragments; those that may not are refused when they are too long.
pub(crate) fn fragments(socket: &impl AsFd, v6: bool, allowed: bool) {
    let done = if v6 {
        let how = if allowed { Ipv6PathMtuDiscovery::DONT } else { Ipv6PathMtuDiscovery::DO };
        set_ipv6_mtu_discover(socket, how)
    } else {
        let how = if allowed { Ipv4PathMtuDiscovery::DONT } else { Ipv4PathMtuDiscovery::DO };
        set_ip_mtu_discover(socket, how)
    };
    if let Err(e) = done {
        tracing::debug!("user network: fragments: {e}");
    }
}

/// Whether the next byte of a stream is an urgent one.
pub(crate) fn at_mark(socket: &impl AsFd) -> bool {
    let mut at: libc::c_int = 0;
    // SAFETY: the ioctl writes an int, which lives for the call.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCATMARK as _, &raw mut at) };
    done >= 0 && at != 0
}

/// Takes the oldest error off a socket.
pub(crate) fn next(socket: &impl AsFd) -> Option<HostError> {
    let mut data = vec![0u8; 1280];
    // Of words, since the kernel aligns what it writes there.
    let (mut control, mut name) = ([0u64; 64], [0u64; 16]);
    let mut piece = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all fields are integers and pointers, for which zeros are right.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of_val(&name) as libc::socklen_t;
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points at buffers of the lengths it says, which live for the call.
    let n = unsafe {
        libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    data.truncate(usize::try_from(n).ok()?);
    let control: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let control = control.get(..message.msg_controllen as usize)?;
    let name: Vec<u8> = name.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let (what, from) = extended(control)?;
    Some(HostError { to: address(&name), from, what, data })
}

/// Finds the error among control messages, and who reported it.
fn extended(mut control: &[u8]) -> Option<(Trouble, Option<IpAddr>)> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    loop {
        let head = control.get(..HEADER)?;
        let length = usize::from_ne_bytes(head.get(..size_of::<usize>())?.try_into().ok()?);
        let int = |at: usize| Some(libc::c_int::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (level, kind) = (int(HEADER - 8)?, int(HEADER - 4)?);
        let body = control.get(HEADER..length)?;
        let v6 = (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
        if v6 || (level, kind) == (libc::IPPROTO_IP, libc::IP_RECVERR) {
            return error(body, v6);
        }
        control = control.get(length.next_multiple_of(size_of::<usize>())..)?;
    }
}

/// Reads a `struct sock_extended_err` and the address behind it.
fn error(body: &[u8], v6: bool) -> Option<(Trouble, Option<IpAddr>)> {
    let head = body.get(..EXTENDED)?;
    let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let (number, origin, kind, code, info) = (word(0)?, head[4], head[5], head[6], word(8)?);
    let from = address(&body[EXTENDED..]).map(|a| a.ip());
    let what = match origin {
        LOCAL if number == libc::EMSGSIZE as u32 => Trouble::too_big(v6, info),
        ICMP if (kind, code) == (3, 4) => Trouble::too_big(false, info),
        ICMP => Trouble { v6: false, kind, code, rest: 0 },
        ICMP6 => Trouble { v6: true, kind, code, rest: info },
        _ => return None,
    };
    Some((what, from.filter(|_| origin != LOCAL)))
}

/// Reads a socket address.
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = libc::c_int::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_closed_port_is_told_of() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        watch(&socket, false);
        assert!(next(&socket).is_none());
        socket.send_to(b"anybody?", closed).unwrap();
        let error = (0..1000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            next(&socket)
        });
        let error = error.unwrap();
        assert_eq!((error.to, error.from), (Some(closed), Some(closed.ip())));
        assert_eq!((error.what.v6, error.what.kind, error.what.code), (false, 3, 3));
        assert_eq!(error.data, b"anybody?");
    }

    #[test]
    fn control_data_of_any_content() {
        for length in 0..80 {
            for fill in [0u8, 1, 16, 0x41, 0xff] {
                let _ = extended(&vec![fill; length]);
                let _ = error(&vec![fill; length], length % 2 == 0);
            }
        }
    }
}
