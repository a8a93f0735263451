//! How the tool's images reach the host (`-t`, `-T`, `-i`, `-n`, keys of names), and `qemu-io`'s commands that open and close.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::tool;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    /// Runs the tool: whether it did well, and what it said. A bar stands for a space within a word.
    fn run(&self, args: &str, input: &str) -> (bool, String) {
        let words = args.split_whitespace().map(|w| w.replace('|', " "));
        let mut child = Command::new(tool())
            .args(words)
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        (out.status.success(), text)
    }

    #[track_caller]
    fn ok(&self, args: &str) -> String {
        let (good, text) = self.run(args, "");
        assert!(good, "{args}: {text}");
        text
    }

    #[track_caller]
    fn fails(&self, args: &str, words: &str) {
        let (good, text) = self.run(args, "");
        assert!(!good && text.contains(words), "{args}: {text}");
    }
}

/// Whether the folder's file system takes `O_DIRECT`; if not, says so.
fn has_direct(b: &Bench) -> bool {
    b.ok("create -q x 4k");
    let (good, said) = b.run("io -n -f raw -c read|0|512 x", "");
    if !good {
        println!("SKIPPED: {said}");
        assert!(said.contains("O_DIRECT") || cfg!(not(target_os = "linux")), "{said}");
    }
    good
}

#[test]
fn every_cache_mode_and_way_does_the_same() {
    let b = Bench::new();
    if !has_direct(&b) {
        return;
    }
    b.ok("create -q -f qcow2 base 4M");
    b.ok("io -f qcow2 -c write|-P|7|0|1M base");
    for cache in ["none", "off", "writeback", "writethrough", "directsync", "unsafe"] {
        for aio in ["threads", "io_uring", "native"] {
            let direct = matches!(cache, "none" | "off" | "directsync");
            if aio == "native" && !direct {
                b.fails(&format!("io -t {cache} -i native -f raw x"), "aio=native needs cache.direct=on");
                continue;
            }
            b.ok("create -q -f qcow2 -b base -F qcow2 d");
            let io = format!("io -t {cache} -i {aio} -f qcow2");
            b.ok(&format!("{io} -c write|-P|3|100k|70k -c write|-P|4|3M|1001 -c discard|3500k|4k d"));
            b.ok(&format!("{io} -c read|-P|3|100k|70k -c read|-P|7|170k|100k -c read|-P|4|3M|1001 d"));
            b.ok(&format!("convert -t {cache} -T {cache} -f qcow2 -O vmdk d out"));
            b.ok(&format!("compare -T {cache} -f qcow2 -F vmdk d out"));
            b.ok(&format!("check -q -T {cache} -f qcow2 d"));
            b.ok(&format!("bench -q -t {cache} -i {aio} -c 50 -s 3000 -w --flush-interval 64 -f qcow2 d"));
            b.ok(&format!("rebase -t {cache} -T {cache} -f qcow2 --backing= d"));
            b.ok(&format!("amend -t {cache} -f qcow2 -o lazy_refcounts=on d"));
            b.ok("check -q -f qcow2 d");
        }
    }
    b.fails("convert -t fast base out2", "cache mode 'fast': expected one of none, writeback");
    b.fails("io -i fast base", "--aio fast: expected one of threads, native, io_uring");
    b.ok(
        "io --image-opts -c read|-P|7|0|1M driver=qcow2,file.filename=base,file.aio=io_uring,cache.direct=on",
    );
    b.fails("info --image-opts driver=qcow2,file.filename=base,file.aio=fast", "option aio=fast");
}

#[test]
fn rates_are_kept() {
    let b = Bench::new();
    b.ok("create -q src 4M");
    b.ok("io -f raw -c write|-P|1|0|4M src");
    let started = Instant::now();
    b.ok("convert -f raw -O raw -r 8M src dst");
    let took = started.elapsed();
    assert!(took > Duration::from_millis(400), "4 MiB at 8 MiB/s took {took:?}");
    assert!(b.ok("compare -f raw -F raw src dst").contains("identical"));
}

