//! Exit maps: for each place where a unit may leave in the middle of an instruction, its guest address and where the
//! state slots are that have not been stored yet.
//!
//! Bytes: region pc (8), offset of the pc slot (4), its size (1), then the entries in order of their site. An entry is:
//! distance of its site from the one before, length of its body, body. A body is: guest pc minus the region's (zigzag),
//! then for each slot: its offset in the state, a byte (low nibble: log2 of its size, high nibble: kind) and the
//! payload: register number; or constant; or guest pc minus the region's. All numbers are LEB128.

/// In a general register.
const GPR: u8 = 0;
/// In a vector register.
const XMM: u8 = 1;
/// A constant of at most 64 bits.
const CONST: u8 = 2;
/// A guest address.
const PC: u8 = 3;

/// Where the value of a slot is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Location {
    Gpr(u8),
    Xmm(u8),
    Const(u64),
    Pc(u64),
}

fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn zigzag(v: i64) -> u64 {
    (v << 1 ^ v >> 63) as u64
}

/// Appends the start of a body.
pub(crate) fn begin_body(out: &mut Vec<u8>, region_pc: u64, pc: u64) {
    put(out, zigzag(pc.wrapping_sub(region_pc) as i64));
}

/// Appends one slot to a body.
pub(crate) fn add_slot(out: &mut Vec<u8>, region_pc: u64, offset: u32, log2: u8, loc: Location) {
    put(out, u64::from(offset));
    let (kind, payload) = match loc {
        Location::Gpr(r) => (GPR, u64::from(r)),
        Location::Xmm(r) => (XMM, u64::from(r)),
        Location::Const(c) => (CONST, c),
        Location::Pc(pc) => (PC, zigzag(pc.wrapping_sub(region_pc) as i64)),
    };
    out.push(kind << 4 | log2);
    put(out, payload);
}

/// Starts a unit's maps.
pub(crate) fn begin(out: &mut Vec<u8>, region_pc: u64, pc_offset: u32, pc_size: u8) {
    out.clear();
    out.extend_from_slice(&region_pc.to_le_bytes());
    out.extend_from_slice(&pc_offset.to_le_bytes());
    out.push(pc_size);
}

/// Appends an entry.
pub(crate) fn add_entry(out: &mut Vec<u8>, distance: u32, body: &[u8]) {
    put(out, u64::from(distance));
    put(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// Reads what `put` wrote; `None` at the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (b, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*b)
    }

    fn num(&mut self) -> Option<u64> {
        let mut v = 0;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            v |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                break;
            }
        }
        Some(v)
    }

    fn signed(&mut self) -> Option<u64> {
        let v = self.num()?;
        Some((v >> 1) ^ (v & 1).wrapping_neg())
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
}

struct Found<'a> {
    region_pc: u64,
    pc_offset: usize,
    pc_size: usize,
    body: Reader<'a>,
}

fn find(maps: &[u8], site: u32) -> Option<Found<'_>> {
    let mut r = Reader(maps);
    let region_pc = u64::from_le_bytes(r.take(8)?.try_into().ok()?);
    let pc_offset = u32::from_le_bytes(r.take(4)?.try_into().ok()?) as usize;
    let pc_size = usize::from(r.byte()?);
    let mut at = 0u64;
    loop {
        at += r.num()?;
        let len = r.num()? as usize;
        let body = r.take(len)?;
        if at == u64::from(site) {
            return Some(Found { region_pc, pc_offset, pc_size, body: Reader(body) });
        }
        if at > u64::from(site) {
            return None;
        }
    }
}

/// Guest address of the instruction at a site.
pub(crate) fn pc_at(maps: &[u8], site: u32) -> Option<u64> {
    let mut f = find(maps, site)?;
    Some(f.region_pc.wrapping_add(f.body.signed()?))
}

/// Writes the slots of a site and the pc slot to `state`, from the registers in `saved` (16 general ones, then 64 bytes
/// a vector register).
pub(crate) fn restore(maps: &[u8], site: u32, saved: &[u64], state: &mut [u8]) -> Option<u64> {
    let mut f = find(maps, site)?;
    let pc = f.region_pc.wrapping_add(f.body.signed()?);
    let mut set = |offset: usize, bytes: &[u8]| {
        state.get_mut(offset..offset + bytes.len()).map(|d| d.copy_from_slice(bytes))
    };
    while let Some(offset) = f.body.num() {
        let tag = f.body.byte()?;
        let size = 1usize << (tag & 15);
        let mut bytes = [0u8; 64];
        let words: &[u64] = match tag >> 4 {
            GPR => {
                let r = f.body.num()? as usize;
                saved.get(r..=r)?
            }
            XMM => {
                let r = 16 + f.body.num()? as usize * 8;
                saved.get(r..r + 8)?
            }
            PC => &[f.region_pc.wrapping_add(f.body.signed()?)],
            _ => &[f.body.num()?],
        };
        for (b, w) in bytes.chunks_exact_mut(8).zip(words) {
            b.copy_from_slice(&w.to_le_bytes());
        }
        set(offset as usize, bytes.get(..size)?)?;
    }
    // The pc slot may have been among them.
    set(f.pc_offset, &pc.to_le_bytes()[..f.pc_size.min(8)])?;
    Some(pc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let (mut maps, mut body) = (Vec::new(), Vec::new());
        begin(&mut maps, 0x1000, 256, 8);
        begin_body(&mut body, 0x1000, 0x1004);
        add_slot(&mut body, 0x1000, 8, 3, Location::Gpr(5));
        add_slot(&mut body, 0x1000, 16, 2, Location::Const(0xffff_ffff_8000_0001));
        add_slot(&mut body, 0x1000, 24, 3, Location::Pc(0xff0));
        add_slot(&mut body, 0x1000, 32, 4, Location::Xmm(2));
        add_entry(&mut maps, 10, &[0]);
        add_entry(&mut maps, 200, &body);
        let mut saved = [0u64; 160];
        saved[5] = 55;
        saved[16 + 16] = 7;
        saved[16 + 17] = 8;
        let mut state = vec![0xaa; 300];
        assert_eq!(restore(&maps, 10, &saved, &mut state), Some(0x1000));
        assert_eq!(restore(&maps, 210, &saved, &mut state), Some(0x1004));
        assert_eq!(restore(&maps, 11, &saved, &mut state), None);
        let word = |o: usize| u64::from_le_bytes(state[o..o + 8].try_into().unwrap());
        assert_eq!(word(8), 55);
        assert_eq!(word(16), 0xaaaa_aaaa_8000_0001);
        assert_eq!(word(24), 0xff0);
        assert_eq!((word(32), word(40), word(48)), (7, 8, 0xaaaa_aaaa_aaaa_aaaa));
        assert_eq!(word(256), 0x1004);
    }
}
