//! Runs of bytes: what string operations read, write, copy and fill at the speed of host memory, up to the end of a page.
//!
//! Guest RAM is shared memory, so the host's copies are string instructions of its own where it has them, and loops of
//! atomic accesses elsewhere.
#![expect(unsafe_code, reason = "copies and fills guest RAM through the host addresses the TLB caches")]

use crate::{
    Access, Cx, Guest, Trap, direct,
    memory::{PAGE, Place, after_store, before_store, place, read_bytes, write_bytes},
};

/// Bytes at `gva` that one access may take: up to the end of the page.
fn run_length(gva: u64, wanted: usize) -> usize {
    wanted.min((PAGE - (gva & (PAGE - 1))) as usize)
}

/// Copies forward up to `len` bytes, as far as both pages reach; how many there were. `None` if a place is not plain memory.
pub(crate) fn copy_run<G: Guest>(
    cx: &mut Cx<'_, G>,
    from: u64,
    to: u64,
    mmu: usize,
    len: usize,
) -> Result<Option<usize>, Trap> {
    let n = run_length(from, run_length(to, len));
    if cx.core.direct.is_some() {
        return direct::copy(cx, from, to, n).map(|()| Some(n));
    }
    if cx.core.page_watched(from & !(PAGE - 1)) || cx.core.page_watched(to & !(PAGE - 1)) {
        return Ok(None);
    }
    let Place::Ram { host: source, .. } = place(cx, from, Access::Load, mmu)? else { return Ok(None) };
    let Place::Ram { host, range, offset, slow } = place(cx, to, Access::Store, mmu)? else {
        return Ok(None);
    };
    if slow {
        before_store(cx, range, offset, n as u64)?;
    }
    // SAFETY: pages of RAM in the vCPU's view, of which `n` bytes are left.
    unsafe { host::copy(source, host, n) };
    if slow {
        after_store(cx, to, mmu, range, offset, n as u64);
    }
    Ok(Some(n))
}

/// Fills up to `len` bytes with a pattern whose length divides 8, in the same way.
pub(crate) fn fill_run<G: Guest>(
    cx: &mut Cx<'_, G>,
    to: u64,
    mmu: usize,
    pattern: u64,
    len: usize,
) -> Result<Option<usize>, Trap> {
    let n = run_length(to, len);
    if cx.core.direct.is_some() {
        return direct::fill(cx, to, pattern, n).map(|()| Some(n));
    }
    if cx.core.page_watched(to & !(PAGE - 1)) {
        return Ok(None);
    }
    let Place::Ram { host, range, offset, slow } = place(cx, to, Access::Store, mmu)? else {
        return Ok(None);
    };
    if slow {
        before_store(cx, range, offset, n as u64)?;
    }
    // SAFETY: as in `copy_run`.
    unsafe { host::fill(host, pattern, n) };
    if slow {
        after_store(cx, to, mmu, range, offset, n as u64);
    }
    Ok(Some(n))
}

/// Units in which bytes beyond plain memory are read and written, as by wide registers.
const UNIT: usize = 16;

/// Reads bytes, not as one access: plain memory up to the end of a page at once.
pub(crate) fn read_run<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    mmu: usize,
    out: &mut [u8],
) -> Result<(), Trap> {
    if cx.core.direct.is_some() {
        return direct::read(cx, gva, out);
    }
    let mut done = 0;
    while done < out.len() {
        let at = gva.wrapping_add(done as u64);
        let n = run_length(at, out.len() - done);
        let part = &mut out[done..done + n];
        if let Place::Ram { host, .. } = place(cx, at, Access::Load, mmu)? {
            // SAFETY: a page of RAM in the vCPU's view, of which `n` bytes are left, and a buffer of that length.
            unsafe { host::copy(host, part.as_mut_ptr(), n) };
        } else {
            for (i, unit) in part.chunks_mut(UNIT).enumerate() {
                read_bytes(cx, at.wrapping_add((i * UNIT) as u64), mmu, unit)?;
            }
        }
        done += n;
    }
    Ok(())
}

