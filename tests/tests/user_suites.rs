//! Long tests of user mode (`make user-tests`): Debian's tools, compiler, debugger and Python with its own tests, of each
//! architecture, from the roots that `guests.sh` puts into `build/guests/suites`; storms and random system calls for longer than
//! `cargo test` has time for.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, thread};

use rhea_tests::boot::{self, Scratch};
use rhea_tests::programs::{COMPILERS, program, rhea, said};
use rhea_tests::{skip, workspace};

const ARCHITECTURES: [&str; 3] = ["riscv64", "i386", "x86_64"];

/// A root of an architecture's programs.
struct Root {
    arch: &'static str,
    path: String,
    scratch: Scratch,
}

impl Root {
    fn new(arch: &'static str, test: &str) -> Option<Self> {
        let gdb = boot::guest(&format!("suites/{arch}/usr/bin/gdb"))?;
        let path = gdb.ancestors().nth(3)?.to_str()?.to_owned();
        Some(Self { arch, path, scratch: Scratch::new(&format!("user-suites-{test}-{arch}")) })
    }

    /// A program of the root's, in the scratch folder.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut c = rhea(&["--arch", self.arch, "-L", &self.path, &format!("{}{program}", self.path)]);
        c.args(arguments).current_dir(self.scratch.path(".")).env("HOME", self.scratch.path("."));
        c.env("LC_ALL", "C.UTF-8").env("TMPDIR", self.scratch.path(".")).stdin(Stdio::null());
        c
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().expect("a program that runs")
    }

    /// Runs a program, which succeeds; what it printed.
    fn says(&self, program: &str, arguments: &[&str]) -> String {
        let out = self.run(program, arguments);
        assert!(out.status.success(), "{} {program} {arguments:?}: {}", self.arch, said(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// A script of the root's shell.
    fn shell(&self, script: &str) -> String {
        self.says("/usr/bin/bash", &["-euc", script])
    }
}

fn for_each(test: &str, run: impl Fn(&Root)) {
    for arch in ARCHITECTURES {
        if let Some(root) = Root::new(arch, test) {
            run(&root);
        }
    }
}

#[test]
fn tools_work_together() {
    for_each("tools", |root| {
        let text = root.shell(
            "for i in 1 2 3; do head -c 100000 /dev/urandom >f$i; done; ln -s f1 link; mkdir in; mv f2 in; ls -R | sort | tr '\\n' ' '\n\
             for z in gzip bzip2 xz zstd; do tar --use-compress-program=$z -cf a.$z f1 f3 in link; mkdir $z\n\
             tar --use-compress-program=$z -xf a.$z -C $z; diff -r in $z/in; cmp f3 $z/f3; readlink $z/link; done\n\
             seq 1 1000 | awk '{ s += $1 * $1 } END { print s }'; seq 1 20 | sed -n '/5/,/8/p' | tr '\\n' ,\n\
             find . -name 'f*' -type f | xargs sha256sum | cut -d' ' -f1 | sort -u | wc -l\n\
             perl -e 'print join(q(,), map { sprintf q(%.3f), sqrt $_ } 1..4), qq(\\n)'\n\
             printf 'all: a b\\na:\\n\\t@echo made\\nb:\\n\\t@echo made\\n' >Makefile; make -j2 | sort | uniq -c | tr -s ' '",
        );
        let expected = "./in: .: Makefile";
        assert!(!text.contains(expected), "{text}");
        let tail = "f1\nf1\nf1\nf1\n333833500\n5,6,7,8,15,16,17,18,3\n1.000,1.414,1.732,2.000\n 2 made\n";
        assert!(text.ends_with(tail), "{}: {text}", root.arch);
    });
}

#[test]
fn git_keeps_a_repository() {
    for_each("git", |root| {
        let text = root.shell(
            "git init -q r; cd r; for i in 1 2 3; do echo $i >f$i; git add .\n\
             git -c user.name=a -c user.email=b commit -q -m \"number $i\"; done; git fsck --strict; git gc -q; cd ..\n\
             git clone -q r c; cd c; git log --format=%s; git branch -q other; git checkout -q other; git rm -q f1; git status --short",
        );
        assert_eq!(text, "number 3\nnumber 2\nnumber 1\nD  f1\n", "{}", root.arch);
    });
}

#[test]
fn sqlite_keeps_a_database() {
    for_each("sqlite", |root| {
        let sql = "create table t(a integer, b text);\n\
            with recursive n(x) as (select 1 union all select x + 1 from n where x < 20000) insert into t select x, hex(x) from n;\n\
            create index i on t(b); begin; delete from t where a % 3 = 0; rollback; delete from t where a % 2 = 0;\n\
            pragma integrity_check; select count(*), sum(a), max(b) from t;";
        assert_eq!(root.says("/usr/bin/sqlite3", &["db", sql]), "ok\n10000|100000000|39393939\n");
    });
}

#[test]
fn a_compiler_makes_programs() {
    for_each("gcc", |root| {
        let source = root.scratch.path("p.c");
        fs::write(
            &source,
            "#include <math.h>\n#include <stdio.h>\n#include <pthread.h>\nstatic void *f(void *a) { *(double *)a = sqrt(2.0); return 0; }\n\
             int main(void) { pthread_t t; double d; pthread_create(&t, 0, f, &d); pthread_join(t, 0); printf(\"%.6f\\n\", d); return 5; }\n",
        )
        .unwrap();
        root.says("/usr/bin/gcc", &["-O2", "-Wall", "-o", "p", "p.c", "-lm"]);
        let out = rhea(&["-L", &root.path]).arg(root.scratch.path("p")).output().unwrap();
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(5), &b"1.414214\n"[..]), "{}", said(&out));
    });
}

