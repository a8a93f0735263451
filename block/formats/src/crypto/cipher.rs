//! Sector ciphers as dm-crypt has them: a block cipher, a mode (XTS: IEEE 1619; CBC, ECB: NIST SP 800-38A) and a way
//! to make an initial vector from a sector's number.
//!
//! Blocks go to the cipher by hundreds, so that the host's AES instructions run in parallel: with XTS and when
//! decrypting with CBC all blocks of some sectors at once, when encrypting with CBC one block of several sectors each.

use std::fmt;

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};

use super::{Hash, Key};

type Block = Array<u8, U16>;

/// Bytes of a block.
const BLOCK: usize = 16;
/// Bytes that are worked on at a time; at least a sector.
const GROUP: usize = 4096;
/// What initial vectors count.
const IV_UNIT: u64 = 512;

/// A block cipher with its key.
trait Core: Send + Sync {
    fn encrypt(&self, blocks: &mut [Block]);
    fn decrypt(&self, blocks: &mut [Block]);
}

impl<C> Core for C
where
    C: BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt + BlockCipherDecrypt + Send + Sync,
{
    fn encrypt(&self, blocks: &mut [Block]) {
        self.encrypt_blocks(blocks);
    }

    fn decrypt(&self, blocks: &mut [Block]) {
        self.decrypt_blocks(blocks);
    }
}

/// A block cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Aes,
    Serpent,
    Twofish,
}

impl Algorithm {
    const NAMES: [(&'static str, Self); 3] =
        [("aes", Self::Aes), ("serpent", Self::Serpent), ("twofish", Self::Twofish)];

    fn core(self, key: &[u8]) -> Option<Box<dyn Core>> {
        fn make<C: Core + KeyInit + 'static>(key: &[u8]) -> Option<Box<dyn Core>> {
            C::new_from_slice(key).ok().map(|c| Box::new(c) as Box<dyn Core>)
        }
        match (self, key.len()) {
            (Self::Aes, 16) => make::<aes::Aes128>(key),
            (Self::Aes, 24) => make::<aes::Aes192>(key),
            (Self::Aes, 32) => make::<aes::Aes256>(key),
            (Self::Serpent, 16 | 24 | 32) => make::<serpent::Serpent>(key),
            (Self::Twofish, 16 | 24 | 32) => make::<twofish::Twofish>(key),
            _ => None,
        }
    }
}

/// A mode of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Xts,
    Cbc,
    Ecb,
}

impl Mode {
    const NAMES: [(&'static str, Self); 3] = [("xts", Self::Xts), ("cbc", Self::Cbc), ("ecb", Self::Ecb)];
}

/// How an initial vector is made from a sector's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IvKind {
    /// The low 32 bits.
    Plain,
    /// All bits.
    Plain64,
    /// All bits, big endian at the end.
    Plain64Be,
    /// All bits, encrypted with a hash of the key.
    Essiv(Hash),
    /// None at all.
    None,
}

/// What a header says of its cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CipherSpec {
    pub(crate) algorithm: Algorithm,
    pub(crate) mode: Mode,
    pub(crate) iv: IvKind,
}

impl CipherSpec {
    /// What legacy encrypted qcow and qcow2 images have.
    pub(crate) const QCOW: Self =
        CipherSpec { algorithm: Algorithm::Aes, mode: Mode::Cbc, iv: IvKind::Plain64 };

    /// From a name such as `aes-xts-plain64` or `aes-cbc-essiv:sha256`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let (cipher, mode, iv) = (parts.next()?, parts.next()?, parts.next());
        let find_cipher = Algorithm::NAMES.iter().find(|(n, _)| *n == cipher)?.1;
        let mode = Mode::NAMES.iter().find(|(n, _)| *n == mode)?.1;
        let iv = match (mode, iv) {
            (Mode::Ecb, None | Some("null")) => IvKind::None,
            (Mode::Ecb, _) | (_, None) => return None,
            (_, Some("plain")) => IvKind::Plain,
            (_, Some("plain64")) => IvKind::Plain64,
            (_, Some("plain64be")) => IvKind::Plain64Be,
            (_, Some(essiv)) => IvKind::Essiv(Hash::find(essiv.strip_prefix("essiv:")?)?),
        };
        let spec = CipherSpec { algorithm: find_cipher, mode, iv };
        // The hash is a key of the cipher.
        match iv {
            IvKind::Essiv(hash) if spec.algorithm.core(&vec![0; hash.len()]).is_none() => None,
            _ => Some(spec),
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> String {
        match self.iv {
            IvKind::None => format!("{}-{}", self.cipher_name(), self.mode_name()),
            _ => format!("{}-{}-{}", self.cipher_name(), self.mode_name(), self.iv_name()),
        }
    }

    /// Name of the block cipher.
    pub(crate) fn cipher_name(self) -> &'static str {
        Algorithm::NAMES.iter().find(|(_, a)| *a == self.algorithm).map_or("", |(n, _)| n)
    }

