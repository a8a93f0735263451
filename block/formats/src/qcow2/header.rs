//! The header and its extensions (QEMU, `docs/interop/qcow2`, "Header" and "Header extensions").
//!
//! Nothing here is trusted: every field has its bound, and a bound that is broken is named with both values.

use std::ops::Range;

use block::BlockError;

use crate::bytes::{be32, be64, put};
use crate::image::BackingName;

pub(super) const MAGIC: u32 = 0x5146_49fb;
/// Length of the fixed part of version 3, with the compression type.
pub(super) const LENGTH: usize = 112;
const LENGTH_V2: usize = 72;
/// Most bytes of an L1 table.
pub(super) const MAX_L1: u64 = 32 << 20;
/// Most bytes of a refcount table.
pub(super) const MAX_REFTABLE: u64 = 8 << 20;
/// Most snapshots.
pub(super) const MAX_SNAPSHOTS: u32 = 65536;
/// Most bytes of a LUKS header.
const MAX_LUKS: u64 = 32 << 20;
/// Most bytes of a backing file's name.
pub(super) const MAX_NAME: usize = 1023;

/// Bits of the incompatible features.
pub(super) mod incompatible {
    pub(crate) const DIRTY: u64 = 1 << 0;
    pub(crate) const CORRUPT: u64 = 1 << 1;
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    pub(crate) const COMPRESSION: u64 = 1 << 3;
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
    pub(crate) const ALL: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Bit of the compatible features: reference counts may lag behind.
pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;

/// Bits of the features a writer clears if it does not know them.
pub(super) mod autoclear {
    pub(crate) const BITMAPS: u64 = 1 << 0;
    pub(crate) const DATA_FILE_RAW: u64 = 1 << 1;
    pub(crate) const ALL: u64 = BITMAPS | DATA_FILE_RAW;
}

mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(super) const BITMAPS: u32 = 0x2385_2875;
    pub(super) const CRYPTO: u32 = 0x0537_be77;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
}

/// Names of the feature bits, for programs that do not know them: (kind, bit, name).
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Compression {
    #[default]
    Zlib,
    Zstd,
}

impl Compression {
    pub(super) const NAMES: [(&'static str, Self); 2] = [("zlib", Self::Zlib), ("zstd", Self::Zstd)];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, c)| *c == self).map_or("zlib", |(n, _)| n)
    }
}

/// How data is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encryption {
    #[default]
    None,
    Aes,
    /// With a header in clusters of its own.
    Luks {
        offset: u64,
        len: u64,
    },
}

impl Encryption {
    /// What the field crypt_method has.
    fn method(self) -> u32 {
        match self {
            Encryption::None => 0,
            Encryption::Aes => 1,
            Encryption::Luks { .. } => 2,
        }
    }
}

/// Where the directory of bitmaps is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BitmapDirectory {
    pub(super) count: u32,
    pub(super) size: u64,
    pub(super) offset: u64,
}

/// The header, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) reftable_offset: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshot_count: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) compression: Compression,
    pub(super) encryption: Encryption,
    pub(super) backing: Option<BackingName>,
    /// Where the backing file's name lies if there is room; else it follows the extensions.
    pub(super) name_at: u64,
    pub(super) data_file: Option<String>,
    pub(super) bitmaps: Option<BitmapDirectory>,
    /// Fixed fields beyond those known here.
    pub(super) extra_fields: Vec<u8>,
    /// Extensions not known here, kept as they are.
    pub(super) unknown: Vec<(u32, Vec<u8>)>,
}

