//! Encrypted images (`docs/interop/qcow2`, "Full disk encryption header pointer" and "Data encryption").
//!
//! With LUKS the header is in clusters of its own and sectors are numbered by their place in the file; the legacy AES
//! method takes the password as key and numbers sectors by their place on the disk. Only data is encrypted, tables
//! are not. All data goes through [`Qcow2::read_data`] and [`Qcow2::write_data`], so that none is stored in the clear:
//! compressed clusters, which have no encrypted form, are refused in such images.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::BlockError;
use serde_json::{Value, json};

use super::Qcow2;
use super::header::{Encryption, Header};
use crate::crypto::{CipherSpec, Key, SectorCipher, gather};
use crate::luks::{Area, Luks};
use crate::options::{Kind, OptionSpec, Options, bad_option, opt};
use crate::registry::OpenContext;

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Bytes of a key of the legacy method.
const AES_KEY: usize = 16;
/// What options of the LUKS header start with.
const PREFIX: &str = "encrypt.";

/// Options of `create`.
pub(super) const CREATE: [OptionSpec; 8] = [
    opt("encrypt.cipher-alg", Kind::Text, "Name of encryption cipher algorithm"),
    opt("encrypt.cipher-mode", Kind::Text, "Name of encryption cipher mode"),
    opt("encrypt.format", Kind::Text, "Encrypt the image, format choices: 'aes', 'luks'"),
    opt("encrypt.hash-alg", Kind::Text, "Name of encryption hash algorithm"),
    opt("encrypt.iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"),
    opt("encrypt.ivgen-alg", Kind::Text, "Name of IV generator algorithm"),
    opt("encrypt.ivgen-hash-alg", Kind::Text, "Name of IV generator hash algorithm"),
    opt("encrypt.key-secret", Kind::Text, "ID of secret providing qcow AES key or LUKS passphrase"),
];

/// Options of `amend`.
pub(super) const AMEND: [OptionSpec; 5] = [
    opt("encrypt.iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"),
    opt("encrypt.keyslot", Kind::Number, "Select a single keyslot to modify explicitly"),
    opt(
        "encrypt.new-secret",
        Kind::Text,
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    opt("encrypt.old-secret", Kind::Text, "Select all keyslots that match this password"),
    opt("encrypt.state", Kind::Text, "Select new state of affected keyslots (active/inactive)"),
];

/// How an image is encrypted.
#[derive(Debug)]
pub(super) struct Crypt {
    /// Nothing while it is locked.
    cipher: Option<SectorCipher>,
    luks: Option<Luks>,
}

/// The format that options ask for; `encryption=on` is an old word for AES.
pub(super) fn wanted(options: &Options) -> Result<Option<&'static str>, BlockError> {
    let format = options.choice("encrypt.format", &[("aes", "aes"), ("luks", "luks")])?;
    match (format, options.switch("encryption")?) {
        (Some("luks"), Some(true)) => Err(bad_option("encryption", "on", "no encrypt.format beside it")),
        (None, Some(true)) => Ok(Some("aes")),
        (None, _) => match options.iter().find(|(k, _)| k.starts_with(PREFIX)) {
            Some((name, value)) => Err(bad_option(name, value, "an encrypt.format beside it")),
            None => Ok(None),
        },
        (format, _) => Ok(format),
    }
}

/// The password that options of `create` name.
pub(super) fn password(options: &Options) -> Result<Key, BlockError> {
    match options.text("encrypt.key-secret") {
        Some(id) => Ok(Key::new(options.secrets().get(id)?.to_vec())),
        None => Err(bad_option("encrypt.key-secret", "", "the id of a secret (--object secret,id=ID,...)")),
    }
}

/// A cipher of the legacy method. Its password is checked by nothing: a wrong one gives other data.
pub(crate) fn aes(password: &[u8], path: &str) -> Result<SectorCipher, BlockError> {
    let mut key = Key::new(vec![0; AES_KEY]);
    let n = password.len().min(AES_KEY);
    key[..n].copy_from_slice(&password[..n]);
    SectorCipher::new(CipherSpec::QCOW, &key, SECTOR).ok_or_else(|| BlockError::Format {
        path: path.into(),
        what: "the AES key has a wrong length".into(),
    })
}