/// A program for a debugger, linked dynamically: the root has what it loads.
fn debugged(root: &Root) -> Option<PathBuf> {
    let (_, compiler) = COMPILERS.iter().find(|(a, _)| *a == root.arch)?;
    let source = root.scratch.path("d.c");
    fs::write(
        &source,
        "#include <stdio.h>\n#include <unistd.h>\nstatic int twice(int n)\n{\n    return n * 2;\n}\nint main(int argc, char **argv)\n{\n    \
         int sum = 0;\n    if (argc > 1)\n        for (;;)\n            sleep(1);\n    for (int i = 0; i < 3; i++)\n        sum += twice(i);\n    \
         printf(\"sum %d\\n\", sum);\n    return sum;\n}\n",
    )
    .ok()?;
    let out = root.scratch.path("d");
    let done = Command::new(compiler[0]).args(["-g", "-O0", "-o"]).args([&out, &source]).output();
    if !done.is_ok_and(|d| d.status.success()) {
        skip(&format!("a debugger under user mode: no compiler for {}", root.arch));
        return None;
    }
    Some(out)
}

fn in_order(text: &str, expected: &[&str], arch: &str) {
    let mut rest = text;
    for e in expected {
        let Some(at) = rest.find(e) else { panic!("{arch}: no {e:?} in\n{text}") };
        rest = &rest[at..];
    }
}

#[test]
fn a_debugger_debugs_programs() {
    for_each("gdb", |root| {
        let Some(program) = debugged(root) else { return };
        let script = root.scratch.path("script");
        let commands = "set pagination off\nset confirm off\nset width 0\nbreak twice\nrun\nbacktrace\nprint n\nfinish\nnext\nstepi\n\
            continue\nset variable n = 20\ndelete\nprint twice(21)\ncontinue\n";
        fs::write(&script, commands).unwrap();
        let text = root.says(
            "/usr/bin/gdb",
            &["-nx", "-q", "-batch", "-x", script.to_str().unwrap(), program.to_str().unwrap()],
        );
        let expected = [
            "Breakpoint 1, twice (n=0)",
            "#1 ",
            "in main (argc=1",
            "= 0",
            "Value returned is",
            "Breakpoint 1, twice (n=1)",
            "= 42",
            "sum 44",
            "exited with code 054",
        ];
        in_order(&text, &expected, root.arch);
    });
}

