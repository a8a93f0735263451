//! User mode alone, linked without shared libraries (`make static`): what the kernel starts for programs inside of a foreign root,
//! where the host's libraries are not.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "../programs.rs"]
mod programs;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "../programs_none.rs"]
mod programs;

use std::path::Path;
use std::process::ExitCode;

use accel::arch::GuestArch;

const USAGE: &str = "\
usage: rhea-static user [OPTIONS] PROGRAM [ARGUMENTS]
       rhea-static binfmt install|remove|status [ARCH...]
";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let name = if args.is_empty() { String::new() } else { args.remove(0) };
    let name = Path::new(&name).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let guests = programs::all(&[GuestArch::Riscv64, GuestArch::Riscv32, GuestArch::X86_64, GuestArch::I386]);
    if let Some(code) = user::started_by_kernel(&args, &guests) {
        return ExitCode::from(code);
    }
    let named = |arch: &&str| guests.iter().any(|g| g.arch.name() == *arch);
    if let Some(arch) = name.strip_prefix("qemu-").filter(named) {
        return ExitCode::from(user::run(&name, &args, Some(arch), &guests));
    }
    match args.first().map(String::as_str) {
        Some("user") => ExitCode::from(user::run("rhea user", &args[1..], None, &guests)),
        Some("binfmt") => ExitCode::from(user::binfmt(&args[1..], &guests)),
        _ => {
            eprint!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}
