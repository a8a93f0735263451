//! Anti-forensic splitting (Clemens Fruhwirth, "LUKS On-Disk Format Specification", section 2.4): a key spread over
//! many stripes of which each is needed, so that destroying any of them destroys the key.

use block::BlockError;

use super::{Hash, Key, random};

/// Spreads every byte over the whole stripe.
fn diffuse(hash: Hash, stripe: &mut [u8]) {
    for (i, part) in stripe.chunks_mut(hash.len()).enumerate() {
        let digest = hash.digest(&[&(i as u32).to_be_bytes(), part]);
        let n = part.len();
        part.copy_from_slice(&digest[..n]);
    }
}

fn add(to: &mut [u8], stripe: &[u8]) {
    to.iter_mut().zip(stripe).for_each(|(a, b)| *a ^= b);
}

/// Splits a key into `stripes` stripes of its length.
pub(crate) fn split(hash: Hash, key: &[u8], stripes: usize) -> Result<Key, BlockError> {
    let mut out = random(key.len() * stripes)?;
    let mut sum = Key::new(vec![0; key.len()]);
    for stripe in out.chunks(key.len()).take(stripes.saturating_sub(1)) {
        add(&mut sum, stripe);
        diffuse(hash, &mut sum);
    }
    if let Some(last) = out.chunks_mut(key.len()).next_back() {
        last.copy_from_slice(key);
        add(last, &sum);
    }
    Ok(out)
}

/// Puts a key of `len` bytes together again.
pub(crate) fn merge(hash: Hash, material: &[u8], len: usize, stripes: usize) -> Key {
    let mut sum = Key::new(vec![0; len]);
    for (i, stripe) in material.chunks_exact(len).take(stripes).enumerate() {
        add(&mut sum, stripe);
        if i + 1 < stripes {
            diffuse(hash, &mut sum);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_merges_and_any_change_destroys_it() {
        let key = random(64).unwrap();
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Ripemd160] {
            let mut material = split(hash, &key, 50).unwrap();
            assert_eq!(merge(hash, &material, 64, 50), key);
            material[64 * 17] ^= 1;
            assert_ne!(merge(hash, &material, 64, 50), key);
        }
    }
}
