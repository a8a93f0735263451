//! Segments of x86 programs: `set_thread_area`, `modify_ldt` (`arch/x86/kernel/{tls,ldt}.c` and
//! `arch/x86/include/uapi/asm/ldt.h` of Linux 6.12).

use accel::arch::x86_64::program;
use tcg_engine::user::UserCpu;

use crate::host::{Errno, Sys};
use crate::mm::Mm;
use crate::thread::Thread;

use super::{Run::*, calls};

calls! {
    "set_thread_area" [Ptr] Do(set_thread_area);
    "get_thread_area" [Ptr] Do(get_thread_area);
    "modify_ldt" [Int, Ptr, Int] Do(modify_ldt);
}

const EINVAL: Errno = Errno(libc::EINVAL);

/// `struct user_desc`: entry, base, limit, and bits: 32-bit, contents (2), read only, limit in pages, absent, usable, 64-bit.
struct UserDesc {
    entry: u32,
    base: u32,
    limit: u32,
    bits: u32,
}

impl UserDesc {
    fn read(mm: &Mm, at: u64) -> Result<Self, Errno> {
        let mut b = [0; 16];
        mm.read(at, &mut b)?;
        let word = |n: usize| u32::from_le_bytes([b[n], b[n + 1], b[n + 2], b[n + 3]]);
        Ok(Self { entry: word(0), base: word(4), limit: word(8), bits: word(12) })
    }

    /// All fields say that there is none.
    fn is_empty(&self) -> bool {
        self.base == 0 && self.limit == 0 && matches!(self.bits & 0x7f, 0 | 0x28)
    }

    /// As it lies in a table, present and of level 3.
    fn descriptor(&self) -> u64 {
        let bit = |n: u32| u64::from(self.bits >> n & 1);
        let (base, limit) = (u64::from(self.base), u64::from(self.limit));
        let contents = u64::from(self.bits >> 1 & 3);
        // Accessed, writable or readable, contents, a segment, level 3, present.
        let kind = 1 | (bit(3) ^ 1) << 1 | contents << 2 | 1 << 4 | 3 << 5 | (bit(5) ^ 1) << 7;
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | kind << 40
            | (limit >> 16 & 15) << 48
            | bit(6) << 52
            | bit(0) << 54
            | bit(4) << 55
            | (base >> 24) << 56
    }

    fn of(entry: u32, d: u64) -> Self {
        let bit = |n: u32| (d >> n & 1) as u32;
        let bits = bit(54)
            | ((d >> 42 & 3) as u32) << 1
            | (bit(41) ^ 1) << 3
            | bit(55) << 4
            | (bit(47) ^ 1) << 5
            | bit(52) << 6;
        Self {
            entry,
            base: (d >> 16 & 0xff_ffff | d >> 56 << 24) as u32,
            limit: (d & 0xffff | d >> 32 & 0xf_0000) as u32,
            bits,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        [self.entry, self.base, self.limit, self.bits].iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

/// Sets one of the thread's own segments; -1 asks for a free one. The number of the entry.
pub(crate) fn set_segment(cpu: &mut dyn UserCpu, mm: &Mm, at: u64) -> Result<u32, Errno> {
    let d = UserDesc::read(mm, at)?;
    let first = u32::from(program::TLS_FIRST);
    let entry = if d.entry == u32::MAX {
        let free = (0..program::TLS_COUNT).find(|n| cpu.reg(program::TLS + n) == 0);
        let entry = first + free.ok_or(Errno(libc::ESRCH))? as u32;
        mm.write_u32(at, entry)?;
        entry
    } else {
        d.entry
    };
    let n = entry.checked_sub(first).filter(|n| (*n as usize) < program::TLS_COUNT).ok_or(EINVAL)?;
    if !d.is_empty() && (d.bits & 1 == 0 || d.bits >> 1 & 3 > 1) {
        // Only 32-bit data segments.
        return Err(EINVAL);
    }
    cpu.set_reg(program::TLS + n as usize, if d.is_empty() { 0 } else { d.descriptor() });
    Ok(entry)
}

/// `struct user_desc` of an entry with this descriptor.
pub(crate) fn describe(entry: u32, descriptor: u64) -> Vec<u8> {
    UserDesc::of(entry, descriptor).bytes()
}

fn set_thread_area(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = t.process.mm.clone();
    set_segment(&mut *t.cpu, &mm, a[0]).map(|_| 0)
}

fn get_thread_area(t: &mut Thread, a: &[u64; 6]) -> Sys {
    let mm = t.process.mm.clone();
    let entry = UserDesc::read(&mm, a[0])?.entry;
    let n = entry.checked_sub(program::TLS_FIRST.into());
    let n = n.filter(|n| (*n as usize) < program::TLS_COUNT).ok_or(EINVAL)?;
    mm.write(a[0], &describe(entry, t.cpu.reg(program::TLS + n as usize)))?;
    Ok(0)
}

fn modify_ldt(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const READ: u32 = 0;
    const WRITE_OLD: u32 = 1;
    const READ_DEFAULT: u32 = 2;
    const WRITE: u32 = 0x11;
    let mm = t.process.mm.clone();
    match a[0] as u32 {
        READ => {
            let count =
                (0..program::LDT_COUNT).rfind(|n| t.cpu.reg(program::LDT + n) != 0).map_or(0, |n| n + 1);
            let len = (count * 8).min(a[2] as usize);
            let bytes: Vec<u8> = (0..count).flat_map(|n| t.cpu.reg(program::LDT + n).to_le_bytes()).collect();
            mm.write(a[1], &bytes[..len])?;
            Ok(len as u64)
        }
        READ_DEFAULT => {
            let len = (a[2] as usize).min(128);
            mm.write(a[1], &[0; 128][..len])?;
            Ok(len as u64)
        }
        f @ (WRITE_OLD | WRITE) => {
            if a[2] != 16 {
                return Err(EINVAL);
            }
            let d = UserDesc::read(&mm, a[1])?;
            let conforming = d.bits >> 1 & 3 == 3;
            if d.entry as usize >= program::LDT_COUNT
                || conforming && (f == WRITE_OLD || d.bits >> 5 & 1 == 0)
            {
                return Err(EINVAL);
            }
            let empty = d.is_empty() || f == WRITE_OLD && d.base == 0 && d.limit == 0;
            let value = if empty { 0 } else { d.descriptor() };
            t.cpu.set_reg(program::LDT + d.entry as usize, value);
            Ok(0)
        }
        _ => Err(Errno(libc::ENOSYS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_round_trip() {
        // As a C library makes one: 32-bit, limit in pages, usable.
        let d = UserDesc { entry: 12, base: 0xf7d8_9000, limit: 0xf_ffff, bits: 0x51 & !0x40 | 0x10 };
        assert_eq!(d.descriptor() >> 40 & 0xff, 0xf3);
        let back = UserDesc::of(12, d.descriptor());
        assert_eq!((back.base, back.limit, back.bits), (d.base, d.limit, 0x11));
        assert!(UserDesc { entry: 0, base: 0, limit: 0, bits: 0x28 }.is_empty());
    }
}
