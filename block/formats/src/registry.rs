//! The formats there are, finding out which one an image is, and opening and making images by name.

use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{Aio, BlockError, BlockNode, CacheMode, FileNode, FileOptions, NullNode, Sharing};

use crate::crypto::Secrets;
use crate::image::{BackingName, Image};
use crate::name::{Name, resolve};
use crate::options::{Kind, OptionSpec, Options, bad_option};
use crate::place::Place;
use crate::{bochs, cloop, dmg, luks, parallels, qcow, qcow2, qed, raw, vdi, vhdx, vmdk, vpc, vvfat};

/// Bytes at the start of a file that tell its format.
pub(crate) const PROBE_LEN: usize = 2048;
/// Longest chain of backing files.
const MAX_DEPTH: u32 = 200;

/// How large an image would get, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// With the data there is now.
    pub required: u64,
    /// With all of the disk written.
    pub fully_allocated: u64,
}

/// How sure a probe is: 0 is not at all.
type Probe = fn(&[u8], &str) -> u32;
type Open = fn(&OpenContext<'_>) -> Result<Arc<dyn Image>, BlockError>;
type Create = fn(&CreateContext<'_>) -> Result<(), BlockError>;
type MeasureFn = fn(&Options, u64, &dyn Fn(u64) -> Result<u64, BlockError>) -> Result<Measure, BlockError>;

/// A format.
pub struct Format {
    /// Its name.
    pub name: &'static str,
    probe: Probe,
    open: Open,
    create: Option<Create>,
    /// Options of `create`.
    pub create_options: &'static [OptionSpec],
    /// Options of `amend`.
    pub amend_options: &'static [OptionSpec],
    measure: Option<MeasureFn>,
    /// Whole clusters can be stored compressed.
    pub compresses: bool,
    /// What an image's name may say to open it, beside the file.
    keys: &'static [&'static str],
}

/// Keys of formats that can be encrypted.
const ENCRYPT_KEYS: &[&str] = &["encrypt.format", "encrypt.key-secret"];

/// All formats, in order of name.
const FORMATS: &[Format] = &[
    Format {
        name: "bochs",
        probe: bochs::probe,
        open: bochs::open,
        create: None,
        create_options: &[],
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "cloop",
        probe: cloop::probe,
        open: cloop::open,
        create: None,
        create_options: &[],
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "dmg",
        probe: dmg::probe,
        open: dmg::open,
        create: None,
        create_options: &[],
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "luks",
        probe: luks::probe,
        open: luks::open,
        create: Some(luks::create),
        create_options: luks::CREATE_OPTIONS,
        amend_options: luks::AMEND_OPTIONS,
        measure: Some(luks::measure),
        compresses: false,
        keys: &["header", "header.filename", "key-secret"],
    },
    Format {
        name: "parallels",
        probe: parallels::probe,
        open: parallels::open,
        create: Some(parallels::create),
        create_options: parallels::CREATE_OPTIONS,
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "qcow",
        probe: qcow::probe,
        open: qcow::open,
        create: Some(qcow::create),
        create_options: qcow::CREATE_OPTIONS,
        amend_options: &[],
        measure: None,
        compresses: true,
        keys: ENCRYPT_KEYS,
    },
    Format {
        name: "qcow2",
        probe: |d, _| if d.starts_with(b"QFI\xfb") && crate::bytes::be32(d, 4) >= 2 { 100 } else { 0 },
        open: qcow2::open,
        create: Some(qcow2::create),
        create_options: qcow2::CREATE_OPTIONS,
        amend_options: qcow2::AMEND_OPTIONS,
        measure: Some(qcow2::measure),
        compresses: true,
        keys: ENCRYPT_KEYS,
    },
    Format {
        name: "qed",
        probe: qed::probe,
        open: qed::open,
        create: Some(qed::create),
        create_options: qed::CREATE_OPTIONS,
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "raw",
        probe: |_, _| 1,
        open: raw::open,
        create: Some(raw::create),
        create_options: raw::CREATE_OPTIONS,
        amend_options: &[],
        measure: Some(raw::measure),
        compresses: false,
        keys: &[],
    },
    Format {
        name: "vdi",
        probe: vdi::probe,
        open: vdi::open,
        create: Some(vdi::create),
        create_options: vdi::CREATE_OPTIONS,
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "vhdx",
        probe: vhdx::probe,
        open: vhdx::open,
        create: Some(vhdx::create),
        create_options: vhdx::CREATE_OPTIONS,
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "vmdk",
        probe: vmdk::probe,
        open: vmdk::open,
        create: Some(vmdk::create),
        create_options: vmdk::CREATE_OPTIONS,
        amend_options: &[],
        measure: None,
        compresses: true,
        keys: &[],
    },
    Format {
        name: "vpc",
        probe: vpc::probe,
        open: vpc::open,
        create: Some(vpc::create),
        create_options: vpc::CREATE_OPTIONS,
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: &[],
    },
    Format {
        name: "vvfat",
        probe: |_, _| 0,
        open: vvfat::open,
        create: None,
        create_options: &[],
        amend_options: &[],
        measure: None,
        compresses: false,
        keys: vvfat::KEYS,
    },
];

/// All formats.
pub fn formats() -> &'static [Format] {
    FORMATS
}

