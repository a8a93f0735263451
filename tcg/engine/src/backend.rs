//! What executes a unit: host code, or the IR interpreter.
#![expect(unsafe_code, reason = "enters generated code")]

use parking_lot::Mutex;
use tcg_codegen::{
    CodeCopy, CodeSpace, CompileError, Compiler, Direct, EnterFn, KeptUnit, LinkSite, Options, Reloc,
    access_address_at, patch_jump, restore_at,
};
use tcg_ir::{
    FpMode, HelperDesc, Hint, Region, Rounding, SlotTable,
    abi::{EnvHeader, UnitExit},
};

use crate::{
    Guest, Key,
    code::{Link, Tier},
    interp, runtime,
    vcpu::Vcpu,
};

/// Host address in empty jump cache entries when nothing is generated; never jumped to.
const NO_CODE: u64 = 0;

/// The code generator of a partition and its memory.
pub(crate) struct Jit {
    space: CodeSpace,
    compiler: Mutex<Compiler>,
    enter: EnterFn,
    miss: u64,
    fault: u64,
    /// Bytes of the common stubs, which stay when the space is emptied.
    stubs: usize,
}

/// How a partition executes IR.
pub(crate) enum Backend {
    /// Host code.
    Jit(Box<Jit>),
    /// The interpreter.
    Interp,
}

impl Backend {
    /// Host code if this host has a code generator.
    pub(crate) fn jit<G: Guest>(
        slots: &SlotTable,
        helpers: &[HelperDesc],
        size: usize,
        direct: Option<Direct>,
    ) -> Result<Self, String> {
        let space =
            CodeSpace::new(size).map_err(|e| format!("cannot reserve {size} bytes of code memory: {e}"))?;
        let opts = Options { direct, ..Options::default() };
        let compiler = Compiler::new(slots, helpers, runtime::functions::<G>(), opts, &space)
            .map_err(|e| e.to_string())?;
        let (enter, miss, stubs) = (compiler.enter_fn(), compiler.miss_stub(), space.used());
        let fault = compiler.fault_stub();
        Ok(Self::Jit(Box::new(Jit { space, compiler: Mutex::new(compiler), enter, miss, fault, stubs })))
    }

    pub(crate) fn miss_address(&self) -> u64 {
        match self {
            Self::Jit(j) => j.miss,
            Self::Interp => NO_CODE,
        }
    }

    /// Host addresses of generated code: start and length; and where the handler of a host fault in it goes on.
    pub(crate) fn fault_range(&self) -> (u64, u64, u64) {
        match self {
            Self::Jit(j) => (j.space.rx_base(), j.space.size() as u64, j.fault),
            Self::Interp => (0, 0, 0),
        }
    }

    /// A copy of the code memory for a child about to be forked.
    pub(crate) fn copy(&self) -> std::io::Result<Option<CodeCopy>> {
        match self {
            Self::Jit(j) => j.space.copy().map(Some),
            Self::Interp => Ok(None),
        }
    }

    /// Gives a forked child that copy for its own.
    pub(crate) fn replace(&self, copy: Option<&CodeCopy>) {
        if let (Self::Jit(j), Some(copy)) = (self, copy)
            && let Err(e) = j.space.replace(copy)
        {
            // Going on would write into the parent's code.
            tracing::error!("code memory of a forked process: {e}");
            std::process::abort();
        }
    }

    /// The guest address of the access that faulted at `site`, in that code.
    pub(crate) fn access_address(&self, code: &Code, site: u64, header: &EnvHeader) -> Option<u64> {
        match (self, code) {
            (Self::Jit(j), Code::Host { len, .. }) => {
                access_address_at(&j.space, self.entry(code)?, *len, site, header)
            }
            _ => None,
        }
    }

    /// True if guest code is worth making twice.
    pub(crate) fn has_tiers(&self) -> bool {
        matches!(self, Self::Jit(_))
    }