    /// Name of the mode.
    pub(crate) fn mode_name(self) -> &'static str {
        Mode::NAMES.iter().find(|(_, m)| *m == self.mode).map_or("", |(n, _)| n)
    }

    /// Name of the way to initial vectors.
    pub(crate) fn iv_name(self) -> String {
        match self.iv {
            IvKind::Plain => "plain".into(),
            IvKind::Plain64 => "plain64".into(),
            IvKind::Plain64Be => "plain64be".into(),
            IvKind::Essiv(hash) => format!("essiv:{}", hash.name()),
            IvKind::None => "null".into(),
        }
    }

    /// Bits of the block cipher's key if the whole key has this many bytes.
    pub(crate) fn cipher_bits(self, key_len: usize) -> usize {
        if self.mode == Mode::Xts { key_len * 4 } else { key_len * 8 }
    }

    /// Whether a key of this many bytes fits.
    pub(crate) fn takes_key(self, len: usize) -> bool {
        SectorCipher::new(self, &vec![0; len], IV_UNIT).is_some()
    }
}

/// A cipher with its key, for sectors of a size.
pub(crate) struct SectorCipher {
    core: Box<dyn Core>,
    /// Encrypts initial vectors: the tweaks of XTS, or for ESSIV.
    ivs: Option<Box<dyn Core>>,
    spec: CipherSpec,
    sector: usize,
    /// Number of the disk's first sector of 512 bytes.
    first: u64,
}

impl fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with sectors of {}", self.spec.name(), self.sector)
    }
}

impl SectorCipher {
    /// A cipher for sectors of `sector` bytes (512 to 4096); nothing if the key is of a wrong length.
    pub(crate) fn new(spec: CipherSpec, key: &[u8], sector: u64) -> Option<Self> {
        let (core, ivs) = match (spec.mode, spec.iv) {
            (Mode::Xts, IvKind::Essiv(_)) => return None,
            (Mode::Xts, _) if !key.len().is_multiple_of(2) => return None,
            (Mode::Xts, _) => {
                let (data, tweak) = key.split_at(key.len() / 2);
                (spec.algorithm.core(data)?, Some(spec.algorithm.core(tweak)?))
            }
            (_, IvKind::Essiv(hash)) => {
                let salt = Key::new(hash.digest(&[key]));
                (spec.algorithm.core(key)?, Some(spec.algorithm.core(&salt)?))
            }
            _ => (spec.algorithm.core(key)?, None),
        };
        let sector = usize::try_from(sector).ok()?;
        ((512..=GROUP).contains(&sector) && sector.is_power_of_two()).then_some(SectorCipher {
            core,
            ivs,
            spec,
            sector,
            first: 0,
        })
    }

    /// The same, for a disk whose first sector of 512 bytes has another number than 0.
    pub(crate) fn counting_from(self, first: u64) -> Self {
        SectorCipher { first, ..self }
    }

    /// Bytes of a sector.
    pub(crate) fn sector(&self) -> u64 {
        self.sector as u64
    }

    /// Encrypts whole sectors, the first of which lies `offset` bytes from where counting starts.
    pub(crate) fn encrypt(&self, offset: u64, data: &mut [u8]) {
        self.run(offset, data, true);
    }

    /// Decrypts whole sectors.
    pub(crate) fn decrypt(&self, offset: u64, data: &mut [u8]) {
        self.run(offset, data, false);
    }

