//! Protocols other than files: what a name's scheme or `driver` says, and how each is opened.
//!
//! A protocol is one arm of [`Protocol::open`] and of [`Protocol::shown`]; formats stand on any of them.

use std::sync::Arc;

use block::{BlockError, BlockNode, NullNode};
use block_http::{HttpNode, HttpOptions, Url};
use block_nbd::{NbdNode, NbdOptions, TlsRole};
use serde_json::{Map, Value};

use crate::options::parse_size;
use crate::registry::OpenOptions;

/// A protocol with its options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    driver: String,
    options: Map<String, Value>,
    /// The name it was given by instead of options.
    name: Option<String>,
}

fn bad(path: &str, what: impl Into<String>) -> BlockError {
    BlockError::Format { path: path.into(), what: what.into() }
}

impl Protocol {
    /// Values of `driver`.
    pub const DRIVERS: &[&str] = &["http", "https", "nbd", "null-co"];
    /// What names begin with.
    pub const PREFIXES: &[&str] = &["http", "https", "nbd", "nbd+unix", "null-co"];

    /// The protocol of a file name, if it names one that there is.
    pub fn parse(name: &str) -> Result<Option<Self>, BlockError> {
        let of =
            |driver: &str| Protocol { driver: driver.into(), options: Map::new(), name: Some(name.into()) };
        if NbdOptions::is_name(name) {
            NbdOptions::parse(name)?;
            return Ok(Some(of("nbd")));
        }
        if Url::is_name(name) {
            return Ok(Some(of(if Url::parse(name)?.secure { "https" } else { "http" })));
        }
        Ok(name.starts_with("null-co://").then(|| of("null-co")))
    }

    /// A driver with options.
    pub fn from_options(driver: &str, options: Map<String, Value>) -> Self {
        Protocol { driver: driver.into(), options, name: None }
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    fn nbd(&self) -> Result<NbdOptions, BlockError> {
        match &self.name {
            Some(name) => NbdOptions::parse(name),
            None => NbdOptions::from_options(&self.options),
        }
    }

    fn http(&self) -> Result<HttpOptions, BlockError> {
        let options = match &self.name {
            Some(name) => HttpOptions::new(Url::parse(name)?),
            None => HttpOptions::from_options(&self.options)?,
        };
        let driver = if options.url.secure { "https" } else { "http" };
        if driver != self.driver {
            return Err(bad(
                &format!("driver {}", self.driver),
                format!("expected {driver} for {}", options.url.shown()),
            ));
        }
        Ok(options)
    }

    /// How it is shown.
    pub fn shown(&self) -> Result<String, BlockError> {
        match self.driver.as_str() {
            "nbd" => Ok(self.nbd()?.uri()),
            "http" | "https" => Ok(self.http()?.url.shown()),
            _ => Ok(format!("{}://", self.driver)),
        }
    }

    /// Opens it.
    pub fn open(&self, options: &OpenOptions) -> Result<Arc<dyn BlockNode>, BlockError> {
        match self.driver.as_str() {
            "nbd" => {
                let mut nbd = self.nbd()?;
                nbd.read_only = options.read_only;
                if let TlsRole::Named(id) = &nbd.tls {
                    let found = options.tls.iter().find(|(name, _)| name == id);
                    let (_, creds) =
                        found.ok_or_else(|| bad(&format!("tls-creds={id}"), "there is no such object"))?;
                    nbd.tls = TlsRole::Ready(creds.clone());
                }
                Ok(Arc::new(NbdNode::open(nbd)?))
            }
            "http" | "https" if !options.read_only => {
                Err(bad(&self.shown()?, "web servers take no writes: open it for reading only"))
            }
            "http" | "https" => Ok(Arc::new(HttpNode::open(self.http()?)?)),
            "null-co" => Ok(Arc::new(NullNode::new(self.null_size()?))),
            other => {
                Err(bad(&format!("driver {other}"), format!("expected file, {}", Self::DRIVERS.join(", "))))
            }
        }
    }

    /// Whether its block status is a bitmap's, so that what is not allocated tells nothing of what is read.
    pub(crate) fn shows_bitmap(&self) -> bool {
        self.options.contains_key("x-dirty-bitmap")
    }

    fn null_size(&self) -> Result<u64, BlockError> {
        for (key, value) in &self.options {
            match key.as_str() {
                "size" => {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let size = parse_size(&text).filter(|s| s.is_multiple_of(block::SECTOR));
                    return size.ok_or_else(|| {
                        bad("null-co", format!("size={text}: expected a multiple of 512 bytes"))
                    });
                }
                "read-zeroes" => {}
                _ => {
                    return Err(bad(
                        "null-co",
                        format!("unknown option '{key}'; there are: size, read-zeroes"),
                    ));
                }
            }
        }
        Ok(1 << 30)
    }
}
