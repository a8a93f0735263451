//! Command lines in the manner of getopt: `-f raw`, `-fraw`, `-pq`, `--format raw`, `--format=raw`, operands anywhere.

use crate::error::{ToolError, usage};

/// An option a command takes.
#[derive(Clone, Copy)]
pub(crate) struct Opt {
    /// Letter, or a space if it has none.
    pub(crate) short: char,
    /// Long name.
    pub(crate) long: &'static str,
    /// Name of its value in help; empty if it takes none.
    pub(crate) value: &'static str,
    /// One line of help.
    pub(crate) help: &'static str,
}

/// An option with its value's name.
pub(crate) const fn o(short: char, long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value, help }
}

/// Two tables as one.
pub(crate) const fn joined<const A: usize, const B: usize, const N: usize>(
    a: [Opt; A],
    b: [Opt; B],
) -> [Opt; N] {
    assert!(A + B == N, "as many as both have");
    let mut out = [o(' ', "", "", ""); N];
    let mut i = 0;
    while i < N {
        out[i] = if i < A { a[i] } else { b[i - A] };
        i += 1;
    }
    out
}

/// What was given.
#[derive(Debug, Default)]
pub(crate) struct Args {
    options: Vec<(&'static str, String)>,
    /// What is no option.
    pub(crate) operands: Vec<String>,
}

impl Args {
    /// Takes a command line apart.
    pub(crate) fn parse(args: &[String], table: &[Opt], operands: &str) -> Result<Self, ToolError> {
        let mut out = Args::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            if arg == "--" {
                out.operands.extend(rest.by_ref().cloned());
            } else if let Some(long) = arg.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((n, v)) => (n, Some(v.to_owned())),
                    None => (long, None),
                };
                if name == "help" {
                    return Err(ToolError::Help(help(table, operands)));
                }
                // Long names may be shortened as long as that is clear.
                let mut fitting = table.iter().filter(|t| t.long.starts_with(name));
                let exact = table.iter().find(|t| t.long == name);
                let opt = match (exact, fitting.next(), fitting.next()) {
                    (Some(opt), ..) | (None, Some(opt), None) => opt,
                    _ => return usage(format!("unknown option '{arg}' (see --help)")),
                };
                out.take(opt, value, &mut rest)?;
            } else if arg.len() > 1 && arg.starts_with('-') {
                let mut letters = arg[1..].chars();
                while let Some(c) = letters.next() {
                    if c == 'h' {
                        return Err(ToolError::Help(help(table, operands)));
                    }
                    let Some(opt) = table.iter().find(|t| t.short == c && c != ' ') else {
                        return usage(format!("unknown option '-{c}' (see --help)"));
                    };
                    let left = letters.as_str();
                    if !opt.value.is_empty() && !left.is_empty() {
                        out.take(opt, Some(left.to_owned()), &mut rest)?;
                        break;
                    }
                    out.take(opt, None, &mut rest)?;
                }
            } else {
                out.operands.push(arg.clone());
            }
        }
        Ok(out)
    }

    fn take<'a>(
        &mut self,
        opt: &Opt,
        value: Option<String>,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), ToolError> {
        let value = match (opt.value.is_empty(), value) {
            (true, None) => String::new(),
            (true, Some(_)) => return usage(format!("option '--{}' takes no value", opt.long)),
            (false, Some(value)) => value,
            (false, None) => match rest.next() {
                Some(value) => value.clone(),
                None => return usage(format!("option '--{}' needs {}", opt.long, opt.value)),
            },
        };
        let value = if opt.long == "object" { crate::objects::plain(value)? } else { value };
        self.options.push((opt.long, value));
        Ok(())
    }

    /// Whether a switch was given.
    pub(crate) fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(n, _)| *n == long)
    }

    /// The last value of an option.
    pub(crate) fn get(&self, long: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| *n == long).map(|(_, v)| v.as_str())
    }

    /// All values of an option.
    pub(crate) fn all<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        self.options.iter().filter(move |(n, _)| *n == long).map(|(_, v)| v.as_str())
    }

    /// All options in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.options.iter().map(|(n, v)| (*n, v.as_str()))
    }

    /// A number.
    pub(crate) fn number(&self, long: &str) -> Result<Option<u64>, ToolError> {
        match self.get(long) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(n) => Ok(Some(n)),
                Err(_) => usage(format!("--{long} {text}: expected a number")),
            },
        }
    }

    /// A size in bytes.
    pub(crate) fn size(&self, long: &str) -> Result<Option<u64>, ToolError> {
        self.get(long).map(|text| size(&format!("--{long}"), text)).transpose()
    }

    /// The only operand.
    pub(crate) fn one(&self, what: &str) -> Result<&str, ToolError> {
        match &self.operands[..] {
            [one] => Ok(one),
            [] => usage(format!("{what} is missing")),
            [_, more, ..] => usage(format!("unexpected argument '{more}'")),
        }
    }

    /// Whether the output is JSON.
    pub(crate) fn json(&self) -> Result<bool, ToolError> {
        match self.get("output") {
            None | Some("human") => Ok(false),
            Some("json") => Ok(true),
            Some(other) => usage(format!("--output {other}: expected human or json")),
        }
    }
}

/// A size in bytes.
pub(crate) fn size(what: &str, text: &str) -> Result<u64, ToolError> {
    match block_formats::parse_size(text) {
        Some(size) => Ok(size),
        None => usage(format!("{what} {text}: expected a size such as 64k or 10G")),
    }
}

/// What the help of a command begins with.
pub(crate) const HELP: &str = "arguments: ";

fn help(table: &[Opt], operands: &str) -> String {
    let mut out = format!("{HELP}[OPTIONS] {operands}\n\n");
    for t in table {
        let short = if t.short == ' ' { "    ".to_owned() } else { format!("-{}, ", t.short) };
        out += &format!("  {short}--{} {}\n      {}\n", t.long, t.value, t.help);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let table = [o('f', "format", "FMT", ""), o('p', "progress", "", ""), o('q', "quiet", "", "")];
        let parse = |s: &str| Args::parse(&s.split(' ').map(str::to_owned).collect::<Vec<_>>(), &table, "");
        let a = parse("-pq a -fraw --form=qcow2 b").unwrap();
        assert_eq!((a.get("format"), a.has("progress"), a.operands.len()), (Some("qcow2"), true, 2));
        assert_eq!(a.all("format").count(), 2);
        for bad in ["-x", "--nope", "-f", "--quiet=1"] {
            assert!(matches!(parse(bad), Err(ToolError::Usage(_))), "{bad}");
        }
    }
}
