//! Sets of descriptors that the process was given (`-add-fd`): a path `/dev/fdset/N` is one of set N.
//!
//! So a program that starts Rhea, and may open what Rhea may not, opens files for it. The descriptors of a set are the same file
//! opened in different ways; a path takes that which fits.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl};

use crate::chardev::duplicate_fd;
use crate::config::FdInSet;

/// Where sets have their names.
const FOLDER: &str = "/dev/fdset/";

/// One descriptor.
#[derive(Clone, Debug)]
struct Member {
    /// What it was on the command line.
    config: FdInSet,
    fd: Arc<OwnedFd>,
}

/// All sets of a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct FdSets(Vec<Member>);

impl FdSets {
    /// Takes them; the numbers themselves are left to the one who gave them.
    pub(crate) fn new(configs: &[FdInSet]) -> io::Result<Self> {
        let one = |config: &FdInSet| {
            let fd = duplicate_fd(config.fd).map_err(|e| {
                io::Error::new(e.kind(), format!("-add-fd fd={},set={}: {e}", config.fd, config.set))
            })?;
            Ok(Member { config: config.clone(), fd: Arc::new(fd) })
        };
        configs.iter().map(one).collect::<io::Result<_>>().map(Self)
    }

    /// A copy of the descriptor that `path` means, opened as `access` says (`RDONLY`, `WRONLY` or `RDWR`); nothing if the path
    /// is an ordinary one.
    pub(crate) fn open(&self, path: &str, access: OFlags) -> Option<io::Result<OwnedFd>> {
        let number = path.strip_prefix(FOLDER)?;
        let of_set = |m: &&Member| number.parse() == Ok(m.config.set);
        let fits = |m: &&Member| {
            fcntl_getfl(&m.fd)
                .is_ok_and(|f| f & OFlags::RWMODE == access || f & OFlags::RWMODE == OFlags::RDWR)
        };
        let found = self.0.iter().filter(of_set).find(fits);
        Some(match found {
            Some(member) => member.fd.try_clone(),
            None if self.0.iter().any(|m| of_set(&m)) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "no descriptor of the set is open for that",
            )),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "there is no such set (-add-fd)")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_path_takes_the_member_that_is_open_as_it_wants() {
        let (reader, writer) = io::pipe().unwrap();
        let member = |fd: &dyn AsRawFd, set| FdInSet { fd: fd.as_raw_fd() as u32, set, opaque: None };
        let sets = FdSets::new(&[member(&reader, 3), member(&writer, 3)]).unwrap();
        assert!(sets.open("/dev/fdset/3", OFlags::WRONLY).unwrap().is_ok());
        assert!(sets.open("/dev/null", OFlags::WRONLY).is_none());
        let error = |path, access| sets.open(path, access).unwrap().unwrap_err().kind();
        assert_eq!(error("/dev/fdset/3", OFlags::RDWR), io::ErrorKind::PermissionDenied);
        assert_eq!(error("/dev/fdset/4", OFlags::RDONLY), io::ErrorKind::NotFound);
        assert_eq!(error("/dev/fdset/x", OFlags::RDONLY), io::ErrorKind::NotFound);
        let closed = FdInSet { fd: 9999, set: 1, opaque: None };
        assert!(FdSets::new(&[closed]).unwrap_err().to_string().starts_with("-add-fd fd=9999,set=1: "));
    }
}
