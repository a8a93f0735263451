//! Random user-mode code, compared with Debian's `qemu-riscv64` and `qemu-riscv32` where they are installed.
//!
//! Words are made from the decode tables themselves: fixed bits as they stand, everything else random. A case loads all
//! registers, runs a handful of instructions and stores all registers; the same image runs on both sides.

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
use common::{RAM, Rig, STOP};
use tcg_engine::Guest;
use tcg_guest_riscv::{Cpu, Riscv};

const CASES: usize = 1200;
const LENGTH: usize = 6;
/// Where the cases' data starts, and bytes a case: 0 scratch, 0x100 inputs, 0x300 outputs.
const DATA: u64 = RAM + 0x18_0000;
const CASE: usize = 0x800;
const INPUT: usize = 0x100;
const OUTPUT: usize = 0x300;
/// Trap handler on our side.
const HANDLER: u64 = RAM + 0x17_f000;
/// x1 to x30, f0 to f31, fcsr.
const WORDS: usize = 30 + 32 + 1;

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

    fn integer(&mut self) -> u64 {
        match self.below(4) {
            0 => self.pick(&[
                0,
                1,
                2,
                u64::MAX,
                1 << 63,
                i64::MAX as u64,
                0x8000_0000,
                0xffff_ffff_8000_0000,
                63,
                64,
            ]),
            1 => self.next() & 0xff,
            2 => self.next() as u32 as i32 as u64,
            _ => self.next(),
        }
    }

    /// Bits of a register: mostly a well-formed value of one of the formats.
    fn float(&mut self) -> u64 {
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
        match self.below(8) {
            0 => 0xffff_ffff_ffff_0000 | self.pick(&half),
            1 => 0xffff_ffff_ffff_0000 | self.next() & 0xffff,
            2 => 0xffff_ffff_0000_0000 | self.pick(&single),
            3 => 0xffff_ffff_0000_0000 | self.next() & 0xffff_ffff,
            // Values of moderate size, which meet in sums and products.
            4 => 0xffff_ffff_0000_0000 | u64::from(((self.next() as i32 >> 8) as f32 / 64.0).to_bits()),
            5 => self.pick(&double),
            6 => ((self.next() as i64 >> 20) as f64 / 1024.0).to_bits(),
            _ => self.next(),
        }
    }
}

/// A pattern of a decode table.
struct Pattern {
    name: String,
    fixed: u32,
    mask: u32,
    width: u32,
    rounding: bool,
}

fn patterns(text: &str, width: u32) -> Vec<Pattern> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if !line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let mut tokens = line.split_whitespace();
        let name = tokens.next().unwrap().to_owned();
        let (mut fixed, mut mask, mut bits, mut rounding) = (0_u32, 0_u32, 0, false);
        for t in tokens {
            if t.chars().all(|c| "01.-".contains(c)) {
                for c in t.chars() {
                    fixed = fixed << 1 | u32::from(c == '1');
                    mask = mask << 1 | u32::from(c == '0' || c == '1');
                    bits += 1;
                }
            } else if let Some((_, len)) = t.split_once(':') {
                let len: u32 = len.parse().unwrap();
                fixed <<= len;
                mask <<= len;
                bits += len;
            }
            rounding |= matches!(t, "@f1" | "@f2" | "@f3");
        }
        assert_eq!(bits, width, "{name}");
        found.push(Pattern { name, fixed, mask, width, rounding });
    }
    found
}

/// What cannot run as an ordinary user instruction, or not at any address.
fn excluded(p: &Pattern) -> bool {
    let n = p.name.as_str();
    let common =
        ["csr", "cbo", "wrs", "sfence", "sinval", "mret", "sret", "wfi", "ecall", "ebreak", "fence_i"]
            .iter()
            .any(|s| n.starts_with(s));
    if common || n == "jal" || n == "jalr" {
        return true;
    }
    if p.width == 16 {
        return n.contains("illegal") || kind(n) != Kind::Plain;
    }
    false
}

/// What the other width has.
fn of_other_width(name: &str, xlen: u32) -> bool {
    let only32 = matches!(name, "rev8_32" | "zext_h_32");
    let word = [
        "addw", "subw", "sllw", "srlw", "sraw", "mulw", "divw", "divuw", "remw", "remuw", "rolw", "rorw",
        "clzw", "ctzw", "cpopw",
    ];
    let only64 = word.contains(&name)
        || matches!(
            name,
            "lwu" | "ld" | "sd" | "fmv_x_d" | "fmv_d_x" | "rev8_64" | "zext_h_64" | "zcb_zext_w"
        )
        || name.ends_with("_uw")
        || matches!(name, "addiw" | "slliw" | "srliw" | "sraiw" | "roriw")
        || (name.starts_with("amo") || name.starts_with("lr_") || name.starts_with("sc_"))
            && name.ends_with("_d")
        || name.starts_with("fcvt_") && name.split('_').any(|p| p == "l" || p == "lu");
    if xlen == 32 { only64 } else { only32 }
}

