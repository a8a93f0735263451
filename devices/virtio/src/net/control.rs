//! The control queue of the network card and what it sets (virtio 1.2, 5.1.6.5).

use ::device::{StateError, le_value};
use ::net::MacAddr;

use super::rss::Rss;
use super::{NetCard, feature};
use crate::chain::Chain;
use crate::queue::Virtqueue;

/// Entries of each table of addresses; a longer table admits all frames of its kind.
const MAX_TABLE: usize = 64;
/// Addresses a table may name at all.
const MAX_NAMED: u64 = 4096;

const OK: u8 = 0;
const ERROR: u8 = 1;

mod class {
    pub(super) const RX: u8 = 0;
    pub(super) const MAC: u8 = 1;
    pub(super) const VLAN: u8 = 2;
    pub(super) const ANNOUNCE: u8 = 3;
    pub(super) const MQ: u8 = 4;
    pub(super) const GUEST_OFFLOADS: u8 = 5;
}

/// Switches of the receive filter, in the order of the commands that set them.
mod mode {
    pub(super) const PROMISC: u8 = 1 << 0;
    pub(super) const ALL_MULTI: u8 = 1 << 1;
    pub(super) const ALL_UNI: u8 = 1 << 2;
    pub(super) const NO_MULTI: u8 = 1 << 3;
    pub(super) const NO_UNI: u8 = 1 << 4;
    pub(super) const NO_BROADCAST: u8 = 1 << 5;
    pub(super) const COUNT: u8 = 6;
}

/// What a card lets through: in each pair first what is for groups, then what is for single cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RxFilter {
    /// Everything.
    pub promiscuous: bool,
    /// All of these kinds; the third is frames of VLANs.
    pub all: [bool; 3],
    /// None of them.
    pub none: [bool; 3],
    /// Broadcasts.
    pub broadcast: bool,
    /// The driver's table was too long, and all are let through.
    pub overflow: [bool; 2],
    /// The card's address.
    pub mac: String,
    /// Addresses let through.
    pub tables: [Vec<String>; 2],
    /// VLANs let through.
    pub vlans: Vec<u16>,
}

/// One table of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    addresses: Vec<MacAddr>,
    overflown: bool,
}

/// Which frames the driver wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) mac: MacAddr,
    mode: u8,
    unicast: Table,
    multicast: Table,
    /// The driver has asked for VLANs one by one: tagged frames of others are not for it.
    pub(super) filters_vlans: bool,
    vlans: Vlans,
}

/// Networks by their 12-bit number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Vlans([u64; 64]);

impl Vlans {
    const MASK: u16 = 0xfff;

    fn set(&mut self, id: u16, on: bool) -> Option<()> {
        let (word, bit) = (usize::from(id / 64), 1u64 << (id % 64));
        let word = self.0.get_mut(word).filter(|_| id <= Self::MASK)?;
        *word = if on { *word | bit } else { *word & !bit };
        Some(())
    }

    fn has(&self, id: u16) -> bool {
        self.0[usize::from(id & Self::MASK) / 64] >> (id % 64) & 1 != 0
    }
}

/// Ethernet type of a tagged frame.
const TAGGED: [u8; 2] = [0x81, 0x00];

::device::state! {
    /// Saved filter.
    pub(super) struct SavedFilter {
        1 => mac: ::device::Bytes, 2 => mode: u8, 3 => unicast: ::device::Bytes, 4 => all_unicast: bool,
        5 => multicast: ::device::Bytes, 6 => all_multicast: bool,
        7 => filters_vlans: bool, 8 => vlans: Vec<u64>,
    }
}

impl Filter {
    /// Everything, until the driver says otherwise.
    pub(super) fn new(mac: MacAddr) -> Self {
        Filter {
            mac,
            mode: mode::PROMISC,
            unicast: Table::default(),
            multicast: Table::default(),
            filters_vlans: false,
            vlans: Vlans([0; 64]),
        }
    }

