//! A file that has its name only once it is whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use block::{BlockError, FileNode, FileOptions};
use block_formats::{Name, OpenOptions, Options, Protocol};

use crate::error::ToolError;

/// A file being made.
pub(crate) struct Target {
    /// Where it is written.
    pub(crate) path: PathBuf,
    /// What it will be called.
    pub(crate) name: PathBuf,
    temporary: bool,
    /// What it is written on, if that is no file of the host.
    protocol: Option<Protocol>,
    /// What is there under that name, locked so that nobody starts to use it.
    _old: Option<FileNode>,
}

impl Target {
    /// For a file of this name.
    pub(crate) fn new(name: &str) -> Result<Self, ToolError> {
        let parsed = Name::parse(name)?;
        if let Some(protocol) = parsed.protocol {
            let path = PathBuf::from(name);
            return Ok(Target {
                name: path.clone(),
                path,
                temporary: false,
                protocol: Some(protocol),
                _old: None,
            });
        }
        let named = PathBuf::from(&parsed.path);
        // A link stays one: what it points to is replaced.
        let name = std::fs::canonicalize(&named).unwrap_or(named);
        let old = match std::fs::metadata(&name) {
            Ok(m) if m.is_file() => Some(FileNode::open(&name, FileOptions::default())?),
            // A device or the like is written where it is.
            Ok(_) => {
                return Ok(Target { path: name.clone(), name, temporary: false, protocol: None, _old: None });
            }
            Err(_) => None,
        };
        let file = name.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        if file.is_empty() {
            return Err(ToolError::Usage(format!("'{}' is no file name", name.display())));
        }
        let path = name.with_file_name(format!(".{file}.{}.part", std::process::id()));
        Ok(Target { path, name, temporary: true, protocol: None, _old: old })
    }

    /// Whether there was nothing before, so that what is not written reads as zero.
    pub(crate) fn is_new(&self) -> bool {
        self.temporary
    }

    /// Makes an image there.
    pub(crate) fn create(
        &self,
        format: &str,
        size: u64,
        options: &Options,
        how: &OpenOptions,
    ) -> Result<(), ToolError> {
        match &self.protocol {
            None => block_formats::create(format, &self.path, Some(&self.name), Some(size), options)
                .map_err(|e| self.called(e))?,
            Some(protocol) => {
                let node = protocol.open(how)?;
                block_formats::create_on(format, node, &protocol.shown()?, Some(size), options)?;
            }
        }
        Ok(())
    }

    /// An error with the file called as the user calls it.
    fn called(&self, e: BlockError) -> BlockError {
        match e {
            BlockError::Open { path, source } if Path::new(&path) == self.path => {
                BlockError::Open { path: self.name.display().to_string(), source }
            }
            other => other,
        }
    }

    /// The name to open it by while it is made.
    pub(crate) fn open_name(&self) -> String {
        let path = self.path.display();
        if self.protocol.is_some() { path.to_string() } else { format!("file:{path}") }
    }

    /// Gives it its name, after all of it is on stable storage.
    pub(crate) fn finish(mut self) -> Result<(), ToolError> {
        if !self.temporary {
            return Ok(());
        }
        let failed = |path: &Path, source| ToolError::File { path: path.display().to_string(), source };
        if let Some(old) = &self._old
            && let Ok(m) = std::fs::metadata(old.path())
        {
            std::fs::set_permissions(&self.path, m.permissions()).map_err(|e| failed(&self.path, e))?;
        }
        File::open(&self.path).and_then(|f| f.sync_all()).map_err(|e| failed(&self.path, e))?;
        std::fs::rename(&self.path, &self.name).map_err(|e| failed(&self.name, e))?;
        self.temporary = false;
        // The new name itself; not every file system can do this.
        let folder = self.name.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|f| f.sync_all());
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// An error of a host file, with its path.
pub(crate) fn no_file(path: &str, e: std::io::Error) -> ToolError {
    ToolError::Block(BlockError::Open { path: path.into(), source: e })
}
