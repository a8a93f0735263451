//! i386 programs: features `org.gnu.gdb.i386.{core,sse}`, on the state of an x86-64 processor.
//!
//! Numbers are GDB's from [`FIRST`] on, as those of the 64-bit file are below it.

use super::x86::{self, register};
use super::{Description, Feature};

/// Number of the first register.
pub(super) const FIRST: usize = 0x100;
const EIP: usize = FIRST + 8;
const EFLAGS: usize = FIRST + 9;
const ST0: usize = FIRST + 16;
const XMM0: usize = ST0 + 16;
const MXCSR: usize = XMM0 + 8;

/// Names in GDB's order, and the number of each in the 64-bit file.
const GENERAL: [(&str, usize); 8] =
    [("eax", 0), ("ecx", 2), ("edx", 3), ("ebx", 1), ("esp", 7), ("ebp", 6), ("esi", 4), ("edi", 5)];

/// The register file of a program.
pub(super) fn description() -> Description {
    let mut core = Feature { name: "org.gnu.gdb.i386.core", ..Feature::default() };
    for (n, (name, _)) in GENERAL.iter().enumerate() {
        let kind = if matches!(*name, "ebp" | "esp") { "data_ptr" } else { "int32" };
        core.registers.push(register(name, FIRST + n, 32, kind, ""));
    }
    core.registers.push(register("eip", EIP, 32, "code_ptr", ""));
    core.registers.extend(x86::old(EFLAGS, ST0));
    let features = vec![core, x86::sse(8, XMM0, MXCSR)];
    Description { arch: "i386", system: None, features, in_g: MXCSR + 1, pc: EIP }
}

/// The number in the 64-bit file of a register of either.
pub(super) fn wide(number: usize) -> Option<usize> {
    Some(match number {
        0..FIRST => number,
        FIRST..EIP => GENERAL[number - FIRST].1,
        EIP => x86::RIP,
        EFLAGS..ST0 => x86::EFLAGS + (number - EFLAGS),
        ST0..XMM0 => x86::ST0 + (number - ST0),
        XMM0..MXCSR => x86::XMM0 + (number - XMM0),
        MXCSR => x86::MXCSR,
        _ => return None,
    })
}
