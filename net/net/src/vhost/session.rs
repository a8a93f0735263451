//! Rings and buffers of one session, in memory that the back end maps.
//!
//! Memory, for each pair of rings: the receive ring, the send ring, then the buffers of both. Every descriptor has a buffer of
//! its own, which is where it was put; an entry's id thus says where its bytes are.
//!
//! All of this rests while the back end has a card's rings ([`Session::hand_over`]), and begins anew afterwards. The back end keeps
//! both memories from then on.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use guest_memory::{Backing, RamBlock, RamConfig};
use vhost::{Plan, Table, user};
use vhost_user::{DriverRing, Event, Front, Region, feature, protocol};

use crate::flow::spread;
use crate::{MAX_FRAME, NetError};

/// Length of the virtio-net header.
pub(super) const HEADER: usize = 12;

/// Feature bits of virtio-net (virtio 1.2, 5.1.3).
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const MRG_RXBUF: u64 = 1 << 15;
const MQ: u64 = 1 << 22;
const GUEST_USO: u64 = 1 << 54 | 1 << 55;
const HOST_USO: u64 = 1 << 56;
/// What a card's driver may count on when the header passes through.
const HOST: u64 = CSUM | HOST_TSO4 | HOST_TSO6;
const GUEST: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO;

/// The longest frame with its header takes a buffer of this size.
const WHOLE: u64 = (HEADER + MAX_FRAME).next_multiple_of(4096) as u64;
/// Entries of the send ring, and of the receive ring if a frame is in one buffer.
const ENTRIES: u16 = 64;
/// The same if a frame may span buffers, and how long these are then.
const PIECES: u16 = 256;
const PIECE: u64 = 4096;

const SEND_RING: u64 = 0x8000;
const BUFFERS: u64 = 0x10000;
/// Addresses under which the back end knows the memory: beyond those that a guest has memory at, and that this process has.
const GUEST_BASE: u64 = 1 << 56;
const USER_BASE: u64 = 1 << 32;

/// Two rings, running.
struct Pair {
    /// Number of the receive ring; the send ring's is the next.
    index: u32,
    /// Where its memory begins.
    at: u64,
    memory: Arc<RamBlock>,
    receive: DriverRing,
    send: DriverRing,
    /// Descriptors of the send ring that the back end does not have.
    free: Vec<u16>,
    receive_events: (Event, Event),
    send_events: (Event, Event),
    /// A frame of which pieces are missing, and how many.
    partial: Vec<u8>,
    missing: u16,
}

/// All rings.
pub(super) struct Session {
    front: Front,
    pairs: Vec<Pair>,
    memory: Arc<RamBlock>,
    /// Features in use.
    features: u64,
    /// Numbers of the card's rings that are served in the place of ours.
    handed: Option<Vec<u16>>,
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> NetError {
    NetError::host(format!("vhost-user: {what}"), std::io::Error::other(error))
}

impl Session {
    /// Begins a session on a connected socket, with as many pairs of rings and the offloads the guest takes.
    pub(super) fn new(socket: UnixStream, queues: u16, offloads: u64) -> Result<Self, NetError> {
        let gone = |e| failed("the back end", e);
        let front = Front::new(socket, protocol::REPLY_ACK | protocol::MQ | protocol::RARP).map_err(gone)?;
        let features = front.features();
        if features & feature::VERSION_1 == 0 {
            return Err(NetError::Option(format!(
                "vhost-user: the back end has features {features:#x}, expected VIRTIO_F_VERSION_1 (bit 32)"
            )));
        }
        let most = front.queues().map_err(gone)?;
        if most < u64::from(queues) {
            return Err(NetError::Option(format!("queues={queues}: the back end has {most}")));
        }
        let (entries, length) = if features & MRG_RXBUF != 0 { (PIECES, PIECE) } else { (ENTRIES, WHOLE) };
        let each = BUFFERS + u64::from(entries) * length + u64::from(ENTRIES) * WHOLE;
        let size = each * u64::from(queues);
        let config = RamConfig { backing: Backing::Memfd { huge: None }, ..RamConfig::default() };
        let memory = RamBlock::new("vhost-user", size, &config).map_err(|e| failed("shared memory", e))?;
        let pairs = (0..queues).map(|n| {
            let at = each * u64::from(n);
            let ring = |at, size| DriverRing::new(memory.clone(), at, size).map_err(|e| failed("a ring", e));
            let event = || Event::new().map_err(|e| failed("an event", e));
            Ok(Pair {
                index: 2 * u32::from(n),
                at,
                memory: memory.clone(),
                receive: ring(at, entries)?,
                send: ring(at + SEND_RING, ENTRIES)?,
                free: Vec::new(),
                receive_events: (event()?, event()?),
                send_events: (event()?, event()?),
                partial: Vec::new(),
                missing: 0,
            })
        });
        let pairs = pairs.collect::<Result<_, NetError>>()?;
        let mut session = Session { pairs, memory, features: 0, handed: None, front };
        session.front.set_features(session.wanted(offloads)).map_err(gone)?;
        session.front.set_memory(&[Self::own(&session.memory).map_err(gone)?]).map_err(gone)?;
        session.start(offloads).map_err(gone)?;
        Ok(session)
    }

