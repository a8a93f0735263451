//! The file of rules: which bridges users may have.
//!
//! A line is `allow BRIDGE`, `allow all`, `deny BRIDGE`, `deny all`, `include PATH`, or a comment after `#`. What is
//! denied anywhere is denied; what is not allowed anywhere is denied too. A file that is included and cannot be read
//! counts as empty: it may be for other users. A line that is none of these is an error, so that a slip allows nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Files may include files, this deep.
const DEPTH: usize = 8;
/// Longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What the rules say so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    allowed: bool,
    denied: bool,
}

impl Answer {
    /// Whether the bridge may be used.
    pub(crate) fn is_yes(self) -> bool {
        self.allowed && !self.denied
    }
}

/// Asks a file, which must be there, about a bridge.
pub(crate) fn ask(path: &Path, bridge: &str) -> Result<Answer, String> {
    let mut answer = Answer::default();
    read(path, bridge, 0, &mut answer)?;
    Ok(answer)
}

fn read(path: &Path, bridge: &str, depth: usize, answer: &mut Answer) -> Result<(), String> {
    let name = path.display();
    if !path.is_absolute() {
        return Err(format!("{name}: expected an absolute path"));
    }
    let loaded = fs::metadata(path).and_then(|m| {
        if !m.is_file() || m.len() > LONGEST {
            return Err(ErrorKind::InvalidInput.into());
        }
        fs::read_to_string(path)
    });
    let text = match loaded {
        Ok(text) => text,
        Err(e) if depth > 0 && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(());
        }
        Err(e) => {
            return Err(format!(
                "{name}: {e}; it says which bridges are allowed, by lines such as 'allow br0'"
            ));
        }
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (rule, what, more) = (words.next(), words.next(), words.next());
        let fits = |what: &str| what == "all" || what == bridge;
        match (rule, what, more) {
            (None, ..) => {}
            (Some("allow"), Some(what), None) => answer.allowed |= fits(what),
            (Some("deny"), Some(what), None) => answer.denied |= fits(what),
            (Some("include"), Some(file), None) if depth < DEPTH => {
                read(Path::new(file), bridge, depth + 1, answer)?;
            }
            (Some("include"), Some(_), None) => return Err(format!("{name}: includes are nested too deep")),
            _ => {
                let line = number + 1;
                return Err(format!("{name}: line {line}: expected allow, deny or include with one word"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let dir = tempfile::tempdir().unwrap();
        let (main, more) = (dir.path().join("bridge.conf"), dir.path().join("more.conf"));
        let yes = |text: &str, bridge: &str| {
            fs::write(&main, text).unwrap();
            ask(&main, bridge).map(Answer::is_yes)
        };
        for (text, br0, br1) in [
            ("", false, false),
            ("allow br0", true, false),
            ("allow all\ndeny br1", true, false),
            ("deny br1\n\n# x\nallow all # all", true, false),
            ("deny all\nallow br0", false, false),
            ("include /no/such/file\nallow br1", false, true),
        ] {
            assert_eq!((yes(text, "br0"), yes(text, "br1")), (Ok(br0), Ok(br1)), "{text}");
        }
        fs::write(&more, "deny br1").unwrap();
        let including = format!("allow all\ninclude {}", more.display());
        assert_eq!((yes(&including, "br0"), yes(&including, "br1")), (Ok(true), Ok(false)));
        fs::write(&more, format!("include {}", more.display())).unwrap();
        assert!(yes(&including, "br0").unwrap_err().contains("nested too deep"));
        for bad in ["allow", "permit br0", "allow br0 br1", "include relative.conf", "\u{0}"] {
            assert!(yes(bad, "br0").is_err(), "{bad}");
        }
        assert!(ask(&dir.path().join("none"), "br0").unwrap_err().contains("allow br0"));
    }
}
