//! Headers of version 1 (Clemens Fruhwirth, "LUKS On-Disk Format Specification", version 1.2.3).
//!
//! One sector and a bit with the cipher, a digest of the volume key and eight key slots, whose key material follows.

use block::BlockError;
use serde_json::{Value, json};

use super::area::Area;
use super::{Payload, SECTOR, Slot, slot_cipher};
use crate::bytes::{be16, be32, put, text};
use crate::crypto::{CipherSpec, Hash, Kdf, Key, merge, random, same, split};

pub(super) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
/// Bytes of the header proper.
const LENGTH: usize = 592;
const SLOTS: usize = 8;
const SLOT_LENGTH: usize = 48;
const FIRST_SLOT: usize = 208;
const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0x0000_dead;
const STRIPES: u32 = 4000;
/// Most bytes of a slot's key material.
const MAX_MATERIAL: u64 = 4 << 20;
const DIGEST: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeySlot {
    active: bool,
    iterations: u32,
    salt: [u8; 32],
    /// In sectors.
    offset: u32,
    stripes: u32,
}

/// A decoded header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    spec: CipherSpec,
    hash: Hash,
    /// In sectors.
    payload: u32,
    key_len: u32,
    digest: [u8; DIGEST],
    digest_salt: [u8; 32],
    digest_iterations: u32,
    uuid: String,
    slots: Vec<KeySlot>,
}

fn array<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = data.get(at..at + N) {
        out.copy_from_slice(from);
    }
    out
}

impl Header {
    /// Reads and checks the header.
    pub(super) fn read(area: &Area) -> Result<Self, BlockError> {
        let raw = area.read(0, LENGTH)?;
        let bad = |what: String| Err(area.bad(format!("LUKS1 {what}")));
        if !raw.starts_with(MAGIC) || be16(&raw, 6) != 1 {
            return bad(format!("magic or version {} unknown, expected version 1", be16(&raw, 6)));
        }
        let (cipher, mode, hash) = (text(&raw[8..40]), text(&raw[40..72]), text(&raw[72..104]));
        let Some(spec) = CipherSpec::parse(&format!("{cipher}-{mode}")) else {
            return bad(format!(
                "cipher {cipher:?} in mode {mode:?} is not supported, expected such as aes-xts-plain64"
            ));
        };
        let Some(hash) = Hash::find(&hash) else {
            return bad(format!("hash_spec {hash:?} is not supported, expected such as sha256"));
        };
        let (payload, key_len) = (be32(&raw, 104), be32(&raw, 108));
        if key_len > 128 || !spec.takes_key(key_len as usize) {
            return bad(format!("key_bytes {key_len} is no length of a key of {}", spec.name()));
        }
        let digest_iterations = be32(&raw, 164);
        Kdf::Pbkdf2 { hash, iterations: digest_iterations }
            .check()
            .map_err(|e| area.bad(format!("LUKS1 mk_digest_iter: {e}")))?;
        let mut slots: Vec<KeySlot> = Vec::new();
        let mut taken = vec![(0, LENGTH as u64)];
        for i in 0..SLOTS {
            let at = FIRST_SLOT + i * SLOT_LENGTH;
            let state = be32(&raw, at);
            if state != ACTIVE && state != INACTIVE {
                return bad(format!("key slot {i}: state {state:#x}, expected {ACTIVE:#x} or {INACTIVE:#x}"));
            }
            let slot = KeySlot {
                active: state == ACTIVE,
                iterations: be32(&raw, at + 4),
                salt: array(&raw, at + 8),
                offset: be32(&raw, at + 40),
                stripes: be32(&raw, at + 44),
            };
            let start = u64::from(slot.offset) * SECTOR;
            let len = u64::from(slot.stripes) * u64::from(key_len);
            if slot.stripes == 0 || len > MAX_MATERIAL {
                return bad(format!("key slot {i}: {} stripes, expected {STRIPES}", slot.stripes));
            }
            let end = if payload == 0 { area.len() } else { (u64::from(payload) * SECTOR).min(area.len()) };
            if start + len > end || taken.iter().any(|(s, e)| start < *e && *s < start + len) {
                return bad(format!(
                    "key slot {i}: its {len} bytes at {start:#x} overlap something or go beyond the header's {end}"
                ));
            }
            if slot.active {
                let check = Kdf::Pbkdf2 { hash, iterations: slot.iterations }.check();
                check.map_err(|e| area.bad(format!("LUKS1 key slot {i}: {e}")))?;
            }
            taken.push((start, start + len));
            slots.push(slot);
        }
        Ok(Header {
            spec,
            hash,
            payload,
            key_len,
            digest: array(&raw, 112),
            digest_salt: array(&raw, 132),
            digest_iterations,
            uuid: text(&raw[168..208]),
            slots,
        })
    }

