//! Random instructions of AVX-512, compared with the host's own processor: registers, masks, memory and MXCSR.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;
#[path = "native/host.rs"]
mod host;
#[path = "native/rng.rs"]
mod rng;
#[path = "native/values.rs"]
mod values;
#[path = "native/vectors.rs"]
mod vectors;

use std::collections::BTreeMap;

use accel::arch::x86_64::State;
use common::Rig;
use host::{DATA, DATA_SIZE, FLAGS, Host, Registers};
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, MemoryOperand, Mnemonic,
    OpKind, Register,
};
use rng::Rng;

const CODE: u64 = 0x1000;
/// Offsets from R14: ZMM registers before, opmask registers, MXCSR, and all of them after. Operands in memory lie below.
const ZMM: u64 = 0x200;
const MASKS: u64 = 0x600;
const MXCSR: u64 = 0x640;
const AFTER: u64 = 0x680;
/// R14's distance from the data's start.
const BASE: usize = 0x800;
const ARITH: u64 = 0x8d5;
/// Registers that take part, by number.
const USED: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];

/// Which instructions are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Evex,
    Opmask,
}

fn tested(i: &Instruction) -> bool {
    use CpuidFeature as F;
    use Mnemonic as M;
    let known = [
        F::AVX512F,
        F::AVX512BW,
        F::AVX512DQ,
        F::AVX512CD,
        F::AVX512VL,
        F::AVX512_VBMI,
        F::AVX512_VBMI2,
        F::AVX512_VNNI,
        F::AVX512_IFMA,
        F::AVX512_BITALG,
        F::AVX512_VPOPCNTDQ,
        F::VAES,
        F::VPCLMULQDQ,
        F::GFNI,
    ];
    i.cpuid_features().iter().all(|f| known.contains(f))
        // Approximations differ from processor to processor.
        && !matches!(
            i.mnemonic(),
            M::Vrcp14ps | M::Vrcp14pd | M::Vrcp14ss | M::Vrcp14sd | M::Vrsqrt14ps | M::Vrsqrt14pd | M::Vrsqrt14ss
                | M::Vrsqrt14sd
        )
}

/// A random instruction in its final encoding.
fn instruction(rng: &mut Rng, kind: Kind) -> Option<(Instruction, Vec<u8>)> {
    let mut bytes = Vec::new();
    let any = |rng: &mut Rng, mask: u8| rng.next() as u8 & mask;
    if kind == Kind::Evex {
        // Registers of USED: bit 3 of each number is clear.
        let map = 1 + rng.below(3) as u8;
        let mut p2 = any(rng, 0xff);
        if rng.below(3) == 0 {
            p2 &= 0x78;
        }
        bytes.extend([0x62, 0xa0 | map | any(rng, 0x50), 0x44 | any(rng, 0xbb), p2]);
    } else {
        bytes.extend([0xc4, 0xe1 + 2 * rng.below(2) as u8, any(rng, 0xff) | 0x40]);
        let op = [0x41, 0x90, 0x30][rng.below(3) as usize] + rng.below(12) as u8;
        bytes.push(op);
    }
    for _ in 0..10 {
        bytes.push(any(rng, 0xff));
    }
    let mut i = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE).decode();
    if i.is_invalid() || i.flow_control() != FlowControl::Next || i.has_segment_prefix() || !tested(&i) {
        return None;
    }
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        let whole = matches!(
            i.mnemonic(),
            Mnemonic::Vmovaps
                | Mnemonic::Vmovapd
                | Mnemonic::Vmovdqa32
                | Mnemonic::Vmovdqa64
                | Mnemonic::Vmovntps
                | Mnemonic::Vmovntpd
                | Mnemonic::Vmovntdq
                | Mnemonic::Vmovntdqa
        );
        i.set_memory_base(Register::R14);
        if i.is_vsib() {
            let index = i.memory_index().number();
            let reg = i.op_register(u32::from(i.op_kind(0) == OpKind::Memory)).number();
            if !USED.contains(&(index as u32)) || index == reg {
                return None;
            }
        } else {
            i.set_memory_index(Register::None);
        }
        let any = !whole && rng.below(2) == 0;
        i.set_memory_displacement64(if any { rng.below(0xc0) } else { rng.below(4) * 64 });
        i.set_memory_displ_size(if rng.below(2) == 0 { 1 } else { 4 });
    }
    // Registers of the harness.
    let general = |r: Register| {
        r.is_gpr() && matches!(r.full_register(), Register::RSP | Register::R14 | Register::R15)
    };
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && general(i.op_register(n))) {
        return None;
    }
    let mut e = Encoder::new(64);
    e.encode(&i, CODE).ok()?;
    Some((i, e.take_buffer()))
}