/// The format of a name.
pub fn find(name: &str) -> Result<&'static Format, BlockError> {
    FORMATS.iter().find(|f| f.name == name).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().map(|f| f.name).collect();
        BlockError::Format {
            path: format!("format '{name}'"),
            what: format!("is not known; there are: {}", names.join(", ")),
        }
    })
}

impl Format {
    /// Tells how large an image of this format gets; `data` tells how many bytes a source has in units of a size.
    pub fn measure(
        &self,
        options: &Options,
        size: u64,
        data: &dyn Fn(u64) -> Result<u64, BlockError>,
    ) -> Result<Measure, BlockError> {
        options.check(self.name, self.create_options)?;
        match self.measure {
            Some(measure) => measure(options, size, data),
            None => Err(BlockError::Format {
                path: format!("format {}", self.name),
                what: "cannot be measured".into(),
            }),
        }
    }

    /// What opens an image of it, beside the file, such as `encrypt.key-secret`.
    pub fn keys(&self) -> &'static [&'static str] {
        self.keys
    }

    /// Whether images of it can be made.
    pub fn can_create(&self) -> bool {
        self.create.is_some()
    }

    /// Whether an image of it can have a backing file.
    pub fn can_back(&self) -> bool {
        self.create_options.iter().any(|o| o.name == "backing_file")
    }
}

/// The format that the start of a file looks like.
pub(crate) fn probe_data(data: &[u8], path: &str) -> &'static Format {
    let best = FORMATS.iter().max_by_key(|f| (f.probe)(data, path));
    best.unwrap_or(&FORMATS[FORMATS.len() - 1])
}

/// The format that a file looks like.
pub fn probe(file: &dyn BlockNode, path: &str) -> Result<&'static Format, BlockError> {
    let mut data = vec![0; file.size().min(PROBE_LEN as u64) as usize];
    file.read(0, &mut [IoSliceMut::new(&mut data)])?;
    Ok(probe_data(&data, path))
}

/// How to open an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// For reading only.
    pub read_only: bool,
    /// Who else may use its files.
    pub sharing: Sharing,
    /// Discards give space back.
    pub discard: bool,
    /// What the host keeps, and whether flushes do anything. That writes are done when they are stable is for who writes.
    pub cache: CacheMode,
    /// How requests reach the host.
    pub aio: Aio,
    /// Leave the backing file alone.
    pub no_backing: bool,
    /// Open even what is damaged, to repair it.
    pub repairing: bool,
    /// Credentials for TLS, by id.
    pub tls: Vec<(String, block_nbd::TlsClient)>,
    /// Only look at what the image says of itself: what is encrypted may stay locked.
    pub no_io: bool,
    /// Secrets that keys name by id.
    pub secrets: Secrets,
    /// Keys as in the image's name, such as `encrypt.key-secret`; those of its backing file start with `backing.`.
    pub keys: Vec<(String, String)>,
}

impl OpenOptions {
    /// How the host's files are opened.
    pub fn file(&self) -> FileOptions {
        FileOptions {
            read_only: self.read_only,
            sharing: self.sharing,
            discard: self.discard,
            unsafe_cache: self.cache.no_flush,
            direct: self.cache.direct,
            aio: self.aio,
        }
    }
}

