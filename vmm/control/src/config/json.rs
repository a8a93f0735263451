//! JSON in and out of [`VmConfig`].

use super::{ConfigError, VmConfig};

impl VmConfig {
    /// Reads a configuration from JSON. Unknown keys are refused with the nearest known one.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(text).map_err(|e| explain(&e))?;
        config.validate()?;
        Ok(config)
    }

    /// The configuration as indented JSON.
    pub fn to_json(&self) -> String {
        // Serialising plain data to a string has no way to fail; an empty text would be refused on reading.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// serde names the unknown field and all known ones; we name the nearest.
fn explain(e: &serde_json::Error) -> ConfigError {
    let text = e.to_string();
    let place = format!("line {} column {}", e.line(), e.column());
    for (prefix, what) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        if let Some(rest) = text.strip_prefix(prefix)
            && let Some((name, rest)) = rest.split_once('`')
        {
            let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
            return ConfigError::unknown(format!("JSON {place}: {what}"), name, known);
        }
    }
    ConfigError::Syntax(format!("JSON: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (json, want) in [
            (r#"{"kernle":"x"}"#, "JSON line 1 column 9: key 'kernle' is not known; did you mean 'kernel'?"),
            (r#"{"smp":{"cpu":1}}"#, "JSON line 1 column 13: key 'cpu' is not known; did you mean 'cpus'?"),
            (r#"{"serials":["nope"]}"#, "serial: chardev 'nope' is not known"),
            (r#"{"action":{"reboot":"shutdwn"}}"#, "did you mean 'shutdown'?"),
            ("{", "JSON: EOF while parsing an object at line 1 column 1"),
        ] {
            let e = VmConfig::from_json(json).unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
            assert!(!e.contains('\n'));
        }
    }

    #[test]
    fn the_default_survives() {
        let c = VmConfig::default();
        assert_eq!(VmConfig::from_json(&c.to_json()), Ok(c));
    }
}
