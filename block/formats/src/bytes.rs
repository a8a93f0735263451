//! Numbers in images. A field beyond the end of its buffer reads as zero, so that no damaged image can panic.

/// A field of a buffer, or zeroes.
fn field<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = at.checked_add(N).and_then(|end| data.get(at..end)) {
        out.copy_from_slice(from);
    }
    out
}

macro_rules! readers {
    ($($be:ident $le:ident $t:ty),*) => {$(
        /// The big-endian number at a place.
        pub(crate) fn $be(data: &[u8], at: usize) -> $t {
            <$t>::from_be_bytes(field(data, at))
        }

        /// The little-endian number at a place.
        pub(crate) fn $le(data: &[u8], at: usize) -> $t {
            <$t>::from_le_bytes(field(data, at))
        }
    )*};
}

readers!(be16 le16 u16, be32 le32 u32, be64 le64 u64);

/// Puts bytes into a buffer that is long enough.
pub(crate) fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = at.checked_add(bytes.len()).and_then(|end| data.get_mut(at..end)) {
        to.copy_from_slice(bytes);
    }
}

/// A text field that ends at its first zero byte.
pub(crate) fn text(data: &[u8]) -> String {
    let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    String::from_utf8_lossy(&data[..end]).into_owned()
}

/// Whether all bytes are zero.
pub fn is_zero(data: &[u8]) -> bool {
    // Blocks of a size the compiler turns into vector code: this decides what is stored in every conversion.
    let mut blocks = data.chunks_exact(256);
    blocks.all(|block| block.iter().fold(0, |any, &b| any | b) == 0)
        && blocks.remainder().iter().all(|&b| b == 0)
}
