//! Scalars as the command line writes them: switches, numbers, sizes.

/// `on`/`off` and their synonyms.
pub fn parse_bool(s: &str) -> Option<bool> {
    match s {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// A number: decimal, or hexadecimal after `0x`.
pub fn parse_number(s: &str) -> Option<u64> {
    let (digits, radix) = match s.strip_prefix("0x").or_else(|| s.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (s, 10),
    };
    // `from_str_radix` takes a sign, we do not.
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// A size in bytes. `unit` multiplies a number without suffix. A decimal fraction is allowed before a suffix
/// larger than bytes (`1.5G`).
pub fn parse_size(s: &str, unit: u64) -> Option<u64> {
    if let Some(n) = s.strip_prefix("0x") {
        return u64::from_str_radix(n, 16).ok().filter(|_| !n.starts_with('+'))?.checked_mul(unit);
    }
    let digits = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (number, suffix) = s.split_at(digits);
    let scale = match suffix {
        "" => unit,
        "b" | "B" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "p" | "P" => 1 << 50,
        "e" | "E" => 1 << 60,
        _ => return None,
    };
    let (whole, fraction) = match number.split_once('.') {
        None => (number, None),
        Some((w, f)) => (w, Some(f)),
    };
    let bytes = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let Some(fraction) = fraction else { return Some(bytes) };
    // Twelve digits are finer than a byte of a terabyte, and keep the product in 128 bits.
    if scale == 1 || fraction.is_empty() || fraction.len() > 12 {
        return None;
    }
    let parts = fraction.parse::<u128>().ok()?;
    let extra = parts * u128::from(scale) / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    bytes.checked_add(u64::try_from(extra).ok()?)
}

/// A size as the largest unit that divides it: `512M`, `1536M`, `4097`.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(60, 'E'), (50, 'P'), (40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, unit, want) in [
            ("512", 1 << 20, Some(512 << 20)),
            ("1G", 1, Some(1 << 30)),
            ("1.5G", 1, Some(3 << 29)),
            ("0x1000", 1, Some(4096)),
            ("7b", 1 << 20, Some(7)),
            ("16E", 1, None),
            ("15E", 1, Some(15 << 60)),
            ("1.5", 1, None),
            ("1.G", 1, None),
            ("", 1, None),
            ("-1", 1, None),
            ("+1", 1, None),
            ("12x", 1, None),
            ("G", 1, None),
            ("99999999999999999999", 1, None),
        ] {
            assert_eq!(parse_size(text, unit), want, "{text}");
        }
        for n in [0, 1, 1024, 3 << 29, 4097, u64::MAX] {
            assert_eq!(parse_size(&format_size(n), 1), Some(n));
        }
    }

    #[test]
    fn numbers() {
        for (text, want) in
            [("0x1f", Some(31)), ("12", Some(12)), ("+1", None), ("0x", None), ("", None), ("1k", None)]
        {
            assert_eq!(parse_number(text), want, "{text}");
        }
    }
}
