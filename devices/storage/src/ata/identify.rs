//! What disks and packet devices say about themselves (ACS-3, 7.12.7; ATA/ATAPI-7, 6.17).

use super::disk::{AtaDisk, MAX_MULTIPLE};

/// Blocks of ranges that a trim may have.
pub(crate) const TRIM_BLOCKS: u32 = 8;

/// Names of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) version: String,
    pub(crate) wwn: u64,
    /// 0 unknown, 1 no rotation, else per minute.
    pub(crate) rotation: u16,
    /// Commands that can be queued; 0 if there is no queue.
    pub(crate) queue: u16,
    /// Logical sectors in a physical one, as a power of two.
    pub(crate) physical_exponent: u8,
}

/// Text in words whose first character is the high byte, padded with blanks.
fn put_text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().map(|b| if (0x20..0x7f).contains(&b) { b } else { b'_' });
    for word in words {
        let mut next = || u16::from(bytes.next().unwrap_or(b' '));
        *word = next() << 8 | next();
    }
}

fn to_bytes(words: &mut [u16; 256]) -> Vec<u8> {
    // The last word: a mark and a sum that makes all bytes add up to 0.
    words[255] = 0xa5;
    let sum = words.iter().flat_map(|w| w.to_le_bytes()).fold(0u8, u8::wrapping_add);
    words[255] |= u16::from(sum.wrapping_neg()) << 8;
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// The supported modes of a kind, with the one that is set marked in the high byte.
fn modes(supported: u16, kind: u8, mode: u8) -> u16 {
    supported | if mode >> 3 == kind { 0x100 << (mode & 7) } else { 0 }
}

pub(super) fn identify(d: &AtaDisk) -> Vec<u8> {
    let mut w = [0u16; 256];
    let sectors = d.sectors();
    let cylinders = (sectors / (16 * 63)).min(16383) as u16;
    let (heads, track) = (u64::from(d.heads), u64::from(d.track.max(1)));
    let now = (sectors / (heads * track)).min(0xffff);
    let chs = (now * heads * track) as u32;
    let lba28 = sectors.min(0x0fff_ffff) as u32;
    w[0] = 0x0040;
    (w[1], w[3], w[6]) = (cylinders, 16, 63);
    put_text(&mut w[10..20], &d.identity.serial);
    put_text(&mut w[23..27], &d.identity.version);
    put_text(&mut w[27..47], &d.identity.model);
    w[47] = 0x8000 | u16::from(MAX_MULTIPLE);
    // DMA, LBA, IORDY and that it may be switched off.
    w[49] = 0x0f00;
    w[50] = 0x4000;
    w[53] = 7;
    (w[54], w[55], w[56]) = (now as u16, heads as u16, track as u16);
    (w[57], w[58]) = (chs as u16, (chs >> 16) as u16);
    w[59] = if d.multiple == 0 { 0 } else { 0x100 | u16::from(d.multiple) };
    (w[60], w[61]) = (lba28 as u16, (lba28 >> 16) as u16);
    w[63] = modes(7, 0x20 >> 3, d.mode);
    w[64] = 3;
    w[65..69].fill(120);
    // A trimmed sector reads as zero or as before, but always the same.
    let trim = !d.disk.read_only();
    w[69] = if trim { 1 << 14 } else { 0 };
    if d.identity.queue > 0 {
        w[75] = d.identity.queue - 1;
        // Queueing; 1.5 and 3 Gbit/s.
        w[76] = 0x0106;
    }
    w[80] = 0x01f0;
    w[82] = 0x4021;
    // Flush, flush ext, 48 bits.
    w[83] = 0x7400;
    w[84] = 0x4022 | 1 << 8 | 1 << 6;
    w[85] = 0x4000 | u16::from(d.write_cache) << 5 | u16::from(d.smart);
    w[86] = 0x3400;
    w[87] = w[84];
    w[88] = modes(0x3f, 0x40 >> 3, d.mode);
    // Device 0 passed its diagnostics, 80-wire cable.
    w[93] = 0x600b;
    for (i, word) in w[100..104].iter_mut().enumerate() {
        *word = (sectors >> (16 * i)) as u16;
    }
    w[105] = TRIM_BLOCKS as u16;
    w[106] = 0x4000
        | if d.identity.physical_exponent > 0 { 0x2000 } else { 0 }
        | u16::from(d.identity.physical_exponent);
    for (i, word) in w[108..112].iter_mut().enumerate() {
        *word = (d.identity.wwn >> (48 - 16 * i)) as u16;
    }
    w[169] = u16::from(trim);
    w[217] = d.identity.rotation;
    to_bytes(&mut w)
}

/// A CD-ROM drive.
pub(crate) fn identify_packet(identity: &Identity, mode: u8) -> Vec<u8> {
    let mut w = [0u16; 256];
    // Packet device, CD-ROM, removable, accelerated DRQ, packets of 12 bytes.
    w[0] = 0x85c0;
    put_text(&mut w[10..20], &identity.serial);
    put_text(&mut w[23..27], &identity.version);
    put_text(&mut w[27..47], &identity.model);
    w[49] = 0x0f00;
    w[53] = 7;
    w[63] = modes(7, 0x20 >> 3, mode);
    w[64] = 3;
    w[65..69].fill(120);
    w[80] = 0x00f0;
    // Packet commands, device reset, NOP.
    (w[82], w[83], w[84]) = (0x4210, 0x4000, 0x4000);
    (w[85], w[86], w[87]) = (w[82], 0, 0x4000);
    w[88] = modes(0x3f, 0x40 >> 3, mode);
    w[93] = 0x600b;
    to_bytes(&mut w)
}
