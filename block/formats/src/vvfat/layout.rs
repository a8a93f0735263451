//! Where everything is on a FAT volume (Microsoft, "FAT: General Overview of On-Disk Format", version 1.03): sizes,
//! boot sectors and the table's encoding.

use crate::bytes::{le16, le32, put};

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;
/// Bytes of a directory entry.
pub(super) const ENTRY: usize = 32;
/// Copies of the table.
const FATS: u32 = 2;
/// Sectors of the hard disk, with QEMU's geometry of 1024 cylinders.
const DISK: u32 = 1024 * 16 * 63;
/// Sectors of a hard disk with FAT12, which maps less.
const SMALL_DISK: u32 = 64 * 16 * 63;
/// First sector of the partition.
const PARTITION: u32 = 63;
/// Marks the end of a chain.
pub(super) const END: u32 = 0x0fff_ffff;

/// Width of an entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

impl Width {
    pub(super) fn bits(self) -> u32 {
        match self {
            Width::Fat12 => 12,
            Width::Fat16 => 16,
            Width::Fat32 => 32,
        }
    }
}

/// A volume and the disk it is on. Sectors count from the start of the volume unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) width: Width,
    /// First sector of the volume on the disk; 0 for a floppy disk.
    pub(super) start: u32,
    /// Sectors of the disk.
    pub(super) disk: u32,
    /// Sectors of the volume.
    pub(super) sectors: u32,
    pub(super) per_cluster: u32,
    reserved: u32,
    fat_sectors: u32,
    pub(super) root_entries: u32,
    heads: u32,
    per_track: u32,
}

impl Layout {
    /// A floppy disk: 1.44 MB if FAT12 is asked for, else 2.88 MB.
    pub(super) fn floppy(width: Option<Width>) -> Self {
        let per_track = if width == Some(Width::Fat12) { 18 } else { 36 };
        let per_cluster = if width.is_none() { 2 } else { 1 };
        let sectors = 80 * 2 * per_track;
        let entries = if per_track == 18 { 224 } else { 240 };
        Self::new(width.unwrap_or(Width::Fat12), 0, sectors, per_cluster, entries, (2, per_track))
    }

    /// A hard disk with one partition, with room for so many bytes of files.
    pub(super) fn disk(width: Width, needed: u64) -> Self {
        match width {
            Width::Fat12 => Self::new(width, PARTITION, SMALL_DISK - PARTITION, 16, 512, (16, 63)),
            Width::Fat16 => Self::new(width, PARTITION, DISK - PARTITION, 16, 512, (16, 63)),
            Width::Fat32 => {
                // Twice what there is, so that there is room for more.
                let wanted = (needed / SECTOR as u64 * 2).max(u64::from(DISK)).min(u64::from(u32::MAX) / 2);
                let sectors = wanted.next_multiple_of(63 * 16) as u32;
                let mut per_cluster = 8;
                while sectors / per_cluster > 4 << 20 && per_cluster < 64 {
                    per_cluster *= 2;
                }
                Self::new(width, PARTITION, sectors - PARTITION, per_cluster, 0, (16, 63))
            }
        }
    }

    fn new(width: Width, start: u32, sectors: u32, per_cluster: u32, root: u32, shape: (u32, u32)) -> Self {
        let mut layout = Layout {
            width,
            start,
            disk: start + sectors,
            sectors,
            per_cluster,
            reserved: if width == Width::Fat32 { 32 } else { 1 },
            fat_sectors: 1,
            root_entries: root,
            heads: shape.0,
            per_track: shape.1,
        };
        loop {
            let bits = u64::from(layout.clusters() + 2) * u64::from(width.bits());
            let needed = bits.div_ceil(8 * SECTOR as u64) as u32;
            if layout.fat_sectors >= needed {
                return layout;
            }
            layout.fat_sectors = needed;
        }
    }

    pub(super) fn cluster(&self) -> usize {
        self.per_cluster as usize * SECTOR
    }

