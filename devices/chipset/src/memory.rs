//! What of the first megabyte is RAM: the attribute registers (PAM) and the hole of the video memory (SMRAM).
//!
//! Intel 82441FX datasheet (290549-001), 3.2.17 and 3.2.18; Intel 82Q35 datasheet (317607), 5.1.20 and 5.1.31. RAM lies at
//! the bottom of the machine's memory; this lays windows of the PCI memory space over it. A segment that can only be
//! written shows PCI. RAM for system management is seen by vCPUs in that mode alone, unless it is open.
//!
//! Needs regions of these names: the RAM, and the PCI container. Without them (on a bench) it only keeps registers.

use std::sync::Arc;

use device::{Access, Spaces};
use guest_memory::{AddressSpace, IoHandler, MemoryError, Region, RegionId, Transaction};
use pci::MEMORY_CONTAINER;
use pci::config_space::ConfigSpace;

/// Name of the RAM that the windows lie over.
const RAM: &str = "ram";
/// Above RAM.
const PRIORITY: i32 = 1;
/// Above that, for vCPUs in system management mode.
const SECURE_PRIORITY: i32 = 2;
/// Attribute registers.
pub(crate) const PAM_COUNT: usize = 7;
/// The video memory, where RAM for system management may be.
const VIDEO: (u64, u64) = (0xa_0000, 0x2_0000);
/// Where the same RAM can be had instead, out of the way of video memory.
const HIGH_VIDEO: u64 = 0xfeda_0000;
/// SMRAM control: RAM is open to everybody.
pub(crate) const SMRAM_OPEN: u8 = 1 << 6;
/// SMRAM control: there is RAM for system management at all.
pub(crate) const SMRAM_ENABLE: u8 = 1 << 3;
/// SMRAM control: open and enable cannot be changed.
pub(crate) const SMRAM_LOCK: u8 = 1 << 4;

/// Half an attribute register: first address, size, register, shift.
const SEGMENTS: [(u64, u64, usize, u32); 13] = [
    (0xf_0000, 0x1_0000, 0, 4),
    (0xc_0000, 0x4000, 1, 0),
    (0xc_4000, 0x4000, 1, 4),
    (0xc_8000, 0x4000, 2, 0),
    (0xc_c000, 0x4000, 2, 4),
    (0xd_0000, 0x4000, 3, 0),
    (0xd_4000, 0x4000, 3, 4),
    (0xd_8000, 0x4000, 4, 0),
    (0xd_c000, 0x4000, 4, 4),
    (0xe_0000, 0x4000, 5, 0),
    (0xe_4000, 0x4000, 5, 4),
    (0xe_8000, 0x4000, 6, 0),
    (0xe_c000, 0x4000, 6, 4),
];

/// The windows of one segment.
struct Segment {
    pci: RegionId,
    read_only: RegionId,
}

/// RAM for system management, as the registers have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Smram {
    /// The RAM below the video memory is open to everybody.
    pub(crate) open: bool,
    /// It is there for system management.
    pub(crate) enabled: bool,
    /// It is not at the video memory's addresses, but at high ones.
    pub(crate) high: bool,
    /// So many bytes at this address are for system management as well.
    pub(crate) top: Option<(u64, u64)>,
}

impl Smram {
    /// What the control register says.
    pub(crate) fn of(control: u8) -> Self {
        let (open, enabled) = (control & SMRAM_OPEN != 0, control & SMRAM_ENABLE != 0);
        Smram { open, enabled, ..Smram::default() }
    }
}

/// RAM that is not seen: reads as nothing does.
struct Closed;

impl IoHandler for Closed {
    fn read(&self, _offset: u64, _data: &mut [u8]) -> Access {
        Access::NoRegister
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Access {
        Access::NoRegister
    }
}

/// Windows that are there once the spaces are known.
struct Windows {
    space: AddressSpace,
    ram: RegionId,
    segments: Vec<Segment>,
    /// The video memory over RAM, and RAM over that for system management.
    video: RegionId,
    low: RegionId,
    high: RegionId,
    /// RAM at the top: closed to everybody, but not to system management.
    top: Vec<RegionId>,
}

/// The windows, and what they follow.
pub(crate) struct LowMemory {
    windows: Option<Windows>,
    now: ([u8; PAM_COUNT], Smram),
}

impl LowMemory {
    /// Lays the windows as they are after reset: everything is PCI.
    pub(crate) fn new(spaces: Option<Spaces>) -> Result<Self, MemoryError> {
        let windows = spaces.map(|s| Windows::lay(s.memory)).transpose()?.flatten();
        Ok(LowMemory { windows, now: ([0; PAM_COUNT], Smram::default()) })
    }

