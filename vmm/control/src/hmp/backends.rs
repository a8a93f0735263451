//! Back ends and objects that come and go, the balloon, migration: the human forms of the QMP commands.

use super::{Answer, Context, done, failed, one};
use crate::config::{ConfigError, VmConfig};
use crate::options::fragment_text;
use crate::value::{parse_bool, parse_size};
use crate::vm::{Announcement, MigrationInfo, VmError};
use serde_json::{Value, json};
use std::time::Duration;

/// How often a migration that somebody waits for is looked at.
const LOOK: Duration = Duration::from_millis(20);

fn parse(section: &str, args: &str) -> Result<VmConfig, VmError> {
    if args.is_empty() {
        return failed("expected one argument: type,id=ID[,key=value...]");
    }
    fragment_text(section, args).map_err(|e: ConfigError| VmError::Failed(e.to_string()))
}

pub(super) fn netdev_add(c: &Context<'_>) -> Answer {
    let config = parse("netdev", c.args)?;
    done(config.netdevs.iter().try_for_each(|n| c.control.vm.netdev_add(n)))
}

pub(super) fn chardev_add(c: &Context<'_>) -> Answer {
    let mut out = String::new();
    for chardev in &parse("chardev", c.args)?.chardevs {
        if let Some(pty) = c.control.vm.chardev_add(chardev)? {
            out.push_str(&format!("char device redirected to {pty} (label {})\n", chardev.id));
        }
    }
    Ok(out)
}

pub(super) fn object_add(c: &Context<'_>) -> Answer {
    let config = parse("object", c.args)?;
    done(config.objects.iter().try_for_each(|o| c.control.vm.object_add(o)))
}

pub(super) fn announce_self(c: &Context<'_>) -> Answer {
    let names = c.args.split(',').map(str::trim).filter(|name| !name.is_empty());
    let how = Announcement { interfaces: names.map(str::to_owned).collect(), ..Announcement::default() };
    done(c.control.vm.announce_self(&how))
}

/// A rule, behind the network's name if there is one.
fn forward<'a>(c: &Context<'a>) -> (Option<&'a str>, &'a str) {
    match c.args.split_once(char::is_whitespace) {
        Some((netdev, rule)) => (Some(netdev), rule.trim()),
        None => (None, c.args),
    }
}

pub(super) fn hostfwd_add(c: &Context<'_>) -> Answer {
    let (netdev, rule) = forward(c);
    done(c.control.vm.hostfwd_add(netdev, rule))
}

pub(super) fn hostfwd_remove(c: &Context<'_>) -> Answer {
    let (netdev, listen) = forward(c);
    let found = c.control.vm.hostfwd_remove(netdev, listen)?;
    Ok(format!("host forwarding rule for {listen} {}\n", if found { "removed" } else { "not found" }))
}

pub(super) fn set_link(c: &Context<'_>) -> Answer {
    match c.args.split_once(char::is_whitespace).map(|(name, up)| (name, parse_bool(up.trim()))) {
        Some((name, Some(up))) => done(c.control.vm.set_link(name, up)),
        _ => failed("expected two arguments: name on|off"),
    }
}

pub(super) fn eject(c: &Context<'_>) -> Answer {
    let (force, device) = match c.args.strip_prefix("-f ") {
        Some(rest) => (true, rest.trim()),
        None => (false, c.args),
    };
    let arguments = json!({"device": one(device, "device")?, "force": force});
    block_command(c, "eject", &arguments)
}

pub(super) fn change(c: &Context<'_>) -> Answer {
    let mut words: Vec<&str> = c.args.split_whitespace().collect();
    let force = words.iter().position(|w| *w == "-f").map(|at| words.remove(at)).is_some();
    let [device, file, more @ ..] = words.as_slice() else {
        return failed("expected two arguments: device file");
    };
    if more.len() > 2 {
        return failed("expected at most four arguments: device file format read-only-mode");
    }
    let mut arguments = json!({"device": device, "filename": file, "force": force});
    for (key, value) in ["format", "read-only-mode"].into_iter().zip(more) {
        arguments[key] = (*value).into();
    }
    block_command(c, "blockdev-change-medium", &arguments)
}

pub(super) fn block_resize(c: &Context<'_>) -> Answer {
    let words: Vec<&str> = c.args.split_whitespace().collect();
    let [device, size] = words[..] else { return failed("expected two arguments: device size") };
    let Some(bytes) = parse_size(size, 1 << 20) else {
        return failed("size expects a number of mebibytes or a size with a suffix");
    };
    block_command(c, "block_resize", &json!({"device": device, "size": bytes}))
}

pub(super) fn snapshot_internal(c: &Context<'_>) -> Answer {
    let words: Vec<&str> = c.args.split_whitespace().collect();
    let [device, name] = words[..] else { return failed("expected two arguments: device name") };
    block_command(c, "blockdev-snapshot-internal-sync", &json!({"device": device, "name": name}))
}

