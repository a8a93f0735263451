//! passt (passt.top): a user network by a program of the host's, which is spoken to as a stream is.
//!
//! It is started as QEMU starts it: with one end of a socket pair as `--fd`. It goes to the background once it is ready, and
//! ends with the connection. A network that it cannot set up shows in its exit status.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::{NetError, Stream, StreamEvent, StreamPeer};

/// How passt is started.
#[derive(Clone, Debug, Default)]
pub struct PasstOptions {
    /// The program, unless it is to be looked for among the user's.
    pub program: Option<PathBuf>,
    /// Its arguments beside the socket.
    pub arguments: Vec<String>,
}

/// Starts passt and connects to it.
///
/// # Errors
/// It is not there, or it says that it cannot work.
pub fn passt(
    options: &PasstOptions,
    events: Option<Box<dyn Fn(StreamEvent) + Send + Sync>>,
) -> Result<Stream, NetError> {
    let program = options.program.clone().unwrap_or_else(|| "passt".into());
    let name = program.display().to_string();
    let failed = |e| NetError::host(format!("{name} (is passt installed? path=PROGRAM names another)"), e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| failed(e.into()))?;
    let theirs = OwnedFd::from(theirs);
    let number = std::os::fd::AsRawFd::as_raw_fd(&theirs).to_string();
    let mut command = Command::new(&program);
    command.args(["--fd", &number]).args(&options.arguments).stdin(Stdio::null());
    let output = command.output().map_err(failed)?;
    drop(theirs);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it says nothing").trim();
        return Err(NetError::Option(format!("{name} ended with {}: {last}", output.status)));
    }
    Stream::new(StreamPeer::Connected(ours.into()), events)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::Endpoint;
    use crate::testing::Sink;

    fn script(folder: &std::path::Path, text: &str) -> PasstOptions {
        let path = folder.join("passt");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        PasstOptions { program: Some(path), arguments: vec!["--mtu".into(), "1400".into()] }
    }

    #[test]
    fn frames_go_through_what_was_started() {
        let folder = tempfile::tempdir().unwrap();
        // Gives everything back, in the background.
        let echo = "[ \"$1 $3 $4\" = '--fd --mtu 1400' ] || exit 9\neval \"exec 3<&$2 4>&$2\"\n\
                    cat <&3 >&4 2>/dev/null &\nexec >/dev/null 2>&1";
        let stream = passt(&script(folder.path(), echo), None).unwrap();
        let (sink, _, frames) = Sink::new();
        stream.set_receiver(Some(sink));
        assert!(stream.send(&[&[7; 60]]));
        assert_eq!(frames.recv_timeout(Duration::from_secs(20)).unwrap(), [7; 60]);
    }

    #[test]
    fn passt_itself_answers() {
        if Command::new("passt").arg("--version").output().is_err() {
            println!("SKIPPED: passt is not installed");
            return;
        }
        let words = "--quiet --address 10.0.2.15 --netmask 24 --gateway 10.0.2.2";
        let arguments = words.split(' ').map(str::to_owned).collect();
        let stream = match passt(&PasstOptions { program: None, arguments }, None) {
            Ok(stream) => stream,
            Err(e) => return println!("SKIPPED: passt cannot work here: {e}"),
        };
        let (sink, _, frames) = Sink::new();
        stream.set_receiver(Some(sink));
        // Who has 10.0.2.2?
        let mut ask = vec![0xff; 6];
        ask.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        ask.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
        assert!(stream.send(&[&ask]));
        let reply = loop {
            let frame = frames.recv_timeout(Duration::from_secs(20)).unwrap();
            if frame[12..14] == [8, 6] {
                break frame;
            }
        };
        assert_eq!((&reply[20..22], &reply[28..32]), (&[0, 2][..], &[10, 0, 2, 2][..]));
    }

    #[test]
    fn what_it_says_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let options = script(folder.path(), "echo 'no way out' >&2; exit 3");
        let text = passt(&options, None).err().unwrap().to_string();
        assert!(text.contains("no way out") && text.contains('3'), "{text}");
        let missing = PasstOptions { program: Some("/no/such/passt".into()), arguments: Vec::new() };
        let text = passt(&missing, None).err().unwrap().to_string();
        assert!(text.contains("/no/such/passt") && text.contains("installed"), "{text}");
    }
}
