//! -netdev, -nic, -net.

use super::super::ListOf;
use super::super::build::Builder;
use super::super::group::{Group, Key, Values, number, size, switch, text, word};
use super::device::check_id;
use super::{Done, Family};
use crate::config::{ConfigError, Netdev, Nic};
use serde_json::Value;

pub(crate) static NETDEVS: Family = Family {
    what: "netdev",
    members: &[
        (
            "user",
            &[
                text("net"),
                text("host"),
                text("hostname"),
                text("dhcpstart"),
                text("dns"),
                text("dnssearch"),
                text("domainname"),
                text("tftp"),
                text("tftp-server-name"),
                text("bootfile"),
                text("hostfwd"),
                text("guestfwd"),
                switch("restrict"),
                switch("ipv4"),
                switch("ipv6"),
                text("ipv6-net"),
                text("ipv6-prefix"),
                text("ipv6-prefixlen"),
                number("mtu"),
                text("ipv6-host"),
                text("ipv6-dns"),
                text("smb"),
                text("smbserver"),
            ],
        ),
        (
            "tap",
            &[
                text("ifname"),
                text("fd"),
                text("fds"),
                text("script"),
                text("downscript"),
                text("br"),
                text("helper"),
                number("queues"),
                switch("vnet_hdr"),
                switch("vhost"),
                switch("vhostforce"),
                text("vhostfd"),
                text("vhostfds"),
                number("poll-us"),
                size("sndbuf"),
            ],
        ),
        ("bridge", &[text("br"), text("helper")]),
        (
            "socket",
            &[text("fd"), text("listen"), text("connect"), text("mcast"), text("udp"), text("localaddr")],
        ),
        (
            "stream",
            &[
                word("addr.type", &["inet", "unix", "fd"]),
                text("addr.host"),
                text("addr.port"),
                text("addr.path"),
                text("addr.str"),
                switch("addr.abstract"),
                switch("addr.tight"),
                switch("addr.numeric"),
                number("addr.to"),
                switch("addr.ipv4"),
                switch("addr.ipv6"),
                switch("addr.keep-alive"),
                switch("addr.mptcp"),
                switch("server"),
                number("reconnect"),
                number("reconnect-ms"),
            ],
        ),
        (
            "dgram",
            &[
                word("local.type", &["inet", "unix", "fd"]),
                text("local.host"),
                text("local.port"),
                text("local.path"),
                text("local.str"),
                word("remote.type", &["inet", "unix"]),
                text("remote.host"),
                text("remote.port"),
                text("remote.path"),
                switch("local.abstract"),
                switch("local.tight"),
                switch("local.numeric"),
                number("local.to"),
                switch("local.ipv4"),
                switch("local.ipv6"),
                switch("local.keep-alive"),
                switch("local.mptcp"),
                switch("remote.abstract"),
                switch("remote.tight"),
                switch("remote.numeric"),
                number("remote.to"),
                switch("remote.ipv4"),
                switch("remote.ipv6"),
                switch("remote.keep-alive"),
                switch("remote.mptcp"),
            ],
        ),
        (
            "l2tpv3",
            &[
                text("src"),
                text("dst"),
                text("srcport"),
                text("dstport"),
                switch("ipv6"),
                switch("udp"),
                number("txsession"),
                number("rxsession"),
                number("txcookie"),
                number("rxcookie"),
                switch("cookie64"),
                switch("counter"),
                switch("pincounter"),
                number("offset"),
            ],
        ),
        (
            "passt",
            &[
                text("path"),
                switch("quiet"),
                number("mtu"),
                text("address"),
                text("netmask"),
                text("mac"),
                text("gateway"),
                text("interface"),
                text("outbound"),
                text("dns"),
                text("search"),
                text("tcp-ports"),
                text("udp-ports"),
                text("param"),
                switch("tcp"),
                switch("udp"),
                switch("icmp"),
                switch("dhcp"),
                switch("ndp"),
                switch("dhcpv6"),
                switch("ra"),
                switch("ipv4"),
                switch("ipv6"),
            ],
        ),
        ("vde", &[text("sock"), number("port"), text("group"), text("mode")]),
        ("vhost-user", &[text("chardev"), number("queues"), switch("vhostforce")]),
        (
            "af-xdp",
            &[
                text("ifname"),
                word("mode", &["native", "skb"]),
                switch("force-copy"),
                number("queues"),
                number("start-queue"),
                switch("inhibit"),
                text("sock-fds"),
            ],
        ),
        ("hubport", &[number("hubid"), text("netdev")]),
    ],
};

/// Keys that may be given several times.
const LISTS: [&str; 7] = ["hostfwd", "guestfwd", "dnssearch", "search", "tcp-ports", "udp-ports", "param"];

/// Switches and ids, shared by the three options; the type's own table judges the rest.
const COMMON: &[Key] = &[
    text("type"),
    text("id"),
    switch("restrict"),
    switch("ipv4"),
    switch("ipv6"),
    switch("vnet_hdr"),
    switch("vhost"),
    switch("server"),
    text("model"),
    text("mac"),
    text("macaddr"),
    text("name"),
    text("addr"),
    number("vectors"),
    text("netdev"),
];

