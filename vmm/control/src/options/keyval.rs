//! `key=value,key=value` text.
//!
//! `,,` inside a value is one comma. The first item may lack its key when the option has an implied one. An
//! item without `=` further on is a switch: `key` is on, `nokey` is off; which keys are switches is the
//! group's business, so such items come out as [`Item::Bare`].

use crate::config::ConfigError;

/// Longest argument taken, in bytes: far above any real one, and it bounds all work done on it.
pub(crate) const MAX_ARGUMENT: usize = 1 << 20;

/// One item of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// `key=value`.
    Pair(String, String),
    /// A word without `=`; the flag says whether it is the first item.
    Bare(String, bool),
}

/// Splits the text. Keys are not judged here.
pub(crate) fn split(text: &str) -> Result<Vec<Item>, ConfigError> {
    if text.len() > MAX_ARGUMENT {
        return Err(ConfigError::Syntax(format!("argument is longer than {MAX_ARGUMENT} bytes")));
    }
    let mut items = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, tail) = take_item(rest);
        rest = tail;
        let first = items.is_empty();
        match word.split_once('=') {
            // Commas are doubled in values only: a key that holds one is a slip such as `a,,b=c`.
            Some((key, value)) if !key.contains(',') => {
                if key.is_empty() {
                    return Err(ConfigError::Syntax(format!("expected a key before '={value}'")));
                }
                items.push(Item::Pair(key.to_owned(), value.to_owned()));
            }
            _ if word.is_empty() => {
                return Err(ConfigError::Syntax("expected a key, found an empty item".into()));
            }
            _ => items.push(Item::Bare(word, first)),
        }
    }
    Ok(items)
}

/// The first item with its doubled commas folded, and what follows the comma after it.
fn take_item(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(',') {
        word.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                word.push(',');
                rest = after;
            }
            None => return (word, rest),
        }
    }
    word.push_str(rest);
    (word, "")
}

/// Doubles the commas of a value.
#[cfg(test)]
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(k: &str, v: &str) -> Item {
        Item::Pair(k.into(), v.into())
    }

    #[test]
    fn items() {
        for (text, want) in [
            ("", vec![]),
            ("virt", vec![Item::Bare("virt".into(), true)]),
            ("virt,acpi=off", vec![Item::Bare("virt".into(), true), pair("acpi", "off")]),
            ("file=a,,b=c,if=none", vec![pair("file", "a,b=c"), pair("if", "none")]),
            ("a,,b", vec![Item::Bare("a,b".into(), true)]),
            ("a=1,server", vec![pair("a", "1"), Item::Bare("server".into(), false)]),
            ("a=", vec![pair("a", "")]),
            ("a=1,", vec![pair("a", "1")]),
            ("a=,,", vec![pair("a", ",")]),
        ] {
            assert_eq!(split(text), Ok(want), "{text}");
        }
        assert_eq!(split("=x").unwrap_err().to_string(), "expected a key before '=x'");
        assert!(split(&"a".repeat(MAX_ARGUMENT + 1)).is_err());
    }

    #[test]
    fn escaping_is_undone() {
        for value in ["", ",", "a,b", ",,x=", "a=b,,"] {
            let text = format!("k={},l=1", escape(value));
            assert_eq!(split(&text), Ok(vec![pair("k", value), pair("l", "1")]), "{text}");
        }
    }
}