/// Unlocks an image.
pub(super) fn open(context: &OpenContext<'_>, header: &Header) -> Result<Option<Arc<Crypt>>, BlockError> {
    let path = context.filename.as_str();
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let said = context.key("encrypt.format");
    let (name, is) = match header.encryption {
        Encryption::None => ("none", false),
        Encryption::Aes => ("aes", said.is_none_or(|s| s == "aes" || s == "qcow")),
        Encryption::Luks { .. } => ("luks", said.is_none_or(|s| s == "luks")),
    };
    match (said, is) {
        (None, _) | (_, true) => {}
        (Some(said), false) => {
            return bad(format!("encrypt.format={said}: the image's encryption is {name}"));
        }
    }
    let locked = context.options.no_io && context.key("encrypt.key-secret").is_none();
    let crypt = match header.encryption {
        Encryption::None => return Ok(None),
        Encryption::Aes if locked => Crypt { cipher: None, luks: None },
        Encryption::Aes => {
            Crypt { cipher: Some(aes(context.secret("encrypt.key-secret")?, path)?), luks: None }
        }
        Encryption::Luks { offset, len } => {
            let area = Area::new(context.file.clone(), path, offset, len);
            let mut luks = Luks::read(area, false)?;
            if !locked {
                luks.unlock(context.secret("encrypt.key-secret")?)?;
            }
            let cipher = if locked { None } else { Some(luks.cipher()?) };
            if let Some(c) = cipher.as_ref().filter(|c| c.sector() != SECTOR) {
                return bad(format!("LUKS sectors of {} bytes, expected {SECTOR}", c.sector()));
            }
            Crypt { cipher, luks: Some(luks) }
        }
    };
    Ok(Some(Arc::new(crypt)))
}

impl Crypt {
    /// What sectors are numbered by: the place in the file with LUKS, that on the disk with AES.
    fn number(&self, host: u64, guest: u64) -> u64 {
        if self.luks.is_some() { host } else { guest }
    }

    /// What `info` shows.
    pub(super) fn details(&self) -> Value {
        let mut out = serde_json::Map::new();
        if let Some(luks) = &self.luks {
            out.extend(luks.details().into_iter().map(|(k, v)| (k.to_owned(), v)));
        }
        out.insert("format".into(), json!(if self.luks.is_some() { "luks" } else { "aes" }));
        Value::Object(out)
    }
}

impl Qcow2 {
    fn cipher(&self, crypt: &Crypt) -> Result<(), BlockError> {
        match crypt.cipher {
            Some(_) => Ok(()),
            None => Err(self.bad("the image is locked: no encrypt.key-secret was given")),
        }
    }

    /// Whether a write has to read a part of a sector first, so that nobody else may write it.
    pub(super) fn cuts_sectors(&self, offset: u64, len: u64) -> bool {
        let cipher = self.crypt.as_ref().and_then(|c| c.cipher.as_ref());
        cipher.is_some_and(|c| !c.whole(offset, len))
    }

    /// Reads data at `host` that is at `guest` of the disk.
    pub(super) fn read_data(
        &self,
        host: u64,
        guest: u64,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<(), BlockError> {
        let Some(crypt) = &self.crypt else { return self.data.read(host, bufs) };
        self.cipher(crypt)?;
        let Some(cipher) = &crypt.cipher else { return Ok(()) };
        let mut done = 0;
        for buf in bufs {
            let number = crypt.number(host, guest);
            cipher.read(&*self.data, host + done, number + done, buf)?;
            done += buf.len() as u64;
        }
        Ok(())
    }

    /// Writes data to `host` that is at `guest` of the disk.
    pub(super) fn write_data(&self, host: u64, guest: u64, bufs: &[IoSlice<'_>]) -> Result<(), BlockError> {
        let Some(crypt) = &self.crypt else { return self.data.write(host, bufs, false) };
        self.cipher(crypt)?;
        let Some(cipher) = &crypt.cipher else { return Ok(()) };
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        cipher.write(&*self.data, host, crypt.number(host, guest), len, gather(bufs))
    }

    /// Changes the key slots if options say so.
    pub(super) fn amend_slots(&self, options: &Options) -> Result<(), BlockError> {
        if !options.iter().any(|(k, _)| k.starts_with(PREFIX)) {
            return Ok(());
        }
        match self.crypt.as_ref().and_then(|c| c.luks.as_ref()) {
            Some(luks) => luks.amend(options, PREFIX),
            None => Err(self.bad("the image has no LUKS header whose key slots could be changed")),
        }
    }
}
