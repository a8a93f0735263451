//! User mode: programs compiled from `tests/programs/user` that check themselves, Debian's own, held against qemu-riscv64 where
//! both do the same, and the host's own, held against the host.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::process::{Command, Output, Stdio};
use std::{fs, io::Write};

use rhea_tests::programs::{COMPILERS, program, rhea, said};
use rhea_tests::tiny::riscv_program;
use rhea_tests::{boot, skip, workspace};

fn checks_itself(name: &str, options: &[&str], arguments: &[&str]) {
    for (arch, _) in COMPILERS {
        // What is random reaches the program itself too easily in 4 GiB, which is less than a base with 256 GiB asks for.
        if arch == "i386" && (name == "fuzz" || options.contains(&"-R")) {
            continue;
        }
        let Some(path) = program(arch, name) else { continue };
        let out = rhea(options).arg(&path).args(arguments).output().expect("a program that runs");
        let ok = out.status.success() && out.stdout == format!("{name} ok\n").as_bytes();
        assert!(ok, "{arch}: {}", said(&out));
    }
}

#[test]
fn signals_are_exact() {
    checks_itself("signals", &[], &[]);
}

#[test]
fn threads_share_memory() {
    checks_itself("threads", &[], &[]);
}

#[test]
fn memory_is_mapped_and_code_changes() {
    checks_itself("memory", &[], &[]);
}

#[test]
fn processes_files_and_sockets() {
    checks_itself("system", &[], &[]);
}

#[test]
fn system_calls_are_filtered() {
    checks_itself("filters", &[], &[]);
}

#[test]
fn programs_trace_others() {
    checks_itself("tracer", &[], &[]);
}

#[test]
fn programs_attach_to_others() {
    checks_itself("attach", &[], &[]);
}

#[test]
fn children_and_signals_come_in_storms() {
    checks_itself("storms", &[], &["60", "300"]);
}

const STRACE: &str = "/usr/bin/strace";

/// Whether the host has strace; says what is skipped if it has not.
fn has_strace(what: &str) -> bool {
    let there = std::path::Path::new(STRACE).exists();
    if !there {
        skip(&format!("{what}: there is none"));
    }
    there
}

#[test]
fn strace_sees_system_calls() {
    if !has_strace("strace under user mode") {
        return;
    }
    let dir = boot::Scratch::new("user-strace");
    let log = dir.path("log");
    // It attaches to what it starts (`PTRACE_SEIZE`).
    let options = ["-f", "-o", &log.to_string_lossy()].map(str::to_owned);
    let out =
        rhea(&[STRACE]).args(&options).args(["/bin/sh", "-c", "/bin/echo one; (echo two)"]).output().unwrap();
    assert!(out.status.success() && out.stdout == b"one\ntwo\n" && out.stderr.is_empty(), "{}", said(&out));
    let text = fs::read_to_string(log).unwrap();
    let has = |what: &str| text.lines().any(|l| l.contains(what));
    assert!(
        has("execve(\"/bin/echo\", [\"/bin/echo\", \"one\"]") && has("write(1, \"one\\n\", 4)"),
        "{text}"
    );
    assert!(has("write(1, \"two\\n\", 4)") && text.matches("+++ exited with 0 +++").count() == 3, "{text}");
}

/// Calls about files, in one spacing, without addresses.
fn file_calls(log: &std::path::Path) -> Vec<String> {
    const CALLS: [&str; 8] =
        ["prlimit64(", "openat(", "read(", "pread64(", "newfstatat(", "close(", "access(", "write("];
    let without =
        |word: &str| if word.starts_with("0x") && word.len() > 7 { "ADDRESS" } else { word }.to_owned();
    let line = |l: &str| l.split_whitespace().map(without).collect::<Vec<_>>().join(" ");
    let text = fs::read_to_string(log).expect("a log");
    let calls = text.lines().map(|l| l.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' '));
    calls.filter(|l| CALLS.iter().any(|c| l.starts_with(c))).map(line).collect()
}

#[test]
fn system_calls_are_printed_as_strace_prints_them() {
    if !has_strace("what strace prints") {
        return;
    }
    let dir = boot::Scratch::new("user-printed");
    fs::write(dir.path("file"), "text\twith 0 and \x001 and so on, longer than is shown\n").unwrap();
    let log = dir.path("log");
    let calls = |mut c: Command, option: &str| {
        c.arg(option).arg(&log).args(["/bin/cat", "file", "none"]).current_dir(dir.path("."));
        // Where libraries are looked for in a search path depends on the processor, which is not the same for both.
        c.env("LC_ALL", "C").env_remove("LD_LIBRARY_PATH").output().unwrap();
        let calls = file_calls(&log);
        fs::remove_file(&log).unwrap();
        calls
    };
    let (native, ours) = (calls(Command::new(STRACE), "-o"), calls(rhea(&["-strace"]), "-D"));
    assert!(native.len() > 8, "{native:?}");
    assert_eq!(ours, native);
}

