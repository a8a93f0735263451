//! From a CPU model to the CPUID of each vCPU.
//!
//! Everything shown to the guest is a subset of what KVM offers (`KVM_GET_SUPPORTED_CPUID`) plus the few bits
//! that KVM keeps in its own controllers (x2APIC, TSC deadline). Leaves: Intel SDM volume 2, CPUID.

use accel::{
    AccelError, CpuModel,
    arch::x86_topology::{Level, Topology},
};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::NAME;

use super::models::{Feature, Model, Models, Register, number};

/// The CPUID of a partition, before what differs from vCPU to vCPU.
pub(crate) struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    /// Features asked for that KVM does not offer.
    pub(crate) dropped: Vec<String>,
}

/// `GenuineIntel` and its like from leaf 0.
pub(crate) fn vendor(entries: &[kvm_cpuid_entry2]) -> String {
    entries.iter().find(|e| e.function == 0).map_or_else(String::new, |e| {
        [e.ebx, e.edx, e.ecx].iter().flat_map(|r| r.to_le_bytes()).map(char::from).collect()
    })
}

fn register(e: &mut kvm_cpuid_entry2, r: Register) -> &mut u32 {
    match r {
        Register::Eax => &mut e.eax,
        Register::Ebx => &mut e.ebx,
        Register::Ecx => &mut e.ecx,
        Register::Edx => &mut e.edx,
    }
}

fn find(entries: &mut [kvm_cpuid_entry2], leaf: u32, subleaf: u32) -> Option<&mut kvm_cpuid_entry2> {
    entries.iter_mut().find(|e| {
        e.function == leaf && (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || e.index == subleaf)
    })
}

fn get(entries: &mut [kvm_cpuid_entry2], f: &Feature) -> bool {
    find(entries, f.leaf, f.subleaf).is_some_and(|e| *register(e, f.register) & 1 << f.bit != 0)
}

fn set(entries: &mut [kvm_cpuid_entry2], f: &Feature, on: bool) {
    if let Some(e) = find(entries, f.leaf, f.subleaf) {
        let r = register(e, f.register);
        *r = if on { *r | 1 << f.bit } else { *r & !(1 << f.bit) };
    }
}

/// Bits of leaf 0x80000001 EDX that AMD processors repeat from leaf 1 EDX.
const AMD_ALIASES: u32 = 0x0183_F3FF;

/// Where the local APICs are, and what KVM can show of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Apics {
    /// In KVM, with a deadline timer or not.
    Kvm {
        /// Whether the timer can be set by TSC_DEADLINE.
        deadline_timer: bool,
    },
    /// In Rhea, reached as memory and by MSRs.
    Rhea,
    /// In Rhea, on a host whose KVM does not hand MSR accesses out.
    Memory,
}

struct Wish {
    name: String,
    on: bool,
}

