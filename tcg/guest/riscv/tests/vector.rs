//! Random vector instructions, compared with Debian's `qemu-riscv64` where it is installed.
//!
//! Words are made from `insn_v.decode`: fixed bits as they stand, registers mostly aligned for the group size, everything
//! else random. A case loads all vector registers and some scalars, sets `vtype`, runs a few instructions and stores
//! everything. An illegal instruction is skipped and counted, by a signal handler there and a trap handler here, so
//! that the rules of what is reserved are compared too. `RHEA_VECTOR_ROUNDS=50` makes more of them.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use std::{
    fmt::Write as _,
    process::{Command, Stdio},
};

use accel::{
    Exit,
    arch::{GuestArch, riscv::State},
};
use common::{RAM, RAM_SIZE, Rig, STOP};
use tcg_engine::Guest;
use tcg_guest_riscv::{Cpu, Riscv};

const CASES: usize = 400;
const LENGTH: usize = 3;
/// Where the cases' data starts, and bytes a case: memory for loads and stores, inputs, outputs.
const DATA: u64 = RAM + 0x8_0000;
const CASE: usize = 0x2000;
/// What loads and stores go to lies around here.
const MIDDLE: usize = 0x800;
/// Scalars: x10 to x15, f10 to f15, fcsr, vcsr.
const INPUT: usize = 0x1000;
const VECTORS: usize = 0x1400;
/// The same scalars, then illegal instructions, vl, vtype, vstart.
const OUTPUT: usize = 0x1800;
const VECTORS_OUT: usize = 0x1c00;
const NAMES: [&str; 18] = [
    "x10", "x11", "x12", "x13", "x14", "x15", "f10", "f11", "f12", "f13", "f14", "f15", "fcsr", "vcsr",
    "illegal", "vl", "vtype", "vstart",
];
/// Trap handler on our side.
const HANDLER: u64 = DATA - 0x1000;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Eight bytes of elements.
    fn element(&mut self) -> u64 {
        let single = [
            0,
            0x8000_0000,
            0x3f80_0000,
            0xbf80_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x7f80_0001,
            1,
            0x0070_0000,
            0x0020_0000,
            0x7f00_0000,
            0x7e80_0001,
            0x7f7f_ffff,
            0x4f00_0000,
            0x5f00_0000,
        ];
        let double = [
            0,
            1 << 63,
            0x3ff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0xfff8_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            1,
            0x000f_ffff_ffff_ffff,
            0x0003_ffff_ffff_ffff,
            0x7fef_ffff_ffff_ffff,
            0x7fd0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0x47ef_ffff_f000_0000,
            0x3800_0000_0000_0001,
        ];
        match self.below(8) {
            0 => self.pick(&single) | self.pick(&single) << 32,
            1 => self.pick(&double),
            2 => {
                let f = |r: &mut Self| u64::from(((r.next() as i32 >> 8) as f32 / 64.0).to_bits());
                f(self) | f(self) << 32
            }
            3 => ((self.next() as i64 >> 20) as f64 / 1024.0).to_bits(),
            4 => self.next() & 0x0f0f_0f0f_0f0f_0f0f,
            5 => {
                self.pick(&[0x8000_7fff_80ff_7f00, 0x7fff_ffff_8000_0000, u64::MAX, 1 << 63, i64::MAX as u64])
            }
            _ => self.next(),
        }
    }
}

/// A pattern of the decode table.
struct Pattern {
    name: String,
    fixed: u32,
    mask: u32,
}

fn patterns() -> Vec<Pattern> {
    let mut found = Vec::new();
    for line in include_str!("../insn_v.decode").lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if !line.starts_with('v') || line.starts_with("vset") {
            continue;
        }
        let mut tokens = line.split_whitespace();
        let name = tokens.next().unwrap().to_owned();
        let bits: String = tokens.filter(|t| t.chars().all(|c| "01.".contains(c))).collect();
        assert_eq!(bits.len(), 32, "{name}");
        let number = |one: fn(char) -> bool| bits.chars().fold(0, |n, c| n << 1 | u32::from(one(c)));
        found.push(Pattern { name, fixed: number(|c| c == '1'), mask: number(|c| c != '.') });
    }
    found
}

impl Pattern {
    fn float(&self) -> bool {
        matches!(self.fixed & 0x707f, 0x1057 | 0x5057)
    }

    fn memory(&self) -> bool {
        matches!(self.fixed & 0x7f, 0x07 | 0x27)
    }

