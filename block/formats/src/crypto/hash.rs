//! The hash functions LUKS names, and PBKDF2 (RFC 8018, section 5.2) with each.

use hmac::Hmac;
use sha1::Sha1;
use sha2::digest::Digest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

macro_rules! each {
    ($hash:expr, $t:ident => $body:expr) => {
        match $hash {
            Hash::Sha1 => {
                type $t = Sha1;
                $body
            }
            Hash::Sha224 => {
                type $t = Sha224;
                $body
            }
            Hash::Sha256 => {
                type $t = Sha256;
                $body
            }
            Hash::Sha384 => {
                type $t = Sha384;
                $body
            }
            Hash::Sha512 => {
                type $t = Sha512;
                $body
            }
            Hash::Ripemd160 => {
                type $t = ripemd::Ripemd160;
                $body
            }
        }
    };
}

impl Hash {
    /// Names in headers and options.
    pub(crate) const NAMES: [(&'static str, Self); 6] = [
        ("sha1", Self::Sha1),
        ("sha224", Self::Sha224),
        ("sha256", Self::Sha256),
        ("sha384", Self::Sha384),
        ("sha512", Self::Sha512),
        ("ripemd160", Self::Ripemd160),
    ];

    /// The hash of a name.
    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, h)| *h)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, h)| *h == self).map_or("", |(n, _)| n)
    }

    /// Bytes of a digest.
    pub(crate) fn len(self) -> usize {
        match self {
            Hash::Sha1 | Hash::Ripemd160 => 20,
            Hash::Sha224 => 28,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// Digest of several pieces, one after the other.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        each!(self, H => {
            let mut state = H::new();
            for part in parts {
                state.update(part);
            }
            state.finalize().to_vec()
        })
    }

    /// PBKDF2 with HMAC of this hash.
    pub(crate) fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        each!(self, H => {
            // HMAC takes keys of any length.
            let _ = pbkdf2::pbkdf2::<Hmac<H>>(password, salt, iterations, out);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pbkdf2_matches_rfc_6070() {
        let mut out = [0; 20];
        Hash::Sha1.pbkdf2(b"password", b"salt", 4096, &mut out);
        assert_eq!(out[..6], [0x4b, 0x00, 0x79, 0x01, 0xb7, 0x65]);
        for (name, hash) in Hash::NAMES {
            assert_eq!(hash.digest(&[b"a", b"b"]), hash.digest(&[b"ab"]), "{name}");
            assert_eq!(hash.digest(&[]).len(), hash.len());
            assert_eq!(Hash::find(name), Some(hash));
        }
    }
}