/// Encodings of moves between registers and the places at `at` from R14.
fn moves(zmm: u64, masks: u64, mxcsr: u64, load: bool) -> Vec<u8> {
    let mut e = Encoder::new(64);
    let place = |at: u64| MemoryOperand::with_base_displ(Register::R14, at as i64);
    let mut put = |code: Code, reg: Register, at: u64, load: bool| {
        let i = if load {
            Instruction::with2(code, reg, place(at)).unwrap()
        } else {
            Instruction::with2(code, place(at), reg).unwrap()
        };
        e.encode(&i, CODE).unwrap();
    };
    let (vector, mask) = if load {
        (Code::EVEX_Vmovdqu64_zmm_k1z_zmmm512, Code::VEX_Kmovq_kr_km64)
    } else {
        (Code::EVEX_Vmovdqu64_zmmm512_k1z_zmm, Code::VEX_Kmovq_m64_kr)
    };
    for (n, r) in (0..).zip(USED) {
        put(vector, Register::ZMM0 + r, zmm + 64 * n, load);
    }
    for n in 0..8u32 {
        put(mask, Register::K0 + n, masks + 8 * u64::from(n), load);
    }
    let control = if load { Code::Ldmxcsr_m32 } else { Code::Stmxcsr_m32 };
    e.encode(&Instruction::with1(control, place(mxcsr)).unwrap(), CODE).unwrap();
    e.take_buffer()
}

/// `code` with all registers loaded before it and stored behind it.
fn wrapped(code: &[u8]) -> Vec<u8> {
    let mut b = moves(ZMM, MASKS, MXCSR, true);
    b.extend(code);
    b.extend(moves(AFTER, AFTER + 0x400, AFTER + 0x440, false));
    // vzeroupper; ldmxcsr of the usual value
    b.extend([0xc5, 0xf8, 0x77, 0x41, 0x0f, 0xae, 0x96]);
    b.extend((MXCSR as u32 + 4).to_le_bytes());
    b
}

fn run(rig: &mut Rig, code: &[u8], regs: &Registers, data: &[u8]) -> (Registers, Vec<u8>) {
    vectors::run(rig, CODE, 0xe7, code, regs, data)
}

fn host_has_all() -> bool {
    std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512cd")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512vbmi")
        && std::is_x86_feature_detected!("avx512vbmi2")
        && std::is_x86_feature_detected!("avx512vnni")
        && std::is_x86_feature_detected!("avx512ifma")
        && std::is_x86_feature_detected!("avx512bitalg")
        && std::is_x86_feature_detected!("avx512vpopcntdq")
        && std::is_x86_feature_detected!("vaes")
        && std::is_x86_feature_detected!("gfni")
}

#[test]
fn random_evex_instructions_agree_with_the_host() {
    compare(Kind::Evex, 3500, 400);
}

#[test]
fn random_opmask_instructions_agree_with_the_host() {
    compare(Kind::Opmask, 300, 40);
}

