//! Guest-state slots: the typed places a front end reads and writes.

use crate::Type;

/// Number of a slot in its [`SlotTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u16);

/// One typed place in guest state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotDesc {
    /// Name in printed IR, such as `x10` or `pc`.
    pub name: &'static str,
    /// Byte offset from the start of the guest's state structure, a multiple of `min(size, 16)`.
    pub offset: u32,
    /// Type of the value.
    pub ty: Type,
    /// True for a slot that only helpers and the engine write: `get` may be moved and repeated, but no
    /// value outlives a call that writes it.
    pub volatile: bool,
}

/// The slots of one guest architecture. Slots do not overlap: a guest whose registers alias (x86 `al` in `rax`,
/// ARM `s0` in `v0`) names the widest and uses `extract`, `deposit` and vector lanes.
#[derive(Debug, Clone, Default)]
pub struct SlotTable {
    slots: Vec<SlotDesc>,
    /// Slot of the guest program counter.
    pc: Option<SlotId>,
}

impl SlotTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a slot. With debug assertions, panics if it overlaps another: the table is the front end's own data, not guest input.
    pub fn add(&mut self, name: &'static str, offset: usize, ty: Type) -> SlotId {
        let end = offset + ty.bytes();
        let clash = |s: &&SlotDesc| end > s.offset as usize && s.offset as usize + s.ty.bytes() > offset;
        debug_assert!(self.slots.iter().find(clash).is_none(), "slot {name} overlaps another");
        self.slots.push(SlotDesc { name, offset: offset as u32, ty, volatile: false });
        SlotId((self.slots.len() - 1) as u16)
    }

    /// Declares which slot is the program counter.
    pub fn set_pc(&mut self, slot: SlotId) {
        self.pc = Some(slot);
    }

    /// Declares that only helpers and the engine write the slot.
    pub fn set_volatile(&mut self, slot: SlotId) {
        if let Some(s) = self.slots.get_mut(slot.0 as usize) {
            s.volatile = true;
        }
    }

    /// The program counter's slot; slot 0 if none was declared.
    #[must_use]
    pub fn pc(&self) -> SlotId {
        self.pc.unwrap_or(SlotId(0))
    }

    /// Description of a slot.
    #[must_use]
    pub fn get(&self, slot: SlotId) -> &SlotDesc {
        &self.slots[slot.0 as usize]
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All slots in order.
    #[must_use]
    pub fn all(&self) -> &[SlotDesc] {
        &self.slots
    }

    /// The slot of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<SlotId> {
        self.slots.iter().position(|s| s.name == name).map(|i| SlotId(i as u16))
    }
}
