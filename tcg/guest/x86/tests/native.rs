//! Random integer instructions, compared with the host's own processor.
//!
//! Instructions are random bytes that the decoder accepts; memory operands are redirected to a data area that lies at the
//! same address on both sides. Flags that the manual leaves undefined are not compared, and nothing that reads them
//! follows.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;
#[path = "native/host.rs"]
mod host;
#[path = "native/rng.rs"]
mod rng;

use common::Rig;
use host::{DATA, DATA_SIZE, FLAGS, Host, Registers};
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register, RflagsBits,
};
use rng::Rng;

const CODE: u64 = 0x1000;
const ARITH: u64 = 0x8d5;

impl Rng {
    fn value(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            7,
            8,
            15,
            16,
            31,
            32,
            63,
            64,
            u64::MAX,
            1 << 63,
            i64::MAX as u64,
            0x8000_0000,
            0xffff_ffff_8000_0080,
        ];
        match self.below(4) {
            0 => EDGES[self.below(16) as usize],
            1 => self.next() & 0xffff,
            2 => self.next() as u32 as i32 as u64,
            _ => self.next(),
        }
    }
}

/// Features that the translator and, checked at run time, the host have.
fn known(f: CpuidFeature) -> bool {
    use CpuidFeature as F;
    match f {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 | F::CMOV => true,
        F::BMI1 => std::is_x86_feature_detected!("bmi1"),
        F::BMI2 => std::is_x86_feature_detected!("bmi2"),
        F::ADX => std::is_x86_feature_detected!("adx"),
        F::LZCNT => std::is_x86_feature_detected!("lzcnt"),
        F::POPCNT => std::is_x86_feature_detected!("popcnt"),
        F::MOVBE => std::is_x86_feature_detected!("movbe"),
        F::CX8 | F::CMPXCHG16B => std::is_x86_feature_detected!("cmpxchg16b"),
        _ => false,
    }
}

fn flag_mask(bits: u32) -> u64 {
    let pairs = [
        (RflagsBits::OF, 1 << 11),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 1 << 2),
    ];
    pairs.iter().filter(|(b, _)| bits & b != 0).fold(0, |m, (_, f)| m | f)
}

/// A random instruction in its final encoding, or nothing if the bytes make none that can be compared.
fn instruction(rng: &mut Rng, info: &mut InstructionInfoFactory) -> Option<(Instruction, Vec<u8>)> {
    let mut bytes = Vec::new();
    if rng.below(4) == 0 {
        bytes.push([0x66, 0xf2, 0xf3, 0xf0][rng.below(4) as usize]);
    }
    match rng.below(4) {
        // VEX of maps 2 and 3.
        0 => bytes.extend([0xc4, 0xe2 + (rng.below(2) as u8), (rng.next() & 0xfb) as u8]),
        1 => bytes.extend([0x40 | rng.below(16) as u8, 0x0f]),
        _ => bytes.push(0x40 | rng.below(16) as u8),
    }
    for _ in 0..10 {
        bytes.push(rng.next() as u8);
    }
    let mut i = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE).decode();
    let refused = i.is_invalid()
        || i.flow_control() != FlowControl::Next
        || i.is_privileged()
        || i.is_stack_instruction()
        || i.is_string_instruction()
        || i.has_segment_prefix()
        || !i.cpuid_features().iter().all(|f| known(*f));
    if refused {
        return None;
    }
    use Mnemonic as M;
    let out = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && !i.op_register(n).is_gpr());
    let odd = matches!(
        i.mnemonic(),
        M::Div
            | M::Idiv
            | M::In
            | M::Out
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Std
            | M::Sgdt
            | M::Sidt
            | M::Xlatb
            | M::Lss
            | M::Lfs
            | M::Lgs
            | M::Enter
            | M::Leave
            | M::Cpuid
            | M::Rdtsc
            | M::Hlt
            | M::Cli
            | M::Sti
            | M::Popfq
            | M::Salc
            | M::Reservednop
            | M::Wait
    );
    if out || odd {
        return None;
    }
    if (0..i.op_count()).any(|n| {
        !matches!(
            i.op_kind(n),
            OpKind::Register
                | OpKind::Memory
                | OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
    }) {
        return None;
    }
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    if memory && i.mnemonic() != M::Lea {
        i.set_memory_base(Register::R14);
        i.set_memory_index(Register::None);
        let disp = if i.mnemonic() == M::Cmpxchg16b { rng.below(7) * 16 } else { rng.below(120) };
        i.set_memory_displacement64(disp);
        i.set_memory_displ_size(1);
        // A bit string is addressed through a register: it must stay inside.
        if matches!(i.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc) && i.op_kind(1) == OpKind::Register {
            return None;
        }
    } else if memory && (i.is_ip_rel_memory_operand()) {
        return None;
    }
    let used = info.info(&i).used_registers().to_vec();
    for r in used {
        let full = r.register().full_register();
        let writes = !matches!(r.access(), OpAccess::Read | OpAccess::CondRead);
        if matches!(full, Register::RSP | Register::R15) || full == Register::R14 && writes {
            return None;
        }
    }
    let mut e = Encoder::new(64);
    e.encode(&i, CODE).ok()?;
    Some((i, e.take_buffer()))
}

