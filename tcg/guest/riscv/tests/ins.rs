//! One instruction a line: `tests/*.ins`.
//!
//! `bytes | disassembly | inputs => outputs`. Bytes are the instruction as a hexadecimal number. Inputs and outputs are
//! `name=value` with ABI register names, `fcsr`, `mstatus` and others, `mem=value` (8 bytes at `s11`), `pc=+n`, and
//! `trap=cause:value`. Registers that are not named keep their start value; outputs name all that change. A line
//! `@ rv32 zbb=off` sets the hart for what follows.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use std::fmt::Write;

use accel::{
    DebugConfig, DebugEvent, Exit,
    arch::{GuestArch, riscv::State},
};
use common::{RAM, Rig};
use tcg_engine::Guest;
use tcg_guest_riscv::{
    Cpu, Riscv,
    state::{F_NAMES, X_NAMES},
};

const CODE: u64 = RAM + 0x1000;
const DATA: u64 = RAM + 0x8000;
const MTVEC: u64 = RAM + 0x100;

struct Setup {
    arch: GuestArch,
    rigs: Vec<Rig>,
    guest: Riscv,
}

fn setup(arch: &str, features: &[(&str, &str)]) -> Setup {
    let (arch, xlen) = match arch {
        "rv32" => (GuestArch::Riscv32, 32),
        _ => (GuestArch::Riscv64, 64),
    };
    let owned: Vec<_> = features.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let guest = Riscv::with_cpu(Cpu::new(xlen, "", &owned).unwrap());
    let rigs = ["interp", "jit"].iter().map(|b| Rig::new(arch, features, b)).collect();
    Setup { arch, rigs, guest }
}

fn number(text: &str) -> u64 {
    let (minus, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let n = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => digits.parse().unwrap(),
    };
    if minus { n.wrapping_neg() } else { n }
}

/// The place in the state that a name means.
fn field<'a>(s: &'a mut State, name: &str) -> &'a mut u64 {
    if let Some(n) = X_NAMES.iter().position(|x| *x == name) {
        return &mut s.x[n];
    }
    if let Some(n) = F_NAMES.iter().position(|f| *f == name) {
        return &mut s.f[n];
    }
    match name {
        "fcsr" => &mut s.fcsr,
        "mstatus" => &mut s.mstatus,
        "mie" => &mut s.mie,
        "mip" => &mut s.mip,
        "mepc" => &mut s.mepc,
        "sepc" => &mut s.sepc,
        "mtvec" => &mut s.mtvec,
        "stvec" => &mut s.stvec,
        "mcause" => &mut s.mcause,
        "mtval" => &mut s.mtval,
        "mscratch" => &mut s.mscratch,
        "sscratch" => &mut s.sscratch,
        "satp" => &mut s.satp,
        "mcounteren" => &mut s.mcounteren,
        "scounteren" => &mut s.scounteren,
        "menvcfg" => &mut s.menvcfg,
        "senvcfg" => &mut s.senvcfg,
        "medeleg" => &mut s.medeleg,
        "mideleg" => &mut s.mideleg,
        "stimecmp" => &mut s.stimecmp,
        "pmpaddr0" => &mut s.pmpaddr[0],
        "minstret" => &mut s.minstret,
        "vstart" => &mut s.vcsrs[0],
        "vcsr" => &mut s.vcsrs[1],
        "vl" => &mut s.vcsrs[2],
        "vtype" => &mut s.vcsrs[3],
        _ => panic!("no register {name}"),
    }
}

/// The number in `v0` to `v31`, of which a value is the lowest 8 bytes.
fn v_register(name: &str) -> Option<usize> {
    name.strip_prefix('v')?.parse().ok().filter(|n| *n < 32)
}

fn apply(s: &mut State, mem: &mut u64, text: &str) {
    for item in text.split_whitespace() {
        let (name, value) = item.split_once('=').unwrap_or_else(|| panic!("{item}"));
        match name {
            "mem" => *mem = number(value),
            "priv" => s.privilege = number(value) as u8,
            "pc" => s.pc = CODE.wrapping_add(number(value.trim_start_matches('+'))),
            "trap" => {
                let (cause, value) = value.split_once(':').unwrap();
                s.mcause = number(cause);
                s.mtval = if value == "pc" { CODE } else { number(value) };
                s.mepc = CODE;
                s.pc = MTVEC;
                s.mstatus = s.mstatus & !0x1880 | u64::from(s.privilege) << 11 | (s.mstatus >> 3 & 1) << 7;
                s.mstatus &= !8;
                s.privilege = 3;
            }
            _ if v_register(name).is_some() => {
                let at = v_register(name).unwrap() * s.v.len() / 32;
                s.v[at..at + 8].copy_from_slice(&number(value).to_le_bytes());
            }
            "res" => {
                s.reservation = if value == "none" { None } else { Some((DATA, number(value))) };
            }
            _ => *field(s, name) = number(value),
        }
    }
}

fn difference(got: &State, wanted: &State) -> String {
    let mut text = String::new();
    let (got, wanted) = (format!("{got:#?}"), format!("{wanted:#?}"));
    for (n, (g, w)) in got.lines().zip(wanted.lines()).enumerate() {
        if g != w {
            let _ = write!(text, " line {n}: {} instead of {};", g.trim(), w.trim());
        }
    }
    text
}

