//! The descriptor: lines of `key=value`, extents, and what a hypervisor wants to know ("Virtual Disk Format 5.0",
//! "The Descriptor File").

use block::BlockError;

/// What an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Flat,
    Sparse,
    /// Sparse extents of ESX: older and newer.
    VmfsSparse,
    SeSparse,
    Zero,
}

/// A line that describes an extent.
#[derive(Clone, Debug)]
pub(super) struct ExtentLine {
    pub(super) sectors: u64,
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Where it starts in its file, in sectors.
    pub(super) offset: u64,
}

/// A descriptor.
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    pub(super) cid: u32,
    pub(super) parent_cid: u32,
    /// The file it was made over.
    pub(super) parent: Option<String>,
    pub(super) create_type: String,
    pub(super) extents: Vec<ExtentLine>,
}

impl Default for Descriptor {
    fn default() -> Self {
        Descriptor {
            cid: 0,
            parent_cid: u32::MAX,
            parent: None,
            create_type: String::new(),
            extents: Vec::new(),
        }
    }
}

impl Descriptor {
    /// Whether text starts like one: comments and empty lines, then the version.
    pub(super) fn looks_like(data: &[u8]) -> bool {
        for line in data.split(|b| *b == b'\n').take(64) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            return [&b"version=1"[..], b"version=2", b"version=3"].contains(&line);
        }
        false
    }

    /// Reads one.
    pub(super) fn parse(data: &[u8], path: &str) -> Result<Self, BlockError> {
        let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
        let text = String::from_utf8_lossy(&data[..end]);
        let mut d = Descriptor::default();
        for line in text.lines().map(str::trim) {
            let bad = |what: &str| {
                let line: String = line.chars().take(100).collect();
                Err(BlockError::Format {
                    path: path.into(),
                    what: format!("vmdk descriptor line '{line}': {what}"),
                })
            };
            let mut words = line.split_whitespace();
            if let (Some("RW" | "RDONLY" | "NOACCESS"), Some(sectors), Some(kind)) =
                (words.next(), words.next(), words.next())
            {
                let Ok(sectors) = sectors.parse() else { return bad("expected a number of sectors") };
                let kind = match kind {
                    "FLAT" | "VMFS" => Kind::Flat,
                    "SPARSE" => Kind::Sparse,
                    "VMFSSPARSE" => Kind::VmfsSparse,
                    "SESPARSE" => Kind::SeSparse,
                    "ZERO" => Kind::Zero,
                    _ => {
                        return bad(
                            "this kind of extent is not supported; there are FLAT, VMFS, SPARSE, VMFSSPARSE, SESPARSE and ZERO",
                        );
                    }
                };
                let name = line.split('"').nth(1).unwrap_or("").to_owned();
                if name.is_empty() && kind != Kind::Zero {
                    return bad("expected a file name in quotes");
                }
                let offset = line.rsplit('"').next().unwrap_or("").trim();
                let offset = if kind == Kind::Flat && !offset.is_empty() { offset.parse() } else { Ok(0) };
                let Ok(offset) = offset else { return bad("expected an offset in sectors at the end") };
                d.extents.push(ExtentLine { sectors, kind, name, offset });
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches('"');
                let number = |v: &str| u32::from_str_radix(v, 16).ok();
                match key.trim() {
                    "CID" => match number(value) {
                        Some(n) => d.cid = n,
                        None => return bad("expected a hexadecimal number"),
                    },
                    "parentCID" => match number(value) {
                        Some(n) => d.parent_cid = n,
                        None => return bad("expected a hexadecimal number"),
                    },
                    "parentFileNameHint" => d.parent = (!value.is_empty()).then(|| value.to_owned()),
                    "createType" => d.create_type = value.into(),
                    _ => {}
                }
            }
        }
        Ok(d)
    }
}
