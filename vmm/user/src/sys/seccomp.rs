//! Filters of system calls (seccomp(2)): classic BPF programs over the guest's numbers, architecture and arguments.
//!
//! A filter is checked once, so that running it needs no bounds and ends (`kernel/seccomp.c` and `net/core/filter.c` of Linux 6.12
//! for what is accepted). Filters belong to a thread and to what it starts, also to the programs it executes as guests: those are
//! given them by a descriptor ([`Filter::pass_on`]).

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::IntoRawFd as _;
use std::sync::Arc;

use crate::host::{self, Errno, Sys};
use crate::signal::SigInfo;
use crate::thread::Thread;

use super::{Run::*, calls};

calls! {
    "seccomp" [Int, Hex, Ptr] Do(seccomp);
}

const EINVAL: Errno = Errno(libc::EINVAL);
/// Most instructions of a program, and of all programs of a thread.
const MOST: usize = 4096;
const MOST_TOGETHER: usize = 32768;
/// Bytes of `struct seccomp_data`.
const DATA: usize = 64;

const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ACTION: u32 = 0xffff_0000;

/// One instruction: code, jumps if true and false, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inst {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

/// The filters of a thread: the newest, and those before it.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Vec<Inst>,
    before: Option<Arc<Filter>>,
}

/// What is loaded where; classes and modes of BPF.
mod op {
    pub(super) const LD_ABS: u16 = 0x20;
    pub(super) const LD_LEN: u16 = 0x80;
    pub(super) const LDX_LEN: u16 = 0x81;
    pub(super) const LD_IMM: u16 = 0x00;
    pub(super) const LDX_IMM: u16 = 0x01;
    pub(super) const LD_MEM: u16 = 0x60;
    pub(super) const LDX_MEM: u16 = 0x61;
    pub(super) const ST: u16 = 0x02;
    pub(super) const STX: u16 = 0x03;
    pub(super) const RET_K: u16 = 0x06;
    pub(super) const RET_A: u16 = 0x16;
    pub(super) const TAX: u16 = 0x07;
    pub(super) const TXA: u16 = 0x87;
    pub(super) const NEG: u16 = 0x84;
    pub(super) const JA: u16 = 0x05;
    /// The operand is X.
    pub(super) const X: u16 = 0x08;
    pub(super) const DIV: u16 = 0x34;
    pub(super) const LSH: u16 = 0x64;
    pub(super) const RSH: u16 = 0x74;
}

/// Arithmetic by its code without the source.
fn compute(code: u16, a: u32, b: u32) -> Option<u32> {
    Some(match code {
        0x04 => a.wrapping_add(b),
        0x14 => a.wrapping_sub(b),
        0x24 => a.wrapping_mul(b),
        op::DIV => a.checked_div(b)?,
        0x44 => a | b,
        0x54 => a & b,
        op::LSH => a.checked_shl(b).unwrap_or(0),
        op::RSH => a.checked_shr(b).unwrap_or(0),
        0xa4 => a ^ b,
        _ => return None,
    })
}

/// A comparison by its code without the source.
fn holds(code: u16, a: u32, b: u32) -> Option<bool> {
    Some(match code {
        0x15 => a == b,
        0x25 => a > b,
        0x35 => a >= b,
        0x45 => a & b != 0,
        _ => return None,
    })
}

/// True if a program may be run: known instructions, loads inside the data, jumps forward inside the program, a return at its end.
fn is_valid(program: &[Inst]) -> bool {
    let good = |i: usize, p: &Inst| {
        let left = program.len() - i - 1;
        match p.code {
            op::LD_ABS => p.k.is_multiple_of(4) && (p.k as usize) < DATA,
            op::LD_LEN | op::LDX_LEN | op::LD_IMM | op::LDX_IMM | op::RET_K | op::RET_A => true,
            op::TAX | op::TXA | op::NEG => true,
            op::LD_MEM | op::LDX_MEM | op::ST | op::STX => p.k < 16,
            op::JA => (p.k as usize) < left,
            code if code & 7 == 4 => {
                let plain = code & !op::X;
                let by_constant = code & op::X == 0;
                compute(plain, 1, 1).is_some()
                    && !(by_constant && plain == op::DIV && p.k == 0)
                    && !(by_constant && matches!(plain, op::LSH | op::RSH) && p.k >= 32)
            }
            code if code & 7 == 5 => {
                let far = usize::from(p.yes.max(p.no));
                holds(code & !op::X, 0, 0).is_some() && far < left
            }
            _ => false,
        }
    };
    let ends = program.last().is_some_and(|p| matches!(p.code, op::RET_K | op::RET_A));
    ends && program.len() <= MOST && program.iter().enumerate().all(|(i, p)| good(i, p))
}

