//! -chardev, -serial, -parallel, -monitor, -qmp, -mon, -gdb, and what is there when none of them is given.

use super::super::build::{Builder, Stop};
use super::super::group::{Group, Key, Values, number, size, switch, text, word};
use super::device::check_id;
use super::uri::{self, Endpoint};
use super::{Done, Family};
use crate::config::{
    Chardev, ChardevKind, ConfigError, GdbConfig, Monitor, MonitorMode, SocketAddress, TERMINAL,
};

static CHARDEVS: Family = Family {
    what: "chardev",
    members: &[
        ("null", &[]),
        ("vc", &[number("width"), number("height"), number("cols"), number("rows")]),
        ("stdio", &[switch("signal")]),
        ("file", &[text("path"), switch("append"), text("input-path")]),
        ("pipe", &[text("path")]),
        ("pty", &[text("path")]),
        (
            "socket",
            &[
                text("host"),
                text("port"),
                text("path"),
                text("fd"),
                switch("abstract"),
                switch("server"),
                switch("wait"),
                switch("telnet"),
                switch("nodelay"),
                switch("delay"),
                number("reconnect"),
                number("reconnect-ms"),
            ],
        ),
        ("udp", &[text("host"), text("port"), text("localaddr"), text("localport")]),
        ("ringbuf", &[size("size")]),
    ],
};

const COMMON: &[Key] = &[
    text("backend"),
    text("id"),
    switch("mux"),
    text("logfile"),
    switch("logappend"),
    switch("signal"),
    text("path"),
    switch("append"),
    text("input-path"),
    text("host"),
    text("port"),
    text("fd"),
    switch("abstract"),
    switch("server"),
    switch("wait"),
    switch("telnet"),
    switch("delay"),
    switch("nodelay"),
    number("reconnect"),
    number("reconnect-ms"),
    text("localaddr"),
    text("localport"),
    size("size"),
    number("width"),
    number("height"),
    number("cols"),
    number("rows"),
];

pub(crate) static CHARDEV: Group = Group {
    name: "chardev",
    implied: Some("backend"),
    keys: COMMON,
    open: false,
    json: false,
    apply: chardev,
};

fn chardev(b: &mut Builder, v: &mut Values) -> Done {
    let backend = v.needed("backend")?;
    CHARDEVS.answer_help(&backend, v)?;
    CHARDEVS.keys(&backend)?;
    let id = v.needed("id")?;
    check_id(&id)?;
    let mux = v.bool("mux")?.unwrap_or(false);
    let logfile = v.text("logfile")?;
    let logappend = v.bool("logappend")?.unwrap_or(false);
    let kind = kind(&backend, v)?;
    b.config.chardevs.push(Chardev { id, kind, mux, logfile, logappend });
    Ok(())
}

