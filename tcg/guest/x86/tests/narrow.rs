//! Random integer instructions of 16-bit and 32-bit code in segments with bases, on the interpreter and in translated code, compared with
//! the host's own processor.
//!
//! Instructions are random bytes that the decoder accepts; memory operands, of either address size, are redirected to the data. Flags that
//! the manual leaves undefined are not compared, and nothing that reads them follows.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;
#[path = "native/narrow.rs"]
mod host;
#[path = "native/plain.rs"]
mod plain;
#[path = "native/rng.rs"]
mod rng;

use accel::arch::x86_64::{Segment, State};
use common::Rig;
use host::{DATA_SIZE, EFLAGS, Narrow, Registers};
use iced_x86::{
    Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use plain::{flag_mask, is_odd, known, plain_operands};
use rng::Rng;

/// Bases in the guest.
const CODE: u64 = 0x1_2340;
const DATA: u64 = 0x5_4320;
const ARITH: u64 = 0x8d5;
/// Offset of ESI in the data: operands are around it.
const PLACE: u32 = 0x200;

/// A random instruction in its final encoding, or nothing if the bytes make none that can be compared.
fn instruction(
    bits: u32,
    rng: &mut Rng,
    info: &mut InstructionInfoFactory,
) -> Option<(Instruction, Vec<u8>)> {
    let mut bytes = Vec::new();
    for prefix in [0x66, 0x67] {
        if rng.below(4) == 0 {
            bytes.push(prefix);
        }
    }
    if rng.below(6) == 0 {
        bytes.push([0xf2, 0xf3, 0xf0][rng.below(3) as usize]);
    }
    match rng.below(5) {
        // VEX of maps 2 and 3, with the bits that tell it from LES.
        0 => bytes.extend([0xc4, 0xe2 + (rng.below(2) as u8), rng.next() as u8 & 0x7b | 0x40]),
        1 | 2 => bytes.push(0x0f),
        _ => {}
    }
    for _ in 0..10 {
        bytes.push(rng.next() as u8);
    }
    let mut i = Decoder::with_ip(bits, &bytes, 0, DecoderOptions::NONE).decode();
    let refused = i.is_invalid()
        || i.flow_control() != FlowControl::Next
        || i.is_privileged()
        || i.is_stack_instruction()
        || i.is_string_instruction()
        || i.has_segment_prefix()
        || !i.cpuid_features().iter().all(|f| known(*f))
        || i.mnemonic() == Mnemonic::Aam && i.immediate8() == 0
        || is_odd(&i)
        || !plain_operands(&i);
    let general = |n: u32| i.op_kind(n) != OpKind::Register || i.op_register(n).is_gpr();
    if refused || !(0..i.op_count()).all(general) {
        return None;
    }
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) && i.mnemonic() != Mnemonic::Lea {
        i.set_memory_base(if rng.below(2) == 0 { Register::SI } else { Register::ESI });
        i.set_memory_index(Register::None);
        i.set_memory_index_scale(1);
        i.set_memory_displacement64(rng.below(120));
        i.set_memory_displ_size(1);
        let bit_string = matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
        if bit_string && i.op_kind(1) == OpKind::Register {
            return None;
        }
    }
    for r in info.info(&i).used_registers() {
        let full = r.register().full_register32();
        let writes = !matches!(r.access(), OpAccess::Read | OpAccess::CondRead);
        if full == Register::ESP || full == Register::ESI && writes {
            return None;
        }
    }
    let mut e = Encoder::new(bits);
    e.encode(&i, 0).ok()?;
    Some((i, e.take_buffer()))
}

/// The guest's state before the code.
fn state(rig: &Rig, wide: bool, regs: &Registers) -> State {
    let mut s = rig.flat(0);
    let size = if wide { 0x400 } else { 0 };
    let segment = |base, access: u16| Segment { selector: 8, base, limit: 0xffff, access: access | size };
    s.cs = segment(CODE, 0x9b);
    (s.ds, s.es) = (segment(DATA, 0x93), segment(DATA, 0x93));
    s.rip = Narrow::ENTRY;
    s.set_gprs(std::array::from_fn(|n| match n {
        EFLAGS => 0x9_0000,
        0..8 => regs[n].into(),
        _ => 0,
    }));
    s.rflags = regs[EFLAGS].into();
    s
}

