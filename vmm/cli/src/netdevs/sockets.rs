//! `-netdev socket`, `stream` and `dgram`: options of QEMU's back ends of these names.

use std::net::{Ipv4Addr, SocketAddrV4, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use control::chardev::inherited;
use control::config::Props;
use control::vm::Event;
use net::{Address, Dgram, Endpoint, InetRules, IpVersion, Stream, StreamEvent, StreamPeer, is_socket};
use serde_json::json;

use super::Announcer;

/// The text of a key that must be there.
pub(super) fn needed(props: &Props, key: &str) -> Result<String> {
    Ok(props.text(key)?.ok_or_else(|| anyhow!("needs {key}=..."))?.into_owned())
}

/// A descriptor by its number.
pub(crate) fn descriptor(text: &str) -> Result<OwnedFd> {
    let number =
        text.parse().map_err(|_| anyhow!("fd={text}: expected the number of an inherited descriptor"))?;
    inherited(number).with_context(|| format!("fd={text}"))
}

/// What an address option names.
enum Place {
    Address(Address),
    Fd(OwnedFd),
}

/// Reads `PREFIX.type` and what belongs to it; none if there is no type.
fn place(props: &Props, prefix: &str) -> Result<Option<Place>> {
    let key = |name: &str| format!("{prefix}.{name}");
    let Some(kind) = props.text(&key("type"))? else { return Ok(None) };
    Ok(Some(match kind.as_ref() {
        "inet" => {
            let host = props.text(&key("host"))?.unwrap_or_default().into_owned();
            let port = needed(props, &key("port"))?;
            let port = port.parse().map_err(|_| anyhow!("{}={port}: expected a port", key("port")))?;
            Place::Address(Address::Inet { host, port, rules: rules(props, prefix)? })
        }
        "unix" => {
            let path = PathBuf::from(needed(props, &key("path"))?);
            let abstract_name = props.bool(&key("abstract"))?.unwrap_or(false);
            let padded = !props.bool(&key("tight"))?.unwrap_or(true);
            Place::Address(Address::Unix { path, abstract_name, padded })
        }
        "fd" => Place::Fd(descriptor(&needed(props, &key("str"))?)?),
        other => bail!("{}={other}: expected inet, unix or fd", key("type")),
    }))
}

/// What else is said of an address of the internet.
fn rules(props: &Props, prefix: &str) -> Result<InetRules> {
    let on = |name: &str| props.bool(&format!("{prefix}.{name}"));
    let version = match (on("ipv4")?, on("ipv6")?) {
        (Some(false), Some(false)) => bail!("{prefix}.ipv6=off: expected on, as {prefix}.ipv4 is off"),
        (Some(true), Some(true)) | (None, None) => None,
        (Some(true), _) | (None, Some(false)) => Some(IpVersion::V4),
        (_, Some(true)) | (Some(false), None) => Some(IpVersion::V6),
    };
    let to = props.u64(&format!("{prefix}.to"))?;
    let to =
        to.map(|n| u16::try_from(n).map_err(|_| anyhow!("{prefix}.to={n}: expected a port"))).transpose()?;
    Ok(InetRules {
        to,
        numeric: on("numeric")?.unwrap_or(false),
        version,
        keep_alive: on("keep-alive")?.unwrap_or(false),
        multipath: on("mptcp")?.unwrap_or(false),
    })
}

pub(super) fn events(id: &str, announcer: &Announcer) -> Box<dyn Fn(StreamEvent) + Send + Sync> {
    let (id, announcer) = (id.to_owned(), announcer.clone());
    Box::new(move |event| {
        let event = match event {
            StreamEvent::Connected(peer) => {
                let addr = match peer.rsplit_once(':') {
                    Some((host, port)) if port.parse::<u16>().is_ok() => {
                        let host = host.trim_start_matches('[').trim_end_matches(']');
                        json!({"type": "inet", "host": host, "port": port})
                    }
                    _ => json!({"type": "unix", "path": peer}),
                };
                Event::new("NETDEV_STREAM_CONNECTED", json!({"netdev-id": id, "addr": addr}))
            }
            StreamEvent::Disconnected => Event::new("NETDEV_STREAM_DISCONNECTED", json!({"netdev-id": id})),
        };
        announcer.emit(&event);
    })
}

/// `stream`.
pub(super) fn stream(id: &str, props: &Props, announcer: &Announcer) -> Result<Arc<dyn Endpoint>> {
    let server = props.bool("server")?.unwrap_or(false);
    let period = match (props.u64("reconnect-ms")?, props.u64("reconnect")?) {
        (Some(_), Some(_)) => bail!("reconnect and reconnect-ms: expected one of them"),
        (Some(ms), None) => ms,
        (None, Some(seconds)) => seconds.saturating_mul(1000),
        (None, None) => 0,
    };
    if server && period != 0 {
        bail!("reconnect-ms: expected of a client only (server=off)");
    }
    let period = (period != 0).then(|| Duration::from_millis(period));
    let place = place(props, "addr")?.ok_or_else(|| anyhow!("needs addr.type=inet, unix or fd"))?;
    let peer = match (place, server) {
        (Place::Address(a), true) => StreamPeer::Listen(a),
        (Place::Fd(fd), true) => StreamPeer::Listener(fd),
        (Place::Address(a), false) => StreamPeer::Connect(a, period),
        (Place::Fd(_), false) if period.is_some() => bail!("reconnect-ms: not with addr.type=fd"),
        (Place::Fd(fd), false) => StreamPeer::Connected(fd),
    };
    Ok(Arc::new(Stream::new(peer, Some(events(id, announcer)))?))
}

/// A group's address, or none if the address is no group's.
fn group(address: &Address) -> Result<Option<SocketAddrV4>> {
    let Address::Inet { host, port, .. } = address else { return Ok(None) };
    Ok(host.parse::<Ipv4Addr>().ok().filter(Ipv4Addr::is_multicast).map(|ip| SocketAddrV4::new(ip, *port)))
}

/// The address of the interface to reach a group by.
fn interface(host: &str) -> Result<Option<Ipv4Addr>> {
    if host.is_empty() {
        return Ok(None);
    }
    let found = (host, 0).to_socket_addrs().with_context(|| format!("address {host}"))?;
    let mut found = found.filter_map(|a| match a.ip() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    });
    found.next().map(Some).ok_or_else(|| anyhow!("{host}: expected an IPv4 address of this host"))
}

