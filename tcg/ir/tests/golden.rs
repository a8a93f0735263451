//! Regions before and after all passes, as text: `golden/*.ir`.
//!
//! A file is the region a front end makes (with comments), a line `----`, and what the passes leave. With `RHEA_BLESS`
//! set the second part is written anew; look at the difference before committing it.

use std::path::{Path, PathBuf};
use std::{env, fs};

use tcg_ir::passes::{Optimizer, PASSES, PassSet};
use tcg_ir::testing::{helpers, slots};
use tcg_ir::{Tables, parse, print, verify};

/// The golden files, in the order of their names.
fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("the directory of golden files")
        .map(|e| e.expect("a directory entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "ir"))
        .collect();
    names.sort();
    names
}

/// A pass that no golden file needs could break without anybody seeing how.
#[test]
fn golden_files_show_what_each_pass_does() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let after = |path: &Path, set: PassSet| {
        let text = fs::read_to_string(path).expect("a golden file");
        let (input, _) = text.split_once("----\n").unwrap_or((&text, ""));
        let mut r = parse::region(input, t).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Optimizer::new(set).run(&mut r, t);
        print::region(&r, t)
    };
    for pass in PASSES {
        let without: PassSet = format!("-{}", pass.name).parse().expect("a pass by its name");
        let shown = files().iter().any(|path| after(path, PassSet::ALL) != after(path, without));
        assert!(shown, "no golden file changes without pass {}", pass.name);
    }
}

#[test]
fn passes_leave_what_the_golden_files_say() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let names = files();
    assert!(names.len() >= 5, "golden files are missing: {names:?}");
    let mut wrong = String::new();
    for path in names {
        let text = fs::read_to_string(&path).expect("a golden file");
        let (input, expected) = text.split_once("----\n").unwrap_or((&text, ""));
        let mut r = parse::region(input, t).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        verify::verify(&r, t).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Optimizer::new(PassSet::ALL).run(&mut r, t);
        let got = print::region(&r, t);
        if env::var_os("RHEA_BLESS").is_some() {
            fs::write(&path, format!("{input}----\n{got}")).expect("writing a golden file");
        } else if got != expected {
            wrong += &format!("{}:\n{got}\nexpected:\n{expected}\n", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}(RHEA_BLESS=1 writes the files anew)");
}