    fn on(&self, switch: u8) -> bool {
        self.mode & switch != 0
    }

    /// Whether the driver wants a frame of at least six bytes.
    pub(super) fn admits(&self, frame: &[u8]) -> bool {
        let Some(&destination) = frame.first_chunk::<6>() else { return false };
        let to = MacAddr(destination);
        let foreign = || match frame.get(12..16) {
            Some(&[a, b, high, low]) if [a, b] == TAGGED => !self.vlans.has(u16::from_be_bytes([high, low])),
            _ => false,
        };
        if self.on(mode::PROMISC) {
            true
        } else if self.filters_vlans && foreign() {
            false
        } else if to.0 == [0xff; 6] {
            !self.on(mode::NO_BROADCAST)
        } else if to.is_multicast() {
            let table = &self.multicast;
            !self.on(mode::NO_MULTI)
                && (self.on(mode::ALL_MULTI) || table.overflown || table.addresses.contains(&to))
        } else {
            let table = &self.unicast;
            !self.on(mode::NO_UNI)
                && (self.on(mode::ALL_UNI)
                    || to == self.mac
                    || table.overflown
                    || table.addresses.contains(&to))
        }
    }

    /// For those who want to know.
    pub(super) fn describe(&self) -> RxFilter {
        let names = |t: &Table| t.addresses.iter().map(ToString::to_string).collect();
        RxFilter {
            promiscuous: self.on(mode::PROMISC),
            all: [self.on(mode::ALL_MULTI), self.on(mode::ALL_UNI), !self.filters_vlans],
            none: [
                self.on(mode::NO_MULTI),
                self.on(mode::NO_UNI),
                self.filters_vlans && self.vlans.0 == [0; 64],
            ],
            broadcast: !self.on(mode::NO_BROADCAST),
            overflow: [self.multicast.overflown, self.unicast.overflown],
            mac: self.mac.to_string(),
            tables: [names(&self.multicast), names(&self.unicast)],
            vlans: (0..=Vlans::MASK).filter(|id| self.filters_vlans && self.vlans.has(*id)).collect(),
        }
    }

    pub(super) fn save(&self) -> SavedFilter {
        let flat = |t: &Table| ::device::Bytes(t.addresses.iter().flat_map(|a| a.0).collect());
        SavedFilter {
            mac: ::device::Bytes(self.mac.0.to_vec()),
            mode: self.mode,
            unicast: flat(&self.unicast),
            all_unicast: self.unicast.overflown,
            multicast: flat(&self.multicast),
            all_multicast: self.multicast.overflown,
            filters_vlans: self.filters_vlans,
            vlans: if self.filters_vlans { self.vlans.0.to_vec() } else { Vec::new() },
        }
    }

    pub(super) fn restore(saved: &SavedFilter) -> Result<Self, StateError> {
        let table = |field: &str, bytes: &[u8], overflown| {
            let (addresses, rest) = bytes.as_chunks::<6>();
            if !rest.is_empty() || addresses.len() > MAX_TABLE {
                return Err(StateError::new(field, format!("expected at most {MAX_TABLE} addresses")));
            }
            Ok(Table { addresses: addresses.iter().map(|&a| MacAddr(a)).collect(), overflown })
        };
        let vlans = match saved.vlans.as_slice() {
            [] => [0; 64],
            words => words.try_into().map_err(|_| StateError::new("vlans", "expected 64 words"))?,
        };
        let mac = saved.mac.0.as_slice().try_into();
        Ok(Filter {
            mac: MacAddr(mac.map_err(|_| StateError::new("mac", "expected 6 bytes"))?),
            mode: StateError::at_most("mode", saved.mode, (1 << mode::COUNT) - 1)?,
            unicast: table("unicast", &saved.unicast.0, saved.all_unicast)?,
            multicast: table("multicast", &saved.multicast.0, saved.all_multicast)?,
            filters_vlans: saved.filters_vlans,
            vlans: Vlans(vlans),
        })
    }
}