    fn indexed(&self) -> bool {
        self.memory() && self.fixed >> 26 & 1 != 0
    }

    /// A word; `lmul` is log2 of the group size.
    fn word(&self, rng: &mut Rng, lmul: i32) -> u32 {
        let mut w = self.fixed;
        let mut put = |value: u32, pos: u32, len: u32| {
            let field = ((1 << len) - 1) << pos;
            if self.mask & field == 0 {
                w |= value << pos & field;
            }
        };
        let vector = |rng: &mut Rng| {
            let wide = i32::from(rng.below(4) == 0);
            let align = if rng.below(16) == 0 { 0 } else { (lmul + wide).clamp(0, 3) };
            let reg = if rng.below(4) == 0 { 8 } else { rng.below(32) as u32 };
            reg & !((1 << align) - 1)
        };
        let vd = vector(rng);
        let scalar_result = matches!(self.name.as_str(), "vmv_x_s" | "vfmv_f_s" | "vcpop_m" | "vfirst_m");
        put(if scalar_result { 10 + rng.below(6) as u32 } else { vd }, 7, 5);
        let vs2 = vector(rng);
        let scalar = self.fixed & 0x4000 != 0 && !self.memory();
        let vs1 = if scalar { 10 + rng.below(6) as u32 } else { vector(rng) };
        if self.memory() {
            put(28, 15, 5);
            put(if self.fixed >> 26 & 3 == 2 { 27 } else { vs2 }, 20, 5);
            put(if rng.below(2) == 0 { 0 } else { rng.below(8) as u32 }, 29, 3);
        } else {
            let immediate = self.fixed & 0x7000 == 0x3000;
            put(if immediate { rng.below(32) as u32 } else { vs1 }, 15, 5);
            put(vs2, 20, 5);
        }
        put(rng.below(2) as u32, 25, 1);
        w
    }
}

