//! Secrets by id, as `-object secret,id=...` defines them (QEMU, "Providing secret data to QEMU").

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use block::BlockError;

use super::Key;
use super::cipher::unwrap_cbc;
use crate::options::{Options, bad_option};

/// Most bytes of a secret.
const MAX_LEN: u64 = 1 << 20;

/// Secrets by id.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Arc<BTreeMap<String, Key>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Sets a secret.
    pub fn set(&mut self, id: &str, data: &[u8]) {
        Arc::make_mut(&mut self.0).insert(id.into(), Key::new(data.to_vec()));
    }

    /// Takes a secret away.
    pub fn remove(&mut self, id: &str) {
        Arc::make_mut(&mut self.0).remove(id);
    }

    /// The secret of an id.
    pub fn get(&self, id: &str) -> Result<&[u8], BlockError> {
        self.0.get(id).map(|k| k.as_slice()).ok_or_else(|| BlockError::Format {
            path: format!("secret '{id}'"),
            what: "there is none of this id; --object secret,id=ID,file=FILE gives one".into(),
        })
    }

    /// Adds what `secret,id=ID,data=TEXT` or `secret,id=ID,file=FILE` defines; with `format=base64` the data is that
    /// of bytes, with `keyid=` and `iv=` it is encrypted by another secret (AES-256-CBC).
    pub fn add(&mut self, definition: &str) -> Result<(), BlockError> {
        let mut options = Options::parse(definition)?;
        if options.take("secret").is_none() && options.take("qom-type").as_deref() != Some("secret") {
            let kind = definition.split(',').next().unwrap_or_default();
            return Err(bad_option("object", kind, "secret"));
        }
        self.define(options)
    }

    /// Adds what the options of a secret define, `id` among them.
    pub fn define(&mut self, mut options: Options) -> Result<(), BlockError> {
        let keys = ["id", "data", "file", "format", "keyid", "iv"];
        if let Some((name, _)) = options.iter().find(|(k, _)| !keys.contains(k)) {
            let what = format!("secret has no such option; it has: {}", keys.join(", "));
            return Err(BlockError::Format { path: format!("option {name}"), what });
        }
        let id = options.take("id").filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| bad_option("id", "", "a name for the secret"))?;
        let packed = options.choice("format", &[("raw", false), ("base64", true)])?.unwrap_or(false);
        // Never shown: it is the secret.
        let mut data = match (options.take("data"), options.take("file")) {
            (Some(text), None) => Key::new(text.into_bytes()),
            (None, Some(path)) => read(Path::new(&path))?,
            _ => return Err(bad_option("secret", &id, "either data= or file=")),
        };
        if packed {
            data = decode(&id, "its data", &data)?;
        }
        match (options.take("keyid"), options.take("iv")) {
            (None, None) => {}
            (Some(key), Some(iv)) => {
                let iv = decode(&id, "iv", iv.as_bytes())?;
                let plain = unwrap_cbc(self.get(&key)?, &iv, &data);
                data = plain.ok_or_else(|| bad_option("keyid", &key, "the key and iv of this secret"))?;
            }
            _ => return Err(bad_option("keyid", "", "keyid= and iv= together")),
        }
        self.set(&id, &data);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Key, BlockError> {
    let failed = |source| BlockError::Open { path: path.display().to_string(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.len() > MAX_LEN {
        let what = format!("{} bytes, expected a secret of at most {MAX_LEN}", metadata.len());
        return Err(BlockError::Format { path: path.display().to_string(), what });
    }
    Ok(Key::new(std::fs::read(path).map_err(failed)?))
}

fn decode(id: &str, what: &str, text: &[u8]) -> Result<Key, BlockError> {
    let text: Key = Key::new(text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect());
    STANDARD.decode(text.as_slice()).map(Key::new).map_err(|_| BlockError::Format {
        path: format!("secret '{id}'"),
        what: format!("{what} is not base64"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "aGVsbG8=\n").unwrap();
        let mut s = Secrets::default();
        s.add("secret,id=a,data=pass,,word").unwrap();
        s.add(&format!("secret,id=b,format=base64,file={}", path.display())).unwrap();
        assert_eq!((s.get("a").unwrap(), s.get("b").unwrap()), (&b"pass,word"[..], &b"hello"[..]));
        assert_eq!(format!("{s:?}"), r#"{"a", "b"}"#);
        for bad in [
            "tls-creds-x509,id=x",
            "secret,data=x",
            "secret,id=x",
            "secret,id=x,data=a,file=b",
            "secret,id=x,data=hidden,nonsense=1",
            "secret,id=x,data=hidden!,format=base64",
            "secret,id=x,data=hidden,keyid=a,iv=AAAAAAAAAAAAAAAAAAAAAA==",
        ] {
            let text = s.add(bad).unwrap_err().to_string();
            assert!(!text.contains("hidden"), "{text}");
        }
        assert!(s.get("x").unwrap_err().to_string().contains("secret 'x'"));
    }

    #[test]
    fn secrets_encrypted_by_another() {
        // openssl enc -aes-256-cbc -K 00.. -iv 00.. of "hello" in base64 is checked against the block cipher itself.
        let mut s = Secrets::default();
        s.set("master", &[7; 32]);
        let sealed = super::super::cipher::wrap_cbc(&[7; 32], &[9; 16], b"hello").unwrap();
        let (data, iv) = (STANDARD.encode(sealed), STANDARD.encode([9; 16]));
        s.add(&format!("secret,id=x,data={data},format=base64,keyid=master,iv={iv}")).unwrap();
        assert_eq!(s.get("x").unwrap(), b"hello");
    }
}
