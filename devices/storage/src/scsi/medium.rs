//! What is in a CD-ROM drive, and its tray, as the guest and whoever changes discs move them.

use std::fmt;
use std::sync::Arc;

use block::Disk;

use crate::media::{Slot, Tray};

/// Media events (MMC-5, 6.7).
mod event {
    pub(super) const EJECT_REQUEST: u8 = 1;
    pub(super) const NEW_MEDIUM: u8 = 2;
    pub(super) const REMOVED: u8 = 3;
}

/// Told when a tray opens (true) or shuts. Called with the controller locked: it must only take note.
#[derive(Clone, Default)]
pub struct TrayListener(Option<Arc<dyn Fn(bool) + Send + Sync>>);

impl TrayListener {
    /// A listener.
    pub fn new(told: impl Fn(bool) + Send + Sync + 'static) -> Self {
        TrayListener(Some(Arc::new(told)))
    }

    fn tell(&self, open: bool) {
        if let Some(told) = &self.0 {
            told(open);
        }
    }
}

impl fmt::Debug for TrayListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrayListener").field(&self.0.is_some()).finish()
    }
}

/// The drive's slot: a disc, and the tray's state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Medium {
    pub(crate) disk: Option<Disk>,
    pub(crate) open: bool,
    /// The guest holds the tray shut.
    pub(crate) locked: bool,
    /// A new disc has not been told of yet.
    pub(crate) changed: bool,
    /// What GET EVENT STATUS is to tell once; 0 for nothing.
    pub(crate) event: u8,
    listener: TrayListener,
}

impl Medium {
    /// A drive with or without a disc.
    pub(crate) fn new(disk: Option<Disk>, listener: TrayListener) -> Self {
        Medium { disk, listener, ..Medium::default() }
    }

    /// Whether there is a disc that can be read.
    pub(crate) fn is_there(&self) -> bool {
        self.disk.is_some() && !self.open
    }

    /// Opens or shuts the tray, whoever wishes so.
    pub(crate) fn move_tray(&mut self, open: bool) {
        if self.open == open {
            return;
        }
        self.open = open;
        self.changed = !open && self.disk.is_some();
        self.event = if self.changed { event::NEW_MEDIUM } else { event::REMOVED };
        self.listener.tell(open);
    }

    /// The drive was reset: it shuts its tray and has nothing to tell.
    pub(crate) fn reset(&mut self) {
        self.move_tray(false);
        (self.locked, self.changed, self.event) = (false, false, 0);
    }

    /// The event that has not been told of yet.
    pub(crate) fn take_event(&mut self) -> u8 {
        std::mem::take(&mut self.event)
    }
}

impl Slot for Medium {
    fn tray(&self) -> Option<Tray> {
        Some(Tray { open: self.open, locked: self.locked })
    }

    fn open(&mut self, force: bool) -> bool {
        if self.locked && !force && !self.open {
            self.event = event::EJECT_REQUEST;
            return false;
        }
        self.locked = false;
        self.move_tray(true);
        true
    }

    fn shut(&mut self) {
        self.move_tray(false);
    }

    fn is_loaded(&self) -> bool {
        self.disk.is_some()
    }

    fn load(&mut self, disk: Option<Disk>) {
        self.disk = disk;
    }
}