impl Header {
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(super) fn extended(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    pub(super) fn external(&self) -> bool {
        self.incompatible & incompatible::DATA_FILE != 0
    }

    pub(super) fn data_raw(&self) -> bool {
        self.autoclear & autoclear::DATA_FILE_RAW != 0
    }

    pub(super) fn lazy(&self) -> bool {
        self.compatible & LAZY_REFCOUNTS != 0
    }

    /// Bytes of the disk that one L2 table maps, as a shift.
    pub(super) fn l2_span_bits(&self) -> u32 {
        self.cluster_bits + self.cluster_bits - if self.extended() { 4 } else { 3 }
    }

    /// Entries the L1 table needs for a disk of this size.
    pub(super) fn l1_needed(&self, size: u64) -> u64 {
        size.div_ceil(1 << self.l2_span_bits())
    }

    /// Decodes the first cluster of an image (or as much of it as there is).
    pub(super) fn decode(data: &[u8], path: &str) -> Result<Self, BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
        if data.len() < LENGTH_V2 || be32(data, 0) != MAGIC {
            return bad(format!("qcow2 magic: {:#010x}, expected {MAGIC:#010x}", be32(data, 0)));
        }
        let version = be32(data, 4);
        if !(2..=3).contains(&version) {
            return bad(format!("qcow2 version {version}, expected 2 or 3"));
        }
        let cluster_bits = be32(data, 20);
        if !(9..=21).contains(&cluster_bits) {
            return bad(format!("qcow2 cluster_bits {cluster_bits}, expected 9 to 21"));
        }
        let mut h = Header {
            version,
            cluster_bits,
            size: be64(data, 24),
            l1_size: be32(data, 36),
            l1_offset: be64(data, 40),
            reftable_offset: be64(data, 48),
            reftable_clusters: be32(data, 56),
            snapshot_count: be32(data, 60),
            snapshots_offset: be64(data, 64),
            refcount_order: 4,
            ..Header::default()
        };
        let mut length = LENGTH_V2;
        if version == 3 {
            h.incompatible = be64(data, 72);
            h.compatible = be64(data, 80);
            h.autoclear = be64(data, 88);
            h.refcount_order = be32(data, 96);
            length = be32(data, 100) as usize;
            if length < 104 || length > data.len() || !length.is_multiple_of(8) {
                return bad(format!(
                    "qcow2 header_length {length}, expected a multiple of 8 from 104 to the cluster size"
                ));
            }
            h.extra_fields = data.get(LENGTH..length).unwrap_or_default().to_vec();
        }
        h.encryption = match be32(data, 32) {
            0 => Encryption::None,
            1 => Encryption::Aes,
            // Its place comes from the extension.
            2 => Encryption::Luks { offset: 0, len: 0 },
            n => return bad(format!("qcow2 crypt_method {n}, expected 0 (none), 1 (AES) or 2 (LUKS)")),
        };
        let unknown = h.incompatible & !incompatible::ALL;
        if unknown != 0 {
            let names = Self::names_in(data, length, unknown);
            return bad(format!("qcow2 incompatible features {unknown:#x}{names} are not supported"));
        }
        let compression = if version == 3 && length > 104 { data[104] } else { 0 };
        h.compression = match compression {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            n => return bad(format!("qcow2 compression_type {n}, expected 0 (zlib) or 1 (zstd)")),
        };
        let flagged = h.incompatible & incompatible::COMPRESSION != 0;
        if flagged != (h.compression != Compression::Zlib) {
            return bad(format!(
                "qcow2 compression_type {compression} contradicts the compression feature bit"
            ));
        }
        h.check(path)?;
        h.decode_extensions(data, length, path)?;
        if h.encryption == (Encryption::Luks { offset: 0, len: 0 }) {
            return bad(
                "qcow2 crypt_method 2 (LUKS) without the extension that says where its header is".into()
            );
        }
        if h.encryption != Encryption::None && h.data_raw() {
            return bad("qcow2 crypt_method is set in an image whose data file is raw".into());
        }
        let (at, len) = (be64(data, 8), be32(data, 16) as usize);
        if at != 0 {
            if len > MAX_NAME {
                return bad(format!("qcow2 backing_file_size {len}, expected at most {MAX_NAME}"));
            }
            let name = usize::try_from(at).ok().and_then(|at| data.get(at..at.checked_add(len)?));
            let Some(name) = name else {
                return bad(format!("qcow2 backing_file_offset {at:#x} is beyond the first cluster"));
            };
            let format = h.backing.take().and_then(|b| b.format);
            h.name_at = at;
            // A name of no length is none.
            h.backing =
                (len != 0).then(|| BackingName { file: String::from_utf8_lossy(name).into_owned(), format });
        } else {
            h.backing = None;
        }
        Ok(h)
    }

