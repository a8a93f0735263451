//! QED (QEMU, `docs/interop/qed_spec`): a header, two levels of tables of 64-bit offsets.

use std::io::IoSlice;
use std::sync::Arc;

use block::{BlockError, BlockNode};
use rustc_hash::FxHashMap;

use crate::bytes::{le32, le64, put};
use crate::image::{BackingName, Details, Image};
use crate::mapped::{Layout, Mapped, Place, head, read_table};
use crate::options::{Kind, OptionSpec, bad_option, opt};
use crate::registry::{CreateContext, OpenContext};

const MAGIC: &[u8; 4] = b"QED\0";
const HEADER: usize = 64;
const BACKING: u64 = 1;
const NEED_CHECK: u64 = 2;
const BACKING_RAW: u64 = 4;
const KNOWN: u64 = BACKING | NEED_CHECK | BACKING_RAW;
/// An entry that stands for a zero cluster.
const ZERO: u64 = 1;
/// L2 tables kept in memory, in bytes.
const MEMORY: usize = 16 << 20;

pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("backing_file", Kind::Text, "File name of a base image"),
    opt("backing_fmt", Kind::Text, "Image format of the base image"),
    opt("cluster_size", Kind::Size, "Cluster size (in bytes)"),
    opt("size", Kind::Size, "Virtual disk size"),
    opt("table_size", Kind::Size, "L1/L2 table size (in clusters)"),
];

/// Whether a file is one.
pub(crate) fn probe(data: &[u8], _: &str) -> u32 {
    if data.starts_with(MAGIC) { 100 } else { 0 }
}

#[derive(Debug)]
struct Qed {
    path: String,
    cluster: u64,
    table: u64,
    features: u64,
    l1_offset: u64,
    size: u64,
    l1: Vec<u64>,
    l2: FxHashMap<u64, Vec<u64>>,
    /// Where the next cluster goes.
    end: u64,
    backing: Option<BackingName>,
    header_len: u64,
}

fn words(raw: &[u8]) -> Vec<u64> {
    raw.chunks_exact(8).map(|c| le64(c, 0)).collect()
}

/// Opens an image.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let (file, path) = (&*context.file, context.filename.as_str());
    let bad = |what: String| Err(BlockError::Format { path: path.into(), what });
    let h = head(file, 0, HEADER)?;
    let (cluster, tables, header) = (u64::from(le32(&h, 4)), u64::from(le32(&h, 8)), u64::from(le32(&h, 12)));
    let (features, l1_offset, size) = (le64(&h, 16), le64(&h, 40), le64(&h, 48));
    if probe(&h, "") == 0 {
        return bad("qed magic is missing".into());
    }
    if features & !KNOWN != 0 {
        return bad(format!("qed features {:#x} are not supported", features & !KNOWN));
    }
    for (name, value, good) in [
        ("cluster_size", cluster, cluster.is_power_of_two() && (4096..=64 << 20).contains(&cluster)),
        ("table_size", tables, tables.is_power_of_two() && tables <= 16),
        (
            "header_size",
            header,
            header >= 1 && header.saturating_mul(cluster) <= i64::MAX as u64 && header <= 1 << 16,
        ),
    ] {
        if !good {
            return bad(format!("qed {name} {value} is out of range"));
        }
    }
    let table = cluster * tables;
    let span = (table / 8).saturating_mul(cluster);
    if !size.is_multiple_of(512) || size.div_ceil(span) > table / 8 {
        return bad(format!("qed image_size {size:#x} is more than the tables map"));
    }
    if !l1_offset.is_multiple_of(cluster) || l1_offset < header * cluster {
        return bad(format!(
            "qed l1_table_offset {l1_offset:#x}, expected a multiple of the cluster size behind the header"
        ));
    }
    let l1 = words(&read_table(file, l1_offset, table / 8, 8, 1 << 30, path, "qed L1 table")?);
    let mut backing = None;
    if features & BACKING != 0 {
        let (at, len) = (u64::from(le32(&h, 56)), u64::from(le32(&h, 60)));
        if len > 1023 || at + len > header * cluster {
            return bad(format!("qed backing file name of {len} bytes at {at:#x} is not within the header"));
        }
        let format = (features & BACKING_RAW != 0).then(|| "raw".to_owned());
        backing = Some(BackingName {
            file: String::from_utf8_lossy(&head(file, at, len as usize)?).into_owned(),
            format,
        });
    }
    let end = file.size().next_multiple_of(cluster);
    let below = match &backing {
        Some(name) if !context.options.no_backing => Some(context.open_backing(name)?),
        _ => None,
    };
    let layout = Qed {
        path: path.into(),
        cluster,
        table,
        features,
        l1_offset,
        size,
        l1,
        l2: FxHashMap::default(),
        end,
        backing,
        header_len: header * cluster,
    };
    Ok(Arc::new(Mapped::new(path, context.file.clone(), layout, size, context.options.read_only).back(below)))
}

