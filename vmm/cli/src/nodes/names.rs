//! File names and dotted keys as options of nodes: `file=json:{...}`, `encrypt.key-secret=ID`, `fat:DIRECTORY`.

use anyhow::{Result, anyhow, bail};
use block_formats::Name;
use serde_json::{Map, Value, json};

use super::{Graph, drivers};

/// Deepest nesting of dotted keys: a chain of backing files is not described much deeper.
const MAX_DEPTH: usize = 32;

/// Puts `a.b.c = value` into nested objects.
pub(crate) fn nest(map: &mut Map<String, Value>, path: &str, value: Value) -> Result<()> {
    let parts: Vec<&str> = path.split('.').collect();
    let (Some((last, outer)), true) = (parts.split_last(), parts.len() <= MAX_DEPTH) else {
        bail!("key '{path}' is nested deeper than {MAX_DEPTH} levels")
    };
    let mut map = map;
    for part in outer {
        let inner = map.entry(*part).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = inner else { bail!("'{part}' is both a value and a group of keys") };
        map = inner;
    }
    if map.get(*last).is_some_and(Value::is_object) && !value.is_object() {
        bail!("'{path}' is both a value and a group of keys");
    }
    map.insert((*last).to_owned(), value);
    Ok(())
}

/// An object whose keys may be dotted, nested.
fn nested(object: Map<String, Value>) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    for (key, value) in object {
        let value = match value {
            Value::Object(inner) => Value::Object(nested(inner)?),
            other => other,
        };
        match (out.get_mut(&key), value) {
            (Some(Value::Object(there)), Value::Object(more)) => complete(there, more)?,
            (_, value) => nest(&mut out, &key, value)?,
        }
    }
    Ok(out)
}

/// The leaves below a key, dotted, as texts.
pub(super) fn flatten(key: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&format!("{key}.{k}"), v, out)),
        Value::String(text) => out.push((key.to_owned(), text.clone())),
        Value::Bool(on) => out.push((key.to_owned(), if *on { "on" } else { "off" }.to_owned())),
        other => out.push((key.to_owned(), other.to_string())),
    }
}

/// Adds what is not there yet.
pub(super) fn complete(map: &mut Map<String, Value>, more: Map<String, Value>) -> Result<()> {
    for (key, value) in more {
        match (map.get_mut(&key), value) {
            (None, value) => drop(map.insert(key, value)),
            (Some(Value::Object(there)), Value::Object(more)) => complete(there, more)?,
            (Some(there), Value::Object(_)) if key == "file" => {
                bail!("'file' is given twice: {there} and by a name")
            }
            (Some(_), _) if key == "filename" => bail!("'filename' is given twice"),
            (Some(_), _) => {}
        }
    }
    Ok(())
}

/// Whether the options of a backing file say something of it, but not where it is.
pub(super) fn is_partial(map: &Map<String, Value>) -> bool {
    ["driver", "file", "filename", "dir"].iter().all(|k| !map.contains_key(*k))
}

impl Graph {
    /// The options of the node that a file name stands for; its format is found out if nobody says it.
    pub(super) fn named(
        &self,
        name: &str,
        format: Option<&str>,
        read_only: bool,
    ) -> Result<Map<String, Value>> {
        let mut map = Map::new();
        if let Some(text) = name.strip_prefix("json:") {
            let value: Value =
                serde_json::from_str(text).map_err(|e| anyhow!("json: no JSON object: {e}"))?;
            let Value::Object(object) = value else { bail!("json: expected a JSON object") };
            map = nested(object)?;
            if map.contains_key("driver") || format.is_some() {
                return Ok(map);
            }
        } else if let Some(directory) =
            Name::parse(name).ok().filter(|n| n.format.as_deref() == Some("vvfat"))
        {
            map.insert("dir".into(), directory.path.into());
            map.extend(directory.keys.into_iter().map(|(k, v)| (k, v.into())));
            map.insert("driver".into(), "vvfat".into());
            return Ok(map);
        } else {
            map.insert("file".into(), json!({"driver": "file", "filename": name}));
        }
        let format = match format {
            Some(format) => format,
            None => drivers::probe(self, name, read_only)?,
        };
        map.insert("driver".into(), format.into());
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("an object") };
        map
    }

    #[test]
    fn names_are_options() {
        let g = Graph::new(true);
        let map = g
            .named(r#"json:{"driver":"qcow2","file.driver":"file","file":{"filename":"x"}}"#, None, true)
            .unwrap();
        assert_eq!(map, object(json!({"driver": "qcow2", "file": {"driver": "file", "filename": "x"}})));
        let map = g.named("fat:rw:16:/d", None, false).unwrap();
        assert_eq!(map, object(json!({"driver": "vvfat", "dir": "/d", "rw": "on", "fat-type": "16"})));
        let map = g.named("x", Some("qcow"), true).unwrap();
        assert_eq!(map, object(json!({"driver": "qcow", "file": {"driver": "file", "filename": "x"}})));
        for bad in ["json:[1]", "json:{", r#"json:{"file":"x","file.driver":"y"}"#] {
            assert!(g.named(bad, None, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_said_counts_more_than_a_name() {
        let mut map = object(json!({"driver": "raw", "file": {"locking": "off"}}));
        complete(&mut map, object(json!({"driver": "qcow2", "file": {"driver": "file", "filename": "x"}})))
            .unwrap();
        assert_eq!(
            map,
            object(json!({"driver": "raw", "file": {"locking": "off", "driver": "file", "filename": "x"}}))
        );
        let again = object(json!({"file": {"filename": "y"}}));
        assert!(complete(&mut map, again).unwrap_err().to_string().contains("twice"));
        let mut deep = Map::new();
        nest(&mut deep, "backing.encrypt.key-secret", "s".into()).unwrap();
        assert_eq!(deep, object(json!({"backing": {"encrypt": {"key-secret": "s"}}})));
        assert!(
            nest(&mut deep, "backing", 1.into()).is_err()
                && nest(&mut deep, "backing.encrypt.key-secret.x", 1.into()).is_err()
        );
    }
}
