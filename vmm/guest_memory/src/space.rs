//! An address space: a region tree, its published flat view, and those who follow its changes.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use crate::Gpa;
use crate::bus::BusResult;
use crate::dma::{GuestRam, GuestRamAtomic};
use crate::error::MemoryError;
use crate::flat::{FlatRange, FlatView};
use crate::region::{Kind, Region, RegionId, Tree};

/// What an access to an address that belongs to nobody gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unassigned {
    /// Reads as 0; the access fails with [`BusResult::DecodeError`].
    #[default]
    Fault,
    /// Reads as 0, nobody is told.
    Zeros,
    /// Reads as all ones, nobody is told: a PC's buses.
    Ones,
}

impl Unassigned {
    pub(crate) fn byte(self) -> u8 {
        if self == Unassigned::Ones { 0xff } else { 0 }
    }

    pub(crate) fn result(self) -> BusResult {
        if self == Unassigned::Fault { BusResult::DecodeError } else { BusResult::Ok }
    }
}

/// Why a listener could not follow a change.
pub type ListenerError = Box<dyn Error + Send + Sync>;

/// What changed between two views. A range that merely grew is removed and added.
pub struct ViewChange {
    /// The view before.
    pub old: Arc<FlatView>,
    /// The view now; already published.
    pub new: Arc<FlatView>,
    /// Ranges of `old` that are not in `new`, ascending.
    pub removed: Vec<FlatRange>,
    /// Ranges of `new` that were not in `old`, ascending.
    pub added: Vec<FlatRange>,
    /// What vCPUs in their secure mode see has changed.
    pub secure: bool,
}

impl ViewChange {
    fn between(old: Arc<FlatView>, new: Arc<FlatView>) -> Self {
        let missing = |from: &FlatView, other: &FlatView| -> Vec<FlatRange> {
            let twin = |r: &FlatRange| {
                let at = other.ranges().partition_point(|o| o.start < r.start);
                other.ranges().get(at).is_some_and(|o| o.same(r))
            };
            from.ranges().iter().filter(|r| !twin(r)).cloned().collect()
        };
        let (removed, added) = (missing(&old, &new), missing(&new, &old));
        ViewChange { old, new, removed, added, secure: false }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty() && !self.secure
    }
}

/// Follows an address space: accelerators map slots, translators drop cached translations.
pub trait ViewListener: Send + Sync {
    /// The view changed. Called in commit order, one call at a time, by the thread that commits: it may be a
    /// vCPU in the middle of a device access, so the call must not wait for another vCPU and must not edit the
    /// same address space. Removed ranges are to be unmapped before added ones are mapped.
    fn changed(&self, change: &ViewChange) -> Result<(), ListenerError>;
}

/// Names a listener, for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerId(u64);

struct Editable {
    tree: Tree,
    listeners: Vec<(ListenerId, Arc<dyn ViewListener>)>,
    next_listener: u64,
}

struct Inner {
    name: String,
    unassigned: Unassigned,
    view: ArcSwap<FlatView>,
    /// The same view if no region is secure.
    secure: ArcSwap<FlatView>,
    ram: GuestRamAtomic,
    editable: Mutex<Editable>,
}

/// A tree of regions that is dispatched through its flat view. Clones are handles to the same space.
#[derive(Clone)]
pub struct AddressSpace(Arc<Inner>);

impl AddressSpace {
    /// Makes an empty space of `size` bytes (at most 2^64).
    pub fn new(name: impl Into<String>, size: u128, unassigned: Unassigned) -> Self {
        let name = name.into();
        let tree = Tree::new(&name, size.clamp(1, 1 << 64));
        let view = Arc::new(FlatView::empty(unassigned));
        AddressSpace(Arc::new(Inner {
            name,
            unassigned,
            view: ArcSwap::new(view.clone()),
            secure: ArcSwap::new(view),
            ram: GuestRamAtomic::new(GuestRam::new()),
            editable: Mutex::new(Editable { tree, listeners: Vec::new(), next_listener: 0 }),
        }))
    }

    /// Guest physical memory: 2^64 bytes.
    pub fn memory(unassigned: Unassigned) -> Self {
        Self::new("memory", 1 << 64, unassigned)
    }

