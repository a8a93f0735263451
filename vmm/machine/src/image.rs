//! What is in memory when a machine starts: firmware, kernels, blobs. Read anew at every reset from files that stay open, so
//! that nothing is kept twice.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use guest_memory::AddressSpace;

use crate::MachineError;

/// Bytes that are moved at once.
const CHUNK: usize = 256 << 10;

/// Where an image's bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Made by the board.
    Bytes(Vec<u8>),
    /// So many zeroes.
    Zero(u64),
    /// `len` bytes of a file from `offset` on.
    File {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// Bytes and where they go.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it is, for messages.
    pub name: String,
    /// Guest physical address.
    pub gpa: u64,
    /// Its bytes.
    pub source: Source,
}

impl Image {
    /// Bytes made by the board.
    #[must_use]
    pub fn bytes(name: &str, gpa: u64, data: Vec<u8>) -> Self {
        Self { name: name.into(), gpa, source: Source::Bytes(data) }
    }

    /// Memory that is cleared.
    #[must_use]
    pub fn zero(name: &str, gpa: u64, len: u64) -> Self {
        Self { name: name.into(), gpa, source: Source::Zero(len) }
    }

    /// Part of a file.
    #[must_use]
    pub fn file(name: &str, gpa: u64, path: impl Into<PathBuf>, offset: u64, len: u64) -> Self {
        Self { name: name.into(), gpa, source: Source::File { path: path.into(), offset, len } }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Bytes(b) => b.len() as u64,
            Source::Zero(len) => *len,
            Source::File { len, .. } => *len,
        }
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens its file, which stays open: a reset reads it again, whatever has become of the path by then.
    pub(crate) fn open(self) -> Result<OpenImage, MachineError> {
        let file = match &self.source {
            Source::Bytes(_) | Source::Zero(_) => None,
            Source::File { path, .. } => {
                let fail = |source| MachineError::File { path: path.clone(), source };
                Some(File::open(path).map_err(fail)?)
            }
        };
        Ok(OpenImage { image: self, file })
    }

    fn outside(&self, at: u64) -> MachineError {
        MachineError::Board(format!(
            "{}: no memory at {at:#x} ({} bytes at {:#x})",
            self.name,
            self.len(),
            self.gpa
        ))
    }
}

/// An image whose file, if it has one, is open.
#[derive(Debug)]
pub(crate) struct OpenImage {
    image: Image,
    file: Option<File>,
}

impl OpenImage {
    /// Writes it to memory, also to ROM.
    pub(crate) fn load(&self, memory: &AddressSpace) -> Result<(), MachineError> {
        let view = memory.snapshot();
        let image = &self.image;
        let fits = |at: u64, data: &[u8]| {
            if view.poke(at, data).is_ok() { Ok(()) } else { Err(image.outside(at)) }
        };
        match (&image.source, &self.file) {
            (Source::Bytes(b), _) => fits(image.gpa, b),
            (Source::Zero(len), _) => {
                let zeroes = vec![0; CHUNK.min(*len as usize)];
                let mut starts = (0..*len).step_by(CHUNK);
                starts.try_for_each(|at| fits(image.gpa + at, &zeroes[..CHUNK.min((len - at) as usize)]))
            }
            (Source::File { path, offset, len }, Some(file)) => {
                let fail = |source: io::Error| MachineError::File { path: path.clone(), source };
                let mut f: &File = file;
                f.seek(SeekFrom::Start(*offset)).map_err(fail)?;
                let mut buf = vec![0; CHUNK];
                let mut done = 0;
                while done < *len {
                    let n = (*len - done).min(buf.len() as u64) as usize;
                    f.read_exact(&mut buf[..n]).map_err(fail)?;
                    fits(image.gpa + done, &buf[..n])?;
                    done += n as u64;
                }
                Ok(())
            }
            (Source::File { .. }, None) => Ok(()),
        }
    }
}
