//! Programs without a kernel: what a supervisor would set up for them, and registers by number.

use accel::{AccelError, CpuModel, arch::GuestArch};
use tcg_engine::{
    Cx,
    user::{UserEvent, UserGuest},
};

use crate::{
    cpu::{Cpu, Ext},
    csr,
    guest::{EXIT_ECALL, EXIT_FENCE_I, Riscv, xlen_of},
    state::{Hart, U, status},
};

/// `menvcfg` and `senvcfg`: cbo.inval as flush, cbo.clean and cbo.flush, cbo.zero are allowed.
const CACHE_BLOCKS: u64 = 1 << 4 | 1 << 6 | 1 << 7;

impl UserGuest for Riscv {
    fn for_user(arch: GuestArch, cpu: &CpuModel) -> Result<Self, AccelError> {
        let xlen = xlen_of(arch).ok_or(AccelError::WrongGuest { accel: "tcg", guest: arch })?;
        let mut cpu = Cpu::new(xlen, &cpu.name, &cpu.features).map_err(AccelError::Cpu)?;
        cpu.program = true;
        Ok(Self::with_cpu(cpu))
    }

    fn enter_user(&self, hart: &mut Hart) {
        hart.privilege = U;
        hart.mstatus |= status::FS;
        if self.cpu().ext.has(Ext::V) {
            hart.mstatus |= status::VS;
        }
        hart.mcounteren = 7;
        hart.scounteren = 7;
        hart.menvcfg = CACHE_BLOCKS;
        hart.senvcfg = CACHE_BLOCKS;
    }

    fn set_parallel(&self, hart: &mut Hart) {
        hart.parallel = true;
    }

    fn user_event(&self, _: &mut Hart, code: u32) -> Option<UserEvent> {
        match code {
            EXIT_ECALL => Some(UserEvent::Syscall),
            EXIT_FENCE_I => Some(UserEvent::CodeChanged),
            _ => None,
        }
    }

    fn reg(&self, hart: &Hart, n: usize) -> u64 {
        hart.x.get(n).copied().unwrap_or(0)
    }

    fn set_reg(&self, hart: &mut Hart, n: usize, value: u64) {
        let value = if self.cpu().xlen == 32 { value & 0xffff_ffff } else { value };
        if let Some(x) = hart.x.get_mut(n)
            && n != 0
        {
            *x = value;
        }
    }

    fn fp_reg(&self, hart: &Hart, n: usize) -> u64 {
        hart.f.get(n).copied().unwrap_or(0)
    }

    fn set_fp_reg(&self, hart: &mut Hart, n: usize, value: u64) {
        if let Some(f) = hart.f.get_mut(n) {
            *f = value;
        }
    }

    fn fp_status(&self, cx: &mut Cx<'_, Self>) -> u64 {
        csr::fflags_from(cx.exceptions()) | cx.state.frm << 5
    }

    fn set_fp_status(&self, cx: &mut Cx<'_, Self>, value: u64) {
        cx.set_exceptions(csr::fflags_to(value));
        cx.state.frm = value >> 5 & 7;
    }

    fn vectors(&self, hart: &Hart) -> Option<(Vec<u64>, Vec<u8>)> {
        let bytes = 32 * self.cpu().vlenb as usize;
        self.cpu().ext.has(Ext::V).then(|| (hart.vcsrs.to_vec(), hart.v[..bytes].to_vec()))
    }

    fn set_vectors(&self, hart: &mut Hart, control: &[u64], bytes: &[u8]) {
        if let Ok(control) = control.try_into() {
            hart.vcsrs = control;
        }
        let n = bytes.len().min(hart.v.len());
        hart.v[..n].copy_from_slice(&bytes[..n]);
    }

    /// One bit for each extension with a single letter.
    fn hwcap(&self) -> u64 {
        let shown = [Ext::M, Ext::A, Ext::F, Ext::D, Ext::C, Ext::V];
        let bit = |e: &(&str, Ext, Ext)| shown.contains(&e.1).then(|| 1 << (e.0.as_bytes()[0] - b'a'));
        crate::cpu::EXTENSIONS.iter().filter_map(bit).fold(1 << (b'i' - b'a'), |a: u64, b: u64| a | b)
    }

    fn isa(&self) -> String {
        let cpu = self.cpu();
        let mut shown = cpu.clone();
        // What a program cannot use is not told.
        shown.ext = cpu.ext.without(
            Ext::SSTC
                .with(Ext::SVADU)
                .with(Ext::SVPBMT)
                .with(Ext::SVINVAL)
                .with(Ext::SVNAPOT)
                .with(Ext::SDTRIG),
        );
        shown.isa_string()
    }
}
