//! `-readconfig`: sections `[group]` or `[group "id"]` with lines `key = "value"` (QEMU's manual, "-readconfig").
//!
//! `#` starts a comment line. A section is the same as one option with these keys, so nothing is known here
//! that the option table does not know.

use super::build::{Builder, Stop};
use super::table;
use crate::config::ConfigError;
use serde_json::Value;

struct Section<'a> {
    line: usize,
    group: &'a str,
    items: Vec<(String, Value)>,
}

/// Applies a file's text.
pub(crate) fn apply(b: &mut Builder, text: &str) -> Result<(), Stop> {
    let mut section: Option<Section<'_>> = None;
    for (n, line) in text.lines().enumerate() {
        let n = n + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            flush(b, section.take())?;
            section = Some(header(n, head)?);
        } else {
            let current =
                section.as_mut().ok_or_else(|| syntax(n, "a key stands before the first [section]"))?;
            let (key, value) = line.split_once('=').ok_or_else(|| syntax(n, "expected key = \"value\""))?;
            let value = value.trim();
            let value = match value.strip_prefix('"') {
                Some(v) => v.strip_suffix('"').ok_or_else(|| syntax(n, "the value has no closing quote"))?,
                None => value,
            };
            let key = key.trim();
            if key.is_empty() {
                return Err(syntax(n, "expected a key before '='").into());
            }
            current.items.push((key.to_owned(), Value::String(value.to_owned())));
        }
    }
    flush(b, section)
}

fn header(n: usize, head: &str) -> Result<Section<'_>, ConfigError> {
    let head =
        head.strip_suffix(']').ok_or_else(|| syntax(n, "the section header has no closing ']'"))?.trim();
    let (group, id) = match head.split_once(char::is_whitespace) {
        None => (head, None),
        Some((group, rest)) => {
            let id = rest.trim().strip_prefix('"').and_then(|r| r.strip_suffix('"'));
            (group, Some(id.ok_or_else(|| syntax(n, "expected [section \"id\"]"))?))
        }
    };
    let items = id.map(|id| ("id".to_owned(), Value::String(id.to_owned()))).into_iter().collect();
    Ok(Section { line: n, group, items })
}

fn flush(b: &mut Builder, section: Option<Section<'_>>) -> Result<(), Stop> {
    let Some(section) = section else { return Ok(()) };
    let group = table::groups().find(|g| g.name == section.group).ok_or_else(|| {
        ConfigError::unknown(
            format!("line {}: section", section.line),
            section.group,
            table::groups().map(|g| g.name),
        )
    })?;
    let within = |e: ConfigError| Stop::Error(syntax(section.line, &format!("[{}]: {e}", section.group)));
    let mut values = group.check(section.items).map_err(within)?;
    match b.group(group, &mut values) {
        Err(Stop::Error(e)) => Err(within(e)),
        other => other,
    }
}

fn syntax(line: usize, what: &str) -> ConfigError {
    ConfigError::Syntax(format!("line {line}: {what}"))
}
