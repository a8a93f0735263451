//! Boot, clock, names, limits, and the end of the machine.

use super::super::build::{Builder, Stop};
use super::super::group::{Group, Values, number, switch, text, word};
use super::super::{Invocation, ini};
use super::{Done, one_of};
use crate::config::{
    ConfigError, FdInSet, OnPanic, OnReboot, OnShutdown, OnWatchdog, RtcBase, RtcClock, VmConfig,
};
use crate::date;
use crate::transport::Uri;

/// Display types of this build.
pub(crate) const DISPLAYS: [&str; 2] = ["curses", "none"];

/// Names of default video cards.
const VGAS: [&str; 9] = ["none", "std", "cirrus", "vmware", "qxl", "virtio", "tcx", "cg3", "xenfb"];

/// Largest file that `-readconfig` and `-config` read, in bytes.
const MAX_CONFIG_FILE: u64 = 4 << 20;

macro_rules! text_options {
    ($($name:ident => $($field:ident).+;)*) => {$(
        pub(crate) fn $name(b: &mut Builder, argument: &str) -> Done {
            b.config.$($field).+ = Some(argument.to_owned());
            Ok(())
        }
    )*};
}

text_options! {
    kernel => kernel;
    initrd => initrd;
    append => append;
    dtb => dtb;
    bios => bios;
    loadvm => loadvm;
    pidfile => pidfile;
}

macro_rules! flags {
    ($($name:ident: $b:ident => $set:expr;)*) => {$(
        pub(crate) fn $name($b: &mut Builder) -> Done {
            $set;
            Ok(())
        }
    )*};
}

flags! {
    no_reboot: b => b.config.action.reboot = OnReboot::Shutdown;
    no_shutdown: b => b.config.action.shutdown = OnShutdown::Pause;
    snapshot: b => b.config.snapshot = true;
    start_paused: b => b.config.start_paused = true;
    daemonize: b => b.config.daemonize = true;
    nodefaults: b => b.config.nodefaults = true;
    no_user_config: b => b.config.no_user_config = true;
    nographic: b => { b.config.nographic = true; b.config.display = Some("none".into()) };
}

pub(crate) fn data_dir(b: &mut Builder, dir: &str) -> Done {
    b.config.data_dirs.push(dir.to_owned());
    Ok(())
}

pub(crate) fn help(_: &mut Builder) -> Done {
    Err(Stop::help(super::super::help::text()))
}

pub(crate) fn version(_: &mut Builder) -> Done {
    Err(Stop::Answer(Box::new(Invocation::Version)))
}

pub(crate) fn incoming(b: &mut Builder, uri: &str) -> Done {
    if uri != "defer" && Uri::parse(uri).is_err() {
        let expected = "defer, tcp:HOST:PORT, unix:PATH, fd:N, exec:COMMAND or file:PATH[,offset=N]";
        return Err(ConfigError::bad("incoming", uri, expected).into());
    }
    b.config.incoming = Some(uri.to_owned());
    Ok(())
}

pub(crate) fn uuid(b: &mut Builder, argument: &str) -> Done {
    let id = uuid::Uuid::parse_str(argument).map_err(|_| {
        ConfigError::bad("uuid", argument, "a UUID such as 123e4567-e89b-12d3-a456-426614174000")
    })?;
    b.config.uuid = Some(id);
    Ok(())
}

pub(crate) fn vga(b: &mut Builder, argument: &str) -> Done {
    b.config.vga = Some(one_of("vga", argument, &VGAS)?.to_owned());
    Ok(())
}

pub(crate) static DISPLAY: Group = Group {
    name: "display",
    implied: Some("type"),
    keys: &[text("type")],
    open: false,
    json: true,
    apply: |b, v| {
        let kind = v.needed("type")?;
        if kind == "help" || kind == "?" {
            return Err(Stop::help(format!("Display types:\n  {}\n", DISPLAYS.join("\n  "))));
        }
        if !DISPLAYS.contains(&kind.as_str()) {
            return Err(ConfigError::unknown("display type", &kind, DISPLAYS).into());
        }
        b.config.display = Some(kind);
        Ok(())
    },
};

pub(crate) static BOOT: Group = Group {
    name: "boot-opts",
    implied: Some("order"),
    keys: &[
        text("order"),
        text("once"),
        switch("menu"),
        text("splash"),
        number("splash-time"),
        number("reboot-timeout"),
        switch("strict"),
    ],
    open: false,
    json: false,
    apply: boot,
};

