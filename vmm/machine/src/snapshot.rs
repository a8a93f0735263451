//! Saved machines: one file with everything a stopped machine is.
//!
//! Format, all numbers little endian: magic `RHEASNAP`, version (u32), then sections until the section `end`. A section is
//! its name (u8 length and bytes), the length of its payload (u64), the payload, and the CRC-32 of the payload. Sections:
//! `board` (graph as text), `clock` (u64 ns), `cpuN` (neutral state), `device:NAME` (state blob), `ram:NAME` (size u64, then
//! runs of pages that are not zero: first page u64, count u32, bytes; ended by count 0).
//!
//! Loading reads and checks the whole file before anything changes; if a device then refuses its state, what was changed is put
//! back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use accel::arch::CpuState;
use device::StateBlob;
use guest_memory::{PAGE_SIZE, RamBlock};

use crate::{Machine, MachineError};

const MAGIC: &[u8; 8] = b"RHEASNAP";
const VERSION: u32 = 1;
/// Longest payload that is read into memory at once; RAM is streamed.
const MAX_PAYLOAD: u64 = 64 << 20;
/// Most pages in one run.
const MAX_RUN: u64 = 256;

fn bad(field: impl Into<String>, problem: impl Into<String>) -> MachineError {
    MachineError::Snapshot { field: field.into(), problem: problem.into() }
}

/// Where a section's payload lies in the file.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: u64,
    len: u64,
}

struct Writer<W> {
    out: W,
    at: u64,
}

/// Counts and sums what passes.
struct Payload<'a, W> {
    out: &'a mut W,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Write for Payload<'_, W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(buf)?;
        self.crc.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write + Seek> Writer<W> {
    fn section(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Payload<'_, W>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.out.write_all(&[name.len().min(255) as u8])?;
        self.out.write_all(&name.as_bytes()[..name.len().min(255)])?;
        let length_at = self.out.stream_position()?;
        self.out.write_all(&[0; 8])?;
        let mut p = Payload { out: &mut self.out, crc: crc32fast::Hasher::new(), len: 0 };
        body(&mut p)?;
        let (len, crc) = (p.len, p.crc.finalize());
        self.out.write_all(&crc.to_le_bytes())?;
        let end = self.out.stream_position()?;
        self.out.seek(SeekFrom::Start(length_at))?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.seek(SeekFrom::Start(end))?;
        self.at = end;
        Ok(())
    }
}

fn write_ram(block: &RamBlock, out: &mut impl Write) -> std::io::Result<()> {
    out.write_all(&block.size().to_le_bytes())?;
    let pages = block.size().div_ceil(PAGE_SIZE);
    let mut buf = vec![0; (PAGE_SIZE * MAX_RUN) as usize];
    let mut page = 0;
    while page < pages {
        let n = MAX_RUN.min(pages - page);
        let bytes = ((page + n) * PAGE_SIZE).min(block.size()) - page * PAGE_SIZE;
        let buf = &mut buf[..bytes as usize];
        block.read(page * PAGE_SIZE, buf).map_err(std::io::Error::other)?;
        let zero = |c: &[u8]| c.iter().all(|b| *b == 0);
        let chunks: Vec<&[u8]> = buf.chunks(PAGE_SIZE as usize).collect();
        let mut i = 0;
        while i < chunks.len() {
            let run = chunks[i..].iter().take_while(|c| !zero(c)).count();
            if run == 0 {
                i += 1;
                continue;
            }
            out.write_all(&(page + i as u64).to_le_bytes())?;
            out.write_all(&(run as u32).to_le_bytes())?;
            for c in &chunks[i..i + run] {
                out.write_all(c)?;
            }
            i += run;
        }
        page += n;
    }
    out.write_all(&0u64.to_le_bytes())?;
    out.write_all(&0u32.to_le_bytes())
}

/// Saves a machine; it is stopped meanwhile and runs on afterwards if it ran. The file appears whole or not at all.
pub fn save(machine: &Machine, path: &Path) -> Result<(), MachineError> {
    let ran = machine.stop();
    let result = save_stopped(machine, path);
    if ran {
        machine.start();
    }
    result
}

