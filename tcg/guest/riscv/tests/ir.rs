//! Random code through the front end: what it makes is valid IR, and passes that believe its slot and helper tables
//! change nothing that can be seen.

use accel::arch::GuestArch;
use tcg_engine::{CodeReader, Guest, Key, Limits, Trap};
use tcg_guest_riscv::{Cpu, Riscv};
use tcg_ir::testing::{Rng, check_region};
use tcg_ir::{Builder, Region, Tables};

/// Code at 0x1000.
struct Code(Vec<u16>);

impl CodeReader for Code {
    fn fetch16(&mut self, pc: u64) -> Result<u16, Trap> {
        let at = (pc.wrapping_sub(0x1000) / 2) as usize;
        self.0.get(at).copied().ok_or(Trap { code: 1, value: pc })
    }

    fn fetch(&mut self, pc: u64, out: &mut [u8]) -> Result<usize, Trap> {
        out[..2].copy_from_slice(&self.fetch16(pc)?.to_le_bytes());
        Ok(2)
    }
}

/// An instruction word, more often one that exists: random registers and immediates on an opcode of the manual's map.
fn word(rng: &mut Rng) -> u32 {
    const OPCODES: [u32; 18] = [
        0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x37, 0x3b, 0x43, 0x4b, 0x53, 0x63, 0x6f,
        0x73,
    ];
    let mut w = rng.bits() as u32 & !0x7f | rng.pick(&OPCODES);
    // Few registers, so that instructions depend on each other.
    if !rng.one_in(4) {
        w &= !(0x18 << 7 | 0x18 << 15 | 0x18 << 20);
    }
    match w & 0x7f {
        // funct7 of register operations.
        0x33 | 0x3b => w & 0x01ff_ffff | rng.pick(&[0u32, 0x20, 1, 5, 0x10, 0x30]) << 25,
        0x13 | 0x1b if w >> 12 & 3 == 1 => w & 0x03ff_ffff | rng.pick(&[0u32, 0x10, 0x18, 0x12]) << 26,
        0x53 => {
            w & 0x01ff_ffff
                | rng.pick(&[0u32, 1, 4, 5, 8, 9, 0x10, 0x11, 0x14, 0x20, 0x50, 0x60, 0x68, 0x71]) << 25
        }
        _ => w,
    }
}

fn fuzz(arch: GuestArch, seed: u64) {
    let xlen = if arch == GuestArch::Riscv32 { 32 } else { 64 };
    let (model, _) = Riscv::cpu_models(arch).remove(0);
    let cpu = Cpu::new(xlen, &model, &[]).expect("the default model");
    let guest = Riscv::with_cpu(cpu);
    let t = Tables { slots: guest.slots(), helpers: guest.helpers() };
    let mut rng = Rng::new(seed);
    let mut region = Region::default();
    let mut insns = 0;
    for n in 0..3000 {
        let mut code = Vec::new();
        while code.len() < 96 {
            let w = if rng.one_in(3) { rng.bits() as u32 & 0xffff } else { word(&mut rng) };
            let (text, len) = guest.disassemble(0x1000, &w.to_le_bytes());
            // Most of what ends a unit would end it too early.
            let name = text.split_whitespace().next().unwrap_or("");
            let ends = name.starts_with('.')
                || ["illegal", "csr", "ecall", "ebreak", "fence.i"].iter().any(|e| name.starts_with(e))
                || ["j", "jr", "jal", "jalr", "ret", "sret", "mret", "wfi"].contains(&name)
                || text.contains("rm5")
                || text.contains("rm6");
            if !ends || rng.one_in(60) {
                code.extend([w as u16, (w >> 16) as u16].iter().take(len / 2));
            }
        }
        // A hart that has run: the mode bits of a state with random registers are the guest's own business, so the
        // key is that of reset with the floating-point unit on or off.
        let mut hart = guest.reset(0);
        if !rng.one_in(8) {
            hart.mstatus |= 0x6000;
        }
        let key = Key { pc: 0x1000, ..guest.key(&hart) };
        let limits = Limits { max_insns: 1 + rng.below(40) as u32, straight: rng.one_in(4) };
        let mut b = Builder::new(&mut region, key.pc);
        guest.translate(key, limits, &mut Code(code), &mut b).expect("the first fetch works");
        check_region(&region, t, &mut rng, 3).unwrap_or_else(|e| panic!("{arch:?}, unit {n}: {e}"));
        insns += region.guest_insns;
    }
    assert!(insns > 3 * 3000, "units end too early to test anything: {insns} instructions");
}

#[test]
fn random_rv64_code_is_valid_ir_that_passes_keep() {
    fuzz(GuestArch::Riscv64, 70);
}

#[test]
fn random_rv32_code_is_valid_ir_that_passes_keep() {
    fuzz(GuestArch::Riscv32, 71);
}
