//! A temporary image over a disk that is to stay as it is (`snapshot=on`): a qcow2 image in a file without a name, which is gone
//! with the process.

use std::path::PathBuf;
use std::sync::Arc;

use block::{BlockError, FileNode, FileOptions, Sharing};

use crate::image::Image;
use crate::options::Options;
use crate::registry::{OpenOptions, create, open_node};

/// Where QEMU puts such files: in `TMPDIR`, or a folder that is not in memory.
fn folder() -> PathBuf {
    let usual = PathBuf::from("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && usual.is_dir() { usual } else { std::env::temp_dir() }
}

/// An image that keeps what is written and reads the rest from `base`.
pub fn temporary(base: Arc<dyn Image>) -> Result<Arc<dyn Image>, BlockError> {
    let folder = folder();
    let failed = |source| BlockError::Open {
        path: format!("{}: temporary file for what is written", folder.display()),
        source,
    };
    let file = tempfile::Builder::new().prefix("rhea-").tempfile_in(&folder).map_err(failed)?;
    let path = file.into_temp_path();
    create("qcow2", &path, None, Some(base.size()), &Options::default())?;
    // Nothing here outlives the process, and nobody else opens it.
    let options = FileOptions { sharing: Sharing::Unlocked, unsafe_cache: true, ..FileOptions::default() };
    let node = Arc::new(FileNode::open(&path, options)?);
    let options = OpenOptions { no_backing: true, discard: true, ..OpenOptions::default() };
    // The file loses its name with `path`.
    let image = open_node(node, &path.display().to_string(), Some("qcow2"), &options)?;
    image.replace_backing(Some(base))?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, IoSliceMut};

    use super::*;

    #[test]
    fn what_is_written_does_not_reach_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let data: Vec<u8> = (0..200_000u32).map(|i| (i >> 7) as u8 | 1).collect();
        std::fs::write(&path, &data).unwrap();
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let base = crate::open(&path.display().to_string(), Some("raw"), &options).unwrap();
        let image = temporary(base.clone()).unwrap();
        assert!(!PathBuf::from(image.filename()).exists());
        assert_eq!(image.size(), base.size());
        image.write(70_001, &[IoSlice::new(&[0; 1000])], true).unwrap();
        let mut back = vec![0; data.len()];
        image.read(0, &mut [IoSliceMut::new(&mut back)]).unwrap();
        let mut model = data.clone();
        model[70_001..71_001].fill(0);
        assert!(back == model);
        assert_eq!(std::fs::read(&path).unwrap(), data);
        let mut own = image.status(0..image.size()).unwrap();
        own.retain(|e| e.allocated);
        assert_eq!((own.len(), own[0].range.clone()), (1, 65536..131_072));
        assert!(image.can_snapshot());
    }
}
