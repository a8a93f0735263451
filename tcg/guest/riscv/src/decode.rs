//! The decode functions and argument types generated from `insn32.decode` and `insn16.decode`.

include!(concat!(env!("OUT_DIR"), "/decode.rs"));

/// Functions of fields that both the translator and the disassembler use.
macro_rules! field_functions {
    () => {
        fn plus8(&self, value: i32) -> i32 {
            value + 8
        }
        fn times2(&self, value: i32) -> i32 {
            value << 1
        }
        fn times4(&self, value: i32) -> i32 {
            value << 2
        }
        fn times8(&self, value: i32) -> i32 {
            value << 3
        }
        fn times16(&self, value: i32) -> i32 {
            value << 4
        }
        fn times4096(&self, value: i32) -> i32 {
            value << 12
        }
    };
}
pub(crate) use field_functions;
