//! The meaning of the vector functions ([`VecFn`]).
//!
//! Sources: Intel SDM volume 2 for what the media instructions compute, FIPS 197 for AES.

use super::{Val, across, sha};
use crate::{Scope, VecFn};

/// Applies `$f` to lanes `$t` (of unsigned type `$u`) of two blocks.
macro_rules! lanes {
    ($u:ty, $t:ty, $a:expr, $b:expr, $f:expr) => {{
        let f = $f;
        let n = <$u>::BITS;
        (0..128 / n).fold(0u128, |r, i| {
            let v = f(($a >> (i * n)) as $t, ($b >> (i * n)) as $t) as $u;
            r | u128::from(v) << (i * n)
        })
    }};
}

/// The value of a function on vectors of `bytes` bytes.
pub(super) fn function(f: VecFn, bytes: usize, args: [&Val; 3], imm: u8) -> Val {
    let [a, b, c] = args;
    let mut r = Val::ZERO;
    match f.scope() {
        Scope::Whole => {
            whole(f, bytes, a, b, imm, &mut r);
            return r;
        }
        Scope::All => return across::function(f, bytes, args, imm),
        _ => {}
    }
    let at = |v: &Val, n: usize| u128::from(v.0[2 * n]) | u128::from(v.0[2 * n + 1]) << 64;
    for n in 0..bytes.div_ceil(16) {
        let (x, y, z) = (at(a, n), at(b, n), at(c, n));
        let v = match f.scope() {
            Scope::Uniform => uniform(f, x, b.0[0]),
            Scope::Lanes => lane_wise(f, [x, y, z], imm),
            _ => block(f, [x, y, z], imm, n),
        };
        (r.0[2 * n], r.0[2 * n + 1]) = (v as u64, (v >> 64) as u64);
    }
    if bytes == 8 {
        r.0[1] = 0;
    }
    r
}

fn whole(f: VecFn, bytes: usize, a: &Val, b: &Val, imm: u8, r: &mut Val) {
    if f == VecFn::Gather64 {
        for i in 0..bytes / 8 {
            r.0[i] = a.0[(i & !3) + usize::from(imm >> (i % 4 * 2) & 3)];
        }
        return;
    }
    let n = bytes / 4;
    for i in 0..n {
        r.set_lane(i, 4, a.lane(b.lane(i, 4) as usize % n, 4));
    }
}

fn uniform(f: VecFn, a: u128, n: u64) -> u128 {
    let by = n.min(64) as u32;
    match f {
        VecFn::Shl16 => lanes!(u16, u16, a, a, |x: u16, _| x.checked_shl(by).unwrap_or(0)),
        VecFn::Shl32 => lanes!(u32, u32, a, a, |x: u32, _| x.checked_shl(by).unwrap_or(0)),
        VecFn::Shl64 => lanes!(u64, u64, a, a, |x: u64, _| x.checked_shl(by).unwrap_or(0)),
        VecFn::Shr16 => lanes!(u16, u16, a, a, |x: u16, _| x.checked_shr(by).unwrap_or(0)),
        VecFn::Shr32 => lanes!(u32, u32, a, a, |x: u32, _| x.checked_shr(by).unwrap_or(0)),
        VecFn::Shr64 => lanes!(u64, u64, a, a, |x: u64, _| x.checked_shr(by).unwrap_or(0)),
        VecFn::Sar16 => lanes!(u16, i16, a, a, |x: i16, _| x >> by.min(15)),
        _ => lanes!(u32, i32, a, a, |x: i32, _| x >> by.min(31)),
    }
}

fn clamp16(v: i32) -> i16 {
    v.clamp(-0x8000, 0x7fff) as i16
}

/// `x` as the sign of `y` says.
fn signed_as(x: i32, y: i32) -> i32 {
    x.wrapping_mul(y.signum())
}

