//! Disassembly from the same decode tables as translation.
//!
//! A pattern's name and argument names say almost all: `_` is printed as `.`, a load's `imm` and `rs1` as `imm(rs1)`,
//! jump targets as addresses. Which operands are floating-point registers follows from the name.

use crate::{
    cpu::{Cpu, Ext},
    csr,
    decode::{self, Fields, Lister, Listing, field_functions},
    state::{F_NAMES, X_NAMES},
};

struct Printer<'a> {
    cpu: &'a Cpu,
    pc: u64,
    text: String,
}

impl Fields for Printer<'_> {
    field_functions!();
}

/// Names that only RV64 has; on RV32 their compressed encodings mean something else.
const RV64_ONLY: [&str; 5] = ["ld", "sd", "addiw", "lwu", "c64_illegal"];

impl Listing for Printer<'_> {
    fn insn(&mut self, name: &'static str, args: &[(&'static str, i64)]) -> bool {
        if self.cpu.xlen == 32 && RV64_ONLY.contains(&name) {
            return false;
        }
        self.text = if name.ends_with("illegal") { "illegal".to_owned() } else { self.format(name, args) };
        true
    }
}

impl Printer<'_> {
    fn format(&self, name: &str, args: &[(&str, i64)]) -> String {
        let arg = |wanted: &str| args.iter().find(|(n, _)| *n == wanted).map(|(_, v)| *v);
        let mnemonic = match arg("nf") {
            Some(nf) => vector_memory(name, nf + 1),
            None => mnemonic(name, arg("aq") == Some(1), arg("rl") == Some(1)),
        };
        // A carry in is v0 itself, not a mask.
        let carry = name.starts_with("vmadc") || name.starts_with("vmsbc");
        let mnemonic = if carry && arg("vm") == Some(0) { mnemonic + "m" } else { mnemonic };
        let mut operands: Vec<String> = Vec::new();
        let is_memory = memory(name);
        for (n, v) in args {
            let text = match *n {
                "aq" | "rl" | "fm" => continue,
                "nf" => continue,
                "vm" if *v != 0 => continue,
                "vm" if carry => "v0".to_owned(),
                "vm" => "v0.t".to_owned(),
                "rs1" if name.starts_with('v') && vector_address(name) => {
                    format!("({})", X_NAMES[(*v & 31) as usize])
                }
                "zimm" if name.starts_with("vset") => vtype(*v as u64),
                "vd" | "vs1" | "vs2" => format!("v{v}"),
                "rm" if *v == 7 || fixed_rounding(name) => continue,
                "rm" => {
                    ["rne", "rtz", "rdn", "rup", "rmm", "rm5", "rm6", "dyn"][(*v & 7) as usize].to_owned()
                }
                "rs1" if is_memory => continue,
                "rs1" if atomic(name) => continue,
                "rd" | "rs1" | "rs2" | "rs3" => register(name, n, *v),
                "imm" if is_memory => format!("{v}({})", X_NAMES[(arg("rs1").unwrap_or(0) & 31) as usize]),
                "imm" if matches!(name, "jal" | "beq" | "bne" | "blt" | "bge" | "bltu" | "bgeu") => {
                    let target = self.pc.wrapping_add(*v as u64);
                    format!("{:#x}", if self.cpu.xlen == 32 { target & 0xffff_ffff } else { target })
                }
                "imm" if matches!(name, "lui" | "auipc") => format!("{:#x}", *v as u32 >> 12),
                "csr" => csr::name(*v as u16).unwrap_or_else(|| format!("{v:#x}")),
                "pred" | "succ" => ["i", "o", "r", "w"]
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| v >> (3 - i) & 1 != 0)
                    .map(|(_, c)| *c)
                    .collect(),
                _ => v.to_string(),
            };
            operands.push(text);
        }
        if name.starts_with("csr") && operands.len() == 3 || multiply_add(name) {
            operands.swap(1, 2);
        }
        if ["_vvm", "_vxm", "_vim", "_vfm"].iter().any(|form| name.ends_with(form)) {
            operands.push("v0".to_owned());
        }
        // Stores name the data first, and so does this list; only the memory operand moves to the end already.
        if atomic(name) {
            operands.push(format!("({})", X_NAMES[(arg("rs1").unwrap_or(0) & 31) as usize]));
        }
        if operands.is_empty() { mnemonic } else { format!("{mnemonic} {}", operands.join(",")) }
    }
}

fn mnemonic(name: &str, aq: bool, rl: bool) -> String {
    let name = name.strip_prefix("zcb_").unwrap_or(name);
    let name = name.strip_suffix("_32").or(name.strip_suffix("_64")).unwrap_or(name);
    let order = match (aq, rl) {
        (false, false) => "",
        (true, false) => ".aq",
        (false, true) => ".rl",
        (true, true) => ".aqrl",
    };
    format!("{}{order}", name.replace('_', "."))
}

/// Vector loads and stores carry the number of fields or registers in their names: `vlseg2e8.v`, `vl4re16.v`.
fn vector_memory(name: &str, fields: i64) -> String {
    let name = name.strip_suffix("_v").unwrap_or(name);
    if let Some(width) = name.strip_prefix("vlre") {
        return format!("vl{fields}re{width}.v");
    }
    match name.find('e') {
        None => format!("vs{fields}r.v"),
        Some(at) if fields > 1 => format!("{}seg{fields}{}.v", &name[..at], &name[at..]),
        Some(_) => format!("{name}.v"),
    }
}

