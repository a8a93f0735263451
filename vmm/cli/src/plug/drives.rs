//! Disks: drives on the board's own controllers and on SCSI adapters, virtio-blk, NVMe.

use anyhow::{Result, anyhow, bail};
use block::Disk;
use control::VmConfig;
use control::config::{Drive, DriveInterface, Media, Props};
use machines::{BoardKind, BootDrive};
use pci::Pci;
use storage::{FloppyDrive, IdeDrive, NvmeConfig, ScsiDrive};
use virtio::BlkConfig;

use super::{Extra, Made, Making, Place, Plugs, ScsiPlace, note, virtio};
use crate::backends::{Backends, SlotAt};
use crate::failures::on_error;
use crate::iothreads;

/// What drives are plugged into.
pub(super) const IDE_BUS: &str = "IDE";
pub(super) const FLOPPY_BUS: &str = "floppy-bus";
pub(super) const SCSI_BUS: &str = "SCSI";
/// All of these.
pub(super) const BUSES: [&str; 3] = [IDE_BUS, FLOPPY_BUS, SCSI_BUS];

const BOOT: Extra = ("bootindex", "int32", "place in firmware's order of boot devices");
const DRIVE: Extra = ("drive", "str", "node name or ID of a block device to use as a backend");
const ROTATION: Extra =
    ("rotation_rate", "uint16", "revolutions per minute, 1 for a disk that does not rotate");
const SERIAL: Extra = ("serial", "str", "serial number");
const VERSION: Extra = ("ver", "str", "firmware version");
const WWN: Extra = ("wwn", "uint64", "world-wide name");

/// Properties of drives.
pub(super) const IDE_EXTRA: &[Extra] = &[
    BOOT,
    DRIVE,
    ("model", "str", "model that the guest sees"),
    ROTATION,
    SERIAL,
    ("unit", "uint32", "number of the drive on its bus"),
    VERSION,
    WWN,
];
pub(super) const FLOPPY_EXTRA: &[Extra] = &[BOOT, DRIVE, ("unit", "uint32", "number of the drive")];
pub(super) const SCSI_EXTRA: &[Extra] = &[
    BOOT,
    ("channel", "uint32", "channel; there is 0 alone"),
    DRIVE,
    ("logical_block_size", "size", "bytes of a disk's block (default: 512)"),
    ("lun", "uint32", "logical unit, 0 to 16383 (default: 0)"),
    ("product", "str", "product that the guest sees"),
    ("removable", "bool", "the disk can be taken away"),
    ROTATION,
    ("scsi-id", "uint32", "target, 0 to 255 (default: the first that is free)"),
    SERIAL,
    VERSION,
    WWN,
];

/// Most queues that a disk has of itself.
const MAX_QUEUES: u16 = 64;

/// Names of the controllers among the machine's devices.
const FLOPPY: &str = "floppy";

fn ide_controller(board: &BoardKind) -> &'static str {
    if units(board) == 2 { "ide" } else { "ahci" }
}

/// Two drives share a channel of an IDE controller; a SATA port has one.
fn units(board: &BoardKind) -> u64 {
    if board.ide == 4 { 2 } else { 1 }
}

