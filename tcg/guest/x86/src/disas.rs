//! Guest code as text.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

/// One line for the instruction at `pc`, and its length.
pub(crate) fn line(bitness: u32, pc: u64, bytes: &[u8]) -> (String, usize) {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_space_after_operand_separator(true);
    let mut decoder = Decoder::with_ip(bitness, bytes, pc, DecoderOptions::NONE);
    let insn = decoder.decode();
    let mut text = format!("{pc:#018x}  ");
    formatter.format(&insn, &mut text);
    (text, insn.len().max(1))
}
