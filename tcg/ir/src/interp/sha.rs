//! SHA-1 and SHA-256 as vector functions compute them (FIPS 180-4; Intel SDM volume 2, SHA1RNDS4 to SHA256MSG2).

/// Double word `n`; 3 is the topmost.
fn word(v: u128, n: u32) -> u32 {
    (v >> (32 * n)) as u32
}

/// From double words, the topmost first.
fn join(words: [u32; 4]) -> u128 {
    words.into_iter().fold(0, |v, w| v << 32 | u128::from(w))
}

fn split(v: u128) -> [u32; 4] {
    [word(v, 3), word(v, 2), word(v, 1), word(v, 0)]
}

/// Four rounds: A to D in `state`, E added to the first word already.
pub(super) fn rounds1(state: u128, words: u128, imm: u8) -> u128 {
    let [mut a, mut b, mut c, mut d] = split(state);
    let mut e = 0u32;
    // FIPS 180-4, 4.1.1 and 4.2.1.
    let (f, k): (fn(u32, u32, u32) -> u32, u32) = match imm & 3 {
        0 => (|b, c, d| b & c ^ !b & d, 0x5a82_7999),
        1 => (|b, c, d| b ^ c ^ d, 0x6ed9_eba1),
        2 => (|b, c, d| b & c ^ b & d ^ c & d, 0x8f1b_bcdc),
        _ => (|b, c, d| b ^ c ^ d, 0xca62_c1d6),
    };
    for w in split(words) {
        let t = f(b, c, d).wrapping_add(a.rotate_left(5)).wrapping_add(w).wrapping_add(e).wrapping_add(k);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, t);
    }
    join([a, b, c, d])
}

/// E of four rounds on, added to the topmost word.
pub(super) fn next1(state: u128, words: u128) -> u128 {
    let e = word(state, 3).rotate_left(30);
    words & (u128::MAX >> 32) | u128::from(word(words, 3).wrapping_add(e)) << 96
}

pub(super) fn first1(a: u128, b: u128) -> u128 {
    a ^ (a << 64 | b >> 64)
}

pub(super) fn second1(a: u128, b: u128) -> u128 {
    let w16 = (word(a, 3) ^ word(b, 2)).rotate_left(1);
    let w17 = (word(a, 2) ^ word(b, 1)).rotate_left(1);
    let w18 = (word(a, 1) ^ word(b, 0)).rotate_left(1);
    let w19 = (word(a, 0) ^ w16).rotate_left(1);
    join([w16, w17, w18, w19])
}

/// Two rounds: C, D, G, H in `cdgh`, A, B, E, F in `abef`.
pub(super) fn rounds256(cdgh: u128, abef: u128, words: u128) -> u128 {
    let [mut c, mut d, mut g, mut h] = split(cdgh);
    let [mut a, mut b, mut e, mut f] = split(abef);
    for n in 0..2 {
        let big1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let t1 = h.wrapping_add(big1).wrapping_add(e & f ^ !e & g).wrapping_add(word(words, n));
        let big0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t2 = big0.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(t2));
    }
    join([a, b, e, f])
}

pub(super) fn first256(a: u128, b: u128) -> u128 {
    let small0 = |w: u32| w.rotate_right(7) ^ w.rotate_right(18) ^ w >> 3;
    let next = [word(b, 0), word(a, 3), word(a, 2), word(a, 1)];
    let sum = std::array::from_fn(|i| split(a)[i].wrapping_add(small0(next[i])));
    join(sum)
}

pub(super) fn second256(a: u128, b: u128) -> u128 {
    let small1 = |w: u32| w.rotate_right(17) ^ w.rotate_right(19) ^ w >> 10;
    let w16 = word(a, 0).wrapping_add(small1(word(b, 2)));
    let w17 = word(a, 1).wrapping_add(small1(word(b, 3)));
    let w18 = word(a, 2).wrapping_add(small1(w16));
    let w19 = word(a, 3).wrapping_add(small1(w17));
    join([w19, w18, w17, w16])
}