#[test]
fn io_opens_and_closes() {
    let b = Bench::new();
    b.ok("create -q -f qcow2 d 1M");
    let (good, said) = b.run(
        "io",
        "length\nopen d\nopen d\nwritev -P 5 0 512 1024\nread -P 5 0 1536\ninfo\nreopen -r\nwrite 0 512\n\
         read -P 5 0 1k\nreopen -w\nwrite -P 6 0 512\nclose\nopen -s d\nwrite -P 9 0 512\nread -P 9 0 512\nclose\n\
         open -o driver=qcow2 d\nread -P 6 0 512\ntruncate -m metadata 2M\nlength\nclose\nquit\n",
    );
    assert!(!good, "some of it is wrong: {said}");
    for words in [
        "length failed: no file is open",
        "open failed: a file is open already",
        "wrote 1536/1536 bytes at offset 0",
        "format name: qcow2\ncluster size: 64 KiB\n",
        "write failed: ",
        "2 MiB",
    ] {
        assert!(said.contains(words), "{words:?}: {said}");
    }
    assert!(!said.contains("verification failed"), "{said}");
    b.ok("io -r -f qcow2 -c read|-P|6|0|512 d");
    b.ok("io -s -f qcow2 -c write|-P|1|0|512 -c read|-P|1|0|512 d");
    b.ok("io -r -f qcow2 -c read|-P|6|0|512 -c aio_read|-q|0|512|512 d");
}

#[test]
fn requests_stop_at_breakpoints() {
    let b = Bench::new();
    b.ok("create -q -f qcow2 d 1M");
    let lines = "break write_aio A\naio_write -P 1 0 64k\nwait_break A\nread -P 0 0 64k\nbreak write_aio B\n\
                 aio_write -P 2 64k 64k\nwait_break B\nremove_break B\nresume A\naio_flush\nread -P 1 0 64k\n\
                 read -P 2 64k 64k\n";
    let (good, said) = b.run("io blkdebug::d -f qcow2", lines);
    assert!(good && !said.contains("failed"), "{said}");
    // Each is told once it is done, in whatever order that is.
    assert_eq!(said.matches("wrote 65536/65536 bytes").count(), 2, "{said}");
    let (good, said) = b.run("io blkdebug::d", "break write_aio A\naio_write -P 3 0 64k\n");
    assert!(good && said.contains("wrote"), "the end lets it go on: {said}");
    for (lines, words) in [
        ("break nothing A\n", "event=nothing"),
        ("resume A\n", "Could not resume request: No such file"),
        ("remove_break A\n", "Could not remove breakpoint A"),
        ("wait_break A\n", "nothing is under way"),
        ("write -z -P 1 0 512\n", "-z and -P"),
        ("write -u 0 512\n", "-u needs -z"),
        ("zone_report 0 1\n", "zone report failed: Operation not supported"),
        ("help nothing\n", "command nothing not found"),
        ("reopen -o nothing=1\n", "nothing"),
    ] {
        let (good, said) = b.run("io blkdebug::d", lines);
        assert!(!good && said.contains(words), "{lines}: {said}");
    }
    b.fails("io -c break|write_aio|A -f qcow2 d", "Could not set a breakpoint: Operation not supported");
    let said =
        b.ok("io -f qcow2 -c help|resume -c reopen|-o|read-only=on,cache.no-flush=on -c read|-P|3|0|64k d");
    assert!(said.starts_with("resume TAG -- ") && !said.contains("failed"), "{said}");
}

#[test]
fn the_state_of_a_machine_can_be_written_and_read() {
    let b = Bench::new();
    b.ok("create -q -f qcow2 d 1M");
    b.ok("io -f qcow2 -c write|-b|-P|5|4k|100k -c read|-b|-P|5|4k|100k d");
    let said = b.ok("io -f qcow2 -c read|-b|-P|5|4k|100k -c read|-b|-P|0|0|4k -c read|-P|0|0|1M d");
    assert!(!said.contains("failed"), "{said}");
    b.fails("io -f raw -c read|-b|0|4k d", "state of a machine");
}

#[test]
fn nodes_share_limits() {
    let b = Bench::new();
    b.ok("create -q -f qcow2 d 1M");
    let name = "driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=d";
    let started = Instant::now();
    b.ok(&format!(
        "io --object throttle-group,id=g,x-bps-total=1M --image-opts -c write|0|512k -c read|0|512k {name}"
    ));
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    b.ok(&format!("convert --object throttle-group,id=g,limits.iops-total=100000 --image-opts {name} e"));
    b.fails(&format!("io --image-opts -c flush {name}"), "throttle-group=g");
    b.fails(&format!("info --object throttle-group,id=g,x-bps=1 --image-opts {name}"), "x-bps");
    b.fails("info --object throttle-group,x-bps-total=1 d", "id=");
}
