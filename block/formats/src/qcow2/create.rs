//! Making an image, and telling how large it would get.

use std::io::IoSlice;
use std::sync::Arc;

use block::BlockError;
use block::BlockNode;

use super::crypt;
use super::header::{Compression, Encryption, Header, LAZY_REFCOUNTS, MAX_L1, autoclear, incompatible};
use super::refcount::set_count;
use crate::image::{BackingName, Preallocation};
use crate::luks::{self, Area, Luks};
use crate::options::{Kind, OptionSpec, Options, bad_option, opt};
use crate::registry::{CreateContext, Measure};

/// Options of `create`.
pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("backing_file", Kind::Text, "File name of a base image"),
    opt("backing_fmt", Kind::Text, "Image format of the base image"),
    opt("cluster_size", Kind::Size, "qcow2 cluster size"),
    opt("compat", Kind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    opt("compression_type", Kind::Text, "Compression method used for image cluster compression"),
    opt("data_file", Kind::Text, "File name of an external data file"),
    opt("data_file_raw", Kind::Bool, "The external data file must stay valid as a raw image"),
    crypt::CREATE[0],
    crypt::CREATE[1],
    crypt::CREATE[2],
    crypt::CREATE[3],
    crypt::CREATE[4],
    crypt::CREATE[5],
    crypt::CREATE[6],
    crypt::CREATE[7],
    opt(
        "encryption",
        Kind::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    opt("extended_l2", Kind::Bool, "Extended L2 tables"),
    opt("lazy_refcounts", Kind::Bool, "Postpone refcount updates"),
    opt("preallocation", Kind::Text, "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    opt("refcount_bits", Kind::Number, "Width of a reference count entry in bits"),
    opt("size", Kind::Size, "Virtual disk size"),
];

/// What the options ask for, apart from names.
struct Wanted {
    header: Header,
    preallocation: Preallocation,
    /// A LUKS header, if one is wanted.
    luks: Option<luks::Wanted>,
}

/// The version an option `compat` means.
pub(super) fn version(options: &Options) -> Result<u32, BlockError> {
    let words = [("0.10", 2), ("v2", 2), ("1.1", 3), ("v3", 3)];
    Ok(options.choice("compat", &words)?.unwrap_or(3))
}

/// The order of reference counts an option `refcount_bits` means.
pub(super) fn refcount_order(options: &Options) -> Result<Option<u32>, BlockError> {
    match options.number("refcount_bits")? {
        None => Ok(None),
        Some(bits) if bits.is_power_of_two() && bits <= 64 => Ok(Some(bits.trailing_zeros())),
        Some(bits) => Err(bad_option("refcount_bits", bits, "a power of two from 1 to 64")),
    }
}

fn wanted(options: &Options, size: u64) -> Result<Wanted, BlockError> {
    let version = version(options)?;
    let extended = options.switch("extended_l2")?.unwrap_or(false);
    let cluster = options.size("cluster_size")?.unwrap_or(64 << 10);
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        return Err(bad_option("cluster_size", cluster, "a power of two from 512 to 2M"));
    }
    if extended && cluster < 16 << 10 {
        return Err(bad_option("cluster_size", cluster, "at least 16k with extended_l2=on"));
    }
    let order = refcount_order(options)?.unwrap_or(4);
    let compression = options.choice("compression_type", &Compression::NAMES)?.unwrap_or_default();
    let lazy = options.switch("lazy_refcounts")?.unwrap_or(false);
    let data_file = options.text("data_file").map(str::to_owned);
    let raw = options.switch("data_file_raw")?.unwrap_or(false);
    let needs_v3 = [
        ("extended_l2", extended),
        ("lazy_refcounts", lazy),
        ("refcount_bits", order != 4),
        ("compression_type", compression != Compression::Zlib),
        ("data_file", data_file.is_some()),
    ];
    if let Some((name, _)) = needs_v3.iter().find(|(_, on)| *on && version < 3) {
        let value = options.text(name).unwrap_or_default();
        return Err(bad_option(name, value, "compat=1.1 beside it (version 3)"));
    }
    if raw && data_file.is_none() {
        return Err(bad_option("data_file_raw", "on", "a data_file"));
    }
    let backing = options.text("backing_file").filter(|b| !b.is_empty());
    if raw && backing.is_some() {
        return Err(bad_option("data_file_raw", "on", "no backing_file beside it"));
    }
    let preallocation =
        options.preallocation(&[Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full])?;
    if backing.is_some() && preallocation != Preallocation::Off && !extended {
        let value = options.text("preallocation").unwrap_or_default();
        return Err(bad_option("preallocation", value, "extended_l2=on where there is a backing file"));
    }
    if let Some(format) = options.text("backing_fmt")
        && backing.is_none()
    {
        return Err(bad_option("backing_fmt", format, "a backing_file"));
    }
    let mut header = Header {
        version,
        cluster_bits: cluster.trailing_zeros(),
        size,
        refcount_order: order,
        compression,
        compatible: if lazy { LAZY_REFCOUNTS } else { 0 },
        autoclear: if raw { autoclear::DATA_FILE_RAW } else { 0 },
        backing: backing.map(|file| BackingName {
            file: file.into(),
            format: options.text("backing_fmt").map(str::to_owned),
        }),
        ..Header::default()
    };
    if extended {
        header.incompatible |= incompatible::EXTENDED_L2;
    }
    if compression != Compression::Zlib {
        header.incompatible |= incompatible::COMPRESSION;
    }
    if data_file.is_some() {
        header.incompatible |= incompatible::DATA_FILE;
        header.data_file = data_file;
    }
    let l1 = header.l1_needed(size);
    if l1 * 8 > MAX_L1 || size > i64::MAX as u64 {
        let most = (MAX_L1 / 8).saturating_mul(1 << header.l2_span_bits());
        return Err(bad_option("size", size, format!("at most {most} with clusters of {cluster}")));
    }
    header.l1_size = l1 as u32;
    let encryption = crypt::wanted(options)?;
    if let Some(format) = encryption {
        if raw {
            return Err(bad_option("encrypt.format", format, "no data_file_raw=on beside it"));
        }
        if preallocation != Preallocation::Off && version < 3 {
            return Err(bad_option("encrypt.format", format, "compat=1.1 or no preallocation beside it"));
        }
    }
    let luks = match encryption {
        Some("luks") => {
            let wanted = luks::Wanted::parse(options, "encrypt.")?;
            header.encryption = Encryption::Luks { offset: cluster, len: wanted.length() };
            Some(wanted)
        }
        Some(_) => {
            header.encryption = Encryption::Aes;
            None
        }
        None => None,
    };
    Ok(Wanted { header, preallocation, luks })
}

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let options = context.options;
    let size = context.size.next_multiple_of(512);
    let Wanted { mut header, preallocation, luks } = wanted(options, size)?;
    let path = context.name.display().to_string();
    let cluster = header.cluster();
    // Too long names are found before a file is touched.
    header.encode(&path)?;
    if let Some(name) = &header.data_file {
        let data = context.create_file(name)?;
        data.resize(if header.data_raw() || preallocation == Preallocation::Off { size } else { 0 })?;
        data.flush()?;
    }
    let block_bits = header.cluster_bits + 3 - header.refcount_order;
    let l1_clusters = (u64::from(header.l1_size) * 8).div_ceil(cluster);
    let luks_clusters = luks.as_ref().map_or(0, |l| l.length().div_ceil(cluster));
    let password = if header.encryption == Encryption::None { None } else { Some(crypt::password(options)?) };
    // Header, refcount table of t clusters, b blocks, L1 table, LUKS header.
    let (mut t, mut b) = (1u64, 1u64);
    loop {
        let total = 1 + t + b + l1_clusters + luks_clusters;
        let blocks = total.div_ceil(1 << block_bits);
        let tables = (blocks * 8).div_ceil(cluster);
        if (tables, blocks) == (t, b) {
            break;
        }
        (t, b) = (tables.max(t), blocks.max(b));
    }
    let total = 1 + t + b + l1_clusters + luks_clusters;
    header.reftable_offset = cluster;
    header.reftable_clusters = t as u32;
    header.l1_offset = (1 + t + b) * cluster;
    if let Some(luks) = &luks {
        header.encryption =
            Encryption::Luks { offset: (1 + t + b + l1_clusters) * cluster, len: luks.length() };
    }
    let file: Arc<dyn BlockNode> = context.file()?;
    let mut table: Vec<u8> = (0..b).flat_map(|i| ((1 + t + i) * cluster).to_be_bytes()).collect();
    // All of it: a device may have held something else.
    table.resize((t * cluster) as usize, 0);
    file.write(cluster, &[IoSlice::new(&table)], false)?;
    for i in 0..b {
        let mut data = vec![0; cluster as usize];
        for c in i << block_bits..((i + 1) << block_bits).min(total) {
            let index = (c & ((1 << block_bits) - 1)) as usize;
            let (at, raw, n) = set_count(&data, header.refcount_order, index, 1);
            data[at..at + n].copy_from_slice(&raw[..n]);
        }
        file.write((1 + t + i) * cluster, &[IoSlice::new(&data)], false)?;
    }
    let l1 = vec![0; header.l1_size as usize * 8];
    file.write(header.l1_offset, &[IoSlice::new(&l1)], false)?;
    if let (Some(luks), Some(password), Encryption::Luks { offset, len }) =
        (&luks, &password, header.encryption)
    {
        Luks::create(Area::new(file.clone(), &path, offset, len), luks, password)?;
    }
    let raw = header.encode(&path)?.raw;
    file.write(0, &[IoSlice::new(&raw)], false)?;
    if preallocation != Preallocation::Off {
        drop(file);
        let image = context.reopen()?;
        image.preallocate(preallocation)?;
        image.close()?;
    }
    Ok(())
}

