//! Drivers of before version 1 (virtio 1.2, 2.2.3, 2.7.2 and 3.1.2): features without a last word on them, queues of the
//! device's size in one piece of memory.

use super::core::{Core, status};

/// Where each part of a ring begins is a multiple of this.
const ALIGN: u64 = 4096;

impl Core {
    /// The feature bits offered to such drivers.
    pub(crate) fn legacy_offered(&self) -> u32 {
        self.offered as u32
    }

    /// Those that one has accepted.
    pub(crate) fn legacy_accepted(&self) -> u32 {
        self.driver_features as u32
    }

    /// It accepts these.
    pub(crate) fn legacy_accept(&mut self, bits: u32) {
        if self.status() & status::DRIVER_OK != 0 {
            return self.complain(format_args!("features changed after DRIVER_OK"));
        }
        // Nobody would see that the others were refused.
        self.driver_features = u64::from(bits) & self.offered;
        self.legacy = true;
    }

    /// The page in which the selected queue begins; 0 if it is not set up.
    pub(crate) fn legacy_page(&self) -> u32 {
        self.selected().filter(|q| q.ready).map_or(0, |q| (q.desc / ALIGN) as u32)
    }

    /// Sets the selected queue up there, or takes it away.
    pub(crate) fn set_legacy_page(&mut self, page: u32) {
        self.set_queue_ready(false);
        let index = self.queue_sel as usize;
        let Some(queue) = self.queues.get_mut(index).filter(|_| page != 0) else { return };
        let (size, desc) = (u64::from(queue.max), u64::from(page) * ALIGN);
        queue.size = queue.max.into();
        queue.desc = desc;
        queue.driver = desc + 16 * size;
        queue.device = (queue.driver + 2 * (3 + size)).next_multiple_of(ALIGN);
        self.legacy = true;
        self.set_queue_ready(true);
    }

    /// Writes the status register; true if that was a reset.
    pub(crate) fn set_legacy_status(&mut self, value: u8) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        if self.status() & status::DRIVER_OK == 0 {
            self.legacy = true;
            // What was accepted by the other interface does not count; these have room for 32 features.
            self.driver_features &= self.offered & 0xffff_ffff;
        }
        self.follow_status(value & !status::FEATURES_OK);
        false
    }
}
