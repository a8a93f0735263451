//! Opening the images a command line names.

use std::sync::Arc;

use block::{Aio, CacheMode, Sharing};
use block_formats::{Image, Name, OpenOptions, Options, Secrets};
use block_graph::WriteThrough;

use crate::args::{Args, Opt, o};
use crate::error::{ToolError, usage};
use crate::tree::Context;
use crate::{objects, tree};

pub(crate) const FORMAT: Opt = o('f', "format", "FMT", "Format of the image; found out if not given");
pub(crate) const IMAGE_OPTS: Opt =
    o(' ', "image-opts", "", "The file name is a list driver=...,file.filename=...");
pub(crate) const SHARE: Opt = o('U', "force-share", "", "Open an image that is in use by others");
pub(crate) const OUTPUT: Opt = o(' ', "output", "human|json", "Form of the output");
pub(crate) const QUIET: Opt = o('q', "quiet", "", "Print errors only");
pub(crate) const PROGRESS: Opt = o('p', "progress", "", "Show progress");
pub(crate) const CACHE: Opt = o('t', "cache", "CACHE", "Cache mode of the image that is written");
pub(crate) const SRC_CACHE: Opt = o('T', "source-cache", "CACHE", "Cache mode of the image that is read");
pub(crate) const OBJECT: Opt = o(
    ' ',
    "object",
    "OBJDEF",
    "secret,id=ID,data=TEXT|file=FILE, tls-creds-x509,id=ID,dir=FOLDER,endpoint=client or \
     throttle-group,id=ID,limits.bps-total=RATE",
);

/// How a program that keeps an image open reaches it: what `qemu-io`, its command `open`, and `qemu-nbd` have in common but
/// for the letters of the modes.
pub(crate) const fn host(cache: char, discard: char, aio: char) -> [Opt; 6] {
    [
        o('r', "read-only", "", "Refuse writes"),
        o('s', "snapshot", "", "Keep writes in a temporary file"),
        o('n', "nocache", "", "The same as --cache none"),
        o(cache, "cache", "CACHE", "Cache mode"),
        o(discard, "discard", "MODE", "unmap gives discarded space back"),
        o(aio, "aio", "MODE", "How requests reach the host: threads, native or io_uring"),
    ]
}

/// What a cache mode means.
pub(crate) fn cache(mode: Option<&str>) -> Result<CacheMode, ToolError> {
    let Some(mode) = mode else { return Ok(CacheMode::default()) };
    CacheMode::find(mode).map_or_else(
        || usage(format!("cache mode '{mode}': expected one of {}", CacheMode::NAMES.join(", "))),
        Ok,
    )
}

/// What `--aio` says.
fn aio(args: &Args) -> Result<Aio, ToolError> {
    let native = args.has("native") || args.has("native-aio");
    match args.get("aio") {
        None if native => Ok(Aio::Native),
        None => Ok(Aio::Threads),
        Some(name) => Aio::find(name).map_or_else(
            || usage(format!("--aio {name}: expected one of {}", Aio::NAMES.map(|(n, _)| n).join(", "))),
            Ok,
        ),
    }
}

/// How a command line opens its images.
pub(crate) fn options(args: &Args, read_only: bool) -> Result<OpenOptions, ToolError> {
    let share = args.has("force-share");
    if share && !read_only {
        return usage("--force-share goes with reading only");
    }
    let sharing = if share { Sharing::All } else { Sharing::Readers };
    let mode = if args.has("nocache") { Some("none") } else { None };
    let cache = cache(args.get("cache").or(mode))?;
    let aio = aio(args)?;
    let tls = objects::tls_clients(args)?;
    let secrets = secrets(args)?;
    Ok(OpenOptions { read_only, sharing, cache, aio, tls, secrets, ..OpenOptions::default() })
}

/// The secrets a command line gives.
pub(crate) fn secrets(args: &Args) -> Result<Secrets, ToolError> {
    let mut secrets = Secrets::default();
    for definition in args.all("object").filter(|o| !objects::is_ours(o)) {
        secrets.add(definition)?;
    }
    Ok(secrets)
}

/// Options that open the image `depth` steps below one in its chain, which is named `name`.
pub(crate) fn below(
    args: &Args,
    name: &str,
    depth: usize,
    options: OpenOptions,
) -> Result<OpenOptions, ToolError> {
    let named = if args.has("image-opts") {
        let list = Options::parse(name)?;
        let list: Vec<(String, String)> = list.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Name::from_keys(name, &list)?
    } else {
        Name::parse(name)?
    };
    let prefix = "backing.".repeat(depth);
    let keys = named.keys.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?.to_owned(), v.clone())));
    Ok(OpenOptions { secrets: secrets(args)?, keys: keys.collect(), ..options })
}

/// Keys that open an image which options make: the secrets it is locked with.
pub(crate) fn key_secrets(options: &Options) -> Vec<(String, String)> {
    let keys = options.iter().filter(|(k, _)| k.ends_with("key-secret"));
    keys.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The image as its cache mode has it.
pub(crate) fn cached(image: Arc<dyn Image>, options: &OpenOptions) -> Arc<dyn Image> {
    if options.cache.write_through && !options.read_only { Arc::new(WriteThrough::new(image)) } else { image }
}

/// What `--discard` says: whether discarded space is given back.
pub(crate) fn discards(args: &Args) -> Result<bool, ToolError> {
    match args.get("discard") {
        None | Some("ignore" | "off") => Ok(false),
        Some("unmap" | "on") => Ok(true),
        Some(other) => usage(format!("--discard {other}: expected ignore or unmap")),
    }
}

/// Opens an image.
pub(crate) fn open(
    name: &str,
    format: Option<&str>,
    keys: bool,
    options: &OpenOptions,
    context: &Context,
) -> Result<Arc<dyn Image>, ToolError> {
    Ok(cached(open_plain(name, format, keys, options, context)?, options))
}

fn open_plain(
    name: &str,
    format: Option<&str>,
    keys: bool,
    options: &OpenOptions,
    context: &Context,
) -> Result<Arc<dyn Image>, ToolError> {
    if let Some(tree) = tree::parse(name, keys)? {
        let top = tree::open(&tree, options, context)?;
        // `blkdebug:` stands for a file, whose format is found out like that of any other.
        if format.is_none() && !name.starts_with("blkdebug:") {
            return Ok(top);
        }
        let name = top.filename().to_owned();
        return Ok(block_formats::open_node(top, &name, format, options)?);
    }
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
    let context = Context::of(args)?;
    let image = open(name, args.get("format"), args.has("image-opts"), options, &context)?;
    warn_probed(args, &*image, options);
    Ok(image)
}

/// Says that a raw image was guessed to be one.
pub(crate) fn warn_probed(args: &Args, image: &dyn Image, options: &OpenOptions) {
    let named = args.get("format").is_some() || args.has("image-opts");
    if !named && !options.read_only && image.format() == "raw" {
        let text = format!(
            "{}: the format was not given and looks like raw; writes that look like another format are refused (give -f raw)",
            image.filename()
        );
        crate::text::warn("warning", &text);
    }
}
