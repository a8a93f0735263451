//! QMP: the JSON monitor for programs (QEMU's manual, "QEMU Machine Protocol Specification").
//!
//! [`Session`] is a state machine from bytes to bytes; `crate::monitor` connects it to a chardev. Out-of-band
//! execution is not offered.

mod backends;
mod base64;
mod block;
mod commands;
mod input;
mod jobs;
pub(crate) mod json;
mod migrate;
mod schema;
#[cfg(test)]
mod tests;

pub(crate) use input::HOLD_MS;
pub use jobs::Jobs;

use crate::monitor::{Control, Session as Monitor};
use crate::vm::{Event, VmError};
use json::{Piece, Splitter};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use thiserror::Error;

/// Version of QEMU whose protocol this is, as told in the greeting: clients choose by it what to ask for.
pub const PROTOCOL_VERSION: (u32, u32, u32) = (10, 0, 0);

/// An error as QMP tells it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QmpError {
    /// There is no such command.
    #[error("{0}")]
    CommandNotFound(String),
    /// There is no such device.
    #[error("Device '{0}' not found")]
    DeviceNotFound(String),
    /// The device is not there, or the guest does not use it.
    #[error("{0}")]
    DeviceNotActive(String),
    /// Anything else.
    #[error("{0}")]
    Generic(String),
}

impl QmpError {
    fn class(&self) -> &'static str {
        match self {
            Self::CommandNotFound(_) => "CommandNotFound",
            Self::DeviceNotFound(_) => "DeviceNotFound",
            Self::DeviceNotActive(_) => "DeviceNotActive",
            Self::Generic(_) => "GenericError",
        }
    }
}

impl From<VmError> for QmpError {
    fn from(e: VmError) -> Self {
        match e {
            VmError::DeviceNotFound(id) => Self::DeviceNotFound(id),
            VmError::DeviceNotActive(text) => Self::DeviceNotActive(text),
            other => Self::Generic(other.to_string()),
        }
    }
}

/// One client's conversation.
pub struct Session {
    control: Arc<Control>,
    splitter: Splitter,
    pretty: bool,
    /// Capabilities have been negotiated: commands are taken and events sent.
    ready: bool,
    quit: bool,
}

impl Session {
    /// A conversation that has not begun; `pretty` indents what is sent.
    pub fn new(control: Arc<Control>, pretty: bool) -> Self {
        Self { control, splitter: Splitter::default(), pretty, ready: false, quit: false }
    }

    fn send(&self, message: &Value, out: &mut Vec<u8>) {
        let text = if self.pretty { format!("{message:#}") } else { message.to_string() };
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn message(&mut self, bytes: &[u8]) -> Value {
        let mut id = None;
        let result = json::parse(bytes)
            .map_err(|e| QmpError::Generic(format!("JSON: {e}")))
            .and_then(|request| self.request(request, &mut id));
        let mut reply = match result {
            Ok(value) => json!({ "return": value }),
            Err(e) => json!({"error": {"class": e.class(), "desc": e.to_string()}}),
        };
        if let (Some(id), Value::Object(map)) = (id, &mut reply) {
            map.insert("id".into(), id);
        }
        reply
    }

    fn request(&mut self, request: Value, id: &mut Option<Value>) -> Result<Value, QmpError> {
        let generic = |text: &str| QmpError::Generic(text.to_owned());
        let Value::Object(mut request) = request else { return Err(generic("expected a JSON object")) };
        *id = request.remove("id");
        let arguments = match request.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(generic("'arguments' expects an object")),
        };
        let command = match request.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(generic("'execute' expects a string")),
            None if request.contains_key("exec-oob") => return Err(generic("'exec-oob' was not negotiated")),
            None => return Err(generic("'execute' is missing")),
        };
        if let Some(key) = request.keys().next() {
            return Err(generic(&format!("member '{key}' is not known; known: execute, arguments, id")));
        }
        if command == "qmp_capabilities" {
            return self.negotiate(arguments);
        }
        if !self.ready {
            let text = format!("'{command}' has to wait for 'qmp_capabilities', which ends the negotiation");
            return Err(QmpError::CommandNotFound(text));
        }
        let found = commands::find(&command)?;
        found.check(&arguments)?;
        if found.name == "quit" {
            // Left to the caller, so that the answer is on its way before the process ends.
            self.quit = true;
        }
        (found.run)(&self.control, &arguments)
    }

    fn negotiate(&mut self, arguments: Map<String, Value>) -> Result<Value, QmpError> {
        if self.ready {
            return Err(QmpError::CommandNotFound("capabilities are already negotiated".into()));
        }
        for (key, value) in &arguments {
            match value {
                Value::Array(list) if key == "enable" => {
                    if let Some(one) = list.first() {
                        return Err(QmpError::Generic(format!("capability {one} is not offered")));
                    }
                }
                _ => return Err(QmpError::Generic(format!("argument '{key}' is not known; known: enable"))),
            }
        }
        self.ready = true;
        Ok(json!({}))
    }
}

/// The version as QMP tells it.
pub(crate) fn version() -> Value {
    let (major, minor, micro) = PROTOCOL_VERSION;
    json!({
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": concat!("Rhea ", env!("CARGO_PKG_VERSION")),
    })
}

impl Monitor for Session {
    fn opened(&mut self, out: &mut Vec<u8>) {
        self.splitter = Splitter::default();
        self.ready = false;
        self.send(&json!({"QMP": {"version": version(), "capabilities": []}}), out);
    }

    fn input(&mut self, data: &[u8], out: &mut Vec<u8>) {
        for byte in data {
            let reply = match self.splitter.push(*byte) {
                None => continue,
                Some(Piece::Message(bytes)) => self.message(&bytes),
                Some(Piece::Garbage(why)) => {
                    json!({"error": {"class": "GenericError", "desc": format!("JSON: {why}")}})
                }
            };
            self.send(&reply, out);
        }
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.ready {
            self.send(&event.to_json(), out);
        }
    }

    fn wants_quit(&self) -> bool {
        self.quit
    }
}
