//! Between KVM's registers, one by one, and the neutral ARM state.
//!
//! Register identities: Documentation/virt/kvm/api.rst, "KVM_SET_ONE_REG".

use accel::VcpuError;
use accel::arch::aarch64::{RunState, State, SysReg};
use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED, KVM_MP_STATE_SUSPENDED, KVM_REG_ARM_COPROC_MASK,
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U32, KVM_REG_SIZE_U64,
    KVM_REG_SIZE_U128, RegList, kvm_mp_state, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use super::super::vcpu::get;
use super::walk::Registers;

/// Most registers that a vCPU can have.
const MOST_REGISTERS: usize = 2000;

/// Encoding of a system register as in [`SysReg::encoding`].
pub(super) const fn encoding(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

const SCTLR: u16 = encoding(3, 0, 1, 0, 0);
const TTBR0: u16 = encoding(3, 0, 2, 0, 0);
const TTBR1: u16 = encoding(3, 0, 2, 0, 1);
const TCR: u16 = encoding(3, 0, 2, 0, 2);
/// KVM's names for the timers; those of the virtual one are not the architecture's (the count and the
/// compare value are exchanged).
const CNTV_CTL: u16 = encoding(3, 3, 14, 3, 1);
const CNTV_CVAL: u16 = encoding(3, 3, 14, 0, 2);
const CNTVCT: u16 = encoding(3, 3, 14, 3, 2);
const CNTP_CTL: u16 = encoding(3, 3, 14, 2, 1);
const CNTP_CVAL: u16 = encoding(3, 3, 14, 2, 2);
const CNTPCT: u16 = encoding(3, 3, 14, 0, 1);

/// Offsets in `struct kvm_regs`, in bytes.
mod core {
    pub(super) const SP_EL0: u64 = 248;
    pub(super) const PC: u64 = 256;
    pub(super) const PSTATE: u64 = 264;
    pub(super) const SP_EL1: u64 = 272;
    pub(super) const ELR_EL1: u64 = 280;
    pub(super) const SPSR: u64 = 288;
    pub(super) const V: u64 = 336;
    pub(super) const FPSR: u64 = 848;
    pub(super) const FPCR: u64 = 852;
}

fn core_id(size: u64, offset: u64) -> u64 {
    KVM_REG_ARM64 | size | u64::from(KVM_REG_ARM_CORE) | (offset / 4)
}

fn sys_id(encoding: u16) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM64_SYSREG) | u64::from(encoding)
}

const READ: &str = "reading a register (KVM_GET_ONE_REG)";

fn read<const N: usize>(fd: &VcpuFd, id: u64) -> Result<[u8; N], VcpuError> {
    let mut bytes = [0; N];
    get(READ, fd.get_one_reg(id, &mut bytes))?;
    Ok(bytes)
}

fn read64(fd: &VcpuFd, id: u64) -> Result<u64, VcpuError> {
    read(fd, id).map(u64::from_le_bytes)
}

fn write(fd: &VcpuFd, id: u64, bytes: &[u8], field: impl Fn() -> String) -> Result<(), VcpuError> {
    match fd.set_one_reg(id, bytes) {
        Ok(_) => Ok(()),
        Err(e) => {
            // What describes the processor can't be changed; it need not be when it is the same.
            let mut present = vec![0; bytes.len()];
            if fd.get_one_reg(id, &mut present).is_ok() && present == bytes {
                return Ok(());
            }
            Err(VcpuError::BadState { field: field(), problem: format!("is refused by this host: {e}") })
        }
    }
}

