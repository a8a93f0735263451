//! Guest memory that is host memory: accesses by Rust code, and the engine's side of [`crate::user`].
//!
//! Generated code makes its accesses itself. What is here serves helpers, the interpreter and system calls: each access
//! either completes or reports the host's refusal; it never crashes the process.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod host;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "none.rs"]
mod host;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod machine;

use tcg_ir::MemOp;

use crate::{Cx, Guest, Trap, memory, user::HostFault};

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use host::{cas_guest, handle_host_fault, read_guest, write_guest};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use machine::new_machine;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use machine::{remake_mutex, remake_rwlock};

/// True if a store was refused because its page holds translated code, which has been dropped: it may be made again. `Err` if the
/// unit at hand may be of that code: its instruction is to be executed alone.
fn was_code<G: Guest>(cx: &Cx<'_, G>, fault: &HostFault) -> Result<bool, Trap> {
    if !G::CODE_COHERENT {
        return Ok(false);
    }
    let address = fault.address.wrapping_sub(cx.core.direct_base);
    let was = cx.core.direct.as_ref().is_some_and(|d| d.unwatch(address));
    if was && cx.core.in_unit { Err(memory::ALONE) } else { Ok(was) }
}

/// Reports a refused access: the trap only marks it, [`crate::user::UserExit::Fault`] carries it.
fn refuse<G: Guest, T>(cx: &mut Cx<'_, G>, fault: HostFault) -> Result<T, Trap> {
    let base = cx.core.direct_base;
    cx.core.host_fault = Some(HostFault { address: fault.address.wrapping_sub(base), ..fault });
    Err(Trap { code: 0, value: 0 })
}

pub(crate) use host::without_signals;

/// Reads bytes.
pub(crate) fn read<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, out: &mut [u8]) -> Result<(), Trap> {
    let at = cx.core.direct_base.wrapping_add(gva);
    match host::read(at, out) {
        Ok(()) => Ok(()),
        Err(f) => refuse(cx, f),
    }
}

/// A store by `store`, which is tried again once the translated code in its way has been dropped.
fn try_store<G: Guest>(cx: &mut Cx<'_, G>, store: impl Fn() -> Result<(), HostFault>) -> Result<(), Trap> {
    loop {
        match store() {
            Ok(()) => return Ok(()),
            Err(f) if f.write && was_code(cx, &f)? => {}
            Err(f) => return refuse(cx, f),
        }
    }
}

/// Writes bytes.
pub(crate) fn write<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, data: &[u8]) -> Result<(), Trap> {
    let at = cx.core.direct_base.wrapping_add(gva);
    try_store(cx, || host::write(at, data))
}

/// Copies bytes, counting up. The source lies on one page and the destination on one: each is there as a whole or not at all.
pub(crate) fn copy<G: Guest>(cx: &mut Cx<'_, G>, from: u64, to: u64, len: usize) -> Result<(), Trap> {
    let base = cx.core.direct_base;
    let (from, to) = (base.wrapping_add(from), base.wrapping_add(to));
    try_store(cx, || host::copy(from, to, len))
}

/// Fills bytes of one page with a pattern.
pub(crate) fn fill<G: Guest>(cx: &mut Cx<'_, G>, to: u64, pattern: u64, len: usize) -> Result<(), Trap> {
    let to = cx.core.direct_base.wrapping_add(to);
    try_store(cx, || host::fill(to, pattern, len))
}

/// Compares and swaps 16 bytes at an aligned address; what was there.
pub(crate) fn cas_wide<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    expected: u128,
    new: u128,
) -> Result<u128, Trap> {
    let at = cx.core.direct_base.wrapping_add(gva);
    loop {
        match host::cas_wide(at, expected, new) {
            Ok(seen) => return Ok(seen),
            Err(f) if f.write && was_code(cx, &f)? => {}
            Err(f) => return refuse(cx, f),
        }
    }
}

/// Checks that all of a range may be accessed: by touching each page.
pub(crate) fn probe<G: Guest>(cx: &mut Cx<'_, G>, gva: u64, len: u64, write: bool) -> Result<(), Trap> {
    let mut at = gva;
    let end = gva.saturating_add(len);
    while at < end {
        if write {
            atomic(cx, at, MemOp::new(0), |_| None)?;
        } else {
            read(cx, at, &mut [0])?;
        }
        at = (at | 0xfff).wrapping_add(1);
        if at == 0 {
            break;
        }
    }
    Ok(())
}

/// An update in two steps.
fn plain<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    m: MemOp,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<u64, Trap> {
    let n = m.bytes().min(8);
    let mut raw = [0; 8];
    read(cx, gva, &mut raw[..n])?;
    let old = u64::from_le_bytes(raw);
    let new = change(memory::extend(MemOp(m.0 & !8), old)).map_or(old, |v| memory::to_memory(m, v));
    write(cx, gva, &new.to_le_bytes()[..n])?;
    Ok(memory::extend(m, old))
}

/// One atomic access, as `memory::atomic`: an update that changes nothing still needs the right to store.
pub(crate) fn atomic<G: Guest>(
    cx: &mut Cx<'_, G>,
    gva: u64,
    m: MemOp,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<u64, Trap> {
    const LINE: u64 = 64;
    let n = m.bytes().min(8);
    let at = cx.core.direct_base.wrapping_add(gva);
    if at / LINE != (at + n as u64 - 1) / LINE && cx.core.cache.is_alone() {
        // Kernels punish locks across lines, by milliseconds each; with one thread nobody could tell.
        return plain(cx, gva, m, change);
    }
    let mut raw = [0; 8];
    if let Err(f) = host::read(at, &mut raw[..n]) {
        return refuse(cx, f);
    }
    let mut old = u64::from_le_bytes(raw);
    loop {
        let value = memory::extend(MemOp(m.0 & !8), old);
        let new = change(value).map_or(old, |v| memory::to_memory(m, v));
        match host::cas(at, n, old, new) {
            Ok(seen) if seen == old => return Ok(memory::extend(m, old)),
            Ok(seen) => old = seen,
            Err(f) if f.write && was_code(cx, &f)? => {}
            Err(f) => return refuse(cx, f),
        }
    }
}
