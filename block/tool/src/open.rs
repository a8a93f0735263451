//! Opening the images a command line names.

use std::sync::Arc;

use block::Sharing;
use block_formats::{Image, Name, OpenOptions, Options};

use crate::args::{Args, Opt, o};
use crate::error::{ToolError, usage};
use crate::objects;

pub(crate) const FORMAT: Opt = o('f', "format", "FMT", "Format of the image; found out if not given");
pub(crate) const IMAGE_OPTS: Opt =
    o(' ', "image-opts", "", "The file name is a list driver=...,file.filename=...");
pub(crate) const SHARE: Opt = o('U', "force-share", "", "Open an image that is in use by others");
pub(crate) const OUTPUT: Opt = o(' ', "output", "human|json", "Form of the output");
pub(crate) const QUIET: Opt = o('q', "quiet", "", "Print errors only");
pub(crate) const PROGRESS: Opt = o('p', "progress", "", "Show progress");
pub(crate) const CACHE: Opt = o('t', "cache", "CACHE", "Cache mode of the image that is written");
pub(crate) const SRC_CACHE: Opt = o('T', "source-cache", "CACHE", "Cache mode of the image that is read");
pub(crate) const OBJECT: Opt =
    o(' ', "object", "OBJDEF", "Credentials for TLS: tls-creds-x509,id=ID,dir=FOLDER,endpoint=client");

/// Checks a cache mode; whether flushes are to be left out.
pub(crate) fn cache_unsafe(mode: Option<&str>) -> Result<bool, ToolError> {
    match mode {
        None | Some("none" | "writeback" | "writethrough" | "directsync") => Ok(false),
        Some("unsafe") => Ok(true),
        Some(other) => usage(format!(
            "cache mode '{other}': expected none, writeback, writethrough, directsync or unsafe"
        )),
    }
}

/// How a command line opens its images.
pub(crate) fn options(args: &Args, read_only: bool) -> Result<OpenOptions, ToolError> {
    if let Some(other) = args.all("object").find(|o| !objects::is_ours(o)) {
        return usage(format!("--object {other}: secrets and the like are not supported"));
    }
    let share = args.has("force-share");
    if share && !read_only {
        return usage("--force-share goes with reading only");
    }
    let sharing = if share { Sharing::All } else { Sharing::Readers };
    let unsafe_cache = !read_only && cache_unsafe(args.get("cache"))?;
    let tls = objects::tls_clients(args)?;
    Ok(OpenOptions { read_only, sharing, unsafe_cache, tls, ..OpenOptions::default() })
}

/// Opens an image.
pub(crate) fn open(
    name: &str,
    format: Option<&str>,
    keys: bool,
    options: &OpenOptions,
) -> Result<Arc<dyn Image>, ToolError> {
    if !keys {
        return Ok(block_formats::open(name, format, options)?);
    }
    if format.is_some() {
        return usage("--image-opts and a format do not go together");
    }
    let list = Options::parse(name)?;
    let list: Vec<(String, String)> = list.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let parsed = Name::from_keys(name, &list)?;
    let map: serde_json::Map<String, serde_json::Value> =
        list.iter().map(|(k, v)| (k.clone(), serde_json::Value::String(v.clone()))).collect();
    let format = parsed.format;
    Ok(block_formats::open(&format!("json:{}", serde_json::Value::Object(map)), format.as_deref(), options)?)
}

/// Opens the image that the first operand, or `name`, is.
pub(crate) fn image(args: &Args, name: &str, options: &OpenOptions) -> Result<Arc<dyn Image>, ToolError> {
    let image = open(name, args.get("format"), args.has("image-opts"), options)?;
    warn_probed(args, &*image, options);
    Ok(image)
}

/// Says that a raw image was guessed to be one.
fn warn_probed(args: &Args, image: &dyn Image, options: &OpenOptions) {
    let named = args.get("format").is_some() || args.has("image-opts");
    if !named && !options.read_only && image.format() == "raw" {
        let text = format!(
            "{}: the format was not given and looks like raw; writes that look like another format are refused (give -f raw)",
            image.filename()
        );
        crate::text::warn("warning", &text);
    }
}
