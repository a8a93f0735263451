//! What the cases are: the program of one image and the data it works on.

use std::fmt::Write as _;

use tcg_engine::Guest;
use tcg_guest_riscv::{Cpu, Riscv};

use crate::common::{
    RAM, RAM_SIZE, STOP,
    asm::{MRET, RET, addi, b_type, csrr, csrw, emit, i_type, li, load, r_type, s_type, store, vsetvli},
    oracle::Rng,
};

/// Where the cases' data starts.
pub(crate) const DATA: u64 = RAM + 0xc_0000;
/// Trap handler on our side.
pub(crate) const HANDLER: u64 = DATA - 0x1000;
/// What a case stores besides memory and vector registers.
pub(crate) const NAMES: [&str; 20] = [
    "x10", "x11", "x12", "x13", "x14", "x15", "f10", "f11", "f12", "f13", "f14", "f15", "fcsr", "vcsr",
    "illegal", "vl", "vtype", "vstart", "x28", "x9",
];
const ILLEGAL: u32 = 14;

const FCSR: u32 = 3;
const VSTART: u32 = 8;
const VCSR: u32 = 15;
const VL: u32 = 0xc20;
const VTYPE: u32 = 0xc21;

/// Where a case's parts lie, for a register length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) vlenb: usize,
    pub(crate) cases: usize,
    /// Loads and stores go around the middle of the first part.
    middle: usize,
}

impl Layout {
    pub(crate) fn new(vlenb: usize) -> Self {
        // Strides of up to 7 bytes each way, groups of 8 registers of bytes.
        let middle = (64 * vlenb).max(0x800);
        let mut layout = Self { vlenb, cases: 400, middle };
        let room = (RAM + RAM_SIZE - DATA) as usize;
        layout.cases = layout.cases.min(room / layout.case());
        layout
    }

    /// Scalars: x10 to x15, f10 to f15, fcsr, vcsr.
    pub(crate) fn input(&self) -> usize {
        2 * self.middle
    }

    fn vectors(&self) -> usize {
        self.input() + 0x100
    }

    /// What [`NAMES`] says.
    pub(crate) fn output(&self) -> usize {
        self.vectors() + 32 * self.vlenb
    }

    pub(crate) fn vectors_out(&self) -> usize {
        self.output() + 0x100
    }

    /// Bytes a case.
    pub(crate) fn case(&self) -> usize {
        self.vectors_out() + 32 * self.vlenb
    }

    pub(crate) fn size(&self) -> usize {
        self.cases * self.case()
    }

    /// Offset of the count of instructions that trapped.
    pub(crate) fn illegal(&self) -> usize {
        self.output() + 8 * ILLEGAL as usize
    }
}

/// Eight bytes of elements.
fn element(rng: &mut Rng) -> u64 {
    let single = [
        0,
        0x8000_0000,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        1,
        0x0070_0000,
        0x0020_0000,
        0x7f00_0000,
        0x7e80_0001,
        0x7f7f_ffff,
        0x4f00_0000,
        0x5f00_0000,
    ];
    let double = [
        0,
        1 << 63,
        0x3ff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0xfff8_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        1,
        0x000f_ffff_ffff_ffff,
        0x0003_ffff_ffff_ffff,
        0x7fef_ffff_ffff_ffff,
        0x7fd0_0000_0000_0000,
        0x43e0_0000_0000_0000,
        0x47ef_ffff_f000_0000,
        0x3800_0000_0000_0001,
    ];
    match rng.below(8) {
        0 => rng.pick(&single) | rng.pick(&single) << 32,
        1 => rng.pick(&double),
        2 => {
            let f = |r: &mut Rng| u64::from(((r.next() as i32 >> 8) as f32 / 64.0).to_bits());
            f(rng) | f(rng) << 32
        }
        3 => ((rng.next() as i64 >> 20) as f64 / 1024.0).to_bits(),
        4 => rng.next() & 0x0f0f_0f0f_0f0f_0f0f,
        5 => rng.pick(&[0x8000_7fff_80ff_7f00, 0x7fff_ffff_8000_0000, u64::MAX, 1 << 63, i64::MAX as u64]),
        _ => rng.next(),
    }
}

/// A pattern of the decode table.
struct Pattern {
    name: String,
    fixed: u32,
    mask: u32,
}