/// One `-drive`, and the place of it that the board gives it.
pub(super) fn of_board(
    config: &VmConfig,
    d: &Drive,
    id: &str,
    backends: &mut Backends,
    board: &BoardKind,
    vcpus: u32,
    out: &mut Plugs,
) -> Result<()> {
    let default = if board.ide > 0 { DriveInterface::Ide } else { DriveInterface::Virtio };
    let interface = d.interface.unwrap_or(default);
    let there = match interface {
        DriveInterface::Ide => board.ide > 0,
        DriveInterface::Floppy => board.floppy,
        DriveInterface::Pflash => board.flash > 0,
        DriveInterface::None | DriveInterface::Virtio => true,
        _ => false,
    };
    // Before the image is opened, so that this is all that is said.
    if !there {
        let file = d.file.as_deref().unwrap_or("no file");
        let own = [(board.ide > 0, "ide, "), (board.floppy, "floppy, "), (board.flash > 0, "pflash, ")];
        let own: String = own.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
        let expected = format!("{own}none or virtio");
        bail!("({file}): this board has no {} interface; expected {expected}", interface.name());
    }
    let cd = d.media == Media::Cdrom;
    let bare = d.file.is_none() && d.format.is_none() && d.options.is_empty();
    let empty = match interface {
        DriveInterface::None => bare,
        DriveInterface::Ide => d.file.is_none() && cd,
        DriveInterface::Floppy => d.file.is_none(),
        _ => false,
    };
    if empty {
        backends.empty_drive(id)?;
    } else {
        backends.drive(config, d, id)?;
    }
    let number = |units: u64| match (d.index, d.bus, d.unit) {
        (Some(index), ..) => Some(index as usize),
        (None, None, None) => None,
        (None, bus, unit) => {
            let bus = u64::from(bus.unwrap_or(0)).saturating_mul(units);
            usize::try_from(bus.saturating_add(unit.unwrap_or(0).into())).ok()
        }
    };
    match interface {
        DriveInterface::Virtio => {
            let blk = BlkConfig {
                serial: d.serial.clone().unwrap_or_default(),
                write_cache: !matches!(d.cache.as_deref(), Some("writethrough" | "directsync")),
                num_queues: queues(board.pci, vcpus),
                ..BlkConfig::default()
            };
            let pools = vec![backends.pool(None)?];
            let disk = backends.disk_of(id, id, pools, (None, None))?;
            note(backends, id, if board.pci { "virtio-blk-pci" } else { "virtio-blk-device" }, false);
            let made = virtio(board.pci, blk, Some(disk));
            out.add(id.to_owned(), made, Vec::new(), None, &mut Place::default());
        }
        DriveInterface::Ide => {
            let drive = match cd {
                true => cd_drive(backends, Some(id), id)?,
                false => IdeDrive::disk(backends.disk(id, id, None)?),
            };
            let drive = IdeDrive { serial: d.serial.clone(), ..drive };
            note(backends, id, if cd { "ide-cd" } else { "ide-hd" }, false);
            let made = Made::Ide(Box::new(drive), number(units(board)));
            hang(out, backends, board, id, made, None)?;
        }
        DriveInterface::Floppy => {
            let disk = backends.medium(Some(id), id)?;
            note(backends, id, "floppy", false);
            hang(out, backends, board, id, Made::Floppy(FloppyDrive { disk }, number(2)), None)?;
        }
        DriveInterface::Pflash => {
            let disk = backends.disk(id, id, None)?;
            let at = number(1).unwrap_or(out.flash.len());
            if at >= board.flash || out.flash.iter().any(|(n, _)| *n == at) {
                bail!("there is no flash chip {at}, or it is taken; there can be {}", board.flash);
            }
            out.flash.push((at, disk));
        }
        _ => {}
    }
    Ok(())
}

/// Hangs a drive on its controller.
pub(super) fn hang(
    out: &mut Plugs,
    backends: &mut Backends,
    board: &BoardKind,
    name: &str,
    drive: Made,
    boot: Option<u32>,
) -> Result<()> {
    match drive {
        Made::Ide(drive, at) => {
            let taken = |n: usize| out.ide.iter().any(|(at, _)| *at == n);
            let at = place(at, board.ide, taken, "disk controller")?;
            if drive.cd {
                backends.has_slot(name, SlotAt::Unit(ide_controller(board).into(), at));
            }
            out.ide.push((at, *drive));
            out.boot_drives.extend(boot.map(|index| (index, BootDrive::Ide(at))));
        }
        Made::Floppy(drive, at) => {
            let most = if board.floppy { out.floppies.len() } else { 0 };
            let at = place(at, most, |n| out.floppies[n].is_some(), "floppy controller")?;
            backends.has_slot(name, SlotAt::Unit(FLOPPY.into(), at));
            out.floppies[at] = Some(drive);
            out.boot_drives.extend(boot.map(|index| (index, BootDrive::Floppy(at))));
        }
        Made::Scsi(drive, adapter) => {
            let (target, lun) = (drive.target, drive.lun);
            if drive.cd {
                backends.has_slot(name, SlotAt::Scsi(adapter.clone(), target, lun));
            }
            let bus = out.scsi.iter().find(|(name, _)| *name == adapter);
            let (_, bus) = bus.ok_or_else(|| anyhow!("there is no adapter '{adapter}'"))?;
            bus.hang(*drive)?;
            out.scsi_drives.push(ScsiPlace { name: name.to_owned(), adapter: adapter.clone(), target, lun });
            let behind = boot.map(|index| (index, format!("/channel@0/disk@{target:x},{lun:x}")));
            if let Some(function) = out.pci.iter_mut().find(|p| p.id == adapter) {
                function.boot_behind.extend(behind);
            }
        }
        Made::Device(_) | Made::Pci(_) | Made::Serial(..) => {}
    }
    Ok(())
}