pub(super) fn snapshot_delete_internal(c: &Context<'_>) -> Answer {
    let words: Vec<&str> = c.args.split_whitespace().collect();
    let (device, name, id) = match words[..] {
        [device, name] => (device, name, None),
        [device, name, id] => (device, name, Some(id)),
        _ => return failed("expected two arguments: device name"),
    };
    let mut arguments = json!({"device": device, "name": name});
    if let Some(id) = id {
        arguments["id"] = id.into();
    }
    block_command(c, "blockdev-snapshot-delete-internal-sync", &arguments)
}

fn block_command(c: &Context<'_>, name: &str, arguments: &Value) -> Answer {
    let empty = serde_json::Map::new();
    done(c.control.vm.block_command(name, arguments.as_object().unwrap_or(&empty)).map(drop))
}

pub(super) fn balloon(c: &Context<'_>) -> Answer {
    match parse_size(one(c.args, "size")?, 1 << 20) {
        Some(bytes) => done(c.control.vm.set_balloon(bytes)),
        None => failed("size expects a number of mebibytes or a size with a suffix"),
    }
}

pub(super) fn info_balloon(c: &Context<'_>) -> Answer {
    Ok(format!("balloon: actual={}\n", c.control.vm.balloon()? >> 20))
}

pub(super) fn migrate(c: &Context<'_>) -> Answer {
    let (detach, uri) = match c.args.strip_prefix("-d ") {
        Some(rest) => (true, rest.trim()),
        None => (false, c.args),
    };
    c.control.vm.migrate(one(uri, "uri")?)?;
    if detach {
        return Ok(String::new());
    }
    loop {
        let m = c.control.vm.migration();
        match m.status {
            Some("setup" | "active" | "device" | "cancelling") => std::thread::sleep(LOOK),
            Some("failed") => return failed(m.error.unwrap_or_else(|| "migration failed".into())),
            _ => return Ok(String::new()),
        }
    }
}

pub(super) fn set_parameter(c: &Context<'_>) -> Answer {
    let mut limits = c.control.vm.migration_limits();
    let Some((name, value)) = c.args.split_once(char::is_whitespace) else {
        return failed("expected two arguments: name value");
    };
    match (name, parse_size(value.trim(), if name == "max-bandwidth" { 1 << 20 } else { 1 })) {
        ("max-bandwidth", Some(n)) => limits.max_bandwidth = n,
        ("downtime-limit", Some(n)) => limits.downtime_ms = n,
        ("max-bandwidth" | "downtime-limit", None) => return failed(format!("{name} expects a number")),
        _ => return failed("parameter is not known; known: max-bandwidth, downtime-limit"),
    }
    c.control.vm.set_migration_limits(limits);
    Ok(String::new())
}

pub(super) fn info_migrate(c: &Context<'_>) -> Answer {
    let m: MigrationInfo = c.control.vm.migration();
    let Some(status) = m.status else { return Ok(String::new()) };
    let mut out = format!("Migration status: {status}\n");
    if let Some(e) = &m.error {
        out.push_str(&format!("error: {e}\n"));
    }
    if !m.incoming {
        out.push_str(&format!(
            "total time: {} ms\ndowntime: {} ms\ntransferred ram: {} kbytes\nremaining ram: {} kbytes\n\
             total ram: {} kbytes\nnormal: {} pages\ndirty sync count: {}\n",
            m.total_ms,
            m.downtime_ms,
            m.transferred >> 10,
            m.remaining >> 10,
            m.total >> 10,
            m.pages,
            m.rounds
        ));
    }
    Ok(out)
}

pub(super) fn info_blockstats(c: &Context<'_>) -> Answer {
    let line = |s: &crate::vm::BlockStats| {
        let name = if s.device.is_empty() { &s.node_name } else { &s.device };
        format!(
            "{name}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} failed={}\n",
            s.reads.1, s.writes.1, s.reads.0, s.writes.0, s.flushes, s.errors
        )
    };
    Ok(c.control.vm.block_stats().iter().map(line).collect())
}

pub(super) fn info_iothreads(c: &Context<'_>) -> Answer {
    let line = |t: &crate::vm::IothreadInfo| format!("{}:\n  thread_id={}\n", t.id, t.thread_id);
    Ok(c.control.vm.iothreads().iter().map(line).collect())
}

pub(super) fn info_memdev(c: &Context<'_>) -> Answer {
    let on = |b: bool| if b { "true" } else { "false" };
    let line = |m: &crate::vm::MemdevInfo| {
        format!(
            "memory backend: {}\n  size:  {}\n  merge: {}\n  dump: {}\n  prealloc: {}\n  share: {}\n",
            m.id,
            m.size,
            on(m.merge),
            on(m.dump),
            on(m.prealloc),
            on(m.share)
        )
    };
    Ok(c.control.vm.memdevs().iter().map(line).collect())
}
