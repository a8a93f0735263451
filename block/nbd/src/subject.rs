//! The subject's name in a certificate (RFC 5280, section 4.1), as text in the manner of RFC 4514 but in the order of the
//! certificate, as QEMU has it from GnuTLS.

/// Tags of DER.
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(super) const BMP_STRING: u8 = 0x1e;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
    pub(super) const VERSION: u8 = 0xa0;
}

/// Types of names.
const NAMES: [(&str, &[u8]); 14] = [
    ("CN", &[0x55, 4, 3]),
    ("surName", &[0x55, 4, 4]),
    ("serialNumber", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("street", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("title", &[0x55, 4, 12]),
    ("givenName", &[0x55, 4, 42]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("EMAIL", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
];

/// Takes an element off the front: its tag and contents.
fn element<'a>(data: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = data.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut len = usize::from(first);
    if first & 0x80 != 0 {
        let bytes = usize::from(first & 0x7f);
        if bytes == 0 || bytes > 4 {
            return None;
        }
        let (head, tail) = rest.split_at_checked(bytes)?;
        len = head.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        rest = tail;
    }
    let (contents, tail) = rest.split_at_checked(len)?;
    *data = tail;
    Some((tag, contents))
}

/// The same for one of a tag.
fn expect<'a>(data: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    element(data).filter(|(t, _)| *t == tag).map(|(_, contents)| contents)
}

/// An object identifier in numbers.
fn dotted(oid: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number = 0u64;
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first);
                number -= 40 * first;
            }
            numbers.push(number);
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Text with what has a meaning of its own escaped (RFC 4514, section 2.4).
fn escaped(text: &str) -> String {
    let mut out = String::new();
    let last = text.chars().count().saturating_sub(1);
    for (i, c) in text.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=');
        if special || i == 0 && matches!(c, ' ' | '#') || i == last && c == ' ' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A value as text.
fn value(tag: u8, bytes: &[u8]) -> String {
    if tag == tag::BMP_STRING {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
        return escaped(&String::from_utf16_lossy(&units));
    }
    escaped(&String::from_utf8_lossy(bytes))
}

/// The subject of a certificate in DER; nothing if it is none.
pub(crate) fn subject(certificate: &[u8]) -> Option<String> {
    let mut outer = certificate;
    let mut whole = expect(&mut outer, tag::SEQUENCE)?;
    let mut signed = expect(&mut whole, tag::SEQUENCE)?;
    if signed.first() == Some(&tag::VERSION) {
        element(&mut signed)?;
    }
    expect(&mut signed, tag::INTEGER)?;
    // Algorithm, issuer, validity.
    for _ in 0..3 {
        expect(&mut signed, tag::SEQUENCE)?;
    }
    let mut name = expect(&mut signed, tag::SEQUENCE)?;
    let mut parts = Vec::new();
    while !name.is_empty() {
        let mut set = expect(&mut name, tag::SET)?;
        let mut together = Vec::new();
        while !set.is_empty() {
            let mut pair = expect(&mut set, tag::SEQUENCE)?;
            let oid = expect(&mut pair, tag::OBJECT_IDENTIFIER)?;
            let (tag, bytes) = element(&mut pair)?;
            let kind = NAMES.iter().find(|(_, known)| *known == oid);
            let kind = kind.map_or_else(|| dotted(oid), |(name, _)| (*name).to_owned());
            together.push(format!("{kind}={}", value(tag, bytes)));
        }
        parts.push(together.join("+"));
    }
    Some(parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
        let contents = contents.concat();
        let len = contents.len();
        let head =
            if len < 0x80 { vec![tag, len as u8] } else { vec![tag, 0x82, (len >> 8) as u8, len as u8] };
        [head, contents].concat()
    }

    fn certificate(name: &[u8]) -> Vec<u8> {
        let nothing = der(tag::SEQUENCE, &[]);
        let signed = [
            &der(tag::VERSION, &[&[2, 1, 2]])[..],
            &[2, 1, 7],
            &nothing,
            &nothing,
            &nothing,
            &der(tag::SEQUENCE, &[name]),
            &nothing,
        ];
        der(tag::SEQUENCE, &[&der(tag::SEQUENCE, &signed), &nothing])
    }

    fn part(oid: &[u8], text: &str) -> Vec<u8> {
        let pair =
            der(tag::SEQUENCE, &[&der(tag::OBJECT_IDENTIFIER, &[oid]), &der(0x0c, &[text.as_bytes()])]);
        der(tag::SET, &[&pair])
    }

    #[test]
    fn a_name_is_text() {
        let long = "x".repeat(200);
        let name = [
            part(&[0x55, 4, 6], "GB"),
            part(&[0x55, 4, 10], "A, B"),
            part(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 99], "y"),
            part(&[0x55, 4, 3], &long),
        ]
        .concat();
        let said = subject(&certificate(&name)).unwrap();
        assert_eq!(said, format!("C=GB,O=A\\, B,1.2.840.113549.1.9.99=y,CN={long}"));
        assert_eq!(subject(&certificate(&[])).unwrap(), "");
    }

    #[test]
    fn what_is_cut_or_changed_is_no_certificate_or_another_name() {
        let whole = certificate(&part(&[0x55, 4, 3], "somebody"));
        for len in 0..whole.len() {
            assert_eq!(subject(&whole[..len]), None, "{len}");
            let mut other = whole.clone();
            for byte in [0, 0x7f, 0x84, 0xff] {
                other[len] = byte;
                subject(&other);
            }
        }
    }
}
