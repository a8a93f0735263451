//! `rhea-bridge-helper`: puts a tap device on a bridge and passes its descriptor to the program that asked.
//!
//! Installed set-uid root (or with CAP_NET_ADMIN), it lets users have devices on the bridges that an administrator has
//! allowed, and does nothing else: `rhea-bridge-helper [--use-vnet] --br=BRIDGE --fd=N`, where N is an inherited Unix
//! socket. Arguments, answer and the file of rules are those of QEMU's helper, so that either serves the other's
//! programs.
//!
//! Since its caller is not trusted, it takes nothing from the environment, reads files by absolute paths only, and
//! says no more of them than their name.

#[cfg(target_os = "linux")]
mod acl;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod run;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    match run::run(std::env::args().skip(1)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("rhea-bridge-helper: {text}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("rhea-bridge-helper: bridges are for Linux hosts");
    std::process::ExitCode::FAILURE
}
