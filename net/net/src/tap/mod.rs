//! Linux tap devices: `-netdev tap` and `bridge`.

mod device;
mod helper;
mod vhost;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::device::{NAME_SIZE, Queue};
pub use self::vhost::TapVhost;
use self::vhost::{Served, kernels};
use crate::fd::Carried;
use crate::{Endpoint, NetError, NetReceiver};

/// Most queues of one device; the kernel's limit.
const MOST_QUEUES: usize = 256;

/// Where a tap device comes from.
#[derive(Debug)]
pub enum TapSource {
    /// An interface that is made, or exists and is ours to use.
    Open {
        /// Its name, or a pattern such as `tap%d`; the host chooses one if empty.
        name: String,
        /// Number of queues.
        queues: usize,
        /// Run with the interface's name once it is there, and again before it goes.
        scripts: (Option<PathBuf>, Option<PathBuf>),
    },
    /// Open descriptors, one for each queue.
    Inherited(Vec<OwnedFd>),
    /// A helper makes one on a bridge.
    Bridge {
        /// The helper, unless one is to be looked for.
        helper: Option<String>,
        /// Name of the bridge.
        bridge: String,
    },
}

/// How to open a tap device.
#[derive(Debug)]
pub struct TapOptions {
    /// Where it comes from.
    pub source: TapSource,
    /// Carry virtio-net headers, so that offloads can be used. `None` means: if the device has them.
    pub vnet_header: Option<bool>,
    /// Bytes the host's kernel may keep of what was sent.
    pub send_buffer: Option<u32>,
    /// Have the kernel serve a card's rings where it can.
    pub vhost: Option<TapVhost>,
}

impl TapOptions {
    /// An interface by name with one queue and without scripts.
    pub fn named(name: &str, vnet_header: bool) -> Self {
        let source = TapSource::Open { name: name.to_owned(), queues: 1, scripts: (None, None) };
        TapOptions { source, vnet_header: Some(vnet_header), send_buffer: None, vhost: None }
    }
}

/// A tap device. It is gone with the last handle unless it was made persistent.
pub struct Tap {
    queues: Arc<Carried<Queue>>,
    name: String,
    header: Arc<AtomicUsize>,
    vhost: Option<Arc<Served>>,
    /// Why there is none, although it was asked for.
    without: Option<::vhost::Error>,
    uso: bool,
    /// Run before it goes.
    down: Option<PathBuf>,
}

impl Tap {
    /// Opens or makes the device; needs the right to do so on this host.
    pub fn open(options: TapOptions) -> Result<Self, NetError> {
        let (queues, name, header, down) = match options.source {
            TapSource::Open { name, queues, scripts: (up, down) } => {
                let header = options.vnet_header.unwrap_or(true);
                let (queues, name) = make(&name, queues, header)?;
                if let Some(script) = up {
                    helper::script(&script, &name)?;
                }
                (queues, name, header, down)
            }
            TapSource::Inherited(fds) => {
                let (queues, name, header) = take(fds, options.vnet_header)?;
                (queues, name, header, None)
            }
            TapSource::Bridge { helper, bridge } => {
                let fd = helper::bridge(helper.as_deref(), &bridge)?;
                let (queues, name, header) = take(vec![fd], options.vnet_header)?;
                (queues, name, header, None)
            }
        };
        if let Some(bytes) = options.send_buffer {
            for queue in &queues {
                let failed = |e| NetError::host(format!("tap device '{name}': sndbuf={bytes}"), e);
                queue.set_send_buffer(bytes).map_err(failed)?;
            }
        }
        let uso = header && queues.iter().all(Queue::has_uso);
        let count = queues.len();
        let kernel = match options.vhost {
            None => None,
            Some(TapVhost { fds: Some(fds), .. }) if fds.len() != count => {
                let found = fds.len();
                return Err(NetError::Option(format!(
                    "vhostfds: expected {count}, one a queue, found {found}"
                )));
            }
            Some(TapVhost { fds, forced }) => match kernels(fds, count) {
                Err(e) if forced => return Err(NetError::Vhost(e)),
                other => Some(other),
            },
        };
        let queues = Arc::new(Carried::new(&name, queues)?);
        let header = Arc::new(AtomicUsize::new(if header { 10 } else { 0 }));
        let (mut vhost, mut without) = (None, None);
        match kernel {
            Some(Ok(kernels)) => {
                vhost = Some(Arc::new(Served::new(queues.clone(), kernels, header.clone(), uso)));
            }
            Some(Err(e)) => without = Some(e),
            None => {}
        }
        Ok(Tap { queues, name, header, vhost, without, uso, down })
    }

