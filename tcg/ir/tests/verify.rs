//! Each rule of the verifier, broken once.

use tcg_ir::testing::{helpers, slots};
use tcg_ir::{Tables, parse, verify};

/// The message for a region with these lines.
fn message(body: &str) -> String {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let text = format!("region 0x0 len=4 insns=1\n{body}\n");
    let r = parse::region(&text, t).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify::verify(&r, t).err().map_or("valid".into(), |e| e.to_string())
}

/// The message for one block that starts with some values and ends in `lookup`.
fn block(line: &str) -> String {
    let head = "b0:\n  v0 = const.i64 0x1\n  v1 = const.i32 0x2\n  v2 = const.f64 0x3\n  v3 = vsplat.v128.i32 v1\n  \
                v4 = flags.sub.i64 v0, v0, v0";
    message(&format!("{head}\n  {line}\n  lookup"))
}

#[test]
fn each_rule_has_its_message() {
    let cases = [
        ("v9 = add.i64 v0, v1", "operands have the type of the result"),
        ("v9 = add.f64 v2, v2", "an integer type is asked for"),
        ("v9 = add.i64 v0, v9", "an operand is defined before its use on every path"),
        ("v9 = add.i64 v0, v8", "an operand is scheduled"),
        ("v9 = add.i64 v0, v99", "an operand is a value of the region"),
        ("v9 = trunc.i64 v1", "`trunc` makes an integer narrower"),
        ("v9 = zext.i32 v0", "an extension makes an integer wider"),
        ("v9 = extract.i64 v0, 60, 5", "a bit field lies inside the width"),
        ("v9 = const.i8 0x100", "a constant fits its type"),
        ("v9 = const.v128 0x1", "a constant is an integer or a float"),
        ("v9 = setcc.i64.ov v0, v0", "the condition is one of comparisons"),
        ("v9 = flagcond.i64.tz v4", "the condition is one of flag records"),
        ("v9 = flagcond.i64.eq v0", "the operand is a flag record"),
        ("v9 = flags.sub.i128 v0, v0, v0", "a flag record is of i8 to i64"),
        ("v9 = flags.sub.i32 v0, v0, v0", "operands have the type of the record"),
        ("v9 = bitcast.f32 v0", "`bitcast` goes between different types of one size"),
        ("v9 = fadd.f64 v2, v0", "operands have the type of the result"),
        ("v9 = ftoi.i8.to-satmax v2", "the integer is i32 or i64"),
        ("v9 = fbox.f64 v2", "f64 from f16 or f32"),
        ("v9 = get.i32 x1", "the slot exists and has this type"),
        ("set x1, v1", "the slot exists and has the operand's type"),
        ("insn 0x0 4\n  v9 = load.i8 [v0] ld2", "an access is not wider than its integer"),
        ("insn 0x0 4\n  v9 = load.f64 [v0] ld4", "a float or vector is moved whole and not extended"),
        ("insn 0x0 4\n  v9 = load.i64 [v2] ld4", "an address is i32 or i64"),
        ("v9 = load.i64 [v0] ld4", "what may leave stands behind one `insn` mark, the same on every path"),
        ("budget 3", "what may leave stands behind one `insn` mark, the same on every path"),
        ("fence 16", "a fence has four bits"),
        ("v9 = call.i64 mix(v0)", "a call has the helper's number of operands"),
        ("v9 = call.i32 mix(v0, v0)", "a call has the helper's result type"),
        ("v9 = call.i64 mix(v0, v3)", "a helper's operands have at most 64 bits"),
        ("v9 = vadd.v128.f32 v3, v3", "integer lanes are asked for"),
        ("v9 = vfadd.v128.i32 v3, v3", "float lanes are asked for"),
        ("v9 = vextract.i32.i32 v3, 4", "the lane number is inside the vector"),
        ("v9 = vextract.i8.i32 v3, 0", "a scalar that holds the lane, from a vector"),
        ("v9 = vshli.v128.i8 v3, 8", "the count is below the lane's width"),
    ];
    for (line, rule) in cases {
        let got = block(line);
        assert!(got.ends_with(rule), "{line}\n  gives: {got}\n  expected: {rule}");
    }
    assert_eq!(block("v9 = add.i64 v0, v0"), "valid");
    assert_eq!(
        block("v9 = add.i64 v0, v1"),
        "block b0: `v9 = add.i64 v0, v1`: operands have the type of the result"
    );
}

#[test]
fn control_flow_rules() {
    let diamond = |join: &str| {
        format!(
            "b0:\n  v0 = const.i64 1\n  br v0, b1, b2\nb1:\n  insn 0x0 4\n  v1 = const.i64 2\n  jump b3\nb2:\n  \
             insn 0x4 4\n  jump b3\nb3:\n  {join}\n  lookup"
        )
    };
    let ends = |body: &str, rule: &str| {
        let got = message(body);
        assert!(got.ends_with(rule), "{got}");
    };
    ends(&diamond("set x0, v0"), "valid");
    ends(&diamond("set x0, v1"), "an operand is defined before its use on every path");
    ends(&diamond("budget 1"), "the same on every path");
    ends(&diamond("insn 0x8 4\n  budget 1"), "valid");
    ends("b0:\n  v0 = const.i64 1", "a block ends in a terminator");
    ends("b0:\n  jump b1", "an edge leads to a block of the region");
    ends("b0:\n  v0 = const.i64 1\n  jump b1(v0)\nb1:\n  lookup", "an edge brings one argument a parameter");
    ends(
        "b0:\n  v0 = const.i64 1\n  jump b1(v0)\nb1(v1: i32):\n  lookup",
        "an argument has the type of its parameter",
    );
    ends("b0:\n  v0 = const.f64 1\n  br v0, b0, b0", "a branch condition is an integer");
    ends("b0:\n  v0 = const.i8 1\n  indirect v0", "a guest address is i32 or i64");
    ends("b0(v0: i32):\n  lookup", "the entry block has no parameters");
    // A loop keeps the mark it was entered with.
    ends(
        "b0:\n  insn 0x0 4\n  v0 = const.i64 1\n  jump b1\nb1:\n  budget 1\n  br v0, b1, b2\nb2:\n  lookup",
        "valid",
    );
}
