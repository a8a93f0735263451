//! LUKS, versions 1 and 2: headers with key slots, and images whose data they encrypt.
//!
//! [`Luks`] is a header wherever it is: before the data ([`image`]), in a file of its own, or in clusters of a qcow2
//! image. A volume key in memory has been checked against the header's digest; without one nothing is read or
//! written. Key material is written before the slot that names it, and destroyed before the slot is given up.

mod area;
mod image;
mod slots;
mod v1;
mod v2;

use std::fmt;
use std::time::Duration;

use block::BlockError;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::bytes::be16;
use crate::crypto::{CipherSpec, Hash, Kdf, KdfKind, Key, SectorCipher, random};
use crate::options::{Kind, OptionSpec, Options, bad_option, opt};

pub(crate) use area::Area;
pub(crate) use image::{CREATE_OPTIONS, create, measure, open, probe};

/// What offsets in headers count.
const SECTOR: u64 = 512;
/// Milliseconds a passphrase takes to check, if nobody says.
const ITER_TIME: u64 = 2000;

/// Options of `amend`.
pub(crate) const AMEND_OPTIONS: &[OptionSpec] = &[
    opt("iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"),
    opt("keyslot", Kind::Number, "Select a single keyslot to modify explicitly"),
    opt("new-secret", Kind::Text, "New secret to set in the matching keyslots. Empty string to erase"),
    opt("old-secret", Kind::Text, "Select all keyslots that match this password"),
    opt("state", Kind::Text, "Select new state of affected keyslots (active/inactive)"),
];

/// What a header says of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) spec: CipherSpec,
    key_len: usize,
    /// Where the data starts in its file.
    offset: u64,
    /// Its length if that is not up to the end of the file.
    size: Option<u64>,
    /// Bytes encrypted as one.
    sector: u64,
    /// Number of the first sector of 512 bytes.
    iv_offset: u64,
}

/// A key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) id: usize,
    pub(crate) active: bool,
}

/// A header of either version.
#[derive(Clone, Debug)]
enum Header {
    V1(v1::Header),
    V2(v2::Header),
}

/// What a new header is to have.
pub(crate) struct Wanted {
    version: u32,
    spec: CipherSpec,
    hash: Hash,
    key_len: usize,
    kdf: KdfKind,
    time: Duration,
    sector: u64,
    detached: bool,
}

/// A cipher for a slot's key material.
fn slot_cipher(area: &Area, spec: CipherSpec, key: &[u8]) -> Result<SectorCipher, BlockError> {
    SectorCipher::new(spec, key, SECTOR).ok_or_else(|| area.bad("LUKS: a slot's key has a wrong length"))
}