fn lane_wise(f: VecFn, [a, b, c]: [u128; 3], imm: u8) -> u128 {
    let size = 8 << (imm & 3);
    match f {
        VecFn::Clz => gather(size, words(a, size).map(|v| u64::from(v.leading_zeros() + size - 64))),
        VecFn::Ones => gather(size, words(a, size).map(|v| v.count_ones().into())),
        VecFn::Dot => {
            let of = words(a, 32).zip(words(b, 32)).zip(words(c, 32));
            gather(32, of.map(|((a, b), c)| dot(a as i32, b as u32, c as u32, imm)))
        }
        VecFn::Mul52 => {
            let of = words(a, 64).zip(words(b, 64)).zip(words(c, 64));
            gather(64, of.map(|((a, b), c)| a.wrapping_add(product52(b, c, imm & 1 != 0))))
        }
        VecFn::BytesAt => lanes!(u64, u64, a, b, |x: u64, y: u64| {
            u64::from_le_bytes(x.to_le_bytes().map(|n| y.rotate_right((n & 63).into()) as u8))
        }),
        VecFn::BitsAt => lanes!(u64, u64, a, b, |x: u64, y: u64| {
            u64::from_le_bytes(y.to_le_bytes().map(|n| if x >> (n & 63) & 1 != 0 { 0xff } else { 0 }))
        }),
        VecFn::Class32 => {
            lanes!(u32, u32, a, a, |x: u32, _| if is_class(x.into(), 8, 23, imm) { u32::MAX } else { 0 })
        }
        VecFn::Class64 => {
            lanes!(u64, u64, a, a, |x: u64, _| if is_class(x, 11, 52, imm) { u64::MAX } else { 0 })
        }
        VecFn::AddS8 => lanes!(u8, i8, a, b, i8::saturating_add),
        VecFn::AddS16 => lanes!(u16, i16, a, b, i16::saturating_add),
        VecFn::AddU8 => lanes!(u8, u8, a, b, u8::saturating_add),
        VecFn::AddU16 => lanes!(u16, u16, a, b, u16::saturating_add),
        VecFn::SubS8 => lanes!(u8, i8, a, b, i8::saturating_sub),
        VecFn::SubS16 => lanes!(u16, i16, a, b, i16::saturating_sub),
        VecFn::SubU8 => lanes!(u8, u8, a, b, u8::saturating_sub),
        VecFn::SubU16 => lanes!(u16, u16, a, b, u16::saturating_sub),
        VecFn::Avg8 => lanes!(u8, u8, a, b, |x: u8, y: u8| (u16::from(x) + u16::from(y) + 1) >> 1),
        VecFn::Avg16 => lanes!(u16, u16, a, b, |x: u16, y: u16| (u32::from(x) + u32::from(y) + 1) >> 1),
        VecFn::Sign8 => lanes!(u8, i8, a, b, |x: i8, y: i8| signed_as(x.into(), y.into())),
        VecFn::Sign16 => lanes!(u16, i16, a, b, |x: i16, y: i16| signed_as(x.into(), y.into())),
        VecFn::Sign32 => lanes!(u32, i32, a, b, signed_as),
        VecFn::Abs8 => lanes!(u8, i8, a, b, |x: i8, _| x.wrapping_abs()),
        VecFn::Abs16 => lanes!(u16, i16, a, b, |x: i16, _| x.wrapping_abs()),
        VecFn::Abs32 => lanes!(u32, i32, a, b, |x: i32, _| x.wrapping_abs()),
        VecFn::MulAdd16 => lanes!(u32, i32, a, b, |x: i32, y: i32| {
            let product = |n: u32| i32::from((x >> n) as i16) * i32::from((y >> n) as i16);
            product(0).wrapping_add(product(16))
        }),
        VecFn::MulAdd8 => lanes!(u16, i16, a, b, |x: i16, y: i16| {
            let product = |n: u32| i32::from((x >> n) as u8) * i32::from((y >> n) as i8);
            clamp16(product(0) + product(8))
        }),
        VecFn::MulRound16 => {
            lanes!(u16, i16, a, b, |x: i16, y: i16| { (((i32::from(x) * i32::from(y)) >> 14) + 1) >> 1 })
        }
        VecFn::MulU32 => lanes!(u64, u64, a, b, |x: u64, y: u64| (x & 0xffff_ffff) * (y & 0xffff_ffff)),
        VecFn::MulS32 => {
            lanes!(u64, i64, a, b, |x: i64, y: i64| i64::from(x as i32) * i64::from(y as i32))
        }
        VecFn::Sad8 => lanes!(u64, u64, a, b, |x: u64, y: u64| {
            let pairs = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
            pairs.map(|(x, y)| u64::from(x.abs_diff(y))).sum::<u64>()
        }),
        VecFn::ShlV32 => lanes!(u32, u32, a, b, |x: u32, y: u32| x.checked_shl(y).unwrap_or(0)),
        VecFn::ShlV64 => {
            lanes!(u64, u64, a, b, |x: u64, y: u64| x.checked_shl(y.min(64) as u32).unwrap_or(0))
        }
        VecFn::ShrV32 => lanes!(u32, u32, a, b, |x: u32, y: u32| x.checked_shr(y).unwrap_or(0)),
        VecFn::ShrV64 => {
            lanes!(u64, u64, a, b, |x: u64, y: u64| x.checked_shr(y.min(64) as u32).unwrap_or(0))
        }
        VecFn::SarV32 => lanes!(u32, i32, a, b, |x: i32, y: i32| x >> (y as u32).min(31)),
        VecFn::GfMul => lanes!(u8, u8, a, b, gf_mul),
        _ => {
            let affine = |x: u64, matrix: u64| {
                let byte =
                    |x: u8| gf_affine(if f == VecFn::GfInverse { gf_inverse(x) } else { x }, matrix, imm);
                u64::from_le_bytes(x.to_le_bytes().map(byte))
            };
            lanes!(u64, u64, a, b, affine)
        }
    }
}

