//! qcow, version 1 (Mark McLoughlin, "The QCOW Image Format"): two levels of tables of 64-bit places, clusters that
//! may be compressed. Encrypted images have AES in the way of encrypted qcow2 images of old.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use rustc_hash::FxHashMap;

use crate::bytes::{be32, be64, put};
use crate::image::{BackingName, Details, Image};
use crate::mapped::{Layout, Mapped, Place, head, read_table};
use crate::options::{Kind, OptionSpec, bad_option, opt};
use crate::qcow2::aes;
use crate::registry::{CreateContext, OpenContext};

const MAGIC: u32 = 0x5146_49fb;
const HEADER: usize = 48;
const PACKED: u64 = 1 << 63;
const WINDOW_BITS: u8 = 12;
/// Most bytes of the L1 table.
const MAX_L1: u64 = 64 << 20;
/// L2 tables kept in memory, in bytes.
const MEMORY: usize = 16 << 20;

pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("backing_file", Kind::Text, "File name of a base image"),
    opt("backing_fmt", Kind::Text, "Format of the backing image"),
    opt("encrypt.format", Kind::Text, "Encrypt the image, format choices: 'aes'"),
    opt("encrypt.key-secret", Kind::Text, "ID of the secret that provides the AES encryption key"),
    opt(
        "encryption",
        Kind::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    opt("size", Kind::Size, "Virtual disk size"),
];

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if be32(data, 0) == MAGIC && be32(data, 4) == 1 { 100 } else { 0 }
}

#[derive(Debug)]
struct Qcow {
    path: String,
    cluster_bits: u32,
    l2_bits: u32,
    l1_offset: u64,
    l1: Vec<u64>,
    l2: FxHashMap<u64, Vec<u64>>,
    end: u64,
    backing: Option<BackingName>,
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let h = head(file, 0, HEADER)?;
    if probe(&h, "") == 0 {
        return bad(format!("qcow magic or version {} unknown, expected version 1", be32(&h, 4)));
    }
    let (size, cluster_bits, l2_bits) = (be64(&h, 24), u32::from(h[32]), u32::from(h[33]));
    let crypt = be32(&h, 36);
    if crypt > 1 {
        return bad(format!("qcow crypt_method {crypt}, expected 0 (none) or 1 (AES)"));
    }
    if let Some(said) = context.key("encrypt.format")
        && (crypt == 0 || !["aes", "qcow"].contains(&said))
    {
        let is = if crypt == 0 { "none" } else { "aes" };
        return bad(format!("encrypt.format={said}: the image's encryption is {is}"));
    }
    if !(9..=16).contains(&cluster_bits) || !(6..=13).contains(&l2_bits) {
        return bad(format!(
            "qcow cluster_bits {cluster_bits} and l2_bits {l2_bits}, expected 9 to 16 and 6 to 13"
        ));
    }
    let span = cluster_bits + l2_bits;
    if size <= 1 || size > i64::MAX as u64 {
        return bad(format!("qcow size {size}, expected 2 to 2^63"));
    }
    let l1_offset = be64(&h, 40);
    let raw = read_table(file, l1_offset, size.div_ceil(1 << span), 8, MAX_L1, path, "qcow L1 table")?;
    let (at, len) = (be64(&h, 8), u64::from(be32(&h, 16)));
    let mut backing = None;
    if at != 0 {
        if len > 1023 || at.checked_add(len).is_none_or(|end| end > file.size()) {
            return bad(format!("qcow backing file name of {len} bytes at {at:#x} is not in the file"));
        }
        let name = String::from_utf8_lossy(&head(file, at, len as usize)?).into_owned();
        backing = (!name.is_empty()).then_some(BackingName { file: name, format: None });
    }
    let below = match &backing {
        Some(name) if !context.options.no_backing => Some(context.open_backing(name)?),
        _ => None,
    };
    let layout = Qcow {
        path: path.into(),
        cluster_bits,
        l2_bits,
        l1_offset,
        l1: raw.chunks_exact(8).map(|c| be64(c, 0)).collect(),
        l2: FxHashMap::default(),
        end: file.size(),
        backing,
    };
    let size = size / 512 * 512;
    let image = Mapped::new(path, context.file.clone(), layout, size, context.options.read_only).back(below);
    Ok(match crypt {
        0 => Arc::new(image),
        _ if context.options.no_io && context.key("encrypt.key-secret").is_none() => {
            Arc::new(image.encrypt(None))
        }
        _ => Arc::new(image.encrypt(Some(aes(context.secret("encrypt.key-secret")?, path)?))),
    })
}

impl Qcow {
    fn entries(&self) -> u64 {
        1 << self.l2_bits
    }

    fn entry(&mut self, file: &dyn BlockNode, block: u64) -> Result<u64, BlockError> {
        let n = self.entries();
        let at = self.l1.get((block / n) as usize).copied().unwrap_or(0);
        if at == 0 {
            return Ok(0);
        }
        if !self.l2.contains_key(&at) {
            if self.l2.len() << (self.l2_bits + 3) > MEMORY {
                self.l2.clear();
            }
            let raw = read_table(file, at, n, 8, 1 << 20, &self.path, "qcow L2 table")?;
            self.l2.insert(at, raw.chunks_exact(8).map(|c| be64(c, 0)).collect());
        }
        Ok(self.l2.get(&at).and_then(|t| t.get((block % n) as usize).copied()).unwrap_or(0))
    }