pub(crate) static NETDEV: Group =
    Group { name: "netdev", implied: Some("type"), keys: COMMON, open: true, json: true, apply: netdev };

fn netdev(b: &mut Builder, v: &mut Values) -> Done {
    v.flatten();
    let kind = v.needed("type")?;
    NETDEVS.answer_help(&kind, v)?;
    NETDEVS.keys(&kind)?;
    let id = v.needed("id")?;
    check_id(&id)?;
    add(b, kind, id, v)?;
    b.net_given = true;
    Ok(())
}

/// Checks and adds a back end.
fn add(b: &mut Builder, kind: String, id: String, v: &mut Values) -> Result<(), ConfigError> {
    NETDEVS.check(&kind, v)?;
    let mut dev = Netdev { id, kind, ..Netdev::default() };
    for (key, value) in v.rest_in_order() {
        if LISTS.contains(&key.as_str()) {
            // QAPI's JSON form is a list of {"str": ...}.
            for one in flatten(value) {
                dev.props.push(&key, one);
            }
        } else {
            dev.props.insert(key, value);
        }
    }
    b.config.netdevs.push(dev);
    Ok(())
}

fn flatten(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list.into_iter().flat_map(flatten).collect(),
        Value::Object(mut map) => map.remove("str").into_iter().collect(),
        other => vec![other],
    }
}

/// The card's own keys.
fn card(v: &mut Values) -> Result<Nic, ConfigError> {
    let mac = v.text("macaddr")?.or(v.text("mac")?);
    if let Some(mac) = &mac {
        check_mac(mac)?;
    }
    Ok(Nic {
        netdev: None,
        model: v.text("model")?,
        mac,
        name: v.text("name")?,
        addr: v.text("addr")?,
        vectors: v.small("vectors")?,
    })
}

fn check_mac(mac: &str) -> Result<(), ConfigError> {
    let parts: Vec<&str> = mac.split([':', '-']).collect();
    let hex = |p: &&str| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit());
    let error = |expected: &str| Err(ConfigError::bad("mac", mac, expected));
    if parts.len() != 6 || !parts.iter().all(hex) {
        return error("six bytes in hexadecimal such as 52:54:00:12:34:56");
    }
    match u8::from_str_radix(parts[0], 16) {
        Ok(first) if first & 1 == 0 => Ok(()),
        _ => error("an address that is not multicast (an even first byte)"),
    }
}

fn generated_id(b: &mut Builder) -> String {
    let n = b.generated_nets;
    b.generated_nets += 1;
    format!("net{n}")
}

pub(crate) static NIC: Group =
    Group { name: "nic", implied: Some("type"), keys: COMMON, open: true, json: false, apply: nic };

/// Asks for the list of cards if the card's model is `help`, which needs nothing beside it.
fn asks_for_models(nic: &Nic, b: &mut Builder, v: &mut Values) -> bool {
    let asks = nic.model.as_deref() == Some("help");
    if asks {
        b.ask(ListOf::NicModels);
        v.rest();
    }
    asks
}

fn nic(b: &mut Builder, v: &mut Values) -> Done {
    let kind = v.text("type")?;
    b.net_given = true;
    if kind.as_deref() == Some("none") {
        return Ok(());
    }
    let mut nic = card(v)?;
    if asks_for_models(&nic, b, v) {
        return Ok(());
    }
    let kind = kind.map_or_else(|| v.needed("type"), Ok)?;
    NETDEVS.answer_help(&kind, v)?;
    NETDEVS.keys(&kind)?;
    let id = match v.text("id")? {
        Some(id) => {
            check_id(&id)?;
            id
        }
        None => generated_id(b),
    };
    add(b, kind, id.clone(), v)?;
    nic.netdev = Some(id);
    b.config.nics.push(nic);
    Ok(())
}

pub(crate) static NET: Group =
    Group { name: "net", implied: Some("type"), keys: COMMON, open: true, json: false, apply: net };

/// `-net`: everything meets on hub 0.
fn net(b: &mut Builder, v: &mut Values) -> Done {
    let kind = v.needed("type")?;
    b.net_given = true;
    match kind.as_str() {
        "none" => Ok(()),
        "nic" => {
            let mut nic = card(v)?;
            if asks_for_models(&nic, b, v) {
                return Ok(());
            }
            nic.netdev = match v.text("netdev")? {
                Some(id) => Some(id),
                None => Some(hub_port(b, None)),
            };
            b.config.nics.push(nic);
            Ok(())
        }
        _ => {
            NETDEVS.answer_help(&kind, v)?;
            NETDEVS.keys(&kind)?;
            v.text("name")?;
            let id = generated_id(b);
            add(b, kind, id.clone(), v)?;
            hub_port(b, Some(id));
            Ok(())
        }
    }
}

fn hub_port(b: &mut Builder, peer: Option<String>) -> String {
    let id = generated_id(b);
    let mut dev = Netdev { id: id.clone(), kind: "hubport".into(), ..Netdev::default() };
    dev.props.insert("hubid", 0);
    if let Some(peer) = peer {
        dev.props.insert("netdev", peer);
    }
    b.config.netdevs.push(dev);
    id
}
