//! Encodings that do not exist, compared with the host's own processor: #UD where it has it, and nowhere else.
//!
//! Random bytes behind prefixes that instructions with VEX and vector instructions do not take, all with register operands.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

#[path = "native/caught.rs"]
mod caught;
mod common;
#[path = "native/host.rs"]
mod host;
#[path = "native/rng.rs"]
mod rng;

use common::Rig;
use host::{DATA_SIZE, FLAGS, Host, Registers};
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, FlowControl, Mnemonic};
use rng::Rng;

const CODE: u64 = 0x1000;

/// Random bytes, and whether the decoder knows an instruction of those compared in them.
fn encoding(rng: &mut Rng) -> Option<(Vec<u8>, String)> {
    let mut bytes = Vec::new();
    if rng.below(3) == 0 {
        bytes.push([0x66, 0xf2, 0xf3, 0xf0, 0x48][rng.below(5) as usize]);
    }
    match rng.below(3) {
        0 => bytes.extend([0xc5, rng.next() as u8 | 0x80]),
        1 => bytes.extend([0xc4, 0xe1 + rng.below(3) as u8, rng.next() as u8]),
        _ => {
            bytes.push(0x0f);
            match rng.below(3) {
                0 => bytes.push(0x38),
                1 => bytes.push(0x3a),
                _ => {}
            }
        }
    }
    // The opcode, and a ModRM byte of registers that are not the stack pointer nor R15.
    bytes.push(rng.next() as u8);
    bytes.push(0xc0 | rng.next() as u8 & 0x1b);
    bytes.push(rng.next() as u8);
    let i = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::NONE).decode();
    let known = |f: &CpuidFeature| {
        use CpuidFeature as F;
        let ours = [
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
            F::AVX,
            F::AVX2,
            F::FMA,
            F::F16C,
            F::VAES,
            F::VPCLMULQDQ,
        ];
        ours.contains(f)
    };
    // Bytes the decoder refuses may be an instruction it does not know; these are those whose opcode means something to it.
    let named = if i.is_invalid() {
        let opcode = DecoderOptions::NO_INVALID_CHECK;
        let loose = Decoder::with_ip(64, &bytes, CODE, opcode).decode();
        if loose.is_invalid() { i } else { loose }
    } else {
        i
    };
    let fits = !named.is_invalid()
        && named.flow_control() == FlowControl::Next
        && named.cpuid_features().iter().all(known)
        && !matches!(
            named.mnemonic(),
            Mnemonic::Emms | Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
        );
    fits.then(|| {
        let text = named.to_string();
        let len = named.len();
        bytes.truncate(len);
        (bytes, text)
    })
}

#[test]
fn undefined_encodings_are_the_hosts() {
    let Ok(host) = Host::new() else { return println!("SKIPPED: the low address is not free on this host") };
    if !std::is_x86_feature_detected!("avx2") || !std::is_x86_feature_detected!("gfni") {
        return println!("SKIPPED: this host has not all of the instructions");
    }
    host.write(&[0; DATA_SIZE]);
    let mut rig = Rig::new("max", "interp");
    let mut rng = Rng(0xdead_beef);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..3000 {
        let Some((bytes, text)) = encoding(&mut rng) else { continue };
        let mut regs: Registers = [0x55; 16];
        regs[FLAGS] = 0x202;
        let want = caught::run(&host, &bytes, &mut regs.clone()) == libc::SIGILL;
        let mut code = bytes.clone();
        code.extend(b"\xe6\xf4\xeb\xfe");
        rig.write(CODE, &code);
        let mut s = rig.long(CODE);
        s.set_gprs(regs);
        s.rsp = 0x9_0000;
        s.cr4 |= 0x600 | 1 << 18;
        s.fpu.xcr0 = 7;
        rig.set_state(&s);
        rig.run();
        // Without a descriptor table the exception stops the processor at the instruction.
        let got = rig.state().rip == CODE;
        assert_eq!(got, want, "#UD of {bytes:02x?} ({text})");
        if want { refused += 1 } else { taken += 1 }
    }
    assert!(host.read().iter().all(|b| *b == 0), "nothing of this writes memory");
    assert!(refused > 80 && taken > 200, "{refused} refused, {taken} taken");
}