    fn write(&self, area: &Area) -> Result<(), BlockError> {
        let mut raw = vec![0; LENGTH];
        put(&mut raw, 0, MAGIC);
        put(&mut raw, 6, &1u16.to_be_bytes());
        put(&mut raw, 8, self.spec.cipher_name().as_bytes());
        let mode = self.spec.name();
        put(&mut raw, 40, mode.split_once('-').map_or("", |(_, m)| m).as_bytes());
        put(&mut raw, 72, self.hash.name().as_bytes());
        put(&mut raw, 104, &self.payload.to_be_bytes());
        put(&mut raw, 108, &self.key_len.to_be_bytes());
        put(&mut raw, 112, &self.digest);
        put(&mut raw, 132, &self.digest_salt);
        put(&mut raw, 164, &self.digest_iterations.to_be_bytes());
        put(&mut raw, 168, &self.uuid.as_bytes()[..self.uuid.len().min(39)]);
        for (i, slot) in self.slots.iter().enumerate() {
            let at = FIRST_SLOT + i * SLOT_LENGTH;
            put(&mut raw, at, &if slot.active { ACTIVE } else { INACTIVE }.to_be_bytes());
            put(&mut raw, at + 4, &slot.iterations.to_be_bytes());
            put(&mut raw, at + 8, &slot.salt);
            put(&mut raw, at + 40, &slot.offset.to_be_bytes());
            put(&mut raw, at + 44, &slot.stripes.to_be_bytes());
        }
        area.write(0, &raw)?;
        area.flush()
    }

    /// A header for a new volume key, without a key slot in use, and the bytes it takes with its slots.
    pub(super) fn new(
        spec: CipherSpec,
        hash: Hash,
        key: &[u8],
        digest_iterations: u32,
        detached: bool,
    ) -> Result<Self, BlockError> {
        let material = (key.len() as u64 * u64::from(STRIPES)).next_multiple_of(4096);
        let slots = (0..SLOTS as u64).map(|i| KeySlot {
            active: false,
            iterations: 0,
            salt: [0; 32],
            offset: ((4096 + i * material) / SECTOR) as u32,
            stripes: STRIPES,
        });
        let mut header = Header {
            spec,
            hash,
            payload: if detached { 0 } else { ((4096 + SLOTS as u64 * material) / SECTOR) as u32 },
            key_len: key.len() as u32,
            digest: [0; DIGEST],
            digest_salt: array(&random(32)?, 0),
            digest_iterations,
            uuid: uuid::Uuid::new_v4().to_string(),
            slots: slots.collect(),
        };
        header.digest = header.digest_of(key);
        Ok(header)
    }

    /// Bytes a header takes with its slots.
    pub(super) fn length(key_len: u64) -> u64 {
        4096 + SLOTS as u64 * (key_len * u64::from(STRIPES)).next_multiple_of(4096)
    }

    fn digest_of(&self, key: &[u8]) -> [u8; DIGEST] {
        let mut out = [0; DIGEST];
        self.hash.pbkdf2(key, &self.digest_salt, self.digest_iterations, &mut out);
        out
    }

    /// What it says of the data.
    pub(super) fn payload(&self) -> Payload {
        Payload {
            spec: self.spec,
            key_len: self.key_len as usize,
            offset: u64::from(self.payload) * SECTOR,
            size: None,
            sector: SECTOR,
            iv_offset: 0,
        }
    }