    /// Why the kernel will not serve a card's rings, if that was asked for and is not possible.
    pub fn without_vhost(&self) -> Option<&::vhost::Error> {
        self.without.as_ref()
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn make(name: &str, queues: usize, header: bool) -> Result<(Vec<Queue>, String), NetError> {
    if name.len() >= NAME_SIZE {
        return Err(NetError::Option(format!("tap name '{name}': expected at most 15 bytes")));
    }
    if !(1..=MOST_QUEUES).contains(&queues) {
        return Err(NetError::Option(format!("queues={queues}: expected 1 to {MOST_QUEUES}")));
    }
    let failed = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound => " (/dev/net/tun is missing: load the module tun)",
            io::ErrorKind::PermissionDenied => {
                " (needs CAP_NET_ADMIN, or an interface made for this user with ip tuntap)"
            }
            io::ErrorKind::ResourceBusy => " (in use by somebody else; choose another ifname)",
            io::ErrorKind::InvalidInput if queues > 1 => " (was it made without multi_queue?)",
            _ => "",
        };
        NetError::host(format!("tap device '{name}'{hint}"), e)
    };
    let (first, name) = Queue::open(name, header, queues > 1).map_err(failed)?;
    let mut all = vec![first];
    for _ in 1..queues {
        all.push(Queue::open(&name, header, true).map_err(failed)?.0);
    }
    Ok((all, name))
}

fn take(fds: Vec<OwnedFd>, wanted: Option<bool>) -> Result<(Vec<Queue>, String, bool), NetError> {
    let mut all = Vec::new();
    let mut first: Option<(String, bool)> = None;
    for fd in fds {
        let failed = |e| NetError::host("fd: expected a descriptor of a tap device", e);
        let (queue, name, header) = Queue::inherited(fd).map_err(failed)?;
        if wanted.is_some_and(|w| w != header) {
            let has = if header { "has" } else { "has no" };
            return Err(NetError::Option(format!(
                "tap device '{name}' {has} vnet_hdr, contrary to vnet_hdr="
            )));
        }
        if first.as_ref().is_some_and(|(n, h)| (n, h) != (&name, &header)) {
            return Err(NetError::Option("fds: expected descriptors of one tap device".into()));
        }
        first = Some((name, header));
        all.push(queue);
    }
    let (name, header) = first.ok_or_else(|| NetError::Option("fds: expected at least one".into()))?;
    Ok((all, name, header))
}

impl Endpoint for Tap {
    fn send(&self, frame: &[&[u8]]) -> bool {
        // The kernel sends what belongs to a flow back on the queue the flow last came from.
        self.queues.send(frame, self.vnet_header())
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.queues.set_receiver(receiver);
    }

    fn accept_input(&self) {
        self.queues.accept_input();
    }

    fn vnet_header(&self) -> usize {
        self.header.load(Ordering::Relaxed)
    }

    fn has_uso(&self) -> bool {
        self.uso
    }

    fn queues(&self) -> u16 {
        self.queues.queues()
    }

    fn has_rings(&self) -> bool {
        self.vhost.as_ref().is_some_and(|v| v.header().is_some())
    }

    fn rings(&self) -> Option<Arc<dyn ::vhost::Backend>> {
        self.vhost.clone().map(|v| v as Arc<dyn ::vhost::Backend>)
    }

    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        if self.vnet_header() == 0 || !matches!(header, 10 | 12) {
            return false;
        }
        let now = self.vhost.as_ref().and_then(|v| v.header()).unwrap_or(header);
        let done = self.queues.carriers().all(|q| q.set_offload(now, guest_features).is_ok());
        if done {
            self.header.store(header, Ordering::Relaxed);
        }
        done
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Some(script) = self.down.take()
            && let Err(e) = helper::script(&script, &self.name)
        {
            tracing::warn!("{e}");
        }
    }
}

#[cfg(test)]
mod tests;
