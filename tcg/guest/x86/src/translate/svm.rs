//! Secure virtual machines: the extension's instructions, and what can be intercepted in a guest (AMD APM volume 2, 15.9 and 15.14;
//! volume 3).

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{Type, Value};

use super::{Flow, Translator, operand::seg_number};
use crate::{
    exceptions::{self, vector},
    state,
    svm::{Intercept, Kind, Svm, code},
};

/// Instructions that are intercepted by their number alone; whether only at level 0.
fn numbered(m: Mnemonic) -> Option<(u64, bool)> {
    use Mnemonic as M;
    Some(match m {
        M::Sidt => (0x66, false),
        M::Sgdt => (0x67, false),
        M::Sldt => (0x68, false),
        M::Str => (0x69, false),
        M::Lidt => (0x6a, true),
        M::Lgdt => (0x6b, true),
        M::Lldt => (0x6c, true),
        M::Ltr => (0x6d, true),
        M::Rdtsc => (0x6e, false),
        M::Rdpmc => (0x6f, false),
        M::Pushf | M::Pushfd | M::Pushfq => (0x70, false),
        M::Popf | M::Popfd | M::Popfq => (0x71, false),
        M::Cpuid => (0x72, false),
        M::Rsm => (0x73, false),
        M::Iret | M::Iretd | M::Iretq => (0x74, false),
        M::Invd => (0x76, true),
        M::Pause => (0x77, false),
        M::Hlt => (0x78, true),
        M::Invlpga => (0x7a, true),
        M::Vmrun => (code::VMRUN, true),
        M::Vmmcall => (0x81, false),
        M::Vmload => (0x82, true),
        M::Vmsave => (0x83, true),
        M::Stgi => (0x84, true),
        M::Clgi => (0x85, true),
        M::Rdtscp => (0x87, false),
        M::Int1 => (0x88, false),
        M::Wbinvd | M::Wbnoinvd => (0x89, true),
        M::Xsetbv => (0x8d, true),
        M::Smsw => (code::CR_READ, false),
        M::Lmsw | M::Clts => (code::CR_WRITE, true),
        _ => return None,
    })
}

impl Translator<'_, '_> {
    /// Asks, in a guest, whether the instruction is intercepted. What it raises before stands in front.
    pub(super) fn ask_intercept(&mut self, m: Mnemonic) {
        use Mnemonic as M;
        if let Some((n, privileged)) = numbered(m) {
            if !privileged || self.mode.cpl == 0 {
                self.intercept_const(n, 0);
            }
            return;
        }
        match m {
            M::Mov => self.ask_register(),
            M::Int => {
                let v = self.insn.immediate8().into();
                self.intercept_const(0x75, v);
            }
            M::Invlpg if self.mode.cpl == 0 => {
                let (v, disp) = self.offset_value();
                let segment = seg_number(self.insn.memory_segment());
                let at = self.unchecked(segment, v, disp);
                self.intercept(code::INVLPG, at);
            }
            M::Rdmsr | M::Wrmsr if self.mode.cpl == 0 => {
                self.intercept_const(code::MSR, u64::from(m == M::Wrmsr));
            }
            M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => self.ask_port(m),
            _ => {}
        }
    }

    fn intercept_const(&mut self, n: u64, info: u64) {
        let info = self.b.iconst(Type::I64, info);
        self.intercept(n, info);
    }

    fn intercept(&mut self, n: u64, info: Value) {
        let n = self.b.iconst(Type::I64, n);
        let next = self.next_offset();
        let next = self.b.iconst(Type::I64, next);
        self.call::<Intercept>(&[n, info, next]);
    }

