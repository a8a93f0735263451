//! Which frames a card takes (82540EM manual, 3.2.1; 82574L datasheet, 7.1.1): by length, address and tag.

use super::values::{ADDRESSES, VALID, Values};

/// Registers.
const CTRL: u32 = 0x0000;
const VET: u32 = 0x0038;
const RCTL: u32 = 0x0100;
const MULTICAST: u32 = 0x5200;
const TAGS: u32 = 0x5600;

/// Device control: tags are taken off and put on.
const TAGGING: u32 = 1 << 30;
/// Receive control.
const ALL_UNICAST: u32 = 1 << 3;
const ALL_MULTICAST: u32 = 1 << 4;
const LONG: u32 = 1 << 5;
const BROADCAST: u32 = 1 << 15;
const TAG_FILTER: u32 = 1 << 18;
/// Length of the check sequence.
pub(crate) const CHECK_SEQUENCE: usize = 4;
/// Longest frame without permission for long ones: with a tag.
const MAX_FRAME: usize = 1518;
/// Longest at all.
const MAX_LONG: usize = 16384 - CHECK_SEQUENCE;

/// Whether a frame is one of those that the host wants.
pub(crate) fn accepts(r: &Values, frame: &[u8]) -> bool {
    let control = r.get(RCTL);
    if frame.len() > if control & LONG != 0 { MAX_LONG } else { MAX_FRAME } {
        return false;
    }
    let tag = tag(r, frame).filter(|_| control & TAG_FILTER != 0).map(|tag| u32::from(tag & 0xfff));
    if tag.is_some_and(|id| r.get(TAGS + 4 * (id >> 5)) >> (id & 31) & 1 == 0) {
        return false;
    }
    let Some(&[a, b, c, d, e, f]) = frame.first_chunk::<6>() else { return false };
    if [a, b, c, d, e, f] == [0xff; 6] {
        return control & (BROADCAST | ALL_MULTICAST) != 0;
    }
    let own = |i: u32| {
        let (low, high) = (r.get(ADDRESSES + 8 * i), r.get(ADDRESSES + 8 * i + 4));
        high & VALID != 0 && low.to_le_bytes() == [a, b, c, d] && (high as u16).to_le_bytes() == [e, f]
    };
    if a & 1 != 0 {
        // Groups, too, may be among the addresses: drivers put the first few there.
        if control & ALL_MULTICAST != 0 || (0..16).any(own) {
            return true;
        }
        // Twelve bits of the address select a bit of the table.
        let shift = [4, 3, 2, 0][(control >> 12 & 3) as usize];
        let hash = u32::from(u16::from_le_bytes([e, f])) >> shift & 0xfff;
        return r.get(MULTICAST + 4 * (hash >> 5)) >> (hash & 31) & 1 != 0;
    }
    control & ALL_UNICAST != 0 || (0..16).any(own)
}

/// The type of tags if the card puts them on and takes them off.
pub(crate) fn tags(r: &Values) -> Option<u16> {
    (r.get(CTRL) & TAGGING != 0).then_some(r.get(VET) as u16)
}

/// A frame's tag.
fn tag(r: &Values, frame: &[u8]) -> Option<u16> {
    let kind = (r.get(VET) as u16).to_be_bytes();
    let tagged = kind != [0, 0] && frame.get(12..14)? == kind;
    let tag = frame.get(14..16).filter(|_| tagged)?;
    Some(u16::from_be_bytes([tag[0], tag[1]]))
}

/// Takes a frame's tag off, if the card is to.
pub(crate) fn take_tag(r: &Values, frame: &mut Vec<u8>) -> Option<u16> {
    let tag = tags(r).and_then(|_| tag(r, frame))?;
    frame.drain(12..16);
    Some(tag)
}