fn boot(b: &mut Builder, v: &mut Values) -> Done {
    let letters = |v: &mut Values, key: &str| -> Result<Option<String>, ConfigError> {
        let Some(order) = v.text(key)? else { return Ok(None) };
        let unique = order.chars().enumerate().all(|(i, c)| order.chars().position(|d| d == c) == Some(i));
        if order.is_empty() || !unique || !order.chars().all(|c| ('a'..='p').contains(&c)) {
            return Err(ConfigError::bad(key, order, "different drive letters from a to p"));
        }
        Ok(Some(order))
    };
    let boot = &mut b.config.boot;
    boot.order = letters(v, "order")?.or(boot.order.take());
    boot.once = letters(v, "once")?.or(boot.once.take());
    boot.menu = v.bool("menu")?.or(boot.menu);
    boot.splash = v.text("splash")?.or(boot.splash.take());
    boot.splash_time = v.number("splash-time")?.or(boot.splash_time);
    boot.reboot_timeout = v.number("reboot-timeout")?.or(boot.reboot_timeout);
    boot.strict = v.bool("strict")?.or(boot.strict);
    Ok(())
}

pub(crate) static RTC: Group = Group {
    name: "rtc",
    implied: None,
    keys: &[text("base"), word("clock", &["host", "rt", "vm"]), word("driftfix", &["none", "slew"])],
    open: false,
    json: false,
    apply: |b, v| {
        let rtc = &mut b.config.rtc;
        if let Some(base) = v.text("base")? {
            rtc.base = match base.as_str() {
                "utc" => RtcBase::Utc,
                "localtime" => RtcBase::Localtime,
                _ => RtcBase::At(date::parse(&base).ok_or_else(|| {
                    ConfigError::bad("base", base, "utc, localtime, YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS")
                })?),
            };
        }
        match v.text("clock")?.as_deref() {
            Some("host") => rtc.clock = RtcClock::Host,
            Some("rt") => rtc.clock = RtcClock::Rt,
            Some(_) => rtc.clock = RtcClock::Vm,
            None => {}
        }
        if let Some(fix) = v.text("driftfix")? {
            rtc.driftfix_slew = fix == "slew";
        }
        Ok(())
    },
};

pub(crate) static NAME: Group = Group {
    name: "name",
    implied: Some("guest"),
    keys: &[text("guest"), text("process"), switch("debug-threads")],
    open: false,
    json: false,
    apply: |b, v| {
        let name = &mut b.config.name;
        name.guest = v.text("guest")?.or(name.guest.take());
        name.process = v.text("process")?.or(name.process.take());
        name.debug_threads = v.bool("debug-threads")?.unwrap_or(name.debug_threads);
        Ok(())
    },
};

const WATCHDOG: [&str; 7] = ["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"];

/// `-watchdog-action`.
pub(crate) fn watchdog_action(b: &mut Builder, name: &str) -> Done {
    let expected = || ConfigError::bad("action", name, format!("one of {}", WATCHDOG.join(", ")));
    b.config.action.watchdog = OnWatchdog::named(name).ok_or_else(expected)?;
    Ok(())
}

pub(crate) static ACTION: Group = Group {
    name: "action",
    implied: None,
    keys: &[
        word("reboot", &["reset", "shutdown"]),
        word("shutdown", &["poweroff", "pause"]),
        word("panic", &["none", "pause", "shutdown", "exit-failure"]),
        word("watchdog", &WATCHDOG),
    ],
    open: false,
    json: false,
    apply: |b, v| {
        let action = &mut b.config.action;
        if let Some(w) = v.text("reboot")? {
            action.reboot = if w == "reset" { OnReboot::Reset } else { OnReboot::Shutdown };
        }
        if let Some(w) = v.text("shutdown")? {
            action.shutdown = if w == "pause" { OnShutdown::Pause } else { OnShutdown::Poweroff };
        }
        if let Some(w) = v.text("panic")? {
            action.panic = match w.as_str() {
                "none" => OnPanic::None,
                "pause" => OnPanic::Pause,
                "shutdown" => OnPanic::Shutdown,
                _ => OnPanic::ExitFailure,
            };
        }
        if let Some(w) = v.text("watchdog")? {
            action.watchdog = OnWatchdog::named(&w).unwrap_or_default();
        }
        Ok(())
    },
};

