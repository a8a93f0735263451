//! Hosts where no device can be plugged yet: virtio's rings are for Unix hosts.

use anyhow::{Result, bail};
use control::VmConfig;
use machines::Plugged;

use crate::{chardevs::Chars, netdevs};

/// Nothing, when nothing is asked for.
pub(crate) fn plug(config: &VmConfig, _: &Chars) -> Result<Vec<Plugged>> {
    netdevs::open(config)?;
    if let Some(device) = config.devices.first() {
        bail!("-device {}: this host has no devices to plug", device.driver);
    }
    if !config.drives.is_empty() || !config.nics.is_empty() {
        bail!("drives and network cards need devices that are for Unix hosts");
    }
    Ok(Vec::new())
}
