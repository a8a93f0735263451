//! Compiles the decode tables.

fn main() {
    tcg_decode::Builder::new()
        .file("insn32.decode", "decode32", 32)
        .file("insn_v.decode", "decode_v", 32)
        .file("insn16.decode", "decode16", 16)
        .delegate("crate::translate::Translator<'_, '_>")
        .listing()
        .build("decode.rs");
}
