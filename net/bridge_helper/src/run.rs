//! Arguments, and the answer.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::{acl, device};

/// The files of rules; the first that is there counts.
const RULES: [&str; 2] = ["/etc/rhea/bridge.conf", "/etc/qemu/bridge.conf"];

const USAGE: &str = "usage: rhea-bridge-helper [--use-vnet] --br=BRIDGE --fd=UNIX_SOCKET";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    bridge: String,
    fd: u32,
    vnet_header: bool,
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Wish, String> {
    let (mut bridge, mut fd, mut vnet_header) = (None, None, false);
    for argument in arguments {
        match argument.split_once('=') {
            Some(("--br", name)) if !name.is_empty() => bridge = Some(name.to_owned()),
            Some(("--fd", number)) => fd = number.parse().ok(),
            None if argument == "--use-vnet" => vnet_header = true,
            _ => return Err(USAGE.into()),
        }
    }
    match (bridge, fd) {
        (Some(bridge), Some(fd)) => Ok(Wish { bridge, fd, vnet_header }),
        _ => Err(USAGE.into()),
    }
}

fn pass(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<(), String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err("no room for a descriptor".into());
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL);
    sent.map(|_| ())
        .map_err(|e| format!("cannot pass the device on: {e}; expected a connected Unix socket as fd"))
}

/// Does it.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let wish = parse(arguments)?;
    let socket = device::inherited(wish.fd).ok_or_else(|| format!("fd={}: not open", wish.fd))?;
    let rules = RULES.iter().map(Path::new).find(|p| p.exists()).unwrap_or_else(|| Path::new(RULES[0]));
    if !acl::ask(rules, &wish.bridge)?.is_yes() {
        let (bridge, rules) = (&wish.bridge, rules.display());
        return Err(format!("bridge '{bridge}' is not allowed; 'allow {bridge}' in {rules} allows it"));
    }
    let tap = device::on_bridge(&wish.bridge, wish.vnet_header)?;
    pass(socket, tap.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Result<Wish, String> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments() {
        let expected = Wish { bridge: "br0".into(), fd: 7, vnet_header: true };
        assert_eq!(wish("--use-vnet --br=br0 --fd=7"), Ok(expected));
        for bad in [
            "",
            "--br=br0",
            "--fd=3",
            "--br= --fd=3",
            "--br=br0 --fd=x",
            "--br=br0 --fd=-1",
            "--br=b --fd=1 x",
        ] {
            assert_eq!(wish(bad), Err(USAGE.into()), "{bad}");
        }
    }
}