/// The registers with a field of their own that are 64-bit system registers.
macro_rules! with_system_registers {
    ($do:ident) => {
        $do! {
            sctlr_el1 = SCTLR,
            actlr_el1 = encoding(3, 0, 1, 0, 1),
            cpacr_el1 = encoding(3, 0, 1, 0, 2),
            ttbr0_el1 = TTBR0,
            ttbr1_el1 = TTBR1,
            tcr_el1 = TCR,
            afsr0_el1 = encoding(3, 0, 5, 1, 0),
            afsr1_el1 = encoding(3, 0, 5, 1, 1),
            esr_el1 = encoding(3, 0, 5, 2, 0),
            far_el1 = encoding(3, 0, 6, 0, 0),
            par_el1 = encoding(3, 0, 7, 4, 0),
            mair_el1 = encoding(3, 0, 10, 2, 0),
            amair_el1 = encoding(3, 0, 10, 3, 0),
            vbar_el1 = encoding(3, 0, 12, 0, 0),
            contextidr_el1 = encoding(3, 0, 13, 0, 1),
            tpidr_el0 = encoding(3, 3, 13, 0, 2),
            tpidrro_el0 = encoding(3, 3, 13, 0, 3),
            tpidr_el1 = encoding(3, 0, 13, 0, 4),
            cntkctl_el1 = encoding(3, 0, 14, 1, 0),
            csselr_el1 = encoding(3, 2, 0, 0, 0),
            mdscr_el1 = encoding(2, 0, 0, 2, 2),
            mpidr_el1 = encoding(3, 0, 0, 0, 5),
            cntvct = CNTVCT,
            cntv_cval = CNTV_CVAL,
            cntv_ctl = CNTV_CTL,
            cntpct = CNTPCT,
            cntp_cval = CNTP_CVAL,
            cntp_ctl = CNTP_CTL,
        }
    };
}

/// The 64-bit system registers without a field of their own.
fn other_registers(fd: &VcpuFd) -> Result<Vec<u16>, VcpuError> {
    let mut list =
        RegList::new(MOST_REGISTERS).map_err(|_| VcpuError::Unsupported("a list of so many registers"))?;
    get("listing the registers (KVM_GET_REG_LIST)", fd.get_reg_list(&mut list))?;
    macro_rules! encodings {
        ($($field:ident = $encoding:expr,)*) => { [$( $encoding ),*] };
    }
    let own = with_system_registers!(encodings);
    let kind = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM64_SYSREG);
    let mut others: Vec<u16> = list
        .as_slice()
        .iter()
        .filter(|id| {
            **id & !0xFFFF == kind
                && **id & u64::from(KVM_REG_ARM_COPROC_MASK) == u64::from(KVM_REG_ARM64_SYSREG)
        })
        .map(|id| *id as u16)
        .filter(|e| !own.contains(e))
        .collect();
    others.sort_unstable();
    Ok(others)
}

/// What a walk of the translation tables needs.
pub(super) fn walk_registers(fd: &VcpuFd) -> Option<Registers> {
    let read = |e| read64(fd, sys_id(e)).ok();
    Some(Registers { sctlr: read(SCTLR)?, tcr: read(TCR)?, ttbr0: read(TTBR0)?, ttbr1: read(TTBR1)? })
}

/// The program counter.
pub(super) fn pc(fd: &VcpuFd) -> Result<u64, VcpuError> {
    read64(fd, core_id(KVM_REG_SIZE_U64, core::PC))
}

pub(super) fn get_state(fd: &VcpuFd) -> Result<State, VcpuError> {
    let mut s = State::default();
    let core64 = |offset| read64(fd, core_id(KVM_REG_SIZE_U64, offset));
    for (i, x) in s.x.iter_mut().enumerate() {
        *x = core64(8 * i as u64)?;
    }
    s.sp_el0 = core64(core::SP_EL0)?;
    s.sp_el1 = core64(core::SP_EL1)?;
    s.pc = core64(core::PC)?;
    s.pstate = core64(core::PSTATE)?;
    s.elr_el1 = core64(core::ELR_EL1)?;
    for (i, spsr) in s.spsr.iter_mut().enumerate() {
        *spsr = core64(core::SPSR + 8 * i as u64)?;
    }
    for (i, v) in s.v.iter_mut().enumerate() {
        *v = u128::from_le_bytes(read(fd, core_id(KVM_REG_SIZE_U128, core::V + 16 * i as u64))?);
    }
    s.fpsr = u32::from_le_bytes(read(fd, core_id(KVM_REG_SIZE_U32, core::FPSR))?);
    s.fpcr = u32::from_le_bytes(read(fd, core_id(KVM_REG_SIZE_U32, core::FPCR))?);
    macro_rules! fetch {
        ($($field:ident = $encoding:expr,)*) => { $( s.$field = read64(fd, sys_id($encoding)).or_else(absent)?; )* };
    }
    with_system_registers!(fetch);
    for e in other_registers(fd)? {
        s.sysregs.push(SysReg { encoding: e, value: read64(fd, sys_id(e))? });
    }
    let events = get("reading pending events (KVM_GET_VCPU_EVENTS)", fd.get_vcpu_events())?.exception;
    s.serror_pending = events.serror_pending != 0;
    s.serror_esr = (events.serror_has_esr != 0).then_some(events.serror_esr);
    s.run = match get("reading the run state (KVM_GET_MP_STATE)", fd.get_mp_state())?.mp_state {
        KVM_MP_STATE_STOPPED => RunState::Off,
        KVM_MP_STATE_SUSPENDED => RunState::Suspended,
        _ => RunState::Running,
    };
    Ok(s)
}