impl Template {
    pub(crate) fn build(
        supported: &[kvm_cpuid_entry2],
        cpu: &CpuModel,
        apics: Apics,
    ) -> Result<Self, AccelError> {
        let bad = |e| AccelError::Cpu(format!("model file: {e}"));
        let models = Models::built_in().map_err(bad)?;
        let mut offered = supported.to_vec();
        let on = |name: &str, entries: &mut [kvm_cpuid_entry2], on: bool| {
            if let Some(f) = models.feature(name) {
                set(entries, f, on);
            }
        };
        on("hypervisor", &mut offered, true);
        on("apic", &mut offered, true);
        on("x2apic", &mut offered, apics != Apics::Memory);
        on("tsc-deadline", &mut offered, apics == Apics::Kvm { deadline_timer: true });
        // The state of guests inside of the guest is no part of a vCPU's state here: it could not be saved.
        for (name, text) in [("vmx", "VMX"), ("svm", "SVM")] {
            on(name, &mut offered, false);
            if cpu.features.iter().any(|(k, v)| k == name && matches!(v.as_str(), "on" | "true" | "yes")) {
                return Err(AccelError::Cpu(format!(
                    "feature '{name}': {text} guests inside of a guest are not supported with accelerator {NAME}"
                )));
            }
        }
        // KVM sets it when the guest sets CR4.OSXSAVE.
        on("osxsave", &mut offered, false);
        on("ospke", &mut offered, false);

        let mut model = match cpu.name.as_str() {
            "" | "host" | "max" => None,
            name => Some(models.model(name).map_err(bad)?.ok_or_else(|| {
                let known: Vec<_> = models.names().collect();
                let hint =
                    super::models::near(name, ["host", "max"].into_iter().chain(known.iter().copied()))
                        .map_or_else(|| ",".to_owned(), |n| format!(", did you mean '{n}'?"));
                AccelError::Cpu(format!(
                    "model '{name}' does not exist{hint} expected host, max, {}",
                    known.join(", ")
                ))
            })?),
        };
        let mut kvm_leaves = true;
        let mut phys_bits = None;
        let mut wishes = Vec::new();
        let mut named = model.clone().unwrap_or_default();
        let mut identity_changed = false;
        for (key, value) in &cpu.features {
            let need = || {
                number(value)
                    .ok_or_else(|| AccelError::Cpu(format!("property '{key}': '{value}' is not a number")))
            };
            let switched = || match value.as_str() {
                "on" | "true" | "yes" => Ok(true),
                "off" | "false" | "no" => Ok(false),
                v => Err(AccelError::Cpu(format!("feature '{key}': '{v}' is neither on nor off"))),
            };
            match key.as_str() {
                "family" => named.family = need()?,
                "model" => named.model = need()?,
                "stepping" => named.stepping = need()?,
                "level" => named.level = need()?,
                "xlevel" => named.xlevel = need()?,
                "phys-bits" => phys_bits = Some(need()?),
                "kvm" => kvm_leaves = switched()?,
                "vendor" if value.len() == 12 && value.is_ascii() => named.vendor.clone_from(value),
                "model-id" if value.len() < 48 && value.is_ascii() => named.brand.clone_from(value),
                name if models.feature(name).is_some() => {
                    wishes.push(Wish { name: name.to_owned(), on: switched()? });
                    continue;
                }
                name => {
                    let hint =
                        models.nearest(name).map_or_else(String::new, |n| format!(", did you mean '{n}'?"));
                    return Err(AccelError::Cpu(format!(
                        "feature or property '{name}' does not exist{hint}"
                    )));
                }
            }
            identity_changed |= !matches!(key.as_str(), "phys-bits" | "kvm");
        }
        if let Some(m) = &mut model {
            *m = named;
        } else if identity_changed {
            return Err(AccelError::Cpu(
                "model 'host' keeps the host's identity: vendor, family, model, stepping, level, xlevel and model-id \
                 need a named model"
                    .to_owned(),
            ));
        }

        let mut dropped = Vec::new();
        let mut entries = match &model {
            Some(m) => named_entries(&models, m, &mut offered, &mut dropped),
            None => offered.clone(),
        };
        for Wish { name, on } in wishes {
            let Some(f) = models.feature(&name) else { continue };
            if on && !get(&mut offered, f) {
                dropped.push(name);
            } else {
                set(&mut entries, f, on);
            }
        }
        limit_xsave(&models, &mut entries);
        let amd = vendor(&entries) == "AuthenticAMD";
        let basic = find(&mut entries, 1, 0).map_or(0, |e| e.edx);
        if let Some(e) = find(&mut entries, 0x8000_0001, 0) {
            e.edx = if amd { e.edx | basic & AMD_ALIASES } else { e.edx };
        }
        if let (Some(bits), Some(e)) = (phys_bits, find(&mut entries, 0x8000_0008, 0)) {
            if !(32..=52).contains(&bits) || bits > e.eax & 0xFF {
                return Err(AccelError::Cpu(format!(
                    "property 'phys-bits': expected 32 to {}",
                    e.eax & 0xFF
                )));
            }
            e.eax = e.eax & !0xFF | bits;
        }
        if !kvm_leaves {
            entries.retain(|e| e.function & 0xFFFF_FF00 != 0x4000_0000);
        }
        Ok(Self { entries, dropped })
    }