struct Pair {
    host: Host,
    rigs: Vec<(&'static str, Rig)>,
}

/// Runs code on both sides; a description of what differs.
fn compare(p: &mut Pair, code: &[u8], regs: &Registers, data: &[u8], undefined: u64) -> Result<(), String> {
    p.host.write(data);
    let mut want = *regs;
    p.host.run(code, &mut want);
    let want_data = p.host.read();
    for (backend, rig) in &mut p.rigs {
        rig.write(DATA, data);
        let mut bytes = code.to_vec();
        bytes.extend(b"\xe6\xf4\xeb\xfe");
        rig.write(CODE, &bytes);
        let mut s = rig.long(CODE);
        let mut r = *regs;
        r[4] = 0x9_0000;
        s.set_gprs(r);
        s.rflags = regs[FLAGS];
        rig.set_state(&s);
        rig.run();
        let s = rig.state();
        let got = s.gprs();
        for n in (0..15).filter(|n| *n != 4) {
            if got[n] != want[n] {
                return Err(format!("{backend}: register {n} is {:#x}, the host has {:#x}", got[n], want[n]));
            }
        }
        let mask = ARITH & !undefined;
        if (s.rflags ^ want[FLAGS]) & mask != 0 {
            return Err(format!(
                "{backend}: flags {:#x}, the host has {:#x} (of {mask:#x})",
                s.rflags & ARITH,
                want[FLAGS] & ARITH
            ));
        }
        let got = rig.read(DATA, DATA_SIZE);
        if let Some(n) = (0..DATA_SIZE).find(|n| got[*n] != want_data[*n]) {
            return Err(format!("{backend}: byte {n} is {:#x}, the host has {:#x}", got[n], want_data[n]));
        }
    }
    Ok(())
}

fn pair() -> Option<Pair> {
    match Host::new() {
        Ok(host) => {
            let rigs = ["interp", "jit"].into_iter().map(|b| (b, Rig::new("max", b))).collect();
            Some(Pair { host, rigs })
        }
        Err(e) => {
            println!("SKIPPED: the low address is not free on this host: {e}");
            None
        }
    }
}

#[test]
fn random_integer_instructions_agree_with_the_host() {
    let Some(mut p) = pair() else { return };
    let cases = std::env::var("RHEA_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(1200);
    let seed = std::env::var("RHEA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0x1234_5678);
    let mut rng = Rng(seed);
    let mut info = InstructionInfoFactory::new();
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    let mut failures = Vec::new();
    for _ in 0..cases {
        let mut code = Vec::new();
        let mut text = Vec::new();
        let mut undefined = 0;
        let mut names = Vec::new();
        let wanted = 1 + rng.below(4);
        while (text.len() as u64) < wanted {
            let Some((i, bytes)) = instruction(&mut rng, &mut info) else { continue };
            if flag_mask(i.rflags_read()) & undefined != 0 {
                continue;
            }
            let set = flag_mask(i.rflags_written() | i.rflags_cleared() | i.rflags_set());
            undefined = undefined & !set | flag_mask(i.rflags_undefined());
            if matches!(i.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr | Mnemonic::Rol | Mnemonic::Ror) {
                // Defined for a count of one only.
                undefined |= 1 << 11;
            }
            code.extend(bytes);
            names.push(format!("{:?}", i.mnemonic()));
            text.push(format!("{i}"));
        }
        let mut regs: Registers = std::array::from_fn(|_| rng.value());
        regs[14] = DATA + 0x100;
        regs[FLAGS] = 0x202 | rng.next() & ARITH;
        let data: Vec<u8> = (0..DATA_SIZE / 8).flat_map(|_| rng.value().to_le_bytes()).collect();
        match compare(&mut p, &code, &regs, &data, undefined) {
            Ok(()) => names.into_iter().for_each(|n| *seen.entry(n).or_default() += 1),
            Err(e) => {
                failures.push(format!("{}\n    {e}\n    {code:02x?}\n    {regs:x?}", text.join("; ")));
                if failures.len() > 15 {
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(seen.len() > 60, "only {} instructions were met: {seen:?}", seen.len());
}