#[test]
fn a_debugger_attaches() {
    for_each("attach", |root| {
        let Some(program) = debugged(root) else { return };
        let mut guest = rhea(&["-L", &root.path]).arg(&program).arg("wait").spawn().unwrap();
        thread::sleep(std::time::Duration::from_secs(2));
        let pid = guest.id().to_string();
        let out = root
            .run("/usr/bin/gdb", &["-nx", "-q", "-batch", "-p", &pid, "-ex", "backtrace", "-ex", "detach"]);
        let alive = guest.try_wait().unwrap().is_none();
        guest.kill().unwrap();
        guest.wait().unwrap();
        in_order(&said(&out), &["sleep", "main (argc=2", "detached"], root.arch);
        assert!(alive, "{}", root.arch);
    });
}

#[test]
fn strace_follows_programs() {
    for_each("strace", |root| {
        let mut c = root.command("/usr/bin/strace", &["-f", "-o", "log", "/usr/bin/bash", "-c"]);
        let out = c.arg("/usr/bin/echo one; (echo two) | cat").output().unwrap();
        assert_eq!(out.stdout, b"one\ntwo\n", "{}: {}", root.arch, said(&out));
        let log = fs::read_to_string(root.scratch.path("log")).unwrap();
        in_order(&log, &["execve(\"/usr/bin/bash\"", "write(1, \"one\\n\", 4)", "exited with 0"], root.arch);
    });
}

/// Tests of Python's own that are left out, each for a reason.
const PYTHON_LEFT_OUT: &[&str] = &[
    // Connects to the machine itself by AF_VSOCK, which needs a vsock device on the host: elsewhere it fails natively as well.
    "*ThreadedVSOCKSocketStreamTest*",
];

fn python(names: &[&str]) {
    for_each("python", |root| {
        for name in names {
            let mut c = root.command("/usr/bin/python3", &["-m", "test", "-q", name]);
            for left_out in PYTHON_LEFT_OUT {
                c.args(["-i", left_out]);
            }
            let out = c.output().expect("a program that runs");
            assert!(out.status.success(), "{} {name}: {}", root.arch, said(&out));
        }
    });
}

#[test]
fn python_counts_and_packs() {
    python(&["test_math", "test_struct", "test_json", "test_hashlib"]);
}

#[test]
fn python_has_threads_and_processes() {
    python(&["test_threading", "test_subprocess", "test_signal"]);
}

#[test]
fn python_maps_and_connects() {
    python(&["test_mmap", "test_socket"]);
}

#[test]
fn stress_ng_verifies() {
    for_each("stress", |root| {
        for method in ["cpu", "vm", "memcpy", "atomic", "futex"] {
            let stressor = format!("--{method}");
            let mut arguments =
                vec!["--verify", "--timeout", "10s", "--metrics-brief", "--no-rand-seed", &stressor, "2"];
            if method == "vm" {
                arguments.extend(["--vm-bytes", "32M"]);
            }
            let out = root.run("/usr/bin/stress-ng", &arguments);
            assert!(out.status.success(), "{} {method}: {}", root.arch, said(&out));
        }
    });
}

#[test]
fn storms_of_children_and_signals() {
    for (arch, _) in COMPILERS {
        let Some(path) = program(arch, "storms") else { continue };
        let out = rhea(&[]).arg(&path).args(["500", "5000"]).output().unwrap();
        assert_eq!(out.stdout, b"storms ok\n", "{arch}: {}", said(&out));
    }
}

#[test]
fn random_system_calls() {
    for (arch, _) in COMPILERS.iter().filter(|(a, _)| *a != "i386") {
        let Some(path) = program(arch, "fuzz") else { continue };
        for seed in 2..12 {
            let out =
                rhea(&["-D", "/dev/null"]).arg(&path).args([&seed.to_string(), "5000"]).output().unwrap();
            assert_eq!(out.stdout, b"fuzz ok\n", "{arch} {seed}: {}", said(&out));
        }
    }
}

