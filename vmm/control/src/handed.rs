//! Files that clients hand to a monitor with their commands (SCM_RIGHTS), until a command uses them by name.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;

use parking_lot::Mutex;

/// Most files that wait for a name, and most that have one; more are closed.
const LIMIT: usize = 64;

/// The files of a machine's monitors.
#[derive(Default)]
pub(crate) struct Handed(Mutex<Files>);

#[derive(Default)]
struct Files {
    nameless: VecDeque<File>,
    named: BTreeMap<String, File>,
}

impl Handed {
    /// Files have come with the bytes that are read next.
    pub(crate) fn receive(&self, files: Vec<File>) {
        let waiting = &mut self.0.lock().nameless;
        for file in files {
            if waiting.len() < LIMIT {
                waiting.push_back(file);
            }
        }
    }

    /// Gives the file that has waited longest a name; one that had it is closed.
    pub(crate) fn name(&self, name: &str) -> Result<(), String> {
        let all = &mut *self.0.lock();
        let file = all.nameless.pop_front();
        let file = file.ok_or("No file descriptor supplied via SCM_RIGHTS")?;
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("Parameter 'fdname' expects a name not starting with a digit".into());
        }
        if all.named.len() >= LIMIT && !all.named.contains_key(name) {
            return Err(format!(
                "there are {LIMIT} named file descriptors; expected some to be used or closed"
            ));
        }
        all.named.insert(name.to_owned(), file);
        Ok(())
    }

    /// Takes the file of a name.
    pub(crate) fn take(&self, name: &str) -> Result<File, String> {
        let file = self.0.lock().named.remove(name);
        file.ok_or_else(|| format!("File descriptor named '{name}' has not been found"))
    }
}

/// The descriptor's number, under which it is known as long as `file` lives.
#[cfg(unix)]
pub(crate) fn number(file: &File) -> String {
    std::os::fd::AsRawFd::as_raw_fd(file).to_string()
}

/// Nothing can be handed over on this host.
#[cfg(not(unix))]
pub(crate) fn number(_: &File) -> String {
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_names_in_the_order_in_which_they_came() {
        let handed = Handed::default();
        assert!(handed.name("a").unwrap_err().contains("SCM_RIGHTS"));
        let file = || tempfile::tempfile().unwrap();
        handed.receive(vec![file(), file()]);
        assert!(handed.name("1st").unwrap_err().contains("digit"));
        handed.name("a").unwrap();
        assert!(handed.name("b").is_err(), "there were two, and one had no good name");
        assert!(handed.take("a").is_ok());
        assert_eq!(handed.take("a").unwrap_err(), "File descriptor named 'a' has not been found");
        handed.receive((0..2 * LIMIT).map(|_| file()).collect());
        assert_eq!((0..2 * LIMIT).filter(|n| handed.name(&format!("n{n}")).is_ok()).count(), LIMIT);
    }
}
