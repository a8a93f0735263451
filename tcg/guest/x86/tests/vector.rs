//! Random MMX, SSE and AVX instructions, compared with the host's own processor: registers with their upper halves, memory
//! and MXCSR.

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

use common::Rig;
use host::{DATA, DATA_SIZE, FLAGS, Host, Registers};
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic, OpKind, Register,
};
use rng::Rng;

const CODE: u64 = 0x1000;
/// Offsets from R14: operands in memory, YMM registers before, MMX registers, MXCSR, and all of them after.
const YMM: u32 = 0x100;
const MM: u32 = 0x200;
const MXCSR: u32 = 0x240;
const AFTER: u32 = 0x280;
const ARITH: u64 = 0x8d5;

/// Which instructions are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Legacy,
    Vex,
}

fn tested(i: &Instruction, kind: Kind) -> bool {
    use CpuidFeature as F;
    use Mnemonic as M;
    let legacy = [
        F::MMX,
        F::SSE,
        F::SSE2,
        F::SSE3,
        F::SSSE3,
        F::SSE4_1,
        F::SSE4_2,
        F::AES,
        F::PCLMULQDQ,
        F::SHA,
        F::GFNI,
    ];
    let vex = [F::AVX, F::AVX2, F::FMA, F::F16C, F::AES, F::PCLMULQDQ, F::VAES, F::VPCLMULQDQ, F::GFNI];
    let features: &[F] = if kind == Kind::Vex { &vex } else { &legacy };
    i.cpuid_features().iter().all(|f| features.contains(f))
        // Approximations differ from processor to processor; state and fences are tested elsewhere.
        && !matches!(
            i.mnemonic(),
            M::Rsqrtss | M::Rsqrtps | M::Rcpss | M::Rcpps | M::Ldmxcsr | M::Stmxcsr | M::Emms | M::Lfence
                | M::Mfence | M::Sfence | M::Pause | M::Clflush | M::Movnti | M::Monitor | M::Mwait | M::Fisttp
                | M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Vrsqrtss | M::Vrsqrtps
                | M::Vrcpss | M::Vrcpps | M::Vldmxcsr | M::Vstmxcsr
        )
}

fn aligned(i: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        i.mnemonic(),
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa
    )
}

/// A random instruction in its final encoding.
fn instruction(rng: &mut Rng, kind: Kind) -> Option<(Instruction, Vec<u8>)> {
    let mut bytes = Vec::new();
    if kind == Kind::Vex {
        // Registers 0 to 7.
        bytes.extend([0xc4, 0xe1 + rng.below(3) as u8, rng.next() as u8 | 0x40]);
    } else {
        if rng.below(3) != 0 {
            bytes.push([0x66, 0xf2, 0xf3][rng.below(3) as usize]);
        }
        if rng.below(4) == 0 {
            bytes.push(0x48);
        }
        bytes.push(0x0f);
        match rng.below(4) {
            0 => bytes.push(0x38),
            1 => bytes.push(0x3a),
            _ => {}
        }
    }
    for _ in 0..10 {
        bytes.push(rng.next() as u8);
    }
    let mut i = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE).decode();
    if i.is_invalid() || i.flow_control() != FlowControl::Next || i.has_segment_prefix() || !tested(&i, kind)
    {
        return None;
    }
    // Fourth operands, too, are registers 0 to 7.
    if (0..i.op_count())
        .any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).number() > 7 && kind == Kind::Vex)
    {
        return None;
    }
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        let any = kind == Kind::Vex && !aligned(&i) && rng.below(2) == 0;
        i.set_memory_base(Register::R14);
        if i.is_vsib() {
            // Three different registers, or #UD.
            let all = [i.op_register(0), i.op_register(2), i.memory_index()].map(|r| r.number());
            if all[0] == all[1] || all[1] == all[2] || all[0] == all[2] || all[2] > 7 {
                return None;
            }
        } else {
            i.set_memory_index(Register::None);
        }
        i.set_memory_displacement64(if any { rng.below(0xc0) } else { rng.below(7) * 32 });
        i.set_memory_displ_size(4);
    }
    // Registers of the harness.
    let general = |r: Register| {
        r.is_gpr()
            && matches!(r.full_register(), Register::RSP | Register::R14 | Register::R15 | Register::RDI)
    };
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && general(i.op_register(n))) {
        return None;
    }
    let mut e = Encoder::new(64);
    e.encode(&i, CODE).ok()?;
    Some((i, e.take_buffer()))
}

