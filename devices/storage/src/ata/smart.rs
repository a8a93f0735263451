//! SMART (ATA/ATAPI-7, 6.54): a disk in good health.

use super::{Action, AtaDisk, SECTOR, TaskFile, error};

/// Attribute, flags, value, worst, raw, threshold.
const ATTRIBUTES: [(u8, u16, u8, u8, u32, u8); 7] = [
    // Read errors, spin-up time, start count, reallocated sectors, hours, power cycles, temperature.
    (1, 0x03, 100, 100, 0, 6),
    (3, 0x03, 100, 100, 16, 0),
    (4, 0x02, 100, 100, 1, 20),
    (5, 0x03, 100, 100, 0, 36),
    (9, 0x03, 100, 100, 1, 0),
    (12, 0x03, 100, 100, 1, 0),
    (190, 0x03, 69, 69, 31, 50),
];

fn page(fill: impl FnOnce(&mut [u8])) -> Action {
    let mut data = vec![0; SECTOR as usize];
    fill(&mut data);
    let sum = data[..511].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    data[511] = sum.wrapping_neg();
    Action::In(data)
}

pub(super) fn command(disk: &mut AtaDisk, tf: &mut TaskFile) -> Action {
    if (tf.lba[1][0], tf.lba[2][0]) != (0x4f, 0xc2) || !disk.smart && tf.feature[0] != 0xd8 {
        return Action::Failed(error::ABORTED);
    }
    match tf.feature[0] {
        0xd0 => page(|data| {
            data[0] = 1;
            for (entry, a) in data[2..].chunks_mut(12).zip(ATTRIBUTES) {
                entry[0] = a.0;
                entry[1..3].copy_from_slice(&a.1.to_le_bytes());
                (entry[3], entry[4]) = (a.2, a.3);
                entry[5..9].copy_from_slice(&a.4.to_le_bytes());
            }
            // No off-line collection; off-line, self test and logs are known; minutes of the self tests.
            (data[362], data[363]) = (0, 0);
            data[367] = 0x19;
            data[368] = 3;
            data[370] = 1;
            (data[372], data[373]) = (2, 54);
        }),
        0xd1 => page(|data| {
            data[0] = 1;
            for (entry, a) in data[2..].chunks_mut(12).zip(ATTRIBUTES) {
                (entry[0], entry[1]) = (a.0, a.5);
            }
        }),
        // Saving of attributes, self tests (which pass at once).
        0xd2..=0xd4 => Action::Done,
        0xd5 => match tf.lba[0][0] {
            // Directory, error summary, self tests.
            0 => page(|data| data[0] = 1),
            1 => page(|data| data[0] = 1),
            6 => page(|data| data[0] = 1),
            _ => Action::Failed(error::ABORTED),
        },
        0xd6 => Action::Out(SECTOR as u32, super::Sent::Log),
        0xd8 | 0xd9 => {
            disk.smart = tf.feature[0] == 0xd8;
            Action::Done
        }
        // Status: no threshold exceeded, told by these registers staying as they are.
        0xda => Action::Done,
        _ => Action::Failed(error::ABORTED),
    }
}
