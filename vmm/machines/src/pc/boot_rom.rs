//! `-kernel` through the BIOS: an option ROM of our own that firmware boots from.
//!
//! Linux Documentation/arch/x86/boot.rst; BIOS Boot Specification 1.01 (boot entry vectors); Plug and Play BIOS
//! Specification 1.0A, 3.2. The ROM holds ready-made DMA descriptors for fw_cfg: it hands each to the device, which copies the
//! piece to its place, and jumps to the kernel's real-mode entry. So it needs to know nothing of kernels.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use machine::MachineError;

use crate::{BoardConfig, kernel};

/// Where the kernel's real-mode part goes.
pub(super) const SETUP: u64 = 0x1_0000;
/// Where its command line goes.
pub(super) const LINE: u64 = 0x2_0000;
/// End of the real-mode part's heap, and its stack.
const HEAP_END: u64 = LINE - SETUP - 0x200;
const STACK: u16 = 0xfff0;
const HIGH: u64 = 0x10_0000;
/// Firmware keeps its tables below the end of RAM.
const RESERVE: u64 = 2 << 20;
/// Oldest boot protocol that takes a command line anywhere.
const PROTOCOL: u64 = 0x202;
/// What kernels took before they said how much they take.
const OLD_LINE: u64 = 255;

/// A kernel and what goes with it.
pub(super) struct Kernel {
    /// The protected-mode part in the file.
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Where it goes.
    pub(super) load: u64,
    /// The real-mode part, filled in.
    pub(super) setup: Vec<u8>,
    /// The command line with its end.
    pub(super) line: Vec<u8>,
    /// Where the initial RAM disk goes, and its length.
    pub(super) initrd: Option<(u64, u64)>,
}

fn le(data: &[u8], at: usize, n: usize) -> u64 {
    data.get(at..at + n).map_or(0, |b| b.iter().rev().fold(0, |v, x| v << 8 | u64::from(*x)))
}

fn put(data: &mut [u8], at: usize, value: u64, n: usize) {
    if let Some(to) = data.get_mut(at..at + n) {
        to.copy_from_slice(&value.to_le_bytes()[..n]);
    }
}

impl Kernel {
    /// Reads the kernel's real-mode part and decides where everything goes.
    pub(super) fn read(path: &Path, c: &BoardConfig, low: u64) -> Result<Self, MachineError> {
        let bad = |what: &str| MachineError::Board(format!("{}: {what}", path.display()));
        let file_error = |source| MachineError::File { path: path.into(), source };
        let total = kernel::file_len(path)?;
        let mut setup = Vec::new();
        File::open(path).map_err(file_error)?.take(65 * 512).read_to_end(&mut setup).map_err(file_error)?;
        if setup.get(0x202..0x206) != Some(b"HdrS") {
            return Err(bad("not a bzImage; this board starts Linux kernels in that form"));
        }
        let version = le(&setup, 0x206, 2);
        let flags = le(&setup, 0x211, 1);
        if version < PROTOCOL || flags & 1 == 0 {
            return Err(bad("a kernel that wants to be loaded low, or of boot protocol before 2.02"));
        }
        let sectors = match le(&setup, 0x1f1, 1) {
            0 => 4,
            n => n,
        };
        let offset = (sectors + 1) * 512;
        let len = total.checked_sub(offset).filter(|n| *n > 0).ok_or_else(|| bad("it is cut off"))?;
        setup.truncate(offset as usize);
        let most = if version >= 0x206 { le(&setup, 0x238, 4) } else { OLD_LINE };
        let size = c.append.len() as u64;
        if size > most || c.append.contains('\0') {
            return Err(MachineError::Board(format!(
                "-append: {size} bytes; this kernel takes at most {most}, without a NUL"
            )));
        }
        let init = if version >= 0x20a { le(&setup, 0x260, 4) } else { 0 };
        let preferred = if version >= 0x20a { le(&setup, 0x258, 8) } else { HIGH };
        let end = HIGH.max(preferred).saturating_add(len.max(init));
        let top = low.saturating_sub(RESERVE);
        let no_room = |what: &Path, len: u64| {
            let ram = c.ram >> 20;
            MachineError::Board(format!("{}: {len} bytes do not fit into {ram} MiB of RAM", what.display()))
        };
        if HIGH + len > top {
            return Err(no_room(path, len));
        }
        let mut initrd = None;
        if let Some(file) = &c.initrd {
            let size = kernel::file_len(file)?;
            let highest = if version >= 0x203 { le(&setup, 0x22c, 4) } else { 0x37ff_ffff };
            let at = top.min(highest + 1).checked_sub(size).map(|at| at & !0xfff);
            let at = at.filter(|at| *at >= end).ok_or_else(|| no_room(file, size))?;
            initrd = Some((at, size));
        }
        // A boot loader without a number of its own; heap and command line.
        put(&mut setup, 0x210, 0xff, 1);
        put(&mut setup, 0x211, flags | 0x80, 1);
        put(&mut setup, 0x224, HEAP_END, 2);
        put(&mut setup, 0x228, LINE, 4);
        if let Some((at, size)) = initrd {
            put(&mut setup, 0x218, at, 4);
            put(&mut setup, 0x21c, size, 4);
        }
        let mut line = c.append.clone().into_bytes();
        line.push(0);
        Ok(Kernel { offset, len, load: HIGH, setup, line, initrd })
    }
}

