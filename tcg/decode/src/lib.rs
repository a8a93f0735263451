//! Decodetree compiler, run from build scripts.
//!
//! Instruction formats are written as `*.decode` files in QEMU's decodetree syntax, in the order of the
//! architecture's manual, and compiled to Rust at build time:
//!
//! - a struct an argument set (`&r` becomes `ArgR`),
//! - `trait Trans` with one `trans_NAME` function a pattern (and `trait Fields` for `!function=` names),
//! - one decode function a file: nested `match`es on the instruction's bits, no allocation, no tables,
//! - with [`Builder::listing`], `trait Listing` that receives name and arguments for a disassembler.
//!
//! Differences from QEMU's document: argument types are Rust's, unused fields and formats are errors, overlap
//! is checked pattern by pattern, and one build may hold several files (say 32 and 16 bit encodings) that share
//! argument sets and functions. Words are 8, 16, 32 or 64 bits.
//!
//! ```no_run
//! // build.rs
//! tcg_decode::Builder::new()
//!     .file("insn32.decode", "decode32", 32)
//!     .file("insn16.decode", "decode16", 16)
//!     .listing()
//!     .build("decode.rs");
//! ```

mod emit;
mod error;
mod model;
mod parse;
mod tree;

pub use error::Error;

use std::path::PathBuf;

/// Where the text of an input comes from.
#[derive(Debug)]
enum Source {
    Path(PathBuf),
    Text { name: String, text: String },
}

/// Collects the inputs of one generated file.
#[derive(Debug, Default)]
pub struct Builder {
    inputs: Vec<(Source, String, u32)>,
    listing: bool,
    delegate: Option<String>,
}

impl Builder {
    /// Nothing to compile yet.
    #[must_use]
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Adds a file; `function` names its decode function, `width` is the size of a word in bits.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>, function: &str, width: u32) -> Builder {
        self.inputs.push((Source::Path(path.into()), function.to_owned(), width));
        self
    }

    /// Adds a text; `name` stands for the file in errors.
    #[must_use]
    pub fn text(mut self, name: &str, text: &str, function: &str, width: u32) -> Builder {
        let source = Source::Text { name: name.to_owned(), text: text.to_owned() };
        self.inputs.push((source, function.to_owned(), width));
        self
    }

    /// Also generates `Listing` and `Lister`.
    #[must_use]
    pub fn listing(mut self) -> Builder {
        self.listing = true;
        self
    }

    /// Also implements `Trans` for `ty` (a type with its lifetimes, such as `Translator<'_>`) by calling its inherent
    /// methods of the same names, which may then be spread over several files.
    #[must_use]
    pub fn delegate(mut self, ty: &str) -> Builder {
        self.delegate = Some(ty.to_owned());
        self
    }

    /// Compiles everything to Rust source.
    ///
    /// # Errors
    /// The first mistake found, with its file and line.
    pub fn generate(&self) -> Result<String, Error> {
        let mut model = model::Model::default();
        for (source, function, width) in &self.inputs {
            let (name, text) = match source {
                Source::Text { name, text } => (name.clone(), text.clone()),
                Source::Path(path) => {
                    let name = path.display().to_string();
                    let text =
                        std::fs::read_to_string(path).map_err(|e| Error::new(&name, 0, e.to_string()))?;
                    (name, text)
                }
            };
            if !matches!(width, 8 | 16 | 32 | 64) {
                return Err(Error::new(&name, 0, format!("words of {width} bits: expected 8, 16, 32 or 64")));
            }
            parse::parse(&mut model, &name, function, *width, &text)?;
        }
        for file in &model.files {
            tree::check_overlap(&model, &file.root)?;
        }
        if let Some((name, set)) = model.args.iter().find(|(_, set)| !set.used) {
            let message = format!("argument set `&{name}` is not used");
            return Err(Error::new(&model.files[set.place.file].path, set.place.line, message));
        }
        emit::emit(&model, self.listing, self.delegate.as_deref())
    }

    /// For build scripts: writes `OUT_DIR/output` and tells cargo which files it depends on. A mistake is
    /// reported as cargo's error and ends the script.
    pub fn build(&self, output: &str) {
        for (source, ..) in &self.inputs {
            if let Source::Path(path) = source {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
        let written = self.generate().and_then(|text| {
            let dir =
                std::env::var_os("OUT_DIR").ok_or_else(|| Error::new(output, 0, "OUT_DIR is not set"))?;
            std::fs::write(PathBuf::from(dir).join(output), text)
                .map_err(|e| Error::new(output, 0, e.to_string()))
        });
        if let Err(error) = written {
            println!("cargo::error={error}");
            std::process::exit(1);
        }
    }
}
