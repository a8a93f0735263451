//! Random vector instructions, compared with Debian's `qemu-riscv64` where it is installed.
//!
//! Words are made from `insn_v.decode`: fixed bits as they stand, registers mostly aligned for the group size, everything
//! else random. A case loads all vector registers and some scalars, sets `vtype`, runs instructions (a few, a dozen with
//! scalar code and changes of `vtype` between them, or a loop over blocks) and stores everything. An illegal instruction
//! is skipped and counted, by a signal handler there and a trap handler here, so that the rules of what is reserved are
//! compared too. `make fuzz` makes more of them.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

#[path = "../common/mod.rs"]
mod common;
mod image;

use std::fmt::Write as _;

use accel::{
    Exit,
    arch::{GuestArch, riscv::State},
};
use common::{
    RAM, RAM_SIZE, Rig, STOP,
    asm::{emit, li, s_type, vsetvli},
    oracle::{self, Rng},
};
use image::{DATA, HANDLER, Image, Layout, NAMES, image};

fn run_rhea(image: &Image, backend: &str, layout: Layout) -> Vec<u8> {
    let vlen = (8 * layout.vlenb).to_string();
    let mut rig = Rig::new(GuestArch::Riscv64, &[("v", "on"), ("vlen", &vlen)], backend);
    rig.write(RAM, &image.bytes);
    let start = State {
        pc: RAM,
        privilege: 0,
        mtvec: HANDLER,
        mstatus: rig.fresh.mstatus | 1 << 13 | 1 << 9,
        pmpcfg: std::array::from_fn(|n| if n == 0 { 0x1f } else { 0 }),
        pmpaddr: std::array::from_fn(|n| if n == 0 { (1 << 54) - 1 } else { 0 }),
        ..rig.fresh.clone()
    };
    rig.set_state(start);
    let exit = rig.run();
    assert_eq!(exit, Exit::Kicked);
    let s = rig.state();
    assert_eq!(s.mcause, 8, "stopped at {:#x} by {:#x}, value {:#x}", s.mepc, s.mcause, s.mtval);
    rig.read(DATA, layout.size())
}

fn word(d: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(d[at..at + 8].try_into().unwrap())
}

fn compare(image: &Image, qemu: &[u8], rhea: &[u8], backend: &str, l: Layout) -> Result<(), String> {
    let mut failures = String::new();
    let mut count = 0;
    for case in 0..l.cases {
        let range = case * l.case()..(case + 1) * l.case();
        let (q, r) = (&qemu[range.clone()], &rhea[range]);
        if q == r {
            continue;
        }
        count += 1;
        if count > 8 {
            continue;
        }
        let _ = writeln!(failures, "case {case} ({backend}, vlen {}):\n{}", 8 * l.vlenb, image.listing[case]);
        let different = (0..l.case()).step_by(8).filter(|at| word(q, *at) != word(r, *at));
        for at in different.take(6) {
            let name = if at < l.output() {
                format!("memory {at:#x}")
            } else if at < l.vectors_out() {
                NAMES[(at - l.output()) / 8].to_owned()
            } else {
                let n = at - l.vectors_out();
                format!("v{}+{:#x}", n / l.vlenb, n % l.vlenb)
            };
            let _ = writeln!(failures, "    {name}: {:#x}, qemu has {:#x}", word(r, at), word(q, at));
        }
    }
    if count == 0 { Ok(()) } else { Err(format!("{count} of {} cases differ\n{failures}", l.cases)) }
}

/// `rounds` images with registers of `vlenb` bytes, on both back ends.
fn fuzz(vlenb: usize, usual: usize) {
    if !oracle::installed(64) {
        return;
    }
    let l = Layout::new(vlenb);
    let cpu = format!("rv64,v=true,vlen={},elen=64", 8 * vlenb);
    for seed in oracle::seeds(oracle::rounds(l.cases, usual)) {
        let seed = seed ^ vlenb as u64;
        let image = image(&mut Rng(seed), l);
        // It has an assertion about accesses that cross pages.
        let Some(qemu) = oracle::qemu(&image.bytes, 64, &cpu, l.size()) else {
            println!("SKIPPED: qemu-riscv64 gave up on seed {seed:#x}, nothing was compared");
            continue;
        };
        // Most cases must have got somewhere.
        let illegal: u64 = (0..l.cases).map(|c| word(&qemu, c * l.case() + l.illegal())).sum();
        assert!(illegal < l.cases as u64 * 6, "{illegal} illegal instructions in {} cases", l.cases);
        for backend in ["interp", "jit", "hot"] {
            compare(&image, &qemu, &run_rhea(&image, backend, l), backend, l)
                .unwrap_or_else(|e| panic!("seed {seed:#x}: {e}"));
        }
    }
}

#[test]
fn fuzz_vlen_128_as_in_qemu() {
    fuzz(16, 1);
}

#[test]
fn fuzz_vlen_256_as_in_qemu() {
    fuzz(32, 1);
}

#[test]
fn fuzz_vlen_512_as_in_qemu() {
    fuzz(64, 1);
}

#[test]
fn fuzz_vlen_1024_as_in_qemu() {
    fuzz(128, 1);
}

/// A load or store that faults in the middle names its element, as it does in a helper.
#[test]
fn faults_name_their_element() {
    // vsetvli x0, x0+rd e8,m8; then the access at x10.
    let load = 0x0205_0007 | 8 << 7;
    let store = load | 0x20;
    let end = RAM + RAM_SIZE;
    for (word, mcause) in [(load, 5), (store, 7)] {
        for (base, element) in [(end - 40, 40), (end, 0), (end - 4096 - 8, u64::MAX), (end - 128, u64::MAX)] {
            for backend in ["interp", "jit"] {
                let mut rig = Rig::new(GuestArch::Riscv64, &[("v", "on")], backend);
                let mut code = Vec::new();
                emit(&mut code, vsetvli(1, 0, 3));
                emit(&mut code, word);
                li(&mut code, 5, STOP);
                emit(&mut code, s_type(0x23, 3, 5, 0, 0));
                emit(&mut code, 0x6f);
                rig.write(RAM, &code);
                let mut handler = Vec::new();
                li(&mut handler, 5, STOP);
                emit(&mut handler, s_type(0x23, 3, 5, 0, 0));
                emit(&mut handler, 0x6f);
                rig.write(HANDLER, &handler);
                let mut start = State {
                    pc: RAM,
                    mtvec: HANDLER,
                    mstatus: rig.fresh.mstatus | 1 << 9,
                    ..rig.fresh.clone()
                };
                start.x[10] = base;
                rig.set_state(start);
                assert_eq!(rig.run(), Exit::Kicked);
                let s = rig.state();
                if element == u64::MAX {
                    assert_eq!(s.mcause, 0, "{backend} {base:#x}");
                } else {
                    let got = (s.mcause, s.mtval, s.mepc, s.vcsrs[0]);
                    assert_eq!(got, (mcause, end, RAM + 4, element), "{backend} {word:#x} {base:#x}");
                }
            }
        }
    }
}
