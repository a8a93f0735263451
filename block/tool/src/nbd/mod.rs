//! `qemu-nbd`: an image given to others by NBD, or the list of what a server gives.

#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod kernel;

use std::sync::Arc;

use block::BlockNode;
use block_export::{Export, NbdServer, ServerOptions, image_pieces};
use block_formats::{Image, RawImage};
use block_graph::{DetectZeroes, Node};
use block_nbd::proto::export_flag;
use block_nbd::{Address, Listener, NbdOptions, TlsRole, TlsServer};

use crate::Outcome;
use crate::args::{Args, Opt, joined, o};
use crate::error::{ToolError, usage};
use crate::objects;
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT};
use crate::text::say;

const OPTIONS: &[Opt] = &joined::<6, 28, 34>(open::host(' ', ' ', ' '), OWN);

const OWN: [Opt; 28] = [
    o('V', "version", "", "Print the version"),
    o('p', "port", "PORT", "Port to listen at (default 10809)"),
    o('b', "bind", "ADDRESS", "Address to listen at (default 0.0.0.0)"),
    o('k', "socket", "PATH", "Listen at a Unix socket"),
    o('e', "shared", "N", "Clients at a time (default 1, 0 for no limit)"),
    o('t', "persistent", "", "Do not end with the last client"),
    o('v', "verbose", "", "Accepted"),
    o('x', "export-name", "NAME", "Name of the export (default empty)"),
    o('D', "description", "TEXT", "Description of the export"),
    o(' ', "handshake-limit", "N", "Seconds a client has to choose an export (default 10)"),
    o('o', "offset", "OFFSET", "Where the export starts in the image"),
    o('A', "allocation-depth", "", "Offer the depth of allocation"),
    o('B', "bitmap", "NAME", "Offer a dirty bitmap that is kept in the image"),
    o('L', "list", "", "List the exports of a server"),
    OBJECT,
    o(' ', "tls-creds", "ID", "Use TLS, with an --object tls-creds-x509"),
    o(' ', "tls-hostname", "NAME", "The name a server's certificate has to have"),
    o(
        ' ',
        "tls-authz",
        "ID",
        "Clients' certificates have to pass an --object authz-simple, authz-list or authz-list-file",
    ),
    o('T', "trace", "SPEC", "Accepted"),
    o(' ', "fork", "", "Go to the background once clients can connect"),
    o(' ', "pid-file", "PATH", "Write the process's number to a file"),
    o(' ', "selinux-label", "LABEL", "Label of the socket to listen at"),
    o(
        'c',
        "connect",
        "DEVICE",
        "Give the image to a device of the kernel's, such as /dev/nbd0, in the background unless --verbose",
    ),
    o('d', "disconnect", "", "Take it away again: the operand is the device"),
    FORMAT,
    o('l', "load-snapshot", "SNAPSHOT", "Export a snapshot inside the image"),
    o(' ', "detect-zeroes", "MODE", "What becomes of written zeroes: off, on or unmap"),
    IMAGE_OPTS,
];

/// Set in the process that goes to the background.
#[cfg(unix)]
const FORKED: &str = "RHEA_NBD_FORKED";

