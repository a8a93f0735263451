//! Disks: drives with a board-chosen front end, and nodes of the block graph.

use super::{Props, is_false};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One `-drive`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Drive {
    /// Id, for `-device ...,drive=ID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Image file or protocol URI; `None` is an empty drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Image format; `None` means that it is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// How the board attaches it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<DriveInterface>,
    /// Position on that interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Bus number on that interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<u32>,
    /// Unit on that bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<u32>,
    /// Disk or CD-ROM.
    pub media: Media,
    /// Refuse writes of the guest.
    #[serde(skip_serializing_if = "is_false")]
    pub readonly: bool,
    /// Keep writes in a temporary file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
    /// `none`, `writeback`, `writethrough`, `directsync`, `unsafe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// `threads`, `native`, `io_uring`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aio: Option<String>,
    /// `ignore` or `unmap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<String>,
    /// `off`, `on`, `unmap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect_zeroes: Option<String>,
    /// What a write error does: `ignore`, `stop`, `report`, `enospc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub werror: Option<String>,
    /// What a read error does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerror: Option<String>,
    /// Copy what is read from a backing file into the image.
    #[serde(skip_serializing_if = "is_false")]
    pub copy_on_read: bool,
    /// Serial number the guest sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Dotted options of the format, the protocol and throttling (`file.locking`, `throttling.iops-total`).
    #[serde(skip_serializing_if = "Props::is_empty")]
    pub options: Props,
}

/// Interfaces of `-drive if=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriveInterface {
    /// No front end; a `-device` refers to it by id.
    None,
    /// ATA.
    Ide,
    /// SCSI.
    Scsi,
    /// SD card.
    Sd,
    /// Raw NAND or NOR behind an MTD controller.
    Mtd,
    /// Floppy.
    Floppy,
    /// Parallel flash, as firmware stores use.
    Pflash,
    /// virtio-blk on the board's default bus.
    Virtio,
}

impl DriveInterface {
    /// All names with their values.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("none", Self::None),
        ("ide", Self::Ide),
        ("scsi", Self::Scsi),
        ("sd", Self::Sd),
        ("mtd", Self::Mtd),
        ("floppy", Self::Floppy),
        ("pflash", Self::Pflash),
        ("virtio", Self::Virtio),
    ];

    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, v)| *v == self).map_or("none", |(n, _)| n)
    }
}

/// What kind of medium a drive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Media {
    /// A disk.
    #[default]
    Disk,
    /// A CD-ROM or DVD.
    Cdrom,
}

/// One `-blockdev`: a node of the block graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Blockdev {
    /// Block driver: a format, a protocol or a filter.
    pub driver: String,
    /// Unique name of the node.
    pub node_name: String,
    /// The driver's options; children are nested objects or names of nodes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub options: Map<String, Value>,
}
