//! CPU models and their properties: which extensions a hart has.
//!
//! Names of extensions and what one implies follow volume I of the manual and the RVA profiles. A property is an
//! extension's name (`zba=off`, `+zbb`), or one of the few numbers at the end of this file.

/// One extension a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ext(u64);

impl Ext {
    /// No extension.
    pub const NONE: Self = Self(0);

    /// True if all of `other` are there.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if one of `other` is there.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

macro_rules! extensions {
    ($($konst:ident $name:literal $bit:literal $implies:expr;)*) => {
        impl Ext {
            $(#[doc = concat!("The `", $name, "` extension.")] pub const $konst: Self = Self(1 << $bit);)*
        }

        /// Every extension: its name, itself, and what it cannot be without.
        pub const EXTENSIONS: &[(&str, Ext, Ext)] = &[$(($name, Ext::$konst, $implies),)*];
    };
}

extensions! {
    M "m" 0 Ext::NONE;
    A "a" 1 Ext::NONE;
    F "f" 2 Ext::ZICSR;
    D "d" 3 Ext::F;
    C "c" 4 Ext::NONE;
    S "s" 5 Ext::U;
    U "u" 6 Ext::ZICSR;
    V "v" 7 Ext::D;
    ZICSR "zicsr" 8 Ext::NONE;
    ZIFENCEI "zifencei" 9 Ext::NONE;
    ZICNTR "zicntr" 10 Ext::ZICSR;
    ZIHPM "zihpm" 11 Ext::ZICSR;
    ZICOND "zicond" 12 Ext::NONE;
    ZAWRS "zawrs" 13 Ext::A;
    ZIHINTPAUSE "zihintpause" 14 Ext::NONE;
    ZICBOM "zicbom" 15 Ext::NONE;
    ZICBOZ "zicboz" 16 Ext::NONE;
    ZFHMIN "zfhmin" 17 Ext::F;
    ZFH "zfh" 18 Ext::ZFHMIN;
    ZBA "zba" 19 Ext::NONE;
    ZBB "zbb" 20 Ext::NONE;
    ZBC "zbc" 21 Ext::NONE;
    ZBS "zbs" 22 Ext::NONE;
    ZCB "zcb" 23 Ext::C;
    SSTC "sstc" 24 Ext::S;
    SVADU "svadu" 25 Ext::S;
    SVPBMT "svpbmt" 26 Ext::S;
    SVINVAL "svinval" 27 Ext::S;
    SVNAPOT "svnapot" 28 Ext::S;
    SDTRIG "sdtrig" 29 Ext::ZICSR;
}

/// Deepest page tables a hart can walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Paging {
    /// No translation.
    Bare,
    /// Two levels of 4 byte entries (RV32).
    Sv32,
    /// Three levels (RV64).
    Sv39,
    /// Four levels.
    Sv48,
    /// Five levels.
    Sv57,
}

const PAGING: [(&str, Paging); 5] = [
    ("bare", Paging::Bare),
    ("sv32", Paging::Sv32),
    ("sv39", Paging::Sv39),
    ("sv48", Paging::Sv48),
    ("sv57", Paging::Sv57),
];

/// What one kind of hart is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// 32 or 64.
    pub xlen: u32,
    /// Extensions.
    pub ext: Ext,
    /// Deepest page tables.
    pub paging: Paging,
    /// PMP entries: 0, 16 or 64.
    pub pmp: usize,
    /// Bytes of a vector register, for V.
    pub vlenb: u32,
    /// Bytes of a cache block, for Zicbom and Zicboz.
    pub cbo_block: u64,
    /// The hart runs a program without a kernel: ecall and fence.i leave to what stands in for it.
    pub program: bool,
}

/// A named CPU model.
struct Model {
    name: &'static str,
    about: &'static str,
    xlen: &'static [u32],
    ext: Ext,
}

/// The general-purpose set: IMAFDC with privilege, timers and counters.
const GENERAL: Ext = Ext::M
    .with(Ext::A)
    .with(Ext::F)
    .with(Ext::D)
    .with(Ext::C)
    .with(Ext::S)
    .with(Ext::U)
    .with(Ext::ZICSR)
    .with(Ext::ZIFENCEI)
    .with(Ext::ZICNTR)
    .with(Ext::ZIHPM);

