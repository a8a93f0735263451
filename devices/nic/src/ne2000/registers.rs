//! The controller's registers (datasheet, 10).

use super::{Ne2000, accept, cause, command};

/// Pages of the command register.
fn page(command: u8) -> u8 {
    command >> 6
}

/// Receive status: the receiver is off.
const RECEIVER_OFF: u8 = 1 << 6;

impl Ne2000 {
    pub(super) fn read_register(&mut self, at: u8) -> u8 {
        let c = &self.core;
        let half = |value: u16, high: bool| value.to_le_bytes()[usize::from(high)];
        match (page(c.command), at) {
            (_, 0) => c.command,
            (0, 1 | 2) => half(u16::from(self.core.current) << 8, at == 2),
            (0, 3) | (2, 3) => c.boundary,
            (0, 4) => c.send_status,
            (0, 7) => c.status,
            (0, 8 | 9) => half(c.remote_at, at == 9),
            // Marks of the RTL8029.
            (0, 10) => 0x50,
            (0, 11) => 0x43,
            (0, 12) => {
                let off = if c.receive_config & accept::MONITOR != 0 { RECEIVER_OFF } else { 0 };
                c.receive_status | off
            }
            (1, 1..=6) => c.address[usize::from(at - 1)],
            (1, 7) => c.current,
            (1, 8..=15) => c.group[usize::from(at - 8)],
            (2, 1) => c.page_start,
            (2, 2) => c.page_stop,
            (2, 4) => c.send_page,
            (2, 12) => c.receive_config | 0xc0,
            (2, 13) => c.send_config | 0xe0,
            (2, 14) => c.data_config | 0x80,
            (2, 15) => c.mask | 0x80,
            // Configuration of the RTL8029: full duplex is not in use.
            (3, 3) => 0x00,
            (3, 6) => 0x40,
            _ => 0,
        }
    }

    pub(super) fn write_register(&mut self, at: u8, value: u8) {
        let put = |of: &mut u16, high: bool| {
            let mut bytes = of.to_le_bytes();
            bytes[usize::from(high)] = value;
            *of = u16::from_le_bytes(bytes);
        };
        let c = &mut self.core;
        match (page(c.command), at) {
            (_, 0) => self.command(value),
            (0, 1) => c.page_start = value,
            (0, 2) => c.page_stop = value,
            (0, 3) => {
                c.boundary = value;
                self.receive();
            }
            (0, 4) => c.send_page = value,
            (0, 5 | 6) => put(&mut c.send_count, at == 6),
            (0, 7) => {
                c.status &= !(value & !cause::RESET);
                self.raise(0);
            }
            (0, 8 | 9) => put(&mut c.remote_at, at == 9),
            (0, 10 | 11) => put(&mut c.remote_count, at == 11),
            (0, 12) => {
                c.receive_config = value & 0x3f;
                self.receive();
            }
            (0, 13) => c.send_config = value & 0x1f,
            (0, 14) => c.data_config = value & 0x7f,
            (0, 15) => {
                c.mask = value & 0x7f;
                self.raise(0);
            }
            (1, 1..=6) => c.address[usize::from(at - 1)] = value,
            (1, 7) => c.current = value,
            (1, 8..=15) => c.group[usize::from(at - 8)] = value,
            _ => {}
        }
    }

    fn command(&mut self, value: u8) {
        self.core.command = value;
        if value & command::STOP != 0 {
            self.core.status |= cause::RESET;
            return;
        }
        self.core.status &= !cause::RESET;
        let remote = value & command::REMOTE;
        if matches!(remote, command::REMOTE_READ | command::REMOTE_WRITE) && self.core.remote_count == 0 {
            self.raise(cause::REMOTE_DONE);
        }
        if value & command::SEND != 0 {
            self.send();
        }
        if value & command::START != 0 {
            self.receive();
        }
    }
}
