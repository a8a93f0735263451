//! Neutral state: saving, restoring and printing a hart.

use std::fmt::Write;

use accel::{VcpuError, arch::riscv::State};
use tcg_engine::Cx;

use crate::{
    cpu::{Cpu, Ext},
    csr,
    guest::{Riscv, pc_mask},
    interrupts, mmu,
    state::{F_NAMES, Hart, NO_RESERVATION, S, U, X_NAMES},
    vector,
};

/// Copies the fields that have one name and one meaning on both sides.
macro_rules! copy_fields {
    ($to:expr, $from:expr) => {{
        copy_fields!(@ $to, $from, x pc f vcsrs privilege waiting mstatus mie mip mideleg medeleg mtvec mscratch mepc
            mcause mtval mcounteren mcountinhibit menvcfg mseccfg stvec sscratch sepc scause stval scounteren senvcfg
            satp stimecmp mhartid pmpcfg pmpaddr tselect triggers);
    }};
    (@ $to:expr, $from:expr, $($field:ident)*) => { $($to.$field = $from.$field;)* };
}

/// The state of the hart.
pub fn save(cx: &mut Cx<'_, Riscv>) -> State {
    let (mcycle, minstret) = csr::counters(cx);
    let fflags = csr::fflags_from(cx.exceptions());
    let cpu = cx.guest().cpu();
    let hart = &*cx.state;
    let mut s = State {
        xlen: cpu.xlen,
        misa: cpu.misa(),
        fcsr: fflags | hart.frm << 5,
        v: if cpu.ext.has(Ext::V) { hart.v[..vector_bytes(cpu)].to_vec() } else { Vec::new() },
        reservation: (hart.res_addr != NO_RESERVATION).then_some((hart.res_addr, hart.res_val)),
        irq_lines: cx.lines(),
        mcycle,
        minstret,
        ..empty()
    };
    copy_fields!(s, hart);
    s
}

/// Bytes of all vector registers.
fn vector_bytes(cpu: &Cpu) -> usize {
    32 * cpu.vlenb as usize
}

fn empty() -> State {
    let hart = Hart::new(64, 0, 0);
    let mut s = State {
        xlen: 64,
        x: [0; 32],
        pc: 0,
        f: [0; 32],
        fcsr: 0,
        v: Vec::new(),
        vcsrs: [0; 4],
        privilege: 0,
        waiting: false,
        reservation: None,
        mstatus: 0,
        misa: 0,
        mie: 0,
        mip: 0,
        irq_lines: 0,
        mideleg: 0,
        medeleg: 0,
        mtvec: 0,
        mscratch: 0,
        mepc: 0,
        mcause: 0,
        mtval: 0,
        mcounteren: 0,
        mcountinhibit: 0,
        menvcfg: 0,
        mseccfg: 0,
        stvec: 0,
        sscratch: 0,
        sepc: 0,
        scause: 0,
        stval: 0,
        scounteren: 0,
        senvcfg: 0,
        satp: 0,
        stimecmp: 0,
        mcycle: 0,
        minstret: 0,
        mhartid: 0,
        pmpcfg: hart.pmpcfg,
        pmpaddr: hart.pmpaddr,
        tselect: 0,
        triggers: hart.triggers,
    };
    copy_fields!(s, hart);
    s
}

/// Takes over `s`; on error nothing has changed.
pub fn load(cx: &mut Cx<'_, Riscv>, s: &State) -> Result<(), VcpuError> {
    let cpu = cx.guest().cpu();
    check(cpu, s)?;
    let hart = &mut *cx.state;
    copy_fields!(hart, s);
    hart.x[0] = 0;
    hart.v[..s.v.len()].copy_from_slice(&s.v);
    hart.pc &= pc_mask(cpu);
    hart.frm = s.fcsr >> 5 & 7;
    (hart.res_addr, hart.res_val) = s.reservation.unwrap_or((NO_RESERVATION, 0));
    cx.set_exceptions(csr::fflags_to(s.fcsr));
    // Devices that are restored drive no edges: a wire that was high stays so without being raised again.
    cx.set_lines(s.irq_lines);
    csr::set_counters(cx, s.mcycle, s.minstret);
    cx.flush_tlb(None, |_| true);
    cx.set_space(s.satp);
    interrupts::arm(cx);
    Ok(())
}