pub(crate) static ADD_FD: Group = Group {
    name: "add-fd",
    implied: None,
    keys: &[number("fd"), number("set"), text("opaque")],
    open: false,
    json: false,
    apply: |b, v| {
        let mut field = |key: &str, least: u32| {
            let value = v.number(key)?;
            let fits =
                value.and_then(|n| u32::try_from(n).ok()).filter(|n| *n >= least && *n <= i32::MAX as u32);
            fits.ok_or_else(|| ConfigError::BadValue {
                key: key.to_owned(),
                expected: format!("a number from {least} to {}", i32::MAX),
                value: value.map_or_else(String::new, |n| n.to_string()),
            })
        };
        // Standard input, output and error are the process's own.
        let (fd, set) = (field("fd", 3)?, field("set", 0)?);
        b.config.fd_sets.push(FdInSet { fd, set, opaque: v.text("opaque")? });
        Ok(())
    },
};

pub(crate) static AUDIODEV: Group = Group {
    name: "audiodev",
    implied: Some("driver"),
    // There is no sound card that would play to another one; programs that start machines name this one always.
    keys: &[word("driver", &["none"]), text("id")],
    open: false,
    json: true,
    apply: |b, v| {
        let need = |key: &str| ConfigError::Missing { what: "audiodev".into(), key: key.into() };
        v.text("driver")?.ok_or_else(|| need("driver"))?;
        let id = v.text("id")?.ok_or_else(|| need("id"))?;
        if b.config.audiodevs.contains(&id) {
            return Err(ConfigError::DuplicateId { what: "audiodev", id }.into());
        }
        b.config.audiodevs.push(id);
        Ok(())
    },
};

pub(crate) static MSG: Group = Group {
    name: "msg",
    implied: None,
    keys: &[switch("timestamp"), switch("guest-name")],
    open: false,
    json: false,
    apply: |b, v| {
        let msg = &mut b.config.msg;
        msg.timestamp = v.bool("timestamp")?.unwrap_or(msg.timestamp);
        msg.guest_name = v.bool("guest-name")?.unwrap_or(msg.guest_name);
        Ok(())
    },
};

pub(crate) static RUN_WITH: Group = Group {
    name: "run-with",
    implied: None,
    keys: &[switch("async-teardown"), text("chroot"), switch("exit-with-parent"), text("user")],
    open: false,
    json: false,
    apply: |b, v| {
        let run = &mut b.config.run_with;
        run.async_teardown = v.bool("async-teardown")?.unwrap_or(run.async_teardown);
        run.exit_with_parent = v.bool("exit-with-parent")?.unwrap_or(run.exit_with_parent);
        run.chroot = v.text("chroot")?.or(run.chroot.take());
        run.user = v.text("user")?.or(run.user.take());
        Ok(())
    },
};

pub(crate) static SANDBOX: Group = Group {
    name: "sandbox",
    implied: Some("enable"),
    keys: &[
        switch("enable"),
        word("obsolete", &["allow", "deny"]),
        word("elevateprivileges", &["allow", "deny", "children"]),
        word("spawn", &["allow", "deny"]),
        word("resourcecontrol", &["allow", "deny"]),
    ],
    open: false,
    json: false,
    apply: |b, v| {
        b.config.run_with.sandbox = v.bool("enable")?.unwrap_or(false);
        b.config.run_with.sandbox_groups = v.rest();
        Ok(())
    },
};

pub(crate) static OVERCOMMIT: Group = Group {
    name: "overcommit",
    implied: None,
    keys: &[word("mem-lock", &["on", "off", "on-fault"]), switch("cpu-pm")],
    open: false,
    json: false,
    apply: |b, v| {
        let run = &mut b.config.run_with;
        run.mem_lock = v.text("mem-lock")?.or(run.mem_lock.take());
        run.cpu_pm = v.bool("cpu-pm")?.unwrap_or(run.cpu_pm);
        Ok(())
    },
};

/// `-readconfig FILE`.
pub(crate) fn readconfig(b: &mut Builder, path: &str) -> Done {
    ini::apply(b, &read_file(path)?)
}

/// `-config FILE`: a whole configuration in JSON, which options after it can add to.
pub(crate) fn config(b: &mut Builder, path: &str) -> Done {
    let config = VmConfig::from_json(&read_file(path)?)?;
    b.serial_given = true;
    b.monitor_given = true;
    b.parallel_given = true;
    b.net_given = true;
    b.config = config;
    Ok(())
}

fn read_file(path: &str) -> Result<String, ConfigError> {
    use std::io::Read;
    let failed = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_FILE + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > MAX_CONFIG_FILE {
        return Err(failed(format!("larger than {MAX_CONFIG_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| failed("not UTF-8 text".into()))
}