fn save_stopped(machine: &Machine, path: &Path) -> Result<(), MachineError> {
    let cpus = machine.cpu_states()?;
    let fail = |source| MachineError::File { path: path.into(), source };
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = std::path::PathBuf::from(part);
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(&part)?);
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        let mut w = Writer { out, at: 0 };
        w.section("board", |p| p.write_all(machine.graph().as_bytes()))?;
        w.section("clock", |p| p.write_all(&machine.clock.now().to_le_bytes()))?;
        for (i, c) in cpus.iter().enumerate() {
            w.section(&format!("cpu{i}"), |p| p.write_all(&c.save()))?;
        }
        if let Some(chip) = machine.partition().irqchip() {
            let state = chip.save().map_err(std::io::Error::other)?;
            w.section("irqchip", |p| p.write_all(&state))?;
        }
        for (name, cell) in &machine.cells {
            w.section(&format!("device:{name}"), |p| p.write_all(&cell.save().to_bytes()))?;
        }
        for b in &machine.blocks {
            w.section(&format!("ram:{}", b.name()), |p| write_ram(b, p))?;
        }
        w.section("end", |_| Ok(()))?;
        w.out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    };
    let done = write().and_then(|()| std::fs::rename(&part, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done.map_err(fail)
}

/// Reads the section list and checks every checksum.
fn index(f: &mut BufReader<File>) -> Result<BTreeMap<String, Span>, MachineError> {
    let short = |what: &str| {
        let what = what.to_owned();
        move |_| bad(what, "the file ends too early")
    };
    let mut magic = [0; 12];
    f.read_exact(&mut magic).map_err(short("header"))?;
    if &magic[..8] != MAGIC {
        return Err(bad("header", "not a saved machine"));
    }
    let version = u32::from_le_bytes([magic[8], magic[9], magic[10], magic[11]]);
    if version != VERSION {
        return Err(bad("header", format!("version {version}, this Rhea reads version {VERSION}")));
    }
    let mut all = BTreeMap::new();
    let mut at = 12u64;
    loop {
        let mut n = [0; 1];
        f.read_exact(&mut n).map_err(short("section name"))?;
        let mut name = vec![0; usize::from(n[0])];
        f.read_exact(&mut name).map_err(short("section name"))?;
        let name = String::from_utf8(name).map_err(|_| bad("section name", "is not text"))?;
        let mut len = [0; 8];
        f.read_exact(&mut len).map_err(short(&name))?;
        let len = u64::from_le_bytes(len);
        at += 9 + name.len() as u64;
        let mut crc = crc32fast::Hasher::new();
        let mut left = len;
        let mut buf = vec![0; 64 << 10];
        while left > 0 {
            let n = left.min(buf.len() as u64) as usize;
            f.read_exact(&mut buf[..n]).map_err(short(&name))?;
            crc.update(&buf[..n]);
            left -= n as u64;
        }
        let mut sum = [0; 4];
        f.read_exact(&mut sum).map_err(short(&name))?;
        if u32::from_le_bytes(sum) != crc.finalize() {
            return Err(bad(name, "checksum is wrong"));
        }
        if name == "end" {
            return Ok(all);
        }
        if all.insert(name.clone(), Span { at, len }).is_some() {
            return Err(bad(name, "appears twice"));
        }
        at += len + 4;
    }
}

fn payload(
    f: &mut BufReader<File>,
    all: &BTreeMap<String, Span>,
    name: &str,
) -> Result<Vec<u8>, MachineError> {
    let span = all.get(name).ok_or_else(|| bad(name, "is missing"))?;
    if span.len > MAX_PAYLOAD {
        return Err(bad(name, format!("is {} bytes long, at most {MAX_PAYLOAD} are possible", span.len)));
    }
    let mut data = vec![0; span.len as usize];
    f.seek(SeekFrom::Start(span.at))
        .and_then(|_| f.read_exact(&mut data))
        .map_err(|e| bad(name, e.to_string()))?;
    Ok(data)
}

/// Walks a RAM section; `page_run` is called with the offset and bytes of each run.
fn ram_runs(
    f: &mut BufReader<File>,
    span: Span,
    name: &str,
    size: u64,
    mut page_run: impl FnMut(u64, &[u8]) -> Result<(), MachineError>,
) -> Result<(), MachineError> {
    f.seek(SeekFrom::Start(span.at)).map_err(|e| bad(name, e.to_string()))?;
    let mut f = f.take(span.len);
    let mut n8 = [0; 8];
    let mut read8 = |f: &mut dyn Read| f.read_exact(&mut n8).map(|()| u64::from_le_bytes(n8));
    let saved = read8(&mut f).map_err(|_| bad(name, "has no size"))?;
    if saved != size {
        return Err(bad(name, format!("was saved with {saved} bytes, this machine has {size}")));
    }
    let mut buf = vec![0; (PAGE_SIZE * MAX_RUN) as usize];
    loop {
        let page = read8(&mut f).map_err(|_| bad(name, "ends too early"))?;
        let mut n4 = [0; 4];
        f.read_exact(&mut n4).map_err(|_| bad(name, "ends too early"))?;
        let n = u64::from(u32::from_le_bytes(n4));
        if n == 0 {
            return Ok(());
        }
        let offset = page.checked_mul(PAGE_SIZE).filter(|o| *o < size && n <= MAX_RUN);
        let offset = offset.ok_or_else(|| bad(name, format!("has a run of {n} pages at page {page}")))?;
        let bytes = (n * PAGE_SIZE).min(size - offset) as usize;
        f.read_exact(&mut buf[..bytes]).map_err(|_| bad(name, "ends too early"))?;
        page_run(offset, &buf[..bytes])?;
    }
}

/// Loads a saved machine into one of the same board. It must be stopped, and stays so. On error nothing has changed.
pub fn load(machine: &Machine, path: &Path) -> Result<(), MachineError> {
    let file = File::open(path).map_err(|source| MachineError::File { path: path.into(), source })?;
    let mut f = BufReader::new(file);
    let all = index(&mut f)?;
    let board = payload(&mut f, &all, "board")?;
    if board != machine.graph().as_bytes() {
        let other = String::from_utf8_lossy(&board);
        let line = other.lines().zip(machine.graph().lines()).find(|(a, b)| a != b);
        let what = line.map_or_else(
            || "has other devices".to_owned(),
            |(a, b)| format!("has '{a}', this machine has '{b}'"),
        );
        return Err(bad("board", what));
    }
    let clock = payload(&mut f, &all, "clock")?;
    let clock = u64::from_le_bytes(clock.try_into().map_err(|_| bad("clock", "is not 8 bytes long"))?);
    let mut cpus = Vec::new();
    for i in 0..machine.vcpu_count() {
        let name = format!("cpu{i}");
        let data = payload(&mut f, &all, &name)?;
        cpus.push(CpuState::restore(&data).map_err(|e| bad(format!("machine/{name}"), e.to_string()))?);
    }
    if all.contains_key(&format!("cpu{}", machine.vcpu_count())) {
        return Err(bad("machine", format!("was saved with more than {} vcpus", machine.vcpu_count())));
    }
    let mut devices = Vec::new();
    for (name, cell) in &machine.cells {
        let data = payload(&mut f, &all, &format!("device:{name}"))?;
        let blob = StateBlob::from_bytes(&data).map_err(|e| bad(format!("machine/{name}"), e.to_string()))?;
        devices.push((cell, blob));
    }
    for b in &machine.blocks {
        let name = format!("ram:{}", b.name());
        let span = *all.get(&name).ok_or_else(|| bad(&name, "is missing"))?;
        ram_runs(&mut f, span, &name, b.size(), |_, _| Ok(()))?;
    }
    let irqchip = match machine.partition().irqchip() {
        Some(_) => Some(payload(&mut f, &all, "irqchip")?),
        None => None,
    };
    apply(machine, clock, cpus, &devices, irqchip.as_deref())?;
    for b in &machine.blocks {
        let name = format!("ram:{}", b.name());
        let Some(span) = all.get(&name) else { continue };
        b.fill(0, b.size(), 0)?;
        ram_runs(&mut f, *span, &name, b.size(), |offset, data| Ok(b.write(offset, data)?))?;
    }
    Ok(())
}

/// Puts devices and vCPUs into the loaded state; puts them back if one refuses.
fn apply(
    machine: &Machine,
    clock: u64,
    cpus: Vec<CpuState>,
    devices: &[(&std::sync::Arc<device::DeviceCell>, StateBlob)],
    irqchip: Option<&[u8]>,
) -> Result<(), MachineError> {
    let old_clock = machine.clock.now();
    let old_cpus = machine.cpu_states()?;
    let old: Vec<StateBlob> = devices.iter().map(|(c, _)| c.save()).collect();
    let old_chip = machine.partition().irqchip().map(accel::KernelIrqchip::save).transpose()?;
    let attempt = || -> Result<(), MachineError> {
        machine.clock.set(clock);
        machine.set_cpu_states(cpus.clone())?;
        if let (Some(chip), Some(state)) = (machine.partition().irqchip(), irqchip) {
            chip.restore(state)?;
        }
        for (cell, blob) in devices {
            cell.restore(blob).map_err(|e| bad(cell.path(), e.to_string()))?;
        }
        Ok(())
    };
    let result = attempt();
    if result.is_err() {
        machine.clock.set(old_clock);
        machine.set_cpu_states(old_cpus)?;
        if let (Some(chip), Some(state)) = (machine.partition().irqchip(), old_chip) {
            chip.restore(&state)?;
        }
        for ((cell, _), blob) in devices.iter().zip(&old) {
            let _ = cell.restore(blob);
        }
    }
    result
}
