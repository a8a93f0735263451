//! `--connect` and `--disconnect`: an image as a block device of the host.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use block_export::NbdServer;
use block_nbd::proto::export_flag;
use block_nbd::{Socket, hand_over};

use super::device::Device;
use crate::Outcome;
use crate::args::Args;
use crate::error::{ToolError, usage};
use crate::text::{say, warn};

fn failed(path: &str) -> impl Fn(std::io::Error) -> ToolError + '_ {
    |source| ToolError::File { path: path.to_owned(), source }
}

/// Gives a device an export of ours. The server has one more client until it is disconnected.
pub(super) fn connect(server: &Arc<NbdServer>, export: &str, path: &str) -> Result<(), ToolError> {
    let device = Device::open(Path::new(path)).map_err(failed(path))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed(path))?;
    server.begin(Socket::Unix(theirs)).map_err(failed(path))?;
    let (socket, info) = hand_over(Socket::Unix(ours), export)?;
    let Socket::Unix(socket) = socket else { return usage("--connect: expected a Unix socket") };
    let read_only = info.has(export_flag::READ_ONLY);
    device.connect(socket.as_fd(), info.size, info.flags, read_only).map_err(failed(path))?;
    let name = path.to_owned();
    let work = move || {
        if let Err(e) = device.run() {
            warn(&name, &e.to_string());
        }
        // The server's client is gone with it.
        drop(socket);
    };
    thread::Builder::new().name("nbd-kernel".into()).spawn(work).map_err(failed(path))?;
    // Whoever opens the device has the kernel look for partitions.
    let name = path.to_owned();
    thread::spawn(move || drop(File::open(name)));
    Ok(())
}

/// Runs `--disconnect`.
pub(super) fn disconnect(args: &Args) -> Outcome {
    let path = args.one("DEVICE")?;
    Device::open(Path::new(path)).and_then(|device| device.disconnect()).map_err(failed(path))?;
    say(&format!("{path} disconnected\n"));
    Ok(0)
}
