//! What a guest prints and what we type: expect a text within a time, answer it.
//!
//! A thread reads all the time, so a guest never blocks on a full pipe. Each `expect` looks at what came after
//! the previous match.

use std::{
    io::{self, Read, Write},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// Bytes kept at most; a guest that floods its console is cut off rather than filling our memory.
const LIMIT: usize = 16 << 20;
/// Bytes shown in a failure.
const TAIL: usize = 3000;

/// Both directions of a console.
pub struct Console {
    arrivals: Receiver<Vec<u8>>,
    writer: Box<dyn Write + Send>,
    seen: Vec<u8>,
    /// Where the last match ended.
    position: usize,
    closed: bool,
}

impl Console {
    /// A console that reads and writes these ends.
    pub fn new(mut reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Self {
        let (sender, arrivals) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pseudo-terminal whose other end closed reports an error rather than an end of file.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Console { arrivals, writer: Box::new(writer), seen: Vec::new(), position: 0, closed: false }
    }

    /// Types `text`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }

    /// Takes in what arrives within `time`.
    pub fn pump(&mut self, time: Duration) {
        if self.closed {
            thread::sleep(time);
            return;
        }
        match self.arrivals.recv_timeout(time) {
            Ok(bytes) if self.seen.len() < LIMIT => self.seen.extend_from_slice(&bytes),
            Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => self.closed = true,
        }
    }

    /// Waits for `pattern` and returns what came before it since the last match.
    ///
    /// # Errors
    /// What was expected and the end of what came instead, when the time passes or the console closes.
    pub fn expect(&mut self, pattern: &str, timeout: Duration) -> Result<String, String> {
        self.expect_any(&[pattern], timeout).map(|(_, before)| before)
    }

    /// Waits for the first of several patterns; returns its index and what came before it.
    ///
    /// # Errors
    /// As [`Console::expect`].
    pub fn expect_any(&mut self, patterns: &[&str], timeout: Duration) -> Result<(usize, String), String> {
        let deadline = Instant::now() + timeout;
        loop {
            let fresh = &self.seen[self.position..];
            let hit = patterns
                .iter()
                .enumerate()
                .filter_map(|(index, pattern)| Some((find(fresh, pattern.as_bytes())?, index)))
                .min();
            if let Some((at, index)) = hit {
                let before = String::from_utf8_lossy(&fresh[..at]).into_owned();
                self.position += at + patterns[index].len();
                return Ok((index, before));
            }
            let now = Instant::now();
            if self.closed || now >= deadline {
                let how = if self.closed { "the console closed" } else { "the time passed" };
                return Err(format!(
                    "expected {patterns:?}, {how} ({timeout:?}); it printed:\n{}",
                    self.tail()
                ));
            }
            self.pump((deadline - now).min(Duration::from_millis(100)));
        }
    }

    /// The rest of the line after the last match.
    ///
    /// # Errors
    /// As [`Console::expect`].
    pub fn rest_of_line(&mut self, timeout: Duration) -> Result<String, String> {
        self.expect("\n", timeout).map(|line| line.trim().to_owned())
    }

    /// Whether the other end is gone and all it sent is taken in.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// All that came so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// The end of what came so far.
    pub fn tail(&self) -> String {
        String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(TAIL)..]).into_owned()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn matches_go_forward_and_name_the_first() {
        let mut console = Console::new(io::Cursor::new(b"one two three one\n".to_vec()), io::sink());
        assert_eq!(console.expect_any(&["three", "two"], SOON), Ok((1, "one ".to_owned())));
        assert_eq!(console.expect("one", SOON), Ok(" three ".to_owned()));
        assert!(console.expect("one", SOON).unwrap_err().contains("the console closed"));
    }
}
