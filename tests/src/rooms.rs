//! Who may depend on whom.
//!
//! Source: `docs/architecture.md`, section "Rooms". The rules are data; [`check`] holds a graph against all of
//! them and names the path of every breach. A crate's own tests (dev-dependencies) may reach anywhere: nothing
//! that ships is shaped by them.

use std::collections::BTreeMap;

use crate::workspace::{Graph, Kind, Package};

/// The folders a crate may live in.
pub const ROOMS: [&str; 7] = ["vmm", "accel", "tcg", "devices", "block", "net", "tests"];

/// The only crate that names every accelerator, guest, board and device.
const BINARY: &str = "rhea";

/// One rule: no crate of `from` may reach a crate of `to`.
struct Rule {
    from: fn(&Package) -> bool,
    to: fn(&Package) -> bool,
    /// Whether reaching it through another of our crates counts as well.
    transitive: bool,
    why: &'static str,
}

fn room(package: &Package) -> &str {
    package.folder.split('/').next().unwrap_or_default()
}

fn is_guest(package: &Package) -> bool {
    package.folder.starts_with("tcg/guest/")
}

/// An accelerator as such, not the contract all of them fulfil.
fn is_backend(package: &Package) -> bool {
    room(package) == "accel" && !matches!(package.name.as_str(), "accel" | "accel_conformance")
}

fn is_device_family(package: &Package) -> bool {
    room(package) == "devices" && package.name != "device"
}

const RULES: &[Rule] = &[
    Rule {
        from: |package| room(package) == "devices",
        to: |package| {
            matches!(room(package), "accel" | "tcg")
                || (room(package) == "vmm" && package.name != "guest_memory")
        },
        transitive: true,
        why: "a device knows neither what runs the vCPU nor the machine around it",
    },
    Rule {
        from: |package| matches!(room(package), "accel" | "tcg"),
        to: |package| {
            matches!(room(package), "devices" | "block" | "net")
                || (room(package) == "vmm" && package.name != "guest_memory")
        },
        transitive: true,
        why: "what runs a vCPU sees guest memory and nothing else of a machine",
    },
    Rule {
        from: |package| room(package) == "accel",
        to: |package| room(package) == "tcg",
        transitive: true,
        why: "the contract and the hardware accelerators do not know the translator",
    },
    Rule {
        from: |package| matches!(room(package), "block" | "net"),
        to: |package| {
            package.name != "guest_memory" && matches!(room(package), "vmm" | "accel" | "tcg" | "devices")
        },
        transitive: true,
        why: "a back end does not know which device or machine uses it",
    },
    Rule {
        from: |package| package.name == "guest_memory",
        to: |_| true,
        transitive: true,
        why: "guest memory is the lowest layer",
    },
    Rule {
        from: |package| room(package) == "tcg" && !is_guest(package),
        to: is_guest,
        transitive: true,
        why: "the engine names no guest architecture",
    },
    Rule {
        from: is_guest,
        to: |package| package.name == "tcg_codegen",
        transitive: false,
        why: "a guest's front end names no host back end",
    },
    Rule { from: is_guest, to: is_guest, transitive: true, why: "guest architectures stand side by side" },
    Rule {
        from: |package| package.name != BINARY,
        to: |package| is_guest(package) || is_backend(package),
        transitive: false,
        why: "only the binary names the guests and the accelerators",
    },
    Rule {
        from: |package| !matches!(package.name.as_str(), BINARY | "machines") && room(package) != "devices",
        to: is_device_family,
        transitive: false,
        why: "only boards and the binary name device families",
    },
    Rule {
        from: |_| true,
        to: |package| package.name == BINARY || room(package) == "tests",
        transitive: false,
        why: "nothing is built on the binary or on the tests",
    },
];

/// Every breach of the rules, one line each; empty when all hold.
pub fn check(graph: &Graph) -> Vec<String> {
    let mut breaches = Vec::new();
    for package in graph.ours.values() {
        if !ROOMS.contains(&room(package)) {
            breaches.push(format!("{}: in {:?}, expected one of {ROOMS:?}", package.name, package.folder));
        }
    }
    for rule in RULES {
        for from in graph.ours.values().filter(|package| (rule.from)(package)) {
            for (name, path) in reachable(graph, from, rule.transitive) {
                if graph.ours.get(name).is_some_and(|package| (rule.to)(package)) {
                    breaches.push(format!("{}: {}", path.join(" -> "), rule.why));
                }
            }
        }
    }
    breaches
}

/// Our crates that `from` depends on, each with the way there, `from` first. A cycle back to `from` is listed too.
fn reachable<'a>(graph: &'a Graph, from: &'a Package, transitive: bool) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut open: Vec<(&Package, Vec<&str>)> = vec![(from, vec![&from.name])];
    while let Some((package, path)) = open.pop() {
        for (name, kind) in &package.dependencies {
            let Some(next) = graph.ours.get(name).filter(|_| *kind != Kind::Dev) else { continue };
            if found.contains_key(name.as_str()) {
                continue;
            }
            let mut path = path.clone();
            path.push(name);
            found.insert(name, path.clone());
            if transitive {
                open.push((next, path));
            }
        }
    }
    found
}
