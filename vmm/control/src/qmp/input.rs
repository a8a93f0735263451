//! Keyboard, mouse and screen.

use super::QmpError;
use super::commands::{Answer, Arguments, done, text};
use crate::monitor::Control;
use crate::vm::{InputEvent, KeyId};
use serde_json::Value;

/// How long keys stay down if nothing is said, in milliseconds.
pub(crate) const HOLD_MS: u64 = 100;

fn bad(what: &str) -> QmpError {
    QmpError::Generic(what.into())
}

/// `{"type": "qcode", "data": NAME}` or `{"type": "number", "data": NUMBER}`.
fn key(value: &Value) -> Result<KeyId, QmpError> {
    match (value["type"].as_str(), &value["data"]) {
        (Some("qcode"), Value::String(name)) => Ok(KeyId::Name(name.clone())),
        (Some("number"), Value::Number(n)) => {
            let n = n.as_u64().and_then(|n| n.try_into().ok());
            n.map(KeyId::Number).ok_or_else(|| bad("a key's number is from 0 to 0xffffffff"))
        }
        _ => Err(bad("a key is {\"type\": \"qcode\" or \"number\", \"data\": its name or number}")),
    }
}

pub(super) fn send_key(c: &Control, a: &Arguments) -> Answer {
    let keys = a.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let keys = keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let hold = a.get("hold-time").and_then(Value::as_u64).unwrap_or(HOLD_MS);
    done(c.vm.send_keys(&keys, hold)?)
}

fn event(value: &Value) -> Result<InputEvent, QmpError> {
    let data = &value["data"];
    let down = || data["down"].as_bool().ok_or_else(|| bad("an event needs 'down', true or false"));
    match value["type"].as_str() {
        Some("key") => Ok(InputEvent::Key { key: key(&data["key"])?, down: down()? }),
        Some("btn") => {
            let button = data["button"].as_str().ok_or_else(|| bad("a button event needs 'button'"))?;
            Ok(InputEvent::Button { button: button.into(), down: down()? })
        }
        Some("rel") => {
            let by = data["value"].as_i64().and_then(|v| i32::try_from(v).ok());
            let by = by.ok_or_else(|| bad("a movement needs 'value', a number"))?;
            match data["axis"].as_str() {
                Some("x") => Ok(InputEvent::Move { dx: by, dy: 0 }),
                Some("y") => Ok(InputEvent::Move { dx: 0, dy: by }),
                _ => Err(bad("a movement's 'axis' is x or y")),
            }
        }
        Some("abs") => Err(bad("no pointing device with absolute coordinates")),
        _ => Err(bad("an event's 'type' is key, btn or rel")),
    }
}

pub(super) fn send_event(c: &Control, a: &Arguments) -> Answer {
    let events = a.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let events = events.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    done(c.vm.input(&events)?)
}

pub(super) fn screendump(c: &Control, a: &Arguments) -> Answer {
    let format = a.get("format").and_then(Value::as_str).unwrap_or("ppm");
    done(c.vm.screendump(text(a, "filename"), format)?)
}