/// Registers and memory before.
fn operands(rng: &mut Rng, i: &Instruction) -> Vec<u8> {
    let mut data: Vec<u8> = (0..DATA_SIZE / 8).flat_map(|_| rng.value().to_le_bytes()).collect();
    let mut control = 0x1f80 | (rng.next() as u32 & 0x6000);
    if rng.below(4) == 0 {
        control |= rng.next() as u32 & 0x8040;
    }
    let at = BASE + MXCSR as usize;
    data[at..at + 4].copy_from_slice(&control.to_le_bytes());
    data[at + 4..at + 8].copy_from_slice(&0x1f80u32.to_le_bytes());
    if i.is_vsib() {
        // Indices that stay inside.
        let bytes = if i.is_vsib32() { 4 } else { 8 };
        let n = USED.iter().position(|n| *n as usize == i.memory_index().number()).unwrap();
        let at = BASE + ZMM as usize + 64 * n;
        for lane in data[at..at + 64].chunks_mut(bytes) {
            let index = rng.below(32) as i64 - 16;
            lane.copy_from_slice(&index.to_le_bytes()[..bytes]);
        }
    }
    data
}

/// What runs, for whoever looks at a panic.
struct Shown(String);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("in: {}", self.0);
        }
    }
}

/// Runs random instructions of a kind on both; at least `least` different ones are met in `cases`.
fn compare(kind: Kind, cases: u64, least: usize) {
    let host = match Host::new() {
        Ok(host) => host,
        Err(e) => return println!("SKIPPED: the low address is not free on this host: {e}"),
    };
    if !host_has_all() {
        return println!("SKIPPED: this host has not all of the instructions");
    }
    let mut rigs: Vec<(&str, Rig)> = ["interp", "jit"].into_iter().map(|b| (b, Rig::new("max", b))).collect();
    let cases = std::env::var("RHEA_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let seed = std::env::var("RHEA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0x5132_5132);
    let mut rng = Rng(seed);
    let mut seen = BTreeMap::<String, u32>::new();
    let mut failures = BTreeMap::<String, String>::new();
    for _ in 0..cases {
        // One, or several that work on each other's results; indices of gathers are set before.
        let count = if rng.below(2) == 0 { 1 } else { 2 + rng.below(3) };
        let mut all: Vec<(Instruction, Vec<u8>)> = Vec::new();
        while (all.len() as u64) < count {
            all.extend(instruction(&mut rng, kind).filter(|(i, _)| count == 1 || !i.is_vsib()));
        }
        let code = wrapped(&all.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>());
        let mut regs: Registers = std::array::from_fn(|_| rng.value());
        regs[14] = DATA + BASE as u64;
        regs[FLAGS] = 0x202 | rng.next() & ARITH;
        let data = operands(&mut rng, &all[0].0);
        host.write(&data);
        let mut want = regs;
        host.run(&code, &mut want);
        let want_data = host.read();
        let names: Vec<String> = all.iter().map(|(i, _)| format!("{:?}", i.mnemonic())).collect();
        names.iter().for_each(|n| *seen.entry(n.clone()).or_default() += 1);
        let text = all.iter().map(|(i, _)| i.to_string()).collect::<Vec<_>>().join("; ");
        let bytes: Vec<&[u8]> = all.iter().map(|(_, b)| &b[..]).collect();
        let shown = Shown(format!("{text} {bytes:02x?}"));
        for (backend, rig) in &mut rigs {
            let (got, got_data) = run(rig, &code, &regs, &data);
            let register = (0..15).find(|n| *n != 4 && got[*n] != want[*n]);
            let byte = (0..DATA_SIZE).find(|n| got_data[*n] != want_data[*n]);
            let flags = (got[FLAGS] ^ want[FLAGS]) & ARITH;
            let word = |d: &[u8]| byte.map(|b| d[b & !63..(b & !63) + 64].to_vec());
            if register.is_some() || byte.is_some() || flags != 0 {
                let control = &data[BASE + MXCSR as usize..][..4];
                failures.entry(names.join(" ")).or_insert_with(|| {
                    format!(
                        "{} on {backend}, MXCSR {control:02x?}: register {register:?}, flags {flags:#x}, byte {byte:x?}\n  got  {:02x?}\n  want {:02x?}",
                        shown.0,
                        word(&got_data),
                        word(&want_data)
                    )
                });
            }
        }
    }
    let mut list: Vec<String> = failures.into_values().collect();
    list.sort_by_key(String::len);
    let count = list.len();
    list.truncate(20);
    assert!(list.is_empty(), "{count} differ:\n{}", list.join("\n"));
    assert!(seen.len() > least, "only {} instructions were met: {seen:?}", seen.len());
}