fn patterns() -> Vec<Pattern> {
    let mut found = Vec::new();
    for line in include_str!("../../insn_v.decode").lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if !line.starts_with('v') || line.starts_with("vset") {
            continue;
        }
        let mut tokens = line.split_whitespace();
        let name = tokens.next().unwrap().to_owned();
        let bits: String = tokens.filter(|t| t.chars().all(|c| "01.".contains(c))).collect();
        assert_eq!(bits.len(), 32, "{name}");
        let number = |one: fn(char) -> bool| bits.chars().fold(0, |n, c| n << 1 | u32::from(one(c)));
        found.push(Pattern { name, fixed: number(|c| c == '1'), mask: number(|c| c != '.') });
    }
    found
}

impl Pattern {
    fn float(&self) -> bool {
        matches!(self.fixed & 0x707f, 0x1057 | 0x5057)
    }

    fn memory(&self) -> bool {
        matches!(self.fixed & 0x7f, 0x07 | 0x27)
    }

    fn indexed(&self) -> bool {
        self.memory() && self.fixed >> 26 & 1 != 0
    }

    /// A word; `lmul` is log2 of the group size. One in `odd` registers (0: none) is aligned for no group.
    fn word(&self, rng: &mut Rng, lmul: i32, odd: usize) -> u32 {
        let mut w = self.fixed;
        let mut put = |value: u32, pos: u32, len: u32| {
            let field = ((1 << len) - 1) << pos;
            if self.mask & field == 0 {
                w |= value << pos & field;
            }
        };
        let vector = |rng: &mut Rng| {
            let wide = i32::from(rng.one_in(4));
            let align = if odd != 0 && rng.one_in(odd) { 0 } else { (lmul + wide).clamp(0, 3) };
            let reg = if rng.one_in(4) { 8 } else { rng.below(32) as u32 };
            reg & !((1 << align) - 1)
        };
        let vd = vector(rng);
        let scalar_result = matches!(self.name.as_str(), "vmv_x_s" | "vfmv_f_s" | "vcpop_m" | "vfirst_m");
        put(if scalar_result { 10 + rng.below(6) as u32 } else { vd }, 7, 5);
        let vs2 = vector(rng);
        let scalar = self.fixed & 0x4000 != 0 && !self.memory();
        let vs1 = if scalar { 10 + rng.below(6) as u32 } else { vector(rng) };
        if self.memory() {
            put(28, 15, 5);
            put(if self.fixed >> 26 & 3 == 2 { 27 } else { vs2 }, 20, 5);
            put(if rng.one_in(2) { 0 } else { rng.below(8) as u32 }, 29, 3);
        } else {
            let immediate = self.fixed & 0x7000 == 0x3000;
            put(if immediate { rng.below(32) as u32 } else { vs1 }, 15, 5);
            put(vs2, 20, 5);
        }
        put(rng.below(2) as u32, 25, 1);
        w
    }
}

/// Element width and group size, as logarithms.
#[derive(Clone, Copy)]
struct Shape {
    sew: i32,
    lmul: i32,
}

impl Shape {
    /// One that exists; `sew` decides if it is given.
    fn random(rng: &mut Rng, float: bool) -> Self {
        loop {
            let sew = if float { rng.pick(&[2, 2, 2, 3, 3, 1]) } else { rng.below(4) as i32 };
            let lmul = rng.below(7) as i32 - 3;
            if sew <= lmul + 3 {
                return Self { sew, lmul };
            }
        }
    }

    fn vtype(self, rng: &mut Rng) -> u32 {
        (self.lmul & 7) as u32 | (self.sew as u32) << 3 | (rng.below(4) as u32) << 6
    }

    fn vlmax(self, vlenb: usize) -> usize {
        if self.lmul < 0 { vlenb >> self.sew >> -self.lmul } else { vlenb >> self.sew << self.lmul }
    }
}

/// The program of an image and what it works on.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    /// Disassembly of each case.
    pub(crate) listing: Vec<String>,
}

/// How instructions are arranged in a case.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A few under one vtype, with everything that makes instructions illegal.
    Few,
    /// A dozen, mostly legal, that use each other's results; scalar code and changes of vtype between them.
    Stream,
    /// A loop over blocks of at most vl elements.
    Loop,
}

struct Maker<'a> {
    rng: &'a mut Rng,
    guest: Riscv,
    all: Vec<Pattern>,
    /// The next pattern, in order, so that all get their turn.
    next: usize,
    code: Vec<u8>,
    text: String,
    layout: Layout,
    /// Address of the case's data.
    base: u64,
    shape: Shape,
}

