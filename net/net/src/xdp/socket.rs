//! A socket of the family `AF_XDP` with its memory and its four rings (`Documentation/networking/af_xdp.rst`, `linux/if_xdp.h`).
//!
//! The memory's chunks are either the kernel's or ours: those in the fill and the transmit ring, and those it holds, are the
//! kernel's. Each ring has one side that writes its entries and then its producer index, and one that reads entries and then
//! writes its consumer index.
#![expect(
    unsafe_code,
    reason = "maps memory and rings that the kernel shares with us, and sets socket options by pointer"
)]

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use parking_lot::Mutex;

use crate::fd::Carrier;

/// Bytes of a chunk; a frame fits into one.
const CHUNK: u64 = 4096;
/// Entries of each ring, and chunks for either direction.
const ENTRIES: u32 = 512;
/// Bytes of an entry with address and length, and of one with an address.
const LONG: usize = 16;
const SHORT: usize = 8;

/// The kernel takes its time to let go of a queue that was in use: how often it is asked, and how long is waited between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Shared memory, gone when it is dropped.
struct Mapping {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory of the process', reached by atomics and by copies whose callers own what they copy.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps part of a descriptor, or memory of our own.
    fn new(fd: Option<BorrowedFd<'_>>, offset: libc::off_t, length: usize) -> io::Result<Self> {
        let (flags, fd) = match fd {
            Some(fd) => (libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, fd, offset) };
        match NonNull::new(at.cast::<u8>()) {
            Some(at) if at.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { at, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The address of `length` bytes from `offset` on, which must be there and aligned to `align`.
    fn place(&self, offset: usize, length: usize, align: usize) -> *mut u8 {
        let there = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(there && offset.is_multiple_of(align), "{offset} of {} bytes", self.length);
        // SAFETY: it is inside the mapping.
        unsafe { self.at.as_ptr().add(offset) }
    }

    fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: inside the mapping, which lives as long as we do, and aligned.
        unsafe { AtomicU32::from_ptr(self.place(offset, 4, 4).cast()) }
    }

    fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.place(offset, 8, 8).cast()) }
    }

    /// Copies out of a chunk that is ours.
    fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.place(offset, to.len(), 1);
        // SAFETY: inside the mapping; what is ours nobody else writes.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies into a chunk that is ours.
    fn write(&self, offset: usize, from: &[u8]) {
        let to = self.place(offset, from.len(), 1);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}

/// A ring.
struct Ring {
    map: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
}

impl Ring {
    fn new(
        fd: BorrowedFd<'_>,
        at: libc::off_t,
        offsets: &libc::xdp_ring_offset,
        entry: usize,
    ) -> io::Result<Self> {
        let place = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        let entries = place(offsets.desc)?;
        Ok(Ring {
            map: Mapping::new(Some(fd), at, entries + ENTRIES as usize * entry)?,
            producer: place(offsets.producer)?,
            consumer: place(offsets.consumer)?,
            flags: place(offsets.flags)?,
            entries,
        })
    }

    fn entry(&self, index: u32, size: usize) -> usize {
        self.entries + (index % ENTRIES) as usize * size
    }

    /// The next entry to consume.
    fn front(&self) -> Option<u32> {
        let at = self.map.u32(self.consumer).load(Ordering::Relaxed);
        (self.map.u32(self.producer).load(Ordering::Acquire) != at).then_some(at)
    }

    /// It has been consumed.
    fn consumed(&self, at: u32) {
        self.map.u32(self.consumer).store(at.wrapping_add(1), Ordering::Release);
    }

    /// Adds an address, and a length if entries have one. There is room: chunks are as many as entries.
    fn produce(&self, address: u64, length: Option<u32>) {
        let at = self.map.u32(self.producer).load(Ordering::Relaxed);
        let entry = self.entry(at, if length.is_some() { LONG } else { SHORT });
        self.map.u64(entry).store(address, Ordering::Relaxed);
        if let Some(length) = length {
            self.map.u32(entry + 8).store(length, Ordering::Relaxed);
            self.map.u32(entry + 12).store(0, Ordering::Relaxed);
        }
        self.map.u32(self.producer).store(at.wrapping_add(1), Ordering::Release);
    }

