//! `-netdev vhost-user`: a network that another process serves, over the Unix socket that a `-chardev` names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use control::config::{Chardev, ChardevKind, Props, SocketAddress};
use net::{Address, Endpoint, VhostPeer, VhostUser};

use super::sockets::needed;

/// `vhost-user`.
pub(super) fn vhost_user(props: &Props, chardevs: &[Chardev]) -> Result<Arc<dyn Endpoint>> {
    let id = needed(props, "chardev")?;
    match props.u64("queues")? {
        None | Some(1) => {}
        Some(n) => bail!("queues={n}: expected 1"),
    }
    let chardev = chardevs.iter().find(|c| c.id == id);
    let chardev = chardev
        .ok_or_else(|| anyhow!("chardev '{id}': expected one that the command line names with -chardev"))?;
    let expected = || anyhow!("chardev '{id}': expected a Unix socket (-chardev socket,path=...)");
    let ChardevKind::Socket { addr, server, wait, reconnect_ms, .. } = &chardev.kind else {
        return Err(expected());
    };
    let SocketAddress::Unix { path, is_abstract } = addr else { return Err(expected()) };
    let address = Address::Unix { path: PathBuf::from(path), abstract_name: *is_abstract };
    let peer = if *server {
        VhostPeer::Listen { address, wait: *wait }
    } else {
        let period = (*reconnect_ms > 0).then(|| Duration::from_millis(*reconnect_ms));
        VhostPeer::Connect(address, period)
    };
    Ok(Arc::new(VhostUser::new(peer)?))
}