/// Where memory ends: the address above is not mapped.
const EDGE: u64 = 0x4000_0000;

/// Runs one instruction with `k1` and RBX at the edge; the address that faulted, if one did, and the state.
fn at_the_edge(backend: &str, mut i: Instruction, k1: u64, zmm1: [u64; 8]) -> (Option<u64>, State) {
    let mut rig = Rig::new("max", backend);
    i.set_op_mask(Register::K1);
    let mut e = Encoder::new(64);
    e.encode(&i, CODE).unwrap();
    let mut bytes = e.take_buffer();
    bytes.extend(b"\xe6\xf4\xeb\xfe");
    rig.write(CODE, &bytes);
    let mut s = rig.long(CODE);
    s.rbx = EDGE;
    s.cr4 |= 0x600 | 1 << 18;
    s.fpu.xcr0 = 0xe7;
    s.fpu.opmask[1] = k1;
    s.fpu.zmm[0].0 = [0x11; 64];
    for (n, w) in zmm1.iter().enumerate() {
        s.fpu.zmm[1].0[8 * n..8 * n + 8].copy_from_slice(&w.to_le_bytes());
    }
    s.idt.limit = 0;
    rig.set_state(&s);
    rig.run();
    let s = rig.state();
    let finished = rig.io.out.lock().unwrap().iter().any(|(port, _)| *port == 0xf4);
    (if finished { None } else { Some(s.cr2) }, s)
}

#[test]
fn lanes_that_the_mask_excludes_do_not_fault() {
    let edge = |disp| MemoryOperand::with_base_displ(Register::RBX, disp);
    let load = |code, disp| Instruction::with2(code, Register::ZMM0, edge(disp)).unwrap();
    let store = |code, disp| Instruction::with2(code, edge(disp), Register::ZMM0).unwrap();
    let add = |disp| {
        Instruction::with3(
            Code::EVEX_Vaddpd_zmm_k1z_zmm_zmmm512b64_er,
            Register::ZMM0,
            Register::ZMM1,
            edge(disp),
        )
        .unwrap()
    };
    let scalar =
        Instruction::with3(Code::EVEX_Vaddsd_xmm_k1z_xmm_xmmm64_er, Register::XMM0, Register::XMM1, edge(0));
    // Instructions, with masks that reach behind the edge and those that do not.
    let cases = [
        (load(Code::EVEX_Vmovdqu64_zmm_k1z_zmmm512, -32), 0x0f, 0x10),
        (load(Code::EVEX_Vmovdqu8_zmm_k1z_zmmm512, -3), 0x7, 0x8),
        (load(Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64, 0), 0x100, 0x80),
        (load(Code::EVEX_Vpexpandq_zmm_k1z_zmmm512, -16), 0xc0, 0xe0),
        (load(Code::EVEX_Vpmovzxbq_zmm_k1z_xmmm64, -4), 0x0f, 0x1f),
        (load(Code::EVEX_Vcvtps2pd_zmm_k1z_ymmm256b32_sae, -16), 0x0f, 0x1f),
        (store(Code::EVEX_Vmovdqu32_zmmm512_k1z_zmm, -4), 1, 2),
        (store(Code::EVEX_Vpcompressd_zmmm512_k1z_zmm, -8), 0x8001, 0x8003),
        (add(-8), 1, 3),
        (scalar.unwrap(), 2, 1),
    ];
    for backend in ["interp", "jit"] {
        for (i, inside, outside) in &cases {
            let (fault, _) = at_the_edge(backend, *i, *inside, [0; 8]);
            assert_eq!(fault, None, "{backend}: {i} with {inside:#x}");
            let (fault, _) = at_the_edge(backend, *i, *outside, [0; 8]);
            assert_eq!(fault, Some(EDGE), "{backend}: {i} with {outside:#x}");
        }
    }
}

