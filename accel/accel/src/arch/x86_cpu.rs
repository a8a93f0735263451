//! What `-cpu` asks for on x86, the same for every accelerator: a model, features switched by name, and properties.
//!
//! Names are those of QEMU's documentation (`docs/system/cpu-models-x86.rst.inc`, `-cpu help`), with its older spellings. A property
//! that Rhea has no choice for is taken where its value says what is so anyway, and refused otherwise.

use super::x86_models::{Model, Models, near, number};
use crate::{AccelError, CpuModel};

/// The models that are no rows of the file: what the accelerator and the host offer.
const WHOLE: [&str; 2] = ["max", "host"];

/// Other names of features.
const ALIASES: &[(&str, &str)] = &[
    ("pni", "sse3"),
    ("pclmuldq", "pclmulqdq"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("xd", "nx"),
    ("i64", "lm"),
    ("ffxsr", "fxsr-opt"),
];

/// Properties without a choice, with the value that holds.
const FIXED: &[(&str, &str)] = &[
    ("pmu", "off"),
    ("lmce", "off"),
    ("l3-cache", "on"),
    ("legacy-cache", "on"),
    ("fill-mtrr-mask", "on"),
    ("cpuid-0xb", "on"),
    ("vmware-cpuid-freq", "off"),
    ("tcg-cpuid", "off"),
    ("start-powered-off", "off"),
    ("hv-passthrough", "off"),
];

/// Features of named processors that a virtual machine does without and nobody expects: no accelerator tells that it lacks them.
pub const UNSPOKEN: [&str; 2] = ["acpi", "monitor"];

/// What becomes of features that the accelerator does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// They are left out without a word.
    Quiet,
    /// They are left out, and named once.
    #[default]
    Tell,
    /// The machine is not made.
    Enforce,
}

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The row of the file with its properties changed; `None`: all that there is.
    pub model: Option<Model>,
    /// Features switched by name, in order.
    pub switched: Vec<(&'static str, bool)>,
    /// Bits of physical addresses.
    pub phys_bits: Option<u32>,
    /// Whether the hypervisor says that it is one with KVM's interface.
    pub kvm: bool,
    /// Frequency of the time stamp counter in kHz.
    pub tsc_khz: Option<u32>,
    /// What becomes of missing features.
    pub check: Check,
}

/// A name as it stands in the tables.
fn canonical(name: &str) -> String {
    let name = name.replace('_', "-");
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, n)| (*n).to_owned())
}

fn problem(text: String) -> AccelError {
    AccelError::Cpu(text)
}

fn switch(key: &str, value: &str) -> Result<bool, AccelError> {
    match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        v => Err(problem(format!("feature '{key}': '{v}' is neither on nor off"))),
    }
}

/// A frequency in hertz, with a suffix of the decimal kind, in kHz.
fn khz(value: &str) -> Option<u32> {
    let (digits, unit) = match value.as_bytes().last()? {
        b'k' | b'K' => (&value[..value.len() - 1], 1_000),
        b'M' => (&value[..value.len() - 1], 1_000_000),
        b'G' => (&value[..value.len() - 1], 1_000_000_000),
        _ => (value, 1),
    };
    let hz = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    u32::try_from(hz / 1000).ok().filter(|khz| *khz != 0)
}

