//! The flat view: what the tree looks like from outside, as sorted ranges that do not overlap.
//!
//! Immutable once made, so lookups need no lock. Neighbours that continue one another in the same backing are
//! one range.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Gpa;
use crate::bus::{self, BusResult, IoHandler};
use crate::ram::RamBlock;
use crate::region::{Kind, RegionId, Tree};
use crate::space::Unassigned;

/// What is behind a range.
#[derive(Clone)]
pub enum RangeKind {
    /// RAM, or ROM if the range is read-only.
    Ram(Arc<RamBlock>),
    /// Reads come from memory, writes go to the handler.
    RomDevice(Arc<RamBlock>, Arc<dyn IoHandler>),
    /// A device.
    Io(Arc<dyn IoHandler>),
}

/// A range of guest physical addresses with one thing behind it.
#[derive(Clone)]
pub struct FlatRange {
    /// First address.
    pub start: Gpa,
    /// Last address (inclusive, so that a range may end at 2^64).
    pub last: Gpa,
    /// What is behind it.
    pub kind: RangeKind,
    /// Offset of `start` in the RAM block or in the device's region.
    pub offset: u64,
    /// Writes by the guest are ignored (RAM only).
    pub read_only: bool,
    /// Name of the region the range shows.
    pub name: Arc<str>,
}

impl FlatRange {
    /// Length in bytes; 0 stands for 2^64.
    pub fn size(&self) -> u64 {
        (self.last - self.start).wrapping_add(1)
    }

    /// The block that reads come from directly, if any.
    pub fn readable_ram(&self) -> Option<&Arc<RamBlock>> {
        match &self.kind {
            RangeKind::Ram(block) | RangeKind::RomDevice(block, _) => Some(block),
            RangeKind::Io(_) => None,
        }
    }

    /// The block that both reads and writes go to directly, if any.
    pub fn writable_ram(&self) -> Option<&Arc<RamBlock>> {
        match &self.kind {
            RangeKind::Ram(block) if !self.read_only => Some(block),
            _ => None,
        }
    }

    /// The device behind the range, if any.
    pub fn io(&self) -> Option<&Arc<dyn IoHandler>> {
        match &self.kind {
            RangeKind::Io(io) | RangeKind::RomDevice(_, io) => Some(io),
            RangeKind::Ram(_) => None,
        }
    }

    fn same_backing(&self, other: &FlatRange) -> bool {
        self.read_only == other.read_only
            && match (&self.kind, &other.kind) {
                (RangeKind::Ram(a), RangeKind::Ram(b)) => Arc::ptr_eq(a, b),
                (RangeKind::Io(a), RangeKind::Io(b)) => Arc::ptr_eq(a, b),
                (RangeKind::RomDevice(a, x), RangeKind::RomDevice(b, y)) => {
                    Arc::ptr_eq(a, b) && Arc::ptr_eq(x, y)
                }
                _ => false,
            }
    }

    /// Whether both ranges show the same thing at the same addresses.
    pub fn same(&self, other: &FlatRange) -> bool {
        self.start == other.start
            && self.last == other.last
            && self.offset == other.offset
            && self.same_backing(other)
    }
}

impl fmt::Debug for FlatRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (&self.kind, self.read_only) {
            (RangeKind::Ram(_), false) => "ram",
            (RangeKind::Ram(_), true) => "rom",
            (RangeKind::RomDevice(..), _) => "romd",
            (RangeKind::Io(_), _) => "io",
        };
        write!(f, "{:016x}-{:016x} ({kind}): {} @{:016x}", self.start, self.last, self.name, self.offset)
    }
}

/// An address space, flattened.
#[derive(Debug)]
pub struct FlatView {
    ranges: Vec<FlatRange>,
    unassigned: Unassigned,
    /// Index of the last range found: device drivers poll one device for long stretches.
    last_hit: AtomicUsize,
}

impl FlatView {
    pub(crate) fn empty(unassigned: Unassigned) -> Self {
        FlatView { ranges: Vec::new(), unassigned, last_hit: AtomicUsize::new(0) }
    }