#[test]
fn a_gather_goes_on_where_it_faulted() {
    let place = MemoryOperand::with_base_index_scale(Register::RBX, Register::ZMM1, 8);
    let gather = Instruction::with2(Code::EVEX_Vpgatherqq_zmm_k1_vm64z, Register::ZMM0, place).unwrap();
    let scatter = Instruction::with2(Code::EVEX_Vpscatterqq_vm64z_k1_zmm, place, Register::ZMM0).unwrap();
    // The third lane that is asked for lies behind the edge.
    let indices = [u64::MAX, 0, u64::MAX - 1, 0, 0, u64::MAX, 0, 0];
    for backend in ["interp", "jit"] {
        for i in [gather, scatter] {
            let (fault, s) = at_the_edge(backend, i, 0b0011_0101, indices);
            assert_eq!((fault, s.fpu.opmask[1]), (Some(EDGE), 0b0011_0000), "{backend}: {i}");
            let (fault, s) = at_the_edge(backend, i, 0b0010_0101, indices);
            assert_eq!((fault, s.fpu.opmask[1]), (None, 0), "{backend}: {i}");
            let loaded = s.fpu.zmm[0].0[..8] != [0x11; 8];
            assert_eq!(loaded, i.op_kind(0) == OpKind::Register, "{backend}: {i}");
        }
    }
}

/// Instructions of AVX clear the upper halves, and a unit that was made before they were in use is not taken for both.
#[test]
fn narrow_instructions_clear_what_is_above() {
    // vpternlogd zmm1,zmm1,zmm1,0xff; vpaddd xmm1,xmm1,xmm1; jmp to the latter once more; vmovdqu64 [rbx-64],zmm1
    let code = b"\xb9\x02\0\0\0\xc5\xf1\xfe\xc9\x62\xf1\xfe\x48\x7f\x4b\xff\x62\xf3\x75\x48\x25\xc9\xff\xff\xc9\x75\xea\xe6\xf4\xeb\xfe";
    for backend in ["interp", "jit"] {
        let mut rig = Rig::new("max", backend);
        rig.write(CODE, code);
        let mut s = rig.long(CODE);
        s.rbx = DATA + 64;
        s.cr4 |= 0x600 | 1 << 18;
        s.fpu.xcr0 = 0xe7;
        rig.set_state(&s);
        rig.run();
        let mut want = vec![0; 64];
        want[..16].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff].repeat(4));
        assert_eq!(rig.read(DATA, 64), want, "{backend}");
        assert_eq!(rig.state().fpu.zmm[1].0, [0xff; 64], "{backend}");
    }
}

/// Models announce AVX-512 and its state as they have it.
#[test]
fn models_announce_it() {
    for (model, has) in
        [("Skylake-Server", true), ("Icelake-Server", true), ("EPYC-Genoa", true), ("Haswell", false)]
    {
        let mut rig = Rig::new(model, "interp");
        // mov eax,7; xor ecx,ecx; cpuid; mov esi,ebx; mov eax,13; xor ecx,ecx; cpuid; out 0xf4,al
        rig.write(
            CODE,
            b"\xb8\x07\0\0\0\x31\xc9\x0f\xa2\x89\xde\xb8\x0d\0\0\0\x31\xc9\x0f\xa2\xe6\xf4\xeb\xfe",
        );
        let s = rig.long(CODE);
        rig.set_state(&s);
        rig.run();
        let s = rig.state();
        assert_eq!((s.rsi & 1 << 16 != 0, s.rax & 0xe0 == 0xe0), (has, has), "{model}");
        assert_eq!(s.rcx >= 2688, has, "{model}: the area has room for it");
    }
}
