//! What an instruction's name says of it. A name is looked at when its instruction is first met: most programs have few of them,
//! and there are nearly two thousand.

use std::fmt::{self, Write};
use std::sync::{LazyLock, OnceLock};

use iced_x86::Mnemonic;

/// Something that follows from an instruction's name in lower case.
pub(super) struct ByName<T: 'static> {
    named: fn(&str) -> T,
    known: [OnceLock<Box<[OnceLock<T>; CHUNK]>>; CHUNKS],
}

/// Names are known by the chunk, so that a program with few different instructions needs little memory.
const CHUNK: usize = 32;
/// As many as there are names.
const CHUNKS: usize = 64;

impl<T: Copy> ByName<T> {
    pub(super) const fn new(named: fn(&str) -> T) -> Self {
        Self { named, known: [const { OnceLock::new() }; CHUNKS] }
    }

    pub(super) fn get(&self, m: Mnemonic) -> T {
        let named = || (self.named)(&format!("{m:?}").to_ascii_lowercase());
        let Some(chunk) = self.known.get(m as usize / CHUNK) else { return named() };
        let chunk = chunk.get_or_init(|| Box::new([const { OnceLock::new() }; CHUNK]));
        *chunk[m as usize % CHUNK].get_or_init(named)
    }
}

/// FNV-1a of a name in lower case.
struct Hash(u64);

impl Write for Hash {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            self.0 = (self.0 ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

fn hash(name: fmt::Arguments<'_>) -> u64 {
    let mut h = Hash(0xcbf2_9ce4_8422_2325);
    let _ = h.write_fmt(name);
    h.0
}

/// All mnemonics by what their names hash to, which is different for each.
static HASHES: LazyLock<Vec<(u64, Mnemonic)>> = LazyLock::new(|| {
    let mut all: Vec<_> = Mnemonic::values().map(|m| (hash(format_args!("{m:?}")), m)).collect();
    all.sort_unstable_by_key(|(h, _)| *h);
    all
});

/// The instruction of this name.
pub(super) fn find(name: &str) -> Option<Mnemonic> {
    let h = hash(format_args!("{name}"));
    HASHES.binary_search_by_key(&h, |(h, _)| *h).ok().map(|i| HASHES[i].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_is_found_by_its_name() {
        for m in Mnemonic::values() {
            assert_eq!(find(&format!("{m:?}").to_lowercase()), Some(m));
        }
        assert_eq!(find("vnothing"), None);
        assert!(Mnemonic::values().len() <= CHUNK * CHUNKS);
    }
}
