//! The front end's side of a session: one method for each request.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::message::{flag, request};
use crate::{Channel, Error, Event, Message, Region, VringAddress, feature, protocol};

/// How long a back end may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session with a back end.
#[derive(Debug)]
pub struct Front {
    channel: Channel,
    /// Features the back end has.
    features: u64,
    /// Protocol features that both have.
    protocol: u64,
}

impl Front {
    /// Begins a session; of the protocol features those in `wanted` are used that the back end has.
    ///
    /// # Errors
    /// The back end does not speak the protocol.
    pub fn new(socket: UnixStream, wanted: u64) -> Result<Self, Error> {
        let channel = Channel::new(socket);
        channel.set_patience(Some(PATIENCE))?;
        let mut front = Front { channel, features: 0, protocol: 0 };
        front.features = front.ask(request::GET_FEATURES)?;
        if front.features & feature::PROTOCOL_FEATURES != 0 {
            let agreed = front.ask(request::GET_PROTOCOL_FEATURES)? & wanted;
            front.tell(Message::words(request::SET_PROTOCOL_FEATURES, &[agreed]), &[])?;
            front.protocol = agreed;
        }
        front.tell(Message { request: request::SET_OWNER, ..Message::default() }, &[])?;
        Ok(front)
    }

    /// Features of the device.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Protocol features in use.
    pub fn protocol(&self) -> u64 {
        self.protocol
    }

    /// What is readable when the back end has gone.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    fn answer(&self, id: u32) -> Result<Message, Error> {
        let answer = self.channel.receive()?;
        if answer.request != id || answer.flags & flag::REPLY == 0 {
            return Err(Error::protocol(id, "expected its answer"));
        }
        Ok(answer)
    }

    /// A request that has a number for an answer.
    fn ask(&self, id: u32) -> Result<u64, Error> {
        self.channel.send(&Message { request: id, ..Message::default() }, &[])?;
        self.answer(id)?.word()
    }

    /// A request without an answer of its own.
    fn tell(&self, mut message: Message, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let asks = self.protocol & protocol::REPLY_ACK != 0;
        if asks {
            message.flags |= flag::NEED_REPLY;
        }
        self.channel.send(&message, fds)?;
        if asks && self.answer(message.request)?.word()? != 0 {
            return Err(Error::Refused(request::name(message.request)));
        }
        Ok(())
    }

    /// Most rings, if the back end says so.
    ///
    /// # Errors
    /// Those of the session.
    pub fn queues(&self) -> Result<u64, Error> {
        if self.protocol & protocol::MQ == 0 { Ok(1) } else { self.ask(request::GET_QUEUE_NUM) }
    }

    /// Says which features are used.
    ///
    /// # Errors
    /// Those of the session.
    pub fn set_features(&self, features: u64) -> Result<(), Error> {
        let own = self.features & feature::PROTOCOL_FEATURES;
        self.tell(Message::words(request::SET_FEATURES, &[features | own]), &[])
    }

    /// Gives the memory, each piece with its file.
    ///
    /// # Errors
    /// Those of the session.
    pub fn set_memory(&self, pieces: &[(Region, BorrowedFd<'_>)]) -> Result<(), Error> {
        let (regions, files): (Vec<Region>, Vec<BorrowedFd<'_>>) = pieces.iter().copied().unzip();
        self.tell(Message::table(&regions), &files)
    }

    /// Starts a ring at entry `base`: the back end is woken by `kick` and wakes by `call`.
    ///
    /// # Errors
    /// Those of the session.
    pub fn start(
        &self,
        address: &VringAddress,
        (size, base): (u16, u16),
        (kick, call): (&Event, &Event),
    ) -> Result<(), Error> {
        let index = address.index;
        self.tell(Message::vring(request::SET_VRING_NUM, index, size.into()), &[])?;
        self.tell(Message::vring(request::SET_VRING_BASE, index, base.into()), &[])?;
        self.tell(Message::address(address), &[])?;
        for (id, event) in [(request::SET_VRING_CALL, call), (request::SET_VRING_KICK, kick)] {
            self.tell(Message::words(id, &[index.into()]), &[event.as_fd()])?;
        }
        self.enable(index, true)
    }

    /// Puts a ring in use, or out of it. Without protocol features all rings are always in use.
    ///
    /// # Errors
    /// Those of the session.
    pub fn enable(&self, index: u32, on: bool) -> Result<(), Error> {
        if self.features & feature::PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        self.tell(Message::vring(request::SET_VRING_ENABLE, index, on.into()), &[])
    }

    /// Stops a ring; which entry it goes on with.
    ///
    /// # Errors
    /// Those of the session.
    pub fn stop(&self, index: u32) -> Result<u16, Error> {
        self.channel.send(&Message::vring(request::GET_VRING_BASE, index, 0), &[])?;
        Ok(self.answer(request::GET_VRING_BASE)?.as_vring()?.1 as u16)
    }

    /// Reads part of the device's configuration.
    ///
    /// # Errors
    /// Those of the session; the back end has none.
    pub fn config(&self, offset: u32, length: usize) -> Result<Vec<u8>, Error> {
        if self.protocol & protocol::CONFIG == 0 {
            return Err(Error::Refused(request::name(request::GET_CONFIG)));
        }
        self.channel.send(&Message::config(request::GET_CONFIG, offset, &vec![0; length]), &[])?;
        let answer = self.answer(request::GET_CONFIG)?;
        match answer.as_config() {
            Ok((_, bytes)) if bytes.len() == length => Ok(bytes.to_vec()),
            _ => Err(Error::Refused(request::name(request::GET_CONFIG))),
        }
    }

    /// Gives the back end a channel for requests of its own (`message::backend`), and returns our end of it.
    ///
    /// # Errors
    /// Those of the session; the back end has no requests.
    pub fn listen(&self) -> Result<Channel, Error> {
        if self.protocol & protocol::BACKEND_REQ == 0 {
            return Err(Error::Refused(request::name(request::SET_BACKEND_REQ_FD)));
        }
        let (ours, theirs) = UnixStream::pair().map_err(|e| Error::host("vhost-user socket", e))?;
        let message = Message { request: request::SET_BACKEND_REQ_FD, ..Message::default() };
        self.tell(message, &[theirs.as_fd()])?;
        let channel = Channel::new(ours);
        channel.set_patience(Some(PATIENCE))?;
        Ok(channel)
    }

    /// Writes part of it.
    ///
    /// # Errors
    /// Those of the session.
    pub fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        self.tell(Message::config(request::SET_CONFIG, offset, bytes), &[])
    }

    /// Says how long packets of the network may be, if the back end cares.
    ///
    /// # Errors
    /// Those of the session.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        if self.protocol & protocol::MTU == 0 {
            return Ok(());
        }
        self.tell(Message::words(request::NET_SET_MTU, &[mtu.into()]), &[])
    }

    /// Has the back end tell the network where a guest's address is; false if it does not know how.
    ///
    /// # Errors
    /// Those of the session.
    pub fn send_rarp(&self, address: [u8; 6]) -> Result<bool, Error> {
        if self.protocol & protocol::RARP == 0 {
            return Ok(false);
        }
        let [a, b, c, d, e, f] = address;
        let word = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
        self.tell(Message::words(request::SEND_RARP, &[word]), &[])?;
        Ok(true)
    }
}
