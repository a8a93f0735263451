//! Changing what was chosen when the image was made.

use std::io::IoSlice;

use block::BlockError;

use super::create::{refcount_order, version};
use super::header::{Compression, LAZY_REFCOUNTS, incompatible};
use super::l2::{COPIED, Entry, ZERO};
use super::{Meta, Qcow2, crypt};
use crate::image::{BackingName, Image};
use crate::options::{Kind, OptionSpec, Options, bad_option, opt};

/// Options of `amend`.
pub(crate) const OPTIONS: &[OptionSpec] = &[
    opt("backing_file", Kind::Text, "File name of a base image"),
    opt("backing_fmt", Kind::Text, "Image format of the base image"),
    opt("compat", Kind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    opt("data_file", Kind::Text, "File name of an external data file"),
    opt("data_file_raw", Kind::Bool, "The external data file must stay valid as a raw image"),
    crypt::AMEND[0],
    crypt::AMEND[1],
    crypt::AMEND[2],
    crypt::AMEND[3],
    crypt::AMEND[4],
    opt("lazy_refcounts", Kind::Bool, "Postpone refcount updates"),
    opt("refcount_bits", Kind::Number, "Width of a reference count entry in bits"),
    opt("size", Kind::Size, "Virtual disk size"),
];

impl Qcow2 {
    /// Changes options.
    pub(super) fn do_amend(&self, options: &Options) -> Result<(), BlockError> {
        self.check_writable()?;
        options.check("qcow2", OPTIONS)?;
        self.amend_slots(options)?;
        let now = self.meta.lock().header.clone();
        let compat = if options.text("compat").is_some() { version(options)? } else { now.version };
        let order = refcount_order(options)?.unwrap_or(now.refcount_order);
        let lazy = options.switch("lazy_refcounts")?.unwrap_or(now.lazy() && compat > 2);
        if compat < 3 && (lazy || order != 4) {
            let name = if lazy { "lazy_refcounts" } else { "refcount_bits" };
            return Err(bad_option(
                name,
                options.text(name).unwrap_or("as it is"),
                "compat=1.1 beside it (version 3)",
            ));
        }
        for name in ["data_file", "data_file_raw"] {
            let same = match name {
                "data_file" => {
                    options.text(name).is_none_or(|v| now.external() && Some(v) == now.data_file.as_deref())
                }
                _ => options.switch(name)?.is_none_or(|v| v == now.data_raw()),
            };
            if !same {
                return Err(bad_option(
                    name,
                    options.text(name).unwrap_or_default(),
                    "what the image has: this cannot be changed",
                ));
            }
        }
        if compat > now.version {
            let mut meta = self.meta.lock();
            let before = meta.header.clone();
            meta.header.version = 3;
            self.commit_header(&mut meta, before).map_err(|(e, _)| e)?;
        }
        if order != now.refcount_order {
            let _gate = self.gate.write();
            self.change_refcount_order(&mut self.meta.lock(), order)?;
        }
        if lazy != now.lazy() {
            // Counts that lag behind are brought up to date first.
            self.do_close()?;
            let mut meta = self.meta.lock();
            let before = meta.header.clone();
            meta.header.compatible &= !LAZY_REFCOUNTS;
            if lazy {
                meta.header.compatible |= LAZY_REFCOUNTS;
            }
            self.commit_header(&mut meta, before).map_err(|(e, _)| e)?;
        }
        if options.text("backing_file").is_some() || options.text("backing_fmt").is_some() {
            let file = options
                .text("backing_file")
                .map(str::to_owned)
                .or(now.backing.as_ref().map(|b| b.file.clone()));
            let format =
                options.text("backing_fmt").map(str::to_owned).or(now.backing.and_then(|b| b.format));
            let name = file.filter(|f| !f.is_empty()).map(|file| BackingName { file, format });
            self.set_backing(name.as_ref())?;
        }
        if let Some(size) = options.size("size")? {
            self.change_size(size, crate::image::Preallocation::Off)?;
        }
        if compat < now.version {
            self.downgrade()?;
        }
        Ok(())
    }

    /// Makes an image of version 3 one of version 2.
    fn downgrade(&self) -> Result<(), BlockError> {
        self.do_close()?;
        let _gate = self.gate.write();
        let mut guard = self.meta.lock();
        let meta = &mut *guard;
        let h = &meta.header;
        let obstacles = [
            ("extended L2 entries", h.extended()),
            ("an external data file", h.external()),
            ("zstd compression", h.compression != Compression::Zlib),
            ("dirty bitmaps", h.bitmaps.is_some()),
            ("snapshots that may hold zero clusters", !meta.snapshots.is_empty()),
            ("refcount_bits other than 16", meta.refs.order != 4),
        ];
        if let Some((what, _)) = obstacles.iter().find(|(_, there)| *there) {
            return Err(self.bad(format!("compat=0.10 has no place for {what}")));
        }
        self.expand_zeroes(meta)?;
        self.settle(meta)?;
        self.settle(meta)?;
        meta.refs.write_back(&*self.file)?;
        self.file.flush()?;
        meta.header.version = 2;
        meta.header.compatible = 0;
        meta.header.autoclear = 0;
        meta.header.incompatible &= incompatible::CORRUPT;
        self.write_header(meta)?;
        self.file.flush()
    }

    /// Replaces zero clusters by holes or by stored zeroes.
    fn expand_zeroes(&self, meta: &mut Meta) -> Result<(), BlockError> {
        let below = meta.header.backing.is_some();
        let cluster = self.geo.cluster();
        let zeroes = vec![0; cluster as usize];
        let mut at = 0;
        while at < self.virtual_size() {
            if self.l2_offset(meta, at)?.is_none() {
                at = (at | ((1u64 << (self.geo.cluster_bits + self.geo.l2_bits)) - 1)).saturating_add(1);
                continue;
            }
            let old = self.entry(meta, at)?;
            if !old.packed() && old.word & ZERO != 0 {
                let own = self.host_of(old, at)?.filter(|_| old.copied());
                let new = if !below {
                    Entry::default()
                } else {
                    let host = match own {
                        Some(host) => host,
                        None => meta.refs.alloc(&*self.file, 1)?.start << self.geo.cluster_bits,
                    };
                    self.write_data(host, at, &[IoSlice::new(&zeroes)])?;
                    Entry { word: host | COPIED, bits: 0 }
                };
                self.replace(meta, at, old, new)?;
                self.relieve(meta)?;
            }
            at += cluster;
        }
        Ok(())
    }
}
