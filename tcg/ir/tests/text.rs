//! The text form: what is printed reads back as the same text, for every operation and attribute.

use std::collections::HashSet;

use tcg_ir::testing::{GenConfig, Rng, generate, helpers, slots};
use tcg_ir::{Op, Tables, parse, print, verify};

#[test]
fn random_regions_are_valid_and_round_trip() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut rng = Rng::new(3);
    let mut seen = HashSet::new();
    for n in 0..1500 {
        let r = generate(&mut rng, &GenConfig::default(), t);
        let text = print::region(&r, t);
        if let Err(e) = verify::verify(&r, t) {
            panic!("region {n}: {e}\n{text}");
        }
        seen.extend(r.insts.iter().map(|i| i.op));
        let back = parse::region(&text, t).unwrap_or_else(|e| panic!("region {n}: {e}\n{text}"));
        verify::verify(&back, t).unwrap_or_else(|e| panic!("region {n} read back: {e}\n{text}"));
        let again = print::region(&back, t);
        assert_eq!(text, again, "region {n}");
        // Values keep their numbers and lose nothing.
        for (a, b) in r.insts.iter().zip(&back.insts) {
            if a.ty != tcg_ir::Type::Void && a.op != Op::Call {
                assert_eq!(a, b, "region {n}");
            }
        }
    }
    let missing: Vec<Op> = Op::ALL.iter().copied().filter(|o| !seen.contains(o)).collect();
    assert_eq!(missing, [], "operations never generated");
}

#[test]
fn errors_name_line_and_column() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let error = |body: &str| {
        let text = format!("region 0x0 len=4 insns=1\nb0:\n{body}\n  lookup\n");
        parse::region(&text, t).expect_err(body).to_string()
    };
    assert_eq!(error("  v0 = add.i65 v1, v2"), "line 3, column 12: `i65` is no type");
    assert_eq!(error("  frob"), "line 3, column 3: `frob` is no operation");
    assert_eq!(error("  v0 = get.i64 x99"), "line 3, column 16: `x99` is no slot");
    assert_eq!(
        error("  v0 = load.i64 [v3+8] ld3"),
        "line 3, column 26: an access has 1, 2, 4, 8, 16, 32 or 64 bytes"
    );
    assert_eq!(error("  v0 = setcc.i64.up v1, v2"), "line 3, column 18: `up` is no condition");
    assert_eq!(error("  v0 = const.i64 1\n  v0 = const.i64 1"), "line 4, column 19: v0 is defined twice");
    assert_eq!(error("  lookup\n  lookup"), "line 4, column 3: the block has its terminator already");
    assert_eq!(error("  v9999999 = const.i64 1"), "line 3, column 3: `v9999999` is no operation");
}

#[test]
fn broken_text_never_panics() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut rng = Rng::new(4);
    for _ in 0..300 {
        let r = generate(&mut rng, &GenConfig { blocks: 3, insts: 6, ..GenConfig::default() }, t);
        let mut text = print::region(&r, t).into_bytes();
        for _ in 0..3 {
            let at = rng.below(text.len());
            match rng.below(3) {
                0 => text[at] = b" v0.,[]()=b9x+"[rng.below(14)],
                1 => drop(text.remove(at)),
                _ => text.insert(at, b"v1 .0"[rng.below(5)]),
            }
        }
        // A region that reads may be wrong: the verifier says so and does not panic either.
        if let Ok(r) = parse::region(&String::from_utf8_lossy(&text), t) {
            let _ = verify::verify(&r, t);
        }
    }
}

#[test]
fn the_reference_shows_valid_text() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ir.md");
    let text = std::fs::read_to_string(path).expect("docs/ir.md");
    let example = text.split("```\n").nth(1).expect("an example");
    let r = parse::region(example, t).expect("the example reads");
    assert_eq!(verify::verify(&r, t), Ok(()));
    // Every pass is named in it.
    for pass in tcg_ir::passes::PASSES {
        assert!(
            text.contains(&format!("| `{}` |", pass.name)),
            "docs/ir.md does not tell of pass {}",
            pass.name
        );
    }
}
