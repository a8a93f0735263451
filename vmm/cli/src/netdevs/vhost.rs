//! `-netdev vhost-user`: a network that another process serves, over the Unix socket that a `-chardev` names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use control::config::{Chardev, ChardevKind, Props, SocketAddress};
use control::vm::Event;
use net::{Address, Endpoint, VhostPeer, VhostUser};
use serde_json::json;

use super::Announcer;
use super::sockets::needed;

/// `vhost-user`.
pub(super) fn vhost_user(
    netdev: &str,
    props: &Props,
    chardevs: &[Chardev],
    announcer: &Announcer,
) -> Result<Arc<dyn Endpoint>> {
    let id = needed(props, "chardev")?;
    let queues = u16::try_from(props.u64("queues")?.unwrap_or(1)).unwrap_or(u16::MAX);
    let chardev = chardevs.iter().find(|c| c.id == id);
    let chardev = chardev
        .ok_or_else(|| anyhow!("chardev '{id}': expected one that the command line names with -chardev"))?;
    let expected = || anyhow!("chardev '{id}': expected a Unix socket (-chardev socket,path=...)");
    let ChardevKind::Socket { addr, server, wait, reconnect_ms, .. } = &chardev.kind else {
        return Err(expected());
    };
    let SocketAddress::Unix { path, is_abstract } = addr else { return Err(expected()) };
    let address = Address::Unix { path: PathBuf::from(path), abstract_name: *is_abstract, padded: false };
    let peer = if *server {
        VhostPeer::Listen { address, wait: *wait }
    } else {
        let period = (*reconnect_ms > 0).then(|| Duration::from_millis(*reconnect_ms));
        VhostPeer::Connect(address, period)
    };
    let (netdev, announcer) = (netdev.to_owned(), announcer.clone());
    let events = Box::new(move |there: bool| {
        let event = if there {
            let data = json!({"netdev-id": netdev, "chardev-id": id});
            Event::new("NETDEV_VHOST_USER_CONNECTED", data)
        } else {
            Event::new("NETDEV_VHOST_USER_DISCONNECTED", json!({"netdev-id": netdev}))
        };
        announcer.emit(&event);
    });
    Ok(Arc::new(VhostUser::new(peer, queues, Some(events))?))
}
