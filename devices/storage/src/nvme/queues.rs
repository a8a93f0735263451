//! Submission and completion queues: rings in guest memory.

use std::collections::{BTreeMap, VecDeque};

use device::Dma;

/// Bytes of an entry.
const SUBMISSION: u64 = 64;
const COMPLETION: u64 = 16;

/// The end of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) result: u32,
    /// Submission queue, and its head.
    pub(super) queue: u16,
    pub(super) head: u16,
    pub(super) id: u16,
    pub(super) status: u16,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SubmissionQueue {
    pub(super) base: u64,
    pub(super) size: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) completions: u16,
}

impl SubmissionQueue {
    pub(super) fn new(base: u64, size: u32, completions: u16) -> Self {
        SubmissionQueue { base, size, completions, ..Self::default() }
    }

    /// The host has put commands in up to `tail`; false if that is no place in the ring.
    pub(super) fn ring(&mut self, tail: u32) -> bool {
        let there = tail < self.size;
        if there {
            self.tail = tail;
        }
        there
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CompletionQueue {
    pub(super) base: u64,
    pub(super) size: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// What marks new entries in this round.
    pub(super) phase: bool,
    /// The message it interrupts by, if it does.
    pub(super) vector: Option<u16>,
    /// Those for which there has been no room.
    pub(super) waiting: VecDeque<Completion>,
}

impl CompletionQueue {
    pub(super) fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        CompletionQueue { base, size, vector, phase: true, ..Self::default() }
    }

    /// The host has read up to `head`; false if that is no place in the ring.
    pub(super) fn ring(&mut self, head: u32) -> bool {
        let there = head < self.size;
        if there {
            self.head = head;
        }
        there
    }

    pub(super) fn is_unread(&self) -> bool {
        self.head != self.tail
    }

    /// Writes what there is room for; whether that was anything.
    pub(super) fn flush(&mut self, dma: &Dma) -> bool {
        let mut any = false;
        while (self.tail + 1) % self.size.max(1) != self.head {
            let Some(c) = self.waiting.pop_front() else { break };
            let words = [c.result, 0, u32::from(c.queue) << 16 | u32::from(c.head), {
                u32::from(c.status) << 17 | u32::from(self.phase) << 16 | u32::from(c.id)
            }];
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            // A ring that is not in memory loses its entries.
            let _ = dma.write(self.base.wrapping_add(u64::from(self.tail) * COMPLETION), &bytes);
            self.tail += 1;
            if self.tail == self.size {
                (self.tail, self.phase) = (0, !self.phase);
            }
            any = true;
        }
        any
    }
}

/// All queues by number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Queues {
    pub(super) submissions: BTreeMap<u16, SubmissionQueue>,
    pub(super) completions: BTreeMap<u16, CompletionQueue>,
    /// The queue that was served last: the others come first.
    pub(super) last: u16,
}

impl Queues {
    /// Completions that wait for room.
    pub(super) fn waiting(&self) -> usize {
        self.completions.values().map(|q| q.waiting.len()).sum()
    }

    /// Takes the next command: its queue, and where it is.
    pub(super) fn next(&mut self) -> Option<(u16, u64)> {
        let ready = |(_, q): &(&u16, &SubmissionQueue)| q.head != q.tail;
        let after = self.submissions.range(self.last.saturating_add(1)..).find(ready);
        let (&number, _) = after.or_else(|| self.submissions.iter().find(ready))?;
        let queue = self.submissions.get_mut(&number)?;
        let at = queue.base.wrapping_add(u64::from(queue.head) * SUBMISSION);
        queue.head = (queue.head + 1) % queue.size.max(1);
        self.last = number;
        Some((number, at))
    }
}