impl Wanted {
    /// What options of `create` ask for; their names have a prefix in other formats.
    pub(crate) fn parse(options: &Options, prefix: &str) -> Result<Self, BlockError> {
        let name = |n: &str| format!("{prefix}{n}");
        let version = options.choice(&name("version"), &[("luks1", 1), ("luks2", 2), ("1", 1), ("2", 2)])?;
        let version = version.unwrap_or(1);
        let alg = options.text(&name("cipher-alg")).unwrap_or("aes-256");
        let mode = options.text(&name("cipher-mode")).unwrap_or("xts");
        let ivgen = options.text(&name("ivgen-alg")).unwrap_or("plain64");
        let iv_hash = options.text(&name("ivgen-hash-alg"));
        let wrong = || bad_option(&name("cipher-alg"), alg, "such as aes-128, aes-192 or aes-256");
        let (cipher, bits) = alg.split_once('-').ok_or_else(wrong)?;
        let bits: usize = bits.parse().ok().filter(|b| [128, 192, 256].contains(b)).ok_or_else(wrong)?;
        let iv =
            if ivgen == "essiv" { format!("essiv:{}", iv_hash.unwrap_or("sha256")) } else { ivgen.into() };
        if mode == "ecb" {
            return Err(bad_option(&name("cipher-mode"), mode, "xts or cbc: ecb shows what is equal"));
        }
        let spec = CipherSpec::parse(&format!("{cipher}-{mode}-{iv}"));
        let key_len = if mode == "xts" { bits / 4 } else { bits / 8 };
        let Some(spec) = spec.filter(|s| s.takes_key(key_len)) else {
            let text = format!("{alg}, {mode}, {ivgen}");
            return Err(bad_option(
                &name("cipher-alg"),
                text,
                "a cipher, cipher-mode and ivgen-alg that go together, such as aes-256, xts, plain64",
            ));
        };
        let hash = options.choice(&name("hash-alg"), &Hash::NAMES)?.unwrap_or(Hash::Sha256);
        let words = [
            ("pbkdf2", KdfKind::Pbkdf2(hash)),
            ("argon2i", KdfKind::Argon2i),
            ("argon2id", KdfKind::Argon2id),
        ];
        let usual = if version == 2 { KdfKind::Argon2id } else { KdfKind::Pbkdf2(hash) };
        let kdf = options.choice(&name("pbkdf"), &words)?.unwrap_or(usual);
        if version == 1 && !matches!(kdf, KdfKind::Pbkdf2(_)) {
            let text = options.text(&name("pbkdf")).unwrap_or_default();
            return Err(bad_option(&name("pbkdf"), text, "pbkdf2 with LUKS1, or version=luks2"));
        }
        let sector = options.size(&name("sector-size"))?.unwrap_or(512);
        if ![512, 1024, 2048, 4096].contains(&sector) || (version == 1 && sector != 512) {
            return Err(bad_option(&name("sector-size"), sector, "512, or with version=luks2 up to 4096"));
        }
        let detached = options.switch(&name("detached-header"))?.unwrap_or(false);
        let time = iter_time(options, prefix)?;
        Ok(Wanted { version, spec, hash, key_len, kdf, time, sector, detached })
    }

    /// Bytes the header takes.
    pub(crate) fn length(&self) -> u64 {
        if self.version == 2 { v2::Header::length() } else { v1::Header::length(self.key_len as u64) }
    }
}

fn iter_time(options: &Options, prefix: &str) -> Result<Duration, BlockError> {
    let name = format!("{prefix}iter-time");
    match options.number(&name)?.unwrap_or(ITER_TIME) {
        ms @ 1..=600_000 => Ok(Duration::from_millis(ms)),
        ms => Err(bad_option(&name, ms, "1 to 600000 milliseconds")),
    }
}

/// A header in its place, and the volume key if it is unlocked.
pub(crate) struct Luks {
    area: Area,
    header: Mutex<Header>,
    payload: Payload,
    detached: bool,
    key: Option<Key>,
}

impl fmt::Debug for Luks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LUKS with {}", self.payload.spec.name())
    }
}

impl Luks {
    /// Reads a header, which stays locked.
    pub(crate) fn read(area: Area, detached: bool) -> Result<Self, BlockError> {
        let start = area.read(0, 8)?;
        let header = match be16(&start, 6) {
            1 if start.starts_with(v1::MAGIC) => Header::V1(v1::Header::read(&area)?),
            // The second copy may be whole where the first is not.
            _ => match v2::Header::read(&area) {
                Ok(header) => Header::V2(header),
                Err(e) if start.starts_with(v1::MAGIC) => return Err(e),
                Err(_) => return Err(area.bad("there is no LUKS header")),
            },
        };
        let payload = match &header {
            Header::V1(h) => h.payload(),
            Header::V2(h) => h.payload(),
        };
        Ok(Luks { area, header: Mutex::new(header), payload, detached, key: None })
    }

