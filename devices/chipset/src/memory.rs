//! What of the first megabyte is RAM: the attribute registers (PAM) and the hole of the video memory (SMRAM).
//!
//! Intel 82441FX datasheet (290549-001), 3.2.17 and 3.2.18; Intel 82Q35 datasheet (317607), 5.1.20 and 5.1.31. RAM lies at
//! the bottom of the machine's memory; this lays windows of the PCI memory space over it. A segment that can only be
//! written shows PCI.
//!
//! Needs regions of these names: the RAM, and the PCI container. Without them (on a bench) it only keeps registers.

use device::Spaces;
use guest_memory::{AddressSpace, MemoryError, Region, RegionId, Transaction};
use pci::MEMORY_CONTAINER;
use pci::config_space::ConfigSpace;

/// Name of the RAM that the windows lie over.
const RAM: &str = "ram";
/// Above RAM.
const PRIORITY: i32 = 1;
/// Attribute registers.
pub(crate) const PAM_COUNT: usize = 7;
/// The video memory, where RAM for system management may be.
const VIDEO: (u64, u64) = (0xa_0000, 0x2_0000);
/// SMRAM control: RAM is open to everybody.
pub(crate) const SMRAM_OPEN: u8 = 1 << 6;
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

/// The windows.
pub(crate) struct LowMemory {
    space: Option<AddressSpace>,
    segments: Vec<Segment>,
    video: Option<RegionId>,
    now: ([u8; PAM_COUNT], bool),
}

impl LowMemory {
    /// Lays the windows as they are after reset: everything is PCI.
    pub(crate) fn new(spaces: Option<Spaces>) -> Result<Self, MemoryError> {
        let none = LowMemory { space: None, segments: Vec::new(), video: None, now: ([0; PAM_COUNT], false) };
        let Some(space) = spaces.map(|s| s.memory) else { return Ok(none) };
        let mut tx = space.update();
        let (Some(ram), Some(pci)) = (tx.find(RAM), tx.find(MEMORY_CONTAINER)) else {
            drop(tx);
            return Ok(none);
        };
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
        let video = Region::alias("smram", pci, VIDEO.0, VIDEO.1.into()).at(VIDEO.0).priority(PRIORITY);
        let root = tx.root();
        let video = tx.add(root, video)?;
        tx.commit()?;
        Ok(LowMemory { space: Some(space), segments, video: Some(video), now: ([0; PAM_COUNT], false) })
    }

    /// Follows the registers.
    pub(crate) fn set(&mut self, pam: [u8; PAM_COUNT], smram: u8) {
        let open = smram & SMRAM_OPEN != 0;
        if self.now == (pam, open) {
            return;
        }
        self.now = (pam, open);
        if let Some(space) = &self.space
            && let Err(e) = self.apply(space.update())
        {
            tracing::warn!("memory below 1 MiB: {e}");
        }
    }

    fn apply(&self, mut tx: Transaction<'_>) -> Result<(), MemoryError> {
        let (pam, open) = self.now;
        for (segment, (_, _, register, shift)) in self.segments.iter().zip(SEGMENTS) {
            let (read, write) = match pam[register] >> shift & 3 {
                1 => (true, false),
                3 => (true, true),
                _ => (false, false),
            };
            tx.set_enabled(segment.pci, !read)?;
            tx.set_enabled(segment.read_only, read && !write)?;
        }
        if let Some(video) = self.video {
            tx.set_enabled(video, !open)?;
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

/// Once locked, SMRAM is closed and stays so until the next reset.
pub(crate) fn lock_smram(space: &mut ConfigSpace, at: usize, locked: &mut bool) {
    let value = space.u8(at);
    *locked |= value & SMRAM_LOCK != 0;
    if *locked {
        space.set_u8(at, value & !SMRAM_OPEN | SMRAM_LOCK);
    }
}