    /// x86 port I/O: 64 KiB, unassigned ports read as ones.
    pub fn ports() -> Self {
        Self::new("io", 1 << 16, Unassigned::Ones)
    }

    /// Name of the space.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The current view. Cheap; hold it for one access or one batch, not for long.
    #[inline]
    pub fn view(&self) -> arc_swap::Guard<Arc<FlatView>> {
        self.0.view.load()
    }

    /// The current view, to keep.
    pub fn snapshot(&self) -> Arc<FlatView> {
        self.0.view.load_full()
    }

    /// The view of a vCPU in its secure mode, to keep: secure regions are in it ([`Region::secure`]). Bus masters and
    /// vCPUs in their ordinary mode have the other one.
    pub fn secure_snapshot(&self) -> Arc<FlatView> {
        self.0.secure.load_full()
    }

    /// The writable RAM of the space as a `vm_memory` guest memory that follows the tree.
    pub fn ram(&self) -> &GuestRamAtomic {
        &self.0.ram
    }

    /// Reads through the current view.
    #[inline]
    pub fn read(&self, gpa: Gpa, data: &mut [u8]) -> BusResult {
        self.view().read(gpa, data)
    }

    /// Writes through the current view.
    #[inline]
    pub fn write(&self, gpa: Gpa, data: &[u8]) -> BusResult {
        self.view().write(gpa, data)
    }

    /// Begins a change of the tree. Waits for a change under way in another thread. Dropping the transaction
    /// without a commit leaves the space as it was.
    pub fn update(&self) -> Transaction<'_> {
        let editable = self.0.editable.lock();
        let tree = editable.tree.clone();
        Transaction { space: self, editable, tree }
    }

    /// Adds one region to the root: a transaction of one step.
    pub fn add(&self, region: Region) -> Result<RegionId, MemoryError> {
        let mut tx = self.update();
        let id = tx.add(Tree::ROOT, region)?;
        tx.commit()?;
        Ok(id)
    }

    /// Adds a listener and shows it the whole current view as added.
    pub fn add_listener(&self, listener: Arc<dyn ViewListener>) -> Result<ListenerId, MemoryError> {
        let mut editable = self.0.editable.lock();
        let old = Arc::new(FlatView::empty(self.0.unassigned));
        self.tell(&*listener, &ViewChange::between(old, self.snapshot()))?;
        let id = ListenerId(editable.next_listener);
        editable.next_listener += 1;
        editable.listeners.push((id, listener));
        Ok(id)
    }

    /// Removes a listener; it is not told anything more.
    pub fn remove_listener(&self, id: ListenerId) {
        self.0.editable.lock().listeners.retain(|(other, _)| *other != id);
    }

    fn tell(&self, listener: &dyn ViewListener, change: &ViewChange) -> Result<(), MemoryError> {
        if change.is_empty() {
            return Ok(());
        }
        listener
            .changed(change)
            .map_err(|source| MemoryError::Listener { space: self.0.name.clone(), source })
    }
}

impl fmt::Display for AddressSpace {
    /// The region tree, one line a region.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.0.editable.lock().tree.clone();
        write!(f, "address-space: {}\n{tree}", self.0.name)
    }
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AddressSpace").field(&self.0.name).finish()
    }
}

/// A change of a region tree, made visible by [`Transaction::commit`].
pub struct Transaction<'a> {
    space: &'a AddressSpace,
    editable: MutexGuard<'a, Editable>,
    tree: Tree,
}

