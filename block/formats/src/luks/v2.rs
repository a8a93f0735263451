//! Headers of version 2 (Milan Broz, "LUKS2 On-Disk Format Specification", version 1.1.2).
//!
//! Two copies of a binary header, each with an area of JSON and a checksum; the one with the higher sequence number
//! that is whole counts. What is not known in the JSON is kept. An area with the key slots' material follows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use block::BlockError;
use serde_json::{Map, Value, json};

use super::area::Area;
use super::v1::MAGIC;
use super::{Payload, SECTOR, Slot, slot_cipher};
use crate::bytes::{be16, be64, put, text};
use crate::crypto::{CipherSpec, Hash, Kdf, Key, merge, random, same, split};

const MAGIC_SECOND: &[u8; 6] = b"SKUL\xba\xbe";
/// Bytes of the binary header.
const BINARY: usize = 4096;
const CHECKSUM: usize = 448;
/// Sizes a header may have, and so the places of its second copy.
const SIZES: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
/// Size of new headers.
const NEW_SIZE: u64 = SIZES[0];
/// Where data starts in new images.
const NEW_PAYLOAD: u64 = 16 << 20;
const STRIPES: usize = 4000;
const MAX_MATERIAL: u64 = 4 << 20;
const MAX_SLOTS: usize = 32;
/// Bytes key material is aligned to.
const ALIGN: u64 = 4096;

/// A header.
#[derive(Clone, Debug)]
pub(super) struct Header {
    size: u64,
    /// The binary header, as it was read.
    binary: Vec<u8>,
    json: Value,
    /// The volume's data, and the digest its key is checked with.
    payload: Payload,
    digest: String,
}

/// A key slot, decoded.
struct KeySlot {
    kdf: Kdf,
    salt: Vec<u8>,
    af: Hash,
    stripes: usize,
    spec: CipherSpec,
    /// Of the key that encrypts the material.
    area_key_len: usize,
    offset: u64,
    len: u64,
    key_len: usize,
}

fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, key| v.get(key))
}

fn word<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// A number, which offsets and sizes have as text.
fn number(value: &Value, path: &[&str]) -> Option<u64> {
    let v = at(value, path)?;
    v.as_u64().or_else(|| v.as_str()?.parse().ok())
}

fn bytes(value: &Value, path: &[&str]) -> Option<Vec<u8>> {
    STANDARD.decode(word(value, path)?).ok()
}

fn map<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(name).and_then(Value::as_object).into_iter().flatten()
}

fn lists(value: &Value, name: &str, id: &str) -> bool {
    value.get(name).and_then(Value::as_array).is_some_and(|l| l.iter().any(|v| v.as_str() == Some(id)))
}

/// Reads one copy; `None` if it is not whole.
fn copy(area: &Area, offset: u64) -> Result<Option<(u64, Vec<u8>, Value)>, BlockError> {
    if offset + BINARY as u64 > area.len() {
        return Ok(None);
    }
    let binary = area.read(offset, BINARY)?.to_vec();
    let size = be64(&binary, 8);
    let magic: &[u8] = if offset == 0 { MAGIC } else { MAGIC_SECOND };
    let whole = binary.starts_with(magic)
        && be16(&binary, 6) == 2
        && SIZES.contains(&size)
        && be64(&binary, 256) == offset
        && offset + size <= area.len();
    if !whole {
        return Ok(None);
    }
    let Some(hash) = Hash::find(&text(&binary[72..104])) else { return Ok(None) };
    let raw = area.read(offset + BINARY as u64, size as usize - BINARY)?;
    let mut blank = binary.clone();
    blank[CHECKSUM..CHECKSUM + 64].fill(0);
    let sum = hash.digest(&[&blank, &raw]);
    if binary[CHECKSUM..CHECKSUM + sum.len()] != sum[..] {
        return Ok(None);
    }
    let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
    Ok(serde_json::from_slice(&raw[..end]).ok().map(|json| (size, binary, json)))
}

