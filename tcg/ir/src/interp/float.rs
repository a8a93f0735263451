//! Floating-point operations, on `softfloat`.

use softfloat::ops::{add, compare, convert, div, fma, integer, minmax, mul, round_int, sqrt};
use softfloat::{
    F16, F32, F64, Flags, FlushToZero, Format, Negate, Relation, RoundingMode, Status, Tininess,
};

use crate::{Exceptions, FCond, FpAttr, IntConv, MinMax, NanPolicy, Op, Rounding, Type};

/// Operation environment of an attribute.
///
/// Flushed results raise what their guest's do: underflow and inexact on x86, underflow alone elsewhere.
fn status(attr: FpAttr) -> Status {
    let nan = match attr.nan() {
        NanPolicy::Canonical => softfloat::NanPolicy::RISCV,
        NanPolicy::X86 => softfloat::NanPolicy::X86_SSE,
        NanPolicy::Arm => softfloat::NanPolicy::ARM,
        NanPolicy::Ppc => softfloat::NanPolicy::PPC,
    };
    let tininess = if attr.tiny_before() { Tininess::BeforeRounding } else { Tininess::AfterRounding };
    let mut s = Status::new(nan, tininess);
    s.rounding = match attr.rounding() {
        Rounding::NearestEven => RoundingMode::NearestEven,
        Rounding::Zero => RoundingMode::TowardZero,
        Rounding::Down => RoundingMode::Down,
        Rounding::Up => RoundingMode::Up,
        Rounding::NearestAway => RoundingMode::NearestAway,
        Rounding::Odd => RoundingMode::Odd,
    };
    s.flush_to_zero = match (attr.flush(), attr.nan()) {
        (false, _) => FlushToZero::Off,
        (true, NanPolicy::X86) => FlushToZero::UnderflowInexact,
        (true, _) => FlushToZero::Underflow,
    };
    s.denormals_are_zero = attr.daz();
    s
}

/// Flags of the arithmetic as sticky exceptions. An operand that is taken as zero is no denormal to x86.
fn exceptions(f: Flags, nan: NanPolicy) -> Exceptions {
    let flushed = if nan == NanPolicy::X86 { Exceptions::empty() } else { Exceptions::DENORMAL };
    let table = [
        (Flags::INVALID, Exceptions::INVALID),
        (Flags::INPUT_DENORMAL, Exceptions::DENORMAL),
        (Flags::INPUT_FLUSHED, flushed),
        (Flags::DIV_BY_ZERO, Exceptions::DIV_BY_ZERO),
        (Flags::OVERFLOW, Exceptions::OVERFLOW),
        (Flags::UNDERFLOW, Exceptions::UNDERFLOW),
        (Flags::INEXACT, Exceptions::INEXACT),
    ];
    table.iter().filter(|(flag, _)| f.contains(*flag)).fold(Exceptions::empty(), |e, (_, x)| e | *x)
}

/// A format whose bits fit a `u64`.
trait Small: Format {
    fn of(v: u64) -> Self::Bits;
    fn to(b: Self::Bits) -> u64;
}

macro_rules! small {
    ($($f:ty: $t:ty),*) => {$(
        impl Small for $f {
            fn of(v: u64) -> $t { v as $t }
            fn to(b: $t) -> u64 { u64::from(b) }
        }
    )*};
}
small!(F16: u16, F32: u32, F64: u64);

/// The value of a floating-point operation with result type `ty` and first operand type `aty`; exceptions are added
/// to `exc` unless the attribute is quiet. `None` if the operation is no such operation on floats.
#[must_use]
pub fn float(op: Op, attr: FpAttr, ty: Type, aty: Type, args: [u64; 3], exc: &mut Exceptions) -> Option<u64> {
    let mut s = status(attr);
    let r = match (op, if op == Op::Itof { ty } else { aty }) {
        (_, Type::F16) => in_format::<F16>(op, attr, ty, aty, args, &mut s),
        (_, Type::F32) => in_format::<F32>(op, attr, ty, aty, args, &mut s),
        (_, Type::F64) => in_format::<F64>(op, attr, ty, aty, args, &mut s),
        _ => None,
    };
    if !attr.quiet() {
        let mut raised = exceptions(s.flags, attr.nan());
        if op == Op::Frint && attr.flag() {
            raised.remove(Exceptions::INEXACT);
        }
        if op == Op::Frint && attr.nan() == NanPolicy::X86 {
            // Its rounding instructions look at no denormal.
            raised.remove(Exceptions::DENORMAL);
        }
        *exc |= raised;
    }
    r
}

