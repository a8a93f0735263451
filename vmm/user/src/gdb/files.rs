//! Files for a debugger (`vFile`): read alone, by the program's own paths, `/proc` as the program sees it.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use gdbstub::target::ext::host_io::{
    FsKind, HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat, HostIoFstatOps,
    HostIoOpen, HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoPread, HostIoPreadOps, HostIoReadlink,
    HostIoReadlinkOps, HostIoResult, HostIoSetfs, HostIoSetfsOps, HostIoStat,
};

use super::target::{Guest, copy};
use crate::proc_files;

/// Most files open at once.
const MOST: usize = 64;

/// What is open.
enum Open {
    File(File),
    Text(Vec<u8>),
}

/// Open files by number.
#[derive(Default)]
pub(super) struct Files(Vec<Option<Open>>);

impl Files {
    fn get(&self, fd: u32) -> Result<&Open, HostIoError<&'static str>> {
        self.0.get(fd as usize).and_then(Option::as_ref).ok_or(HostIoError::Errno(HostIoErrno::EBADF))
    }
}

impl HostIo for Guest {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_pread(&mut self) -> Option<HostIoPreadOps<'_, Self>> {
        Some(self)
    }

    fn support_fstat(&mut self) -> Option<HostIoFstatOps<'_, Self>> {
        Some(self)
    }

    fn support_readlink(&mut self) -> Option<HostIoReadlinkOps<'_, Self>> {
        Some(self)
    }

    fn support_setfs(&mut self) -> Option<HostIoSetfsOps<'_, Self>> {
        Some(self)
    }
}

/// The protocol calls this process number 1.
fn own_path(name: &str) -> String {
    let own = name.strip_prefix("/proc/1/task/1/").or_else(|| name.strip_prefix("/proc/1/"));
    own.map_or_else(|| name.to_owned(), |rest| format!("/proc/self/{rest}"))
}

impl HostIoOpen for Guest {
    fn open(&mut self, name: &[u8], flags: HostIoOpenFlags, _: HostIoOpenMode) -> HostIoResult<u32, Self> {
        let write = HostIoOpenFlags::O_WRONLY | HostIoOpenFlags::O_RDWR;
        if flags.intersects(write | HostIoOpenFlags::O_CREAT | HostIoOpenFlags::O_TRUNC) {
            return Err(HostIoError::Errno(HostIoErrno::EROFS));
        }
        let name = own_path(&String::from_utf8_lossy(name));
        let open = match proc_files::text(&self.process, name.as_bytes()) {
            Some(text) => Open::Text(text),
            None => Open::File(File::open(self.process.paths.host(&name))?),
        };
        let files = &mut self.files.0;
        let fd = files.iter().position(Option::is_none).unwrap_or(files.len());
        if fd >= MOST {
            return Err(HostIoError::Errno(HostIoErrno::EMFILE));
        }
        if fd == files.len() {
            files.push(None);
        }
        files[fd] = Some(open);
        Ok(fd as u32)
    }
}

impl HostIoClose for Guest {
    fn close(&mut self, fd: u32) -> HostIoResult<(), Self> {
        self.files.get(fd)?;
        self.files.0[fd as usize] = None;
        Ok(())
    }
}

impl HostIoPread for Guest {
    fn pread(&mut self, fd: u32, count: usize, offset: u64, buf: &mut [u8]) -> HostIoResult<usize, Self> {
        match self.files.get(fd)? {
            Open::Text(text) => Ok(copy(text, offset, count, buf)),
            Open::File(file) => {
                let n = count.min(buf.len());
                Ok(file.read_at(&mut buf[..n], offset)?)
            }
        }
    }
}

impl HostIoFstat for Guest {
    fn fstat(&mut self, fd: u32) -> HostIoResult<HostIoStat, Self> {
        let file = self.files.get(fd)?;
        let m = match file {
            Open::File(f) => Some(f.metadata()?),
            Open::Text(_) => None,
        };
        let size = match file {
            Open::Text(text) => text.len() as u64,
            Open::File(_) => m.as_ref().map_or(0, MetadataExt::size),
        };
        let of = |f: fn(&std::fs::Metadata) -> u64| m.as_ref().map_or(0, f) as u32;
        let mode = m.as_ref().map_or(0o100_444, MetadataExt::mode);
        Ok(HostIoStat {
            st_dev: of(MetadataExt::dev),
            st_ino: of(MetadataExt::ino),
            st_mode: HostIoOpenMode::from_bits_truncate(mode),
            st_nlink: 1,
            st_uid: of(|m| m.uid().into()),
            st_gid: of(|m| m.gid().into()),
            st_rdev: 0,
            st_size: size,
            st_blksize: 4096,
            st_blocks: size.div_ceil(512),
            st_atime: of(|m| m.atime() as u64),
            st_mtime: of(|m| m.mtime() as u64),
            st_ctime: of(|m| m.ctime() as u64),
        })
    }
}

impl HostIoReadlink for Guest {
    fn readlink(&mut self, name: &[u8], buf: &mut [u8]) -> HostIoResult<usize, Self> {
        let name = own_path(&String::from_utf8_lossy(name));
        let target = if proc_files::is_own_exe(name.as_bytes()) {
            self.process.exe.clone().into_bytes()
        } else {
            let link = std::fs::read_link(self.process.paths.host(&name))?;
            link.to_string_lossy().into_owned().into_bytes()
        };
        Ok(copy(&target, 0, target.len(), buf))
    }
}

impl HostIoSetfs for Guest {
    fn setfs(&mut self, _: FsKind) -> HostIoResult<(), Self> {
        Ok(())
    }
}
