//! Terminal modes (POSIX.1-2017, "General Terminal Interface").
//!
//! The terminal belongs to the process, not to a machine, so what it was like before is kept in one place for
//! all: that is the one global of this crate. It is restored when the machine's chardevs are dropped, when a
//! thread panics, and by [`restore_terminal`], which the binary calls on its way out and in signal threads.

use parking_lot::Mutex;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty,
    tcgetattr, tcsetattr,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Once;

static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Sets the terminal on `fd` to raw mode, if it is one, and remembers how it was.
pub(super) fn enter_raw(fd: BorrowedFd<'_>, signal: bool) -> io::Result<()> {
    if !isatty(fd) {
        return Ok(());
    }
    let before = tcgetattr(fd)?;
    let own = fd.try_clone_to_owned()?;
    {
        let mut saved = SAVED.lock();
        if saved.is_none() {
            *saved = Some((own, before));
        }
    }
    HOOK.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore_terminal();
            earlier(info);
        }));
    });
    // Messages of the process itself still need their carriage returns.
    make_raw(fd, signal, true)
}

/// Raw mode: no echo, no lines, no translation of input. With `signal` Ctrl-C and Ctrl-Z keep their meaning; with
/// `translate_output` a line feed gets its carriage return.
pub(super) fn make_raw(fd: BorrowedFd<'_>, signal: bool, translate_output: bool) -> io::Result<()> {
    let mut t = tcgetattr(fd)?;
    t.input_modes.remove(
        InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON,
    );
    t.output_modes.set(OutputModes::OPOST, translate_output);
    t.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN);
    t.local_modes.set(LocalModes::ISIG, signal);
    t.control_modes.remove(ControlModes::CSIZE | ControlModes::PARENB);
    t.control_modes.insert(ControlModes::CS8);
    t.special_codes[SpecialCodeIndex::VMIN] = 1;
    t.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(fd, OptionalActions::Now, &t)?;
    Ok(())
}

/// Gives the terminal back as it was before; does nothing when it was never changed.
pub fn restore_terminal() {
    // A panic while the lock is held must not hang the hook.
    let Some(mut saved) = SAVED.try_lock() else { return };
    if let Some((fd, before)) = saved.take() {
        let _ = tcsetattr(fd.as_fd(), OptionalActions::Now, &before);
    }
}