/// True for vector loads and stores, whose `rs1` is an address.
fn vector_address(name: &str) -> bool {
    let stems =
        ["vle", "vse", "vlse", "vsse", "vlux", "vlox", "vsux", "vsox", "vlm_", "vsm_", "vlre", "vsr_"];
    // vsext is the one name that looks like them.
    stems.iter().any(|stem| name.starts_with(stem)) && !name.starts_with("vset") && !name.starts_with("vsext")
}

/// `vd` is also an operand of these, and the multiplier comes before what `vs2` holds.
fn multiply_add(name: &str) -> bool {
    ["macc", "madd", "msac", "msub"].iter().any(|op| name.contains(op)) && name.starts_with('v')
}

/// `vtype` as assemblers write it.
fn vtype(v: u64) -> String {
    let lmul = ["m1", "m2", "m4", "m8", "", "mf8", "mf4", "mf2"][(v & 7) as usize];
    if v >> 8 != 0 || v >> 3 & 7 > 3 || lmul.is_empty() {
        return v.to_string();
    }
    let tail = if v >> 6 & 1 != 0 { "ta" } else { "tu" };
    let mask = if v >> 7 & 1 != 0 { "ma" } else { "mu" };
    format!("e{},{lmul},{tail},{mask}", 8 << (v >> 3 & 3))
}

/// Instructions whose `imm` is a displacement from `rs1`.
fn memory(name: &str) -> bool {
    let name = name.strip_prefix("zcb_").unwrap_or(name);
    matches!(
        name,
        "lb" | "lh"
            | "lw"
            | "ld"
            | "lbu"
            | "lhu"
            | "lwu"
            | "sb"
            | "sh"
            | "sw"
            | "sd"
            | "flh"
            | "flw"
            | "fld"
            | "fsh"
            | "fsw"
            | "fsd"
            | "jalr"
    )
}

fn atomic(name: &str) -> bool {
    name.starts_with("amo") || name.starts_with("lr_") || name.starts_with("sc_") || name.starts_with("cbo_")
}

/// Conversions that are always exact: their rounding field is not printed.
fn fixed_rounding(name: &str) -> bool {
    matches!(name, "fcvt_d_s" | "fcvt_d_w" | "fcvt_d_wu" | "fcvt_s_h" | "fcvt_d_h")
}

/// The name of operand `arg`: a floating-point register if the instruction's name says so.
fn register(name: &str, arg: &str, n: i64) -> String {
    let n = (n & 31) as usize;
    let is_integer = |part: Option<&str>| matches!(part, Some("x" | "w" | "wu" | "l" | "lu"));
    let mut parts = name.split('_');
    let stem = parts.next().unwrap_or("");
    let (to, from) = (parts.next(), parts.next());
    let float = match stem {
        "flh" | "flw" | "fld" => arg == "rd",
        "fsh" | "fsw" | "fsd" => arg == "rs2",
        "feq" | "flt" | "fle" | "fclass" => arg != "rd",
        // fmv.w.x names the width where fcvt.w.s names an integer.
        "fmv" => {
            if arg == "rd" {
                to != Some("x")
            } else {
                from != Some("x")
            }
        }
        "fcvt" => !is_integer(if arg == "rd" { to } else { from }),
        "fence" => false,
        "vfmv" => arg == "rd" && to == Some("f") || arg == "rs1",
        _ if stem.starts_with("vf") || stem.starts_with("vmf") => arg == "rs1",
        _ => stem.starts_with('f'),
    };
    if float { F_NAMES[n] } else { X_NAMES[n] }.to_owned()
}

/// One line of disassembly and the length of the instruction; bytes that decode to nothing are shown as numbers.
pub(crate) fn line(cpu: &Cpu, pc: u64, bytes: &[u8]) -> (String, usize) {
    let half = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let Some(low) = half(0) else { return (".byte".to_owned(), bytes.len().max(1)) };
    let mut printer = Printer { cpu, pc, text: String::new() };
    if low & 3 != 3 {
        let known = cpu.ext.has(Ext::C) && decode::decode16(&mut Lister(&mut printer), low);
        return (if known { printer.text } else { format!(".2byte {low:#06x}") }, 2);
    }
    let Some(high) = half(2) else { return (format!(".2byte {low:#06x}"), 2) };
    let word = u32::from(low) | u32::from(high) << 16;
    let known = decode::decode32(&mut Lister(&mut printer), word)
        || cpu.ext.has(Ext::V) && decode::decode_v(&mut Lister(&mut printer), word);
    (if known { printer.text } else { format!(".4byte {word:#010x}") }, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dis(word: u32) -> String {
        let cpu = Cpu::new(64, "", &[]).unwrap();
        line(&cpu, 0x1000, &word.to_le_bytes()).0
    }

    #[test]
    fn forms() {
        assert_eq!(dis(0x0050_0093), "addi ra,zero,5");
        assert_eq!(dis(0x0083_3503), "ld a0,8(t1)");
        assert_eq!(dis(0x00a3_3423), "sd a0,8(t1)");
        assert_eq!(dis(0xfe00_0ee3), "beq zero,zero,0xffc");
        assert_eq!(dis(0x3000_2573), "csrrs a0,mstatus,zero");
        assert_eq!(dis(0x1005_25af), "lr.w a1,(a0)");
        assert_eq!(dis(0x00b5_75d3), "fadd.s fa1,fa0,fa1");
        assert_eq!(dis(0xe005_0553), "fmv.x.w a0,fa0");
        assert_eq!(dis(0xc005_1553), "fcvt.w.s a0,fa0,rtz");
        assert_eq!(dis(0x0000_8082), "jalr zero,0(ra)");
        assert_eq!(dis(0x0ff0_000f), "fence iorw,iorw");
        assert_eq!(dis(0xffff_ffff), ".4byte 0xffffffff");
    }
}