/// `dgram`.
pub(super) fn dgram(props: &Props) -> Result<Arc<dyn Endpoint>> {
    let (local, remote) = (place(props, "local")?, place(props, "remote")?);
    let end = match (local, remote) {
        (Some(Place::Fd(fd)), None) => Dgram::from_fd(fd)?,
        (Some(Place::Fd(_)), Some(_)) => bail!("local.type=fd: expected a connected socket and no remote"),
        (_, Some(Place::Fd(_))) => bail!("remote.type: expected inet or unix"),
        (None, None) => bail!("needs local.type and remote.type"),
        (Some(_), None) => bail!("needs remote.type, where frames go"),
        (None, Some(Place::Address(to))) => match group(&to)? {
            Some(group) => Dgram::multicast(group, None)?,
            None => bail!("needs local.type: only a multicast group can do without"),
        },
        (Some(Place::Address(here)), Some(Place::Address(to))) => match (group(&to)?, &here) {
            (Some(group), Address::Inet { host, .. }) => Dgram::multicast(group, interface(host)?)?,
            _ => Dgram::bind(&here, &to)?,
        },
    };
    Ok(Arc::new(end))
}

/// `socket`, the older form of the two.
pub(super) fn socket(id: &str, props: &Props, announcer: &Announcer) -> Result<Arc<dyn Endpoint>> {
    const WAYS: [&str; 5] = ["fd", "listen", "connect", "mcast", "udp"];
    let mut given = Vec::new();
    for way in WAYS {
        if let Some(value) = props.text(way)? {
            given.push((way, value.into_owned()));
        }
    }
    let [(way, value)] = given.as_slice() else {
        bail!("expected exactly one of {}", WAYS.map(|w| format!("{w}=")).join(", "));
    };
    let local = props.text("localaddr")?;
    if local.is_some() && !matches!(*way, "mcast" | "udp") {
        bail!("localaddr: expected with mcast= or udp= only");
    }
    let stream =
        |peer| -> Result<Arc<dyn Endpoint>> { Ok(Arc::new(Stream::new(peer, Some(events(id, announcer)))?)) };
    match *way {
        "listen" => stream(StreamPeer::Listen(Address::inet(value)?)),
        "connect" => stream(StreamPeer::Connect(Address::inet(value)?, None)),
        "mcast" => {
            let address = Address::inet(value)?;
            let group = group(&address)?;
            let group =
                group.ok_or_else(|| anyhow!("mcast={value}: expected a multicast address and a port"))?;
            // QEMU takes a host with or without a port here.
            let host = local.as_deref().map(|l| l.split(':').next().unwrap_or(l)).unwrap_or_default();
            Ok(Arc::new(Dgram::multicast(group, interface(host)?)?))
        }
        "udp" => {
            let local = local.ok_or_else(|| anyhow!("udp= needs localaddr=HOST:PORT"))?;
            Ok(Arc::new(Dgram::bind(&Address::inet(&local)?, &Address::inet(value)?)?))
        }
        _ => {
            let fd = descriptor(value)?;
            if is_socket(&fd, true) {
                stream(StreamPeer::Connected(fd))
            } else if is_socket(&fd, false) {
                Ok(Arc::new(Dgram::from_fd(fd)?))
            } else {
                bail!("fd={value}: expected a stream or datagram socket")
            }
        }
    }
}
