//! `filter-dump`: frames into a pcap file (draft-ietf-opsawg-pcap, version 2.4, Ethernet).

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::{Direction, Filter, Verdict};
use crate::NetError;

/// Times are in seconds and microseconds, in the order of this host's bytes.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Link type of Ethernet.
const ETHERNET: u32 = 1;

/// Writes what passes.
pub struct DumpFilter {
    file: Mutex<Option<File>>,
    name: String,
    most: usize,
}

impl DumpFilter {
    /// Makes the file; of each frame at most `most` bytes are written.
    pub fn create(path: &Path, most: u32) -> Result<Self, NetError> {
        let name = path.display().to_string();
        let made = || {
            let mut file = File::create(path)?;
            let mut head = Vec::with_capacity(24);
            head.extend_from_slice(&MAGIC.to_ne_bytes());
            head.extend_from_slice(&2u16.to_ne_bytes());
            head.extend_from_slice(&4u16.to_ne_bytes());
            for word in [0, 0, most, ETHERNET] {
                head.extend_from_slice(&word.to_ne_bytes());
            }
            file.write_all(&head)?;
            Ok(file)
        };
        let file = made().map_err(|e| NetError::host(format!("dump file {name}"), e))?;
        Ok(DumpFilter { file: Mutex::new(Some(file)), name, most: most as usize })
    }
}

impl Filter for DumpFilter {
    fn frame(&self, _direction: Direction, frame: &[u8], header: usize) -> Verdict {
        let frame = frame.get(header..).unwrap_or_default();
        let kept = &frame[..frame.len().min(self.most)];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut record = Vec::with_capacity(16 + kept.len());
        for word in [now.as_secs() as u32, now.subsec_micros(), kept.len() as u32, frame.len() as u32] {
            record.extend_from_slice(&word.to_ne_bytes());
        }
        record.extend_from_slice(kept);
        let mut file = self.file.lock();
        if let Some(Err(e)) = file.as_mut().map(|f| f.write_all(&record)) {
            tracing::warn!("dump file {}: {e}; nothing more is written to it", self.name);
            *file = None;
        }
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let dump = DumpFilter::create(&path, 20).unwrap();
        assert_eq!(dump.frame(Direction::ToNet, &[9; 42], 12), Verdict::Pass);
        assert_eq!(dump.frame(Direction::FromNet, &[8; 14], 0), Verdict::Pass);
        assert_eq!(dump.frame(Direction::FromNet, &[8; 2], 12), Verdict::Pass);
        let bytes = std::fs::read(&path).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(16), word(20)), (MAGIC, 20, ETHERNET));
        assert_eq!((word(32), word(36)), (20, 30), "cut");
        assert_eq!(bytes[40..60], [9; 20]);
        assert_eq!((word(68), word(72)), (14, 14));
        assert_eq!(bytes.len(), 60 + 16 + 14 + 16);
        let bad = DumpFilter::create(Path::new("/no/such/x"), 20).err().unwrap().to_string();
        assert!(bad.contains("dump file /no/such/x"), "{bad}");
    }
}
