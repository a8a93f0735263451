//! What differs between guest architectures, as data: one file an architecture.

pub(crate) mod generic;
pub(crate) mod i386;
pub(crate) mod numbers_i386;
pub(crate) mod riscv;
pub(crate) mod x86_64;

use accel::arch::GuestArch;
use tcg_engine::{
    Trap,
    user::{HostFault, UserCpu},
};

use crate::elf::Kind;
use crate::host::Errno;
use crate::mm::Mm;
use crate::signal::SigInfo;
use crate::thread::Thread;
use crate::vdso::Vdso;

/// First address a 64-bit program may never have: below all that the host's kernel gives Rhea.
pub(super) const LIMIT: u64 = 0x5000_0000_0000;

/// How a program of an architecture sees Linux.
pub(crate) struct Abi {
    /// Name as in `--arch` and `qemu-NAME`.
    pub(crate) name: &'static str,
    /// Name as in `uname -m`, and `AT_PLATFORM` where there is one.
    pub(crate) machine_name: &'static str,
    /// The same for one that asks to be taken for a 32-bit program (`PER_LINUX32`).
    pub(crate) narrow_name: Option<&'static str>,
    /// The auxiliary vector has `AT_PLATFORM`.
    pub(crate) platform: bool,
    /// `AT_HWCAP2`.
    pub(crate) hwcap2: Option<u64>,
    /// `AT_MINSIGSTKSZ`.
    pub(crate) signal_stack: Option<u64>,
    /// Architecture.
    pub(crate) arch: GuestArch,
    /// `e_machine`.
    pub(crate) machine: u16,
    /// 64-bit.
    pub(crate) wide: bool,
    /// Where searches for room start.
    pub(crate) top: u64,
    /// First address a program may never have.
    pub(crate) limit: u64,
    /// Where position-independent programs go.
    pub(crate) pie_base: u64,
    /// Name and number of each system call, in lists that architectures share.
    pub(crate) numbers: &'static [&'static [(&'static str, u16)]],
    /// Structures are those of the host, or have been made so ([`crate::sys`], `narrow`).
    pub(crate) host_layout: bool,
    /// `struct epoll_event` is packed.
    pub(crate) epoll_packed: bool,
    /// Alignment of 8 bytes in structures.
    pub(crate) align8: usize,
    /// Register with the number of a system call, and later its result.
    pub(crate) number_reg: usize,
    /// Register of the result.
    pub(crate) result_reg: usize,
    /// Registers of the arguments.
    pub(crate) arg_regs: [usize; 6],
    /// Stack pointer.
    pub(crate) sp: usize,
    /// Bytes of the system call instruction.
    pub(crate) call_len: u64,
    /// Which arguments of `clone` are the parent's id, the child's id and the thread pointer.
    pub(crate) clone_order: [usize; 3],
    /// `sigaction` says where handlers return to.
    pub(crate) restorer: bool,
    /// Bytes below the stack pointer that belong to the program.
    pub(crate) red_zone: u64,
    /// Code that makes the system call `rt_sigreturn`, where a handler returns to.
    pub(crate) sigreturn_code: &'static [u8],
    /// What its programs find in their memory.
    pub(crate) vdso: Vdso,
    /// `e_flags` of objects of any kind.
    pub(crate) elf_flags: u32,
    /// Registers in the order of `elf_gregset_t`.
    pub(crate) core_registers: fn(&mut dyn UserCpu) -> Vec<u64>,
    /// `elf_fpregset_t`.
    pub(crate) core_floats: fn(&mut dyn UserCpu) -> Vec<u8>,
    /// Takes registers over in that order.
    pub(crate) set_core_registers: fn(&mut dyn UserCpu, &[u64]),
    /// Takes floating-point state over in that form.
    pub(crate) set_core_floats: fn(&mut dyn UserCpu, &[u8]),
    /// Which of the registers hold the number of a system call while it is made, and its result.
    pub(crate) call_registers: Option<(usize, usize)>,
    /// Signal of an exception.
    pub(crate) exception: fn(&mut dyn UserCpu, Trap) -> Exception,
    /// Signal of an access that the host refused; `mapped` if there is something, `fetch` if it was for code.
    pub(crate) fault: fn(&HostFault, mapped: bool, fetch: bool) -> Exception,
    /// Lays out a signal's frame and sets registers for the handler: pieces of memory to be written.
    pub(crate) push_frame: fn(&mut dyn UserCpu, &Frame<'_>) -> Pieces,
    /// Takes registers back from the frame of `rt_sigreturn`, or of `sigreturn`, which has no information; `None` if it cannot
    /// be read.
    pub(crate) pop_frame: fn(&mut dyn UserCpu, &Mm, information: bool) -> Option<Popped>,
    /// Sets the thread pointer as `CLONE_SETTLS` has it.
    pub(crate) set_tls: fn(&mut dyn UserCpu, &Mm, u64) -> Result<(), Errno>,
    /// Does what code of the kernel's at an address would do. False if there is none.
    pub(crate) kernel_code: fn(&mut Thread, u64) -> bool,
    /// What `/proc/cpuinfo` says of processor `n`, from the machine's text.
    pub(crate) cpuinfo: fn(isa: &str, n: usize) -> String,
}

/// What is to be written to memory: address and bytes.
pub(crate) type Pieces = Vec<(u64, Vec<u8>)>;

/// An exception as Linux tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) signal: i32,
    pub(crate) code: i32,
    pub(crate) address: u64,
    /// What a frame says of it, if it says anything: number, error code, address.
    pub(crate) trap: [u64; 3],
}

/// What a frame gives back besides registers: signal mask, alternate stack (address, flags, size) if it tells that.
pub(crate) struct Popped {
    pub(crate) mask: u64,
    pub(crate) stack: Option<[u64; 3]>,
}

/// What a frame is made from.
pub(crate) struct Frame<'a> {
    pub(crate) signal: i32,
    pub(crate) info: &'a SigInfo,
    /// The handler takes the information.
    pub(crate) wants_info: bool,
    /// Where the frame goes below.
    pub(crate) top: u64,
    /// Signal mask to restore.
    pub(crate) mask: u64,
    /// Alternate stack: address, flags, size.
    pub(crate) stack: [u64; 3],
    pub(crate) handler: u64,
    /// Where the handler returns to.
    pub(crate) return_to: u64,
    /// That is [`Abi::sigreturn_code`].
    pub(crate) return_to_ours: bool,
    /// The last exception: [`Exception::trap`].
    pub(crate) trap: [u64; 3],
}

/// All of them.
pub(crate) const ALL: &[&Abi] = &[&riscv::RISCV64, &riscv::RISCV32, &x86_64::X86_64, &i386::I386];

/// The ABI of an architecture.
pub(crate) fn of(arch: GuestArch) -> Option<&'static Abi> {
    ALL.iter().copied().find(|a| a.arch == arch)
}

impl Abi {
    /// Name and number of each system call.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &'static (&'static str, u16)> {
        self.numbers.iter().copied().flatten()
    }

    /// True if programs of this kind are the architecture's.
    pub(crate) fn fits(&self, machine: u16, wide: bool) -> bool {
        (self.machine, self.wide) == (machine, wide)
    }

    /// The architecture a file is for.
    pub(crate) fn of_file(kind: &Kind) -> Option<&'static Self> {
        let Kind::Elf(machine, wide) = kind else { return None };
        ALL.iter().copied().find(|a| a.fits(*machine, *wide))
    }

    /// True if the host's processor runs such programs.
    pub(crate) fn is_hosts(&self) -> bool {
        matches!(self.arch, GuestArch::X86_64 | GuestArch::I386)
    }

    /// `AUDIT_ARCH_*`: the machine, its width and its byte order.
    pub(crate) fn audit(&self) -> u32 {
        u32::from(self.machine) | 1 << 30 | u32::from(self.wide) << 31
    }
}

/// No code of a kernel's.
pub(super) fn no_code(_: &mut Thread, _: u64) -> bool {
    false
}
