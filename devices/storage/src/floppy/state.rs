//! Saved state of the floppy controller. What diskettes there are belongs to the machine's configuration.

use device::{Bytes, DeviceConfig, StateBlob, StateError};

use super::commands::{Command, Job, MAX_BUFFER, MAX_BYTES, Phase, length};
use super::{FloppyConfig, FloppyController, Registers};

device::state! {
    /// Version 1.
    struct V1 {
        1 => dor: u8,
        2 => tape: u8,
        3 => rate: u8,
        4 => interrupt: bool,
        5 => reset_pending: u8,
        6 => seek: Option<u8>,
        7 => specify: [u8; 2],
        8 => configure: [u8; 2],
        9 => perpendicular: u8,
        10 => locked: bool,
        11 => tracks: [u8; 2],
        12 => changed: [bool; 2],
        13 => phase: u8,
        14 => job: u8,
        15 => bytes: Bytes,
        16 => buffer: Bytes,
        17 => pos: u32,
        18 => track: u8,
        19 => head: u8,
        20 => sector: u8,
        21 => end: bool,
    }
}

pub(super) fn save(f: &FloppyController) -> StateBlob {
    let (r, c) = (&f.r, &f.command);
    let state = V1 {
        dor: r.dor,
        tape: r.tape,
        rate: r.rate,
        interrupt: r.interrupt,
        reset_pending: r.reset_pending,
        seek: r.seek,
        specify: r.specify,
        configure: r.configure,
        perpendicular: r.perpendicular,
        locked: r.locked,
        tracks: [f.drives[0].track, f.drives[1].track],
        changed: [f.drives[0].changed, f.drives[1].changed],
        phase: c.phase as u8,
        job: c.job as u8,
        bytes: Bytes(c.bytes.clone()),
        buffer: Bytes(c.buffer.clone()),
        pos: c.pos as u32,
        track: c.track,
        head: c.head,
        sector: c.sector,
        end: c.end,
    };
    StateBlob::new(FloppyConfig::KIND, 1, &state)
}

/// Checks what the controller relies on.
fn command(s: &V1) -> Result<Command, StateError> {
    let phase =
        Phase::ALL.get(usize::from(s.phase)).ok_or_else(|| StateError::new("phase", "expected a phase"))?;
    let job = Job::ALL.get(usize::from(s.job)).ok_or_else(|| StateError::new("job", "expected a job"))?;
    let bytes = &s.bytes.0;
    StateError::at_most("bytes", bytes.len(), MAX_BYTES)?;
    StateError::at_most("buffer", s.buffer.0.len(), MAX_BUFFER)?;
    StateError::at_most("pos", s.pos as usize, s.buffer.0.len())?;
    let formats = bytes.first().is_some_and(|b| b & 0x1f == 0x0d);
    let sound = match phase {
        Phase::Bytes => bytes.first().is_none_or(|first| bytes.len() < length(*first)),
        Phase::Result => !bytes.is_empty(),
        _ if formats => bytes.len() == 6 && matches!(job, Job::Headers | Job::Store),
        _ => bytes.len() == 9 && *job != Job::Headers,
    };
    if !sound {
        return Err(StateError::new("bytes", "expected those of the command under way"));
    }
    Ok(Command {
        phase: *phase,
        job: *job,
        bytes: bytes.clone(),
        buffer: s.buffer.0.clone(),
        pos: s.pos as usize,
        track: s.track,
        head: s.head,
        sector: s.sector,
        end: s.end,
    })
}

pub(super) fn restore(f: &mut FloppyController, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(FloppyConfig::KIND, 1)?;
    StateError::at_most("reset_pending", s.reset_pending, 4)?;
    f.command = command(&s)?;
    f.r = Registers {
        dor: s.dor,
        tape: s.tape,
        rate: s.rate,
        interrupt: s.interrupt,
        reset_pending: s.reset_pending,
        seek: s.seek,
        specify: s.specify,
        configure: s.configure,
        perpendicular: s.perpendicular,
        locked: s.locked,
    };
    for (i, drive) in f.drives.iter_mut().enumerate() {
        (drive.track, drive.changed) = (s.tracks[i], s.changed[i]);
    }
    f.generation += 1;
    f.in_flight = false;
    // Nothing begins before the machine runs.
    f.paused = true;
    f.irq.import(f.line_level());
    Ok(())
}
