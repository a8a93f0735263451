//! Compiles small inputs: the text that is generated, what it does when run, and the errors.

#![expect(clippy::tests_outside_test_module, reason = "an integration test file is a test module")]

use std::path::Path;
use std::process::Command;

use tcg_decode::Builder;

const SMALL: &str = include_str!("small.decode");

fn error(text: &str) -> String {
    let text = text.replace('|', "\n");
    match Builder::new().text("t.decode", &text, "decode", 16).generate() {
        Ok(_) => panic!("no error for {text}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn golden_text() {
    let text = "&r rd rs\n@r 0000 .... rs:4 rd:4 &r\nadd .... 0000 .... .... @r\nsub .... 0001 .... .... @r\nnop 1111 ---- ---- ----\n";
    let out = Builder::new().text("t.decode", text, "decode", 16).generate().unwrap();
    assert!(
        out.contains("pub(crate) struct ArgR {\n    pub(crate) rd: i32,\n    pub(crate) rs: i32,\n}"),
        "{out}"
    );
    assert!(out.contains("fn trans_nop(&mut self, a: &ArgEmpty) -> bool;"), "{out}");
    let wanted = r" one word by `t.decode`; `false` if no pattern accepts it.
pub(crate) fn decode<T: Trans>(cx: &mut T, insn: u16) -> bool {
    let insn = u32::from(insn);
    match (insn >> 12) & 0x1 {
        0x0 => {
            match (insn >> 8) & 0x1 {
                0x0 => {
                    insn & 0xee00 == 0x0 && cx.trans_add(&decode_args_0(insn))
                }
                _ => {
                    insn & 0xee00 == 0x0 && cx.trans_sub(&decode_args_0(insn))
                }
            }
        }
        _ => {
            insn & 0xe000 == 0xe000 && cx.trans_nop(&ArgEmpty)
        }
    }
}

#[inline]
fn decode_args_0(insn: u32) -> ArgR {
    ArgR {
        rd: (insn & 0xf) as i32,
        rs: ((insn >> 4) & 0xf) as i32,
    }
}
";
    let (_, decode) = out.split_once("/// Decodes").unwrap();
    assert_eq!(decode, wanted);
}

/// Compiles the generated code with the compiler of this build and runs it.
#[test]
fn generated_code_runs() {
    let out = Builder::new()
        .text("small.decode", SMALL, "decode", 16)
        .listing()
        .generate()
        .map_err(|e| e.to_string())
        .unwrap();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(dir.join("small.rs"), out).unwrap();
    let main = r#"
#![deny(warnings)]
include!("small.rs");
struct L(Vec<String>);
impl Fields for L {
    fn twice(&self, value: i32) -> i32 { value * 2 }
    fn mode(&self) -> i32 { 42 }
}
impl Listing for L {
    fn insn(&mut self, name: &'static str, args: &[(&'static str, i64)]) -> bool {
        let args: Vec<String> = args.iter().map(|(n, v)| format!("{n}={v}")).collect();
        self.0.push(format!("{name} {}", args.join(",")));
        name != "zero"
    }
}
fn main() {
    for word in [0x0350, 0x0351, 0x0352, 0x1000, 0x1220, 0x12a0, 0x1fff, 0x2aff, 0x301f, 0x3001, 0x400f, 0x4004, 0xffff_u16] {
        let mut l = L(Vec::new());
        let ok = decode(&mut Lister(&mut l), word);
        println!("{word:04x} {ok} {}", l.0.join("; "));
    }
}
"#;
    std::fs::write(dir.join("main.rs"), main).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition", "2024", "-o"])
        .arg(dir.join("small_main"))
        .arg(dir.join("main.rs"))
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let run = Command::new(dir.join("small_main")).output().unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    let wanted = "\
0350 true add rd=3,rs=5
0351 true sub rd=3,rs=5
0352 false 
1000 true zero ; lo rd=0,rs=0
1220 true lo rd=2,rs=2
12a0 true hi rd=2,rs=2
1fff true any rd=1,rs=-2
2aff true ldi imm=-1,rd=2
301f true br off=-2,mode=42,flag=1
3001 true br off=2,mode=42,flag=1
400f true pair rd=-1,rs=7
4004 true pair rd=0,rs=7
ffff false 
";
    assert_eq!(text, wanted);
}

#[test]
fn unknown_names() {
    assert_eq!(error("a 0000 0000 0000 .... %x"), "t.decode:1: pattern `a`: unknown field `%x`");
    assert_eq!(error("# c||a 0000000000000000 @f"), "t.decode:3: pattern `a`: unknown format `@f`");
    assert_eq!(error("a 0000000000000000 &s"), "t.decode:1: pattern `a`: unknown argument set `&s`");
    assert_eq!(error("a 0000000000000000 what?"), "t.decode:1: `what?` in pattern `a` is not understood");
}

#[test]
fn unused_definitions() {
    assert_eq!(error("a ----------------|%x 0:4"), "t.decode:2: field `%x` is not used");
    assert_eq!(error("@f 0000000000000000|a ----------------"), "t.decode:1: format `@f` is not used");
    assert_eq!(error("&s a|a ----------------"), "t.decode:1: argument set `&s` is not used");
}

