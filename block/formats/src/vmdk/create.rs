//! Making an image. The file that bears the image's name is written last: until then there is none.

use std::io::IoSlice;
use std::path::Path;

use block::{BlockError, BlockNode};

use super::SECTOR;
use super::sparse::{COMPRESSED, HEADER, MAGIC, MARKERS, NEWLINES, PER_TABLE, REDUNDANT, ZERO_GRAINS};
use crate::bytes::put;
use crate::options::{Kind, OptionSpec, bad_option, opt};
use crate::registry::{CreateContext, OpenOptions, open};

/// Sectors of a grain, and of a descriptor inside an extent.
const GRAIN: u64 = 128;
const DESCRIPTOR: u64 = 20;
/// Most bytes of an extent of a split disk.
const SPLIT: u64 = 2 << 30;
const ADAPTERS: [(&str, &str); 4] =
    [("ide", "ide"), ("buslogic", "buslogic"), ("lsilogic", "lsilogic"), ("legacyESX", "legacyESX")];

/// Options of `create`.
pub(crate) const CREATE_OPTIONS: &[OptionSpec] = &[
    opt("adapter_type", Kind::Text, "Virtual adapter type: ide (default), lsilogic, buslogic or legacyESX"),
    opt("backing_file", Kind::Text, "File name of a base image"),
    opt("backing_fmt", Kind::Text, "Must be 'vmdk' if present"),
    opt("compat6", Kind::Bool, "VMDK version 6 image"),
    opt("hwversion", Kind::Text, "VMDK hardware version"),
    opt("size", Kind::Size, "Virtual disk size"),
    opt(
        "subformat",
        Kind::Text,
        "monolithicSparse (default), monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat or streamOptimized",
    ),
    opt("toolsversion", Kind::Text, "VMware guest tools version"),
    opt("zeroed_grain", Kind::Bool, "Zeroes take no space"),
];

/// A kind of image.
#[derive(Clone, Copy)]
struct Sub {
    name: &'static str,
    flat: bool,
    split: bool,
    compressed: bool,
}

const fn sub(name: &'static str, flat: bool, split: bool, compressed: bool) -> (&'static str, Sub) {
    (name, Sub { name, flat, split, compressed })
}

const SUBFORMATS: [(&str, Sub); 5] = [
    sub("monolithicSparse", false, false, false),
    sub("monolithicFlat", true, false, false),
    sub("twoGbMaxExtentSparse", false, true, false),
    sub("twoGbMaxExtentFlat", true, true, false),
    sub("streamOptimized", false, false, true),
];

/// Makes an image.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<(), BlockError> {
    let options = context.options;
    let sub = options.choice("subformat", &SUBFORMATS)?.unwrap_or(SUBFORMATS[0].1);
    let adapter = options.choice("adapter_type", &ADAPTERS)?.unwrap_or("ide");
    let compat6 = options.switch("compat6")?.unwrap_or(false);
    let zeroed = options.switch("zeroed_grain")?.unwrap_or(false);
    if zeroed && (sub.flat || sub.compressed) {
        return Err(bad_option("zeroed_grain", "on", "a sparse subformat that is not compressed"));
    }
    if compat6 && options.text("hwversion").is_some() {
        return Err(bad_option(
            "hwversion",
            options.text("hwversion").unwrap_or(""),
            "no compat6=on beside it",
        ));
    }
    for name in ["hwversion", "toolsversion"] {
        if let Some(v) = options.text(name).filter(|v| !v.chars().all(|c| c.is_ascii_alphanumeric())) {
            return Err(bad_option(name, v, "letters and digits"));
        }
    }
    let (parent_cid, parent) = parent(context, sub)?;
    let size = context.size.next_multiple_of(SECTOR);
    let name = context.name.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name.contains(['"', '\n']) {
        return Err(bad_option("file name", name, "no quotes and line ends in it"));
    }
    let stem = name.strip_suffix(".vmdk").unwrap_or(&name);
    let mut lines = String::new();
    let mut at = 0;
    let mut index = 1;
    while at < size || (index == 1 && !sub.split) {
        let len = if sub.split { SPLIT.min(size - at) } else { size };
        let extent = match (sub.flat, sub.split) {
            (false, false) => name.clone(),
            (true, false) => format!("{stem}-flat.vmdk"),
            (flat, true) => format!("{stem}-{}{index:03}.vmdk", if flat { 'f' } else { 's' }),
        };
        let sectors = len / SECTOR;
        lines += &match sub.flat {
            true => format!("RW {sectors} FLAT \"{extent}\" 0\n"),
            false => format!("RW {sectors} SPARSE \"{extent}\"\n"),
        };
        if sub.flat {
            context.create_file(context.beside(&extent))?.resize(len)?;
        } else if sub.split {
            write_sparse(&context.create_file(context.beside(&extent))?, len, sub, zeroed, None)?;
        }
        at += len;
        index += 1;
    }
    let hardware = options.text("hwversion").unwrap_or(if compat6 { "6" } else { "4" });
    let tools = options.text("toolsversion").unwrap_or("2147483647");
    let heads = if adapter == "ide" { 16 } else { 255 };
    let cid = uuid::Uuid::new_v4().as_fields().0;
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\ncreateType=\"{}\"\n{parent}\n# Extent description\n{lines}\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{hardware}\"\nddb.geometry.cylinders = \"{}\"\n\
         ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"{adapter}\"\nddb.toolsVersion = \"{tools}\"\n",
        sub.name,
        size / SECTOR / 63 / heads,
    );
    let file = context.file()?;
    if sub.flat || sub.split {
        return file.write(0, &[IoSlice::new(text.as_bytes())], false);
    }
    if text.len() as u64 > DESCRIPTOR * SECTOR {
        return Err(bad_option("file name", Path::new(&name).display(), "a shorter one"));
    }
    write_sparse(&*file, size, sub, zeroed, Some(&text))
}