/// What a format opens an image with.
pub struct OpenContext<'a> {
    /// The file.
    pub file: Arc<dyn BlockNode>,
    /// Its name.
    pub filename: String,
    /// What else the name said.
    pub name: Name,
    /// How.
    pub options: &'a OpenOptions,
    /// Nobody named the format.
    pub probed: bool,
    depth: u32,
}

impl OpenContext<'_> {
    /// What the image's name, or else the options, say under a key.
    pub(crate) fn key(&self, name: &str) -> Option<&str> {
        let all = self.name.keys.iter().chain(&self.options.keys);
        all.into_iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The secret whose id is under a key.
    pub(crate) fn secret(&self, key: &str) -> Result<&[u8], BlockError> {
        match self.key(key) {
            Some(id) => self.options.secrets.get(id),
            None => Err(BlockError::Format {
                path: self.filename.clone(),
                what: format!("the image is encrypted: {key}=ID is needed, and --object secret,id=ID,..."),
            }),
        }
    }

    /// Refuses keys that the format does not have.
    fn check_keys(&self, format: &Format) -> Result<(), BlockError> {
        let bad = self
            .name
            .keys
            .iter()
            .find(|(k, _)| !format.keys.contains(&k.as_str()) && !k.starts_with("backing."));
        match bad {
            None => Ok(()),
            Some((key, _)) => Err(BlockError::Format {
                path: self.filename.clone(),
                what: format!("format {} has no option '{key}' to open it", format.name),
            }),
        }
    }

    /// Opens the backing file this image names.
    pub fn open_backing(&self, name: &BackingName) -> Result<Arc<dyn Image>, BlockError> {
        let file = resolve(&self.filename, &name.file);
        if self.depth >= MAX_DEPTH {
            let what = format!("the chain of backing files is longer than {MAX_DEPTH} or ends in itself");
            return Err(BlockError::Format { path: self.filename.clone(), what });
        }
        let all = self.name.keys.iter().chain(&self.options.keys);
        let below = all.filter_map(|(k, v)| Some((k.strip_prefix("backing.")?.to_owned(), v.clone())));
        let keys = below.collect();
        let options = OpenOptions { read_only: true, repairing: false, keys, ..self.options.clone() };
        open_at(&file, name.format.as_deref(), &options, self.depth + 1).map_err(|e| BlockError::Format {
            path: self.filename.clone(),
            what: format!("backing file: {e}"),
        })
    }

    /// Opens a file of data this image names as QEMU does, from the working directory; returns its name as well.
    pub fn open_data(&self, name: &str) -> Result<(Arc<dyn BlockNode>, String), BlockError> {
        let name = Name::parse(name)?;
        Ok((open_bytes(&name, self.options)?, name.path))
    }

    /// Opens a part of this image that lies beside it; returns its name as well.
    pub fn open_beside(&self, name: &str) -> Result<(Arc<dyn BlockNode>, String), BlockError> {
        self.open_data(&resolve(&self.filename, name))
    }
}

/// Opens an image by name; `None` has its format found out.
pub fn open(name: &str, format: Option<&str>, options: &OpenOptions) -> Result<Arc<dyn Image>, BlockError> {
    open_at(name, format, options, 0)
}

fn open_at(
    name: &str,
    format: Option<&str>,
    options: &OpenOptions,
    depth: u32,
) -> Result<Arc<dyn Image>, BlockError> {
    let parsed = Name::parse(name)?;
    let format = format.or(parsed.format.as_deref()).map(find).transpose()?;
    let file = match format {
        // A directory, which has no bytes.
        Some(f) if f.name == "vvfat" => Arc::new(NullNode::new(0)),
        _ => open_bytes(&parsed, options)?,
    };
    open_file(file, parsed, format, options, depth)
}

/// Opens what a name leads to, below any format.
fn open_bytes(name: &Name, options: &OpenOptions) -> Result<Arc<dyn BlockNode>, BlockError> {
    match &name.protocol {
        Some(protocol) => protocol.open(options),
        None => Ok(Arc::new(FileNode::open(&name.path, name.file_options(options.file())?)?)),
    }
}