/// A register that older kernels do not show (the physical timer) reads as zero.
fn absent(e: VcpuError) -> Result<u64, VcpuError> {
    match &e {
        VcpuError::Host { source, .. } if source.raw_os_error() == Some(libc::ENOENT) => Ok(0),
        _ => Err(e),
    }
}

pub(super) fn put_state(fd: &VcpuFd, s: &State) -> Result<(), VcpuError> {
    let core64 = |offset, value: u64, name: &str| {
        write(fd, core_id(KVM_REG_SIZE_U64, offset), &value.to_le_bytes(), || name.to_owned())
    };
    for (i, x) in s.x.iter().enumerate() {
        core64(8 * i as u64, *x, "x")?;
    }
    core64(core::SP_EL0, s.sp_el0, "sp_el0")?;
    core64(core::SP_EL1, s.sp_el1, "sp_el1")?;
    core64(core::PC, s.pc, "pc")?;
    core64(core::PSTATE, s.pstate, "pstate")?;
    core64(core::ELR_EL1, s.elr_el1, "elr_el1")?;
    for (i, spsr) in s.spsr.iter().enumerate() {
        core64(core::SPSR + 8 * i as u64, *spsr, "spsr")?;
    }
    for (i, v) in s.v.iter().enumerate() {
        write(fd, core_id(KVM_REG_SIZE_U128, core::V + 16 * i as u64), &v.to_le_bytes(), || {
            format!("v.{i}")
        })?;
    }
    write(fd, core_id(KVM_REG_SIZE_U32, core::FPSR), &s.fpsr.to_le_bytes(), || "fpsr".to_owned())?;
    write(fd, core_id(KVM_REG_SIZE_U32, core::FPCR), &s.fpcr.to_le_bytes(), || "fpcr".to_owned())?;
    for (i, r) in s.sysregs.iter().enumerate() {
        write(fd, sys_id(r.encoding), &r.value.to_le_bytes(), || format!("sysregs.{i}"))?;
    }
    macro_rules! store {
        ($($field:ident = $encoding:expr,)*) => { $(
            let id = sys_id($encoding);
            if s.$field != 0 || read64(fd, id).is_ok() {
                write(fd, id, &s.$field.to_le_bytes(), || stringify!($field).to_owned())?;
            }
        )* };
    }
    with_system_registers!(store);
    let mut events = kvm_vcpu_events::default();
    events.exception.serror_pending = u8::from(s.serror_pending);
    events.exception.serror_has_esr = u8::from(s.serror_esr.is_some());
    events.exception.serror_esr = s.serror_esr.unwrap_or(0);
    get("setting pending events (KVM_SET_VCPU_EVENTS)", fd.set_vcpu_events(&events))?;
    let mp_state = match s.run {
        RunState::Running => KVM_MP_STATE_RUNNABLE,
        RunState::Off => KVM_MP_STATE_STOPPED,
        RunState::Suspended => KVM_MP_STATE_SUSPENDED,
    };
    get("setting the run state (KVM_SET_MP_STATE)", fd.set_mp_state(kvm_mp_state { mp_state }))
}
