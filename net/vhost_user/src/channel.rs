//! The socket: whole messages with their descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::message::{HEADER, LONGEST, flag};
use crate::{Error, MOST_REGIONS, Message};

/// One end of the socket. Sending and receiving block, up to a time that the socket has.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// Takes a connected socket.
    pub fn new(socket: UnixStream) -> Self {
        Channel(socket)
    }

    /// How long a peer may take to take or give a message; `None` is forever.
    ///
    /// # Errors
    /// The host's.
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<(), Error> {
        let failed = |e| Error::host("vhost-user socket", e);
        self.0.set_read_timeout(patience).map_err(failed)?;
        self.0.set_write_timeout(patience).map_err(failed)
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// The peer is gone, or takes nothing.
    pub fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(HEADER + message.payload.len());
        for word in [message.request, message.flags | flag::VERSION, message.payload.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend_from_slice(&message.payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_REGIONS))];
        let mut sent = 0;
        while sent < bytes.len() {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Error::protocol(message.request, "too many descriptors"));
            }
            let parts = [IoSlice::new(&bytes[sent..])];
            match rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => sent += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(Error::Gone),
                Err(e) => return Err(Error::host("vhost-user socket", e)),
            }
        }
        Ok(())
    }

    /// Receives a message.
    ///
    /// # Errors
    /// The peer is gone or silent, or what it says is no message.
    pub fn receive(&self) -> Result<Message, Error> {
        let mut message = Message::default();
        let mut header = [0; HEADER];
        self.fill(&mut header, &mut message)?;
        let [request, flags, size] = [0, 4, 8].map(|at| {
            let mut word = [0; 4];
            word.copy_from_slice(&header[at..at + 4]);
            u32::from_ne_bytes(word)
        });
        (message.request, message.flags) = (request, flags);
        if flags & flag::VERSION_MASK != flag::VERSION {
            return Err(Error::protocol(request, format!("version {}, expected 1", flags & 3)));
        }
        if size as usize > LONGEST {
            return Err(Error::protocol(request, format!("{size} bytes, expected at most {LONGEST}")));
        }
        let mut payload = vec![0; size as usize];
        self.fill(&mut payload, &mut message)?;
        message.payload = payload;
        Ok(message)
    }

    /// Whether something is there to be received, be it the end; does not wait.
    ///
    /// # Errors
    /// The host's.
    pub fn is_ready(&self) -> Result<bool, Error> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(n) => Ok(n > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(Error::host("vhost-user socket", e)),
        }
    }

    fn fill(&self, bytes: &mut [u8], message: &mut Message) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_REGIONS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes[done..])];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Err(Error::Gone),
                Err(e) => return Err(Error::host("vhost-user socket", e)),
                Ok(got) if got.bytes == 0 => return Err(Error::Gone),
                Ok(got) => done += got.bytes,
            }
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = part {
                    message.fds.extend(fds);
                }
            }
            if message.fds.len() > MOST_REGIONS {
                return Err(Error::protocol(message.request, "too many descriptors"));
            }
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
