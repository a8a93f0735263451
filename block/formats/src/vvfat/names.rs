//! Names of FAT directories: the short one, and long ones in entries before it (Microsoft, "Long Filename
//! Specification", version 0.5).

use std::collections::BTreeSet;

use super::layout::ENTRY;
use crate::bytes::le16;

/// Attribute of an entry that holds a part of a long name.
pub(super) const LONG: u8 = 0x0f;
/// Characters of a part.
const PART: usize = 13;
/// Most characters of a long name.
const MAX: usize = 255;
/// Where they are in an entry.
const PLACES: [usize; PART] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A short name: eight characters and three.
pub(super) type Short = [u8; 11];

/// Whether a file may have this name, on a FAT volume and on any host.
pub(super) fn valid(name: &str) -> bool {
    let good = |c: char| !c.is_control() && !"\"*/:<>?\\|".contains(c);
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let device = ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str())
        || (stem.len() == 4
            && (stem.starts_with("COM") || stem.starts_with("LPT"))
            && stem.ends_with(|c: char| c.is_ascii_digit()));
    !name.is_empty()
        && !device
        && name.chars().all(good)
        && !name.ends_with(['.', ' '])
        && !name.starts_with(' ')
        && name.encode_utf16().count() <= MAX
}

fn short_char(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || "!#$%&'()-@^_`{}~".contains(c)
}

/// A short name of this very spelling, if there is one.
fn exact(name: &str) -> Option<Short> {
    let (stem, ext) = name.rsplit_once('.').unwrap_or((name, ""));
    let fits = !stem.is_empty()
        && stem.len() <= 8
        && ext.len() <= 3
        && !(ext.is_empty() && name.contains('.'))
        && stem.chars().chain(ext.chars()).all(short_char);
    fits.then(|| pad(stem, ext))
}

fn pad(stem: &str, ext: &str) -> Short {
    let mut out = [b' '; 11];
    out[..stem.len()].copy_from_slice(stem.as_bytes());
    out[8..8 + ext.len()].copy_from_slice(ext.as_bytes());
    out
}

/// The short name for a name in a directory, and whether a long one is needed beside it.
pub(super) fn shorten(name: &str, taken: &mut BTreeSet<Short>) -> Option<(Short, bool)> {
    if let Some(short) = exact(name)
        && taken.insert(short)
    {
        return Some((short, false));
    }
    let clean = |text: &str, n: usize| -> String {
        let upper = text.chars().filter(|c| !" .".contains(*c)).flat_map(char::to_uppercase);
        upper.map(|c| if short_char(c) { c } else { '_' }).take(n).collect()
    };
    let (stem, ext) = match name.rsplit_once('.') {
        Some((stem, ext)) if !stem.is_empty() => (stem, ext),
        _ => (name, ""),
    };
    let (stem, ext) = (clean(stem, 8), clean(ext, 3));
    for n in 1..1_000_000u32 {
        let tail = format!("~{n}");
        let mut base: String = stem.chars().take(8 - tail.len()).collect();
        base += &tail;
        let short = pad(&base, &ext);
        if taken.insert(short) {
            return Some((short, true));
        }
    }
    None
}

fn checksum(short: &Short) -> u8 {
    short.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b))
}

/// The entries of a long name, in the order they have before the short one.
pub(super) fn long_entries(name: &str, short: &Short) -> Vec<u8> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let parts = units.len().div_ceil(PART);
    if !units.len().is_multiple_of(PART) {
        units.push(0);
    }
    units.resize(parts * PART, 0xffff);
    let mut out = Vec::new();
    for (i, part) in units.chunks(PART).enumerate().rev() {
        let mut entry = [0; ENTRY];
        entry[0] = (i as u8 + 1) | if i + 1 == parts { 0x40 } else { 0 };
        entry[11] = LONG;
        entry[13] = checksum(short);
        for (unit, at) in part.iter().zip(PLACES) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        out.extend_from_slice(&entry);
    }
    out
}

/// Parts of a long name that were read so far.
#[derive(Default)]
pub(super) struct Long {
    units: Vec<u16>,
    /// Number of the part before.
    left: u8,
    sum: u8,
}

impl Long {
    /// Takes an entry with a part of it.
    pub(super) fn add(&mut self, entry: &[u8]) {
        let number = entry[0] & 0x3f;
        if entry[0] & 0x40 != 0 {
            *self = Long { units: Vec::new(), left: number, sum: entry[13] };
        } else if number + 1 != self.left || entry[13] != self.sum {
            *self = Long::default();
            return;
        } else {
            self.left = number;
        }
        if usize::from(number) * PART > MAX + PART {
            *self = Long::default();
            return;
        }
        let part = PLACES.map(|at| le16(entry, at));
        self.units.splice(0..0, part);
    }

    /// The long name of a short one, if what was read is one.
    pub(super) fn take(&mut self, short: &Short) -> Option<String> {
        let long = std::mem::take(self);
        if long.units.is_empty() || long.left != 1 || long.sum != checksum(short) {
            return None;
        }
        let end = long.units.iter().position(|u| *u == 0).unwrap_or(long.units.len());
        String::from_utf16(&long.units[..end]).ok()
    }
}

/// The spelling of a short name; `case` are the bits that put its parts in lower case.
pub(super) fn spell(short: &Short, case: u8) -> Option<String> {
    let part = |bytes: &[u8], lower: bool| -> Option<String> {
        let end = bytes.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1);
        let chars = bytes[..end].iter().map(|b| match b {
            0x21..=0x7e => Some(if lower { b.to_ascii_lowercase() } else { *b } as char),
            _ => None,
        });
        chars.collect()
    };
    let (stem, ext) = (part(&short[..8], case & 8 != 0)?, part(&short[8..], case & 16 != 0)?);
    Some(if ext.is_empty() { stem } else { format!("{stem}.{ext}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let mut taken = BTreeSet::new();
        for name in [
            "README.TXT",
            "readme.txt",
            "a long name with spaces.text",
            "ümläut",
            ".hidden",
            "x",
            "13chars--.abc",
            "a.b.c",
            &"n".repeat(255),
        ] {
            assert!(valid(name), "{name}");
            let (short, long) = shorten(name, &mut taken).unwrap();
            let mut parts = Long::default();
            if long {
                long_entries(name, &short).chunks(ENTRY).for_each(|e| parts.add(e));
            }
            let back = parts.take(&short).or_else(|| spell(&short, 0)).unwrap();
            assert_eq!(back, name);
        }
        assert_eq!(taken.len(), 9);
        assert_eq!(shorten("readme.txt", &mut taken).unwrap().0, *b"README~2TXT");
    }

    #[test]
    fn names_that_are_none() {
        for bad in
            ["", ".", "..", "a/b", "a\\b", "con", "COM1.txt", "a.", " a", "a\n", "c:", &"n".repeat(256)]
        {
            assert!(!valid(bad), "{bad:?}");
        }
        // Parts that do not belong together.
        let short = *b"ABC     TXT";
        let mut long = long_entries("some longer name.txt", &short);
        long[ENTRY + 13] ^= 1;
        let mut parts = Long::default();
        long.chunks(ENTRY).for_each(|e| parts.add(e));
        assert_eq!(parts.take(&short), None);
    }
}
