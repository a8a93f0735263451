//! Virtual Distributed Ethernet: a port of a `vde_switch` (the plug protocol of VDE 2, version 3 of the request).
//!
//! A client connects to the switch's control socket, sends one fixed-size request that names a datagram socket of its
//! own, and is answered with the name of the switch's datagram socket for that port. Frames are then datagrams between
//! the two. The port lasts as long as the control connection.

use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::net::RecvFlags;
use socket2::{SockAddr, Socket};

use crate::NetError;
use crate::fd::{Carried, Carrier, carried};

/// First word of a request.
const MAGIC: u32 = 0xfeed_face;
/// Version of the request.
const VERSION: u32 = 3;
/// Bytes of a `sockaddr_un`.
const ADDRESS: usize = 110;
/// Bytes of the description.
const DESCRIPTION: usize = 128;
/// Where the switch listens unless told otherwise.
const DEFAULT: &str = "/run/vde.ctl";
/// How long the switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which switch and which port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VdeOptions {
    /// Folder of the switch (or its control socket).
    pub sock: Option<PathBuf>,
    /// Number of the port; 0 is any.
    pub port: u32,
    /// The group that our socket belongs to, by name or number.
    pub group: Option<String>,
    /// Permissions of our socket.
    pub mode: Option<u32>,
}

struct Plug {
    socket: Socket,
    switch: SockAddr,
    /// The port is ours as long as this is open.
    _control: UnixStream,
    path: PathBuf,
}

impl AsFd for Plug {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Carrier for Plug {
    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.socket.send_to_vectored(frame, &self.switch).map(|_| ())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        Ok(Some(0..rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?.0))
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A port of a switch.
pub struct Vde(Carried<Plug>);

carried!(Vde);

/// The request: magic, version, kind with the port above it, address of our socket, description.
fn request(port: u32, ours: &Path) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + ADDRESS + DESCRIPTION);
    for word in [MAGIC, VERSION, port << 8] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    out.extend_from_slice(ours.as_os_str().as_bytes());
    out.resize(12 + ADDRESS, 0);
    let text = format!("Rhea PID={}", std::process::id());
    out.extend_from_slice(text.as_bytes());
    out.resize(12 + ADDRESS + DESCRIPTION, 0);
    out
}

/// The path in the answer.
fn answered(answer: &[u8; ADDRESS]) -> Option<PathBuf> {
    let (family, path) = answer.split_first_chunk::<2>()?;
    let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
    let known = u16::from_ne_bytes(*family) == libc::AF_UNIX as u16 && end > 0;
    known.then(|| PathBuf::from(std::ffi::OsStr::from_bytes(&path[..end])))
}

/// The number of a group.
fn group(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let all = std::fs::read_to_string("/etc/group").ok()?;
    all.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

impl Vde {
    /// Plugs into the switch.
    pub fn new(options: &VdeOptions) -> Result<Self, NetError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = options.sock.clone().unwrap_or_else(|| DEFAULT.into());
        let failed = |e| {
            let folder = folder.display();
            NetError::host(
                format!("vde switch at {folder} (start vde_switch -sock {folder}, or give sock=PATH)"),
                e,
            )
        };
        let control = if folder.is_dir() { folder.join("ctl") } else { folder.clone() };
        let mut control = UnixStream::connect(&control).map_err(failed)?;
        control.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".rhea.{:05}.{number:04}", std::process::id());
        let parent = if folder.is_dir() { folder.clone() } else { std::env::temp_dir() };
        let path = parent.join(name);
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        let mut plug = Plug {
            socket: Socket::from(socket),
            switch: SockAddr::unix(&path).map_err(failed)?,
            _control: control,
            path,
        };
        if let Some(name) = &options.group {
            let group = group(name).ok_or_else(|| {
                NetError::Option(format!("group={name}: expected a group of /etc/group, or its number"))
            })?;
            std::os::unix::fs::chown(&plug.path, None, Some(group)).map_err(failed)?;
        }
        if let Some(mode) = options.mode {
            std::fs::set_permissions(&plug.path, PermissionsExt::from_mode(mode)).map_err(failed)?;
        }
        control = plug._control.try_clone().map_err(failed)?;
        control.write_all(&request(options.port, &plug.path)).map_err(failed)?;
        let mut answer = [0; ADDRESS];
        control.read_exact(&mut answer).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => NetError::Option(format!(
                "the vde switch at {} refused the port; is port {} free?",
                folder.display(),
                options.port
            )),
            _ => failed(e),
        })?;
        let there = answered(&answer);
        let there =
            there.ok_or_else(|| failed(io::Error::other("it answered with no address of a socket")))?;
        plug.switch = SockAddr::unix(there).map_err(failed)?;
        Ok(Vde(Carried::new("vde", [plug])?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::Endpoint;
    use crate::testing::Sink;

    /// A switch of one port that says what it was asked for and throws everything back.
    fn switch(folder: &Path) -> std::thread::JoinHandle<Vec<u8>> {
        let listener = UnixListener::bind(folder.join("ctl")).unwrap();
        let data = folder.join("port");
        let socket = UnixDatagram::bind(&data).unwrap();
        std::thread::spawn(move || {
            let (mut control, _) = listener.accept().unwrap();
            let mut asked = vec![0; 12 + ADDRESS + DESCRIPTION];
            control.read_exact(&mut asked).unwrap();
            let mut answer = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
            answer.extend_from_slice(data.as_os_str().as_bytes());
            answer.resize(ADDRESS, 0);
            control.write_all(&answer).unwrap();
            let mut frame = [0; 2000];
            let (n, from) = socket.recv_from(&mut frame).unwrap();
            socket.send_to(&frame[..n], from.as_pathname().unwrap()).unwrap();
            asked
        })
    }

    #[test]
    fn plugs_in() {
        let dir = tempfile::tempdir().unwrap();
        let options = VdeOptions { sock: Some(dir.path().into()), port: 5, group: None, mode: Some(0o600) };
        let missing = Vde::new(&options).err().unwrap().to_string();
        assert!(missing.contains("start vde_switch"), "{missing}");
        let switch = switch(dir.path());
        let end = Vde::new(&options).unwrap();
        let (sink, _, frames) = Sink::new();
        end.set_receiver(Some(sink));
        assert!(end.send(&[&[1; 40], &[2; 40]]));
        assert_eq!(frames.recv_timeout(PATIENCE).unwrap(), [[1; 40], [2; 40]].concat());
        let asked = switch.join().unwrap();
        assert_eq!(asked[..4], MAGIC.to_ne_bytes());
        assert_eq!(asked[8..12], (5u32 << 8).to_ne_bytes());
        drop(end);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "our socket is gone");
    }

    #[test]
    fn fuzz_answers_of_any_bytes() {
        assert_eq!(answered(&[0; ADDRESS]), None);
        assert_eq!(answered(&[0xff; ADDRESS]), None);
        let mut full = [b'a'; ADDRESS];
        full[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(answered(&full).unwrap().as_os_str().len(), ADDRESS - 2);
    }

    #[test]
    fn groups_have_numbers() {
        assert_eq!((group("root"), group("77"), group("no such group")), (Some(0), Some(77), None));
    }
}
