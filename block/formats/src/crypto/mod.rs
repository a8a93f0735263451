//! Encryption of disks: sector ciphers, key derivation, anti-forensic splitting and secrets.
//!
//! The ciphers and hashes are RustCrypto's; what is here puts them together as dm-crypt and LUKS do. Keys and
//! passphrases are wiped when they are dropped, and no error or debug text shows one.

mod af;
mod cipher;
mod hash;
mod kdf;
mod md5;
mod secret;
mod sectors;

pub(crate) use af::{merge, split};
pub(crate) use cipher::{CipherSpec, SectorCipher};
pub(crate) use hash::Hash;
pub(crate) use kdf::{Kdf, KdfKind};
pub(crate) use md5::md5;
pub use secret::Secrets;
pub(crate) use sectors::gather;

use block::BlockError;
use zeroize::Zeroizing;

/// Bytes that are wiped when dropped.
pub(crate) type Key = Zeroizing<Vec<u8>>;

/// Random bytes from the host.
pub(crate) fn random(len: usize) -> Result<Key, BlockError> {
    let mut out = Zeroizing::new(vec![0; len]);
    getrandom::fill(&mut out).map_err(|e| BlockError::Io(std::io::Error::other(e.to_string())))?;
    Ok(out)
}

/// Whether two byte strings are equal, in a time that does not tell where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |any, (x, y)| any | (x ^ y)) == 0
}