/// What the generic models add: all that is implemented, without V.
const MODERN: Ext = GENERAL
    .with(Ext::ZICOND)
    .with(Ext::ZAWRS)
    .with(Ext::ZIHINTPAUSE)
    .with(Ext::ZICBOM)
    .with(Ext::ZICBOZ)
    .with(Ext::ZFHMIN)
    .with(Ext::ZFH)
    .with(Ext::ZBA)
    .with(Ext::ZBB)
    .with(Ext::ZBC)
    .with(Ext::ZBS)
    .with(Ext::ZCB)
    .with(Ext::SSTC)
    .with(Ext::SVADU)
    .with(Ext::SVPBMT)
    .with(Ext::SVINVAL)
    .with(Ext::SVNAPOT)
    .with(Ext::SDTRIG);

const MODELS: &[Model] = &[
    Model { name: "rv64", about: "generic 64-bit hart", xlen: &[64], ext: MODERN },
    Model { name: "rv32", about: "generic 32-bit hart", xlen: &[32], ext: MODERN },
    Model { name: "max", about: "everything that is implemented", xlen: &[32, 64], ext: MODERN.with(Ext::V) },
    Model {
        name: "rv64gc",
        about: "64-bit hart with G, C and privilege only",
        xlen: &[64],
        ext: GENERAL.with(Ext::SDTRIG),
    },
    Model {
        name: "rv64i",
        about: "64-bit hart with the base instructions only",
        xlen: &[64],
        ext: Ext::ZICSR,
    },
    Model {
        name: "rv32i",
        about: "32-bit hart with the base instructions only",
        xlen: &[32],
        ext: Ext::ZICSR,
    },
];

/// Extensions that translation implements; the others exist as names and are refused.
const IMPLEMENTED: Ext = MODERN.with(Ext::V);

/// Models for a width, the default first, with a line about each.
#[must_use]
pub fn models(xlen: u32) -> Vec<(String, String)> {
    MODELS
        .iter()
        .filter(|m| m.xlen.contains(&xlen))
        .map(|m| (m.name.to_owned(), m.about.to_owned()))
        .collect()
}

impl Cpu {
    /// The model `name` (empty: the default) of width `xlen` with `features` applied in order.
    ///
    /// # Errors
    /// One line that names the unknown model, property or value and what is known.
    pub fn new(xlen: u32, name: &str, features: &[(String, String)]) -> Result<Self, String> {
        let mut known = MODELS.iter().filter(|m| m.xlen.contains(&xlen));
        let model = match name {
            "" => known.next(),
            name => known.find(|m| m.name == name),
        };
        let Some(model) = model else {
            let names: Vec<_> = models(xlen).into_iter().map(|m| m.0).collect();
            return Err(format!(
                "model '{name}' is unknown for rv{xlen}, expected one of {}",
                names.join(", ")
            ));
        };
        let paging = match (model.ext.has(Ext::S), xlen) {
            (false, _) => Paging::Bare,
            (true, 32) => Paging::Sv32,
            (true, _) => Paging::Sv57,
        };
        let mut cpu =
            Self { xlen, ext: model.ext, paging, pmp: 16, vlenb: 16, cbo_block: 64, program: false };
        for (key, value) in features {
            cpu.set(key, value)?;
        }
        cpu.check()?;
        Ok(cpu)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = |allowed: &[u64]| {
            let n = value.parse().ok().filter(|n| allowed.contains(n));
            n.ok_or_else(|| format!("property '{key}': '{value}' is not one of {allowed:?}"))
        };
        match key {
            "vlen" => self.vlenb = number(&[128, 256, 512, 1024])? as u32 / 8,
            // The only ELEN of V.
            "elen" => _ = number(&[64])?,
            "cbom_blocksize" | "cboz_blocksize" => self.cbo_block = number(&[32, 64, 128, 256])?,
            "pmp" => {
                self.pmp = match value {
                    "on" => 16,
                    "off" => 0,
                    _ => number(&[0, 16, 64])? as usize,
                }
            }
            "mmu" => return self.set_mmu(on_off(key, value)?),
            _ => {
                let on = on_off(key, value)?;
                if let Some((_, mode)) = PAGING.iter().find(|(name, _)| *name == key) {
                    return self.set_paging(*mode, on);
                }
                let Some((_, ext, _)) = EXTENSIONS.iter().find(|(name, ..)| *name == key) else {
                    return Err(format!("property '{key}' is unknown{}", nearest(key)));
                };
                self.ext = if on { self.ext.with(*ext) } else { self.ext.without(*ext) };
            }
        }
        Ok(())
    }

    fn set_mmu(&mut self, on: bool) -> Result<(), String> {
        self.paging = match (on, self.xlen) {
            (false, _) => Paging::Bare,
            (true, 32) => Paging::Sv32,
            (true, _) => Paging::Sv57,
        };
        Ok(())
    }

