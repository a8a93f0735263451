//! Where a command's data is: lists of pages (section 4.3).

use super::{Nvme, status};

/// Pages of lists that a command may need: data of the largest size takes one, and one more if it is crooked.
const MAX_LISTS: usize = 4;

impl Nvme {
    /// The regions of memory of a command's data, in order.
    pub(super) fn regions(&self, first: u64, second: u64, len: u64) -> Result<Vec<(u64, u32)>, u16> {
        let page = self.page();
        let mut regions = Vec::new();
        let mut left = len;
        let mut add = |at: u64, left: &mut u64| {
            let n = (page - at % page).min(*left);
            regions.push((at, n as u32));
            *left -= n;
        };
        if left > 0 {
            add(first, &mut left);
        }
        if left == 0 {
            return Ok(regions);
        }
        if left <= page {
            if !second.is_multiple_of(page) {
                return Err(status::INVALID_FIELD);
            }
            add(second, &mut left);
            return Ok(regions);
        }
        let mut list = second & !7;
        for _ in 0..MAX_LISTS {
            let entries = ((page - list % page) / 8) as usize;
            let needed = left.div_ceil(page) as usize;
            // The last entry of a full page leads to the next.
            let follows = needed > entries;
            let here = if follows { entries - 1 } else { needed };
            let mut bytes = vec![0; 8 * if follows { entries } else { needed }];
            self.dma.read(list, &mut bytes).map_err(|_| status::TRANSFER)?;
            let mut entries =
                bytes.chunks_exact(8).map(|e| e.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)));
            for at in entries.by_ref().take(here) {
                if !at.is_multiple_of(page) {
                    return Err(status::INVALID_FIELD);
                }
                add(at, &mut left);
            }
            if left == 0 {
                return Ok(regions);
            }
            list = entries.next().unwrap_or(0) & !7;
        }
        Err(status::INVALID_FIELD)
    }

    /// Gives data to the host.
    pub(super) fn scatter(&self, regions: &[(u64, u32)], data: &[u8]) -> Result<(), u16> {
        let mut rest = data;
        for &(at, len) in regions {
            let (part, after) = rest.split_at((len as usize).min(rest.len()));
            self.dma.write(at, part).map_err(|_| status::TRANSFER)?;
            rest = after;
        }
        Ok(())
    }

    /// Takes data from the host.
    pub(super) fn gather(&self, regions: &[(u64, u32)]) -> Result<Vec<u8>, u16> {
        let mut data = vec![0; regions.iter().map(|(_, len)| *len as usize).sum()];
        let mut rest = &mut data[..];
        for &(at, len) in regions {
            let (part, after) = rest.split_at_mut(len as usize);
            self.dma.read(at, part).map_err(|_| status::TRANSFER)?;
            rest = after;
        }
        Ok(data)
    }
}
