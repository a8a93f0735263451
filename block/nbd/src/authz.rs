//! Who may use a server: the name in a client's certificate against one name, or against a list of rules (QEMU's manual, "Client
//! authorization": `authz-simple`, `authz-list`, `authz-list-file`).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Kinds of objects that say who may.
pub const AUTHZ_KINDS: [&str; 3] = ["authz-simple", "authz-list", "authz-list-file"];

/// How a rule names its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Exact,
    Glob,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    pattern: String,
    allow: bool,
    format: Format,
}

/// The first rule that fits decides, else `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List {
    allow: bool,
    rules: Vec<Rule>,
}

/// Says who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authz(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Simple(String),
    List(List),
    /// Read again for every client.
    File(PathBuf),
}

fn word<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{key}={other}: expected text")),
    }
}

fn known(map: &Map<String, Value>, keys: &[&str]) -> Result<(), String> {
    match map.keys().find(|k| !keys.contains(&k.as_str())) {
        Some(key) => Err(format!("unknown key '{key}'; there are: {}", keys.join(", "))),
        None => Ok(()),
    }
}

fn policy(map: &Map<String, Value>) -> Result<Option<bool>, String> {
    match word(map, "policy")? {
        None => Ok(None),
        Some("allow") => Ok(Some(true)),
        Some("deny") => Ok(Some(false)),
        Some(other) => Err(format!("policy={other}: expected allow or deny")),
    }
}

impl Rule {
    fn parse(value: &Value) -> Result<Self, String> {
        let map = value.as_object().ok_or_else(|| format!("rule {value}: expected match and policy"))?;
        known(map, &["match", "policy", "format"])?;
        let format = match word(map, "format")? {
            None | Some("exact") => Format::Exact,
            Some("glob") => Format::Glob,
            Some(other) => return Err(format!("format={other}: expected exact or glob")),
        };
        let pattern = word(map, "match")?.ok_or("a rule needs match=")?.to_owned();
        let allow = policy(map)?.ok_or("a rule needs policy=")?;
        Ok(Rule { pattern, allow, format })
    }

    fn fits(&self, name: &str) -> bool {
        match self.format {
            Format::Exact => self.pattern == name,
            Format::Glob => glob(self.pattern.as_bytes(), name.as_bytes()),
        }
    }
}

impl List {
    fn parse(map: &Map<String, Value>) -> Result<Self, String> {
        known(map, &["policy", "rules"])?;
        let rules = match map.get("rules") {
            None => Vec::new(),
            Some(Value::Array(rules)) => rules.iter().map(Rule::parse).collect::<Result<_, _>>()?,
            Some(other) => return Err(format!("rules={other}: expected a list")),
        };
        Ok(List { allow: policy(map)?.unwrap_or(false), rules })
    }

    fn read(path: &Path) -> Result<Self, String> {
        let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = std::fs::read(path).map_err(|e| said(&e))?;
        let map: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| said(&e))?;
        Self::parse(&map).map_err(|e| said(&e))
    }

    fn allows(&self, name: &str) -> bool {
        self.rules.iter().find(|r| r.fits(name)).map_or(self.allow, |r| r.allow)
    }
}

/// Whether a pattern of `*` and `?` fits all of `text`. Takes time by the product of the lengths at most.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not fit: one byte further.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Options such as `rules.0.match` as the list that they are parts of.
fn nested(map: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    let mut rules: Vec<Map<String, Value>> = Vec::new();
    let mut parts: Vec<(usize, &str, &Value)> = Vec::new();
    for (key, value) in map {
        match key.strip_prefix("rules.") {
            None => drop(out.insert(key.clone(), value.clone())),
            Some(rest) => {
                let part = rest.split_once('.').and_then(|(n, part)| Some((n.parse().ok()?, part, value)));
                parts.push(part.ok_or_else(|| format!("'{key}': expected rules.NUMBER.KEY"))?);
            }
        }
    }
    parts.sort_by_key(|(n, ..)| *n);
    for (n, key, value) in parts {
        if n == rules.len() {
            rules.push(Map::new());
        }
        let len = rules.len();
        let rule = rules.get_mut(n).filter(|_| n + 1 == len);
        rule.ok_or_else(|| format!("rules.{len} is missing"))?.insert(key.to_owned(), value.clone());
    }
    if !rules.is_empty() {
        out.insert("rules".into(), rules.into_iter().map(Value::Object).collect());
    }
    Ok(out)
}