/// The kind with its own keys.
pub(crate) fn kind(backend: &str, v: &mut Values) -> Result<ChardevKind, ConfigError> {
    CHARDEVS.check(backend, v)?;
    let port = |v: &mut Values, key: &str| match v.text(key)? {
        None => Ok(None),
        Some(p) => {
            p.parse::<u16>().map(Some).map_err(|_| ConfigError::bad(key, p, "a number from 0 to 65535"))
        }
    };
    let need = |what: &str, key: &str| ConfigError::missing(format!("chardev {what}"), key);
    Ok(match backend {
        "null" => ChardevKind::Null,
        "vc" => {
            for key in ["width", "height", "cols", "rows"] {
                v.number(key)?;
            }
            ChardevKind::Vc
        }
        "stdio" => ChardevKind::Stdio { signal: v.bool("signal")?.unwrap_or(true) },
        "file" => ChardevKind::File {
            path: v.text("path")?.ok_or_else(|| need("file", "path"))?,
            append: v.bool("append")?.unwrap_or(false),
            input_path: v.text("input-path")?,
        },
        "pipe" => ChardevKind::Pipe { path: v.text("path")?.ok_or_else(|| need("pipe", "path"))? },
        "pty" => ChardevKind::Pty { path: v.text("path")? },
        "socket" => {
            let port = port(v, "port")?;
            let addr = address(v, port)?;
            let server = v.bool("server")?.unwrap_or(false);
            let wait = v.bool("wait")?;
            if wait.is_some() && !server {
                return Err(ConfigError::Conflict("wait is for server=on only".into()));
            }
            let delay = v.bool("delay")?;
            let seconds = v.number("reconnect")?.map(|s| s.saturating_mul(1000));
            let reconnect_ms = v.number("reconnect-ms")?.or(seconds).unwrap_or(0);
            if server && reconnect_ms != 0 {
                return Err(ConfigError::Conflict("reconnect is for server=off only".into()));
            }
            ChardevKind::Socket {
                addr,
                server,
                wait: wait.unwrap_or(server),
                telnet: v.bool("telnet")?.unwrap_or(false),
                nodelay: v.bool("nodelay")?.or(delay.map(|d| !d)).unwrap_or(false),
                reconnect_ms,
            }
        }
        "udp" => ChardevKind::Udp {
            host: v.text("host")?.filter(|h| !h.is_empty()).unwrap_or_else(|| "localhost".into()),
            port: port(v, "port")?.ok_or_else(|| need("udp", "port"))?,
            localaddr: v.text("localaddr")?.unwrap_or_default(),
            localport: port(v, "localport")?.unwrap_or(0),
        },
        _ => {
            let size = v.size("size")?.unwrap_or(64 << 10);
            if !size.is_power_of_two() || size > 64 << 20 {
                return Err(ConfigError::bad("size", size.to_string(), "a power of two of at most 64M"));
            }
            ChardevKind::Ringbuf { size }
        }
    })
}

fn address(v: &mut Values, port: Option<u16>) -> Result<SocketAddress, ConfigError> {
    let is_abstract = v.bool("abstract")?.unwrap_or(false);
    match (v.text("path")?, port, v.text("fd")?) {
        (Some(path), None, None) => {
            if path.is_empty() {
                return Err(ConfigError::missing("chardev socket", "path"));
            }
            Ok(SocketAddress::Unix { path, is_abstract })
        }
        (None, Some(port), None) => {
            Ok(SocketAddress::Inet { host: v.text("host")?.unwrap_or_default(), port })
        }
        (None, None, Some(fd)) => match fd.parse() {
            Ok(fd) => Ok(SocketAddress::Fd { fd }),
            Err(_) => Err(ConfigError::bad("fd", fd, "the number of a descriptor")),
        },
        (None, None, None) => Err(ConfigError::missing("chardev socket", "port' or 'path")),
        _ => Err(ConfigError::Conflict("chardev socket: path, port and fd exclude each other".into())),
    }
}

/// Adds what a short form names; the id of its chardev, or `None` for `none`.
fn endpoint(b: &mut Builder, text: &str, id: String) -> Result<Option<String>, Stop> {
    match uri::parse(text, &id)? {
        Endpoint::None => Ok(None),
        Endpoint::Id(id) => Ok(Some(id)),
        Endpoint::New { chardev, monitor } => {
            b.config.chardevs.push(chardev);
            if monitor {
                b.monitor_given = true;
                let m = Monitor { chardev: id.clone(), mode: MonitorMode::Readline, pretty: false };
                b.config.monitors.push(m);
            }
            Ok(Some(id))
        }
    }
}

pub(crate) fn serial(b: &mut Builder, text: &str) -> Done {
    b.serial_given = true;
    let id = format!("serial{}", b.config.serials.len());
    let port = endpoint(b, text, id)?;
    b.config.serials.push(port);
    Ok(())
}

pub(crate) fn parallel(b: &mut Builder, text: &str) -> Done {
    b.parallel_given = true;
    let id = format!("parallel{}", b.config.parallels.len());
    let port = endpoint(b, text, id)?;
    b.config.parallels.push(port);
    Ok(())
}

fn new_monitor(b: &mut Builder, text: &str, mode: MonitorMode, pretty: bool) -> Done {
    b.monitor_given = true;
    if text == "none" {
        return Ok(());
    }
    let id = b.next_monitor_id();
    let before = b.config.monitors.len();
    if let Some(chardev) = endpoint(b, text, id)? {
        // `mon:` has made a monitor already.
        b.config.monitors.truncate(before);
        b.config.monitors.push(Monitor { chardev, mode, pretty });
    }
    Ok(())
}