/// A double word plus the products of the parts of two others.
fn dot(sum: i32, a: u32, b: u32, imm: u8) -> u64 {
    let products: i64 = if imm & 1 != 0 {
        (0..2).map(|i| i64::from((a >> (16 * i)) as i16) * i64::from((b >> (16 * i)) as i16)).sum()
    } else {
        (0..4).map(|i| i64::from((a >> (8 * i)) as u8) * i64::from((b >> (8 * i)) as i8)).sum()
    };
    let sum = i64::from(sum) + products;
    if imm & 2 != 0 { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u64 } else { sum as u64 }
}

/// A half of the product of two numbers of 52 bits.
fn product52(a: u64, b: u64, high: bool) -> u64 {
    const MASK: u64 = (1 << 52) - 1;
    let p = u128::from(a & MASK) * u128::from(b & MASK);
    (if high { p >> 52 } else { p }) as u64 & MASK
}

/// Whether a float with fields of `exp` and `mant` bits is of one of the classes.
fn is_class(v: u64, exp: u32, mant: u32, classes: u8) -> bool {
    let negative = v >> (exp + mant) & 1 != 0;
    let (e, m) = (v >> mant & ((1 << exp) - 1), v & ((1 << mant) - 1));
    let (top, quiet) = (e == (1 << exp) - 1, m >> (mant - 1) & 1 != 0);
    let is = [
        top && quiet,
        e == 0 && m == 0 && !negative,
        e == 0 && m == 0 && negative,
        top && m == 0 && !negative,
        top && m == 0 && negative,
        e == 0 && m != 0,
        !top && negative && (e != 0 || m != 0),
        top && m != 0 && !quiet,
    ];
    is.iter().enumerate().any(|(i, is)| *is && classes >> i & 1 != 0)
}

/// Words of `n` bits of a block.
fn words(v: u128, n: u32) -> impl Iterator<Item = u64> {
    (0..128 / n).map(move |i| (v >> (i * n)) as u64 & (u64::MAX >> (64 - n)))
}

/// A block of words of `n` bits.
fn gather(n: u32, words: impl IntoIterator<Item = u64>) -> u128 {
    let mask = u64::MAX >> (64 - n);
    words.into_iter().enumerate().fold(0, |r, (i, v)| r | u128::from(v & mask) << (i as u32 * n))
}

