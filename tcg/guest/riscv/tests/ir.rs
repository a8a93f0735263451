//! Random code through the front end: what it makes is valid IR, and passes that believe its slot and helper tables
//! change nothing that can be seen.

use accel::arch::GuestArch;
use tcg_engine::{CodeReader, Guest, Key, Limits, Trap};
use tcg_guest_riscv::{Cpu, Hart, Riscv};
use tcg_ir::testing::{Rng, check_region};
use tcg_ir::{Builder, Op, Region, Tables};

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

/// A vector instruction, registers mostly aligned for large groups.
fn vector_word(rng: &mut Rng) -> u32 {
    let mut w = rng.bits() as u32 & !0x7f;
    if !rng.one_in(3) {
        w &= !(7 << 7 | 7 << 20);
    }
    match rng.below(8) {
        0 => w & !(0x1dff << 20) | 0x07 | 1 << 25,
        1 => w & !(0x1dff << 20) | 0x27 | 1 << 25,
        2 => w & !(1 << 31) & !(3 << 30) | 7 << 12 | 0x57,
        _ => w & !(7 << 12) | (rng.below(7) as u32) << 12 | 0x57,
    }
}

fn cpu_vlenb(features: &[(String, String)]) -> u32 {
    features.iter().find(|(k, _)| k == "vlen").map_or(16, |(_, v)| v.parse::<u32>().unwrap_or(128) / 8)
}

/// Switches vectors on, mostly with `vl` at its maximum.
fn set_vectors(rng: &mut Rng, hart: &mut Hart, vlenb: u32) {
    hart.mstatus |= 0x600;
    let (sew, lmul) = loop {
        let (sew, lmul) = (rng.below(4) as i32, rng.below(7) as i32 - 3);
        if sew <= lmul + 3 {
            break (sew, lmul);
        }
    };
    let elements = u64::from(vlenb) >> sew;
    let max = if lmul < 0 { elements >> -lmul } else { elements << lmul };
    let less = u64::from(rng.one_in(5));
    hart.vcsrs = [0, 0, max - less, (lmul as u64 & 7) | (sew as u64) << 3];
}

