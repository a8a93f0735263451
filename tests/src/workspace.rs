//! The source tree as it is: where it lies, its files, and its crates as `cargo metadata` tells them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The root of the source tree.
pub fn root() -> PathBuf {
    // This crate is in `tests/`, one below the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// What a dependency is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linked into the crate.
    Normal,
    /// Run while the crate is built.
    Build,
    /// Only for the crate's own tests.
    Dev,
}

/// One crate of the graph.
#[derive(Clone, Debug)]
pub struct Package {
    /// The crate's name, as in its manifest.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its SPDX licence expression; empty when it declares none.
    pub licence: String,
    /// The folder of its manifest, relative to the root, with `/` between parts; empty for a crate that is not ours.
    pub folder: String,
    /// Names of the crates it declares, with their kind.
    pub dependencies: Vec<(String, Kind)>,
}

/// All crates of the build on every platform and with every feature, ours and others'.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Our crates by name.
    pub ours: BTreeMap<String, Package>,
    /// Everybody else's, one a version.
    pub others: Vec<Package>,
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Runs `cargo metadata` and reads its answer.
///
/// # Errors
/// One line with what cargo said, or what its answer lacked.
pub fn graph() -> Result<Graph, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--all-features", "--locked"])
        .current_dir(root())
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    parse(&metadata)
}

fn parse(metadata: &Value) -> Result<Graph, String> {
    let root = text(metadata, "workspace_root");
    let members: Vec<&str> = metadata["workspace_members"]
        .as_array()
        .ok_or("cargo metadata: no workspace_members")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut graph = Graph::default();
    for package in metadata["packages"].as_array().ok_or("cargo metadata: no packages")? {
        let ours = members.contains(&package["id"].as_str().unwrap_or_default());
        let manifest = text(package, "manifest_path");
        let folder = match manifest.strip_prefix(&root) {
            Some(path) if ours => {
                path.replace('\\', "/").trim_matches('/').trim_end_matches("/Cargo.toml").to_owned()
            }
            _ => String::new(),
        };
        let dependencies = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|dependency| {
                let kind = match dependency["kind"].as_str() {
                    Some("build") => Kind::Build,
                    Some("dev") => Kind::Dev,
                    _ => Kind::Normal,
                };
                (text(dependency, "name"), kind)
            })
            .collect();
        let package = Package {
            name: text(package, "name"),
            version: text(package, "version"),
            licence: text(package, "license"),
            folder,
            dependencies,
        };
        if ours {
            graph.ours.insert(package.name.clone(), package);
        } else {
            graph.others.push(package);
        }
    }
    Ok(graph)
}

/// Paths of the files under version control, relative to the root; new files not yet added are included,
/// ignored ones are not. `None` where this is not a git checkout.
pub fn tracked_files() -> Option<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let mut files: Vec<PathBuf> = output
        .stdout
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
        .filter(|path| root().join(path).is_file())
        .collect();
    files.sort();
    files.dedup();
    Some(files)
}
