//! A back end's session: it keeps the memory and the rings, and asks the device for the rest.
//!
//! A ring runs while it has an address, a size, an event for new entries and is in use, and memory is there. Whatever of
//! these changes, the device is told to stop the ring and, if it can go on, to start it again.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::message::{backend, flag, request};
use crate::{
    Channel, DeviceRing, Error, Event, MOST_REGIONS, Memory, Message, VringAddress, feature, protocol,
};

/// How long a front end may take to take a request.
const PATIENCE: Duration = Duration::from_secs(1);

/// A ring in use.
pub struct Ring {
    /// The ring.
    pub ring: DeviceRing,
    /// Readable when there are new entries.
    pub kick: Event,
    /// To be signalled for used entries, if the driver wants to be woken.
    pub call: Option<Event>,
}

/// What stands behind a session.
pub trait Device {
    /// Features it has.
    fn features(&self) -> u64;

    /// Protocol features it has besides those of the session, which are acknowledgements, and [`protocol::MQ`] if there
    /// is more than one ring.
    fn protocol_features(&self) -> u64 {
        0
    }

    /// Number of its rings.
    fn queues(&self) -> u16;

    /// The features that are used.
    fn set_features(&mut self, features: u64);

    /// A ring runs from now on.
    fn start(&mut self, index: u16, ring: Ring);

    /// It runs no longer: everything taken is given back, and the entry it would go on with is returned.
    fn stop(&mut self, index: u16) -> u16;

    /// The device's configuration.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// A write to it; false if it is refused.
    fn set_config(&mut self, offset: u32, bytes: &[u8]) -> bool {
        let _ = (offset, bytes);
        false
    }
}

/// What is known of a ring.
#[derive(Default)]
struct Queue {
    size: u16,
    base: u16,
    address: Option<VringAddress>,
    kick: Option<Event>,
    call: Option<Event>,
    enabled: bool,
    running: bool,
}

/// A session with a front end.
pub struct Back<D> {
    channel: Channel,
    /// Where requests to the front end go.
    reverse: Option<Channel>,
    /// The device.
    pub device: D,
    features: u64,
    protocol: u64,
    memory: Arc<Memory>,
    queues: Vec<Queue>,
}

impl<D: Device> Back<D> {
    /// A session on a connected socket.
    pub fn new(socket: UnixStream, device: D) -> Self {
        let queues = (0..device.queues()).map(|_| Queue::default()).collect();
        Back {
            channel: Channel::new(socket),
            reverse: None,
            device,
            features: 0,
            protocol: 0,
            memory: Arc::default(),
            queues,
        }
    }

    /// The socket.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether a request is there, or the front end has gone; does not wait.
    ///
    /// # Errors
    /// The host's.
    pub fn channel_ready(&self) -> Result<bool, Error> {
        self.channel.is_ready()
    }

    /// Tells the front end that the device's configuration has changed, if it listens for that.
    ///
    /// # Errors
    /// The front end is gone, or takes nothing.
    pub fn config_changed(&self) -> Result<(), Error> {
        match &self.reverse {
            Some(reverse) => reverse.send(&Message::words(backend::CONFIG_CHANGE, &[]), &[]),
            None => Ok(()),
        }
    }

    /// Receives one request and carries it out.
    ///
    /// # Errors
    /// The session is over: rings are stopped.
    pub fn step(&mut self) -> Result<(), Error> {
        let done = self.channel.receive().and_then(|message| self.request(message));
        if done.is_err() {
            self.stop_all();
        }
        done
    }

    /// Stops all rings.
    pub fn stop_all(&mut self) {
        (0..self.queues.len()).for_each(|i| self.stop(i));
    }

    fn request(&mut self, mut message: Message) -> Result<(), Error> {
        let (id, wants) = (message.request, message.wants_answer());
        if let Some(mut answer) = self.asked(&message)? {
            (answer.request, answer.flags) = (id, flag::REPLY);
            return self.channel.send(&answer, &[]);
        }
        let done = self.told(&mut message);
        if wants && self.protocol & protocol::REPLY_ACK != 0 {
            let mut answer = Message::words(id, &[done.is_err().into()]);
            answer.flags = flag::REPLY;
            self.channel.send(&answer, &[])?;
        }
        done
    }

    fn protocol_features(&self) -> u64 {
        let many = if self.queues.len() > 1 { protocol::MQ } else { 0 };
        self.device.protocol_features() | protocol::REPLY_ACK | protocol::CONFIGURE_MEM_SLOTS | many
    }

    /// Requests with an answer of their own.
    fn asked(&mut self, message: &Message) -> Result<Option<Message>, Error> {
        let id = message.request;
        let word = match id {
            request::GET_FEATURES => self.device.features() | feature::PROTOCOL_FEATURES,
            request::GET_PROTOCOL_FEATURES => self.protocol_features(),
            request::GET_QUEUE_NUM => self.queues.len() as u64,
            request::GET_MAX_MEM_SLOTS => MOST_REGIONS as u64,
            request::GET_VRING_BASE => {
                let index = self.index(id, message.as_vring()?.0)?;
                self.stop(index);
                let queue = &mut self.queues[index];
                queue.kick = None;
                return Ok(Some(Message::vring(id, index as u32, queue.base.into())));
            }
            request::GET_CONFIG => {
                let (offset, bytes) = message.as_config()?;
                let config = self.device.config();
                let part = config.get(offset as usize..).and_then(|c| c.get(..bytes.len()));
                // An answer without anything says that there is no such part.
                return Ok(Some(Message::config(id, offset, part.unwrap_or_default())));
            }
            _ => return Ok(None),
        };
        Ok(Some(Message::words(id, &[word])))
    }