    fn run(&self, offset: u64, data: &mut [u8], encrypt: bool) {
        debug_assert!(data.len().is_multiple_of(self.sector) && offset.is_multiple_of(self.sector as u64));
        for (i, group) in data.chunks_mut(GROUP).enumerate() {
            let first = (offset + (i * GROUP) as u64) / IV_UNIT + self.first;
            let (blocks, _) = Block::slice_as_chunks_mut(group);
            let mut ivs = [Block::default(); GROUP / IV_UNIT as usize];
            let sectors = blocks.len() * BLOCK / self.sector;
            let step = self.sector as u64 / IV_UNIT;
            for (s, iv) in ivs[..sectors].iter_mut().enumerate() {
                let number = first + s as u64 * step;
                match self.spec.iv {
                    IvKind::Plain => iv[..4].copy_from_slice(&(number as u32).to_le_bytes()),
                    IvKind::Plain64 | IvKind::Essiv(_) => iv[..8].copy_from_slice(&number.to_le_bytes()),
                    IvKind::Plain64Be => iv[8..].copy_from_slice(&number.to_be_bytes()),
                    IvKind::None => {}
                }
            }
            if let Some(core) = &self.ivs {
                core.encrypt(&mut ivs[..sectors]);
            }
            match (self.spec.mode, encrypt) {
                (Mode::Xts, _) => self.xts(blocks, &ivs[..sectors], encrypt),
                (Mode::Cbc, true) => self.cbc_encrypt(blocks, &mut ivs[..sectors]),
                (Mode::Cbc, false) => self.cbc_decrypt(blocks, &ivs[..sectors]),
                (Mode::Ecb, true) => self.core.encrypt(blocks),
                (Mode::Ecb, false) => self.core.decrypt(blocks),
            }
        }
    }

    fn xts(&self, blocks: &mut [Block], ivs: &[Block], encrypt: bool) {
        let mut tweaks = [0u128; GROUP / BLOCK];
        let per_sector = self.sector / BLOCK;
        for (iv, tweaks) in ivs.iter().zip(tweaks.chunks_exact_mut(per_sector)) {
            let mut t = u128::from_le_bytes((*iv).into());
            for tweak in tweaks {
                *tweak = t;
                // Times x in GF(2^128).
                t = (t << 1) ^ (0x87 & (t >> 127).wrapping_neg());
            }
        }
        mask(blocks, &tweaks);
        if encrypt {
            self.core.encrypt(blocks)
        } else {
            self.core.decrypt(blocks)
        }
        mask(blocks, &tweaks);
    }

    fn cbc_encrypt(&self, blocks: &mut [Block], last: &mut [Block]) {
        let per_sector = self.sector / BLOCK;
        for i in 0..per_sector {
            for (s, l) in last.iter_mut().enumerate() {
                add(l, &blocks[s * per_sector + i]);
            }
            self.core.encrypt(last);
            for (s, l) in last.iter().enumerate() {
                blocks[s * per_sector + i] = *l;
            }
        }
    }

    fn cbc_decrypt(&self, blocks: &mut [Block], ivs: &[Block]) {
        let mut before = [Block::default(); GROUP / BLOCK];
        let per_sector = self.sector / BLOCK;
        before[1..blocks.len()].copy_from_slice(&blocks[..blocks.len() - 1]);
        for (s, iv) in ivs.iter().enumerate() {
            before[s * per_sector] = *iv;
        }
        self.core.decrypt(blocks);
        blocks.iter_mut().zip(&before).for_each(|(b, p)| add(b, p));
    }
}

fn add(to: &mut Block, other: &Block) {
    let sum = u128::from_ne_bytes((*to).into()) ^ u128::from_ne_bytes((*other).into());
    *to = sum.to_ne_bytes().into();
}

fn mask(blocks: &mut [Block], tweaks: &[u128]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        *block = (u128::from_le_bytes((*block).into()) ^ tweak).to_le_bytes().into();
    }
}

/// Decrypts AES-256-CBC with padding (RFC 5652, section 6.3).
pub(crate) fn unwrap_cbc(key: &[u8], iv: &[u8], data: &[u8]) -> Option<Key> {
    let core = Algorithm::Aes.core(key).filter(|_| key.len() == 32)?;
    let mut last: Block = <[u8; BLOCK]>::try_from(iv).ok()?.into();
    let mut out = Key::new(data.to_vec());
    let (blocks, rest) = Block::slice_as_chunks_mut(&mut out);
    if !rest.is_empty() {
        return None;
    }
    for block in blocks {
        let sealed = *block;
        core.decrypt(std::slice::from_mut(block));
        add(block, &last);
        last = sealed;
    }
    let pad = usize::from(*out.last()?);
    let ends = (1..=BLOCK).contains(&pad) && out[out.len() - pad..].iter().all(|b| usize::from(*b) == pad);
    let len = out.len().checked_sub(pad).filter(|_| ends)?;
    out.truncate(len);
    Some(out)
}

