//! Opening.

use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use block::BlockError;
use parking_lot::{Condvar, Mutex, RwLock};

use super::cache::TableCache;
use super::compress::Compressors;
use super::crypt;
use super::header::{Header, autoclear, incompatible};
use super::refcount::Refcounts;
use super::{Geometry, L2_MEMORY, Meta, Qcow2, bitmap, snapshot};
use crate::image::{Image, Repair};
use crate::registry::OpenContext;

/// Opens an image with its data file and backing files.
pub(crate) fn open(context: &OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError> {
    let image = open_alone(context)?;
    let name = image.meta.lock().header.backing.clone();
    if let Some(name) = name
        && !context.options.no_backing
    {
        *image.backing.write() = Some(context.open_backing(&name)?);
    }
    Ok(Arc::new(image))
}

fn open_alone(context: &OpenContext<'_>) -> Result<Qcow2, BlockError> {
    let (file, path) = (context.file.clone(), context.filename.as_str());
    let bad = |what: String| BlockError::Format { path: path.into(), what };
    let mut raw = vec![0; file.size().min(2 << 20) as usize];
    file.read(0, &mut [IoSliceMut::new(&mut raw)])?;
    if let Some(bits) = raw.get(20..24).map(|b| crate::bytes::be32(b, 0)).filter(|b| (9..=21).contains(b)) {
        raw.truncate(1 << bits);
    }
    let mut header = Header::decode(&raw, path)?;
    let read_only = context.options.read_only;
    let external = header.external();
    let (data, data_filename) = match (&header.data_file, external) {
        (Some(name), true) => {
            let (node, name) = context.open_data(name)?;
            (node, name)
        }
        (None, true) => return Err(bad("qcow2: an external data file is in use but not named".into())),
        (_, false) => (file.clone(), context.filename.clone()),
    };
    let corrupt = header.incompatible & incompatible::CORRUPT != 0;
    if corrupt && !read_only && !context.options.repairing {
        return Err(bad(
            "the image is marked as damaged; it can be opened for reading only, or repaired".into()
        ));
    }
    let mut l1 = vec![0; header.l1_size as usize * 8];
    file.read(header.l1_offset, &mut [IoSliceMut::new(&mut l1)])?;
    let l1: Vec<u64> = l1.chunks_exact(8).map(|c| crate::bytes::be64(c, 0)).collect();
    let refs = Refcounts::load(&*file, &header, path)?;
    let snapshots = snapshot::load(&*file, &header, path)?;
    let sub_shift = if header.extended() { 5 } else { 0 };
    let geo = Geometry {
        version: header.version,
        cluster_bits: header.cluster_bits,
        l2_bits: header.cluster_bits - if sub_shift == 0 { 3 } else { 4 },
        sub_shift,
        external,
    };
    let unknown_autoclear = header.autoclear & !autoclear::ALL != 0;
    if unknown_autoclear && !read_only {
        header.autoclear &= autoclear::ALL;
    }
    let dirty = header.incompatible & incompatible::DIRTY != 0;
    let crypt = crypt::open(context, &header)?;
    let image = Qcow2 {
        crypt,
        filename: context.filename.clone(),
        compressors: Compressors::new(header.compression, header.cluster()),
        size: AtomicU64::new(header.size),
        tracked: AtomicBool::new(header.bitmaps.is_some()),
        data,
        data_filename,
        backing: RwLock::new(None),
        geo,
        read_only,
        discard: context.options.discard,
        gate: RwLock::new(()),
        landed: Condvar::new(),
        meta: Mutex::new(Meta {
            l1,
            l1_dirty: 0..0,
            l2: TableCache::new(header.cluster(), L2_MEMORY),
            refs,
            in_flight: Vec::new(),
            snapshots,
            bitmaps: bitmap::Bitmaps::default(),
            marked_dirty: dirty,
            trusted: !dirty && !corrupt,
            header,
        }),
        file,
    };
    if !read_only {
        if unknown_autoclear {
            image.write_header(&mut image.meta.lock())?;
        }
        if dirty && !context.options.repairing {
            // Reference counts may be behind: as long as they are, nothing may be allocated.
            let report = image.check(Repair::All)?;
            if report.corruptions != 0 {
                return Err(bad(format!(
                    "the image was not closed properly and {} errors could not be repaired",
                    report.corruptions
                )));
            }
        }
    }
    Ok(image)
}
