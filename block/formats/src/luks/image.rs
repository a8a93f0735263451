//! Images that are LUKS volumes: a header, then encrypted sectors; or sectors alone beside a detached header.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::RwLock;

use super::{Area, Luks, Payload, Wanted};
use crate::bytes::be16;
use crate::crypto::{Key, SectorCipher, gather};
use crate::image::{Details, Image, Preallocation};
use crate::options::{Kind, OptionSpec, Options, bad_option, opt};
use crate::registry::{CreateContext, Measure, OpenContext};

/// Options of `create`.
pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("cipher-alg", Kind::Text, "Name of encryption cipher algorithm"),
    opt("cipher-mode", Kind::Text, "Name of encryption cipher mode"),
    opt("detached-header", Kind::Bool, "Create a detached LUKS header"),
    opt("hash-alg", Kind::Text, "Name of encryption hash algorithm"),
    opt("iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds"),
    opt("ivgen-alg", Kind::Text, "Name of IV generator algorithm"),
    opt("ivgen-hash-alg", Kind::Text, "Name of IV generator hash algorithm"),
    opt("key-secret", Kind::Text, "ID of the secret that provides the keyslot passphrase"),
    opt("pbkdf", Kind::Text, "Key derivation: pbkdf2, argon2i or argon2id (the last two with luks2)"),
    opt("preallocation", Kind::Text, "Preallocation mode (allowed values: off, falloc, full)"),
    opt("sector-size", Kind::Size, "Bytes encrypted as one (512 to 4096, with luks2)"),
    opt("size", Kind::Size, "Virtual disk size"),
    opt("version", Kind::Text, "Version of the header (luks1 or luks2)"),
];

/// Bytes written at a time to preallocate.
const STEP: usize = 1 << 20;

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if data.starts_with(super::v1::MAGIC) && (1..=2).contains(&be16(data, 6)) { 100 } else { 0 }
}

/// An opened image.
#[derive(Debug)]
pub(crate) struct LuksImage {
    filename: String,
    file: Arc<dyn BlockNode>,
    header_file: Option<Arc<dyn BlockNode>>,
    luks: Luks,
    /// Nothing if the image was opened to be looked at only.
    cipher: Option<SectorCipher>,
    payload: Payload,
    read_only: bool,
    /// Held for writing by writes of parts of sectors, which read them first.
    gate: RwLock<()>,
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let path = context.filename.as_str();
    let header_name = context.key("header.filename").or(context.key("header"));
    let header_file = header_name.map(|n| context.open_data(n)).transpose()?;
    let area = match &header_file {
        Some((node, name)) => Area::new(node.clone(), name, 0, node.size()),
        None => Area::new(context.file.clone(), path, 0, context.file.size()),
    };
    let mut luks = Luks::read(area, header_file.is_some())?;
    let payload = luks.payload;
    if header_file.is_none() && payload.offset == 0 {
        let what =
            "its header is a detached one, without data; header.filename=FILE opens the data's file with it";
        return Err(BlockError::Format { path: path.into(), what: what.into() });
    }
    let cipher = if context.options.no_io && context.key("key-secret").is_none() {
        None
    } else {
        luks.unlock(context.secret("key-secret")?)?;
        Some(luks.cipher()?)
    };
    let image = LuksImage {
        filename: path.into(),
        file: context.file.clone(),
        header_file: header_file.map(|(node, _)| node),
        luks,
        cipher,
        payload,
        read_only: context.options.read_only,
        gate: RwLock::new(()),
    };
    let there = image.file.size().saturating_sub(payload.offset);
    if let Some(size) = payload.size.filter(|s| *s > there) {
        let what = format!("LUKS2 segment of {size} bytes goes beyond the file's end, which leaves {there}");
        return Err(BlockError::Format { path: path.into(), what });
    }
    Ok(Arc::new(image))
}

impl LuksImage {
    fn cipher(&self) -> Result<&SectorCipher, BlockError> {
        self.cipher.as_ref().ok_or_else(|| BlockError::Format {
            path: self.filename.clone(),
            what: "LUKS: the image is locked: no key-secret was given".into(),
        })
    }

    fn write_range(&self, offset: u64, len: u64, source: impl FnMut(&mut [u8])) -> Result<(), BlockError> {
        let cipher = self.cipher()?;
        let at = self.payload.offset + offset;
        if cipher.whole(offset, len) {
            let _gate = self.gate.read();
            cipher.write(&*self.file, at, offset, len, source)
        } else {
            let _gate = self.gate.write();
            cipher.write(&*self.file, at, offset, len, source)
        }
    }
}