/// Place of the Plug and Play header, of the code, and of the descriptors in the ROM.
const PNP: usize = 0x20;
const NAME: usize = 0x40;
const CODE: usize = 0x60;
const DESCRIPTORS: usize = 0xc0;
const SECTOR: usize = 512;
/// A descriptor: control, length, address, all big-endian; select and read.
const SELECT_AND_READ: u32 = 1 << 3 | 1 << 1;

/// The ROM that copies items of fw_cfg to addresses and starts the kernel.
pub(super) fn rom(pieces: &[(u16, u64, u64)]) -> Vec<u8> {
    let mut rom = vec![0; SECTOR];
    // Signature, size in sectors, and an entry that returns at once.
    rom[..4].copy_from_slice(&[0x55, 0xaa, 1, 0xcb]);
    put(&mut rom, 0x1a, PNP as u64, 2);
    rom[PNP..PNP + 6].copy_from_slice(b"$PnP\x01\x02");
    put(&mut rom, PNP + 0x10, NAME as u64, 2);
    put(&mut rom, PNP + 0x1a, CODE as u64, 2);
    rom[NAME..NAME + 13].copy_from_slice(b"Linux kernel\0");
    let code = code(pieces.len() as u16);
    rom[CODE..CODE + code.len()].copy_from_slice(&code);
    for (i, (key, at, len)) in pieces.iter().enumerate() {
        let descriptor = DESCRIPTORS + 16 * i;
        let control = u32::from(*key) << 16 | SELECT_AND_READ;
        rom[descriptor..descriptor + 4].copy_from_slice(&control.to_be_bytes());
        rom[descriptor + 4..descriptor + 8].copy_from_slice(&(*len as u32).to_be_bytes());
        rom[descriptor + 8..descriptor + 16].copy_from_slice(&at.to_be_bytes());
    }
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg();
    rom[PNP + 9] = sum(&rom[PNP..PNP + 32]);
    rom[6] = sum(&rom);
    rom
}

/// The code at the boot entry, 16-bit. In comments what it is in assembly.
fn code(pieces: u16) -> Vec<u8> {
    let mut c = Vec::new();
    c.extend([0xfa, 0xfc]); // cli; cld
    // The address of the first descriptor: the ROM runs wherever firmware has copied it.
    c.extend([0x66, 0x31, 0xdb]); // xor ebx, ebx
    c.extend([0x8c, 0xcb]); // mov bx, cs
    c.extend([0x66, 0xc1, 0xe3, 0x04]); // shl ebx, 4
    c.extend([0x66, 0x81, 0xc3]); // add ebx, DESCRIPTORS
    c.extend((DESCRIPTORS as u32).to_le_bytes());
    c.push(0xb9); // mov cx, pieces
    c.extend(pieces.to_le_bytes());
    let next = c.len();
    // The device's address register is big-endian; its lower half starts the transfer, which is over at once.
    c.extend([0xba, 0x14, 0x05]); // mov dx, 0x514
    c.extend([0x66, 0x31, 0xc0]); // xor eax, eax
    c.extend([0x66, 0xef]); // out dx, eax
    c.extend([0xba, 0x18, 0x05]); // mov dx, 0x518
    c.extend([0x66, 0x89, 0xd8]); // mov eax, ebx
    c.extend([0x66, 0x0f, 0xc8]); // bswap eax
    c.extend([0x66, 0xef]); // out dx, eax
    c.extend([0x66, 0x83, 0xc3, 0x10]); // add ebx, 16
    let back = next as isize - (c.len() as isize + 2);
    c.extend([0xe2, back as u8]); // loop next
    // The kernel's entry: all segments are its own, the stack is at their end.
    let segment = (SETUP >> 4) as u16;
    c.push(0xb8); // mov ax, segment
    c.extend(segment.to_le_bytes());
    c.extend([0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e, 0xd0]); // mov ds/es/fs/gs/ss, ax
    c.push(0xbc); // mov sp, STACK
    c.extend(STACK.to_le_bytes());
    c.push(0xea); // jmp segment + 0x20:0
    c.extend([0, 0]);
    c.extend((segment + 0x20).to_le_bytes());
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rom_is_one_that_firmware_takes() {
        let rom = rom(&[(0x18, SETUP, 0x4000), (0x12, 0x700_0000, 0x12_3456)]);
        assert_eq!(rom.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
        assert_eq!((rom.len(), rom[2]), (512, 1));
        assert_eq!(
            rom[DESCRIPTORS..DESCRIPTORS + 16],
            [0, 0x18, 0, 0xa, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 1, 0, 0]
        );
        assert!(CODE + code(4).len() <= DESCRIPTORS);
        let pnp = &rom[PNP..PNP + 32];
        assert_eq!(pnp.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    }
}
