//! The program that turns a queue's frames aside, and the map by which it finds the queue's socket (`linux/bpf.h`).
#![expect(unsafe_code, reason = "the bpf system call, and descriptors it makes")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::XdpMode;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_OF_SOCKETS: u32 = 17;
const PROGRAM_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const FLAG_SKB: u32 = 2;
const FLAG_NATIVE: u32 = 4;
/// What becomes of a frame without a socket: it goes on its way.
const PASS: i32 = 2;
/// The helper that gives a frame to a map's entry.
const REDIRECT_MAP: i32 = 51;
/// Offset of the queue's number in the context.
const QUEUE: i16 = 16;
/// The argument of the system call: more than any of its kinds takes, the rest zeros.
const WORDS: usize = 16;

/// The program, its map, and, once attached, what holds it to the interface.
pub(super) struct Program {
    map: OwnedFd,
    program: OwnedFd,
    link: Option<OwnedFd>,
}

/// An instruction: operation, registers (source above destination), offset and constant.
fn instruction(operation: u8, registers: u8, offset: i16, constant: i32) -> [u8; 8] {
    let mut i = [operation, registers, 0, 0, 0, 0, 0, 0];
    i[2..4].copy_from_slice(&offset.to_ne_bytes());
    i[4..].copy_from_slice(&constant.to_ne_bytes());
    i
}

/// `return bpf_redirect_map(map, context->rx_queue_index, XDP_PASS)`.
fn code(map: RawFd) -> Vec<u8> {
    [
        instruction(0x61, 0x12, QUEUE, 0),
        // The map by its descriptor, in two slots.
        instruction(0x18, 0x11, 0, map),
        instruction(0, 0, 0, 0),
        instruction(0xb7, 0x03, 0, PASS),
        instruction(0x85, 0, 0, REDIRECT_MAP),
        instruction(0x95, 0, 0, 0),
    ]
    .concat()
}

/// Two 32-bit fields beside each other.
fn pair(first: u32, second: u32) -> u64 {
    let mut word = [0; 8];
    word[..4].copy_from_slice(&first.to_ne_bytes());
    word[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(word)
}

fn number(fd: RawFd) -> u32 {
    fd.unsigned_abs()
}

/// The system call. Addresses among the words must be of memory that lives for the call.
fn bpf(command: libc::c_int, words: &[u64]) -> io::Result<libc::c_long> {
    let mut argument = [0u64; WORDS];
    argument[..words.len()].copy_from_slice(words);
    // SAFETY: the kernel reads the argument, which is as long as said, and what its callers point to.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, argument.as_mut_ptr(), size_of_val(&argument)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn descriptor(command: libc::c_int, words: &[u64]) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(bpf(command, words)?).map_err(io::Error::other)?;
    // SAFETY: the commands used with this return a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Program {
    /// Loads it, with a map for queues below `queues`.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        // Type and key size, value size and entries.
        let map = descriptor(MAP_CREATE, &[pair(MAP_OF_SOCKETS, 4), pair(4, queues)])?;
        let code = code(map.as_raw_fd());
        let (license, count) = (c"MIT", (code.len() / 8) as u32);
        let words = [pair(PROGRAM_XDP, count), code.as_ptr() as u64, license.as_ptr() as u64];
        let program = descriptor(PROG_LOAD, &words)?;
        Ok(Program { map, program, link: None })
    }

    /// Sends a queue's frames to a socket.
    pub(super) fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = number(socket.as_raw_fd());
        let words =
            [number(self.map.as_raw_fd()).into(), &raw const queue as u64, &raw const value as u64, 0];
        bpf(MAP_UPDATE, &words).map(|_| ())
    }

    /// Puts it on an interface.
    pub(super) fn attach(mut self, interface: u32, mode: XdpMode) -> io::Result<Self> {
        let flags = match mode {
            XdpMode::Any => 0,
            XdpMode::Native => FLAG_NATIVE,
            XdpMode::Skb => FLAG_SKB,
        };
        let program = number(self.program.as_raw_fd());
        self.link = Some(descriptor(LINK_CREATE, &[pair(program, interface), pair(ATTACH_XDP, flags)])?);
        Ok(self)
    }
}
