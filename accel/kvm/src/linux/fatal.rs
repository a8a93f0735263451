//! What to tell when KVM gives up on a vCPU.

use accel::arch::CpuState;
use accel::{Exit, InternalError};
use guest_memory::AddressSpace;

use super::host;

/// Why KVM gave up.
pub(crate) struct Cause {
    pub(crate) reason: String,
    pub(crate) advice: &'static str,
    pub(crate) recoverable: bool,
    /// Instruction bytes as KVM gave them, if it did.
    pub(crate) bytes: Vec<u8>,
}

impl Cause {
    /// `KVM_EXIT_INTERNAL_ERROR`.
    pub(crate) fn internal(suberror: u32, data: &[u64]) -> Self {
        let (reason, advice, recoverable) = match suberror {
            1 => (
                "KVM cannot emulate the instruction".to_owned(),
                "run this guest with the translator (-accel tcg), or use a host whose processor runs it directly",
                true,
            ),
            2 => (
                "KVM met an exception while it delivered another one".to_owned(),
                "the guest's interrupt tables lie in memory that does not exist or is a device",
                false,
            ),
            3 => (
                "KVM met an exit while it delivered an event".to_owned(),
                "the guest's interrupt tables or stack lie in memory that does not exist or is a device",
                false,
            ),
            4 => (
                "KVM met an exit of the processor that it does not know".to_owned(),
                "the host kernel is older than the host processor: update it",
                false,
            ),
            n => (format!("KVM reports internal error {n}"), "see the host kernel's log", false),
        };
        let mut bytes = Vec::new();
        // Emulation failures carry flags, then the number of bytes and the bytes.
        if let (1, [flags, rest @ ..]) = (suberror, data)
            && flags & 1 != 0
        {
            let raw: Vec<u8> = rest.iter().flat_map(|w| w.to_le_bytes()).collect();
            if let [n, code @ ..] = raw.as_slice() {
                bytes = code[..usize::from(*n).min(15).min(code.len())].to_vec();
            }
        }
        Self { reason, advice, recoverable, bytes }
    }

    /// Anything else.
    pub(crate) fn other(reason: String, advice: &'static str) -> Self {
        Self { reason, advice, recoverable: false, bytes: Vec::new() }
    }

    /// The exit, with the guest's state. `translate` maps a guest virtual address.
    pub(crate) fn exit(
        mut self,
        state: Option<&CpuState>,
        memory: &AddressSpace,
        translate: impl Fn(u64) -> Option<u64>,
    ) -> Exit {
        let pc = state.map_or(0, CpuState::pc);
        if self.bytes.is_empty() && state.is_some() {
            for i in 0..15u64 {
                let mut byte = [0];
                let Some(gpa) = translate(pc.wrapping_add(i)) else { break };
                if !memory.view().peek(gpa, &mut byte).is_ok() {
                    break;
                }
                self.bytes.push(byte[0]);
            }
        }
        let instruction = state.and_then(|s| host::disassemble(s, &self.bytes));
        let reason = match instruction {
            Some(text) => format!("{} at '{text}'", self.reason),
            None => self.reason,
        };
        Exit::Fatal(Box::new(InternalError {
            guest: host::GUEST,
            reason,
            pc,
            bytes: self.bytes,
            registers: state.map(CpuState::inspect).unwrap_or_default(),
            recoverable: self.recoverable,
            advice: self.advice.to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_bytes_are_taken_from_an_emulation_failure() {
        let word = |b: [u8; 8]| u64::from_le_bytes(b);
        let data = [1, word([3, 0x0F, 0xAE, 0x20, 9, 9, 9, 9]), 0];
        assert_eq!(Cause::internal(1, &data).bytes, [0x0F, 0xAE, 0x20]);
        assert!(Cause::internal(1, &[0, 7]).bytes.is_empty());
        assert!(Cause::internal(1, &[]).bytes.is_empty());
        assert!(Cause::internal(3, &data).bytes.is_empty());
        assert_eq!(Cause::internal(1, &[1, u64::MAX]).bytes.len(), 7);
    }
}