/// Runs one line; a description of what is wrong.
fn case(s: &mut Setup, line: &str) -> Result<(), String> {
    let mut parts = line.split('|').map(str::trim);
    let (Some(bytes), Some(disassembly), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("not three parts".to_owned());
    };
    let (inputs, outputs) = rest.split_once("=>").ok_or("no =>")?;
    let word = u32::from_str_radix(bytes, 16).map_err(|e| e.to_string())?;
    let len = if word & 3 == 3 { 4 } else { 2 };
    let bytes = word.to_le_bytes();
    let (text, _) = s.guest.disassemble(CODE, &bytes[..len]);
    if text != disassembly {
        return Err(format!("disassembly is '{text}'"));
    }
    let arch = s.arch;
    for (rig, backend) in s.rigs.iter_mut().zip(["interp", "jit"]) {
        rig.write(CODE, &bytes[..len]);
        rig.clock.0.store(1000, std::sync::atomic::Ordering::Relaxed);
        let mut start = rig.fresh.clone();
        start.pc = CODE;
        start.mtvec = MTVEC;
        start.x[27] = DATA;
        // Memory is open to all privileges.
        start.pmpcfg[0] = 0x1f;
        start.pmpaddr[0] = (1 << 54) - 1;
        // Floating point is on and clean, so that a case shows when it becomes dirty.
        start.mstatus |= 1 << 13;
        let mut mem = 0x8877_6655_4433_2211;
        apply(&mut start, &mut mem, inputs);
        rig.write(DATA, &mem.to_le_bytes());
        rig.set_state(start.clone());
        rig.vcpu.set_debug(&DebugConfig { single_step: true, ..DebugConfig::default() }).unwrap();
        let exit = rig.run();
        if !matches!(exit, Exit::Debug(DebugEvent::SingleStep)) {
            return Err(format!("{backend}: exit {exit:?}"));
        }
        let got = rig.state();
        let mut wanted = start;
        wanted.pc = CODE + len as u64;
        apply(&mut wanted, &mut mem, outputs);
        if arch == GuestArch::Riscv32 {
            for x in wanted.x.iter_mut().chain([&mut wanted.mtval, &mut wanted.mcause, &mut wanted.sscratch])
            {
                *x &= 0xffff_ffff;
            }
        }
        if got != wanted {
            return Err(format!("{backend}:{}", difference(&got, &wanted)));
        }
        let memory = rig.read(DATA, 8);
        if memory != mem.to_le_bytes() {
            return Err(format!("{backend}: memory is {memory:02x?}, expected {mem:#x}"));
        }
    }
    Ok(())
}

fn file(name: &str, text: &str) {
    let mut s = setup("rv64", &[]);
    let mut failures = Vec::new();
    let mut count = 0;
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        if let Some(cpu) = line.strip_prefix('@') {
            let mut words = cpu.split_whitespace();
            let arch = words.next().unwrap();
            let features: Vec<_> = words.map(|w| w.split_once('=').unwrap()).collect();
            s = setup(arch, &features);
            continue;
        }
        count += 1;
        if let Err(e) = case(&mut s, line) {
            failures.push(format!("{name}:{}: {line}\n    {e}", n + 1));
        }
    }
    assert!(count > 0);
    assert!(failures.is_empty(), "{} of {count} cases fail\n{}", failures.len(), failures.join("\n"));
}

/// One test a file, so that they run side by side.
macro_rules! files {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            file(concat!(stringify!($name), ".ins"), include_str!(concat!(stringify!($name), ".ins")));
        })*

        /// All cases.
        const FILES: &[&str] = &[$(include_str!(concat!(stringify!($name), ".ins"))),*];
    };
}

files! {
    compressed float float_d float_h integer privileged scalar vector vector_float vector_integer vector_memory
    vector_permute
}

/// Fixed bits and their mask of each pattern of a decode table, with its name.
fn patterns(table: &str) -> Vec<(String, u32, u32)> {
    let pattern = |line: &str| {
        let mut tokens = line.split('#').next()?.split_whitespace();
        let name = tokens.next().filter(|n| n.starts_with(|c: char| c.is_ascii_lowercase()))?;
        let (mut fixed, mut mask) = (0_u64, 0_u64);
        for t in tokens {
            if t.chars().all(|c| "01.-".contains(c)) {
                for c in t.chars() {
                    fixed = fixed << 1 | u64::from(c == '1');
                    mask = mask << 1 | u64::from(c == '0' || c == '1');
                }
            } else if let Some(len) = t.split(':').nth(1).and_then(|len| len.parse::<u32>().ok()) {
                (fixed, mask) = (fixed << len, mask << len);
            }
        }
        Some((name.to_owned(), fixed as u32, mask as u32))
    };
    table.lines().filter_map(pattern).collect()
}

#[test]
fn every_instruction_has_a_case() {
    let words: Vec<u32> = FILES
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| u32::from_str_radix(line.split_once('|')?.0.trim(), 16).ok())
        .collect();
    let missing = |table: &str, short: bool| -> Vec<String> {
        let has = |fixed: u32, mask: u32| words.iter().any(|w| (w & 3 != 3) == short && w & mask == fixed);
        patterns(table).into_iter().filter(|(_, f, m)| !has(*f, *m)).map(|p| p.0).collect()
    };
    let long = [include_str!("../insn32.decode"), include_str!("../insn_v.decode")].concat();
    assert_eq!(missing(&long, false), Vec::<String>::new());
    assert_eq!(missing(include_str!("../insn16.decode"), true), Vec::<String>::new());
    assert!(words.len() > 750, "{} cases", words.len());
}