#[test]
fn a_guest_base_changes_nothing() {
    checks_itself("signals", &["-B", "0x100000000000", "-R", "256G"], &[]);
    checks_itself("memory", &["-B", "0x100000000000", "-R", "256G"], &[]);
}

#[test]
fn the_interpreter_does_the_same() {
    checks_itself("signals", &["-interp"], &[]);
}

#[test]
fn a_second_look_at_hot_code_changes_nothing() {
    for options in
        [&[][..], &["-hot", "on"], &["-hot", "on", "-cache", "off"], &["-hot", "now", "-cache", "off"]]
    {
        checks_itself("hot", options, &[]);
    }
    for name in ["signals", "memory", "threads"] {
        checks_itself(name, &["-hot", "now", "-cache", "off"], &[]);
    }
}

#[test]
fn fuzz_of_system_calls() {
    let cases = std::env::var("RHEA_FUZZ_CASES").unwrap_or_else(|_| "2000".into());
    checks_itself("fuzz", &["-D", "/dev/null"], &["1", &cases]);
}

/// The host's own programs, natively and as a guest's.
#[test]
fn programs_of_the_host_do_the_same_as_guests() {
    let same = |command: &[&str], input: &str| {
        let mut native = Command::new(command[0]);
        native.args(&command[1..]).env("LC_ALL", "C");
        if !std::path::Path::new(command[0]).exists() {
            skip(&format!("comparison of user mode with the host: no {}", command[0]));
            return;
        }
        let native = run(native, input);
        let guest = run(rhea(command), input);
        let out = |o: &Output| String::from_utf8_lossy(&o.stdout).into_owned();
        assert_eq!(
            (out(&guest), guest.status),
            (out(&native), native.status),
            "{command:?}: {}",
            said(&guest)
        );
    };
    let bash = "trap 'echo got it' USR1; kill -USR1 $$; for i in {1..20}; do echo $((i * i % 7)); done | sort -rn | uniq -c; \
        echo $BASH_VERSION $(ls /usr | head -3); (exit 3); echo $?; printf '%.3f\\n' 2.5; kill -9 $$";
    same(&["/bin/bash", "-c", bash], "");
    same(&["/bin/sed", "-E", "s/(a+)b/<\\1>/g"], "aab ab b\n");
    same(&["/usr/bin/sha512sum"], "some text\n");
    same(&["/usr/bin/factor", "18446744073709551557", "1234567890123456789"], "");
    same(
        &[
            "/usr/bin/perl",
            "-e",
            "print map { sprintf('%.10g ', sin($_ ** 1.5)) } 1..20; print fork ? wait && $? : exit 5",
        ],
        "",
    );
    let python = "import json, struct, hashlib, threading, subprocess, decimal, math\n\
        print(hashlib.sha256(b'x' * 99999).hexdigest(), json.dumps([1.5, None]), 3 ** 200, math.gamma(4.5))\n\
        r = []\nt = [threading.Thread(target=lambda: r.append(sum(range(5000)))) for _ in range(4)]\n\
        [x.start() for x in t]; [x.join() for x in t]\n\
        print(r, subprocess.run(['/bin/echo', 'hi'], capture_output=True).stdout, decimal.Decimal(2).sqrt())\n";
    same(&["/usr/bin/python3", "-c", python], "");
}

#[test]
fn the_smallest_program_runs() {
    let dir = boot::Scratch::new("user-tiny");
    let path = dir.path("tiny");
    fs::write(&path, riscv_program()).unwrap();
    let out = rhea(&["-0", "hello, there"]).arg(&path).output().unwrap();
    assert_eq!((out.status.code(), &out.stdout[..]), (Some(7), &b"hello"[..]), "{}", said(&out));
    let out = Command::new(boot::rhea())
        .args(["user", "--arch", "riscv64", "-strace", "-0", "hello"])
        .arg(&path)
        .output()
        .unwrap();
    let trace = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(trace.contains("write(1, \"hello\", 5) = 5\n") && trace.contains("exit(7)"), "{trace}");
}

