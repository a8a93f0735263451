//! Headers of virtual socket packets (virtio 1.2, 5.10.6).

/// Bytes of a header.
pub const HEADER: usize = 44;
/// The host's context id.
pub const HOST: u64 = 2;
/// Stream sockets, the one type there is here.
pub const STREAM: u16 = 1;

/// What a packet is for.
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Agrees to one.
    pub const RESPONSE: u16 = 2;
    /// Refuses or ends one.
    pub const RST: u16 = 3;
    /// Says what the sender will no longer do.
    pub const SHUTDOWN: u16 = 4;
    /// Data.
    pub const RW: u16 = 5;
    /// Only says how much room there is.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks to be told.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`].
pub mod shutdown {
    /// The sender will receive no more.
    pub const RECEIVE: u32 = 1;
    /// The sender will send no more.
    pub const SEND: u32 = 2;
}

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Sender's context and port.
    pub src: (u64, u32),
    /// Receiver's context and port.
    pub dst: (u64, u32),
    /// Bytes of data that follow.
    pub len: u32,
    /// Type of the socket.
    pub kind: u16,
    /// See [`op`].
    pub op: u16,
    /// Depend on `op`.
    pub flags: u32,
    /// Bytes the sender keeps for what it has not read yet.
    pub buf_alloc: u32,
    /// Bytes it has read so far.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads a header.
    pub fn read(bytes: &[u8; HEADER]) -> Self {
        let half = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        let word = |i: usize| u32::from(half(i)) | u32::from(half(i + 2)) << 16;
        let long = |i: usize| u64::from(word(i)) | u64::from(word(i + 4)) << 32;
        Header {
            src: (long(0), word(16)),
            dst: (long(8), word(20)),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }

    /// Writes it.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.src.0.to_le_bytes());
        put(&self.dst.0.to_le_bytes());
        for word in [self.src.1, self.dst.1, self.len] {
            put(&word.to_le_bytes());
        }
        for half in [self.kind, self.op] {
            put(&half.to_le_bytes());
        }
        for word in [self.flags, self.buf_alloc, self.fwd_cnt] {
            put(&word.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_the_standard_lays_them_out() {
        let bytes: [u8; HEADER] = std::array::from_fn(|i| i as u8);
        let header = Header::read(&bytes);
        assert_eq!((header.src, header.len), ((0x0706_0504_0302_0100, 0x1312_1110), 0x1b1a_1918));
        assert_eq!((header.kind, header.op, header.fwd_cnt), (0x1d1c, 0x1f1e, 0x2b2a_2928));
        assert_eq!(header.bytes(), bytes);
    }
}
