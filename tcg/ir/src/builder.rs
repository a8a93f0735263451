//! Building a region, one operation a call. Front ends read like the architecture manual's pseudocode.

use crate::{
    BlockId, Cond, FCond, FlagKind, FpAttr, HelperId, Hint, Inst, Lane, MemOp, Op, Region, RmwOp, SlotId,
    Terminator, Type, Value, region::Edge,
};

/// Appends to the current block of a region.
#[derive(Debug)]
pub struct Builder<'a> {
    region: &'a mut Region,
    block: BlockId,
}

impl<'a> Builder<'a> {
    /// Starts with an empty region at guest address `pc`; the current block is the entry.
    pub fn new(region: &'a mut Region, pc: u64) -> Self {
        region.clear();
        region.pc = pc;
        let mut b = Self { region, block: BlockId(0) };
        b.new_block();
        b
    }

    /// Goes on with a region that is there, at the end of `block`, which loses its terminator.
    pub fn edit(region: &'a mut Region, block: BlockId) -> Self {
        region.blocks[block.0 as usize].end = None;
        Self { region, block }
    }

    /// The region so far.
    #[must_use]
    pub fn region(&self) -> &Region {
        self.region
    }

    /// Records what was covered.
    pub fn set_extent(&mut self, guest_len: u32, guest_insns: u32) {
        self.region.guest_len = guest_len;
        self.region.guest_insns = guest_insns;
    }

    /// A new, empty block.
    pub fn new_block(&mut self) -> BlockId {
        self.region.add_block()
    }

    /// Adds a parameter to a block that is still empty of other instructions.
    pub fn param(&mut self, block: BlockId, ty: Type) -> Value {
        let blk = &mut self.region.blocks[block.0 as usize];
        let v = Value(self.region.insts.len() as u32);
        let n = blk.params;
        blk.params += 1;
        blk.insts.push(v);
        self.region.insts.push(Inst {
            op: Op::Nop,
            ty,
            sub: n as u16,
            a: Value::NONE,
            b: Value::NONE,
            c: Value::NONE,
            imm: 0,
        });
        v
    }

    /// Goes on in `block`.
    pub fn switch_to(&mut self, block: BlockId) {
        self.block = block;
    }

    /// The current block.
    #[must_use]
    pub fn current(&self) -> BlockId {
        self.block
    }

