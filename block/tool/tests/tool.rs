//! The tool beside qemu-img: the same commands, output held against QEMU's where both print the same.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::tool;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn output(&self, program: &Path, args: &str) -> Output {
        Command::new(program).args(args.split_whitespace()).current_dir(self.dir.path()).output().unwrap()
    }

    /// Runs the tool; what it printed.
    #[track_caller]
    fn img(&self, args: &str) -> String {
        let out = self.output(&tool(), args);
        assert!(out.status.success(), "img {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs the tool, which has to fail; what it said.
    #[track_caller]
    fn fails(&self, args: &str) -> String {
        let out = self.output(&tool(), args);
        assert!(!out.status.success(), "img {args} went well");
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout)
    }

    #[track_caller]
    fn qemu(&self, args: &str) -> String {
        let out = self.output(Path::new("qemu-img"), args);
        assert!(out.status.success(), "qemu-img {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// A raw image of 8 MiB: text, zeroes and noise.
    fn source(&self) {
        let mut seed = 1u64;
        let mut data: Vec<u8> =
            (0..3 << 20).map(|i: u32| b"the quick brown fox "[i as usize % 20] ^ (i >> 13) as u8).collect();
        data.resize(5 << 20, 0);
        data.extend((0..3 << 20).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        }));
        std::fs::write(self.path("src.raw"), data).unwrap();
    }
}

fn have_qemu() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        println!("SKIPPED: qemu-img is not installed");
    }
    there
}

#[test]
fn conversions_hold_the_same_data() {
    let b = Bench::new();
    b.source();
    for options in [
        "-O qcow2",
        "-O qcow2 -c",
        "-O qcow2 -c -o compression_type=zstd",
        "-O qcow2 -o extended_l2=on",
        "-O qcow2 -m 4 -W",
        "-O qcow2 -S 0",
        "-O qcow2 -o preallocation=metadata",
        "-O raw",
        "-O vdi",
        "-O vpc -o force_size=on",
        "-O vhdx",
        "-O vmdk",
        "-O vmdk -o subformat=streamOptimized",
        "-O parallels",
        "-O qed",
        "-O qcow -c",
    ] {
        b.img(&format!("convert -f raw {options} src.raw out"));
        let format = options.split(' ').nth(1).unwrap();
        assert_eq!(
            b.img(&format!("compare -f raw -F {format} src.raw out")),
            "Images are identical.\n",
            "{options}"
        );
        if have_qemu() {
            b.qemu(&format!("compare -f raw -F {format} src.raw out"));
            if format == "qcow2" {
                b.qemu("check -f qcow2 out");
            }
        }
        b.img(&format!("convert -f {format} -O raw out back"));
        assert!(
            std::fs::read(b.path("back")).unwrap() == std::fs::read(b.path("src.raw")).unwrap(),
            "{options}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(b.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing is left behind: {left:?}");
}

#[test]
fn a_failed_conversion_leaves_what_was_there() {
    let b = Bench::new();
    b.source();
    std::fs::write(b.path("out"), b"precious").unwrap();
    // A table that points beyond the end of the file: reading fails in the middle.
    b.img("convert -f raw -O vdi src.raw bad");
    let mut raw = std::fs::read(b.path("bad")).unwrap();
    raw.truncate(3 << 20);
    raw[0x170..0x178].fill(0xff);
    std::fs::write(b.path("bad"), raw).unwrap();
    let text = b.fails("convert -f vdi -O qcow2 bad out");
    assert!(text.contains("vdi"), "{text}");
    assert_eq!(std::fs::read(b.path("out")).unwrap(), b"precious");
    assert!(b.fails("convert -f raw -O qcow2 -o nonsense=1 src.raw out").contains("no such option"));
    assert_eq!(std::fs::read(b.path("out")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(b.dir.path()).unwrap().count(), 3);
}

#[test]
fn output_is_as_qemu_prints_it() {
    if !have_qemu() {
        return;
    }
    let b = Bench::new();
    b.source();
    b.qemu("convert -f raw -O qcow2 src.raw a.qcow2");
    b.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2");
    b.img("io --cmd=length b.qcow2");
    b.qemu("snapshot -c one b.qcow2");
    b.qemu("bitmap --add b.qcow2 bits");
    for args in [
        "map a.qcow2",
        "map --output=json a.qcow2",
        "map --output=json b.qcow2",
        "check a.qcow2",
        "check b.qcow2",
        "measure -O qcow2 --size 10G",
        "measure -O qcow2 -f raw src.raw",
        "measure -O qcow2 -o cluster_size=4k,extended_l2=off -f raw src.raw",
        "measure -O raw a.qcow2",
        "compare a.qcow2 b.qcow2",
    ] {
        assert_eq!(b.img(args), b.qemu(args), "{args}");
    }
    for args in [
        "info --output=json a.qcow2",
        "info --output=json b.qcow2",
        "info --output=json --backing-chain b.qcow2",
        "check --output=json a.qcow2",
    ] {
        let (ours, theirs): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&b.img(args)).unwrap(), serde_json::from_str(&b.qemu(args)).unwrap());
        assert_eq!(ours, theirs, "{args}");
    }
    let lines = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for args in ["info a.qcow2", "info b.qcow2", "info -f raw src.raw", "snapshot -l b.qcow2"] {
        assert_eq!(lines(b.img(args)), lines(b.qemu(args)), "{args}");
    }
}