/// What differs, if anything does.
fn compare(
    host: &Narrow,
    rigs: &mut [(&str, Rig)],
    wide: bool,
    code: &[u8],
    regs: &Registers,
    data: &[u8],
    undefined: u64,
) -> Option<String> {
    let (mut want, mut want_data) = (*regs, data.to_vec());
    host.run(wide, code, &mut want, &mut want_data);
    for (backend, rig) in rigs {
        rig.write(DATA, data);
        rig.write(CODE + Narrow::ENTRY, &[code, b"\xe6\xf4\xeb\xfe"].concat());
        let s = state(rig, wide, regs);
        rig.set_state(&s);
        rig.run();
        let s = rig.state();
        let got = s.gprs();
        for n in (0..8).filter(|n| *n != EFLAGS) {
            if got[n] != u64::from(want[n]) {
                return Some(format!(
                    "{backend}: register {n} is {:#x}, the host has {:#x}",
                    got[n], want[n]
                ));
            }
        }
        let (flags, wanted) = (s.rflags & ARITH & !undefined, u64::from(want[EFLAGS]) & ARITH & !undefined);
        if flags != wanted {
            return Some(format!("{backend}: flags {flags:#x}, the host has {wanted:#x}"));
        }
        let got = rig.read(DATA, DATA_SIZE);
        if let Some(n) = (0..DATA_SIZE).find(|n| got[*n] != want_data[*n]) {
            return Some(format!(
                "{backend}: byte {n:#x} is {:#x}, the host has {:#x}",
                got[n], want_data[n]
            ));
        }
    }
    None
}

fn agree(bits: u32) {
    let host = match Narrow::new() {
        Ok(host) => host,
        Err(e) => return println!("SKIPPED: this host makes no segments: {e}"),
    };
    assert!(host.code() < 1 << 31 && host.data() < 1 << 31);
    let mut rigs: Vec<_> = ["interp", "jit"].into_iter().map(|b| (b, Rig::new("max", b))).collect();
    let cases = std::env::var("RHEA_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let seed = std::env::var("RHEA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0x1357_2468);
    let (mut rng, mut info) = (Rng(seed), InstructionInfoFactory::new());
    let mut seen = std::collections::BTreeSet::new();
    let mut failures = Vec::new();
    for _ in 0..cases {
        let (mut code, mut text, mut undefined) = (Vec::new(), Vec::new(), 0);
        let wanted = 1 + rng.below(4);
        while (text.len() as u64) < wanted {
            let Some((i, bytes)) = instruction(bits, &mut rng, &mut info) else { continue };
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
            text.push(i.to_string());
            seen.insert(format!("{:?}", i.mnemonic()));
        }
        let mut regs: Registers = std::array::from_fn(|_| rng.value() as u32);
        regs[6] = PLACE;
        regs[EFLAGS] = 0x202 | rng.next() as u32 & ARITH as u32;
        let data: Vec<u8> = (0..DATA_SIZE / 8).flat_map(|_| rng.value().to_le_bytes()).collect();
        if let Some(e) = compare(&host, &mut rigs, bits == 32, &code, &regs, &data, undefined) {
            failures.push(format!("{}\n    {e}\n    {code:02x?}\n    {regs:x?}", text.join("; ")));
            if failures.len() > 15 {
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(seen.len() > 60, "only {} instructions were met: {seen:?}", seen.len());
    for name in ["Aaa", "Das", "Aam", "Lahf", "Bswap", "Shld"] {
        assert!(seen.contains(name), "{name} was not met: {seen:?}");
    }
}

/// One after the other: the segments are the process's.
#[test]
fn random_instructions_of_16_and_32_bit_code_agree_with_the_host() {
    agree(16);
    agree(32);
}
