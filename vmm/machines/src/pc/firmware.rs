//! Firmware: a ROM at the end of 4 GiB, the last 128 KiB of which are seen below 1 MiB as well, or flash chips there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flash::PflashConfig;
use machine::{Board, Image, MachineError};
use pci::MEMORY_CONTAINER;

use super::Model;
use crate::x86::FOUR_GIB;
use crate::{Bios, BoardConfig, kernel};

/// Largest firmware: the local APICs lie below.
const MOST: u64 = 16 << 20;
/// Flash chips that there can be.
pub(super) const CHIPS: usize = 2;
/// Bytes of a chip that are erased at once.
const SECTOR: u64 = 4096;
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
    b.rom("bios", base, len).within(MEMORY_CONTAINER);
    b.image(Image::file("bios", base, path.clone(), 0, len));
    let shadow = len.min(SHADOW);
    let at = (1 << 20) - shadow;
    if model.chipset.is_some() {
        b.alias("isa-bios", "bios", len - shadow, shadow, at);
    } else {
        // No chipset shadows it: it is in RAM from the start, and writes to itself.
        b.image(Image::file("bios", at, path, len - shadow, shadow));
    }
    Ok(())
}

/// Flash chips, the first at the end of 4 GiB, the next before it.
fn flash(b: &mut Board, model: &Model, c: &BoardConfig) -> Result<(), MachineError> {
    if let Bios::File(path) = &c.bios {
        return model.bad(format!("-bios {}: the firmware is in flash already", path.display()));
    }
    let mut end = FOUR_GIB;
    for (i, disk) in c.flash.iter().enumerate() {
        let (name, len) = (disk.id(), disk.len());
        if len == 0 || !len.is_multiple_of(SECTOR) || FOUR_GIB - end + len > MOST {
            return model.bad(format!(
                "flash '{name}': {len} bytes; chips have multiples of {SECTOR} bytes, all of them at most {MOST}"
            ));
        }
        end -= len;
        let config =
            PflashConfig { disk: Some(disk.clone()), size: len, block: SECTOR, ..PflashConfig::default() };
        b.add(&format!("pflash{i}"), config).mmio_in(MEMORY_CONTAINER, 0, end);
        if i == 0 {
            // The end of the first is seen below 1 MiB as well.
            let shadow = len.min(SHADOW);
            b.alias("isa-bios", "pflash0.flash", len - shadow, shadow, (1 << 20) - shadow);
        }
    }
    Ok(())
}
