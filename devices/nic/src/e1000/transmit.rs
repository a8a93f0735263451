//! Transmitting: the ring (manual, 3.4); what its descriptors mean is in [`crate::intel::offload`].

use super::E1000;
use super::registers::{cause, reg};
use crate::intel::filter;
use crate::intel::offload::{DESCRIPTOR, reports};

const ENABLE: u32 = 1 << 1;

impl E1000 {
    /// Sends what the host has put into the ring.
    pub(super) fn transmit(&mut self) {
        let entries = (self.r.get(reg::TDLEN) / DESCRIPTOR as u32) & 0xffff;
        let tail = self.r.get(reg::TDT);
        let mut causes = 0;
        // At most once round: a tail outside of the ring is never reached.
        for _ in 0..entries {
            let head = self.r.get(reg::TDH);
            if self.paused || self.r.get(reg::TCTL) & ENABLE == 0 || head == tail {
                break;
            }
            let at = self.r.base(reg::TDBAL).wrapping_add(u64::from(head) * DESCRIPTOR);
            let mut descriptor = [0; 16];
            if self.dma.read(at, &mut descriptor).is_err() {
                break;
            }
            let (port, mut sent) = (&self.port, 0);
            self.sender.descriptor(&descriptor, &self.dma, filter::tags(&self.r), |frame| {
                port.send(frame);
                sent += 1;
            });
            (0..sent).for_each(|_| self.r.count(reg::TRANSMITTED));
            if reports(&descriptor) {
                // Done.
                let _ = self.dma.write(at.wrapping_add(12), &[descriptor[12] | 1]);
                causes |= cause::TRANSMITTED;
            }
            self.r.set(reg::TDH, if head + 1 >= entries { 0 } else { head + 1 });
            if self.r.get(reg::TDH) == tail {
                causes |= cause::TRANSMIT_EMPTY;
            }
        }
        if causes != 0 {
            self.raise(causes);
        }
    }
}
