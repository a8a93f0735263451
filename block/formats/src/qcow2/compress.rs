//! Compressed clusters: raw deflate with a window of 4 KiB, or zstd (`docs/interop/qcow2`, "Compressed Clusters
//! Descriptor").
//!
//! Compressing and decompressing happens on the caller's thread and under no lock, so that it runs on as many CPUs
//! as there are callers; what it needs to work is kept for the next one.

use std::io::{IoSlice, IoSliceMut};

use block::BlockError;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use parking_lot::Mutex;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::header::Compression;
use super::l2::{COMPRESSED, Entry};
use super::noise::is_noise;
use super::{Qcow2, bitmap};

/// Window of the deflate streams, as a shift: what every reader of this format is ready for.
const WINDOW_BITS: u8 = 12;
/// Level of deflate; the default of zlib.
const ZLIB_LEVEL: u32 = 6;
/// Level of zstd; its default.
const ZSTD_LEVEL: i32 = 3;

/// What one decompression needs.
struct Unpack {
    zlib: Option<Decompress>,
    zstd: Option<Decoder<'static>>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What one compression needs.
struct Pack {
    zlib: Option<Compress>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    output: Vec<u8>,
}

/// Compressors and decompressors nobody uses at the moment.
pub(super) struct Compressors {
    kind: Compression,
    cluster: usize,
    unpack: Mutex<Vec<Unpack>>,
    pack: Mutex<Vec<Pack>>,
}

impl Unpack {
    /// Decompresses into the whole of `out`; what follows the stream in `input` is none of it.
    fn run(&mut self, out: &mut [u8], input: &[u8], kind: Compression) -> Result<(), String> {
        match kind {
            Compression::Zlib => {
                let stream =
                    self.zlib.get_or_insert_with(|| Decompress::new_with_window_bits(false, WINDOW_BITS));
                stream.reset(false);
                let status =
                    stream.decompress(input, out, FlushDecompress::Finish).map_err(|e| e.to_string())?;
                let done = stream.total_out();
                let ended = matches!(status, Status::StreamEnd | Status::BufError | Status::Ok);
                if !ended || done != out.len() as u64 {
                    return Err(format!("{done} bytes, expected {}", out.len()));
                }
            }
            Compression::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = Some(Decoder::new().map_err(|e| e.to_string())?);
                }
                let Some(stream) = &mut self.zstd else { return Err("no decoder".into()) };
                stream.reinit().map_err(|e| e.to_string())?;
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(out);
                loop {
                    let (before, filled) = (from.pos(), to.pos());
                    let left = stream.run(&mut from, &mut to).map_err(|e| e.to_string())?;
                    if to.pos() == to.capacity() {
                        return Ok(());
                    }
                    if left == 0 || (from.pos(), to.pos()) == (before, filled) {
                        return Err(format!("{} bytes, expected {}", to.pos(), to.capacity()));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Compressors {
    pub(super) fn new(kind: Compression, cluster: u64) -> Self {
        Compressors { kind, cluster: cluster as usize, unpack: Mutex::default(), pack: Mutex::default() }
    }

    /// Reads from a packed cluster at `host`, from byte `within` of what it holds.
    pub(super) fn read(
        &self,
        image: &Qcow2,
        host: u64,
        packed: u64,
        within: usize,
        buf: &mut [u8],
    ) -> Result<(), BlockError> {
        let state = self.unpack.lock().pop();
        let mut state =
            state.unwrap_or_else(|| Unpack { zlib: None, zstd: None, input: Vec::new(), output: Vec::new() });
        let mut input = std::mem::take(&mut state.input);
        input.resize(packed as usize, 0);
        let bad = |what: String| image.bad(format!("qcow2 compressed cluster at {host:#x}: {what}"));
        let mut done = image.file.read(host, &mut [IoSliceMut::new(&mut input)]);
        if done.is_ok() {
            done = if buf.len() == self.cluster {
                state.run(buf, &input, self.kind).map_err(bad)
            } else {
                let mut output = std::mem::take(&mut state.output);
                output.resize(self.cluster, 0);
                let done = state.run(&mut output, &input, self.kind).map_err(bad);
                if done.is_ok() {
                    buf.copy_from_slice(&output[within..within + buf.len()]);
                }
                state.output = output;
                done
            };
        }
        state.input = input;
        self.unpack.lock().push(state);
        done
    }

    /// Compresses a cluster; `None` if it does not get smaller.
    fn compress(&self, data: &[u8]) -> Result<Option<Vec<u8>>, BlockError> {
        // Deflate takes as long to find out as it does for words; zstd notices by itself.
        if self.kind == Compression::Zlib && is_noise(data) {
            return Ok(None);
        }
        let state = self.pack.lock().pop();
        let mut state =
            state.unwrap_or_else(|| Pack { zlib: None, zstd: None, output: vec![0; self.cluster] });
        let mut output = std::mem::take(&mut state.output);
        let room = &mut output[..self.cluster - 1];
        let size = match self.kind {
            Compression::Zlib => {
                let level = flate2::Compression::new(ZLIB_LEVEL);
                let stream = state
                    .zlib
                    .get_or_insert_with(|| Compress::new_with_window_bits(level, false, WINDOW_BITS));
                stream.reset();
                match stream.compress(data, room, FlushCompress::Finish) {
                    Ok(Status::StreamEnd) => Some(stream.total_out() as usize),
                    _ => None,
                }
            }
            Compression::Zstd => {
                if state.zstd.is_none() {
                    state.zstd = Some(zstd::bulk::Compressor::new(ZSTD_LEVEL)?);
                }
                state.zstd.as_mut().and_then(|z| z.compress_to_buffer(data, room).ok())
            }
        };
        let result = size.map(|n| output[..n].to_vec());
        state.output = output;
        self.pack.lock().push(state);
        Ok(result)
    }
}

impl Qcow2 {
    /// Stores a cluster compressed, or as it is if that is no gain.
    pub(super) fn write_packed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.write_packed_parts(&[(offset, data)], &|| ())
    }

    /// Compresses several clusters, calls `turn`, and stores them in order.
    pub(super) fn write_packed_parts(
        &self,
        parts: &[(u64, &[u8])],
        turn: &dyn Fn(),
    ) -> Result<(), BlockError> {
        self.check_writable()?;
        let packed =
            parts.iter().map(|(offset, data)| self.pack(*offset, data)).collect::<Result<Vec<_>, _>>()?;
        turn();
        for ((offset, data), packed) in parts.iter().zip(packed) {
            let _gate = self.gate.read();
            match packed {
                Some(packed) => self.store_packed(*offset, &packed)?,
                None => self.write_inner(*offset, data)?,
            }
            bitmap::mark(self, *offset, data.len() as u64)?;
        }
        Ok(())
    }

    /// Compresses what is to be stored at a place of the disk; `None` if that is no gain.
    fn pack(&self, offset: u64, data: &[u8]) -> Result<Option<Vec<u8>>, BlockError> {
        let cluster = self.geo.cluster();
        if self.crypt.is_some() {
            return Err(BlockError::Unsupported("compressed data in an encrypted image"));
        }
        if self.geo.external {
            return Err(BlockError::Unsupported("compressed data beside a data file"));
        }
        let end = offset + data.len() as u64;
        let whole =
            data.len() as u64 == cluster || (end == self.virtual_size() && (data.len() as u64) < cluster);
        if !offset.is_multiple_of(cluster) || !whole {
            return Err(BlockError::Unsupported("compressed data that is not a whole cluster"));
        }
        if data.len() as u64 == cluster {
            return self.compressors.compress(data);
        }
        let mut padded = data.to_vec();
        padded.resize(cluster as usize, 0);
        self.compressors.compress(&padded)
    }

    /// Stores a compressed cluster; the gate is held.
    fn store_packed(&self, offset: u64, packed: &[u8]) -> Result<(), BlockError> {
        let bits = self.geo.cluster_bits;
        let flight = offset >> bits..(offset >> bits) + 1;
        let len = packed.len() as u64;
        let mut meta = self.meta.lock();
        self.relieve(&mut meta)?;
        self.mark_dirty(&mut meta)?;
        self.wait_landed(&mut meta, &flight);
        let host = meta.refs.alloc_bytes(&*self.file, len)?;
        meta.in_flight.push(flight.clone());
        drop(meta);
        let written = self.file.write(host, &[IoSlice::new(packed)], false);
        let mut meta = self.meta.lock();
        meta.in_flight.retain(|r| *r != flight);
        self.landed.notify_all();
        if let Err(e) = written {
            meta.refs.sub(&*self.file, host >> bits..((host + len - 1) >> bits) + 1)?;
            return Err(e);
        }
        let sectors = ((host + len - 1) >> 9) - (host >> 9);
        let word = COMPRESSED | sectors << (62 - (bits - 8)) | host;
        let table = self.l2_for_change(&mut meta, offset)?;
        let old = self.entry(&mut meta, offset)?;
        self.set_entry(&mut meta, table, offset, Entry { word, bits: 0 })?;
        self.release(&mut meta, old, offset)
    }
}