    /// What the tree looks like, with its secure regions or without.
    pub(crate) fn flatten(tree: &Tree, unassigned: Unassigned, secure: bool) -> Self {
        let mut out = Painter { tree, secure, ranges: Vec::new() };
        let size = tree.node(Tree::ROOT).map_or(0, |n| n.region.size) as i128;
        out.paint(Tree::ROOT, 0, 0, size, false);
        out.ranges.dedup_by(|next, prev| {
            let joins = prev.last.checked_add(1) == Some(next.start)
                && prev.same_backing(next)
                && next.offset == prev.offset.wrapping_add(next.start - prev.start);
            if joins {
                prev.last = next.last;
            }
            joins
        });
        FlatView { ranges: out.ranges, ..Self::empty(unassigned) }
    }

    /// All ranges in ascending order.
    pub fn ranges(&self) -> &[FlatRange] {
        &self.ranges
    }

    /// The range that holds an address.
    #[inline]
    pub fn find(&self, gpa: Gpa) -> Option<&FlatRange> {
        let hit = self.last_hit.load(Ordering::Relaxed);
        if let Some(range) = self.ranges.get(hit)
            && (range.start..=range.last).contains(&gpa)
        {
            return Some(range);
        }
        let at = self.ranges.partition_point(|r| r.last < gpa);
        let range = self.ranges.get(at).filter(|r| r.start <= gpa)?;
        self.last_hit.store(at, Ordering::Relaxed);
        Some(range)
    }

    /// The range that holds an address, and the address's offset in its block or device.
    #[inline]
    pub fn translate(&self, gpa: Gpa) -> Option<(&FlatRange, u64)> {
        self.find(gpa).map(|range| (range, range.offset + (gpa - range.start)))
    }

    /// Cuts `len` bytes at `gpa` into (address, bytes, range or nothing). Stops at 2^64.
    fn pieces(
        &self,
        gpa: Gpa,
        len: usize,
        mut each: impl FnMut(Gpa, std::ops::Range<usize>, Option<&FlatRange>),
    ) {
        let mut done = 0;
        while done < len {
            let Some(at) = gpa.checked_add(done as u64) else {
                each(0, done..len, None);
                return;
            };
            let range = self.find(at);
            let last = match range {
                Some(range) => range.last,
                None => {
                    let next = self.ranges.partition_point(|r| r.start <= at);
                    self.ranges.get(next).map_or(u64::MAX, |r| r.start - 1)
                }
            };
            let piece = (last - at).saturating_add(1).min((len - done) as u64) as usize;
            each(at, done..done + piece, range);
            done += piece;
        }
    }

    /// Reads as the guest or a bus master does. On failure the missing bytes are the bus default.
    pub fn read(&self, gpa: Gpa, data: &mut [u8]) -> BusResult {
        let fill = self.unassigned.byte();
        let mut result = BusResult::Ok;
        self.pieces(gpa, data.len(), |at, part, range| {
            let part = &mut data[part];
            let one = match range {
                None => {
                    part.fill(fill);
                    self.unassigned.result()
                }
                Some(FlatRange { kind: RangeKind::Io(io), offset, start, .. }) => {
                    bus::read_io(&**io, offset + (at - start), part, fill)
                }
                Some(FlatRange {
                    kind: RangeKind::Ram(ram) | RangeKind::RomDevice(ram, _),
                    offset,
                    start,
                    ..
                }) => ram_result(ram.read(offset + (at - start), part)),
            };
            result = result.and(one);
        });
        result
    }

    /// Writes as the guest or a bus master does.
    pub fn write(&self, gpa: Gpa, data: &[u8]) -> BusResult {
        let mut result = BusResult::Ok;
        self.pieces(gpa, data.len(), |at, part, range| {
            let part = &data[part];
            let one = match range {
                None => self.unassigned.result(),
                Some(FlatRange { kind: RangeKind::Ram(_), read_only: true, .. }) => BusResult::Ok,
                Some(FlatRange { kind: RangeKind::Ram(ram), offset, start, .. }) => {
                    ram_result(ram.write(offset + (at - start), part))
                }
                Some(FlatRange {
                    kind: RangeKind::Io(io) | RangeKind::RomDevice(_, io),
                    offset,
                    start,
                    ..
                }) => bus::write_io(&**io, offset + (at - start), part),
            };
            result = result.and(one);
        });
        result
    }

    /// Writes RAM only; read-only memory ignores the write, a device in the range fails it untouched.
    pub(crate) fn write_memory(&self, gpa: Gpa, data: &[u8]) -> BusResult {
        let mut result = BusResult::Ok;
        self.pieces(gpa, data.len(), |at, part, range| {
            let one = match range {
                Some(FlatRange { kind: RangeKind::Ram(_), read_only: true, .. }) => BusResult::Ok,
                Some(FlatRange { kind: RangeKind::Ram(ram), offset, start, .. }) => {
                    ram_result(ram.write(offset + (at - start), &data[part]))
                }
                _ => BusResult::DecodeError,
            };
            result = result.and(one);
        });
        result
    }

