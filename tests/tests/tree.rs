//! The source tree keeps its own rules: dependency directions, licences, rooms, sizes, words, unsafe code.
//!
//! Each rule has a self-test that a breach is found, so that a rule which went blind is noticed.

use std::{collections::BTreeMap, fs, path::PathBuf};

use rhea_tests::{
    licence, rooms,
    workspace::{self, Graph, Kind, Package},
};

/// Lines a source file may have at the very most.
const MAX_LINES: usize = 1000;
/// Lines, attributes of the module among them, within which its head begins.
const HEAD: usize = 10;
/// Bytes a committed file that is not text may have.
const MAX_BLOB: usize = 64 * 1024;

fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let Some(names) = workspace::tracked_files() else {
        rhea_tests::skip("not a git checkout: the list of files is unknown");
        return Vec::new();
    };
    names
        .into_iter()
        .filter_map(|name| fs::read(workspace::root().join(&name)).ok().map(|bytes| (name, bytes)))
        .collect()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter(|(name, _)| name.extension().is_some_and(|extension| extension == "rs"))
        .map(|(name, bytes)| (name, String::from_utf8(bytes).expect("source is UTF-8")))
        .collect()
}

fn report(what: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{what}:\n  {}", breaches.join("\n  "));
}

#[test]
fn dependencies_point_downward_only() {
    report("dependency directions", &rooms::check(&workspace::graph().unwrap()));
}

fn package(name: &str, folder: &str, dependencies: &[(&str, Kind)]) -> (String, Package) {
    let package = Package {
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        licence: "MIT".to_owned(),
        folder: folder.to_owned(),
        dependencies: dependencies.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect(),
    };
    (name.to_owned(), package)
}

/// A small tree that keeps every rule, with one crate replaced.
fn sample(replaced: (String, Package)) -> Graph {
    let mut ours: BTreeMap<String, Package> = [
        package("guest_memory", "vmm/guest_memory", &[]),
        package("accel", "accel/accel", &[("guest_memory", Kind::Normal)]),
        package("accel_kvm", "accel/kvm", &[("accel", Kind::Normal)]),
        package("tcg_codegen", "tcg/codegen", &[]),
        package("tcg_engine", "tcg/engine", &[("tcg_codegen", Kind::Normal), ("accel", Kind::Normal)]),
        package("tcg_guest_riscv", "tcg/guest/riscv", &[("tcg_engine", Kind::Normal)]),
        package("device", "devices/device", &[("guest_memory", Kind::Normal)]),
        package("serial", "devices/serial", &[("device", Kind::Normal)]),
        package("block", "block/block", &[]),
        package("machine", "vmm/machine", &[("device", Kind::Normal), ("accel", Kind::Normal)]),
        package("machines", "vmm/machines", &[("machine", Kind::Normal), ("serial", Kind::Normal)]),
        package(
            "rhea",
            "vmm/cli",
            &[("machines", Kind::Normal), ("tcg_guest_riscv", Kind::Normal), ("accel_kvm", Kind::Normal)],
        ),
    ]
    .into_iter()
    .collect();
    ours.insert(replaced.0, replaced.1);
    Graph { ours, others: Vec::new() }
}

#[test]
fn a_bad_edge_is_found() {
    let good =
        sample(package("serial", "devices/serial", &[("device", Kind::Normal), ("machine", Kind::Dev)]));
    assert_eq!(rooms::check(&good), Vec::<String>::new(), "a dev-dependency is free");

    let bad = [
        (package("serial", "devices/serial", &[("accel", Kind::Normal)]), "serial -> accel"),
        (package("device", "devices/device", &[("machine", Kind::Build)]), "device -> machine"),
        (package("accel", "accel/accel", &[("device", Kind::Normal)]), "accel_kvm -> accel -> device"),
        (
            package("tcg_codegen", "tcg/codegen", &[("block", Kind::Normal)]),
            "tcg_engine -> tcg_codegen -> block",
        ),
        (
            package("tcg_engine", "tcg/engine", &[("tcg_guest_riscv", Kind::Normal)]),
            "tcg_engine -> tcg_guest_riscv",
        ),
        (
            package("tcg_guest_riscv", "tcg/guest/riscv", &[("tcg_codegen", Kind::Normal)]),
            "tcg_guest_riscv -> tcg_codegen",
        ),
        (package("machine", "vmm/machine", &[("accel_kvm", Kind::Normal)]), "machine -> accel_kvm"),
        (package("machine", "vmm/machine", &[("serial", Kind::Normal)]), "machine -> serial"),
        (package("guest_memory", "vmm/guest_memory", &[("block", Kind::Normal)]), "guest_memory -> block"),
        (package("machines", "vmm/machines", &[("rhea", Kind::Normal)]), "machines -> rhea"),
        (package("stray", "extra/stray", &[]), "stray: in \"extra/stray\""),
    ];
    for (edge, expected) in bad {
        let breaches = rooms::check(&sample(edge));
        assert!(breaches.iter().any(|line| line.starts_with(expected)), "{expected} not in {breaches:?}");
    }
}

#[test]
fn every_licence_fits() {
    let graph = workspace::graph().unwrap();
    assert!(graph.others.len() > 20, "cargo metadata lists the crates we use");
    report("licences", &licence::check(&graph));

    let mut bad = Graph::default();
    let (name, mut package) = package("ours", "vmm/ours", &[]);
    package.licence = "GPL-3.0-only".to_owned();
    bad.ours.insert(name, package);
    assert_eq!(licence::check(&bad).len(), 1, "a licence that does not fit is found");
}

