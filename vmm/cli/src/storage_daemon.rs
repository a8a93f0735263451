//! `rhea storage-daemon`: block nodes, and exports of them, without a machine; with `qemu-storage-daemon`'s options.
//!
//! It is the machine `none` with what the options of `rhea run` give it; servers and exports are the commands that QMP has.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use block_formats::Options;
use control::{Invocation, nearest};
use serde_json::{Map, Value};

use crate::nodes::names;
use crate::run::{self, First};
use crate::{fail, log, one_line};

/// Options with what becomes of their values.
const OPTIONS: &[(&str, Kind)] = &[
    ("blockdev", Kind::Same("-blockdev")),
    ("chardev", Kind::Same("-chardev")),
    ("object", Kind::Same("-object")),
    ("pidfile", Kind::Same("-pidfile")),
    ("trace", Kind::Same("-trace")),
    ("daemonize", Kind::Flag("-daemonize")),
    ("monitor", Kind::Monitor),
    ("nbd-server", Kind::Command("nbd-server-start", "")),
    ("export", Kind::Command("block-export-add", "type")),
    ("help", Kind::Help),
    ("version", Kind::Version),
];

#[derive(Clone, Copy)]
enum Kind {
    /// The option of `rhea run` that it is.
    Same(&'static str),
    Flag(&'static str),
    Monitor,
    /// The command that it is, and the key of a first word that has none.
    Command(&'static str, &'static str),
    Help,
    Version,
}

const USAGE: &str = "\
options:
  --blockdev [driver=]DRIVER,node-name=NAME[,OPTIONS]  a block node, as 'rhea run' has it
  --chardev OPTIONS                                    a character device
  --object TYPE,id=ID[,OPTIONS]                        an object: secret, tls-creds-x509, throttle-group, iothread
  --monitor [chardev=]NAME[,mode=control]              a QMP monitor on a character device
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,tls-creds=ID][,max-connections=N]
  --nbd-server addr.type=unix,addr.path=PATH[,...]     an NBD server
  --export [type=]nbd,id=ID,node-name=NODE[,name=NAME][,writable=on|off][,bitmap=NAME]
  --export [type=]vhost-user-blk,id=ID,node-name=NODE,addr.type=unix,addr.path=PATH[,writable=on|off]
           [,logical-block-size=N][,num-queues=N]
  --export [type=]fuse,id=ID,node-name=NODE,mountpoint=FILE[,growable=on|off][,writable=on|off]
           [,allow-other=on|off|auto]
  --daemonize                                          go to the background once all is there
  --pidfile PATH                                       write the process's number to a file
  --help, --version
";

/// What a command line says.
enum Said {
    Run { args: Vec<String>, first: Vec<First> },
    Help,
    Version,
}

/// A list of keys as the arguments of a command.
fn arguments(text: &str, implied: &str) -> Result<Map<String, Value>> {
    let starts_bare = !text.split(',').next().unwrap_or_default().contains('=');
    let text = if starts_bare && !implied.is_empty() { format!("{implied}={text}") } else { text.to_owned() };
    let mut map = Map::new();
    for (key, value) in Options::parse(&text)?.iter() {
        let value = match (key, value.parse::<u64>()) {
            ("bitmap", _) => {
                map.insert("bitmaps".into(), Value::from(vec![value]));
                continue;
            }
            ("max-connections" | "handshake-max-seconds", Ok(n)) => n.into(),
            ("allocation-depth", _) => (value == "on").into(),
            _ => value.into(),
        };
        names::nest(&mut map, key, value)?;
    }
    // Lists are written by number.
    if let Some(Value::Object(list)) = map.get("bitmaps") {
        let items: Vec<Value> = list.values().cloned().collect();
        map.insert("bitmaps".into(), items.into());
    }
    Ok(map)
}

fn parse(args: &[String]) -> Result<Said> {
    let mut out: Vec<String> = ["-M", "none", "-nodefaults", "-display", "none"].map(str::to_owned).into();
    let mut first = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (name, value) = match (arg.strip_prefix("--"), arg.as_str()) {
            (Some(long), _) => long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned()))),
            (None, "-h") => ("help", None),
            (None, "-V") => ("version", None),
            (None, "-T") => ("trace", None),
            _ => bail!("unexpected argument '{arg}' (see --help)"),
        };
        let Some((name, kind)) = OPTIONS.iter().find(|(n, _)| *n == name) else {
            let hint = nearest(name, OPTIONS.iter().map(|(n, _)| *n));
            bail!(
                "unknown option '{arg}'{}",
                hint.map_or("; see --help".into(), |n| format!("; did you mean '--{n}'?"))
            );
        };
        let mut needed = || {
            let next = value.clone().or_else(|| rest.next().cloned());
            next.ok_or_else(|| anyhow!("option '--{name}' needs a value (see --help)"))
        };
        match kind {
            Kind::Help => return Ok(Said::Help),
            Kind::Version => return Ok(Said::Version),
            Kind::Flag(option) => out.push((*option).to_owned()),
            Kind::Same(option) => out.extend([(*option).to_owned(), needed()?]),
            Kind::Monitor => {
                let text = needed()?;
                let map = arguments(&text, "chardev")?;
                if let Some(key) =
                    map.keys().find(|k| !["chardev", "mode", "pretty", "id"].contains(&k.as_str()))
                {
                    bail!("--monitor {text}: unknown key '{key}'; there are: chardev, mode, pretty, id");
                }
                if map.get("mode").is_some_and(|m| m != "control") {
                    bail!("--monitor {text}: expected mode=control");
                }
                let named = if text.starts_with("chardev=") || text.contains(",chardev=") {
                    text
                } else {
                    format!("chardev={text}")
                };
                let mode = if map.contains_key("mode") { "" } else { ",mode=control" };
                out.extend(["-mon".to_owned(), format!("{named}{mode}")]);
            }
            Kind::Command(command, implied) => {
                let text = needed()?;
                first.push((format!("--{name} {text}"), *command, arguments(&text, implied)?));
            }
        }
    }
    Ok(Said::Run { args: out, first })
}

