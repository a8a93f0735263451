//! CPU models: which features a guest has, and what CPUID says of them.
//!
//! Models and names come from `resources/cpu`. A model here has at most what the translator implements
//! ([`IMPLEMENTED`]), so that CPUID announces nothing that does not work; `max` has all of it.

use std::collections::BTreeSet;

use accel::{
    AccelError, CpuModel,
    arch::{
        x86_cpu::{UNSPOKEN, Wanted},
        x86_models::{self, Models, Register},
        x86_topology::Topology,
    },
};
use iced_x86::{CpuidFeature, Instruction};

use crate::msr;

/// Features that translation, helpers and system registers implement.
const IMPLEMENTED: &[&str] = &[
    "fpu",
    "vme",
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
    "xsaves",
    "arat",
    "x2apic",
    "tsc-deadline",
    "wbnoinvd",
    "cr8legacy",
    "invtsc",
    "pku",
    "topoext",
    "svm",
    "npt",
    "nrip-save",
    "flushbyasid",
    "decodeassists",
    "lfence-always-serializing",
    "tsc-adjust",
    "ss",
    "mmxext",
    "osvw",
    "xsaveerptr",
    "sse4a",
    "clzero",
    "serialize",
    "movdiri",
    "movdir64b",
    "avx-vnni",
    // Hints: what they hint at takes no notice.
    "cldemote",
    "prefetchiti",
    "fzrm",
    "fsrs",
    "fsrc",
    // Those of the hypervisor.
    "kvmclock",
    "kvmclock-stable-bit",
];

/// Features of the hypervisor, which no processor has by itself.
const VIRTUAL: [&str; 3] = ["hypervisor", "kvmclock", "kvmclock-stable-bit"];

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
    /// The hypervisor says that it has KVM's interface.
    pub(crate) kvm: bool,
    /// Frequency of the time stamp counter at reset.
    pub(crate) tsc_khz: u64,
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
    xsaves "xsaves"
    osvw "osvw"
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
    (CpuidFeature::CLZERO, "clzero"),
    (CpuidFeature::SERIALIZE, "serialize"),
    (CpuidFeature::MOVDIRI, "movdiri"),
    (CpuidFeature::MOVDIR64B, "movdir64b"),
    (CpuidFeature::AVX_VNNI, "avx-vnni"),
];

/// Names of the models with a line about each.
#[must_use]
pub fn models() -> Vec<(String, String)> {
    let mut list = Models::built_in().and_then(|m| m.described()).unwrap_or_default();
    list.sort_by_key(|(name, _)| name != DEFAULT);
    list.insert(1, ("max".to_owned(), "everything the translator implements".to_owned()));
    list
}

/// All that is implemented, under the default's identity.
fn everything(files: &Models) -> Result<x86_models::Model, String> {
    let mut max = files.model(DEFAULT)?.unwrap_or_default();
    max.name = "max".to_owned();
    (max.level, max.xlevel) = (0x1f, 0x8000_0021);
    max.features = IMPLEMENTED.iter().copied().collect();
    Ok(max)
}

impl Model {
    /// The model that `-cpu` asks for. What the translator does not have of it is left out.
    ///
    /// # Errors
    /// Unknown names and values, and missing features if none may be left out.
    pub fn new(cpu: &CpuModel, topology: Topology) -> Result<Self, AccelError> {
        Self::told(cpu, topology).map(|(model, _)| model)
    }

    /// The same with the line that says what was left out.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn told(cpu: &CpuModel, topology: Topology) -> Result<(Self, Option<String>), AccelError> {
        let bad = |e| AccelError::Cpu(format!("model file: {e}"));
        let files = Models::built_in().map_err(bad)?;
        let wanted = Wanted::new(&files, cpu, DEFAULT)?;
        let here = |name: &str| IMPLEMENTED.contains(&name);
        let mut id = match &wanted.model {
            Some(model) => model.clone(),
            None => everything(&files).map_err(bad)?,
        };
        id.features.extend(VIRTUAL);
        let mut lacking: BTreeSet<&str> = BTreeSet::new();
        for (name, on) in &wanted.switched {
            if *on {
                lacking.extend((!here(name)).then_some(*name));
                id.features.insert(name);
            } else {
                lacking.remove(name);
                id.features.remove(name);
            }
        }
        if wanted.model.is_some() {
            lacking.extend(id.features.iter().filter(|f| !here(f) && !UNSPOKEN.contains(f)));
        }
        id.features.retain(|f| here(f));
        let lacking: Vec<_> = lacking.into_iter().map(str::to_owned).collect();
        let told = wanted.missing("tcg", &lacking)?;
        let registers = files
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
        let model = Self {
            phys_bits: wanted.phys_bits.unwrap_or(40),
            kvm: wanted.kvm && id.features.contains("hypervisor"),
            tsc_khz: wanted.tsc_khz.map_or(msr::TSC_KHZ, u64::from),
            id,
            topology,
            registers,
            has,
            decoder,
        };
        Ok((model, told))
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
        let e = named("max", &[("sgx", "on"), ("enforce", "on")]).unwrap_err().to_string();
        assert!(e.contains("model 'max': accelerator tcg does not have sgx"), "{e}");
        assert!(named("Z80", &[]).unwrap_err().to_string().contains("does not exist"));
        assert!(named("qemu64", &[("enforce", "on")]).is_ok());
    }

    #[test]
    fn what_is_left_out_is_told() {
        let told = |name: &str, key: &str, value: &str| {
            let features = vec![(key.to_owned(), value.to_owned())];
            let cpu = CpuModel { name: name.to_owned(), features };
            Model::told(&cpu, Topology::default()).unwrap().1
        };
        let line = told("Haswell", "sgx", "on").unwrap();
        assert_eq!(line, "cpu model 'Haswell': accelerator tcg does not have hle, rtm, sgx");
        assert_eq!(told("Haswell-noTSX", "avx", "off"), None);
        assert_eq!(told("Haswell", "check", "off"), None);
        assert_eq!(told("max", "phys-bits", "36"), None);
    }
}
