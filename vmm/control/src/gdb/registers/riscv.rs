//! RISC-V: features `org.gnu.gdb.riscv.{cpu,fpu,csr,virtual,vector}`.
//!
//! Numbers are those of GDB's RISC-V port: x0 to x31, pc, f0 to f31, then CSR number + 65, the privilege, v0 to v31.

use super::{Description, Feature, Place, Register};
use accel::arch::riscv::State;

const PC: usize = 32;
const F0: usize = 33;
const CSR0: usize = 65;
const PRIV: usize = CSR0 + 4096;
const V0: usize = PRIV + 1;

const X_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

const F_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];

/// CSRs besides the floating-point and vector ones.
const CSRS: [(&str, usize); 29] = [
    ("stvec", 0x105),
    ("scounteren", 0x106),
    ("senvcfg", 0x10a),
    ("sscratch", 0x140),
    ("sepc", 0x141),
    ("scause", 0x142),
    ("stval", 0x143),
    ("stimecmp", 0x14d),
    ("satp", 0x180),
    ("mstatus", 0x300),
    ("misa", 0x301),
    ("medeleg", 0x302),
    ("mideleg", 0x303),
    ("mie", 0x304),
    ("mtvec", 0x305),
    ("mcounteren", 0x306),
    ("menvcfg", 0x30a),
    ("mcountinhibit", 0x320),
    ("mscratch", 0x340),
    ("mepc", 0x341),
    ("mcause", 0x342),
    ("mtval", 0x343),
    ("mip", 0x344),
    ("mseccfg", 0x747),
    ("tselect", 0x7a0),
    ("mcycle", 0xb00),
    ("minstret", 0xb02),
    ("mhartid", 0xf14),
    ("pmpaddr0", 0x3b0),
];

const VECTOR_CSRS: [(&str, usize); 4] = [("vstart", 0x008), ("vcsr", 0x00f), ("vl", 0xc20), ("vtype", 0xc21)];

fn register(name: &str, number: usize, bits: usize, kind: &'static str, group: &'static str) -> Register {
    Register { name: name.to_owned(), number, bits, kind, group }
}

/// The register file of a hart.
pub(super) fn description(s: &State) -> Description {
    let xlen = if s.xlen == 32 { 32 } else { 64 };
    let pointer = |n: usize| match n {
        1 => "code_ptr",
        2..=4 | 8 => "data_ptr",
        _ => "int",
    };
    let mut cpu = Feature { name: "org.gnu.gdb.riscv.cpu", ..Feature::default() };
    cpu.registers =
        X_NAMES.iter().enumerate().map(|(n, name)| register(name, n, xlen, pointer(n), "")).collect();
    cpu.registers.push(register("pc", PC, xlen, "code_ptr", ""));
    let mut features = vec![cpu];

    // misa: bit 3 is D, bit 5 is F.
    let (has_d, has_f) = (s.misa & 1 << 3 != 0, s.misa & 1 << 5 != 0);
    if has_d || has_f {
        let (bits, kind) = if has_d { (64, "ieee_double") } else { (32, "ieee_single") };
        let mut fpu = Feature { name: "org.gnu.gdb.riscv.fpu", ..Feature::default() };
        fpu.registers =
            F_NAMES.iter().enumerate().map(|(n, name)| register(name, F0 + n, bits, kind, "float")).collect();
        for (name, csr) in [("fflags", 1), ("frm", 2), ("fcsr", 3)] {
            fpu.registers.push(register(name, CSR0 + csr, 32, "int", "float"));
        }
        features.push(fpu);
    }

    let mut csr = Feature { name: "org.gnu.gdb.riscv.csr", ..Feature::default() };
    let has_v = !s.v.is_empty();
    let vector_csrs = VECTOR_CSRS.iter().filter(|_| has_v);
    csr.registers = CSRS
        .iter()
        .chain(vector_csrs)
        .map(|(name, n)| register(name, CSR0 + n, xlen, "int", "csr"))
        .collect();
    features.push(csr);

    let mut virt = Feature { name: "org.gnu.gdb.riscv.virtual", ..Feature::default() };
    virt.registers = vec![register("priv", PRIV, xlen, "int", "")];
    features.push(virt);

    if has_v {
        let vlenb = s.v.len() / 32;
        let mut v = Feature { name: "org.gnu.gdb.riscv.vector", ..Feature::default() };
        let mut union = String::new();
        for (kind, short, bytes) in
            [("uint64", "long", 8), ("uint32", "word", 4), ("uint16", "half", 2), ("uint8", "byte", 1)]
        {
            v.types
                .push_str(&format!("<vector id=\"{short}s\" type=\"{kind}\" count=\"{}\"/>", vlenb / bytes));
            union.push_str(&format!("<field name=\"{short}\" type=\"{short}s\"/>"));
        }
        v.types.push_str(&format!("<union id=\"riscv_vector\">{union}</union>"));
        v.registers = (0..32)
            .map(|n| register(&format!("v{n}"), V0 + n, vlenb * 8, "riscv_vector", "vector"))
            .collect();
        features.push(v);
    }
    Description {
        arch: if xlen == 32 { "riscv:rv32" } else { "riscv:rv64" },
        system: None,
        features,
        in_g: PC + 1,
        pc: PC,
    }
}

