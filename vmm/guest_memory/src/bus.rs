//! What a device behind an address range must offer, and how an access of any shape is cut to fit it.

/// How a device answered one access.
///
/// Nothing here is an error of Rhea: a guest may do anything. The bus logs what is worth a line and supplies
/// the default value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Done; a read has filled the whole buffer.
    Ok,
    /// The register exists but not in this width.
    BadSize,
    /// The access does not start on the boundary the register needs.
    Unaligned,
    /// No register there; reads give the bus default, writes go nowhere.
    NoRegister,
    /// A write to a read-only register; ignored.
    ReadOnly,
    /// The register is documented, the device model does not have it; reads give the bus default.
    Unimplemented,
    /// The device raises a bus error on purpose.
    Fault,
}

impl Access {
    /// What the initiator of the access sees: only malformed accesses and deliberate faults fail.
    pub fn result(self) -> BusResult {
        match self {
            Access::Ok | Access::NoRegister | Access::ReadOnly | Access::Unimplemented => BusResult::Ok,
            Access::BadSize | Access::Unaligned | Access::Fault => BusResult::DeviceError,
        }
    }
}

/// What the initiator (vCPU, bus master) learns of an access.
///
/// A machine whose bus has no way to signal errors ignores it; RISC-V raises an access fault, Arm an external
/// abort. The data of a failed read is the bus default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusResult {
    /// Everything was accepted.
    #[default]
    Ok,
    /// Some byte of the access belongs to nobody.
    DecodeError,
    /// A device refused the access.
    DeviceError,
}

impl BusResult {
    /// Whether the access was accepted.
    pub fn is_ok(self) -> bool {
        self == BusResult::Ok
    }

    /// Combines the results of two parts of one access: the first failure wins.
    #[must_use]
    pub fn and(self, later: BusResult) -> BusResult {
        if self == BusResult::Ok { later } else { self }
    }
}

/// The access widths a device takes. The bus cuts wider or crooked accesses into such pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// Narrowest width in bytes (1, 2, 4 or 8); narrower accesses are [`Access::BadSize`].
    pub min: u8,
    /// Widest width in bytes (1, 2, 4 or 8); wider accesses are split, lowest address first.
    pub max: u8,
    /// Whether accesses off their natural boundary are passed on as they are. If not they are split into
    /// aligned pieces, and refused as [`Access::Unaligned`] when the pieces would be narrower than `min`.
    pub unaligned: bool,
}

impl AccessRule {
    /// Widths 1 to 8, aligned.
    pub const ANY: AccessRule = AccessRule { min: 1, max: 8, unaligned: false };
    /// Byte registers: everything is split into bytes.
    pub const BYTE: AccessRule = AccessRule { min: 1, max: 1, unaligned: false };
    /// 32-bit registers only.
    pub const DWORD: AccessRule = AccessRule { min: 4, max: 4, unaligned: false };
    /// Widths 1 to 4, aligned.
    pub const UP_TO_4: AccessRule = AccessRule { min: 1, max: 4, unaligned: false };
    /// 32- and 64-bit registers.
    pub const DWORD_QWORD: AccessRule = AccessRule { min: 4, max: 8, unaligned: false };

    /// The width of the first piece of an access of `len` bytes at `offset`, or why there is none.
    fn piece(self, offset: u64, len: usize) -> Result<usize, Access> {
        let max = usize::from(self.max).min(8);
        // Largest power of two that fits in what is left and in the device's width.
        let mut size = max.min(1 << (usize::BITS - 1 - len.max(1).leading_zeros()));
        if !self.unaligned {
            while !offset.is_multiple_of(size as u64) {
                size /= 2;
            }
            if size < usize::from(self.min) {
                return Err(if len < usize::from(self.min) { Access::BadSize } else { Access::Unaligned });
            }
        } else if size < usize::from(self.min) {
            return Err(Access::BadSize);
        }
        Ok(size)
    }
}

/// A device's side of an address range. Offsets are relative to the region, so a device knows no address.
///
/// Called from several threads at once. `data` is 1, 2, 4 or 8 bytes within [`IoHandler::rule`], in the guest's
/// byte order as it lies on the bus. Must not panic, whatever the guest does; must not change the region tree
/// from inside the call while holding a lock its own access path takes.
pub trait IoHandler: Send + Sync {
    /// Reads `data.len()` bytes at `offset`. On anything but [`Access::Ok`] the bus overwrites `data`.
    fn read(&self, offset: u64, data: &mut [u8]) -> Access;

    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Access;

