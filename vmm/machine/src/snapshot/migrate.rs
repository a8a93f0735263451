//! A machine on its way to another Rhea: the same sections as in a file, sent while the guest runs and, at the end, while it
//! stands.
//!
//! First all of RAM is sent, then, in rounds, the pages that the guest wrote meanwhile, until few enough are left to stop the
//! guest for the rest. How the other end answers is the transport's business.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guest_memory::{DirtyClient, DirtyPages, PAGE_SIZE, RamBlock};

use super::format::{Reader, Writer};
use super::state::{self, Collected};
use super::{bad, ram, write_board};
use crate::{Machine, MachineError};

/// Most rounds while the guest runs: one that writes faster than the link carries would keep it going for ever.
const MAX_ROUNDS: u32 = 16;
/// Longest sleep while the bandwidth is limited: a cancelled migration ends within it.
const NAP: Duration = Duration::from_millis(20);

/// How far a migration is; written by it, read by anybody.
#[derive(Debug, Default)]
pub struct Progress {
    /// Set to end it.
    pub cancel: AtomicBool,
    /// Bytes sent.
    pub sent: AtomicU64,
    /// Bytes of RAM in all.
    pub total: AtomicU64,
    /// Bytes of RAM still to be sent, as far as is known.
    pub remaining: AtomicU64,
    /// Pages sent.
    pub pages: AtomicU64,
    /// Rounds begun.
    pub rounds: AtomicU64,
    /// Milliseconds for which the guest stood.
    pub downtime_ms: AtomicU64,
}

/// What a migration may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes per second; 0 for no limit.
    pub bandwidth: u64,
    /// How long the guest may stand.
    pub downtime: Duration,
}

/// Counts, limits and cancels.
struct Metered<'a, W> {
    out: W,
    progress: &'a Progress,
    bandwidth: u64,
    since: Instant,
    /// Bytes since then.
    bytes: u64,
}

impl<W: Write> Write for Metered<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            if self.progress.cancel.load(Ordering::Acquire) {
                return Err(io::Error::other("cancelled"));
            }
            let due = Duration::from_secs_f64(self.bytes as f64 / self.bandwidth.max(1) as f64);
            let early = due.saturating_sub(self.since.elapsed());
            if self.bandwidth == 0 || early.is_zero() {
                break;
            }
            std::thread::sleep(early.min(NAP));
        }
        let n = self.out.write(buf)?;
        self.bytes += n as u64;
        self.progress.sent.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn host(source: io::Error) -> MachineError {
    MachineError::Host { what: "sending the machine", source }
}

/// Stops recording the guest's writes, however the migration ends.
struct Recording<'m>(&'m Machine);

impl<'m> Recording<'m> {
    fn start(machine: &'m Machine) -> Result<Self, MachineError> {
        let ran = machine.stop();
        let started = || {
            machine.blocks.iter().for_each(|b| b.dirty().start(DirtyClient::Migration));
            let recording = Self(machine);
            match machine.partition().dirty_log() {
                Some(log) => log.enable(true)?,
                // Pages that are already open for fast stores are not seen; a fresh state closes them.
                None => machine.set_cpu_states(machine.cpu_states()?)?,
            }
            Ok(recording)
        };
        let result = started();
        if ran {
            machine.start();
        }
        result
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.0.partition().dirty_log()
            && let Err(e) = log.enable(false)
        {
            tracing::warn!("{e}");
        }
        self.0.blocks.iter().for_each(|b| b.dirty().stop(DirtyClient::Migration));
        // Devices whose rings others serve took them back for this, and see to that whenever the machine starts.
        if self.0.stop() {
            self.0.start();
        }
    }
}

/// Pages written since the last call, by block, and their bytes.
fn take_dirty(machine: &Machine) -> Result<(Vec<DirtyPages>, u64), MachineError> {
    if let Some(log) = machine.partition().dirty_log() {
        log.sync()?;
    }
    let take = |b: &Arc<RamBlock>| b.take_dirty(DirtyClient::Migration, 0, b.size());
    let all: Vec<DirtyPages> = machine.blocks.iter().map(take).collect();
    let bytes = all.iter().map(DirtyPages::count).sum::<u64>() * PAGE_SIZE;
    Ok((all, bytes))
}

/// Sends these pages, which belong to the machine's blocks in order.
fn round<W: Write>(
    machine: &Machine,
    w: &mut Writer<Metered<'_, W>>,
    dirty: &[DirtyPages],
    progress: &Progress,
) -> Result<(), MachineError> {
    for (b, pages) in machine.blocks.iter().zip(dirty).filter(|(_, p)| !p.is_empty()) {
        let sent = || {
            progress.pages.fetch_add(1, Ordering::Relaxed);
            let left = progress.remaining.load(Ordering::Relaxed).saturating_sub(PAGE_SIZE);
            progress.remaining.store(left, Ordering::Relaxed);
        };
        w.section(&format!("ram+:{}", b.name()), |p| ram::write_dirty(b, pages, p, sent)).map_err(host)?;
    }
    Ok(())
}

