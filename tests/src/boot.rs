//! Boots of real guests.
//!
//! `make guests` puts them under `build/guests` (or `RHEA_GUESTS`). A test that lacks its guest, or a board the
//! binary does not list, says so through [`crate::skip`] and passes.

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use crate::{process::Process, skip, workspace};

/// Time for one step of a boot: generous, as machines that test are often busy with other tests.
pub const STEP: Duration = Duration::from_secs(180);

/// The words every Linux guest here is started with.
pub const APPEND: &str = "console=ttyS0 panic=-1";

/// The binary under test: `RHEA_BIN`, or one built now by the profile `PROFILE` (release), as `make` does.
///
/// # Panics
/// When it cannot be built.
pub fn rhea() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = env::var_os("RHEA_BIN") {
            return PathBuf::from(binary);
        }
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let profile = env::var("PROFILE").unwrap_or_else(|_| "release".to_owned());
        command
            .args(["build", "--quiet", "--profile", &profile, "--package", "rhea"])
            .current_dir(workspace::root());
        forget_cargo(&mut command);
        let status = command.status();
        assert!(status.is_ok_and(|status| status.success()), "cargo build --package rhea failed");
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from);
        target.join(if profile == "dev" { "debug" } else { &profile }).join("rhea")
    })
}

/// Takes away what Cargo tells a test of its package: build scripts of dependencies look at that, and a build would be made anew
/// for it.
pub fn forget_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_CRATE_NAME"
        {
            command.env_remove(&name);
        }
    }
}

/// The path of a fetched guest file such as `riscv64/linux`; `None`, said aloud, when it is not there.
pub fn guest(name: &str) -> Option<PathBuf> {
    let folder =
        env::var_os("RHEA_GUESTS").map_or_else(|| workspace::root().join("build/guests"), PathBuf::from);
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    skip(&format!("guest {name} is not fetched (make guests)"));
    None
}

/// Whether the binary lists `board` for `arch`; said aloud when not.
pub fn has_board(arch: &str, board: &str) -> bool {
    let listed =
        Command::new(rhea()).args(["run", "--arch", arch, "-M", "help"]).output().is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success() && text.lines().any(|line| line.split_whitespace().next() == Some(board))
        });
    if !listed {
        skip(&format!("this binary lists no board {board} for {arch}"));
    }
    listed
}

/// The options for OVMF in two flash chips, `code` of Debian's package and a copy of `vars` in a scratch folder; `None`, said
/// aloud, when it is not installed.
///
/// # Panics
/// When the copy cannot be made.
pub fn ovmf(code: &str, vars: &str, scratch: &Scratch) -> Option<Vec<String>> {
    let folder = Path::new("/usr/share/OVMF");
    if !folder.join(code).is_file() {
        skip("the package ovmf is not installed");
        return None;
    }
    let copy = scratch.path("vars.fd");
    std::fs::copy(folder.join(vars), &copy).expect("a copy of the variables");
    let chip = |unit: u8, more: &str, file: &Path| {
        format!("if=pflash,format=raw,unit={unit}{more},file={}", file.display())
    };
    let (code, vars) = (chip(0, ",readonly=on", &folder.join(code)), chip(1, "", &copy));
    Some(vec!["-drive".into(), code, "-drive".into(), vars])
}

/// Whether /dev/kvm can be opened; said aloud when not.
pub fn has_kvm() -> bool {
    let usable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        skip("/dev/kvm cannot be opened");
    }
    usable
}

/// Whether KVM runs guest kernels natively, so that one comes to its end in good time; said aloud when not.
pub fn has_native_kvm() -> bool {
    if !has_kvm() {
        return false;
    }
    let mut command = Command::new(rhea());
    command.args(["run", "--arch", "x86_64", "-M", "none", "-display", "none", "-monitor", "stdio"]);
    // Which accelerator it would take, and why, is said at once.
    let said = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let said = said.and_then(|mut child| {
        child.stdin.take().map_or(Ok(()), |mut monitor| monitor.write_all(b"quit\n"))?;
        child.wait_with_output()
    });
    let emulated =
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stderr).contains("guest kernels are emulated"));
    if emulated {
        skip("KVM emulates guest kernels here");
    }
    !emulated
}

