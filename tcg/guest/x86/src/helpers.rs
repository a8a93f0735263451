//! The helper table: what translated code calls. Helpers stand with their subject; this file numbers them.
//!
//! A file that has helpers defines them with `helpers!`, which gives each type a number counted from the file's base,
//! and a `table()`. The bases follow each other here.

use tcg_engine::{Helper, Trap};
use tcg_ir::{Effects, HelperDesc, HelperId, SlotSet};

use crate::{
    avx512, control, debug, exceptions, far, fpu, guest::X86, port, smm, sse, state, strings, svm, system,
    text, wide,
};

/// A helper with its number.
pub(crate) trait Numbered: Helper<X86> {
    /// Index in the table.
    const ID: HelperId;
}

macro_rules! helpers {
    (base $base:expr; $($(#[$meta:meta])* $ty:ident $name:literal ($($arg:ident),*) -> $result:ident
        reads $reads:expr, writes $writes:expr, effects $effects:expr; |$cx:ident| $body:expr)*) => {
        #[derive(Clone, Copy)]
        enum Index { $($ty,)* }

        /// Number of helpers here.
        pub(crate) const COUNT: u16 = { const NAMES: &[&str] = &[$($name),*]; NAMES.len() as u16 };
        /// Number of the first helper here.
        pub(crate) const FIRST: u16 = $base;

        /// The rows, in order.
        pub(crate) fn table() -> Vec<tcg_ir::HelperDesc> {
            vec![$(tcg_engine::helper::<crate::guest::X86, $ty>(),)*]
        }

        $($(#[$meta])*
        pub(crate) struct $ty;

        impl tcg_engine::Helper<crate::guest::X86> for $ty {
            const NAME: &'static str = $name;
            const ARGS: u8 = { const NAMES: &[&str] = &[$(stringify!($arg)),*]; NAMES.len() as u8 };
            const RESULT: tcg_ir::Type = tcg_ir::Type::$result;
            const READS: tcg_ir::SlotSet = $reads;
            const WRITES: tcg_ir::SlotSet = $writes;
            const EFFECTS: tcg_ir::Effects = $effects;

            fn call(
                $cx: &mut tcg_engine::Cx<'_, crate::guest::X86>,
                args: [u64; 4],
            ) -> Result<u64, tcg_engine::Trap> {
                let [$($arg,)* ..] = args;
                $body
            }
        }

        impl crate::helpers::Numbered for $ty {
            const ID: tcg_ir::HelperId = tcg_ir::HelperId(FIRST + Index::$ty as u16);
        })*
    };
}
pub(crate) use helpers;

/// Raises or leaves, and looks at no slot but what delivery restores itself.
pub(crate) const RAISES: Effects = Effects::RAISES;
/// May raise, touches memory.
pub(crate) const RAISES_MEMORY: Effects = Effects::RAISES.union(Effects::MEMORY);
/// May raise or leave the unit.
pub(crate) const RAISES_EXITS: Effects = Effects::RAISES.union(Effects::EXITS).union(Effects::MEMORY);

/// The system flags.
pub(crate) const SYS: SlotSet = SlotSet::Only(&[state::SYS]);
helpers! {
    base 0;

    /// Raises an exception of the instruction.
    Raise "raise" (code, value) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |_cx| Err(Trap { code, value })

    /// The packed flags of a record.
    FlagsEval "flags_eval" (kind, a, b, c) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(crate::flags::record_bits(&[kind, a, b, c]))

    /// Linear address of `offset` in segment `how & 7`, of an access of `how >> 8` bytes, a write if bit 3 is set.
    Segmented "segmented" (offset, how) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| crate::segment::check(cx.state, (how & 7) as usize, offset, how >> 8, how & 8 != 0)

    /// Interrupts may have been enabled: looks at them before the next unit.
    Look "look" () -> Void
        reads SYS, writes SlotSet::None, effects Effects::empty();
        |cx| {
            crate::interrupts::look(cx);
            Ok(0)
        }
}

/// The whole table, in the order of the bases.
pub(crate) fn all() -> Vec<HelperDesc> {
    let parts = [
        (FIRST, table()),
        (exceptions::FIRST, exceptions::table()),
        (far::FIRST, far::table()),
        (control::FIRST, control::table()),
        (system::FIRST, system::table()),
        (port::FIRST, port::table()),
        (strings::FIRST, strings::table()),
        (wide::FIRST, wide::table()),
        (debug::FIRST, debug::table()),
        (fpu::FIRST, fpu::table()),
        (sse::FIRST, sse::table()),
        (smm::FIRST, smm::table()),
        (text::FIRST, text::table()),
        (avx512::FIRST, avx512::table()),
        (svm::FIRST, svm::table()),
    ];
    let mut all = Vec::new();
    for (first, part) in parts {
        debug_assert_eq!(usize::from(first), all.len(), "helper bases follow each other");
        all.extend(part);
    }
    debug_assert_eq!(usize::from(svm::FIRST + svm::COUNT), all.len(), "all are numbered");
    all
}
