//! `-netdev tap`, `bridge`, `af-xdp`, `l2tpv3`, `passt` and `vde`, which are for Linux hosts.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use control::config::Props;
use net::{
    Endpoint, L2tpv3, L2tpv3Options, PasstOptions, Tap, TapOptions, TapSource, TapVhost, Vde, VdeOptions,
    Xdp, XdpMode, XdpOptions,
};

use super::sockets::{descriptor, events, needed};
use super::{Announcer, texts};

/// The script that is run if it is there and nothing else is said, as QEMU's.
const UP: &str = "/etc/qemu-ifup";
/// The same for the end.
const DOWN: &str = "/etc/qemu-ifdown";
/// The bridge a helper uses unless told otherwise.
const BRIDGE: &str = "br0";

fn script(props: &Props, key: &str, default: &str) -> Result<Option<PathBuf>> {
    Ok(match props.text(key)?.as_deref() {
        Some("no" | "") => None,
        Some(path) => Some(path.into()),
        None => Some(PathBuf::from(default)).filter(|p| p.exists()),
    })
}

/// `tap`.
pub(super) fn tap(id: &str, props: &Props) -> Result<Arc<dyn Endpoint>> {
    let vhost = vhost(props)?;
    let has = |key: &str| props.get(key).is_some();
    let only = |main: &str, others: &[&str]| match others.iter().find(|k| has(k)) {
        Some(other) => Err(anyhow!("{other}: not together with {main}")),
        None => Ok(()),
    };
    let source = if has("fd") || has("fds") {
        let main = if has("fd") { "fd" } else { "fds" };
        only(main, &["ifname", "script", "downscript", "helper", "br", "queues"])?;
        only(main, if has("fd") { &["fds"] } else { &[] })?;
        let text = needed(props, main)?;
        let numbers = text.split(':').filter(|_| main == "fds").collect::<Vec<_>>();
        let numbers = if main == "fd" { vec![text.as_str()] } else { numbers };
        TapSource::Inherited(numbers.into_iter().map(descriptor).collect::<Result<_>>()?)
    } else if has("helper") {
        only("helper", &["ifname", "script", "downscript", "queues"])?;
        bridge_source(props)?
    } else {
        only("ifname (a bridge needs helper=)", &["br"])?;
        let queues = props.u64("queues")?.unwrap_or(1);
        TapSource::Open {
            name: props.text("ifname")?.unwrap_or_default().into_owned(),
            queues: usize::try_from(queues).unwrap_or(usize::MAX),
            scripts: (script(props, "script", UP)?, script(props, "downscript", DOWN)?),
        }
    };
    let send_buffer = match props.size("sndbuf")? {
        None | Some(0) => None,
        Some(n) => Some(u32::try_from(n).unwrap_or(u32::MAX)),
    };
    let tap = Tap::open(TapOptions { source, vnet_header: props.bool("vnet_hdr")?, send_buffer, vhost })?;
    if let Some(e) = tap.without_vhost() {
        tracing::warn!("netdev '{id}': vhost=on: {e}; frames go by way of this process");
    }
    Ok(Arc::new(tap))
}

/// Whether the kernel is to serve a card's rings; as on QEMU, descriptors for that need `vhost=on`.
fn vhost(props: &Props) -> Result<Option<TapVhost>> {
    let forced = props.bool("vhostforce")?.unwrap_or(false);
    let wanted = props.bool("vhost")?.unwrap_or(forced);
    let fds = match (props.text("vhostfd")?, props.text("vhostfds")?) {
        (Some(_), Some(_)) => bail!("vhostfds: not together with vhostfd"),
        (one, many) => one.or(many),
    };
    if !wanted {
        return match fds {
            Some(fds) => bail!("vhostfd={fds}: expected vhost=on with it"),
            None => Ok(None),
        };
    }
    let fds = fds.map(|fds| fds.split(':').map(descriptor).collect::<Result<_>>()).transpose()?;
    Ok(Some(TapVhost { fds, forced }))
}

fn bridge_source(props: &Props) -> Result<TapSource> {
    Ok(TapSource::Bridge {
        helper: props.text("helper")?.map(std::borrow::Cow::into_owned),
        bridge: props.text("br")?.map_or_else(|| BRIDGE.to_owned(), std::borrow::Cow::into_owned),
    })
}

/// `bridge`.
pub(super) fn bridge(props: &Props) -> Result<Arc<dyn Endpoint>> {
    let source = bridge_source(props)?;
    Ok(Arc::new(Tap::open(TapOptions { source, vnet_header: None, send_buffer: None, vhost: None })?))
}

