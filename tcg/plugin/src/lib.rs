//! Plugins: code that watches a guest through the translator.
//!
//! A plugin ([`Plugin`]) is shown each unit of guest code as it is translated ([`Unit`]) and asks there for what it wants:
//! a call whenever an instruction starts, an addition to a counter, a call for each access to memory. The engine puts that
//! into the unit's IR, so that what nobody asked for costs nothing, and without plugins nothing is there at all.
//!
//! - `unit`: what a plugin sees of a translation, and its requests; `counters`: what requests add to;
//! - `plugins`: all plugins of a partition, as the engine calls them; `options`: `-plugin`;
//! - `shared`: plugins in shared objects, by the C interface of `include/rhea_plugin.h`;
//! - `shipped`: `count`, `hotblocks` and `memtrace`.
//!
//! Instructions are counted and calls made as they *start*: one that faults and is executed again later counts twice, as
//! far as the guest can tell the two apart. Plugins are trusted: they can do whatever Rhea's process can.

mod counters;
mod options;
mod plugins;
mod shared;
mod shipped;
mod unit;

pub use counters::{COUNTERS, Counter, Counters, Tallies};
pub use plugins::{Host, Output, Plugin, PluginError, Plugins};
pub use unit::{Access, Accesses, Insn, Request, Requested, Unit};
