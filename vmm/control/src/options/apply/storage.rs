//! -drive, -blockdev and the short forms for disks.

use super::super::build::Builder;
use super::super::group::{Group, Values, number, switch, text, word};
use super::Done;
use crate::config::{Blockdev, ConfigError, Drive, DriveInterface, Media};
use serde_json::{Map, Value};

/// Deepest nesting of dotted keys (`a.b.c...`): real block graphs stay far below.
const MAX_DEPTH: usize = 32;

pub(crate) static DRIVE: Group = Group {
    name: "drive",
    implied: None,
    keys: &[
        text("id"),
        text("file"),
        text("format"),
        text("driver"),
        text("node-name"),
        word("if", &["none", "ide", "scsi", "sd", "mtd", "floppy", "pflash", "virtio"]),
        number("index"),
        number("bus"),
        number("unit"),
        word("media", &["disk", "cdrom"]),
        switch("readonly"),
        switch("read-only"),
        switch("snapshot"),
        word("cache", &["none", "writeback", "writethrough", "directsync", "unsafe"]),
        word("aio", &["threads", "native", "io_uring"]),
        word("discard", &["ignore", "off", "unmap", "on"]),
        word("detect-zeroes", &["off", "on", "unmap"]),
        word("werror", &["ignore", "stop", "report", "enospc"]),
        word("rerror", &["ignore", "stop", "report"]),
        switch("copy-on-read"),
        text("serial"),
    ],
    // Options of the format and the protocol are dotted; the rest is refused in `drive`.
    open: true,
    json: false,
    apply: drive,
};

fn drive(b: &mut Builder, v: &mut Values) -> Done {
    let interface = v.text("if")?;
    let read_only = v.bool("read-only")?;
    let mut d = Drive {
        id: v.text("id")?,
        file: v.text("file")?,
        format: v.text("format")?.or(v.text("driver")?),
        interface: DriveInterface::NAMES
            .iter()
            .find(|(n, _)| interface.as_deref() == Some(n))
            .map(|(_, i)| *i),
        index: v.small("index")?,
        bus: v.small("bus")?,
        unit: v.small("unit")?,
        media: match v.text("media")?.as_deref() {
            Some("cdrom") => Media::Cdrom,
            _ => Media::Disk,
        },
        readonly: v.bool("readonly")?.or(read_only).unwrap_or(false),
        snapshot: v.bool("snapshot")?,
        cache: v.text("cache")?,
        aio: v.text("aio")?,
        discard: v.text("discard")?,
        detect_zeroes: v.text("detect-zeroes")?,
        werror: v.text("werror")?,
        rerror: v.text("rerror")?,
        copy_on_read: v.bool("copy-on-read")?.unwrap_or(false),
        serial: v.text("serial")?,
        options: Default::default(),
    };
    if let Some(name) = v.text("node-name")? {
        d.options.insert("node-name", name);
    }
    for (key, value) in v.rest_in_order() {
        // A driver without a file takes its size here, LUKS the id of its secret.
        if !key.contains('.') && !["size", "key-secret"].contains(&key.as_str()) {
            return Err(ConfigError::unknown("drive key", &key, DRIVE.keys.iter().map(|k| k.name)).into());
        }
        d.options.insert(key, value);
    }
    if d.index.is_some() && (d.bus.is_some() || d.unit.is_some()) {
        return Err(ConfigError::Conflict("index excludes bus and unit".into()).into());
    }
    if d.interface == Some(DriveInterface::None) && d.id.is_none() {
        // Without an id nothing could ever refer to it.
        return Err(ConfigError::missing("drive with if=none", "id").into());
    }
    b.config.drives.push(d);
    Ok(())
}

fn disk(b: &mut Builder, file: &str, index: u32, interface: Option<DriveInterface>, media: Media) -> Done {
    let d = Drive { file: Some(file.to_owned()), index: Some(index), interface, media, ..Drive::default() };
    b.config.drives.push(d);
    Ok(())
}

pub(crate) fn hda(b: &mut Builder, file: &str) -> Done {
    disk(b, file, 0, None, Media::Disk)
}

pub(crate) fn hdb(b: &mut Builder, file: &str) -> Done {
    disk(b, file, 1, None, Media::Disk)
}

pub(crate) fn hdc(b: &mut Builder, file: &str) -> Done {
    disk(b, file, 2, None, Media::Disk)
}

pub(crate) fn hdd(b: &mut Builder, file: &str) -> Done {
    disk(b, file, 3, None, Media::Disk)
}

pub(crate) fn cdrom(b: &mut Builder, file: &str) -> Done {
    disk(b, file, 2, None, Media::Cdrom)
}

pub(crate) fn pflash(b: &mut Builder, file: &str) -> Done {
    let taken = b.config.drives.iter().filter(|d| d.interface == Some(DriveInterface::Pflash)).count();
    disk(b, file, u32::try_from(taken).unwrap_or(u32::MAX), Some(DriveInterface::Pflash), Media::Disk)
}

pub(crate) static BLOCKDEV: Group = Group {
    name: "blockdev",
    implied: Some("driver"),
    keys: &[
        text("driver"),
        text("node-name"),
        switch("read-only"),
        switch("auto-read-only"),
        switch("force-share"),
    ],
    open: true,
    json: true,
    apply: blockdev,
};

fn blockdev(b: &mut Builder, v: &mut Values) -> Done {
    let driver = v.needed("driver")?;
    let node_name = v.needed("node-name")?;
    let mut options = Map::new();
    for (key, value) in v.rest_in_order() {
        nest(&mut options, &key, value)?;
    }
    b.config.blockdevs.push(Blockdev { driver, node_name, options });
    Ok(())
}

/// Puts `a.b.c = value` into nested objects.
fn nest(map: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), ConfigError> {
    if path.split('.').count() > MAX_DEPTH {
        return Err(ConfigError::Syntax(format!("key is nested deeper than {MAX_DEPTH} levels")));
    }
    let mut map = map;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() {
            return Err(ConfigError::Syntax(format!("key '{path}' has an empty part")));
        }
        if parts.peek().is_none() {
            if map.get(part).is_some_and(Value::is_object) && !value.is_object() {
                return Err(ConfigError::Conflict(format!(
                    "key '{path}' is both a value and a group of keys"
                )));
            }
            map.insert(part.to_owned(), value);
            return Ok(());
        }
        let inner = map.entry(part).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = inner else {
            return Err(ConfigError::Conflict(format!("key '{path}' is both a value and a group of keys")));
        };
        map = inner;
    }
    Ok(())
}
