//! `--help`, made from the option table.

use super::table::{Category, OPTIONS, OptionDef, Run};

const WIDTH: usize = 100;
const INDENT: usize = 8;

/// The whole text.
pub(crate) fn text() -> String {
    let mut out = String::from(
        "Usage: rhea run [options] [disk-image]\n       qemu-system-ARCH [options] [disk-image]\n",
    );
    for category in Category::ALL {
        out.push_str(&format!("\n{}:\n", category.title()));
        for option in OPTIONS.iter().filter(|o| o.category == category) {
            describe(&mut out, option);
        }
    }
    out.push_str(
        "\nAn option may start with one dash or two. In key=value lists a comma inside a value is written twice.\n\
         While -nographic is in effect, Ctrl-A h on the console shows its keys.\n",
    );
    out
}

fn describe(out: &mut String, option: &OptionDef) {
    let names: Vec<String> = option.names().map(|n| format!("-{n}")).collect();
    let line = format!("  {} {}", names.join(", "), option.argument);
    out.push_str(line.trim_end());
    out.push('\n');
    wrap(out, option.help);
    if let Run::Group(group) = option.run {
        let keys: Vec<String> = group.keys.iter().map(|k| k.usage()).collect();
        if !keys.is_empty() {
            wrap(out, &format!("Keys: {}{}", keys.join(" "), if group.open { " ..." } else { "" }));
        }
    }
}

fn wrap(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column == 0 || column + 1 + word.len() > WIDTH {
            if column != 0 {
                out.push('\n');
            }
            out.push_str(&" ".repeat(INDENT));
            column = INDENT;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out.push('\n');
}
