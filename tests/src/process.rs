//! A child process whose terminal we hold and whose cost we account.
//!
//! Sources: `openpty(3)`, `wait4(2)`, `proc(5)` (`smaps`). A child is always reaped through [`Process`], which
//! kills it when dropped, so that a failed test leaves nothing running.
#![expect(unsafe_code, reason = "pseudo-terminals and per-process accounting are libc calls")]

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    process::{Command, ExitStatus, Stdio},
    ptr,
    time::{Duration, Instant},
};

use crate::console::Console;

/// What a process and the children it waited for have cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
}

impl Usage {
    /// CPU time in all.
    pub fn cpu(self) -> Duration {
        self.user + self.system
    }
}

/// A running child with its console.
pub struct Process {
    pid: libc::pid_t,
    /// Set once the child is reaped; its pid may then belong to somebody else.
    done: Option<(ExitStatus, Usage)>,
    /// What the child prints and reads.
    pub console: Console,
}

impl Process {
    /// Starts `command` with its standard input and both outputs on pipes.
    ///
    /// # Errors
    /// Those of starting a process.
    pub fn piped(command: &mut Command) -> io::Result<Self> {
        let (output, child_output) = io::pipe()?;
        let (child_input, input) = io::pipe()?;
        let child =
            command.stdin(child_input).stdout(child_output.try_clone()?).stderr(child_output).spawn()?;
        // The command still holds the child's ends; the console must see the end of file when the child goes.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Process { pid, done: None, console: Console::new(output, input) })
    }

    /// Starts `command` as the leader of a session whose controlling terminal is a new pseudo-terminal.
    ///
    /// # Errors
    /// Those of opening a terminal or starting a process.
    pub fn on_terminal(
        program: &str,
        arguments: &[&str],
        configure: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let (master, slave) = open_terminal()?;
        // setsid(1) makes the session and takes the terminal: nothing of ours runs between fork and exec.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", program]).args(arguments);
        configure(&mut command);
        let child = command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave).spawn()?;
        drop(command);
        let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
        let writer = File::from(master);
        Ok(Process { pid, done: None, console: Console::new(writer.try_clone()?, writer) })
    }

    /// The child's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the child to end, and says how and what it cost. It is killed when `timeout` passes.
    ///
    /// # Errors
    /// The end of what it printed, when it had to be killed.
    pub fn wait(&mut self, timeout: Duration) -> Result<(ExitStatus, Usage), String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(done) = self.reap(libc::WNOHANG).map_err(|error| format!("wait4: {error}"))? {
                return Ok(done);
            }
            if Instant::now() >= deadline {
                self.kill();
                return Err(format!("still running after {timeout:?}; it printed:\n{}", self.console.tail()));
            }
            self.console.pump(Duration::from_millis(5));
        }
    }

    /// Whether the child has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.reap(libc::WNOHANG), Ok(Some(_)))
    }

    /// Ends the child at once.
    pub fn kill(&mut self) {
        if self.done.is_none() {
            // SAFETY: kill takes no pointers; the pid is ours, as the child is not reaped yet.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            // A failure leaves nothing to reap.
            let _ = self.reap(0);
        }
    }

    fn reap(&mut self, flags: libc::c_int) -> io::Result<Option<(ExitStatus, Usage)>> {
        if self.done.is_some() {
            return Ok(self.done);
        }
        let mut status = 0;
        // SAFETY: rusage is plain data, for which all zero bytes is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live variables of the types wait4 writes.
        let pid = unsafe { libc::wait4(self.pid, &raw mut status, flags, &raw mut usage) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(None),
            _ => {
                let usage = Usage { user: duration(usage.ru_utime), system: duration(usage.ru_stime) };
                self.done = Some((ExitStatus::from_raw(status), usage));
                Ok(self.done)
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
}

fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    let size = libc::winsize { ws_row: 25, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the two descriptors and the size are live; a null name and null modes are allowed.
    let result = unsafe {
        libc::openpty(&raw mut master, &raw mut slave, ptr::null_mut(), ptr::null(), &raw const size)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty succeeded, so both are open descriptors that nobody else owns.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    // The child must not hold the master: the terminal would never hang up.
    for descriptor in [&master, &slave] {
        use std::os::fd::AsRawFd as _;
        // SAFETY: fcntl on a descriptor that is open; F_SETFD takes an integer.
        if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((master, slave))
}

/// Gives this thread, and the processes it starts, a network of their own.
///
/// # Errors
/// The host forbids it, or has no such thing.
pub fn own_network() -> io::Result<()> {
    // SAFETY: a system call without pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// CPU time a running process has used so far, its threads included.
pub fn cpu_so_far(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15, so 11 and 12 after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    // SAFETY: sysconf takes no pointers.
    let rate = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some(Duration::from_secs_f64(ticks as f64 / rate.max(1) as f64))
}

/// Resident bytes of a process that are not guest memory. Guest memory is the mapping whose size is that of
/// the guest's RAM, or a little more where the kernel joined a neighbour to it.
pub fn overhead(pid: i32, ram: u64) -> Option<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut all, mut guest, mut is_guest) = (0, 0, false);
    for line in smaps.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let Some(bytes) = value.trim().strip_suffix(" kB").and_then(|kib| kib.trim().parse::<u64>().ok())
        else {
            continue;
        };
        let bytes = bytes * 1024;
        match key {
            "Size" => is_guest = bytes >= ram && bytes < ram + ram / 8,
            "Rss" => {
                all += bytes;
                guest = if is_guest { guest.max(bytes) } else { guest };
            }
            _ => {}
        }
    }
    Some(all - guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_carries_both_ways_and_the_exit_code_arrives() {
        let mut process =
            Process::piped(Command::new("sh").args(["-c", "echo ready; read x; echo got $x; exit 3"]))
                .unwrap();
        process.console.expect("ready", Duration::from_secs(20)).unwrap();
        process.console.send("word\n").unwrap();
        process.console.expect("got word", Duration::from_secs(20)).unwrap();
        let (status, usage) = process.wait(Duration::from_secs(20)).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(usage.cpu() < Duration::from_secs(20));
    }

    #[test]
    fn a_terminal_is_one_to_the_child() {
        let mut process = Process::on_terminal("sh", &["-c", "tty && stty size </dev/tty"], |_| {}).unwrap();
        process.console.expect("25 80", Duration::from_secs(20)).unwrap();
        let (status, _) = process.wait(Duration::from_secs(20)).unwrap();
        assert!(status.success());
    }

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let mut process = Process::piped(Command::new("sleep").arg("1000")).unwrap();
        assert!(process.wait(Duration::from_millis(50)).is_err());
        assert!(process.done.is_some());
    }

    #[test]
    fn overhead_leaves_out_guest_memory() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(overhead(pid, 1 << 50).unwrap() > 0);
        assert!(cpu_so_far(pid).is_some());
    }
}