impl Wanted {
    /// Reads `cpu`; without a name it is `default`.
    ///
    /// # Errors
    /// An unknown model, feature or property, or a value that cannot be.
    pub fn new(models: &Models, cpu: &CpuModel, default: &str) -> Result<Self, AccelError> {
        let name = if cpu.name.is_empty() { default } else { &cpu.name };
        let model = if WHOLE.contains(&name) { None } else { Some(named(models, name)?) };
        let mut wanted = Self { model, kvm: true, ..Self::default() };
        let mut identity = wanted.model.clone().unwrap_or_default();
        let mut changed = false;
        for (key, value) in &cpu.features {
            let need = || {
                number(value).ok_or_else(|| problem(format!("property '{key}': '{value}' is not a number")))
            };
            let key = canonical(key);
            match key.as_str() {
                "family" => identity.family = need()?,
                "model" => identity.model = need()?,
                "stepping" => identity.stepping = need()?,
                "level" => identity.level = need()?,
                "xlevel" => identity.xlevel = need()?,
                "min-level" => identity.level = identity.level.max(need()?),
                "min-xlevel" => identity.xlevel = identity.xlevel.max(need()?),
                "vendor" if value.len() == 12 && value.is_ascii() => identity.vendor.clone_from(value),
                "model-id" if value.len() <= 48 && value.is_ascii() => identity.brand.clone_from(value),
                _ => {
                    wanted.property(models, &key, value)?;
                    continue;
                }
            }
            changed = true;
        }
        match &mut wanted.model {
            Some(model) => *model = identity,
            None if changed => {
                return Err(problem(format!(
                    "model '{name}' keeps the host's identity: vendor, family, model, stepping, level, xlevel and \
                     model-id need a named model"
                )));
            }
            None => {}
        }
        Ok(wanted)
    }

    /// Everything but the identity.
    fn property(&mut self, models: &Models, key: &str, value: &str) -> Result<(), AccelError> {
        if let Some(feature) = models.feature(key) {
            self.switched.push((feature.name, switch(key, value)?));
            return Ok(());
        }
        match key {
            "phys-bits" => match number(value) {
                // Zero is the accelerator's own number.
                Some(0) => self.phys_bits = None,
                Some(n @ 32..=52) => self.phys_bits = Some(n),
                _ => return Err(problem(format!("property 'phys-bits' is {value}, expected 32 to 52"))),
            },
            "host-phys-bits" => {
                if switch(key, value)? {
                    self.phys_bits = None;
                }
            }
            "tsc-frequency" => {
                let text =
                    || problem(format!("property 'tsc-frequency': '{value}' is no frequency in hertz"));
                self.tsc_khz = if value == "0" { None } else { Some(khz(value).ok_or_else(text)?) };
            }
            "kvm" => self.kvm = switch(key, value)?,
            "check" => {
                let on = switch(key, value)?;
                if self.check != Check::Enforce {
                    self.check = if on { Check::Tell } else { Check::Quiet };
                }
            }
            "enforce" if switch(key, value)? => self.check = Check::Enforce,
            "enforce" => {}
            // What a machine could not be migrated with.
            "migratable" if switch(key, value)? && self.model.is_none() => {
                self.switched.push(("invtsc", false));
            }
            "migratable" => {}
            name => match FIXED.iter().find(|(n, _)| *n == name) {
                Some((_, holds)) if switch(name, value)? == (*holds == "on") => {}
                Some((_, holds)) => {
                    return Err(problem(format!(
                        "property '{name}': '{value}' is not possible, expected {holds}"
                    )));
                }
                None => {
                    let hint =
                        models.nearest(name).map_or(String::new(), |n| format!(", did you mean '{n}'?"));
                    return Err(problem(format!("has no property or feature '{name}'{hint}")));
                }
            },
        }
        Ok(())
    }

    /// What to do about features that `accel` lacks: the line for the log, if there is one.
    ///
    /// # Errors
    /// They are not to be left out.
    pub fn missing(&self, accel: &str, missing: &[String]) -> Result<Option<String>, AccelError> {
        if missing.is_empty() || self.check == Check::Quiet {
            return Ok(None);
        }
        let name = self.model.as_ref().map_or("max", |m| &m.name);
        let line = format!("model '{name}': accelerator {accel} does not have {}", missing.join(", "));
        if self.check == Check::Enforce {
            return Err(problem(line));
        }
        Ok(Some(format!("cpu {line}")))
    }
}

fn named(models: &Models, name: &str) -> Result<Model, AccelError> {
    let found = models.model(name).map_err(|e| problem(format!("model file: {e}")))?;
    found.ok_or_else(|| {
        let hint = near(name, WHOLE.into_iter().chain(models.names()));
        let hint = hint.map_or(String::new(), |n| format!(", did you mean '{n}'?"));
        // Versions and other names would make the line a page.
        let known: Vec<_> = models.names().filter(|n| !is_version(n)).collect();
        problem(format!("model '{name}' does not exist{hint}; there are max, host, {}", known.join(", ")))
    })
}

