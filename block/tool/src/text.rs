//! Output: sizes as people read them, JSON as QEMU indents it, lines on the standard streams.

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

/// Prints; a reader that went away is not our problem.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The same with the program's name.
pub(crate) fn warn(program: &str, text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{program}: {text}");
}

/// JSON with four spaces a level.
pub(crate) fn json(value: &Value) -> String {
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, format);
    if value.serialize(&mut serializer).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&out).into_owned() + "\n"
}

const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A number in three significant digits, as C's `%.3g` prints it below 1000.
fn three_digits(value: f64) -> String {
    let digits = match value {
        v if v < 0.9995 && v > 0.0 => 3,
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A size such as `1.27 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // As soon as four digits would be needed.
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}B", three_digits(value), UNITS[unit])
}

/// A size as `qemu-io` prints it: `9.938 MiB`.
pub(crate) fn io_size(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        return format!("{value} bytes");
    }
    let text = format!("{value:.3}");
    format!("{} {}B", text.strip_suffix(".000").unwrap_or(&text), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_qemu_prints_them() {
        let cases = [(0, "0 B"), (512, "512 B"), (1000, "0.977 KiB"), (4096, "4 KiB"), (1000448, "977 KiB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(1335296), "1.27 MiB");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(io_size(10420224.0), "9.938 MiB");
        assert_eq!(io_size(65536.0), "64 KiB");
    }
}
