//! `luks`: key slots of encrypted images, LUKS volumes and qcow2 images alike.

use std::fmt::Write;

use block_formats::Options;

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::error::{ToolError, usage};
use crate::info;
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, QUIET};
use crate::text::say;

const OPTIONS: &[Opt] = &[
    QUIET,
    FORMAT,
    IMAGE_OPTS,
    OBJECT,
    o('k', "key-secret", "ID", "Secret with a passphrase of the image"),
    o('n', "new-secret", "ID", "Secret with the new passphrase (add)"),
    o(' ', "old-secret", "ID", "Secret with the passphrase whose slots are meant (erase)"),
    o('s', "slot", "N", "Key slot"),
    o(' ', "iter-time", "MS", "Milliseconds that checking the new passphrase takes (add; default 2000)"),
    o(' ', "header", "FILE", "Detached header of the image"),
    o(' ', "force", "", "Overwrite a slot in use, or erase the last one and with it all data"),
];

const ACTIONS: &str = "dump, test, add or erase";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "(dump | test | add | erase) FILE")?;
    let [action, name] = &args.operands[..] else {
        return usage(format!("luks needs an action ({ACTIONS}) and a FILE"));
    };
    let reads = match action.as_str() {
        "dump" | "test" => true,
        "add" | "erase" => false,
        other => return usage(format!("action '{other}': expected {ACTIONS}")),
    };
    let mut options = open::options(&args, reads)?;
    options.no_io = action == "dump";
    options.no_backing = true;
    if let Some(header) = args.get("header") {
        options.keys.push(("header.filename".into(), header.into()));
    }
    if let Some(id) = args.get("key-secret") {
        for key in ["key-secret", "encrypt.key-secret"] {
            options.keys.push((key.into(), id.into()));
        }
    }
    let image = open::image(&args, name, &options)?;
    let encrypted = image.details().encrypted;
    if !encrypted || !["luks", "qcow2"].contains(&image.format()) {
        return Err(ToolError::Failed(format!("{name}: format {} without LUKS", image.format())));
    }
    let quiet = args.has("quiet");
    let prefix = if image.format() == "luks" { "" } else { "encrypt." };
    match action.as_str() {
        "dump" => {
            let mut out = String::new();
            let _ = writeln!(out, "image: {name}\nfile format: {}", image.format());
            for (key, value) in &image.details().specific {
                if prefix.is_empty() || *key == "encrypt" {
                    info::shown(&mut out, &key.replace('-', " "), value, 0);
                }
            }
            say(&out);
        }
        "test" if !quiet => say("The passphrase opens the image.\n"),
        "test" => {}
        _ => {
            let mut change = Options::default();
            change.set_secrets(&options.secrets);
            change.force = args.has("force");
            change.set(&format!("{prefix}state"), if action == "add" { "active" } else { "inactive" });
            for (from, to) in [
                ("new-secret", "new-secret"),
                ("old-secret", "old-secret"),
                ("slot", "keyslot"),
                ("iter-time", "iter-time"),
            ] {
                if let Some(value) = args.get(from) {
                    change.set(&format!("{prefix}{to}"), value);
                }
            }
            image.amend(&change)?;
            image.close()?;
            if !quiet {
                say(if action == "add" { "Key slot added.\n" } else { "Key slot erased.\n" });
            }
        }
    }
    Ok(0)
}
