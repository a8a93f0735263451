//! Random numbers, and Debian's `qemu-riscv64` and `qemu-riscv32` as oracles: a static program that writes its results.

use std::process::{Command, Stdio};

use super::RAM;

/// xorshift64*.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// Seeds for `rounds` rounds: the same each time, unless `RHEA_FUZZ_SEED` says otherwise.
pub(crate) fn seeds(rounds: usize) -> Vec<u64> {
    let first =
        std::env::var("RHEA_FUZZ_SEED").map_or(0x1234_5678_9abc_def1, |s| s.parse().expect("a number"));
    let mut rng = Rng(first | 1);
    (0..rounds).map(|_| rng.next() | 1).collect()
}

/// Rounds of `cases` cases each that make up `RHEA_FUZZ_CASES` (set by `make fuzz`), or `usual` rounds.
pub(crate) fn rounds(cases: usize, usual: usize) -> usize {
    match std::env::var("RHEA_FUZZ_CASES") {
        Ok(n) => n.parse::<usize>().expect("a number").div_ceil(cases).max(usual),
        Err(_) => usual,
    }
}

/// True if the oracle for this width is installed; said aloud when not.
pub(crate) fn installed(xlen: u32) -> bool {
    let there = Command::new(format!("qemu-riscv{xlen}")).arg("--version").output().is_ok();
    if !there {
        println!("SKIPPED: qemu-riscv{xlen} is not installed, nothing was compared");
    }
    there
}

/// A static executable with `image` as its only segment at [`RAM`], writable and executable, entered at its start.
fn elf(image: &[u8], xlen: u32) -> Vec<u8> {
    let wide = xlen == 64;
    let mut f = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1, 0];
    f.resize(16, 0);
    let mut put = |v: u64, bytes: usize| f.extend_from_slice(&v.to_le_bytes()[..bytes]);
    let word = if wide { 8 } else { 4 };
    let (header, segment) = if wide { (64, 56) } else { (52, 32) };
    put(2, 2);
    put(243, 2);
    put(1, 4);
    put(RAM, word);
    put(header, word);
    put(0, word);
    put(5, 4); // double-float ABI, compressed code
    for v in [header, segment, 1, 0, 0, 0] {
        put(v, 2);
    }
    put(1, 4);
    if wide {
        put(7, 4);
    }
    for v in [0x1000, RAM, RAM, image.len() as u64, image.len() as u64] {
        put(v, word);
    }
    if !wide {
        put(7, 4);
    }
    put(0x1000, word);
    f.resize(0x1000, 0);
    f.extend_from_slice(image);
    f
}

/// Runs `image` under QEMU's user mode; what it wrote, which must be `wanted` bytes. `None` if QEMU stopped at an
/// assertion of its own.
///
/// # Panics
/// If it failed in any other way.
pub(crate) fn qemu(image: &[u8], xlen: u32, cpu: &str, wanted: usize) -> Option<Vec<u8>> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("oracle-{}-{n}.elf", std::process::id());
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, elf(image, xlen)).expect("the target folder is writable");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("it is our file");
    }
    // One instruction a block: QEMU 10.0's optimizer takes what lh, rori and sext.h leave in RV32 for sign-extended
    // where it is not. The second name is that of older versions.
    let out = Command::new(format!("qemu-riscv{xlen}"))
        .env("QEMU_ONE_INSN_PER_TB", "1")
        .env("QEMU_SINGLESTEP", "1")
        .args(["-cpu", cpu])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .expect("the oracle is installed");
    let error = String::from_utf8_lossy(&out.stderr);
    if out.status.success() && out.stdout.len() == wanted {
        let _ = std::fs::remove_file(&path);
        return Some(out.stdout);
    }
    if error.contains("assertion failed") {
        let _ = std::fs::remove_file(&path);
        return None;
    }
    panic!("qemu-riscv{xlen} on {}: {:?}, {} bytes, {error}", path.display(), out.status, out.stdout.len())
}