impl BlockNode for LuksImage {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("luks:{}", self.filename),
            size: self.size(),
            read_only: self.read_only,
            granularity: self.payload.sector as u32,
            can_discard: false,
        }
    }

    fn size(&self) -> u64 {
        let there = self.file.size().saturating_sub(self.payload.offset);
        let size = self.payload.size.unwrap_or(there);
        size - size % self.payload.sector
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let cipher = self.cipher()?;
        let _gate = self.gate.read();
        for buf in bufs {
            cipher.read(&*self.file, self.payload.offset + offset, offset, buf)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        self.write_range(offset, len, gather(bufs))?;
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.file.flush()
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> Result<(), BlockError> {
        // Only an encrypted zero reads as one.
        self.write_range(offset, len, |out| out.fill(0))
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        Ok(vec![Extent::new(range, true, false)])
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        if self.payload.size.is_some() {
            return Err(BlockError::Unsupported("changing a size that the header fixes"));
        }
        if !size.is_multiple_of(self.payload.sector) {
            return Err(BlockError::Unsupported("a size that is not whole sectors"));
        }
        self.file.resize(self.payload.offset + size)
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        let mut all = vec![self.file.clone()];
        all.extend(self.header_file.clone());
        all
    }
}

impl Image for LuksImage {
    fn format(&self) -> &'static str {
        "luks"
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        let mut all = vec![("file".to_owned(), self.file.clone())];
        all.extend(self.header_file.clone().map(|h| ("header".to_owned(), h)));
        all
    }

    fn details(&self) -> Details {
        Details { encrypted: true, specific: self.luks.details(), ..Details::default() }
    }

    fn starts_zero(&self) -> bool {
        false
    }

    fn resize_with(&self, size: u64, how: Preallocation) -> Result<(), BlockError> {
        let old = self.size();
        self.resize(size)?;
        match how {
            _ if size <= old => Ok(()),
            Preallocation::Off => Ok(()),
            Preallocation::Metadata => Err(BlockError::Unsupported("preallocation=metadata")),
            Preallocation::Falloc => self.file.write_zeroes(self.payload.offset + old, size - old, false),
            Preallocation::Full => self.write_zeroes(old, size - old, false),
        }
    }

    fn amend(&self, options: &Options) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        options.check("luks", super::AMEND_OPTIONS)?;
        self.luks.amend(options, "")
    }
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let options = context.options;
    let wanted = Wanted::parse(options, "")?;
    let how = options.preallocation(&[Preallocation::Falloc, Preallocation::Full])?;
    let Some(id) = options.text("key-secret") else {
        return Err(bad_option("key-secret", "", "the id of a secret (--object secret,id=ID,...)"));
    };
    let password = options.secrets().get(id)?.to_vec();
    let password = Key::new(password);
    let size = context.size.next_multiple_of(wanted.sector);
    let file = context.file()?;
    let length = wanted.length();
    let area = Area::new(file.clone(), &context.name.display().to_string(), 0, length);
    if wanted.detached {
        file.resize(length)?;
        Luks::create(area, &wanted, &password)?;
        return file.flush();
    }
    let end = length.checked_add(size).filter(|end| i64::try_from(*end).is_ok());
    let Some(end) = end else { return Err(bad_option("size", size, "a size that fits beside the header")) };
    file.resize(end)?;
    let luks = Luks::create(area, &wanted, &password)?;
    match how {
        Preallocation::Falloc if size > 0 => file.reserve(length, size)?,
        Preallocation::Full => {
            let cipher = luks.cipher()?;
            let mut at = 0;
            while at < size {
                let mut data = vec![0; (size - at).min(STEP as u64) as usize];
                cipher.encrypt(at, &mut data);
                file.write(length + at, &[IoSlice::new(&data)], false)?;
                at += data.len() as u64;
            }
        }
        _ => {}
    }
    file.flush()
}

/// Tells how large an image gets.
pub(crate) fn measure(
    options: &Options,
    size: u64,
    _: &dyn Fn(u64) -> Result<u64, BlockError>,
) -> Result<Measure, BlockError> {
    let wanted = Wanted::parse(options, "")?;
    let total = wanted.length() + if wanted.detached { 0 } else { size.next_multiple_of(wanted.sector) };
    Ok(Measure { required: total, fully_allocated: total })
}