impl Header {
    /// Reads the better copy.
    pub(super) fn read(area: &Area) -> Result<Self, BlockError> {
        let first = copy(area, 0)?;
        // The size says where the second is, if the first is whole.
        let places = first.as_ref().map_or(&SIZES[..], |(size, ..)| std::slice::from_ref(size));
        let mut second = None;
        for place in places {
            second = copy(area, *place)?;
            if second.is_some() {
                break;
            }
        }
        let newer = |a: &(u64, Vec<u8>, Value), b: &(u64, Vec<u8>, Value)| be64(&a.1, 16) >= be64(&b.1, 16);
        let best = match (first, second) {
            (Some(a), Some(b)) => Some(if newer(&a, &b) { a } else { b }),
            (a, b) => a.or(b),
        };
        let Some((size, binary, json)) = best else {
            return Err(
                area.bad("LUKS2 header: neither copy is whole (magic, size, checksum or JSON is wrong)")
            );
        };
        Self::check(area, size, binary, json)
    }

    fn check(area: &Area, size: u64, binary: Vec<u8>, json: Value) -> Result<Self, BlockError> {
        let bad = |what: String| Err(area.bad(format!("LUKS2 {what}")));
        if let Some(list) = at(&json, &["config", "requirements", "mandatory"]).and_then(Value::as_array)
            && !list.is_empty()
        {
            let names: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            return bad(format!("requirements {} are not supported", names.join(", ")));
        }
        let mut segments = map(&json, "segments").filter(|(_, s)| {
            let flag = |f: &Value| f.as_str().is_some_and(|f| f.starts_with("backup-"));
            !s.get("flags").and_then(Value::as_array).is_some_and(|l| l.iter().any(flag))
        });
        let (Some((id, segment)), None) = (segments.next(), segments.next()) else {
            return bad("segments: expected exactly one that is in use".into());
        };
        if word(segment, &["type"]) != Some("crypt") || segment.get("integrity").is_some() {
            return bad(format!("segment {id}: expected type crypt without integrity"));
        }
        let encryption = word(segment, &["encryption"]).unwrap_or_default();
        let Some(spec) = CipherSpec::parse(encryption) else {
            return bad(format!(
                "segment {id}: encryption {encryption:?} is not supported, expected such as aes-xts-plain64"
            ));
        };
        let sector = number(segment, &["sector_size"]).unwrap_or(0);
        if ![512, 1024, 2048, 4096].contains(&sector) {
            return bad(format!("segment {id}: sector_size {sector}, expected 512 to 4096"));
        }
        let (Some(offset), Some(iv_offset)) = (number(segment, &["offset"]), number(segment, &["iv_tweak"]))
        else {
            return bad(format!("segment {id}: offset or iv_tweak is missing"));
        };
        let length = match word(segment, &["size"]) {
            Some("dynamic") => None,
            _ => number(segment, &["size"]),
        };
        let fits = offset.is_multiple_of(SECTOR)
            && offset <= 1 << 62
            && iv_offset <= 1 << 52
            && length.is_none_or(|l| l.is_multiple_of(sector) && l <= 1 << 62)
            && (length.is_some() || word(segment, &["size"]) == Some("dynamic"));
        if !fits {
            return bad(format!("segment {id}: offset {offset} or size is out of bounds"));
        }
        let digest = map(&json, "digests").find(|(_, d)| lists(d, "segments", id));
        let Some((digest_id, digest)) = digest else {
            return bad(format!("segment {id} has no digest"));
        };
        let usable = word(digest, &["type"]) == Some("pbkdf2")
            && word(digest, &["hash"]).and_then(Hash::find).is_some()
            && number(digest, &["iterations"]).is_some()
            && bytes(digest, &["salt"]).is_some()
            && bytes(digest, &["digest"]).is_some_and(|d| !d.is_empty());
        if !usable {
            return bad(format!(
                "digest {digest_id}: expected type pbkdf2 with hash, iterations, salt and digest"
            ));
        }
        let digest = digest_id.clone();
        drop(segments);
        // Every slot for it has keys of one length.
        let mut key_len = None;
        let mut count = 0;
        for (name, slot) in map(&json, "keyslots") {
            count += 1;
            if lists(&json["digests"][&digest], "keyslots", name) {
                key_len = key_len.or(number(slot, &["key_size"]));
            }
        }
        if count > MAX_SLOTS {
            return bad(format!("{count} key slots, expected at most {MAX_SLOTS}"));
        }
        // Without a slot nothing can be read, whatever the length.
        let usual = if spec.takes_key(64) { 64 } else { 32 };
        let key_len = key_len.unwrap_or(usual) as usize;
        if key_len > 128 || !spec.takes_key(key_len) {
            return bad(format!("key_size {key_len} is no length of a key of {}", spec.name()));
        }
        let payload = Payload { spec, key_len, offset, size: length, sector, iv_offset };
        Ok(Header { size, binary, json, payload, digest })
    }

