//! `-kernel` through the BIOS: an option ROM of our own that firmware boots from.
//!
//! Linux Documentation/arch/x86/boot.rst; BIOS Boot Specification 1.01 (boot entry vectors); Plug and Play BIOS
//! Specification 1.0A, 3.2. The ROM holds ready-made DMA descriptors for fw_cfg: it hands each to the device, which copies the
//! piece to its place, and goes on to the kernel: a bzImage's real-mode entry, or that of a kernel in flat mode
//! ([`super::flat_rom`]). So it needs to know nothing of kernels.

use std::path::Path;

use machine::MachineError;

use crate::bytes::{le, put};
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

impl Kernel {
    /// Reads the kernel's real-mode part and decides where everything goes; nothing if it is no bzImage.
    pub(super) fn read(path: &Path, c: &BoardConfig, low: u64) -> Result<Option<Self>, MachineError> {
        let bad = |what: &str| MachineError::Board(format!("{}: {what}", path.display()));
        let total = kernel::file_len(path)?;
        let mut setup = kernel::head(path, 65 * 512)?;
        if setup.get(0x202..0x206) != Some(b"HdrS") {
            return Ok(None);
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
        let top = top(low);
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
        Ok(Some(Kernel { offset, len, load: HIGH, setup, line, initrd }))
    }
}

/// End of the RAM that kernels may use, firmware's tables left out.
pub(super) fn top(low: u64) -> u64 {
    low.saturating_sub(RESERVE)
}

/// Place of the Plug and Play header and of the code in the ROM. The descriptors are behind the code.
const PNP: usize = 0x20;
const NAME: usize = 0x40;
const CODE: usize = 0x60;
const SECTOR: usize = 512;
/// Bits of a descriptor's control word, the item's key above them.
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
/// An item that there is not: it reads as zeroes.
const NOTHING: u16 = 0x3fff;

/// Part of an item of fw_cfg and where it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub(super) key: u16,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) gpa: u64,
}

impl Copy {
    /// A whole item.
    pub(super) fn whole(key: u16, gpa: u64, len: u64) -> Self {
        Copy { key, offset: 0, len, gpa }
    }

    /// Memory that is cleared.
    pub(super) fn zeroes(gpa: u64, len: u64) -> Self {
        Copy::whole(NOTHING, gpa, len)
    }

    /// Its descriptors: control, length, address, all big-endian.
    fn descriptors(self) -> Vec<u8> {
        let one = |control: u32, len: u64, gpa: u64| {
            [&control.to_be_bytes()[..], &(len as u32).to_be_bytes(), &gpa.to_be_bytes()].concat()
        };
        let select = u32::from(self.key) << 16 | SELECT;
        if self.offset == 0 {
            return one(select | READ, self.len, self.gpa);
        }
        [one(select | SKIP, self.offset, 0), one(READ, self.len, self.gpa)].concat()
    }
}

/// The ROM that makes copies and goes on with `then`, 16-bit code. `None` if that is more than a ROM can have.
pub(super) fn rom(copies: &[Copy], then: &[u8]) -> Option<Vec<u8>> {
    let descriptors: Vec<u8> = copies.iter().flat_map(|c| c.descriptors()).collect();
    let count = u16::try_from(descriptors.len() / 16).ok()?;
    let at = (CODE + code(count, 0).len() + then.len()).next_multiple_of(16);
    let mut rom = vec![0; (at + descriptors.len()).next_multiple_of(SECTOR)];
    // Signature, size in sectors, and an entry that returns at once.
    let sectors = u8::try_from(rom.len() / SECTOR).ok()?;
    rom[..4].copy_from_slice(&[0x55, 0xaa, sectors, 0xcb]);
    put(&mut rom, 0x1a, PNP as u64, 2);
    rom[PNP..PNP + 6].copy_from_slice(b"$PnP\x01\x02");
    put(&mut rom, PNP + 0x10, NAME as u64, 2);
    put(&mut rom, PNP + 0x1a, CODE as u64, 2);
    rom[NAME..NAME + 7].copy_from_slice(b"Kernel\0");
    let code = [&code(count, at as u32), then].concat();
    rom[CODE..CODE + code.len()].copy_from_slice(&code);
    rom[at..at + descriptors.len()].copy_from_slice(&descriptors);
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg();
    rom[PNP + 9] = sum(&rom[PNP..PNP + 32]);
    rom[6] = sum(&rom);
    Some(rom)
}

/// The code at the boot entry, 16-bit, which makes the copies. In comments what it is in assembly.
fn code(count: u16, descriptors: u32) -> Vec<u8> {
    let mut c = Vec::new();
    c.extend([0xfa, 0xfc]); // cli; cld
    // The address of the first descriptor: the ROM runs wherever firmware has copied it.
    c.extend([0x66, 0x31, 0xdb]); // xor ebx, ebx
    c.extend([0x8c, 0xcb]); // mov bx, cs
    c.extend([0x66, 0xc1, 0xe3, 0x04]); // shl ebx, 4
    c.extend([0x66, 0x81, 0xc3]); // add ebx, descriptors
    c.extend(descriptors.to_le_bytes());
    c.push(0xb9); // mov cx, count
    c.extend(count.to_le_bytes());
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
    c
}

/// A bzImage's entry, 16-bit: all segments are its own, the stack is at their end.
pub(super) fn bzimage() -> Vec<u8> {
    let mut c = Vec::new();
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
        let many: Vec<Copy> =
            (0..40).map(|n| Copy { key: 0x11, offset: n, len: 0x4000, gpa: SETUP }).collect();
        for (copies, sectors) in [(&many[..1], 1), (&many[..], 3)] {
            let rom = rom(copies, &bzimage()).unwrap();
            assert_eq!(rom.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
            assert_eq!((rom.len(), rom[2]), (512 * sectors, sectors as u8));
            let pnp = &rom[PNP..PNP + 32];
            assert_eq!(pnp.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
        }
        let copy = Copy { key: 0x11, offset: 0x300, len: 0x4000, gpa: SETUP };
        assert_eq!(
            copy.descriptors(),
            [
                [0, 0x11, 0, 0xc, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                [0, 0, 0, 2, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 1, 0, 0]
            ]
            .concat()
        );
        assert!(rom(&vec![copy; 5000], &[]).is_none());
    }
}
