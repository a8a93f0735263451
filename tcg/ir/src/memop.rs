//! Everything a guest memory access is, in one word.

use crate::types::named_enum;

named_enum! {
    /// What happens to an access that is not aligned to its size.
    Align {
        /// It works.
        None = "una",
        /// It faults.
        Natural = "al",
        /// It works inside an aligned 16-byte granule and faults across one.
        Within16 = "w16",
    }
}

named_enum! {
    /// What must be seen as one.
    Atomicity {
        /// Each byte.
        Byte = "byte",
        /// The whole if it is naturally aligned, else each byte.
        IfAligned = "ifal",
        /// The whole always.
        Whole = "whole",
    }
}

named_enum! {
    /// Order against other accesses of the same vCPU.
    Order {
        /// None.
        Relaxed = "rlx",
        /// Later accesses stay behind it.
        Acquire = "acq",
        /// Earlier accesses stay before it.
        Release = "rel",
        /// Both, and one total order.
        SeqCst = "sc",
        /// x86 total store order.
        Tso = "tso",
    }
}

named_enum! {
    /// Atomic read-modify-write operation.
    RmwOp {
        /// Exchange.
        Swap = "swap",
        /// Sum.
        Add = "add",
        /// Bitwise and.
        And = "and",
        /// Bitwise or.
        Or = "or",
        /// Bitwise exclusive or.
        Xor = "xor",
        /// Signed minimum.
        Min = "min",
        /// Signed maximum.
        Max = "max",
        /// Unsigned minimum.
        Minu = "minu",
        /// Unsigned maximum.
        Maxu = "maxu",
    }
}

/// Attributes of a memory access, packed into 32 bits:
/// 0-2 log2 of the size in bytes (0 to 6), 3 sign extension, 4 big endian, 5-6 [`Align`], 7-8 [`Atomicity`],
/// 9-11 [`Order`], 12-15 MMU index, 16 "is never a device", 17 non-temporal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemOp(pub u32);

impl MemOp {
    /// An access of `1 << log2` bytes: unaligned works, atomic if aligned, relaxed, little endian, MMU index 0.
    #[must_use]
    pub const fn new(log2: u32) -> Self {
        Self((log2 & 7) | ((Atomicity::IfAligned as u32) << 7))
    }

    /// Bytes accessed.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << (self.0 & 7)
    }

    /// log2 of the bytes accessed.
    #[must_use]
    pub const fn log2(self) -> u32 {
        self.0 & 7
    }

    /// True if a load extends the sign.
    #[must_use]
    pub const fn signed(self) -> bool {
        self.0 & 8 != 0
    }

    /// True for most significant byte first.
    #[must_use]
    pub const fn big_endian(self) -> bool {
        self.0 & 16 != 0
    }

    /// Alignment rule.
    #[must_use]
    pub const fn align(self) -> Align {
        Align::from_bits((self.0 >> 5 & 3) as u16)
    }

    /// Atomicity unit.
    #[must_use]
    pub const fn atomicity(self) -> Atomicity {
        Atomicity::from_bits((self.0 >> 7 & 3) as u16)
    }

    /// Order.
    #[must_use]
    pub const fn order(self) -> Order {
        Order::from_bits((self.0 >> 9 & 7) as u16)
    }

    /// MMU index: which of the vCPU's translation regimes applies (privilege and address space).
    #[must_use]
    pub const fn mmu(self) -> usize {
        (self.0 >> 12 & 15) as usize
    }

    /// With sign extension.
    #[must_use]
    pub const fn with_sign(self) -> Self {
        Self(self.0 | 8)
    }

    /// With big-endian byte order.
    #[must_use]
    pub const fn with_big_endian(self) -> Self {
        Self(self.0 | 16)
    }

    /// With an alignment rule.
    #[must_use]
    pub const fn with_align(self, align: Align) -> Self {
        Self(self.0 & !(3 << 5) | (align as u32) << 5)
    }

    /// With an atomicity unit.
    #[must_use]
    pub const fn with_atomicity(self, atomicity: Atomicity) -> Self {
        Self(self.0 & !(3 << 7) | (atomicity as u32) << 7)
    }

    /// With an order.
    #[must_use]
    pub const fn with_order(self, order: Order) -> Self {
        Self(self.0 & !(7 << 9) | (order as u32) << 9)
    }

    /// With an MMU index (0 to 15).
    #[must_use]
    pub const fn with_mmu(self, index: usize) -> Self {
        Self(self.0 & !(15 << 12) | (index as u32 & 15) << 12)
    }

    /// True if the front end knows that the access never reaches a device.
    #[must_use]
    pub const fn never_device(self) -> bool {
        self.0 >> 16 & 1 != 0
    }

    /// True if the data should stay out of caches.
    #[must_use]
    pub const fn non_temporal(self) -> bool {
        self.0 >> 17 & 1 != 0
    }

    /// Never a device.
    #[must_use]
    pub const fn with_never_device(self) -> Self {
        Self(self.0 | 1 << 16)
    }

    /// Non-temporal.
    #[must_use]
    pub const fn with_non_temporal(self) -> Self {
        Self(self.0 | 1 << 17)
    }
}