#[test]
fn chains_are_committed_and_rebased() {
    let b = Bench::new();
    b.source();
    b.img("convert -f raw -O qcow2 src.raw base.qcow2");
    b.img("create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2");
    b.img("create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2");
    let io = |file: &str, command: &str| {
        let out = Command::new(tool())
            .args(["io", "-c", command, file])
            .current_dir(b.dir.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stdout));
    };
    io("mid.qcow2", "write -P 1 1M 256k");
    io("top.qcow2", "write -P 2 1152k 256k");
    io("top.qcow2", "write -z 6M 1M");
    b.img("convert -O raw top.qcow2 want");
    // Another base with other contents, the same disk.
    b.img("create -q -f qcow2 other.qcow2 8M");
    io("other.qcow2", "write -P 7 0 8M");
    std::fs::copy(b.path("top.qcow2"), b.path("moved.qcow2")).unwrap();
    b.img("rebase -b other.qcow2 -F qcow2 moved.qcow2");
    assert_eq!(b.img("compare -f raw want moved.qcow2"), "Images are identical.\n");
    b.img("rebase --backing= moved.qcow2");
    assert_eq!(b.img("compare -f raw want moved.qcow2"), "Images are identical.\n");
    assert!(!b.img("info moved.qcow2").contains("backing"));
    assert_eq!(b.img("commit top.qcow2"), "Image committed.\n");
    assert_eq!(b.img("compare -f raw want mid.qcow2"), "Images are identical.\n");
    assert_eq!(b.img("compare -f raw want top.qcow2"), "Images are identical.\n");
    b.img("commit -b base.qcow2 top.qcow2");
    assert_eq!(b.img("compare -f raw want base.qcow2"), "Images are identical.\n");
    for image in ["top.qcow2", "mid.qcow2", "base.qcow2"] {
        b.img(&format!("check {image}"));
    }
}