pub(crate) fn monitor(b: &mut Builder, text: &str) -> Done {
    new_monitor(b, text, MonitorMode::Readline, false)
}

pub(crate) fn qmp(b: &mut Builder, text: &str) -> Done {
    new_monitor(b, text, MonitorMode::Control, false)
}

pub(crate) fn qmp_pretty(b: &mut Builder, text: &str) -> Done {
    new_monitor(b, text, MonitorMode::Control, true)
}

pub(crate) static MON: Group = Group {
    name: "mon",
    implied: Some("chardev"),
    keys: &[text("chardev"), text("id"), word("mode", &["readline", "control"]), switch("pretty")],
    open: false,
    json: false,
    apply: mon,
};

fn mon(b: &mut Builder, v: &mut Values) -> Done {
    b.monitor_given = true;
    v.text("id")?;
    let mode = match v.text("mode")?.as_deref() {
        Some("control") => MonitorMode::Control,
        _ => MonitorMode::Readline,
    };
    let pretty = v.bool("pretty")?.unwrap_or(false);
    if pretty && mode == MonitorMode::Readline {
        return Err(ConfigError::Conflict("pretty is for mode=control only".into()).into());
    }
    b.config.monitors.push(Monitor { chardev: v.needed("chardev")?, mode, pretty });
    Ok(())
}

pub(crate) fn gdb(b: &mut Builder, text: &str) -> Done {
    b.config.chardevs.retain(|c| c.id != "gdb");
    b.config.gdb = endpoint(b, text, "gdb".into())?.map(|chardev| GdbConfig { chardev });
    for c in &mut b.config.chardevs {
        if c.id == "gdb"
            && let ChardevKind::Socket { server, wait, nodelay, .. } = &mut c.kind
        {
            // The debugger comes and goes as it likes.
            (*server, *wait, *nodelay) = (true, false, true);
        }
    }
    Ok(())
}

pub(crate) fn gdb_default(b: &mut Builder) -> Done {
    gdb(b, "tcp::1234")
}

/// Default serial port and monitor, after all options are known.
pub(crate) fn defaults(b: &mut Builder) {
    let new = |id: &str, kind: ChardevKind| Chardev {
        id: id.into(),
        kind,
        mux: false,
        logfile: None,
        logappend: false,
    };
    let stdio_taken = b.config.chardevs.iter().any(|c| matches!(c.kind, ChardevKind::Stdio { .. }));
    let curses = b.config.display.as_deref() == Some("curses");
    if curses {
        b.config.chardevs.push(new(TERMINAL, ChardevKind::Stdio { signal: false }));
    }
    if b.config.nodefaults {
        return;
    }
    let ports = b.config.devices.iter().any(|d| d.driver == "isa-serial");
    let (serial, monitor) = (!b.serial_given && !ports, !b.monitor_given);
    // Without a display of its own, the terminal is the only place where a console can be.
    let terminal = b.config.nographic || b.config.display.is_none() && !b.config.daemonize;
    let on_terminal = terminal && !stdio_taken;
    // The display in the terminal has the monitor behind it.
    if curses && monitor {
        b.config.chardevs.push(new("compat_monitor0", ChardevKind::Vc));
        let chardev = "compat_monitor0".into();
        b.config.monitors.push(Monitor { chardev, mode: MonitorMode::Readline, pretty: false });
    }
    if serial {
        let kind = if on_terminal { ChardevKind::Stdio { signal: false } } else { ChardevKind::Vc };
        b.config.chardevs.push(Chardev { mux: on_terminal && monitor, ..new("serial0", kind) });
        b.config.serials.push(Some("serial0".into()));
        if on_terminal && monitor {
            b.config.monitors.push(Monitor {
                chardev: "serial0".into(),
                mode: MonitorMode::Readline,
                pretty: false,
            });
        }
    } else if monitor && on_terminal && b.config.nographic {
        b.config.chardevs.push(new("compat_monitor0", ChardevKind::Stdio { signal: false }));
        let m = Monitor { chardev: "compat_monitor0".into(), mode: MonitorMode::Readline, pretty: false };
        b.config.monitors.push(m);
    }
}
