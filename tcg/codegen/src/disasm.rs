//! Host code as text, for `-d out_asm` and for tests.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter, OpKind};

/// A line an instruction: address, instruction. `address` is that of the first byte.
#[must_use]
pub fn disassemble(code: &[u8], address: u64) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_space_after_operand_separator(true);
    let mut text = String::new();
    let mut line = String::new();
    for i in &mut Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        line.clear();
        formatter.format(&i, &mut line);
        let _ = writeln!(text, "{:4x}  {line}", i.ip());
    }
    text
}

/// The address of the memory operand of the instruction in `code` at `rip`, without its segment's base; `saved` holds the general
/// registers.
pub(crate) fn memory_address(code: &[u8], rip: u64, saved: &[u64]) -> Option<u64> {
    let i = Decoder::with_ip(64, code, rip, DecoderOptions::NONE).decode();
    let operand = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory)?;
    i.virtual_address(operand, 0, |register, _, _| {
        if register.is_segment_register() {
            return Some(0);
        }
        register.is_gpr64().then(|| saved.get(register.number()).copied()).flatten()
    })
}