/// What a program says of a call.
fn run(program: &[Inst], data: &[u8; DATA]) -> u32 {
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
    let mut at = 0;
    while let Some(p) = program.get(at) {
        at += 1;
        let operand = if p.code & op::X != 0 { x } else { p.k };
        let cell = p.k as usize & 15;
        match p.code {
            op::LD_ABS => {
                let mut word = [0; 4];
                word.copy_from_slice(&data[p.k as usize..p.k as usize + 4]);
                a = u32::from_le_bytes(word);
            }
            op::LD_LEN => a = DATA as u32,
            op::LDX_LEN => x = DATA as u32,
            op::LD_IMM => a = p.k,
            op::LDX_IMM => x = p.k,
            op::LD_MEM => a = memory[cell],
            op::LDX_MEM => x = memory[cell],
            op::ST => memory[cell] = a,
            op::STX => memory[cell] = x,
            op::RET_K => return p.k,
            op::RET_A => return a,
            op::TAX => x = a,
            op::TXA => a = x,
            op::NEG => a = a.wrapping_neg(),
            op::JA => at += p.k as usize,
            code if code & 7 == 4 => match compute(code & !op::X, a, operand) {
                Some(v) => a = v,
                // A division by X that is zero ends the program.
                None => return KILL_THREAD,
            },
            code => {
                at += usize::from(if holds(code & !op::X, a, operand) == Some(true) { p.yes } else { p.no })
            }
        }
    }
    KILL_THREAD
}

impl Filter {
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |f| f.before.as_deref())
    }

    /// The strictest answer of all filters, the newest one's of those that are alike.
    fn answer(&self, data: &[u8; DATA]) -> u32 {
        let answers = self.all().map(|f| run(&f.program, data));
        answers.min_by_key(|r| (r & ACTION) as i32).unwrap_or(ALLOW)
    }

    fn size(&self) -> usize {
        self.all().map(|f| f.program.len() + 4).sum()
    }

    /// A descriptor from which the next program takes the filters ([`Filter::take_over`]).
    pub(crate) fn pass_on(&self) -> Option<i32> {
        let fd = host::call(libc::SYS_memfd_create, &[host::arg(c"rhea-seccomp"), 0]).ok()?;
        let mut file = host::own(fd);
        let mut bytes = Vec::new();
        let mut all: Vec<&Self> = self.all().collect();
        all.reverse();
        for f in all {
            bytes.extend((f.program.len() as u32).to_le_bytes());
            bytes.extend(f.program.iter().flat_map(|i| {
                let mut b = [0; 8];
                b[..2].copy_from_slice(&i.code.to_le_bytes());
                (b[2], b[3]) = (i.yes, i.no);
                b[4..].copy_from_slice(&i.k.to_le_bytes());
                b
            }));
        }
        file.write_all(&bytes).and_then(|()| file.rewind()).ok()?;
        Some(file.into_raw_fd())
    }

    /// The filters another process passed on.
    pub(crate) fn take_over(fd: u64) -> Option<Arc<Self>> {
        let mut bytes = Vec::new();
        host::own(fd).take(1 << 20).read_to_end(&mut bytes).ok()?;
        let mut rest = &bytes[..];
        let mut filter = None;
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let (program, tail) = tail.split_at_checked(u32::from_le_bytes(*head) as usize * 8)?;
            rest = tail;
            filter = Some(Arc::new(Self { program: parse(program), before: filter }));
        }
        filter.filter(|f| f.all().all(|f| is_valid(&f.program)))
    }
}

