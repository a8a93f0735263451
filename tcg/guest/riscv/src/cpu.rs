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
    // Hints, which need no more than that their encodings do nothing.
    ZICBOP "zicbop" 30 Ext::NONE;
    ZIHINTNTL "zihintntl" 31 Ext::NONE;
    // Names the profiles gave to what every hart here does: coherent memory, misaligned accesses, exact stval.
    ZIC64B "zic64b" 32 Ext::NONE;
    ZICCAMOA "ziccamoa" 33 Ext::A;
    ZICCIF "ziccif" 34 Ext::NONE;
    ZICCLSM "zicclsm" 35 Ext::NONE;
    ZICCRSE "ziccrse" 36 Ext::A;
    ZA64RS "za64rs" 37 Ext::A;
    SSCCPTR "ssccptr" 38 Ext::S;
    SSCOUNTERENW "sscounterenw" 39 Ext::S;
    SSTVALA "sstvala" 40 Ext::S;
    SSTVECD "sstvecd" 41 Ext::S;
    SVADE "svade" 42 Ext::S;
}

/// `g` as a property: what "general purpose" stands for.
const G: Ext = Ext::M.with(Ext::A).with(Ext::F).with(Ext::D).with(Ext::ZICSR).with(Ext::ZIFENCEI);
/// `b` as a property.
const B: Ext = Ext::ZBA.with(Ext::ZBB).with(Ext::ZBS);

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
    /// Deepest page tables, if it has S.
    paging: Paging,
}

/// A model with the deepest page tables of its width.
const fn model(name: &'static str, about: &'static str, xlen: &'static [u32], ext: Ext) -> Model {
    Model { name, about, xlen, ext, paging: Paging::Sv57 }
}

