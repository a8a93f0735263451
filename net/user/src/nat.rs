//! Which host address stands behind an address the guest uses, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::UserConfig;
use crate::packet::is_unicast;

/// How long the host's list of name servers is believed.
const RESOLVER_LIFE: Duration = Duration::from_secs(2);

/// The host's name servers.
#[derive(Default)]
pub(crate) struct Resolver {
    read: Option<Instant>,
    v4: Option<IpAddr>,
    any: Option<IpAddr>,
    pub(crate) search: Vec<String>,
}

impl Resolver {
    /// Reads `/etc/resolv.conf` again if it has been a while.
    fn refresh(&mut self) {
        let now = Instant::now();
        if self.read.is_some_and(|at| now.duration_since(at) < RESOLVER_LIFE) {
            return;
        }
        self.read = Some(now);
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        self.parse(&text);
    }

    fn parse(&mut self, text: &str) {
        (self.v4, self.any, self.search) = (None, None, Vec::new());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone after the address is of no use to a socket address without its number.
                    let ip = words.next().and_then(|w| w.split('%').next()).and_then(|w| w.parse().ok());
                    self.any = self.any.or(ip);
                    self.v4 = self.v4.or(ip.filter(IpAddr::is_ipv4));
                }
                Some("search") => self.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
    }

    /// The name server to ask; one with an IPv4 address if there is one.
    pub(crate) fn server(&mut self) -> IpAddr {
        self.refresh();
        self.v4.or(self.any).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// The host's search list.
    pub(crate) fn search(&mut self) -> &[String] {
        self.refresh();
        &self.search
    }
}

/// Whose an address is, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The gateway, which stands for the host.
    Host,
    /// The name server.
    Dns,
    /// Somebody in the guest's network, or nobody.
    Inside,
    /// Somebody beyond.
    Outside,
}

/// The mapping.
pub(crate) struct Nat {
    config: UserConfig,
    pub(crate) resolver: Resolver,
}

impl Nat {
    pub(crate) fn new(config: UserConfig) -> Self {
        Nat { config, resolver: Resolver::default() }
    }

    /// Who has an address.
    pub(crate) fn owner(&self, ip: IpAddr) -> Owner {
        let (host, dns, inside) = match ip {
            IpAddr::V4(ip) => match &self.config.ipv4 {
                Some(n) => (ip == n.host, ip == n.dns, n.contains(ip)),
                None => return Owner::Inside,
            },
            IpAddr::V6(ip) => match &self.config.ipv6 {
                Some(n) => {
                    let local = ip.is_unicast_link_local();
                    (ip == n.host || ip == LINK_LOCAL, ip == n.dns, n.contains(ip) || local)
                }
                None => return Owner::Inside,
            },
        };
        match (host, dns, inside) {
            (true, ..) => Owner::Host,
            (_, true, _) => Owner::Dns,
            (.., true) => Owner::Inside,
            _ => Owner::Outside,
        }
    }

    /// Where the host connects to when the guest connects to `to`; `None` if there is nobody.
    pub(crate) fn outward(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        if self.config.restrict || !is_unicast(to.ip()) {
            return None;
        }
        let ip = match self.owner(to.ip()) {
            Owner::Host if to.is_ipv4() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Owner::Host => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Owner::Dns => self.resolver.server(),
            // The guest's own loopback is not ours.
            Owner::Outside if !to.ip().is_loopback() => to.ip(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, to.port()))
    }

    /// The address under which the guest sees who reports an error about a packet to `remote`.
    pub(crate) fn who(&self, from: Option<IpAddr>, remote: IpAddr) -> IpAddr {
        match from {
            Some(ip) if !ip.is_loopback() && ip.is_ipv4() == remote.is_ipv4() => match self.owner(ip) {
                Owner::Outside => ip,
                _ => remote,
            },
            _ => remote,
        }
    }

    /// The gateway's address of a family.
    pub(crate) fn gateway(&self, v6: bool) -> Option<IpAddr> {
        if v6 { Some(self.config.ipv6?.host.into()) } else { Some(self.config.ipv4?.host.into()) }
    }

    /// The address under which the guest sees somebody on the host's side who connects to it; `v4` is the guest's family.
    pub(crate) fn inward(&self, from: Option<SocketAddr>, v4: bool) -> Option<SocketAddr> {
        let gateway = self.gateway(!v4)?;
        let Some(from) = from else { return Some(SocketAddr::new(gateway, 0)) };
        let same = from.is_ipv4() == v4 && !from.ip().is_loopback() && is_unicast(from.ip());
        let seen = same && self.owner(from.ip()) == Owner::Outside;
        Some(SocketAddr::new(if seen { from.ip() } else { gateway }, from.port()))
    }
}

/// The gateway's link-local address.
pub(crate) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn outward() {
        let mut nat = Nat::new(UserConfig::default());
        assert_eq!(nat.outward(addr("10.0.2.2:80")), Some(addr("127.0.0.1:80")));
        assert_eq!(nat.outward(addr("[fec0::2]:80")), Some(addr("[::1]:80")));
        assert_eq!(nat.outward(addr("[fe80::2]:80")), Some(addr("[::1]:80")));
        assert_eq!(nat.outward(addr("192.0.2.1:443")), Some(addr("192.0.2.1:443")));
        for nobody in ["10.0.2.77:80", "10.0.2.255:1", "255.255.255.255:1", "224.0.0.1:1", "127.0.0.1:22"] {
            assert_eq!(nat.outward(addr(nobody)), None, "{nobody}");
        }
        let dns = nat.outward(addr("10.0.2.3:53")).unwrap();
        assert_eq!(dns.port(), 53);
        let mut shut = Nat::new(UserConfig { restrict: true, ..UserConfig::default() });
        assert_eq!(shut.outward(addr("192.0.2.1:443")), None);
    }

    #[test]
    fn inward() {
        let nat = Nat::new(UserConfig::default());
        assert_eq!(nat.inward(Some(addr("127.0.0.1:5000")), true), Some(addr("10.0.2.2:5000")));
        assert_eq!(nat.inward(Some(addr("192.0.2.9:5000")), true), Some(addr("192.0.2.9:5000")));
        assert_eq!(nat.inward(Some(addr("10.0.2.15:5000")), true), Some(addr("10.0.2.2:5000")));
        assert_eq!(nat.inward(Some(addr("[2001:db8::1]:7")), true), Some(addr("10.0.2.2:7")));
        assert_eq!(nat.inward(None, false), Some(addr("[fec0::2]:0")));
    }

    #[test]
    fn resolver_file() {
        let mut r = Resolver::default();
        r.parse("# x\nsearch example.org corp\nnameserver fe80::1%eth0\nnameserver 192.0.2.53\n");
        assert_eq!(r.v4, Some("192.0.2.53".parse().unwrap()));
        assert_eq!(r.any, Some("fe80::1".parse().unwrap()));
        assert_eq!(r.search, ["example.org", "corp"]);
    }
}
