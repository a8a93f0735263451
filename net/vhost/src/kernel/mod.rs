//! Drivers of the host's kernel that serve rings: vhost-net behind a tap device, vhost-vsock.
//!
//! Source: `linux/vhost.h`, `linux/vhost_types.h`. The kernel works in the address space of the process that owns the
//! descriptor, so memory is named by where it is here. One descriptor of vhost-net serves one pair of queues.
//!
//! The rust-vmm crate `vhost` opens its devices itself and takes no descriptor, which `vhostfd=` is about; hence the ioctls of
//! our own, behind [`Driver`] so that tests can stand in for a kernel that lacks them.

mod ioctl;
mod vsock;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use vhost_user::VringAddress;

use self::ioctl::Descriptor;
pub use self::vsock::KernelVsock;
use crate::{Error, Event, Plan, Ring, Table};

/// The device of vhost-net.
pub const NET: &str = "/dev/vhost-net";
/// The device of vhost-vsock.
pub const VSOCK: &str = "/dev/vhost-vsock";
/// Most pieces of memory; the kernel's default (`max_mem_regions` of the module `vhost`).
const MOST_PIECES: usize = 64;

/// What the kernel is asked, one method an ioctl. Rings are numbered within the descriptor.
pub trait Driver: Send + Sync {
    /// Features that the driver has.
    ///
    /// # Errors
    /// The host's, here and below.
    fn features(&self) -> io::Result<u64>;
    /// This process is the owner from now on.
    ///
    /// # Errors
    /// See above.
    fn set_owner(&self) -> io::Result<()>;
    /// Features in use.
    ///
    /// # Errors
    /// See above.
    fn set_features(&self, features: u64) -> io::Result<()>;
    /// Memory: guest physical address, size and address here of each piece.
    ///
    /// # Errors
    /// See above.
    fn set_memory(&self, pieces: &[[u64; 3]]) -> io::Result<()>;
    /// A ring's number of entries.
    ///
    /// # Errors
    /// See above.
    fn set_size(&self, ring: u32, entries: u32) -> io::Result<()>;
    /// The entry that a ring goes on with.
    ///
    /// # Errors
    /// See above.
    fn set_base(&self, ring: u32, base: u32) -> io::Result<()>;
    /// The same asked for.
    ///
    /// # Errors
    /// See above.
    fn base(&self, ring: u32) -> io::Result<u32>;
    /// Where a ring is.
    ///
    /// # Errors
    /// See above.
    fn set_address(&self, address: &VringAddress) -> io::Result<()>;
    /// The event of new entries.
    ///
    /// # Errors
    /// See above.
    fn set_kick(&self, ring: u32, event: &Event) -> io::Result<()>;
    /// The event of used entries.
    ///
    /// # Errors
    /// See above.
    fn set_call(&self, ring: u32, event: &Event) -> io::Result<()>;
    /// vhost-net: the tap device or socket that frames come from and go to; none stops the ring.
    ///
    /// # Errors
    /// See above.
    fn set_socket(&self, ring: u32, socket: Option<BorrowedFd<'_>>) -> io::Result<()>;
    /// vhost-vsock: the guest's context id.
    ///
    /// # Errors
    /// See above; somebody else has it.
    fn set_cid(&self, cid: u64) -> io::Result<()>;
    /// vhost-vsock: rings are served, or not.
    ///
    /// # Errors
    /// See above.
    fn set_running(&self, on: bool) -> io::Result<()>;
}

/// A descriptor of such a driver, owned.
pub struct Kernel {
    driver: Box<dyn Driver>,
    /// Path of its device, for messages.
    name: &'static str,
    features: u64,
}

/// What to do about a device that cannot be opened.
fn hint(name: &str, error: &io::Error) -> String {
    let module = name.rsplit('/').next().unwrap_or(name).replace('-', "_");
    match error.kind() {
        io::ErrorKind::NotFound => format!(" (missing: as root, modprobe {module})"),
        io::ErrorKind::PermissionDenied => {
            format!(" (expected read and write permission on {name}: the group kvm has it on Debian)")
        }
        _ => String::new(),
    }
}

impl Kernel {
    /// Opens a device.
    ///
    /// # Errors
    /// It is not there or not for this user: one line that says what to do.
    pub fn open(name: &'static str) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).open(name);
        let file = file.map_err(|e| Error::Host { what: format!("{name}{}", hint(name, &e)), source: e })?;
        Self::from_fd(name, file.into())
    }

    /// Takes a descriptor that somebody else has opened.
    ///
    /// # Errors
    /// It is not of such a device, or owned already.
    pub fn from_fd(name: &'static str, fd: OwnedFd) -> Result<Self, Error> {
        Self::new(name, Box::new(Descriptor(fd)))
    }

    /// Takes a driver.
    ///
    /// # Errors
    /// It is owned already.
    pub fn new(name: &'static str, driver: Box<dyn Driver>) -> Result<Self, Error> {
        let failed =
            |e| Error::Host { what: format!("{name}: expected a descriptor of that device"), source: e };
        driver.set_owner().map_err(failed)?;
        let features = driver.features().map_err(failed)?;
        Ok(Kernel { driver, name, features })
    }

    /// Features that the driver has.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// What the kernel is asked.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    fn failed(&self, what: &str) -> impl Fn(io::Error) -> Error {
        let what = format!("{}: {what}", self.name);
        move |source| Error::Host { what: what.clone(), source }
    }

    /// Gives it the guest's memory.
    ///
    /// # Errors
    /// The host's.
    pub fn set_memory(&self, memory: &Table) -> Result<(), Error> {
        let pieces = memory.pieces();
        if pieces.len() > MOST_PIECES {
            return Err(Error::Pieces(pieces.len(), MOST_PIECES));
        }
        let pieces: Vec<[u64; 3]> = pieces.iter().map(|p| [p.guest, p.size, p.host()]).collect();
        self.driver.set_memory(&pieces).map_err(self.failed("guest memory"))
    }

    /// Tells it of features, memory and rings, which are numbered here as they come. They are not served yet.
    ///
    /// # Errors
    /// A ring is out of reach; the host's.
    pub fn prepare(&self, plan: &Plan<'_>, rings: &[Ring<'_>]) -> Result<(), Error> {
        self.driver.set_features(plan.features).map_err(self.failed("features"))?;
        self.set_memory(plan.memory)?;
        for (at, ring) in (0..).zip(rings) {
            let address = ring.address(plan.memory, at)?;
            let all = || {
                self.driver.set_size(at, ring.size.into())?;
                self.driver.set_base(at, ring.base.into())?;
                self.driver.set_address(&address)?;
                self.driver.set_call(at, ring.call)?;
                self.driver.set_kick(at, ring.kick)
            };
            all().map_err(self.failed(&format!("queue {}", ring.index)))?;
        }
        Ok(())
    }

    /// Puts both rings of vhost-net behind a tap device, or takes them from it.
    ///
    /// # Errors
    /// The host's.
    pub fn set_socket(&self, socket: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        [0, 1]
            .iter()
            .try_for_each(|r| self.driver.set_socket(*r, socket))
            .map_err(self.failed("the tap device"))
    }

    /// The entries that `count` rings go on with; nothing if the kernel does not say.
    pub fn bases(&self, count: usize) -> Option<Vec<u16>> {
        (0..count as u32).map(|r| self.driver.base(r).ok().map(|b| b as u16)).collect()
    }
}
