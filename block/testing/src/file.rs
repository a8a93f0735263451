//! A file of the host.

use std::io::{IoSlice, IoSliceMut};

use block::{BlockError, BlockNode, NodeInfo};

use crate::SECTOR;
use crate::host::{Change, Host, Kind};

/// A file in memory, which grows when it is written beyond its end.
#[derive(Debug)]
pub struct HostFile {
    pub(crate) host: Host,
    pub(crate) number: usize,
}

impl BlockNode for HostFile {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("host:{}", self.number),
            size: self.size(),
            read_only: false,
            granularity: 512,
            can_discard: false,
        }
    }

    fn size(&self) -> u64 {
        self.host.0.lock().now[self.number].len() as u64
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let mut state = self.host.0.lock();
        state.request(Kind::Read)?;
        let data = &state.now[self.number];
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        for buf in bufs {
            let there = data.get(at..).unwrap_or_default();
            let n = there.len().min(buf.len());
            buf[..n].copy_from_slice(&there[..n]);
            buf[n..].fill(0);
            at = at.saturating_add(buf.len());
        }
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let mut data: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        let mut state = self.host.0.lock();
        let short = state.request(Kind::Write)?;
        if short {
            // Up to the end of a sector: a host does not stop within one.
            let end = (offset as usize + data.len() / 2) / SECTOR * SECTOR;
            data.truncate(end.saturating_sub(offset as usize));
        }
        state.change(self.number, Change::Write(offset, data));
        if short {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        drop(state);
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        let mut state = self.host.0.lock();
        state.request(Kind::Other)?;
        state.change(self.number, Change::Barrier);
        Ok(())
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        let mut state = self.host.0.lock();
        // Growing may find no space; a part of it is none.
        if state.request(Kind::Write)? {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        state.change(self.number, Change::Size(size));
        Ok(())
    }

    fn grows(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, Random};

    fn write(file: &HostFile, at: u64, data: &[u8]) -> Result<(), BlockError> {
        file.write(at, &[IoSlice::new(data)], false)
    }

    #[test]
    fn a_cut_keeps_what_was_flushed() {
        let host = Host::new(vec![vec![0; 1024], Vec::new()]);
        let (a, b) = (host.file(0), host.file(1));
        write(&a, 0, &[1; 1024]).unwrap();
        a.flush().unwrap();
        write(&a, 0, &[2; 1024]).unwrap();
        write(&b, 0, &[3; 4]).unwrap();
        b.resize(8).unwrap();
        assert_eq!(host.cuts(), 5);
        let (mut olds, mut torn, mut empty) = (0, 0, 0);
        for seed in 0..200 {
            let files = host.after_cut(5, Some(&mut Random::new(seed)));
            assert!(files[0].iter().all(|v| matches!(v, 1 | 2)));
            olds += usize::from(files[0] == [1; 1024]);
            torn += usize::from(files[0][0] != files[0][1023]);
            empty += usize::from(files[1].is_empty());
        }
        assert!(olds > 10 && torn > 2 && empty > 2, "{olds} {torn} {empty}");
        assert_eq!(host.after_cut(5, None), host.contents());
        assert_eq!(host.after_cut(1, None)[1], []);
    }

    #[test]
    fn requests_fail_once() {
        for (fault, left, failed) in [(Fault::Io, 0, 1), (Fault::NoSpace, 0, 1), (Fault::Short, 0, 1)] {
            let host = Host::new(vec![Vec::new()]);
            let file = host.file(0);
            file.flush().unwrap();
            host.fail(Some((1, fault)));
            file.flush().unwrap();
            let error = write(&file, 0, &[1; 8]).unwrap_err();
            assert_eq!((error.is_no_space(), host.failed()), (fault == Fault::NoSpace, failed));
            assert_eq!(file.size(), left);
            if fault == Fault::Short {
                host.fail(Some((0, fault)));
                write(&file, 0, &[2; 2048]).unwrap_err();
                assert_eq!(host.contents()[0], [2; 1024]);
                file.resize(0).unwrap();
            }
            write(&file, 0, &[1; 8]).unwrap();
            let mut back = [9; 12];
            file.read(0, &mut [IoSliceMut::new(&mut back)]).unwrap();
            assert_eq!(back, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
        }
        let host = Host::new(vec![Vec::new()]);
        host.fail(Some((0, Fault::NoSpace)));
        host.file(0).flush().unwrap();
        assert_eq!((host.failed(), host.requests()), (0, 1));
    }
}
