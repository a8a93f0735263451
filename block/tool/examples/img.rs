//! The image tool alone, without the machines of the `rhea` binary: for its tests. `io` as the first word is `qemu-io`,
//! `nbd` is `qemu-nbd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == "io" => block_tool::qemu_io("qemu-io", rest),
        Some((first, rest)) if first == "nbd" => block_tool::qemu_nbd("qemu-nbd", rest),
        _ => block_tool::img("qemu-img", &args),
    }
}
