//! What the user chose: `-netdev user`'s options, with QEMU's names and forms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::UserError;
use crate::forward::{GuestForward, HostForward};

/// Names of all options.
pub const KEYS: &[&str] = &[
    "net",
    "host",
    "hostname",
    "dhcpstart",
    "dns",
    "dnssearch",
    "domainname",
    "tftp",
    "tftp-server-name",
    "bootfile",
    "hostfwd",
    "guestfwd",
    "restrict",
    "ipv4",
    "ipv6",
    "ipv6-net",
    "ipv6-prefix",
    "ipv6-prefixlen",
    "ipv6-host",
    "ipv6-dns",
    "mtu",
    "smb",
    "smbserver",
];

/// The IPv4 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net4 {
    /// Network address.
    pub net: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The gateway, which is the host.
    pub host: Ipv4Addr,
    /// First address that DHCP gives away.
    pub dhcp_start: Ipv4Addr,
    /// The name server.
    pub dns: Ipv4Addr,
}

impl Net4 {
    /// The network's mask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    /// Whether an address lies in the network.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        ip & self.mask() == self.net
    }

    /// The network's broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        self.net | !self.mask()
    }
}

/// The IPv6 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net6 {
    /// Network address.
    pub net: Ipv6Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The gateway, which is the host.
    pub host: Ipv6Addr,
    /// The name server.
    pub dns: Ipv6Addr,
}

impl Net6 {
    /// Whether an address lies in the network.
    pub fn contains(&self, ip: Ipv6Addr) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        ip.to_bits() & mask == self.net.to_bits() & mask
    }
}

/// A whole configuration. [`Options`] makes one from texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// IPv4, if on.
    pub ipv4: Option<Net4>,
    /// IPv6, if on.
    pub ipv6: Option<Net6>,
    /// The guest reaches nothing but what is forwarded.
    pub restrict: bool,
    /// Name that DHCP gives to the guest.
    pub hostname: Option<String>,
    /// The guest's domain.
    pub domain: Option<String>,
    /// Domains that names are looked up in.
    pub dns_search: Vec<String>,
    /// Folder that TFTP serves.
    pub tftp: Option<PathBuf>,
    /// Name of the TFTP server in DHCP (RFC 2132, option 66).
    pub tftp_server_name: Option<String>,
    /// File to boot from.
    pub bootfile: Option<String>,
    /// Ports of the host that lead into the guest.
    pub host_forwards: Vec<HostForward>,
    /// Addresses of the network behind which stands something on the host.
    pub guest_forwards: Vec<GuestForward>,
    /// Folder that is shared by SMB, and the server's address.
    pub smb: Option<(PathBuf, Ipv4Addr)>,
    /// Largest IP packet, in bytes, on the network.
    pub mtu: u16,
}

impl Default for UserConfig {
    fn default() -> Self {
        UserConfig {
            ipv4: Some(Net4 {
                net: Ipv4Addr::new(10, 0, 2, 0),
                prefix: 24,
                host: Ipv4Addr::new(10, 0, 2, 2),
                dhcp_start: Ipv4Addr::new(10, 0, 2, 15),
                dns: Ipv4Addr::new(10, 0, 2, 3),
            }),
            ipv6: Some(Net6 {
                net: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0),
                prefix: 64,
                host: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2),
                dns: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3),
            }),
            restrict: false,
            hostname: None,
            domain: None,
            dns_search: Vec::new(),
            tftp: None,
            tftp_server_name: None,
            bootfile: None,
            host_forwards: Vec::new(),
            guest_forwards: Vec::new(),
            smb: None,
            mtu: 1500,
        }
    }
}

impl UserConfig {
    /// The first address that DHCP gives away, where rules without an address lead.
    pub(crate) fn first_guest(&self) -> Option<IpAddr> {
        self.ipv4.map(|n| IpAddr::V4(n.dhcp_start))
    }
}

