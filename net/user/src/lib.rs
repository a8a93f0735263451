//! `-netdev user`: a network for guests without privileges.
//!
//! The guest sits on an Ethernet behind a gateway, a name server, a DHCP and perhaps a TFTP server, all of them made
//! here. What it sends beyond goes out through ordinary sockets of the host: TCP connections end here and their payload
//! is handed on, datagrams are sent from a socket for each of the guest's, echoes from ping sockets. Nothing needs
//! privileges.
//!
//! One thread does all of it (`worker`); the NIC only puts frames into its inbox. Frames have virtio-net's header in
//! both directions, so that a guest can send and take segments of up to 64 KiB and leave checksums alone.
//!
//! Bounds: the inbox, connections, sockets, fragments, transfers and bytes kept for either side; see the constants of
//! each file.

mod config;
mod dhcp;
mod error;
mod errors;
mod forward;
mod icmp;
mod nat;
mod neighbour;
mod out;
mod packet;
mod requests;
mod smb;
mod sum;
mod tcp;
mod tftp;
mod udp;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use mio::{Poll, Waker};
use net::{Endpoint, MAX_FRAME, NetReceiver, ReceiverSlot};
use parking_lot::Mutex;

pub use config::{KEYS, Net4, Net6, Options, UserConfig};
pub use error::UserError;
pub use forward::{Behind, GuestForward, HostForward, Listen};

use worker::{Kind, Worker, token};

/// Frames from the guest that wait, in bytes.
const INBOX: usize = 8 << 20;
/// Buffers kept for the next frames.
const SPARE: usize = 64;

/// A frame of the guest's.
struct Frame {
    /// Its virtio-net header.
    head: [u8; out::VNET],
    data: Vec<u8>,
}

#[derive(Default)]
struct Inbox {
    frames: Vec<Frame>,
    /// What users ask.
    requests: Vec<requests::Request>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    retry: bool,
    closed: bool,
    /// The worker waits, or is about to.
    asleep: bool,
}

/// What the NIC's threads and the worker share.
struct Shared {
    inbox: Mutex<Inbox>,
    waker: Waker,
    receiver: ReceiverSlot,
    /// Bits of virtio-net's `VIRTIO_NET_F_GUEST_*`.
    offloads: AtomicU64,
    connections: AtomicUsize,
}

impl Shared {
    /// Says that the worker is going to wait; `false` if there is something for it to do.
    fn sleeps(&self) -> bool {
        let mut inbox = self.inbox.lock();
        inbox.asleep = inbox.frames.is_empty() && inbox.requests.is_empty() && !inbox.retry && !inbox.closed;
        inbox.asleep
    }

    /// Takes what has come; whether the guest may have room again, or `None` at the end.
    fn take(&self, frames: &mut Vec<Frame>, requests: &mut Vec<requests::Request>) -> Option<bool> {
        let mut inbox = self.inbox.lock();
        inbox.asleep = false;
        if inbox.closed {
            return None;
        }
        std::mem::swap(&mut inbox.frames, frames);
        requests.append(&mut inbox.requests);
        inbox.bytes = 0;
        Some(std::mem::take(&mut inbox.retry))
    }

    /// A buffer for a frame to come.
    fn give_back(&self, frame: Vec<u8>) {
        let mut inbox = self.inbox.lock();
        if inbox.spare.len() < SPARE {
            inbox.spare.push(frame);
        }
    }

    /// Changes the inbox and wakes the worker if it waits.
    fn tell(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        change(&mut inbox);
        if std::mem::take(&mut inbox.asleep) {
            drop(inbox);
            // It cannot fail but for a worker that has ended.
            let _ = self.waker.wake();
        }
    }
}

/// The network; it ends when it is dropped.
pub struct UserNet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Where rules without an address lead.
    first_guest: Option<std::net::IpAddr>,
    /// What the file server needs for as long as there may be connections to it.
    _smb: Option<smb::Smb>,
}

/// Lets this process have as many descriptors as the host allows it: each connection of the guest's takes one.
fn more_descriptors() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            limit.current = limit.maximum;
            if let Err(e) = setrlimit(Resource::Nofile, limit) {
                tracing::debug!("user network: the limit of descriptors stays: {e}");
            }
        }
    }
}

impl UserNet {
    /// Makes the network and opens the ports that lead in.
    ///
    /// # Errors
    /// A port cannot be opened, `smbd` is not there, or the host refuses a thread.
    pub fn new(mut config: UserConfig) -> Result<Self, UserError> {
        more_descriptors();
        let smb = smb::Smb::start(&mut config)?;
        let failed = |e| UserError::host("user network", e);
        let poll = Poll::new().map_err(failed)?;
        let waker = Waker::new(poll.registry(), token(Kind::Wake, 0)).map_err(failed)?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            waker,
            receiver: ReceiverSlot::default(),
            offloads: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
        });
        let first_guest = config.first_guest();
        let worker = Worker::new(config, poll, shared.clone())?;
        let thread = std::thread::Builder::new()
            .name("net-user".into())
            .spawn(move || worker.run())
            .map_err(failed)?;
        Ok(UserNet { shared, thread: Some(thread), first_guest, _smb: smb })
    }

    /// TCP connections there are now.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Endpoint for UserNet {
    fn send(&self, frame: &[&[u8]]) -> bool {
        let length: usize = frame.iter().map(|p| p.len()).sum();
        if length > MAX_FRAME {
            return false;
        }
        let mut taken = false;
        self.shared.tell(|inbox| {
            if inbox.bytes + length <= INBOX {
                let mut data = inbox.spare.pop().unwrap_or_default();
                data.clear();
                let (mut head, mut filled) = ([0; out::VNET], 0);
                for piece in frame {
                    let (first, rest) = piece.split_at(piece.len().min(out::VNET - filled));
                    head[filled..filled + first.len()].copy_from_slice(first);
                    filled += first.len();
                    data.extend_from_slice(rest);
                }
                inbox.frames.push(Frame { head, data });
                inbox.bytes += length;
                taken = true;
            }
        });
        taken
    }

    fn send_owned(&self, head: &[u8], frame: &mut Vec<u8>) -> bool {
        let length = head.len() + frame.len();
        let (Ok(head), true) = (<[u8; out::VNET]>::try_from(head), length <= MAX_FRAME) else {
            return self.send(&[head, frame]);
        };
        let mut taken = false;
        self.shared.tell(|inbox| {
            if inbox.bytes + length <= INBOX {
                let spare = inbox.spare.pop().unwrap_or_default();
                inbox.frames.push(Frame { head, data: std::mem::replace(frame, spare) });
                inbox.bytes += length;
                taken = true;
            }
        });
        taken
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.shared.receiver.set(receiver);
        self.accept_input();
    }

    fn accept_input(&self) {
        self.shared.tell(|inbox| inbox.retry = true);
    }

    fn vnet_header(&self) -> usize {
        out::VNET
    }

    fn has_uso(&self) -> bool {
        true
    }

    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        if header != out::VNET {
            return false;
        }
        self.shared.offloads.store(guest_features, Ordering::Relaxed);
        true
    }
}

impl Drop for UserNet {
    fn drop(&mut self) {
        self.shared.tell(|inbox| inbox.closed = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