    /// Follows the registers.
    pub(crate) fn set(&mut self, pam: [u8; PAM_COUNT], smram: Smram) {
        let before = std::mem::replace(&mut self.now, (pam, smram));
        if before != self.now
            && let Some(windows) = &mut self.windows
            && let Err(e) = windows.apply(pam, smram, before.1.top != smram.top)
        {
            tracing::warn!("memory below 1 MiB: {e}");
        }
    }
}

impl Windows {
    fn lay(space: AddressSpace) -> Result<Option<Self>, MemoryError> {
        let mut tx = space.update();
        let (Some(ram), Some(pci)) = (tx.find(RAM), tx.find(MEMORY_CONTAINER)) else { return Ok(None) };
        let mut segments = Vec::new();
        for (base, size, ..) in SEGMENTS {
            let alias = |tx: &mut Transaction<'_>, name: &str, of| {
                Region::alias(format!("pam-{name}-{base:x}"), of, base, size.into())
                    .at(base)
                    .priority(PRIORITY)
                    .pipe(|r| if of == ram { r.read_only().disabled() } else { r })
                    .pipe(|r| tx.add(tx.root(), r))
            };
            let pci = alias(&mut tx, "pci", pci)?;
            segments.push(Segment { pci, read_only: alias(&mut tx, "rom", ram)? });
        }
        let root = tx.root();
        let (base, size) = VIDEO;
        let video = Region::alias("smram", pci, base, size.into()).at(base).priority(PRIORITY);
        let video = tx.add(root, video)?;
        let mut secure = |name, at| {
            let region = Region::alias(name, ram, base, size.into()).at(at).priority(SECURE_PRIORITY);
            tx.add(root, region.secure().disabled())
        };
        let (low, high) = (secure("smram-low", base)?, secure("smram-high", HIGH_VIDEO)?);
        tx.commit()?;
        Ok(Some(Windows { space, ram, segments, video, low, high, top: Vec::new() }))
    }

    /// `top`: that part has changed.
    fn apply(&mut self, pam: [u8; PAM_COUNT], smram: Smram, top: bool) -> Result<(), MemoryError> {
        let mut tx = self.space.update();
        for (segment, (_, _, register, shift)) in self.segments.iter().zip(SEGMENTS) {
            let (read, write) = match pam[register] >> shift & 3 {
                1 => (true, false),
                3 => (true, true),
                _ => (false, false),
            };
            tx.set_enabled(segment.pci, !read)?;
            tx.set_enabled(segment.read_only, read && !write)?;
        }
        tx.set_enabled(self.video, !smram.open || smram.high)?;
        tx.set_enabled(self.low, smram.enabled && !smram.high)?;
        tx.set_enabled(self.high, smram.enabled && smram.high)?;
        tx.set_secure(self.high, !smram.open)?;
        if top {
            self.top.drain(..).try_for_each(|id| tx.remove(id))?;
            if let Some((base, size)) = smram.top {
                let root = tx.root();
                let closed = Region::io("tseg-closed", size, Arc::new(Closed)).at(base).priority(PRIORITY);
                let open = Region::alias("tseg", self.ram, base, size.into()).at(base).secure();
                self.top.push(tx.add(root, closed)?);
                self.top.push(tx.add(root, open.priority(SECURE_PRIORITY))?);
            }
        }
        tx.commit()
    }
}

trait Pipe: Sized {
    fn pipe<R>(self, f: impl FnOnce(Self) -> R) -> R {
        f(self)
    }
}

impl Pipe for Region {}

/// Once locked, SMRAM is closed and its registers, of which `registers` are the places and writable bits, stay as they are
/// until the next reset. The first is the control register.
pub(crate) fn lock_smram(space: &mut ConfigSpace, registers: &[(usize, u8)], locked: &mut bool) {
    if let Some((at, _)) = registers.first() {
        let value = space.u8(*at);
        *locked |= value & SMRAM_LOCK != 0;
        if *locked {
            space.set_u8(*at, value & !SMRAM_OPEN | SMRAM_LOCK);
        }
    }
    for (at, mask) in registers {
        space.allow(*at, &[if *locked { 0 } else { *mask }]);
    }
}
