//! Groups of keys: the one description that command line, INI and JSON arguments share.

use super::build::{Builder, Stop};
use super::keyval::{Item, split};
use crate::config::{ConfigError, Props};
use crate::value::{parse_bool, parse_number, parse_size};
use serde_json::Value;

/// What a key's value must look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A switch.
    Bool,
    /// A number.
    Number,
    /// A size; the factor of a bare number.
    Size(u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Something with parts, each of whose keys begins with this one's name and a dot.
    Parts,
}

impl Kind {
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Text | Self::Parts => "a text".into(),
            Self::Bool => "on or off".into(),
            Self::Number => "a number".into(),
            Self::Size(_) => "a size (a number with an optional suffix K, M, G, T, P or E)".into(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
        }
    }

    fn accepts(self, value: &str) -> bool {
        match self {
            Self::Text | Self::Parts => true,
            Self::Bool => parse_bool(value).is_some(),
            Self::Number => parse_number(value).is_some(),
            Self::Size(unit) => parse_size(value, unit).is_some(),
            Self::Word(words) => words.contains(&value),
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

pub(crate) const fn text(name: &'static str) -> Key {
    Key { name, kind: Kind::Text }
}

pub(crate) const fn switch(name: &'static str) -> Key {
    Key { name, kind: Kind::Bool }
}

pub(crate) const fn number(name: &'static str) -> Key {
    Key { name, kind: Kind::Number }
}

pub(crate) const fn size(name: &'static str) -> Key {
    Key { name, kind: Kind::Size(1) }
}

pub(crate) const fn word(name: &'static str, words: &'static [&'static str]) -> Key {
    Key { name, kind: Kind::Word(words) }
}

/// A group: an option's argument, and a section of an INI file.
pub(crate) struct Group {
    /// Section name.
    pub(crate) name: &'static str,
    /// Key of a first item that has none.
    pub(crate) implied: Option<&'static str>,
    /// Known keys.
    pub(crate) keys: &'static [Key],
    /// Other keys are taken too: they belong to a board, a device or a driver, which judges them.
    pub(crate) open: bool,
    /// Whether a JSON object may stand for the list.
    pub(crate) json: bool,
    /// Puts the values into the configuration.
    pub(crate) apply: fn(&mut Builder, &mut Values) -> Result<(), Stop>,
}

/// Checked values of one use of a group, in order.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(crate) what: &'static str,
    items: Vec<(String, Value)>,
    units: Vec<(&'static str, u64)>,
}

impl Group {
    /// Parses an argument.
    pub(crate) fn parse(&self, argument: &str) -> Result<Values, ConfigError> {
        if self.json && argument.starts_with('{') {
            return self.parse_json(argument);
        }
        let mut pairs = Vec::new();
        for item in split(argument)? {
            match item {
                Item::Pair(key, value) => pairs.push((key, value)),
                Item::Bare(word, first) => pairs.push(self.bare(word, first)?),
            }
        }
        self.check(pairs.into_iter().map(|(k, v)| (k, Value::String(v))).collect())
    }

    /// Parses a list in which no key is implied.
    pub(crate) fn parse_plain(&self, list: &str) -> Result<Values, ConfigError> {
        let mut pairs = Vec::new();
        for item in split(list)? {
            match item {
                Item::Pair(key, value) => pairs.push((key, value)),
                Item::Bare(word, _) => pairs.push(self.bare(word, false)?),
            }
        }
        self.check(pairs.into_iter().map(|(k, v)| (k, Value::String(v))).collect())
    }

    /// A word without `=`.
    fn bare(&self, word: String, first: bool) -> Result<(String, String), ConfigError> {
        let is_switch = |name: &str| self.keys.iter().any(|k| k.name == name && matches!(k.kind, Kind::Bool));
        if word == "help" || word == "?" {
            // Kept as a key of its own: `-device x,help` is a question about x.
            if !first || self.implied.is_none() {
                return Ok(("help".into(), "on".into()));
            }
        }
        if let (true, Some(implied)) = (first, self.implied) {
            return Ok((implied.into(), word));
        }
        if is_switch(&word) {
            return Ok((word, "on".into()));
        }
        if let Some(name) = word.strip_prefix("no").filter(|n| is_switch(n)) {
            return Ok((name.into(), "off".into()));
        }
        if let Some(key) = self.keys.iter().find(|k| k.name == word) {
            return Err(ConfigError::Syntax(format!(
                "'{word}' needs a value: expected {}",
                key.kind.expected()
            )));
        }
        if self.open {
            // An unknown switch of a device or a board: `x` is `x=on`.
            return Ok((word, "on".into()));
        }
        match self.keys.iter().find(|k| k.name == word) {
            Some(key) => {
                Err(ConfigError::Syntax(format!("'{word}' needs a value: expected {}", key.kind.expected())))
            }
            None => Err(self.unknown(&word)),
        }
    }

    fn parse_json(&self, argument: &str) -> Result<Values, ConfigError> {
        match serde_json::from_str::<Value>(argument) {
            Ok(Value::Object(map)) => self.check(map.into_iter().collect()),
            Ok(_) => Err(ConfigError::Syntax("expected a JSON object".into())),
            Err(e) => Err(ConfigError::Syntax(format!("JSON: {e}"))),
        }
    }

    /// Checks keys and values against the table.
    pub(crate) fn check(&self, items: Vec<(String, Value)>) -> Result<Values, ConfigError> {
        let mut units = Vec::new();
        for (name, value) in &items {
            match self.keys.iter().find(|k| k.name == name) {
                Some(key) => {
                    if let Value::String(s) = value
                        && !key.kind.accepts(s)
                        && s != "help"
                    {
                        return Err(ConfigError::bad(name, s, key.kind.expected()));
                    }
                    if let Kind::Size(unit) = key.kind {
                        units.push((key.name, unit));
                    }
                }
                None if self.open || name == "help" => {}
                None => return Err(self.unknown(name)),
            }
        }
        Ok(Values { what: self.name, items, units })
    }

    fn unknown(&self, key: &str) -> ConfigError {
        ConfigError::unknown(format!("{} key", self.name), key, self.keys.iter().map(|k| k.name))
    }
}

impl Key {
    fn fits(&self, name: &str) -> bool {
        let is_part = || name.strip_prefix(self.name).is_some_and(|rest| rest.starts_with('.'));
        self.name == name || matches!(self.kind, Kind::Parts) && is_part()
    }

    /// Its type in the words of QMP.
    pub(crate) fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Text | Kind::Word(_) => "string",
            Kind::Bool => "bool",
            Kind::Number => "int",
            Kind::Size(_) => "size",
            Kind::Parts => "list",
        }
    }

    /// The key with the form of its value, for help texts.
    pub(crate) fn usage(&self) -> String {
        match self.kind {
            Kind::Text => format!("{}=TEXT", self.name),
            Kind::Bool => format!("{}=on|off", self.name),
            Kind::Number => format!("{}=N", self.name),
            Kind::Size(_) => format!("{}=SIZE", self.name),
            Kind::Word(words) => format!("{}={}", self.name, words.join("|")),
            Kind::Parts => format!("{}.KEY=TEXT", self.name),
        }
    }
}

impl Values {
    /// Checks the items against another table of keys: those of a type within a family.
    pub(crate) fn check_keys(&self, what: &str, keys: &[Key]) -> Result<(), ConfigError> {
        for (name, value) in &self.items {
            let Some(key) = keys.iter().find(|k| k.fits(name)) else {
                return Err(ConfigError::unknown(format!("{what} key"), name, keys.iter().map(|k| k.name)));
            };
            if let Value::String(s) = value
                && !key.kind.accepts(s)
            {
                return Err(ConfigError::bad(name, s, key.kind.expected()));
            }
        }
        Ok(())
    }

    /// Takes the last value of a key as text; earlier ones are overridden.
    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        let mut last = None;
        self.items.retain_mut(|(k, v)| {
            let hit = k == key;
            if hit {
                last = Some(v.take());
            }
            !hit
        });
        let mut one = Props::new();
        if let Some(v) = last {
            one.insert(key, v);
        }
        one.take_text(key)
    }

    /// As [`Self::text`], and it has to be there.
    pub(crate) fn needed(&mut self, key: &str) -> Result<String, ConfigError> {
        match self.text(key)? {
            Some(t) if !t.is_empty() => Ok(t),
            _ => Err(ConfigError::missing(self.what, key)),
        }
    }

    pub(crate) fn bool(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.convert(key, Kind::Bool, parse_bool)
    }

    pub(crate) fn number(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.convert(key, Kind::Number, parse_number)
    }

    /// A number that fits `T`.
    pub(crate) fn small<T: TryFrom<u64>>(&mut self, key: &str) -> Result<Option<T>, ConfigError> {
        match self.number(key)? {
            None => Ok(None),
            Some(n) => {
                let bits = 8 * size_of::<T>();
                T::try_from(n)
                    .map(Some)
                    .map_err(|_| ConfigError::bad(key, n.to_string(), format!("a number of {bits} bits")))
            }
        }
    }

    pub(crate) fn size(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        let unit = self.units.iter().find(|(k, _)| *k == key).map_or(1, |(_, u)| *u);
        self.convert(key, Kind::Size(unit), |s| parse_size(s, unit))
    }

    fn convert<T>(
        &mut self,
        key: &str,
        kind: Kind,
        f: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.text(key)? {
            None => Ok(None),
            Some(t) => f(&t).map(Some).ok_or_else(|| ConfigError::bad(key, t, kind.expected())),
        }
    }

    /// Whether `help` was asked for.
    pub(crate) fn help(&mut self) -> bool {
        let n = self.items.len();
        self.items.retain(|(k, _)| k != "help");
        n != self.items.len()
    }

    /// What has not been taken, as properties; the last of several values counts.
    pub(crate) fn rest(&mut self) -> Props {
        std::mem::take(&mut self.items).into_iter().collect()
    }

    /// What has not been taken, in order.
    pub(crate) fn rest_in_order(&mut self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.items)
    }

    /// Turns nested objects, as JSON has them, into dotted keys.
    pub(crate) fn flatten(&mut self) {
        fn add(out: &mut Vec<(String, Value)>, key: String, value: Value) {
            match value {
                Value::Object(map) => map.into_iter().for_each(|(k, v)| add(out, format!("{key}.{k}"), v)),
                other => out.push((key, other)),
            }
        }
        let mut flat = Vec::new();
        std::mem::take(&mut self.items).into_iter().for_each(|(k, v)| add(&mut flat, k, v));
        self.items = flat;
    }

    /// Looks at a key without taking it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.items.iter().any(|(k, _)| k == key)
    }

    /// Appends an item.
    pub(crate) fn push(&mut self, key: &str, value: &str) {
        self.items.push((key.to_owned(), Value::String(value.to_owned())));
    }
}
