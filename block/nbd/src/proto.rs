//! Numbers of the NBD protocol (`doc/proto.md`, "Values").

/// First word of a newstyle server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of a newstyle server, and first of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second word of an oldstyle server.
pub const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First word of the reply to an option.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY: u32 = 0x6744_6698;
/// First word of a structured reply's chunk.
pub const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Longest text in the protocol, in bytes.
pub const MAX_STRING: usize = 4096;
/// Most data of a request that everybody serves, in bytes.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Length of a request's header.
pub const REQUEST_LEN: usize = 28;
/// The port that IANA has given to NBD.
pub const PORT: u16 = 10809;

/// Flags of the handshake: the server's, which the client sends back.
pub mod handshake_flag {
    /// Options are answered in a fixed form.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No 124 zeroes after `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 2;
}

/// Flags of an export.
pub mod export_flag {
    /// The other flags mean something.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// It takes `FLUSH`.
    pub const FLUSH: u16 = 1 << 2;
    /// Writes take `FUA`.
    pub const FUA: u16 = 1 << 3;
    /// It takes `TRIM`.
    pub const TRIM: u16 = 1 << 5;
    /// It takes `WRITE_ZEROES`.
    pub const WRITE_ZEROES: u16 = 1 << 6;
    /// It takes `DF`.
    pub const DF: u16 = 1 << 7;
    /// A flush on one connection covers what was written on all.
    pub const MULTI_CONN: u16 = 1 << 8;
    /// It takes `CACHE`.
    pub const CACHE: u16 = 1 << 10;
    /// `WRITE_ZEROES` takes `FAST_ZERO`.
    pub const FAST_ZERO: u16 = 1 << 11;
}

/// Options.
pub mod option {
    /// Chooses an export, in the old way.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the negotiation.
    pub const ABORT: u32 = 2;
    /// Lists the exports.
    pub const LIST: u32 = 3;
    /// Begins TLS.
    pub const STARTTLS: u32 = 5;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Asks, and chooses it.
    pub const GO: u32 = 7;
    /// Replies are to be structured.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Lists contexts of block status.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Chooses contexts of block status.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// One context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in all errors.
    pub const ERROR: u32 = 1 << 31;
    /// The option is not known.
    pub const UNSUPPORTED: u32 = ERROR | 1;
    /// It is not allowed.
    pub const POLICY: u32 = ERROR | 2;
    /// Its data is wrong.
    pub const INVALID: u32 = ERROR | 3;
    /// Not without TLS.
    pub const TLS_REQUIRED: u32 = ERROR | 5;
    /// There is no such export.
    pub const UNKNOWN: u32 = ERROR | 6;
    /// The server ends.
    pub const SHUTDOWN: u32 = ERROR | 7;
    /// The client has to ask for the block sizes.
    pub const BLOCK_SIZE_REQUIRED: u32 = ERROR | 8;
    /// The option is too long.
    pub const TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of [`reply::INFO`].
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// The name as the server has it.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Least, best and most bytes of a request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Requests.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Ends the connection.
    pub const DISCONNECT: u16 = 2;
    /// Makes writes stable.
    pub const FLUSH: u16 = 3;
    /// Gives up contents.
    pub const TRIM: u16 = 4;
    /// Reads ahead.
    pub const CACHE: u16 = 5;
    /// Makes a range read as zero.
    pub const WRITE_ZEROES: u16 = 6;
    /// Asks what is known of a range.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod command_flag {
    /// Stable before it is answered.
    pub const FUA: u16 = 1;
    /// Zeroes keep their space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// A read is answered in one chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent is enough.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeroes only if that is fast.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Chunks of structured replies.
pub mod chunk {
    /// The last one.
    pub const DONE: u16 = 1;
    /// Nothing.
    pub const NONE: u16 = 0;
    /// Data of a read.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes of a read.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents.
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in all errors.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Flags of extents of `base:allocation`.
pub mod allocation {
    /// No space is taken.
    pub const HOLE: u32 = 1;
    /// It reads as zero.
    pub const ZERO: u32 = 2;
}

/// The context that every server of block status has.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Errors on the wire with the host's kinds of error.
const ERRORS: [(u32, std::io::ErrorKind); 8] = [
    (1, std::io::ErrorKind::PermissionDenied),
    (5, std::io::ErrorKind::Other),
    (12, std::io::ErrorKind::OutOfMemory),
    (22, std::io::ErrorKind::InvalidInput),
    (28, std::io::ErrorKind::StorageFull),
    (75, std::io::ErrorKind::FileTooLarge),
    (95, std::io::ErrorKind::Unsupported),
    (108, std::io::ErrorKind::ConnectionAborted),
];

/// The number that says `EINVAL`.
pub const EINVAL: u32 = 22;
/// The number that says `EPERM`.
pub const EPERM: u32 = 1;
/// The number that says `ENOTSUP`.
pub const ENOTSUP: u32 = 95;

/// The number that tells an error to the other end.
pub fn error_number(error: &block::BlockError) -> u32 {
    use block::BlockError as E;
    match error {
        E::ReadOnly => EPERM,
        E::OutOfRange { .. } => EINVAL,
        E::Unsupported(_) => ENOTSUP,
        E::Io(e) => ERRORS.iter().find(|(_, k)| *k == e.kind()).map_or(5, |(n, _)| *n),
        _ => 5,
    }
}

/// What an error the other end told is here.
pub fn error_of(number: u32, text: &str) -> block::BlockError {
    let kind = ERRORS.iter().find(|(n, _)| *n == number).map_or(std::io::ErrorKind::Other, |(_, k)| *k);
    let what = if text.is_empty() { format!("{kind}") } else { text.to_owned() };
    block::BlockError::Io(std::io::Error::new(
        kind,
        format!("the NBD server answered with error {number}: {what}"),
    ))
}