    /// Our memory as the back end is given it.
    fn own(memory: &RamBlock) -> Result<user::Own<'_>, vhost_user::Error> {
        let region = Region { guest: GUEST_BASE, size: memory.size(), user: USER_BASE, offset: 0 };
        Ok((region, memory.file().ok_or(vhost_user::Error::Gone)?.as_fd()))
    }

    /// Features of the back end.
    pub(super) fn features(&self) -> u64 {
        self.front.features()
    }

    /// Whether the back end has a card's rings.
    pub(super) fn is_handed(&self) -> bool {
        self.handed.is_some()
    }

    /// Has the back end serve a card's rings. If it cannot, it has ours again.
    pub(super) fn hand_over(&mut self, plan: &Plan<'_>, offloads: u64) -> Result<(), vhost::Error> {
        self.pairs.iter().try_for_each(|pair| pair.stop(&self.front))?;
        let started = user::start(&self.front, Self::own(&self.memory)?, plan);
        self.handed = Some(plan.rings.iter().map(|r| r.index).collect());
        if started.is_err() {
            self.take_back(offloads);
        }
        started
    }

    /// Gives the back end the memory that the guest has now.
    pub(super) fn set_memory(&self, memory: &Table) -> Result<(), vhost::Error> {
        user::set_memory(&self.front, Self::own(&self.memory)?, memory)
    }

    /// Takes a card's rings back: the entries they go on with. A session that does not go on with ours is over, which the
    /// thread sees by its socket.
    pub(super) fn take_back(&mut self, offloads: u64) -> Option<Vec<u16>> {
        let rings = self.handed.take()?;
        let bases = user::stop(&self.front, &rings).ok();
        if let Err(e) = self.start(offloads) {
            tracing::warn!("vhost-user: {e}");
        }
        bases
    }

    /// Has the back end announce a card's address while it has the card's rings.
    pub(super) fn announce(&self, address: [u8; 6]) -> bool {
        self.front.send_rarp(address).unwrap_or(false)
    }

    fn wanted(&self, offloads: u64) -> u64 {
        let spread = if self.pairs.len() > 1 { MQ } else { 0 };
        let plain = feature::VERSION_1 | MRG_RXBUF | HOST | HOST_ECN | HOST_USO | (offloads & GUEST) | spread;
        self.front.features() & plain
    }

    /// Whether a card's header may pass through: the back end does all that a driver may leave to it.
    pub(super) fn has_offloads(&self) -> bool {
        self.front.features() & HOST == HOST
    }

    /// Whether it takes and gives several datagrams in one frame.
    pub(super) fn has_uso(&self) -> bool {
        self.front.features() & (HOST_USO | GUEST_USO) == HOST_USO | GUEST_USO
    }

    /// Starts all rings anew.
    fn start(&mut self, offloads: u64) -> Result<(), vhost_user::Error> {
        self.features = self.wanted(offloads);
        self.front.set_features(self.features)?;
        self.pairs.iter_mut().try_for_each(|pair| pair.start(&self.front))
    }

    /// The guest takes other offloads now. What is under way is lost.
    pub(super) fn set_offloads(&mut self, offloads: u64) -> Result<(), vhost_user::Error> {
        if self.wanted(offloads) == self.features {
            return Ok(());
        }
        self.pairs.iter().try_for_each(|pair| pair.stop(&self.front))?;
        self.start(offloads)
    }

    /// Sends a frame behind its header; `false` if the back end has taken none for long.
    pub(super) fn send(&mut self, header: &[u8; HEADER], frame: &[&[u8]]) -> bool {
        let which = spread(frame, 0, self.pairs.len());
        self.pairs[which].send(header, frame)
    }

    /// The next frame with its header.
    pub(super) fn receive(&mut self) -> Option<Vec<u8>> {
        let merges = self.features & MRG_RXBUF != 0;
        self.pairs.iter_mut().find_map(|pair| pair.receive(merges))
    }

