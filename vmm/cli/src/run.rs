//! Running a machine until it ends.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak, mpsc};

use accel::{Exit, LogItems};
use anyhow::{Context, Result, bail};
use control::VmConfig;
use control::chardev::{Keys, PortKind};
use control::config::{ChardevKind, OnPanic, OnReboot, OnShutdown, OnWatchdog, TERMINAL};
use control::gdb::DebugStop;
use control::monitor::Control;
use control::vm::{Event, RunState, Vm};
use device::SystemRequest;
use machine::MachineEvent;
use serde_json::{Map, Value};

use crate::chardevs::Chars;
use crate::curses::{self, Curses};
use crate::vm::{Request, RheaVm};
use crate::{blockcommands, host, launch, log};

/// A command about disks that is done before anybody can say anything: its option, its name, its arguments.
pub(crate) type First = (String, &'static str, Map<String, Value>);

/// Builds and runs; the exit code of the process.
pub(crate) fn run(config: VmConfig, first: &[First]) -> Result<u8> {
    refuse_unsupported(&config)?;
    // Before there is any thread.
    let background = config.daemonize.then(host::to_background).transpose()?;
    if let Some(name) = &config.name.process {
        host::name_process(name);
    }
    let log = log::open(&config)?;
    let (tx, rx) = mpsc::channel();
    // The machine is there after the terminal is.
    let late: Arc<OnceLock<Weak<RheaVm>>> = Arc::default();
    let chars = Chars::open(&config, &keys(&late, &tx))?;
    let events_tx = tx.clone();
    let events = Arc::new(move |e| drop(events_tx.send(Request::Machine(e))));
    let launched = launch::launch(&config, log.clone(), &chars, events)?;
    let chars = Arc::new(chars);
    let info = chars.clone();
    let vm = RheaVm::new(&launched, &config, tx.clone(), info);
    let _ = late.set(Arc::downgrade(&vm));
    // Before there is a monitor that could let it run.
    if let Some(name) = &config.loadvm {
        vm.load_any(name).map_err(anyhow::Error::new).with_context(|| format!("-loadvm {name}"))?;
    }
    for (option, command, arguments) in first {
        blockcommands::run(&vm, command, arguments).with_context(|| option.clone())?;
    }
    let control = Control::new(vm.clone());
    let monitors = chars.monitors(&config, &control)?;
    let gdb = chars.gdb(&config, vm.clone(), &control)?;
    let pidfile = config.pidfile.as_deref().map(PidFile::write).transpose()?;
    let signals = tx.clone();
    watch_signals(move || drop(signals.send(Request::Quit("host-signal"))))?;
    if let Some(uri) = &config.incoming {
        vm.await_machine(uri).map_err(anyhow::Error::new).with_context(|| format!("-incoming {uri}"))?;
    }
    let curses = (config.display.as_deref() == Some("curses")).then(|| display(&chars, &vm)).transpose()?;
    // After all threads are there: who has given up his rights may not be able to make any.
    host::restrict(&config.run_with)?;
    if let Some(background) = background {
        background.ready()?;
    }
    if !config.start_paused && config.incoming.is_none() {
        vm.cont().map_err(anyhow::Error::new)?;
    }
    let code = main_loop(&config, &vm, &rx);
    vm.machine.stop();
    vm.end_disks();
    launched.machine.partition().at_end();
    if log.wants(LogItems::STATS) {
        log.write(format_args!("{}", launched.machine.partition().stats()));
    }
    drop((monitors, gdb, curses));
    drop(chars);
    control::chardev::restore_terminal();
    drop(pidfile);
    code
}

/// The display in the terminal.
fn display(chars: &Chars, vm: &Arc<RheaVm>) -> Result<Curses> {
    let terminal = chars.connect(TERMINAL, PortKind::Device)?;
    curses::start(vm, terminal, chars.devices().consoles())
}

/// What the terminal's escape keys do.
fn keys(vm: &Arc<OnceLock<Weak<RheaVm>>>, tx: &mpsc::Sender<Request>) -> Keys {
    let (quit, save) = (tx.clone(), vm.clone());
    Keys {
        quit: Arc::new(move || drop(quit.send(Request::Quit("host-ui")))),
        save: Arc::new(move || match save.get().and_then(Weak::upgrade) {
            Some(vm) => vm.commit("all").map_err(|e| e.to_string()),
            None => Err("the machine is not there yet".into()),
        }),
    }
}

/// The file with the process id; locked while the process lives, gone afterwards.
struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    fn write(path: &str) -> Result<Self> {
        let write = || -> Result<File> {
            // Not truncated before it is known to be ours.
            let mut file = File::options().create(true).write(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => bail!("in use by another process"),
                Err(std::fs::TryLockError::Error(e)) => return Err(e.into()),
            }
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            Ok(file)
        };
        let file = write().with_context(|| format!("-pidfile {path}"))?;
        Ok(Self { path: std::path::absolute(path).unwrap_or_else(|_| path.into()), _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Options that are understood but do nothing here are refused, not ignored.
fn refuse_unsupported(config: &VmConfig) -> Result<()> {
    if config.icount.is_some() {
        bail!("-icount is not supported: virtual time follows the host's clock");
    }
    let trace = &config.trace;
    if !trace.enable.is_empty() || !trace.events.is_empty() || trace.file.is_some() {
        bail!("-trace: there are no trace events; '-d help' lists what can be logged");
    }
    if config.memory.slots.is_some() || config.memory.maxmem.is_some_and(|m| Some(m) != config.memory.size) {
        bail!("-m: memory cannot be plugged; expected maxmem to be the size, and no slots");
    }
    let boot = &config.boot;
    for (given, what) in
        [(boot.splash.is_some(), "splash"), (boot.reboot_timeout.is_some(), "reboot-timeout")]
    {
        if given {
            bail!("-boot {what} is not supported: no firmware here would read it");
        }
    }
    let stdio = config.chardevs.iter().find(|c| matches!(c.kind, ChardevKind::Stdio { .. }));
    if let Some(c) = stdio.filter(|_| config.daemonize) {
        bail!(
            "chardev '{}': stdio cannot be used with -daemonize (nor -nographic without -nodefaults)",
            c.id
        );
    }
    if config.incoming.is_some() && config.loadvm.is_some() {
        bail!("-incoming and -loadvm exclude each other");
    }
    Ok(())
}

#[cfg(unix)]
fn watch_signals(quit: impl Fn() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                quit();
            }
        })
        .context("signal thread")?;
    Ok(())
}

#[cfg(not(unix))]
fn watch_signals(_quit: impl Fn() + Send + 'static) -> Result<()> {
    Ok(())
}

fn main_loop(config: &VmConfig, vm: &Arc<RheaVm>, rx: &mpsc::Receiver<Request>) -> Result<u8> {
    loop {
        let request = rx.recv().context("machine")?;
        let event = match request {
            Request::Quit(reason) => {
                vm.events().emit(&Event::shutdown(reason));
                return Ok(0);
            }
            Request::Fail(text) => bail!("{text}"),
            Request::IoError => {
                vm.io_error();
                continue;
            }
            Request::Machine(e) => e,
        };
        let done = match event {
            MachineEvent::Request(r) => system_request(config, vm, r)?,
            MachineEvent::Exit { cpu, exit, run } => match exit {
                Exit::Reset => system_request(config, vm, SystemRequest::Reset)?,
                Exit::Shutdown => system_request(config, vm, SystemRequest::Shutdown { code: None })?,
                Exit::Debug(e) => {
                    vm.debug_stop(DebugStop { cpu, event: e, run });
                    None
                }
                Exit::Fatal(e) => {
                    vm.machine.stop();
                    vm.set_state(RunState::InternalError);
                    let mut err = std::io::stderr().lock();
                    let _ = writeln!(
                        err,
                        "internal error: {}\r\npc {:#x}, instruction bytes {:02x?}\r\n{}\r\n{}\r",
                        e.reason,
                        e.pc,
                        e.bytes,
                        e.registers.replace('\n', "\r\n"),
                        e.advice
                    );
                    Some(1)
                }
                _ => None,
            },
        };
        if let Some(code) = done {
            return Ok(code);
        }
    }
}

/// Acts on a request; the exit code if it ends the process.
fn system_request(config: &VmConfig, vm: &Arc<RheaVm>, request: SystemRequest) -> Result<Option<u8>> {
    match request {
        SystemRequest::Reset if config.action.reboot == OnReboot::Reset => {
            vm.machine.reset()?;
            vm.events().emit(&Event::reset(true));
            Ok(None)
        }
        SystemRequest::Reset => shutdown(config, vm, "guest-reset", 0),
        SystemRequest::Shutdown { code } => shutdown(config, vm, "guest-shutdown", code.unwrap_or(0)),
        SystemRequest::Panic => match config.action.panic {
            OnPanic::None => Ok(None),
            OnPanic::Pause => {
                vm.machine.stop();
                vm.set_state(RunState::GuestPanicked);
                vm.events().emit(&Event::guest_panicked("pause"));
                Ok(None)
            }
            OnPanic::Shutdown => {
                vm.events().emit(&Event::guest_panicked("poweroff"));
                shutdown(config, vm, "guest-panic", 0)
            }
            OnPanic::ExitFailure => {
                vm.events().emit(&Event::guest_panicked("poweroff"));
                shutdown(config, vm, "guest-panic", 1)
            }
        },
        SystemRequest::Suspend => {
            vm.machine.stop();
            vm.set_state(RunState::Suspended);
            Ok(None)
        }
        SystemRequest::Ejected => {
            crate::plug::hot::finish(vm);
            crate::cpus::finish(vm);
            Ok(None)
        }
        SystemRequest::OspmStatus => {
            crate::cpus::report(vm);
            Ok(None)
        }
        SystemRequest::Watchdog => watchdog(config, vm),
        SystemRequest::CrashLoaded | SystemRequest::GuestShutdown => Ok(None),
    }
}

/// A watchdog has not been restarted in time.
fn watchdog(config: &VmConfig, vm: &Arc<RheaVm>) -> Result<Option<u8>> {
    let action = vm.watchdog_action();
    vm.events().emit(&Event::watchdog(action.name()));
    match action {
        OnWatchdog::Reset => return system_request(config, vm, SystemRequest::Reset),
        // The end of the process, whatever a power-off of the guest's would be.
        OnWatchdog::Poweroff => {
            vm.machine.stop();
            vm.events().emit(&Event::shutdown("host-error"));
            return Ok(Some(0));
        }
        OnWatchdog::Shutdown => {
            let _ = vm.powerdown();
        }
        OnWatchdog::Pause => vm.pause(RunState::Watchdog),
        OnWatchdog::InjectNmi => {
            let _ = vm.inject_nmi(0);
        }
        OnWatchdog::Debug => tracing::warn!("watchdog: timer fired"),
        OnWatchdog::None => {}
    }
    Ok(None)
}

fn shutdown(config: &VmConfig, vm: &Arc<RheaVm>, reason: &str, code: u8) -> Result<Option<u8>> {
    vm.machine.stop();
    vm.events().emit(&Event::shutdown(reason));
    if config.action.shutdown == OnShutdown::Pause {
        vm.set_state(RunState::Shutdown);
        return Ok(None);
    }
    Ok(Some(code))
}