/// Takes options one by one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    config: UserConfig,
    off: (Option<bool>, Option<bool>),
    net: Option<(Ipv4Addr, u8)>,
    host: Option<Ipv4Addr>,
    dhcp_start: Option<Ipv4Addr>,
    dns: Option<Ipv4Addr>,
    net6: (Option<Ipv6Addr>, Option<u8>),
    host6: Option<Ipv6Addr>,
    dns6: Option<Ipv6Addr>,
    forwards: Vec<String>,
    guests: Vec<String>,
    smb: (Option<PathBuf>, Option<Ipv4Addr>),
}

fn parse<T: std::str::FromStr>(key: &str, value: &str, expected: &str) -> Result<T, UserError> {
    value.parse().map_err(|_| UserError::option(key, value, expected))
}

fn switch(key: &str, value: &str) -> Result<bool, UserError> {
    match value {
        "on" | "yes" | "y" | "true" => Ok(true),
        "off" | "no" | "n" | "false" => Ok(false),
        _ => Err(UserError::option(key, value, "on or off")),
    }
}

/// A text that goes into one DHCP option.
fn short(key: &str, value: &str) -> Result<String, UserError> {
    if (1..=255).contains(&value.len()) {
        return Ok(value.to_owned());
    }
    Err(UserError::option(key, value, "a text of 1 to 255 bytes"))
}

const V4: &str = "an IPv4 address";
const V6: &str = "an IPv6 address";