#[derive(PartialEq)]
enum Kind {
    Plain,
    Load,
    Store,
    Atomic,
    Branch,
}

fn kind(name: &str) -> Kind {
    let n = name.strip_prefix("zcb_").unwrap_or(name);
    match n {
        "lb" | "lh" | "lw" | "ld" | "lbu" | "lhu" | "lwu" | "flh" | "flw" | "fld" => Kind::Load,
        "sb" | "sh" | "sw" | "sd" | "fsh" | "fsw" | "fsd" => Kind::Store,
        "beq" | "bne" | "blt" | "bge" | "bltu" | "bgeu" => Kind::Branch,
        _ if n.starts_with("amo") || n.starts_with("lr_") || n.starts_with("sc_") => Kind::Atomic,
        _ => Kind::Plain,
    }
}

fn put(word: u32, value: u32, pos: u32, len: u32) -> u32 {
    let mask = ((1 << len) - 1) << pos;
    word & !mask | value << pos & mask
}

/// A word of the pattern, its free bits random within reason; the bytes of what follows it are for branches.
fn word(rng: &mut Rng, p: &Pattern, next_len: u32, xlen: u32) -> Option<u32> {
    let free = |word: u32, value: u32, pos: u32, len: u32| {
        let mask = (((1_u64 << len) - 1) as u32) << pos;
        if p.mask & mask == 0 { put(word, value, pos, len) } else { word }
    };
    let mut w = p.fixed | rng.next() as u32 & !p.mask;
    if p.width == 16 {
        w &= 0xffff;
        let rd = w >> 7 & 31;
        let imm = w >> 12 & 1 | w >> 2 & 31;
        let quadrant = w & 3;
        let high = w >> 13;
        let bad = match (quadrant, high) {
            (0, 0) => w >> 5 & 0xff == 0,
            (1, 0 | 2) => rd == 31,
            (1, 1) => rd == 0 || rd == 31,
            (1, 3) => imm == 0 || rd == 31,
            (1, 4) => xlen == 32 && w >> 11 & 1 == 0 && w >> 12 & 1 != 0,
            (2, 0) => rd == 31 || xlen == 32 && w >> 12 & 1 != 0,
            (2, 4) => w >> 2 & 31 == 0 || rd == 31,
            _ => false,
        };
        return (!bad).then_some(w);
    }
    // Few registers, so that results are used again; x31 holds the address of the data.
    let reg = |rng: &mut Rng| if rng.below(3) == 0 { rng.below(31) as u32 } else { 10 + rng.below(6) as u32 };
    for (pos, len) in [(7, 5), (15, 5), (20, 5), (27, 5)] {
        let value = reg(rng);
        if rng.below(4) != 0 || pos == 7 {
            w = free(w, value, pos, len);
        }
    }
    if p.rounding {
        let rm = rng.pick(&[0, 1, 2, 3, 4, 7, 7, 7]);
        w = put(w, rm, 12, 3);
    }
    match kind(&p.name) {
        // Shifts by 32 and more do not exist on RV32.
        Kind::Plain
            if xlen == 32 && (p.mask >> 25 & 1 == 0) && (p.fixed & 0x7f == 0x13) && p.mask >> 26 == 0x3f =>
        {
            w = put(w, 0, 25, 1);
        }
        Kind::Plain => {}
        Kind::Load => {
            w = put(w, 31, 15, 5);
            w = put(w, rng.below(0xf0) as u32, 20, 12);
        }
        Kind::Store => {
            let imm = rng.below(0xf0) as u32;
            w = put(w, 31, 15, 5);
            w = put(w, imm >> 5, 25, 7);
            w = put(w, imm, 7, 5);
        }
        Kind::Atomic => w = put(w, 31, 15, 5),
        Kind::Branch => {
            let imm = 4 + next_len;
            w = put(w, 0, 25, 7);
            w = put(w, imm, 7, 5);
            w &= !(1 << 7);
        }
    }
    Some(w)
}