    /// The first sector of a copy of the table, and how many it has.
    pub(super) fn fat(&self) -> (u32, u32) {
        (self.reserved, self.fat_sectors)
    }

    /// First sector of the root directory, where it has a place of its own.
    pub(super) fn root(&self) -> u32 {
        self.reserved + FATS * self.fat_sectors
    }

    /// First sector of the clusters.
    pub(super) fn data(&self) -> u32 {
        self.root() + self.root_entries * ENTRY as u32 / SECTOR as u32
    }

    /// How many clusters there are. The first has number 2.
    pub(super) fn clusters(&self) -> u32 {
        (self.sectors - self.data()) / self.per_cluster
    }

    /// Whether this is the number of a cluster.
    pub(super) fn is_cluster(&self, n: u32) -> bool {
        n >= 2 && n - 2 < self.clusters()
    }

    /// First sector of a cluster.
    pub(super) fn sector_of(&self, cluster: u32) -> u32 {
        self.data() + (cluster - 2) * self.per_cluster
    }

    /// The master boot record: one partition.
    pub(super) fn mbr(&self) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        let chs = |sector: u32| -> [u8; 3] {
            let (track, s) = (sector / self.per_track, sector % self.per_track + 1);
            let (cylinder, head) = (track / self.heads, track % self.heads);
            if cylinder > 1023 {
                return [0xfe, 0xff, 0xff];
            }
            [head as u8, s as u8 | ((cylinder >> 2) & 0xc0) as u8, cylinder as u8]
        };
        put(&mut out, 440, &0xbe1a_fdfau32.to_le_bytes());
        out[446] = 0x80;
        put(&mut out, 447, &chs(self.start));
        out[450] = match self.width {
            Width::Fat12 => 0x01,
            Width::Fat16 => 0x06,
            Width::Fat32 => 0x0c,
        };
        put(&mut out, 451, &chs(self.disk - 1));
        put(&mut out, 454, &self.start.to_le_bytes());
        put(&mut out, 458, &self.sectors.to_le_bytes());
        put(&mut out, 510, &[0x55, 0xaa]);
        out
    }

    /// The volume's boot sector.
    pub(super) fn boot(&self, label: &[u8; 11]) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        let wide = self.width == Width::Fat32;
        put(&mut out, 0, &[0xeb, if wide { 0x58 } else { 0x3c }, 0x90]);
        put(&mut out, 3, b"MSWIN4.1");
        put(&mut out, 11, &(SECTOR as u16).to_le_bytes());
        out[13] = self.per_cluster as u8;
        put(&mut out, 14, &(self.reserved as u16).to_le_bytes());
        out[16] = FATS as u8;
        put(&mut out, 17, &(self.root_entries as u16).to_le_bytes());
        match u16::try_from(self.sectors) {
            Ok(n) if !wide => put(&mut out, 19, &n.to_le_bytes()),
            _ => put(&mut out, 32, &self.sectors.to_le_bytes()),
        }
        out[21] = self.media();
        put(&mut out, 24, &(self.per_track as u16).to_le_bytes());
        put(&mut out, 26, &(self.heads as u16).to_le_bytes());
        put(&mut out, 28, &self.start.to_le_bytes());
        let tail = if wide { 64 } else { 36 };
        if wide {
            put(&mut out, 36, &self.fat_sectors.to_le_bytes());
            put(&mut out, 44, &2u32.to_le_bytes());
            put(&mut out, 48, &1u16.to_le_bytes());
            put(&mut out, 50, &6u16.to_le_bytes());
        } else {
            put(&mut out, 22, &(self.fat_sectors as u16).to_le_bytes());
        }
        out[tail] = if self.start == 0 { 0 } else { 0x80 };
        out[tail + 2] = 0x29;
        put(&mut out, tail + 3, &0xfabe_1afdu32.to_le_bytes());
        put(&mut out, tail + 7, label);
        put(&mut out, tail + 18, format!("FAT{:<5}", self.width.bits()).as_bytes());
        put(&mut out, 510, &[0x55, 0xaa]);
        out
    }

    /// Bytes of the boot sector that tell where everything is: a guest that changes them has made another volume.
    pub(super) fn shape(boot: &[u8]) -> &[u8] {
        boot.get(11..36).unwrap_or_default()
    }

    /// FAT32's sector that counts free clusters, which it may not know.
    pub(super) fn info(&self, free: u32, next: u32) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        put(&mut out, 0, b"RRaA");
        put(&mut out, 484, b"rrAa");
        put(&mut out, 488, &free.to_le_bytes());
        put(&mut out, 492, &next.to_le_bytes());
        put(&mut out, 508, &[0, 0, 0x55, 0xaa]);
        out
    }

    fn media(&self) -> u8 {
        if self.start == 0 { 0xf0 } else { 0xf8 }
    }

    /// What the first two entries of the table hold.
    pub(super) fn first_entries(&self) -> [u32; 2] {
        [(END & !0xff) | u32::from(self.media()), END]
    }

    /// One sector of the table.
    pub(super) fn encode(&self, table: &[u32], sector: u32) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        let entry = |i: usize| table.get(i).copied().unwrap_or(0);
        let first = sector as usize * SECTOR;
        match self.width {
            Width::Fat32 => {
                for (i, o) in out.chunks_exact_mut(4).enumerate() {
                    o.copy_from_slice(&entry(first / 4 + i).to_le_bytes());
                }
            }
            Width::Fat16 => {
                for (i, o) in out.chunks_exact_mut(2).enumerate() {
                    o.copy_from_slice(&(entry(first / 2 + i) as u16).to_le_bytes());
                }
            }
            Width::Fat12 => {
                // Three bytes hold two entries.
                for (i, o) in out.iter_mut().enumerate() {
                    let (pair, part) = ((first + i) / 3, (first + i) % 3);
                    let both = (entry(pair * 2) & 0xfff) | (entry(pair * 2 + 1) & 0xfff) << 12;
                    *o = (both >> (8 * part)) as u8;
                }
            }
        }
        out
    }

    /// The table of all clusters, ends of chains as [`END`].
    pub(super) fn decode(&self, raw: &[u8]) -> Vec<u32> {
        let entry = |i: usize| match self.width {
            Width::Fat32 => le32(raw, i * 4) & END,
            Width::Fat16 => u32::from(le16(raw, i * 2)),
            Width::Fat12 => {
                let both = u32::from(le16(raw, i * 3 / 2));
                if i.is_multiple_of(2) { both & 0xfff } else { both >> 4 }
            }
        };
        let last = match self.width {
            Width::Fat32 => 0x0fff_fff8,
            Width::Fat16 => 0xfff8,
            Width::Fat12 => 0xff8,
        };
        (0..self.clusters() as usize + 2).map(|i| if entry(i) >= last { END } else { entry(i) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_decode_to_what_was_encoded() {
        for layout in [
            Layout::floppy(None),
            Layout::floppy(Some(Width::Fat12)),
            Layout::disk(Width::Fat12, 0),
            Layout::disk(Width::Fat16, 0),
            Layout::disk(Width::Fat32, 3 << 30),
        ] {
            // The number of clusters decides what a reader takes the volume for.
            let n = layout.clusters();
            let fits = match layout.width {
                Width::Fat12 => n < 4085,
                Width::Fat16 => (4085..65525).contains(&n),
                Width::Fat32 => n >= 65525,
            };
            assert!(fits, "{layout:?} has {n} clusters");
            let mut table: Vec<u32> = (0..n + 2).map(|i| if i % 7 == 0 { END } else { i % 4000 }).collect();
            let raw: Vec<u8> = (0..layout.fat_sectors).flat_map(|s| layout.encode(&table, s)).collect();
            let back = layout.decode(&raw);
            table.iter_mut().for_each(|e| *e = if *e == END { END } else { *e });
            assert!(back == table, "{layout:?}");
        }
    }
}
