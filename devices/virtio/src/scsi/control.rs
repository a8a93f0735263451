//! The control queue: task management functions and asynchronous notifications (virtio 1.2, 5.6.6.2).

use std::sync::Arc;

use super::Shared;
use crate::chain::Chain;
use crate::queue::Virtqueue;

/// Types of requests.
mod kind {
    pub(super) const FUNCTION: u32 = 0;
    pub(super) const QUERY: u32 = 1;
    pub(super) const SUBSCRIBE: u32 = 2;
}

/// Task management functions.
mod function {
    pub(super) const ABORT_TASK: u32 = 0;
    pub(super) const ABORT_TASK_SET: u32 = 1;
    pub(super) const CLEAR_TASK_SET: u32 = 3;
    pub(super) const NEXUS_RESET: u32 = 4;
    pub(super) const UNIT_RESET: u32 = 5;
    pub(super) const QUERY_TASK: u32 = 6;
    pub(super) const QUERY_TASK_SET: u32 = 7;
}

/// Responses.
pub(super) const COMPLETE: u8 = 0;
const BAD_TARGET: u8 = 3;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

impl Shared {
    /// A request on the control queue has come.
    pub(super) fn control(self: &Arc<Self>, queue: &Arc<Virtqueue>, mut chain: Chain) {
        let word = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
        match chain.read_array().map(word) {
            Some(kind::FUNCTION) => {
                let Some(body) = chain.read_array::<20>() else { return broken(queue, chain) };
                let what = word([body[0], body[1], body[2], body[3]]);
                match self.function(what, &body[4..12]) {
                    COMPLETE => self.wait(queue, chain),
                    refused => answer(queue, chain, &[refused]),
                }
            }
            Some(kind::QUERY | kind::SUBSCRIBE) => {
                let Some(body) = chain.read_array::<12>() else { return broken(queue, chain) };
                let there = Self::address(&body[..8]).is_some_and(|at| self.unit(at).is_some());
                // None of the events is told of: they come from media changed in front of the drive.
                answer(queue, chain, &[0, 0, 0, 0, if there { COMPLETE } else { INCORRECT_LUN }]);
            }
            Some(_) => answer(queue, chain, &[REJECTED]),
            None => broken(queue, chain),
        }
    }

    /// Does a function as far as it can be done at once; whether it is refused.
    fn function(&self, what: u32, lun: &[u8]) -> u8 {
        use function::{
            ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, NEXUS_RESET, QUERY_TASK, QUERY_TASK_SET, UNIT_RESET,
        };
        let Some((target, lun)) = Self::address(lun) else { return BAD_TARGET };
        if !self.units().iter().any(|u| u.target == target) {
            return BAD_TARGET;
        }
        let unit = self.unit((target, lun));
        match what {
            NEXUS_RESET => {
                let units = self.units();
                let of_target = units.iter().filter(|u| u.target == target);
                of_target.for_each(|u| u.unit.lock().reset());
                COMPLETE
            }
            ABORT_TASK | ABORT_TASK_SET | CLEAR_TASK_SET | QUERY_TASK | QUERY_TASK_SET | UNIT_RESET => {
                let Some(unit) = unit else { return INCORRECT_LUN };
                if what == UNIT_RESET {
                    unit.unit.lock().reset();
                }
                COMPLETE
            }
            _ => REJECTED,
        }
    }

    /// Answers a function once all commands before it are done.
    fn wait(&self, queue: &Arc<Virtqueue>, chain: Chain) {
        let mut flights = self.flights.lock();
        let number = flights.next;
        flights.waiting.push_back((number, chain, queue.clone()));
        self.answer_functions(&mut flights);
    }
}

fn broken(queue: &Virtqueue, chain: Chain) {
    queue.fail("a request that is too short");
    queue.push(chain);
}

fn answer(queue: &Virtqueue, mut chain: Chain, bytes: &[u8]) {
    if chain.write(bytes) < bytes.len() {
        queue.fail("a request without room for its response");
    }
    queue.push(chain);
}
