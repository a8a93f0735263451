//! Which licences the crates we link may have.
//!
//! Rhea is Apache-2.0 OR MIT: every crate must offer a choice that lets the whole be passed on under both. An
//! expression is read as in SPDX's annex "SPDX license expressions": `AND` binds tighter than `OR`, `WITH` adds an
//! exception, and the old `MIT/Apache-2.0` means `OR`.

use crate::workspace::Graph;

/// Licences that ask for no more than a notice.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    // As BSD-3-Clause, and that changed versions say so.
    "bzip2-1.0.6",
];

/// Exceptions that only widen what a licence permits.
const ALLOWED_EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

/// Whether an expression leaves a choice made of allowed licences only.
///
/// # Errors
/// What could not be read in it.
pub fn allowed(expression: &str) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let value = any(&mut rest)?;
    match rest.first() {
        None => Ok(value),
        Some(token) => Err(format!("unexpected {token:?}")),
    }
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    match rest.split_first() {
        Some((first, tail)) if *first == word => {
            *rest = tail;
            true
        }
        _ => false,
    }
}

fn any(rest: &mut &[&str]) -> Result<bool, String> {
    let mut value = all(rest)?;
    while take(rest, "OR") {
        value |= all(rest)?;
    }
    Ok(value)
}

fn all(rest: &mut &[&str]) -> Result<bool, String> {
    let mut value = one(rest)?;
    while take(rest, "AND") {
        value &= one(rest)?;
    }
    Ok(value)
}

fn one(rest: &mut &[&str]) -> Result<bool, String> {
    if take(rest, "(") {
        let value = any(rest)?;
        return if take(rest, ")") { Ok(value) } else { Err("expected )".to_owned()) };
    }
    let Some((&name, tail)) = rest.split_first() else { return Err("expected a licence name".to_owned()) };
    if matches!(name, ")" | "AND" | "OR" | "WITH") {
        return Err(format!("expected a licence name, found {name:?}"));
    }
    *rest = tail;
    let mut value = ALLOWED.contains(&name);
    if take(rest, "WITH") {
        let Some((exception, tail)) = rest.split_first() else {
            return Err("expected an exception".to_owned());
        };
        *rest = tail;
        value &= ALLOWED_EXCEPTIONS.contains(exception);
    }
    Ok(value)
}

/// Every crate whose licence is not allowed, one line each.
pub fn check(graph: &Graph) -> Vec<String> {
    let mut breaches = Vec::new();
    for package in graph.others.iter().chain(graph.ours.values()) {
        match allowed(&package.licence) {
            Ok(true) => {}
            Ok(false) => breaches.push(format!(
                "{} {}: licence {:?}, expected a choice of {ALLOWED:?}",
                package.name, package.version, package.licence
            )),
            Err(error) => breaches.push(format!(
                "{} {}: licence {:?}: {error}",
                package.name, package.version, package.licence
            )),
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_choice_is_enough() {
        for good in ["MIT", "MIT OR GPL-2.0", "Apache-2.0/MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert_eq!(allowed(good), Ok(true), "{good}");
        }
        assert_eq!(allowed("Apache-2.0 WITH LLVM-exception"), Ok(true));
    }

    #[test]
    fn copyleft_and_unknown_terms_are_refused() {
        for bad in [
            "GPL-2.0",
            "MPL-2.0",
            "MIT AND GPL-3.0-only",
            "LGPL-2.1 OR (MIT AND MPL-2.0)",
            "MIT WITH Some-exception",
        ] {
            assert_eq!(allowed(bad), Ok(false), "{bad}");
        }
    }

    #[test]
    fn nonsense_is_an_error_not_a_licence() {
        for bad in ["", "MIT OR", "(MIT", "MIT MIT", "AND MIT", "MIT WITH"] {
            assert!(allowed(bad).is_err(), "{bad}");
        }
    }
}
