//! L2TPv3 pseudowires with Ethernet in them (RFC 3931, 4.1.1 and 4.1.2; RFC 4719): `-netdev l2tpv3`.
//!
//! Static sessions without a control connection, as Linux's `ip l2tp add session` makes them and QEMU speaks: over UDP
//! or straight over IP. A data message is a flag word (UDP only), the session, a cookie of 0, 4 or 8 bytes, perhaps a
//! counter, perhaps some bytes more, and the frame. What has another session or cookie is not ours.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::RecvFlags;
use smallvec::SmallVec;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::NetError;
use crate::fd::{Carried, Carrier, carried};

/// IP protocol number of L2TP.
const PROTOCOL: i32 = 115;
/// First word over UDP: a data message of version 3.
const DATA_MESSAGE: u32 = 0x0003_0000;
/// Most bytes between the last field and the frame.
const MAX_OFFSET: u32 = 512;

/// A cookie, which says that both ends mean each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cookie {
    Short(u32),
    Long(u64),
}

/// How to reach the other end and what to put before frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L2tpv3Options {
    /// Our address.
    pub src: String,
    /// The other end's.
    pub dst: String,
    /// Our port and the other end's, over UDP.
    pub ports: Option<(String, String)>,
    /// The addresses are of IPv6.
    pub ipv6: bool,
    /// Session that what we send belongs to.
    pub tx_session: u32,
    /// Session that we take; the same if not given.
    pub rx_session: Option<u32>,
    /// Cookies we send and expect.
    pub cookies: Option<(u64, u64)>,
    /// They are of 64 bits.
    pub cookie64: bool,
    /// There is a counter.
    pub counter: bool,
    /// It is always zero.
    pub pin_counter: bool,
    /// Bytes between the last field and the frame.
    pub offset: u32,
}

/// What goes before each frame, without addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    udp: bool,
    /// Raw sockets of IPv4 give us the IP header as well.
    ip_header: bool,
    sessions: (u32, u32),
    cookies: Option<(Cookie, Cookie)>,
    counter: bool,
    pinned: bool,
    offset: usize,
}

impl Header {
    fn new(o: &L2tpv3Options) -> Result<Self, NetError> {
        if o.offset > MAX_OFFSET {
            return Err(NetError::Option(format!("offset={}: expected at most {MAX_OFFSET}", o.offset)));
        }
        let cookie = |value: u64, name: &str| match u32::try_from(value) {
            _ if o.cookie64 => Ok(Cookie::Long(value)),
            Ok(short) => Ok(Cookie::Short(short)),
            Err(_) => Err(NetError::Option(format!("{name}={value:#x}: expected 32 bits, or cookie64=on"))),
        };
        let cookies = match o.cookies {
            Some((tx, rx)) => Some((cookie(tx, "txcookie")?, cookie(rx, "rxcookie")?)),
            None => None,
        };
        Ok(Header {
            udp: o.ports.is_some(),
            ip_header: o.ports.is_none() && !o.ipv6,
            sessions: (o.tx_session, o.rx_session.unwrap_or(o.tx_session)),
            cookies,
            counter: o.counter,
            pinned: o.pin_counter,
            offset: o.offset as usize,
        })
    }

    fn write(&self, count: u32) -> SmallVec<[u8; 32]> {
        let mut out = SmallVec::new();
        if self.udp {
            out.extend_from_slice(&DATA_MESSAGE.to_be_bytes());
        }
        out.extend_from_slice(&self.sessions.0.to_be_bytes());
        match self.cookies {
            None => {}
            Some((Cookie::Short(c), _)) => out.extend_from_slice(&c.to_be_bytes()),
            Some((Cookie::Long(c), _)) => out.extend_from_slice(&c.to_be_bytes()),
        }
        if self.counter {
            out.extend_from_slice(&if self.pinned { 0 } else { count }.to_be_bytes());
        }
        out.resize(out.len() + self.offset, 0);
        out
    }