impl Authz {
    /// One of [`AUTHZ_KINDS`] with its options.
    pub fn parse(kind: &str, options: &Map<String, Value>) -> Result<Self, String> {
        Ok(Authz(match kind {
            "authz-simple" => {
                known(options, &["identity"])?;
                Kind::Simple(word(options, "identity")?.ok_or("needs identity=")?.to_owned())
            }
            "authz-list" => Kind::List(List::parse(&nested(options)?)?),
            "authz-list-file" => {
                known(options, &["filename", "refresh"])?;
                let path = PathBuf::from(word(options, "filename")?.ok_or("needs filename=")?);
                let list = List::read(&path)?;
                match options.get("refresh") {
                    None | Some(Value::Bool(true)) => Kind::File(path),
                    Some(Value::String(on)) if matches!(on.as_str(), "on" | "yes" | "true") => {
                        Kind::File(path)
                    }
                    Some(Value::Bool(false)) => Kind::List(list),
                    Some(Value::String(off)) if matches!(off.as_str(), "off" | "no" | "false") => {
                        Kind::List(list)
                    }
                    Some(other) => return Err(format!("refresh={other}: expected on or off")),
                }
            }
            other => return Err(format!("{other}: there are: {}", AUTHZ_KINDS.join(", "))),
        }))
    }

    /// Whether the client of a name may.
    pub fn allows(&self, name: &str) -> bool {
        match &self.0 {
            Kind::Simple(identity) => identity == name,
            Kind::List(list) => list.allows(name),
            Kind::File(path) => List::read(path).is_ok_and(|list| list.allows(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn authz(kind: &str, options: Value) -> Result<Authz, String> {
        Authz::parse(kind, options.as_object().unwrap())
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let simple = authz("authz-simple", json!({"identity": "O=x,CN=a"})).unwrap();
        assert!(simple.allows("O=x,CN=a") && !simple.allows("O=x,CN=ab"));
        let flat = json!({
            "policy": "allow", "rules.1.match": "*CN=b*", "rules.1.policy": "deny", "rules.1.format": "glob",
            "rules.0.match": "CN=b1", "rules.0.policy": "allow",
        });
        let list = authz("authz-list", flat).unwrap();
        let answers: Vec<bool> =
            ["CN=b1", "CN=b2", "O=x,CN=b", "CN=c"].iter().map(|n| list.allows(n)).collect();
        assert_eq!(answers, [true, false, false, true]);
        let nothing = authz("authz-list", json!({})).unwrap();
        assert!(!nothing.allows("CN=a"), "who is not allowed is denied");
    }

    #[test]
    fn a_file_is_read_for_every_client() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write =
            |policy: &str| std::fs::write(file.path(), format!(r#"{{"policy": "{policy}"}}"#)).unwrap();
        write("allow");
        let options =
            |refresh: bool| json!({"filename": file.path().display().to_string(), "refresh": refresh});
        let (fresh, kept) = (
            authz("authz-list-file", options(true)).unwrap(),
            authz("authz-list-file", options(false)).unwrap(),
        );
        assert!(fresh.allows("a") && kept.allows("a"));
        write("deny");
        assert!(!fresh.allows("a") && kept.allows("a"));
        write("perhaps");
        assert!(!fresh.allows("a"));
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("?b?", "abc", true),
            ("?b?", "ab", false),
            ("**a**b", "xxaxxab", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn bad_options_are_named() {
        for (kind, options, words) in [
            ("authz-simple", json!({}), "identity="),
            ("authz-simple", json!({"identity": "a", "x": "b"}), "'x'"),
            ("authz-list", json!({"policy": "maybe"}), "maybe"),
            ("authz-list", json!({"rules.1.match": "a"}), "rules.0"),
            ("authz-list", json!({"rules.x": "a"}), "rules.x"),
            ("authz-list", json!({"rules": [{"match": "a"}]}), "policy="),
            ("authz-list-file", json!({"filename": "/nonexistent/x"}), "/nonexistent/x"),
            ("authz-pam", json!({}), "authz-list"),
        ] {
            let e = authz(kind, options).unwrap_err();
            assert!(e.contains(words), "{e}");
        }
    }
}
