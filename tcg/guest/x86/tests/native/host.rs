//! A few instructions on the host's own processor, with all registers set before and read after.
#![expect(unsafe_code, reason = "maps memory at a fixed address, writes machine code and calls it")]

use std::{
    io, ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Where the data lies, on the host and in the guest.
pub(crate) const DATA: u64 = 0x10_0000;
/// Bytes of data.
pub(crate) const DATA_SIZE: usize = 0x2000;
const CODE_SIZE: usize = 4096;
/// Bytes of code before the caller's.
pub(crate) const PROLOGUE: usize = 10 + 8 + 14 * 4;

/// Registers in encoding order; RSP's place holds RFLAGS, R15's is not used.
pub(crate) type Registers = [u64; 16];
/// Place of RFLAGS.
pub(crate) const FLAGS: usize = 4;

/// The tests of a process use the place one after the other.
static ONE: Mutex<()> = Mutex::new(());

/// Memory for code and data.
pub(crate) struct Host {
    _one: MutexGuard<'static, ()>,
    pub(crate) code: *mut u8,
    data: *mut u8,
}

fn map(at: u64, len: usize, executable: bool) -> io::Result<*mut u8> {
    let prot = libc::PROT_READ | libc::PROT_WRITE | if executable { libc::PROT_EXEC } else { 0 };
    let fixed = if at != 0 { libc::MAP_FIXED_NOREPLACE } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    // SAFETY: a new mapping that replaces none.
    let p = unsafe { libc::mmap(at as *mut _, len, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p.cast()) }
}

impl Host {
    /// Fails where the fixed address is taken.
    pub(crate) fn new() -> io::Result<Self> {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { _one: one, code: map(0, CODE_SIZE, true)?, data: map(DATA, DATA_SIZE, false)? })
    }

    /// Replaces the data.
    pub(crate) fn write(&self, data: &[u8]) {
        assert!(data.len() <= DATA_SIZE);
        // SAFETY: inside our mapping, which nobody else uses.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.data, data.len()) };
    }

    /// The data.
    pub(crate) fn read(&self) -> Vec<u8> {
        let mut out = vec![0; DATA_SIZE];
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(self.data, out.as_mut_ptr(), DATA_SIZE) };
        out
    }

    /// Runs code that uses neither RSP nor R15, does not jump away and touches only the data.
    pub(crate) fn run(&self, code: &[u8], regs: &mut Registers) {
        let mut b = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
        // mov r15,rdi; push [r15+32]; popfq
        b.extend([0x49, 0x89, 0xff, 0x41, 0xff, 0x77, 32, 0x9d]);
        let moves = |b: &mut Vec<u8>, op: u8| {
            for n in (0..15_u8).filter(|n| *n != 4) {
                b.extend([0x49 | (n >> 3) << 2, op, 0x47 | (n & 7) << 3, 8 * n]);
            }
        };
        moves(&mut b, 0x8b);
        assert_eq!(b.len(), PROLOGUE);
        b.extend_from_slice(code);
        moves(&mut b, 0x89);
        // pushfq; pop [r15+32]; cld; pops; ret
        b.extend([
            0x9c, 0x41, 0x8f, 0x47, 32, 0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b,
            0xc3,
        ]);
        assert!(b.len() <= CODE_SIZE);
        // SAFETY: inside our mapping; the code keeps the calling convention by construction: it saves and restores what
        // it must, and what it was given reaches neither the stack nor memory outside the data by the caller's promise.
        unsafe {
            ptr::copy_nonoverlapping(b.as_ptr(), self.code, b.len());
            let f: extern "C" fn(*mut u64) = std::mem::transmute(self.code);
            f(regs.as_mut_ptr());
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: our own mappings.
        unsafe {
            libc::munmap(self.code.cast(), CODE_SIZE);
            libc::munmap(self.data.cast(), DATA_SIZE);
        }
    }
}
