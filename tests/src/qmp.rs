//! A client of the machine protocol: JSON lines over a UNIX socket.
//!
//! Source: QEMU's "QMP protocol specification": a greeting, `qmp_capabilities`, then commands, each answered by
//! `return` or `error`, with events in between.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::boot::STEP;

/// A connection past its greeting.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    greeting: Value,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects, as soon as the socket is there, and negotiates.
    ///
    /// # Errors
    /// One line with what failed.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, String> {
        let deadline = Instant::now() + timeout;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(format!("{}: {error}", path.display()));
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(timeout)).map_err(|error| error.to_string())?;
        let mut qmp = Qmp { stream: BufReader::new(stream), greeting: Value::Null, events: VecDeque::new() };
        qmp.greeting = qmp.receive()?;
        if qmp.greeting["QMP"]["version"].is_null() {
            return Err(format!("expected a greeting, got {}", qmp.greeting));
        }
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// What the server said first.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// Runs a command (`arguments` null for none) and returns its value.
    ///
    /// # Errors
    /// The server's error as `class: description`, or what broke the connection.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let stream = self.stream.get_mut();
        stream
            .write_all(format!("{request}\r\n").as_bytes())
            .map_err(|error| format!("{command}: {error}"))?;
        loop {
            let mut answer = self.receive()?;
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else if let Some(error) = answer.get("error") {
                return Err(format!("{}: {}", error["class"].as_str().unwrap_or("?"), error["desc"]));
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Waits for an event of this name and returns it; others that come before it are dropped.
    ///
    /// # Errors
    /// What broke the connection, or that no such event came in time.
    pub fn event(&mut self, name: &str) -> Result<Value, String> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.receive().map_err(|error| format!("event {name}: {error}"))?,
            };
            if event["event"] == name {
                return Ok(event);
            }
        }
    }

    fn receive(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("the connection closed".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{error}: {line:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A machine that is controlled by QMP alone, and ends with this.
pub struct Controlled {
    process: Child,
    /// Its monitor.
    pub qmp: Qmp,
}

impl Drop for Controlled {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Controlled {
    /// `process` has a monitor at `socket`, or will have soon.
    ///
    /// # Panics
    /// When there is none.
    pub fn new(process: Child, socket: &Path) -> Self {
        let qmp = Qmp::connect(socket, STEP).expect("a monitor");
        Self { process, qmp }
    }

    /// What a command returns.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&mut self, command: &str, arguments: Value) -> Value {
        self.qmp.execute(command, arguments).unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    /// A command fails, and its error holds `words`.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn refused(&mut self, command: &str, arguments: Value, words: &str) {
        let e = self.qmp.execute(command, arguments).expect_err(command);
        assert!(e.contains(words), "{command}: {e}");
    }
    /// Tells it to end, and waits until it has.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn end(&mut self) {
        let _ = self.qmp.execute("quit", Value::Null);
        self.process.wait().expect("a process of ours");
    }
}
