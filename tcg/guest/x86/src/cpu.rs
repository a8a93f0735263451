//! CPU models: which features a guest has, and what CPUID says of them.
//!
//! Models and names come from `resources/cpu`. A model here has at most what the translator implements
//! ([`IMPLEMENTED`]), so that CPUID announces nothing that does not work; `max` has all of it.

use std::collections::BTreeSet;

use accel::{
    AccelError, CpuModel,
    arch::{
        x86_models::{self, Models, Register, number},
        x86_topology::Topology,
    },
};
use iced_x86::{CpuidFeature, Instruction};

/// Features that translation, helpers and system registers implement.
const IMPLEMENTED: &[&str] = &[
    "fpu",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "pclmulqdq",
    "aes",
    "sha-ni",
    "gfni",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "vaes",
    "vpclmulqdq",
    "avx512f",
    "avx512dq",
    "avx512cd",
    "avx512bw",
    "avx512vl",
    "avx512ifma",
    "avx512vbmi",
    "avx512vbmi2",
    "avx512vnni",
    "avx512bitalg",
    "avx512-vpopcntdq",
    "cx16",
    "movbe",
    "popcnt",
    "hypervisor",
    "lahf-lm",
    "abm",
    "syscall",
    "nx",
    "rdtscp",
    "lm",
    "pdpe1gb",
    "3dnowprefetch",
    "bmi1",
    "bmi2",
    "adx",
    "fsgsbase",
    "smep",
    "smap",
    "erms",
    "fsrm",
    "clflushopt",
    "clwb",
    "pcid",
    "invpcid",
    "umip",
    "la57",
    "rdrand",
    "rdseed",
    "rdpid",
    "xsave",
    "xsaveopt",
    "xsavec",
    "xgetbv1",
    "arat",
    "x2apic",
    "tsc-deadline",
    "wbnoinvd",
    "cr8legacy",
    "invtsc",
    "pku",
    "topoext",
    "svm",
];

/// The default model.
const DEFAULT: &str = "qemu64";

/// Number of instruction features the decoder tells apart.
const DECODER_FEATURES: usize = 178;

/// A CPU as one partition shows it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Identification and features.
    pub(crate) id: x86_models::Model,
    /// Bits of a physical address.
    pub(crate) phys_bits: u32,
    /// Where the vCPUs are.
    pub(crate) topology: Topology,
    registers: Vec<(u32, u32, Register, u32)>,
    has: Flags,
    decoder: [bool; DECODER_FEATURES],
}

macro_rules! features {
    ($($field:ident $name:literal)*) => {
        /// Features that code asks for.
        #[derive(Debug, Clone, Copy, Default)]
        pub(crate) struct Flags {
            $(pub(crate) $field: bool,)*
        }

        impl Flags {
            fn of(names: &BTreeSet<&'static str>) -> Self {
                Self { $($field: names.contains($name),)* }
            }
        }
    };
}

features! {
    lm "lm"
    pae "pae"
    pse "pse"
    pse36 "pse36"
    pge "pge"
    nx "nx"
    gb_pages "pdpe1gb"
    vme "vme"
    de "de"
    mce "mce"
    fxsr "fxsr"
    sse "sse"
    umip "umip"
    la57 "la57"
    fsgsbase "fsgsbase"
    pcid "pcid"
    xsave "xsave"
    xsavec "xsavec"
    smep "smep"
    smap "smap"
    syscall "syscall"
    avx "avx"
    avx512f "avx512f"
    pku "pku"
    topoext "topoext"
    svm "svm"
}