/// An image of random cases. Registers: x10 to x15 and f10 to f15 belong to the cases, x28 is the address and x27 the
/// stride of memory accesses, x30 counts traps, x5, x9 and x29 are loop counters, x7 and x8 belong to the handler.
pub(crate) fn image(rng: &mut Rng, layout: Layout) -> Image {
    let features = [("v".to_owned(), "on".to_owned())];
    let all = patterns();
    assert!(all.len() > 330, "{} patterns", all.len());
    let mut data = vec![0; layout.size()];
    let next = rng.below(all.len());
    let mut m = Maker {
        rng,
        guest: Riscv::with_cpu(Cpu::new(64, "", &features).unwrap()),
        all,
        next,
        code: Vec::new(),
        text: String::new(),
        layout,
        base: 0,
        shape: Shape { sew: 0, lmul: 0 },
    };
    signal_handler(&mut m.code);
    let mut listing = Vec::new();
    for case in 0..layout.cases {
        let at = case * layout.case();
        m.base = DATA + at as u64;
        m.inputs(&mut data[at..at + layout.case()]);
        match m.rng.below(4) {
            0 | 1 => m.body(Form::Few),
            2 => m.body(Form::Stream),
            _ => m.body(Form::Loop),
        }
        m.outputs();
        listing.push(std::mem::take(&mut m.text));
    }
    let mut code = m.code;
    finish(&mut code, layout.size());
    code.extend_from_slice(&data);
    Image { bytes: code, listing }
}

