//! `-plugin [file=]NAME[,key=value...]`, with doubled commas for commas.

use crate::PluginError;

/// A plugin to load, and its arguments as they were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) file: String,
    pub(crate) arguments: Vec<(String, String)>,
}

/// Splits at commas that are not doubled.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

impl Wanted {
    pub(crate) fn parse(text: &str) -> Result<Self, PluginError> {
        let mut parts = split(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let file = first.strip_prefix("file=").unwrap_or(&first).to_owned();
        if file.is_empty() || first.starts_with("arg=") {
            return Err(PluginError::NoFile);
        }
        let mut arguments = Vec::new();
        for part in parts.filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((&part, "on"));
            // The older form of QEMU's: arg="key=value".
            let (key, value) = match key {
                "arg" => value.split_once('=').unwrap_or((value, "on")),
                _ => (key, value),
            };
            if key.is_empty() {
                return Err(PluginError::Argument { plugin: file, problem: format!("'{part}' has no key") });
            }
            arguments.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { file, arguments })
    }
}

/// Arguments that a plugin takes one by one; what is left then is wrong.
pub(crate) struct Arguments<'a> {
    pub(crate) plugin: &'a str,
    pub(crate) left: Vec<(String, String)>,
}

impl Arguments<'_> {
    fn wrong(&self, key: &str, value: &str, expected: &str) -> PluginError {
        let problem = format!("{key}: expected {expected}, got '{value}'");
        PluginError::Argument { plugin: self.plugin.to_owned(), problem }
    }

    fn take(&mut self, key: &str) -> Option<String> {
        // The last one counts.
        let at = self.left.iter().rposition(|(k, _)| k == key)?;
        let (_, value) = self.left.remove(at);
        self.left.retain(|(k, _)| k != key);
        Some(value)
    }

    /// A number, decimal or hexadecimal.
    pub(crate) fn number(&mut self, key: &str) -> Result<Option<u64>, PluginError> {
        let Some(v) = self.take(key) else { return Ok(None) };
        let n = v.strip_prefix("0x").map_or_else(|| v.parse(), |hex| u64::from_str_radix(hex, 16));
        n.map(Some).map_err(|_| self.wrong(key, &v, "a number"))
    }

    /// `on` or `off`.
    pub(crate) fn switch(&mut self, key: &str) -> Result<bool, PluginError> {
        match self.take(key).as_deref() {
            None | Some("off") => Ok(false),
            Some("on") => Ok(true),
            Some(v) => Err(self.wrong(key, v, "on or off")),
        }
    }

    /// Refuses what nobody took.
    pub(crate) fn end(self, known: &str) -> Result<(), PluginError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err(PluginError::Argument {
                plugin: self.plugin.to_owned(),
                problem: format!("no argument '{key}'; there are: {known}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_command_line() {
        let w = Wanted::parse("file=/a,,b/x.so,top=3,on,arg=k=v=w").unwrap();
        assert_eq!(w.file, "/a,b/x.so");
        let pairs: Vec<_> = w.arguments.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("top", "3"), ("on", "on"), ("k", "v=w")]);
        assert_eq!(Wanted::parse("count").unwrap().file, "count");
        for bad in ["", "file=", ",x=y", "count,=3"] {
            assert!(Wanted::parse(bad).is_err(), "{bad}");
        }
    }
}