/// Clusters the refcounts of `clusters` clusters take, their own included.
fn refcount_clusters(clusters: u64, header: &Header) -> u64 {
    let per_table = header.cluster() / 8;
    let per_block = 1u64 << (header.cluster_bits + 3 - header.refcount_order);
    let (mut blocks, mut tables, mut last) = (0, 0, u64::MAX);
    loop {
        let n = clusters + blocks + tables;
        if n == last {
            return blocks + tables;
        }
        last = n;
        blocks = n.div_ceil(per_block);
        tables = blocks.div_ceil(per_table);
    }
}

/// Tells how many bytes an image takes in which `data` bytes of whole clusters are stored.
pub(crate) fn measure(
    options: &Options,
    size: u64,
    data: &dyn Fn(u64) -> Result<u64, BlockError>,
) -> Result<Measure, BlockError> {
    let size = size.next_multiple_of(512);
    let Wanted { header, preallocation, luks } = wanted(options, size)?;
    let cluster = header.cluster();
    let luks = luks.map_or(0, |l| l.length().next_multiple_of(cluster));
    let full = size.next_multiple_of(cluster);
    let entry = if header.extended() { 16 } else { 8 };
    let l2_entries = (full / cluster).next_multiple_of(cluster / entry);
    let l2 = l2_entries * entry;
    let l1 = (l2 / cluster).next_multiple_of(cluster / 8) * 8;
    let external = header.external();
    let counted = cluster + l2 + l1 + luks + if external { 0 } else { full };
    let meta = cluster + l2 + l1 + luks + refcount_clusters(counted.div_ceil(cluster), &header) * cluster;
    let fully_allocated = meta + if external { 0 } else { full };
    let stored = match preallocation {
        _ if external => 0,
        Preallocation::Full | Preallocation::Falloc => full,
        _ => data(cluster)?,
    };
    Ok(Measure { required: meta + stored, fully_allocated })
}