/// The same programs natively and as guests.
#[test]
fn programs_of_the_host_do_the_same() {
    let scratch = Scratch::new("user-suites-same");
    let root = workspace::root();
    let source = root.join("Cargo.lock");
    let source = source.to_str().unwrap();
    let commands: &[&[&str]] = &[
        &["/usr/bin/sort", "-k2", source],
        &["/usr/bin/md5sum", source],
        &["/usr/bin/xz", "-9", "-k", "-c", source],
        &["/usr/bin/gzip", "-9", "-n", "-c", source],
        &[
            "/usr/bin/awk",
            "{ n[$1]++ } END { for (k in n) s += n[k]; printf \"%d %.9f\\n\", s, log(s) }",
            source,
        ],
        &["/usr/bin/perl", "-ne", "$h{$_}++ for split; END { print scalar(keys %h), qq(\\n) }", source],
        &[
            "/usr/bin/python3",
            "-c",
            "import sys, zlib, decimal\nprint(zlib.crc32(open(sys.argv[1], 'rb').read()), decimal.Decimal(2) ** decimal.Decimal('0.5'))",
            source,
        ],
        &["/usr/bin/openssl", "speed", "-help"],
        &["/usr/bin/find", "/usr/include/linux", "-newer", "/etc/passwd"],
        &["/bin/ls", "-la", "/usr/lib"],
        &["/usr/bin/stat", "-c", "%n %s %i %a", source],
        &["/usr/bin/bc", "-l"],
    ];
    for command in commands {
        if !Path::new(command[0]).exists() {
            skip(&format!("comparison of user mode with the host: no {}", command[0]));
            continue;
        }
        let run = |mut c: Command| {
            c.env("LC_ALL", "C").current_dir(scratch.path(".")).stdin(Stdio::null()).output().unwrap()
        };
        let mut native = Command::new(command[0]);
        native.args(&command[1..]);
        let (native, guest) = (run(native), run(rhea(command)));
        assert!(
            native.stdout == guest.stdout && native.status == guest.status,
            "{command:?}: {}",
            said(&guest)
        );
    }
}

/// `apt-get update` in a foreign root, whose programs the kernel starts with Rhea.
#[test]
fn apt_updates_in_a_foreign_root() {
    let Some(root) = Root::new("riscv64", "apt") else { return };
    let starter = boot::rhea().with_file_name("rhea-static");
    if !starter.exists() {
        skip("apt-get in a foreign root: no rhea-static (make static)");
        return;
    }
    let script = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77\n\
        rhea=$1 root=$2 list=$3 etc=$4\n\
        \"$rhea\" binfmt install riscv64 || exit 1\n\
        cp -a \"$root\"/etc \"$etc\" && cp /etc/resolv.conf \"$etc\"\n\
        mount --bind \"$root\" \"$root\" && mount --bind \"$etc\" \"$root/etc\" && mount -t tmpfs none \"$root/tmp\" && mount -t tmpfs none \"$root/var\" || exit 78\n\
        mkdir -p \"$root\"/var/lib/apt/lists/partial \"$root\"/var/cache/apt/archives/partial \"$root\"/var/lib/dpkg\n\
        : >\"$root\"/var/lib/dpkg/status; printf '%s' \"$list\" >\"$root\"/tmp/list\n\
        chroot \"$root\" /usr/bin/uname -m || exit 1\n\
        options='-o Dir::Etc::SourceList=/tmp/list -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root -o Acquire::Languages=none'\n\
        chroot \"$root\" /usr/bin/apt-get $options update && chroot \"$root\" /usr/bin/apt-cache $options policy bash\n";
    let mirror = Command::new("bash")
        .args(["-c", ". resources/scripts/lib.sh; mirror"])
        .current_dir(workspace::root())
        .output()
        .unwrap();
    let mirror = String::from_utf8_lossy(&mirror.stdout).trim().to_owned();
    let list =
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} trixie main\n");
    let out = Command::new("unshare")
        .args(["-Urm", "bash", "-c", script, "x"])
        .arg(starter)
        .args([&root.path, &list])
        .arg(root.scratch.path("etc"))
        .output()
        .unwrap();
    if matches!(out.status.code(), Some(77)) || out.stderr.starts_with(b"unshare:") {
        skip("apt-get in a foreign root: no namespace with a registry of binfmt_misc of its own");
        return;
    }
    in_order(
        &said(&out),
        &["riscv64: installed", "riscv64", "Reading package lists", "Candidate:"],
        "riscv64",
    );
}
