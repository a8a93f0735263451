//! System instructions, flags, ports and identification (SDM volume 3, 2.8; volume 1, 7.3.10 to 7.3.17).

use iced_x86::{Mnemonic, Register};
use tcg_ir::{FlagBits, Type, Value};

use super::{Flow, Translator, operand::int};
use crate::{
    control::{Clts, ReadCr, ReadMsr, WriteCr, WriteMsr},
    debug::PortAccess,
    exceptions::{self, vector},
    far::{Syscall, Sysenter, Sysexit, Sysret},
    flags,
    guest::{EXIT_HLT, EXIT_SYSCALL},
    helpers::{Look, Numbered},
    port::{CheckPort, PortIn, PortOut},
    smm::Rsm,
    state::{self, seg},
    system::{
        Cpuid, Fxrstor, Fxsave, Invlpg, Invpcid, Lmsw, Pause, Pkru, Random, Rdtsc, ReadDr, Swapgs, TscAux,
        WriteDr, Xgetbv, Xrstor, Xsave, Xsetbv,
    },
};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn system(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Mov => return self.mov_system(),
            M::Clc | M::Stc | M::Cmc => {
                let c = match m {
                    M::Clc => self.b.iconst(Type::I8, 0),
                    M::Stc => self.b.iconst(Type::I8, 1),
                    _ => {
                        let c = self.carry();
                        self.not(c)
                    }
                };
                self.replace_carry(c, None);
            }
            M::Cld => self.change_sys(flags::DF, false),
            M::Std => self.change_sys(flags::DF, true),
            M::Cli => {
                if self.may_change_if() {
                    self.change_sys(flags::IF, false);
                }
            }
            M::Sti => {
                if self.may_change_if() {
                    self.change_sys(flags::IF, true);
                    self.call::<Look>(&[]);
                    self.shield = 1;
                }
            }
            M::Stac | M::Clac => {
                if self.mode.cpl != 0 || !self.mode.protected {
                    self.undefined();
                } else {
                    self.change_sys(flags::AC, m == M::Stac);
                    self.flow = Flow::NewKey;
                }
            }
            M::Hlt => {
                if self.need_cpl0() {
                    self.flush_flags();
                    self.set_next_pc();
                    self.b.exit(EXIT_HLT);
                    self.flow = Flow::End;
                }
            }
            M::In | M::Out => self.port(m == M::In),
            M::Cpuid => {
                self.call::<Cpuid>(&[]);
            }
            M::Rdtsc | M::Rdtscp => {
                let v = self.call::<Rdtsc>(&[]);
                self.set_pair(v);
                if m == M::Rdtscp {
                    let v = self.call::<TscAux>(&[]);
                    let v = self.b.extract(v, 0, 32);
                    self.b.set(state::reg(1), v);
                }
            }
            M::Rdpid => {
                let v = self.call::<TscAux>(&[]);
                let r = self.insn.op_register(0);
                let v = self.b.trunc(int(r.size()), v);
                self.write_reg(r, v);
            }
            M::Rdpmc => self.raise(exceptions::with_error(vector::GP, 0)),
            M::Pause => {
                if self.guest.model().topology.total() > 1 {
                    self.call::<Pause>(&[]);
                }
            }
            M::Rdpkru | M::Wrpkru => {
                let write = self.b.iconst(Type::I64, u64::from(m == M::Wrpkru));
                let (rcx, value) = (self.b.get(state::reg(1), Type::I64), self.pair());
                let v = self.call::<Pkru>(&[write, rcx, value]);
                if m == M::Rdpkru {
                    self.set_pair(v);
                }
            }
            M::Rdrand | M::Rdseed => {
                let v = self.call::<Random>(&[]);
                let r = self.insn.op_register(0);
                let v = self.b.trunc(int(r.size()), v);
                self.write_reg(r, v);
                let one = self.b.iconst(Type::I64, FlagBits::C);
                self.set_flags_bits(one);
            }
            M::Rdmsr => {
                if self.need_cpl0() {
                    let n = self.gpr(1, Type::I32);
                    let n = self.b.zext(Type::I64, n);
                    let v = self.call::<ReadMsr>(&[n]);
                    self.set_pair(v);
                }
            }
            M::Wrmsr => {
                if self.need_cpl0() {
                    let n = self.gpr(1, Type::I32);
                    let n = self.b.zext(Type::I64, n);
                    let v = self.pair();
                    self.call::<WriteMsr>(&[n, v]);
                    self.flow = Flow::NewKey;
                }
            }
            M::Swapgs => {
                if !self.mode.code64 {
                    self.undefined();
                } else if self.need_cpl0() {
                    self.call::<Swapgs>(&[]);
                }
            }
            M::Syscall | M::Sysenter if self.guest.program.is_some() => {
                if m == M::Syscall && self.mode.code64 {
                    self.program_exit(EXIT_SYSCALL);
                } else {
                    self.undefined();
                }
            }
            M::Syscall => {
                self.set_next_pc();
                self.call::<Syscall>(&[]);
                self.leave_untrapped();
            }
            M::Sysenter => {
                self.call::<Sysenter>(&[]);
                self.leave_untrapped();
            }
            M::Sysret | M::Sysretq => {
                let wide = self.b.iconst(Type::I64, u64::from(m == M::Sysretq));
                self.call::<Sysret>(&[wide]);
                self.leave();
            }
            M::Sysexit | M::Sysexitq => {
                let wide = self.b.iconst(Type::I64, u64::from(m == M::Sysexitq));
                self.call::<Sysexit>(&[wide]);
                self.leave();
            }
            M::Rsm => {
                self.call::<Rsm>(&[]);
                self.leave_untrapped();
            }
            M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => self.segment_base(m),
            M::Clts => {
                if self.need_cpl0() {
                    self.call::<Clts>(&[]);
                    self.flow = Flow::NewKey;
                }
            }
            M::Smsw => {
                if self.user_may_look() {
                    let n = self.b.iconst(Type::I64, 0);
                    let v = self.call::<ReadCr>(&[n]);
                    if self.is_memory(0) {
                        let ea = self.ea_sized(2, true);
                        let v = self.b.trunc(Type::I16, v);
                        self.store(&ea, v);
                    } else {
                        let r = self.insn.op_register(0);
                        let v = self.b.trunc(int(r.size()), v);
                        self.write_reg(r, v);
                    }
                }
            }
            M::Lmsw => {
                if self.need_cpl0() {
                    let v = if self.is_memory(0) {
                        let ea = self.ea_sized(2, false);
                        self.load(Type::I16, &ea)
                    } else {
                        let r = self.insn.op_register(0);
                        self.read_reg(r)
                    };
                    let v = self.b.zext(Type::I64, v);
                    self.call::<Lmsw>(&[v]);
                    self.flow = Flow::NewKey;
                }
            }
            M::Invd | M::Wbinvd | M::Wbnoinvd => {
                self.need_cpl0();
            }
            M::Invlpg => {
                if self.need_cpl0() {
                    let (v, disp) = self.offset_value();
                    let segment = super::operand::seg_number(self.insn.memory_segment());
                    let at = self.unchecked(segment, v, disp);
                    self.call::<Invlpg>(&[at]);
                    self.flow = Flow::NewKey;
                }
            }
            M::Invpcid => {
                if self.need_cpl0() {
                    let kind = self.insn.op_register(0);
                    let kind = self.read_reg(kind);
                    let kind = self.b.zext(Type::I64, kind);
                    let ea = self.ea_sized(16, false);
                    let at = self.ea_value(&ea);
                    self.call::<Invpcid>(&[kind, at]);
                    self.flow = Flow::NewKey;
                }
            }
            M::Lfence | M::Mfence | M::Sfence => {
                // Loads and stores are ordered already, but for a store before a load.
                if m == M::Mfence {
                    self.b.fence(15);
                }
            }
            M::Clflush | M::Clflushopt | M::Clwb => {
                // Faults as a load does.
                let ea = self.ea_sized(1, false);
                self.load(Type::I8, &ea);
            }
            M::Xgetbv | M::Xsetbv => self.xcr(m == M::Xgetbv),
            M::Fxsave | M::Fxsave64 => self.save_area::<Fxsave>(512, m == M::Fxsave64, true),
            M::Fxrstor | M::Fxrstor64 => self.save_area::<Fxrstor>(512, m == M::Fxrstor64, false),
            M::Xsave | M::Xsave64 => self.save_xsave::<Xsave>(m == M::Xsave64, 0, true),
            M::Xsaveopt | M::Xsaveopt64 => self.save_xsave::<Xsave>(m == M::Xsaveopt64, 1, true),
            M::Xsavec | M::Xsavec64 => self.save_xsave::<Xsave>(m == M::Xsavec64, 2, true),
            M::Xrstor | M::Xrstor64 => self.save_xsave::<Xrstor>(m == M::Xrstor64, 0, false),
            _ => return false,
        }
        true
    }

    /// Leaves to a program's environment, behind the instruction.
    pub(super) fn program_exit(&mut self, code: u32) {
        self.flush_flags();
        self.set_next_pc();
        self.b.exit(code);
        self.flow = Flow::End;
    }

    /// #GP under UMIP if the privilege level is not 0.
    pub(super) fn user_may_look(&mut self) -> bool {
        // CR4.UMIP is not part of the key: it is asked for at run time where it matters.
        if self.mode.cpl == 0 || !self.guest.model().has().umip {
            return true;
        }
        let n = self.b.iconst(Type::I64, 4);
        let cr4 = self.call::<ReadCr>(&[n]);
        let umip = self.b.extract(cr4, 11, 1);
        self.raise_if(umip, exceptions::with_error(vector::GP, 0));
        true
    }

    /// Linear address without checks.
    pub(super) fn unchecked(&mut self, segment: usize, v: Value, disp: i32) -> Value {
        let v = self.b.addi(v, i64::from(disp));
        let v = self.b.zext(Type::I64, v);
        if self.mode.code64 && segment < seg::FS {
            return v;
        }
        let base = self.b.get(state::base(segment), Type::I64);
        let v = self.b.add(v, base);
        if self.mode.code64 { v } else { self.b.extract(v, 0, 32) }
    }

    /// Sets or clears a system flag.
    fn change_sys(&mut self, flag: u64, on: bool) {
        let old = self.b.get(state::SYS, Type::I64);
        let new = if on {
            let f = self.b.iconst(Type::I64, flag);
            self.b.or(old, f)
        } else {
            let f = self.b.iconst(Type::I64, !flag);
            self.b.and(old, f)
        };
        self.b.set(state::SYS, new);
    }

    /// #GP unless CLI and STI are allowed.
    fn may_change_if(&mut self) -> bool {
        let ok = !self.mode.protected || self.mode.io_ok;
        if !ok {
            self.raise(exceptions::with_error(vector::GP, 0));
        }
        ok
    }

    /// EDX:EAX from an i64.
    fn set_pair(&mut self, v: Value) {
        let low = self.b.extract(v, 0, 32);
        let high = self.b.extract(v, 32, 32);
        self.b.set(state::reg(0), low);
        self.b.set(state::reg(2), high);
    }

    /// EDX:EAX as an i64.
    fn pair(&mut self) -> Value {
        let low = self.b.get(state::reg(0), Type::I64);
        let high = self.b.get(state::reg(2), Type::I64);
        self.b.deposit(low, high, 32, 32)
    }

    fn mov_system(&mut self) -> bool {
        let (dest, src) = (self.insn.op_register(0), self.insn.op_register(1));
        if dest.is_tr() || src.is_tr() {
            return false;
        }
        if !self.need_cpl0() {
            return true;
        }
        let special = if dest.is_gpr() { src } else { dest };
        let n = special.number() as u64;
        let is_cr = special.is_cr();
        if is_cr && !matches!(n, 0 | 2 | 3 | 4 | 8) || !is_cr && n > 7 {
            return false;
        }
        let number = self.b.iconst(Type::I64, n);
        if dest.is_gpr() {
            let v = if is_cr { self.call::<ReadCr>(&[number]) } else { self.call::<ReadDr>(&[number]) };
            let v = self.b.trunc(int(dest.size()), v);
            self.write_reg(dest, v);
            return true;
        }
        let v = self.read_reg(src);
        let v = self.b.zext(Type::I64, v);
        if is_cr {
            self.call::<WriteCr>(&[number, v]);
        } else {
            self.call::<WriteDr>(&[number, v]);
        }
        self.flow = Flow::NewKey;
        true
    }

    fn port(&mut self, input: bool) {
        let (acc, port) = if input { (0, 1) } else { (1, 0) };
        let r = self.insn.op_register(acc);
        let bytes = self.b.iconst(Type::I64, r.size() as u64);
        let port = if self.is_register(port) {
            let dx = self.gpr(2, Type::I16);
            self.b.zext(Type::I64, dx)
        } else {
            self.b.iconst(Type::I64, u64::from(self.insn.immediate8()))
        };
        if self.mode.vm86 || self.mode.protected && !self.mode.io_ok {
            self.call::<CheckPort>(&[port, bytes]);
        }
        if self.mode.debug {
            self.call::<PortAccess>(&[port, bytes]);
        }
        if input {
            let v = self.call::<PortIn>(&[port, bytes]);
            let v = self.b.trunc(int(r.size()), v);
            self.write_reg(r, v);
        } else {
            let v = self.read_reg(r);
            let v = self.b.zext(Type::I64, v);
            self.set_next_pc();
            let stay = self.b.iconst(Type::I64, u64::from(self.mode.tf || self.mode.debug));
            self.call::<PortOut>(&[port, bytes, v, stay]);
        }
    }

    fn segment_base(&mut self, m: Mnemonic) {
        use Mnemonic as M;
        // CR4.FSGSBASE
        let n = self.b.iconst(Type::I64, 4);
        let cr4 = self.call::<ReadCr>(&[n]);
        let on = self.b.extract(cr4, 16, 1);
        let one = self.b.iconst(Type::I64, 1);
        let off = self.b.xor(on, one);
        self.raise_if(off, exceptions::plain(vector::UD));
        let n = if matches!(m, M::Rdfsbase | M::Wrfsbase) { seg::FS } else { seg::GS };
        let r: Register = self.insn.op_register(0);
        if matches!(m, M::Rdfsbase | M::Rdgsbase) {
            let v = self.b.get(state::base(n), Type::I64);
            let v = self.b.trunc(int(r.size()), v);
            self.write_reg(r, v);
        } else {
            let v = self.read_reg(r);
            let v = self.b.zext(Type::I64, v);
            let top = self.b.sextract(v, 0, 48);
            let bad = self.b.setcc(Type::I8, tcg_ir::Cond::Ne, top, v);
            self.raise_if(bad, exceptions::with_error(vector::GP, 0));
            self.b.set(state::base(n), v);
        }
    }

    fn xcr(&mut self, get: bool) {
        if !self.mode.osxsave {
            self.undefined();
            return;
        }
        let n = self.gpr(1, Type::I32);
        let n = self.b.zext(Type::I64, n);
        if get {
            let v = self.call::<Xgetbv>(&[n]);
            self.set_pair(v);
        } else if self.need_cpl0() {
            let v = self.pair();
            self.call::<Xsetbv>(&[n, v]);
            self.flow = Flow::NewKey;
        }
    }

    fn save_area<H: Numbered>(&mut self, bytes: u64, wide: bool, write: bool) {
        if self.mode.em || self.mode.ts {
            self.raise(exceptions::plain(vector::NM));
            return;
        }
        let ea = self.ea_sized(bytes, write);
        let at = self.ea_value(&ea);
        let wide = self.b.iconst(Type::I64, u64::from(wide));
        self.call::<H>(&[at, wide]);
        if !write {
            self.flow = Flow::NewKey;
        }
    }

    fn save_xsave<H: Numbered>(&mut self, wide: bool, form: u64, write: bool) {
        if !self.mode.osxsave {
            self.undefined();
            return;
        }
        if self.mode.ts {
            self.raise(exceptions::plain(vector::NM));
            return;
        }
        let ea = self.ea_sized(576, write);
        let at = self.ea_value(&ea);
        let wide = self.b.iconst(Type::I64, u64::from(wide) | form << 1);
        self.call::<H>(&[at, wide]);
        if !write {
            self.flow = Flow::NewKey;
        }
    }
}
