//! Migration.

use super::QmpError;
use super::commands::{Answer, Arguments, done};
use crate::handed;
use crate::monitor::Control;
use crate::vm::{MigrationLimits, VmError};
use serde_json::{Value, json};

/// Capabilities that clients know, and whether ours can be switched at all. Events are always sent.
const CAPABILITIES: [(&str, bool); 10] = [
    ("auto-converge", false),
    ("background-snapshot", false),
    ("dirty-bitmaps", false),
    ("events", true),
    ("late-block-activate", false),
    ("multifd", false),
    ("pause-before-switchover", false),
    ("postcopy-ram", false),
    ("return-path", false),
    ("xbzrle", false),
];

fn generic(text: String) -> QmpError {
    QmpError::Generic(text)
}

/// Where to: `uri`, or the only main channel of `channels`.
fn destination(a: &Arguments) -> Result<String, QmpError> {
    match (a.get("uri").and_then(Value::as_str), a.get("channels").and_then(Value::as_array)) {
        (Some(uri), None) => Ok(uri.to_owned()),
        (None, Some(list)) if list.len() == 1 => channel(&list[0]),
        (None, Some(_)) => Err(generic("'channels' expects one channel".into())),
        _ => Err(generic("expected one of 'uri' and 'channels'".into())),
    }
}

fn channel(c: &Value) -> Result<String, QmpError> {
    let addr = &c["addr"];
    let word = |key: &str| addr[key].as_str().unwrap_or_default();
    let uri = match (word("transport"), word("type")) {
        ("socket", "inet") if word("host").contains(':') => {
            format!("tcp:[{}]:{}", word("host"), word("port"))
        }
        ("socket", "inet") => format!("tcp:{}:{}", word("host"), word("port")),
        ("socket", "unix") => format!("unix:{}", word("path")),
        ("socket", "fd") => format!("fd:{}", word("str")),
        ("file", _) => format!("file:{},offset={}", word("filename"), addr["offset"].as_u64().unwrap_or(0)),
        _ => {
            return Err(generic("channel 'addr' expects transport socket (inet, unix or fd) or file".into()));
        }
    };
    Ok(uri)
}

/// Goes to where the arguments say, which may be a file that the client has handed over before (`fd:NAME`).
fn with_handed(c: &Control, a: &Arguments, go: impl FnOnce(&str) -> Result<(), VmError>) -> Answer {
    let uri = destination(a)?;
    let name = uri.strip_prefix("fd:").filter(|name| name.parse::<u32>().is_err());
    match name.map(|name| c.handed.take(name)) {
        None => done(go(&uri)?),
        Some(file) => {
            let file = file.map_err(generic)?;
            done(go(&format!("fd:{}", handed::number(&file)))?)
        }
    }
}

pub(super) fn migrate(c: &Control, a: &Arguments) -> Answer {
    if a.get("resume").and_then(Value::as_bool) == Some(true) {
        return Err(generic("'resume' is for postcopy, which is not offered".into()));
    }
    with_handed(c, a, |uri| c.vm.migrate(uri))
}

pub(super) fn incoming(c: &Control, a: &Arguments) -> Answer {
    with_handed(c, a, |uri| c.vm.migrate_incoming(uri))
}

pub(super) fn query(c: &Control, _: &Arguments) -> Answer {
    let m = c.vm.migration();
    let Some(status) = m.status else { return Ok(json!({})) };
    let mut v = json!({"status": status});
    if let Some(e) = &m.error {
        v["error-desc"] = e.clone().into();
    }
    if !m.incoming {
        v["total-time"] = m.total_ms.into();
        v["setup-time"] = 0.into();
        if status == "completed" {
            v["downtime"] = m.downtime_ms.into();
        } else {
            v["expected-downtime"] = c.vm.migration_limits().downtime_ms.into();
        }
        let mbps = m.transferred as f64 * 8.0 / 1000.0 / m.total_ms.max(1) as f64;
        v["ram"] = json!({
            "transferred": m.transferred, "remaining": m.remaining, "total": m.total, "duplicate": 0,
            "normal": m.pages, "normal-bytes": m.pages * 4096, "dirty-pages-rate": 0, "mbps": mbps,
            "dirty-sync-count": m.rounds, "postcopy-requests": 0, "page-size": 4096, "multifd-bytes": 0,
            "pages-per-second": m.pages * 1000 / m.total_ms.max(1), "precopy-bytes": m.transferred,
            "downtime-bytes": 0, "postcopy-bytes": 0, "dirty-sync-missed-zero-copy": 0,
        });
    }
    Ok(v)
}

pub(super) fn query_capabilities(_: &Control, _: &Arguments) -> Answer {
    Ok(CAPABILITIES.iter().map(|(n, on)| json!({"capability": n, "state": on})).collect())
}

pub(super) fn set_capabilities(_: &Control, a: &Arguments) -> Answer {
    for one in a.get("capabilities").and_then(Value::as_array).into_iter().flatten() {
        let name = one["capability"].as_str().unwrap_or_default();
        let Some(state) = one["state"].as_bool() else {
            return Err(generic(format!("capability '{name}': 'state' expects true or false")));
        };
        match CAPABILITIES.iter().find(|(n, _)| *n == name) {
            None => return Err(generic(format!("capability '{name}' is not known"))),
            Some(("events", _)) => {}
            Some(_) if state => return Err(generic(format!("capability '{name}' is not offered"))),
            Some(_) => {}
        }
    }
    done(())
}

pub(super) fn query_parameters(c: &Control, _: &Arguments) -> Answer {
    let l = c.vm.migration_limits();
    Ok(json!({"max-bandwidth": l.max_bandwidth, "downtime-limit": l.downtime_ms}))
}

pub(super) fn set_parameters(c: &Control, a: &Arguments) -> Answer {
    let old = c.vm.migration_limits();
    let number = |key: &str, old: u64| a.get(key).and_then(Value::as_u64).unwrap_or(old);
    let downtime_ms = number("downtime-limit", old.downtime_ms);
    if downtime_ms > 2_000_000 {
        return Err(generic("argument 'downtime-limit' expects at most 2000000 milliseconds".into()));
    }
    c.vm.set_migration_limits(MigrationLimits {
        max_bandwidth: number("max-bandwidth", old.max_bandwidth),
        downtime_ms,
    });
    done(())
}
