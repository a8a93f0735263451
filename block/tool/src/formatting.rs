//! The line that says what image is made, with the options in `qemu-img`'s order.

use block_formats::{Format, Kind, Options};

/// Options in the order they are shown in, those with a default even if they were not given.
const ORDER: [(&str, &[&str]); 8] = [
    (
        "qcow2",
        &[
            "encryption",
            "encrypt.format",
            "encrypt.key-secret",
            "encrypt.cipher-alg",
            "encrypt.cipher-mode",
            "encrypt.ivgen-alg",
            "encrypt.ivgen-hash-alg",
            "encrypt.hash-alg",
            "encrypt.iter-time",
            "cluster_size=65536",
            "extended_l2=off",
            "preallocation",
            "compression_type=zlib",
            "size",
            "compat",
            "backing_file",
            "backing_fmt",
            "data_file",
            "data_file_raw",
            "lazy_refcounts=off",
            "refcount_bits=16",
        ],
    ),
    ("qed", &["size", "backing_file", "backing_fmt", "cluster_size=65536", "table_size"]),
    (
        "vmdk",
        &[
            "size",
            "adapter_type",
            "backing_file",
            "backing_fmt",
            "compat6=off",
            "hwversion=undefined",
            "toolsversion",
            "subformat",
            "zeroed_grain",
        ],
    ),
    ("vdi", &["size", "static=off", "preallocation"]),
    ("vpc", &["size", "subformat", "force_size"]),
    ("vhdx", &["size", "log_size=1048576", "block_size=0", "subformat", "block_state_zero"]),
    ("parallels", &["size", "cluster_size=1048576"]),
    (
        "luks",
        &[
            "size",
            "key-secret",
            "cipher-alg",
            "cipher-mode",
            "ivgen-alg",
            "ivgen-hash-alg",
            "hash-alg",
            "iter-time",
            "detached-header",
            "preallocation",
        ],
    ),
];

/// A value as it is shown: sizes in bytes, switches as on and off, commas of text twice.
fn shown(format: &Format, options: &Options, name: &str, value: &str) -> String {
    let kind = format.create_options.iter().find(|o| o.name == name).map(|o| o.kind);
    let known = match kind {
        Some(Kind::Size) => options.size(name).ok().flatten().map(|n| n.to_string()),
        Some(Kind::Bool) => {
            options.switch(name).ok().flatten().map(|on| if on { "on" } else { "off" }.to_owned())
        }
        _ => None,
    };
    known.unwrap_or_else(|| value.replace(',', ",,"))
}

/// The line, without its end.
pub(crate) fn line(name: &str, format: &Format, size: u64, options: &Options) -> String {
    let order = ORDER.iter().find(|(f, _)| *f == format.name).map_or(&["size"][..], |(_, order)| order);
    let mut out = format!("Formatting '{name}', fmt={}", format.name);
    let mut add = |key: &str, value: &str| out += &format!(" {key}={value}");
    for item in order {
        let (key, default) = item.split_once('=').map_or((*item, None), |(k, d)| (k, Some(d)));
        match (key, options.text(key), default) {
            ("size", ..) => add("size", &size.to_string()),
            (_, Some(value), _) => add(key, &shown(format, options, key, value)),
            (_, None, Some(default)) => add(key, default),
            _ => {}
        }
    }
    let ordered = |key: &str| order.iter().any(|item| item.split('=').next() == Some(key));
    for (key, value) in options.iter().filter(|(k, _)| !ordered(k)) {
        add(key, &shown(format, options, key, value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_as_in_qemu() {
        for (format, options, expected) in [
            (
                "qcow2",
                "lazy_refcounts=on,compat=1.1,cluster_size=2M,backing_file=a,,b",
                "cluster_size=2097152 extended_l2=off compression_type=zlib size=512 compat=1.1 backing_file=a,,b \
                 lazy_refcounts=on refcount_bits=16",
            ),
            ("vhdx", "block_size=1M", "size=512 log_size=1048576 block_size=1048576"),
            ("raw", "preallocation=off", "size=512 preallocation=off"),
        ] {
            let format = block_formats::find(format).unwrap();
            let said = line("x", format, 512, &Options::parse(options).unwrap());
            assert_eq!(said, format!("Formatting 'x', fmt={} {expected}", format.name));
        }
    }
}