/// A model with three levels.
const fn sv39(name: &'static str, about: &'static str, ext: Ext) -> Model {
    Model { name, about, xlen: &[64], ext, paging: Paging::Sv39 }
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

/// What the generic models add: all that is implemented, without V. Svade beside Svadu would tell firmware to leave
/// updates by the walker off until a kernel asks for them.
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
    .with(Ext::SDTRIG)
    .with(Ext::ZICBOP)
    .with(Ext::ZIHINTNTL)
    .with(MEMORY)
    .with(Ext::SSCCPTR)
    .with(Ext::SSCOUNTERENW)
    .with(Ext::SSTVALA)
    .with(Ext::SSTVECD);

/// What the profiles call mandatory of main memory.
const MEMORY: Ext =
    Ext::ZIC64B.with(Ext::ZICCAMOA).with(Ext::ZICCIF).with(Ext::ZICCLSM).with(Ext::ZICCRSE).with(Ext::ZA64RS);

/// RVA22U64 without Zkt: an emulator cannot promise that the time of an instruction tells nothing of its data.
const RVA22U: Ext = G
    .with(B)
    .with(MEMORY)
    .with(Ext::C)
    .with(Ext::U)
    .with(Ext::ZICNTR)
    .with(Ext::ZIHPM)
    .with(Ext::ZIHINTPAUSE)
    .with(Ext::ZICBOM)
    .with(Ext::ZICBOP)
    .with(Ext::ZICBOZ)
    .with(Ext::ZFHMIN);

/// RVA22S64.
const RVA22S: Ext = RVA22U
    .with(Ext::S)
    .with(Ext::SSCCPTR)
    .with(Ext::SSCOUNTERENW)
    .with(Ext::SSTVALA)
    .with(Ext::SSTVECD)
    .with(Ext::SVADE)
    .with(Ext::SVPBMT)
    .with(Ext::SVINVAL);

/// SiFive's U54 and the E51 beside it, after their manuals.
const E51: Ext = Ext::M
    .with(Ext::A)
    .with(Ext::C)
    .with(Ext::U)
    .with(Ext::ZICSR)
    .with(Ext::ZIFENCEI)
    .with(Ext::ZICNTR)
    .with(Ext::ZIHPM);
const U54: Ext = E51.with(Ext::F).with(Ext::D).with(Ext::S);

const MODELS: &[Model] = &[
    model("rv64", "generic 64-bit hart", &[64], MODERN),
    model("rv32", "generic 32-bit hart", &[32], MODERN),
    model("max", "everything that is implemented", &[32, 64], MODERN.with(Ext::V)),
    model("rv64gc", "64-bit hart with G, C and privilege only", &[64], GENERAL.with(Ext::SDTRIG)),
    model("rv32gc", "32-bit hart with G, C and privilege only", &[32], GENERAL.with(Ext::SDTRIG)),
    model("rv64i", "64-bit hart with the base instructions only", &[64], Ext::ZICSR),
    model("rv32i", "32-bit hart with the base instructions only", &[32], Ext::ZICSR),
    sv39("rva22u64", "profile RVA22U64, without Zkt; no supervisor mode", RVA22U),
    sv39("rva22s64", "profile RVA22S64, without Zkt", RVA22S),
    sv39("sifive-u54", "SiFive U54: G, C, Sv39", U54),
    sv39("sifive-e51", "SiFive E51: I, M, A, C, no supervisor mode", E51),
];

/// Extensions that translation implements; the others exist as names and are refused.
const IMPLEMENTED: Ext = MODERN.with(Ext::V).with(Ext::SVADE);

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
            (true, _) => model.paging,
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
            "vext_spec" if value == "v1.0" => {}
            "vext_spec" => return Err(format!("property '{key}': '{value}' is not v1.0")),
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
                let group = match key {
                    "g" => Some(G),
                    "b" => Some(B),
                    _ => EXTENSIONS.iter().find(|(name, ..)| *name == key).map(|(_, ext, _)| *ext),
                };
                let Some(ext) = group else {
                    return Err(format!("property '{key}' is unknown{}", nearest(key)));
                };
                self.ext = if on { self.ext.with(ext) } else { self.ext.without(ext) };
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
            if *ext == Ext::ZIC64B && self.cbo_block != 64 {
                return Err(format!(
                    "property '{name}=on' needs cache blocks of 64 bytes, not {}",
                    self.cbo_block
                ));
            }
            if let Some((missing, ..)) =
                EXTENSIONS.iter().find(|(_, e, _)| implies.has(*e) && !self.ext.has(*e))
            {
                return Err(format!("property '{name}=on' needs '{missing}=on'"));
            }
        }
        Ok(())
    }

    /// Names of all extensions, as the device tree's `riscv,isa-extensions` lists them.
    #[must_use]
    pub fn extensions(&self) -> Vec<&'static str> {
        let letters = ["m", "a", "f", "d", "c", "v"];
        let has =
            |wanted: &str| EXTENSIONS.iter().any(|(name, ext, _)| *name == wanted && self.ext.has(*ext));
        let long = EXTENSIONS.iter().filter(|(name, ext, _)| name.len() > 1 && self.ext.has(*ext));
        std::iter::once("i")
            .chain(letters.into_iter().filter(|l| has(l)))
            .chain(long.map(|(name, ..)| *name))
            .collect()
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
        let mut text = format!("rv{}", self.xlen);
        for name in self.extensions() {
            if name.len() > 1 {
                text.push('_');
            }
            text.push_str(name);
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
        assert!(cpu.ext.has(Ext::D.with(Ext::ZBB)) && !cpu.ext.has(Ext::SVADE));
        assert_eq!(cpu.misa(), 0x8000_0000_0014_112d);
        assert_eq!(Cpu::new(32, "", &[]).unwrap().misa(), 0x4014_112d);
        assert!(cpu.isa_string().starts_with("rv64imafdc_zicsr_zifencei_zicntr"), "{}", cpu.isa_string());
    }

    #[test]
    fn all_models_are_consistent() {
        for xlen in [32, 64] {
            for (name, _) in models(xlen) {
                let cpu = Cpu::new(xlen, &name, &[]).unwrap();
                assert!(cpu.isa_string().starts_with(&format!("rv{xlen}i")));
                assert_eq!(cpu.ext.has(Ext::S), cpu.paging != Paging::Bare, "{name}");
            }
        }
        let cpu = Cpu::new(64, "rva22s64", &[]).unwrap();
        assert_eq!(cpu.mmu_type(), Some("riscv,sv39"));
        assert!(!cpu.ext.has_any(Ext::V.with(Ext::SVADU).with(Ext::ZFH)));
        let text = cpu.isa_string();
        assert!(
            text.starts_with("rv64imafdc_") && text.contains("_zba_") && text.ends_with("_svade"),
            "{text}"
        );
        assert_eq!(cpu.extensions().join("").len(), text.replace("_", "").len() - 4);
    }

    #[test]
    fn properties() {
        let cpu = Cpu::new(64, "rv64i", &features("g=on,b=true,c=on")).unwrap();
        assert!(cpu.isa_string().starts_with("rv64imafdc_zicsr_zifencei_zba_zbb_zbs"));
        let cpu = Cpu::new(64, "rv64", &features("v=true,vlen=256,elen=64,vext_spec=v1.0")).unwrap();
        assert_eq!((cpu.ext.has(Ext::V), cpu.vlenb), (true, 32));
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
        assert_eq!(err("vlen=96"), "property 'vlen': '96' is not one of [128, 256, 512, 1024]");
        assert_eq!(err("vext_spec=v0.7"), "property 'vext_spec': 'v0.7' is not v1.0");
        assert_eq!(err("sv32=on"), "property: Sv32 does not exist on rv64");
        assert_eq!(err("cboz_blocksize=128"), "property 'zic64b=on' needs cache blocks of 64 bytes, not 128");
        assert_eq!(
            Cpu::new(64, "rv32", &[]).unwrap_err(),
            "model 'rv32' is unknown for rv64, expected one of rv64, max, rv64gc, rv64i, \
             rva22u64, rva22s64, sifive-u54, sifive-e51"
        );
    }
}