    /// The entries of one vCPU: APIC identity and topology.
    pub(crate) fn for_vcpu(&self, index: u32, topology: &Topology) -> Vec<kvm_cpuid_entry2> {
        let mut entries = self.entries.clone();
        let apic_id = topology.apic_id(index);
        let amd = vendor(&entries) == "AuthenticAMD";
        let logical = topology.logical(!amd);
        let sharers = |level: u32| topology.sharers(if level >= 3 { Level::Die } else { Level::Core });
        for e in &mut entries {
            let level = e.eax >> 5 & 7;
            match e.function {
                // The levels between cores and packages have a leaf of their own.
                0 if topology.is_deep() && e.eax >= 0xB => e.eax = e.eax.max(0x1F),
                1 => {
                    e.ebx = e.ebx & 0xFFFF | (apic_id & 0xFF) << 24 | logical.unwrap_or(0) << 16;
                    let ht = 1 << 28;
                    e.edx = if logical.is_some() { e.edx | ht } else { e.edx & !ht };
                }
                // Bits 14 to 25: sharers of the cache less one; 26 to 31: cores of the package less one.
                4 if e.eax & 0x1F != 0 => {
                    e.eax = e.eax & 0x3FFF | sharers(level) | topology.core_numbers();
                }
                0x8000_0001 if amd => {
                    let legacy = 1 << 1;
                    e.ecx = if logical.is_some() { e.ecx | legacy } else { e.ecx & !legacy };
                }
                0x8000_0008 => e.ecx = topology.sizes(),
                0x8000_001D if e.eax & 0x1F != 0 => e.eax = e.eax & 0x3FFF | sharers(level),
                0x8000_001E => [e.eax, e.ebx, e.ecx, e.edx] = topology.node(index),
                _ => {}
            }
        }
        if entries.iter().any(|e| e.function == 0 && e.eax >= 0xB) {
            let leaves = [0xB, 0x1F];
            entries.retain(|e| !leaves.contains(&e.function));
            for function in leaves {
                // As many levels as there can be, and the end.
                for subleaf in 0..5 {
                    let [eax, ebx, ecx, edx] = topology.cpuid(function, subleaf, apic_id);
                    entries.push(kvm_cpuid_entry2 {
                        function,
                        index: subleaf,
                        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                        eax,
                        ebx,
                        ecx,
                        edx,
                        ..Default::default()
                    });
                }
            }
        }
        entries
    }
}

