//! HMP: the monitor for humans, on the same machine as QMP.
//!
//! One table holds the commands with their arguments and help. [`run`] executes one line; [`Session`] adds the
//! prompt and line editing for a terminal.

mod backends;
mod expr;
mod info;
mod input;
mod memory;
mod readline;
mod session;
#[cfg(test)]
mod tests;

pub use session::Session;

use crate::config::{DeviceConfig, Props};
use crate::monitor::Control;
use crate::options::LOG_ITEMS;
use crate::suggest::nearest;
use crate::vm::{SnapshotScope, VmError};

/// Longest line taken, in bytes.
pub(crate) const MAX_LINE: usize = 4096;

/// What a command sees.
pub(crate) struct Context<'a> {
    pub(crate) control: &'a Control,
    /// vCPU that `info registers`, `x` and `$register` mean.
    pub(crate) cpu: u32,
    /// Everything after the command's name.
    pub(crate) args: &'a str,
}

type Answer = Result<String, VmError>;

/// One command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) args: &'static str,
    pub(crate) help: &'static str,
    run: fn(&Context<'_>) -> Answer,
}

macro_rules! commands {
    ($($name:literal $(| $alias:literal)* $args:literal $help:literal $run:expr;)*) => {
        /// All commands.
        pub(crate) static COMMANDS: &[Command] = &[$(
            Command { name: $name, aliases: &[$($alias),*], args: $args, help: $help, run: $run },
        )*];
    };
}

commands! {
    "help" | "?" "[command]" "list the commands, or explain one" |c| help(c.args);
    "info" "[subject]" "show something; without a subject, list the subjects" info::run;
    "stop" | "s" "" "stop the vCPUs" |c| done(c.control.vm.stop());
    "cont" | "c" "" "start the vCPUs" |c| done(c.control.vm.cont());
    "system_reset" "" "reset the machine" |c| done(c.control.vm.reset());
    "system_powerdown" "" "press the power button" |c| done(c.control.vm.powerdown());
    // The session ends the process once the answer is on its way.
    "quit" | "q" "" "end the process" |_| Ok(String::new());
    "cpu" "index" "choose the vCPU for the commands that need one" cpu;
    "x" "/fmt address" "dump virtual memory: /COUNT FORMAT(x d u o c s) SIZE(b h w g)" memory::dump_virtual;
    "xp" "/fmt address" "dump physical memory" memory::dump_physical;
    "print" | "p" "/fmt expression" "print the value of an expression; $name is a register" memory::print;
    "memsave" "address size file" "save virtual memory to a file" |c| memory::save(c, false);
    "pmemsave" "address size file" "save physical memory to a file" |c| memory::save(c, true);
    "nmi" "" "inject a non-maskable interrupt" |c| done(c.control.vm.inject_nmi(c.cpu));
    "savevm" "[tag]" "save the machine and its disks under a tag" |c| {
        done(c.control.vm.save_snapshot(tag(c.args)?, &SnapshotScope::default(), true))
    };
    "loadvm" "tag" "load a saved machine and its disks" |c| {
        done(c.control.vm.load_snapshot(one(c.args, "tag")?, &SnapshotScope::default()))
    };
    "delvm" "tag" "delete a saved machine" |c| {
        done(c.control.vm.delete_snapshot(one(c.args, "tag")?, &SnapshotScope::default()))
    };
    "device_add" "driver[,property=value...]" "plug a device" device_add;
    "device_del" "id" "ask the guest to give a device up" |c| done(c.control.vm.device_del(one(c.args, "id")?));
    "netdev_add" "type,id=ID[,key=value...]" "add a network back end" backends::netdev_add;
    "netdev_del" "id" "take a network back end away" |c| done(c.control.vm.netdev_del(one(c.args, "id")?));
    "hostfwd_add" "[netdev] [tcp|udp]:[address]:port-[address]:port" "open a port that leads into the guest" backends::hostfwd_add;
    "hostfwd_remove" "[netdev] [tcp|udp]:[address]:port" "close one" backends::hostfwd_remove;
    "announce_self" "[cards]" "make cards, all or those named with commas between, known to the network" backends::announce_self;
    "set_link" "name on|off" "plug the cable of a network card or back end in or out" backends::set_link;
    "chardev-add" "type,id=ID[,key=value...]" "add a character back end" backends::chardev_add;
    "chardev-remove" "id" "take a character back end away" |c| done(c.control.vm.chardev_remove(one(c.args, "id")?));
    "object_add" "type,id=ID[,key=value...]" "add an object" backends::object_add;
    "object_del" "id" "take an object away" |c| done(c.control.vm.object_del(one(c.args, "id")?));
    "commit" "device|all" "write what a disk keeps above its backing file, or with snapshot=on, into that" |c| {
        done(c.control.vm.commit(one(c.args, "device or 'all'")?).map(drop))
    };
    "eject" "[-f] device" "open the tray of a drive and take out what is in it; -f even if the guest holds it" backends::eject;
    "change" "device [-f] file [format [read-only-mode]]" "put another medium into a drive" backends::change;
    "block_resize" "device size" "change the size of a disk (a bare number is mebibytes)" backends::block_resize;
    "snapshot_blkdev_internal" "device name" "make a snapshot inside the image of a disk" backends::snapshot_internal;
    "snapshot_delete_blkdev_internal" "device name [id]" "delete one" backends::snapshot_delete_internal;
    "balloon" "size" "ask the guest to live with so much RAM (a bare number is mebibytes)" backends::balloon;
    "migrate" "[-d] uri" "send the machine to another Rhea; -d does not wait for the end" backends::migrate;
    "migrate_cancel" "" "end a migration under way" |c| done(c.control.vm.migrate_cancel());
    "migrate_incoming" "uri" "go on with -incoming defer" |c| done(c.control.vm.migrate_incoming(one(c.args, "uri")?));
    "migrate_set_parameter" "name value" "set max-bandwidth (MiB/s) or downtime-limit (ms)" backends::set_parameter;
    "screendump" "file [-f ppm|png]" "save the picture of a display" input::screendump;
    "sendkey" "keys [hold]" "press keys joined by '-' together, for so many milliseconds" input::sendkey;
    "mouse_move" "dx dy [dz]" "move the mouse, turn its wheel" input::mouse_move;
    "mouse_button" "state" "press buttons: left 1, middle 2, right 4, added up" input::mouse_button;
    "qom-set" "path property value" "set a property of an object" info::qom_set;
    "qom-list" "path" "list children and properties of an object" info::qom_list;
    "qom-get" "path property" "show a property of an object" info::qom_get;
    "ringbuf_read" "device size" "take bytes out of a ringbuf chardev" info::ringbuf_read;
    "ringbuf_write" "device text" "write into a ringbuf chardev" info::ringbuf_write;
    "log" "item,..." "choose log items; 'none' for no log" log;
}