/// The command line of a run without a window that ends when the guest resets.
pub fn command(arch: &str, board: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(rhea());
    command.args(["run", "--arch", arch, "-M", board, "-nographic", "-no-reboot"]).args(arguments);
    command
}

/// Starts [`command`] on pipes.
///
/// # Errors
/// Those of starting a process.
pub fn start(arch: &str, board: &str, arguments: &[&str]) -> io::Result<Process> {
    Process::piped(&mut command(arch, board, arguments))
}

/// A kernel and its initramfs, for any board.
#[derive(Clone, Debug)]
pub struct Linux {
    /// Its architecture.
    pub arch: &'static str,
    /// What runs before it on riscv64.
    pub firmware: Option<PathBuf>,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
}

impl Linux {
    /// Debian's for `arch` with the initramfs of our own; `None`, said aloud, if they are not fetched.
    pub fn debian(arch: &'static str) -> Option<Self> {
        Self::with(arch, guest(&format!("{arch}/initrd.gz"))?)
    }

    /// Debian's for `arch` with this initramfs; `None`, said aloud, if it is not fetched.
    pub fn with(arch: &'static str, initrd: PathBuf) -> Option<Self> {
        let firmware = if arch == "riscv64" { Some(guest("riscv64/fw_dynamic.bin")?) } else { None };
        Some(Self { arch, firmware, kernel: guest(&format!("{arch}/linux"))?, initrd })
    }

    /// Debian's for x86_64, that runs `script`; `mkinitrd` is the program of this crate. `None`, said aloud, if it is not fetched.
    ///
    /// # Panics
    /// When the initramfs cannot be written.
    pub fn running(mkinitrd: &str, scratch: &Scratch, script: &str) -> Option<Self> {
        let (programs, initrd) = (scratch.path("programs"), scratch.path("initrd"));
        let (linux, busybox) = (Self::with("x86_64", initrd)?, guest("x86_64/busybox")?);
        std::fs::write(&programs, script).expect("a file in the folder");
        let mut make = Command::new(mkinitrd);
        make.arg(&linux.initrd).arg(workspace::root().join("resources/guest/init")).arg(busybox);
        let made = make.arg(format!("programs={}", programs.display())).status();
        assert!(made.is_ok_and(|status| status.success()), "mkinitrd failed");
        Some(linux)
    }

    /// The options that start it, with `words` added to its command line.
    pub fn options(&self, words: &str) -> Vec<OsString> {
        let firmware = self.firmware.iter().flat_map(|file| ["-bios".into(), file.into()]);
        let rest: [OsString; 6] = [
            "-kernel".into(),
            (&self.kernel).into(),
            "-initrd".into(),
            (&self.initrd).into(),
            "-append".into(),
            format!("{APPEND} {words}").into(),
        ];
        firmware.chain(rest).collect()
    }

    /// Starts it on `board` on pipes, with more arguments.
    ///
    /// # Panics
    /// When the binary does not start.
    pub fn start(&self, board: &str, words: &str, arguments: &[&str]) -> Process {
        let mut command = command(self.arch, board, arguments);
        Process::piped(command.args(self.options(words))).expect("the binary starts")
    }
}

/// The command that starts Debian's kernel with our initramfs on the riscv64 `virt` board, with `words` added to its
/// command line; `None`, said aloud, when the board or a file is missing.
pub fn linux_command(words: &str) -> Option<Command> {
    if !has_board("riscv64", "virt") {
        return None;
    }
    let linux = Linux::debian("riscv64")?;
    let mut command = command("riscv64", "virt", &["-m", "512"]);
    command.args(linux.options(words));
    Some(command)
}

/// Starts [`linux_command`] on pipes, with more options.
///
/// # Panics
/// When the binary does not start.
pub fn linux(words: &str, extra: &[&str]) -> Option<Process> {
    linux_command(words).map(|mut command| Process::piped(command.args(extra)).expect("the binary starts"))
}

/// Waits for a clean end.
///
/// # Errors
/// How it ended instead, and the end of what it printed.
pub fn powers_off(guest: &mut Process) -> Result<(), String> {
    let (status, _) = guest.wait(STEP)?;
    if status.success() { Ok(()) } else { Err(format!("{status}; it printed:\n{}", guest.console.tail())) }
}

/// A folder of its own for one test, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it; `name` tells the tests of one process apart.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("rhea-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder under the temporary one");
        Scratch(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Names of the files in it.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
