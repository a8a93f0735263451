//! Free-form properties: the keys whose meaning belongs to a board, a device or an accelerator.
//!
//! The command line can only give text, JSON gives typed values; the readers accept both, so `"4"` and `4`
//! are the same number and `"on"` and `true` the same switch.

use super::ConfigError;
use crate::value::{parse_bool, parse_number, parse_size};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Properties by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Props(BTreeMap<String, Value>);

impl Props {
    /// No properties.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Sets a value; a second one replaces the first.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(key.into(), value.into());
    }

    /// Adds a value to a key that may be given several times; from the second on it is a list.
    pub fn push(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.0.get_mut(key) {
            None => drop(self.0.insert(key.to_owned(), value)),
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// Takes a text out; numbers and switches are spelled as the command line would.
    pub fn take_text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        let text = self.text(key)?.map(Cow::into_owned);
        self.0.remove(key);
        Ok(text)
    }

    /// The value as text.
    pub fn text(&self, key: &str) -> Result<Option<Cow<'_, str>>, ConfigError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(Cow::Borrowed(s))),
            Some(Value::Bool(b)) => Ok(Some(Cow::Borrowed(if *b { "on" } else { "off" }))),
            Some(Value::Number(n)) => Ok(Some(Cow::Owned(n.to_string()))),
            Some(other) => Err(ConfigError::bad(key, other.to_string(), "a text")),
        }
    }

    /// The value as a switch.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.convert(key, "on or off", parse_bool)
    }

    /// The value as a number, decimal or `0x` hexadecimal.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.convert(key, "a number", parse_number)
    }

    /// The value as a size in bytes; a bare number is bytes.
    pub fn size(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.convert(key, "a size (a number with an optional suffix K, M, G, T, P or E)", |s| {
            parse_size(s, 1)
        })
    }

    fn convert<T>(
        &self,
        key: &str,
        expected: &str,
        f: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.text(key)? {
            None => Ok(None),
            Some(text) => f(&text).map(Some).ok_or_else(|| ConfigError::bad(key, &*text, expected)),
        }
    }

    /// Refuses any key that is not in `known`; `what` names the owner, e.g. `machine virt`.
    pub fn check_keys(&self, what: &str, known: &[&str]) -> Result<(), ConfigError> {
        match self.0.keys().find(|k| !known.contains(&k.as_str())) {
            None => Ok(()),
            Some(key) => Err(ConfigError::unknown(format!("{what} property"), key, known.iter().copied())),
        }
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Props {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_typed_values_read_alike() {
        let text = Props::from_iter([("a", "on"), ("n", "0x10"), ("s", "4k")]);
        assert_eq!(
            (text.bool("a"), text.u64("n"), text.size("s")),
            (Ok(Some(true)), Ok(Some(16)), Ok(Some(4096)))
        );
        let typed: Props = serde_json::from_str(r#"{"a":true,"n":16,"s":4096}"#).unwrap();
        assert_eq!(
            (typed.bool("a"), typed.u64("n"), typed.size("s")),
            (Ok(Some(true)), Ok(Some(16)), Ok(Some(4096)))
        );
        assert_eq!(text.u64("absent"), Ok(None));
    }

    #[test]
    fn errors_name_the_key() {
        let p = Props::from_iter([("aclitn", "x")]);
        let e = p.check_keys("machine virt", &["aclint", "acpi"]).unwrap_err().to_string();
        assert_eq!(e, "machine virt property 'aclitn' is not known; did you mean 'aclint'?");
        assert_eq!(p.bool("aclitn").unwrap_err().to_string(), "'aclitn' expects on or off, got 'x'");
    }

    #[test]
    fn repeated_keys_become_lists() {
        let mut p = Props::new();
        for port in ["a", "b", "c"] {
            p.push("hostfwd", port);
        }
        assert_eq!(p.get("hostfwd"), Some(&serde_json::json!(["a", "b", "c"])));
    }
}
