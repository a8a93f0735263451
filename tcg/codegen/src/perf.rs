//! Names generated code for `perf`: the plain map (`/tmp/perf-<pid>.map`) and the jitdump file that `perf inject --jit`
//! reads, which has the code too (Linux, tools/perf/Documentation/jitdump-specification.txt).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writer of a plain map.
#[derive(Debug)]
pub struct PerfMap {
    out: BufWriter<File>,
}

impl PerfMap {
    /// Creates `perf-<pid>.map` in `dir` (`/tmp` is where `perf` looks).
    ///
    /// # Errors
    /// The host's, if the file cannot be made.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("perf-{}.map", std::process::id()));
        Ok(Self { out: BufWriter::new(File::create(path)?) })
    }

    /// Names `len` bytes of code at `address`.
    ///
    /// # Errors
    /// The host's, if the file cannot be written.
    pub fn add(&mut self, address: u64, len: u32, name: &str) -> io::Result<()> {
        writeln!(self.out, "{address:x} {len:x} {name}")?;
        self.out.flush()
    }
}

/// Writer of a jitdump file.
#[derive(Debug)]
pub struct JitDump<W: Write> {
    out: W,
    count: u64,
}

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER_SIZE: u32 = 40;
const EM_X86_64: u32 = 62;
const EM_AARCH64: u32 = 183;
const CODE_LOAD: u32 = 0;
/// Size of a code-load record without name and code.
const LOAD_SIZE: u32 = 56;

impl<W: Write> JitDump<W> {
    /// Writes the file's header. `now` is the monotonic clock in nanoseconds, as in all records.
    ///
    /// `perf record` finds the file by a mapping of it, which the caller makes: one page, executable.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W, now: u64) -> io::Result<Self> {
        let machine = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };
        for word in [MAGIC, VERSION, HEADER_SIZE, machine, 0, std::process::id()] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(&now.to_le_bytes())?;
        out.write_all(&0u64.to_le_bytes())?;
        Ok(Self { out, count: 0 })
    }

    /// Records code at `address` under a name; `thread` is the host's id of the thread that made it.
    ///
    /// # Errors
    /// Those of the file.
    pub fn add(&mut self, now: u64, thread: u32, address: u64, code: &[u8], name: &str) -> io::Result<()> {
        let size = LOAD_SIZE + name.len() as u32 + 1 + code.len() as u32;
        let mut rec = Vec::with_capacity(size as usize);
        rec.extend_from_slice(&CODE_LOAD.to_le_bytes());
        rec.extend_from_slice(&size.to_le_bytes());
        rec.extend_from_slice(&now.to_le_bytes());
        rec.extend_from_slice(&std::process::id().to_le_bytes());
        rec.extend_from_slice(&thread.to_le_bytes());
        for word in [address, address, code.len() as u64, self.count] {
            rec.extend_from_slice(&word.to_le_bytes());
        }
        rec.extend_from_slice(name.as_bytes());
        rec.push(0);
        rec.extend_from_slice(code);
        self.count += 1;
        self.out.write_all(&rec)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_sizes() {
        let mut bytes = Vec::new();
        let mut j = JitDump::new(&mut bytes, 5).unwrap();
        j.add(6, 7, 0x1000, &[0xc3, 0x90], "tb").unwrap();
        assert_eq!(bytes.len(), HEADER_SIZE as usize + LOAD_SIZE as usize + 3 + 2);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8)), (MAGIC, HEADER_SIZE));
        assert_eq!(word(44) as usize, bytes.len() - HEADER_SIZE as usize);
        assert_eq!(&bytes[bytes.len() - 5..], b"tb\0\xc3\x90");
    }

    #[test]
    fn map_lines() {
        let dir = std::env::temp_dir().join(format!("rhea-perf-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut m = PerfMap::create(&dir).unwrap();
        m.add(0xabc0, 0x20, "tb 80000000").unwrap();
        let text = std::fs::read_to_string(dir.join(format!("perf-{}.map", std::process::id()))).unwrap();
        assert_eq!(text, "abc0 20 tb 80000000\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
