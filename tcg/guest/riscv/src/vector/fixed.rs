//! Fixed-point arithmetic (chapter V, section 12): saturation sets `vxsat`, rounding follows `vxrm`.

use super::{Check, Unit, VCSR, integer, sext};

/// What is cut off when `v` loses its low `d` bits, rounded as `vxrm` says: 0 or 1 to be added (section 3.8).
fn increment(v: u128, d: u32, vxrm: u64) -> u128 {
    if d == 0 {
        return 0;
    }
    let bit = |n: u32| v >> n & 1;
    let rest = v & ((1 << (d - 1)) - 1) != 0;
    match vxrm {
        // To nearest, ties up; to nearest, ties to even; down; to odd.
        0 => bit(d - 1),
        1 => bit(d - 1) & (u128::from(rest) | bit(d)),
        2 => 0,
        _ => u128::from(bit(d) == 0 && (rest || bit(d - 1) != 0)),
    }
}

/// `v >> d` rounded; `v` is signed.
fn round(v: i128, d: u32, vxrm: u64) -> i128 {
    (v >> d) + increment(v as u128, d, vxrm) as i128
}

/// `v` limited to `bits`, and whether that changed it.
fn saturate(v: i128, bits: u32, signed: bool) -> (u64, bool) {
    let (low, high) =
        if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1_i128 << bits) - 1) };
    let limited = v.clamp(low, high);
    (limited as u64, limited != v)
}

fn number(v: u64, bits: u32, signed: bool) -> i128 {
    if signed { sext(v, bits).into() } else { v.into() }
}

fn vxrm(u: &Unit<'_>) -> u64 {
    u.h.vcsrs[VCSR] >> 1 & 3
}

fn accrue(u: &mut Unit<'_>, saturated: bool) {
    u.h.vcsrs[VCSR] |= u64::from(saturated);
}

/// Saturating sums and differences, vsmul, scaling shifts.
pub(super) fn opi(u: &mut Unit<'_>, funct6: u32) -> Check {
    let (bits, vxrm) = (u.bits(), vxrm(u));
    let b = if funct6 < 0x28 { u.second() } else { u.second_unsigned() };
    let signed = funct6 & 1 != 0;
    let mut any = false;
    u.map2(b, |a, b| {
        let (x, y) = (number(a, bits, signed), number(b, bits, signed));
        let shift = (b & u64::from(bits - 1)) as u32;
        let v = match funct6 {
            0x20 | 0x21 => x + y,
            0x22 | 0x23 => x - y,
            0x27 => round(x * y, bits - 1, vxrm),
            _ => return round(x, shift, vxrm) as u64,
        };
        let (v, saturated) = saturate(v, bits, signed);
        any |= saturated;
        v
    })?;
    accrue(u, any);
    Some(())
}

/// vaaddu, vaadd, vasubu, vasub.
pub(super) fn average(u: &mut Unit<'_>, funct6: u32) -> Check {
    let (bits, vxrm, signed, b) = (u.bits(), vxrm(u), funct6 & 1 != 0, u.second());
    u.map2(b, |a, b| {
        let (x, y) = (number(a, bits, signed), number(b, bits, signed));
        round(if funct6 & 2 == 0 { x + y } else { x - y }, 1, vxrm) as u64
    })
}

/// vnclipu, vnclip.
pub(super) fn clip(u: &mut Unit<'_>, signed: bool) -> Check {
    let vxrm = vxrm(u);
    let mut any = false;
    integer::narrow(u, |a, b, n| {
        let shift = (b & u64::from(2 * n - 1)) as u32;
        let (v, saturated) = saturate(round(number(a, 2 * n, signed), shift, vxrm), n, signed);
        any |= saturated;
        v
    })?;
    accrue(u, any);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_modes() {
        // 2.5, 3.5 and 2.25 to integers: up, even, down, odd.
        let all = |v: i128| [0, 1, 2, 3].map(|mode| round(v, 2, mode));
        assert_eq!(all(10), [3, 2, 2, 3]);
        assert_eq!(all(14), [4, 4, 3, 3]);
        assert_eq!(all(9), [2, 2, 2, 3]);
        assert_eq!(all(-10), [-2, -2, -3, -3]);
    }
}