    /// Writes both copies, one after the other, so that one is whole at any time.
    fn write(&mut self, area: &Area) -> Result<(), BlockError> {
        let raw = serde_json::to_vec(&self.json).map_err(|e| area.bad(e.to_string()))?;
        let room = self.size as usize - BINARY;
        if raw.len() >= room {
            return Err(area.bad(format!("LUKS2 JSON of {} bytes, expected less than {room}", raw.len())));
        }
        let sequence = be64(&self.binary, 16).wrapping_add(1);
        for (offset, magic) in [(0, MAGIC), (self.size, MAGIC_SECOND)] {
            let mut all = self.binary.clone();
            put(&mut all, 0, magic);
            put(&mut all, 16, &sequence.to_be_bytes());
            put(&mut all, 72, &[0; 32]);
            put(&mut all, 72, b"sha256");
            put(&mut all, 104, &random(64)?);
            put(&mut all, 256, &offset.to_be_bytes());
            all[CHECKSUM..CHECKSUM + 64].fill(0);
            all.extend_from_slice(&raw);
            all.resize(self.size as usize, 0);
            let sum = Hash::Sha256.digest(&[&all]);
            put(&mut all, CHECKSUM, &sum);
            area.write(offset, &all)?;
            area.flush()?;
            if offset == 0 {
                self.binary = all[..BINARY].to_vec();
            }
        }
        Ok(())
    }

    /// A header for a new volume key, without a key slot.
    pub(super) fn new(
        area: &Area,
        spec: CipherSpec,
        hash: Hash,
        key: &[u8],
        digest_iterations: u32,
        (sector, detached): (u64, bool),
    ) -> Result<Self, BlockError> {
        let mut binary = vec![0; BINARY];
        put(&mut binary, 6, &2u16.to_be_bytes());
        put(&mut binary, 8, &NEW_SIZE.to_be_bytes());
        put(&mut binary, 168, uuid::Uuid::new_v4().to_string().as_bytes());
        let salt = random(32)?;
        let mut sum = vec![0; hash.len()];
        hash.pbkdf2(key, &salt, digest_iterations, &mut sum);
        let offset = if detached { 0 } else { NEW_PAYLOAD };
        let json = json!({
            "keyslots": {},
            "tokens": {},
            "segments": { "0": {
                "type": "crypt", "offset": offset.to_string(), "size": "dynamic", "iv_tweak": "0",
                "encryption": spec.name(), "sector_size": sector,
            } },
            "digests": { "0": {
                "type": "pbkdf2", "keyslots": [], "segments": ["0"], "hash": hash.name(),
                "iterations": digest_iterations, "salt": STANDARD.encode(&*salt), "digest": STANDARD.encode(sum),
            } },
            "config": {
                "json_size": (NEW_SIZE - BINARY as u64).to_string(),
                "keyslots_size": (NEW_PAYLOAD - 2 * NEW_SIZE).to_string(),
            },
        });
        let mut header = Self::check(area, NEW_SIZE, binary, json)?;
        header.payload.key_len = key.len();
        Ok(header)
    }

    /// Bytes a new header takes with its slots.
    pub(super) fn length() -> u64 {
        NEW_PAYLOAD
    }

    /// What it says of the data.
    pub(super) fn payload(&self) -> Payload {
        self.payload
    }