    /// Checks all places and sizes against the bounds of the format.
    fn check(&self, path: &str) -> Result<(), BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
        let cluster = self.cluster();
        if self.refcount_order > 6 {
            return bad(format!("qcow2 refcount_order {}, expected at most 6", self.refcount_order));
        }
        if self.extended() && self.cluster_bits < 14 {
            return bad(format!(
                "qcow2 cluster_bits {}, expected at least 14 with extended L2",
                self.cluster_bits
            ));
        }
        if self.size > i64::MAX as u64 {
            return bad(format!("qcow2 size {:#x}, expected less than 2^63", self.size));
        }
        let l1_bytes = u64::from(self.l1_size) * 8;
        if l1_bytes > MAX_L1 {
            return bad(format!("qcow2 l1_size {}, expected at most {}", self.l1_size, MAX_L1 / 8));
        }
        let needed = self.l1_needed(self.size);
        if u64::from(self.l1_size) < needed {
            return bad(format!("qcow2 l1_size {}, expected at least {needed} for the size", self.l1_size));
        }
        let reftable = u64::from(self.reftable_clusters) * cluster;
        if self.reftable_clusters == 0 || reftable > MAX_REFTABLE {
            let max = MAX_REFTABLE >> self.cluster_bits;
            return bad(format!(
                "qcow2 refcount_table_clusters {}, expected 1 to {max}",
                self.reftable_clusters
            ));
        }
        if self.snapshot_count > MAX_SNAPSHOTS {
            return bad(format!(
                "qcow2 nb_snapshots {}, expected at most {MAX_SNAPSHOTS}",
                self.snapshot_count
            ));
        }
        for (name, offset, len) in [
            ("l1_table_offset", self.l1_offset, l1_bytes),
            ("refcount_table_offset", self.reftable_offset, reftable),
            ("snapshots_offset", self.snapshots_offset, 0),
        ] {
            let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
            if !offset.is_multiple_of(cluster) || end.is_none() {
                return bad(format!(
                    "qcow2 {name} {offset:#x}, expected a multiple of the cluster size {cluster:#x}"
                ));
            }
        }
        if self.reftable_offset == 0 || (self.l1_offset == 0 && self.l1_size != 0) {
            return bad("qcow2 l1_table_offset or refcount_table_offset is 0, where the header is".into());
        }
        Ok(())
    }

    fn extensions(data: &[u8], mut at: usize) -> impl Iterator<Item = Result<(u32, &[u8]), usize>> {
        let mut over = false;
        std::iter::from_fn(move || {
            if over || at + 8 > data.len() {
                return None;
            }
            let (kind, len) = (be32(data, at), be32(data, at + 4) as usize);
            if kind == extension::END {
                return None;
            }
            let Some(body) = data.get(at + 8..).and_then(|rest| rest.get(..len)) else {
                over = true;
                return Some(Err(len));
            };
            at += 8 + len.next_multiple_of(8);
            Some(Ok((kind, body)))
        })
    }

    fn names_in(data: &[u8], length: usize, bits: u64) -> String {
        let found = Self::extensions(data, length).flatten().find(|(k, _)| *k == extension::FEATURE_NAMES);
        let table = found.map_or(&[][..], |(_, body)| body);
        let names: Vec<String> = table
            .chunks_exact(48)
            .filter(|row| row[0] == 0 && row[1] < 64 && bits >> row[1] & 1 != 0)
            .map(|row| crate::bytes::text(&row[2..]))
            .collect();
        if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
    }

    fn decode_extensions(&mut self, data: &[u8], length: usize, path: &str) -> Result<(), BlockError> {
        let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
        for found in Self::extensions(data, length) {
            let (kind, body) = match found {
                Ok(x) => x,
                Err(len) => {
                    return bad(format!(
                        "qcow2 header extension of {len} bytes goes beyond the first cluster"
                    ));
                }
            };
            match kind {
                extension::BACKING_FORMAT => {
                    if body.len() > 15 {
                        return bad(format!(
                            "qcow2 backing format of {} bytes, expected at most 15",
                            body.len()
                        ));
                    }
                    let format = Some(String::from_utf8_lossy(body).into_owned());
                    self.backing = Some(BackingName { file: String::new(), format });
                }
                extension::DATA_FILE => {
                    if body.len() > MAX_NAME {
                        return bad(format!(
                            "qcow2 data file name of {} bytes, expected at most {MAX_NAME}",
                            body.len()
                        ));
                    }
                    self.data_file = Some(String::from_utf8_lossy(body).into_owned());
                }
                extension::BITMAPS => {
                    if body.len() != 24 {
                        return bad(format!("qcow2 bitmaps extension of {} bytes, expected 24", body.len()));
                    }
                    let d =
                        BitmapDirectory { count: be32(body, 0), size: be64(body, 8), offset: be64(body, 16) };
                    // Bits that nobody kept up to date mean nothing.
                    if self.autoclear & autoclear::BITMAPS != 0 {
                        let max = 65535 * 1024;
                        if d.count == 0 || d.count > 65535 || d.size == 0 || d.size > max {
                            return bad(format!(
                                "qcow2 bitmap directory of {} entries in {} bytes, expected 1 to 65535 in at most {max}",
                                d.count, d.size
                            ));
                        }
                        if d.offset == 0 || d.offset & (self.cluster() - 1) != 0 {
                            return bad(format!(
                                "qcow2 bitmap_directory_offset {:#x}, expected a multiple of the cluster size",
                                d.offset
                            ));
                        }
                        self.bitmaps = Some(d);
                    }
                }
                extension::CRYPTO => {
                    let (offset, len) = (be64(body, 0), be64(body, 8));
                    let Encryption::Luks { .. } = self.encryption else {
                        return bad("qcow2 LUKS header in an image whose crypt_method is another".into());
                    };
                    let whole = body.len() == 16 && offset != 0 && offset & (self.cluster() - 1) == 0;
                    if !whole || len == 0 || len > MAX_LUKS || offset > i64::MAX as u64 - len {
                        return bad(format!(
                            "qcow2 LUKS header of {len} bytes at {offset:#x}, expected at most {MAX_LUKS} at a multiple of the cluster size"
                        ));
                    }
                    self.encryption = Encryption::Luks { offset, len };
                }
                extension::FEATURE_NAMES => {}
                _ => self.unknown.push((kind, body.to_vec())),
            }
        }
        Ok(())
    }

    /// The first cluster, or why the names do not fit into it.
    pub(super) fn encode(&self, path: &str) -> Result<Encoded, BlockError> {
        let cluster = self.cluster() as usize;
        let mut out = vec![0; LENGTH_V2];
        put(&mut out, 0, &MAGIC.to_be_bytes());
        put(&mut out, 4, &self.version.to_be_bytes());
        put(&mut out, 20, &self.cluster_bits.to_be_bytes());
        put(&mut out, 24, &self.size.to_be_bytes());
        put(&mut out, 32, &self.encryption.method().to_be_bytes());
        put(&mut out, 36, &self.l1_size.to_be_bytes());
        put(&mut out, 40, &self.l1_offset.to_be_bytes());
        put(&mut out, 48, &self.reftable_offset.to_be_bytes());
        put(&mut out, 56, &self.reftable_clusters.to_be_bytes());
        put(&mut out, 60, &self.snapshot_count.to_be_bytes());
        put(&mut out, 64, &self.snapshots_offset.to_be_bytes());
        if self.version == 3 {
            out.resize(LENGTH, 0);
            out.extend_from_slice(&self.extra_fields);
            let length = out.len() as u32;
            put(&mut out, 72, &self.incompatible.to_be_bytes());
            put(&mut out, 80, &self.compatible.to_be_bytes());
            put(&mut out, 88, &self.autoclear.to_be_bytes());
            put(&mut out, 96, &self.refcount_order.to_be_bytes());
            put(&mut out, 100, &length.to_be_bytes());
            out[104] = u8::from(self.compression == Compression::Zstd);
        }
        let extension = |out: &mut Vec<u8>, kind: u32, body: &[u8]| {
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&(body.len() as u32).to_be_bytes());
            out.extend_from_slice(body);
            out.resize(out.len().next_multiple_of(8), 0);
        };
        if let Some(format) = self.backing.as_ref().and_then(|b| b.format.as_ref()) {
            extension(&mut out, extension::BACKING_FORMAT, format.as_bytes());
        }
        if let Encryption::Luks { offset, len } = self.encryption {
            let mut body = [0; 16];
            put(&mut body, 0, &offset.to_be_bytes());
            put(&mut body, 8, &len.to_be_bytes());
            extension(&mut out, extension::CRYPTO, &body);
        }
        if let Some(name) = &self.data_file {
            extension(&mut out, extension::DATA_FILE, name.as_bytes());
        }
        if self.version == 3 {
            let mut names = Vec::new();
            for (kind, bit, name) in FEATURE_NAMES {
                names.extend_from_slice(&[kind, bit]);
                names.extend_from_slice(name.as_bytes());
                names.resize(names.len() + 46 - name.len(), 0);
            }
            // Only a help: left out where clusters are too small.
            if out.len() + names.len() + 40 + self.backing.as_ref().map_or(0, |b| b.file.len()) <= cluster {
                extension(&mut out, extension::FEATURE_NAMES, &names);
            }
        }
        if let Some(d) = &self.bitmaps {
            let mut body = [0; 24];
            put(&mut body, 0, &d.count.to_be_bytes());
            put(&mut body, 8, &d.size.to_be_bytes());
            put(&mut body, 16, &d.offset.to_be_bytes());
            extension(&mut out, extension::BITMAPS, &body);
        }
        for (kind, body) in &self.unknown {
            extension(&mut out, *kind, body);
        }
        extension(&mut out, extension::END, &[]);
        let end = out.len();
        if let Some(backing) = self.backing.as_ref().filter(|b| !b.file.is_empty()) {
            let len = backing.file.len();
            if len > MAX_NAME {
                let what = format!("backing file name of {len} bytes, expected at most {MAX_NAME}");
                return Err(BlockError::Format { path: path.into(), what });
            }
            let own = usize::try_from(self.name_at).ok();
            let own = own.filter(|at| *at > end && at.checked_add(len).is_some_and(|end| end <= cluster));
            let at = own.unwrap_or(end);
            put(&mut out, 8, &(at as u64).to_be_bytes());
            put(&mut out, 16, &(len as u32).to_be_bytes());
            out.resize(at, 0);
            out.extend_from_slice(backing.file.as_bytes());
        }
        if out.len() > cluster {
            let what = format!(
                "the header with its names takes {} bytes, more than a cluster of {cluster}",
                out.len()
            );
            return Err(BlockError::Format { path: path.into(), what });
        }
        Ok(Encoded { raw: out, end })
    }
}

