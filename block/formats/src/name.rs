//! File names as users and images write them: paths, `file:PATH`, `nbd:...` and other protocols, and `json:{...}`.

use std::path::Path;

use block::{Aio, BlockError, FileOptions, Sharing};
use serde_json::{Map, Value};

use crate::options::bad_option;
use crate::protocol::Protocol;

/// What a file name means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Path of the file; of another protocol, how it is shown.
    pub path: String,
    /// The protocol it is reached by, if it is no file.
    pub protocol: Option<Protocol>,
    /// Format, if the name says.
    pub format: Option<String>,
    /// Where a raw image starts in the file.
    pub offset: Option<u64>,
    /// Size of a raw image in the file.
    pub size: Option<u64>,
    /// How the file is opened, as far as the name says: `aio`, `cache.direct`, `cache.no-flush`, `discard`, `locking`.
    pub how: Vec<(String, String)>,
    /// What else there is for the format: `key-secret` and the like, held against what it knows when it opens.
    pub keys: Vec<(String, String)>,
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
        if let Some(text) = name.strip_prefix("fat:") {
            return Ok(Self::directory(text));
        }
        if let Some((prefix, _)) = name.split_once(':').filter(|(p, _)| is_protocol(p)) {
            let Some(protocol) = Protocol::parse(name)? else {
                let known = Protocol::PREFIXES.join(", ");
                return Err(bad(
                    name,
                    format!("protocol '{prefix}' is not supported; there are: file, {known}"),
                ));
            };
            return Ok(Name { path: protocol.shown()?, protocol: Some(protocol), ..Name::default() });
        }
        Ok(Name { path: name.into(), ..Name::default() })
    }

    /// A directory as a disk: `fat:[floppy:][12:|16:|32:][rw:]DIRECTORY`, the words in any order.
    fn directory(text: &str) -> Self {
        let mut out = Name { format: Some("vvfat".into()), path: text.into(), ..Name::default() };
        while let Some((word, rest)) = out.path.split_once(':') {
            let (key, value) = match word {
                "floppy" | "rw" => (word, "on"),
                "12" | "16" | "32" => ("fat-type", word),
                _ => break,
            };
            out.keys.push((key.into(), value.into()));
            out.path = rest.into();
        }
        out
    }

    /// From `driver=...,file.filename=...` keys, as in `--image-opts`.
    pub fn from_keys(name: &str, keys: &[(String, String)]) -> Result<Self, BlockError> {
        let mut out = Name::default();
        // A protocol's own keys, which are all below `file.`, or all there are.
        let driver = |of: &str| keys.iter().find(|(k, _)| k == of).map(|(_, v)| v.as_str());
        let is_ours = |d: Option<&str>| d.filter(|d| Protocol::DRIVERS.contains(d)).map(str::to_owned);
        let (prefix, protocol) = match (is_ours(driver("driver")), is_ours(driver("file.driver"))) {
            (Some(d), _) => ("", Some(d)),
            (None, d) => ("file.", d),
        };
        let mut own = Vec::new();
        for (key, value) in keys {
            let number =
                || value.parse().map_err(|_| bad(name, format!("{key}={value}: expected a number of bytes")));
            let inner = key.strip_prefix(prefix).filter(|_| protocol.is_some());
            match key.as_str() {
                "node-name" | "file.node-name" | "read-only" | "file.read-only" => {}
                _ if protocol.is_some() && inner == Some("driver") => {}
                _ if inner.is_some() => own.push((inner.unwrap_or_default(), value.as_str())),
                "driver" if value == "file" => {}
                "driver" => out.format = Some(value.clone()),
                "file.driver" if value == "file" => {}
                "file.driver" => {
                    let known = Protocol::DRIVERS.join(", ");
                    return Err(bad(name, format!("file.driver={value}: expected file, {known}")));
                }
                "filename" | "file.filename" | "file" | "dir" => out.path = value.clone(),
                "offset" => out.offset = Some(number()?),
                "size" => out.size = Some(number()?),
                "encrypt.format" | "encrypt.key-secret" | "key-secret" | "header" | "header.filename" => {
                    out.keys.push((key.clone(), value.clone()));
                }
                "fat-type" | "floppy" | "label" | "rw" => out.keys.push((key.clone(), value.clone())),
                "header.driver" if value == "file" => {}
                _ if HOW.contains(&key.strip_prefix("file.").unwrap_or(key)) => {
                    out.how.push((key.strip_prefix("file.").unwrap_or(key).to_owned(), value.clone()));
                }
                _ if key.starts_with("backing.") => out.keys.push((key.clone(), value.clone())),
                _ => {
                    let known = "driver, file.driver, file.filename, offset, size, node-name, read-only, aio, cache.direct, cache.no-flush, discard, locking, and for encrypted images key-secret, encrypt.format, encrypt.key-secret, header.filename, and for vvfat dir, fat-type, floppy, label, rw";
                    return Err(bad(name, format!("unknown key '{key}'; there are: {known}")));
                }
            }
        }
        if let Some(driver) = protocol {
            if prefix.is_empty() {
                out.format = Some("raw".into());
            }
            let protocol = Protocol::from_options(&driver, nested(&own));
            out.path = protocol.shown()?;
            out.protocol = Some(protocol);
        } else if let Some(inner) =
            out.path.split_once(':').filter(|(p, _)| is_protocol(p)).map(|_| &out.path)
            && let Some(protocol) = Protocol::parse(inner)?
        {
            out.path = protocol.shown()?;
            out.protocol = Some(protocol);
        }
        if out.path.is_empty() {
            return Err(bad(name, "file.filename is missing".into()));
        }
        Ok(out)
    }
}