impl Transaction<'_> {
    /// The root container.
    pub fn root(&self) -> RegionId {
        Tree::ROOT
    }

    /// The first region of this name.
    pub fn find(&self, name: &str) -> Option<RegionId> {
        self.tree.find(name)
    }

    /// Adds a region to a parent, at the offset and priority it carries.
    pub fn add(&mut self, parent: RegionId, region: Region) -> Result<RegionId, MemoryError> {
        let id = self.tree.create(region)?;
        if let Err(e) = self.tree.place(id, parent) {
            self.tree.remove(id)?;
            return Err(e);
        }
        Ok(id)
    }

    /// Adds a region without a place, to be aliased or placed later.
    pub fn create(&mut self, region: Region) -> Result<RegionId, MemoryError> {
        self.tree.create(region)
    }

    /// Places a region that has no parent.
    pub fn place(
        &mut self,
        id: RegionId,
        parent: RegionId,
        offset: u64,
        priority: i32,
    ) -> Result<(), MemoryError> {
        let region = &mut self.tree.node_mut(id)?.region;
        (region.offset, region.priority) = (offset, priority);
        self.tree.place(id, parent)
    }

    /// Takes a region from its parent; it keeps its own children.
    pub fn unplace(&mut self, id: RegionId) -> Result<(), MemoryError> {
        self.tree.unplace(id).map(drop)
    }

    /// Removes a region and all below it.
    pub fn remove(&mut self, id: RegionId) -> Result<(), MemoryError> {
        self.tree.remove(id)
    }

    /// Shows or hides a region.
    pub fn set_enabled(&mut self, id: RegionId, enabled: bool) -> Result<(), MemoryError> {
        self.tree.node_mut(id)?.region.enabled = enabled;
        Ok(())
    }

    /// Makes the RAM seen through a region read-only or writable.
    pub fn set_read_only(&mut self, id: RegionId, read_only: bool) -> Result<(), MemoryError> {
        self.tree.node_mut(id)?.region.read_only = read_only;
        Ok(())
    }

    /// Shows a region to everybody, or to vCPUs in their secure mode alone.
    pub fn set_secure(&mut self, id: RegionId, secure: bool) -> Result<(), MemoryError> {
        self.tree.node_mut(id)?.region.secure = secure;
        Ok(())
    }

    /// Moves a region within its parent, e.g. a PCI BAR. It becomes the first among equal priorities.
    pub fn set_offset(&mut self, id: RegionId, offset: u64) -> Result<(), MemoryError> {
        let parent = self.tree.unplace(id)?;
        let old = std::mem::replace(&mut self.tree.node_mut(id)?.region.offset, offset);
        if let Some(parent) = parent
            && let Err(e) = self.tree.place(id, parent)
        {
            self.tree.node_mut(id)?.region.offset = old;
            self.tree.place(id, parent)?;
            return Err(e);
        }
        Ok(())
    }

    /// Moves the window of an alias.
    pub fn set_alias_offset(&mut self, id: RegionId, to: u64) -> Result<(), MemoryError> {
        let region = &mut self.tree.node_mut(id)?.region;
        match &mut region.kind {
            Kind::Alias { offset, .. } => *offset = to,
            _ => return Err(MemoryError::WrongKind(region.name.clone(), "an alias")),
        }
        Ok(())
    }

    /// Whether reads of a ROM device come from its memory (true at first) or go to its handler.
    pub fn set_direct(&mut self, id: RegionId, to: bool) -> Result<(), MemoryError> {
        let region = &mut self.tree.node_mut(id)?.region;
        match &mut region.kind {
            Kind::RomDevice { direct, .. } => *direct = to,
            _ => return Err(MemoryError::WrongKind(region.name.clone(), "a ROM device")),
        }
        Ok(())
    }

    /// Publishes the change, then tells the listeners. If one of them fails the others are told nevertheless,
    /// the view stays published, and the first failure is returned.
    pub fn commit(mut self) -> Result<(), MemoryError> {
        let space = &self.space.0;
        let new = Arc::new(FlatView::flatten(&self.tree, space.unassigned, false));
        let secure = if self.tree.has_secure() {
            Arc::new(FlatView::flatten(&self.tree, space.unassigned, true))
        } else {
            new.clone()
        };
        self.editable.tree = self.tree;
        let mut change = ViewChange::between(space.view.load_full(), new.clone());
        change.secure = !ViewChange::between(space.secure.load_full(), secure.clone()).is_empty();
        if change.is_empty() {
            return Ok(());
        }
        space.secure.store(secure);
        space.view.store(new.clone());
        if [&change.removed, &change.added].into_iter().flatten().any(|r| r.writable_ram().is_some())
            && let Ok(guard) = space.ram.lock()
        {
            guard.replace(GuestRam::from_view(&new));
        }
        let mut result = Ok(());
        for (_, listener) in &self.editable.listeners {
            result = result.and(self.space.tell(&**listener, &change));
        }
        result
    }
}