    /// The access widths the handler takes.
    fn rule(&self) -> AccessRule {
        AccessRule::ANY
    }
}

/// Reads through a handler, in pieces; bytes that nobody supplied are `fill`.
pub(crate) fn read_io(io: &dyn IoHandler, offset: u64, data: &mut [u8], fill: u8) -> BusResult {
    let rule = io.rule();
    let mut result = BusResult::Ok;
    let mut done = 0;
    while done < data.len() {
        let at = offset.wrapping_add(done as u64);
        let access = match rule.piece(at, data.len() - done) {
            Ok(size) => {
                let part = &mut data[done..done + size];
                let access = io.read(at, part);
                if access != Access::Ok {
                    part.fill(fill);
                }
                done += size;
                access
            }
            Err(why) => {
                data[done..].fill(fill);
                done = data.len();
                why
            }
        };
        result = result.and(access.result());
    }
    result
}

/// Writes through a handler, in pieces.
pub(crate) fn write_io(io: &dyn IoHandler, offset: u64, data: &[u8]) -> BusResult {
    let rule = io.rule();
    let mut result = BusResult::Ok;
    let mut done = 0;
    while done < data.len() {
        let at = offset.wrapping_add(done as u64);
        let access = match rule.piece(at, data.len() - done) {
            Ok(size) => {
                let access = io.write(at, &data[done..done + size]);
                done += size;
                access
            }
            Err(why) => {
                done = data.len();
                why
            }
        };
        result = result.and(access.result());
    }
    result
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Log(AccessRule, Mutex<Vec<(u64, usize)>>);

    impl IoHandler for Log {
        fn read(&self, offset: u64, data: &mut [u8]) -> Access {
            self.1.lock().unwrap().push((offset, data.len()));
            data.fill(offset as u8);
            if offset == 12 { Access::NoRegister } else { Access::Ok }
        }
        fn write(&self, offset: u64, data: &[u8]) -> Access {
            self.1.lock().unwrap().push((offset, data.len()));
            if offset == 16 { Access::Fault } else { Access::Ok }
        }
        fn rule(&self) -> AccessRule {
            self.0
        }
    }

    fn pieces(rule: AccessRule, offset: u64, len: usize) -> (BusResult, Vec<(u64, usize)>) {
        let log = Log(rule, Mutex::default());
        let result = read_io(&log, offset, &mut vec![0; len], 0);
        (result, log.1.into_inner().unwrap())
    }

    #[test]
    fn splits_to_the_handler_width() {
        assert_eq!(pieces(AccessRule::UP_TO_4, 0, 8), (BusResult::Ok, vec![(0, 4), (4, 4)]));
        assert_eq!(pieces(AccessRule::ANY, 1, 8), (BusResult::Ok, vec![(1, 1), (2, 2), (4, 4), (8, 1)]));
        assert_eq!(pieces(AccessRule::BYTE, 3, 2), (BusResult::Ok, vec![(3, 1), (4, 1)]));
        assert_eq!(pieces(AccessRule::DWORD, 2, 4), (BusResult::DeviceError, vec![]));
        assert_eq!(pieces(AccessRule::DWORD, 0, 2), (BusResult::DeviceError, vec![]));
        assert_eq!(
            pieces(AccessRule { min: 1, max: 8, unaligned: true }, 3, 8),
            (BusResult::Ok, vec![(3, 8)])
        );
        assert_eq!(pieces(AccessRule::ANY, 0, 3), (BusResult::Ok, vec![(0, 2), (2, 1)]));
    }

    #[test]
    fn holes_read_as_fill_and_faults_are_reported() {
        let log = Log(AccessRule::DWORD, Mutex::default());
        let mut data = [0; 8];
        assert_eq!(read_io(&log, 8, &mut data, 0xff), BusResult::Ok);
        assert_eq!(data, [8, 8, 8, 8, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(write_io(&log, 16, &[0; 8]), BusResult::DeviceError);
        assert_eq!(log.1.lock().unwrap().len(), 4);
    }
}
