//! The translator's intermediate representation.
//!
//! A guest front end turns a stretch of guest code into a [`Region`]: a control-flow graph of blocks of
//! single-assignment [`Inst`]s over typed guest-state slots. Passes rewrite it, a back end lowers it to host
//! code, and the interpreter ([`interp`]) executes it directly: it is the definition of every operation and
//! the oracle of every back end.
//!
//! What is fixed here, in the numbering of `docs/ir.md`, the reference:
//! 1. regions of blocks with block parameters, not single blocks ([`Region`]);
//! 2. guest state as typed slots, read by `get` and written by `set` ([`slot`]);
//! 3. flags as producer records (`flags`, `flagcond`, [`FlagKind`]);
//! 4. floating point with rounding, NaN policy, tininess and sticky exceptions ([`FpAttr`]);
//! 5. memory operations that carry every attribute ([`MemOp`]);
//! 6. precise state: `set` is program order, `insn` marks carry the guest pc, and a back end keeps an exit map
//!    for each operation that may leave, instead of storing eagerly;
//! 7. call, return and loop hints on terminators ([`Hint`]);
//! 8. relocatable: guest addresses are `pc` constants, helpers are table indexes, nothing is a host pointer;
//! 9. vectors are values with lane types;
//! 10. instruction marks and the budget check are operations;
//! 11. an interpreter over the same table.

pub mod abi;
mod builder;
mod fp;
pub mod graph;
mod helper;
pub mod interp;
pub mod join;
pub mod lower;
mod memop;
mod op;
pub mod parse;
pub mod passes;
pub mod print;
mod region;
pub mod slot;
pub mod testing;
mod types;
mod vecfn;
pub mod verify;

pub use builder::Builder;
pub use fp::{Exceptions, FpAttr, FpMode, IntConv, MinMax, NanPolicy, Rounding};
pub use helper::{Effects, HelperDesc, HelperFn, HelperId, HelperResult, SlotSet};
pub use memop::{Align, Atomicity, MemOp, Order, RmwOp};
pub use op::{Effect, Op, OpInfo};
pub use print::Tables;
pub use region::{Block, BlockId, Edge, Hint, Inst, Region, Terminator, Value};
pub use slot::{SlotDesc, SlotId, SlotTable};
pub use types::{Cond, FCond, FlagBits, FlagKind, Lane, Type};
pub use vecfn::{Scope, VecFn};