fn check(cpu: &Cpu, s: &State) -> Result<(), VcpuError> {
    let bad = |field: &str, problem: String| Err(VcpuError::BadState { field: field.to_owned(), problem });
    if s.xlen != cpu.xlen {
        return bad("xlen", format!("{} instead of {}", s.xlen, cpu.xlen));
    }
    if s.misa != cpu.misa() {
        return bad("misa", format!("{:#x}, but this model has {:#x}", s.misa, cpu.misa()));
    }
    if !matches!(s.privilege, U | S | 3) {
        return bad("privilege", format!("{} is none", s.privilege));
    }
    if s.mstatus >> 11 & 3 == 2 {
        return bad("mstatus", format!("{:#x} has a previous privilege that does not exist", s.mstatus));
    }
    let vector = cpu.ext.has(Ext::V);
    let wanted = if vector { vector_bytes(cpu) } else { 0 };
    if s.v.len() != wanted {
        return bad("v", format!("{} bytes, but this model's vector registers have {wanted}", s.v.len()));
    }
    let [vstart, vcsr, vl, vtype] = s.vcsrs;
    let valid = vtype == vector::VILL || vector::legal(vtype);
    if vector && (!valid || vl > vector::vlmax(cpu.vlenb, vtype) || vcsr > 7 || vstart >= wanted as u64 / 4) {
        return bad("vcsrs", format!("{:x?} is no state of vstart, vcsr, vl and vtype", s.vcsrs));
    }
    if !mmu::mode_exists(cpu, s.satp) {
        return bad("satp", format!("{:#x} has a mode this model lacks", s.satp));
    }
    if cpu.xlen == 32 && (s.pc | s.x.iter().fold(0, |a, b| a | b)) >> 32 != 0 {
        return bad("x", "a register is wider than 32 bits".to_owned());
    }
    Ok(())
}

/// Registers in readable form.
pub fn dump(cpu: &Cpu, hart: &Hart) -> String {
    let w = (cpu.xlen / 4) as usize;
    let mut out = String::new();
    let privilege = ["U", "S", "?", "M"][usize::from(hart.privilege & 3)];
    let _ = writeln!(
        out,
        "hart {} pc {:0w$x} {privilege}{}",
        hart.mhartid,
        hart.pc,
        if hart.waiting { " wfi" } else { "" }
    );
    for (n, (name, x)) in X_NAMES.iter().zip(hart.x).enumerate() {
        let _ = write!(out, "{name:>5} {x:0w$x}{}", if n % 4 == 3 { "\n" } else { "" });
    }
    for (n, (name, f)) in F_NAMES.iter().zip(hart.f).enumerate() {
        let _ = write!(out, "{name:>5} {f:016x}{}", if n % 4 == 3 { "\n" } else { "" });
    }
    let rows = [
        ("mstatus", hart.mstatus),
        ("mie", hart.mie),
        ("mip", hart.mip),
        ("mideleg", hart.mideleg),
        ("medeleg", hart.medeleg),
        ("mtvec", hart.mtvec),
        ("mepc", hart.mepc),
        ("mcause", hart.mcause),
        ("mtval", hart.mtval),
        ("stvec", hart.stvec),
        ("sepc", hart.sepc),
        ("scause", hart.scause),
        ("stval", hart.stval),
        ("satp", hart.satp),
        ("sscratch", hart.sscratch),
        ("mscratch", hart.mscratch),
    ];
    for (n, (name, v)) in rows.iter().enumerate() {
        let _ = write!(out, "{name:>9} {v:0w$x}{}", if n % 4 == 3 { "\n" } else { "" });
    }
    out
}