/// Sends the machine. `stop` is called when the guest has to stand, and returns the name of the run state that it leaves;
/// after that it stands, whatever happens: the caller lets it go on if the other end does not take over.
pub fn send<W: Write>(
    machine: &Machine,
    out: W,
    limits: Limits,
    progress: &Progress,
    stop: impl FnOnce() -> Result<String, MachineError>,
) -> Result<W, MachineError> {
    let total: u64 = machine.blocks.iter().map(|b| b.size()).sum();
    progress.total.store(total, Ordering::Relaxed);
    progress.remaining.store(total, Ordering::Relaxed);
    let metered = Metered { out, progress, bandwidth: limits.bandwidth, since: Instant::now(), bytes: 0 };
    let mut w = Writer::new(metered).map_err(host)?;
    write_board(machine, &mut w).map_err(host)?;
    let recording = Recording::start(machine)?;
    progress.rounds.store(1, Ordering::Relaxed);
    let begun = Instant::now();
    let before = progress.sent.load(Ordering::Relaxed);
    for b in &machine.blocks {
        w.section(&format!("ram:{}", b.name()), |p| ram::write_all(b, p)).map_err(host)?;
        progress.pages.fetch_add(b.size() / PAGE_SIZE, Ordering::Relaxed);
        progress.remaining.fetch_sub(b.size(), Ordering::Relaxed);
    }
    w.flush().map_err(host)?;
    let sent = (progress.sent.load(Ordering::Relaxed) - before) as f64;
    let rate = sent / begun.elapsed().as_secs_f64().max(1e-3);
    let small = (rate * limits.downtime.as_secs_f64()) as u64;
    let (mut dirty, mut bytes) = take_dirty(machine)?;
    for _ in 1..MAX_ROUNDS {
        progress.remaining.store(bytes, Ordering::Relaxed);
        if bytes <= small || !machine.is_running() {
            break;
        }
        progress.rounds.fetch_add(1, Ordering::Relaxed);
        round(machine, &mut w, &dirty, progress)?;
        let last = bytes;
        (dirty, bytes) = take_dirty(machine)?;
        if bytes >= last {
            // No nearer than a round ago: more of them will not help.
            break;
        }
    }
    let stood = Instant::now();
    let run_state = stop()?;
    machine.stop();
    round(machine, &mut w, &dirty, progress)?;
    let (dirty, bytes) = take_dirty(machine)?;
    progress.remaining.store(bytes, Ordering::Relaxed);
    progress.rounds.fetch_add(1, Ordering::Relaxed);
    round(machine, &mut w, &dirty, progress)?;
    drop(recording);
    state::write(machine, &mut w, host)?;
    w.section("state", |p| p.write_all(run_state.as_bytes())).map_err(host)?;
    let metered = w.end().map_err(host)?;
    progress.remaining.store(0, Ordering::Relaxed);
    progress.downtime_ms.store(stood.elapsed().as_millis() as u64, Ordering::Relaxed);
    Ok(metered.out)
}

/// Receives a machine into one of the same board that has not run. Returns the run state that it had and the input, of which
/// nothing behind the machine has been read. After an error the machine must not run.
pub fn receive<R: Read>(
    machine: &Machine,
    input: R,
    progress: &Progress,
) -> Result<(String, R), MachineError> {
    let mut all = Collected::new(machine);
    let mut reader = Reader::new(input)?;
    while reader.section(|name, body| {
        if progress.cancel.load(Ordering::Acquire) {
            return Err(bad(name, "cancelled"));
        }
        let (block, whole) = match (name.strip_prefix("ram:"), name.strip_prefix("ram+:")) {
            (Some(block), _) => (block, true),
            (_, Some(block)) => (block, false),
            _ => return all.take(machine, name, body),
        };
        let b = if whole {
            let b = all.ram(machine, name, block)?;
            b.fill(0, b.size(), 0)?;
            b
        } else {
            let b = machine.blocks.iter().find(|b| b.name() == block && all.has_ram(block));
            b.ok_or_else(|| bad(name, "does not belong to this machine"))?
        };
        ram::runs(name, b.size(), body, |offset, data| {
            progress.pages.fetch_add((data.len() as u64).div_ceil(PAGE_SIZE), Ordering::Relaxed);
            progress.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            Ok(b.write(offset, data)?)
        })
    })? {}
    let state = all.finish(machine)?;
    state.apply(machine)?;
    let run_state = state.run_state.ok_or_else(|| bad("state", "is missing"))?;
    Ok((run_state, reader.into_inner()))
}
