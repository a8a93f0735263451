//! Disassembly compared with Debian's `riscv64-linux-gnu-objdump` where it is installed: random words of every pattern of
//! the decode tables for instructions of 32 bits.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use std::{fmt::Write as _, path::Path, process::Command};

use common::oracle::Rng;
use tcg_engine::Guest;
use tcg_guest_riscv::{Cpu, Riscv};

/// Words a pattern.
const EACH: usize = 24;
/// Extensions as the assembler of Debian 12 knows them.
const MARCH: &str = "-march=rv64gcv_zba_zbb_zbc_zbs_zfh_zicbom_zicboz_zawrs_svinval_zihintpause";

/// Random words of each pattern, with their names.
fn words(rng: &mut Rng) -> Vec<(String, u32)> {
    let mut words = Vec::new();
    for line in [include_str!("../insn32.decode"), include_str!("../insn_v.decode")].concat().lines() {
        let mut tokens = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(name) = tokens.next().filter(|n| n.starts_with(|c: char| c.is_ascii_lowercase())) else {
            continue;
        };
        let (mut fixed, mut mask, mut rounding) = (0_u64, 0_u64, false);
        for t in tokens {
            rounding |= matches!(t, "@f1" | "@f2" | "@f3");
            if t.chars().all(|c| "01.-".contains(c)) {
                for c in t.chars() {
                    fixed = fixed << 1 | u64::from(c == '1');
                    mask = mask << 1 | u64::from(c == '0' || c == '1');
                }
            } else if let Some(len) = t.split(':').nth(1).and_then(|len| len.parse::<u32>().ok()) {
                (fixed, mask) = (fixed << len, mask << len);
            }
        }
        for _ in 0..EACH {
            let mut w = fixed as u32 | rng.next() as u32 & !(mask as u32);
            if rounding {
                w = w & !0x7000 | rng.pick(&[0, 1, 2, 3, 4, 7]) << 12;
            }
            words.push((name.to_owned(), w));
        }
    }
    words
}

/// What objdump says about the words, from address 0 on; `None` if it is not installed.
fn objdump(words: &[(String, u32)]) -> Option<Vec<String>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, object) = (folder.join("disas.s"), folder.join("disas.o"));
    let mut text = String::from(".text\n");
    for (_, w) in words {
        let _ = writeln!(text, ".insn {w:#x}");
    }
    std::fs::write(&source, text).unwrap();
    let made =
        Command::new("riscv64-linux-gnu-as").arg(MARCH).arg("-o").arg(&object).arg(&source).output().ok()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let out = Command::new("riscv64-linux-gnu-objdump")
        .args(["-d", "-z", "-M", "no-aliases"])
        .arg(&object)
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).unwrap();
    // `   0:\t00a58533          \tadd\ta0,a1,a0 # comment`
    let line = |l: &str| {
        let mut parts = l.split('\t').skip(2);
        let (name, operands) = (parts.next()?.trim(), parts.next().unwrap_or(""));
        let operands = operands.split(" #").next()?.split(" <").next()?.trim();
        Some(format!("{name} {operands}").trim().to_owned())
    };
    Some(text.lines().filter(|l| l.starts_with(' ')).filter_map(line).collect())
}

/// Numbers in one form: objdump writes shifts and jump targets in hexadecimal, the latter without a mark.
fn normal(text: &str) -> String {
    let (name, operands) = text.split_once(' ').unwrap_or((text, ""));
    let target = matches!(name, "jal" | "beq" | "bne" | "blt" | "bge" | "bltu" | "bgeu");
    let operands: Vec<String> = operands
        .split(',')
        .enumerate()
        .map(|(n, o)| match o.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).map_or(o.to_owned(), |v| v.to_string()),
            None if target && n == operands.split(',').count() - 1 => {
                u64::from_str_radix(o, 16).map_or(o.to_owned(), |v| v.to_string())
            }
            None => o.to_owned(),
        })
        .collect();
    format!("{name} {}", operands.join(","))
}

#[test]
fn disassembly_as_in_objdump() {
    let words = words(&mut Rng(0x1234_5677));
    let Some(theirs) = objdump(&words) else {
        println!("SKIPPED: riscv64-linux-gnu-objdump is not installed, no disassembly was compared");
        return;
    };
    assert_eq!(theirs.len(), words.len());
    let guest = Riscv::with_cpu(Cpu::new(64, "max", &[]).unwrap());
    let (mut failures, mut compared) = (Vec::new(), 0);
    for (n, ((pattern, word), theirs)) in words.iter().zip(&theirs).enumerate() {
        let (ours, _) = guest.disassemble(4 * n as u64, &word.to_le_bytes());
        // What that version does not know, or knows under a newer or older name of a CSR.
        if theirs.starts_with(".4byte") || ours.starts_with(".4byte") || pattern.starts_with("csr") {
            continue;
        }
        compared += 1;
        let (ours, theirs) = (normal(&ours), normal(theirs));
        if ours != theirs {
            failures.push(format!("{word:08x}: {ours}, objdump has {theirs}"));
        }
    }
    let shown = failures.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {compared} differ\n{shown}", failures.len());
    assert!(compared > words.len() * 3 / 4, "{compared} of {} were compared", words.len());
}