/// Whether a name is that of a later version of a model, or another name of one.
fn is_version(name: &str) -> bool {
    let without = name.ends_with("-IBRS") || name.ends_with("-noTSX") || name.ends_with("-IBPB");
    without
        || name
            .rsplit_once("-v")
            .is_some_and(|(stem, n)| !stem.starts_with("x86-64") && n.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, features: &[(&str, &str)]) -> Result<Wanted, String> {
        let features = features.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let cpu = CpuModel { name: name.to_owned(), features };
        Wanted::new(&Models::built_in().unwrap(), &cpu, "qemu64").map_err(|e| e.to_string())
    }

    #[test]
    fn names_and_spellings_of_long_ago_are_known() {
        let name = |n: &str| wanted(n, &[]).unwrap().model.unwrap().name;
        assert_eq!(name(""), "qemu64");
        assert_eq!(
            (name("Haswell-v1"), name("Haswell-noTSX-IBRS")),
            ("Haswell".to_owned(), "Haswell-v4".to_owned())
        );
        assert_eq!(name("x86-64-v3"), "x86-64-v3");
        assert!(wanted("max", &[]).unwrap().model.is_none());
        let w = wanted("qemu64", &[("sse4_1", "on"), ("pni", "off"), ("lahf_lm", "yes")]).unwrap();
        let names = [("sse4.1", true), ("sse3", false), ("lahf-lm", true)];
        assert_eq!(w.switched, names);
    }

    #[test]
    fn properties_are_read_and_those_without_a_choice_refused() {
        let w = wanted("EPYC", &[("model-id", "Mine"), ("tsc-frequency", "2.5G")]).unwrap_err();
        assert!(w.contains("'2.5G' is no frequency"), "{w}");
        let w = wanted(
            "EPYC",
            &[("model-id", "Mine"), ("tsc-frequency", "2500M"), ("kvm", "off"), ("pmu", "off")],
        );
        let w = w.unwrap();
        assert_eq!((w.tsc_khz, w.kvm, w.model.unwrap().brand.as_str()), (Some(2_500_000), false, "Mine"));
        for (name, key, value, text) in [
            ("EPYC", "pmu", "on", "'pmu': 'on' is not possible, expected off"),
            ("EPYC", "phys-bits", "60", "expected 32 to 52"),
            ("EPYC", "avx3", "on", "no property or feature 'avx3', did you mean 'avx"),
            ("EPYC", "sse3", "perhaps", "neither on nor off"),
            ("EPYC", "family", "old", "'old' is not a number"),
            ("host", "family", "6", "need a named model"),
            ("EPIC", "avx", "on", "did you mean 'EPYC'?; there are max, host, qemu64"),
        ] {
            let e = wanted(name, &[(key, value)]).unwrap_err();
            assert!(e.contains(text), "{e}");
            assert!(e.len() < 600 && !e.contains('\n'), "{e}");
        }
    }

    #[test]
    fn what_is_missing_is_told_refused_or_passed_over() {
        let lacking = ["rtm".to_owned(), "hle".to_owned()];
        let told =
            |properties: &[(&str, &str)]| wanted("Haswell", properties).unwrap().missing("tcg", &lacking);
        let line = "model 'Haswell': accelerator tcg does not have rtm, hle";
        assert_eq!(told(&[]).unwrap().unwrap(), format!("cpu {line}"));
        assert_eq!(told(&[("check", "off")]).unwrap(), None);
        let e = told(&[("enforce", "on"), ("check", "off")]).unwrap_err().to_string();
        assert!(e.contains(line), "{e}");
        assert_eq!(wanted("Haswell", &[("enforce", "on")]).unwrap().missing("tcg", &[]).unwrap(), None);
    }
}