fn parse(bytes: &[u8]) -> Vec<Inst> {
    let inst = |b: &[u8]| Inst {
        code: u16::from_le_bytes([b[0], b[1]]),
        yes: b[2],
        no: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(inst).collect()
}

fn audit_arch(t: &Thread) -> u32 {
    const LITTLE: u32 = 1 << 30;
    const WIDE: u32 = 1 << 31;
    u32::from(t.process.abi.machine) | LITTLE | if t.process.abi.wide { WIDE } else { 0 }
}

/// What the thread's filters make of a call; `None` if it may be made.
pub(crate) fn look(t: &mut Thread, number: u64, args: &[u64; 6]) -> Option<Sys> {
    let filters = t.filters.clone()?;
    let arch = audit_arch(t);
    let mut data = [0; DATA];
    data[..4].copy_from_slice(&(number as u32).to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    data[8..16].copy_from_slice(&t.cpu.pc().to_le_bytes());
    for (to, a) in data[16..].chunks_exact_mut(8).zip(args) {
        to.copy_from_slice(&a.to_le_bytes());
    }
    let answer = filters.answer(&data);
    let value = (answer & 0xffff) as i32;
    match answer & ACTION {
        ALLOW | LOG => None,
        ERRNO if value == 0 => Some(Ok(0)),
        ERRNO => Some(Err(Errno(value.min(4095)))),
        TRACE => match t.ask_of_call(number, *args, value as u64) {
            None => Some(Err(Errno(libc::ENOSYS))),
            Some(false) => Some(Err(host::KEEP)),
            Some(true) => {
                let abi = t.process.abi;
                let most = if abi.wide { u64::MAX } else { u32::MAX.into() };
                let args = abi.arg_regs.map(|r| t.cpu.reg(r) & most);
                Some(super::unfiltered(t, t.cpu.reg(abi.number_reg) & most, &args))
            }
        },
        // There is nobody to ask.
        USER_NOTIFY => Some(Err(Errno(libc::ENOSYS))),
        TRAP => {
            let mut info = SigInfo::fault(libc::SIGSYS, 1, t.cpu.pc());
            info.0[4..8].copy_from_slice(&value.to_le_bytes());
            info.0[24..28].copy_from_slice(&(number as u32).to_le_bytes());
            info.0[28..32].copy_from_slice(&arch.to_le_bytes());
            t.force(libc::SIGSYS, &info);
            Some(Err(host::KEEP))
        }
        KILL_THREAD if t.process.threads().len() > 1 => {
            t.ended = Some(libc::SIGSYS);
            Some(Err(host::KEEP))
        }
        _ => t.die(libc::SIGSYS, &SigInfo::fault(libc::SIGSYS, 1, t.cpu.pc())),
    }
}

/// `seccomp(2)`.
pub(super) fn seccomp(t: &mut Thread, a: &[u64; 6]) -> Sys {
    const SET_MODE_FILTER: u64 = 1;
    const GET_ACTION_AVAIL: u64 = 2;
    match a[0] & 0xffff_ffff {
        SET_MODE_FILTER => add(t, a[1], a[2]),
        GET_ACTION_AVAIL if a[1] == 0 => {
            let action = t.process.mm.read_u32(a[2])?;
            let known = [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW].contains(&action);
            if known { Ok(0) } else { Err(Errno(libc::EOPNOTSUPP)) }
        }
        _ => Err(EINVAL),
    }
}

/// Adds a filter to the calling thread's.
pub(super) fn add(t: &mut Thread, flags: u64, at: u64) -> Sys {
    const TSYNC: u64 = 1;
    const LOGS: u64 = 2;
    const SPEC_ALLOW: u64 = 4;
    if flags & !(TSYNC | LOGS | SPEC_ALLOW) != 0 {
        return Err(EINVAL);
    }
    let allowed = host::call(libc::SYS_prctl, &[libc::PR_GET_NO_NEW_PRIVS as u64]) == Ok(1)
        || host::call(libc::SYS_geteuid, &[]) == Ok(0);
    if !allowed {
        return Err(Errno(libc::EACCES));
    }
    // With other threads the call says which one could not follow.
    if flags & TSYNC != 0
        && let Some(other) = t.process.threads().iter().find(|other| **other != t.tid)
    {
        return Ok(*other as u64);
    }
    let mm = &t.process.mm;
    let mut head = [0; 2];
    mm.read(at, &mut head)?;
    let len = usize::from(u16::from_le_bytes(head));
    let program = if t.process.abi.wide {
        mm.read_u64(at.wrapping_add(8))?
    } else {
        mm.read_u32(at.wrapping_add(4))?.into()
    };
    let mut bytes = vec![0; len * 8];
    if len > MOST {
        return Err(EINVAL);
    }
    mm.read(program, &mut bytes)?;
    let program = parse(&bytes);
    if !is_valid(&program) {
        return Err(EINVAL);
    }
    if t.filters.as_ref().map_or(0, |f| f.size()) + len > MOST_TOGETHER {
        return Err(Errno(libc::ENOMEM));
    }
    t.filters = Some(Arc::new(Filter { program, before: t.filters.take() }));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inst(code: u16, yes: u8, no: u8, k: u32) -> Inst {
        Inst { code, yes, no, k }
    }

    /// Call 39 gets error 7, all else goes on.
    fn example() -> Vec<Inst> {
        vec![
            inst(op::LD_ABS, 0, 0, 0),
            inst(0x15, 0, 1, 39),
            inst(op::RET_K, 0, 0, ERRNO | 7),
            inst(op::RET_K, 0, 0, ALLOW),
        ]
    }

    fn call(number: u32) -> [u8; DATA] {
        let mut data = [0; DATA];
        data[..4].copy_from_slice(&number.to_le_bytes());
        data
    }

    #[test]
    fn the_strictest_answer_counts() {
        let allow = vec![inst(op::RET_K, 0, 0, ALLOW)];
        let kill = vec![inst(op::LD_LEN, 0, 0, 0), inst(0x54, 0, 0, 0), inst(op::RET_A, 0, 0, 0)];
        let first = Arc::new(Filter { program: example(), before: None });
        let second = Filter { program: allow, before: Some(first.clone()) };
        assert_eq!((second.answer(&call(39)), second.answer(&call(40))), (ERRNO | 7, ALLOW));
        let third = Filter { program: kill, before: Some(first) };
        assert_eq!(third.answer(&call(40)), KILL_THREAD);
    }

    #[test]
    fn programs_that_could_leave_their_bounds_are_refused() {
        assert!(is_valid(&example()));
        let with = |i: usize, new: Inst| {
            let mut p = example();
            p[i] = new;
            is_valid(&p)
        };
        assert!(!with(0, inst(op::LD_ABS, 0, 0, 64)) && !with(0, inst(op::LD_ABS, 0, 0, 2)));
        assert!(
            !with(1, inst(0x15, 0, 2, 39))
                && !with(1, inst(op::JA, 0, 0, 2))
                && with(1, inst(op::JA, 0, 0, 1))
        );
        assert!(
            !with(1, inst(op::DIV, 0, 0, 0))
                && !with(1, inst(op::ST, 0, 0, 16))
                && !with(1, inst(0x94, 0, 0, 1))
        );
        assert!(!with(3, inst(op::LD_IMM, 0, 0, 0)) && !is_valid(&[]));
    }

    #[test]
    fn arithmetic_ends_where_it_must() {
        let by_x = [inst(op::LD_IMM, 0, 0, 8), inst(op::DIV | op::X, 0, 0, 0), inst(op::RET_K, 0, 0, ALLOW)];
        assert_eq!(run(&by_x, &call(0)), KILL_THREAD);
        let shift = [
            inst(op::LD_IMM, 0, 0, 1),
            inst(op::LDX_IMM, 0, 0, 40),
            inst(op::LSH | op::X, 0, 0, 0),
            inst(op::RET_A, 0, 0, 0),
        ];
        assert_eq!(run(&shift, &call(0)), 0);
    }

    #[test]
    fn filters_are_passed_on() {
        let first = Arc::new(Filter { program: example(), before: None });
        let both = Filter { program: vec![inst(op::RET_K, 0, 0, ALLOW)], before: Some(first) };
        let fd = both.pass_on().unwrap();
        let there = Filter::take_over(fd as u64).unwrap();
        assert_eq!((there.size(), there.answer(&call(39))), (both.size(), ERRNO | 7));
    }
}