/// The place that is wanted, or the first that is free.
fn place(at: Option<usize>, most: usize, taken: impl Fn(usize) -> bool, what: &str) -> Result<usize> {
    match at {
        _ if most == 0 => bail!("this board has no {what}"),
        Some(at) if at >= most => bail!("there is no drive {at} on the {what}; there are 0 to {}", most - 1),
        Some(at) if taken(at) => bail!("drive {at} of the {what} is taken already"),
        Some(at) => Ok(at),
        None => {
            (0..most).find(|n| !taken(*n)).ok_or_else(|| anyhow!("all {most} drives of the {what} are taken"))
        }
    }
}

/// The number of a drive on the board's controller, of `bus=ide.N` and `unit=N`.
fn number(m: &mut Making<'_>, prefix: &str, units: u64) -> Result<Option<usize>> {
    let unit = m.props.u64("unit")?;
    m.props.remove("unit");
    let bus = match m.bus.as_deref() {
        None => None,
        Some(name) => {
            let number = name.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
            Some(number.ok_or_else(|| anyhow!("no bus '{name}'; expected {prefix}0 and so on"))?)
        }
    };
    let Some(unit) = unit else { return bus.map_or(Ok(None), |bus| Ok(Some(usize::try_from(bus * units)?))) };
    if unit >= units {
        bail!("'unit' expects 0{}, got {unit}", if units == 2 { " or 1" } else { "" });
    }
    Ok(Some(usize::try_from(bus.unwrap_or(0).saturating_mul(units).saturating_add(unit))?))
}

fn needed(m: &mut Making<'_>) -> Result<Disk> {
    let id = m.props.take_text("drive")?;
    let id = id.ok_or_else(|| anyhow!("needs drive=ID, of a -drive with if=none or a -blockdev"))?;
    let iothread = m.props.take_text("iothread")?;
    m.backends.disk(&id, m.name, iothread.as_deref())
}

/// A text of the guest's, of bounded length.
fn text(props: &mut Props, key: &str, most: usize) -> Result<Option<String>> {
    let text = props.take_text(key)?;
    if text.as_ref().is_some_and(|text| text.len() > most || !text.bytes().all(|b| (b' '..0x7f).contains(&b)))
    {
        bail!("'{key}' expects at most {most} printable characters");
    }
    Ok(text)
}

/// A number of at most `most`.
fn count(props: &mut Props, key: &str, most: u64) -> Result<Option<u64>> {
    let value = props.u64(key)?;
    props.remove(key);
    match value.filter(|value| *value > most) {
        Some(value) => bail!("'{key}' expects 0 to {most}, got {value}"),
        None => Ok(value),
    }
}

fn cd_drive(backends: &mut Backends, drive: Option<&str>, name: &str) -> Result<IdeDrive> {
    let disk = backends.medium(drive, name)?;
    let tray = backends.tray_listener(drive, name);
    Ok(IdeDrive { tray, ..IdeDrive::cd(disk) })
}

fn identity(m: &mut Making<'_>, drive: &mut IdeDrive) -> Result<()> {
    drive.serial = text(&mut m.props, "serial", 20)?;
    drive.model = text(&mut m.props, "model", 40)?;
    drive.version = text(&mut m.props, "ver", 8)?;
    drive.wwn = count(&mut m.props, "wwn", u64::MAX)?.unwrap_or(0);
    drive.rotation = count(&mut m.props, "rotation_rate", u16::MAX.into())?.unwrap_or(0) as u16;
    Ok(())
}

pub(super) fn ide_hd(m: &mut Making<'_>) -> Result<Made> {
    let at = number(m, "ide.", units(m.board))?;
    let mut drive = IdeDrive::disk(needed(m)?);
    identity(m, &mut drive)?;
    Ok(Made::Ide(Box::new(drive), at))
}

pub(super) fn ide_cd(m: &mut Making<'_>) -> Result<Made> {
    let at = number(m, "ide.", units(m.board))?;
    let id = m.props.take_text("drive")?;
    let mut drive = cd_drive(m.backends, id.as_deref(), m.name)?;
    identity(m, &mut drive)?;
    Ok(Made::Ide(Box::new(drive), at))
}

pub(super) fn floppy(m: &mut Making<'_>) -> Result<Made> {
    let unit = m.props.u64("unit")?;
    m.props.remove("unit");
    if let Some(bus) = m.bus.as_deref().filter(|bus| !matches!(*bus, "floppy-bus.0" | "fdc.0")) {
        bail!("no bus '{bus}'; expected floppy-bus.0");
    }
    let id = m.props.take_text("drive")?;
    let disk = m.backends.medium(id.as_deref(), m.name)?;
    Ok(Made::Floppy(FloppyDrive { disk }, unit.map(usize::try_from).transpose()?))
}