    /// Where the frame begins in a message, if it is one of our session.
    fn read(&self, message: &[u8]) -> Option<usize> {
        let mut rest = message;
        if self.ip_header {
            let length = usize::from(rest.first()? & 0xf) * 4;
            rest = rest.get(length..)?;
        }
        if self.udp {
            let (word, more) = rest.split_first_chunk()?;
            // The top bit is that of control messages; the version is in the third and fourth byte.
            let word = u32::from_be_bytes(*word);
            (word >> 31 == 0 && word >> 16 & 0xf == 3).then_some(())?;
            rest = more;
        }
        let (session, more) = rest.split_first_chunk()?;
        (u32::from_be_bytes(*session) == self.sessions.1).then_some(())?;
        rest = more;
        match self.cookies {
            None => {}
            Some((_, Cookie::Short(expected))) => {
                let (cookie, more) = rest.split_first_chunk()?;
                (u32::from_be_bytes(*cookie) == expected).then_some(())?;
                rest = more;
            }
            Some((_, Cookie::Long(expected))) => {
                let (cookie, more) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*cookie) == expected).then_some(())?;
                rest = more;
            }
        }
        // A counter that goes back is no reason to drop: the frames' own protocols cope with reordering.
        let skipped = if self.counter { 4 } else { 0 } + self.offset;
        Some(message.len() - rest.get(skipped..)?.len())
    }
}

struct Tunnel {
    socket: Socket,
    to: SockAddr,
    header: Header,
    count: AtomicU32,
}

impl AsFd for Tunnel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Carrier for Tunnel {
    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let count = self.count.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let header = self.header.write(count);
        let mut pieces: SmallVec<[IoSlice<'_>; 8]> = SmallVec::new();
        pieces.push(IoSlice::new(&header));
        pieces.extend(frame.iter().map(|p| IoSlice::new(p)));
        self.socket.send_to_vectored(&pieces, &self.to).map(|_| ())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        let (n, _) = rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
        Ok(self.header.read(&buffer[..n]).map(|from| from..n))
    }
}

/// One end of a pseudowire.
pub struct L2tpv3(Carried<Tunnel>);

carried!(L2tpv3);

impl L2tpv3 {
    /// Opens the socket. Straight over IP that needs the right to open raw sockets.
    pub fn new(options: &L2tpv3Options) -> Result<Self, NetError> {
        let header = Header::new(options)?;
        let (src_port, dst_port) = match &options.ports {
            Some((src, dst)) => (port("srcport", src)?, port("dstport", dst)?),
            None => (0, 0),
        };
        let src = resolve(&options.src, src_port, options.ipv6)?;
        let dst = resolve(&options.dst, dst_port, options.ipv6)?;
        let failed = |e: io::Error| {
            let hint = match e.kind() {
                io::ErrorKind::PermissionDenied if !header.udp => {
                    " (raw IP needs CAP_NET_RAW; udp=on does not)"
                }
                io::ErrorKind::AddrInUse => " (choose another srcport)",
                _ => "",
            };
            NetError::host(format!("l2tpv3 socket at {src}{hint}"), e)
        };
        let domain = if options.ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = if header.udp {
            Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
        } else {
            Socket::new(domain, Type::RAW, Some(Protocol::from(PROTOCOL)))
        }
        .map_err(failed)?;
        socket.bind(&src.into()).map_err(failed)?;
        let tunnel = Tunnel { socket, to: dst.into(), header, count: AtomicU32::new(0) };
        Ok(L2tpv3(Carried::new("l2tpv3", [tunnel])?))
    }
}

fn port(key: &str, text: &str) -> Result<u16, NetError> {
    text.parse().map_err(|_| NetError::Option(format!("{key}={text}: expected a port from 1 to 65535")))
}