#[cfg(test)]
pub(crate) fn wrap_cbc(key: &[u8], iv: &[u8; 16], data: &[u8]) -> Option<Vec<u8>> {
    let core = Algorithm::Aes.core(key)?;
    let mut out = data.to_vec();
    let pad = BLOCK - data.len() % BLOCK;
    out.resize(data.len() + pad, pad as u8);
    let mut last: Block = (*iv).into();
    for block in Block::slice_as_chunks_mut(&mut out).0 {
        add(block, &last);
        core.encrypt(std::slice::from_mut(block));
        last = *block;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(data: &[u8]) -> String {
        data.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn xts_matches_ieee_1619_vector_4() {
        let mut key = Vec::new();
        key.extend_from_slice(&[
            0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74, 0x71, 0x35, 0x26,
        ]);
        key.extend_from_slice(&[
            0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95,
        ]);
        let spec = CipherSpec::parse("aes-xts-plain64").unwrap();
        let cipher = SectorCipher::new(spec, &key, 512).unwrap();
        let mut data: Vec<u8> = (0..512).map(|i| i as u8).collect();
        cipher.encrypt(0, &mut data);
        assert_eq!(hex(&data[..16]), "27a7479befa1d476489f308cd4cfa6e2");
        assert_eq!(hex(&data[16..32]), "a96e4bbe3208ff25287dd3819616e89c");
        cipher.decrypt(0, &mut data);
        assert!(data.iter().enumerate().all(|(i, b)| *b == i as u8));
    }

    #[test]
    fn many_sectors_are_each_as_alone() {
        for name in [
            "aes-xts-plain64",
            "aes-cbc-essiv:sha256",
            "aes-cbc-plain",
            "serpent-xts-plain64be",
            "twofish-cbc-plain64",
            "aes-ecb",
        ] {
            let spec = CipherSpec::parse(name).unwrap();
            assert_eq!(spec.name(), name);
            let key: Vec<u8> = (0..if name.contains("xts") { 64 } else { 32 }).collect();
            for sector in [512, 1024, 4096] {
                let cipher = SectorCipher::new(spec, &key, sector).unwrap();
                let plain: Vec<u8> = (0..20480u32).map(|i| (i * 7 / 8) as u8).collect();
                let mut whole = plain.clone();
                cipher.encrypt(8192, &mut whole);
                let mut parts = plain.clone();
                for (i, part) in parts.chunks_mut(sector as usize).enumerate() {
                    cipher.encrypt(8192 + i as u64 * sector, part);
                }
                assert!(whole == parts && whole != plain, "{name} {sector}");
                cipher.decrypt(8192, &mut whole);
                assert!(whole == plain, "{name} {sector}");
            }
        }
    }

    #[test]
    fn cbc_matches_sp_800_38a() {
        let spec = CipherSpec { algorithm: Algorithm::Aes, mode: Mode::Ecb, iv: IvKind::None };
        let key =
            [0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c];
        let cipher = SectorCipher::new(spec, &key, 512).unwrap();
        let mut data = vec![0; 512];
        data[..4].copy_from_slice(&[0x6b, 0xc1, 0xbe, 0xe2]);
        data[4..16]
            .copy_from_slice(&[0x2e, 0x40, 0x9f, 0x96, 0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a]);
        cipher.encrypt(0, &mut data);
        assert_eq!(hex(&data[..16]), "3ad77bb40d7a3660a89ecaf32466ef97");
    }

    #[test]
    fn wrong_names_and_keys() {
        for bad in [
            "aes",
            "aes-xts",
            "aes-cbc-essiv:md5",
            "aes-cbc-essiv:sha512",
            "rot13-cbc-plain",
            "aes-ctr-plain64",
        ] {
            assert_eq!(CipherSpec::parse(bad), None, "{bad}");
        }
        let spec = CipherSpec::parse("aes-xts-plain64").unwrap();
        assert!(spec.takes_key(64) && spec.takes_key(32) && !spec.takes_key(33) && !spec.takes_key(0));
        assert_eq!(spec.cipher_bits(64), 256);
    }
}
