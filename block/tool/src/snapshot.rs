//! `snapshot`: snapshots inside an image.

use std::time::{SystemTime, UNIX_EPOCH};

use block_formats::Snapshot;
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
                say(&table(&list));
            }
        }
    }
    image.close()?;
    Ok(0)
}

/// The table of snapshots.
pub(crate) fn table(list: &[Snapshot]) -> String {
    let mut out =
        "Snapshot list:\nID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n"
            .to_owned();
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
            date(s.date_sec.into())
        );
    }
    out
}

/// Seconds since 1970 as a date, in UTC.
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Days since 0000-03-01, in eras of 400 years; years begin in March, so that the leap day is last.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
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
        assert_eq!(table(&[s]).lines().nth(2), Some(line));
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
    }
}
