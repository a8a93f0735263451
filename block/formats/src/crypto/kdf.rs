//! From a passphrase to a key: PBKDF2 (RFC 8018) and Argon2 (RFC 9106).

use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};

use super::{Hash, Key};

/// Most iterations of PBKDF2: minutes of work.
const MAX_ITERATIONS: u32 = 1 << 28;
/// Most memory of Argon2 in KiB, as cryptsetup has it.
const MAX_MEMORY: u32 = 4 << 20;
/// Most memory times passes of Argon2 in KiB: minutes of work.
const MAX_WORK: u64 = 1 << 28;
/// Memory of Argon2 that is chosen at most, in KiB.
const USUAL_MEMORY: u64 = 1 << 20;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KdfKind {
    Pbkdf2(Hash),
    Argon2i,
    Argon2id,
}

/// A function with what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kdf {
    Pbkdf2 { hash: Hash, iterations: u32 },
    Argon2 { id: bool, time: u32, memory: u32, cpus: u32 },
}

impl Kdf {
    /// Whether it can be computed in reasonable time and memory.
    pub(crate) fn check(self) -> Result<(), String> {
        match self {
            Kdf::Pbkdf2 { iterations, .. } if !(1..=MAX_ITERATIONS).contains(&iterations) => {
                Err(format!("{iterations} iterations, expected 1 to {MAX_ITERATIONS}"))
            }
            Kdf::Argon2 { memory, .. } if memory > MAX_MEMORY => {
                Err(format!("{memory} KiB of memory, expected at most {MAX_MEMORY}"))
            }
            Kdf::Argon2 { time, memory, cpus, .. } => {
                if u64::from(time) * u64::from(memory) > MAX_WORK || cpus > 64 {
                    return Err(format!("{time} passes over {memory} KiB on {cpus} CPUs are too much work"));
                }
                Params::new(memory, time, cpus, None).map(drop).map_err(|e| e.to_string())
            }
            Kdf::Pbkdf2 { .. } => Ok(()),
        }
    }

    /// Derives a key of `len` bytes.
    pub(crate) fn derive(self, password: &[u8], salt: &[u8], len: usize) -> Result<Key, String> {
        self.check()?;
        let mut out = Key::new(vec![0; len]);
        match self {
            Kdf::Pbkdf2 { hash, iterations } => hash.pbkdf2(password, salt, iterations, &mut out),
            Kdf::Argon2 { id, time, memory, cpus } => {
                let params = Params::new(memory, time, cpus, Some(len)).map_err(|e| e.to_string())?;
                let kind = if id { Algorithm::Argon2id } else { Algorithm::Argon2i };
                Argon2::new(kind, Version::V0x13, params)
                    .hash_password_into(password, salt, &mut out)
                    .map_err(|e| e.to_string())?;
            }
        }
        Ok(out)
    }

    /// The costs that take about this long on this host.
    pub(crate) fn for_time(kind: KdfKind, time: Duration, len: usize) -> Result<Self, String> {
        let sample = (time / 8).clamp(Duration::from_millis(2), Duration::from_millis(100));
        match kind {
            KdfKind::Pbkdf2(hash) => {
                let mut iterations = 1 << 10;
                let spent = loop {
                    let start = Instant::now();
                    Kdf::Pbkdf2 { hash, iterations }.derive(b"password", &[0; 32], len)?;
                    if start.elapsed() >= sample || iterations >= MAX_ITERATIONS / 2 {
                        break start.elapsed();
                    }
                    iterations *= 2;
                };
                let wanted = f64::from(iterations) * time.as_secs_f64() / spent.as_secs_f64().max(1e-6);
                let iterations = wanted.clamp(1000.0, f64::from(MAX_ITERATIONS)) as u32;
                Ok(Kdf::Pbkdf2 { hash, iterations })
            }
            KdfKind::Argon2i | KdfKind::Argon2id => {
                let id = kind == KdfKind::Argon2id;
                let mut memory = 256u32;
                let spent = loop {
                    let start = Instant::now();
                    Kdf::Argon2 { id, time: 4, memory, cpus: 1 }.derive(b"password", &[0; 32], len)?;
                    if start.elapsed() >= sample || memory >= 64 << 10 {
                        break start.elapsed();
                    }
                    memory *= 2;
                };
                // Memory costs an attacker more than passes do.
                let work = f64::from(memory) * 4.0 * time.as_secs_f64() / spent.as_secs_f64().max(1e-6);
                let memory = ((work / 4.0) as u64).clamp(256, USUAL_MEMORY) as u32;
                let passes = (work / f64::from(memory)).clamp(4.0, 1000.0) as u32;
                Ok(Kdf::Argon2 { id, time: passes, memory, cpus: 1 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_bounded_and_found() {
        let hash = Hash::Sha256;
        assert!(Kdf::Pbkdf2 { hash, iterations: 0 }.check().is_err());
        assert!(Kdf::Pbkdf2 { hash, iterations: u32::MAX }.derive(b"", b"", 32).is_err());
        assert!(Kdf::Argon2 { id: true, time: u32::MAX, memory: 1 << 20, cpus: 1 }.check().is_err());
        assert!(Kdf::Argon2 { id: true, time: 1, memory: u32::MAX, cpus: 1 }.check().is_err());
        assert!(Kdf::Argon2 { id: true, time: 0, memory: 64, cpus: 0 }.check().is_err());
        for kind in [KdfKind::Pbkdf2(hash), KdfKind::Argon2id] {
            let kdf = Kdf::for_time(kind, Duration::from_millis(10), 32).unwrap();
            kdf.check().unwrap();
            assert_ne!(kdf.derive(b"a", &[1; 32], 32).unwrap(), kdf.derive(b"b", &[1; 32], 32).unwrap());
        }
    }
}