/// Saturated lanes of both operands in half their width.
fn pack(n: u32, a: u128, b: u128, range: std::ops::RangeInclusive<i64>) -> u128 {
    let clamp = |v: u64| ((v << (64 - n)) as i64 >> (64 - n)).clamp(*range.start(), *range.end()) as u64;
    gather(n / 2, words(a, n).chain(words(b, n)).map(clamp))
}

fn zip(n: u32, a: u64, b: u64) -> u128 {
    let part = |v: u64, i: u32| if n == 64 { v } else { v >> (i * n) & ((1 << n) - 1) };
    gather(n, (0..64 / n).flat_map(|i| [part(a, i), part(b, i)]))
}

fn pairs(n: u32, a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let all: Vec<u64> = words(a, n).chain(words(b, n)).collect();
    gather(n, all.chunks(2).map(|p| f(p[0], p[1])))
}

fn block(f: VecFn, [a, b, c]: [u128; 3], imm: u8, n: usize) -> u128 {
    let (low, high) = (|v: u128| v as u64, |v: u128| (v >> 64) as u64);
    let picked = |v: u128, i: u32| v >> (32 * u32::from(imm >> (2 * i) & 3)) & 0xffff_ffff;
    let word = |v: u64, i: u32| v >> (16 * u32::from(imm >> (2 * i) & 3)) & 0xffff;
    let saturated = |f: fn(i16, i16) -> i16| move |x: u64, y: u64| f(x as i16, y as i16) as u16 as u64;
    match f {
        VecFn::PackS16 => pack(16, a, b, -0x80..=0x7f),
        VecFn::PackS32 => pack(32, a, b, -0x8000..=0x7fff),
        VecFn::PackU16 => pack(16, a, b, 0..=0xff),
        VecFn::PackU32 => pack(32, a, b, 0..=0xffff),
        VecFn::ZipLow8 => zip(8, low(a), low(b)),
        VecFn::ZipLow16 => zip(16, low(a), low(b)),
        VecFn::ZipLow32 => zip(32, low(a), low(b)),
        VecFn::ZipLow64 => zip(64, low(a), low(b)),
        VecFn::ZipHigh8 => zip(8, high(a), high(b)),
        VecFn::ZipHigh16 => zip(16, high(a), high(b)),
        VecFn::ZipHigh32 => zip(32, high(a), high(b)),
        VecFn::ZipHigh64 => zip(64, high(a), high(b)),
        VecFn::AddPairs16 => pairs(16, a, b, u64::wrapping_add),
        VecFn::AddPairs32 => pairs(32, a, b, u64::wrapping_add),
        VecFn::AddPairsS16 => pairs(16, a, b, saturated(i16::saturating_add)),
        VecFn::SubPairs16 => pairs(16, a, b, u64::wrapping_sub),
        VecFn::SubPairs32 => pairs(32, a, b, u64::wrapping_sub),
        VecFn::SubPairsS16 => pairs(16, a, b, saturated(i16::saturating_sub)),
        VecFn::Bytes => {
            let from = a.to_le_bytes();
            let byte = |i: u8| if i & 0x80 != 0 { 0 } else { from[usize::from(i & 15)] };
            u128::from_le_bytes(b.to_le_bytes().map(byte))
        }
        VecFn::Least16 => {
            let least = words(a, 16).enumerate().map(|(i, v)| v << 16 | i as u64).min().unwrap_or(0);
            u128::from(least >> 16 | (least & 0xffff) << 16)
        }
        VecFn::Pick32 => (0..4).fold(0, |r, i| r | picked(a, i) << (32 * i)),
        VecFn::PickLow16 => {
            a >> 64 << 64 | (0..4).fold(0, |r, i| r | u128::from(word(low(a), i)) << (16 * i))
        }
        VecFn::PickHigh16 => {
            u128::from(low(a)) | (0..4).fold(0, |r, i| r | u128::from(word(high(a), i)) << (64 + 16 * i))
        }
        VecFn::PickTwo32 => (0..4).fold(0, |r, i| r | picked(if i < 2 { a } else { b }, i) << (32 * i)),
        VecFn::PickTwo64 | VecFn::Pick64 => {
            let which = imm >> (2 * n);
            let second = if f == VecFn::Pick64 { a } else { b };
            let pick = |v: u128, bit: u8| if bit & 1 != 0 { high(v) } else { low(v) };
            gather(64, [pick(a, which), pick(second, which >> 1)])
        }
        VecFn::PickV32 => gather(32, words(b, 32).map(|i| (a >> (32 * (i & 3))) as u64)),
        VecFn::PickV64 => {
            let pick = |v: u64| if v & 2 != 0 { high(a) } else { low(a) };
            gather(64, [pick(low(b)), pick(high(b))])
        }
        VecFn::Align => match u32::from(imm) * 8 {
            0 => b,
            by @ 1..128 => b >> by | a << (128 - by),
            by @ 128..256 => a >> (by - 128),
            _ => 0,
        },
        VecFn::ShlBytes => a.checked_shl(u32::from(imm) * 8).unwrap_or(0),
        VecFn::ShrBytes => a.checked_shr(u32::from(imm) * 8).unwrap_or(0),
        VecFn::Blend16 => {
            let either = words(a, 16).zip(words(b, 16)).enumerate();
            gather(16, either.map(|(i, (x, y))| if imm >> i & 1 != 0 { y } else { x }))
        }
        VecFn::Blend32 => {
            let either = words(a, 32).zip(words(b, 32)).enumerate();
            gather(32, either.map(|(i, (x, y))| if imm >> (n % 2 * 4 + i) & 1 != 0 { y } else { x }))
        }
        VecFn::SadBlocks => {
            let imm = imm >> (n % 2 * 3);
            let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
            let (from, to) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
            let sum = |i: usize| (0..4).map(|j| u64::from(x[from + i + j].abs_diff(y[to + j]))).sum();
            gather(16, (0..8).map(sum))
        }
        VecFn::SadPicked => {
            let picked: Vec<u8> = (0..4).flat_map(|i| (picked(b, i) as u32).to_le_bytes()).collect();
            let x = a.to_le_bytes();
            // Words 0 and 1 compare the first four bytes, 2 and 3 the next four; those of each half share eight of the picked.
            let sum = |i: usize| {
                let (from, to) = (i / 4 * 8 + i % 4 / 2 * 4, i / 4 * 8 + i % 4);
                (0..4).map(|j| u64::from(x[from + j].abs_diff(picked[to + j]))).sum()
            };
            gather(16, (0..8).map(sum))
        }
        VecFn::Clmul => {
            let x = if imm & 1 != 0 { high(a) } else { low(a) };
            let y = if imm & 16 != 0 { high(b) } else { low(b) };
            (0..64).filter(|i| y >> i & 1 != 0).fold(0, |r, i| r ^ u128::from(x) << i)
        }
        VecFn::AesEnc => mix(substitute(shift_rows(a, 1), &SBOX), [2, 3, 1, 1]) ^ b,
        VecFn::AesEncLast => substitute(shift_rows(a, 1), &SBOX) ^ b,
        VecFn::AesDec => mix(substitute(shift_rows(a, 3), &INVERSE_SBOX), [14, 11, 13, 9]) ^ b,
        VecFn::AesDecLast => substitute(shift_rows(a, 3), &INVERSE_SBOX) ^ b,
        VecFn::AesInvMix => mix(a, [14, 11, 13, 9]),
        VecFn::AesKey => {
            let s = substitute(a, &SBOX);
            let (x1, x3) = ((s >> 32) as u32, (s >> 96) as u32);
            let turned = |v: u32| v.rotate_right(8) ^ u32::from(imm);
            gather(32, [x1, turned(x1), x3, turned(x3)].map(u64::from))
        }
        VecFn::Sha1Rounds => sha::rounds1(a, b, imm),
        VecFn::Sha1Next => sha::next1(a, b),
        VecFn::Sha1Msg1 => sha::first1(a, b),
        VecFn::Sha1Msg2 => sha::second1(a, b),
        VecFn::Sha256Rounds => sha::rounds256(a, b, c),
        VecFn::Sha256Msg1 => sha::first256(a, b),
        _ => sha::second256(a, b),
    }
}

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn gf_mul(a: u8, b: u8) -> u8 {
    let (mut r, mut a, mut n) = (0, a, 0);
    while n < 8 {
        if b >> n & 1 != 0 {
            r ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        n += 1;
    }
    r
}

/// The 254th power: the inverse, and 0 for 0.
const fn gf_inverse(a: u8) -> u8 {
    let (mut r, mut n) = (1, 0);
    while n < 254 {
        r = gf_mul(r, a);
        n += 1;
    }
    r
}

/// Bit `i` is the parity of the byte and row `7 - i` of the matrix.
fn gf_affine(x: u8, matrix: u64, add: u8) -> u8 {
    let rows = matrix.to_be_bytes();
    (0..8).fold(add, |r, i| r ^ (((rows[i] & x).count_ones() & 1) as u8) << i)
}

/// The substitution of FIPS 197, 5.1.1: the inverse, then an affine map.
const SBOX: [u8; 256] = {
    let (mut t, mut n) = ([0; 256], 0);
    while n < 256 {
        let x = gf_inverse(n as u8);
        t[n] = x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63;
        n += 1;
    }
    t
};

const INVERSE_SBOX: [u8; 256] = {
    let (mut t, mut n) = ([0; 256], 0);
    while n < 256 {
        t[SBOX[n] as usize] = n as u8;
        n += 1;
    }
    t
};

fn substitute(v: u128, table: &[u8; 256]) -> u128 {
    u128::from_le_bytes(v.to_le_bytes().map(|b| table[usize::from(b)]))
}

/// Row `r` of the state turned left by `r * by` columns; byte `4 * column + row`.
fn shift_rows(v: u128, by: usize) -> u128 {
    let from = v.to_le_bytes();
    u128::from_le_bytes(std::array::from_fn(|i| from[(i + 4 * by * (i % 4)) % 16]))
}

/// Each column times the circulant matrix with this first row.
fn mix(v: u128, row: [u8; 4]) -> u128 {
    let from = v.to_le_bytes();
    let byte = |i: usize| (0..4).fold(0, |r, j| r ^ gf_mul(from[i & !3 | j], row[(4 + j - i % 4) % 4]));
    u128::from_le_bytes(std::array::from_fn(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_agrees_with_fips_197() {
        // Appendix B: the state and round key 1 of the first round.
        let start = u128::from_le_bytes([
            0x19, 0x3d, 0xe3, 0xbe, 0xa0, 0xf4, 0xe2, 0x2b, 0x9a, 0xc6, 0x8d, 0x2a, 0xe9, 0xf8, 0x48, 0x08,
        ]);
        let key = u128::from_le_bytes([
            0xa0, 0xfa, 0xfe, 0x17, 0x88, 0x54, 0x2c, 0xb1, 0x23, 0xa3, 0x39, 0x39, 0x2a, 0x6c, 0x76, 0x05,
        ]);
        let next = u128::from_le_bytes([
            0xa4, 0x9c, 0x7f, 0xf2, 0x68, 0x9f, 0x35, 0x2b, 0x6b, 0x5b, 0xea, 0x43, 0x02, 0x6a, 0x50, 0x49,
        ]);
        assert_eq!(block(VecFn::AesEnc, [start, key, 0], 0, 0), next);
        let mixed = block(VecFn::AesInvMix, [next ^ key, 0, 0], 0, 0);
        let back = block(VecFn::AesDecLast, [mixed, 0, 0], 0, 0);
        assert_eq!(back, start);
    }

    #[test]
    fn functions_have_their_scope() {
        for f in VecFn::ALL {
            let (x, y) = (Val([0x1122_3344_5566_7788; 8]), Val([3; 8]));
            let r = function(*f, 64, [&x, &y, &x], 1);
            if f.scope() == Scope::Lanes {
                let half = function(*f, 8, [&x, &y, &x], 1);
                assert_eq!(half.0[0], r.0[0], "{}", f.name());
            }
        }
    }
}
