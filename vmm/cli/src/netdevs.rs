//! Network back ends of a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use control::VmConfig;
use control::config::{Netdev, Props};
use net::{Endpoint, Hub, Join};
use net_user::{Options, UserNet};
use serde_json::Value;

/// Kinds of back ends there are.
const KINDS: &[&str] = &["dgram", "hubport", "tap", "user"];

/// Opens all of them, by id.
pub(crate) fn open(config: &VmConfig) -> Result<BTreeMap<String, Arc<dyn Endpoint>>> {
    let mut hubs: BTreeMap<u64, Hub> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for n in &config.netdevs {
        let end = one(n, &mut hubs, &all).with_context(|| format!("netdev '{}'", n.id))?;
        all.insert(n.id.clone(), end);
    }
    Ok(all)
}

fn one(
    n: &Netdev,
    hubs: &mut BTreeMap<u64, Hub>,
    others: &BTreeMap<String, Arc<dyn Endpoint>>,
) -> Result<Arc<dyn Endpoint>> {
    match n.kind.as_str() {
        "hubport" => {
            n.props.check_keys("hubport", &["hubid", "netdev"])?;
            let id = n.props.u64("hubid")?.unwrap_or(0);
            let port = hubs.entry(id).or_default().port()?;
            let Some(peer) = n.props.text("netdev")? else { return Ok(port) };
            let peer =
                others.get(&*peer).with_context(|| format!("netdev: there is no '{peer}' before it"))?;
            Ok(Arc::new(Join::new(peer.clone(), port)))
        }
        "tap" => tap(&n.props),
        "dgram" => dgram(&n.props),
        "user" => user(&n.props),
        other => bail!("type '{other}' is not supported; there are: {}", KINDS.join(", ")),
    }
}

fn user(props: &Props) -> Result<Arc<dyn Endpoint>> {
    let mut options = Options::default();
    for (key, value) in props.iter() {
        let values = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let one = Props::from_iter([(key, value.clone())]);
            if let Some(text) = one.text(key)? {
                options.set(key, &text)?;
            }
        }
    }
    Ok(Arc::new(UserNet::new(options.finish()?)?))
}

#[cfg(target_os = "linux")]
fn tap(props: &Props) -> Result<Arc<dyn Endpoint>> {
    props.check_keys("tap", &["ifname", "script", "downscript", "vnet_hdr", "vhost"])?;
    for key in ["script", "downscript"] {
        if props.text(key)?.is_some_and(|v| v != "no") {
            bail!("{key}: scripts are not run; expected {key}=no");
        }
    }
    if props.bool("vhost")? == Some(true) {
        bail!("vhost=on is not supported");
    }
    let name = props.text("ifname")?.unwrap_or_default().into_owned();
    let vnet_header = props.bool("vnet_hdr")?.unwrap_or(true);
    Ok(Arc::new(net::Tap::open(&net::TapOptions { name, vnet_header })?))
}

#[cfg(not(target_os = "linux"))]
fn tap(_: &Props) -> Result<Arc<dyn Endpoint>> {
    bail!("tap devices are for Linux hosts")
}

#[cfg(unix)]
fn dgram(props: &Props) -> Result<Arc<dyn Endpoint>> {
    props.check_keys("dgram", &["local.type", "local.path", "remote.type", "remote.path"])?;
    for key in ["local.type", "remote.type"] {
        if props.text(key)?.is_some_and(|t| t != "unix") {
            bail!("{key}: expected unix");
        }
    }
    let path = |key: &str| -> Result<String> {
        Ok(props.text(key)?.ok_or_else(|| anyhow::anyhow!("needs {key}=PATH"))?.into_owned())
    };
    let (local, remote) = (path("local.path")?, path("remote.path")?);
    Ok(Arc::new(net::UnixDgram::bind(local.as_ref(), remote.as_ref())?))
}

#[cfg(not(unix))]
fn dgram(_: &Props) -> Result<Arc<dyn Endpoint>> {
    bail!("datagram sockets are for Unix hosts")
}
