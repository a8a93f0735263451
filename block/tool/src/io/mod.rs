//! `qemu-io`: single requests on an image, as test suites send them.
//!
//! Requests are done one after the other, those called asynchronous as well unless a breakpoint stops them.

mod requests;
mod running;

use std::io::BufRead;
use std::sync::Arc;

use block::CacheMode;
use block_filters::CopyOnRead;
use block_formats::{Image, OpenOptions, Options};
use block_graph::Bare;

use crate::Outcome;
use crate::args::{Args, Opt, joined, o};
use crate::error::{ToolError, usage};
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, SHARE};
use crate::text::{io_size, say};
use crate::tree::Context;
use running::Running;

const OPTIONS: &[Opt] = &joined::<6, 10, 16>(
    open::host('t', 'd', 'i'),
    [
        FORMAT,
        IMAGE_OPTS,
        OBJECT,
        SHARE,
        o('c', "cmd", "COMMAND", "Run a command; otherwise they are read from standard input"),
        o('C', "copy-on-read", "", "Copy what is read from the backing file into the image"),
        o('m', "misalign", "", "Accepted: requests need no alignment"),
        o('k', "native-aio", "", "The same as --aio native"),
        o('T', "trace", "SPEC", "Accepted"),
        o('V', "version", "", "Print the version"),
    ],
);

/// Options of the command `open`.
const OPEN: &[Opt] = &joined::<6, 4, 10>(
    open::host('t', 'd', ' '),
    [SHARE, o('C', "copy-on-read", "", ""), o('k', "native-aio", "", ""), o('o', "options", "OPTIONS", "")],
);

/// Options of the command `reopen`.
const REOPEN: &[Opt] = &[
    o('r', "read-only", "", ""),
    o('w', "writable", "", ""),
    o('c', "cache", "CACHE", ""),
    o('o', "options", "OPTIONS", ""),
];

/// Commands with what they take and do.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("abort", "", "end at once, as if the program had crashed"),
    ("aio_flush", "", "wait for all requests that are under way"),
    ("aio_read", "[-Ciqrv] [-P BYTE] OFFSET LEN [LEN...]", "read without waiting for a request that stands"),
    (
        "aio_write",
        "[-Cfiqruz] [-P BYTE] OFFSET LEN [LEN...]",
        "write without waiting for a request that stands",
    ),
    ("alloc", "OFFSET [LEN]", "say how much of a range is allocated"),
    ("break", "EVENT TAG", "have the next request that raises an event stop"),
    ("close", "", "close the image"),
    ("discard", "[-Cq] OFFSET LEN", "give up the contents of a range"),
    ("flush", "", "make everything stable"),
    ("help", "[COMMAND]", "explain a command, or all"),
    ("info", "", "show what the image is"),
    ("length", "", "show the size of the disk"),
    ("map", "", "show what is allocated"),
    ("open", "[-rsCnkU] [-t CACHE] [-d MODE] [-o OPTIONS] [FILE]", "open an image"),
    ("quit", "", "end"),
    ("read", "[-bCqrv] [-P BYTE [-s OFFSET] [-l LEN]] OFFSET LEN", "read; -b from the state of a machine"),
    ("readv", "[-Cqrv] [-P BYTE] OFFSET LEN [LEN...]", "read into several buffers"),
    ("remove_break", "TAG", "take a breakpoint away, and let what it stopped go on"),
    ("reopen", "[-r | -w] [-c CACHE] [-o OPTIONS]", "open the image again in another way"),
    ("resume", "TAG", "let a request that a breakpoint stopped go on"),
    ("sigraise", "SIGNAL", "raise a signal"),
    ("sleep", "MILLISECONDS", "wait"),
    ("truncate", "[-m MODE] SIZE", "change the size of the disk"),
    ("wait_break", "TAG", "wait until a breakpoint has stopped a request"),
    ("write", "[-bCcfnqruz] [-P BYTE | -s FILE] OFFSET LEN", "write; -b into the state of a machine"),
    ("writev", "[-Cfqr] [-P BYTE] OFFSET LEN [LEN...]", "write from several buffers"),
];

/// Commands on disks with zones, which no image here has.
const ZONES: [(&str, &str); 6] = [
    ("zone_append", "zone append"),
    ("zone_close", "zone close"),
    ("zone_finish", "zone finish"),
    ("zone_open", "zone open"),
    ("zone_report", "zone report"),
    ("zone_reset", "zone reset"),
];

/// The image that is open, and how it was opened.
struct Opened {
    image: Arc<dyn Image>,
    name: String,
    format: Option<String>,
    keys: bool,
    options: OpenOptions,
    layers: Layers,
    running: Running,
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
        context: &Context,
    ) -> Result<Self, ToolError> {
        let options = OpenOptions { read_only: options.read_only || layers.temporary, ..options };
        context.breakpoints.borrow_mut().clear();
        let mut image = open::open(name, format, keys, &options, context)?;
        let running = Running::new(context.breakpoints.take());
        let shown = image.filename().to_owned();
        if layers.copy_on_read && !options.read_only {
            let unit = image.details().cluster_size;
            image = Arc::new(Bare::new(Arc::new(CopyOnRead::new(image, unit)), "copy-on-read", shown));
        }
        if layers.temporary {
            image = block_formats::temporary(image)?;
        }
        let (name, format) = (name.to_owned(), format.map(str::to_owned));
        Ok(Opened { image, name, format, keys, options, layers, running })
    }

    fn close(mut self) -> Result<(), ToolError> {
        self.running.end();
        if !self.options.read_only {
            self.image.close()?;
        }
        Ok(())
    }

    /// Opens it again in another way.
    fn reopen(self, context: &Context, change: impl FnOnce(&mut OpenOptions)) -> Result<Self, ToolError> {
        let (name, format, keys, layers) = (self.name.clone(), self.format.clone(), self.keys, self.layers);
        let mut options = self.options.clone();
        self.close()?;
        change(&mut options);
        Opened::open(&name, format.as_deref(), keys, options, layers, context)
    }
}

