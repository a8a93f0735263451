//! A connection as two halves that different threads use at once, plain or under TLS.
//!
//! Under TLS both halves share the state of the session. It is never locked while a thread waits for the network to bring
//! something, so that one side may write while the other waits. Whoever writes holds `out` from before the records are made
//! until they are sent: records leave in the order in which they were numbered.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::Connection;

use crate::socket::Socket;

/// Bytes read from the network at a time.
const BUFFER: usize = 64 << 10;
/// Bytes that one record holds.
const RECORD: usize = 16 << 10;

struct Session {
    connection: Mutex<Connection>,
    out: Mutex<Socket>,
}

impl Session {
    /// Sends what the session has to say.
    fn send(&self, fill: impl FnOnce(&mut Connection) -> io::Result<()>) -> io::Result<()> {
        let mut out = self.out.lock();
        let mut records = Vec::new();
        {
            let mut connection = self.connection.lock();
            fill(&mut connection)?;
            while connection.wants_write() {
                connection.write_tls(&mut records)?;
            }
        }
        out.write_all(&records)
    }
}

/// The half that reads, with a buffer.
pub struct Reader {
    socket: Socket,
    session: Option<Arc<Session>>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Under TLS: what the network brought, of which the session has had the part before `raw.1`.
    raw: (Vec<u8>, usize, usize),
}

/// The half that writes. What is written is sent at once.
pub struct Writer {
    socket: Socket,
    session: Option<Arc<Session>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({:?}, tls: {})", self.socket, self.session.is_some())
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({:?}, tls: {})", self.socket, self.session.is_some())
    }
}

/// The two halves of a connected socket.
pub fn channel(socket: Socket) -> io::Result<(Reader, Writer)> {
    let other = socket.try_clone()?;
    let reader =
        Reader { socket, session: None, buffer: vec![0; BUFFER], start: 0, end: 0, raw: Default::default() };
    Ok((reader, Writer { socket: other, session: None }))
}

/// Begins TLS on both halves. Nothing may have been read beyond what asked for it.
pub fn start_tls(reader: &mut Reader, writer: &mut Writer, mut connection: Connection) -> io::Result<()> {
    if reader.start != reader.end {
        return Err(io::Error::other("data before TLS had begun"));
    }
    // Writers cut what they send into records; nothing waits in the session.
    connection.set_buffer_limit(None);
    let out = Mutex::new(writer.socket.try_clone()?);
    let session = Arc::new(Session { connection: Mutex::new(connection), out });
    session.send(|_| Ok(()))?;
    while session.connection.lock().is_handshaking() {
        reader.feed(&session)?;
    }
    reader.session = Some(session.clone());
    writer.session = Some(session);
    Ok(())
}

impl Reader {
    /// The name of the other end in its certificate; nothing without TLS or a certificate.
    pub fn peer_name(&self) -> Option<String> {
        let connection = self.session.as_ref()?.connection.lock();
        crate::subject::subject(connection.peer_certificates()?.first()?)
    }

    /// Gives the session a part of what the network brought, or waits for more. The session takes no more than one
    /// record's worth while nobody reads what is in it.
    fn feed(&mut self, session: &Session) -> io::Result<()> {
        let (raw, start, end) = &mut self.raw;
        if start == end {
            raw.resize(RECORD + 512, 0);
            let n = self.socket.read(raw)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (*start, *end) = (0, n);
        }
        let mut rest = &raw[*start..*end];
        let mut connection = session.connection.lock();
        *start += connection.read_tls(&mut rest)?;
        let done = connection.process_new_packets();
        let answer = connection.wants_write();
        drop(connection);
        if answer {
            // Tells the other end what is wrong as well.
            session.send(|_| Ok(()))?;
        }
        done.map(drop).map_err(|e| io::Error::other(format!("TLS: {e}")))
    }

    fn fill(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(session) = self.session.clone() else { return self.socket.read(buf) };
        loop {
            match session.connection.lock().reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.feed(&session)?;
        }
    }

    /// Whether something has come that was not read yet; more may be on its way.
    pub fn has_buffered(&self) -> bool {
        self.start != self.end
    }

    /// How long a read may wait.
    pub fn set_timeout(&self, time: Option<std::time::Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(time)
    }

    /// Another handle to the socket, to end the connection with.
    pub fn socket(&self) -> io::Result<Socket> {
        self.socket.try_clone()
    }

    /// Reads exactly a number of bytes.
    pub fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        self.read_exact(&mut out)?;
        Ok(out)
    }

    /// A big-endian number.
    pub fn be16(&mut self) -> io::Result<u16> {
        Ok(u16::from_be_bytes(self.bytes()?))
    }

    /// A big-endian number.
    pub fn be32(&mut self) -> io::Result<u32> {
        Ok(u32::from_be_bytes(self.bytes()?))
    }

    /// A big-endian number.
    pub fn be64(&mut self) -> io::Result<u64> {
        Ok(u64::from_be_bytes(self.bytes()?))
    }

    /// Reads and forgets.
    pub fn skip(&mut self, len: u64) -> io::Result<()> {
        let gone = io::copy(&mut self.by_ref().take(len), &mut io::sink())?;
        if gone == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Text of a length that is known to be bounded.
    pub fn text(&mut self, len: usize) -> io::Result<String> {
        let mut data = vec![0; len];
        self.read_exact(&mut data)?;
        Ok(String::from_utf8_lossy(&data).into_owned())
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            if buf.len() >= BUFFER {
                return self.fill(buf);
            }
            let mut own = std::mem::take(&mut self.buffer);
            let n = self.fill(&mut own);
            self.buffer = own;
            (self.start, self.end) = (0, n?);
        }
        let n = buf.len().min(self.end - self.start);
        buf[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.start += n;
        Ok(n)
    }
}

impl Writer {
    /// Sends all of several buffers.
    pub fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        if let Some(session) = &self.session {
            return session.send(|c| bufs.iter().try_for_each(|b| c.writer().write_all(b)));
        }
        // One system call as a rule; the rest by itself.
        let mut done = loop {
            match self.socket.write_vectored(bufs) {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        };
        for b in bufs {
            let skip = done.min(b.len());
            done -= skip;
            if skip < b.len() {
                self.socket.write_all(&b[skip..])?;
            }
        }
        Ok(())
    }

    /// Tells a TLS peer that no more comes, and ends the connection.
    pub fn close(&mut self) {
        if let Some(session) = &self.session {
            let _ = session.send(|c| {
                c.send_close_notify();
                Ok(())
            });
        }
        self.socket.shutdown();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}
