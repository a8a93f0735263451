//! NBD both ways: our server with our client, QEMU's and libnbd's, and our client with QEMU's server.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::tool;

fn have(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        println!("SKIPPED: {program} is not installed");
    }
    there
}

struct Bench {
    dir: tempfile::TempDir,
}

/// A server, ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    /// A folder with an image of 4 MiB: 1 MiB of text, a hole, 1 MiB of noise.
    fn new() -> Self {
        let b = Bench { dir: tempfile::tempdir().unwrap() };
        let mut data: Vec<u8> =
            (0..1 << 20).map(|i: u32| b"jumps over "[i as usize % 11] ^ (i >> 12) as u8).collect();
        data.resize(3 << 20, 0);
        let mut seed = 7u64;
        data.extend((0..1 << 20).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        }));
        std::fs::write(b.path("src.raw"), data).unwrap();
        b.ours("convert -f raw -O qcow2 src.raw src.qcow2");
        b
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn output(&self, program: &Path, args: &str) -> Output {
        Command::new(program).args(args.split_whitespace()).current_dir(self.dir.path()).output().unwrap()
    }

    #[track_caller]
    fn run(&self, program: impl AsRef<Path>, args: &str) -> String {
        let out = self.output(program.as_ref(), args);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{} {args}: {said}{text}", program.as_ref().display());
        text
    }

    #[track_caller]
    fn ours(&self, args: &str) -> String {
        self.run(tool(), args)
    }

    #[track_caller]
    fn io(&self, args: &[&str]) -> String {
        let out = Command::new(tool()).arg("io").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[track_caller]
    fn fails(&self, args: &str) -> String {
        let out = self.output(&tool(), args);
        assert!(!out.status.success(), "{args} went well");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    /// Starts a server at a socket of this name and waits until it listens.
    fn serve(&self, program: &Path, args: &str, socket: &str) -> Server {
        let _ = std::fs::remove_file(self.path(socket));
        let child = Command::new(program)
            .args(args.split_whitespace())
            .args(["-k", self.path(socket).to_str().unwrap()])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server(child);
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.path(socket)).is_err() {
            assert!(
                server.0.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(20),
                "{args}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn our_server(&self, args: &str, socket: &str) -> Server {
        self.serve(&tool(), &format!("nbd {args}"), socket)
    }

    fn uri(&self, socket: &str) -> String {
        format!("nbd+unix:///?socket={}", self.path(socket).display())
    }

    #[track_caller]
    fn same(&self, name: &str) {
        assert!(
            std::fs::read(self.path(name)).unwrap() == std::fs::read(self.path("src.raw")).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn our_client_and_our_server() {
    let b = Bench::new();
    let _server = b.our_server("-t -e 0 -f qcow2 src.qcow2", "s");
    let uri = b.uri("s");
    b.ours(&format!("convert -f raw -O raw {uri} back"));
    b.same("back");
    assert_eq!(b.ours(&format!("compare -f raw -F raw {uri} src.raw")), "Images are identical.\n");
    let map = b.ours(&format!("map --output=json -f raw {uri}"));
    assert!(map.contains("\"zero\": true") && map.contains("\"start\": 1048576"), "{map}");
    let info = b.ours(&format!("info {uri}"));
    assert!(info.contains("virtual size: 4 MiB") && info.contains("protocol type: nbd"), "{info}");
    // Any format on it, and as a backing file.
    b.ours(&format!("create -f qcow2 -b {uri} -F raw top.qcow2"));
    assert!(
        b.io(&["-f", "qcow2", "-c", "write -P 7 64k 64k", "-c", "read -P 7 64k 64k", "top.qcow2"])
            .contains("wrote 65536")
    );
    let json =
        format!(r#"json:{{"driver":"nbd","server":{{"type":"unix","path":"{}"}}}}"#, b.path("s").display());
    b.ours(&format!("compare -f raw {json} src.raw"));
    b.ours(&format!("dd if={uri} of=part bs=1M count=1 skip=3"));
    assert!(std::fs::read(b.path("part")).unwrap() == std::fs::read(b.path("src.raw")).unwrap()[3 << 20..]);
    // Writing: our convert over NBD into our server.
    b.ours("create -f qcow2 dst.qcow2 4M");
    {
        let _target = b.our_server("-t -e 0 --discard=unmap -f qcow2 dst.qcow2", "d");
        b.ours(&format!("convert -n -f raw -O raw -m 4 -W src.raw {}", b.uri("d")));
        let text = b.output(&tool(), &format!("convert -n -O raw src.raw {}", b.uri("gone")));
        let text = String::from_utf8_lossy(&text.stderr).into_owned();
        assert!(text.contains("gone") && text.trim().lines().count() == 1, "{text}");
        // Ended by a signal, it leaves a clean image.
        let pid = _target.0.id().to_string();
        b.run("kill", &format!("-TERM {pid}"));
        let begun = Instant::now();
        while b.path("d").exists() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(b.ours("compare -f raw -F qcow2 src.raw dst.qcow2"), "Images are identical.\n");
    b.ours("check -f qcow2 dst.qcow2");
}

#[test]
fn our_server_and_others_clients() {
    if !have("qemu-img") || !have("nbdinfo") {
        return;
    }
    let b = Bench::new();
    b.ours("bitmap --add src.qcow2 b0");
    b.ours("bitmap --disable src.qcow2 b0");
    let _server = b.our_server("-t -e 0 -r -A -B b0 -x disk -D words -f qcow2 src.qcow2", "s");
    let uri = format!("nbd+unix:///disk?socket={}", b.path("s").display());
    b.run("qemu-img", &format!("compare -f raw -F raw {uri} src.raw"));
    b.run("qemu-img", &format!("convert -f raw -O raw {uri} back"));
    b.same("back");
    b.run("nbdcopy", &format!("{uri} copied"));
    b.same("copied");
    let info = b.run("nbdinfo", &uri);
    for words in ["export-size: 4194304", "description: words", "is_read_only: true", "can_multi_conn: true"]
    {
        assert!(info.contains(words), "{words} in {info}");
    }
    for context in ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"] {
        assert!(info.contains(context), "{info}");
        b.run("nbdinfo", &format!("--map={context} {uri}"));
    }
    let ours = b.run("nbdinfo", &format!("--map {uri}"));
    let theirs = b.serve(Path::new("qemu-nbd"), "-t -e 0 -r -A -x disk -f qcow2 src.qcow2", "q");
    let other = format!("nbd+unix:///disk?socket={}", b.path("q").display());
    assert_eq!(ours, b.run("nbdinfo", &format!("--map {other}")));
    // Lists look alike, except for what each offers.
    let list = b.ours(&format!("nbd -L -k {}", b.path("s").display()));
    assert!(
        list.starts_with("exports available: 1\n export: 'disk'\n  description: words\n  size:  4194304\n"),
        "{list}"
    );
    let list = b.ours(&format!("nbd -L -k {}", b.path("q").display()));
    let expected = b.run("qemu-nbd", &format!("-L -k {}", b.path("q").display()));
    // Without what extended headers bring, which only QEMU's client asks for.
    let plain = |text: &str| {
        let ours = |l: &&str| !l.contains("transaction size") && !l.contains("flags");
        text.lines().filter(ours).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(plain(&list), plain(&expected));
    drop(theirs);
}

#[test]
fn qemu_writes_to_our_server_and_we_to_qemus() {
    if !have("qemu-io") {
        return;
    }
    let b = Bench::new();
    for (ours, socket) in [(true, "s"), (false, "q")] {
        b.ours("create -f qcow2 dst.qcow2 4M");
        let args = "-t -e 0 --discard=unmap -f qcow2 dst.qcow2";
        let server =
            if ours { b.our_server(args, socket) } else { b.serve(Path::new("qemu-nbd"), args, socket) };
        let uri = b.uri(socket);
        let run = |command: &str| {
            let mut c = if ours { Command::new("qemu-io") } else { Command::new(tool()) };
            if !ours {
                c.arg("io");
            }
            let out = c.args(["-f", "raw", "-c", command, &uri]).current_dir(b.dir.path()).output().unwrap();
            let text =
                String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{command}: {text}");
            text
        };
        run("write -P 1 0 1M");
        run("write -f -P 2 3k 5k");
        run("write -z 64k 64k");
        run("write -z -u 128k 64k");
        run("discard 256k 64k");
        run("flush");
        for (pattern, at) in [(1, "0 3k"), (2, "3k 5k"), (0, "64k 128k"), (1, "512k 512k")] {
            let text = run(&format!("read -P {pattern} {at}"));
            assert!(!text.contains("verification failed"), "{at}: {text}");
        }
        if ours {
            b.run("qemu-img", &format!("convert -n -f raw -O raw -m 8 -W src.raw {uri}"));
            b.run("qemu-img", &format!("bench -f raw -c 2000 -d 16 {uri}"));
            b.run("nbdcopy", &format!("src.raw {uri}"));
        } else {
            b.ours(&format!("convert -n -f raw -O raw -m 8 -W src.raw {uri}"));
            b.ours(&format!("bench -f raw -c 2000 -d 16 {uri}"));
        }
        b.run("kill", &format!("-TERM {}", server.0.id()));
        let begun = Instant::now();
        while b.path(socket).exists() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(server);
        b.run("qemu-img", "compare -f raw -F qcow2 src.raw dst.qcow2");
        b.run("qemu-img", "check -f qcow2 dst.qcow2");
    }
}

/// Images are made on an export that is there, which keeps its size; nothing of what it held is seen.
#[test]
fn images_are_made_on_exports() {
    let b = Bench::new();
    let servers: &[&str] = if have("qemu-nbd") { &["ours", "qemu"] } else { &["ours"] };
    for kind in servers {
        std::fs::write(b.path("place"), vec![0xff; 8 << 20]).unwrap();
        let args = "-t -e 0 -f raw place";
        let _server = match *kind {
            "ours" => b.our_server(args, "s"),
            _ => b.serve(Path::new("qemu-nbd"), args, "s"),
        };
        let uri = b.uri("s");
        b.ours(&format!("convert -O qcow2 src.raw {uri}"));
        assert!(b.ours(&format!("compare -f raw -F qcow2 src.raw {uri}")).contains("identical"));
        if have("qemu-img") {
            b.run("qemu-img", "compare -U -f raw -F qcow2 src.raw place");
        }
        b.ours(&format!("convert -O raw src.raw {uri}"));
        assert!(
            std::fs::read(b.path("place")).unwrap()[..4 << 20] == std::fs::read(b.path("src.raw")).unwrap()
        );
        let said = b.ours(&format!("create -f qcow2 {uri} 6M"));
        assert!(said.starts_with("Formatting 'nbd+unix:"), "{said}");
        assert!(b.ours(&format!("check {uri}")).contains("No errors"));
        let text = b.fails(&format!("create -f raw {uri} 9M"));
        assert!(text.contains("8388608") && text.contains("9437184"), "{text}");
        assert_eq!(std::fs::metadata(b.path("place")).unwrap().len(), 8 << 20);
    }
}

#[test]
fn parts_snapshots_and_bitmaps() {
    let b = Bench::new();
    b.ours("snapshot -c s1 src.qcow2");
    b.ours("bitmap --add src.qcow2 b0");
    b.io(&["-f", "qcow2", "-c", "write -P 9 0 64k", "src.qcow2"]);
    {
        let _server = b.our_server("-t -e 0 -l s1 -f qcow2 src.qcow2", "s");
        assert_eq!(
            b.ours(&format!("compare -f raw -F raw {} src.raw", b.uri("s"))),
            "Images are identical.\n"
        );
        let text = b.fails(&format!("convert -n -f raw -O raw src.raw {}", b.uri("s")));
        assert!(text.contains("read-only"), "{text}");
    }
    {
        let _server = b.our_server("-t -e 0 -r -B b0 -f qcow2 src.qcow2", "s");
        let names = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:b0",
            b.path("s").display()
        );
        let map = b.ours(&format!("map --output=json --image-opts {names}"));
        let first = map.lines().next().unwrap();
        assert!(
            first.contains("\"start\": 0")
                && first.contains("\"length\": 65536")
                && first.contains("\"data\": false"),
            "{map}"
        );
        assert!(map.lines().count() == 2, "{map}");
        let text = b.fails(&format!("map --image-opts {}", names.replace(":b0", ":b1")));
        assert!(text.contains("no such context"), "{text}");
    }
    {
        let _server = b.our_server("-t -r -o 3M -f raw src.raw", "s");
        let info = b.ours(&format!("info -f raw {}", b.uri("s")));
        assert!(info.contains("(1048576 bytes)"), "{info}");
    }
    {
        // A temporary layer.
        let before = std::fs::read(b.path("src.raw")).unwrap();
        let _server = b.our_server("-t -e 0 -s -f raw src.raw", "s");
        b.io(&["-f", "raw", "-c", "write -P 5 0 1M", &b.uri("s")]);
        assert!(std::fs::read(b.path("src.raw")).unwrap() == before);
    }
    for (args, words) in [
        ("nbd -f raw", "FILE"),
        ("nbd -f raw nothing", "nothing"),
        ("nbd -p 99999 -f raw src.raw", "99999"),
        ("nbd -B nope -f raw src.raw", "nope"),
        ("nbd -k s -p 5 src.raw", "--socket"),
        ("nbd --nonsense src.raw", "nonsense"),
        ("nbd --tls-creds t0 -k x -f raw src.raw", "t0"),
        ("nbd --object tls-creds-psk,id=a,dir=. -k x --tls-creds a -f raw src.raw", "tls-creds-x509"),
    ] {
        let text = b.fails(args);
        assert!(text.contains(words) && text.trim().lines().count() == 1, "{args}: {text}");
    }
}

#[test]
fn background_and_last_client() {
    let b = Bench::new();
    let socket = b.path("s");
    b.ours(&format!(
        "nbd --fork --pid-file {} -f raw -k {} src.raw",
        b.path("pid").display(),
        socket.display()
    ));
    let pid = std::fs::read_to_string(b.path("pid")).unwrap();
    assert!(pid.trim().parse::<u32>().is_ok());
    b.ours(&format!("convert -f raw -O raw {} back", b.uri("s")));
    b.same("back");
    let begun = Instant::now();
    while b.path("pid").exists() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it ends with its last client");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(b.fails(&format!("nbd --fork -f raw -k {} nothing", socket.display())).contains("nothing"));
}

#[test]
fn filters_by_name() {
    let b = Bench::new();
    let names = "driver=blkdebug,image.driver=raw,image.file.driver=file,image.file.filename=src.raw";
    assert_eq!(b.ours(&format!("compare --image-opts {names} {names}")), "Images are identical.\n");
    let text = b.fails(&format!(
        "convert --image-opts {names},inject-error.0.event=read_aio,inject-error.0.sector=9 out"
    ));
    assert!(text.contains("Input/output error") && !b.path("out").exists(), "{text}");
    let text = b.fails(&format!("info --image-opts {names},inject-error.0.event=l2_load"));
    assert!(text.contains("l2_load"), "{text}");
    // A format on a filter, and several nodes that vote.
    let json = r#"json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"driver":"file","filename":"src.qcow2"}}}"#;
    assert_eq!(b.ours(&format!("compare {json} src.qcow2")), "Images are identical.\n");
    std::fs::copy(b.path("src.raw"), b.path("b.raw")).unwrap();
    let child = |i: u32, name: &str| {
        format!("children.{i}.driver=raw,children.{i}.file.driver=file,children.{i}.file.filename={name}")
    };
    let names = format!(
        "driver=quorum,vote-threshold=2,{},{},{}",
        child(0, "src.raw"),
        child(1, "b.raw"),
        child(2, "src.qcow2").replace("driver=raw", "driver=qcow2")
    );
    b.ours(&format!("convert --image-opts {names} -O raw back"));
    b.same("back");
}

#[test]
fn a_connection_comes_back() {
    let b = Bench::new();
    let server = b.our_server("-t -e 0 -f raw src.raw", "s");
    let options =
        format!("driver=nbd,server.type=unix,server.path={},reconnect-delay=20", b.path("s").display());
    let mut reader = Command::new(tool())
        .args([
            "io",
            "--image-opts",
            "-c",
            "read -q 0 64k",
            "-c",
            "sleep 1500",
            "-c",
            "read -P 0 1M 1M",
            &options,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    drop(server);
    std::thread::sleep(Duration::from_millis(1500));
    let _server = b.our_server("-t -e 0 -f raw src.raw", "s");
    assert!(reader.wait().unwrap().success());
}

/// Makes a folder of certificates with OpenSSL: an authority, and one signed by it for each end.
fn certificates(b: &Bench) -> bool {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return false;
    }
    std::fs::create_dir(b.path("pki")).unwrap();
    let ssl = |args: &str| b.run("openssl", args);
    ssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=ca -keyout pki/ca-key.pem -out pki/ca-cert.pem",
    );
    for end in ["server", "client"] {
        ssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext extendedKeyUsage={end}Auth -keyout pki/{end}-key.pem -out pki/{end}.csr"
        ));
        ssl(&format!(
            "x509 -req -in pki/{end}.csr -CA pki/ca-cert.pem -CAkey pki/ca-key.pem -CAcreateserial -days 30 -copy_extensions copyall -out pki/{end}-cert.pem"
        ));
    }
    true
}

#[test]
fn tls_both_ways() {
    let b = Bench::new();
    if !certificates(&b) || !have("qemu-nbd") {
        return;
    }
    let object = |end: &str| format!("--object tls-creds-x509,id=t0,dir=pki,endpoint={end}");
    let client = |socket: &str| {
        format!(
            "driver=nbd,server.type=unix,server.path={},tls-creds=t0,tls-hostname=localhost",
            b.path(socket).display()
        )
    };
    let args = format!("-t -e 0 -r {} --tls-creds t0 -f raw src.raw", object("server"));
    let ours = b.our_server(&args, "s");
    let theirs = b.serve(Path::new("qemu-nbd"), &args, "q");
    for socket in ["s", "q"] {
        let names = client(socket);
        b.ours(&format!("convert {} --image-opts {names} -O raw back", object("client")));
        b.same("back");
        let qemu = names
            .replace("driver=nbd", "driver=raw,file.driver=nbd")
            .replace(",server", ",file.server")
            .replace(",tls", ",file.tls");
        b.run("qemu-img", &format!("convert {} --image-opts {qemu} -O raw back2", object("client")));
        b.same("back2");
        let text = b.fails(&format!("info {}", b.uri(socket)));
        assert!(text.contains("TLS"), "{text}");
    }
    // Who may, by the name in the certificate; both servers know it by the same one.
    for (match_, policy, may) in
        [("CN=localhost", "allow", true), ("CN=localhost", "deny", false), ("CN=*", "allow", false)]
    {
        let rule = format!(
            "--object authz-list,id=a0,rules.0.match={match_},rules.0.policy={policy} --tls-authz a0"
        );
        let ours = b.our_server(&format!("{rule} {args}"), "a");
        let theirs = b.serve(Path::new("qemu-nbd"), &format!("{rule} {args}"), "b");
        for socket in ["a", "b"] {
            let out =
                b.output(&tool(), &format!("info {} --image-opts {}", object("client"), client(socket)));
            assert_eq!(out.status.success(), may, "{socket} {rule}");
        }
        drop((ours, theirs));
    }
    assert!(b.fails("nbd -k x --tls-authz a0 -f raw src.raw").contains("--tls-creds"));
    let wrong = client("s").replace("tls-hostname=localhost", "tls-hostname=elsewhere");
    let text = b.fails(&format!("info {} --image-opts {wrong}", object("client")));
    assert!(text.contains("TLS") && text.trim().lines().count() == 1, "{text}");
    drop((ours, theirs));
}
