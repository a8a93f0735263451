//! Units that outlive a process: what was made from code that only changes with its mapping is kept as bytes, which a later
//! process of the same build takes back where it finds the same code at the same address.
//!
//! Bytes, all numbers little-endian: [`MAGIC`], a checksum of the rest, the length of the key and the key (whatever decides
//! about the code besides the guest's bytes; the caller's own), the number of units, a row for each, ascending (address,
//! mode, where its record begins, tier), then the records: lengths of guest code, host code and exit maps, numbers of links and
//! relocations; these five parts.
//!
//! A unit is taken only if the guest's bytes are those it was made from, all of them on pages whose code is fixed. What keeps others
//! from writing such bytes is the caller's business.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use tcg_codegen::{CompileError, KeptUnit, Reloc, RelocKind};

use crate::{
    Guest, Key,
    code::{DIRECT, Tier, Unit, UnitKey},
    direct,
    user::CodePage,
    vcpu::Vcpu,
};

const MAGIC: u64 = u64::from_le_bytes(*b"rhea\0kp1");
/// Bytes of a row: address, mode, offset, tier.
const ROW: usize = 24;
/// Bytes in front of a record's parts.
const HEAD: usize = 20;
const LINK: usize = 16;
const RELOC: usize = 8;
/// Most guest bytes of a unit that is kept.
const LONGEST: usize = 1024;
/// Fewer new units than this are not worth being written.
const FEW: usize = 32;
/// Most bytes of all units.
const MOST: usize = 64 << 20;
const PAGE: u64 = 4096;

/// Where a unit's record is, and what it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    pc: u64,
    mode: u64,
    offset: u32,
    /// 1 for the second tier.
    tier: u32,
}

/// What a process has made.
#[derive(Debug, Default)]
struct New {
    rows: Vec<Row>,
    records: Vec<u8>,
}

/// Units of earlier processes, and those that this one has made.
#[derive(Debug, Default)]
pub struct Kept {
    key: Vec<u8>,
    old: Vec<u8>,
    rows: usize,
    first_row: usize,
    new: Mutex<New>,
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Not against malice: against what disks and crashes do.
fn checksum(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [K, !K, K << 1, K >> 1];
    let mut chunks = bytes.chunks_exact(32);
    for c in &mut chunks {
        for (lane, w) in lanes.iter_mut().zip(c.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(w);
            *lane = (*lane ^ u64::from_le_bytes(word)).wrapping_mul(K).rotate_left(29);
        }
    }
    let rest = chunks.remainder().iter().fold(bytes.len() as u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(K));
    lanes.iter().fold(rest, |h, l| (h ^ l).wrapping_mul(K).rotate_left(31))
}

/// A record's parts.
struct Record<'a> {
    guest: &'a [u8],
    code: &'a [u8],
    maps: &'a [u8],
    links: &'a [u8],
    relocs: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(b: &'a [u8]) -> Option<Self> {
        let n = |i: usize| u32_at(b, i * 4).map(|n| n as usize);
        let lens = [n(0)?, n(1)?, n(2)?, n(3)?.checked_mul(LINK)?, n(4)?.checked_mul(RELOC)?];
        let mut rest = b.get(HEAD..)?;
        let mut parts = [&b[..0]; 5];
        for (part, len) in parts.iter_mut().zip(lens) {
            (*part, rest) = rest.split_at_checked(len)?;
        }
        let [guest, code, maps, links, relocs] = parts;
        Some(Self { guest, code, maps, links, relocs })
    }

    /// The bytes it takes.
    fn len(&self) -> usize {
        HEAD + self.guest.len() + self.code.len() + self.maps.len() + self.links.len() + self.relocs.len()
    }

    /// Guest address, site and stub, whether it is a call.
    fn links(&self) -> Option<Vec<(u64, u32, u32, bool)>> {
        let link = |l: &[u8]| {
            let (pc, site, stub) = (u64_at(l, 0)?, u32_at(l, 8)?, u32_at(l, 12)?);
            let (call, stub) = (stub >> 31 != 0, stub & (u32::MAX >> 1));
            let inside = |at: u32| at as usize + 5 <= self.code.len();
            (inside(site) && inside(stub)).then_some((pc, site, stub, call))
        };
        self.links.chunks_exact(LINK).map(link).collect()
    }

