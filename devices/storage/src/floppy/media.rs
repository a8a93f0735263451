//! Diskettes and drives: which geometry a size means.

use block::Disk;

/// A sector's bytes.
pub(super) const SECTOR: u64 = 512;

/// A format of diskettes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) tracks: u8,
    pub(super) heads: u8,
    pub(super) sectors: u8,
    /// Data rate as controllers select it: 0 is 500 kbit/s, 1 is 300, 2 is 250, 3 is 1 Mbit/s.
    pub(super) rate: u8,
}

const fn format(tracks: u8, heads: u8, sectors: u8, rate: u8) -> Format {
    Format { tracks, heads, sectors, rate }
}

/// Known formats; the last is what an unknown size is taken for.
const FORMATS: [Format; 16] = [
    format(80, 2, 20, 0),
    format(80, 2, 21, 0),
    format(82, 2, 21, 0),
    format(83, 2, 21, 0),
    format(80, 2, 22, 0),
    format(80, 2, 23, 0),
    format(80, 2, 24, 0),
    format(80, 2, 36, 3),
    format(80, 2, 15, 0),
    format(80, 2, 9, 2),
    format(80, 2, 10, 2),
    format(40, 2, 9, 2),
    format(40, 2, 8, 2),
    format(40, 1, 9, 2),
    format(40, 1, 8, 2),
    format(80, 2, 18, 0),
];

impl Format {
    pub(super) fn of(size: u64) -> Format {
        let bytes = |f: &Format| u64::from(f.tracks) * u64::from(f.heads) * u64::from(f.sectors) * SECTOR;
        FORMATS.iter().copied().find(|f| bytes(f) == size).unwrap_or(FORMATS[FORMATS.len() - 1])
    }
}

/// A drive with what is in it.
#[derive(Clone, Debug)]
pub(super) struct Drive {
    pub(super) there: bool,
    pub(super) disk: Option<Disk>,
    /// Where the head stands.
    pub(super) track: u8,
    /// The diskette was changed since the head moved last.
    pub(super) changed: bool,
}

impl Drive {
    pub(super) fn format(&self) -> Option<Format> {
        self.disk.as_ref().map(|disk| Format::of(disk.len()))
    }

    /// Offset of a sector, if the diskette has it; sectors count from 1.
    pub(super) fn offset(&self, track: u8, head: u8, sector: u8) -> Option<u64> {
        let f = self.format()?;
        let there = track < f.tracks && head < f.heads && (1..=f.sectors).contains(&sector);
        let index = (u64::from(track) * u64::from(f.heads) + u64::from(head)) * u64::from(f.sectors);
        there.then(|| (index + u64::from(sector) - 1) * SECTOR)
    }
}