fn i_type(opcode: u32, funct3: u32, rd: u32, rs1: u32, imm: u32) -> u32 {
    imm << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn s_type(opcode: u32, funct3: u32, rs1: u32, rs2: u32, imm: u32) -> u32 {
    (imm >> 5) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (imm & 31) << 7 | opcode
}

fn csrw(csr: u32, rs1: u32) -> u32 {
    i_type(0x73, 1, 0, rs1, csr)
}

fn csrr(rd: u32, csr: u32) -> u32 {
    i_type(0x73, 2, rd, 0, csr)
}

fn vsetvli(rd: u32, rs1: u32, vtype: u32) -> u32 {
    i_type(0x57, 7, rd, rs1, vtype)
}

fn emit(code: &mut Vec<u8>, word: u32) {
    code.extend_from_slice(&word.to_le_bytes());
}

/// li rd, value (below 2 GiB).
fn li(code: &mut Vec<u8>, rd: u32, value: u64) {
    let high = (value + 0x800) >> 12;
    emit(code, (high as u32) << 12 | rd << 7 | 0x37);
    emit(code, i_type(0x13, 0, rd, rd, value as u32 & 0xfff));
}

const FCSR: u32 = 3;
const VSTART: u32 = 8;
const VCSR: u32 = 15;

struct Image {
    bytes: Vec<u8>,
    /// Disassembly of each case.
    listing: Vec<String>,
}

/// rt_sigaction(SIGILL, handler), with the handler in front: it counts in x30 and goes on behind the instruction.
fn signal_handler(code: &mut Vec<u8>) {
    // The saved pc and registers are 176 bytes into the context that a2 points to.
    let context = |n: u32| 176 + 8 * n;
    emit(code, 0x0200_006f); // j +32
    for (reg, by) in [(0, 4), (30, 1)] {
        emit(code, i_type(0x03, 3, 5, 12, context(reg)));
        emit(code, i_type(0x13, 0, 5, 5, by));
        emit(code, s_type(0x23, 3, 12, 5, context(reg)));
    }
    emit(code, 0x0000_8067); // ret
    li(code, 5, RAM + 4);
    li(code, 11, DATA);
    emit(code, s_type(0x23, 3, 11, 5, 0));
    emit(code, s_type(0x23, 3, 11, 0, 8));
    emit(code, s_type(0x23, 3, 11, 0, 16));
    emit(code, s_type(0x23, 3, 11, 0, 24));
    li(code, 10, 4);
    li(code, 12, 0);
    li(code, 13, 8);
    li(code, 17, 134);
    emit(code, 0x73);
    emit(code, s_type(0x23, 3, 11, 0, 0));
}

/// Cases of random code. With `vstart`, each instruction stands behind one that does nothing but take that number of elements to
/// be done: with 0 the state is known when the instruction is translated, with another it is not, and the same then.
fn image(rng: &mut Rng, vlenb: usize, vstart: Option<u32>) -> Image {
    let features = [("v".to_owned(), "on".to_owned())];
    let guest = Riscv::with_cpu(Cpu::new(64, "", &features).unwrap());
    let all = patterns();
    assert!(all.len() > 330, "{} patterns", all.len());
    let mut code = Vec::new();
    let mut data = vec![0; CASES * CASE];
    let mut listing = Vec::new();
    signal_handler(&mut code);
    let start = rng.below(all.len());
    for case in 0..CASES {
        let at = case * CASE;
        for place in data[at..at + OUTPUT].chunks_exact_mut(8) {
            place.copy_from_slice(&rng.element().to_le_bytes());
        }
        for n in 0..4 {
            let x = rng.pick(&[0, 1, 3, 8, 17, u64::MAX]);
            data[at + INPUT + 8 * n..][..8].copy_from_slice(&x.to_le_bytes());
        }
        for n in 6..9 {
            let f = rng.element() | !0xffff_ffff;
            data[at + INPUT + 8 * n..][..8].copy_from_slice(&f.to_le_bytes());
        }
        let fcsr = rng.pick(&[0_u64, 0, 1, 2, 3, 4]) << 5;
        data[at + INPUT + 8 * 12..][..8].copy_from_slice(&fcsr.to_le_bytes());
        let vcsr = rng.below(8) as u64;
        data[at + INPUT + 8 * 13..][..8].copy_from_slice(&vcsr.to_le_bytes());
        // Registers.
        let base = DATA + at as u64;
        for n in 0..4_u32 {
            li(&mut code, 31, base + VECTORS as u64 + u64::from(n) * 8 * vlenb as u64);
            emit(&mut code, 0xe280_0007 | 31 << 15 | (8 * n) << 7);
        }
        li(&mut code, 31, base + INPUT as u64);
        for n in 0..2_u32 {
            emit(&mut code, i_type(0x03, 3, 1, 31, 8 * (12 + n)));
            emit(&mut code, csrw([FCSR, VCSR][n as usize], 1));
        }
        for n in 0..6 {
            emit(&mut code, i_type(0x03, 3, 10 + n, 31, 8 * n));
            emit(&mut code, i_type(0x07, 3, 10 + n, 31, 8 * (6 + n)));
        }
        li(&mut code, 30, 0);
        let chosen: Vec<_> = (0..LENGTH).map(|n| &all[(start + case * LENGTH + n * 7) % all.len()]).collect();
        // vtype: widths that the first instruction can use.
        let (sew, lmul) = loop {
            let sew = if chosen[0].float() { rng.pick(&[2, 2, 2, 3, 3, 1]) } else { rng.below(4) as i32 };
            let lmul = rng.below(7) as i32 - 3;
            if sew <= lmul + 3 {
                break (sew, lmul);
            }
        };
        let vtype = (lmul & 7) as u32 | (sew as u32) << 3 | (rng.below(4) as u32) << 6;
        let vlmax = if lmul < 0 { vlenb >> sew >> -lmul } else { vlenb >> sew << lmul };
        let avl = if rng.below(3) == 0 { rng.below(vlmax + 1) } else { vlmax };
        li(&mut code, 29, avl as u64);
        emit(&mut code, vsetvli(0, 29, vtype));
        let mut text = String::new();
        let _ = writeln!(text, "    e{}, lmul 2^{lmul}, vl {avl} of {vlmax}, vcsr {vcsr}", 8 << sew);
        for p in chosen {
            let stride = rng.below(15) as i64 - 7;
            let mut to = MIDDLE + if rng.below(2) == 0 { 0 } else { rng.below(16) };
            if vstart.is_some() && rng.below(4) == 0 {
                // Across a page, where QEMU stops at an assertion. What is overwritten there has been read.
                to = 0x1000 - 4 * rng.below(16);
            }
            li(&mut code, 28, base + to as u64);
            emit(&mut code, i_type(0x13, 0, 27, 0, stride as u32 & 0xfff));
            let word = p.word(rng, lmul);
            if p.indexed() {
                // Indices become small.
                let eew = match word >> 12 & 7 {
                    0 => 0,
                    n => n - 4,
                };
                let group = word >> 20 & 24;
                emit(&mut code, csrr(26, 0xc20));
                emit(&mut code, vsetvli(1, 0, eew << 3 | 3));
                li(&mut code, 1, 0x7f);
                emit(&mut code, 0x2600_4057 | group << 20 | 1 << 15 | group << 7);
                emit(&mut code, vsetvli(0, 26, vtype));
            }
            if let Some(n) = vstart {
                // csrwi vstart, n; vmv.x.s x1, v0
                emit(&mut code, i_type(0x73, 5, 0, n, VSTART));
                emit(&mut code, 0x4200_20d7);
            } else if rng.below(10) == 0 {
                let vstart = rng.below(6) as u32;
                let _ = writeln!(text, "    vstart {vstart}");
                emit(&mut code, i_type(0x13, 0, 1, 0, vstart));
                emit(&mut code, csrw(VSTART, 1));
            }
            let (line, _) = guest.disassemble(RAM, &word.to_le_bytes());
            let _ = writeln!(text, "    {word:08x} {line}");
            emit(&mut code, word);
        }
        listing.push(text);
        li(&mut code, 31, base + OUTPUT as u64);
        for n in 0..6 {
            emit(&mut code, s_type(0x23, 3, 31, 10 + n, 8 * n));
            emit(&mut code, s_type(0x27, 3, 31, 10 + n, 8 * (6 + n)));
        }
        for (n, csr) in [(12, FCSR), (13, VCSR), (15, 0xc20), (16, 0xc21), (17, VSTART)] {
            emit(&mut code, csrr(1, csr));
            emit(&mut code, s_type(0x23, 3, 31, 1, 8 * n));
        }
        emit(&mut code, s_type(0x23, 3, 31, 30, 8 * 14));
        emit(&mut code, csrw(VSTART, 0));
        for n in 0..4_u32 {
            li(&mut code, 31, base + VECTORS_OUT as u64 + u64::from(n) * 8 * vlenb as u64);
            emit(&mut code, 0xe280_0027 | 31 << 15 | (8 * n) << 7);
        }
    }
    // write(1, DATA, size) until all is written; exit(0)
    li(&mut code, 11, DATA);
    li(&mut code, 12, (CASES * CASE) as u64);
    li(&mut code, 10, 1);
    li(&mut code, 17, 64);
    emit(&mut code, 0x73);
    li(&mut code, 10, 0);
    li(&mut code, 17, 93);
    emit(&mut code, 0x73);
    assert!(code.len() as u64 <= HANDLER - RAM, "{:#x}", code.len());
    code.resize((HANDLER - RAM) as usize, 0);
    // Illegal instructions: mepc += 4, x30 += 1, mret. The first ecall (for the signal handler) is skipped likewise, the
    // second stops.
    let handler = [
        csrr(5, 0x342),
        i_type(0x13, 0, 6, 0, 2),
        0x0062_8e63, // beq t0,t1,+28
        i_type(0x13, 0, 6, 0, 8),
        0x0262_9463, // bne t0,t1,+40: stop
        csrr(5, 0x340),
        0x0202_9063, // bnez t0,+32: stop
        i_type(0x73, 5, 0, 1, 0x340),
        0x0080_006f, // j +8
        i_type(0x13, 0, 30, 30, 1),
        csrr(5, 0x341),
        i_type(0x13, 0, 5, 5, 4),
        csrw(0x341, 5),
        0x3020_0073,
    ];
    for word in handler {
        emit(&mut code, word);
    }
    li(&mut code, 5, STOP);
    emit(&mut code, s_type(0x23, 3, 5, 0, 0));
    emit(&mut code, 0x6f);
    code.resize((DATA - RAM) as usize, 0);
    code.extend_from_slice(&data);
    Image { bytes: code, listing }
}

/// A static executable with the image as its only segment, writable and executable.
fn elf(image: &[u8]) -> Vec<u8> {
    let mut f = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    f.resize(16, 0);
    let words = |f: &mut Vec<u8>, v: &[u64], bytes: usize| {
        for v in v {
            f.extend_from_slice(&v.to_le_bytes()[..bytes]);
        }
    };
    words(&mut f, &[2, 243], 2);
    words(&mut f, &[1], 4);
    words(&mut f, &[RAM, 64, 0], 8);
    words(&mut f, &[5], 4);
    words(&mut f, &[64, 56, 1, 0, 0, 0], 2);
    words(&mut f, &[1, 7], 4);
    words(&mut f, &[0x1000, RAM, RAM, image.len() as u64, image.len() as u64, 0x1000], 8);
    f.resize(0x1000, 0);
    f.extend_from_slice(image);
    f
}

/// QEMU's results; `None` if it stopped at an assertion of its own. It has one about accesses that cross pages.
fn run_qemu(image: &[u8], vlenb: usize) -> Option<Vec<u8>> {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vector{vlenb}.elf"));
    std::fs::write(&path, elf(image)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let cpu = format!("rv64,v=true,vlen={},elen=64", 8 * vlenb);
    let out = Command::new("qemu-riscv64").args(["-cpu", &cpu]).arg(&path).stdin(Stdio::null()).output();
    match out.unwrap() {
        out if out.status.success() && out.stdout.len() == CASES * CASE => Some(out.stdout),
        out if String::from_utf8_lossy(&out.stderr).contains("assertion failed") => None,
        out => panic!(
            "qemu-riscv64: {:?} {} bytes {}",
            out.status,
            out.stdout.len(),
            String::from_utf8_lossy(&out.stderr)
        ),
    }
}

fn run_rhea(image: &[u8], backend: &str, vlenb: usize) -> Vec<u8> {
    let vlen = (8 * vlenb).to_string();
    let mut rig = Rig::new(GuestArch::Riscv64, &[("v", "on"), ("vlen", &vlen)], backend);
    rig.write(RAM, image);
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
    rig.read(DATA, CASES * CASE)
}

fn compare(image: &Image, qemu: &[u8], rhea: &[u8], backend: &str, vlenb: usize) {
    let word = |d: &[u8], at: usize| u64::from_le_bytes(d[at..at + 8].try_into().unwrap());
    // Most instructions must have been legal, and have done something.
    let illegal: u64 = (0..CASES).map(|c| word(qemu, c * CASE + OUTPUT + 8 * 14)).sum();
    assert!(illegal < (CASES * LENGTH) as u64 * 2 / 3, "{illegal} illegal instructions");
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
        let _ = writeln!(failures, "case {case} ({backend}, vlen {}):\n{}", 8 * vlenb, image.listing[case]);
        let different = (0..CASE).step_by(8).filter(|at| word(q, *at) != word(r, *at));
        for at in different.take(6) {
            let name = match at {
                0..INPUT => format!("memory {at:#x}"),
                VECTORS_OUT.. => {
                    let n = at - VECTORS_OUT;
                    format!("v{}+{:#x}", n / vlenb, n % vlenb)
                }
                _ => NAMES[(at - OUTPUT) / 8].to_owned(),
            };
            let _ = writeln!(failures, "    {name}: {:#x}, qemu has {:#x}", word(r, at), word(q, at));
        }
    }
    assert_eq!(count, 0, "{count} of {CASES} cases differ\n{failures}");
}

#[test]
fn random_vector_code_as_in_qemu() {
    if Command::new("qemu-riscv64").arg("--version").output().is_err() {
        println!("SKIPPED: qemu-riscv64 is not installed, nothing was compared");
        return;
    }
    let rounds = std::env::var("RHEA_VECTOR_ROUNDS").map_or(1, |n| n.parse().unwrap());
    let seeds =
        (0..rounds).flat_map(|n: u64| [(0x1234_5678_9abc_def1 + n, 16), (0x0dd0_feed_beef_0001 + n, 32)]);
    for (seed, vlenb) in seeds {
        let image = image(&mut Rng(seed), vlenb, None);
        let Some(qemu) = run_qemu(&image.bytes, vlenb) else {
            println!("SKIPPED: qemu-riscv64 gave up on seed {seed:#x}, nothing was compared");
            continue;
        };
        for backend in ["interp", "jit"] {
            compare(&image, &qemu, &run_rhea(&image.bytes, backend, vlenb), backend, vlenb);
        }
    }
}

/// The same instructions in the same states, translated inline and as calls of the helpers.
#[test]
fn inline_code_does_what_the_helpers_do() {
    let rounds = std::env::var("RHEA_VECTOR_ROUNDS").map_or(1, |n| n.parse().unwrap());
    for n in 0..rounds {
        for vlenb in [16, 32, 64, 128] {
            let images =
                [0, 1].map(|v| image(&mut Rng(0x5eed_0000_0000_0001 + n + vlenb as u64), vlenb, Some(v)));
            let mut results = images.each_ref().map(|i| run_rhea(&i.bytes, "jit", vlenb));
            // Data that a case stores is no longer its input; what precedes it is compared.
            let [inline, helpers] = &mut results;
            compare(&images[0], helpers, inline, "inline against helpers", vlenb);
        }
    }
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