fn fuzz(arch: GuestArch, seed: u64, units: u32, features: &[(&str, &str)]) {
    let xlen = if arch == GuestArch::Riscv32 { 32 } else { 64 };
    let (model, _) = Riscv::cpu_models(arch).remove(0);
    let features: Vec<_> = features.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let cpu = Cpu::new(xlen, &model, &features).expect("the default model");
    let vectors = !features.is_empty();
    let vlenb = cpu_vlenb(&features);
    let guest = Riscv::with_cpu(cpu);
    let t = Tables { slots: guest.slots(), helpers: guest.helpers() };
    let mut rng = Rng::new(seed);
    let mut region = Region::default();
    let mut insns = 0;
    for n in 0..units {
        let mut code = Vec::new();
        while code.len() < 96 {
            let w = match rng.below(3) {
                0 => rng.bits() as u32 & 0xffff,
                1 if vectors => vector_word(&mut rng),
                _ => word(&mut rng),
            };
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
        if vectors {
            set_vectors(&mut rng, &mut hart, vlenb);
        }
        let key = Key { pc: 0x1000, ..guest.key(&hart) };
        let limits = Limits { max_insns: 1 + rng.below(40) as u32, straight: rng.one_in(4) };
        let mut b = Builder::new(&mut region, key.pc);
        guest.translate(key, limits, &mut Code(code), &mut b).expect("the first fetch works");
        check_region(&region, t, &mut rng, 3).unwrap_or_else(|e| panic!("{arch:?}, unit {n}: {e}"));
        insns += region.guest_insns;
    }
    assert!(insns > 3 * units, "units end too early to test anything: {insns} instructions");
}

#[test]
fn random_rv64_code_is_valid_ir_that_passes_keep() {
    fuzz(GuestArch::Riscv64, 70, 3000, &[]);
}

#[test]
fn random_rv32_code_is_valid_ir_that_passes_keep() {
    fuzz(GuestArch::Riscv32, 71, 3000, &[]);
}

#[test]
fn random_vector_code_is_valid_ir_that_passes_keep() {
    fuzz(GuestArch::Riscv64, 72, 600, &[("v", "on")]);
    fuzz(GuestArch::Riscv64, 73, 300, &[("v", "on"), ("vlen", "512")]);
    fuzz(GuestArch::Riscv32, 74, 200, &[("v", "on"), ("vlen", "256")]);
}

/// What loops are made of calls no helper where `vl` is VLMAX.
#[test]
fn common_vector_instructions_are_inline() {
    const WORDS: &[(u32, &str)] = &[
        (0x02050407, "vle8.v v8,(a0)"),
        (0x0205f427, "vse64.v v8,(a1)"),
        (0x22856107, "vl2re32.v v2,(a0)"),
        (0x028500a7, "vs1r.v v1,(a0)"),
        (0x030c0457, "vadd.vv v8,v16,v24"),
        (0x0b054457, "vsub.vx v8,v16,a0"),
        (0x0f01b457, "vrsub.vi v8,v16,3"),
        (0x2503b457, "vand.vi v8,v16,7,v0.t"),
        (0x2f0c0457, "vxor.vv v8,v16,v24"),
        (0x9702b457, "vsll.vi v8,v16,5"),
        (0xa30c0457, "vsrl.vv v8,v16,v24"),
        (0xa7054457, "vsra.vx v8,v16,a0"),
        (0x130c0457, "vminu.vv v8,v16,v24"),
        (0x1d054457, "vmax.vx v8,v16,a0,v0.t"),
        (0x62803057, "vmseq.vi v0,v8,0"),
        (0x6a8800d7, "vmsltu.vv v1,v8,v16"),
        (0x7c8540d7, "vmsgt.vx v1,v8,a0,v0.t"),
        (0x970c2457, "vmul.vv v8,v16,v24"),
        (0x9f0c2457, "vmulh.vv v8,v16,v24"),
        (0xb7056457, "vmacc.vx v8,a0,v16"),
        (0xaf882457, "vnmsub.vv v8,v16,v24"),
        (0x5d0c0457, "vmerge.vvm v8,v16,v24,v0"),
        (0x5e00b457, "vmv.v.i v8,1"),
        (0x5e054457, "vmv.v.x v8,a0"),
        (0x9f00b457, "vmv2r.v v8,v16"),
        (0x42802557, "vmv.x.s a0,v8"),
        (0x42056457, "vmv.s.x v8,a0"),
        (0x5208a457, "vid.v v8"),
        (0x42882557, "vcpop.m a0,v8"),
        (0x4288a557, "vfirst.m a0,v8"),
        (0x6621a0d7, "vmand.mm v1,v2,v3"),
        (0x7a21a0d7, "vmnor.mm v1,v2,v3"),
        (0x030c2457, "vredsum.vs v8,v16,v24"),
        (0x1b0c2457, "vredmaxu.vs v8,v16,v24"),
        (0x030c1457, "vfadd.vv v8,v16,v24"),
        (0x9f055457, "vfrsub.vf v8,v16,fa0"),
        (0x93055457, "vfmul.vf v8,v16,fa0"),
        (0x830c1457, "vfdiv.vv v8,v16,v24"),
        (0x4f001457, "vfsqrt.v v8,v16"),
        (0xb3055457, "vfmacc.vf v8,fa0,v16"),
        (0xaf881457, "vfnmsub.vv v8,v16,v24"),
        (0x130c1457, "vfmin.vv v8,v16,v24"),
        (0x2b0c1457, "vfsgnjx.vv v8,v16,v24"),
        (0x6e8810d7, "vmflt.vv v1,v8,v16"),
        (0x7e8550d7, "vmfge.vf v1,v8,fa0"),
        (0x5e055457, "vfmv.v.f v8,fa0"),
        (0x42801557, "vfmv.f.s fa0,v8"),
        (0x5d055457, "vfmerge.vfm v8,v16,fa0,v0"),
        (0x4b019457, "vfcvt.f.x.v v8,v16"),
        (0x4b039457, "vfcvt.rtz.x.f.v v8,v16"),
        (0x0f0c1457, "vfredosum.vs v8,v16,v24"),
        (0xc7056457, "vwadd.vx v8,v16,a0"),
        (0xe3092457, "vwmulu.vv v8,v16,v18"),
        (0xf7282457, "vwmacc.vv v8,v16,v18"),
        (0x4b03a457, "vsext.vf2 v8,v16"),
        (0xb3043457, "vnsrl.wi v8,v16,8"),
        (0xc70c0457, "vwredsum.vs v8,v16,v24"),
        (0x0d107557, "vsetvli a0,zero,e32,m2,ta,ma"),
        (0x0d107057, "vsetvli zero,zero,e32,m2,ta,ma"),
    ];
    for vlen in ["128", "256", "1024"] {
        let features = [("v", "on"), ("vlen", vlen)].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let vlenb = cpu_vlenb(&features);
        let guest = Riscv::with_cpu(Cpu::new(64, "", &features).expect("a good model"));
        let mut hart = guest.reset(0);
        // e32, m1: four elements in a register of 128 bits.
        hart.mstatus |= 0x6600;
        hart.vcsrs = [0, 0, u64::from(vlenb) / 4, 2 << 3];
        let key = Key { pc: 0x1000, ..guest.key(&hart) };
        for &(word, text) in WORDS {
            let mut region = Region::default();
            let mut b = Builder::new(&mut region, key.pc);
            let code = vec![word as u16, (word >> 16) as u16];
            let limits = Limits { max_insns: 1, straight: false };
            guest.translate(key, limits, &mut Code(code), &mut b).expect("the first fetch works");
            // Sums in order are written out for few elements.
            if text.starts_with("vfred") && vlen == "1024" {
                continue;
            }
            // Only what crosses a page may go another way.
            let memory = matches!(word & 0x7f, 0x07 | 0x27);
            let calls = region.insts.iter().filter(|i| i.op == Op::Call).count();
            assert_eq!(calls, usize::from(memory), "{text}, vlen {vlen}");
            let moves = region.insts.iter().filter(|i| matches!(i.op, Op::Load | Op::Store)).count();
            assert_eq!(moves > 0, memory, "{text}, vlen {vlen}");
        }
    }
}