impl Qed {
    fn entries(&self) -> u64 {
        self.table / 8
    }

    /// The L2 table for a cluster of the disk.
    fn l2(&mut self, file: &dyn BlockNode, block: u64) -> Result<Option<(u64, &mut Vec<u64>)>, BlockError> {
        let at = self.l1.get((block / self.entries()) as usize).copied().unwrap_or(0);
        if at == 0 {
            return Ok(None);
        }
        if !at.is_multiple_of(self.cluster) {
            return Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("qed L2 table at {at:#x} is not aligned"),
            });
        }
        if !self.l2.contains_key(&at) {
            if self.l2.len() * self.table as usize > MEMORY {
                self.l2.clear();
            }
            let raw = read_table(file, at, self.entries(), 8, 1 << 30, &self.path, "qed L2 table")?;
            self.l2.insert(at, words(&raw));
        }
        Ok(self.l2.get_mut(&at).map(|t| (at, t)))
    }

    fn set(&mut self, file: &dyn BlockNode, block: u64, value: u64) -> Result<(), BlockError> {
        let n = self.entries();
        if self.l2(file, block)?.is_none() {
            let at = self.end;
            self.end += self.table;
            // All of the table is there before the L1 table names it.
            file.write(at, &[IoSlice::new(&vec![0; self.table as usize])], false)?;
            file.flush()?;
            let i = block / n;
            if i as usize >= self.l1.len() {
                return Err(BlockError::Format {
                    path: self.path.clone(),
                    what: format!("qed cluster {block} has no place in the tables"),
                });
            }
            file.write(self.l1_offset + i * 8, &[IoSlice::new(&at.to_le_bytes())], false)?;
            self.l1[i as usize] = at;
        }
        if let Some((at, table)) = self.l2(file, block)? {
            // It holds only once it is written.
            let i = block % n;
            file.write(at + i * 8, &[IoSlice::new(&value.to_le_bytes())], false)?;
            if let Some(entry) = table.get_mut(i as usize) {
                *entry = value;
            }
        }
        Ok(())
    }

    fn write_features(&self, file: &dyn BlockNode) -> Result<(), BlockError> {
        file.write(16, &[IoSlice::new(&self.features.to_le_bytes())], false)
    }
}