    /// Reads memory only, without touching a device: for debuggers and loaders.
    pub fn peek(&self, gpa: Gpa, data: &mut [u8]) -> BusResult {
        let mut result = BusResult::Ok;
        self.pieces(gpa, data.len(), |at, part, range| {
            let part = &mut data[part];
            let one = match range.and_then(|r| r.readable_ram().map(|ram| (ram, r.offset + (at - r.start)))) {
                Some((ram, offset)) => ram_result(ram.read(offset, part)),
                None => {
                    part.fill(self.unassigned.byte());
                    BusResult::DecodeError
                }
            };
            result = result.and(one);
        });
        result
    }

    /// Writes memory, ROM included, without touching a device: for debuggers and loaders.
    pub fn poke(&self, gpa: Gpa, data: &[u8]) -> BusResult {
        let mut result = BusResult::Ok;
        self.pieces(gpa, data.len(), |at, part, range| {
            let one = match range.and_then(|r| r.readable_ram().map(|ram| (ram, r.offset + (at - r.start)))) {
                Some((ram, offset)) => ram_result(ram.write(offset, &data[part])),
                None => BusResult::DecodeError,
            };
            result = result.and(one);
        });
        result
    }
}

/// A range never reaches beyond its block, so this does not fail; if it did, the access was not decoded.
fn ram_result<E>(result: Result<(), E>) -> BusResult {
    result.map_or(BusResult::DecodeError, |()| BusResult::Ok)
}

impl fmt::Display for FlatView {
    /// One line a range.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ranges.iter().try_for_each(|range| writeln!(f, "{range:?}"))
    }
}

/// Draws regions front to back: what is already drawn is never covered again.
struct Painter<'a> {
    tree: &'a Tree,
    /// Secure regions are drawn.
    secure: bool,
    ranges: Vec<FlatRange>,
}

impl Painter<'_> {
    /// Draws a region whose first byte is at `base`, restricted to the addresses from `low` up to `high`.
    fn paint(&mut self, id: RegionId, base: i128, low: i128, high: i128, read_only: bool) {
        let Ok(node) = self.tree.node(id) else { return };
        let region = &node.region;
        let (low, high) = (low.max(base), high.min(base + region.size as i128));
        if !region.enabled || low >= high || region.secure && !self.secure {
            return;
        }
        let read_only = read_only || region.read_only;
        if let Kind::Alias { of, offset } = region.kind {
            return self.paint(of, base - i128::from(offset), low, high, read_only);
        }
        for &child in &node.children {
            let at = self.tree.node(child).map_or(0, |c| i128::from(c.region.offset));
            self.paint(child, base + at, low, high, read_only);
        }
        let (kind, skip) = match &region.kind {
            Kind::Ram { block, offset } => (RangeKind::Ram(block.clone()), *offset),
            Kind::RomDevice { block, io, direct: true } => {
                (RangeKind::RomDevice(block.clone(), io.clone()), 0)
            }
            Kind::RomDevice { io, .. } | Kind::Io(io) => (RangeKind::Io(io.clone()), 0),
            Kind::Container | Kind::Alias { .. } => return,
        };
        let read_only = read_only && matches!(kind, RangeKind::Ram(_));
        let name: Arc<str> = region.name.as_str().into();
        self.fill(low, high, |start, last| FlatRange {
            start,
            last,
            kind: kind.clone(),
            offset: skip + (i128::from(start) - base) as u64,
            read_only,
            name: name.clone(),
        });
    }

    /// Puts ranges made by `make` into the holes between `low` and `high`.
    fn fill(&mut self, mut low: i128, high: i128, make: impl Fn(u64, u64) -> FlatRange) {
        let mut at = self.ranges.partition_point(|r| i128::from(r.last) < low);
        while low < high {
            let next = self.ranges.get(at).map(|r| (i128::from(r.start), i128::from(r.last)));
            let end = next.map_or(high, |(start, _)| start.min(high));
            if low < end {
                self.ranges.insert(at, make(low as u64, (end - 1) as u64));
                at += 1;
            }
            let Some((_, last)) = next else { return };
            low = last + 1;
            at += 1;
        }
    }
}