    /// Shows the back end the buffers that were taken from it.
    pub(super) fn refill(&mut self) {
        for pair in &mut self.pairs {
            if pair.receive.publish().unwrap_or(false) {
                pair.receive_events.0.signal();
            }
        }
    }

    /// The events of received frames, and the socket, which is readable when the back end is gone.
    pub(super) fn handles(&self) -> Option<(Vec<Event>, std::os::fd::OwnedFd)> {
        let events = self.pairs.iter().map(|p| p.receive_events.1.try_clone().ok()).collect::<Option<_>>()?;
        Some((events, self.front.socket().try_clone_to_owned().ok()?))
    }
}

impl Pair {
    /// Takes both rings from the back end.
    fn stop(&self, front: &Front) -> Result<(), vhost_user::Error> {
        front.stop(self.index)?;
        front.stop(self.index + 1).map(drop)
    }

    /// Starts both rings anew.
    fn start(&mut self, front: &Front) -> Result<(), vhost_user::Error> {
        let broken = |_| vhost_user::Error::Gone;
        let (at, size) = (self.at, self.receive.size());
        self.receive = DriverRing::new(self.memory.clone(), at, size).map_err(broken)?;
        self.send = DriverRing::new(self.memory.clone(), at + SEND_RING, ENTRIES).map_err(broken)?;
        self.send.set_quiet(true).map_err(broken)?;
        self.free = (0..ENTRIES).collect();
        (self.partial, self.missing) = (Vec::new(), 0);
        (0..size).try_for_each(|id| self.give(id)).map_err(broken)?;
        self.receive.publish().map_err(broken)?;
        let (kick, call) = &self.receive_events;
        front.start(&self.receive.address(self.index, USER_BASE), (size, 0), (kick, call))?;
        kick.signal();
        let (kick, call) = &self.send_events;
        front.start(&self.send.address(self.index + 1, USER_BASE), (ENTRIES, 0), (kick, call))
    }

    /// Bytes of a buffer for receiving.
    fn piece(&self) -> u64 {
        if self.receive.size() == PIECES { PIECE } else { WHOLE }
    }

    fn receive_buffer(&self, id: u16) -> u64 {
        self.at + BUFFERS + u64::from(id) * self.piece()
    }

    fn send_buffer(&self, id: u16) -> u64 {
        self.at + BUFFERS + u64::from(self.receive.size()) * self.piece() + u64::from(id) * WHOLE
    }

    fn give(&mut self, id: u16) -> Result<(), guest_memory::RamError> {
        let (at, length) = (self.receive_buffer(id), self.piece());
        self.receive.post(id, GUEST_BASE + at, length as u32, true)
    }

    fn send(&mut self, header: &[u8; HEADER], frame: &[&[u8]]) -> bool {
        while let Ok(Some((id, _))) = self.send.take() {
            self.free.push(id);
        }
        let length: usize = frame.iter().map(|p| p.len()).sum();
        if length > MAX_FRAME {
            return false;
        }
        let Some(id) = self.free.pop() else { return false };
        let mut at = self.send_buffer(id);
        let start = at;
        for piece in std::iter::once(&header[..]).chain(frame.iter().copied()) {
            if self.memory.write(at, piece).is_err() {
                return false;
            }
            at += piece.len() as u64;
        }
        let posted = self.send.post(id, GUEST_BASE + start, (at - start) as u32, false);
        match posted.and_then(|()| self.send.publish()) {
            Ok(wake) => {
                if wake {
                    self.send_events.0.signal();
                }
                true
            }
            Err(_) => false,
        }
    }

    /// The next frame; with `merges` it may span buffers.
    fn receive(&mut self, merges: bool) -> Option<Vec<u8>> {
        while let Ok(Some((id, length))) = self.receive.take() {
            let (at, length) = (self.receive_buffer(id), u64::from(length).min(self.piece()) as usize);
            let before = self.partial.len();
            if before + length <= HEADER + MAX_FRAME {
                self.partial.resize(before + length, 0);
                // It lies in memory, as all buffers do.
                let _ = self.memory.read(at, &mut self.partial[before..]);
            }
            let _ = self.give(id);
            if before == 0 && self.missing == 0 {
                let pieces = self.partial.get(HEADER - 2..HEADER).map(|b| u16::from_le_bytes([b[0], b[1]]));
                self.missing = if merges { pieces.unwrap_or(1).max(1) } else { 1 };
            }
            self.missing -= 1;
            if self.missing == 0 {
                let frame = std::mem::take(&mut self.partial);
                if frame.len() > HEADER {
                    return Some(frame);
                }
            }
        }
        None
    }
}