    fn slot(&self, area: &Area, id: usize) -> Result<Option<KeySlot>, BlockError> {
        let name = id.to_string();
        let Some(slot) = at(&self.json, &["keyslots", &name]) else { return Ok(None) };
        if !lists(&self.json["digests"][&self.digest], "keyslots", &name) {
            return Ok(None);
        }
        let bad = |what: String| Err(area.bad(format!("LUKS2 key slot {id}: {what}")));
        let cost = |key| number(slot, &["kdf", key]).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let hash = |path: &[&str]| word(slot, path).and_then(Hash::find);
        let kdf = match word(slot, &["kdf", "type"]) {
            Some("pbkdf2") => match hash(&["kdf", "hash"]) {
                Some(hash) => Kdf::Pbkdf2 { hash, iterations: cost("iterations") },
                None => return bad("kdf.hash is not supported".into()),
            },
            Some(kind @ ("argon2i" | "argon2id")) => Kdf::Argon2 {
                id: kind == "argon2id",
                time: cost("time"),
                memory: cost("memory"),
                cpus: cost("cpus"),
            },
            other => return bad(format!("kdf.type {other:?}, expected pbkdf2, argon2i or argon2id")),
        };
        kdf.check().map_err(|e| area.bad(format!("LUKS2 key slot {id}: kdf: {e}")))?;
        let spec = word(slot, &["area", "encryption"]).and_then(CipherSpec::parse);
        let (Some(spec), Some(af)) = (spec, hash(&["af", "hash"])) else {
            return bad("area.encryption or af.hash is not supported".into());
        };
        let n = |path: &[&str]| number(slot, path).unwrap_or(0);
        let slot = KeySlot {
            kdf,
            salt: bytes(slot, &["kdf", "salt"]).unwrap_or_default(),
            af,
            stripes: n(&["af", "stripes"]) as usize,
            spec,
            area_key_len: n(&["area", "key_size"]) as usize,
            offset: n(&["area", "offset"]),
            len: n(&["area", "size"]),
            key_len: n(&["key_size"]) as usize,
        };
        let needed = (slot.key_len as u64).saturating_mul(slot.stripes as u64);
        let fits = slot.key_len == self.payload.key_len
            && slot.area_key_len <= 128
            && spec.takes_key(slot.area_key_len)
            && slot.stripes != 0
            && needed.next_multiple_of(SECTOR) <= slot.len
            && needed <= MAX_MATERIAL
            && slot.len <= MAX_MATERIAL
            && slot.offset >= 2 * self.size
            && slot.offset.checked_add(slot.len).is_some_and(|e| e <= area.len())
            && (self.payload.offset == 0 || slot.offset + slot.len <= self.payload.offset);
        if !fits {
            return bad("its key sizes, stripes or area are out of bounds".into());
        }
        Ok(Some(slot))
    }

    /// The volume key, if this is the passphrase of a slot.
    pub(super) fn unlock_slot(
        &self,
        area: &Area,
        id: usize,
        password: &[u8],
    ) -> Result<Option<Key>, BlockError> {
        let Some(slot) = self.slot(area, id)? else { return Ok(None) };
        let wrong = |e: String| area.bad(format!("LUKS2 key slot {id}: {e}"));
        let slot_key = slot.kdf.derive(password, &slot.salt, slot.area_key_len).map_err(wrong)?;
        let len = (slot.key_len * slot.stripes).next_multiple_of(SECTOR as usize);
        let mut material = area.read(slot.offset, len)?;
        slot_cipher(area, slot.spec, &slot_key)?.decrypt(0, &mut material);
        let key = merge(slot.af, &material, slot.key_len, slot.stripes);
        let digest = &self.json["digests"][&self.digest];
        let hash = word(digest, &["hash"]).and_then(Hash::find).unwrap_or(Hash::Sha256);
        let iterations = number(digest, &["iterations"]).and_then(|n| n.try_into().ok()).unwrap_or(0);
        let (salt, sum) = (bytes(digest, &["salt"]), bytes(digest, &["digest"]));
        let (salt, sum) = (salt.unwrap_or_default(), sum.unwrap_or_default());
        let own = Kdf::Pbkdf2 { hash, iterations }.derive(&key, &salt, sum.len().min(hash.len()));
        Ok(same(&own.map_err(wrong)?, &sum).then_some(key))
    }

    /// Puts the volume key into a slot.
    pub(super) fn fill_slot(
        &mut self,
        area: &Area,
        id: usize,
        key: &[u8],
        password: &[u8],
        kdf: Kdf,
    ) -> Result<(), BlockError> {
        let bad = |what: String| area.bad(format!("LUKS2 key slot {id}: {what}"));
        if id >= MAX_SLOTS {
            return Err(bad(format!("there are 0 to {}", MAX_SLOTS - 1)));
        }
        let len = (key.len() * STRIPES) as u64;
        let size = len.next_multiple_of(ALIGN);
        let offset = self.room(area, id, size).ok_or_else(|| bad(format!("no room for its {size} bytes")))?;
        let salt = random(32)?;
        // Material is encrypted as the data is, where that is a way for it.
        let spec = self.payload.spec;
        let slot_key = kdf.derive(password, &salt, key.len()).map_err(bad)?;
        let af = Hash::Sha256;
        let mut material = split(af, key, STRIPES)?;
        material.resize(size as usize, 0);
        slot_cipher(area, spec, &slot_key)?.encrypt(0, &mut material);
        area.write(offset, &material)?;
        area.flush()?;
        let salt = STANDARD.encode(&*salt);
        let kdf = match kdf {
            Kdf::Pbkdf2 { hash, iterations } => {
                json!({ "type": "pbkdf2", "hash": hash.name(), "iterations": iterations, "salt": salt })
            }
            Kdf::Argon2 { id, time, memory, cpus } => json!({
                "type": if id { "argon2id" } else { "argon2i" },
                "time": time, "memory": memory, "cpus": cpus, "salt": salt,
            }),
        };
        let slot = json!({
            "type": "luks2", "key_size": key.len(), "kdf": kdf,
            "af": { "type": "luks1", "stripes": STRIPES, "hash": af.name() },
            "area": {
                "type": "raw", "offset": offset.to_string(), "size": size.to_string(),
                "encryption": spec.name(), "key_size": key.len(),
            },
        });
        self.set(id, Some(slot));
        self.write(area)
    }