    fn material(&self, slot: &KeySlot) -> (u64, usize) {
        let len = self.key_len as usize * slot.stripes as usize;
        (u64::from(slot.offset) * SECTOR, len.next_multiple_of(SECTOR as usize))
    }

    /// The volume key, if this is the passphrase of a slot.
    pub(super) fn unlock_slot(
        &self,
        area: &Area,
        i: usize,
        password: &[u8],
    ) -> Result<Option<Key>, BlockError> {
        let Some(slot) = self.slots.get(i).filter(|s| s.active) else { return Ok(None) };
        let kdf = Kdf::Pbkdf2 { hash: self.hash, iterations: slot.iterations };
        let len = self.key_len as usize;
        let slot_key = kdf.derive(password, &slot.salt, len).map_err(|e| area.bad(e))?;
        let (at, n) = self.material(slot);
        let mut material = area.read(at, n)?;
        slot_cipher(area, self.spec, &slot_key)?.decrypt(0, &mut material);
        let key = merge(self.hash, &material, len, slot.stripes as usize);
        Ok(same(&self.digest_of(&key), &self.digest).then_some(key))
    }

    /// Puts the volume key into a slot.
    pub(super) fn fill_slot(
        &mut self,
        area: &Area,
        i: usize,
        key: &[u8],
        password: &[u8],
        iterations: u32,
    ) -> Result<(), BlockError> {
        let (spec, hash) = (self.spec, self.hash);
        let Some(slot) = self.slots.get_mut(i) else {
            return Err(area.bad(format!("LUKS1 key slot {i}: there are 0 to {}", SLOTS - 1)));
        };
        slot.salt = array(&random(32)?, 0);
        slot.iterations = iterations;
        slot.active = true;
        let kdf = Kdf::Pbkdf2 { hash, iterations };
        let slot_key = kdf.derive(password, &slot.salt, key.len()).map_err(|e| area.bad(e))?;
        let mut material = split(hash, key, slot.stripes as usize)?;
        let len = material.len().next_multiple_of(SECTOR as usize);
        material.resize(len, 0);
        slot_cipher(area, spec, &slot_key)?.encrypt(0, &mut material);
        area.write(u64::from(slot.offset) * SECTOR, &material)?;
        area.flush()?;
        self.write(area)
    }

    /// Destroys a slot. Its material goes first: without it the slot is worth nothing, whatever the header says.
    pub(super) fn erase_slot(&mut self, area: &Area, i: usize) -> Result<(), BlockError> {
        let Some(slot) = self.slots.get(i).cloned() else {
            return Err(area.bad(format!("LUKS1 key slot {i}: there are 0 to {}", SLOTS - 1)));
        };
        let (at, len) = self.material(&slot);
        area.write(at, &random(len)?)?;
        area.flush()?;
        self.slots[i] = KeySlot { active: false, iterations: 0, salt: [0; 32], ..slot };
        self.write(area)
    }

    /// The slots there are.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let slot = |(id, s): (usize, &KeySlot)| Slot { id, active: s.active };
        self.slots.iter().enumerate().map(slot).collect()
    }

    /// The hash of slots and digest.
    pub(super) fn hash(&self) -> Hash {
        self.hash
    }

    /// What `info` shows.
    pub(super) fn details(&self, detached: bool) -> Vec<(&'static str, Value)> {
        let slot = |s: &KeySlot| {
            let mut out = serde_json::Map::new();
            out.insert("active".into(), json!(s.active));
            if s.active {
                out.insert("iters".into(), json!(s.iterations));
                out.insert("stripes".into(), json!(s.stripes));
            }
            out.insert("key-offset".into(), json!(u64::from(s.offset) * SECTOR));
            Value::Object(out)
        };
        vec![
            ("detached-header", json!(detached)),
            ("hash-alg", json!(self.hash.name())),
            ("uuid", json!(self.uuid)),
            ("slots", Value::Array(self.slots.iter().map(slot).collect())),
            ("payload-offset", json!(u64::from(self.payload) * SECTOR)),
            ("master-key-iters", json!(self.digest_iterations)),
        ]
    }
}
