//! Running a machine until it ends.

use std::io::Write;
use std::sync::{Arc, mpsc};

use accel::{Exit, LogItems};
use anyhow::{Context, Result, bail};
use control::VmConfig;
use control::config::{OnPanic, OnReboot, OnShutdown};
use control::monitor::Control;
use control::vm::{Event, RunState, Vm};
use device::SystemRequest;
use machine::MachineEvent;

use crate::chardevs::Chars;
use crate::launch;
use crate::log;
use crate::vm::{Request, RheaVm};

/// Builds and runs; the exit code of the process.
pub(crate) fn run(config: VmConfig) -> Result<u8> {
    refuse_unsupported(&config)?;
    let log = log::open(&config)?;
    let (tx, rx) = mpsc::channel();
    let quit_tx = tx.clone();
    let chars = Chars::open(&config, Arc::new(move || drop(quit_tx.send(Request::Quit("host-signal")))))?;
    let events_tx = tx.clone();
    let events = Arc::new(move |e| drop(events_tx.send(Request::Machine(e))));
    let launched = launch::launch(&config, log.clone(), &chars, events)?;
    let chars = Arc::new(chars);
    let info = chars.clone();
    let vm = Arc::new(RheaVm::new(&launched, &config, tx.clone(), info));
    let control = Control::new(vm.clone());
    let monitors = chars.monitors(&config, &control)?;
    let gdb = chars.gdb(&config, vm.clone(), &control)?;
    if let Some(name) = &config.loadvm {
        vm.load(name).map_err(anyhow::Error::new).with_context(|| format!("-loadvm {name}"))?;
    }
    if let Some(path) = &config.pidfile {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("-pidfile {path}"))?;
    }
    let signals = tx.clone();
    watch_signals(move || drop(signals.send(Request::Quit("host-signal"))))?;
    if !config.start_paused {
        vm.cont().map_err(anyhow::Error::new)?;
    }
    let code = main_loop(&config, &vm, &rx);
    vm.machine.stop();
    if log.wants(LogItems::STATS) {
        log.write(format_args!("{}", launched.machine.partition().stats()));
    }
    drop((monitors, gdb));
    drop(chars);
    control::chardev::restore_terminal();
    if let Some(path) = &config.pidfile {
        let _ = std::fs::remove_file(path);
    }
    code
}

/// Options that are understood but do nothing here yet are refused, not ignored.
fn refuse_unsupported(config: &VmConfig) -> Result<()> {
    let absent = [
        (config.incoming.is_some(), "-incoming"),
        (config.daemonize, "-daemonize"),
        (config.icount.is_some(), "-icount"),
        (!config.blockdevs.is_empty(), "-blockdev"),
    ];
    for (given, name) in absent {
        if given {
            bail!("{name} is not supported yet");
        }
    }
    Ok(())
}

#[cfg(unix)]
fn watch_signals(quit: impl Fn() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            quit();
        }
    })?;
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
            Request::Machine(e) => e,
        };
        let done = match event {
            MachineEvent::Request(r) => system_request(config, vm, r)?,
            MachineEvent::Exit { cpu, exit } => match exit {
                Exit::Reset => system_request(config, vm, SystemRequest::Reset)?,
                Exit::Shutdown => system_request(config, vm, SystemRequest::Shutdown { code: None })?,
                Exit::Debug(e) => {
                    vm.debug_stop(cpu, e);
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
        SystemRequest::CrashLoaded | SystemRequest::GuestShutdown => Ok(None),
    }
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