    fn relocs(&self) -> Option<Vec<Reloc>> {
        let reloc = |r: &[u8]| {
            let (place, addend) = (u32_at(r, 0)?, u32_at(r, 4)?);
            let kind = match place >> 28 {
                0 => RelocKind::Stub,
                1 => RelocKind::Shared,
                2 => RelocKind::Helper,
                _ => return None,
            };
            Some(Reloc { offset: place & 0x0fff_ffff, kind, addend: addend.into() })
        };
        self.relocs.chunks_exact(RELOC).map(reloc).collect()
    }
}

impl Kept {
    /// What was kept under this key; `None` if the bytes are not whole, or of another key.
    #[must_use]
    pub fn parse(bytes: Vec<u8>, key: &[u8]) -> Option<Self> {
        if u64_at(&bytes, 0)? != MAGIC || u64_at(&bytes, 8)? != checksum(&bytes[16..]) {
            return None;
        }
        let len = u32_at(&bytes, 16)? as usize;
        if bytes.get(20..20usize.checked_add(len)?)? != key {
            return None;
        }
        let rows = u32_at(&bytes, 20 + len)? as usize;
        let first_row = 24 + len;
        bytes.get(first_row..first_row.checked_add(rows.checked_mul(ROW)?)?)?;
        Some(Self { key: key.to_vec(), old: bytes, rows, first_row, new: Mutex::default() })
    }

    /// Nothing yet, under this key.
    #[must_use]
    pub fn empty(key: &[u8]) -> Self {
        Self { key: key.to_vec(), ..Self::default() }
    }

    fn made(&self) -> MutexGuard<'_, New> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been made so far is another process's to keep.
    pub(crate) fn forget_new(&self) {
        *self.made() = New::default();
    }

    fn row(&self, n: usize) -> Option<Row> {
        let at = self.first_row + n * ROW;
        let b = &self.old;
        Some(Row {
            pc: u64_at(b, at)?,
            mode: u64_at(b, at + 8)?,
            offset: u32_at(b, at + 16)?,
            tier: u32_at(b, at + 20)?,
        })
    }

    /// The row of a unit.
    fn find(&self, key: Key) -> Option<Row> {
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.row(middle)?;
            match (row.pc, row.mode).cmp(&(key.pc, key.mode)) {
                std::cmp::Ordering::Equal => return Some(row),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The record at a row, among those read or those made.
    fn record<'a>(records: &'a [u8], row: &Row) -> Option<Record<'a>> {
        Record::parse(records.get(row.offset as usize..)?)
    }

    /// Bytes to be kept, if what this process has made is worth it. Later calls have nothing to tell but what came after.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut new = self.made();
        // Units of the second tier cost more than others: what must be made again is worth more.
        let better = |rows: &mut dyn Iterator<Item = Row>| rows.filter(|r| r.tier != 0).count();
        let made_better = better(&mut new.rows.iter().copied());
        let few = new.rows.len() < FEW.max(self.rows / 8);
        if few
            && (made_better == 0 || made_better * 8 < better(&mut (0..self.rows).filter_map(|n| self.row(n))))
        {
            return None;
        }
        let new = std::mem::take(&mut *new);
        let old = (0..self.rows).filter_map(|n| self.row(n)).map(|r| (r, false));
        let mut rows: Vec<(Row, bool)> = old.chain(new.rows.iter().map(|r| (*r, true))).collect();
        // Of several units of one address the better one, of these the newer one, comes last.
        rows.sort_by_key(|(r, new)| (r.pc, r.mode, r.tier, *new, r.offset));
        let mut out = Vec::with_capacity(self.old.len() + new.records.len());
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.key);
        let last = |i: usize| {
            let next: Option<&(Row, bool)> = rows.get(i + 1);
            next.is_none_or(|(n, _)| (n.pc, n.mode) != (rows[i].0.pc, rows[i].0.mode))
        };
        let best: Vec<(Row, &[u8])> = (0..rows.len())
            .filter(|i| last(*i))
            .filter_map(|i| {
                let (row, is_new) = rows[i];
                let records = if is_new { &new.records } else { &self.old };
                let len = Self::record(records, &row)?.len();
                Some((row, &records[row.offset as usize..row.offset as usize + len]))
            })
            .collect();
        out.extend_from_slice(&(best.len() as u32).to_le_bytes());
        let mut at = out.len() + best.len() * ROW;
        for (row, bytes) in &best {
            out.extend_from_slice(&row.pc.to_le_bytes());
            out.extend_from_slice(&row.mode.to_le_bytes());
            out.extend_from_slice(&u32::try_from(at).ok()?.to_le_bytes());
            out.extend_from_slice(&row.tier.to_le_bytes());
            at += bytes.len();
        }
        if at > MOST {
            return None;
        }
        best.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes));
        let sum = checksum(&out[16..]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        Some(out)
    }

    fn add(&self, row: Row, parts: [&[u8]; 5]) {
        let mut new = self.made();
        if new.records.len() > MOST {
            return;
        }
        let offset = new.records.len() as u32;
        let [guest, code, maps, links, relocs] = parts;
        for n in [guest.len(), code.len(), maps.len(), links.len() / LINK, relocs.len() / RELOC] {
            new.records.extend_from_slice(&(n as u32).to_le_bytes());
        }
        parts.iter().for_each(|p| new.records.extend_from_slice(p));
        new.rows.push(Row { offset, ..row });
    }
}

