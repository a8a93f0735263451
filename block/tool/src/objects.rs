//! `--object`: credentials for TLS, and limits that nodes share.

use std::path::PathBuf;
use std::sync::Arc;

use block_filters::{Limits, ThrottleGroup};
use block_formats::Options;
use block_nbd::{Authz, TlsClient, TlsServer};

use serde_json::{Map, Value};

use crate::args::Args;
use crate::error::{ToolError, usage};

/// The folders of all `tls-creds-x509` of one end, and whether the other end's certificate is wanted.
fn credentials(args: &Args, end: &str) -> Result<Vec<(String, PathBuf, bool)>, ToolError> {
    let mut out = Vec::new();
    for text in args.all("object") {
        let (kind, rest) = kind(text);
        match kind {
            "tls-creds-x509" => {}
            "tls-creds-anon" | "tls-creds-psk" => {
                return usage(format!("--object {kind}: not supported; there is: tls-creds-x509"));
            }
            _ => continue,
        }
        let keys = Options::parse(rest)?;
        let known = ["id", "dir", "endpoint", "verify-peer", "priority"];
        if let Some((key, _)) = keys.iter().find(|(k, _)| !known.contains(k)) {
            return usage(format!("--object {kind}: unknown key '{key}'; there are: {}", known.join(", ")));
        }
        let (Some(id), Some(dir)) = (keys.text("id"), keys.text("dir")) else {
            return usage(format!("--object {kind}: needs id= and dir="));
        };
        match keys.text("endpoint").unwrap_or("client") {
            e @ ("client" | "server") if e != end => continue,
            "client" | "server" => {}
            other => return usage(format!("--object {kind}: endpoint={other}: expected client or server")),
        }
        out.push((id.to_owned(), PathBuf::from(dir), keys.switch("verify-peer")?.unwrap_or(true)));
    }
    Ok(out)
}

/// An object described in JSON as a list of keys and values; others as they are.
pub(crate) fn plain(text: String) -> Result<String, ToolError> {
    if !text.starts_with('{') {
        return Ok(text);
    }
    let mut map: Map<String, Value> = match serde_json::from_str(&text) {
        Ok(map) => map,
        Err(e) => return usage(format!("--object {text}: {e}")),
    };
    let Some(Value::String(mut out)) = map.remove("qom-type") else {
        return usage(format!("--object {text}: needs qom-type"));
    };
    map.iter().for_each(|(key, value)| flatten(key, value, &mut out));
    Ok(out)
}

/// Adds a value, or all that is in it, as `key.part=value`.
fn flatten(key: &str, value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&format!("{key}.{k}"), v, out)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| flatten(&format!("{key}.{i}"), v, out));
        }
        Value::String(text) => *out += &format!(",{key}={}", text.replace(',', ",,")),
        Value::Bool(on) => *out += &format!(",{key}={}", if *on { "on" } else { "off" }),
        other => *out += &format!(",{key}={other}"),
    }
}

/// The kind of an object, and its properties.
fn kind(text: &str) -> (&str, &str) {
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    (kind.strip_prefix("qom-type=").unwrap_or(kind), rest)
}

/// Whether an object is one that is looked at here.
pub(crate) fn is_ours(text: &str) -> bool {
    let kind = kind(text).0;
    kind.starts_with("tls-creds-") || kind.starts_with("authz-") || kind == "throttle-group"
}

/// The groups of limits.
pub(crate) fn throttle_groups(args: &Args) -> Result<Vec<(String, Arc<ThrottleGroup>)>, ToolError> {
    let mut out = Vec::new();
    for text in args.all("object") {
        let ("throttle-group", rest) = kind(text) else { continue };
        let mut keys = Options::parse(rest)?;
        let Some(id) = keys.take("id") else { return usage("--object throttle-group: needs id=") };
        let limits = |(k, v): (&str, &str)| (k.strip_prefix("limits.").unwrap_or(k).to_owned(), v.into());
        let limits = Limits::parse(&keys.iter().map(limits).collect())?;
        out.push((id.clone(), ThrottleGroup::new(id, limits)));
    }
    Ok(out)
}

/// A client's credentials by id.
pub(crate) fn tls_clients(args: &Args) -> Result<Vec<(String, TlsClient)>, ToolError> {
    let all = credentials(args, "client")?;
    all.into_iter().map(|(id, dir, _)| Ok((id, TlsClient::open(&dir)?))).collect()
}

/// A server's credentials by id.
pub(crate) fn tls_servers(args: &Args) -> Result<Vec<(String, TlsServer)>, ToolError> {
    let all = credentials(args, "server")?;
    all.into_iter().map(|(id, dir, verify)| Ok((id, TlsServer::open(&dir, verify)?))).collect()
}

/// Who may use a server, by the object of an id.
pub(crate) fn authz(args: &Args, id: &str) -> Result<Authz, ToolError> {
    for text in args.all("object") {
        let (kind, rest) = kind(text);
        if kind.starts_with("authz-") {
            let mut keys = Options::parse(rest)?;
            if keys.take("id").as_deref() == Some(id) {
                let map = keys.iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
                return Authz::parse(kind, &map).or_else(|e| usage(format!("--object {kind},id={id}: {e}")));
            }
        }
    }
    usage(format!("--tls-authz {id}: no --object authz-... has that id"))
}

/// The one of an id.
pub(crate) fn find<T: Clone>(all: &[(String, T)], id: &str) -> Result<T, ToolError> {
    match all.iter().find(|(name, _)| name == id) {
        Some((_, found)) => Ok(found.clone()),
        None => usage(format!("--tls-creds {id}: no --object tls-creds-x509 of this end has that id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_in_json() {
        let text =
            r#"{"qom-type":"authz-list","id":"a","rules":[{"match":"O=x,CN=y","policy":"allow"}],"on":true}"#;
        let plain = plain(text.into()).unwrap();
        assert_eq!(plain, "authz-list,id=a,on=on,rules.0.match=O=x,,CN=y,rules.0.policy=allow");
        assert_eq!(super::plain("secret,id=s".into()).unwrap(), "secret,id=s");
        assert!(super::plain("{".into()).is_err() && super::plain("{}".into()).is_err());
    }
}