/// A table as the driver gives it: how many, and the addresses.
fn read_table(chain: &mut Chain) -> Option<Table> {
    let count = le_value(&chain.read_array::<4>()?);
    if count > MAX_NAMED || chain.readable() < count * 6 {
        return None;
    }
    let kept = count.min(MAX_TABLE as u64);
    let addresses = (0..kept).map_while(|_| chain.read_array().map(MacAddr)).collect();
    chain.skip((count - kept) * 6);
    Some(Table { addresses, overflown: count > kept })
}

impl NetCard {
    /// Carries out one command and answers it.
    pub(super) fn control(&mut self, queue: &Virtqueue, chain: &mut Chain) {
        let done = chain.read_array::<2>().and_then(|[class, command]| {
            self.command(class, command, chain)?;
            if matches!(class, class::RX | class::MAC | class::VLAN) {
                self.shared.endpoint.filter_changed();
            }
            Some(())
        });
        if !chain.write_last(if done.is_some() { OK } else { ERROR }) {
            queue.fail("a control command without room for its answer");
        }
    }

    fn command(&mut self, class: u8, command: u8, chain: &mut Chain) -> Option<()> {
        let mut rx = self.shared.rx.lock();
        let agreed = |bits: u64| self.features & bits != 0;
        match (class, command) {
            (class::RX, 0..mode::COUNT) => {
                let bit = 1u8 << command;
                let basic = mode::PROMISC | mode::ALL_MULTI;
                if !agreed(if bit & basic != 0 { feature::CTRL_RX } else { feature::CTRL_RX_EXTRA }) {
                    return None;
                }
                let [on] = chain.read_array()?;
                rx.filter.mode = if on != 0 { rx.filter.mode | bit } else { rx.filter.mode & !bit };
            }
            (class::MAC, 0) if agreed(feature::CTRL_RX) => {
                let (unicast, multicast) = (read_table(chain)?, read_table(chain)?);
                (rx.filter.unicast, rx.filter.multicast) = (unicast, multicast);
            }
            (class::MAC, 1) if agreed(feature::CTRL_MAC_ADDR) => rx.filter.mac = MacAddr(chain.read_array()?),
            (class::VLAN, 0 | 1) if agreed(feature::CTRL_VLAN) => {
                rx.filter.vlans.set(u16::from_le_bytes(chain.read_array()?), command == 0)?;
            }
            (class::ANNOUNCE, 0) if agreed(feature::GUEST_ANNOUNCE) => rx.announce = false,
            (class::MQ, 0) if agreed(feature::MQ) => {
                let pairs = u16::from_le_bytes(chain.read_array()?);
                rx.pairs = Some(pairs).filter(|p| (1..=self.config.queue_pairs).contains(p))?;
            }
            (class::MQ, 1) if agreed(feature::RSS) => {
                let (rss, pairs) = Rss::read(chain, self.config.queue_pairs)?;
                rx.rss = Some(rss);
                rx.pairs = pairs;
            }
            (class::MQ, 2) if agreed(feature::HASH_REPORT) => rx.rss = Some(Rss::read_hash(chain)?),
            (class::GUEST_OFFLOADS, 0) if agreed(feature::CTRL_GUEST_OFFLOADS) => {
                let offloads = u64::from_le_bytes(chain.read_array()?);
                if offloads & !(self.features & feature::GUEST) != 0 {
                    return None;
                }
                rx.offloads = Some(offloads);
                drop(rx);
                self.set_offloads(offloads);
                self.shared.direct.set_features(self.agreed(offloads));
                return Some(());
            }
            _ => return None,
        }
        let pairs = usize::from(rx.pairs);
        drop(rx);
        self.shared.direct.set_wanted(2 * pairs);
        Some(())
    }
}
