//! Network and character back ends and objects that come and go.

use super::QmpError;
use super::commands::{Answer, Arguments, done, text};
use crate::config::ConfigError;
use crate::handed;
use crate::monitor::Control;
use crate::options::fragment;
use crate::vm::{Announcement, RxState};
use serde_json::{Map, Value, json};

fn generic(e: ConfigError) -> QmpError {
    QmpError::Generic(e.to_string())
}

pub(super) fn netdev_add(c: &Control, a: &Arguments) -> Answer {
    let mut a = a.clone();
    // Descriptors by the names that the client gave them; the back end has copies of its own.
    let mut files = Vec::new();
    for key in ["fd", "fds", "vhostfd", "vhostfds"] {
        let Some(value) = a.get(key).and_then(Value::as_str) else { continue };
        let mut numbers = Vec::new();
        for name in value.split(':') {
            if name.parse::<u32>().is_ok() {
                numbers.push(name.to_owned());
            } else {
                let file = c.handed.take(name).map_err(QmpError::Generic)?;
                numbers.push(handed::number(&file));
                files.push(file);
            }
        }
        a.insert(key.into(), numbers.join(":").into());
    }
    let config = fragment("netdev", a).map_err(generic)?;
    config.netdevs.iter().try_for_each(|n| c.vm.netdev_add(n))?;
    done(())
}

pub(super) fn set_link(c: &Control, a: &Arguments) -> Answer {
    let Some(up) = a.get("up").and_then(Value::as_bool) else {
        return Err(QmpError::Generic("argument 'up' expects true or false".into()));
    };
    done(c.vm.set_link(text(a, "name"), up)?)
}

pub(super) fn announce_self(c: &Control, a: &Arguments) -> Answer {
    // QEMU's bounds of the same numbers of migrations.
    let number = |name: &str, most: u64| {
        let n = a.get(name).and_then(Value::as_u64).filter(|n| (1..=most).contains(n));
        n.ok_or_else(|| QmpError::Generic(format!("argument '{name}' expects a number from 1 to {most}")))
    };
    let names = a.get("interfaces").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let how = Announcement {
        initial: number("initial", 100_000)?,
        max: number("max", 100_000)?,
        rounds: number("rounds", 1000)?,
        step: number("step", 10_000)?,
        interfaces: names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    };
    done(c.vm.announce_self(&how)?)
}

pub(super) fn query_rx_filter(c: &Control, a: &Arguments) -> Answer {
    let state = |s: RxState| match s {
        RxState::Normal => "normal",
        RxState::None => "none",
        RxState::All => "all",
    };
    let only = a.get("name").and_then(Value::as_str);
    let all = c.vm.rx_filters();
    let list: Vec<Value> = all
        .iter()
        .filter(|f| only.is_none_or(|n| n == f.name))
        .map(|f| {
            let ([multicast, unicast, vlan], [groups, cards]) = (f.states.map(state), f.overflow);
            json!({
                "name": f.name, "promiscuous": f.promiscuous, "multicast": multicast, "unicast": unicast,
                "vlan": vlan, "broadcast-allowed": f.broadcast, "multicast-overflow": groups,
                "unicast-overflow": cards, "main-mac": f.mac, "multicast-table": f.tables[0],
                "unicast-table": f.tables[1], "vlan-table": f.vlans,
            })
        })
        .collect();
    match only.filter(|_| list.is_empty()) {
        Some(name) => Err(QmpError::Generic(format!("invalid net client name: {name}"))),
        None => Ok(list.into()),
    }
}

pub(super) fn object_add(c: &Control, a: &Arguments) -> Answer {
    let config = fragment("object", a.clone()).map_err(generic)?;
    config.objects.iter().try_for_each(|o| c.vm.object_add(o))?;
    done(())
}

pub(super) fn chardev_add(c: &Control, a: &Arguments) -> Answer {
    let mut keys = chardev_keys(a.get("backend").unwrap_or(&Value::Null))?;
    keys.insert("id".into(), text(a, "id").into());
    let config = fragment("chardev", keys).map_err(generic)?;
    let mut answer = json!({});
    for chardev in &config.chardevs {
        if let Some(pty) = c.vm.chardev_add(chardev)? {
            answer["pty"] = pty.into();
        }
    }
    Ok(answer)
}

/// QAPI's form of a character back end, `{"type": T, "data": {...}}`, as keys of `-chardev`.
fn chardev_keys(backend: &Value) -> Result<Map<String, Value>, QmpError> {
    let bad = |what: &str| QmpError::Generic(format!("argument 'backend' expects {what}"));
    let Value::Object(backend) = backend else { return Err(bad("an object")) };
    let kind = backend.get("type").and_then(Value::as_str).ok_or_else(|| bad("a 'type'"))?;
    let mut keys = Map::from_iter([("backend".to_owned(), Value::from(kind))]);
    let empty = Map::new();
    let data = match backend.get("data") {
        None => &empty,
        Some(Value::Object(data)) => data,
        Some(_) => return Err(bad("'data' to be an object")),
    };
    for (name, value) in data {
        match (name.as_str(), value) {
            ("addr" | "remote", Value::Object(_)) => address(&mut keys, value, ["host", "port"])?,
            ("local", Value::Object(_)) => address(&mut keys, value, ["localaddr", "localport"])?,
            ("out" | "device", _) => drop(keys.insert("path".into(), value.clone())),
            ("in", _) => drop(keys.insert("input-path".into(), value.clone())),
            _ => drop(keys.insert(name.clone(), value.clone())),
        }
    }
    Ok(keys)
}

/// QAPI's socket address, with its data beside the type or in a `data` of its own.
fn address(keys: &mut Map<String, Value>, value: &Value, [host, port]: [&str; 2]) -> Result<(), QmpError> {
    let data = value.get("data").unwrap_or(value);
    let mut take = |from: &str, to: &str| {
        if let Some(v) = data.get(from) {
            keys.insert(to.to_owned(), v.clone());
        }
    };
    match value.get("type").and_then(Value::as_str) {
        Some("inet") => {
            take("host", host);
            take("port", port);
        }
        Some("unix") => {
            take("path", "path");
            take("abstract", "abstract");
        }
        Some("fd") => take("str", "fd"),
        _ => return Err(QmpError::Generic("address 'type' expects inet, unix or fd".into())),
    }
    Ok(())
}
