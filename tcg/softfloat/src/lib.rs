//! IEEE 754 arithmetic with every guest rounding, NaN and flag rule, in integers only.
//!
//! Each format is a module of free functions on bit patterns ([`mod@f16`], [`mod@bf16`], [`mod@f32`],
//! [`mod@f64`], [`mod@x80`], [`mod@f128`]), all of one shape; [`ops`] has the same operations generic over
//! [`Format`]. What varies between guests is in the [`Status`] every operation takes: it reads the modes and
//! only ever sets flags.
//!
//! ```
//! use softfloat::{Flags, RoundingMode, Status, f64};
//!
//! let mut s = Status::riscv();
//! s.rounding = RoundingMode::Up;
//! let third = f64::div(0x3ff0_0000_0000_0000, 0x4008_0000_0000_0000, &mut s);
//! assert_eq!(third, 0x3fd5_5555_5555_5556);
//! assert_eq!(s.flags.ieee(), Flags::INEXACT.0);
//! ```
//!
//! Results and flags are functions of the operands and the status alone: no host floating point is involved, so the
//! host's own modes cannot leak in.
#![forbid(unsafe_code)]

mod format;
mod modules;
mod nan;
pub mod ops;
mod parts;
mod root;
mod round;
mod status;
mod word;

pub use format::{Bf16, F16, F32, F64, F128, Format, X80};
pub use modules::{bf16, f16, f32, f64, f128, x80};
pub use nan::{DefaultNan, InfZeroNan, NanPolicy, Quieting, ThreeNans, TwoNans};
pub use ops::classify::Category;
pub use ops::compare::Relation;
pub use ops::fma::Negate;
pub use ops::integer::{Int, ToInt};
pub use ops::minmax::MinMax;
pub use ops::rem::{Quotient, Remainder};
pub use status::{Flags, FlushToZero, Precision, RoundingMode, Status, Tininess};
pub use word::{Frac, Wide};
