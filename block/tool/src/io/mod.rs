//! `qemu-io`: single requests on an image, as test suites send them.
//!
//! Requests are done one after the other, those called asynchronous as well.

mod requests;

use std::io::BufRead;
use std::sync::Arc;

use block::{CacheMode, Overlay};
use block_filters::CopyOnRead;
use block_formats::{Image, OpenOptions};
use block_graph::Bare;

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::{ToolError, usage};
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, SHARE};
use crate::text::{io_size, say};

const OPTIONS: &[Opt] = &[
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    SHARE,
    o('c', "cmd", "COMMAND", "Run a command; otherwise they are read from standard input"),
    o('r', "read-only", "", "Open for reading only"),
    o('s', "snapshot", "", "Keep writes in a temporary file"),
    o('n', "nocache", "", "The same as --cache none"),
    o('C', "copy-on-read", "", "Copy what is read from the backing file into the image"),
    o('m', "misalign", "", "Accepted: requests need no alignment"),
    o('t', "cache", "CACHE", "Cache mode"),
    o('d', "discard", "MODE", "unmap gives discarded space back"),
    o('i', "aio", "MODE", "How requests reach the host: threads, native or io_uring"),
    o('k', "native-aio", "", "The same as --aio native"),
    o('T', "trace", "SPEC", "Accepted"),
    o('V', "version", "", "Print the version"),
];

/// Options of the command `open`.
const OPEN: &[Opt] = &[
    o('r', "read-only", "", ""),
    o('s', "snapshot", "", ""),
    o('C', "copy-on-read", "", ""),
    o('n', "nocache", "", ""),
    o('k', "native-aio", "", ""),
    SHARE,
    o('t', "cache", "CACHE", ""),
    o('d', "discard", "MODE", ""),
    o('o', "options", "OPTIONS", ""),
];

/// Options of the command `reopen`.
const REOPEN: &[Opt] =
    &[o('r', "read-only", "", ""), o('w', "writable", "", ""), o('c', "cache", "CACHE", "")];

/// Commands with what they take.
const COMMANDS: &[(&str, &str)] = &[
    ("read, readv, aio_read", "[-Cqrv] [-P BYTE [-s OFFSET] [-l LEN]] OFFSET LEN [LEN...]"),
    ("write, writev, aio_write", "[-Ccfnqruz] [-P BYTE | -s FILE] OFFSET LEN [LEN...]"),
    ("discard", "[-Cq] OFFSET LEN"),
    ("flush, aio_flush", ""),
    ("map", ""),
    ("alloc", "OFFSET [LEN]"),
    ("length", ""),
    ("info", ""),
    ("truncate", "[-m MODE] SIZE"),
    ("open", "[-rsCnkU] [-t CACHE] [-d MODE] [-o OPTIONS] [FILE]"),
    ("reopen", "[-r | -w] [-c CACHE]"),
    ("close", ""),
    ("sleep", "MILLISECONDS"),
    ("abort", ""),
    ("sigraise", "SIGNAL"),
    ("help", ""),
    ("quit", ""),
];

/// The image that is open, and how it was opened.
struct Opened {
    image: Arc<dyn Image>,
    name: String,
    format: Option<String>,
    keys: bool,
    options: OpenOptions,
    layers: Layers,
}

/// What stands above an image.
#[derive(Clone, Copy, Default)]
struct Layers {
    temporary: bool,
    copy_on_read: bool,
}

impl Opened {
    fn open(
        name: &str,
        format: Option<&str>,
        keys: bool,
        options: OpenOptions,
        layers: Layers,
    ) -> Result<Self, ToolError> {
        let options = OpenOptions { read_only: options.read_only || layers.temporary, ..options };
        let mut image = open::open(name, format, keys, &options)?;
        let shown = image.filename().to_owned();
        if layers.copy_on_read && !options.read_only {
            let unit = image.details().cluster_size;
            image =
                Arc::new(Bare::new(Arc::new(CopyOnRead::new(image, unit)), "copy-on-read", shown.clone()));
        }
        if layers.temporary {
            image = Arc::new(Bare::new(Arc::new(Overlay::new(image)?), "snapshot", shown));
        }
        let (name, format) = (name.to_owned(), format.map(str::to_owned));
        Ok(Opened { image, name, format, keys, options, layers })
    }

    fn close(self) -> Result<(), ToolError> {
        if !self.options.read_only {
            self.image.close()?;
        }
        Ok(())
    }

    /// Opens it again in another way.
    fn reopen(self, change: impl FnOnce(&mut OpenOptions)) -> Result<Self, ToolError> {
        let (name, format, keys, layers) = (self.name.clone(), self.format.clone(), self.keys, self.layers);
        let mut options = self.options.clone();
        self.close()?;
        change(&mut options);
        Opened::open(&name, format.as_deref(), keys, options, layers)
    }
}

fn discards(args: &Args) -> bool {
    args.get("discard").is_some_and(|d| d == "unmap" || d == "on")
}

fn layers(args: &Args) -> Layers {
    Layers { temporary: args.has("snapshot"), copy_on_read: args.has("copy-on-read") }
}

/// What a program of commands works with.
struct Session {
    opened: Option<Opened>,
    /// What the command line says for whatever is opened.
    base: OpenOptions,
}

/// Whether to go on, and whether all was as expected.
enum Said {
    Good,
    Bad,
    Quit,
}

