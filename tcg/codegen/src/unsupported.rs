//! The code generator of hosts that have none yet: says so.

use tcg_ir::abi::UnitExit;
use tcg_ir::{FpMode, HelperDesc, Region, SlotTable};

use crate::{CodeSpace, CompileError, CompiledUnit, EnterFn, KeptUnit, Options, RuntimeFns, Tier};

/// Never made: [`Compiler::new`] fails on this host.
#[derive(Debug)]
pub struct Compiler(std::convert::Infallible);

/// Address of the environment that generated code runs on.
#[must_use]
pub const fn environment(_frame: u64) -> u64 {
    0
}

impl Compiler {
    /// Fails with [`CompileError::UnsupportedHost`].
    pub fn new(
        _slots: &SlotTable,
        _helpers: &[HelperDesc],
        _fns: RuntimeFns,
        _opts: Options,
        _space: &CodeSpace,
    ) -> Result<Self, CompileError> {
        Err(CompileError::UnsupportedHost)
    }

    /// Code for a region.
    pub fn compile(
        &mut self,
        _region: &Region,
        _key: u64,
        _fp: impl Into<FpMode>,
        _tier: Tier,
        _space: &CodeSpace,
    ) -> Result<CompiledUnit, CompileError> {
        match self.0 {}
    }

    /// Puts a kept unit in place.
    pub fn install(
        &mut self,
        _unit: &KeptUnit<'_>,
        _key: u64,
        _space: &CodeSpace,
    ) -> Result<u64, CompileError> {
        match self.0 {}
    }

    /// What of this host's processor decides about the code that is made.
    #[must_use]
    pub fn host_features() -> u64 {
        0
    }

    /// Forgets code made on demand.
    pub fn forget(&mut self) {
        match self.0 {}
    }

    /// How code is entered.
    #[must_use]
    pub fn enter_fn(&self) -> EnterFn {
        match self.0 {}
    }

    /// What `raw`, returned by the entry function, means.
    #[must_use]
    pub fn decode_exit(raw: u64) -> UnitExit {
        crate::decode_exit(raw)
    }

    /// Where the handler of a host fault goes on.
    #[must_use]
    pub fn fault_stub(&self) -> u64 {
        match self.0 {}
    }

    /// Code address for empty entries of the jump cache.
    #[must_use]
    pub fn miss_stub(&self) -> u64 {
        match self.0 {}
    }
}
