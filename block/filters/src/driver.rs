//! The table of filters, and how their options are taken apart.

use std::sync::Arc;

use block::{BlockError, BlockNode};
use block_formats::{Image, Options};
use serde_json::{Map, Value};

use crate::breakpoints::Breakpoints;
use crate::throttle::ThrottleGroup;
use crate::{blkdebug, blkverify, compress, copy_on_read, log_writes, preallocate, quorum, throttle};

/// What knows the other nodes.
pub trait Children {
    /// The node that an option names or describes in place; `options` are those of the node above.
    fn child(&mut self, options: &Map<String, Value>, key: &str) -> Result<Arc<dyn Image>, BlockError>;

    /// The same for one item of a list.
    fn item(&mut self, options: &Map<String, Value>, value: &Value) -> Result<Arc<dyn Image>, BlockError>;

    /// A group of limits.
    fn group(&mut self, id: &str) -> Result<Arc<ThrottleGroup>, BlockError>;

    /// A node has breakpoints.
    fn breakpoints(&mut self, points: &Arc<Breakpoints>) {
        let _ = points;
    }
}

type Make = fn(&mut dyn Children, &Map<String, Value>) -> Result<Arc<dyn BlockNode>, BlockError>;

/// A filter.
pub struct Driver {
    /// Name in options.
    pub name: &'static str,
    /// Its options besides those that all nodes have.
    pub options: &'static [&'static str],
    /// Makes one.
    pub make: Make,
}

/// All filters, by name.
const DRIVERS: &[Driver] = &[
    Driver { name: "blkdebug", options: blkdebug::OPTIONS, make: blkdebug::make },
    Driver {
        name: "blklogwrites",
        options: &["file", "log", "log-append", "log-sector-size", "log-super-update-interval"],
        make: log_writes::make,
    },
    Driver { name: "blkverify", options: &["test", "raw"], make: blkverify::make },
    Driver { name: "compress", options: &["file"], make: compress::make },
    Driver { name: "copy-on-read", options: &["file", "bottom"], make: copy_on_read::make },
    Driver {
        name: "preallocate",
        options: &["file", "prealloc-align", "prealloc-size"],
        make: preallocate::make,
    },
    Driver {
        name: "quorum",
        options: &["children", "vote-threshold", "blkverify", "rewrite-corrupted", "read-pattern"],
        make: quorum::make,
    },
    Driver { name: "throttle", options: &["file", "throttle-group"], make: throttle::make },
];

/// All filters.
pub fn drivers() -> &'static [Driver] {
    DRIVERS
}

/// The filter of a name.
pub fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|d| d.name == name)
}

/// Options that are neither nodes nor lists, as text.
pub(crate) fn scalars(map: &Map<String, Value>) -> Options {
    let mut out = Options::default();
    for (key, value) in map {
        match value {
            Value::String(s) => out.set(key, s),
            Value::Bool(b) => out.set(key, if *b { "on" } else { "off" }),
            Value::Number(n) => out.set(key, n),
            _ => {}
        }
    }
    out
}

/// The items of a list, given as such or as keys `0`, `1` and so on.
pub(crate) fn items(filter: &str, map: &Map<String, Value>, key: &str) -> Result<Vec<Value>, BlockError> {
    let bad = || wrong(filter, format!("{key}: expected a list"));
    match map.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(Value::Object(object)) => {
            (0..object.len()).map(|i| object.get(&i.to_string()).cloned().ok_or_else(bad)).collect()
        }
        Some(_) => Err(bad()),
    }
}

/// A wrong option.
pub(crate) fn wrong(filter: &str, what: impl Into<String>) -> BlockError {
    BlockError::Format { path: filter.into(), what: what.into() }
}
