//! Host code as text, for `-d out_asm` and for tests.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

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
