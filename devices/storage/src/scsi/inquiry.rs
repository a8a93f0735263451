//! INQUIRY: what a logical unit is (SPC-3, 6.4).

use super::{Reply, Sense, be, cut};

/// What a unit answers.
pub(crate) struct Inquiry<'a> {
    /// Peripheral device type.
    pub(crate) kind: u8,
    pub(crate) removable: bool,
    pub(crate) vendor: &'a str,
    pub(crate) product: &'a str,
    pub(crate) version: &'a str,
    pub(crate) serial: &'a str,
    /// SPC version, and the response format with ATAPI's version above it.
    pub(crate) version_code: u8,
    pub(crate) response: u8,
    /// World-wide name; 0 for none.
    pub(crate) wwn: u64,
    /// Vital product data pages beyond those that all have.
    pub(crate) pages: &'a [(u8, Vec<u8>)],
}

/// Text padded with blanks.
fn padded(text: &str, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = text.bytes().take(len).collect();
    bytes.resize(len, b' ');
    bytes
}

impl Inquiry<'_> {
    pub(crate) fn answer(&self, cdb: &[u8; 16]) -> Reply {
        let room = be(&cdb[3..5]);
        if cdb[1] & 1 != 0 {
            return match self.page(cdb[2]) {
                Some(page) => cut(page, room),
                None => Reply::Check(Sense::INVALID_FIELD),
            };
        }
        if cdb[2] != 0 {
            return Reply::Check(Sense::INVALID_FIELD);
        }
        let removable = u8::from(self.removable) << 7;
        // Commands can be queued, except on ATAPI.
        let queue = if self.response & 0xf0 == 0 { 2 } else { 0 };
        let mut data = vec![self.kind, removable, self.version_code, self.response, 31, 0, 0, queue];
        data.extend(padded(self.vendor, 8));
        data.extend(padded(self.product, 16));
        data.extend(padded(self.version, 4));
        cut(data, room)
    }

    fn page(&self, number: u8) -> Option<Vec<u8>> {
        let body = match number {
            0 => {
                let own = [0x00, 0x80, 0x83];
                let mut all: Vec<u8> = own.into_iter().chain(self.pages.iter().map(|(n, _)| *n)).collect();
                all.sort_unstable();
                all
            }
            0x80 => self.serial.bytes().take(36).collect(),
            0x83 => {
                // Designators of this unit: text of the vendor's choice, and the name if it has one.
                let id: Vec<u8> = self.serial.bytes().take(32).collect();
                let name: Vec<u8> = match self.wwn {
                    0 => Vec::new(),
                    wwn => [&[1, 3, 0, 8][..], &wwn.to_be_bytes()].concat(),
                };
                [vec![2, 0, 0, id.len() as u8], id, name].concat()
            }
            _ => self.pages.iter().find(|(n, _)| *n == number)?.1.clone(),
        };
        let mut page = vec![self.kind, number];
        page.extend((body.len() as u16).to_be_bytes());
        page.extend(body);
        Some(page)
    }
}