#[test]
fn every_room_says_what_it_is() {
    let mut breaches = Vec::new();
    for room in rooms::ROOMS.into_iter().chain(["resources"]) {
        let path = workspace::root().join(room).join("README.md");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let paragraphs =
            text.split("\n\n").filter(|part| !part.trim().is_empty() && !part.starts_with('#')).count();
        if paragraphs != 1 {
            breaches.push(format!("{room}/README.md: {paragraphs} paragraphs, expected one"));
        }
    }
    report("rooms", &breaches);
}

#[test]
fn the_top_level_is_the_agreed_one() {
    let allowed = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "Makefile",
        "README.md",
        "accel",
        "block",
        "clippy.toml",
        "devices",
        "docs",
        "net",
        "resources",
        "rustfmt.toml",
        "tcg",
        "tests",
        "vmm",
    ];
    let mut breaches = Vec::new();
    for (name, _) in files() {
        let top = name.iter().next().unwrap_or_default().to_string_lossy().into_owned();
        if !top.starts_with('.') && !allowed.contains(&top.as_str()) {
            breaches.push(name.display().to_string());
        }
    }
    report("top level", &breaches);
}

#[test]
fn source_files_stay_small() {
    let breaches: Vec<String> = rust_files()
        .iter()
        .filter(|(_, text)| text.lines().count() > MAX_LINES)
        .map(|(name, text)| {
            format!("{}: {} lines, at most {MAX_LINES}", name.display(), text.lines().count())
        })
        .collect();
    report("file sizes", &breaches);
}

#[test]
fn every_source_file_has_a_head() {
    let breaches: Vec<String> = rust_files()
        .iter()
        // A module's tests in a file of their own are under that module's head.
        .filter(|(name, _)| name.file_name().is_none_or(|name| name != "tests.rs"))
        .filter(|(_, text)| !text.lines().take(HEAD).any(|line| line.starts_with("//!")))
        .map(|(name, _)| format!("{}: expected a //! head", name.display()))
        .collect();
    report("heads", &breaches);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not hold them.
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["unimple", "mented!"].concat(),
        ["to", "do!("].concat(),
    ];
    let mut breaches = Vec::new();
    for (name, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                breaches.push(format!("{}:{}: {word}", name.display(), number + 1));
            }
        }
    }
    report("unfinished", &breaches);
}

#[test]
fn no_binary_blob_is_committed() {
    let breaches: Vec<String> = files()
        .iter()
        .filter(|(_, bytes)| bytes.len() > MAX_BLOB && std::str::from_utf8(bytes).is_err())
        .map(|(name, bytes)| {
            format!("{}: {} bytes that are not text, at most {MAX_BLOB}", name.display(), bytes.len())
        })
        .collect();
    report("blobs", &breaches);
}

/// The reasons a file gives for expecting unsafe code.
fn unsafe_reasons(text: &str) -> Vec<String> {
    let marker = ["expect(unsafe", "_code"].concat();
    // The attribute may be broken over lines: read it as one.
    let flat =
        text.lines().map(str::trim).collect::<Vec<_>>().join(" ").replace("expect( unsafe", "expect(unsafe");
    flat.match_indices(&marker)
        .map(|(at, _)| {
            let rest = &flat[at..];
            let reason = rest.find("reason = \"").map(|start| &rest[start + 10..]).unwrap_or_default();
            reason[..reason.find('"').unwrap_or(0)].to_owned()
        })
        .collect()
}

#[test]
fn golden_list_of_unsafe_code() {
    let mut list = String::from(
        "# Where unsafe code is\n\n\
         `unsafe` is denied in the whole workspace; these files hold the exceptions, each with its reason. The list is made\n\
         from the sources by `make golden-bless` and checked by a test.\n\n",
    );
    for (name, text) in rust_files() {
        let mut reasons = unsafe_reasons(&text);
        reasons.sort();
        reasons.dedup();
        for reason in reasons {
            assert!(!reason.is_empty(), "{}: unsafe code without a reason", name.display());
            list.push_str(&format!("- `{}`: {reason}\n", name.display()));
        }
    }
    let path = workspace::root().join("docs/unsafe.md");
    if std::env::var_os("RHEA_BLESS").is_some() {
        fs::write(&path, &list).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == list, "docs/unsafe.md is out of date: run `make golden-bless`; now it is:\n{list}");
}

#[test]
fn unsafe_reasons_are_found() {
    let one = ["#![expect(unsafe", "_code, reason = \"calls into libc\")]"].concat();
    assert_eq!(unsafe_reasons(&one), ["calls into libc"]);
    let broken = ["#[expect(\n    unsafe", "_code,\n    reason = \"maps memory\"\n)]"].concat();
    assert_eq!(unsafe_reasons(&broken), ["maps memory"]);
    assert!(unsafe_reasons("fn main() {}").is_empty());
}

#[test]
fn every_unsafe_block_is_argued_for() {
    // clippy sees the host's own code; this sees the code for other hosts as well.
    let mut breaches = Vec::new();
    for (name, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = code.contains("unsafe {") || code.contains("unsafe impl");
            let near = lines[number.saturating_sub(8)..=number].iter().any(|line| line.contains("SAFETY"));
            if opens && !code.contains('"') && !near {
                breaches.push(format!("{}:{}: no SAFETY argument above", name.display(), number + 1));
            }
        }
    }
    report("unsafe blocks", &breaches);
}
