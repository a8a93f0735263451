//! Exports that are served without a server of their own to be started before: vhost-user-blk and FUSE.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use block_export::{Export, FuseExport, FuseOptions, VhostExport, VhostOptions, VhostSocket};
use serde_json::{Map, Value};

use super::{number, switch, text};

/// Types of exports that this host has besides NBD.
pub(super) const TYPES: &[&str] = &["fuse", "vhost-user-blk"];

/// What keeps an export up.
pub(super) enum Held {
    Fuse { _export: FuseExport },
    Vhost(VhostExport),
}

impl Held {
    /// Gives a disk to others in the way of a type.
    pub(super) fn start(kind: &str, export: Export, a: &Map<String, Value>) -> Result<Self> {
        Ok(match kind {
            "fuse" => Held::Fuse { _export: fuse(export, a)? },
            _ => Held::Vhost(vhost(export, a)?),
        })
    }

    /// The disk may have another size. Who uses a file asks for it.
    pub(super) fn resized(&self) {
        if let Held::Vhost(export) = self {
            export.resized();
        }
    }
}

fn fuse(export: Export, a: &Map<String, Value>) -> Result<FuseExport> {
    let at = text(a, "mountpoint").ok_or_else(|| anyhow!("argument 'mountpoint' is missing"))?;
    let allow_other = match text(a, "allow-other") {
        // As much as we may.
        None | Some("auto") => None,
        Some("on") => Some(true),
        Some("off") => Some(false),
        Some(other) => bail!("argument 'allow-other': '{other}', expected off, on or auto"),
    };
    let options = FuseOptions { growable: switch(a, "growable")?.unwrap_or(false), allow_other };
    FuseExport::mount(Path::new(at), export, &options).context("FUSE export")
}

fn vhost(export: Export, a: &Map<String, Value>) -> Result<VhostExport> {
    let addr = a.get("addr").ok_or_else(|| anyhow!("argument 'addr' is missing"))?;
    let data = addr.get("data").unwrap_or(addr);
    let field = |key: &str| {
        let value = data.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        value.ok_or_else(|| anyhow!("argument 'addr' expects '{key}'"))
    };
    let at = match addr.get("type").and_then(Value::as_str) {
        Some("unix") => VhostSocket::Path(PathBuf::from(field("path")?)),
        Some("fd") => {
            let word = field("str")?;
            let fd = word.parse().map_err(|_| anyhow!("addr.str={word}: expected a descriptor's number"))?;
            VhostSocket::Listener(control::chardev::inherited(fd).context("addr.str")?.into())
        }
        _ => bail!("argument 'addr': 'type' expects unix or fd"),
    };
    let small = |key: &str, default: u64| {
        let n = number(a, key)?.unwrap_or(default);
        u32::try_from(n).map_err(|_| anyhow!("argument '{key}': {n} is too large"))
    };
    let queues = small("num-queues", 1)?;
    let options = VhostOptions {
        block_size: small("logical-block-size", 512)?,
        queues: u16::try_from(queues)
            .map_err(|_| anyhow!("argument 'num-queues': {queues}, expected 1 to 1024"))?,
    };
    VhostExport::listen(at, export, options).context("vhost-user-blk export")
}
