//! File names as users and images write them: paths, `file:PATH` and `json:{...}`.

use std::path::Path;

use block::BlockError;
use serde_json::{Map, Value};

/// What a file name means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Path of the file.
    pub path: String,
    /// Format, if the name says.
    pub format: Option<String>,
    /// Where a raw image starts in the file.
    pub offset: Option<u64>,
    /// Size of a raw image in the file.
    pub size: Option<u64>,
}

fn bad(name: &str, what: String) -> BlockError {
    BlockError::Format { path: name.chars().take(200).collect(), what }
}

impl Name {
    /// Takes a file name apart.
    pub fn parse(name: &str) -> Result<Self, BlockError> {
        if let Some(text) = name.strip_prefix("json:") {
            let value =
                serde_json::from_str(text).map_err(|e| bad(name, format!("not a JSON object: {e}")))?;
            let Value::Object(object) = value else { return Err(bad(name, "expected a JSON object".into())) };
            return Self::from_keys(name, &flatten(&object));
        }
        if let Some(path) = name.strip_prefix("file:") {
            // Two slashes as in URIs stand for nothing.
            let path = path.strip_prefix("//").filter(|p| p.starts_with('/')).unwrap_or(path);
            return Ok(Name { path: path.into(), ..Name::default() });
        }
        if let Some((protocol, _)) = name.split_once(':').filter(|(p, _)| is_protocol(p)) {
            return Err(bad(name, format!("protocol '{protocol}' is not supported; there is: file")));
        }
        Ok(Name { path: name.into(), ..Name::default() })
    }

    /// From `driver=...,file.filename=...` keys, as in `--image-opts`.
    pub fn from_keys(name: &str, keys: &[(String, String)]) -> Result<Self, BlockError> {
        let mut out = Name::default();
        for (key, value) in keys {
            let number =
                || value.parse().map_err(|_| bad(name, format!("{key}={value}: expected a number of bytes")));
            match key.as_str() {
                "driver" if value == "file" => {}
                "driver" => out.format = Some(value.clone()),
                "file.driver" if value == "file" => {}
                "file.driver" => return Err(bad(name, format!("file.driver={value}: expected file"))),
                "filename" | "file.filename" | "file" => out.path = value.clone(),
                "offset" => out.offset = Some(number()?),
                "size" => out.size = Some(number()?),
                "node-name" | "file.node-name" | "read-only" => {}
                _ => {
                    let known = "driver, file.driver, file.filename, offset, size, node-name, read-only";
                    return Err(bad(name, format!("unknown key '{key}'; there are: {known}")));
                }
            }
        }
        if out.path.is_empty() {
            return Err(bad(name, "file.filename is missing".into()));
        }
        Ok(out)
    }
}

fn flatten(object: &Map<String, Value>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (key, value) in object {
        match value {
            Value::Object(inner) => {
                out.extend(flatten(inner).into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            Value::String(text) => out.push((key.clone(), text.clone())),
            other => out.push((key.clone(), other.to_string())),
        }
    }
    out
}

/// Whether what stands before a colon is a protocol, not a part of a path or a drive.
fn is_protocol(prefix: &str) -> bool {
    prefix.len() > 1 && !prefix.contains(['/', '\\'])
}

/// A name found in the image `parent`, which is relative to its folder.
pub fn resolve(parent: &str, name: &str) -> String {
    let protocol = name.split_once(':').is_some_and(|(p, _)| is_protocol(p));
    if protocol || Path::new(name).is_absolute() {
        return name.into();
    }
    match Path::new(parent).parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.join(name).display().to_string(),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Name::parse("a/b").unwrap().path, "a/b");
        assert_eq!(Name::parse("file:a").unwrap().path, "a");
        let n = Name::parse(r#"json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"x"}}"#)
            .unwrap();
        assert_eq!((n.path.as_str(), n.format.as_deref(), n.offset), ("x", Some("raw"), Some(512)));
        let text = Name::parse(r#"json:{"driver":"raw","nonsense":1}"#).unwrap_err().to_string();
        assert!(text.contains("unknown key 'nonsense'"), "{text}");
        assert!(Name::parse("nbd:localhost").unwrap_err().to_string().contains("protocol 'nbd'"));
        assert_eq!(resolve("/d/a.qcow2", "b"), "/d/b");
        assert_eq!(resolve("a.qcow2", "b"), "b");
        assert_eq!(resolve("/d/a.qcow2", "/b"), "/b");
    }
}