    /// Sets or removes a slot in the JSON.
    fn set(&mut self, id: usize, slot: Option<Value>) {
        let name = id.to_string();
        let there = slot.is_some();
        let Value::Object(root) = &mut self.json else { return };
        let slots = root.entry("keyslots").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(slots) = slots {
            slots.remove(&name);
            if let Some(slot) = slot {
                slots.insert(name.clone(), slot);
            }
        }
        for kind in ["digests", "tokens"] {
            let Some(Value::Object(all)) = root.get_mut(kind) else { continue };
            for (owner, value) in all.iter_mut() {
                if let Some(Value::Array(list)) = value.get_mut("keyslots") {
                    list.retain(|v| v.as_str() != Some(&name));
                    if there && kind == "digests" && *owner == self.digest {
                        list.push(Value::String(name.clone()));
                    }
                }
            }
        }
    }

    /// A free range of the area for key material.
    fn room(&self, area: &Area, id: usize, size: u64) -> Option<u64> {
        let start = 2 * self.size;
        let declared = number(&self.json, &["config", "keyslots_size"]).unwrap_or(0);
        let mut end = start.checked_add(declared)?.min(area.len());
        if self.payload.offset != 0 {
            end = end.min(self.payload.offset);
        }
        let name = id.to_string();
        let mut taken: Vec<(u64, u64)> = map(&self.json, "keyslots")
            .filter(|(n, _)| **n != name)
            .filter_map(|(_, s)| {
                let offset = number(s, &["area", "offset"])?;
                Some((offset, offset.checked_add(number(s, &["area", "size"])?)?))
            })
            .collect();
        taken.sort_unstable();
        let mut at = start;
        for (from, to) in taken {
            if at + size <= from {
                break;
            }
            at = at.max(to.checked_next_multiple_of(ALIGN)?);
        }
        (at.checked_add(size)? <= end).then_some(at)
    }

    /// Destroys a slot, its material first.
    pub(super) fn erase_slot(&mut self, area: &Area, id: usize) -> Result<(), BlockError> {
        if let Some(slot) = self.slot(area, id)? {
            area.write(slot.offset, &random(slot.len as usize)?)?;
            area.flush()?;
        }
        self.set(id, None);
        self.write(area)
    }

    /// The slots there are; one that is not there is not in use.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let used = |id: usize| at(&self.json, &["keyslots", &id.to_string()]).is_some();
        (0..MAX_SLOTS).map(|id| Slot { id, active: used(id) }).collect()
    }

    /// What `info` shows.
    pub(super) fn details(&self, detached: bool) -> Vec<(&'static str, Value)> {
        let mut slots = Vec::new();
        for (id, s) in map(&self.json, "keyslots") {
            let mut kdf = s.get("kdf").cloned().unwrap_or(Value::Null);
            if let Value::Object(kdf) = &mut kdf {
                kdf.remove("salt");
            }
            slots.push(json!({
                "slot": id, "kdf": kdf, "encryption": at(s, &["area", "encryption"]),
                "key-offset": number(s, &["area", "offset"]),
            }));
        }
        let label = text(&self.binary[24..72]);
        let mut out = vec![("version", json!(2)), ("detached-header", json!(detached))];
        if !label.is_empty() {
            out.push(("label", json!(label)));
        }
        out.extend([
            ("uuid", json!(text(&self.binary[168..208]))),
            ("slots", Value::Array(slots)),
            ("sector-size", json!(self.payload.sector)),
            ("payload-offset", json!(self.payload.offset)),
        ]);
        out
    }
}
