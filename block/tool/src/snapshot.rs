//! `snapshot`: snapshots inside an image.

use std::time::{SystemTime, UNIX_EPOCH};

use block_formats::Snapshot;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::usage;
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, QUIET, SHARE};
use crate::text::{self, say};

const OPTIONS: &[Opt] = &[
    QUIET,
    FORMAT,
    IMAGE_OPTS,
    SHARE,
    OBJECT,
    o('l', "list", "", "List snapshots (the default)"),
    o('c', "create", "NAME", "Make one"),
    o('a', "apply", "SNAPSHOT", "Set the disk to one"),
    o('d', "delete", "SNAPSHOT", "Delete one"),
];

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE")?;
    let actions: Vec<_> =
        args.iter().filter(|(n, _)| matches!(*n, "list" | "create" | "apply" | "delete")).collect();
    let (action, value) = match actions[..] {
        [] => ("list", ""),
        [one] => one,
        _ => return usage("one of --list, --create, --apply and --delete at a time"),
    };
    let image = open::image(&args, args.one("FILE")?, &open::options(&args, action == "list")?)?;
    match action {
        "create" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let snapshot = Snapshot {
                name: value.into(),
                date_sec: now.as_secs() as u32,
                date_nsec: now.subsec_nanos(),
                icount: Some(0),
                ..Snapshot::default()
            };
            image.create_snapshot(&snapshot)?;
        }
        "apply" => image.apply_snapshot(value)?,
        "delete" => image.delete_snapshot(value)?,
        _ => {
            let list = image.snapshots();
            if !list.is_empty() {
                say(&format!("Snapshot list:\n{}", snapshot_table(&list)));
            }
        }
    }
    image.close()?;
    Ok(0)
}

/// Snapshots as a table, with local dates.
pub fn snapshot_table(list: &[Snapshot]) -> String {
    table(list, &TimeZone::system())
}

fn table(list: &[Snapshot], zone: &TimeZone) -> String {
    let mut out =
        "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n".to_owned();
    for s in list {
        let clock = s.vm_clock_nsec / 1_000_000_000;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            clock / 3600,
            clock / 60 % 60,
            clock % 60,
            s.vm_clock_nsec / 1_000_000 % 1000
        );
        let icount = s.icount.map_or("--".to_owned(), |i| i.to_string());
        let size = text::size(s.vm_state_size);
        out += &format!(
            "{:<8}{:<16}{size:>9}{:>20}{clock:>16}{icount:>11}\n",
            s.id,
            s.name,
            date(s.date_sec.into(), zone.clone())
        );
    }
    out
}

/// Seconds since 1970 as a date there.
fn date(seconds: i64, zone: TimeZone) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or_default();
    time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A snapshot in JSON.
pub(crate) fn as_json(s: &Snapshot) -> Value {
    let mut out = json!({
        "id": s.id, "name": s.name, "vm-state-size": s.vm_state_size,
        "date-sec": s.date_sec, "date-nsec": s.date_nsec,
        "vm-clock-sec": s.vm_clock_nsec / 1_000_000_000, "vm-clock-nsec": s.vm_clock_nsec % 1_000_000_000,
    });
    if let (Some(map), Some(icount)) = (out.as_object_mut(), s.icount) {
        map.insert("icount".into(), json!(icount));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_as_in_qemu() {
        let s = Snapshot {
            id: "1".into(),
            name: "s1".into(),
            date_sec: 1_795_808_252,
            icount: Some(0),
            ..Snapshot::default()
        };
        let line = "1       s1                    0 B 2026-11-27 19:37:32  0000:00:00.000          0";
        assert_eq!(table(&[s], &TimeZone::UTC).lines().nth(1), Some(line));
        assert_eq!(date(951_782_400, TimeZone::fixed(jiff::tz::offset(2))), "2000-02-29 02:00:00");
    }
}