fn layers(args: &Args) -> Layers {
    Layers { temporary: args.has("snapshot"), copy_on_read: args.has("copy-on-read") }
}

/// What a program of commands works with.
struct Session {
    opened: Option<Opened>,
    /// What the command line says for whatever is opened.
    base: OpenOptions,
    context: Context,
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
            "help" | "?" => return help(rest),
            _ => {
                let Some(opened) = &mut self.opened else {
                    return usage("no file is open; open FILE opens one");
                };
                if let Some((_, name)) = ZONES.iter().find(|(n, _)| n == command) {
                    say(&format!("{name} failed: Operation not supported\n"));
                    return Ok(Said::Bad);
                } else if let Some(good) = opened.running.command(command, rest)? {
                    return Ok(if good { Said::Good } else { Said::Bad });
                } else if command.starts_with("aio_") {
                    let good = opened.running.start(&opened.image, command, rest)?;
                    return Ok(if good { Said::Good } else { Said::Bad });
                } else if matches!(command.as_str(), "info" | "i") {
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
        let options = OpenOptions { discard: open::discards(&args)?, secrets, tls, ..own };
        self.opened = Some(Opened::open(&name, None, keys, options, layers(&args), &self.context)?);
        Ok(())
    }

    fn reopen(&mut self, rest: &[String]) -> Result<(), ToolError> {
        let args = Args::parse(rest, REOPEN, "")?;
        let Some(opened) = self.opened.take() else { return usage("no file is open; open FILE opens one") };
        let cache: Option<CacheMode> = args.get("cache").map(|c| open::cache(Some(c))).transpose()?;
        let mut given = Options::parse(args.get("options").unwrap_or_default())?;
        let read_only = given.take("read-only");
        if read_only.is_some() && (args.has("read-only") || args.has("writable")) {
            self.opened = Some(opened);
            return usage("read-only is given twice");
        }
        let changed = change(&opened.options, given, read_only.as_deref());
        let mut changed = match changed {
            Ok(changed) => changed,
            Err(e) => {
                self.opened = Some(opened);
                return Err(e);
            }
        };
        if args.has("read-only") || args.has("writable") {
            changed.read_only = args.has("read-only");
        }
        changed.cache = cache.unwrap_or(changed.cache);
        self.opened = Some(opened.reopen(&self.context, |options| *options = changed)?);
        Ok(())
    }
}

/// Options with what `reopen -o` changes of them.
fn change(
    options: &OpenOptions,
    mut given: Options,
    read_only: Option<&str>,
) -> Result<OpenOptions, ToolError> {
    let mut new = options.clone();
    let on = |key: &str, value: &str| match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        other => usage(format!("{key}={other}: expected on or off")),
    };
    if let Some(value) = read_only {
        new.read_only = on("read-only", value)?;
    }
    for (key, field) in [("cache.direct", &mut new.cache.direct), ("cache.no-flush", &mut new.cache.no_flush)]
    {
        if let Some(value) = given.take(key) {
            *field = on(key, &value)?;
        }
    }
    match given.take("discard").as_deref() {
        None => {}
        Some("unmap" | "on") => new.discard = true,
        Some("ignore" | "off") => new.discard = false,
        Some(other) => return usage(format!("discard={other}: expected ignore or unmap")),
    }
    match given.iter().next() {
        Some((key, _)) => {
            usage(format!("{key}: expected read-only, cache.direct, cache.no-flush or discard"))
        }
        None => Ok(new),
    }
}

fn help(rest: &[String]) -> Result<Said, ToolError> {
    let line = |(name, takes, does): &(&str, &str, &str)| {
        let takes = if takes.is_empty() { String::new() } else { format!(" {takes}") };
        say(&format!("{name}{takes} -- {does}\n"));
    };
    match rest {
        [] => COMMANDS.iter().for_each(line),
        [name] => match COMMANDS.iter().find(|(n, ..)| n == name) {
            Some(command) => line(command),
            None => {
                say(&format!("command {name} not found\n"));
                return Ok(Said::Bad);
            }
        },
        _ => return usage("expected one COMMAND at most"),
    }
    Ok(Said::Good)
}

/// Runs the program.
pub(crate) fn run(program: &str, args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "[FILE]")?;
    if args.has("version") {
        say(&format!("{program} (Rhea) {}\n", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    let base =
        OpenOptions { discard: open::discards(&args)?, ..open::options(&args, args.has("read-only"))? };
    let mut session = Session { opened: None, base: base.clone(), context: Context::of(&args)? };
    match &args.operands[..] {
        [] => {}
        [name] => {
            let (format, keys) = (args.get("format"), args.has("image-opts"));
            let opened = Opened::open(name, format, keys, base, layers(&args), &session.context)?;
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
