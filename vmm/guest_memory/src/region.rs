//! The region tree: what boards and devices build, before it is flattened.
//!
//! A region is placed at an offset in a parent with a priority. Where siblings overlap the higher priority is
//! seen; among equals the one placed last. A child hides its parent. An alias shows a window of another region;
//! that region need not be placed itself. A secure region is seen only by a vCPU in its secure mode (x86's system
//! management mode, for instance); for everybody else what lies below it is there.

use std::fmt;
use std::sync::Arc;

use crate::bus::IoHandler;
use crate::error::MemoryError;
use crate::ram::RamBlock;

/// Names a region within its address space. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(pub(crate) u32);

#[derive(Clone)]
pub(crate) enum Kind {
    Container,
    Ram { block: Arc<RamBlock>, offset: u64 },
    RomDevice { block: Arc<RamBlock>, io: Arc<dyn IoHandler>, direct: bool },
    Io(Arc<dyn IoHandler>),
    Alias { of: RegionId, offset: u64 },
}

impl Kind {
    fn noun(&self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Ram { .. } => "ram",
            Kind::RomDevice { direct: true, .. } => "romd",
            Kind::RomDevice { direct: false, .. } => "romd-io",
            Kind::Io(_) => "io",
            Kind::Alias { .. } => "alias",
        }
    }
}

/// A region to be added to a tree. Made by one of the constructors, then refined.
#[derive(Clone)]
pub struct Region {
    pub(crate) name: String,
    pub(crate) size: u128,
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    pub(crate) priority: i32,
    pub(crate) enabled: bool,
    pub(crate) read_only: bool,
    pub(crate) secure: bool,
}

impl Region {
    fn new(name: impl Into<String>, size: u128, kind: Kind) -> Self {
        Region {
            name: name.into(),
            size,
            kind,
            offset: 0,
            priority: 0,
            enabled: true,
            read_only: false,
            secure: false,
        }
    }

    /// A region that only holds others; accesses that miss its children fall through to what lies below it.
    /// `size` may be up to 2^64.
    pub fn container(name: impl Into<String>, size: u128) -> Self {
        Self::new(name, size, Kind::Container)
    }

    /// All of a RAM block.
    pub fn ram(name: impl Into<String>, block: Arc<RamBlock>) -> Self {
        Self::new(name, u128::from(block.size()), Kind::Ram { block, offset: 0 })
    }

    /// `size` bytes of a RAM block from `offset`.
    pub fn ram_slice(name: impl Into<String>, block: Arc<RamBlock>, offset: u64, size: u64) -> Self {
        Self::new(name, u128::from(size), Kind::Ram { block, offset })
    }

    /// A RAM block the guest can only read; its writes are ignored.
    pub fn rom(name: impl Into<String>, block: Arc<RamBlock>) -> Self {
        Self::ram(name, block).read_only()
    }

    /// Reads come from memory, writes go to the handler (flash). See [`crate::Transaction::set_direct`].
    pub fn rom_device(name: impl Into<String>, block: Arc<RamBlock>, io: Arc<dyn IoHandler>) -> Self {
        Self::new(name, u128::from(block.size()), Kind::RomDevice { block, io, direct: true })
    }

    /// A device's registers.
    pub fn io(name: impl Into<String>, size: u64, io: Arc<dyn IoHandler>) -> Self {
        Self::new(name, u128::from(size), Kind::Io(io))
    }

    /// A window of `size` bytes on region `of`, from `offset` in it.
    pub fn alias(name: impl Into<String>, of: RegionId, offset: u64, size: u128) -> Self {
        Self::new(name, size, Kind::Alias { of, offset })
    }

    /// Sets the offset in the parent.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Sets the priority among siblings (0 by default; higher wins).
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Makes all RAM seen through this region read-only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Only vCPUs in their secure mode see the region and all below it; see [`crate::AddressSpace::secure_snapshot`].
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    /// The region (and all below it) is invisible until enabled.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.enabled = false;
        self
    }
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) region: Region,
    pub(crate) parent: Option<RegionId>,
    /// In order of visibility: highest priority first, last placed first among equals.
    pub(crate) children: Vec<RegionId>,
}

/// The regions of one address space. Index = id; removed regions leave a hole.
#[derive(Clone)]
pub(crate) struct Tree {
    nodes: Vec<Option<Node>>,
}

impl Tree {
    pub(crate) const ROOT: RegionId = RegionId(0);

    pub(crate) fn new(name: &str, size: u128) -> Self {
        let region = Region::container(name, size);
        Tree { nodes: vec![Some(Node { region, parent: None, children: Vec::new() })] }
    }

    pub(crate) fn node(&self, id: RegionId) -> Result<&Node, MemoryError> {
        self.nodes.get(id.0 as usize).and_then(Option::as_ref).ok_or(MemoryError::NoRegion(id))
    }

    pub(crate) fn node_mut(&mut self, id: RegionId) -> Result<&mut Node, MemoryError> {
        self.nodes.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(MemoryError::NoRegion(id))
    }

    pub(crate) fn find(&self, name: &str) -> Option<RegionId> {
        let found = self.nodes.iter().position(|n| n.as_ref().is_some_and(|n| n.region.name == name))?;
        Some(RegionId(found as u32))
    }