    fn set(&mut self, file: &dyn BlockNode, block: u64, value: u64) -> Result<(), BlockError> {
        let n = self.entries();
        let i = block / n;
        if self.l1.get(i as usize).copied().unwrap_or(0) == 0 {
            let at = self.end.next_multiple_of(1 << self.cluster_bits);
            file.write(at, &[IoSlice::new(&vec![0; (n * 8) as usize])], false)?;
            file.flush()?;
            self.end = at + n * 8;
            if i as usize >= self.l1.len() {
                return Err(BlockError::Format {
                    path: self.path.clone(),
                    what: format!("qcow cluster {block} has no place in the tables"),
                });
            }
            file.write(self.l1_offset + i * 8, &[IoSlice::new(&at.to_be_bytes())], false)?;
            self.l1[i as usize] = at;
        }
        self.entry(file, block)?;
        let at = self.l1[i as usize];
        file.write(at + block % n * 8, &[IoSlice::new(&value.to_be_bytes())], false)?;
        if let Some(entry) = self.l2.get_mut(&at).and_then(|t| t.get_mut((block % n) as usize)) {
            *entry = value;
        }
        Ok(())
    }
}

impl Layout for Qcow {
    fn format(&self) -> &'static str {
        "qcow"
    }

    fn unit(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn place(&mut self, file: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        match self.entry(file, block)? {
            0 => Ok(Place::Hole),
            e if e & PACKED != 0 => Ok(Place::Packed(e)),
            e if e > 1 << 62 => Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("qcow cluster {block} at {e:#x}"),
            }),
            e => Ok(Place::At(e)),
        }
    }

    fn take(&mut self, _: &dyn BlockNode, _: u64) -> Result<u64, BlockError> {
        let at = self.end.next_multiple_of(1 << self.cluster_bits);
        self.end = at + (1 << self.cluster_bits);
        Ok(at)
    }

    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        self.set(file, block, offset)
    }

    fn end(&self) -> Option<u64> {
        Some(self.end)
    }

    fn unpack(&mut self, file: &dyn BlockNode, place: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let bits = self.cluster_bits;
        let at = place & ((1 << (63 - bits)) - 1);
        let len = (place >> (63 - bits)) & ((1 << bits) - 1);
        let mut raw = vec![0; len as usize];
        file.read(at, &mut [IoSliceMut::new(&mut raw)])?;
        let mut stream = Decompress::new_with_window_bits(false, WINDOW_BITS);
        let done = stream.decompress(&raw, out, FlushDecompress::Finish);
        if done.is_err() || stream.total_out() != out.len() as u64 {
            let what = format!(
                "qcow compressed cluster at {at:#x}: {} bytes, expected {}",
                stream.total_out(),
                out.len()
            );
            return Err(BlockError::Format { path: self.path.clone(), what });
        }
        Ok(())
    }

    fn pack(&mut self, file: &dyn BlockNode, block: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut out = vec![0; data.len() - 1];
        let mut stream = Compress::new_with_window_bits(flate2::Compression::new(6), false, WINDOW_BITS);
        let value = match stream.compress(data, &mut out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => {
                let (len, at) = (stream.total_out(), self.end);
                file.write(at, &[IoSlice::new(&out[..len as usize])], false)?;
                self.end = at + len;
                PACKED | len << (63 - self.cluster_bits) | at
            }
            _ => {
                let at = self.take(file, block)?;
                file.write(at, &[IoSlice::new(data)], false)?;
                at
            }
        };
        // What the tables name can be unpacked.
        file.flush()?;
        self.set(file, block, value)
    }

    fn details(&self) -> Details {
        Details { cluster_size: Some(self.unit()), ..Details::default() }
    }

    fn backing_name(&self) -> Option<BackingName> {
        self.backing.clone()
    }
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let size = context.size.next_multiple_of(512).max(512);
    let name = context.options.text("backing_file").unwrap_or("");
    // Small clusters over a backing file copy less of it.
    let (cluster_bits, l2_bits) = if name.is_empty() { (12u32, 9u32) } else { (9, 12) };
    let entries = size.div_ceil(1 << (cluster_bits + l2_bits));
    if name.len() > 1023 || entries * 8 > MAX_L1 {
        return Err(bad_option("size", size, "a disk and a backing file name that the tables can hold"));
    }
    let old = context.options.switch("encryption")?.unwrap_or(false);
    let format = context.options.choice("encrypt.format", &[("aes", ())])?;
    let crypt = u32::from(old || format.is_some());
    if crypt != 0 {
        match context.options.text("encrypt.key-secret") {
            Some(id) => context.options.secrets().get(id).map(drop)?,
            None => return Err(bad_option("encrypt.key-secret", "", "the id of a secret")),
        }
    }
    let l1_offset = (HEADER + name.len()).next_multiple_of(8) as u64;
    let mut h = vec![0; HEADER];
    put(&mut h, 0, &MAGIC.to_be_bytes());
    put(&mut h, 4, &1u32.to_be_bytes());
    if !name.is_empty() {
        put(&mut h, 8, &(HEADER as u64).to_be_bytes());
        put(&mut h, 16, &(name.len() as u32).to_be_bytes());
    }
    put(&mut h, 24, &size.to_be_bytes());
    put(&mut h, 32, &[cluster_bits as u8, l2_bits as u8]);
    put(&mut h, 36, &crypt.to_be_bytes());
    put(&mut h, 40, &l1_offset.to_be_bytes());
    h.extend_from_slice(name.as_bytes());
    let file = context.file()?;
    let table = vec![0; (entries * 8).next_multiple_of(512) as usize];
    file.write(l1_offset, &[IoSlice::new(&table)], false)?;
    file.write(0, &[IoSlice::new(&h)], false)
}