    /// Makes a header with a new volume key and one key slot.
    pub(crate) fn create(area: Area, wanted: &Wanted, password: &[u8]) -> Result<Self, BlockError> {
        let key = random(wanted.key_len)?;
        let time = wanted.time;
        // The digest is checked once for every slot that is tried.
        let digest = Kdf::for_time(KdfKind::Pbkdf2(wanted.hash), time / 8, 20).map_err(|e| area.bad(e))?;
        let Kdf::Pbkdf2 { iterations, .. } = digest else { return Err(area.bad("no PBKDF2")) };
        let Wanted { spec, hash, detached, .. } = *wanted;
        let header = if wanted.version == 2 {
            let more = (wanted.sector, detached);
            Header::V2(v2::Header::new(&area, spec, hash, &key, iterations, more)?)
        } else {
            Header::V1(v1::Header::new(spec, hash, &key, iterations, detached)?)
        };
        let payload = match &header {
            Header::V1(h) => h.payload(),
            Header::V2(h) => h.payload(),
        };
        // What was there before is no header, nor a part of one.
        let zeroes = vec![0; 1 << 20];
        let mut at = 0;
        while at < area.len() {
            let n = (area.len() - at).min(zeroes.len() as u64);
            area.write(at, &zeroes[..n as usize])?;
            at += n;
        }
        let luks = Luks { area, header: Mutex::new(header), payload, detached, key: Some(key) };
        luks.fill(0, password, wanted.kdf, time)?;
        Ok(luks)
    }

    /// Looks for the slot of a passphrase.
    fn find(&self, header: &Header, id: usize, password: &[u8]) -> Result<Option<Key>, BlockError> {
        match header {
            Header::V1(h) => h.unlock_slot(&self.area, id, password),
            Header::V2(h) => h.unlock_slot(&self.area, id, password),
        }
    }

    /// Unlocks the volume key, or refuses.
    pub(crate) fn unlock(&mut self, password: &[u8]) -> Result<(), BlockError> {
        let header = self.header.lock().clone();
        let mut problem = None;
        for slot in self.slots().iter().filter(|s| s.active) {
            // A slot that is damaged is no reason not to try the others.
            match self.find(&header, slot.id, password) {
                Ok(Some(key)) => {
                    self.key = Some(key);
                    return Ok(());
                }
                Ok(None) => {}
                Err(e) => problem = Some(e),
            }
        }
        Err(problem.unwrap_or_else(|| self.area.bad("invalid password, cannot unlock any keyslot")))
    }

    /// The cipher of the data.
    pub(crate) fn cipher(&self) -> Result<SectorCipher, BlockError> {
        let key = self
            .key
            .as_ref()
            .ok_or_else(|| self.area.bad("LUKS: the image is locked: no key-secret was given"))?;
        SectorCipher::new(self.payload.spec, key, self.payload.sector)
            .map(|c| c.counting_from(self.payload.iv_offset))
            .ok_or_else(|| self.area.bad("LUKS: the volume key has a wrong length"))
    }

    /// The key slots.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        match &*self.header.lock() {
            Header::V1(h) => h.slots(),
            Header::V2(h) => h.slots(),
        }
    }

    /// What `info` shows, names as QEMU has them.
    pub(crate) fn details(&self) -> Vec<(&'static str, Value)> {
        let p = self.payload;
        let iv = p.spec.iv_name();
        let (alg, hash) = iv.split_once(':').map_or((iv.as_str(), None), |(a, h)| (a, Some(h)));
        let mut out = vec![("ivgen-alg", json!(alg))];
        out.extend(hash.map(|h| ("ivgen-hash-alg", json!(h))));
        let cipher = format!("{}-{}", p.spec.cipher_name(), p.spec.cipher_bits(p.key_len));
        out.push(("cipher-alg", json!(cipher)));
        out.push(("cipher-mode", json!(p.spec.mode_name())));
        out.extend(match &*self.header.lock() {
            Header::V1(h) => h.details(self.detached),
            Header::V2(h) => h.details(self.detached),
        });
        let order = [
            "ivgen-alg",
            "ivgen-hash-alg",
            "detached-header",
            "hash-alg",
            "cipher-alg",
            "uuid",
            "cipher-mode",
        ];
        out.sort_by_key(|(name, _)| order.iter().position(|o| o == name).unwrap_or(order.len()));
        out
    }
}