/// Opens an image whose bytes are a node's.
pub fn open_node(
    file: Arc<dyn BlockNode>,
    filename: &str,
    format: Option<&str>,
    options: &OpenOptions,
) -> Result<Arc<dyn Image>, BlockError> {
    let format = format.map(find).transpose()?;
    open_file(file, Name { path: filename.into(), ..Name::default() }, format, options, 0)
}

fn open_file(
    file: Arc<dyn BlockNode>,
    name: Name,
    format: Option<&'static Format>,
    options: &OpenOptions,
    depth: u32,
) -> Result<Arc<dyn Image>, BlockError> {
    let probed = format.is_none();
    let format = match format {
        Some(format) => format,
        None => probe(&*file, &name.path)?,
    };
    let context = OpenContext { file, filename: name.path.clone(), name, options, probed, depth };
    context.check_keys(format)?;
    (format.open)(&context)
}

/// What a format makes an image with.
pub struct CreateContext<'a> {
    /// Where to write it.
    pub path: &'a Path,
    /// What it will be called in the end.
    pub name: &'a Path,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Options.
    pub options: &'a Options,
    format: &'static Format,
    /// What it is written on, if that is no file of the host.
    node: Option<Arc<dyn BlockNode>>,
}

impl CreateContext<'_> {
    /// Makes the file.
    pub(crate) fn file(&self) -> Result<Arc<Place>, BlockError> {
        Ok(Arc::new(match &self.node {
            Some(node) => Place::Node(node.clone(), self.name.display().to_string()),
            None => Place::File(FileNode::create(self.path, FileOptions::default())?),
        }))
    }

    /// Where a file beside this one is.
    pub fn beside(&self, name: &str) -> PathBuf {
        PathBuf::from(resolve(&self.name.display().to_string(), name))
    }

    /// Makes a file of that name.
    pub fn create_file(&self, name: impl AsRef<Path>) -> Result<FileNode, BlockError> {
        FileNode::create(name, FileOptions::default())
    }

    /// Opens what was made.
    pub fn reopen(&self) -> Result<Arc<dyn Image>, BlockError> {
        let keys = self.options.iter().filter(|(k, _)| k.ends_with("key-secret"));
        let keys = keys.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let secrets = self.options.secrets().clone();
        let options = OpenOptions { no_backing: true, keys, secrets, ..OpenOptions::default() };
        if let Some(node) = &self.node {
            return open_node(
                node.clone(),
                &self.name.display().to_string(),
                Some(self.format.name),
                &options,
            );
        }
        open(&format!("file:{}", self.path.display()), Some(self.format.name), &options)
    }
}

/// Makes an image at `path`. `name` is what it will be called, if that is something else.
pub fn create(
    format: &str,
    path: &Path,
    name: Option<&Path>,
    size: Option<u64>,
    options: &Options,
) -> Result<(), BlockError> {
    make(format, (path, name.unwrap_or(path), None), size, options)
}

/// Makes an image on a node, which keeps its size; `name` is what it is called.
pub fn create_on(
    format: &str,
    node: Arc<dyn BlockNode>,
    name: &str,
    size: Option<u64>,
    options: &Options,
) -> Result<(), BlockError> {
    make(format, (Path::new(name), Path::new(name), Some(node)), size, options)
}

fn make(
    format: &str,
    (path, name, node): (&Path, &Path, Option<Arc<dyn BlockNode>>),
    size: Option<u64>,
    options: &Options,
) -> Result<(), BlockError> {
    let format = find(format)?;
    let Some(make) = format.create else {
        return Err(BlockError::Format {
            path: format!("format {}", format.name),
            what: "images of it cannot be made".into(),
        });
    };
    options.check(format.name, format.create_options)?;
    let size = match (size, options.size("size")?) {
        (Some(size), _) | (None, Some(size)) => size,
        (None, None) => return Err(bad_option("size", "", "the size of the disk")),
    };
    make(&CreateContext { path, name, size, options, format, node })
}

/// The kind of an option, for help.
impl Kind {
    /// As it is shown.
    pub fn shown(self) -> &'static str {
        match self {
            Kind::Size => "<size>",
            Kind::Number => "<num>",
            Kind::Bool => "<bool (on/off)>",
            Kind::Text => "<str>",
        }
    }
}