/// `code` with all vector registers loaded before it and stored behind it.
fn wrapped(code: &[u8]) -> Vec<u8> {
    let at = |offset: u32| offset.to_le_bytes();
    let mut b = Vec::new();
    // ldmxcsr [r14+MXCSR]
    b.extend([0x41, 0x0f, 0xae, 0x96]);
    b.extend(at(MXCSR));
    for n in 0..8u8 {
        b.extend([0xc4, 0xc1, 0x7c, 0x10, 0x86 | n << 3]);
        b.extend(at(YMM + 32 * u32::from(n)));
        b.extend([0x41, 0x0f, 0x6f, 0x86 | n << 3]);
        b.extend(at(MM + 8 * u32::from(n)));
    }
    b.extend(code);
    for n in 0..8u8 {
        b.extend([0xc4, 0xc1, 0x7c, 0x11, 0x86 | n << 3]);
        b.extend(at(AFTER + 32 * u32::from(n)));
        b.extend([0x41, 0x0f, 0x7f, 0x86 | n << 3]);
        b.extend(at(AFTER + 0x100 + 8 * u32::from(n)));
    }
    // stmxcsr [r14+AFTER+0x140]; emms; vzeroupper; ldmxcsr of the usual value
    b.extend([0x41, 0x0f, 0xae, 0x9e]);
    b.extend(at(AFTER + 0x140));
    b.extend([0x0f, 0x77, 0xc5, 0xf8, 0x77, 0x41, 0x0f, 0xae, 0x96]);
    b.extend(at(MXCSR + 4));
    b
}

fn run(rig: &mut Rig, code: &[u8], regs: &Registers, data: &[u8]) -> (Registers, Vec<u8>) {
    vectors::run(rig, CODE, 7, code, regs, data)
}

#[test]
fn random_vector_instructions_agree_with_the_host() {
    compare(Kind::Legacy, 1500, 220);
}

#[test]
fn random_avx_instructions_agree_with_the_host() {
    compare(Kind::Vex, 2500, 250);
}