/// `af-xdp`.
pub(super) fn xdp(props: &Props) -> Result<Arc<dyn Endpoint>> {
    let sockets = match (props.bool("inhibit")?.unwrap_or(false), props.text("sock-fds")?) {
        (true, Some(fds)) => Some(fds.split(':').map(descriptor).collect::<Result<_>>()?),
        (false, None) => None,
        _ => bail!(
            "inhibit=on and sock-fds=FD:FD...: expected both, as sockets in another's program, or neither"
        ),
    };
    let options = XdpOptions {
        ifname: needed(props, "ifname")?,
        mode: match props.text("mode")?.as_deref() {
            Some("native") => XdpMode::Native,
            Some(_) => XdpMode::Skb,
            None => XdpMode::Any,
        },
        force_copy: props.bool("force-copy")?.unwrap_or(false),
        queues: word(props, "queues")?.unwrap_or(1),
        start_queue: word(props, "start-queue")?.unwrap_or(0),
        sockets,
    };
    Ok(Arc::new(Xdp::open(options)?))
}

/// A 32-bit number of a key.
fn word(props: &Props, key: &str) -> Result<Option<u32>> {
    let narrow = |n: u64| u32::try_from(n).map_err(|_| anyhow!("{key}={n}: expected at most 32 bits"));
    props.u64(key)?.map(narrow).transpose()
}

/// `l2tpv3`.
pub(super) fn l2tpv3(props: &Props) -> Result<Arc<dyn Endpoint>> {
    let on = |key: &str| Ok::<_, anyhow::Error>(props.bool(key)?.unwrap_or(false));
    let ports = if on("udp")? {
        Some((needed(props, "srcport")?, needed(props, "dstport")?))
    } else if props.get("srcport").is_some() || props.get("dstport").is_some() {
        bail!("srcport and dstport: expected with udp=on only");
    } else {
        None
    };
    let cookies = match (props.u64("txcookie")?, props.u64("rxcookie")?) {
        (Some(tx), Some(rx)) => Some((tx, rx)),
        (None, None) => None,
        _ => bail!("txcookie and rxcookie: expected both or neither"),
    };
    let options = L2tpv3Options {
        src: needed(props, "src")?,
        dst: needed(props, "dst")?,
        ports,
        ipv6: on("ipv6")?,
        tx_session: word(props, "txsession")?.ok_or_else(|| anyhow!("needs txsession=NUMBER"))?,
        rx_session: word(props, "rxsession")?,
        cookies,
        cookie64: on("cookie64")?,
        counter: on("counter")?,
        pin_counter: on("pincounter")?,
        offset: word(props, "offset")?.unwrap_or(0),
    };
    Ok(Arc::new(L2tpv3::new(&options)?))
}

/// Options of passt that are its own arguments by another name.
const PASST: [(&str, &str); 12] = [
    ("mtu", "--mtu"),
    ("address", "--address"),
    ("netmask", "--netmask"),
    ("mac", "--mac-addr"),
    ("gateway", "--gateway"),
    ("interface", "--interface"),
    ("outbound", "--outbound"),
    ("dns", "--dns"),
    ("search", "--search"),
    ("tcp-ports", "--tcp-ports"),
    ("udp-ports", "--udp-ports"),
    ("param", ""),
];

/// `passt`.
pub(super) fn passt(id: &str, props: &Props, announcer: &Announcer) -> Result<Arc<dyn Endpoint>> {
    let mut options = PasstOptions::default();
    for (key, argument) in [("ipv4", "--ipv6-only"), ("ipv6", "--ipv4-only")] {
        if props.bool(key)? == Some(false) {
            options.arguments.push(argument.to_owned());
        }
    }
    if props.bool("quiet")? != Some(false) {
        options.arguments.push("--quiet".to_owned());
    }
    for key in ["tcp", "udp", "icmp", "dhcp", "ndp", "dhcpv6", "ra"] {
        if props.bool(key)? == Some(false) {
            options.arguments.push(format!("--no-{key}"));
        }
    }
    texts(props, |key, value| {
        if key == "path" {
            options.program = Some(value.into());
        } else if let Some((_, argument)) = PASST.iter().find(|(name, _)| *name == key) {
            options.arguments.extend((!argument.is_empty()).then(|| (*argument).to_owned()));
            options.arguments.push(value.to_owned());
        }
        Ok(())
    })?;
    Ok(Arc::new(net::passt(&options, Some(events(id, announcer)))?))
}

/// `vde`.
pub(super) fn vde(props: &Props) -> Result<Arc<dyn Endpoint>> {
    let mode = match props.text("mode")?.as_deref() {
        None => None,
        Some(text) => {
            let bad = || anyhow!("mode={text}: expected an octal number such as 0600");
            Some(u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777).ok_or_else(bad)?)
        }
    };
    let options = VdeOptions {
        sock: props.text("sock")?.map(|s| PathBuf::from(s.as_ref())),
        port: word(props, "port")?.unwrap_or(0),
        group: props.text("group")?.map(std::borrow::Cow::into_owned),
        mode,
    };
    Ok(Arc::new(Vde::new(&options)?))
}