impl Layout for Qed {
    fn format(&self) -> &'static str {
        "qed"
    }

    fn unit(&self) -> u64 {
        self.cluster
    }

    fn place(&mut self, file: &dyn BlockNode, block: u64) -> Result<Place, BlockError> {
        let n = self.entries();
        let entry =
            self.l2(file, block)?.and_then(|(_, t)| t.get((block % n) as usize).copied()).unwrap_or(0);
        match entry {
            0 => Ok(Place::Hole),
            ZERO => Ok(Place::Zero),
            at if at.is_multiple_of(self.cluster) && at <= i64::MAX as u64 => Ok(Place::At(at)),
            at => Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("qed cluster {block} at {at:#x} is not aligned"),
            }),
        }
    }

    fn take(&mut self, _: &dyn BlockNode, _: u64) -> Result<u64, BlockError> {
        let at = self.end;
        self.end += self.cluster;
        Ok(at)
    }

    fn link(&mut self, file: &dyn BlockNode, block: u64, offset: u64) -> Result<(), BlockError> {
        self.set(file, block, offset)
    }

    fn link_zero(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        self.set(file, block, ZERO)?;
        Ok(true)
    }

    fn end(&self) -> Option<u64> {
        Some(self.end)
    }

    fn unlink(&mut self, file: &dyn BlockNode, block: u64) -> Result<bool, BlockError> {
        self.set(file, block, 0)?;
        Ok(true)
    }

    fn resize(&mut self, file: &dyn BlockNode, size: u64) -> Result<(), BlockError> {
        let n = self.entries();
        if size < self.size {
            return Err(BlockError::Unsupported("shrinking"));
        }
        if !size.is_multiple_of(512) || size.div_ceil(n * self.cluster) > n {
            return Err(BlockError::Unsupported("a size that the tables cannot map"));
        }
        file.write(48, &[IoSlice::new(&size.to_le_bytes())], false)?;
        self.size = size;
        Ok(())
    }

    fn begin(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        self.features |= NEED_CHECK;
        self.write_features(file)?;
        file.flush()
    }

    fn close(&mut self, file: &dyn BlockNode) -> Result<(), BlockError> {
        self.features &= !NEED_CHECK;
        self.write_features(file)
    }

    fn details(&self) -> Details {
        Details {
            cluster_size: Some(self.cluster),
            dirty: self.features & NEED_CHECK != 0,
            ..Details::default()
        }
    }

    fn backing_name(&self) -> Option<BackingName> {
        self.backing.clone()
    }

    fn set_backing(&mut self, file: &dyn BlockNode, backing: Option<&BackingName>) -> Result<(), BlockError> {
        let (features, tail) = encode_backing(backing);
        let features = self.features & NEED_CHECK | features;
        let mut h = head(file, 0, HEADER)?;
        put(&mut h, 16, &features.to_le_bytes());
        put(&mut h, 56, &(if tail.is_empty() { 0 } else { HEADER as u32 }).to_le_bytes());
        put(&mut h, 60, &(tail.len() as u32).to_le_bytes());
        if tail.len() > 1023 || h.len() as u64 + tail.len() as u64 > self.header_len {
            return Err(BlockError::Format {
                path: self.path.clone(),
                what: format!("backing file name of {} bytes does not fit into the header", tail.len()),
            });
        }
        h.extend_from_slice(&tail);
        file.write(0, &[IoSlice::new(&h)], false)?;
        self.features = features;
        self.backing = backing.cloned();
        file.flush()
    }

    fn checks(&self) -> bool {
        true
    }
}

/// Feature bits and bytes of a backing file's name.
fn encode_backing(backing: Option<&BackingName>) -> (u64, Vec<u8>) {
    match backing {
        None => (0, Vec::new()),
        Some(b) => {
            let raw = if b.format.as_deref() == Some("raw") { BACKING_RAW } else { 0 };
            (BACKING | raw, b.file.clone().into_bytes())
        }
    }
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let options = context.options;
    let cluster = options.size("cluster_size")?.unwrap_or(64 << 10);
    let tables = options.size("table_size")?.unwrap_or(4);
    if !cluster.is_power_of_two() || !(4096..=64 << 20).contains(&cluster) {
        return Err(bad_option("cluster_size", cluster, "a power of two from 4k to 64M"));
    }
    if !tables.is_power_of_two() || tables > 16 {
        return Err(bad_option("table_size", tables, "a power of two from 1 to 16"));
    }
    let size = context.size.next_multiple_of(512);
    let n = cluster * tables / 8;
    if size.div_ceil(n * cluster) > n {
        return Err(bad_option("size", size, format!("at most {}", (n * cluster).saturating_mul(n))));
    }
    let backing = options.text("backing_file").filter(|b| !b.is_empty()).map(|file| BackingName {
        file: file.into(),
        format: options.text("backing_fmt").map(str::to_owned),
    });
    let (features, tail) = encode_backing(backing.as_ref());
    if tail.len() > 1023 {
        return Err(bad_option("backing_file", "...", "at most 1023 bytes"));
    }
    let mut h = vec![0; HEADER];
    put(&mut h, 0, MAGIC);
    put(&mut h, 4, &(cluster as u32).to_le_bytes());
    put(&mut h, 8, &(tables as u32).to_le_bytes());
    put(&mut h, 12, &1u32.to_le_bytes());
    put(&mut h, 16, &features.to_le_bytes());
    put(&mut h, 40, &cluster.to_le_bytes());
    put(&mut h, 48, &size.to_le_bytes());
    if !tail.is_empty() {
        put(&mut h, 56, &(HEADER as u32).to_le_bytes());
        put(&mut h, 60, &(tail.len() as u32).to_le_bytes());
    }
    h.extend_from_slice(&tail);
    let file = context.file()?;
    file.write_zeroes(cluster, cluster * tables, true)?;
    file.write(0, &[IoSlice::new(&h)], false)
}