/// Where a drive on a SCSI bus is: the adapter, target and unit.
fn scsi_place(m: &mut Making<'_>) -> Result<(String, u8, u16)> {
    count(&mut m.props, "channel", 0)?;
    let names = || m.scsi.iter().map(|(name, _)| format!("{name}.0")).collect::<Vec<_>>().join(", ");
    let adapter = match m.bus.as_deref() {
        None => m.scsi.first().ok_or_else(|| anyhow!("no SCSI bus: needs a virtio-scsi-pci before it"))?,
        Some(bus) => {
            let name = bus.strip_suffix(".0").unwrap_or(bus);
            let found = m.scsi.iter().find(|(adapter, _)| adapter == name);
            found.ok_or_else(|| anyhow!("no SCSI bus '{bus}'; there are: {}", names()))?
        }
    };
    let (name, bus) = adapter.clone();
    let target = match count(&mut m.props, "scsi-id", 255)? {
        Some(target) => target as u8,
        None => bus.free_target()?,
    };
    let lun = count(&mut m.props, "lun", 16_383)?.unwrap_or(0) as u16;
    Ok((name, target, lun))
}

fn scsi_identity(m: &mut Making<'_>, drive: &mut ScsiDrive) -> Result<()> {
    drive.serial = text(&mut m.props, "serial", 36)?;
    drive.product = text(&mut m.props, "product", 16)?;
    drive.version = text(&mut m.props, "ver", 4)?;
    drive.wwn = count(&mut m.props, "wwn", u64::MAX)?.unwrap_or(0);
    drive.rotation = count(&mut m.props, "rotation_rate", u16::MAX.into())?.unwrap_or(0) as u16;
    drive.removable = m.props.bool("removable")?.unwrap_or(false);
    m.props.remove("removable");
    if let Some(size) = m.props.size("logical_block_size")? {
        m.props.remove("logical_block_size");
        match u32::try_from(size) {
            Ok(size) if size.is_power_of_two() && (512..=32_768).contains(&size) => drive.block = size,
            _ => bail!("'logical_block_size' expects a power of two from 512 to 32768, got {size}"),
        }
    }
    Ok(())
}

pub(super) fn scsi_hd(m: &mut Making<'_>) -> Result<Made> {
    let (adapter, target, lun) = scsi_place(m)?;
    let mut drive = ScsiDrive::disk(target, lun, needed(m)?);
    scsi_identity(m, &mut drive)?;
    Ok(Made::Scsi(Box::new(drive), adapter))
}

pub(super) fn scsi_cd(m: &mut Making<'_>) -> Result<Made> {
    let (adapter, target, lun) = scsi_place(m)?;
    let id = m.props.take_text("drive")?;
    let disk = m.backends.medium(id.as_deref(), m.name)?;
    let tray = m.backends.tray_listener(id.as_deref(), m.name);
    let mut drive = ScsiDrive { tray, ..ScsiDrive::cd(target, lun, disk) };
    scsi_identity(m, &mut drive)?;
    Ok(Made::Scsi(Box::new(drive), adapter))
}

pub(super) fn virtio_blk(m: &mut Making<'_>) -> Result<Made> {
    let id = m.props.take_text("drive")?;
    let id = id.ok_or_else(|| anyhow!("needs drive=ID, of a -drive with if=none or a -blockdev"))?;
    let mut policy = |key: &str| {
        let value = m.props.take_text(key)?;
        on_error(key, value.as_deref())
    };
    let policy = (policy("rerror")?, policy("werror")?);
    let queues = match m.props.u64("num-queues")? {
        Some(n) => u16::try_from(n).unwrap_or(u16::MAX),
        None => queues(m.pci, m.vcpus),
    };
    let pools = iothreads::pools(m.backends, &mut m.props, queues)?;
    let disk = m.backends.disk_of(&id, m.name, pools, policy)?;
    Ok(virtio(m.pci, BlkConfig { num_queues: queues, ..BlkConfig::default() }, Some(disk)))
}

/// Queues of a disk if nobody says: as many as vCPUs, where each queue can have a vector of its own.
fn queues(pci: bool, vcpus: u32) -> u16 {
    if pci { u16::try_from(vcpus).unwrap_or(u16::MAX).clamp(1, MAX_QUEUES) } else { 1 }
}

pub(super) fn nvme(m: &mut Making<'_>) -> Result<Made> {
    let disk = needed(m)?;
    Ok(Made::Pci(Box::new(Pci::new(NvmeConfig { serial: String::new(), disks: vec![disk] }))))
}
