//! x86 CPU models and feature names, from `resources/cpu`: data that every accelerator shows its guests from.
//!
//! Both files are lines of text. Features: `leaf.subleaf.register name name ...`, names for bits 0, 1, 2 and so
//! on. Models: sections of `key = value`.

use std::collections::BTreeSet;

const FEATURES: &str = include_str!("../../../../resources/cpu/x86_features.txt");
const MODELS: &str = include_str!("../../../../resources/cpu/x86_models.txt");

/// A CPUID output register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// Where a feature bit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Name.
    pub name: &'static str,
    /// Leaf.
    pub leaf: u32,
    /// Subleaf.
    pub subleaf: u32,
    /// Register.
    pub register: Register,
    /// Bit.
    pub bit: u32,
}

/// A named CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Name.
    pub name: String,
    /// One line about it.
    pub about: String,
    /// Vendor, 12 characters.
    pub vendor: String,
    /// Family.
    pub family: u32,
    /// Model number.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// Brand string.
    pub brand: String,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf.
    pub xlevel: u32,
    /// Names of its features.
    pub features: BTreeSet<&'static str>,
}

/// What stands under the name of a model.
#[derive(Debug, Default)]
struct Section {
    name: &'static str,
    /// Its lines, with their numbers.
    lines: Vec<(usize, &'static str)>,
}

/// Both files. A model is put together when it is asked for: one is needed of many, and most build on others.
#[derive(Debug)]
pub struct Models {
    /// All features.
    pub features: Vec<Feature>,
    sections: Vec<Section>,
}

/// A number, decimal or with `0x`.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn lines(text: &'static str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines()
        .map(str::trim)
        .zip(1..)
        .filter(|(l, _)| !l.is_empty() && !l.starts_with('#'))
        .map(|(l, n)| (n, l))
}

impl Models {
    /// The files that are part of the program.
    pub fn built_in() -> Result<Self, String> {
        Self::of(FEATURES, MODELS)
    }

    fn of(features: &'static str, models: &'static str) -> Result<Self, String> {
        let mut sections: Vec<Section> = Vec::new();
        for (n, line) in lines(models) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                sections.push(Section { name, ..Section::default() });
                continue;
            }
            let section = sections.last_mut().ok_or(format!("line {n}: no [section] yet"))?;
            section.lines.push((n, line));
        }
        Ok(Self { features: parse_features(features)?, sections })
    }

    /// Names of all models.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.sections.iter().map(|s| s.name)
    }

    /// All models.
    pub fn list(&self) -> Result<Vec<Model>, String> {
        (0..self.sections.len()).map(|i| self.resolve(i)).collect()
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Result<Option<Model>, String> {
        self.sections.iter().position(|s| s.name == name).map(|i| self.resolve(i)).transpose()
    }

    /// A model, on top of those it builds on, which stand above it.
    fn resolve(&self, index: usize) -> Result<Model, String> {
        let section = &self.sections[index];
        let mut model = Model { name: section.name.to_owned(), ..Model::default() };
        for (n, line) in &section.lines {
            let (key, value) = line
                .split_once('=')
                .map(|(k, v)| (k.trim(), v.trim()))
                .ok_or(format!("line {n}: expected ="))?;
            let value_number = || number(value).ok_or(format!("line {n}: {value} is not a number"));
            match key {
                "about" => model.about = value.to_owned(),
                "base" => {
                    let above = self.sections[..index].iter().position(|s| s.name == value);
                    let base = self.resolve(above.ok_or(format!("line {n}: no model {value} above"))?)?;
                    model = Model { name: model.name, about: model.about, ..base };
                }
                "vendor" if value.len() == 12 => model.vendor = value.to_owned(),
                "family" => model.family = value_number()?,
                "model" => model.model = value_number()?,
                "stepping" => model.stepping = value_number()?,
                "name" if value.len() < 48 => model.brand = value.to_owned(),
                "level" => model.level = value_number()?,
                "xlevel" => model.xlevel = value_number()?,
                "features" => {
                    for word in value.split_whitespace() {
                        let (name, on) = word.strip_prefix('-').map_or((word, true), |w| (w, false));
                        if self.feature(name).is_none() {
                            return Err(format!("line {n}: no feature {name}"));
                        }
                        if on {
                            model.features.insert(name);
                        } else {
                            model.features.remove(name);
                        }
                    }
                }
                _ => return Err(format!("line {n}: bad key or value: {key}")),
            }
        }
        Ok(model)
    }

    /// The feature of that name.
    #[must_use]
    pub fn feature(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|f| f.name == name)
    }

    /// The known feature whose name is most like `name`.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&str> {
        near(name, self.features.iter().map(|f| f.name))
    }
}

