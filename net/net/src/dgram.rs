//! Datagram sockets: `-netdev dgram`, `-netdev socket,udp=` and `mcast=`, and inherited descriptors.
//!
//! A frame a datagram, nothing around it; what QEMU's back ends of the same names send.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::fd::{Carried, Carrier, carried};
use crate::{Address, NetError};

/// What the descriptor does.
struct Datagrams {
    /// Receives, and sends but for a group's.
    socket: Socket,
    /// Where frames go, unless the socket is connected.
    to: Option<SockAddr>,
    /// A group's frames leave by a socket of their own, by whose address we know them when they come back.
    group: Option<(Socket, SocketAddr)>,
    /// A socket in the file system that goes with us.
    path: Option<PathBuf>,
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Carrier for Datagrams {
    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        match (&self.group, &self.to) {
            (Some((socket, _)), _) => socket.send_vectored(frame),
            (None, Some(to)) => self.socket.send_to_vectored(frame, to),
            (None, None) => self.socket.send_vectored(frame),
        }
        .map(|_| ())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        let Some((_, own)) = &self.group else {
            return Ok(Some(0..rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?.0));
        };
        let (n, _, from) = rustix::net::recvfrom(&self.socket, buffer, RecvFlags::empty())?;
        let ours = from.and_then(|f| SocketAddr::try_from(f).ok()).is_some_and(|f| f == *own);
        Ok((!ours).then_some(0..n))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that carries one frame a datagram.
pub struct Dgram(Carried<Datagrams>);

carried!(Dgram);

impl Dgram {
    fn new(carrier: Datagrams) -> Result<Self, NetError> {
        Ok(Dgram(Carried::new("dgram", [carrier])?))
    }

    /// Binds `local` and sends to `remote`, which need not be there yet. A left-over socket file at `local` is
    /// replaced.
    pub fn bind(local: &Address, remote: &Address) -> Result<Self, NetError> {
        let to = remote.resolve(false)?.swap_remove(0);
        let socket = local.bind(Type::DGRAM)?;
        let path = match local {
            Address::Unix { path, abstract_name: false, .. } => Some(path.clone()),
            _ => None,
        };
        let here = socket.local_addr().map_err(|e| NetError::host("datagram socket", e))?;
        if here.domain() != to.domain() {
            return Err(NetError::Option(format!(
                "{local} and {remote} are of different families; expected two of one family"
            )));
        }
        Self::new(Datagrams { socket, to: Some(to), group: None, path })
    }

    /// Joins a multicast group (IPv4) by the interface that has the address `local`, or the one the host chooses.
    /// Who else is in the group gets what is sent; we do not get our own.
    pub fn multicast(group: SocketAddrV4, local: Option<Ipv4Addr>) -> Result<Self, NetError> {
        if !group.ip().is_multicast() {
            let text = format!("{group}: expected a multicast address (224.0.0.0 to 239.255.255.255)");
            return Err(NetError::Option(text));
        }
        let made = || -> io::Result<Datagrams> {
            let interface = local.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let udp = || Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP));
            let socket = udp()?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::V4(group).into())?;
            socket.join_multicast_v4(group.ip(), &interface)?;
            let out = udp()?;
            out.set_multicast_loop_v4(true)?;
            if local.is_some() {
                out.set_multicast_if_v4(&interface)?;
            }
            out.connect(&SocketAddr::V4(group).into())?;
            out.set_nonblocking(true)?;
            let own = out.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            Ok(Datagrams { socket, to: None, group: Some((out, own)), path: None })
        };
        let hint = "is there a route to it? localaddr=ADDRESS names the interface";
        Self::new(made().map_err(|e| NetError::host(format!("multicast group {group} ({hint})"), e))?)
    }

    /// Uses a connected datagram socket, e.g. one end of a socket pair.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetError> {
        Self::new(Datagrams { socket: fd.into(), to: None, group: None, path: None })
    }

    /// Two endpoints joined to each other.
    pub fn pair() -> Result<(Self, Self), NetError> {
        let (a, b) = UnixDatagram::pair().map_err(|e| NetError::host("socket pair", e))?;
        Ok((Self::from_fd(a.into())?, Self::from_fd(b.into())?))
    }

    /// The address it is bound to, if that is one of the Internet's.
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.carriers().next()?.socket.local_addr().ok()?.as_socket()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;
    use crate::Endpoint;
    use crate::testing::Sink;

    const WAIT: Duration = Duration::from_secs(20);

    #[test]
    fn frames_pass_and_wait_for_room() {
        let (a, b) = Dgram::pair().unwrap();
        let (sink, open, frames) = Sink::new();
        b.set_receiver(Some(sink));
        assert!(a.send(&[b"one", b"!"]));
        assert_eq!(frames.recv().unwrap(), b"one!");
        open.store(false, Ordering::SeqCst);
        assert!(a.send(&[b"two"]));
        assert!(a.send(&[&[3; 1500]]));
        open.store(true, Ordering::SeqCst);
        b.accept_input();
        assert_eq!(frames.recv().unwrap(), b"two");
        assert_eq!(frames.recv().unwrap(), [3; 1500]);
        let many: Vec<&[u8]> = vec![b"x"; 100];
        assert!(a.send(&many));
        assert_eq!(frames.recv().unwrap(), [b'x'; 100]);
        drop(b);
        assert!(!a.send(&[b"nobody"]));
    }

    #[test]
    fn paths() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let (local, remote) = (Address::path(&here), Address::path(&there));
        let end = Dgram::bind(&local, &remote).unwrap();
        assert!(!end.send(&[b"nobody"]));
        let peer = UnixDatagram::bind(&there).unwrap();
        assert!(end.send(&[b"hello"]));
        let mut buf = [0; 16];
        assert_eq!(peer.recv(&mut buf).unwrap(), 5);
        let (sink, _, frames) = Sink::new();
        end.set_receiver(Some(sink));
        peer.send_to(b"back", &here).unwrap();
        assert_eq!(frames.recv_timeout(WAIT).unwrap(), b"back");
        drop(end);
        assert!(!here.exists());
        let mixed = Dgram::bind(&local, &Address::inet("127.0.0.1:1").unwrap()).err().unwrap().to_string();
        assert!(mixed.contains("different families"), "{mixed}");
    }

    #[test]
    fn datagrams_of_the_internet_outlive_refusals() {
        let inet = |port: u16| Address::inet(&format!("127.0.0.1:{port}")).unwrap();
        let far = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = far.local_addr().unwrap().port();
        let end = Dgram::bind(&inet(0), &inet(port)).unwrap();
        let (sink, _, frames) = Sink::new();
        end.set_receiver(Some(sink));
        assert!(end.send(&[&[1; 60]]));
        let mut buf = [0; 100];
        let (n, from) = far.recv_from(&mut buf).unwrap();
        assert_eq!((n, Some(from)), (60, end.local()));
        drop(far);
        for _ in 0..50 {
            // Each is answered by a refusal, which the next receive would report on a connected socket.
            end.send(&[&[2; 60]]);
        }
        let far = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
        far.send_to(&[3; 60], from).unwrap();
        assert_eq!(frames.recv_timeout(WAIT).unwrap(), [3; 60]);
        let twice =
            Dgram::bind(&Address::inet(&from.to_string()).unwrap(), &inet(port)).err().unwrap().to_string();
        assert!(twice.contains("in use; choose another"), "{twice}");
    }

    #[test]
    fn a_group_hears_all_but_itself() {
        let group = SocketAddrV4::new(Ipv4Addr::new(239, 255, 12, 34), 40123);
        let lo = Some(Ipv4Addr::LOCALHOST);
        let (a, b) = (Dgram::multicast(group, lo).unwrap(), Dgram::multicast(group, lo).unwrap());
        let (sink, _, to_a) = Sink::new();
        a.set_receiver(Some(sink));
        let (sink, _, to_b) = Sink::new();
        b.set_receiver(Some(sink));
        assert!(a.send(&[&[1; 60]]));
        assert_eq!(to_b.recv_timeout(WAIT).unwrap(), [1; 60]);
        assert!(b.send(&[&[2; 60]]));
        assert_eq!(to_a.recv_timeout(WAIT).unwrap(), [2; 60], "and not its own");
        let bad =
            Dgram::multicast(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1), None).err().unwrap().to_string();
        assert!(bad.contains("expected a multicast address"), "{bad}");
    }
}