    pub(crate) fn create(&mut self, region: Region) -> Result<RegionId, MemoryError> {
        let bad = || MemoryError::BadSize { name: region.name.clone(), size: region.size };
        if region.size == 0 || region.size > 1 << 64 {
            return Err(bad());
        }
        match &region.kind {
            Kind::Ram { block, offset } if u128::from(*offset) + region.size > u128::from(block.size()) => {
                return Err(bad());
            }
            Kind::Alias { of, .. } => {
                self.node(*of)?;
            }
            _ => {}
        }
        let id = RegionId(self.nodes.len() as u32);
        self.nodes.push(Some(Node { region, parent: None, children: Vec::new() }));
        Ok(id)
    }

    /// Whether any region is secure, so that there are two views.
    pub(crate) fn has_secure(&self) -> bool {
        self.nodes.iter().flatten().any(|n| n.region.secure)
    }

    /// Whether `to` is drawn when `from` is: through children and aliases.
    fn reaches(&self, from: RegionId, to: RegionId) -> bool {
        let mut seen = vec![false; self.nodes.len()];
        let mut work = vec![from];
        while let Some(id) = work.pop() {
            if id == to {
                return true;
            }
            if std::mem::replace(&mut seen[id.0 as usize], true) {
                continue;
            }
            if let Ok(node) = self.node(id) {
                work.extend(&node.children);
                if let Kind::Alias { of, .. } = node.region.kind {
                    work.push(of);
                }
            }
        }
        false
    }

    pub(crate) fn place(&mut self, id: RegionId, parent: RegionId) -> Result<(), MemoryError> {
        let node = self.node(id)?;
        let Region { name, offset, size, priority, .. } = node.region.clone();
        if node.parent.is_some() || id == Self::ROOT {
            return Err(MemoryError::Placed(name));
        }
        if u128::from(offset) + size > 1 << 64 {
            return Err(MemoryError::Overflow { name, offset, size });
        }
        if let Kind::Alias { .. } = self.node(parent)?.region.kind {
            return Err(MemoryError::NotContainer(self.node(parent)?.region.name.clone()));
        }
        if self.reaches(id, parent) {
            return Err(MemoryError::Cycle(name));
        }
        let siblings = self.node(parent)?.children.clone();
        let at = siblings
            .iter()
            .position(|&s| self.node(s).is_ok_and(|s| s.region.priority <= priority))
            .unwrap_or(siblings.len());
        self.node_mut(parent)?.children.insert(at, id);
        self.node_mut(id)?.parent = Some(parent);
        Ok(())
    }

    pub(crate) fn unplace(&mut self, id: RegionId) -> Result<Option<RegionId>, MemoryError> {
        let parent = self.node_mut(id)?.parent.take();
        if let Some(parent) = parent {
            self.node_mut(parent)?.children.retain(|&c| c != id);
        }
        Ok(parent)
    }

    /// Removes a region and all below it.
    pub(crate) fn remove(&mut self, id: RegionId) -> Result<(), MemoryError> {
        if id == Self::ROOT {
            return Err(MemoryError::WrongKind(self.node(id)?.region.name.clone(), "removable"));
        }
        let mut doomed = vec![id];
        let mut next = 0;
        while let Some(&at) = doomed.get(next) {
            doomed.extend(&self.node(at)?.children);
            next += 1;
        }
        for (i, node) in self.nodes.iter().enumerate() {
            if let Some(Node { region: Region { kind: Kind::Alias { of, .. }, name, .. }, .. }) = node
                && doomed.contains(of)
                && !doomed.contains(&RegionId(i as u32))
            {
                return Err(MemoryError::Aliased(self.node(*of)?.region.name.clone(), name.clone()));
            }
        }
        self.unplace(id)?;
        for id in doomed {
            self.nodes[id.0 as usize] = None;
        }
        Ok(())
    }

    fn write_node(&self, f: &mut fmt::Formatter<'_>, id: RegionId, base: u128, depth: usize) -> fmt::Result {
        let Ok(node) = self.node(id) else { return Ok(()) };
        let r = &node.region;
        let start = base + u128::from(r.offset);
        write!(f, "{:1$}", "", depth * 2)?;
        write!(f, "{:016x}-{:016x} (prio {}, {}", start, start + r.size - 1, r.priority, r.kind.noun())?;
        let secure = if r.secure { ", secure" } else { "" };
        write!(f, "{}{secure}): {}", if r.read_only { ", ro" } else { "" }, r.name)?;
        match &r.kind {
            Kind::Alias { of, offset } => {
                let of = self.node(*of).map_or("?", |n| n.region.name.as_str());
                write!(f, " -> {of} {:016x}-{:016x}", offset, u128::from(*offset) + r.size - 1)?;
            }
            Kind::Ram { block, offset } if *offset != 0 => write!(f, " = {}+{offset:#x}", block.name())?,
            _ => {}
        }
        writeln!(f, "{}", if r.enabled { "" } else { " [disabled]" })?;
        let mut children = node.children.clone();
        children.sort_by_key(|&c| self.node(c).map_or(0, |n| n.region.offset));
        children.iter().try_for_each(|&c| self.write_node(f, c, start, depth + 1))
    }
}

impl fmt::Display for Tree {
    /// One line a region, indented by depth; regions that are only seen through aliases follow.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            if node.as_ref().is_some_and(|n| n.parent.is_none()) {
                self.write_node(f, RegionId(i as u32), 0, usize::from(i != 0))?;
            }
        }
        Ok(())
    }
}