/// Runs the daemon.
pub(crate) fn run(name: &str, args: &[String]) -> ExitCode {
    let (args, first) = match parse(args) {
        Ok(Said::Run { args, first }) => (args, first),
        Ok(Said::Help) => {
            print!("usage: {name} [OPTIONS]\n\n{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Said::Version) => {
            println!("{}", crate::version(name));
            return ExitCode::SUCCESS;
        }
        Err(e) => return fail(name, &one_line(&e)),
    };
    match control::parse(&args, crate::DEFAULT_ARCH) {
        Ok(Invocation::Run(config)) => {
            let prefix = log::Prefix::of(&config);
            match run::run(*config, &first) {
                Ok(code) => ExitCode::from(code),
                Err(e) => fail(&format!("{prefix}{name}"), &one_line(&e)),
            }
        }
        Ok(_) => fail(name, "help on a part is given by 'rhea run'"),
        Err(e) => fail(name, &e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_are_those_of_a_machine_and_commands() {
        let said = parse(&words(
            "--blockdev driver=file,node-name=f,filename=x --monitor c --nbd-server=addr.type=unix,addr.path=/s,max-connections=3 \
             --export nbd,id=e,node-name=f,writable=on,bitmap=b --daemonize",
        ));
        let Ok(Said::Run { args, first }) = said else { panic!("a run") };
        assert_eq!(
            args[5..],
            words("-blockdev driver=file,node-name=f,filename=x -mon chardev=c,mode=control -daemonize")
        );
        assert_eq!(
            Value::Object(first[0].2.clone()),
            json!({"addr": {"type": "unix", "path": "/s"}, "max-connections": 3})
        );
        assert_eq!(
            Value::Object(first[1].2.clone()),
            json!({"type": "nbd", "id": "e", "node-name": "f", "writable": "on", "bitmaps": ["b"]})
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, word) in [
            ("--exprot nbd", "did you mean '--export'"),
            ("--export", "needs a value"),
            ("file", "unexpected argument 'file'"),
            ("--monitor c,mode=readline", "expected mode=control"),
            ("--monitor c,fast=on", "unknown key 'fast'"),
        ] {
            let text = parse(&words(line)).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(text.contains(word), "{text}");
        }
    }
}
