//! Which integer instructions can be compared with the host's, and what of them.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind, RflagsBits};

use crate::rng::Rng;

impl Rng {
    /// A number that is likely to be a special one.
    pub(crate) fn value(&mut self) -> u64 {
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
pub(crate) fn known(f: CpuidFeature) -> bool {
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

/// Flags in RFLAGS from the decoder's.
pub(crate) fn flag_mask(bits: u32) -> u64 {
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

/// Instructions that have effects beyond registers and the data, or none that can be compared.
pub(crate) fn is_odd(i: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
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
            | M::Into
            | M::Salc
            | M::Reservednop
            | M::Wait
            | M::Les
            | M::Lds
            | M::Bound
    )
}

/// Whether all operands are registers, memory with a mode byte, or immediates.
pub(crate) fn plain_operands(i: &Instruction) -> bool {
    (0..i.op_count()).all(|n| {
        matches!(
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
    })
}