fn resolve(host: &str, port: u16, ipv6: bool) -> Result<SocketAddr, NetError> {
    let all = (host, port).to_socket_addrs().map_err(|e| NetError::host(format!("address {host}"), e))?;
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    all.into_iter()
        .find(|a| a.is_ipv6() == ipv6)
        .ok_or_else(|| NetError::Option(format!("{host}: expected an {family} address (ipv6=on or off)")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Endpoint;
    use crate::testing::Sink;

    fn options() -> L2tpv3Options {
        L2tpv3Options {
            src: "127.0.0.1".into(),
            dst: "127.0.0.1".into(),
            tx_session: 0x1122_3344,
            rx_session: Some(0x5566_7788),
            ..L2tpv3Options::default()
        }
    }

    #[test]
    fn headers_as_the_standard_lays_them_out() {
        let udp = Some(("1".to_owned(), "2".to_owned()));
        let full = L2tpv3Options {
            ports: udp,
            cookies: Some((0x0102_0304_0506_0708, 9)),
            cookie64: true,
            counter: true,
            offset: 2,
            ..options()
        };
        let header = Header::new(&full).unwrap();
        let bytes = [0, 3, 0, 0, 0x11, 0x22, 0x33, 0x44, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 5, 0, 0];
        assert_eq!(header.write(5)[..], bytes);
        let theirs = [0, 3, 0, 0, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, 0, 0, 0, 9, 1, 1, 1, 1, 0, 0, 42];
        assert_eq!(header.read(&theirs), Some(22));
        for (at, what) in [(0, "a control message"), (1, "a version"), (4, "a session"), (15, "a cookie")] {
            let mut other = theirs;
            other[at] ^= 0x81;
            assert_eq!(header.read(&other), None, "{what}");
        }
        for length in 0..22 {
            assert_eq!(header.read(&theirs[..length]), None, "{length}");
        }
        let raw = Header::new(&options()).unwrap();
        let message = [&[0x46; 1][..], &[0; 23], &[0x55, 0x66, 0x77, 0x88], b"frame"].concat();
        assert_eq!((raw.write(1).len(), raw.read(&message)), (4, Some(28)));
        let wide = L2tpv3Options { cookies: Some((1 << 32, 1)), ..options() };
        assert!(Header::new(&wide).unwrap_err().to_string().contains("cookie64=on"));
    }

    #[test]
    fn fuzz_messages() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 40) as u8
        };
        for round in 0..20_000u32 {
            let o = L2tpv3Options {
                ports: (round & 1 != 0).then(|| ("1".into(), "2".into())),
                cookies: (round & 2 != 0).then_some((1, 0)),
                cookie64: round & 4 != 0,
                counter: round & 8 != 0,
                rx_session: Some(0),
                offset: round & 16,
                ..options()
            };
            let length = usize::from(random()) % 64;
            let message: Vec<u8> = (0..length).map(|_| random() & random() & random()).collect();
            if let Some(from) = Header::new(&o).unwrap().read(&message) {
                assert!(from <= message.len());
            }
        }
    }

    #[test]
    fn two_ends_over_udp() {
        let free =
            || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let (a, b) = (free(), free());
        let mut one = L2tpv3Options { ports: Some((a.clone(), b.clone())), counter: true, ..options() };
        one.cookies = Some((1, 2));
        let mut two = L2tpv3Options { ports: Some((b, a)), cookies: Some((2, 1)), ..one.clone() };
        (two.tx_session, two.rx_session) = (0x5566_7788, Some(0x1122_3344));
        let (left, right) = (L2tpv3::new(&one).unwrap(), L2tpv3::new(&two).unwrap());
        let (sink, _, frames) = Sink::new();
        right.set_receiver(Some(sink));
        let (sink, _, back) = Sink::new();
        left.set_receiver(Some(sink));
        for i in 0..20u8 {
            assert!(left.send(&[&[i; 30], &[i; 30]]));
            assert_eq!(frames.recv_timeout(Duration::from_secs(20)).unwrap(), [i; 60]);
        }
        assert!(right.send(&[&[9; 60]]));
        assert_eq!(back.recv_timeout(Duration::from_secs(20)).unwrap(), [9; 60]);
        let twice = L2tpv3::new(&one).err().unwrap().to_string();
        assert!(twice.contains("choose another srcport"), "{twice}");
    }
}
