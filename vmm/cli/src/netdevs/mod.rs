//! Network back ends of a configuration.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod sockets;
#[cfg(target_os = "linux")]
mod vhost;

#[cfg(target_os = "linux")]
pub(crate) use sockets::descriptor;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use control::VmConfig;
use control::config::{Chardev, Netdev, Props};
use control::vm::Event;
use net::{Cable, Endpoint, Hub, Join, MacAddr};
use net_user::{Options, UserNet};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Kinds of back ends there are on this host.
const KINDS: &[&str] = if cfg!(target_os = "linux") {
    &[
        "af-xdp",
        "bridge",
        "dgram",
        "hubport",
        "l2tpv3",
        "passt",
        "socket",
        "stream",
        "tap",
        "user",
        "vde",
        "vhost-user",
    ]
} else if cfg!(unix) {
    &["dgram", "hubport", "socket", "stream", "user"]
} else {
    &["hubport", "user"]
};

/// Where back ends announce what users hear of as events. Nothing hears before there is a machine.
#[derive(Clone, Default)]
pub(crate) struct Announcer(Arc<Mutex<Option<EventSink>>>);

type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;

impl Announcer {
    /// Sets who hears.
    pub(crate) fn set(&self, sink: EventSink) {
        *self.0.lock() = Some(sink);
    }

    /// Announces something.
    pub(crate) fn emit(&self, event: &Event) {
        let sink = self.0.lock().clone();
        if let Some(sink) = sink {
            sink(event);
        }
    }
}

/// One back end.
struct Net {
    kind: String,
    /// What it is behind the cable, if that is a user network.
    own: Option<Arc<UserNet>>,
    cable: Arc<Cable>,
    /// Who has it.
    user: Option<String>,
    /// Name of the back end that a hub's port is joined to.
    joined: Option<String>,
}

/// All network back ends of a machine.
#[derive(Default)]
pub(crate) struct Nets {
    all: BTreeMap<String, Net>,
    hubs: BTreeMap<u64, Hub>,
    /// Cards by the names that users know them by, with their back ends.
    cards: Vec<(String, String)>,
    /// Addresses of cards.
    macs: BTreeMap<String, MacAddr>,
    /// Users who have looked at a card's filter are told of its next change.
    watched: Arc<Mutex<BTreeSet<String>>>,
    /// Character back ends whose sockets are not for characters: see [`claimed`].
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "what has them is for Linux hosts"))]
    chardevs: Vec<Chardev>,
    /// The user network that is being added.
    made: Option<Arc<UserNet>>,
    /// Where events go.
    pub(crate) announcer: Announcer,
}

impl Nets {
    /// Opens all that a configuration names.
    pub(crate) fn open(config: &VmConfig) -> Result<Self> {
        let claimed = |c: &&Chardev| claimed(config).any(|id| id == c.id);
        let chardevs = config.chardevs.iter().filter(claimed).cloned().collect();
        let mut nets = Self { chardevs, ..Self::default() };
        config.netdevs.iter().try_for_each(|n| nets.add(n))?;
        Ok(nets)
    }

    /// Opens one more.
    pub(crate) fn add(&mut self, n: &Netdev) -> Result<()> {
        if self.all.contains_key(&n.id) {
            bail!("Duplicate ID '{}' for netdev", n.id);
        }
        let (end, peer) = self.one(n).with_context(|| format!("netdev '{}'", n.id))?;
        let (kind, own) = (n.kind.clone(), self.made.take());
        let net = match peer {
            None => Net { kind, own, cable: Cable::new(end), user: None, joined: None },
            Some(peer) => {
                // The port belongs to its peer, and the peer to the port.
                let other = self.take(&peer, &format!("hub port '{}'", n.id))?;
                let cable = Cable::new(Arc::new(Join::new(other, end)));
                let user = Some(format!("netdev '{peer}'"));
                Net { kind, own, cable, user, joined: Some(peer) }
            }
        };
        self.all.insert(n.id.clone(), net);
        Ok(())
    }