#[test]
fn images_are_changed() {
    let b = Bench::new();
    b.source();
    b.img("convert -f raw -O qcow2 src.raw a.qcow2");
    b.img("snapshot -c one a.qcow2");
    b.img("resize -q a.qcow2 +8M");
    assert!(b.fails("resize a.qcow2 4M").contains("--shrink"));
    b.img("resize -q --shrink a.qcow2 4M");
    b.img("amend -o refcount_bits=8 a.qcow2");
    b.img("amend -o lazy_refcounts=on a.qcow2");
    b.img("snapshot -a one a.qcow2");
    assert_eq!(b.img("compare -f raw src.raw a.qcow2"), "Images are identical.\n");
    b.img("snapshot -d one a.qcow2");
    b.img("amend -o refcount_bits=16,lazy_refcounts=off a.qcow2");
    b.img("amend -o compat=0.10 a.qcow2");
    b.img("check a.qcow2");
    b.img("amend -o compat=1.1 a.qcow2");
    b.img("bitmap --add -g 4k a.qcow2 x");
    b.img("bitmap --add --disable a.qcow2 y");
    b.img("bitmap --merge x --clear --remove a.qcow2 y");
    b.img("convert --bitmaps -O qcow2 a.qcow2 c.qcow2");
    assert!(b.img("info c.qcow2").contains("granularity: 4096"));
    b.img("dd if=a.qcow2 of=part bs=1M skip=1 count=2");
    let src = std::fs::read(b.path("src.raw")).unwrap();
    assert!(std::fs::read(b.path("part")).unwrap() == src[1 << 20..3 << 20]);
    b.img("bench -q -w -c 100 -d 4 -s 64k a.qcow2");
    b.img("check a.qcow2");
    if have_qemu() {
        b.qemu("check a.qcow2");
        b.qemu("check c.qcow2");
    }
}

#[test]
fn mistakes_are_named() {
    let b = Bench::new();
    b.img("create -q -f qcow2 a.qcow2 1M");
    for (args, text) in [
        ("frobnicate", "unknown command 'frobnicate'"),
        ("create -f qcow2 x", "SIZE is needed"),
        ("create -f nope x 1M", "format 'nope'"),
        ("create -f qcow2 -o cluster_size=3k x 1M", "option cluster_size=3072: expected a power of two"),
        ("create -f qcow2 -b a.qcow2 x", "needs its format named"),
        ("create -f qcow2 -b missing -F raw x", "missing: No such file"),
        ("create -f raw x 1Q", "expected a size"),
        ("info missing", "missing: No such file"),
        ("convert -c -O vdi a.qcow2 x", "cannot store compressed data"),
        ("check -r some a.qcow2", "expected leaks or all"),
        ("snapshot -a nope a.qcow2", "snapshot 'nope' does not exist"),
        ("bitmap --remove a.qcow2 nope", "bitmap 'nope' does not exist"),
        ("compare a.qcow2", "needs FILE1 and FILE2"),
    ] {
        let said = b.fails(args);
        assert!(said.contains(text), "{args}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{args}: {said}");
    }
    std::fs::write(b.path("m.raw"), [1; 4096]).unwrap();
    std::fs::write(b.path("n.raw"), [1; 4095]).unwrap();
    assert_eq!(b.output(&tool(), "compare -f raw -F raw m.raw n.raw").status.code(), Some(1));
    assert_eq!(b.output(&tool(), "compare -f raw -F raw m.raw missing").status.code(), Some(2));
}