impl Maker<'_> {
    fn emit(&mut self, word: u32) {
        emit(&mut self.code, word);
    }

    fn li(&mut self, rd: u32, value: u64) {
        li(&mut self.code, rd, value);
    }

    /// Fills a case's data and loads it into registers.
    fn inputs(&mut self, data: &mut [u8]) {
        let (input, l) = (self.layout.input(), self.layout);
        for place in data[..l.output()].chunks_exact_mut(8) {
            place.copy_from_slice(&element(self.rng).to_le_bytes());
        }
        let mut put = |n: usize, value: u64| data[input + 8 * n..][..8].copy_from_slice(&value.to_le_bytes());
        for n in 0..4 {
            put(n, self.rng.pick(&[0, 1, 3, 8, 17, u64::MAX]));
        }
        for n in 6..9 {
            put(n, element(self.rng) | !0xffff_ffff);
        }
        put(12, self.rng.pick(&[0_u64, 0, 1, 2, 3, 4]) << 5);
        put(13, self.rng.below(8) as u64);
        for n in 0..4_u32 {
            let at = self.base + l.vectors() as u64 + u64::from(n) * 8 * l.vlenb as u64;
            self.li(31, at);
            self.emit(0xe280_0007 | 31 << 15 | (8 * n) << 7);
        }
        self.li(31, self.base + input as u64);
        for (n, csr) in [(12, FCSR), (13, VCSR)] {
            self.emit(load(3, 1, 31, 8 * n));
            self.emit(csrw(csr, 1));
        }
        for n in 0..6 {
            self.emit(load(3, 10 + n, 31, 8 * n as i32));
            self.emit(i_type(0x07, 3, 10 + n, 31, 8 * (6 + n)));
        }
        self.emit(addi(30, 0, 0));
        self.emit(addi(9, 0, 0));
    }

    /// Stores everything.
    fn outputs(&mut self) {
        let l = self.layout;
        self.li(31, self.base + l.output() as u64);
        for n in 0..6_u32 {
            self.emit(s_type(0x23, 3, 31, 10 + n, 8 * n));
            self.emit(s_type(0x27, 3, 31, 10 + n, 8 * (6 + n)));
        }
        for (n, csr) in [(12, FCSR), (13, VCSR), (15, VL), (16, VTYPE), (17, VSTART)] {
            self.emit(csrr(1, csr));
            self.emit(store(3, 1, 31, 8 * n));
        }
        for (n, reg) in [(ILLEGAL, 30), (18, 28), (19, 9)] {
            self.emit(store(3, reg, 31, 8 * n as i32));
        }
        self.emit(csrw(VSTART, 0));
        for n in 0..4_u32 {
            let at = self.base + l.vectors_out() as u64 + u64::from(n) * 8 * l.vlenb as u64;
            self.li(31, at);
            self.emit(0xe280_0027 | 31 << 15 | (8 * n) << 7);
        }
    }

    fn pattern(&mut self) -> usize {
        self.next = (self.next + 1 + 7 * self.rng.below(2)) % self.all.len();
        self.next
    }

    /// The address of memory accesses.
    fn set_base(&mut self) {
        let off = if self.rng.one_in(2) { 0 } else { self.rng.below(16) as u64 };
        self.li(28, self.base + self.layout.middle as u64 + off);
        let stride = self.rng.below(15) as i32 - 7;
        self.emit(addi(27, 0, stride));
    }

    /// vsetvli for a shape that pattern `p` can use; the length is `x29`.
    fn configure(&mut self, p: usize) -> u32 {
        let float = self.all[p].float();
        self.shape = Shape::random(self.rng, float);
        let vtype = self.shape.vtype(self.rng);
        let vlmax = self.shape.vlmax(self.layout.vlenb);
        let avl = if self.rng.one_in(3) { self.rng.below(vlmax + 1) } else { vlmax };
        self.li(29, avl as u64);
        self.emit(vsetvli(0, 29, vtype));
        let Shape { sew, lmul } = self.shape;
        let _ = writeln!(self.text, "    e{}, lmul 2^{lmul}, vl {avl} of {vlmax}", 8 << sew);
        vtype
    }

    /// A vector instruction.
    fn vector(&mut self, p: usize, vtype: u32, odd: usize) {
        let word = self.all[p].word(self.rng, self.shape.lmul, odd);
        if self.all[p].indexed() {
            // Indices become small.
            let eew = match word >> 12 & 7 {
                0 => 0,
                n => n - 4,
            };
            let group = word >> 20 & 24;
            self.emit(csrr(26, VL));
            self.emit(vsetvli(1, 0, eew << 3 | 3));
            self.li(1, 0x7f);
            self.emit(0x2600_4057 | group << 20 | 1 << 15 | group << 7);
            self.emit(vsetvli(0, 26, vtype));
        }
        let (line, _) = self.guest.disassemble(RAM, &word.to_le_bytes());
        let _ = writeln!(self.text, "    {word:08x} {line}");
        self.emit(word);
    }

    /// Scalar code that shares registers, flags and memory with the vectors around it.
    fn scalar(&mut self) {
        let mut reg = || 10 + self.rng.below(6) as u32;
        let (a, b, c) = (reg(), reg(), reg());
        let at = self.rng.below(64) as i32;
        let word = match self.rng.below(8) {
            0 => r_type(0x33, 0, 0, a, b, c),
            1 => load(3, a, 28, at),
            2 => store(3, a, 28, at),
            3 => i_type(0x07, 3, a, 28, at as u32),
            4 => r_type(0x53, 7, 1, a, b, c),  // fadd.d
            5 => r_type(0x53, 7, 12, a, b, c), // fdiv.s
            6 => csrr(a, FCSR),
            _ => csrr(a, VL),
        };
        let (line, _) = self.guest.disassemble(RAM, &word.to_le_bytes());
        let _ = writeln!(self.text, "    {word:08x} {line}");
        self.emit(word);
    }

    fn body(&mut self, form: Form) {
        let first = self.pattern();
        match form {
            Form::Few => {
                let vtype = self.configure(first);
                for n in 0..3 {
                    let p = if n == 0 { first } else { self.pattern() };
                    self.set_base();
                    if self.rng.one_in(10) {
                        let vstart = self.rng.below(6) as i32;
                        let _ = writeln!(self.text, "    vstart {vstart}");
                        self.emit(addi(1, 0, vstart));
                        self.emit(csrw(VSTART, 1));
                    }
                    self.vector(p, vtype, 16);
                }
            }
            Form::Stream => {
                let mut vtype = self.configure(first);
                self.set_base();
                for n in 0..12 {
                    let p = if n == 0 { first } else { self.pattern() };
                    match self.rng.below(8) {
                        0 => vtype = self.configure(p),
                        1 => vtype = self.reconfigure(),
                        2 | 3 => self.scalar(),
                        _ => {}
                    }
                    self.vector(p, vtype, 0);
                }
            }
            Form::Loop => {
                let float = self.all[first].float();
                self.shape = Shape::random(self.rng, float);
                let vtype = self.shape.vtype(self.rng);
                let vlmax = self.shape.vlmax(self.layout.vlenb);
                let elements = 1 + self.rng.below(3 * vlmax);
                let Shape { sew, lmul } = self.shape;
                let _ = writeln!(
                    self.text,
                    "    loop over {elements}, e{}, lmul 2^{lmul}, vlmax {vlmax}",
                    8 << sew
                );
                self.set_base();
                self.li(9, elements as u64);
                let head = self.code.len();
                self.emit(vsetvli(5, 9, vtype));
                for n in 0..2 + self.rng.below(3) {
                    let p = if n == 0 { first } else { self.pattern() };
                    self.vector(p, vtype, 0);
                    if self.rng.one_in(3) {
                        self.scalar();
                    }
                }
                self.emit(r_type(0x33, 0, 0x20, 9, 9, 5)); // sub x9,x9,x5
                self.emit(addi(28, 28, 8));
                let back = head as i32 - self.code.len() as i32;
                self.emit(b_type(1, 9, 0, back));
            }
        }
    }

    /// A change of shape that keeps the ratio of element width to group size, and vl with it; or one that is illegal,
    /// which is then taken back.
    fn reconfigure(&mut self) -> u32 {
        if self.rng.one_in(6) {
            let bad = self.rng.pick(&[4, 0x20, 0x2b, 0x100, 0x3c]);
            let _ = writeln!(self.text, "    vsetvli x11, x29, {bad:#x}");
            self.emit(vsetvli(11, 29, bad));
            self.vector(self.next, bad, 0);
        }
        let up = self.rng.one_in(2);
        let by = if up { 1 } else { -1 };
        let Shape { sew, lmul } = self.shape;
        if (0..4).contains(&(sew + by)) && (-3..4).contains(&(lmul + by)) {
            self.shape = Shape { sew: sew + by, lmul: lmul + by };
        }
        let vtype = self.shape.vtype(self.rng);
        let _ = writeln!(self.text, "    e{}, lmul 2^{}, vl kept", 8 << self.shape.sew, self.shape.lmul);
        match self.rng.below(3) {
            0 => self.emit(vsetvli(0, 0, vtype)),
            // vsetivli x10, 5
            1 => self.emit(0xc000_7057 | vtype << 20 | 5 << 15 | 10 << 7),
            _ => {
                // vsetvl x12, x29, x1
                self.li(1, vtype.into());
                self.emit(r_type(0x57, 7, 0x40, 12, 29, 1));
            }
        }
        vtype
    }
}

