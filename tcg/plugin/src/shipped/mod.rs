//! Plugins that are always there, by their names.

mod count;
mod hot_blocks;
mod memory_trace;

use crate::options::{Arguments, Wanted};
use crate::{Host, Plugin, PluginError};

type Make = fn(&Host, &mut Arguments<'_>) -> Result<Box<dyn Plugin>, PluginError>;

/// Name, arguments, what makes it.
const ALL: [(&str, &str, Make); 3] = [
    ("count", count::KEYS, count::make),
    ("hotblocks", hot_blocks::KEYS, hot_blocks::make),
    ("memtrace", memory_trace::KEYS, memory_trace::make),
];

/// Their names.
pub(crate) const NAMES: &str = "count, hotblocks, memtrace";

/// The plugin of that name; `None` if there is none.
pub(crate) fn make(w: &Wanted, host: &Host) -> Option<Result<Box<dyn Plugin>, PluginError>> {
    let (name, keys, make) = ALL.iter().find(|p| p.0 == w.file)?;
    let mut arguments = Arguments { plugin: name, left: w.arguments.clone() };
    let made = make(host, &mut arguments);
    Some(made.and_then(|p| arguments.end(keys).map(|()| p)))
}
