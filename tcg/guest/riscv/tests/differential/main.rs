//! Random user-mode code, compared with Debian's `qemu-riscv64` and `qemu-riscv32` where they are installed.
//!
//! Words are made from the decode tables themselves: fixed bits as they stand, everything else random. A case loads all
//! registers, runs a handful of instructions (some cases several times, as a loop) and stores all registers; the same
//! image runs on both sides. Floating point runs under all rounding modes, static and dynamic, and its flags are
//! compared. `make fuzz` runs more.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

#[path = "../common/mod.rs"]
mod common;
mod patterns;

use std::fmt::Write as _;

use accel::{
    Exit,
    arch::{GuestArch, riscv::State},
};
use common::{
    RAM, Rig, STOP,
    asm::{addi, b_type, emit, i_type, li, load, s_type, store},
    oracle::{self, Rng},
};
use patterns::{Kind, Pattern, TARGET};
use tcg_engine::Guest;
use tcg_guest_riscv::{Cpu, Riscv};

const CASES: usize = 1200;
const LENGTH: usize = 6;
/// Where the cases' data starts, and bytes a case: 0 scratch, 0x100 inputs, 0x300 outputs.
const DATA: u64 = RAM + 0x18_0000;
const CASE: usize = 0x800;
const INPUT: usize = 0x100;
const OUTPUT: usize = 0x300;
/// CBIE, CBCFE and CBZE of menvcfg and senvcfg.
const BLOCKS: u64 = 0xf0;
/// Times that a loop still has to go round.
const COUNT: i32 = 0x2f8;
/// Trap handler on our side.
const HANDLER: u64 = RAM + 0x17_f000;
/// x1 to x30, f0 to f31, fcsr.
const WORDS: usize = 30 + 32 + 1;

fn integer(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => {
            let corners =
                [0, 1, 2, u64::MAX, 1 << 63, i64::MAX as u64, 1 << 31, 0xffff_ffff_8000_0000, 63, 64];
            rng.pick(&corners)
        }
        1 => rng.next() & 0xff,
        2 => rng.next() as u32 as i32 as u64,
        _ => rng.next(),
    }
}

/// Bits of a register: mostly a well-formed value of one of the formats; of format 0 (half), 1 or 2 more often than not.
fn float(rng: &mut Rng, format: usize) -> u64 {
    let half = [0, 0x8000, 0x3c00, 0x7c00, 0xfc00, 0x7e00, 0x7d01, 1, 0x03ff, 0x0400, 0x7bff, 0x3555];
    let single = [
        0,
        0x8000_0000,
        0x3f80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x4f00_0000,
        0xcf00_0000,
        0x5f00_0000,
    ];
    let double = [
        0,
        1 << 63,
        0x3ff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        1,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x43e0_0000_0000_0000,
        0x41e0_0000_0000_0000,
    ];
    let kind =
        if rng.one_in(3) { rng.below(8) } else { [[0, 0, 1], [2, 3, 4], [5, 5, 6]][format][rng.below(3)] };
    match kind {
        0 => 0xffff_ffff_ffff_0000 | rng.pick(&half),
        1 => 0xffff_ffff_ffff_0000 | rng.next() & 0xffff,
        2 => 0xffff_ffff_0000_0000 | rng.pick(&single),
        3 => 0xffff_ffff_0000_0000 | rng.next() & 0xffff_ffff,
        // Values of moderate size, which meet in sums and products.
        4 => 0xffff_ffff_0000_0000 | u64::from(((rng.next() as i32 >> 8) as f32 / 64.0).to_bits()),
        5 => rng.pick(&double),
        6 => ((rng.next() as i64 >> 20) as f64 / 1024.0).to_bits(),
        _ => rng.next(),
    }
}

struct Image {
    bytes: Vec<u8>,
    /// Disassembly of each case.
    listing: Vec<String>,
}

/// The bytes of one instruction with what must stand before it.
fn instruction(rng: &mut Rng, p: &Pattern, next: u32, xlen: u32) -> Option<Vec<u8>> {
    let word = p.word(rng, next, xlen)?;
    let mut code = Vec::new();
    match p.kind() {
        // A branch over the instruction skips these too: they count as part of it.
        Kind::LoadStore16 => emit(&mut code, addi(15, 31, 0)),
        Kind::Stack16 => emit(&mut code, addi(2, 31, 0)),
        Kind::Indirect => {
            // auipc; the target is behind the next instruction.
            emit(&mut code, TARGET << 7 | 0x17);
            let far = 8 + p.width / 8 + next;
            emit(&mut code, addi(TARGET, TARGET, far as i32));
        }
        _ => {}
    }
    code.extend_from_slice(&word.to_le_bytes()[..p.width as usize / 8]);
    Some(code)
}

