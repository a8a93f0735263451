//! Sections, chunks and checksums: what a saved machine looks like before anybody knows what is in it.

use std::io::{self, Read, Write};

use super::bad;
use crate::MachineError;

const MAGIC: &[u8; 8] = b"RHEASNAP";
const VERSION: u32 = 2;
/// Bytes of a chunk that is written; readers take any length up to [`MAX_CHUNK`].
const CHUNK: usize = 64 << 10;
const MAX_CHUNK: u32 = 1 << 20;
/// Name of the section that ends it all.
const END: &str = "end";

/// Writes sections one after the other.
pub(super) struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        Ok(Self { out })
    }

    /// Writes a section; `body` writes its payload.
    pub(super) fn section(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Payload<'_, W>) -> io::Result<()>,
    ) -> io::Result<()> {
        let name = name.as_bytes();
        let len = u8::try_from(name.len()).map_err(|_| io::Error::other("section name of over 255 bytes"))?;
        self.out.write_all(&[len])?;
        self.out.write_all(name)?;
        let mut p =
            Payload { out: &mut self.out, chunk: Vec::with_capacity(CHUNK), crc: crc32fast::Hasher::new() };
        body(&mut p)?;
        p.put()?;
        let crc = p.crc.finalize();
        self.out.write_all(&0u32.to_le_bytes())?;
        self.out.write_all(&crc.to_le_bytes())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes the last section and gives the output back.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.section(END, |_| Ok(()))?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The payload of a section while it is written.
pub(super) struct Payload<'a, W> {
    out: &'a mut W,
    chunk: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl<W: Write> Payload<'_, W> {
    fn put(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.crc.update(&self.chunk);
            self.out.write_all(&(self.chunk.len() as u32).to_le_bytes())?;
            self.out.write_all(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }
}

impl<W: Write> Write for Payload<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&buf[..n]);
        if self.chunk.len() == CHUNK {
            self.put()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads sections one after the other.
pub(super) struct Reader<R> {
    input: R,
}

/// What is wrong when `read` fails with `e` inside `field`.
pub(super) fn broken(field: &str, e: &io::Error) -> MachineError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => bad(field, "ends too early"),
        _ => bad(field, e.to_string()),
    }
}

impl<R: Read> Reader<R> {
    /// Checks the header.
    pub(super) fn new(mut input: R) -> Result<Self, MachineError> {
        let mut magic = [0; 12];
        input.read_exact(&mut magic).map_err(|e| broken("header", &e))?;
        if &magic[..8] != MAGIC {
            return Err(bad("header", "not a saved machine"));
        }
        let version = u32::from_le_bytes([magic[8], magic[9], magic[10], magic[11]]);
        if version != VERSION {
            return Err(bad("header", format!("version {version}, this Rhea reads version {VERSION}")));
        }
        Ok(Self { input })
    }

    /// Reads a section: `f` gets its name and payload, of which it need not read all. False after the last section.
    pub(super) fn section(
        &mut self,
        f: impl FnOnce(&str, &mut Body<'_, R>) -> Result<(), MachineError>,
    ) -> Result<bool, MachineError> {
        let field = "section name";
        let mut n = [0; 1];
        self.input.read_exact(&mut n).map_err(|e| broken(field, &e))?;
        let mut name = vec![0; usize::from(n[0])];
        self.input.read_exact(&mut name).map_err(|e| broken(field, &e))?;
        let name = String::from_utf8(name).map_err(|_| bad(field, "is not text"))?;
        if name.is_empty() || name.contains(|c: char| c.is_control()) {
            return Err(bad(field, "is not a name"));
        }
        let mut body = Body { input: &mut self.input, left: 0, ended: false, crc: crc32fast::Hasher::new() };
        let found = if name == END { Ok(()) } else { f(&name, &mut body) };
        // A payload that was misread because it is damaged is reported as damaged.
        match body.finish(&name) {
            Err(damage) => return Err(damage),
            Ok(()) => found?,
        }
        Ok(name != END)
    }

    pub(super) fn into_inner(self) -> R {
        self.input
    }
}

/// The payload of a section while it is read.
pub(super) struct Body<'a, R> {
    input: &'a mut R,
    left: u32,
    ended: bool,
    crc: crc32fast::Hasher,
}

impl<R: Read> Body<'_, R> {
    fn finish(mut self, name: &str) -> Result<(), MachineError> {
        io::copy(&mut self, &mut io::sink()).map_err(|e| broken(name, &e))?;
        let mut sum = [0; 4];
        self.input.read_exact(&mut sum).map_err(|e| broken(name, &e))?;
        if u32::from_le_bytes(sum) != self.crc.finalize() {
            return Err(bad(name, "checksum is wrong"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut n = [0; 4];
            self.input.read_exact(&mut n)?;
            self.left = u32::from_le_bytes(n);
            self.ended = self.left == 0;
            if self.left > MAX_CHUNK {
                let text = format!("has a chunk of {} bytes, at most {MAX_CHUNK} are possible", self.left);
                self.ended = true;
                self.left = 0;
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        let n = buf.len().min(self.left as usize);
        if n == 0 {
            return Ok(0);
        }
        match self.input.read(&mut buf[..n])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.crc.update(&buf[..n]);
                self.left -= n as u32;
                Ok(n)
            }
        }
    }
}