#[test]
fn what_cannot_run_is_said_in_one_line() {
    let dir = boot::Scratch::new("user-bad");
    let bad = |bytes: &[u8], what: &str| {
        let path = dir.path("bad");
        fs::write(&path, bytes).unwrap();
        let out = rhea(&["--arch", "riscv64"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(126) && text.contains(what) && text.lines().count() == 1, "{text}");
    };
    bad(b"hello", "neither an ELF program nor a script");
    bad(
        &fs::read("/bin/true").unwrap(),
        "is for another machine (ELF machine 62), this runs riscv64 programs",
    );
    let mut cut = riscv_program();
    cut.truncate(100);
    bad(&cut, "no segment to load");
    let mut interp = riscv_program();
    // The segment becomes an interpreter's name as well: there is none.
    interp[56] = 1;
    interp[64] = 3;
    bad(&interp, "no segment to load");
    let out = rhea(&["/nonexistent/program"]).output().unwrap();
    assert_eq!(out.status.code(), Some(127), "{}", said(&out));
}

/// Without a C library: there is none for it in Debian.
#[test]
fn a_program_of_32_bit_risc_v_runs() {
    let (_, compiler) = COMPILERS[0];
    let dir = boot::Scratch::new("user-riscv32");
    let (source, out) = (workspace::root().join("tests/programs/user/riscv32.c"), dir.path("riscv32"));
    let done = Command::new(compiler[0])
        .args(["-march=rv32imac", "-mabi=ilp32", "-nostdlib", "-static", "-O1", "-Wl,-melf32lriscv", "-o"])
        .args([&out, &source])
        .output();
    let Ok(done) = done else {
        skip("riscv32 of user mode: no compiler");
        return;
    };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for base in [&[][..], &["-B", "0x100000000000"]] {
        let out = rhea(base).arg(&out).arg("an argument").output().unwrap();
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(7), &b"riscv32 ok\n"[..]), "{}", said(&out));
    }
}

#[test]
fn debian_programs_of_i386() {
    let Some(bash) = boot::guest("i386-root/usr/bin/bash") else { return };
    let root =
        bash.ancestors().nth(3).expect("a root").to_str().expect("paths of guests are UTF-8").to_owned();
    let says = |command: &[&str], expected: &str| {
        let out =
            rhea(&["-L", &root, &format!("{root}{}", command[0])]).args(&command[1..]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), expected, "{command:?}: {}", said(&out));
    };
    let script = "trap 'echo got it' USR1; kill -USR1 $$; echo $((6 * 7)) $(/usr/bin/expr 1 + 1); (exit 3); echo $?; \
        printf '3\\n1\\n2\\n' | /usr/bin/sort | /usr/bin/tail -1; /usr/bin/uname -m";
    says(&["/usr/bin/bash", "-c", script], "got it\n42 2\n3\n3\ni686\n");
    says(
        &["/usr/bin/perl", "-e", "printf '%s %.6f', join(',', map { $_ ** 2 } 1..5), sin(1)"],
        "1,4,9,16,25 0.841471",
    );
    let python = "import json, hashlib, struct, subprocess, os, time, socket, select\n\
        a, b = socket.socketpair(); a.send(b'x'); print(select.select([b], [], [], 1)[0] == [b])\n\
        print(hashlib.sha256(b'x').hexdigest()[:8], json.dumps([1.5]), 2 ** 70, struct.calcsize('P'), os.stat('/').st_size > 0)\n\
        print(subprocess.run(['/usr/bin/echo', 'hi'], capture_output=True).stdout, time.time() > 1e9)\n\
        try: subprocess.run(['/nonexistent'])\nexcept FileNotFoundError as e: print(e.errno)\n";
    says(
        &["/usr/bin/python3", "-c", python],
        "True\n2d711642 [1.5] 1180591620717411303424 4 True\nb'hi\\n' True\n2\n",
    );
}

/// Debian's programs, from the packages `guests.sh` fetches.
fn root() -> Option<String> {
    let path = boot::guest("riscv64-root/usr/bin/bash")?;
    let root = path.ancestors().nth(3)?;
    Some(root.to_str().expect("paths of guests are UTF-8").to_owned())
}

fn run(mut c: Command, input: &str) -> Output {
    let mut child = c
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a program that starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("a reader");
    child.wait_with_output().expect("a program that ends")
}

/// Runs the same under Rhea and under qemu-riscv64.
fn same_as_qemu(command: &[&str], input: &str) {
    let Some(root) = root() else { return };
    let program = format!("{root}{}", command[0]);
    let mut ours = rhea(&["-L", &root, &program]);
    ours.args(&command[1..]);
    let ours = run(ours, input);
    assert!(ours.status.success(), "{command:?}: {}", said(&ours));
    let mut theirs = Command::new("qemu-riscv64");
    theirs.args(["-L", &root, &program]).args(&command[1..]).env("LC_ALL", "C");
    if Command::new("qemu-riscv64").arg("--version").stdout(Stdio::null()).status().is_err() {
        skip("comparison of user mode: no qemu-riscv64");
        return;
    }
    let theirs = run(theirs, input);
    assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&theirs.stdout), "{command:?}");
    assert_eq!(ours.status, theirs.status, "{command:?}");
}

