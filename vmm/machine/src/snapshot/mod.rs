//! Saved machines: everything a stopped machine is, in a file or on its way to another Rhea.
//!
//! Format, all numbers little endian: magic `RHEASNAP`, version (u32), then sections until the section `end`. A section is
//! its name (u8 length and bytes), its payload in chunks (u32 length and bytes, ended by length 0), and the CRC-32 of the
//! payload; nothing has to be written twice, so a stream is the same as a file. Sections: `board` (graph as text, first),
//! `state` (run state as text), `clock` (u64 ns), `cpuN` (neutral state), `irqchip` (controllers in the
//! accelerator that no devices stand for), `device:NAME` (state blob), `ram:NAME`
//! (size u64, then runs of pages that are not zero: first page u64, count u32, bytes; ended by count 0), and in a migration
//! `ram+:NAME` (the same, pages written since, zero or not).
//!
//! Loading a file reads and checks all of it before anything changes; if a device then refuses its state, what was changed is
//! put back. A migration is received by a machine that has not run, which has nothing to lose.

mod format;
pub mod migrate;
mod ram;
mod state;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::{Machine, MachineError};

use format::{Reader, Writer};
use state::Collected;

fn bad(field: impl Into<String>, problem: impl Into<String>) -> MachineError {
    MachineError::Snapshot { field: field.into(), problem: problem.into() }
}

/// Saves a machine; it is stopped meanwhile and runs on afterwards if it ran. The file appears whole or not at all.
pub fn save(machine: &Machine, path: &Path) -> Result<(), MachineError> {
    let ran = machine.stop();
    let result = save_stopped(machine, path);
    if ran {
        machine.start();
    }
    result
}

fn save_stopped(machine: &Machine, path: &Path) -> Result<(), MachineError> {
    let fail = |source| MachineError::File { path: path.into(), source };
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = std::path::PathBuf::from(part);
    let written = || -> Result<(), MachineError> {
        let out = write(machine, BufWriter::new(File::create(&part).map_err(fail)?), fail)?;
        let file = out.into_inner().map_err(|e| fail(e.into_error()))?;
        file.sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(fail)
    };
    let done = written();
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// Writes all of a machine that is stopped. `fail` makes an error of what the output says.
pub fn write<W: Write>(
    machine: &Machine,
    out: W,
    fail: impl Fn(std::io::Error) -> MachineError,
) -> Result<W, MachineError> {
    let mut w = Writer::new(out).map_err(&fail)?;
    write_board(machine, &mut w).map_err(&fail)?;
    state::write(machine, &mut w, &fail)?;
    for b in &machine.blocks {
        w.section(&format!("ram:{}", b.name()), |p| ram::write_all(b, p)).map_err(&fail)?;
    }
    w.end().map_err(fail)
}

fn write_board<W: Write>(machine: &Machine, w: &mut Writer<W>) -> std::io::Result<()> {
    w.section("board", |p| p.write_all(machine.graph().as_bytes()))
}

/// Loads a saved machine into one of the same board. It must be stopped, and stays so. On error nothing has changed.
pub fn load(machine: &Machine, path: &Path) -> Result<(), MachineError> {
    let fail = |source| MachineError::File { path: path.into(), source };
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err(fail(std::io::ErrorKind::IsADirectory.into()));
    }
    let mut file = BufReader::new(file);
    let state = check(machine, &mut file)?;
    state.apply(machine)?;
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    fill_ram(machine, &mut file)
}

/// A saved machine that has been read and found whole.
pub struct Checked(state::Whole);

impl Checked {
    /// Puts the machine it was checked for into this state. `input` is what was checked, from its start. If it fails the
    /// machine must not run.
    pub fn apply<R: Read>(&self, machine: &Machine, input: R) -> Result<(), MachineError> {
        self.0.apply(machine)?;
        fill_ram(machine, input)
    }
}

/// Reads all of a saved machine, and checks it for this one, which does not change.
pub fn checked<R: Read>(machine: &Machine, input: R) -> Result<Checked, MachineError> {
    check(machine, input).map(Checked)
}

fn check<R: Read>(machine: &Machine, input: R) -> Result<state::Whole, MachineError> {
    let mut all = Collected::new(machine);
    let mut reader = Reader::new(input)?;
    while reader.section(|name, body| match name.strip_prefix("ram:") {
        Some(block) => {
            let block = all.ram(machine, name, block)?;
            ram::runs(name, block.size(), body, |_, _| Ok(()))
        }
        None => all.take(machine, name, body),
    })? {}
    all.finish(machine)
}

fn fill_ram<R: Read>(machine: &Machine, input: R) -> Result<(), MachineError> {
    let mut reader = Reader::new(input)?;
    while reader.section(|name, body| {
        let block = name.strip_prefix("ram:").and_then(|n| machine.blocks.iter().find(|b| b.name() == n));
        let Some(b) = block else { return Ok(()) };
        b.fill(0, b.size(), 0)?;
        ram::runs(name, b.size(), body, |offset, data| Ok(b.write(offset, data)?))
    })? {}
    Ok(())
}