    /// Makes a unit's code and its links. `Err` if the memory is full.
    pub(crate) fn make(
        &self,
        region: &Region,
        key: Key,
        fp: FpMode,
        tier: Tier,
    ) -> Result<Made, CompileError> {
        let Self::Jit(j) = self else { return Ok(Made::interp(region)) };
        let effort = match tier {
            Tier::First => tcg_codegen::Tier::First,
            Tier::Second => tcg_codegen::Tier::Second,
        };
        match j.compiler.lock().compile(region, key.mode, fp, effort, &j.space) {
            Ok(unit) => {
                let base = j.space.rx_base();
                let offset = |at: u64| (at - base) as u32;
                let link = |l: &LinkSite| {
                    Link::new(l.pc, offset(l.site), offset(l.stub), matches!(l.hint, Hint::Call(_)))
                };
                let code = Code::Host { start: offset(unit.entry), len: unit.len, maps_len: unit.maps_len };
                let sides = unit.sides.iter().map(|&(pc, at)| (pc, offset(at))).collect();
                Ok(Made { code, links: unit.links.iter().map(link).collect(), relocs: unit.relocs, sides })
            }
            Err(CompileError::Full) => Err(CompileError::Full),
            Err(_) => Ok(Made::interp(region)),
        }
    }

    /// Puts a unit of an earlier process in place; `links` are guest address, site and stub from its start, and whether each is a
    /// call.
    pub(crate) fn install(
        &self,
        unit: &KeptUnit<'_>,
        links: &[(u64, u32, u32, bool)],
        key: Key,
    ) -> Result<(Code, Box<[Link]>), CompileError> {
        let Self::Jit(j) = self else { return Err(CompileError::TooLarge) };
        let entry = j.compiler.lock().install(unit, key.mode, &j.space)?;
        let start = (entry - j.space.rx_base()) as u32;
        let code = Code::Host { start, len: unit.code.len() as u32, maps_len: unit.maps.len() as u32 };
        let link = |l: &(u64, u32, u32, bool)| Link::new(l.0, start + l.1, start + l.2, l.3);
        Ok((code, links.iter().map(link).collect()))
    }

    /// The code and the exit maps of a unit.
    pub(crate) fn whole(&self, code: &Code) -> Option<Vec<u8>> {
        match (self, code) {
            (Self::Jit(j), Code::Host { len, maps_len, .. }) => {
                j.space.read(self.entry(code)?, (*len + *maps_len) as usize)
            }
            _ => None,
        }
    }

    /// Offset of a host address in the code memory.
    pub(crate) fn offset(&self, address: u64) -> Option<u32> {
        match self {
            Self::Jit(j) => u32::try_from(address.checked_sub(j.space.rx_base())?).ok(),
            Self::Interp => None,
        }
    }