impl Options {
    /// Takes one option.
    ///
    /// # Errors
    /// The option does not exist, or its value is not of its form.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), UserError> {
        let config = &mut self.config;
        match key {
            "net" => self.net = Some(network(value)?),
            "host" => self.host = Some(parse(key, value, V4)?),
            "dhcpstart" => self.dhcp_start = Some(parse(key, value, V4)?),
            "dns" => self.dns = Some(parse(key, value, V4)?),
            "hostname" => config.hostname = Some(short(key, value)?),
            "domainname" => config.domain = Some(short(key, value)?),
            "dnssearch" => config.dns_search.push(short(key, value)?),
            "tftp" => config.tftp = Some(PathBuf::from(value)),
            "tftp-server-name" => config.tftp_server_name = Some(short(key, value)?),
            "bootfile" => {
                config.bootfile = Some(value.to_owned())
                    .filter(|v| (1..128).contains(&v.len()))
                    .ok_or_else(|| UserError::option(key, value, "a name of 1 to 127 bytes"))
                    .map(Some)?;
            }
            "hostfwd" => self.forwards.push(value.to_owned()),
            "guestfwd" => self.guests.push(value.to_owned()),
            "restrict" => config.restrict = switch(key, value)?,
            "ipv4" => self.off.0 = Some(switch(key, value)?),
            "ipv6" => self.off.1 = Some(switch(key, value)?),
            "ipv6-net" => {
                let (ip, bits) = value.split_once('/').unwrap_or((value, "64"));
                self.net6 = (Some(parse(key, ip, V6)?), Some(prefix6(key, bits)?));
            }
            "ipv6-prefix" => self.net6.0 = Some(parse(key, value, V6)?),
            "ipv6-prefixlen" => self.net6.1 = Some(prefix6(key, value)?),
            "ipv6-host" => self.host6 = Some(parse(key, value, V6)?),
            "ipv6-dns" => self.dns6 = Some(parse(key, value, V6)?),
            "mtu" => {
                let mtu: u16 = parse(key, value, "a number from 1280 to 65500")?;
                if !(1280..=65500).contains(&mtu) {
                    return Err(UserError::option(key, value, "a number from 1280 to 65500"));
                }
                config.mtu = mtu;
            }
            "smb" => self.smb.0 = Some(PathBuf::from(value)),
            "smbserver" => self.smb.1 = Some(parse(key, value, V4)?),
            _ => return Err(UserError::Unknown { key: key.into(), known: KEYS.join(", ") }),
        }
        Ok(())
    }

    /// The whole, checked.
    ///
    /// # Errors
    /// Options contradict each other.
    pub fn finish(self) -> Result<UserConfig, UserError> {
        let mut config = self.config;
        // As in QEMU: naming one family alone switches the other off.
        let (on4, on6) = match self.off {
            (Some(true), None) => (true, false),
            (None, Some(true)) => (false, true),
            (a, b) => (a.unwrap_or(true), b.unwrap_or(true)),
        };
        if !on4 && !on6 {
            return Err(UserError::option("ipv6", "off", "on: one of ipv4 and ipv6 must be"));
        }
        config.ipv4 = if on4 {
            let (net, prefix) = self.net.unwrap_or((Ipv4Addr::new(10, 0, 2, 0), 24));
            let at = |n: u32| Ipv4Addr::from_bits(net.to_bits().wrapping_add(n));
            let net4 = Net4 {
                net,
                prefix,
                host: self.host.unwrap_or(at(2)),
                dhcp_start: self.dhcp_start.unwrap_or(at(15)),
                dns: self.dns.unwrap_or(at(3)),
            };
            check4(&net4)?;
            Some(net4)
        } else {
            None
        };
        config.ipv6 = if on6 {
            let net = self.net6.0.unwrap_or(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0));
            let at = |n: u128| Ipv6Addr::from_bits(net.to_bits() | n);
            let net6 = Net6 {
                net,
                prefix: self.net6.1.unwrap_or(64),
                host: self.host6.unwrap_or(at(2)),
                dns: self.dns6.unwrap_or(at(3)),
            };
            for (key, ip) in [("ipv6-host", net6.host), ("ipv6-dns", net6.dns)] {
                if !net6.contains(ip) {
                    return Err(UserError::option(key, &ip.to_string(), "inside the network"));
                }
            }
            Some(net6)
        } else {
            None
        };
        if let Some(folder) = &config.tftp
            && !folder.is_dir()
        {
            return Err(UserError::option("tftp", &folder.display().to_string(), "a folder"));
        }
        let guest = config.first_guest();
        for text in &self.forwards {
            config.host_forwards.push(HostForward::parse(text, guest)?);
        }
        for text in &self.guests {
            let forward = GuestForward::parse(text)?;
            let inside = config.ipv4.is_some_and(|n| n.contains(forward.ip) && forward.ip != n.broadcast());
            if !inside {
                return Err(UserError::option("guestfwd", text, "at an address of the guest's network"));
            }
            config.guest_forwards.push(forward);
        }
        config.smb = match self.smb {
            (None, None) => None,
            (None, Some(ip)) => {
                return Err(UserError::option("smbserver", &ip.to_string(), "of use without smb=FOLDER"));
            }
            (Some(folder), ip) => {
                let name = folder.display().to_string();
                let Some(n) = config.ipv4 else {
                    return Err(UserError::option("smb", &name, "possible without IPv4"));
                };
                // A file of settings has one line for each, and the folder's name is in one of them.
                if !folder.is_dir() || name.contains(['\n', '\r']) {
                    return Err(UserError::option("smb", &name, "a folder"));
                }
                let ip = ip.unwrap_or(Ipv4Addr::from_bits(n.net.to_bits() + 4));
                check_inside("smbserver", ip, &n)?;
                if ip == n.host || ip == n.dns || ip == n.dhcp_start {
                    let other = "another address than host, dns and dhcpstart";
                    return Err(UserError::option("smbserver", &ip.to_string(), other));
                }
                Some((folder, ip))
            }
        };
        Ok(config)
    }
}

fn prefix6(key: &str, value: &str) -> Result<u8, UserError> {
    let expected = "a prefix length from 1 to 126";
    let bits: u8 = parse(key, value, expected)?;
    if (1..=126).contains(&bits) { Ok(bits) } else { Err(UserError::option(key, value, expected)) }
}

