//! The RAM sections: runs of pages.

use std::io::{self, Read, Write};

use guest_memory::{DirtyPages, PAGE_SIZE, RamBlock};

use super::bad;
use super::format::broken;
use crate::MachineError;

/// Most pages in one run.
const MAX_RUN: u64 = 256;

/// Writes all pages that are not zero.
pub(super) fn write_all(block: &RamBlock, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&block.size().to_le_bytes())?;
    let pages = block.size().div_ceil(PAGE_SIZE);
    let mut buf = vec![0; (PAGE_SIZE * MAX_RUN) as usize];
    let mut page = 0;
    while page < pages {
        let n = MAX_RUN.min(pages - page);
        let bytes = ((page + n) * PAGE_SIZE).min(block.size()) - page * PAGE_SIZE;
        let buf = &mut buf[..bytes as usize];
        block.read(page * PAGE_SIZE, buf).map_err(io::Error::other)?;
        let zero = |c: &[u8]| c.iter().all(|b| *b == 0);
        let chunks: Vec<&[u8]> = buf.chunks(PAGE_SIZE as usize).collect();
        let mut i = 0;
        while i < chunks.len() {
            let run = chunks[i..].iter().take_while(|c| !zero(c)).count();
            if run == 0 {
                i += 1;
                continue;
            }
            head(out, page + i as u64, run as u32)?;
            for c in &chunks[i..i + run] {
                out.write_all(c)?;
            }
            i += run;
        }
        page += n;
    }
    head(out, 0, 0)
}

fn head(out: &mut impl Write, page: u64, count: u32) -> io::Result<()> {
    out.write_all(&page.to_le_bytes())?;
    out.write_all(&count.to_le_bytes())
}

/// Writes these pages, zero or not; `sent` is told of each.
pub(super) fn write_dirty(
    block: &RamBlock,
    pages: &DirtyPages,
    out: &mut impl Write,
    mut sent: impl FnMut(),
) -> io::Result<()> {
    out.write_all(&block.size().to_le_bytes())?;
    let mut buf = vec![0; PAGE_SIZE as usize];
    for offset in pages.offsets() {
        let n = PAGE_SIZE.min(block.size() - offset) as usize;
        block.read(offset, &mut buf[..n]).map_err(io::Error::other)?;
        head(out, offset / PAGE_SIZE, 1)?;
        out.write_all(&buf[..n])?;
        sent();
    }
    head(out, 0, 0)
}

/// Walks a RAM section; `run` is called with the offset and bytes of each run.
pub(super) fn runs(
    name: &str,
    size: u64,
    input: &mut impl Read,
    mut run: impl FnMut(u64, &[u8]) -> Result<(), MachineError>,
) -> Result<(), MachineError> {
    let mut n8 = [0; 8];
    input.read_exact(&mut n8).map_err(|e| broken(name, &e))?;
    let saved = u64::from_le_bytes(n8);
    if saved != size {
        return Err(bad(name, format!("was saved with {saved} bytes, this machine has {size}")));
    }
    let mut buf = vec![0; (PAGE_SIZE * MAX_RUN) as usize];
    loop {
        input.read_exact(&mut n8).map_err(|e| broken(name, &e))?;
        let page = u64::from_le_bytes(n8);
        let mut n4 = [0; 4];
        input.read_exact(&mut n4).map_err(|e| broken(name, &e))?;
        let n = u64::from(u32::from_le_bytes(n4));
        if n == 0 {
            return Ok(());
        }
        let offset = page.checked_mul(PAGE_SIZE).filter(|o| *o < size && n <= MAX_RUN);
        let offset = offset.ok_or_else(|| bad(name, format!("has a run of {n} pages at page {page}")))?;
        let bytes = (n * PAGE_SIZE).min(size - offset) as usize;
        input.read_exact(&mut buf[..bytes]).map_err(|e| broken(name, &e))?;
        run(offset, &buf[..bytes])?;
    }
}
