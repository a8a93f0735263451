//! Unix hosts: daemon, users, memory locks (fork(2), setsid(2), setgroups(2), mlockall(2)).
#![expect(unsafe_code, reason = "processes, users and memory locks are libc calls")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, anyhow, bail};
use control::config::RunWith;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The process in the background, while the one that started it waits.
pub(crate) struct Background {
    parent: io::PipeWriter,
    /// Open from the start: the root may be another one when it is needed.
    null: File,
}

/// Goes on in the background. The process that was started stays until [`Background::ready`], and fails if that never
/// comes. To be called before there is any other thread.
pub(crate) fn to_background() -> Result<Background> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.context("-daemonize: /dev/null")?;
    let (mut reader, writer) = io::pipe().context("-daemonize")?;
    if fork()? != 0 {
        drop(writer);
        let mut byte = [0];
        let ready = reader.read_exact(&mut byte).is_ok();
        std::process::exit(if ready { 0 } else { 1 });
    }
    drop(reader);
    // SAFETY: no arguments, no memory.
    check(unsafe { libc::setsid() }).context("-daemonize: setsid")?;
    // The leader of a session could get a terminal again; its child cannot.
    if fork()? != 0 {
        std::process::exit(0);
    }
    Ok(Background { parent: writer, null })
}

fn fork() -> Result<libc::pid_t> {
    // SAFETY: called while there is one thread (see `to_background`), so the child may do anything.
    check(unsafe { libc::fork() }).context("-daemonize: fork")
}

impl Background {
    /// The machine stands: lets go of the terminal and of the process that waits.
    pub(crate) fn ready(mut self) -> Result<()> {
        std::env::set_current_dir("/").context("-daemonize: /")?;
        for stream in 0..3 {
            // SAFETY: dup2 of an open descriptor onto a standard stream, which nobody owns.
            check(unsafe { libc::dup2(self.null.as_raw_fd(), stream) }).context("-daemonize")?;
        }
        self.parent.write_all(&[1]).context("-daemonize")
    }
}

/// The host's number of the calling thread.
#[cfg(target_os = "linux")]
pub(crate) fn thread_id() -> u64 {
    // SAFETY: no arguments, no memory.
    u64::from(unsafe { libc::gettid() }.unsigned_abs())
}

/// Other hosts do not number threads as processes.
#[cfg(not(target_os = "linux"))]
pub(crate) fn thread_id() -> u64 {
    u64::from(std::process::id())
}

/// Opens a file of which nothing is read that is not there yet.
pub(crate) fn open_unblocking(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// What the user gives up before the guest starts: `-run-with`, `-overcommit` and `-sandbox`.
pub(crate) fn restrict(run: &RunWith) -> Result<()> {
    if run.async_teardown {
        bail!("-run-with async-teardown=on is not supported: expected off");
    }
    if run.cpu_pm {
        bail!("-overcommit cpu-pm=on is not supported: expected off");
    }
    if run.exit_with_parent {
        exit_with_parent().context("-run-with exit-with-parent=on")?;
    }
    match run.mem_lock.as_deref() {
        None | Some("off") => {}
        Some(how) => lock_memory(how == "on-fault").with_context(|| format!("-overcommit mem-lock={how}"))?,
    }
    let user = run
        .user
        .as_deref()
        .map(|u| find_user(u).with_context(|| format!("-run-with user={u}")))
        .transpose()?;
    if let Some(root) = &run.chroot {
        let go = || std::os::unix::fs::chroot(root).and_then(|()| std::env::set_current_dir("/"));
        go().with_context(|| format!("-run-with chroot={root}"))?;
    }
    if let Some(user) = user {
        become_user(&user).with_context(|| format!("-run-with user={}", user.name))?;
    }
    sandbox(run)
}

#[cfg(target_os = "linux")]
use super::sandbox::close as sandbox;

#[cfg(not(target_os = "linux"))]
fn sandbox(run: &RunWith) -> Result<()> {
    if run.sandbox { bail!("-sandbox on is for Linux hosts: expected off") } else { Ok(()) }
}

#[cfg(target_os = "linux")]
fn exit_with_parent() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) }).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn exit_with_parent() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn lock_memory(on_fault: bool) -> io::Result<()> {
    let mut flags = libc::MCL_CURRENT | libc::MCL_FUTURE;
    if on_fault {
        flags |= on_fault_flag()?;
    }
    // SAFETY: no memory is passed.
    check(unsafe { libc::mlockall(flags) }).map(drop)
}

#[cfg(target_os = "linux")]
fn on_fault_flag() -> io::Result<libc::c_int> {
    Ok(libc::MCL_ONFAULT)
}

#[cfg(not(target_os = "linux"))]
fn on_fault_flag() -> io::Result<libc::c_int> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A user to become.
struct User {
    name: String,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

/// `NAME` as in /etc/passwd, or `UID:GID`.
fn find_user(name: &str) -> Result<User> {
    if let Some((uid, gid)) = name.split_once(':')
        && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
    {
        return Ok(User { name: name.to_owned(), uid, gid });
    }
    let all = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let fields = all.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name && f.len() > 3);
    let fields = fields.ok_or_else(|| anyhow!("no such user; expected a name or UID:GID"))?;
    Ok(User { name: name.to_owned(), uid: fields[2].parse()?, gid: fields[3].parse()? })
}

fn become_user(user: &User) -> io::Result<()> {
    // SAFETY: an empty list of groups needs no memory; the numbers are plain values.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setgid(user.gid))?;
        check(libc::setuid(user.uid))?;
    }
    Ok(())
}

/// Names the process as `ps` shows it.
pub(crate) fn name_process(name: &str) {
    #[cfg(target_os = "linux")]
    if let Ok(name) = CString::new(name) {
        // SAFETY: PR_SET_NAME reads a string that ends with zero and lives for the call.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = CString::new(name);
}