/// True if all the code from `pc` on is `guest`, on pages that change with their mapping alone.
fn is_there<G: Guest>(vcpu: &mut Vcpu<G>, pc: u64, guest: &[u8]) -> bool {
    let Some(memory) = vcpu.core.direct.clone() else { return false };
    let last = pc.saturating_add(guest.len() as u64 - 1);
    let mut pages = [pc / PAGE, last / PAGE].into_iter();
    if !pages.all(|p| memory.code_page(p * PAGE) == CodePage::Fixed) {
        return false;
    }
    let mut now = [0; LONGEST];
    let now = &mut now[..guest.len()];
    let read = vcpu.with(|_, cx| direct::read(cx, pc, now).is_ok());
    vcpu.core.host_fault = None;
    read && now == guest
}

/// A unit of an earlier process, if there is one of this tier or a better one. The caller has begun a translation.
pub(crate) fn reuse<G: Guest>(vcpu: &mut Vcpu<G>, at: &UnitKey, tier: Tier) -> Option<Arc<Unit>> {
    let engine = vcpu.engine.clone();
    let kept = engine.kept.as_ref()?;
    let row = kept.find(at.key)?;
    let made = if row.tier == 0 { Tier::First } else { Tier::Second };
    if made == Tier::First && tier == Tier::Second || engine.breakpoints.any() {
        return None;
    }
    let record = Kept::record(&kept.old, &row)?;
    if record.guest.is_empty() || record.guest.len() > LONGEST {
        return None;
    }
    let (pc, len) = (at.key.pc, record.guest.len() as u64);
    let first = pc / PAGE * PAGE;
    let second = (pc - first + len > PAGE).then_some((DIRECT, first + PAGE));
    engine.cache.reads(DIRECT, first);
    if let Some((block, page)) = second {
        engine.cache.reads(block, page);
    }
    if !is_there(vcpu, pc, record.guest) {
        return None;
    }
    let (links, relocs) = (record.links()?, record.relocs()?);
    let effort = if made == Tier::First { tcg_codegen::Tier::First } else { tcg_codegen::Tier::Second };
    let unit = KeptUnit { tier: effort, code: record.code, maps: record.maps, relocs: &relocs };
    if engine.cache.is_full() {
        return None;
    }
    let (code, links) = match engine.cache.backend.install(&unit, &links, at.key) {
        Ok(made) => made,
        // An ordinary translation empties the cache.
        Err(CompileError::Full | CompileError::TooLarge | CompileError::UnsupportedHost) => return None,
    };
    engine.profile.add(at.key, &engine.cache.backend, &code);
    engine.stats.reused.fetch_add(1, Ordering::Relaxed);
    let mut unit = Unit::new(*at, len as u32, made, code, links);
    unit.second = second.map(Box::new);
    unit.generation = engine.cache.generation();
    let unit = Arc::new(unit);
    engine.cache.insert(&unit, true);
    Some(unit)
}