    fn one(&mut self, n: &Netdev) -> Result<(Arc<dyn Endpoint>, Option<String>)> {
        let end: Arc<dyn Endpoint> = match n.kind.as_str() {
            "hubport" => {
                n.props.check_keys("hubport", &["hubid", "netdev"])?;
                let id = n.props.u64("hubid")?.unwrap_or(0);
                let port = self.hubs.entry(id).or_default().port()?;
                return Ok((port, n.props.text("netdev")?.map(std::borrow::Cow::into_owned)));
            }
            "user" => {
                let net = Arc::new(user(&n.props)?);
                self.made = Some(net.clone());
                net
            }
            #[cfg(unix)]
            "dgram" => sockets::dgram(&n.props)?,
            #[cfg(unix)]
            "stream" => sockets::stream(&n.id, &n.props, &self.announcer)?,
            #[cfg(unix)]
            "socket" => sockets::socket(&n.id, &n.props, &self.announcer)?,
            #[cfg(target_os = "linux")]
            "tap" => linux::tap(&n.id, &n.props)?,
            #[cfg(target_os = "linux")]
            "bridge" => linux::bridge(&n.props)?,
            #[cfg(target_os = "linux")]
            "af-xdp" => linux::xdp(&n.props)?,
            #[cfg(target_os = "linux")]
            "passt" => linux::passt(&n.id, &n.props, &self.announcer)?,
            #[cfg(target_os = "linux")]
            "l2tpv3" => linux::l2tpv3(&n.props)?,
            #[cfg(target_os = "linux")]
            "vde" => linux::vde(&n.props)?,
            #[cfg(target_os = "linux")]
            "vhost-user" => vhost::vhost_user(&n.id, &n.props, &self.chardevs, &self.announcer)?,
            other => bail!("type '{other}' is not supported here; there are: {}", KINDS.join(", ")),
        };
        Ok((end, None))
    }

    /// Gives a back end to a card, or a hub's port.
    pub(crate) fn take(&mut self, id: &str, user: &str) -> Result<Arc<dyn Endpoint>> {
        let known: Vec<&str> = self.all.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let net = self.all.get_mut(id);
        let net = net.ok_or_else(|| anyhow::anyhow!("netdev '{id}' does not exist; there are: {known}"))?;
        if let Some(other) = &net.user {
            bail!("netdev '{id}' is in use by {other}");
        }
        net.user = Some(user.to_owned());
        Ok(net.cable.clone())
    }

    /// Notes which back end a card has.
    #[cfg_attr(not(unix), expect(dead_code, reason = "what plugs devices is for Unix hosts"))]
    pub(crate) fn card(&mut self, name: &str, id: &str) {
        self.cards.push((name.to_owned(), id.to_owned()));
        self.watched.lock().insert(name.to_owned());
        let (name, watched, announcer) = (name.to_owned(), self.watched.clone(), self.announcer.clone());
        if let Some(net) = self.all.get(id) {
            net.cable.on_filter_change(move || {
                if watched.lock().remove(&name) {
                    let path = format!("/machine/peripheral/{name}/virtio-backend");
                    announcer.emit(&Event::new("NIC_RX_FILTER_CHANGED", json!({"name": name, "path": path})));
                }
            });
        }
    }

    /// The address of a card to which none is given: the first that no other card has, as on QEMU.
    #[cfg_attr(not(unix), expect(dead_code, reason = "cards have back ends on Unix hosts alone"))]
    pub(crate) fn mac(&mut self, card: &str, given: Option<&str>) -> Option<String> {
        let free = |mac: &MacAddr| !self.macs.values().any(|other| other == mac);
        let mac = match given {
            Some(text) => MacAddr::parse(text)?,
            None => (0..=u8::MAX).map(MacAddr::default_for).find(free)?,
        };
        self.macs.insert(card.to_owned(), mac);
        given.is_none().then(|| mac.to_string())
    }

    /// Sends what makes switches learn where cards are, from all or those named.
    pub(crate) fn announce(&self, only: &[String]) {
        let chosen = self.cards.iter().filter(|(card, _)| only.is_empty() || only.contains(card));
        for (card, id) in chosen {
            if let (Some(mac), Some(net)) = (self.macs.get(card), self.all.get(id)) {
                let header = [0; 12];
                net.cable.send(&[&header[..net.cable.vnet_header().min(12)], &reverse_request(*mac)]);
            }
        }
    }

    /// Tells users of the next change of each card's filter.
    pub(crate) fn watch_filters(&self) {
        self.watched.lock().extend(self.cards.iter().map(|(card, _)| card.clone()));
    }

    /// A card is gone: its back end is free for another.
    pub(crate) fn card_gone(&mut self, name: &str) {
        let user = format!("device '{name}'");
        for net in self.all.values_mut().filter(|n| n.user.as_ref() == Some(&user)) {
            net.user = None;
            net.cable.set_receiver(None);
        }
        self.cards.retain(|(card, _)| card != name);
        self.macs.remove(name);
    }