#[test]
fn encrypted_images_are_made_converted_and_their_slots_changed() {
    let b = Bench::new();
    b.source();
    std::fs::write(b.path("pw"), "geheim").unwrap();
    let s = "--object secret,id=s,file=pw";
    let n = "--object secret,id=n,data=bmV1,format=base64";
    b.img(&format!("convert {s} -f raw -O luks -o key-secret=s,iter-time=1 src.raw a.luks"));
    b.img(&format!(
        "convert {s} -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1 --image-opts \
         driver=luks,key-secret=s,file.filename=a.luks b.qcow2"
    ));
    let qcow2 = "driver=qcow2,encrypt.key-secret=s,file.filename=b.qcow2";
    b.img(&format!("compare {s} --image-opts driver=raw,file.filename=src.raw {qcow2}"));
    assert!(b.img("info b.qcow2").contains("encrypted: yes"));
    let text = b.fails("check b.qcow2");
    assert!(text.contains("encrypt.key-secret=ID"), "{text}");
    b.img(&format!("luks add {s} {n} -k s -n n --iter-time 1 b.qcow2"));
    b.img(&format!("luks test {n} -k n b.qcow2"));
    b.img(&format!("luks erase {s} -k s --old-secret s b.qcow2"));
    let text = b.fails(&format!("luks test {s} -k s b.qcow2"));
    assert!(text.contains("invalid password"), "{text}");
    let text = b.fails(&format!("luks erase {n} -k n --slot 1 b.qcow2"));
    assert!(text.contains("no key slot would be left"), "{text}");
    assert!(b.img("luks dump a.luks").contains("master key iters"));
    // An overlay of an encrypted image is committed into it.
    b.img(&format!("create {s} -f qcow2 -F luks -b a.luks c.qcow2"));
    let chain = "driver=qcow2,file.filename=c.qcow2,backing.key-secret=s";
    let out = Command::new(tool())
        .args(["io", "--object", "secret,id=s,file=pw", "-c", "write -P 7 1M 1M", "--image-opts", chain])
        .current_dir(b.dir.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    b.img(&format!("commit {s} --image-opts {chain}"));
    let mut data = std::fs::read(b.path("src.raw")).unwrap();
    data[1 << 20..2 << 20].fill(7);
    std::fs::write(b.path("src.raw"), data).unwrap();
    let luks = "driver=luks,key-secret=s,file.filename=a.luks";
    b.img(&format!("compare {s} --image-opts driver=raw,file.filename=src.raw {luks}"));
    if have_qemu() {
        b.qemu(&format!("compare {s} --image-opts driver=raw,file.filename=src.raw {luks}"));
    }
}

#[cfg(unix)]
#[test]
fn a_convert_that_fails_or_is_killed_leaves_nothing_half_written() {
    let bench = Bench::new();
    let mut data = vec![0u8; 3 << 20];
    data.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 700 % 251) as u8);
    std::fs::write(bench.path("s.raw"), &data).unwrap();
    let left = || {
        let names = std::fs::read_dir(bench.dir.path()).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|n| n != "s.raw" && n != "t").collect::<Vec<_>>()
    };
    for (format, extra) in [("raw", ""), ("qcow2", ""), ("qcow2", "-c"), ("vmdk", ""), ("vdi", "")] {
        for old in [None, Some(b"an image of old".as_slice())] {
            for limit in [0, 1, 64, 200, 1000] {
                match old {
                    Some(old) => std::fs::write(bench.path("t"), old).unwrap(),
                    None => drop(std::fs::remove_file(bench.path("t"))),
                }
                // Files may get so many units of 512 bytes and no more; the error of that is EFBIG.
                let script = format!(
                    "trap '' XFSZ; ulimit -f {limit}; exec {} convert {extra} -f raw -O {format} s.raw t",
                    tool().display()
                );
                let out = Command::new("sh").args(["-c", &script]).current_dir(bench.dir.path()).output();
                let out = out.unwrap();
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                let small = format == "qcow2" && extra == "-c" && limit >= 200;
                let what = format!("{format} {extra}, {limit} units: {said}");
                assert!(small || (!out.status.success() && said.lines().count() == 1), "{what}");
                if !out.status.success() {
                    assert_eq!(std::fs::read(bench.path("t")).ok().as_deref(), old, "{what}");
                }
                assert_eq!(left(), Vec::<std::ffi::OsString>::new(), "{what}");
            }
        }
    }
    // A process that is killed has no chance to tidy up, but the name is given to a whole image only.
    for ms in [0, 1, 2, 4, 8, 16, 32] {
        let _ = std::fs::remove_file(bench.path("t"));
        let args = ["convert", "-f", "raw", "-O", "qcow2", "s.raw", "t"];
        let mut child = Command::new(tool()).args(args).current_dir(bench.dir.path()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(ms));
        child.kill().unwrap();
        child.wait().unwrap();
        if bench.path("t").exists() {
            bench.img("compare -f raw -F qcow2 s.raw t");
        }
    }
}
