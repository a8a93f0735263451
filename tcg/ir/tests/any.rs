//! `check_region` on the generator's regions: helpers do whatever their descriptions allow.

use tcg_ir::testing::{GenConfig, Rng, check_region, generate, helpers, slots};
use tcg_ir::{Op, Tables};

#[test]
fn passes_believe_no_more_than_the_helper_table_says() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut rng = Rng::new(60);
    let ops = vec![
        Op::Get,
        Op::Set,
        Op::Set,
        Op::Call,
        Op::Call,
        Op::Load,
        Op::Store,
        Op::Xor,
        Op::Fadd,
        Op::Fexget,
    ];
    let cfg = GenConfig { ops, ..GenConfig::default() };
    for n in 0..1500 {
        let r = generate(&mut rng, &cfg, t);
        check_region(&r, t, &mut rng, 4).unwrap_or_else(|e| panic!("region {n}: {e}"));
    }
}