/// `ADDRESS[/BITS|/MASK]`; without a length the address' old class says it.
fn network(value: &str) -> Result<(Ipv4Addr, u8), UserError> {
    let error = || UserError::option("net", value, "a network such as 10.0.2.0/24");
    let (ip, length) = match value.split_once('/') {
        Some((ip, length)) => (ip, Some(length)),
        None => (value, None),
    };
    let ip: Ipv4Addr = ip.parse().map_err(|_| error())?;
    let prefix = match length {
        None if ip.octets()[0] < 128 => 8,
        None if ip.octets()[0] < 192 => 16,
        None => 24,
        Some(text) => match text.parse::<u8>() {
            Ok(bits) => bits,
            Err(_) => {
                let mask = text.parse::<Ipv4Addr>().map_err(|_| error())?.to_bits();
                if mask.leading_ones() + mask.trailing_zeros() != 32 {
                    return Err(error());
                }
                mask.leading_ones() as u8
            }
        },
    };
    // Room for a gateway, a name server and a guest.
    if !(1..=29).contains(&prefix) {
        return Err(error());
    }
    let mask = u32::MAX << (32 - u32::from(prefix));
    Ok((Ipv4Addr::from_bits(ip.to_bits() & mask), prefix))
}

fn check_inside(key: &str, ip: Ipv4Addr, n: &Net4) -> Result<(), UserError> {
    if !n.contains(ip) || ip == n.net || ip == n.broadcast() {
        return Err(UserError::option(key, &ip.to_string(), &format!("a host in {}/{}", n.net, n.prefix)));
    }
    Ok(())
}

fn check4(n: &Net4) -> Result<(), UserError> {
    for (key, ip) in [("host", n.host), ("dhcpstart", n.dhcp_start), ("dns", n.dns)] {
        check_inside(key, ip, n)?;
    }
    if n.host == n.dns {
        return Err(UserError::option("dns", &n.dns.to_string(), "another address than host"));
    }
    if n.dhcp_start == n.host || n.dhcp_start == n.dns {
        return Err(UserError::option(
            "dhcpstart",
            &n.dhcp_start.to_string(),
            "another address than host and dns",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(options: &[(&str, &str)]) -> Result<UserConfig, UserError> {
        let mut all = Options::default();
        for (key, value) in options {
            all.set(key, value)?;
        }
        all.finish()
    }

    #[test]
    fn defaults_are_those_of_qemu() {
        assert_eq!(made(&[]).unwrap(), UserConfig::default());
        let n = made(&[("net", "192.168.76.0/24"), ("dhcpstart", "192.168.76.9")]).unwrap().ipv4.unwrap();
        assert_eq!((n.host, n.dns), (Ipv4Addr::new(192, 168, 76, 2), Ipv4Addr::new(192, 168, 76, 3)));
        assert_eq!(n.dhcp_start, Ipv4Addr::new(192, 168, 76, 9));
        assert_eq!(made(&[("net", "10.7.0.0/255.255.0.0")]).unwrap().ipv4.unwrap().prefix, 16);
        assert!(made(&[("ipv4", "on")]).unwrap().ipv6.is_none());
        assert!(made(&[("ipv6", "off")]).unwrap().ipv4.is_some());
    }

    #[test]
    fn bad_values_are_named() {
        for (key, value, part) in [
            ("net", "10.0.2.0/33", "10.0.2.0/33"),
            ("net", "10.0.2", "such as"),
            ("net", "10.0.0.0/255.0.255.0", "such as"),
            ("host", "10.0.3.1", "a host in 10.0.2.0/24"),
            ("dns", "10.0.2.2", "another address"),
            ("dhcpstart", "10.0.2.255", "a host in"),
            ("restrict", "maybe", "on or off"),
            ("mtu", "100", "1280"),
            ("tftp", "/no/such/folder", "a folder"),
            ("ipv6-prefixlen", "127", "126"),
            ("hostfwd", "tcp:x", "hostfwd"),
            ("guestfwd", "tcp:10.0.9.1:80-cmd:cat", "guest's network"),
            ("smb", "/no/such/folder", "a folder"),
            ("smbserver", "10.0.2.4", "without smb"),
            ("colour", "red", "there are: net, host"),
        ] {
            let text = made(&[(key, value)]).unwrap_err().to_string();
            assert!(text.contains(part), "{key}={value}: {text}");
        }
        assert!(made(&[("ipv4", "off"), ("ipv6", "off")]).is_err());
    }
}
