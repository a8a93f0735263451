//! The receive filters of a machine's network cards.

use control::vm::RxFilterInfo;
use machine::Machine;

/// Those of all cards that have one.
#[cfg(unix)]
pub(crate) fn all(machine: &Machine) -> Vec<RxFilterInfo> {
    use control::vm::RxState;

    let one = |name: &str, f: virtio::RxFilter| {
        let state = |i: usize| match (f.none[i], f.all[i]) {
            (true, _) => RxState::None,
            (false, true) => RxState::All,
            (false, false) => RxState::Normal,
        };
        RxFilterInfo {
            name: name.rsplit('/').next().unwrap_or(name).to_owned(),
            promiscuous: f.promiscuous,
            states: [0, 1, 2].map(state),
            broadcast: f.broadcast,
            overflow: f.overflow,
            mac: f.mac,
            tables: f.tables,
            vlans: f.vlans,
        }
    };
    let devices = machine.devices();
    let cards = devices.iter().filter_map(|(name, cell)| {
        let filter =
            cell.with(|d| d.as_any()?.downcast_ref::<virtio::NetCard>().map(virtio::NetCard::rx_filter));
        filter.map(|f| one(name, f))
    });
    cards.collect()
}

/// Has the drivers of cards tell the network where they are: all, or those named.
#[cfg(unix)]
pub(crate) fn announce(machine: &Machine, only: &[String]) {
    for (name, cell) in machine.devices().iter() {
        let name = name.rsplit('/').next().unwrap_or(name).to_owned();
        if only.is_empty() || only.contains(&name) {
            cell.with(|d| {
                let card = d.as_any().and_then(|any| any.downcast_ref::<virtio::NetCard>());
                card.into_iter().for_each(virtio::NetCard::announce);
            });
        }
    }
}

/// There are no cards on this host.
#[cfg(not(unix))]
pub(crate) fn announce(_: &Machine, _: &[String]) {}

/// There are no cards on this host.
#[cfg(not(unix))]
pub(crate) fn all(_: &Machine) -> Vec<RxFilterInfo> {
    Vec::new()
}
