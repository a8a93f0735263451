//! Programs that set an interface up for us: network scripts, and the helper that makes a tap device on a bridge and
//! passes its descriptor back.
//!
//! The helper is started as QEMU starts its own: `HELPER --use-vnet --fd=N --br=BRIDGE`, where N is a Unix socket on
//! which the descriptor comes with one byte of data. So either's helper serves.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::NetError;

/// Name of our helper, beside the program that runs.
const OURS: &str = "rhea-bridge-helper";
/// Where it or another's is looked for after that.
const PLACES: [&str; 3] = [
    "/usr/lib/rhea/rhea-bridge-helper",
    "/usr/libexec/rhea-bridge-helper",
    "/usr/lib/qemu/qemu-bridge-helper",
];

/// Runs a network script with the interface's name; it must end well.
pub(super) fn script(path: &Path, interface: &str) -> Result<(), NetError> {
    let name = path.display();
    let status = Command::new(path).arg(interface).stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(NetError::Option(format!(
            "network script {name} {interface} ended with {}; script=no runs none",
            outcome(status)
        ))),
        Err(e) => Err(NetError::host(format!("network script {name} (script=no runs none)"), e)),
    }
}

fn outcome(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("status {code}"))
}

/// The helper to use when the user names none.
fn default_helper() -> Result<PathBuf, NetError> {
    let own = std::env::current_exe().ok().and_then(|e| Some(e.parent()?.join(OURS)));
    let found = own.into_iter().chain(PLACES.iter().map(PathBuf::from)).find(|p| p.exists());
    found.ok_or_else(|| {
        let text = format!(
            "no bridge helper found beside the program or at {}; give helper=PATH",
            PLACES.join(", ")
        );
        NetError::Option(text)
    })
}

/// Has a helper make a tap device on a bridge. A helper with spaces in it is a command line for the shell.
pub(super) fn bridge(helper: Option<&str>, bridge: &str) -> Result<OwnedFd, NetError> {
    let helper = match helper {
        Some(text) => PathBuf::from(text),
        None => default_helper()?,
    };
    let failed = |e| NetError::host(format!("bridge helper {}", helper.display()), e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    // The socket is its standard input, so that nothing else needs to be inherited.
    let arguments = ["--use-vnet", "--fd=0", &format!("--br={bridge}")];
    let text = helper.display().to_string();
    let mut command = if text.contains([' ', '\t']) {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("{text} {}", arguments.join(" ")));
        shell
    } else {
        let mut program = Command::new(&helper);
        program.args(arguments);
        program
    };
    let mut child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().map_err(failed)?;
    // It holds the socket's other end as long as the command can start more of them.
    drop(command);
    let received = descriptor(&ours).map_err(failed)?;
    let status = child.wait().map_err(failed)?;
    match received {
        Some(fd) if status.success() => Ok(fd),
        _ => Err(NetError::Option(format!(
            "bridge helper {} ended with {} and made no device on '{bridge}'; is the bridge allowed in its bridge.conf, \
             and the helper set-uid root?",
            helper.display(),
            outcome(status)
        ))),
    }
}

/// Receives one descriptor; none if the other end has closed.
fn descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => {
                return Ok(control.drain().find_map(|m| match m {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                }));
            }
        }
    }
}
