//! What executes a unit: host code, or the IR interpreter.
#![expect(unsafe_code, reason = "enters generated code")]

use std::sync::Arc;

use parking_lot::Mutex;
use tcg_codegen::{
    CodeCopy, CodeSpace, CompileError, CompiledUnit, Compiler, Direct, EnterFn, Options, patch_link,
    unpatch_link,
};
use tcg_ir::{
    HelperDesc, Region, Rounding, SlotTable,
    abi::{EnvHeader, UnitExit},
};

use crate::{Guest, Key, interp, runtime, vcpu::Vcpu};

/// Host address in empty jump cache entries when nothing is generated; never jumped to.
const NO_CODE: u64 = 0;

/// The code generator of a partition and its memory.
pub(crate) struct Jit {
    space: Arc<CodeSpace>,
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
        Ok(Self::Jit(Box::new(Jit {
            space: Arc::new(space),
            compiler: Mutex::new(compiler),
            enter,
            miss,
            fault,
            stubs,
        })))
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

    /// Makes a unit's code. `Err` if the memory is full.
    pub(crate) fn make(&self, region: &Region, key: Key, rounding: Rounding) -> Result<Code, CompileError> {
        let Self::Jit(j) = self else { return Ok(Code::Interp(Box::new(region.clone()))) };
        match j.compiler.lock().compile(region, key.mode, rounding, &j.space) {
            Ok(mut unit) => {
                // Nothing loads units from elsewhere yet.
                unit.relocs = Box::default();
                unit.links.shrink_to_fit();
                Ok(Code::Host { unit, space: j.space.clone(), enter: j.enter })
            }
            Err(CompileError::Full) => Err(CompileError::Full),
            Err(_) => Ok(Code::Interp(Box::new(region.clone()))),
        }
    }

    /// Empties the code memory. No vCPU may be inside translated code.
    pub(crate) fn reset(&self) {
        if let Self::Jit(j) = self {
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

/// A unit's code.
pub(crate) enum Code {
    /// For the interpreter.
    Interp(Box<Region>),
    /// For the host.
    Host { unit: CompiledUnit, space: Arc<CodeSpace>, enter: EnterFn },
}

impl Code {
    pub(crate) fn is_host(&self) -> bool {
        matches!(self, Self::Host { .. })
    }

    /// Host address to jump to.
    pub(crate) fn entry(&self) -> Option<u64> {
        match self {
            Self::Host { unit, .. } => Some(unit.entry),
            Self::Interp(_) => None,
        }
    }

    /// Bytes of host code.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host { unit, .. } => unit.len as usize,
            Self::Interp(_) => 0,
        }
    }

    /// The host code itself.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Host { unit, space, .. } => space.read(unit.entry, unit.len as usize),
            Self::Interp(_) => None,
        }
    }

    /// The guest address of the access that faulted at `site`.
    pub(crate) fn access_address(&self, site: u64, header: &EnvHeader) -> Option<u64> {
        match self {
            Self::Host { unit, space, .. } => unit.access_address(space, site, header),
            Self::Interp(_) => None,
        }
    }

    /// The host code in readable form, an instruction a line.
    pub(crate) fn disassemble(&self) -> Option<String> {
        match self {
            Self::Host { unit, space, .. } => Some(unit.disassemble(space)),
            Self::Interp(_) => None,
        }
    }

    pub(crate) fn holds(&self, address: u64) -> bool {
        matches!(self, Self::Host { unit, .. } if unit.contains(address))
    }

    /// Number of the link whose exit stub `site` names.
    pub(crate) fn link_pc(&self, index: u32) -> Option<u64> {
        match self {
            Self::Host { unit, .. } => unit.links.get(index as usize).map(|l| l.pc),
            Self::Interp(_) => None,
        }
    }

    /// Makes a link jump to `dest`.
    pub(crate) fn link(&self, index: u32, dest: &Self) {
        if let (Self::Host { unit, space, .. }, Some(entry)) = (self, dest.entry())
            && let Some(l) = unit.links.get(index as usize)
        {
            patch_link(space, l, entry);
        }
    }

    /// Makes a link leave again.
    pub(crate) fn unlink(&self, index: u32) {
        if let Self::Host { unit, space, .. } = self
            && let Some(l) = unit.links.get(index as usize)
        {
            unpatch_link(space, l);
        }
    }

    /// Writes to the state what host registers held at a fault.
    pub(crate) fn restore<G: Guest>(&self, site: u64, vcpu: &mut Vcpu<G>) {
        if let Self::Host { unit, .. } = self {
            let (header, state) = vcpu.env.parts();
            unit.restore(site, header, state);
        }
    }

    /// Runs until the unit (or one chained to it) leaves.
    pub(crate) fn run<G: Guest>(&self, vcpu: &mut Vcpu<G>, key: Key) -> UnitExit {
        match self {
            Self::Interp(region) => interp::run(vcpu, region),
            Self::Host { unit, enter, .. } => {
                let rounding = vcpu.engine.guest.rounding(key);
                let header = vcpu.env.header_ptr();
                let (enter, entry) = (*enter, unit.entry);
                // SAFETY: `header` is this vCPU's environment, whose fields the constructor filled in; `entry` is a unit of
                // the same partition that the caller's hold on `exec` keeps in place. No reference into the
                // environment or the vCPU is used until it returns.
                let raw = unsafe {
                    (*header).guest_fpcr = mxcsr(rounding);
                    enter(header, entry)
                };
                Compiler::decode_exit(raw)
            }
        }
    }
}

/// MXCSR of units that run under `rounding`: all exceptions masked, no flags.
pub(crate) fn mxcsr(rounding: Rounding) -> u32 {
    let rc = match rounding {
        Rounding::Down => 1,
        Rounding::Up => 2,
        Rounding::Zero => 3,
        _ => 0,
    };
    0x1f80 | rc << 13
}
