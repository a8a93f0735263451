//! What each group of options does to the configuration, one file a subject.

pub(crate) mod chars;
pub(crate) mod device;
pub(crate) mod log;
pub(crate) mod net;
pub(crate) mod platform;
pub(crate) mod runtime;
pub(crate) mod storage;
pub(crate) mod uri;

use super::build::{Builder, Stop};
use super::group::{Key, Values};
use crate::config::ConfigError;

pub(crate) type Done = Result<(), Stop>;

/// A family of types, each with its own keys.
pub(crate) struct Family {
    pub(crate) what: &'static str,
    pub(crate) members: &'static [(&'static str, &'static [Key])],
}

impl Family {
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.members.iter().map(|(n, _)| *n)
    }

    /// The keys of a type.
    pub(crate) fn keys(&self, name: &str) -> Result<&'static [Key], ConfigError> {
        let found = self.members.iter().find(|(n, _)| *n == name).map(|(_, k)| *k);
        found.ok_or_else(|| ConfigError::unknown(format!("{} type", self.what), name, self.names()))
    }

    /// Checks what is left in `values` against the keys of `name`.
    pub(crate) fn check(&self, name: &str, values: &Values) -> Result<(), ConfigError> {
        let keys = self.keys(name)?;
        values.check_keys(&format!("{} {name}", self.what), keys)
    }

    /// A list of types and their keys.
    pub(crate) fn help(&self) -> String {
        let mut text = format!("Types of {}, with their keys:\n", self.what);
        for (name, keys) in self.members {
            let keys: Vec<String> = keys.iter().map(|k| k.usage()).collect();
            text.push_str(&format!("  {name:<24} {}\n", keys.join(" ")));
        }
        text
    }

    /// Answers `help` when it was asked for in place of a type or as a key.
    pub(crate) fn answer_help(&self, name: &str, values: &mut Values) -> Done {
        if name == "help" || name == "?" || values.help() { Err(Stop::help(self.help())) } else { Ok(()) }
    }
}

/// The builder's error for a word that is not in a list.
pub(crate) fn one_of<'a>(key: &str, value: &'a str, words: &[&str]) -> Result<&'a str, ConfigError> {
    if words.contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::bad(key, value, format!("one of {}", words.join(", "))))
    }
}

impl Builder {
    /// The name that a generated chardev of a monitor gets.
    pub(crate) fn next_monitor_id(&mut self) -> String {
        let n = self.compat_monitors;
        self.compat_monitors += 1;
        format!("compat_monitor{n}")
    }
}