    /// Closes one. A card that has it keeps a cable that leads nowhere, as on QEMU.
    pub(crate) fn remove(&mut self, id: &str) -> Result<bool> {
        let Some(net) = self.all.get(id) else { return Ok(false) };
        let peer = net.joined.clone();
        if let Some(user) = net.user.as_ref().filter(|_| peer.is_none() && !net.cable.has_card()) {
            bail!("netdev '{id}' is in use by {user}");
        }
        net.cable.cut();
        // A user network ends with this, its last handle.
        self.all.remove(id);
        self.cards.retain(|(_, of)| of != id);
        if let Some(peer) = peer.and_then(|p| self.all.get_mut(&p)) {
            peer.user = None;
        }
        Ok(true)
    }

    /// Plugs a cable in or out, named by its back end or by its card; false if there is none.
    pub(crate) fn set_link(&self, name: &str, up: bool) -> bool {
        let of_card = self.cards.iter().find(|(card, _)| card == name).map(|(_, id)| id.as_str());
        let net = self.all.get(of_card.unwrap_or(name));
        net.inspect(|n| n.cable.set(up)).is_some()
    }

    /// The cable of a back end, for filters.
    pub(crate) fn cable(&self, id: &str) -> Result<&Arc<Cable>> {
        let known = || {
            if self.all.is_empty() {
                "none".to_owned()
            } else {
                Vec::from_iter(self.all.keys().map(String::as_str)).join(", ")
            }
        };
        let net = self.all.get(id);
        net.map(|n| &n.cable)
            .ok_or_else(|| anyhow::anyhow!("netdev '{id}' does not exist; there are: {}", known()))
    }

    /// A user network, the first if none is named.
    pub(crate) fn user(&self, id: Option<&str>) -> Result<&UserNet> {
        let found = match id {
            Some(id) => self.all.get(id).and_then(|net| net.own.as_ref()),
            None => self.all.values().find_map(|net| net.own.as_ref()),
        };
        found.map(AsRef::as_ref).ok_or_else(|| match id {
            Some(id) => anyhow::anyhow!("netdev '{id}' is no user network"),
            None => anyhow::anyhow!("there is no user network"),
        })
    }

    /// For `info usernet`.
    pub(crate) fn usernet(&self) -> String {
        let nets = self.all.iter().filter_map(|(id, net)| Some((id, net.own.as_ref()?)));
        nets.map(|(id, net)| format!("Hub -1 ({id}):\n{}", net.list())).collect()
    }

    /// For `info network`.
    pub(crate) fn report(&self) -> String {
        let mut out = String::new();
        for (id, n) in &self.all {
            let link = if n.cable.is_up() { "up" } else { "down" };
            let user = n.user.as_deref().unwrap_or("nobody");
            let rings = if n.cable.has_rings() { ",rings=guest" } else { "" };
            out.push_str(&format!("{id}: type={},link={link}{rings},used by {user}\n", n.kind));
            for (filter, on) in n.cable.filters() {
                out.push_str(&format!("  filter {filter}: {}\n", if on { "on" } else { "off" }));
            }
        }
        out
    }
}

/// A request of reverse ARP (RFC 903) for one's own address: it asks for nothing that anybody answers.
fn reverse_request(mac: MacAddr) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    // Ethernet type; then hardware and protocol with the lengths of their addresses, and the operation.
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    for target in [22, 32] {
        frame[target..target + 6].copy_from_slice(&mac.0);
    }
    frame
}

/// Ids of the character back ends that networks have: they are named as such, but their sockets carry messages with
/// descriptors, and are opened by the network.
pub(crate) fn claimed(config: &VmConfig) -> impl Iterator<Item = String> + '_ {
    let of = |n: &Netdev| n.props.text("chardev").ok().flatten().map(std::borrow::Cow::into_owned);
    config.netdevs.iter().filter(|n| n.kind == "vhost-user").filter_map(of)
}

/// Calls `each` with every key and value as text; a key that was given several times comes as often.
fn texts(props: &Props, mut each: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
    for (key, value) in props.iter() {
        let values = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let one = Props::from_iter([(key, value.clone())]);
            if let Some(text) = one.text(key)? {
                each(key, &text)?;
            }
        }
    }
    Ok(())
}

fn user(props: &Props) -> Result<UserNet> {
    let mut options = Options::default();
    texts(props, |key, value| Ok(options.set(key, value)?))?;
    Ok(UserNet::new(options.finish()?)?)
}
