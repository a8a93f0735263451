//! Firmware: a ROM at the end of 4 GiB, the last 128 KiB of which are seen below 1 MiB as well, or flash chips there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_memory::RamConfig;
use machine::{Board, Image, MachineError};
use pci::MEMORY_CONTAINER;

use super::Model;
use crate::x86::FOUR_GIB;
use crate::{Bios, BoardConfig, kernel};

/// Largest firmware: the local APICs lie below.
const MOST: u64 = 16 << 20;
/// What is seen below 1 MiB.
const SHADOW: u64 = 128 << 10;

/// The ROM the user chose, or the board's own.
fn find(model: &Model, c: &BoardConfig) -> Result<Option<PathBuf>, MachineError> {
    let (name, package) = match model.chipset {
        Some(_) => ("bios-256k.bin", "seabios"),
        None => ("bios.bin", "seabios"),
    };
    match &c.bios {
        Bios::File(path) => Ok(Some(path.clone())),
        Bios::None => Ok(None),
        Bios::Default => match (c.firmware)(name) {
            Some(path) => Ok(Some(path)),
            None => {
                model.bad(format!("no firmware {name}: install the package {package}, or give -bios FILE"))
            }
        },
    }
}

/// A card's ROM that comes with the firmware.
pub(super) fn option_rom(model: &Model, c: &BoardConfig, name: &str) -> Result<Arc<[u8]>, MachineError> {
    let Some(path) = (c.firmware)(name) else {
        return model.bad(format!("no ROM {name}: install the package seabios, or give -vga none"));
    };
    let bytes = std::fs::read(&path).map_err(|source| MachineError::File { path, source })?;
    Ok(bytes.into())
}

fn size(path: &Path) -> Result<u64, MachineError> {
    let len = kernel::file_len(path)?;
    if len == 0 || len > MOST || !len.is_multiple_of(4096) {
        return Err(MachineError::Board(format!(
            "{}: {len} bytes; firmware is a multiple of 4096 bytes, at most {MOST}",
            path.display()
        )));
    }
    Ok(len)
}

/// Adds the firmware.
pub(super) fn add(b: &mut Board, model: &Model, c: &BoardConfig) -> Result<(), MachineError> {
    if !c.flash.is_empty() {
        return flash(b, model, c);
    }
    let Some(path) = find(model, c)? else { return model.bad("it starts with firmware; give -bios FILE") };
    let len = size(&path)?;
    let base = FOUR_GIB - len;
    if model.chipset.is_some() {
        b.rom("bios", base, len);
    } else {
        // Nothing shadows it there, so it runs where it is, and writes to itself.
        b.ram("bios", base, len, RamConfig::default());
    }
    b.within(MEMORY_CONTAINER);
    b.image(Image::file("bios", base, path, 0, len));
    let shadow = len.min(SHADOW);
    let at = (1 << 20) - shadow;
    if model.chipset.is_some() {
        b.alias("isa-bios", "bios", len - shadow, shadow, at);
    }
    Ok(())
}

fn flash(_b: &mut Board, model: &Model, _c: &BoardConfig) -> Result<(), MachineError> {
    model.bad("firmware in flash is not supported yet; give -bios FILE")
}
