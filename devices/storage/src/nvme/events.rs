//! Asynchronous events (section 5.2): the one kind there is tells of namespaces that have changed, and a log lists these
//! (section 5.14.1.4).
//!
//! An event is told once, and not again before the host has read its log.

use super::Nvme;
use super::identify::SIZE;

/// The feature by which the host asks for events, and what it asks for.
pub(super) const CONFIGURATION: u32 = 11;
pub(super) const NAMESPACES: u32 = 1 << 8;
/// The log of changed namespaces.
pub(super) const LOG: u32 = 4;
/// The result of an event's command: a notice, of a changed namespace, with its log.
const NOTICE: u32 = 2 | LOG << 16;

impl Nvme {
    /// The sizes the host can know are those of now.
    pub(super) fn note_sizes(&mut self) {
        self.sizes = self.config.disks.iter().map(|disk| disk.len()).collect();
    }

    /// Notes which disks have another size than the host knows, and tells it.
    pub(super) fn look_at_sizes(&mut self) {
        if self.paused || !self.is_enabled() {
            return;
        }
        for (number, (disk, known)) in (1..).zip(self.config.disks.iter().zip(&mut self.sizes)) {
            let len = disk.len();
            if std::mem::replace(known, len) != len {
                self.r.changed.insert(number);
            }
        }
        self.tell();
    }

    /// Ends a command that waits for an event, if there is one to tell.
    pub(super) fn tell(&mut self) {
        let asked = self.r.features[CONFIGURATION as usize] & NAMESPACES != 0;
        if asked && !self.r.told && !self.r.changed.is_empty() && !self.r.events.is_empty() {
            let id = self.r.events.remove(0);
            self.r.told = true;
            self.complete(0, id, NOTICE, 0);
        }
    }

    pub(super) fn changed_namespaces(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self.r.changed.iter().flat_map(|number| number.to_le_bytes()).collect();
        if page.len() > SIZE {
            // Too many to list: any may have changed.
            page = u32::MAX.to_le_bytes().to_vec();
        }
        page.resize(SIZE, 0);
        page
    }

    /// The host has read that log.
    pub(super) fn changes_read(&mut self) {
        self.r.changed.clear();
        self.r.told = false;
    }
}
