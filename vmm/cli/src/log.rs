//! `-d` and `-D`, and Rhea's own messages.

use std::fmt;
use std::fs::File;
use std::io::Write;

use accel::{LogItems, LogSink};
use anyhow::{Context, Result, bail};
use control::{VmConfig, nearest};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Log items by the names of [`control::options::LOG_ITEMS`], where their help is.
const ITEMS: &[(&str, LogItems)] = &[
    ("in_asm", LogItems::IN_ASM),
    ("ir", LogItems::IR),
    ("op", LogItems::IR),
    ("ir_opt", LogItems::IR_OPT),
    ("op_opt", LogItems::IR_OPT),
    ("out_asm", LogItems::OUT_ASM),
    ("exec", LogItems::EXEC),
    ("cpu", LogItems::CPU),
    ("int", LogItems::INT),
    ("mmu", LogItems::MMU),
    ("stats", LogItems::STATS),
    ("plugin", LogItems::PLUGIN),
    ("nochain", LogItems::NOCHAIN),
    ("unimp", LogItems::UNIMP),
    ("guest_errors", LogItems::GUEST_ERRORS),
];

/// The log that the configuration asks for.
pub(crate) fn open(config: &VmConfig) -> Result<LogSink> {
    let mut items = LogItems::empty();
    for name in &config.log.items {
        let Some((_, item)) = ITEMS.iter().find(|(n, _)| n == name) else {
            let hint = nearest(name, ITEMS.iter().map(|(n, _)| *n));
            let hint = hint.map_or(String::new(), |n| format!("; did you mean '{n}'?"));
            bail!("-d: unknown item '{name}'{hint} There are: {}", help_names());
        };
        items |= *item;
    }
    let out: Box<dyn Write + Send> = match &config.log.file {
        Some(path) => {
            let path = path.replace("%d", &std::process::id().to_string());
            let file = File::create(&path).with_context(|| format!("log file {path}"))?;
            Box::new(std::io::LineWriter::new(file))
        }
        None => Box::new(std::io::stderr()),
    };
    init_messages(items, Prefix::of(config));
    Ok(LogSink::new(items, out))
}

fn help_names() -> String {
    ITEMS.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
}

/// Rhea's own messages go to the standard error; `RHEA_LOG` filters them.
fn init_messages(items: LogItems, prefix: Prefix) {
    let guest = if items.intersects(LogItems::UNIMP | LogItems::GUEST_ERRORS) { "debug" } else { "off" };
    let default = format!("warn,guest={guest}");
    let filter = tracing_subscriber::EnvFilter::try_from_env("RHEA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_timer(prefix)
        .with_target(false)
        .try_init();
}

/// What `-msg` puts before a message.
#[derive(Clone, Default)]
pub(crate) struct Prefix {
    time: bool,
    guest: Option<String>,
}

impl Prefix {
    pub(crate) fn of(config: &VmConfig) -> Self {
        let guest = config.msg.guest_name.then(|| config.name.guest.clone()).flatten();
        Self { time: config.msg.timestamp, guest }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.time {
            write!(f, "{:.6} ", jiff::Timestamp::now())?;
        }
        match &self.guest {
            Some(name) => write!(f, "{name} "),
            None => Ok(()),
        }
    }
}

impl FormatTime for Prefix {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        // The subscriber puts a space behind it.
        write!(w, "{}", self.to_string().trim_end())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_item_of_the_option_is_known() {
        let option: Vec<&str> = control::options::LOG_ITEMS.iter().map(|i| i.name).collect();
        let known: Vec<&str> = super::ITEMS.iter().map(|(n, _)| *n).collect();
        assert_eq!(option, known);
    }
}