/// A header as it lies in its cluster.
pub(super) struct Encoded {
    /// Header, extensions and the backing file's name.
    pub(super) raw: Vec<u8>,
    /// Where the extensions end.
    pub(super) end: usize,
}

impl Encoded {
    /// Where the backing file's name lies.
    pub(super) fn name(&self) -> Range<usize> {
        let at = be64(&self.raw, 8) as usize;
        at..at + be32(&self.raw, 16) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let mut h = Header {
            version: 3,
            cluster_bits: 16,
            size: 1 << 30,
            l1_size: 2,
            l1_offset: 0x30000,
            reftable_offset: 0x10000,
            reftable_clusters: 1,
            refcount_order: 4,
            autoclear: autoclear::BITMAPS,
            backing: Some(BackingName { file: "base.img".into(), format: Some("raw".into()) }),
            name_at: 2048,
            bitmaps: Some(BitmapDirectory { count: 1, size: 32, offset: 0x70000 }),
            unknown: vec![(0x1234_5678, vec![1, 2, 3])],
            ..Header::default()
        };
        let back = Header::decode(&h.encode("x").unwrap().raw, "x").unwrap();
        assert_eq!(back, h);
        h.cluster_bits = 9;
        h.backing.as_mut().unwrap().file = "b".repeat(600);
        assert!(h.encode("x").err().unwrap().to_string().contains("more than a cluster"));
    }