/// Writes bytes in the same way.
pub(crate) fn write_run<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, mmu: usize, data: &[u8]) -> Result<(), Trap> {
    if cx.core.direct.is_some() {
        return direct::write(cx, gva, data);
    }
    let mut done = 0;
    while done < data.len() {
        let at = gva.wrapping_add(done as u64);
        let n = run_length(at, data.len() - done);
        let part = &data[done..done + n];
        if let Place::Ram { host, range, offset, slow } = place(cx, at, Access::Store, mmu)? {
            if slow {
                before_store(cx, range, offset, n as u64)?;
            }
            // SAFETY: as in `read_run`; nothing is written to the buffer.
            unsafe { host::copy(part.as_ptr().cast_mut(), host, n) };
            if slow {
                after_store(cx, at, mmu, range, offset, n as u64);
            }
        } else {
            for (i, unit) in part.chunks(UNIT).enumerate() {
                write_bytes(cx, at.wrapping_add((i * UNIT) as u64), mmu, unit)?;
            }
        }
        done += n;
    }
    Ok(())
}

/// Copies and fills with string instructions of the host.
#[cfg(target_arch = "x86_64")]
mod host {
    /// # Safety
    /// Both places must be valid for `n` bytes.
    pub(super) unsafe fn copy(from: *mut u8, to: *mut u8, n: usize) {
        // SAFETY: valid by the caller's promise; the direction flag is clear by the calling convention.
        unsafe {
            std::arch::asm!("rep movsb", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") n => _,
                options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// `to` must be valid for `n` bytes.
    pub(super) unsafe fn fill(to: *mut u8, pattern: u64, n: usize) {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("rep stosq", inout("rdi") to => _, inout("rcx") n / 8 => _, in("rax") pattern,
                options(nostack, preserves_flags));
            crate::memory::ram_write(to.add(n & !7), &pattern.to_le_bytes()[..n & 7]);
        }
    }
}

/// The same by loops.
#[cfg(not(target_arch = "x86_64"))]
mod host {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use crate::memory::{ram_read, ram_write};

    /// # Safety
    /// Both places must be valid for `n` bytes.
    pub(super) unsafe fn copy(from: *mut u8, to: *mut u8, n: usize) {
        let mut buf = [0; 256];
        let mut done = 0;
        while done < n {
            let step = (n - done).min(buf.len());
            // SAFETY: valid by the caller's promise.
            unsafe {
                ram_read_long(from.add(done), &mut buf[..step]);
                ram_write_long(to.add(done), &buf[..step]);
            }
            done += step;
        }
    }

    /// # Safety
    /// `to` must be valid for `n` bytes.
    pub(super) unsafe fn fill(to: *mut u8, pattern: u64, n: usize) {
        for at in (0..n).step_by(8) {
            let step = (n - at).min(8);
            // SAFETY: valid by the caller's promise.
            unsafe { ram_write(to.add(at), &pattern.to_le_bytes()[..step]) };
        }
    }

    /// Copies out of guest RAM, eight bytes at a time where the place is aligned.
    ///
    /// # Safety
    /// `host` must be valid for `out.len()` bytes.
    unsafe fn ram_read_long(host: *mut u8, out: &mut [u8]) {
        let head = host.align_offset(8).min(out.len());
        let (first, rest) = out.split_at_mut(head);
        let words = rest.len() / 8;
        let (middle, last) = rest.split_at_mut(words * 8);
        // SAFETY: three parts of what the caller promises; the middle one is aligned.
        unsafe {
            ram_read(host, first);
            let at = host.add(head).cast::<AtomicU64>();
            for (i, w) in middle.chunks_exact_mut(8).enumerate() {
                w.copy_from_slice(&(*at.add(i)).load(Relaxed).to_le_bytes());
            }
            ram_read(host.add(head + words * 8), last);
        }
    }

    /// Copies into guest RAM in the same way.
    ///
    /// # Safety
    /// `host` must be valid for `data.len()` bytes.
    unsafe fn ram_write_long(host: *mut u8, data: &[u8]) {
        let head = host.align_offset(8).min(data.len());
        let (first, rest) = data.split_at(head);
        let words = rest.len() / 8;
        let (middle, last) = rest.split_at(words * 8);
        // SAFETY: three parts of what the caller promises; the middle one is aligned.
        unsafe {
            ram_write(host, first);
            let at = host.add(head).cast::<AtomicU64>();
            for (i, w) in middle.chunks_exact(8).enumerate() {
                let mut b = [0; 8];
                b.copy_from_slice(w);
                (*at.add(i)).store(u64::from_le_bytes(b), Relaxed);
            }
            ram_write(host.add(head + words * 8), last);
        }
    }
}