/// What each feature of the decoder needs; those not listed exist on no model.
const NEEDS: &[(CpuidFeature, &str)] = &[
    (CpuidFeature::INTEL8086, ""),
    (CpuidFeature::INTEL8086_ONLY, ""),
    (CpuidFeature::INTEL186, ""),
    (CpuidFeature::INTEL286, ""),
    (CpuidFeature::INTEL386, ""),
    (CpuidFeature::INTEL486, ""),
    (CpuidFeature::CPUID, ""),
    (CpuidFeature::PAUSE, ""),
    (CpuidFeature::SMM, ""),
    (CpuidFeature::MULTIBYTENOP, ""),
    (CpuidFeature::PREFETCHW, ""),
    (CpuidFeature::X64, "lm"),
    (CpuidFeature::FPU, "fpu"),
    (CpuidFeature::FPU287, "fpu"),
    (CpuidFeature::FPU387, "fpu"),
    (CpuidFeature::CMOV, "cmov"),
    (CpuidFeature::CX8, "cx8"),
    (CpuidFeature::MSR, "msr"),
    (CpuidFeature::TSC, "tsc"),
    (CpuidFeature::RDPMC, "pae"),
    (CpuidFeature::SEP, "sep"),
    (CpuidFeature::SYSCALL, "syscall"),
    (CpuidFeature::CLFSH, "clflush"),
    (CpuidFeature::FXSR, "fxsr"),
    (CpuidFeature::MMX, "mmx"),
    (CpuidFeature::SSE, "sse"),
    (CpuidFeature::SSE2, "sse2"),
    (CpuidFeature::SSE3, "sse3"),
    (CpuidFeature::SSSE3, "ssse3"),
    (CpuidFeature::SSE4_1, "sse4.1"),
    (CpuidFeature::SSE4_2, "sse4.2"),
    (CpuidFeature::SSE4A, "sse4a"),
    (CpuidFeature::AES, "aes"),
    (CpuidFeature::PCLMULQDQ, "pclmulqdq"),
    (CpuidFeature::SHA, "sha-ni"),
    (CpuidFeature::GFNI, "gfni"),
    (CpuidFeature::VAES, "vaes"),
    (CpuidFeature::VPCLMULQDQ, "vpclmulqdq"),
    (CpuidFeature::AVX, "avx"),
    (CpuidFeature::AVX2, "avx2"),
    (CpuidFeature::FMA, "fma"),
    (CpuidFeature::F16C, "f16c"),
    (CpuidFeature::AVX512F, "avx512f"),
    (CpuidFeature::AVX512BW, "avx512bw"),
    (CpuidFeature::AVX512CD, "avx512cd"),
    (CpuidFeature::AVX512DQ, "avx512dq"),
    (CpuidFeature::AVX512VL, "avx512vl"),
    (CpuidFeature::AVX512_VBMI, "avx512vbmi"),
    (CpuidFeature::AVX512_VNNI, "avx512vnni"),
    (CpuidFeature::AVX512_IFMA, "avx512ifma"),
    (CpuidFeature::AVX512_VBMI2, "avx512vbmi2"),
    (CpuidFeature::AVX512_BITALG, "avx512bitalg"),
    (CpuidFeature::AVX512_VPOPCNTDQ, "avx512-vpopcntdq"),
    (CpuidFeature::BMI1, "bmi1"),
    (CpuidFeature::BMI2, "bmi2"),
    (CpuidFeature::LZCNT, "abm"),
    (CpuidFeature::POPCNT, "popcnt"),
    (CpuidFeature::ADX, "adx"),
    (CpuidFeature::MOVBE, "movbe"),
    (CpuidFeature::CMPXCHG16B, "cx16"),
    (CpuidFeature::RDTSCP, "rdtscp"),
    (CpuidFeature::RDPID, "rdpid"),
    (CpuidFeature::RDRAND, "rdrand"),
    (CpuidFeature::RDSEED, "rdseed"),
    (CpuidFeature::FSGSBASE, "fsgsbase"),
    (CpuidFeature::INVPCID, "invpcid"),
    (CpuidFeature::SMAP, "smap"),
    (CpuidFeature::PKU, "pku"),
    (CpuidFeature::XSAVE, "xsave"),
    (CpuidFeature::XSAVEC, "xsavec"),
    (CpuidFeature::XSAVEOPT, "xsaveopt"),
    (CpuidFeature::XSAVES, "xsaves"),
    (CpuidFeature::CLFLUSHOPT, "clflushopt"),
    (CpuidFeature::CLWB, "clwb"),
    (CpuidFeature::WBNOINVD, "wbnoinvd"),
    (CpuidFeature::MONITOR, "monitor"),
    (CpuidFeature::SVM, "svm"),
    (CpuidFeature::SKINIT_or_SVM, "svm"),
];

/// Names of the models with a line about each.
#[must_use]
pub fn models() -> Vec<(String, String)> {
    let Ok(list) = Models::built_in().and_then(|m| m.list()) else { return Vec::new() };
    let mut list: Vec<_> = list.into_iter().map(|m| (m.name, m.about)).collect();
    list.sort_by_key(|(name, _)| name != DEFAULT);
    list.insert(1, ("max".to_owned(), "everything the translator implements".to_owned()));
    list
}

