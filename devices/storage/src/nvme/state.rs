//! Saved state of the NVM Express controller. Nothing is on its way while a machine stands.

use device::{StateBlob, StateError};
use pci::PciConfig;

use super::queues::{Completion, CompletionQueue, Queues, SubmissionQueue};
use super::{IO_QUEUES, MAX_ENTRIES, MAX_EVENTS, MAX_JOBS, Nvme, NvmeConfig, Registers};

device::state! {
    /// A submission queue.
    struct SubmissionV1 {
        1 => number: u16, 2 => base: u64, 3 => size: u32, 4 => head: u32, 5 => tail: u32, 6 => completions: u16,
    }
}

device::state! {
    /// A completion that waits for room.
    struct WaitingV1 { 1 => result: u32, 2 => queue: u16, 3 => head: u16, 4 => id: u16, 5 => status: u16 }
}

device::state! {
    /// A completion queue.
    struct CompletionV1 {
        1 => number: u16, 2 => base: u64, 3 => size: u32, 4 => head: u32, 5 => tail: u32, 6 => phase: bool,
        7 => vector: Option<u16>, 8 => waiting: Vec<WaitingV1>,
    }
}

device::state! {
    /// Version 1.
    struct V1 {
        1 => masked: u32,
        2 => configuration: u32,
        3 => status: u32,
        4 => admin_sizes: u32,
        5 => admin_submission: u64,
        6 => admin_completion: u64,
        7 => features: [u32; 16],
        8 => events: Vec<u16>,
        9 => submissions: Vec<SubmissionV1>,
        10 => completions: Vec<CompletionV1>,
        11 => last: u16,
        12 => changed: Vec<u32>,
        13 => told: bool,
        14 => sizes: Vec<u64>,
    }
}

pub(super) fn save(n: &Nvme) -> StateBlob {
    let waiting = |c: &Completion| WaitingV1 {
        result: c.result,
        queue: c.queue,
        head: c.head,
        id: c.id,
        status: c.status,
    };
    let submission = |(number, q): (&u16, &SubmissionQueue)| SubmissionV1 {
        number: *number,
        base: q.base,
        size: q.size,
        head: q.head,
        tail: q.tail,
        completions: q.completions,
    };
    let completion = |(number, q): (&u16, &CompletionQueue)| CompletionV1 {
        number: *number,
        base: q.base,
        size: q.size,
        head: q.head,
        tail: q.tail,
        phase: q.phase,
        vector: q.vector,
        waiting: q.waiting.iter().map(waiting).collect(),
    };
    let r = &n.r;
    let state = V1 {
        masked: r.masked,
        configuration: r.configuration,
        status: r.status,
        admin_sizes: r.admin_sizes,
        admin_submission: r.admin_submission,
        admin_completion: r.admin_completion,
        features: r.features,
        events: r.events.clone(),
        submissions: n.q.submissions.iter().map(submission).collect(),
        completions: n.q.completions.iter().map(completion).collect(),
        last: n.q.last,
        changed: r.changed.iter().copied().collect(),
        told: r.told,
        sizes: n.sizes.clone(),
    };
    StateBlob::new(NvmeConfig::KIND, 1, &state)
}

/// Checks places in a ring.
fn ring(number: u16, size: u32, head: u32, tail: u32) -> Result<(), StateError> {
    StateError::at_most("number", number, IO_QUEUES)?;
    StateError::at_most("size", size, MAX_ENTRIES.max(4096))?;
    if size < 2 || head >= size || tail >= size {
        return Err(StateError::new("size", "expected at least 2 entries, with head and tail among them"));
    }
    Ok(())
}

fn queues(s: &V1) -> Result<Queues, StateError> {
    let mut q = Queues { last: s.last, ..Queues::default() };
    for c in &s.completions {
        ring(c.number, c.size, c.head, c.tail).map_err(|e| e.within("completions"))?;
        StateError::at_most("completions/waiting", c.waiting.len(), 2 * MAX_JOBS)?;
        let waiting = c.waiting.iter().map(|w| Completion {
            result: w.result,
            queue: w.queue,
            head: w.head,
            id: w.id,
            status: w.status,
        });
        let queue = CompletionQueue {
            base: c.base,
            size: c.size,
            head: c.head,
            tail: c.tail,
            phase: c.phase,
            vector: c.vector,
            waiting: waiting.collect(),
        };
        q.completions.insert(c.number, queue);
    }
    for c in &s.submissions {
        ring(c.number, c.size, c.head, c.tail).map_err(|e| e.within("submissions"))?;
        let (base, size, head, tail) = (c.base, c.size, c.head, c.tail);
        q.submissions
            .insert(c.number, SubmissionQueue { base, size, head, tail, completions: c.completions });
    }
    Ok(q)
}

pub(super) fn restore(n: &mut Nvme, state: &StateBlob) -> Result<(), StateError> {
    let s: V1 = state.decode(NvmeConfig::KIND, 1)?;
    StateError::at_most("events", s.events.len(), MAX_EVENTS)?;
    StateError::at_most("configuration", s.configuration >> 7 & 15, 15)?;
    StateError::at_most("changed", s.changed.len(), n.config.disks.len())?;
    if !s.sizes.is_empty() && s.sizes.len() != n.config.disks.len() {
        return Err(StateError::new("sizes", "expected one for each disk"));
    }
    n.q = queues(&s)?;
    n.r = Registers {
        masked: s.masked,
        configuration: s.configuration,
        status: s.status,
        admin_sizes: s.admin_sizes,
        admin_submission: s.admin_submission,
        admin_completion: s.admin_completion,
        features: s.features,
        events: s.events,
        changed: s.changed.into_iter().collect(),
        told: s.told,
    };
    n.sizes = s.sizes;
    // A state without them is older than they are.
    if n.sizes.is_empty() {
        n.note_sizes();
    }
    n.jobs.clear();
    // Nothing begins before the machine runs.
    n.paused = true;
    Ok(())
}
