//! Rules that lead connections in (`hostfwd`) and to something on the host (`guestfwd`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use crate::UserError;

/// Where a rule listens on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// UDP.
    Udp(SocketAddr),
    /// A Unix stream socket, made there.
    Unix(PathBuf),
}

/// `[tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT`, or `unix:PATH-[GUESTADDR]:GUESTPORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostForward {
    /// Where it listens.
    pub listen: Listen,
    /// Where in the guest it leads.
    pub guest: SocketAddr,
}

/// What stands behind an address of the guest's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A program, run by the shell for each connection, with the connection as its standard input and output.
    Command(String),
    /// A program and its arguments, with the connection, a TCP socket, as its standard input and output.
    Program(PathBuf, Vec<String>),
    /// A TCP server.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// `[tcp]:ADDRESS:PORT-cmd:COMMAND`, `-tcp:HOST:PORT` or `-unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestForward {
    /// Address in the guest's network.
    pub ip: Ipv4Addr,
    /// Port there.
    pub port: u16,
    /// What is behind it.
    pub to: Behind,
}

/// Splits an address (IPv6 ones in brackets) off its port.
fn address(text: &str, default: Option<IpAddr>) -> Option<SocketAddr> {
    let (ip, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bare = ip.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(ip);
    let ip = if bare.is_empty() { default? } else { bare.parse().ok()? };
    Some(SocketAddr::new(ip, port))
}

impl Listen {
    /// Reads the host's side of a rule: `[tcp|udp]:[HOSTADDR]:HOSTPORT` or `unix:PATH`.
    pub(crate) fn parse(text: &str) -> Result<Self, UserError> {
        Self::read(text).ok_or_else(|| {
            UserError::option("hostfwd", text, "of the form [tcp|udp]:[HOSTADDR]:HOSTPORT or unix:PATH")
        })
    }

    fn read(text: &str) -> Option<Self> {
        let any = Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let (kind, here) = text.split_once(':')?;
        Some(match kind {
            "tcp" | "" => Listen::Tcp(address(here, any)?),
            "udp" => Listen::Udp(address(here, any)?),
            "unix" if !here.is_empty() => Listen::Unix(PathBuf::from(here)),
            _ => return None,
        })
    }
}

impl HostForward {
    /// Reads a rule; `guest` is where it leads without an address.
    pub(crate) fn parse(text: &str, guest: Option<IpAddr>) -> Result<Self, UserError> {
        let error = || {
            UserError::option(
                "hostfwd",
                text,
                "of the form [tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT or unix:PATH-[GUESTADDR]:GUESTPORT",
            )
        };
        // A path may hold a dash, the guest's side cannot.
        let (here, there) = text.rsplit_once('-').ok_or_else(error)?;
        let guest = address(there, guest).filter(|a| a.port() != 0).ok_or_else(error)?;
        let listen = Listen::read(here).ok_or_else(error)?;
        Ok(HostForward { listen, guest })
    }
}

impl GuestForward {
    /// Reads a rule.
    pub(crate) fn parse(text: &str) -> Result<Self, UserError> {
        let error = || {
            UserError::option(
                "guestfwd",
                text,
                "of the form [tcp]:ADDRESS:PORT-cmd:COMMAND, -tcp:HOST:PORT or -unix:PATH",
            )
        };
        let rest = text.strip_prefix("tcp:").or_else(|| text.strip_prefix(':')).ok_or_else(error)?;
        let (here, behind) = rest.split_once('-').ok_or_else(error)?;
        let Some(SocketAddr::V4(here)) = address(here, None) else { return Err(error()) };
        let to = match behind.split_once(':').ok_or_else(error)? {
            ("cmd", command) if !command.is_empty() => Behind::Command(command.to_owned()),
            ("tcp", peer) => {
                let found = peer.to_socket_addrs().ok().and_then(|mut all| all.next());
                Behind::Tcp(found.ok_or_else(error)?)
            }
            ("unix", path) if !path.is_empty() => Behind::Unix(PathBuf::from(path)),
            _ => return Err(error()),
        };
        Ok(GuestForward { ip: *here.ip(), port: here.port(), to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_rules() {
        let guest = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15)));
        let rule = HostForward::parse("tcp::2222-:22", guest).unwrap();
        assert_eq!(rule.listen, Listen::Tcp("0.0.0.0:2222".parse().unwrap()));
        assert_eq!(rule.guest, "10.0.2.15:22".parse().unwrap());
        let rule = HostForward::parse("udp:127.0.0.1:53-10.0.2.20:5353", guest).unwrap();
        assert_eq!(rule.listen, Listen::Udp("127.0.0.1:53".parse().unwrap()));
        assert_eq!(rule.guest, "10.0.2.20:5353".parse().unwrap());
        let rule = HostForward::parse("tcp:[::1]:80-[fec0::15]:8080", None).unwrap();
        assert_eq!(rule.guest, "[fec0::15]:8080".parse().unwrap());
        let rule = HostForward::parse("unix:/run/a-b.sock-:22", guest).unwrap();
        assert_eq!(rule.listen, Listen::Unix("/run/a-b.sock".into()));
        for bad in ["", "tcp", "tcp::-:22", "tcp::1", "sctp::1-:2", "tcp::99999-:1", "unix:-:1", "tcp::1-:0"]
        {
            assert!(HostForward::parse(bad, guest).is_err(), "{bad}");
        }
        assert!(HostForward::parse("tcp::1-:2", None).is_err());
    }

    #[test]
    fn guest_rules() {
        let rule = GuestForward::parse("tcp:10.0.2.100:1234-cmd:netcat 10.1.1.1 43-21").unwrap();
        assert_eq!((rule.ip, rule.port), (Ipv4Addr::new(10, 0, 2, 100), 1234));
        assert_eq!(rule.to, Behind::Command("netcat 10.1.1.1 43-21".into()));
        assert_eq!(
            GuestForward::parse(":10.0.2.4:80-unix:/run/x").unwrap().to,
            Behind::Unix("/run/x".into())
        );
        for bad in
            ["", "udp:10.0.2.4:80-cmd:x", "tcp:10.0.2.4-cmd:x", "tcp:10.0.2.4:80-x", "tcp:10.0.2.4:80-cmd:"]
        {
            assert!(GuestForward::parse(bad).is_err(), "{bad}");
        }
    }
}