impl Model {
    /// A model by name, with properties. Unknown names are refused; features that are not implemented are left out
    /// silently when a model has them, and refused when they are asked for.
    pub fn new(cpu: &CpuModel, topology: Topology) -> Result<Self, AccelError> {
        let bad = |e| AccelError::Cpu(format!("model file: {e}"));
        let m = Models::built_in().map_err(bad)?;
        let name = match cpu.name.as_str() {
            "" => DEFAULT,
            "host" => "max",
            n => n,
        };
        let mut id = if name == "max" {
            let mut max = m.model(DEFAULT).map_err(bad)?.unwrap_or_default();
            max.name = "max".to_owned();
            (max.level, max.xlevel) = (0x1f, 0x8000_001e);
            max.features = IMPLEMENTED.iter().copied().collect();
            max
        } else {
            m.model(name).map_err(bad)?.ok_or_else(|| {
                let known: Vec<_> = m.names().collect();
                let hint = x86_models::near(name, known.iter().copied());
                let hint = hint.map_or(String::new(), |n| format!(", did you mean '{n}'?"));
                let known = known.join(", ");
                AccelError::Cpu(format!("model '{name}' does not exist{hint}; there are max, {known}"))
            })?
        };
        id.features.insert("hypervisor");
        if name != "max" {
            id.features.retain(|f| IMPLEMENTED.contains(f));
        }
        let mut phys_bits = 40;
        for (key, value) in &cpu.features {
            let need = || {
                number(value)
                    .ok_or_else(|| AccelError::Cpu(format!("property '{key}': '{value}' is not a number")))
            };
            match key.as_str() {
                "family" => id.family = need()?,
                "model" => id.model = need()?,
                "stepping" => id.stepping = need()?,
                "level" => id.level = need()?,
                "xlevel" => id.xlevel = need()?,
                "phys-bits" => {
                    phys_bits = need()?;
                    if !(32..=52).contains(&phys_bits) {
                        return Err(AccelError::Cpu(format!("phys-bits is {phys_bits}, expected 32 to 52")));
                    }
                }
                "vendor" if value.len() == 12 && value.is_ascii() => id.vendor.clone_from(value),
                "model-id" if value.len() < 48 && value.is_ascii() => id.brand.clone_from(value),
                name if m.feature(name).is_some() => match value.as_str() {
                    "on" | "true" | "yes" => match IMPLEMENTED.iter().find(|i| **i == name) {
                        Some(name) => {
                            id.features.insert(name);
                        }
                        None => {
                            return Err(AccelError::Cpu(format!(
                                "feature '{name}' is not implemented by tcg"
                            )));
                        }
                    },
                    "off" | "false" | "no" => {
                        id.features.remove(name);
                    }
                    v => {
                        return Err(AccelError::Cpu(format!(
                            "feature '{name}': '{v}' is neither on nor off"
                        )));
                    }
                },
                name => {
                    let hint = m.nearest(name).map_or(String::new(), |n| format!(", did you mean '{n}'?"));
                    return Err(AccelError::Cpu(format!("has no property or feature '{name}'{hint}")));
                }
            }
        }
        let registers = m
            .features
            .iter()
            .filter(|f| id.features.contains(f.name))
            .map(|f| (f.leaf, f.subleaf, f.register, f.bit))
            .collect();
        let has = Flags::of(&id.features);
        let mut decoder = [false; DECODER_FEATURES];
        for (feature, name) in NEEDS {
            if let Some(d) = decoder.get_mut(*feature as usize) {
                *d = name.is_empty() || id.features.contains(*name);
            }
        }
        Ok(Self { id, phys_bits, topology, registers, has, decoder })
    }

    /// Features by name of field.
    pub(crate) const fn has(&self) -> &Flags {
        &self.has
    }

    /// True if the model has the instruction.
    pub(crate) fn has_instruction(&self, i: &Instruction) -> bool {
        i.cpuid_features().iter().all(|f| self.decoder.get(*f as usize).copied().unwrap_or(false))
    }

    /// The feature bits of one register of a leaf.
    pub(crate) fn bits(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        self.registers
            .iter()
            .filter(|(l, s, r, _)| (*l, *s, *r) == (leaf, subleaf, register))
            .fold(0, |bits, (.., bit)| bits | 1 << bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, features: &[(&str, &str)]) -> Result<Model, AccelError> {
        let features = features.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Model::new(&CpuModel { name: name.to_owned(), features }, Topology::default())
    }

    #[test]
    fn a_model_has_what_is_implemented() {
        let m = Models::built_in().unwrap();
        for name in IMPLEMENTED {
            assert!(m.feature(name).is_some(), "{name} is no feature");
        }
        let max = named("max", &[]).unwrap();
        assert_eq!(max.id.features.len(), IMPLEMENTED.len());
        assert!(max.has().lm && !named("max", &[("lm", "off")]).unwrap().has().lm);
        let e = named("max", &[("sgx", "on")]).unwrap_err().to_string();
        assert!(e.contains("'sgx' is not implemented"), "{e}");
        let e = named("max", &[("mwx", "on")]).unwrap_err().to_string();
        assert!(e.contains("did you mean"), "{e}");
        assert!(named("Z80", &[]).unwrap_err().to_string().contains("does not exist"));
    }
}
