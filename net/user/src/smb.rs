//! `smb=FOLDER`: a folder of the host's, shared by Samba's `smbd`.
//!
//! The server is not ours: each connection to its address starts an `smbd` in the way inetd would, with settings of our own
//! (smb.conf(5)) in a private folder, so that nothing of the host's Samba is touched and no privilege is needed.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::forward::{Behind, GuestForward};
use crate::{UserConfig, UserError};

/// Where `smbd` may be.
const PROGRAMS: [&str; 4] =
    ["/usr/sbin/smbd", "/usr/local/sbin/smbd", "/usr/bin/smbd", "/opt/samba/sbin/smbd"];
/// Ports of SMB over NetBIOS and of SMB alone.
const PORTS: [u16; 2] = [139, 445];
/// Name of the share, as QEMU calls it.
const SHARE: &str = "qemu";

/// The private folder; it goes with this.
pub(crate) struct Smb(#[expect(dead_code, reason = "removed when dropped")] TempDir);

impl Smb {
    /// Makes the settings, and forwards the server's address to `smbd`; nothing if no folder is shared.
    pub(crate) fn start(config: &mut UserConfig) -> Result<Option<Self>, UserError> {
        let Some((shared, ip)) = config.smb.clone() else { return Ok(None) };
        let failed = |e| UserError::host("smb: private folder", e);
        let program = PROGRAMS.iter().map(PathBuf::from).find(|p| p.is_file());
        let program = program.ok_or_else(|| {
            let there = std::io::Error::from(std::io::ErrorKind::NotFound);
            UserError::host("smb: needs Samba's smbd (Debian: the package samba)", there)
        })?;
        let folder = tempfile::Builder::new().prefix("rhea-smb-").tempdir().map_err(failed)?;
        let shared = shared.canonicalize().map_err(failed)?;
        let file = folder.path().join("smb.conf");
        std::fs::write(&file, settings(folder.path(), &shared)).map_err(failed)?;
        let arguments =
            vec!["-l".into(), folder.path().display().to_string(), "-s".into(), file.display().to_string()];
        for port in PORTS {
            let to = Behind::Program(program.clone(), arguments.clone());
            config.guest_forwards.push(GuestForward { ip, port, to });
        }
        Ok(Some(Smb(folder)))
    }
}

/// The user this process runs as, which the share's files are read and written by.
fn user() -> Option<String> {
    #[cfg(unix)]
    {
        let id = rustix::process::geteuid().as_raw().to_string();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = users.lines().find(|l| l.split(':').nth(2) == Some(id.as_str()))?;
        line.split(':').next().map(str::to_owned)
    }
    #[cfg(not(unix))]
    {
        None
    }
}

fn settings(private: &Path, shared: &Path) -> String {
    let private = private.display();
    let folders: String =
        ["private dir", "pid directory", "lock directory", "state directory", "cache directory"]
            .iter()
            .map(|key| format!("{key} = {private}\n"))
            .collect();
    let user = user().map(|u| format!("force user = {u}\n")).unwrap_or_default();
    format!(
        "[global]\n{folders}ncalrpc dir = {private}/ncalrpc\nlog file = {private}/log.smbd\n\
         smb passwd file = {private}/smbpasswd\ninterfaces = 127.0.0.1\nbind interfaces only = yes\n\
         security = user\nmap to guest = Bad User\nload printers = no\nprinting = bsd\ndisable spoolss = yes\n\
         usershare max shares = 0\n\n[{SHARE}]\npath = {}\nread only = no\nguest ok = yes\n{user}",
        shared.display()
    )
}
