//! Counters of a partition (`-d stats`, `info jit`).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters, all of them totals since the partition was created.
#[derive(Default)]
pub(crate) struct Stats {
    /// By tier.
    pub(crate) units: [AtomicU64; 2],
    /// Made by a second look at hot code.
    pub(crate) hot: AtomicU64,
    /// Taken from an earlier process.
    pub(crate) reused: AtomicU64,
    pub(crate) guest_bytes: AtomicU64,
    pub(crate) guest_insns: AtomicU64,
    pub(crate) host_bytes: AtomicU64,
    pub(crate) translate_ns: AtomicU64,
    pub(crate) links: AtomicU64,
    pub(crate) cache_resets: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) exits: [AtomicU64; crate::vcpu::EXIT_KINDS.len()],
    pub(crate) interpreted: AtomicU64,
    pub(crate) tlb_fills: AtomicU64,
    pub(crate) tlb_flushes: AtomicU64,
}

impl Stats {
    /// One counter a line.
    pub(crate) fn text(&self, live: usize, used: usize, invalidated: u64) -> String {
        let get = |c: &AtomicU64| c.load(Relaxed);
        let secs = get(&self.translate_ns) as f64 / 1e9;
        let mb = get(&self.guest_bytes) as f64 / 1e6;
        let insns = get(&self.guest_insns).max(1);
        let mut t = String::new();
        let rows: [(&str, String); 18] = [
            ("units translated", get(&self.units[0]).to_string()),
            ("units translated again", get(&self.units[1]).to_string()),
            ("units of hot regions", get(&self.hot).to_string()),
            ("units of earlier processes", get(&self.reused).to_string()),
            ("units live", live.to_string()),
            ("units invalidated", invalidated.to_string()),
            ("guest instructions translated", get(&self.guest_insns).to_string()),
            ("guest bytes translated", get(&self.guest_bytes).to_string()),
            ("host bytes generated", get(&self.host_bytes).to_string()),
            (
                "host bytes per guest instruction",
                format!("{:.1}", get(&self.host_bytes) as f64 / insns as f64),
            ),
            ("host bytes live", used.to_string()),
            ("translation time", format!("{secs:.3} s")),
            (
                "translation speed",
                format!("{:.2} MB/s of guest code", if secs > 0.0 { mb / secs } else { 0.0 }),
            ),
            ("links patched", get(&self.links).to_string()),
            ("entries from the loop", get(&self.entries).to_string()),
            ("guest instructions interpreted", get(&self.interpreted).to_string()),
            ("TLB fills", get(&self.tlb_fills).to_string()),
            ("TLB flushes", get(&self.tlb_flushes).to_string()),
        ];
        for (name, value) in rows {
            let _ = writeln!(t, "{name:34} {value}");
        }
        for (name, n) in crate::vcpu::EXIT_KINDS.iter().zip(&self.exits) {
            let _ = writeln!(t, "exits: {name:27} {}", get(n));
        }
        let _ = writeln!(t, "{:34} {}", "code memory emptied", get(&self.cache_resets));
        t
    }
}