fn done(result: Result<(), VmError>) -> Answer {
    result.map(|()| String::new())
}

fn failed<T>(text: impl Into<String>) -> Result<T, VmError> {
    Err(VmError::Failed(text.into()))
}

/// The only word of `args`.
fn one<'a>(args: &'a str, name: &str) -> Result<&'a str, VmError> {
    let mut words = args.split_whitespace();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word),
        _ => failed(format!("expected one argument: {name}")),
    }
}

fn tag(args: &str) -> Result<&str, VmError> {
    if args.is_empty() { Ok("vm") } else { one(args, "tag") }
}

/// Looks a command up by name or alias.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name || c.aliases.contains(&name))
}

/// Splits a line into the command's name and the rest; `x/4xw` is `x` with `/4xw`.
pub(crate) fn split(line: &str) -> (&str, &str) {
    let line = line.trim();
    let end = line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len());
    (&line[..end], line[end..].trim())
}

/// Executes one line with `cpu` as the chosen vCPU; the answer ends with a line end or is empty.
pub fn run(control: &Control, cpu: u32, line: &str) -> String {
    let (name, args) = split(line);
    if name.is_empty() {
        return String::new();
    }
    if line.len() > MAX_LINE {
        return format!("Error: line is longer than {MAX_LINE} bytes\n");
    }
    let Some(command) = find(name) else {
        let names = COMMANDS.iter().map(|c| c.name);
        let hint =
            nearest(name, names).map_or_else(|| "see 'help'".into(), |n| format!("did you mean '{n}'?"));
        return format!("unknown command: '{}'; {hint}\n", name.escape_debug());
    };
    match (command.run)(&Context { control, cpu, args }) {
        Ok(text) => text,
        Err(e) => format!("Error: {e}\n"),
    }
}

fn help(args: &str) -> Answer {
    if args == "info" || args == "info " {
        return Ok(info::subjects());
    }
    let mut out = String::new();
    for c in COMMANDS.iter().filter(|c| args.is_empty() || c.name == args || c.aliases.contains(&args)) {
        let names = std::iter::once(c.name).chain(c.aliases.iter().copied()).collect::<Vec<_>>().join("|");
        out.push_str(&format!("{} -- {}\n", format!("{names} {}", c.args).trim_end(), c.help));
    }
    if out.is_empty() { failed(format!("command '{}' is not known", args.escape_debug())) } else { Ok(out) }
}

fn cpu(c: &Context<'_>) -> Answer {
    // The session remembers the choice; here it is only checked.
    let word = one(c.args, "index")?;
    match word.parse::<u32>() {
        Ok(i) if c.control.vm.cpus().iter().any(|v| v.index == i) => Ok(String::new()),
        _ => failed(format!("vCPU '{}' is not there", word.escape_debug())),
    }
}

fn device_add(c: &Context<'_>) -> Answer {
    let mut items = c.args.split(',');
    let driver = items.next().unwrap_or_default().trim().to_owned();
    if driver.is_empty() {
        return failed("expected one argument: driver[,property=value...]");
    }
    let mut device = DeviceConfig { driver, ..DeviceConfig::default() };
    let mut props = Props::new();
    for item in items {
        match item.split_once('=') {
            Some(("id", v)) => device.id = Some(v.to_owned()),
            Some(("bus", v)) => device.bus = Some(v.to_owned()),
            Some((k, v)) => props.insert(k, v),
            None => props.insert(item, "on"),
        }
    }
    device.props = props;
    done(c.control.vm.device_add(&device))
}

fn log(c: &Context<'_>) -> Answer {
    let word = one(c.args, "items separated by commas")?;
    let items: Vec<String> = word.split(',').filter(|i| *i != "none").map(str::to_owned).collect();
    if let Some(bad) = items.iter().find(|i| !LOG_ITEMS.iter().any(|l| l.name == **i)) {
        return failed(format!("log item '{}' is not known", bad.escape_debug()));
    }
    done(c.control.vm.set_log(&items))
}
