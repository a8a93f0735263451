//! `logfile=`: a copy of everything written.

use super::ChardevError;
use device::{CharBackend, CharControl, CharReceiver};
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;

/// A back end whose output also goes to a file.
pub(super) struct Tee {
    inner: Arc<dyn CharBackend>,
    file: Mutex<File>,
}

impl Tee {
    pub(super) fn new(inner: Arc<dyn CharBackend>, path: &str, append: bool) -> Result<Self, ChardevError> {
        let mut options = OpenOptions::new();
        options.create(true).write(true).append(append).truncate(!append);
        let file =
            options.open(path).map_err(ChardevError::host(format!("cannot open log file '{path}'")))?;
        Ok(Self { inner, file: Mutex::new(file) })
    }
}

impl CharBackend for Tee {
    fn write(&self, data: &[u8]) -> usize {
        let n = self.inner.write(data);
        // A full disk must not stop the guest's console.
        let _ = self.file.lock().write_all(&data[..n]);
        n
    }

    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>) {
        self.inner.set_receiver(receiver);
    }

    fn accept_input(&self) {
        self.inner.accept_input();
    }

    fn control(&self, control: CharControl) {
        self.inner.control(control);
    }

    fn is_open(&self) -> bool {
        self.inner.is_open()
    }

    fn take_files(&self) -> Vec<File> {
        self.inner.take_files()
    }
}
