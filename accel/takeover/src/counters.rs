//! How often the second accelerator took over, and why.

use std::collections::BTreeMap;
use std::fmt::Write;

use parking_lot::Mutex;

/// Reasons that are told apart; the rest is counted together.
const MOST_REASONS: usize = 64;

/// Counters of one partition.
#[derive(Default)]
pub(crate) struct Counters(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    instructions: u64,
    reasons: BTreeMap<String, u64>,
}

impl Counters {
    /// Notes a takeover for `reason` that executed so many instructions. True if it is the first for that reason.
    pub(crate) fn count(&self, reason: &str, instructions: u64) -> bool {
        let mut c = self.0.lock();
        c.instructions += instructions;
        if let Some(n) = c.reasons.get_mut(reason) {
            *n += 1;
            return false;
        }
        let known = c.reasons.len() < MOST_REASONS;
        let reason = if known { reason } else { "others" };
        *c.reasons.entry(reason.to_owned()).or_default() += 1;
        known
    }

    /// The counters as lines of text.
    pub(crate) fn report(&self) -> String {
        let c = self.0.lock();
        let mut text = String::new();
        let all: u64 = c.reasons.values().sum();
        let _ = writeln!(text, "takeovers            {all}, {} instructions", c.instructions);
        let mut reasons: Vec<_> = c.reasons.iter().collect();
        reasons.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        for (reason, n) in reasons {
            let _ = writeln!(text, "  {n:>10}  {reason}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart_up_to_a_bound() {
        let c = Counters::default();
        assert!(c.count("xsave", 2));
        assert!(!c.count("xsave", 3));
        for i in 0..100 {
            c.count(&i.to_string(), 1);
        }
        let report = c.report();
        assert!(report.starts_with("takeovers            102, 105 instructions\n"), "{report}");
        assert!(report.contains("2  xsave\n") && report.contains("37  others\n"), "{report}");
    }
}
