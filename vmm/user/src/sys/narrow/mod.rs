//! Calls of 32-bit programs: arguments and structures are made those of a 64-bit program of the host, which the other tables
//! then serve, and what comes back is made theirs.
//!
//! A structure that is made lies in Rhea's memory; the call gets its address as the guest address that it would have.

mod code;
mod layout;
mod messages;
mod old;
mod rows;
mod signals;

use std::sync::OnceLock;

use crate::host::{Errno, RESTART_ONCE, Sys};
use crate::thread::Thread;

use self::layout::Sides;
pub(crate) use self::signals::info_to_guest;

/// Where an argument of the 64-bit call comes from: the number of an argument, and what it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum A {
    /// As it is.
    V(usize),
    /// Sign-extended.
    Signed(usize),
    /// Low and high half.
    Pair(usize, usize),
    /// A number.
    Const(u64),
    /// A user or group of 16 bits, all ones being none.
    Id16(usize),
    /// A structure that is read.
    In(usize, &'static str),
    /// A structure that is written.
    Out(usize, &'static str),
    /// Both.
    InOut(usize, &'static str),
    /// The rest of a time to wait, which is written when a signal ends the call.
    Rest(usize, &'static str),
    /// An array of `iovec`, and the argument with their number.
    Iov(usize, usize),
    /// An array of addresses that ends with null.
    Pointers(usize),
}

/// What a call becomes.
#[derive(Clone, Copy)]
pub(super) enum To {
    /// This call of a 64-bit program.
    Call(&'static str),
    /// A function.
    Code(fn(&mut Thread, &[u64; 6]) -> Sys),
}

/// A row.
pub(crate) struct Narrow {
    name: &'static str,
    to: To,
    args: &'static [A],
}

/// The row of a name.
pub(crate) fn find(name: &str) -> Option<&'static Narrow> {
    static SORTED: OnceLock<Vec<&'static Narrow>> = OnceLock::new();
    let sorted = SORTED.get_or_init(|| {
        let mut all: Vec<_> = rows::ROWS.iter().collect();
        all.sort_by_key(|n| n.name);
        all
    });
    sorted.binary_search_by_key(&name, |n| n.name).ok().map(|i| sorted[i])
}

impl Narrow {
    /// The call of a 64-bit program that it becomes, if it is one.
    pub(super) fn call(&self) -> Option<&'static str> {
        match self.to {
            To::Call(name) => Some(name),
            To::Code(_) => None,
        }
    }
}

fn sides(t: &Thread) -> Sides {
    Sides { align8: t.process.abi.align8 }
}

/// The guest address of memory of ours, which the call may write.
fn ours(t: &Thread, bytes: &mut [u8]) -> u64 {
    (bytes.as_mut_ptr() as u64).wrapping_sub(t.process.mm.host(0))
}

/// A structure of ours that is at least as long as any that the host might write.
fn room(mut bytes: Vec<u8>) -> Vec<u8> {
    const LONGEST: usize = 256;
    let len = bytes.len().max(LONGEST);
    bytes.resize(len, 0);
    bytes
}

/// Reads a structure of the program's as the host's.
fn read(t: &Thread, at: u64, layout: &str) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; layout::size(layout, sides(t))];
    t.process.mm.read(at, &mut bytes)?;
    Ok(room(layout::to_host(layout, sides(t), &bytes)))
}

/// Writes a structure of the host's as the program's.
fn write(t: &Thread, at: u64, layout: &str, bytes: &[u8]) -> Result<(), Errno> {
    t.process.mm.write(at, &layout::to_guest(layout, sides(t), bytes))
}

/// Words at an address, until one is zero or there are `most`.
fn words(t: &Thread, at: u64, most: usize, until_zero: bool) -> Result<Vec<u64>, Errno> {
    let mut out = Vec::new();
    for i in 0..most as u64 {
        let w = t.process.mm.read_u32(at.wrapping_add(4 * i) & 0xffff_ffff)?;
        out.push(w.into());
        if until_zero && w == 0 {
            break;
        }
    }
    Ok(out)
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Makes a call of a 64-bit program.
fn wide(t: &mut Thread, name: &str, args: [u64; 6]) -> Sys {
    super::call_by_name(t, name, &args)
}

/// Makes the call of a row.
pub(super) fn call(t: &mut Thread, row: &Narrow, a: &[u64; 6]) -> Sys {
    let name = match row.to {
        To::Code(f) => return f(t, a),
        To::Call(name) => name,
    };
    const MOST_VECTORS: u64 = 1024;
    const MOST_POINTERS: usize = 1 << 20;
    let mut args = [0; 6];
    // What is made lives until the call is over.
    let mut made: Vec<(A, Vec<u8>)> = Vec::new();
    for (to, arg) in args.iter_mut().zip(row.args) {
        let mut bytes = match *arg {
            A::V(i) => {
                *to = a[i];
                continue;
            }
            A::Signed(i) => {
                *to = a[i] as u32 as i32 as i64 as u64;
                continue;
            }
            A::Pair(low, high) => {
                *to = a[low] & 0xffff_ffff | a[high] << 32;
                continue;
            }
            A::Const(v) => {
                *to = v;
                continue;
            }
            A::Id16(i) => {
                *to = if a[i] as u16 == u16::MAX { 0xffff_ffff } else { a[i] & 0xffff };
                continue;
            }
            A::In(i, _) | A::Out(i, _) | A::InOut(i, _) | A::Rest(i, _) | A::Pointers(i) if a[i] == 0 => {
                continue;
            }
            A::In(i, layout) | A::InOut(i, layout) => read(t, a[i], layout)?,
            A::Out(..) | A::Rest(..) => room(Vec::new()),
            A::Iov(i, count) => {
                if a[count] > MOST_VECTORS {
                    return Err(Errno(libc::EINVAL));
                }
                bytes_of(&words(t, a[i], 2 * a[count] as usize, false)?)
            }
            A::Pointers(i) => bytes_of(&words(t, a[i], MOST_POINTERS, true)?),
        };
        *to = ours(t, &mut bytes);
        made.push((*arg, bytes));
    }
    let r = wide(t, name, args);
    for (arg, bytes) in &made {
        match *arg {
            A::Out(i, layout) | A::InOut(i, layout) if r.is_ok() => write(t, a[i], layout, bytes)?,
            A::Rest(i, layout) if r == Err(RESTART_ONCE) => write(t, a[i], layout, bytes)?,
            _ => {}
        }
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_single_and_lead_to_calls() {
        let mut seen = std::collections::HashSet::new();
        for r in rows::ROWS {
            assert!(seen.insert(r.name), "{} is there twice", r.name);
            if let To::Call(name) = r.to {
                assert!(crate::sys::TABLES.into_iter().flatten().any(|c| c.name == name), "no call {name}");
            }
        }
    }
}