    fn index(&self, id: u32, index: u32) -> Result<usize, Error> {
        let known = self.queues.len();
        let index = usize::try_from(index).ok().filter(|i| *i < known);
        index.ok_or_else(|| Error::protocol(id, format!("a ring that is not there; there are {known}")))
    }

    fn told(&mut self, message: &mut Message) -> Result<(), Error> {
        let id = message.request;
        match id {
            request::SET_OWNER | request::RESET_OWNER => {}
            request::SET_FEATURES => {
                let features = message.word()?;
                let extra = features & !(self.device.features() | feature::PROTOCOL_FEATURES);
                if extra != 0 {
                    return Err(Error::protocol(id, format!("features {extra:#x} that the device has not")));
                }
                self.features = features;
                self.device.set_features(features & !feature::PROTOCOL_FEATURES);
                if features & feature::PROTOCOL_FEATURES == 0 {
                    self.queues.iter_mut().for_each(|q| q.enabled = true);
                }
            }
            request::SET_PROTOCOL_FEATURES => self.protocol = message.word()? & self.protocol_features(),
            request::SET_MEM_TABLE => {
                let regions = message.as_table()?;
                self.stop_all();
                self.memory = Arc::new(Memory::map(regions, std::mem::take(&mut message.fds))?);
                return self.start_all();
            }
            request::ADD_MEM_REG | request::REM_MEM_REG => {
                let region = message.as_region()?;
                self.stop_all();
                let mut memory = Memory::clone(&self.memory);
                let file = message.fds.pop();
                match (id, file) {
                    (request::ADD_MEM_REG, Some(file)) => memory.add(region, &file)?,
                    (request::REM_MEM_REG, _) if memory.remove(&region) => {}
                    _ => return Err(Error::protocol(id, "expected a descriptor, or a piece that is there")),
                }
                self.memory = Arc::new(memory);
                return self.start_all();
            }
            request::SET_BACKEND_REQ_FD if self.protocol & protocol::BACKEND_REQ != 0 => {
                let fd = message.fds.pop();
                let fd = fd.ok_or_else(|| Error::protocol(id, "expected a descriptor"))?;
                let reverse = Channel::new(fd.into());
                reverse.set_patience(Some(PATIENCE))?;
                self.reverse = Some(reverse);
            }
            request::SET_CONFIG => {
                let (offset, bytes) = message.as_config()?;
                if !self.device.set_config(offset, bytes) {
                    return Err(Error::protocol(id, "the device refuses"));
                }
            }
            request::SET_VRING_NUM | request::SET_VRING_BASE | request::SET_VRING_ENABLE => {
                let (index, number) = message.as_vring()?;
                let index = self.index(id, index)?;
                let bad = |_| Error::protocol(id, format!("{number}: expected less than 65536"));
                self.stop(index);
                let queue = &mut self.queues[index];
                match id {
                    request::SET_VRING_NUM => queue.size = number.try_into().map_err(bad)?,
                    request::SET_VRING_BASE => queue.base = number.try_into().map_err(bad)?,
                    _ => queue.enabled = number != 0,
                }
                return self.start(index);
            }
            request::SET_VRING_ADDR => {
                let address = message.as_address()?;
                let index = self.index(id, address.index)?;
                self.stop(index);
                self.queues[index].address = Some(address);
                return self.start(index);
            }
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
                let (index, fd) = message.as_event()?;
                let index = self.index(id, index)?;
                let event = fd.map(Event::from_peer).transpose().map_err(|e| Error::host("an event", e))?;
                self.stop(index);
                let queue = &mut self.queues[index];
                match id {
                    request::SET_VRING_KICK => queue.kick = event,
                    request::SET_VRING_CALL => queue.call = event,
                    // Nothing that can go wrong with a ring leaves the session standing.
                    _ => {}
                }
                return self.start(index);
            }
            _ => return Err(Error::protocol(id, "not supported")),
        }
        Ok(())
    }

    fn stop(&mut self, index: usize) {
        if std::mem::take(&mut self.queues[index].running) {
            self.queues[index].base = self.device.stop(index as u16);
        }
    }

    fn start_all(&mut self) -> Result<(), Error> {
        (0..self.queues.len()).try_for_each(|i| self.start(i))
    }

    /// Starts a ring if all that it needs is there.
    fn start(&mut self, index: usize) -> Result<(), Error> {
        let event_idx = self.features & feature::EVENT_IDX != 0;
        let queue = &mut self.queues[index];
        let (Some(address), Some(kick), true) =
            (&queue.address, &queue.kick, queue.enabled && queue.size > 0)
        else {
            return Ok(());
        };
        let copy = |e: &Event| e.try_clone().map_err(|e| Error::host("an event", e));
        let (kick, call) = (copy(kick)?, queue.call.as_ref().map(copy).transpose()?);
        let ring = DeviceRing::new(self.memory.clone(), address, (queue.size, queue.base), event_idx)?;
        queue.running = true;
        self.device.start(index as u16, Ring { ring, kick, call });
        Ok(())
    }
}