    #[test]
    fn encryption_is_never_overlooked_and_what_is_unknown_refused_by_name() {
        let h = Header {
            version: 3,
            cluster_bits: 16,
            reftable_offset: 0x10000,
            reftable_clusters: 1,
            refcount_order: 4,
            ..Header::default()
        };
        let mut data = h.encode("x").unwrap().raw;
        for (method, expected) in [(2, "crypt_method 2 (LUKS) without"), (3, "crypt_method 3")] {
            data[35] = method;
            let text = Header::decode(&data, "x").unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
        data[35] = 1;
        assert_eq!(Header::decode(&data, "x").unwrap().encryption, Encryption::Aes);
        let luks = Header { encryption: Encryption::Luks { offset: 0x50000, len: 0x1000 }, ..h };
        assert_eq!(Header::decode(&luks.encode("x").unwrap().raw, "x").unwrap(), luks);
        let mut plain = luks.encode("x").unwrap().raw;
        plain[35] = 0;
        let text = Header::decode(&plain, "x").unwrap_err().to_string();
        assert!(text.contains("LUKS header in an image whose crypt_method is another"), "{text}");
        data[35] = 0;
        data[72] = 0x80;
        let text = Header::decode(&data, "x").unwrap_err().to_string();
        assert!(text.contains("incompatible features 0x8000000000000000"), "{text}");
    }
}
