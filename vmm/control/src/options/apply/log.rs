//! -d, -D, -trace.

use super::super::build::{Builder, Stop};
use super::super::group::{Group, Values, text};
use super::Done;
use crate::config::ConfigError;

/// One item of `-d`.
#[derive(Clone, Copy, Debug)]
pub struct LogItem {
    /// Name.
    pub name: &'static str,
    /// What is logged.
    pub help: &'static str,
}

const fn item(name: &'static str, help: &'static str) -> LogItem {
    LogItem { name, help }
}

/// Everything `-d` knows.
pub const LOG_ITEMS: [LogItem; 15] = [
    item("in_asm", "guest instructions of each unit as it is translated"),
    item("ir", "IR of each unit before the passes"),
    item("op", "the same"),
    item("ir_opt", "IR of each unit after the passes"),
    item("op_opt", "the same"),
    item("out_asm", "host code of each unit"),
    item("exec", "each unit as the loop enters it"),
    item("cpu", "registers before each unit"),
    item("int", "interrupts and exceptions"),
    item("mmu", "page table walks"),
    item("stats", "counters, printed at the end"),
    item("plugin", "what plugins print, which is always shown"),
    item("nochain", "return to the loop after each unit"),
    item("unimp", "accesses to what is not implemented"),
    item("guest_errors", "what guests do wrong"),
];

pub(crate) fn items(b: &mut Builder, argument: &str) -> Done {
    let mut list = Vec::new();
    for name in argument.split(',') {
        match name {
            "help" | "?" => {
                let mut text = "Log items (separated by commas):\n".to_owned();
                for i in LOG_ITEMS {
                    text.push_str(&format!("  {:<14} {}\n", i.name, i.help));
                }
                text.push_str("  trace:PATTERN  trace events whose name fits the pattern\n  all, none\n");
                return Err(Stop::help(text));
            }
            "none" => list.clear(),
            "all" => list.extend(LOG_ITEMS.iter().map(|i| i.name.to_owned())),
            _ if name.strip_prefix("trace:").is_some_and(|p| !p.is_empty()) => list.push(name.to_owned()),
            _ if LOG_ITEMS.iter().any(|i| i.name == name) => list.push(name.to_owned()),
            _ => return Err(ConfigError::unknown("log item", name, LOG_ITEMS.iter().map(|i| i.name)).into()),
        }
    }
    b.config.log.items = list;
    Ok(())
}

pub(crate) fn file(b: &mut Builder, path: &str) -> Done {
    b.config.log.file = Some(path.to_owned());
    Ok(())
}

pub(crate) static TRACE: Group = Group {
    name: "trace",
    implied: Some("enable"),
    keys: &[text("enable"), text("events"), text("file")],
    open: false,
    json: false,
    apply: trace,
};

fn trace(b: &mut Builder, v: &mut Values) -> Done {
    let t = &mut b.config.trace;
    t.enable.extend(v.text("enable")?);
    t.events.extend(v.text("events")?);
    t.file = v.text("file")?.or(t.file.take());
    Ok(())
}