    /// Size of the code memory.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Jit(j) => j.space.size(),
            Self::Interp => CodeSpace::DEFAULT_SIZE,
        }
    }

    /// Host address to jump to.
    pub(crate) fn entry(&self, code: &Code) -> Option<u64> {
        match (self, code) {
            (Self::Jit(j), Code::Host { start, .. }) => Some(j.space.rx_base() + u64::from(*start)),
            _ => None,
        }
    }

    /// The host code itself.
    pub(crate) fn bytes(&self, code: &Code) -> Option<Vec<u8>> {
        match (self, code) {
            (Self::Jit(j), Code::Host { len, .. }) => j.space.read(self.entry(code)?, *len as usize),
            _ => None,
        }
    }

    /// The host code in readable form, an instruction a line.
    pub(crate) fn disassemble(&self, code: &Code) -> Option<String> {
        Some(tcg_codegen::disassemble(&self.bytes(code)?, self.entry(code)?))
    }

    /// Makes a link jump to `dest`; false if that has no host code.
    pub(crate) fn link(&self, link: &Link, dest: &Code) -> bool {
        match (self, self.entry(dest)) {
            (Self::Jit(j), Some(entry)) => {
                patch_jump(&j.space, j.space.rx_base() + u64::from(link.site()), entry)
            }
            _ => false,
        }
    }

    /// Makes a link leave again.
    pub(crate) fn unlink(&self, link: &Link) {
        if let Self::Jit(j) = self {
            let base = j.space.rx_base();
            patch_jump(&j.space, base + u64::from(link.site()), base + u64::from(link.stub()));
        }
    }

    /// Writes to the state what host registers held at a fault.
    pub(crate) fn restore<G: Guest>(&self, code: &Code, site: u64, vcpu: &mut Vcpu<G>) {
        if let (Self::Jit(j), Code::Host { len, maps_len, .. }) = (self, code)
            && let Some(entry) = self.entry(code)
        {
            let (header, state) = vcpu.env.parts();
            restore_at(&j.space, entry, (*len, *maps_len), site, header, state);
        }
    }

    /// Runs until the unit (or one chained to it) leaves.
    pub(crate) fn run<G: Guest>(&self, code: &Code, vcpu: &mut Vcpu<G>, key: Key) -> UnitExit {
        match (self, code) {
            (_, Code::Interp(region)) => interp::run(vcpu, region),
            (Self::Jit(j), Code::Host { start, .. }) => {
                let fp = vcpu.engine.guest.fp_mode(key);
                let header = vcpu.env.header_ptr();
                let (enter, entry) = (j.enter, j.space.rx_base() + u64::from(*start));
                // SAFETY: `header` is this vCPU's environment, whose fields the constructor filled in; `entry` is a unit of
                // the same partition that the caller's hold on `exec` keeps in place. No reference into the
                // environment or the vCPU is used until it returns.
                let raw = unsafe {
                    (*header).guest_fpcr = mxcsr(fp);
                    enter(header, entry)
                };
                Compiler::decode_exit(raw)
            }
            (Self::Interp, Code::Host { .. }) => UnitExit::Lookup,
        }
    }

    /// Empties the code memory. No vCPU may be inside translated code.
    pub(crate) fn reset(&self) {
        if let Self::Jit(j) = self {
            j.compiler.lock().forget();
            j.space.reset(j.stubs);
        }
    }

    /// Bytes of host code in use.
    pub(crate) fn used(&self) -> usize {
        match self {
            Self::Jit(j) => j.space.used() - j.stubs,
            Self::Interp => 0,
        }
    }
}

/// What [`Backend::make`] gives.
pub(crate) struct Made {
    pub(crate) code: Code,
    pub(crate) links: Box<[Link]>,
    pub(crate) relocs: Box<[Reloc]>,
    /// Guest addresses of side entries, and where their code lies in the code memory.
    pub(crate) sides: Box<[(u64, u32)]>,
}

impl Made {
    /// For the interpreter.
    pub(crate) fn interp(region: &Region) -> Self {
        let code = Code::Interp(Box::new(region.clone()));
        Self { code, links: Box::default(), relocs: Box::default(), sides: Box::default() }
    }
}

/// A unit's code.
pub(crate) enum Code {
    /// For the interpreter.
    Interp(Box<Region>),
    /// For the host: offset in the code memory, bytes of code and of exit maps. None of either at a side entry, whose code is
    /// another unit's.
    Host { start: u32, len: u32, maps_len: u32 },
}

impl Code {
    pub(crate) fn is_host(&self) -> bool {
        matches!(self, Self::Host { .. })
    }

    /// A way into the code of another unit.
    pub(crate) fn side(start: u32) -> Self {
        Self::Host { start, len: 0, maps_len: 0 }
    }

    /// True if there is host code of which no other unit's is a part.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Host { len: 1.., .. })
    }

    /// Offset in the code memory.
    pub(crate) fn start(&self) -> Option<u32> {
        match self {
            Self::Host { start, .. } => Some(*start),
            Self::Interp(_) => None,
        }
    }

    /// Bytes of host code.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host { len, .. } => *len as usize,
            Self::Interp(_) => 0,
        }
    }

    /// True if an offset in the code memory lies in it.
    pub(crate) fn holds(&self, offset: u32) -> bool {
        matches!(self, Self::Host { start, len, .. } if offset.wrapping_sub(*start) < *len)
    }
}

/// MXCSR of units that run under `fp`: all exceptions masked, no flags.
pub(crate) fn mxcsr(fp: FpMode) -> u32 {
    let rc = match fp.rounding {
        Rounding::Down => 1,
        Rounding::Up => 2,
        Rounding::Zero => 3,
        _ => 0,
    };
    0x1f80 | rc << 13 | u32::from(fp.flush) << 15 | u32::from(fp.daz) << 6
}
