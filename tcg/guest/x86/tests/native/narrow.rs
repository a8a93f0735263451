//! A few instructions of 16-bit or 32-bit code on the host's own processor, in segments with bases, with all registers set before and read
//! after.
#![expect(
    unsafe_code,
    reason = "makes segments, maps memory at low addresses, writes machine code and calls it"
)]

use std::{io, ptr};

/// Bytes of data, which the data segments begin with.
pub(crate) const DATA_SIZE: usize = 0x1000;
const PAGE: usize = 4096;
/// Places in the page of code: of the way back, of registers, flags, the host's stack pointer and the way in.
const BACK: usize = 0x400;
const REGS: usize = 0xe00;
const FLAGS: usize = 0xe40;
const STACK: usize = 0xe80;
const WAY: usize = 0xec0;
/// Most bytes of code.
const CODE_SIZE: usize = 0x300;
/// Where it begins, behind the way in.
const CODE: usize = 0x80;
/// Linux's selector of 64-bit programs (`arch/x86/include/asm/segment.h`).
const CODE64: u16 = 0x33;

/// EAX to EDI in encoding order; ESP's place holds the flags.
pub(crate) type Registers = [u32; 8];
/// Place of the flags.
pub(crate) const EFLAGS: usize = 4;

/// Code and data below 2 GiB, and their segments.
pub(crate) struct Narrow {
    code: *mut u8,
    data: *mut u8,
}

fn low_page() -> io::Result<*mut u8> {
    let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a new mapping that replaces none.
    let p = unsafe { libc::mmap(ptr::null_mut(), PAGE, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p.cast()) }
}

/// Makes entry `n` of the process's descriptor table: code or data of 16 or 32 bits.
fn segment(n: u32, base: *mut u8, code: bool, wide: bool) -> io::Result<()> {
    // `struct user_desc` of Linux: number, base, limit, and seg_32bit, contents, limit_in_pages and so on as bits.
    let how = u32::from(wide) | if code { 2 << 1 } else { 0 } | 1 << 6;
    let entry: [u32; 4] = [n, base as usize as u32, 0xffff, how];
    // SAFETY: the kernel reads 16 bytes of an array of them; nothing else of the process uses the table.
    let done = unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, entry.as_ptr(), size_of_val(&entry)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const fn selector(n: u16) -> u16 {
    n << 3 | 7
}

impl Narrow {
    /// Fails where the host's kernel makes no segments.
    pub(crate) fn new() -> io::Result<Self> {
        let this = Self { code: low_page()?, data: low_page()? };
        segment(0, this.data, false, true)?;
        segment(1, this.code, true, false)?;
        segment(2, this.code, true, true)?;
        Ok(this)
    }

    /// Linear address of the first byte of code.
    pub(crate) fn code(&self) -> u64 {
        self.code as u64
    }

    /// Linear address of the data.
    pub(crate) fn data(&self) -> u64 {
        self.data as u64
    }

    /// Runs code, at offset [`Self::ENTRY`] of its segment, that leaves ESP alone and touches only the data; `data` is the segment's
    /// contents before and after.
    pub(crate) fn run(&self, wide: bool, code: &[u8], regs: &mut Registers, data: &mut [u8]) {
        assert!(code.len() <= CODE_SIZE && data.len() == DATA_SIZE);
        let page = self.code as u32;
        let at = |place: usize| (page + place as u32).to_le_bytes();
        let mut page_of_code = vec![0; PAGE];
        let mut put =
            |place: usize, bytes: &[u8]| page_of_code[place..place + bytes.len()].copy_from_slice(bytes);
        // push rbx, rbp; mov [STACK],rsp; mov eax,data; mov ds,eax; mov es,eax; push [FLAGS]; popfq
        let mut b = vec![0x53, 0x55, 0x48, 0x89, 0x24, 0x25];
        b.extend(at(STACK));
        b.push(0xb8);
        b.extend(u32::from(selector(0)).to_le_bytes());
        b.extend([0x8e, 0xd8, 0x8e, 0xc0, 0xff, 0x34, 0x25]);
        b.extend(at(FLAGS));
        b.push(0x9d);
        let general = || (0..8_u8).filter(|n| *n != 4);
        for n in general() {
            // mov r32,[REGS + 4 * n]
            b.extend([0x8b, 0x04 | n << 3, 0x25]);
            b.extend(at(REGS + 4 * usize::from(n)));
        }
        // jmp far [WAY]
        b.extend([0xff, 0x2c, 0x25]);
        b.extend(at(WAY));
        assert!(b.len() <= CODE);
        put(0, &b);
        // jmp far CODE64:BACK, by a 32-bit offset.
        let mut b = code.to_vec();
        if !wide {
            b.push(0x66);
        }
        b.push(0xea);
        b.extend(at(BACK));
        b.extend(CODE64.to_le_bytes());
        put(CODE, &b);
        let mut b = Vec::new();
        for n in general() {
            b.extend([0x89, 0x04 | n << 3, 0x25]);
            b.extend(at(REGS + 4 * usize::from(n)));
        }
        // mov rsp,[STACK]; pushfq; pop [FLAGS]; cld; xor eax,eax; mov ds,eax; mov es,eax; pop rbp, rbx; ret
        b.extend([0x48, 0x8b, 0x24, 0x25]);
        b.extend(at(STACK));
        b.extend([0x9c, 0x8f, 0x04, 0x25]);
        b.extend(at(FLAGS));
        b.extend([0xfc, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x5d, 0x5b, 0xc3]);
        put(BACK, &b);
        for (n, r) in regs.iter().enumerate() {
            put(REGS + 4 * n, &r.to_le_bytes());
        }
        put(FLAGS, &u64::from(regs[EFLAGS]).to_le_bytes());
        put(WAY, &(CODE as u32).to_le_bytes());
        put(WAY + 4, &selector(if wide { 2 } else { 1 }).to_le_bytes());
        // SAFETY: both are our own pages. The code keeps the calling convention by construction: it restores the registers that it must,
        // the stack pointer and the segments; the caller's part touches nothing but the data by its promise.
        unsafe {
            ptr::copy_nonoverlapping(page_of_code.as_ptr(), self.code, PAGE);
            ptr::copy_nonoverlapping(data.as_ptr(), self.data, DATA_SIZE);
            let f: extern "C" fn() = std::mem::transmute(self.code);
            f();
            ptr::copy_nonoverlapping(self.data, data.as_mut_ptr(), DATA_SIZE);
            ptr::copy_nonoverlapping(self.code, page_of_code.as_mut_ptr(), PAGE);
        }
        let word = |place: usize| {
            let mut b = [0; 4];
            b.copy_from_slice(&page_of_code[place..place + 4]);
            u32::from_le_bytes(b)
        };
        for (n, r) in regs.iter_mut().enumerate() {
            *r = word(if n == EFLAGS { FLAGS } else { REGS + 4 * n });
        }
    }

    /// Offset of the code in its segment.
    pub(crate) const ENTRY: u64 = CODE as u64;
}

impl Drop for Narrow {
    fn drop(&mut self) {
        // SAFETY: our own mappings.
        unsafe {
            libc::munmap(self.code.cast(), PAGE);
            libc::munmap(self.data.cast(), PAGE);
        }
    }
}