/// The one of `known` that is most like `name`, if any is.
pub fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.map(|n| (distance(n, name), n)).min().filter(|(d, _)| *d <= 2).map(|(_, n)| n)
}

/// Edits needed to turn one name into another.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

fn parse_features(text: &'static str) -> Result<Vec<Feature>, String> {
    let mut out: Vec<Feature> = Vec::new();
    for (n, line) in lines(text) {
        let mut words = line.split_whitespace();
        let place: Vec<_> = words.next().unwrap_or_default().split('.').collect();
        let [leaf, subleaf, register] = place[..] else {
            return Err(format!("line {n}: expected leaf.subleaf.register"));
        };
        let (Some(leaf), Some(subleaf)) = (number(leaf), number(subleaf)) else {
            return Err(format!("line {n}: leaf and subleaf are numbers"));
        };
        let register = match register {
            "eax" => Register::Eax,
            "ebx" => Register::Ebx,
            "ecx" => Register::Ecx,
            "edx" => Register::Edx,
            r => return Err(format!("line {n}: no register {r}")),
        };
        for (name, bit) in words.zip(0..).filter(|(w, _)| *w != "-") {
            if bit > 31 {
                return Err(format!("line {n}: more than 32 bits"));
            }
            if out.iter().any(|f| f.name == name) {
                return Err(format!("line {n}: feature {name} appears twice"));
            }
            out.push(Feature { name, leaf, subleaf, register, bit });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_sound() {
        let m = Models::built_in().unwrap();
        let list = m.list().unwrap();
        assert!(list.len() > 15 && m.names().eq(list.iter().map(|l| l.name.as_str())));
        for model in &list {
            assert_eq!(model.vendor.len(), 12, "{}", model.name);
            assert!(model.level >= 1 && model.features.contains("fpu") && !model.about.is_empty());
            if model.features.contains("lm") {
                assert!(model.level >= 7 && model.xlevel >= 0x8000_0008, "{}", model.name);
            }
            assert_eq!(model.xlevel == 0, model.brand.is_empty(), "{}", model.name);
        }
        let avx2 = m.feature("avx2").unwrap();
        assert_eq!((avx2.leaf, avx2.subleaf, avx2.register, avx2.bit), (7, 0, Register::Ebx, 5));
        let hypervisor = m.feature("hypervisor").unwrap();
        assert_eq!((hypervisor.leaf, hypervisor.register, hypervisor.bit), (1, Register::Ecx, 31));
        assert_eq!(m.feature("pbe").unwrap().bit, 31);
        assert_eq!(m.feature("lm").unwrap().bit, 29);
        assert_eq!(m.feature("ssbd").unwrap().bit, 31);
        assert_eq!(m.feature("avx512vl").unwrap().bit, 31);
        assert_eq!(m.feature("rdpid").unwrap().bit, 22);
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(parse_features("# x\n1.0.xyz a").unwrap_err(), "line 2: no register xyz");
        assert!(parse_features("1.0.ecx a a").unwrap_err().contains("twice"));
        let models = |text| Models::of("1.0.ecx a b", text).and_then(|m| m.list());
        assert_eq!(models("[m]\nfeatures = a c").unwrap_err(), "line 2: no feature c");
        assert_eq!(models("[m]\nbase = n\n[n]").unwrap_err(), "line 2: no model n above");
        assert!(models("a = b").unwrap_err().contains("section"));
        let m = models("[m]\nfeatures = a b\n[n]\nbase = m\nfeatures = -a").unwrap();
        assert_eq!(m[1].features.iter().collect::<Vec<_>>(), [&"b"]);
    }

    #[test]
    fn a_near_name_is_found() {
        let m = Models::built_in().unwrap();
        assert_eq!(m.nearest("avx512ff"), Some("avx512f"));
        assert_eq!(m.nearest("complete-nonsense"), None);
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")), (3, 2, 0));
    }
}