/// rt_sigaction for SIGILL, with the handler in front: it counts in x30 and goes on behind the instruction.
fn signal_handler(code: &mut Vec<u8>) {
    // The saved pc and registers are 176 bytes into the context that a2 points to.
    let context = |n: i32| 176 + 8 * n;
    emit(code, 0x0200_006f); // j +32
    for (reg, by) in [(0, 4), (30, 1)] {
        emit(code, load(3, 5, 12, context(reg)));
        emit(code, addi(5, 5, by));
        emit(code, store(3, 5, 12, context(reg)));
    }
    emit(code, RET);
    li(code, 5, RAM + 4);
    li(code, 11, DATA);
    emit(code, store(3, 5, 11, 0));
    for at in [8, 16, 24] {
        emit(code, store(3, 0, 11, at));
    }
    li(code, 10, 4);
    li(code, 12, 0);
    li(code, 13, 8);
    li(code, 17, 134);
    emit(code, 0x73);
    emit(code, store(3, 0, 11, 0));
}

/// The end of the program, and the handler of our side.
fn finish(code: &mut Vec<u8>, size: usize) {
    // write(1, DATA, size); exit(0)
    li(code, 11, DATA);
    li(code, 12, size as u64);
    li(code, 10, 1);
    li(code, 17, 64);
    emit(code, 0x73);
    li(code, 10, 0);
    li(code, 17, 93);
    emit(code, 0x73);
    assert!(code.len() as u64 <= HANDLER - RAM, "{:#x}", code.len());
    code.resize((HANDLER - RAM) as usize, 0);
    // Illegal instructions: mepc += 4, x30 += 1, mret. The first ecall (for the signal handler) is skipped likewise, the
    // second stops.
    let handler = [
        csrr(7, 0x342),
        addi(8, 0, 2),
        b_type(0, 7, 8, 28),
        addi(8, 0, 8),
        b_type(1, 7, 8, 40), // stop
        csrr(7, 0x340),
        b_type(1, 7, 0, 32), // stop
        i_type(0x73, 5, 0, 1, 0x340),
        0x0080_006f, // j +8
        addi(30, 30, 1),
        csrr(7, 0x341),
        addi(7, 7, 4),
        csrw(0x341, 7),
        MRET,
    ];
    for word in handler {
        emit(code, word);
    }
    li(code, 5, STOP);
    emit(code, s_type(0x23, 3, 5, 0, 0));
    emit(code, 0x6f);
    code.resize((DATA - RAM) as usize, 0);
}