#[test]
fn widths() {
    assert_eq!(error("a 0000"), "t.decode:1: pattern `a` has 4 bits, expected 16");
    assert_eq!(error("a 00000000000000000"), "t.decode:1: pattern `a` is wider than 16 bits");
    assert_eq!(error("%x 14:4"), "t.decode:1: `14:4` in field `%x` is outside the 16 bit word");
    assert_eq!(
        error("%x 4:x4"),
        "t.decode:1: `x4` is not a width: expected a number from 1 to 64, after `s` if signed"
    );
    assert_eq!(error("%x 0:4 2:4"), "t.decode:1: field `%x` uses a bit twice");
    assert_eq!(error("%x"), "t.decode:1: field `%x` has no bits and no function");
    assert_eq!(error("a 0000 0000 0000 ...."), "t.decode:1: pattern `a` leaves bits 0xf unspecified");
}

#[test]
fn double_definitions() {
    assert_eq!(error("%x 0:4|%x 0:4"), "t.decode:2: field `%x` is already defined in line 1");
    assert_eq!(error("&s a a"), "t.decode:1: argument `a` appears twice in `&s`");
    assert_eq!(error("&s a|&s a"), "t.decode:2: argument set `&s` is already defined in line 1");
    assert_eq!(
        error("@f 0000 ---- ---- ----|a 1111 ---- ---- ---- @f"),
        "t.decode:2: pattern `a` and its format `@f` both fix bits 0xf000"
    );
    assert_eq!(
        error("%x 0:4|a 0000000000000000 %x"),
        "t.decode:2: pattern `a`: fields use bits 0xf that are fixed"
    );
    assert_eq!(error("a 0000 0000 x:4 x:4"), "t.decode:1: pattern `a` gives argument `x` twice");
}

#[test]
fn arguments() {
    assert_eq!(
        error("&s p q|a 000000000000 p:4 &s"),
        "t.decode:2: pattern `a` gives no value for argument `q` of `&s`"
    );
    assert_eq!(
        error("&s p|a 00000000 p:4 q:4 &s"),
        "t.decode:2: pattern `a`: `q` is not an argument of `&s`"
    );
    assert_eq!(
        error("&s p:f64"),
        "t.decode:1: `f64` is not a type of an argument: expected one of bool i8 u8 i16 u16 i32 u32 i64 u64"
    );
    assert_eq!(error("&s p !extern"), "t.decode:1: `&s` is !extern, but no file before this one defines it");
    assert_eq!(
        error("a 000000000000 p:4|a 000100000000 q:4"),
        "t.decode:2: pattern `a` has arguments `&a_ownx`, but `&a_own` in t.decode:1"
    );
}

#[test]
fn named_fields() {
    assert_eq!(
        error("%x y:4 0:1|a 000000000000000- %x"),
        "t.decode:2: pattern `a`: field `x` refers to `y`, which the pattern does not have"
    );
    assert_eq!(
        error("%x y:4 0:1|%y x:1|a 000000000000000- %x %y"),
        "t.decode:3: pattern `a`: fields refer to each other in a circle"
    );
}

#[test]
fn groups() {
    assert_eq!(error("{|}"), "t.decode:2: the group opened in line 1 has no patterns");
    assert_eq!(error("{|a ----------------"), "t.decode:1: the group opened with `{` is not closed");
    assert_eq!(error("{|a ----------------|]"), "t.decode:3: `]` closes the group opened with `{` in line 1");
    assert_eq!(error("a ----------------|}"), "t.decode:2: `}` closes no group");
    assert_eq!(error("{ a"), "t.decode:1: a brace of a group stands on a line of its own");
    assert_eq!(error("%x 0:1"), "t.decode:1: field `%x` is not used");
    assert_eq!(error("&s"), "t.decode: no patterns");
}

#[test]
fn overlap() {
    assert_eq!(
        error("a 0000 ---- ---- ----|b 0--- ---- ---- 0001"),
        "t.decode:2: patterns `a` (line 1) and `b` (line 2) overlap: both match 0x0001"
    );
    // Inside a [ ] that is inside a { }.
    assert_eq!(
        error("{|c ----------------|[|a 0000------------|b ----0000--------|]|}"),
        "t.decode:5: patterns `a` (line 4) and `b` (line 5) overlap: both match 0x0000"
    );
    // Members of an ordered group still exclude what stands beside the group.
    assert_eq!(
        error("{|a 0000------------|b 0-----------1111|}|d 01--------------"),
        "t.decode:5: patterns `b` (line 3) and `d` (line 5) overlap: both match 0x400f"
    );
}

/// Pairwise disjoint without one common bit: no switch is possible, and no error is due.
#[test]
fn disjoint_without_common_bits() {
    let text = "a 0-1-------------\nb 10--------------\nc -10-------------\n";
    let out = Builder::new().text("t.decode", text, "decode", 16).generate().unwrap();
    assert!(out.contains("cx.trans_a(&ArgEmpty)"), "{out}");
}

#[test]
fn shared_between_files() {
    let a = "&r rd rs\nadd 0000 0000 rd:4 rs:4 &r\n";
    let b = "&r rd rs !extern\nadd 00 rd:3 rs:3 &r\n";
    let out = Builder::new().text("a", a, "decode16", 16).text("b", b, "decode8", 8).generate().unwrap();
    assert_eq!(out.matches("fn trans_add(").count(), 1);
    assert!(out.contains("fn decode8<T: Trans>(cx: &mut T, insn: u8)"));
    let b = "&r rd rs rt !extern\nadd 00 rd:3 rs:3 rt=0 &r\n";
    let e = Builder::new().text("a", a, "decode16", 16).text("b", b, "decode8", 8).generate().unwrap_err();
    assert_eq!(e.to_string(), "b:1: `&r` differs from its definition in another file");
}
