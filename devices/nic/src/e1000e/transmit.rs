//! Transmitting: two rings (82574L datasheet, 7.2); what their descriptors mean is in [`crate::intel::offload`].

use super::registers::{cause, reg};
use super::{E1000e, QUEUES};
use crate::intel::filter;
use crate::intel::offload::{DESCRIPTOR, reports};

const ENABLE: u32 = 1 << 1;

impl E1000e {
    pub(super) fn transmit_all(&mut self) {
        (0..QUEUES).for_each(|queue| self.transmit(queue));
    }

    /// Sends what the host has put into a ring.
    pub(super) fn transmit(&mut self, queue: usize) {
        let ring = reg::TX + reg::QUEUE * queue as u32;
        let entries = (self.r.get(ring + reg::LENGTH) / DESCRIPTOR as u32) & 0xffff;
        let tail = self.r.get(ring + reg::TAIL);
        let mut causes = 0;
        // At most once round: a tail outside of the ring is never reached.
        for _ in 0..entries {
            let head = self.r.get(ring + reg::HEAD);
            if self.paused || self.r.get(reg::TCTL) & ENABLE == 0 || head == tail {
                break;
            }
            let at = self.r.base(ring).wrapping_add(u64::from(head) * DESCRIPTOR);
            let mut descriptor = [0; 16];
            if self.dma.read(at, &mut descriptor).is_err() {
                break;
            }
            let (port, r) = (&self.port, &mut self.r);
            self.senders[queue].descriptor(&descriptor, &self.dma, filter::tags(r), |frame| {
                port.send(frame);
                r.count(reg::TRANSMITTED);
                r.count(reg::TOTAL_TRANSMITTED);
                r.count_octets(reg::TRANSMITTED_OCTETS, frame.len() + filter::CHECK_SEQUENCE);
            });
            if reports(&descriptor) {
                // Done.
                let _ = self.dma.write(at.wrapping_add(12), &[descriptor[12] | 1]);
                causes |= cause::TRANSMITTED | cause::TRANSMIT_QUEUE << queue;
            }
            self.r.set(ring + reg::HEAD, if head + 1 >= entries { 0 } else { head + 1 });
            if self.r.get(ring + reg::HEAD) == tail {
                causes |= cause::TRANSMIT_EMPTY;
            }
        }
        if causes != 0 {
            self.raise(causes);
        }
    }
}