/// The host's entries cut down to a named model.
fn named_entries(
    models: &Models,
    model: &Model,
    offered: &mut [kvm_cpuid_entry2],
    dropped: &mut Vec<String>,
) -> Vec<kvm_cpuid_entry2> {
    let mut entries = offered.to_vec();
    // These exist only in virtual machines, or because of how KVM runs; every model has them.
    let always = |name: &str| matches!(name, "hypervisor" | "x2apic" | "tsc-deadline" | "arat");
    for f in &models.features {
        let wanted = model.features.contains(f.name);
        let there = get(offered, f);
        if wanted && !there {
            dropped.push(f.name.to_owned());
        }
        if f.name != "hypervisor" || !there {
            set(&mut entries, f, there && (wanted || always(f.name)));
        }
    }
    // Words without a named bit, and bits without a name, are not part of the model.
    for e in &mut entries {
        for r in [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx] {
            let named: u32 = models
                .features
                .iter()
                .filter(|f| f.leaf == e.function && f.subleaf == e.index && f.register == r)
                .fold(0, |m, f| m | 1 << f.bit);
            // Leaf 1 EBX and leaf 0x80000008 EAX are not flags; a register without names is left to its leaf.
            if named != 0 {
                *register(e, r) &= named;
            }
        }
    }
    let level = model.level;
    let xlevel = model.xlevel;
    entries.retain(|e| match e.function >> 16 {
        0 => e.function <= level,
        0x8000 => e.function <= xlevel,
        _ => true,
    });
    let text = |s: &str, at: usize| {
        let mut b = [0u8; 4];
        for (d, c) in b.iter_mut().zip(s.bytes().skip(at)) {
            *d = c;
        }
        u32::from_le_bytes(b)
    };
    for leaf in [0x8000_0002u32, 0x8000_0003, 0x8000_0004] {
        if find(&mut entries, leaf, 0).is_none() && xlevel >= leaf {
            entries.push(kvm_cpuid_entry2 { function: leaf, ..Default::default() });
        }
    }
    for e in &mut entries {
        match e.function {
            0 => {
                e.eax = level;
                (e.ebx, e.edx, e.ecx) =
                    (text(&model.vendor, 0), text(&model.vendor, 4), text(&model.vendor, 8));
            }
            1 => {
                let (family, extended) =
                    if model.family > 15 { (15, model.family - 15) } else { (model.family, 0) };
                e.eax = model.stepping & 0xF
                    | (model.model & 0xF) << 4
                    | family << 8
                    | (model.model >> 4 & 0xF) << 16
                    | (extended & 0xFF) << 20;
            }
            0x8000_0000 => e.eax = xlevel,
            0x8000_0001 => e.eax = 0,
            0x8000_0002..=0x8000_0004 => {
                let at = (e.function - 0x8000_0002) as usize * 16;
                (e.eax, e.ebx) = (text(&model.brand, at), text(&model.brand, at + 4));
                (e.ecx, e.edx) = (text(&model.brand, at + 8), text(&model.brand, at + 12));
            }
            _ => {}
        }
    }
    entries
}

