//! The instruction at which a vCPU stands, for reports about it.

use accel::arch::x86_64::{State, access};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

/// Text of the first instruction of `bytes` in the mode that the vCPU is in, if it is one.
pub(super) fn text(state: &State, bytes: &[u8]) -> Option<String> {
    let long = state.efer & 1 << 10 != 0 && state.cs.access & access::L != 0;
    let wide = state.cs.access & access::DB != 0;
    let bits = match (state.cr0 & 1, long, wide) {
        (1, true, _) => 64,
        (1, _, true) => 32,
        _ => 16,
    };
    let mut decoder = Decoder::with_ip(bits, bytes, state.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let mut out = String::new();
    IntelFormatter::new().format(&instruction, &mut out);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_decides() {
        let mut s = State::reset();
        assert_eq!(text(&s, &[0x48, 0x89, 0xC8]).as_deref(), Some("dec ax"));
        s.start_flat(0x1000);
        assert_eq!(text(&s, &[0x48, 0x89, 0xC8]).as_deref(), Some("dec eax"));
        s.start_long(0x1000, 0);
        assert_eq!(text(&s, &[0x48, 0x89, 0xC8]).as_deref(), Some("mov rax,rcx"));
        assert_eq!(text(&s, &[0xC4, 0x42, 0x69, 0xF7, 0xC0]).as_deref(), Some("shlx r8d,r8d,edx"));
        assert_eq!(text(&s, &[0x06]), None);
        assert_eq!(text(&s, &[]), None);
    }
}
