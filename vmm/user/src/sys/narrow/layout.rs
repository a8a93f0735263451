//! Structures of 32-bit programs and the host's, field by field.
//!
//! A layout is text: each letter is a field, a number in front repeats it. `b h w` have 1, 2 and 4 bytes on both sides; `q` has
//! 8; `l` is a signed, `u` an unsigned word (4 bytes there, 8 here); `p` an address; `r` a limit, whose largest value is no limit; `n` a `long`
//! in the room of 8 bytes, whose upper half means nothing. Fields are aligned to their size, but that `q` is aligned to
//! [`Sides::align8`] there.

/// How the program's side differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sides {
    /// Alignment of 8 bytes.
    pub(super) align8: usize,
}

/// One field: size there, alignment there, size here.
const fn field(letter: u8, sides: Sides) -> (usize, usize, usize) {
    match letter {
        b'b' => (1, 1, 1),
        b'h' => (2, 2, 2),
        b'w' => (4, 4, 4),
        b'q' | b'n' => (8, sides.align8, 8),
        _ => (4, 4, 8),
    }
}

/// Letters of a layout, repeated as it says.
fn letters(layout: &str) -> impl Iterator<Item = u8> {
    let mut count = 0;
    layout.bytes().flat_map(move |b| {
        if b.is_ascii_digit() {
            count = count * 10 + usize::from(b - b'0');
            return std::iter::repeat_n(b, 0);
        }
        let n = std::mem::take(&mut count).max(1);
        std::iter::repeat_n(b, n)
    })
}

/// Where each field is on both sides: letter, offset there, offset here.
fn places(layout: &str, sides: Sides) -> Vec<(u8, usize, usize)> {
    let (mut there, mut here) = (0usize, 0usize);
    letters(layout)
        .map(|c| {
            let (size, align, host) = field(c, sides);
            there = there.next_multiple_of(align);
            here = here.next_multiple_of(host);
            let place = (c, there, here);
            there += size;
            here += host;
            place
        })
        .collect()
}

/// Bytes of a structure there.
pub(super) fn size(layout: &str, sides: Sides) -> usize {
    let places = places(layout, sides);
    let end = places.last().map_or(0, |(c, there, _)| there + field(*c, sides).0);
    let align = places.iter().map(|(c, ..)| field(*c, sides).1).max().unwrap_or(1);
    end.next_multiple_of(align)
}

/// Bytes of a structure here.
pub(super) fn host_size(layout: &str, sides: Sides) -> usize {
    let places = places(layout, sides);
    let end = places.last().map_or(0, |(c, _, here)| here + field(*c, sides).2);
    let align = places.iter().map(|(c, ..)| field(*c, sides).2).max().unwrap_or(1);
    end.next_multiple_of(align)
}

fn take(b: &[u8], at: usize, n: usize) -> u64 {
    let mut v = [0; 8];
    if let Some(from) = b.get(at..at + n) {
        v[..n].copy_from_slice(from);
    }
    u64::from_le_bytes(v)
}

fn put(b: &mut [u8], at: usize, n: usize, v: u64) {
    if let Some(to) = b.get_mut(at..at + n) {
        to.copy_from_slice(&v.to_le_bytes()[..n]);
    }
}

/// The host's structure of a program's.
pub(super) fn to_host(layout: &str, sides: Sides, from: &[u8]) -> Vec<u8> {
    let mut out = vec![0; host_size(layout, sides)];
    for (c, there, here) in places(layout, sides) {
        let (size, _, host) = field(c, sides);
        let v = take(from, there, size);
        let v = match c {
            b'l' => v as u32 as i32 as i64 as u64,
            b'n' => v & 0xffff_ffff,
            b'r' if v == 0xffff_ffff => u64::MAX,
            _ => v,
        };
        put(&mut out, here, host, v);
    }
    out
}

/// The program's structure of the host's.
pub(super) fn to_guest(layout: &str, sides: Sides, from: &[u8]) -> Vec<u8> {
    let mut out = vec![0; size(layout, sides)];
    for (c, there, here) in places(layout, sides) {
        let (size, _, host) = field(c, sides);
        let v = take(from, here, host);
        let v = if c == b'r' { v.min(0xffff_ffff) } else { v };
        put(&mut out, there, size, v);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_aligned_as_each_side_has_it() {
        let (packed, natural) = (Sides { align8: 4 }, Sides { align8: 8 });
        assert_eq!((size("wq", packed), size("wq", natural), host_size("wq", packed)), (12, 16, 16));
        assert_eq!((size("2l", packed), host_size("2l", packed)), (8, 16));
        assert_eq!(size("l3u6u2h2uw", packed), 56);
        let host = to_host("lu2w", packed, &[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0x80, 7, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!((take(&host, 0, 8), take(&host, 8, 8), take(&host, 20, 4)), (u64::MAX, 0x8000_0001, 8));
        assert_eq!(to_guest("lu2w", packed, &host)[4..8], [1, 0, 0, 0x80]);
        assert_eq!(take(&to_host("r", packed, &[0xff; 4]), 0, 8), u64::MAX);
        assert_eq!(take(&to_host("n", packed, &[0xff; 8]), 0, 8), 0xffff_ffff);
    }
}
