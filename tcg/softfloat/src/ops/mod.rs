//! The operations, generic over the format, one family a file. Each takes apart the common case (normal
//! operands) first and leaves zeros, subnormals, infinities and NaNs to a second path.

pub mod add;
pub mod alternative_half;
pub mod classify;
pub mod compare;
pub mod convert;
pub mod div;
pub mod fma;
pub mod integer;
pub mod minmax;
pub mod mul;
pub mod rem;
pub mod round_int;
pub mod scale;
pub mod sqrt;
