//! How the binaries are linked.

fn main() {
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // Tens of thousands of addresses are written when a position-independent program starts. In this form (DT_RELR, which glibc
    // has had since 2.36) they take 20 KiB that must be read then, not 850.
    if target("OS") == "linux" && target("ENV") == "gnu" && target("ARCH") == "x86_64" {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