fn inputs(rng: &mut Rng, data: &mut [u8]) {
    let format = rng.below(3);
    for (n, place) in data[..OUTPUT].chunks_exact_mut(8).enumerate() {
        let index = n.wrapping_sub(INPUT / 8);
        let value = match index {
            30..=61 => float(rng, format),
            62 => rng.pick(&[0, 1, 2, 3, 4]) << 5 | rng.next() & 31,
            63 => 3,
            _ => integer(rng),
        };
        place.copy_from_slice(&value.to_le_bytes());
    }
}

fn image(rng: &mut Rng, xlen: u32) -> Image {
    // Width of a load or store of a whole register.
    let full = if xlen == 32 { 2 } else { 3 };
    let guest = Riscv::with_cpu(Cpu::new(xlen, "", &[]).unwrap());
    let all = patterns::all(xlen);
    let mut code = Vec::new();
    let mut data = vec![0; CASES * CASE];
    let mut listing = Vec::new();
    for case in 0..CASES {
        let at = case * CASE;
        inputs(rng, &mut data[at..at + CASE]);
        li(&mut code, 31, DATA + at as u64);
        let input = |n: usize| (INPUT + 8 * n) as u32;
        emit(&mut code, i_type(0x03, full, 1, 31, input(62)));
        emit(&mut code, i_type(0x73, 1, 0, 1, 3));
        for n in 0..32 {
            emit(&mut code, i_type(0x07, 3, n as u32, 31, input(30 + n)));
        }
        for n in 1..31 {
            emit(&mut code, i_type(0x03, full, n as u32, 31, input(n - 1)));
        }
        // What sc does behind lr of another width is up to the hart.
        let pairs = rng.pick(&["_w", "_d"]);
        // The instructions are made from the last to the first: a branch must know how far it skips.
        let mut made: Vec<Vec<u8>> = Vec::new();
        while made.len() < LENGTH {
            let p = &all[(case * LENGTH + made.len() * 7 + rng.below(3)) % all.len()];
            let next = made.last().map_or(4, |w| w.len() as u32);
            if (p.name.starts_with("lr_") || p.name.starts_with("sc_"))
                && !p.name.ends_with(pairs)
                && xlen == 64
            {
                made.push(0x13_u32.to_le_bytes().to_vec());
                continue;
            }
            // Nothing branches over the end.
            let leaves = matches!(p.kind(), Kind::Branch | Kind::Jump | Kind::Indirect);
            if made.is_empty() && leaves {
                made.push(0x13_u32.to_le_bytes().to_vec());
            } else if let Some(code) = instruction(rng, p, next, xlen) {
                made.push(code);
            }
        }
        let head = code.len();
        let mut text = String::new();
        for bytes in made.iter().rev() {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (line, len) = guest.disassemble(RAM + code.len() as u64, rest);
                let _ = writeln!(text, "    {:02x?} {line}", &rest[..len]);
                code.extend_from_slice(&rest[..len]);
                rest = &rest[len..];
            }
        }
        if rng.one_in(4) {
            text.push_str("    three times\n");
            emit(&mut code, load(2, 5, 31, COUNT));
            emit(&mut code, addi(5, 5, -1));
            emit(&mut code, store(2, 5, 31, COUNT));
            let back = head as i32 - code.len() as i32;
            emit(&mut code, b_type(1, 5, 0, back));
        }
        listing.push(text);
        if !code.len().is_multiple_of(4) {
            code.extend_from_slice(&1_u16.to_le_bytes());
        }
        let output = |n: usize| (OUTPUT + 8 * n) as u32;
        for n in 1..31 {
            emit(&mut code, s_type(0x23, full, 31, n as u32, output(n - 1)));
        }
        for n in 0..32 {
            emit(&mut code, s_type(0x27, 3, 31, n as u32, output(30 + n)));
        }
        emit(&mut code, i_type(0x73, 2, 1, 0, 3));
        emit(&mut code, s_type(0x23, full, 31, 1, output(62)));
    }
    // write(1, DATA, size); exit(0)
    li(&mut code, 10, 1);
    li(&mut code, 11, DATA);
    li(&mut code, 12, (CASES * CASE) as u64);
    li(&mut code, 17, 64);
    emit(&mut code, 0x73);
    li(&mut code, 10, 0);
    li(&mut code, 17, 93);
    emit(&mut code, 0x73);
    assert!(code.len() as u64 <= HANDLER - RAM);
    code.resize((HANDLER - RAM) as usize, 0);
    li(&mut code, 5, STOP);
    emit(&mut code, s_type(0x23, 2, 5, 0, 0));
    emit(&mut code, 0x6f);
    code.resize((DATA - RAM) as usize, 0);
    code.extend_from_slice(&data);
    Image { bytes: code, listing }
}