/// Content id of the parent that is asked for, and the line that names it.
fn parent(context: &CreateContext<'_>, sub: Sub) -> Result<(u32, String), BlockError> {
    let options = context.options;
    let Some(name) = options.text("backing_file").filter(|n| !n.is_empty()) else {
        return Ok((u32::MAX, String::new()));
    };
    if let Some(other) = options.text("backing_fmt").filter(|f| *f != "vmdk") {
        return Err(bad_option("backing_fmt", other, "vmdk"));
    }
    if sub.flat || sub.compressed || name.contains(['"', '\n']) {
        return Err(bad_option("backing_file", name, "a sparse subformat, and no quotes in the name"));
    }
    let read = OpenOptions { read_only: true, ..OpenOptions::default() };
    let path = context.beside(name).display().to_string();
    let parent = open(&path, Some("vmdk"), &read)?;
    let Some(cid) = super::cid(&*parent) else {
        return Err(bad_option("backing_file", name, "an image with a content id"));
    };
    Ok((cid, format!("parentFileNameHint=\"{name}\"\n")))
}

/// Writes an empty sparse extent.
fn write_sparse(
    file: &dyn BlockNode,
    size: u64,
    sub: Sub,
    zeroed: bool,
    text: Option<&str>,
) -> Result<(), BlockError> {
    let capacity = size / SECTOR;
    let tables = capacity.div_ceil(GRAIN * PER_TABLE);
    let table_sectors = PER_TABLE * 4 / SECTOR;
    let directory = (tables * 4).div_ceil(SECTOR);
    let copies_at = 1 + DESCRIPTOR;
    let directory_at = copies_at + directory + tables * table_sectors;
    let data = (directory_at + directory + tables * table_sectors).next_multiple_of(GRAIN);
    if data > u32::MAX.into() {
        return Err(bad_option("size", size, "a size whose tables 32-bit sectors can address"));
    }
    let mut flags = NEWLINES | REDUNDANT;
    let mut version = 1u32;
    if sub.compressed {
        flags |= COMPRESSED | MARKERS;
        version = 3;
    }
    if zeroed {
        flags |= ZERO_GRAINS;
        version = version.max(2);
    }
    let mut h = vec![0; HEADER];
    put(&mut h, 0, MAGIC);
    put(&mut h, 4, &version.to_le_bytes());
    put(&mut h, 8, &flags.to_le_bytes());
    for (at, value) in [
        (12, capacity),
        (20, GRAIN),
        (28, 1),
        (36, DESCRIPTOR),
        (48, copies_at),
        (56, directory_at),
        (64, data),
    ] {
        put(&mut h, at, &value.to_le_bytes());
    }
    put(&mut h, 44, &(PER_TABLE as u32).to_le_bytes());
    put(&mut h, 73, b"\n \r\n");
    put(&mut h, 77, &u16::from(sub.compressed).to_le_bytes());
    file.write_zeroes(SECTOR, data * SECTOR - SECTOR, true)?;
    for start in [copies_at, directory_at] {
        let raw: Vec<u8> = (0..tables)
            .flat_map(|i| ((start + directory + i * table_sectors) as u32).to_le_bytes())
            .collect();
        file.write(start * SECTOR, &[IoSlice::new(&raw)], false)?;
    }
    if let Some(text) = text {
        file.write(SECTOR, &[IoSlice::new(text.as_bytes())], false)?;
    }
    file.write(0, &[IoSlice::new(&h)], false)
}
