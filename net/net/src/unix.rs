//! Datagram sockets: `-netdev dgram` between two local paths, or an inherited descriptor.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::fd::FdEndpoint;
use crate::{Endpoint, NetError, NetReceiver};

/// A socket that carries one frame a datagram.
pub struct UnixDgram(FdEndpoint);

impl UnixDgram {
    /// Binds `local` and sends to `remote`, which must exist already. A left-over socket at `local` is replaced.
    pub fn bind(local: &Path, remote: &Path) -> Result<Self, NetError> {
        use std::os::unix::fs::FileTypeExt;
        let failed = |e| NetError::host(format!("datagram socket {}", local.display()), e);
        if std::fs::symlink_metadata(local).is_ok_and(|m| m.file_type().is_socket()) {
            std::fs::remove_file(local).map_err(failed)?;
        }
        let socket = UnixDatagram::bind(local).map_err(failed)?;
        socket
            .connect(remote)
            .map_err(|e| NetError::host(format!("peer of the datagram socket, {}", remote.display()), e))?;
        Self::from_fd(socket.into())
    }

    /// Uses a connected datagram socket, e.g. one end of a socket pair.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetError> {
        FdEndpoint::new("dgram", fd).map(UnixDgram)
    }

    /// Two endpoints joined to each other.
    pub fn pair() -> Result<(Self, Self), NetError> {
        let (a, b) = UnixDatagram::pair().map_err(|e| NetError::host("socket pair", e))?;
        Ok((Self::from_fd(a.into())?, Self::from_fd(b.into())?))
    }
}

impl Endpoint for UnixDgram {
    fn send(&self, frame: &[&[u8]]) -> bool {
        self.0.send(frame)
    }
    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.0.set_receiver(receiver);
    }
    fn accept_input(&self) {
        self.0.accept_input();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::testing::Sink;

    #[test]
    fn frames_pass_and_wait_for_room() {
        let (a, b) = UnixDgram::pair().unwrap();
        let (sink, open, frames) = Sink::new();
        b.set_receiver(Some(sink));
        assert!(a.send(&[b"one", b"!"]));
        assert_eq!(frames.recv().unwrap(), b"one!");
        open.store(false, Ordering::SeqCst);
        assert!(a.send(&[b"two"]));
        assert!(a.send(&[&[3; 1500]]));
        open.store(true, Ordering::SeqCst);
        b.accept_input();
        assert_eq!(frames.recv().unwrap(), b"two");
        assert_eq!(frames.recv().unwrap(), [3; 1500]);
        let many: Vec<&[u8]> = vec![b"x"; 100];
        assert!(a.send(&many));
        assert_eq!(frames.recv().unwrap(), [b'x'; 100]);
        drop(b);
        assert!(!a.send(&[b"nobody"]));
    }

    #[test]
    fn paths() {
        let dir = std::env::temp_dir().join(format!("rhea-net-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (here, there) = (dir.join("here"), dir.join("there"));
        let text = UnixDgram::bind(&here, &there).err().unwrap().to_string();
        assert!(text.contains("there"), "{text}");
        let peer = UnixDatagram::bind(&there).unwrap();
        let end = UnixDgram::bind(&here, &there).unwrap();
        assert!(end.send(&[b"hello"]));
        let mut buf = [0; 16];
        assert_eq!(peer.recv(&mut buf).unwrap(), 5);
        let (sink, _, frames) = Sink::new();
        end.set_receiver(Some(sink));
        peer.send_to(b"back", &here).unwrap();
        assert_eq!(frames.recv().unwrap(), b"back");
        drop(end);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
