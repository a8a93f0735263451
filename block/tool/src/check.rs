//! `check`: looks for damage, and repairs it.

use block_formats::{CheckReport, Repair};
use serde_json::json;

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::{ToolError, usage};
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, QUIET, SHARE};
use crate::text::{self, say};

const OPTIONS: &[Opt] = &[
    QUIET,
    FORMAT,
    IMAGE_OPTS,
    SHARE,
    OUTPUT,
    OBJECT,
    o('T', "cache", "CACHE", "Cache mode"),
    o('r', "repair", "leaks|all", "Repair"),
];

/// Exit codes: 0 is clean, these are not, 63 is no check.
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NO_CHECK: u8 = 63;

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE")?;
    let json = args.json()?;
    let repair = match args.get("repair") {
        None => Repair::No,
        Some("leaks") => Repair::Leaks,
        Some("all") => Repair::All,
        Some(other) => return usage(format!("--repair {other}: expected leaks or all")),
    };
    let mut options = open::options(&args, repair == Repair::No)?;
    options.repairing = true;
    options.no_backing = true;
    let name = args.one("FILE")?;
    let image = open::image(&args, name, &options)?;
    let report = match image.check(repair) {
        Err(block::BlockError::Unsupported(_)) => {
            return Err(ToolError::Code(NO_CHECK, "This image format does not support checks".into()));
        }
        other => other?,
    };
    image.close()?;
    if !args.has("quiet") {
        report.messages.iter().for_each(|m| text::complain(m));
    }
    if json {
        say(&text::json(&as_json(&report, name, image.format())));
    } else if !args.has("quiet") {
        say(&as_text(&report));
    }
    Ok(match report {
        r if r.check_errors != 0 => {
            return Err(ToolError::Failed(format!("{name}: {} errors while checking", r.check_errors)));
        }
        r if r.corruptions != 0 => CORRUPT,
        r if r.leaks != 0 => LEAKS,
        _ => 0,
    })
}

fn as_json(r: &CheckReport, name: &str, format: &str) -> serde_json::Value {
    let mut out = json!({ "filename": name, "format": format, "check-errors": r.check_errors });
    if let Some(map) = out.as_object_mut() {
        for (key, n) in [
            ("image-end-offset", r.image_end_offset),
            ("corruptions", r.corruptions),
            ("leaks", r.leaks),
            ("corruptions-fixed", r.corruptions_fixed),
            ("leaks-fixed", r.leaks_fixed),
            ("total-clusters", r.total_clusters),
            ("allocated-clusters", r.allocated_clusters),
            ("fragmented-clusters", r.fragmented_clusters),
            ("compressed-clusters", r.compressed_clusters),
        ] {
            if n != 0 {
                map.insert(key.into(), json!(n));
            }
        }
    }
    out
}

fn as_text(r: &CheckReport) -> String {
    let mut out = String::new();
    if r.leaks_fixed + r.corruptions_fixed != 0 {
        out += &format!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\nDouble checking the fixed image now...\n",
            r.leaks_fixed, r.corruptions_fixed
        );
    }
    if r.corruptions + r.leaks == 0 {
        out += "No errors were found on the image.\n";
    } else {
        if r.corruptions != 0 {
            out += &format!(
                "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
                r.corruptions
            );
        }
        if r.leaks != 0 {
            out += &format!(
                "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
                r.leaks
            );
        }
    }
    if r.total_clusters != 0 && r.allocated_clusters != 0 {
        let part = |n: u64, of: u64| n as f64 * 100.0 / of as f64;
        out += &format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            r.allocated_clusters,
            r.total_clusters,
            part(r.allocated_clusters, r.total_clusters),
            part(r.fragmented_clusters, r.allocated_clusters),
            part(r.compressed_clusters, r.allocated_clusters),
        );
    }
    if r.image_end_offset != 0 {
        out += &format!("Image end offset: {}\n", r.image_end_offset);
    }
    out
}
