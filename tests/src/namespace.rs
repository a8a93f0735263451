//! Tests in namespaces of their own, where raw sockets, multicast routes, tap devices, bridges and mounts are free to have; that
//! needs no more than user namespaces.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::boot::rhea;
use crate::skip;

/// Runs the test called `name` of this file once more in namespaces of its own; true if that is where we are.
///
/// # Panics
/// When the test fails there, or what the namespace needs cannot be set up.
pub fn in_namespace(name: &str) -> bool {
    if std::env::var_os("RHEA_TEST_NAMESPACE").is_some() {
        for line in ["link set lo up", "route add 224.0.0.0/4 dev lo"] {
            let done = Command::new("ip").args(line.split(' ')).status();
            assert!(done.is_ok_and(|s| s.success()), "ip {line}");
        }
        return true;
    }
    // Root keeps all its users: programs such as smbd change theirs.
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let unshare: &[&str] =
        if root { &["--net", "--mount"] } else { &["--user", "--map-root-user", "--net", "--mount"] };
    let possible = Command::new("unshare").args(unshare).args(["ip", "link", "set", "lo", "up"]).output();
    if !possible.is_ok_and(|o| o.status.success()) {
        skip("network namespaces: unshare and ip are missing, or this host forbids user namespaces");
        return false;
    }
    let own = std::env::current_exe().expect("our own path");
    // Built here: in the namespace there is no network to fetch from.
    let binary = rhea();
    let status = Command::new("unshare")
        .args(unshare)
        .arg(own)
        .args(["--exact", name, "--nocapture"])
        .env("RHEA_TEST_NAMESPACE", "1")
        .env("RHEA_BIN", binary)
        .status();
    assert!(status.is_ok_and(|s| s.success()), "{name} failed in its namespaces");
    false
}