    /// `sv48=on` and `sv57=off` both make Sv48 the deepest.
    fn set_paging(&mut self, mode: Paging, on: bool) -> Result<(), String> {
        if (mode == Paging::Sv32) != (self.xlen == 32) && mode != Paging::Bare {
            return Err(format!("property: {mode:?} does not exist on rv{}", self.xlen));
        }
        if on {
            self.paging = self.paging.max(mode);
        } else {
            let below = match mode {
                Paging::Sv57 => Paging::Sv48,
                Paging::Sv48 => Paging::Sv39,
                _ => Paging::Bare,
            };
            self.paging = self.paging.min(below);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        for (name, ext, implies) in EXTENSIONS {
            if !self.ext.has(*ext) {
                continue;
            }
            if !IMPLEMENTED.has(*ext) {
                return Err(format!("property '{name}': this extension is not implemented"));
            }
            if let Some((missing, ..)) =
                EXTENSIONS.iter().find(|(_, e, _)| implies.has(*e) && !self.ext.has(*e))
            {
                return Err(format!("property '{name}=on' needs '{missing}=on'"));
            }
        }
        Ok(())
    }

    /// `misa` of this hart.
    #[must_use]
    pub fn misa(&self) -> u64 {
        let mxl = if self.xlen == 32 { 1 << 30 } else { 2 << 62 };
        let mut misa = mxl | 1 << (b'i' - b'a');
        for (name, ext, _) in EXTENSIONS {
            if let [letter] = name.as_bytes()
                && self.ext.has(*ext)
            {
                misa |= 1 << (letter - b'a');
            }
        }
        misa
    }

    /// The ISA string of the device tree, such as `rv64imafdc_zicsr_...`.
    #[must_use]
    pub fn isa_string(&self) -> String {
        let mut text = format!("rv{}i", self.xlen);
        for letter in ["m", "a", "f", "d", "c", "v"] {
            if EXTENSIONS.iter().any(|(name, ext, _)| *name == letter && self.ext.has(*ext)) {
                text.push_str(letter);
            }
        }
        for (name, ext, _) in EXTENSIONS {
            if name.len() > 1 && self.ext.has(*ext) {
                text.push('_');
                text.push_str(name);
            }
        }
        text
    }

    /// The device tree's `mmu-type`.
    #[must_use]
    pub fn mmu_type(&self) -> Option<&'static str> {
        match self.paging {
            Paging::Bare => None,
            Paging::Sv32 => Some("riscv,sv32"),
            Paging::Sv39 => Some("riscv,sv39"),
            Paging::Sv48 => Some("riscv,sv48"),
            Paging::Sv57 => Some("riscv,sv57"),
        }
    }
}

fn on_off(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(format!("property '{key}': '{value}' is neither on nor off")),
    }
}

/// A suggestion for a misspelt property: the one with the longest common start.
fn nearest(key: &str) -> String {
    let common = |name: &str| name.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
    let names = EXTENSIONS.iter().map(|e| e.0).chain([
        "vlen",
        "elen",
        "pmp",
        "mmu",
        "cbom_blocksize",
        "cboz_blocksize",
    ]);
    match names.max_by_key(|name| common(name)) {
        Some(name) if common(name) >= 2 => format!(", did you mean '{name}'?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(text: &str) -> Vec<(String, String)> {
        text.split(',').filter_map(|f| f.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn default_models() {
        let cpu = Cpu::new(64, "", &[]).unwrap();
        assert!(cpu.ext.has(Ext::D.with(Ext::ZBB)));
        assert_eq!(cpu.misa(), 0x8000_0000_0014_112d);
        assert_eq!(Cpu::new(32, "", &[]).unwrap().misa(), 0x4014_112d);
        assert!(cpu.isa_string().starts_with("rv64imafdc_zicsr_zifencei_zicntr"), "{}", cpu.isa_string());
    }

    #[test]
    fn properties() {
        let cpu = Cpu::new(64, "rv64", &features("zba=off,sv57=off,pmp=off")).unwrap();
        assert!(!cpu.ext.has(Ext::ZBA));
        assert_eq!(cpu.paging, Paging::Sv48);
        assert_eq!(cpu.pmp, 0);
    }

    #[test]
    fn errors_name_the_thing() {
        let err = |f: &str| Cpu::new(64, "rv64", &features(f)).unwrap_err();
        assert_eq!(err("zbx=on"), "property 'zbx' is unknown, did you mean 'zbs'?");
        assert_eq!(err("zba=maybe"), "property 'zba': 'maybe' is neither on nor off");
        assert_eq!(err("f=off"), "property 'd=on' needs 'f=on'");
        assert_eq!(
            Cpu::new(64, "rv32", &[]).unwrap_err(),
            "model 'rv32' is unknown for rv64, expected one of rv64, max, rv64gc, rv64i"
        );
    }
}
