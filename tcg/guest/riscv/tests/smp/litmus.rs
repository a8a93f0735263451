//! Litmus tests of RVWMO (volume I, appendix A): what fences and the aq and rl bits forbid must never be seen.
//!
//! Each runs over an array of cells, once a cell: `x` at offset 0 and `y` at offset 64. Results go to `r` at 128 and
//! 136.

use crate::{
    AMOADD, AMOSWAP, DATA, LR, barrier,
    common::{
        asm::{Asm, FENCE, addi, i_type, load, r_type, store},
        smp::run,
    },
    each_run, stop, word,
};

const CELLS: u64 = DATA + 0x1000;
const CELL: u64 = 192;
const X: i32 = 0;
const Y: i32 = 64;
const R0: i32 = 128;
const R1: i32 = 136;
/// fence w,w; fence r,r.
const FENCE_WW: u32 = 0x0110_000f;
const FENCE_RR: u32 = 0x0220_000f;

/// An atomic with only aq (2) or rl (1).
fn ordered(funct5: u32, order: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    r_type(0x2f, 3, funct5 << 2 | order, rd, rs1, rs2)
}

type Code = fn(&mut Asm);

/// One shape: what harts 0 and 1 do with the cell at x9 (x6 is 1), and which pair of results must not be.
struct Shape {
    name: &'static str,
    harts: [Code; 2],
    forbidden: (u64, u64),
}

fn writer_with(a: &mut Asm, fence: u32) {
    a.word(store(3, 6, 9, X));
    a.word(fence);
    a.word(store(3, 6, 9, Y));
}

fn reader_with(a: &mut Asm, fence: u32) {
    a.word(load(3, 7, 9, Y));
    a.word(fence);
    a.word(load(3, 8, 9, X));
    a.word(store(3, 7, 9, R0));
    a.word(store(3, 8, 9, R1));
}

const SHAPES: [Shape; 6] = [
    Shape {
        name: "message passing, fences",
        harts: [|a| writer_with(a, FENCE_WW), |a| reader_with(a, FENCE_RR)],
        forbidden: (1, 0),
    },
    Shape {
        name: "message passing, amoswap.rl and lr.aq",
        harts: [
            |a| {
                a.word(store(3, 6, 9, X));
                a.word(addi(5, 9, Y));
                a.word(ordered(AMOSWAP, 1, 0, 5, 6));
            },
            |a| {
                a.word(addi(5, 9, Y));
                a.word(ordered(LR, 2, 7, 5, 0));
                a.word(load(3, 8, 9, X));
                a.word(store(3, 7, 9, R0));
                a.word(store(3, 8, 9, R1));
            },
        ],
        forbidden: (1, 0),
    },
    Shape {
        name: "message passing, address dependency",
        harts: [
            |a| writer_with(a, FENCE_WW),
            |a| {
                a.word(load(3, 7, 9, Y));
                a.word(r_type(0x33, 4, 0, 5, 7, 7)); // xor
                a.word(r_type(0x33, 0, 0, 5, 5, 9));
                a.word(load(3, 8, 5, X));
                a.word(store(3, 7, 9, R0));
                a.word(store(3, 8, 9, R1));
            },
        ],
        forbidden: (1, 0),
    },
    Shape {
        name: "store buffering, fences",
        harts: [
            |a| {
                a.word(store(3, 6, 9, X));
                a.word(FENCE);
                a.word(load(3, 7, 9, Y));
                a.word(store(3, 7, 9, R0));
            },
            |a| {
                a.word(store(3, 6, 9, Y));
                a.word(FENCE);
                a.word(load(3, 7, 9, X));
                a.word(store(3, 7, 9, R1));
            },
        ],
        forbidden: (0, 0),
    },
    Shape {
        name: "store buffering, amoswap.aqrl",
        harts: [
            |a| {
                a.word(ordered(AMOSWAP, 3, 0, 9, 6));
                a.word(addi(5, 9, Y));
                a.word(ordered(AMOADD, 3, 7, 5, 0));
                a.word(store(3, 7, 9, R0));
            },
            |a| {
                a.word(addi(5, 9, Y));
                a.word(ordered(AMOSWAP, 3, 0, 5, 6));
                a.word(ordered(AMOADD, 3, 7, 9, 0));
                a.word(store(3, 7, 9, R1));
            },
        ],
        forbidden: (0, 0),
    },
    Shape {
        name: "load buffering, data dependencies",
        harts: [
            |a| {
                a.word(load(3, 7, 9, X));
                a.word(i_type(0x13, 6, 8, 7, 0)); // ori: the value itself
                a.word(store(3, 8, 9, Y));
                a.word(store(3, 7, 9, R0));
            },
            |a| {
                a.word(load(3, 7, 9, Y));
                a.word(store(3, 7, 9, X));
                a.word(store(3, 7, 9, R1));
            },
        ],
        forbidden: (1, 1),
    },
];

/// x12 = DATA, x13 = cells.
fn program(shape: &Shape) -> Vec<u8> {
    let mut a = Asm::default();
    barrier(&mut a, 0);
    a.word(addi(6, 0, 1));
    a.li(9, CELLS);
    let (second, end) = (a.label(), a.label());
    a.branch(1, 10, 0, second);
    for (n, code) in shape.harts.iter().enumerate() {
        if n == 1 {
            a.place(second);
            // Further harts only take the processors' time.
            a.branch(1, 10, 6, end);
        }
        let head = a.here();
        code(&mut a);
        a.word(addi(9, 9, CELL as i32));
        a.word(addi(13, 13, -1));
        a.branch(1, 13, 0, head);
        a.jump(0, end);
    }
    a.place(end);
    stop(&mut a);
    a.finish()
}

#[test]
fn what_the_memory_model_forbids_is_not_seen() {
    for shape in &SHAPES {
        let program = program(shape);
        each_run(|backend, harts, scale| {
            let cells = 1000 * scale;
            let memory = run(backend, harts, &program, &[], |_, s| {
                s.x[12] = DATA;
                s.x[13] = cells;
            });
            for n in 0..cells {
                let at = CELLS + n * CELL;
                let seen = (word(&memory, at + R0 as u64), word(&memory, at + R1 as u64));
                assert!(
                    seen != shape.forbidden && seen.0 < 2 && seen.1 < 2,
                    "{}, {backend}: cell {n} has {seen:?}",
                    shape.name
                );
            }
        });
    }
}