    /// True if the current block has its terminator.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.region.blocks[self.block.0 as usize].end.is_some()
    }

    /// Type of a value.
    #[must_use]
    pub fn ty(&self, v: Value) -> Type {
        self.region.inst(v).ty
    }

    /// Appends an instruction.
    pub fn push(&mut self, inst: Inst) -> Value {
        let v = Value(self.region.insts.len() as u32);
        self.region.insts.push(inst);
        self.region.blocks[self.block.0 as usize].insts.push(v);
        v
    }

    fn op(&mut self, op: Op, ty: Type, sub: u16, args: [Value; 3], imm: u64) -> Value {
        self.push(Inst { op, ty, sub, a: args[0], b: args[1], c: args[2], imm })
    }

    fn op0(&mut self, op: Op, ty: Type, sub: u16, imm: u64) -> Value {
        self.op(op, ty, sub, [Value::NONE; 3], imm)
    }

    fn op1(&mut self, op: Op, ty: Type, sub: u16, a: Value, imm: u64) -> Value {
        self.op(op, ty, sub, [a, Value::NONE, Value::NONE], imm)
    }

    fn op2(&mut self, op: Op, ty: Type, sub: u16, a: Value, b: Value) -> Value {
        self.op(op, ty, sub, [a, b, Value::NONE], 0)
    }

    /// Any unary operation whose result has the operand's type.
    pub fn unary(&mut self, op: Op, a: Value) -> Value {
        let ty = self.ty(a);
        self.op1(op, ty, 0, a, 0)
    }

    /// Any binary operation whose operands and result have one type.
    pub fn binary(&mut self, op: Op, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        self.op2(op, ty, 0, a, b)
    }

    /// Start of the guest instruction at `pc`, `len` bytes long.
    pub fn insn(&mut self, pc: u64, len: u16) {
        self.op0(Op::Insn, Type::Void, len, pc);
    }

    /// Budget check for `insns` instructions.
    pub fn budget(&mut self, insns: u64) {
        self.op0(Op::Budget, Type::Void, 0, insns);
    }

    /// Changes the count of a budget check once it is known.
    pub fn set_budget(&mut self, at: Value, insns: u64) {
        self.region.insts[at.index()].imm = insns;
    }

    /// A constant.
    pub fn iconst(&mut self, ty: Type, value: u64) -> Value {
        self.op0(Op::Const, ty, 0, value & ty.mask())
    }

    /// A guest address as a value.
    pub fn pc(&mut self, ty: Type, address: u64) -> Value {
        self.op0(Op::Pc, ty, 0, address & ty.mask())
    }

    /// Reads a slot.
    pub fn get(&mut self, slot: SlotId, ty: Type) -> Value {
        self.op0(Op::Get, ty, slot.0, 0)
    }

    /// Writes a slot.
    pub fn set(&mut self, slot: SlotId, v: Value) {
        self.op1(Op::Set, Type::Void, slot.0, v, 0);
    }

    /// a + b
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::Add, a, b)
    }

    /// a - b
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::Sub, a, b)
    }

    /// a & b
    pub fn and(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::And, a, b)
    }

    /// a | b
    pub fn or(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::Or, a, b)
    }

    /// a ^ b
    pub fn xor(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::Xor, a, b)
    }

    /// a << b
    pub fn shl(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::Shl, a, b)
    }

    /// a >> b, unsigned.
    pub fn shr(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::Shr, a, b)
    }

    /// a >> b, signed.
    pub fn sar(&mut self, a: Value, b: Value) -> Value {
        self.binary(Op::Sar, a, b)
    }

    /// a + constant
    pub fn addi(&mut self, a: Value, imm: i64) -> Value {
        if imm == 0 {
            return a;
        }
        let ty = self.ty(a);
        let c = self.iconst(ty, imm as u64);
        self.add(a, c)
    }

    /// Low bits.
    pub fn trunc(&mut self, ty: Type, a: Value) -> Value {
        if self.ty(a) == ty { a } else { self.op1(Op::Trunc, ty, 0, a, 0) }
    }

    /// Zero extension.
    pub fn zext(&mut self, ty: Type, a: Value) -> Value {
        if self.ty(a) == ty { a } else { self.op1(Op::Zext, ty, 0, a, 0) }
    }

    /// Sign extension.
    pub fn sext(&mut self, ty: Type, a: Value) -> Value {
        if self.ty(a) == ty { a } else { self.op1(Op::Sext, ty, 0, a, 0) }
    }

    /// Bits `pos .. pos + len`, zero-extended.
    pub fn extract(&mut self, a: Value, pos: u32, len: u32) -> Value {
        let ty = self.ty(a);
        self.op1(Op::Extract, ty, 0, a, u64::from(pos | len << 8))
    }

    /// Bits `pos .. pos + len`, sign-extended.
    pub fn sextract(&mut self, a: Value, pos: u32, len: u32) -> Value {
        let ty = self.ty(a);
        self.op1(Op::Sextract, ty, 0, a, u64::from(pos | len << 8))
    }

    /// `a` with bits `pos .. pos + len` from the low bits of `b`.
    pub fn deposit(&mut self, a: Value, b: Value, pos: u32, len: u32) -> Value {
        let ty = self.ty(a);
        self.op(Op::Deposit, ty, 0, [a, b, Value::NONE], u64::from(pos | len << 8))
    }

    /// 1 or 0 of type `ty`.
    pub fn setcc(&mut self, ty: Type, cond: Cond, a: Value, b: Value) -> Value {
        self.op2(Op::Setcc, ty, cond as u16, a, b)
    }

    /// `a` if `cond` is not zero, else `b`.
    pub fn select(&mut self, cond: Value, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        self.op(Op::Select, ty, 0, [cond, a, b], 0)
    }

    /// The same bits as another type.
    pub fn bitcast(&mut self, ty: Type, a: Value) -> Value {
        if self.ty(a) == ty { a } else { self.op1(Op::Bitcast, ty, 0, a, 0) }
    }

    /// A flag record.
    pub fn flags(&mut self, kind: FlagKind, a: Value, b: Value, c: Value) -> Value {
        let sub = kind as u16 | (self.ty(a) as u16) << 8;
        self.op(Op::Flags, Type::Flags, sub, [a, b, c], 0)
    }

    /// 1 or 0: does `cond` hold in `flags`?
    pub fn flag_cond(&mut self, ty: Type, cond: Cond, flags: Value) -> Value {
        self.op1(Op::FlagCond, ty, cond as u16, flags, 0)
    }

    /// Packed flags.
    pub fn flag_get(&mut self, ty: Type, flags: Value) -> Value {
        self.op1(Op::FlagGet, ty, 0, flags, 0)
    }

    /// A binary or unary floating-point operation (`b` = `Value::NONE`) whose result has the operands' type.
    pub fn fp(&mut self, op: Op, attr: FpAttr, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        self.op2(op, ty, attr.0, a, b)
    }

    /// Fused multiply-add.
    pub fn fma(&mut self, attr: FpAttr, a: Value, b: Value, c: Value) -> Value {
        let ty = self.ty(a);
        self.op(Op::Fma, ty, attr.0, [a, b, c], 0)
    }

    /// Floating-point comparison, 1 or 0 of type `ty`.
    pub fn fcmp(&mut self, ty: Type, attr: FpAttr, cond: FCond, a: Value, b: Value) -> Value {
        self.op2(Op::Fcmp, ty, attr.with_variant(cond as u16).0, a, b)
    }

    /// Conversion between floats, or between a float and an integer: `fcvt`, `ftoi`, `itof`.
    pub fn convert(&mut self, op: Op, ty: Type, attr: FpAttr, a: Value) -> Value {
        self.op1(op, ty, attr.0, a, 0)
    }

    /// Sign injection: 0 copy, 1 negate, 2 multiply.
    pub fn fsgnj(&mut self, kind: u16, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        self.op2(Op::Fsgnj, ty, kind, a, b)
    }

    /// A narrower float boxed in an f64.
    pub fn fbox(&mut self, a: Value) -> Value {
        self.op1(Op::Fbox, Type::F64, 0, a, 0)
    }

    /// The narrower float in a box.
    pub fn funbox(&mut self, ty: Type, a: Value) -> Value {
        self.op1(Op::Funbox, ty, 0, a, 0)
    }

    /// Sticky exceptions.
    pub fn fexget(&mut self) -> Value {
        self.op0(Op::Fexget, Type::I32, 0, 0)
    }

    /// Sets the sticky exceptions.
    pub fn fexset(&mut self, a: Value) {
        self.op1(Op::Fexset, Type::Void, 0, a, 0);
    }

    /// Memory attributes and displacement as one immediate.
    fn mem_imm(m: MemOp, disp: i32) -> u64 {
        u64::from(m.0) | u64::from(disp as u32) << 32
    }

    /// Load.
    pub fn load(&mut self, ty: Type, m: MemOp, addr: Value, disp: i32) -> Value {
        self.op1(Op::Load, ty, 0, addr, Self::mem_imm(m, disp))
    }

    /// Store.
    pub fn store(&mut self, m: MemOp, addr: Value, disp: i32, v: Value) {
        self.op(Op::Store, Type::Void, 0, [addr, v, Value::NONE], Self::mem_imm(m, disp));
    }

    /// Atomic read-modify-write; the old value.
    pub fn rmw(&mut self, ty: Type, op: RmwOp, m: MemOp, addr: Value, v: Value) -> Value {
        self.op(Op::Rmw, ty, op as u16, [addr, v, Value::NONE], Self::mem_imm(m, 0))
    }

    /// Atomic compare and swap; the old value.
    pub fn cas(&mut self, ty: Type, m: MemOp, addr: Value, expected: Value, new: Value) -> Value {
        self.op(Op::Cas, ty, 0, [addr, expected, new], Self::mem_imm(m, 0))
    }

    /// Memory fence: 1 earlier reads, 2 earlier writes, 4 later reads, 8 later writes.
    pub fn fence(&mut self, set: u16) {
        self.op0(Op::Fence, Type::Void, set, 0);
    }

    /// Calls a helper; `ty` is its result type.
    pub fn call(&mut self, helper: HelperId, ty: Type, args: &[Value]) -> Value {
        let first = self.region.lists.len() as u32;
        self.region.lists.extend_from_slice(args);
        self.op(Op::Call, ty, helper.0, [Value(first), Value(args.len() as u32), Value::NONE], 0)
    }

    /// Vector operation on lanes; `extra` is the high byte of `sub`.
    pub fn vector(&mut self, op: Op, ty: Type, lane: Lane, extra: u16, args: [Value; 3], imm: u64) -> Value {
        self.op(op, ty, lane as u16 | extra << 8, args, imm)
    }

    fn end(&mut self, t: Terminator) {
        let blk = &mut self.region.blocks[self.block.0 as usize];
        debug_assert!(blk.end.is_none(), "block {} has a terminator", self.block.0);
        blk.end = Some(t);
    }

    /// Gives `block` this terminator, in place of one it may have.
    pub fn set_terminator(&mut self, block: BlockId, t: Terminator) {
        self.region.blocks[block.0 as usize].end = Some(t);
    }

    /// Ends the block: to another block.
    pub fn jump(&mut self, to: BlockId) {
        self.end(Terminator::Jump(Edge::to(to)));
    }

    /// Ends the block: to another block with arguments.
    pub fn jump_with(&mut self, edge: Edge) {
        self.end(Terminator::Jump(edge));
    }

    /// Ends the block: conditional branch.
    pub fn branch(&mut self, cond: Value, then: BlockId, other: BlockId, likely_then: bool) {
        self.end(Terminator::Branch { cond, then: Edge::to(then), other: Edge::to(other), likely_then });
    }

    /// Ends the block: to the unit at a fixed guest address.
    pub fn link(&mut self, pc: u64, hint: Hint) {
        self.end(Terminator::Link { pc, hint });
    }

    /// Ends the block: to the unit at a computed guest address.
    pub fn indirect(&mut self, pc: Value, hint: Hint) {
        self.end(Terminator::Indirect { pc, hint });
    }

    /// Ends the block: to whatever the state says.
    pub fn lookup(&mut self) {
        self.end(Terminator::Lookup);
    }

    /// Ends the block: back to the engine.
    pub fn exit(&mut self, code: u32) {
        self.end(Terminator::Exit { code });
    }
}
