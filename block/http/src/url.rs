//! Addresses of files.

use block::BlockError;

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub secure: bool,
    /// Name or number of the host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, as they are sent.
    pub path: String,
    /// Name and password in the address.
    pub user: Option<String>,
}

impl Url {
    /// Whether a file name is an address of ours.
    pub fn is_name(name: &str) -> bool {
        name.starts_with("http://") || name.starts_with("https://")
    }

    /// Takes an address apart.
    pub fn parse(name: &str) -> Result<Self, BlockError> {
        let bad =
            |what: &str| BlockError::Format { path: name.chars().take(200).collect(), what: what.into() };
        let (secure, rest) = match (name.strip_prefix("http://"), name.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(bad("expected http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")),
        };
        if !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("expected an address without spaces, with other characters as %XX"));
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (place, path) = rest.split_at(at);
        let (user, place) = place.rsplit_once('@').map_or((None, place), |(u, p)| (Some(u.to_owned()), p));
        let (host, port) = match place.strip_prefix('[').and_then(|p| p.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => place.split_once(':').map_or((place, None), |(h, p)| (h, Some(p))),
        };
        let default = if secure { 443 } else { 80 };
        let port = match port.filter(|p| !p.is_empty()) {
            None => default,
            Some(p) => p.parse().map_err(|_| bad("expected a port below 65536"))?,
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { secure, host: host.into(), port, path, user })
    }

    /// The address that a redirection leads to.
    pub(crate) fn follow(&self, location: &str) -> Result<Self, BlockError> {
        if Self::is_name(location) {
            return Self::parse(location);
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let folder = self.path.split('?').next().unwrap_or("/").rsplit_once('/').map_or("", |(f, _)| f);
            format!("{folder}/{location}")
        };
        let scheme = if self.secure { "https" } else { "http" };
        let mut next = Self::parse(&format!("{scheme}://{}{path}", self.authority()))?;
        next.user.clone_from(&self.user);
        Ok(next)
    }

    /// Host and port, as in the `Host` field.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.secure, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The address without name and password.
    pub fn shown(&self) -> String {
        format!("{}://{}{}", if self.secure { "https" } else { "http" }, self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let u = Url::parse("https://me:pw@h.example:8443/a/b.img?x=1#y").unwrap();
        assert_eq!(
            (u.secure, u.host.as_str(), u.port, u.path.as_str()),
            (true, "h.example", 8443, "/a/b.img?x=1")
        );
        assert_eq!(
            (u.user.as_deref(), u.shown().as_str()),
            (Some("me:pw"), "https://h.example:8443/a/b.img?x=1")
        );
        assert_eq!(Url::parse("http://[::1]/x").unwrap().authority(), "[::1]");
        assert_eq!(u.follow("c.img").unwrap().path, "/a/c.img");
        assert_eq!(u.follow("http://other/z").unwrap().host, "other");
        for bad in ["ftp://h/x", "http:///x", "http://h:99999/", "http://h/a b", "http://h/a\r\nX: y"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }
}
