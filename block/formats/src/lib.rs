//! Disk image formats: which there are, which one an image is, and each of them.
//!
//! A format is a row of [`formats`]; an opened image is an [`Image`], which is a node like any other. Images come
//! from anywhere: no header, table or compressed cluster may make a format panic, loop or take memory without bound,
//! and what is wrong with one is said in one line that names the file, the field, its value and what was expected.

mod bochs;
mod bytes;
pub mod chain;
mod chunked;
mod cloop;
mod crypto;
mod dmg;
mod image;
mod luks;
mod mapped;
mod name;
mod options;
mod parallels;
mod place;
mod protocol;
mod qcow;
mod qcow2;
mod qed;
mod raw;
mod registry;
mod temporary;
mod vdi;
mod vhdx;
mod vmdk;
mod vpc;
mod vvfat;

pub use bytes::is_zero;
pub use crypto::Secrets;
pub use image::{
    BackingName, BitmapChange, BitmapInfo, CheckReport, Details, Image, Preallocation, Repair, Snapshot,
};
pub use name::{Name, resolve};
pub use options::{Kind, OptionSpec, Options, bad_option, parse_size};
pub use protocol::Protocol;
pub use raw::RawImage;
pub use registry::{
    CreateContext, Format, Measure, OpenContext, OpenOptions, create, create_on, find, formats, open,
    open_node, probe,
};
pub use temporary::temporary;