/// Runs the command.
pub(crate) fn run(program: &str, args: &[String]) -> Outcome {
    let given = args;
    let args = Args::parse(args, OPTIONS, "FILE")?;
    if args.has("version") {
        say(&format!("{program} (Rhea) {}\n", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    #[cfg(target_os = "linux")]
    if args.has("disconnect") {
        return kernel::disconnect(&args);
    }
    #[cfg(not(target_os = "linux"))]
    for name in ["selinux-label", "connect", "disconnect"] {
        if args.has(name) {
            return usage(format!("--{name} is for Linux hosts"));
        }
    }
    if args.has("list") {
        return list(&args);
    }
    #[cfg(unix)]
    if (args.has("fork") || args.has("connect") && !args.has("verbose")) && std::env::var_os(FORKED).is_none()
    {
        return background();
    }
    #[cfg(not(unix))]
    if args.has("fork") {
        return usage("--fork is not supported on this host");
    }
    let _ = given;
    serve(&args)
}

fn address(args: &Args) -> Result<Address, ToolError> {
    let port = args.number("port")?;
    match args.get("socket") {
        Some(_) if port.is_some() || args.has("bind") => usage("--socket does not go with --port and --bind"),
        Some(path) => Ok(Address::Unix(path.into())),
        None => {
            let port = port.unwrap_or(block_nbd::proto::PORT.into());
            let Ok(port) = u16::try_from(port) else {
                return usage(format!("--port {port}: expected a number below 65536"));
            };
            Ok(Address::Inet { host: args.get("bind").unwrap_or("0.0.0.0").into(), port })
        }
    }
}

fn list(args: &Args) -> Outcome {
    if let Some(more) = args.operands.first() {
        return usage(format!("unexpected argument '{more}'"));
    }
    if args.has("tls-authz") {
        return usage("--tls-authz does not go with --list");
    }
    let mut at = address(args)?;
    if let (Address::Inet { host, .. }, false) = (&mut at, args.has("bind")) {
        *host = "localhost".into();
    }
    let mut options = NbdOptions::new(at, "");
    options.tls_hostname = args.get("tls-hostname").map(str::to_owned);
    if let Some(id) = args.get("tls-creds") {
        options.tls = TlsRole::Ready(objects::find(&objects::tls_clients(args)?, id)?);
    }
    let all = block_nbd::list(&options)?;
    let mut out = format!("exports available: {}\n", all.len());
    for e in &all {
        out += &format!(" export: '{}'\n", e.name);
        if !e.description.is_empty() {
            out += &format!("  description: {}\n", e.description);
        }
        let names = [
            (export_flag::READ_ONLY, "readonly"),
            (export_flag::FLUSH, "flush"),
            (export_flag::FUA, "fua"),
            (1 << 4, "rotational"),
            (export_flag::TRIM, "trim"),
            (export_flag::WRITE_ZEROES, "zeroes"),
            (export_flag::DF, "df"),
            (export_flag::MULTI_CONN, "multi"),
            (1 << 9, "resize"),
            (export_flag::CACHE, "cache"),
            (export_flag::FAST_ZERO, "fast-zero"),
        ];
        let names: String = names.iter().filter(|(f, _)| e.has(*f)).map(|(_, n)| format!(" {n}")).collect();
        out += &format!("  size:  {}\n  flags: {:#x} ({names} )\n", e.size, e.flags);
        if let Some([min, best, max]) = e.block_size {
            out += &format!("  min block: {min}\n  opt block: {best}\n  max block: {max}\n");
        }
        if !e.contexts.is_empty() {
            out += &format!("  available meta contexts: {}\n", e.contexts.len());
            out.extend(e.contexts.iter().map(|c| format!("   {c}\n")));
        }
    }
    say(&out);
    Ok(0)
}

/// Starts the same command in the background; ends once it can be connected to.
#[cfg(unix)]
fn background() -> Outcome {
    use std::process::{Command, Stdio};
    let failed = |source| ToolError::File { path: "--fork".into(), source };
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    std::os::unix::process::CommandExt::arg0(&mut command, name);
    let mut child = command
        .args(words)
        .env(FORKED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut word = [0];
    let ready =
        child.stdout.take().is_some_and(|mut out| std::io::Read::read_exact(&mut out, &mut word).is_ok());
    if ready {
        return Ok(0);
    }
    // It has said why on standard error.
    let _ = child.wait();
    Err(ToolError::Silent)
}

/// The disk that is exported, with what keeps it.
struct Served {
    image: Arc<dyn Image>,
    export: Export,
}

fn open_export(args: &Args) -> Result<Served, ToolError> {
    let temporary = args.has("snapshot");
    let view = args.get("load-snapshot");
    let read_only = args.has("read-only") || view.is_some();
    let mut options = open::options(args, read_only || temporary)?;
    options.discard = open::discards(args)?;
    let detect = args.get("detect-zeroes").unwrap_or("off");
    let Some((_, detect)) = DetectZeroes::NAMES.iter().find(|(n, _)| *n == detect) else {
        return usage(format!("--detect-zeroes {detect}: expected off, on or unmap"));
    };
    if *detect == DetectZeroes::Unmap && !options.discard {
        return usage("--detect-zeroes unmap needs --discard unmap beside it");
    }
    let name = args.one("FILE")?;
    let image = open::image(args, name, &options)?;
    let export_name = args.get("export-name").unwrap_or("");
    if export_name.len() > block_nbd::proto::MAX_STRING {
        return usage(format!("--export-name: expected at most {} bytes", block_nbd::proto::MAX_STRING));
    }
    let mut export = match (view, args.size("offset")?) {
        (Some(name), offset) => {
            if offset.is_some() || temporary {
                return usage("--load-snapshot does not go with --offset and --snapshot");
            }
            let id =
                name.strip_prefix("snapshot.id=").or(name.strip_prefix("snapshot.name=")).unwrap_or(name);
            Export::new(export_name, image.open_snapshot(id)?, true)
        }
        (None, offset) => {
            let mut top: Arc<dyn Image> = image.clone();
            if let Some(offset) = offset {
                let node: Arc<dyn BlockNode> = image.clone();
                top = Arc::new(RawImage::new(name, node, offset, None, read_only)?);
            }
            if *detect != DetectZeroes::Off {
                top = Node::detecting(name, top, *detect);
            }
            if temporary {
                top = block_formats::temporary(top)?;
            }
            let mut e = Export::new(export_name, top.clone(), read_only);
            e.status = image_pieces(top);
            e
        }
    };
    export.description = args.get("description").unwrap_or("").into();
    export.depth = args.has("allocation-depth");
    for name in args.all("bitmap") {
        // The first image of the chain that has it.
        let chain = block_formats::chain::images(&image);
        let has = |i: &Arc<dyn Image>| i.bitmaps().is_ok_and(|all| all.iter().any(|b| b.name == *name));
        let Some(owner) = chain.iter().find(|i| has(i)) else {
            return Err(ToolError::Failed(format!("{}: there is no bitmap '{name}'", image.filename())));
        };
        let found = owner.bitmaps()?.into_iter().find(|b| b.name == *name);
        if found.is_some_and(|b| b.inconsistent) {
            return Err(ToolError::Failed(format!("bitmap '{name}' was not saved properly")));
        }
        export.bitmaps.push((name.to_owned(), Arc::new(owner.bitmap_ranges(name)?)));
    }
    Ok(Served { image, export })
}

fn serve(args: &Args) -> Outcome {
    let shared = args.number("shared")?.unwrap_or(1);
    let mut options = ServerOptions {
        max_connections: usize::try_from(shared).unwrap_or(0),
        handshake_limit: args.number("handshake-limit")?.unwrap_or(10),
        tls: None,
        authz: None,
    };
    if let Some(id) = args.get("tls-creds") {
        options.tls = Some(objects::find::<TlsServer>(&objects::tls_servers(args)?, id)?);
    }
    if let Some(id) = args.get("tls-authz") {
        if options.tls.is_none() {
            return usage("--tls-authz needs --tls-creds");
        }
        options.authz = Some(objects::authz(args, id)?);
    }
    let at = address(args)?;
    let Served { image, mut export } = open_export(args)?;
    export.shared = shared != 1;
    let failed = |source| ToolError::File { path: at.to_string(), source };
    if args.has("connect") && options.tls.is_some() {
        return usage("--connect does not go with --tls-creds: the kernel has no TLS");
    }
    // A device alone needs no socket that others can find.
    let listens = !args.has("connect") || args.has("socket") || args.has("port") || args.has("bind");
    let listener = listens.then(|| labelled(args, || Listener::bind(&at).map_err(failed))).transpose()?;
    let server = NbdServer::new(options);
    #[cfg(target_os = "linux")]
    let name = export.name.clone();
    server.add(export);
    if let Some(path) = args.get("pid-file") {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|e| crate::target::no_file(path, e))?;
    }
    stop_on_signals(&server);
    if let Some(listener) = listener {
        server.listen(listener).map_err(failed)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(device) = args.get("connect") {
        kernel::connect(&server, &name, device)?;
    }
    #[cfg(unix)]
    if std::env::var_os(FORKED).is_some() {
        detach();
    }
    if args.has("persistent") {
        server.wait_stopped();
    } else {
        server.wait_idle();
    }
    server.stop();
    if let Some(path) = args.get("pid-file") {
        let _ = std::fs::remove_file(path);
    }
    image.close()?;
    Ok(0)
}

/// Makes a socket under the label of `--selinux-label`.
#[cfg(target_os = "linux")]
fn labelled<T>(args: &Args, make: impl FnOnce() -> Result<T, ToolError>) -> Result<T, ToolError> {
    // For the sockets of this thread; libselinux writes the same.
    const LABEL: &str = "/proc/thread-self/attr/sockcreate";
    let Some(label) = args.get("selinux-label") else { return make() };
    let failed = |source| ToolError::File { path: format!("--selinux-label {label}"), source };
    std::fs::write(LABEL, format!("{label}\0")).map_err(failed)?;
    let made = make();
    std::fs::write(LABEL, "").map_err(failed)?;
    made
}

#[cfg(not(target_os = "linux"))]
fn labelled<T>(_: &Args, make: impl FnOnce() -> Result<T, ToolError>) -> Result<T, ToolError> {
    make()
}

/// Leaves the terminal and tells who waits that clients can connect.
#[cfg(unix)]
fn detach() {
    use std::io::Write as _;

    let _ = rustix::process::setsid();
    let mut out = std::io::stdout();
    let _ = out.write_all(b"\n").and_then(|()| out.flush());
    // The pipe ends with this, and nothing is written to a terminal that may be gone.
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

#[cfg(unix)]
fn stop_on_signals(server: &Arc<NbdServer>) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]) else { return };
    let server = server.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            server.stop();
        }
    });
}

#[cfg(not(unix))]
fn stop_on_signals(_: &Arc<NbdServer>) {}