fn in_format<F: Small>(
    op: Op,
    attr: FpAttr,
    ty: Type,
    aty: Type,
    args: [u64; 3],
    s: &mut Status,
) -> Option<u64> {
    let [a, b, c] = args.map(F::of);
    let r = match op {
        Op::Fadd => add::add::<F, F>(a, b, s),
        Op::Fsub => add::sub::<F, F>(a, b, s),
        Op::Fmul => mul::mul::<F, F>(a, b, s),
        Op::Fdiv => div::div::<F, F>(a, b, s),
        Op::Fsqrt => sqrt::sqrt::<F, F>(a, s),
        Op::Fma => {
            let negate = Negate { product: attr.neg_product(), addend: attr.neg_addend(), result: false };
            fma::fma::<F, F>(a, b, c, negate, s)
        }
        Op::Fmin | Op::Fmax => {
            let rule = match MinMax::from_bits(attr.variant()) {
                MinMax::Number => softfloat::MinMax::Number,
                MinMax::Nan => softfloat::MinMax::Propagate,
                MinMax::X86 => softfloat::MinMax::SecondUnlessLess,
            };
            minmax::min_max::<F>(a, b, rule, op == Op::Fmax, s)
        }
        Op::Frint => round_int::round_to_int::<F>(a, s.rounding, true, s),
        Op::Fcmp => {
            let r = compare::compare::<F>(a, b, attr.flag(), s);
            return Some(u64::from(match FCond::from_bits(attr.variant()) {
                FCond::Eq => r == Relation::Equal,
                FCond::Lt => r == Relation::Less,
                FCond::Le => matches!(r, Relation::Less | Relation::Equal),
                FCond::Un => r == Relation::Unordered,
            }));
        }
        Op::Fcvt => {
            return match ty {
                Type::F16 => Some(F16::to(convert::convert::<F, F16>(a, s))),
                Type::F32 => Some(F32::to(convert::convert::<F, F32>(a, s))),
                Type::F64 => Some(convert::convert::<F, F64>(a, s)),
                _ => None,
            };
        }
        Op::Ftoi => return to_int::<F>(a, attr, ty, s),
        Op::Itof => match (aty, attr.flag()) {
            (Type::I32, false) => integer::from_int::<i32, F>(args[0] as i32, 0, s),
            (Type::I32, true) => integer::from_int::<u32, F>(args[0] as u32, 0, s),
            (Type::I64, false) => integer::from_int::<i64, F>(args[0] as i64, 0, s),
            (Type::I64, true) => integer::from_int::<u64, F>(args[0], 0, s),
            _ => return None,
        },
        _ => return None,
    };
    Some(F::to(r))
}

fn to_int<F: Small>(a: F::Bits, attr: FpAttr, ty: Type, s: &mut Status) -> Option<u64> {
    let rule = IntConv::from_bits(attr.variant());
    let mode = s.rounding;
    macro_rules! conv {
        ($t:ty, $indefinite:expr) => {{
            let r = integer::to_int::<F, $t>(a, 0, mode, s);
            match rule {
                IntConv::SatNanMax => r.nan_max(),
                IntConv::SatNanZero => r.nan_zero(),
                IntConv::Indefinite => r.or($indefinite),
            }
        }};
    }
    Some(match (ty, attr.flag()) {
        (Type::I32, false) => u64::from(conv!(i32, i32::MIN) as u32),
        (Type::I32, true) => u64::from(conv!(u32, u32::MAX)),
        (Type::I64, false) => conv!(i64, i64::MIN) as u64,
        (Type::I64, true) => conv!(u64, u64::MAX),
        _ => return None,
    })
}