/// Where a register lives.
pub(super) fn place(s: &mut State, number: usize) -> Option<Place<'_>> {
    Some(match number {
        0 => Place::Fixed(0),
        1..PC => Place::U64(s.x.get_mut(number)?),
        PC => Place::U64(&mut s.pc),
        F0..CSR0 => Place::U64(s.f.get_mut(number - F0)?),
        CSR0..PRIV => return csr(s, number - CSR0),
        PRIV => Place::U8(&mut s.privilege),
        _ => {
            let vlenb = s.v.len() / 32;
            let n = number - V0;
            Place::Bytes(s.v.get_mut(n.checked_mul(vlenb)?..(n + 1).checked_mul(vlenb)?)?)
        }
    })
}

fn csr(s: &mut State, number: usize) -> Option<Place<'_>> {
    Some(Place::U64(match number {
        0x001 => return Some(Place::Field { of: &mut s.fcsr, shift: 0, mask: 0x1f }),
        0x002 => return Some(Place::Field { of: &mut s.fcsr, shift: 5, mask: 7 }),
        0x003 => &mut s.fcsr,
        0x008 => &mut s.vcsrs[0],
        0x00f => &mut s.vcsrs[1],
        0xc20 => &mut s.vcsrs[2],
        0xc21 => &mut s.vcsrs[3],
        0x105 => &mut s.stvec,
        0x106 => &mut s.scounteren,
        0x10a => &mut s.senvcfg,
        0x140 => &mut s.sscratch,
        0x141 => &mut s.sepc,
        0x142 => &mut s.scause,
        0x143 => &mut s.stval,
        0x14d => &mut s.stimecmp,
        0x180 => &mut s.satp,
        0x300 => &mut s.mstatus,
        0x301 => return Some(Place::Fixed(s.misa)),
        0x302 => &mut s.medeleg,
        0x303 => &mut s.mideleg,
        0x304 => &mut s.mie,
        0x305 => &mut s.mtvec,
        0x306 => &mut s.mcounteren,
        0x30a => &mut s.menvcfg,
        0x320 => &mut s.mcountinhibit,
        0x340 => &mut s.mscratch,
        0x341 => &mut s.mepc,
        0x342 => &mut s.mcause,
        0x343 => &mut s.mtval,
        // With the wires, as the guest reads it; the wires are not the debugger's to write.
        0x344 => return Some(Place::Fixed(s.mip | s.irq_lines)),
        0x3b0 => &mut s.pmpaddr[0],
        0x747 => &mut s.mseccfg,
        0x7a0 => &mut s.tselect,
        0xb00 => &mut s.mcycle,
        0xb02 => &mut s.minstret,
        0xf14 => return Some(Place::Fixed(s.mhartid)),
        _ => return None,
    }))
}