fn run_rhea(image: &[u8], backend: &str, xlen: u32) -> Vec<u8> {
    let arch = if xlen == 32 { GuestArch::Riscv32 } else { GuestArch::Riscv64 };
    let mut rig = Rig::new(arch, &[], backend);
    rig.write(RAM, image);
    let start = State {
        pc: RAM,
        privilege: 0,
        mtvec: HANDLER,
        mstatus: rig.fresh.mstatus | 1 << 13,
        // Everything on cache blocks is allowed, as to programs under QEMU.
        menvcfg: rig.fresh.menvcfg | BLOCKS,
        senvcfg: rig.fresh.senvcfg | BLOCKS,
        pmpcfg: std::array::from_fn(|n| if n == 0 { 0x1f } else { 0 }),
        pmpaddr: std::array::from_fn(|n| if n == 0 { (1 << 54) - 1 } else { 0 }),
        ..rig.fresh.clone()
    };
    rig.set_state(start);
    let exit = rig.run();
    assert_eq!(exit, Exit::Kicked);
    let s = rig.state();
    assert_eq!(s.mcause, 8, "stopped at {:#x} by {:#x}, value {:#x}", s.mepc, s.mcause, s.mtval);
    rig.read(DATA, CASES * CASE)
}

fn compare(image: &Image, qemu: &[u8], rhea: &[u8], backend: &str) -> Result<(), String> {
    // Both sides must have done something: the registers that were stored differ from those loaded.
    let changed = (0..CASES).filter(|c| {
        let at = c * CASE;
        qemu[at + INPUT..at + INPUT + 8 * WORDS] != qemu[at + OUTPUT..at + OUTPUT + 8 * WORDS]
    });
    assert!(changed.count() > CASES * 9 / 10);
    let mut failures = String::new();
    let mut count = 0;
    for case in 0..CASES {
        let range = case * CASE..(case + 1) * CASE;
        let (q, r) = (&qemu[range.clone()], &rhea[range]);
        if q == r {
            continue;
        }
        count += 1;
        if count > 8 {
            continue;
        }
        let word = |d: &[u8], at: usize| u64::from_le_bytes(d[at..at + 8].try_into().unwrap());
        let _ = writeln!(failures, "case {case} ({backend}):\n{}", image.listing[case]);
        for n in 0..CASE / 8 {
            let at = n * 8;
            if word(q, at) == word(r, at) {
                continue;
            }
            let name = match at {
                0..OUTPUT => format!("memory {at:#x}"),
                _ => match (at - OUTPUT) / 8 {
                    n @ 0..=29 => format!("x{}", n + 1),
                    n @ 30..WORDS if n < 62 => format!("f{}", n - 30),
                    _ => "fcsr".to_owned(),
                },
            };
            let _ = writeln!(failures, "    {name}: {:#x}, qemu has {:#x}", word(r, at), word(q, at));
        }
    }
    if count == 0 { Ok(()) } else { Err(format!("{count} of {CASES} cases differ\n{failures}")) }
}

fn fuzz(xlen: u32) {
    if !oracle::installed(xlen) {
        return;
    }
    for seed in oracle::seeds(oracle::rounds(CASES, 2)) {
        let image = image(&mut Rng(seed), xlen);
        let qemu = oracle::qemu(&image.bytes, xlen, "max", CASES * CASE).expect("QEMU runs all of this");
        for backend in ["interp", "jit", "hot"] {
            compare(&image, &qemu, &run_rhea(&image.bytes, backend, xlen), backend)
                .unwrap_or_else(|e| panic!("seed {seed:#x}: {e}"));
        }
    }
}

#[test]
fn fuzz_rv64_code_as_in_qemu() {
    fuzz(64);
}

#[test]
fn fuzz_rv32_code_as_in_qemu() {
    fuzz(32);
}
