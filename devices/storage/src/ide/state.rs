//! Saved state of an IDE controller. What discs and disks there are belongs to the machine's configuration.

use device::{Bytes, StateBlob, StateError};

use super::IdeController;
use super::bus_master::{BusMaster, BusMasterV1};
use super::channel::{Channel, Command, Drive, Kind, MAX_BUFFER, Step};
use crate::ata::TaskFile;
use crate::scsi::Sense;

device::state! {
    /// A drive: its registers, and what commands have set.
    pub(crate) struct DriveV1 {
        1 => feature: [u8; 2],
        2 => count: [u8; 2],
        3 => lba: [u8; 6],
        4 => device: u8,
        5 => error: u8,
        6 => status: u8,
        7 => multiple: u8,
        8 => heads: u8,
        9 => track: u8,
        10 => write_cache: bool,
        11 => smart: bool,
        12 => mode: u8,
        13 => open: bool,
        14 => locked: bool,
        15 => changed: bool,
        16 => event: u8,
        17 => sense: [u8; 3],
        18 => was_reset: bool,
        19 => queue_error: Option<u16>,
    }
}

device::state! {
    /// A channel with the command under way.
    struct ChannelV1 {
        1 => drives: Vec<DriveV1>,
        2 => control: u8,
        3 => interrupt: bool,
        4 => master: BusMasterV1,
        5 => kind: u8,
        6 => step: u8,
        7 => dma: bool,
        8 => fua: bool,
        9 => offset: u64,
        10 => left: u64,
        11 => block: u32,
        12 => buffer: Bytes,
        13 => pos: u32,
        14 => limit: u32,
    }
}

device::state! {
    /// Version 1.
    struct V1 { 1 => channels: Vec<ChannelV1> }
}

pub(crate) fn save_drive(drive: &Drive, file: &TaskFile) -> DriveV1 {
    let [low, mid, high] = file.lba;
    let mut s = DriveV1 {
        feature: file.feature,
        count: file.count,
        lba: [low[0], low[1], mid[0], mid[1], high[0], high[1]],
        device: file.device,
        error: file.error,
        status: file.status,
        ..DriveV1::default()
    };
    match drive {
        Drive::Empty => {}
        Drive::Disk(d) => {
            (s.multiple, s.heads, s.track) = (d.multiple, d.heads, d.track);
            (s.write_cache, s.smart, s.mode) = (d.write_cache, d.smart, d.mode);
            s.queue_error = d.queue_error.map(|(slot, bits)| u16::from_le_bytes([slot, bits]));
        }
        Drive::Cd { cd, mode, .. } => {
            let m = &cd.medium;
            (s.mode, s.was_reset) = (*mode, cd.was_reset);
            (s.open, s.locked, s.changed, s.event) = (m.open, m.locked, m.changed, m.event);
            s.sense = [cd.sense.key, cd.sense.code, cd.sense.qualifier];
        }
    }
    s
}

pub(crate) fn restore_drive(drive: &mut Drive, file: &mut TaskFile, s: &DriveV1) {
    let l = s.lba;
    *file = TaskFile {
        feature: s.feature,
        count: s.count,
        lba: [[l[0], l[1]], [l[2], l[3]], [l[4], l[5]]],
        device: s.device,
        error: s.error,
        status: s.status,
    };
    match drive {
        Drive::Empty => {}
        Drive::Disk(d) => {
            (d.multiple, d.heads, d.track) = (s.multiple, s.heads, s.track);
            (d.write_cache, d.smart, d.mode) = (s.write_cache, s.smart, s.mode);
            d.queue_error = s.queue_error.map(|word| word.to_le_bytes().into());
        }
        Drive::Cd { cd, mode, .. } => {
            let m = &mut cd.medium;
            (*mode, cd.was_reset) = (s.mode, s.was_reset);
            (m.open, m.locked, m.changed, m.event) = (s.open, s.locked, s.changed, s.event);
            cd.sense = Sense::new(s.sense[0], s.sense[1], s.sense[2]);
        }
    }
}

fn save_channel(channel: &Channel) -> ChannelV1 {
    let c = &channel.command;
    ChannelV1 {
        drives: channel.drives.iter().zip(&channel.files).map(|(d, f)| save_drive(d, f)).collect(),
        control: channel.control,
        interrupt: channel.interrupt,
        master: channel.master.0.clone(),
        kind: c.kind as u8,
        step: c.step as u8,
        dma: c.dma,
        fua: c.fua,
        offset: c.offset,
        left: c.left,
        block: c.block,
        buffer: Bytes(c.buffer.clone()),
        pos: c.pos as u32,
        limit: c.limit as u32,
    }
}

/// Checks what a channel relies on.
fn command(s: &ChannelV1) -> Result<Command, StateError> {
    let kind =
        Kind::ALL.get(usize::from(s.kind)).ok_or_else(|| StateError::new("kind", "expected a kind"))?;
    let step =
        Step::ALL.get(usize::from(s.step)).ok_or_else(|| StateError::new("step", "expected a step"))?;
    StateError::at_most("buffer", s.buffer.0.len(), MAX_BUFFER)?;
    StateError::at_most("limit", s.limit as usize, s.buffer.0.len())?;
    StateError::at_most("pos", s.pos, s.limit)?;
    StateError::at_most("left", s.left, 1 << 42)?;
    StateError::at_most("block", s.block as usize, MAX_BUFFER)?;
    let moving = matches!(step, Step::HostReads | Step::HostWrites);
    if moving && s.pos == s.limit || moving && s.block == 0 && *kind == Kind::In {
        return Err(StateError::new("limit", "expected data to move"));
    }
    if *kind == Kind::PacketIn && s.left != s.buffer.0.len() as u64 {
        return Err(StateError::new("left", "expected as much as there is in the buffer"));
    }
    if *kind == Kind::Packet && s.buffer.0.len() != 12 {
        return Err(StateError::new("buffer", "expected a packet"));
    }
    Ok(Command {
        kind: *kind,
        step: *step,
        dma: s.dma,
        fua: s.fua,
        offset: s.offset,
        left: s.left,
        block: s.block,
        buffer: s.buffer.0.clone(),
        pos: s.pos as usize,
        limit: s.limit as usize,
    })
}

pub(super) fn save(controller: &IdeController) -> StateBlob {
    let channels = controller.channels.iter().map(save_channel).collect();
    StateBlob::new(controller.kind, 1, &V1 { channels })
}

pub(super) fn restore(controller: &mut IdeController, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(controller.kind, 1)?;
    if s.channels.len() != 2 || s.channels.iter().any(|c| c.drives.len() != 2) {
        return Err(StateError::new("channels", "expected two with two drives each"));
    }
    let commands = s.channels.iter().map(command).collect::<Result<Vec<_>, _>>()?;
    for ((channel, s), command) in controller.channels.iter_mut().zip(&s.channels).zip(commands) {
        for (i, drive) in s.drives.iter().enumerate() {
            restore_drive(&mut channel.drives[i], &mut channel.files[i], drive);
        }
        (channel.control, channel.interrupt) = (s.control, s.interrupt);
        channel.master = BusMaster(s.master.clone());
        channel.command = command;
        channel.hold();
        channel.import();
    }
    Ok(())
}