/// State is saved in each form, cleared and restored.
#[test]
fn saved_state_agrees_with_the_host() {
    let Ok(host) = Host::new() else { return println!("SKIPPED: the low address is not free on this host") };
    if !has("avx2") || !std::is_x86_feature_detected!("xsavec") || !std::is_x86_feature_detected!("xsaveopt")
    {
        return println!("SKIPPED: this host has no XSAVEC");
    }
    let mut rng = Rng(0x5a5a);
    for backend in ["interp", "jit"] {
        let mut rig = Rig::new("max", backend);
        // xsave, xsaveopt, xsavec [r14+0x800]; x87's pointers differ, so that only SSE and AVX are asked for.
        for save in [&[0x41, 0x0f, 0xae, 0xa6][..], &[0x41, 0x0f, 0xae, 0xb6], &[0x41, 0x0f, 0xc7, 0xa6]] {
            for (saved, restored) in [(6, 6), (6, 2), (6, 4), (2, 6), (4, 6)] {
                let mut code = vec![0xb8, saved, 0, 0, 0, 0x31, 0xd2];
                code.extend(save);
                code.extend([0, 8, 0, 0, 0xb8, restored, 0, 0, 0, 0xc5, 0xfc, 0x77]);
                // xrstor [r14+0x800]
                code.extend([0x41, 0x0f, 0xae, 0xae, 0, 8, 0, 0]);
                let code = wrapped(&code);
                let mut regs: Registers = std::array::from_fn(|_| rng.value());
                regs[14] = DATA + 0x400;
                regs[FLAGS] = 0x202;
                let mut data: Vec<u8> = (0..DATA_SIZE / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
                let at = 0x400 + MXCSR as usize;
                data[at..at + 8].copy_from_slice(&[0x80, 0x3f, 0, 0, 0x80, 0x1f, 0, 0]);
                // The legacy area's MXCSR, and the header.
                data[0xc18..0xc1c].copy_from_slice(&[0x80, 0x1f, 0, 0]);
                data[0xe00..0xe40].fill(0);
                host.write(&data);
                let mut want = regs;
                host.run(&code, &mut want);
                let want_data = host.read();
                let (_, got) = run(&mut rig, &code, &regs, &data);
                // Registers 8 to 15 are whatever they are.
                let ours = |n: &usize| !(0xd20..0xda0).contains(n) && !(0xec0..0xf40).contains(n);
                let byte = (0..DATA_SIZE).filter(ours).find(|n| got[*n] != want_data[*n]);
                assert_eq!(byte, None, "{backend} {save:x?} {saved} {restored}");
            }
        }
    }
}

/// Runs random instructions of a kind on both; at least `least` different ones are met in `cases`.
fn compare(kind: Kind, cases: u64, least: usize) {
    let host = match Host::new() {
        Ok(host) => host,
        Err(e) => return println!("SKIPPED: the low address is not free on this host: {e}"),
    };
    if !["avx2", "fma", "f16c", "sha", "gfni", "vaes", "vpclmulqdq"].iter().all(|f| has(f)) {
        return println!("SKIPPED: this host has not all of the instructions");
    }
    let mut rigs: Vec<(&str, Rig)> = ["interp", "jit"].into_iter().map(|b| (b, Rig::new("max", b))).collect();
    let cases = std::env::var("RHEA_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let seed = std::env::var("RHEA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0x9876_5432);
    let mut rng = Rng(seed);
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    let mut failures = std::collections::BTreeMap::<String, String>::new();
    for _ in 0..cases {
        // One, or several that work on each other's results; indices of gathers are set before.
        let count = if rng.below(2) == 0 { 1 } else { 2 + rng.below(5) };
        let mut all: Vec<(Instruction, Vec<u8>)> = Vec::new();
        while (all.len() as u64) < count {
            all.extend(instruction(&mut rng, kind).filter(|(i, _)| count == 1 || !i.is_vsib() && !is_dot(i)));
        }
        let i = all[0].0;
        let code = wrapped(&all.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>());
        let mut regs: Registers = std::array::from_fn(|_| rng.value());
        regs[14] = DATA + 0x400;
        // Where MASKMOVQ and MASKMOVDQU write.
        regs[7] = DATA + 0x480;
        regs[FLAGS] = 0x202 | rng.next() & ARITH;
        let mut data: Vec<u8> = (0..DATA_SIZE / 8).flat_map(|_| rng.value().to_le_bytes()).collect();
        let mut control = 0x1f80 | (rng.next() as u32 & 0x6000);
        if rng.below(4) == 0 {
            control |= rng.next() as u32 & 0x8040;
        }
        let at = 0x400 + MXCSR as usize;
        data[at..at + 4].copy_from_slice(&control.to_le_bytes());
        data[at + 4..at + 8].copy_from_slice(&0x1f80u32.to_le_bytes());
        if is_dot(&i) {
            // Which of several NaNs it gives in which lane is the processor's own.
            for v in data[0x400..0x400 + MM as usize].chunks_mut(4) {
                v.copy_from_slice(&((rng.below(20000) as f32 - 10000.0) / 8.0).to_le_bytes());
            }
        }
        if i.is_vsib() {
            // Indices that stay inside.
            let bytes = if i.is_vsib32() { 4 } else { 8 };
            let at = 0x400 + YMM as usize + 32 * i.memory_index().number();
            for lane in data[at..at + 32].chunks_mut(bytes) {
                let index = rng.below(128) as i64 - 64;
                lane.copy_from_slice(&index.to_le_bytes()[..bytes]);
            }
        }
        host.write(&data);
        let mut want = regs;
        host.run(&code, &mut want);
        let want_data = host.read();
        let name = all.iter().map(|(i, _)| format!("{:?}", i.mnemonic())).collect::<Vec<_>>();
        name.iter().for_each(|n| *seen.entry(n.clone()).or_default() += 1);
        let name = name.join(" ");
        for (backend, rig) in &mut rigs {
            let (got, got_data) = run(rig, &code, &regs, &data);
            let register = (0..15).find(|n| *n != 4 && got[*n] != want[*n]);
            let byte = (0..DATA_SIZE).find(|n| got_data[*n] != want_data[*n]);
            let flags = (got[FLAGS] ^ want[FLAGS]) & ARITH;
            let word = |d: &[u8]| byte.map(|b| d[b & !31..(b & !31) + 32].to_vec());
            if register.is_some() || byte.is_some() || flags != 0 {
                failures.entry(name.clone()).or_insert_with(|| {
                    format!(
                        "{} on {backend}, MXCSR {control:#x}: register {register:?}, flags {flags:#x}, byte {byte:x?}\n  got  {:02x?}\n  want {:02x?}",
                        all.iter().map(|(i, _)| i.to_string()).collect::<Vec<_>>().join("; "),
                        word(&got_data),
                        word(&want_data)
                    )
                });
            }
        }
    }
    let mut list: Vec<String> = failures.into_values().collect();
    list.sort_by_key(String::len);
    list.truncate(20);
    assert!(list.is_empty(), "at least {} differ:\n{}", list.len(), list.join("\n"));
    assert!(seen.len() > least, "only {} instructions were met: {seen:?}", seen.len());
}

fn is_dot(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Dpps | Mnemonic::Vdpps)
}

fn has(feature: &str) -> bool {
    match feature {
        "avx2" => std::is_x86_feature_detected!("avx2"),
        "fma" => std::is_x86_feature_detected!("fma"),
        "f16c" => std::is_x86_feature_detected!("f16c"),
        "sha" => std::is_x86_feature_detected!("sha"),
        "gfni" => std::is_x86_feature_detected!("gfni"),
        "vaes" => std::is_x86_feature_detected!("vaes"),
        _ => std::is_x86_feature_detected!("vpclmulqdq"),
    }
}
