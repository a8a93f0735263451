//! Names that describe more than a format on a protocol: trees with filters in them, as `--image-opts` and `json:` give them.

use std::cell::RefCell;
use std::sync::Arc;

use block::{BlockError, FileNode};
use block_filters::{Breakpoints, Children, ThrottleGroup};
use block_formats::{Image, OpenOptions, Options};
use block_graph::Bare;
use serde_json::{Map, Value};

use crate::args::Args;
use crate::error::ToolError;
use crate::objects;

/// Deepest tree that is opened.
const MAX_DEPTH: u32 = 32;

/// What nodes share, and what the command that opens them wants to know of them.
#[derive(Default)]
pub(crate) struct Context {
    /// Groups of limits, by id.
    pub(crate) groups: Vec<(String, Arc<ThrottleGroup>)>,
    /// Breakpoints of the nodes that have been opened.
    pub(crate) breakpoints: RefCell<Vec<Arc<Breakpoints>>>,
}

impl Context {
    /// What a command line gives.
    pub(crate) fn of(args: &Args) -> Result<Self, ToolError> {
        Ok(Context { groups: objects::throttle_groups(args)?, ..Context::default() })
    }
}

fn bad(what: impl Into<String>) -> BlockError {
    BlockError::Format { path: "node".into(), what: what.into() }
}

/// The description that a name is, if it has a filter in it.
pub(crate) fn parse(name: &str, keys: bool) -> Result<Option<Map<String, Value>>, BlockError> {
    let map = if let (false, Some(rest)) = (keys, name.strip_prefix("blkdebug:")) {
        // A file of rules, which may be left out, and the image.
        let Some((config, file)) = rest.split_once(':') else {
            return Err(bad(format!("{name}: expected blkdebug:[RULES]:FILE")));
        };
        let mut map = Map::new();
        map.insert("driver".into(), "blkdebug".into());
        if !config.is_empty() {
            map.insert("config".into(), config.into());
        }
        map.insert("image".into(), serde_json::json!({"driver": "file", "filename": file}));
        map
    } else if keys {
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
    context: &'a Context,
    options: &'a OpenOptions,
    depth: u32,
    /// The first child that has a key of its own.
    first: Option<Arc<dyn Image>>,
}

impl Children for Resolver<'_> {
    fn child(&mut self, map: &Map<String, Value>, key: &str) -> Result<Arc<dyn Image>, BlockError> {
        let value = map.get(key).ok_or_else(|| bad(format!("needs '{key}'")))?;
        let child = self.item(map, value)?;
        self.first.get_or_insert_with(|| child.clone());
        Ok(child)
    }

    fn item(&mut self, _: &Map<String, Value>, value: &Value) -> Result<Arc<dyn Image>, BlockError> {
        match value {
            Value::Object(map) => open_at(map, self.options, self.context, self.depth + 1),
            Value::String(name) => block_formats::open(name, None, self.options),
            other => Err(bad(format!("{other}: expected a file name or options"))),
        }
    }

    fn group(&mut self, id: &str) -> Result<Arc<ThrottleGroup>, BlockError> {
        let found = self.context.groups.iter().find(|(name, _)| name == id).map(|(_, group)| group.clone());
        found.ok_or_else(|| bad(format!("throttle-group={id}: there is no such object")))
    }

    fn breakpoints(&mut self, points: &Arc<Breakpoints>) {
        self.context.breakpoints.borrow_mut().push(points.clone());
    }
}

/// Opens a tree.
pub(crate) fn open(
    map: &Map<String, Value>,
    options: &OpenOptions,
    context: &Context,
) -> Result<Arc<dyn Image>, BlockError> {
    open_at(map, options, context, 0)
}

fn open_at(
    map: &Map<String, Value>,
    options: &OpenOptions,
    context: &Context,
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
        let mut children = Resolver { context, options, depth, first: None };
        let node = (filter.make)(&mut children, map)?;
        let bare = Bare::new(node.clone(), filter.name, node.info().name);
        return Ok(match children.first {
            Some(below) => Arc::new(bare.over(below)),
            None => Arc::new(bare),
        });
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
            let child = open_at(file, options, context, depth + 1)?;
            let name = child.filename().to_owned();
            block_formats::open_node(child, &name, Some(driver), options)
        }
        _ => block_formats::open(&format!("json:{}", Value::Object(map.clone())), None, options),
    }
}