/// Leaf 13 shows only the state components of features that are left.
fn limit_xsave(models: &Models, entries: &mut [kvm_cpuid_entry2]) {
    let has =
        |name: &str, entries: &mut [kvm_cpuid_entry2]| models.feature(name).is_some_and(|f| get(entries, f));
    if !has("xsave", entries) {
        for e in entries.iter_mut().filter(|e| e.function == 13) {
            (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0);
        }
        for name in ["avx", "avx2", "fma", "f16c", "avx512f", "pku"] {
            if let Some(f) = models.feature(name) {
                set(entries, f, false);
            }
        }
        return;
    }
    let mut mask = 3u32;
    for (name, bits) in [("avx", 1 << 2), ("avx512f", 7 << 5), ("pku", 1 << 9), ("amx-tile", 3 << 17)] {
        if has(name, entries) {
            mask |= bits;
        }
    }
    for e in entries.iter_mut().filter(|e| e.function == 13) {
        match e.index {
            0 => {
                e.eax &= mask;
                e.edx = 0;
            }
            1 => {}
            n if n < 32 && mask & 1 << n == 0 => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<kvm_cpuid_entry2> {
        let e = |function, index, flags, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            index,
            flags,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        vec![
            e(0, 0, 0, 0x1C, 0x756E_6547, 0x6C65_746E, 0x4965_6E69),
            e(1, 0, 0, 0xC_06F2, 0, 0x8120_2001, 0x0F8B_FBFF),
            e(4, 3, 1, 0x0400_4163, 0, 0, 0),
            e(7, 0, 1, 2, 0x0180_2852, 0, 0),
            e(13, 0, 1, 0xE7, 0xA80, 0xA80, 0),
            e(13, 2, 1, 0x100, 0x240, 0, 0),
            e(0x4000_0000, 0, 0, 0x4000_0001, 0, 0, 0),
            e(0x8000_0000, 0, 0, 0x8000_0021, 0, 0, 0),
            e(0x8000_0001, 0, 0, 0, 0, 0x101, 0x2010_0800),
            e(0x8000_0008, 0, 0, 0x3930, 0, 0, 0),
        ]
    }

    fn build(name: &str, features: &[(&str, &str)]) -> Result<Template, AccelError> {
        let features = features.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let cpu = CpuModel { name: name.to_owned(), features };
        Template::build(&host(), &cpu, Apics::Kvm { deadline_timer: true })
    }

    #[test]
    fn a_named_model_shows_its_identity_and_no_more_than_kvm_has() {
        let t = build("EPYC", &[]).unwrap();
        assert!(t.dropped.iter().any(|d| d == "avx2"), "{:?}", t.dropped);
        assert!(!t.dropped.iter().any(|d| d == "lm"));
        let mut e = t.for_vcpu(2, &Topology::flat(4));
        assert_eq!(vendor(&e), "AuthenticAMD");
        let one = *find(&mut e, 1, 0).unwrap();
        assert_eq!(one.eax, 0x80_0F12);
        assert_eq!(one.ebx >> 24, 2);
        assert_eq!(one.ecx & !host()[1].ecx & !(1 << 21 | 1 << 24), 0);
        assert_eq!(find(&mut e, 7, 0).unwrap().ebx & !0x0180_2852, 0);
        let brand: Vec<u8> = (0x8000_0002..=0x8000_0004u32)
            .flat_map(|l| {
                let x = *find(&mut e, l, 0).unwrap();
                [x.eax, x.ebx, x.ecx, x.edx].into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>()
            })
            .collect();
        assert!(brand.starts_with(b"AMD EPYC Processor\0"));
        let topology = *find(&mut e, 0xB, 1).unwrap();
        assert_eq!((topology.eax, topology.ebx, topology.edx), (2, 4, 2));
        assert_eq!((one.ebx >> 16 & 0xFF, find(&mut e, 0x1F, 0).unwrap().ebx), (4, 0));
    }

    #[test]
    fn a_vcpu_is_where_the_topology_says() {
        let deep = Topology { sockets: 2, dies: 2, modules: 1, cores: 3, threads: 2 };
        let mut e = build("Haswell", &[]).unwrap().for_vcpu(12, &deep);
        assert_eq!(find(&mut e, 0, 0).unwrap().eax, 0x1F);
        assert_eq!(find(&mut e, 1, 0).unwrap().ebx >> 16, 16 << 8 | 16);
        let die = *find(&mut e, 0x1F, 2).unwrap();
        assert_eq!((die.eax, die.ebx, die.ecx, die.edx), (4, 12, 0x502, 16));
        // Eight numbers of APICs in a die share the last cache, eight cores may be in a package.
        assert_eq!(find(&mut e, 4, 3).unwrap().eax >> 14, 7 << 12 | 7);
    }

    #[test]
    fn features_are_added_taken_away_and_refused() {
        let mut e =
            build("host", &[("smep", "off"), ("x2apic", "off")]).unwrap().for_vcpu(0, &Topology::flat(1));
        assert_eq!(find(&mut e, 7, 0).unwrap().ebx & 1 << 7, 0);
        assert_eq!(find(&mut e, 1, 0).unwrap().ecx & 1 << 21, 0);
        assert_eq!(build("qemu64", &[("avx512f", "on")]).unwrap().dropped, ["avx512f"]);
        let error = |r: Result<Template, AccelError>| r.err().unwrap().to_string();
        assert!(error(build("host", &[("avx3", "on")])).contains("did you mean 'avx"));
        assert!(error(build("host", &[("smep", "perhaps")])).contains("neither on nor off"));
        assert!(error(build("Elbrus", &[])).contains("model 'Elbrus' does not exist, expected host, max"));
        assert!(error(build("EPIC", &[])).contains("did you mean 'EPYC'? expected host, max"));
        assert!(
            error(build("host", &[("svm", "on")])).contains("feature 'svm': SVM guests inside of a guest")
        );
        assert!(error(build("host", &[("family", "6")])).contains("named model"));
        assert!(build("host", &[("phys-bits", "60")]).is_err());
    }
}
