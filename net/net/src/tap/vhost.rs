//! vhost-net: the kernel moves frames between a tap device and a card's own rings.
//!
//! One descriptor of the kernel's serves one pair of rings and one queue of the device. While it does, our threads leave the
//! device alone, and queues of it that no pair has are detached, so that nothing is steered to them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vhost::{Backend, Error, Kernel, NET, Plan, Table};

use super::device::Queue;
use crate::fd::Carried;

/// Whether the kernel is to serve a card's rings.
#[derive(Debug, Default)]
pub struct TapVhost {
    /// Open descriptors of vhost-net, one for each queue; none has them opened.
    pub fds: Option<Vec<OwnedFd>>,
    /// Do without the device rather than without that.
    pub forced: bool,
}

/// In vhost-net: the kernel makes and takes the headers, as the tap device has none.
const MAKES_HEADERS: u64 = 1 << 27;
const MRG_RXBUF: u64 = 1 << 15;
const MQ: u64 = 1 << 22;
const VERSION_1: u64 = 1 << 32;
/// What the tap device does with frames that have headers, CSUM, TSO, ECN and USO both ways; the last if it has it.
const OFFLOADS: u64 = 0b11 | 0b111 << 7 | 0b111 << 11;
const USO: u64 = 0b111 << 54;

/// The kernel's end.
pub(super) struct Served {
    queues: Arc<Carried<Queue>>,
    kernels: Vec<Kernel>,
    /// Features of the tap device itself.
    tap: u64,
    /// Length of the header that our own threads are used to; 0 without.
    header: Arc<AtomicUsize>,
    /// The same while the kernel serves, 0 while it does not.
    serving: AtomicUsize,
    /// How many rings it serves.
    rings: AtomicUsize,
}

/// Opens vhost-net for each queue, or takes what there is.
pub(super) fn kernels(fds: Option<Vec<OwnedFd>>, queues: usize) -> Result<Vec<Kernel>, Error> {
    match fds {
        Some(fds) => fds.into_iter().map(|fd| Kernel::from_fd(NET, fd)).collect(),
        None => (0..queues).map(|_| Kernel::open(NET)).collect(),
    }
}

impl Served {
    pub(super) fn new(
        queues: Arc<Carried<Queue>>,
        kernels: Vec<Kernel>,
        header: Arc<AtomicUsize>,
        uso: bool,
    ) -> Self {
        let offloads = OFFLOADS | if uso { USO } else { 0 };
        let tap = MQ | if header.load(Ordering::Relaxed) == 0 { 0 } else { offloads };
        let (serving, rings) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Served { queues, kernels, tap, header, serving, rings }
    }

    /// Length of the header that the kernel and the card use between them, if they do.
    pub(super) fn header(&self) -> Option<usize> {
        Some(self.serving.load(Ordering::Acquire)).filter(|n| *n != 0)
    }

    fn serve(&self, plan: &Plan<'_>, header: usize) -> Result<(), Error> {
        let failed = |e| Error::Host { what: "the tap device's header".into(), source: e };
        let makes = if self.tap & OFFLOADS == 0 { MAKES_HEADERS } else { 0 };
        let mut known = *plan;
        known.features &= !(self.tap | MAKES_HEADERS);
        known.features |= makes;
        let pairs = plan.rings.chunks(2);
        for (kernel, rings) in self.kernels.iter().zip(pairs.clone()) {
            kernel.prepare(&known, rings)?;
        }
        for (i, queue) in self.queues.carriers().enumerate() {
            if makes == 0 {
                queue.set_header(header).map_err(failed)?;
            }
            queue.set_attached(i < pairs.len());
        }
        for ((kernel, queue), _) in self.kernels.iter().zip(self.queues.carriers()).zip(pairs) {
            kernel.set_socket(Some(queue.as_fd()))?;
        }
        Ok(())
    }
}

impl Backend for Served {
    fn features(&self) -> Option<u64> {
        let of = |k: &Kernel| k.features() & !MAKES_HEADERS;
        Some(self.kernels.iter().map(of).fold(!0, |all, f| all & f) | self.tap)
    }

    fn maps_files(&self) -> bool {
        false
    }

    fn start(&self, plan: &Plan<'_>) -> Result<(), Error> {
        if plan.rings.len() > 2 * self.kernels.len() {
            return Err(Error::Pieces(plan.rings.len() / 2, self.kernels.len()));
        }
        let header = if plan.features & (MRG_RXBUF | VERSION_1) != 0 { 12 } else { 10 };
        self.queues.set_resting(true);
        self.serving.store(header, Ordering::Release);
        self.rings.store(plan.rings.len(), Ordering::Release);
        let served = self.serve(plan, header);
        if served.is_err() {
            self.stop();
        }
        served
    }

    fn set_memory(&self, memory: &Table) -> Result<(), Error> {
        self.kernels.iter().try_for_each(|k| k.set_memory(memory))
    }

    fn stop(&self) -> Option<Vec<u16>> {
        let pairs = self.rings.swap(0, Ordering::AcqRel) / 2;
        let mut bases = Some(Vec::new());
        for kernel in self.kernels.iter().take(pairs) {
            let stopped = kernel.set_socket(None).is_ok();
            let own = kernel.bases(2).filter(|_| stopped);
            bases = bases.zip(own).map(|(all, own)| [all, own].concat());
        }
        self.serving.store(0, Ordering::Release);
        let header = self.header.load(Ordering::Relaxed);
        for queue in self.queues.carriers() {
            queue.set_attached(true);
            if header != 0
                && let Err(e) = queue.set_header(header)
            {
                tracing::warn!("a tap device does not take its header back: {e}");
            }
        }
        self.queues.set_resting(false);
        bases
    }
}