#[test]
fn debian_shell_and_tools() {
    same_as_qemu(&["/usr/bin/dash", "-c", "for i in 1 2 3; do echo $((i * i)); done; exit 0"], "");
    same_as_qemu(
        &[
            "/usr/bin/bash",
            "-c",
            "a=(x y z); echo ${a[@]:1} ${#a[@]}; printf '%05.2f\\n' 3.14159; [[ abc =~ b(.) ]] && echo ${BASH_REMATCH[1]}",
        ],
        "",
    );
    same_as_qemu(&["/usr/bin/sha256sum"], "some text\n");
    same_as_qemu(&["/usr/bin/sort", "-rn"], "3\n20\n100\n");
    same_as_qemu(&["/usr/bin/sed", "-E", "s/(a+)b/<\\1>/g"], "aab ab b\n");
    same_as_qemu(&["/usr/bin/grep", "-c", "^a"], "a\nb\nab\n");
    same_as_qemu(
        &["/usr/bin/gawk", "{ s += $1 } END { printf \"%.6f %d\\n\", exp(log(s)), NR }"],
        "1\n2\n3.5\n",
    );
    same_as_qemu(&["/usr/bin/factor", "18446744073709551557"], "");
}

#[test]
fn debian_perl_and_python() {
    same_as_qemu(
        &[
            "/usr/bin/perl",
            "-e",
            "my %h = map { $_ => $_ ** 2 } 1..9; print join(',', map { \"$_=$h{$_}\" } sort keys %h), qq(\\n); printf qq(%.12f\\n), atan2(1, 1) * 4; print pack('N', 7) eq qq(\\0\\0\\0\\7) ? 1 : 0, qq(\\n)",
        ],
        "",
    );
    same_as_qemu(
        &[
            "/usr/bin/python3",
            "-c",
            "import json, math, struct, hashlib\nprint(json.dumps({'a': [1, 2.5, None]}), math.gamma(7.5), struct.pack('<d', 1.5).hex(), hashlib.md5(b'x').hexdigest())\nprint(sum(i * i for i in range(100000)), 2 ** 200)",
        ],
        "",
    );
}

#[test]
fn debian_programs_start_others() {
    let Some(root) = root() else { return };
    let script = "import os, signal, subprocess, threading, time\n\
        print(subprocess.run(['/usr/bin/bash', '-c', 'echo from bash $1 | /usr/bin/sed s/bash/sed/', 'x', 'arg'], capture_output=True).stdout)\n\
        print(os.uname().machine, subprocess.check_output(['/usr/bin/uname', '-m']))\n\
        n = [0]\n\
        def work():\n\
        \x20   for i in range(100): n[0] += 1\n\
        t = [threading.Thread(target=work) for _ in range(4)]\n\
        [x.start() for x in t]; [x.join() for x in t]\n\
        signal.signal(signal.SIGALRM, lambda *a: print('alarm'))\n\
        signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(0.2)\n\
        r = subprocess.run(['/usr/bin/bash', '-c', 'kill -9 $$']); print(n[0], r.returncode)\n";
    let out = rhea(&["-L", &root, &format!("{root}/usr/bin/python3"), "-c", script]).output().unwrap();
    let expected = "b'from sed arg\\n'\nriscv64 b'riscv64\\n'\nalarm\n400 -9\n";
    assert_eq!(String::from_utf8_lossy(&out.stdout), expected, "{}", said(&out));
    same_as_qemu(
        &["/usr/bin/sqlite3", ":memory:"],
        "create table t(a, b); insert into t values (1, 'x'), (2.5, 'y'); select sum(a), group_concat(b) from t;\n",
    );
}

/// In a namespace of its own, where a kernel since 6.7 has a registry of its own.
#[test]
fn the_kernel_starts_programs_with_rhea() {
    let dir = boot::Scratch::new("user-binfmt");
    let path = dir.path("tiny");
    fs::write(&path, riscv_program()).unwrap();
    let script = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77\n\
        \"$1\" binfmt install riscv64 || exit 1\n\
        chmod +x \"$2\" && (exec -a 'hello, kernel' \"$2\")\n\
        code=$?\n\
        \"$1\" binfmt status riscv64 && \"$1\" binfmt remove riscv64 && \"$1\" binfmt status riscv64\n\
        exit $code\n";
    let out = Command::new("unshare")
        .args(["-Urm", "bash", "-c", script, "x"])
        .arg(boot::rhea())
        .arg(&path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.code() == Some(77) || out.stderr.starts_with(b"unshare:") {
        skip("binfmt_misc: no namespace with a registry of its own");
        return;
    }
    let expected = "riscv64: installed\nhelloriscv64: enabled, interpreter";
    assert!(out.status.code() == Some(7) && text.starts_with(expected), "{}", said(&out));
    assert!(text.ends_with("riscv64: removed\nriscv64: not installed\n"), "{}", said(&out));
}
