//! `hotblocks`: which blocks of guest code were executed most often.
//!
//! Blocks are known by the address of their first instruction. The code behind one address may be translated in pieces of
//! different lengths; the longest is shown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::options::Arguments;
use crate::{Host, Plugin, PluginError, Request, Unit};

pub(super) const KEYS: &str = "top=NUMBER";

/// Blocks in one allocation, and most allocations.
const CHUNK: usize = 4096;
const CHUNKS: usize = 256;

#[derive(Default)]
struct Block {
    address: AtomicU64,
    insns: AtomicUsize,
    times: AtomicU64,
}

struct HotBlocks {
    host: Host,
    top: usize,
    /// Numbers by address.
    known: Mutex<HashMap<u64, usize>>,
    /// Blocks by number. They never move.
    chunks: Box<[OnceLock<Box<[Block]>>]>,
    /// Blocks there was no room for.
    lost: AtomicU64,
}

pub(super) fn make(host: &Host, a: &mut Arguments<'_>) -> Result<Box<dyn Plugin>, PluginError> {
    let top = a.number("top")?.unwrap_or(20) as usize;
    let chunks = (0..CHUNKS).map(|_| OnceLock::new()).collect();
    Ok(Box::new(HotBlocks {
        host: host.clone(),
        top,
        known: Mutex::default(),
        chunks,
        lost: AtomicU64::new(0),
    }))
}

impl HotBlocks {
    fn block(&self, number: usize) -> Option<&Block> {
        self.chunks.get(number / CHUNK)?.get()?.get(number % CHUNK)
    }

    /// The number of the block at `address`.
    fn number(&self, address: u64, insns: usize) -> Option<usize> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let next = known.len();
        let number = match known.get(&address) {
            Some(n) => *n,
            None if next < CHUNK * CHUNKS => {
                known.insert(address, next);
                self.chunks[next / CHUNK].get_or_init(|| (0..CHUNK).map(|_| Block::default()).collect());
                next
            }
            None => return None,
        };
        let block = self.block(number)?;
        block.address.store(address, Relaxed);
        block.insns.fetch_max(insns, Relaxed);
        Some(number)
    }
}

impl Plugin for HotBlocks {
    fn translated(&self, unit: &mut Unit<'_>) {
        for range in unit.blocks().to_vec() {
            let Some(first) = unit.insns().get(range.start) else { continue };
            match self.number(first.address, range.len()) {
                Some(n) => unit.ask(range.start, Request::Call { id: 0, data: n as u64 }),
                None => drop(self.lost.fetch_add(1, Relaxed)),
            }
        }
    }

    fn executed(&self, _: u32, _: u32, data: u64) {
        if let Some(b) = self.block(data as usize) {
            b.times.fetch_add(1, Relaxed);
        }
    }

    fn forked(&self) {
        for b in self.chunks.iter().filter_map(OnceLock::get).flatten() {
            b.times.store(0, Relaxed);
        }
    }

    fn finished(&self) {
        let mut all: Vec<(u64, u64, usize)> = self
            .chunks
            .iter()
            .filter_map(OnceLock::get)
            .flatten()
            .map(|b| (b.times.load(Relaxed), b.address.load(Relaxed), b.insns.load(Relaxed)))
            .filter(|b| b.0 != 0)
            .collect();
        all.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut text = format!("{} blocks\n{:>18} {:>12} {:>5}\n", all.len(), "address", "times", "insns");
        for (times, address, insns) in all.iter().take(self.top) {
            text.push_str(&format!("{:>18} {times:>12} {insns:>5}\n", format!("{address:#x}")));
        }
        let lost = self.lost.load(Relaxed);
        if lost != 0 {
            text.push_str(&format!("{lost} more blocks were not counted\n"));
        }
        self.host.print(&text);
    }
}