fn i_type(opcode: u32, funct3: u32, rd: u32, rs1: u32, imm: u32) -> u32 {
    imm << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn s_type(opcode: u32, funct3: u32, rs1: u32, rs2: u32, imm: u32) -> u32 {
    (imm >> 5) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (imm & 31) << 7 | opcode
}

struct Image {
    bytes: Vec<u8>,
    /// Disassembly of each case.
    listing: Vec<String>,
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

fn image(rng: &mut Rng, xlen: u32) -> Image {
    // Width of a load or store of a whole register.
    let full = if xlen == 32 { 2 } else { 3 };
    let guest = Riscv::with_cpu(Cpu::new(xlen, "", &[]).unwrap());
    let mut all = patterns(include_str!("../insn32.decode"), 32);
    all.extend(patterns(include_str!("../insn16.decode"), 16));
    all.retain(|p| !excluded(p) && !of_other_width(&p.name, xlen));
    assert!(all.len() > 170, "{} patterns", all.len());
    let mut code = Vec::new();
    let mut data = vec![0; CASES * CASE];
    let mut listing = Vec::new();
    for case in 0..CASES {
        let at = case * CASE;
        for (n, place) in data[at..at + OUTPUT].chunks_exact_mut(8).enumerate() {
            let index = n.wrapping_sub(INPUT / 8);
            let value = match index {
                30..=61 => rng.float(),
                62 => rng.pick(&[0, 1, 2, 3, 4]) << 5 | rng.next() & 31,
                _ => rng.integer(),
            };
            place.copy_from_slice(&value.to_le_bytes());
        }
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
        // The words are made from the last to the first: a branch must know how far it skips.
        let mut words: Vec<(u32, u32)> = Vec::new();
        while words.len() < LENGTH {
            let p = &all[(case * LENGTH + words.len() * 7 + rng.below(3)) % all.len()];
            let next = words.last().map_or(4, |w: &(u32, u32)| w.1);
            if words.is_empty() && kind(&p.name) == Kind::Branch {
                emit_nop(&mut words);
                continue;
            }
            if let Some(w) = word(rng, p, next, xlen) {
                words.push((w, p.width / 8));
            }
        }
        let mut text = String::new();
        for (w, len) in words.iter().rev() {
            let pc = RAM + code.len() as u64;
            let bytes = w.to_le_bytes();
            let (line, _) = guest.disassemble(pc, &bytes[..*len as usize]);
            let _ = writeln!(text, "    {w:0width$x} {line}", width = 2 * *len as usize);
            code.extend_from_slice(&bytes[..*len as usize]);
        }
        listing.push(text);
        if code.len() % 4 != 0 {
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

/// A nop in front of which nothing branches.
fn emit_nop(words: &mut Vec<(u32, u32)>) {
    words.push((0x13, 4));
}

/// A static executable with the image as its only segment, writable and executable.
fn elf(image: &[u8], xlen: u32) -> Vec<u8> {
    let wide = xlen == 64;
    let mut f = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1, 0];
    f.resize(16, 0);
    let mut put = |v: u64, bytes: usize| f.extend_from_slice(&v.to_le_bytes()[..bytes]);
    let word = if wide { 8 } else { 4 };
    let (header, segment) = if wide { (64, 56) } else { (52, 32) };
    put(2, 2);
    put(243, 2);
    put(1, 4);
    put(RAM, word);
    put(header, word);
    put(0, word);
    put(5, 4); // double-float ABI, compressed code
    for v in [header, segment, 1, 0, 0, 0] {
        put(v, 2);
    }
    put(1, 4);
    if wide {
        put(7, 4);
    }
    for v in [0x1000, RAM, RAM, image.len() as u64, image.len() as u64] {
        put(v, word);
    }
    if !wide {
        put(7, 4);
    }
    put(0x1000, word);
    f.resize(0x1000, 0);
    f.extend_from_slice(image);
    f
}

fn run_qemu(image: &[u8], xlen: u32) -> Option<Vec<u8>> {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("differential{xlen}.elf"));
    std::fs::write(&path, elf(image, xlen)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let out = Command::new(format!("qemu-riscv{xlen}"))
        .args(["-cpu", "max"])
        .arg(&path)
        .stdin(Stdio::null())
        .output();
    match out {
        Ok(out) if out.status.success() && out.stdout.len() == CASES * CASE => Some(out.stdout),
        Ok(out) => panic!(
            "qemu-riscv{xlen}: {:?} {} bytes {}",
            out.status,
            out.stdout.len(),
            String::from_utf8_lossy(&out.stderr)
        ),
        Err(_) => None,
    }
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

fn compare(image: &Image, qemu: &[u8], rhea: &[u8], backend: &str) {
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
                0..INPUT => format!("memory {at:#x}"),
                _ => match (at - OUTPUT) / 8 {
                    n @ 0..=29 => format!("x{}", n + 1),
                    n @ 30..WORDS if n < 62 => format!("f{}", n - 30),
                    _ => "fcsr".to_owned(),
                },
            };
            let _ = writeln!(failures, "    {name}: {:#x}, qemu has {:#x}", word(r, at), word(q, at));
        }
    }
    assert_eq!(count, 0, "{count} of {CASES} cases differ\n{failures}");
}

fn differential(xlen: u32) {
    for seed in [0x1234_5678_9abc_def1, 0x0dd0_feed_beef_0001] {
        let image = image(&mut Rng(seed), xlen);
        let Some(qemu) = run_qemu(&image.bytes, xlen) else {
            println!("SKIPPED: qemu-riscv{xlen} is not installed, nothing was compared");
            return;
        };
        for backend in ["interp", "jit"] {
            compare(&image, &qemu, &run_rhea(&image.bytes, backend, xlen), backend);
        }
    }
}

#[test]
fn random_rv64_code_as_in_qemu() {
    differential(64);
}

#[test]
fn random_rv32_code_as_in_qemu() {
    differential(32);
}