    /// Whether the kernel is to be woken.
    fn wants_wakeup(&self) -> bool {
        // The entry must be visible before the wish is read.
        fence(Ordering::SeqCst);
        self.map.u32(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// One queue of an interface.
pub(super) struct XdpSocket {
    fd: OwnedFd,
    memory: Mapping,
    fill: Ring,
    completion: Ring,
    receive: Ring,
    transmit: Ring,
    /// Held while the first two rings of the receiving side are changed.
    receiving: Mutex<()>,
    /// Chunks to send from.
    free: Mutex<Vec<u64>>,
}

/// The number of an interface.
pub(super) fn interface(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: the name ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn set<T>(fd: BorrowedFd<'_>, name: libc::c_int, value: &T) -> io::Result<()> {
    let (at, size) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the kernel reads as many bytes of the value, which lives for the call.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, at, size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where in their mappings the fields of the rings are.
fn offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: integers, for which zeros are right.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&offsets) as libc::socklen_t;
    let at = (&raw mut offsets).cast();
    // SAFETY: the kernel writes at most `size` bytes.
    let done =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, at, &raw mut size) };
    match done {
        0 if size as usize == size_of_val(&offsets) => Ok(offsets),
        0 => Err(io::Error::other("the kernel is older than Linux 5.4")),
        _ => Err(io::Error::last_os_error()),
    }
}

impl XdpSocket {
    /// Opens a queue of an interface, on a socket that is not bound yet if one is given.
    pub(super) fn new(
        given: Option<OwnedFd>,
        (interface, queue): (u32, u32),
        force_copy: bool,
    ) -> io::Result<Self> {
        let fd = match given {
            Some(fd) => fd,
            None => {
                // SAFETY: a system call without pointers.
                let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
                if fd < 0 {
                    return Err(io::Error::last_os_error());
                }
                // SAFETY: it is new, and nobody else's.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }
        };
        let length = CHUNK * u64::from(ENTRIES) * 2;
        let memory = Mapping::new(None, 0, length as usize)?;
        let addr = memory.at.as_ptr() as u64;
        let register = libc::xdp_umem_reg_v1 { addr, len: length, chunk_size: CHUNK as u32, headroom: 0 };
        set(fd.as_fd(), libc::XDP_UMEM_REG, &register)?;
        let kinds =
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING];
        kinds.iter().try_for_each(|kind| set(fd.as_fd(), *kind, &ENTRIES))?;
        let o = offsets(fd.as_fd())?;
        let (fill, completion) = (libc::XDP_UMEM_PGOFF_FILL_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING);
        let ring = |at: libc::off_t, offsets, entry| Ring::new(fd.as_fd(), at, offsets, entry);
        let socket = XdpSocket {
            fill: ring(fill as libc::off_t, &o.fr, SHORT)?,
            completion: ring(completion as libc::off_t, &o.cr, SHORT)?,
            receive: ring(libc::XDP_PGOFF_RX_RING, &o.rx, LONG)?,
            transmit: ring(libc::XDP_PGOFF_TX_RING, &o.tx, LONG)?,
            receiving: Mutex::default(),
            free: Mutex::new((0..u64::from(ENTRIES)).map(|i| (u64::from(ENTRIES) + i) * CHUNK).collect()),
            memory,
            fd,
        };
        (0..u64::from(ENTRIES)).for_each(|i| socket.fill.produce(i * CHUNK, None));
        let copy = if force_copy { libc::XDP_COPY } else { 0 };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_USE_NEED_WAKEUP | copy,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let (at, size) = ((&raw const address).cast(), size_of_val(&address) as libc::socklen_t);
        for last in (0..TRIES).rev() {
            // SAFETY: the kernel reads the address, which lives for the call.
            if unsafe { libc::bind(socket.fd.as_raw_fd(), at, size) } == 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::ResourceBusy || last == 0 {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(socket)
    }
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Carrier for XdpSocket {
    fn send(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = frame.iter().map(|p| p.len()).sum();
        if length > CHUNK as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut free = self.free.lock();
        while let Some(at) = self.completion.front() {
            free.push(self.completion.map.u64(self.completion.entry(at, SHORT)).load(Ordering::Relaxed));
            self.completion.consumed(at);
        }
        let Some(chunk) = free.pop() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut at = chunk as usize;
        for piece in frame {
            self.memory.write(at, piece);
            at += piece.len();
        }
        self.transmit.produce(chunk, Some(length as u32));
        if self.transmit.wants_wakeup() {
            // It says that it has not sent all, or that nothing is up, which is no news.
            let nothing = std::ptr::null();
            // SAFETY: no bytes are read.
            unsafe { libc::sendto(self.fd.as_raw_fd(), nothing, 0, libc::MSG_DONTWAIT, nothing.cast(), 0) };
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
        let _held = self.receiving.lock();
        let Some(at) = self.receive.front() else {
            // The interface may be gone.
            return Err(socket2::SockRef::from(&self.fd)
                .take_error()?
                .unwrap_or(io::ErrorKind::WouldBlock.into()));
        };
        let entry = self.receive.entry(at, LONG);
        let address = self.receive.map.u64(entry).load(Ordering::Relaxed);
        let length = self.receive.map.u32(entry + 8).load(Ordering::Relaxed) as usize;
        let to = buffer.get_mut(..length);
        let fits = to.is_some();
        if let Some(to) = to {
            self.memory.read(address as usize, to);
        }
        self.receive.consumed(at);
        self.fill.produce(address / CHUNK * CHUNK, None);
        Ok(fits.then_some(0..length))
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV))
    }
}
