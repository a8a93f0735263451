//! Options of formats: `key=value` lists held against a table, with sizes and switches as in QEMU.

use std::collections::BTreeMap;
use std::fmt::Display;

use block::BlockError;

use crate::crypto::Secrets;
use crate::image::Preallocation;

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes, with suffixes `k` to `E`.
    Size,
    /// A number.
    Number,
    /// `on` or `off`.
    Bool,
    /// Text.
    Text,
}

/// An option a format takes.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// One line of help.
    pub help: &'static str,
}

/// A row of a table of options.
pub(crate) const fn opt(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec { name, kind, help }
}

/// Options that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    map: BTreeMap<String, String>,
    secrets: Secrets,
    /// Do what loses data too.
    pub force: bool,
}

/// An error in an option.
pub fn bad_option(name: &str, value: impl Display, expected: impl Display) -> BlockError {
    BlockError::Format { path: format!("option {name}={value}"), what: format!("expected {expected}") }
}

impl Options {
    /// Takes `a=b,c=d` apart; `,,` is a comma, a bare name is `=on`.
    pub fn parse(text: &str) -> Result<Self, BlockError> {
        let mut options = Options::default();
        options.add(text)?;
        Ok(options)
    }

    /// Adds what [`Options::parse`] finds; later values win.
    pub fn add(&mut self, text: &str) -> Result<(), BlockError> {
        let mut items = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ',' && chars.peek() != Some(&',') {
                items.push(String::new());
                continue;
            }
            if c == ',' {
                chars.next();
            }
            if let Some(item) = items.last_mut() {
                item.push(c);
            }
        }
        for item in items.iter().filter(|i| !i.is_empty()) {
            let (name, value) = item.split_once('=').unwrap_or((item, "on"));
            if name.is_empty() {
                return Err(bad_option(name, value, "a name before ="));
            }
            self.map.insert(name.into(), value.into());
        }
        Ok(())
    }

    /// Gives the secrets that options name by id.
    pub fn set_secrets(&mut self, secrets: &Secrets) {
        self.secrets = secrets.clone();
    }

    /// The secrets that options name by id.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Sets an option.
    pub fn set(&mut self, name: &str, value: impl Display) {
        self.map.insert(name.into(), value.to_string());
    }

    /// Sets an option unless it is there.
    pub fn set_default(&mut self, name: &str, value: impl Display) {
        self.map.entry(name.into()).or_insert_with(|| value.to_string());
    }

    /// Takes an option out.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.map.remove(name)
    }

    /// Whether no option was given.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.map.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Refuses names that are not in `table`, and values of the wrong kind.
    pub fn check(&self, format: &str, table: &[OptionSpec]) -> Result<(), BlockError> {
        for (name, value) in self.iter() {
            let Some(spec) = table.iter().find(|s| s.name == name) else {
                let known: Vec<_> = table.iter().map(|s| s.name).collect();
                return Err(BlockError::Format {
                    path: format!("option {name}"),
                    what: format!("format {format} has no such option; it has: {}", known.join(", ")),
                });
            };
            match spec.kind {
                Kind::Size => self.size(name).map(drop)?,
                Kind::Number => self.number(name).map(drop)?,
                Kind::Bool => self.switch(name).map(drop)?,
                Kind::Text => {}
            }
            let _ = value;
        }
        Ok(())
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.map.get(name).map(String::as_str)
    }

    /// A size in bytes.
    pub fn size(&self, name: &str) -> Result<Option<u64>, BlockError> {
        let value = |v: &str| parse_size(v).ok_or_else(|| bad_option(name, v, "a size such as 64k or 10G"));
        self.text(name).map(value).transpose()
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, BlockError> {
        let value = |v: &str| v.parse().map_err(|_| bad_option(name, v, "a number"));
        self.text(name).map(value).transpose()
    }

    /// A switch.
    pub fn switch(&self, name: &str) -> Result<Option<bool>, BlockError> {
        let value = |v: &str| match v {
            "on" | "yes" | "true" | "y" => Ok(true),
            "off" | "no" | "false" | "n" => Ok(false),
            _ => Err(bad_option(name, v, "on or off")),
        };
        self.text(name).map(value).transpose()
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, BlockError> {
        let value = |v: &str| {
            words.iter().find(|(w, _)| *w == v).map(|(_, t)| *t).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(w, _)| *w).collect();
                bad_option(name, v, format!("one of {}", words.join(", ")))
            })
        };
        self.text(name).map(value).transpose()
    }

    /// The way space is taken.
    pub fn preallocation(&self, can: &[Preallocation]) -> Result<Preallocation, BlockError> {
        let words: Vec<_> = Preallocation::NAMES
            .into_iter()
            .filter(|(_, p)| *p == Preallocation::Off || can.contains(p))
            .collect();
        Ok(self.choice("preallocation", &words)?.unwrap_or_default())
    }
}

/// A size in bytes: a number, perhaps with a fraction, and a suffix `b`, `k`, `M`, `G`, `T`, `P` or `E`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let shift = match suffix {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return None,
    };
    if let Some((whole, fraction)) = number.split_once('.') {
        let whole: u64 = whole.parse().ok()?;
        if fraction.is_empty() || fraction.len() > 18 || fraction.contains('.') || shift == 0 {
            return None;
        }
        let part: u128 = fraction.parse().ok()?;
        let part = (part << shift) / 10u128.pow(fraction.len() as u32);
        return (u128::from(whole) << shift).checked_add(part)?.try_into().ok();
    }
    let value: u64 = number.parse().ok()?;
    value.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lists() {
        assert_eq!(parse_size("64k"), Some(65536));
        assert_eq!(parse_size("1.5G"), Some(3 << 29));
        assert_eq!(parse_size("0x200"), Some(512));
        for bad in ["", "k", "1x", "16E", "1.G", "-1", "1.5"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        let options = Options::parse("a=1,b=x,,y,c").unwrap();
        assert_eq!(options.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "x,y"), ("c", "on")]);
        let table = [opt("a", Kind::Bool, ""), opt("b", Kind::Text, ""), opt("c", Kind::Bool, "")];
        let text = options.check("f", &table).unwrap_err().to_string();
        assert_eq!(text, "option a=1: expected on or off");
        let text = options.check("f", &table[..1]).unwrap_err().to_string();
        assert!(text.contains("expected") || text.contains("no such option"), "{text}");
    }
}