impl Session {
    fn command(&mut self, line: &str) -> Result<Said, ToolError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let Some((command, rest)) = words.split_first() else { return Ok(Said::Good) };
        match command.as_str() {
            "quit" | "q" => return Ok(Said::Quit),
            "open" | "o" => self.open(rest)?,
            "close" | "c" => match self.opened.take() {
                Some(opened) => opened.close()?,
                None => return usage("no file is open; open FILE opens one"),
            },
            "reopen" => self.reopen(rest)?,
            "abort" => std::process::abort(),
            "sigraise" => sigraise(rest)?,
            "sleep" => {
                let [time] = rest else { return usage("expected MILLISECONDS") };
                let Ok(time) = time.parse() else { return usage(format!("{time}: expected MILLISECONDS")) };
                std::thread::sleep(std::time::Duration::from_millis(time));
            }
            "help" | "?" => COMMANDS.iter().for_each(|(name, what)| say(&format!("{name} {what}\n"))),
            _ => {
                let Some(opened) = &self.opened else {
                    return usage("no file is open; open FILE opens one");
                };
                if matches!(command.as_str(), "info" | "i") {
                    info(&*opened.image);
                } else if !requests::command_on(&opened.image, command, rest)? {
                    return Ok(Said::Bad);
                }
            }
        }
        Ok(Said::Good)
    }

    fn open(&mut self, rest: &[String]) -> Result<(), ToolError> {
        if self.opened.is_some() {
            return usage("a file is open already; close ends that");
        }
        let args = Args::parse(rest, OPEN, "")?;
        let list = args.get("options");
        let (name, keys) = match (&args.operands[..], list) {
            ([file], None) => (file.clone(), false),
            ([file], Some(list)) => (format!("file.filename={file},{list}"), true),
            ([], Some(list)) => (list.to_owned(), true),
            _ => return usage("expected FILE"),
        };
        let own = open::options(&args, args.has("read-only"))?;
        let (secrets, tls) = (self.base.secrets.clone(), self.base.tls.clone());
        let options = OpenOptions { discard: discards(&args), secrets, tls, ..own };
        self.opened = Some(Opened::open(&name, None, keys, options, layers(&args))?);
        Ok(())
    }

    fn reopen(&mut self, rest: &[String]) -> Result<(), ToolError> {
        let args = Args::parse(rest, REOPEN, "")?;
        let Some(opened) = self.opened.take() else { return usage("no file is open; open FILE opens one") };
        let cache: Option<CacheMode> = args.get("cache").map(|c| open::cache(Some(c))).transpose()?;
        self.opened = Some(opened.reopen(|options| {
            if args.has("read-only") || args.has("writable") {
                options.read_only = args.has("read-only");
            }
            options.cache = cache.unwrap_or(options.cache);
        })?);
        Ok(())
    }
}

/// Runs the program.
pub(crate) fn run(program: &str, args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "[FILE]")?;
    if args.has("version") {
        say(&format!("{program} (Rhea) {}\n", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    let base = OpenOptions { discard: discards(&args), ..open::options(&args, args.has("read-only"))? };
    let mut session = Session { opened: None, base: base.clone() };
    match &args.operands[..] {
        [] => {}
        [name] => {
            let (format, keys) = (args.get("format"), args.has("image-opts"));
            let opened = Opened::open(name, format, keys, base, layers(&args))?;
            open::warn_probed(&args, &*opened.image, &opened.options);
            session.opened = Some(opened);
        }
        [_, more, ..] => return usage(format!("unexpected argument '{more}'")),
    }
    let mut failed = false;
    let mut each = |line: &str| -> bool {
        match session.command(line) {
            Ok(Said::Good) => {}
            Ok(Said::Bad) => failed = true,
            Ok(Said::Quit) => return false,
            Err(e) => {
                let command = line.split_whitespace().next().unwrap_or_default();
                say(&format!("{command} failed: {e}\n"));
                failed = true;
            }
        }
        true
    };
    if args.has("cmd") {
        let all: Vec<&str> = args.all("cmd").collect();
        all.iter().all(|line| each(line));
    } else {
        for line in std::io::stdin().lock().lines() {
            match line {
                Ok(line) if each(&line) => {}
                _ => break,
            }
        }
    }
    if let Some(opened) = session.opened.take() {
        opened.close()?;
    }
    Ok(u8::from(failed))
}

fn info(image: &dyn Image) {
    say(&format!("format name: {}\n", image.format()));
    if let Some(size) = image.details().cluster_size {
        say(&format!("cluster size: {}\n", io_size(size as f64)));
    }
}

#[cfg(unix)]
fn sigraise(rest: &[String]) -> Result<(), ToolError> {
    use rustix::process::{Signal, getpid, kill_process};
    let [number] = rest else { return usage("expected SIGNAL") };
    let signal = number.parse().ok().and_then(Signal::from_named_raw);
    let Some(signal) = signal else { return usage(format!("{number}: expected the number of a signal")) };
    let failed =
        |e: rustix::io::Errno| ToolError::File { path: format!("signal {number}"), source: e.into() };
    kill_process(getpid(), signal).map_err(failed)
}

#[cfg(not(unix))]
fn sigraise(_: &[String]) -> Result<(), ToolError> {
    usage("this host has no signals")
}