/// Keys that say how the file is opened.
const HOW: &[&str] = &["aio", "cache.direct", "cache.no-flush", "discard", "locking"];

impl Name {
    /// `options` as the name changes them.
    pub(crate) fn file_options(&self, mut options: FileOptions) -> Result<FileOptions, BlockError> {
        for (key, value) in &self.how {
            let switch = || match value.as_str() {
                "on" | "true" | "yes" | "y" => Ok(true),
                "off" | "false" | "no" | "n" => Ok(false),
                _ => Err(bad_option(key, value, "on or off")),
            };
            match key.as_str() {
                "aio" => {
                    let found = Aio::find(value);
                    options.aio =
                        found.ok_or_else(|| bad_option(key, value, "threads, native or io_uring"))?;
                }
                "cache.direct" => options.direct = switch()?,
                "cache.no-flush" => options.unsafe_cache = switch()?,
                "discard" if ["ignore", "unmap"].contains(&value.as_str()) => {
                    options.discard = value == "unmap";
                }
                "discard" => options.discard = switch()?,
                "locking" if value == "auto" => {}
                _ => {
                    if !switch()? {
                        options.sharing = Sharing::Unlocked;
                    }
                }
            }
        }
        Ok(options)
    }
}

/// Keys such as `server.host` as nested objects.
fn nested(keys: &[(&str, &str)]) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in keys {
        let (outer, inner) = key.split_once('.').map_or((*key, None), |(o, i)| (o, Some(i)));
        match inner {
            None => drop(out.insert(outer.into(), (*value).into())),
            Some(inner) => {
                if let Value::Object(map) = out.entry(outer).or_insert_with(|| Value::Object(Map::new())) {
                    map.insert(inner.into(), (*value).into());
                }
            }
        }
    }
    out
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
        let n = Name::parse(r#"json:{"driver":"raw","file":{"driver":"file","filename":"x","aio":"io_uring"},"cache":{"direct":true}}"#)
            .unwrap();
        let how = n.file_options(FileOptions::default()).unwrap();
        assert_eq!((how.aio, how.direct, how.sharing), (Aio::IoUring, true, Sharing::Readers));
        let n = Name::parse(r#"json:{"driver":"raw","file.filename":"x","file.aio":"fast"}"#).unwrap();
        let text = n.file_options(FileOptions::default()).unwrap_err().to_string();
        assert_eq!(text, "option aio=fast: expected threads, native or io_uring");
        let text = Name::parse(r#"json:{"driver":"raw","nonsense":1}"#).unwrap_err().to_string();
        assert!(text.contains("unknown key 'nonsense'"), "{text}");
        assert!(Name::parse("ssh:localhost").unwrap_err().to_string().contains("protocol 'ssh'"));
        for name in [
            "nbd://h:1/e",
            r#"json:{"driver":"qcow2","file":{"driver":"nbd","server":{"type":"inet","host":"h","port":"1"},"export":"e"}}"#,
            r#"json:{"driver":"nbd","host":"h","port":"1","export":"e"}"#,
            r#"json:{"driver":"raw","file.filename":"nbd://h:1/e"}"#,
        ] {
            assert_eq!(Name::parse(name).unwrap().path, "nbd://h:1/e", "{name}");
        }
        let text = Name::parse(r#"json:{"driver":"nbd","hots":"h"}"#).unwrap_err().to_string();
        assert!(text.contains("unknown option 'hots'"), "{text}");
        assert_eq!(resolve("/d/a.qcow2", "b"), "/d/b");
        assert_eq!(resolve("a.qcow2", "b"), "b");
        assert_eq!(resolve("/d/a.qcow2", "/b"), "/b");
    }
}
