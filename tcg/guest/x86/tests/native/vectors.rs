//! One run of code on a rig, from the registers the host has had.

use crate::common::Rig;
use crate::host::{DATA, DATA_SIZE, FLAGS, Registers};

/// Runs `code` at `at` with `regs` and `data`, vectors enabled by XCR0 `xcr0`; returns registers and data behind it.
pub(crate) fn run(
    rig: &mut Rig,
    at: u64,
    xcr0: u64,
    code: &[u8],
    regs: &Registers,
    data: &[u8],
) -> (Registers, Vec<u8>) {
    rig.write(DATA, data);
    let mut bytes = code.to_vec();
    bytes.extend(b"\xe6\xf4\xeb\xfe");
    rig.write(at, &bytes);
    let mut s = rig.long(at);
    let mut r = *regs;
    r[4] = 0x9_0000;
    s.set_gprs(r);
    s.rflags = regs[FLAGS];
    // OSFXSR, OSXMMEXCPT and OSXSAVE.
    s.cr4 |= 0x600 | 1 << 18;
    s.fpu.xcr0 = xcr0;
    rig.set_state(&s);
    rig.run();
    let s = rig.state();
    let mut r = s.gprs();
    r[FLAGS] = s.rflags;
    (r, rig.read(DATA, DATA_SIZE))
}