/// Keeps a unit that was just made, before anything is linked to it.
pub(crate) fn keep<G: Guest>(vcpu: &mut Vcpu<G>, unit: &Unit, relocs: &[Reloc]) {
    let engine = vcpu.engine.clone();
    let Some(kept) = engine.kept.as_ref().filter(|_| !engine.breakpoints.any()) else { return };
    let (Some(start), Some(whole)) = (unit.code.start(), engine.cache.backend.whole(&unit.code)) else {
        return;
    };
    let len = unit.len as usize;
    if len == 0 || len > LONGEST || unit.links.iter().any(|l| l.site() == 0) {
        return;
    }
    let mut guest = [0; LONGEST];
    let guest = &mut guest[..len];
    let read = vcpu.with(|_, cx| direct::read(cx, unit.at.key.pc, guest).is_ok());
    vcpu.core.host_fault = None;
    if !read {
        return;
    }
    let mut links = Vec::with_capacity(unit.links.len() * LINK);
    for l in &unit.links {
        let (site, stub) = (l.site().wrapping_sub(start), l.stub().wrapping_sub(start));
        links.extend_from_slice(&l.pc.to_le_bytes());
        links.extend_from_slice(&site.to_le_bytes());
        links.extend_from_slice(&(stub | u32::from(l.is_call()) << 31).to_le_bytes());
    }
    let mut places = Vec::with_capacity(relocs.len() * RELOC);
    for r in relocs {
        let kind: u32 = match r.kind {
            RelocKind::Stub => 0,
            RelocKind::Shared => 1,
            RelocKind::Helper => 2,
            RelocKind::Pc64 | RelocKind::Pc32 | RelocKind::PcS32 => continue,
        };
        let Ok(addend) = u32::try_from(r.addend) else { return };
        places.extend_from_slice(&(r.offset | kind << 28).to_le_bytes());
        places.extend_from_slice(&addend.to_le_bytes());
    }
    let (code, maps) = whole.split_at(unit.code.len());
    let Key { pc, mode } = unit.at.key;
    let row = Row { pc, mode, offset: 0, tier: u32::from(unit.tier == Tier::Second) };
    kept.add(row, [guest, code, maps, &links, &places]);
}

/// What of this host's processor decides about the code that is made.
#[must_use]
pub fn host_features() -> u64 {
    tcg_codegen::Compiler::host_features()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(key: &[u8], first: u64) -> Kept {
        let kept = Kept::empty(key);
        for i in 0..FEW as u64 {
            let row = Row { pc: first + i * 4, mode: 0, offset: 0, tier: 0 };
            kept.add(row, [&[1, 2, 3], &[i as u8; 40], &[9], &[0; LINK], &[0; RELOC]]);
        }
        kept
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let bytes = filled(b"key", 0x1000).take().unwrap();
        let kept = Kept::parse(bytes.clone(), b"key").unwrap();
        let row = kept.find(Key { pc: 0x1010, mode: 0 }).unwrap();
        let record = Kept::record(&kept.old, &row).unwrap();
        assert_eq!((record.guest, record.code, record.maps), (&[1, 2, 3][..], &[4; 40][..], &[9][..]));
        assert_eq!(record.links().unwrap(), [(0, 0, 0, false)]);
        assert!(kept.find(Key { pc: 0x1012, mode: 0 }).is_none());
        assert!(kept.find(Key { pc: 0x1010, mode: 1 }).is_none());
        assert!(kept.take().is_none(), "nothing new");
        kept.add(Row { pc: 8, mode: 0, offset: 0, tier: 0 }, [&[7], &[8; 9], &[], &[], &[]]);
        assert!(kept.take().is_none(), "one unit is not worth it");
        kept.add(Row { pc: 8, mode: 0, offset: 0, tier: 1 }, [&[7], &[8; 9], &[], &[], &[]]);
        assert!(kept.take().is_some(), "a better one is");
        assert!(Kept::parse(bytes, b"another").is_none());
    }

    #[test]
    fn a_better_unit_takes_the_place_of_another() {
        let kept = Kept::parse(filled(b"k", 0).take().unwrap(), b"k").unwrap();
        let rows = filled(b"k", 0x800);
        *kept.made() = std::mem::take(&mut *rows.made());
        kept.add(Row { pc: 8, mode: 0, offset: 0, tier: 1 }, [&[7], &[8; 9], &[], &[], &[]]);
        let kept = Kept::parse(kept.take().unwrap(), b"k").unwrap();
        assert_eq!(kept.rows, 2 * FEW);
        let row = kept.find(Key { pc: 8, mode: 0 }).unwrap();
        assert_eq!((row.tier, Kept::record(&kept.old, &row).unwrap().guest), (1, &[7][..]));
    }

    #[test]
    fn bytes_that_are_not_whole_are_none() {
        let bytes = filled(b"key", 0x1000).take().unwrap();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(Kept::parse(bad, b"key").is_none(), "byte {i}");
            assert!(Kept::parse(bytes[..i].to_vec(), b"key").is_none(), "cut at {i}");
        }
    }
}
