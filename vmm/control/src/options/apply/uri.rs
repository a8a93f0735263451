//! Short forms of character back ends: `stdio`, `tcp:host:port,server=on`, `unix:path`, `file:path` ...

use super::super::group::Values;
use super::chars;
use crate::config::{Chardev, ChardevKind, ConfigError};

/// What `-serial`, `-monitor` and the like can name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// No back end, and no default one either.
    None,
    /// An existing chardev.
    Id(String),
    /// A new one; `mon:` before it asks for a monitor on the same one.
    New { chardev: Chardev, monitor: bool },
}

const FORMS: [&str; 15] = [
    "none",
    "null",
    "stdio",
    "vc",
    "pty",
    "pty:PATH",
    "file:PATH",
    "pipe:PATH",
    "tcp:HOST:PORT",
    "telnet:HOST:PORT",
    "unix:PATH",
    "udp:HOST:PORT",
    "ringbuf",
    "chardev:ID",
    "mon:...",
];

/// Reads a short form; `id` names the chardev if it makes one.
pub(crate) fn parse(text: &str, id: &str) -> Result<Endpoint, ConfigError> {
    if text == "none" {
        return Ok(Endpoint::None);
    }
    if let Some(id) = text.strip_prefix("chardev:") {
        return Ok(Endpoint::Id(id.to_owned()));
    }
    let (monitor, text) = match text.strip_prefix("mon:") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if monitor && let Some(id) = text.strip_prefix("chardev:") {
        return Err(ConfigError::bad(
            "mon:",
            format!("chardev:{id}"),
            "a new back end; give the chardev mux=on and use -mon",
        ));
    }
    let mut chardev =
        Chardev { id: id.to_owned(), kind: kind(text)?, mux: monitor, logfile: None, logappend: false };
    if monitor && let ChardevKind::Stdio { signal } = &mut chardev.kind {
        // Ctrl-C belongs to the guest when Ctrl-A is there to leave.
        *signal = false;
    }
    Ok(Endpoint::New { chardev, monitor })
}

fn kind(text: &str) -> Result<ChardevKind, ConfigError> {
    let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
    let bad = || ConfigError::bad("back end", text, format!("one of {}", FORMS.join(", ")));
    if rest.is_empty() && matches!(scheme, "file" | "pipe" | "tcp" | "telnet" | "unix" | "udp") {
        return Err(bad());
    }
    Ok(match scheme {
        "null" => ChardevKind::Null,
        "vc" => ChardevKind::Vc,
        "stdio" if rest.is_empty() && !text.contains(':') => ChardevKind::Stdio { signal: true },
        "pty" => ChardevKind::Pty { path: (!rest.is_empty()).then(|| rest.to_owned()) },
        "file" => ChardevKind::File { path: rest.to_owned(), append: false, input_path: None },
        "pipe" => ChardevKind::Pipe { path: rest.to_owned() },
        "ringbuf" | "memory" => ChardevKind::Ringbuf { size: 64 << 10 },
        "tcp" | "telnet" => {
            let (address, options) = rest.split_once(',').unwrap_or((rest, ""));
            let mut values = socket_options(options)?;
            let (host, port) = host_port(address)?;
            values.push("host", &host);
            values.push("port", &port);
            if scheme == "telnet" {
                values.push("telnet", "on");
            }
            chars::kind("socket", &mut values)?
        }
        "unix" => {
            let (path, options) = rest.split_once(',').unwrap_or((rest, ""));
            let mut values = socket_options(options)?;
            values.push("path", path);
            chars::kind("socket", &mut values)?
        }
        "udp" => {
            let (remote, local) = rest.split_once('@').unwrap_or((rest, ""));
            let mut values = Values::default();
            let (host, port) = host_port(remote)?;
            values.push("host", &host);
            values.push("port", &port);
            if !local.is_empty() {
                let (host, port) = host_port(local)?;
                values.push("localaddr", &host);
                values.push("localport", &port);
            }
            chars::kind("udp", &mut values)?
        }
        _ => return Err(bad()),
    })
}

/// `,server=on,wait=off` after an address: keys of a socket, and nothing else.
fn socket_options(options: &str) -> Result<Values, ConfigError> {
    let mut values = chars::CHARDEV.parse_plain(options)?;
    if values.has("backend") || values.has("id") {
        let key = if values.has("id") { "id" } else { "backend" };
        values.text(key)?;
        return Err(ConfigError::unknown(
            "socket key",
            key,
            ["server", "wait", "telnet", "nodelay", "reconnect-ms"],
        ));
    }
    Ok(values)
}

/// `host:port`, `[v6]:port` or `:port`.
fn host_port(text: &str) -> Result<(String, String), ConfigError> {
    let bad = || ConfigError::bad("address", text, "HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').ok_or_else(bad)?,
        None if host.contains(':') => return Err(bad()),
        None => host,
    };
    port.parse::<u16>().map_err(|_| ConfigError::bad("port", port, "a number from 0 to 65535"))?;
    Ok((host.to_owned(), port.to_owned()))
}