    /// Moves to and from control and debug registers, with the general register's number (15.8.1).
    fn ask_register(&mut self) {
        if self.insn.op_kind(0) != OpKind::Register
            || self.insn.op_kind(1) != OpKind::Register
            || self.mode.cpl != 0
        {
            return;
        }
        let (dest, src) = (self.insn.op_register(0), self.insn.op_register(1));
        let read = dest.is_gpr();
        let (special, general) = if read { (src, dest) } else { (dest, src) };
        let first = match (special.is_cr(), special.is_dr(), read) {
            (true, _, true) => code::CR_READ,
            (true, _, false) => code::CR_WRITE,
            (_, true, true) => code::DR_READ,
            (_, true, false) => code::DR_WRITE,
            _ => return,
        };
        let info = general.number() as u64 | if special.is_cr() { 1 << 63 } else { 0 };
        self.intercept_const(first + special.number() as u64, info);
        if first == code::CR_WRITE && special.number() == 0 {
            let v = self.read_reg(general);
            let v = self.b.zext(Type::I64, v);
            self.intercept(code::CR0_SEL_WRITE, v);
        }
    }

    /// Ports, behind the check of the task's permission (15.10.2).
    fn ask_port(&mut self, m: Mnemonic) {
        use Mnemonic as M;
        let (bytes, input, string) = match m {
            M::Insb => (1, true, true),
            M::Insw => (2, true, true),
            M::Insd => (4, true, true),
            M::Outsb => (1, false, true),
            M::Outsw => (2, false, true),
            M::Outsd => (4, false, true),
            M::In => (self.insn.op_register(0).size() as u64, true, false),
            _ => (self.insn.op_register(1).size() as u64, false, false),
        };
        let by_immediate = (0..self.insn.op_count()).any(|n| self.insn.op_kind(n) == OpKind::Immediate8);
        let port = if by_immediate {
            self.b.iconst(Type::I64, self.insn.immediate8().into())
        } else {
            let dx = self.gpr(2, Type::I16);
            self.b.zext(Type::I64, dx)
        };
        if self.mode.vm86 || self.mode.protected && !self.mode.io_ok {
            let bytes = self.b.iconst(Type::I64, bytes);
            self.call::<crate::port::CheckPort>(&[port, bytes]);
        }
        let width = match if string { self.string_width() } else { self.mode.bitness() } {
            16 => 1 << 7,
            32 => 1 << 8,
            _ => 1 << 9,
        };
        let rep = self.insn.has_rep_prefix() || self.insn.has_repne_prefix();
        let fixed =
            u64::from(input) | u64::from(string) << 2 | u64::from(string && rep) << 3 | bytes << 4 | width;
        let sixteen = self.b.iconst(Type::I64, 16);
        let info = self.b.shl(port, sixteen);
        let fixed = self.b.iconst(Type::I64, fixed);
        let info = self.b.or(info, fixed);
        self.intercept(code::IO, info);
    }

    /// Bits of the address of a string instruction.
    fn string_width(&self) -> u32 {
        let kinds = [self.insn.op_kind(0), self.insn.op_kind(1)];
        if kinds.iter().any(|k| matches!(k, OpKind::MemoryESDI | OpKind::MemorySegSI)) {
            16
        } else if kinds.iter().any(|k| matches!(k, OpKind::MemoryESEDI | OpKind::MemorySegESI)) {
            32
        } else {
            64
        }
    }

    /// Instructions of the extension.
    pub(super) fn svm(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let kind = match m {
            M::Vmrun => Kind::Vmrun,
            M::Vmload => Kind::Vmload,
            M::Vmsave => Kind::Vmsave,
            M::Stgi => Kind::Stgi,
            M::Clgi => Kind::Clgi,
            M::Invlpga => Kind::Invlpga,
            // Nobody is there to be called, and no secure loader.
            _ => return false,
        };
        if !self.guest.model().has().svm || !self.mode.protected || self.mode.vm86 {
            return false;
        }
        if self.mode.cpl != 0 {
            self.raise(exceptions::with_error(vector::GP, 0));
            return true;
        }
        let rax = self.b.get(state::reg(0), Type::I64);
        let rax = if self.mode.code64 { rax } else { self.b.extract(rax, 0, 32) };
        let ecx = self.b.get(state::reg(1), Type::I64);
        let kind_value = self.b.iconst(Type::I64, kind as u64);
        if kind == Kind::Vmrun {
            self.set_next_pc();
            self.call::<Svm>(&[kind_value, rax, ecx]);
            self.leave_untrapped();
        } else {
            self.call::<Svm>(&[kind_value, rax, ecx]);
            self.flow = Flow::NewKey;
        }
        true
    }
}
