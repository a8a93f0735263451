//! Names that describe more than a format on a protocol: trees with filters in them, as `--image-opts` and `json:` give them.

use std::sync::Arc;

use block::{BlockError, FileNode};
use block_filters::{Children, ThrottleGroup};
use block_formats::{Image, OpenOptions, Options};
use block_graph::Bare;
use serde_json::{Map, Value};

/// Deepest tree that is opened.
const MAX_DEPTH: u32 = 32;

fn bad(what: impl Into<String>) -> BlockError {
    BlockError::Format { path: "node".into(), what: what.into() }
}

/// The description that a name is, if it has a filter in it.
pub(crate) fn parse(name: &str, keys: bool) -> Result<Option<Map<String, Value>>, BlockError> {
    let map = if keys {
        let mut out = Map::new();
        for (key, value) in Options::parse(name)?.iter() {
            insert(&mut out, key, value.into())?;
        }
        out
    } else {
        let Some(text) = name.strip_prefix("json:") else { return Ok(None) };
        // What is no object is told by whoever opens it.
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { return Ok(None) };
        let mut out = Map::new();
        for (key, value) in object {
            insert(&mut out, &key, value)?;
        }
        out
    };
    Ok(has_filter(&map).then_some(map))
}

fn insert(map: &mut Map<String, Value>, key: &str, value: Value) -> Result<(), BlockError> {
    let Some((outer, inner)) = key.split_once('.') else {
        map.insert(key.into(), value);
        return Ok(());
    };
    match map.entry(outer).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(below) => insert(below, inner, value),
        _ => Err(bad(format!("'{outer}' is both a value and a group of keys"))),
    }
}

fn has_filter(map: &Map<String, Value>) -> bool {
    let own = map.get("driver").and_then(Value::as_str).is_some_and(|d| block_filters::find(d).is_some());
    own || map.values().any(|v| matches!(v, Value::Object(below) if has_filter(below)))
}

struct Resolver<'a> {
    options: &'a OpenOptions,
    depth: u32,
}

impl Children for Resolver<'_> {
    fn child(&mut self, map: &Map<String, Value>, key: &str) -> Result<Arc<dyn Image>, BlockError> {
        let value = map.get(key).ok_or_else(|| bad(format!("needs '{key}'")))?;
        self.item(map, value)
    }

    fn item(&mut self, _: &Map<String, Value>, value: &Value) -> Result<Arc<dyn Image>, BlockError> {
        match value {
            Value::Object(map) => open_at(map, self.options, self.depth + 1),
            Value::String(name) => block_formats::open(name, None, self.options),
            other => Err(bad(format!("{other}: expected a file name or options"))),
        }
    }

    fn group(&mut self, id: &str) -> Result<Arc<ThrottleGroup>, BlockError> {
        Err(bad(format!("throttle-group={id}: there is no such object")))
    }
}

/// Opens a tree.
pub(crate) fn open(map: &Map<String, Value>, options: &OpenOptions) -> Result<Arc<dyn Image>, BlockError> {
    open_at(map, options, 0)
}

fn open_at(
    map: &Map<String, Value>,
    options: &OpenOptions,
    depth: u32,
) -> Result<Arc<dyn Image>, BlockError> {
    if depth > MAX_DEPTH {
        return Err(bad(format!("nodes are nested deeper than {MAX_DEPTH}")));
    }
    let driver = map.get("driver").and_then(Value::as_str).unwrap_or("file");
    if let Some(filter) = block_filters::find(driver) {
        let common = ["driver", "node-name", "read-only", "discard", "cache", "detect-zeroes"];
        let known = |k: &String| common.contains(&k.as_str()) || filter.options.contains(&k.as_str());
        if let Some(key) = map.keys().find(|k| !known(k)) {
            return Err(bad(format!(
                "unknown key '{key}' of {driver}; there are: {}",
                filter.options.join(", ")
            )));
        }
        let node = (filter.make)(&mut Resolver { options, depth }, map)?;
        let name = node.info().name;
        return Ok(Arc::new(Bare::new(node, filter.name, name)));
    }
    // A file is its bytes here: what they are is said by the driver above.
    if depth > 0
        && driver == "file"
        && let Some(Value::String(path)) = map.get("filename")
    {
        let file = FileNode::open(path, options.file())?;
        return Ok(Arc::new(Bare::new(Arc::new(file), "file", path)));
    }
    match map.get("file") {
        Some(Value::Object(file)) if has_filter(file) => {
            if let Some(key) =
                map.keys().find(|k| !["driver", "file", "node-name", "read-only"].contains(&k.as_str()))
            {
                return Err(bad(format!("key '{key}' does not go with a filter below")));
            }
            let child = open_at(file, options, depth + 1)?;
            let name = child.filename().to_owned();
            block_formats::open_node(child, &name, Some(driver), options)
        }
        _ => block_formats::open(&format!("json:{}", Value::Object(map.clone())), None, options),
    }
}
