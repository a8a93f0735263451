//! Telnet's in-band commands (RFC 854, RFC 856 binary, RFC 857 echo, RFC 858 suppress go-ahead).

const IAC: u8 = 255;
const DONT: u8 = 254;
const WILL: u8 = 251;
const SB: u8 = 250;
const BREAK: u8 = 243;
const SE: u8 = 240;

/// What the server says first: it echoes, sends no go-ahead, and both sides are binary.
pub(super) const GREETING: [u8; 12] = [IAC, WILL, 1, IAC, WILL, 3, IAC, WILL, 0, IAC, 253, 0];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    Command,
    Option,
    Subnegotiation,
    SubnegotiationCommand,
}

/// Takes commands out of the input.
#[derive(Debug, Default)]
pub(super) struct Filter {
    state: State,
}

impl Filter {
    /// Appends the data bytes of `input` to `out`; returns whether a break was received.
    pub(super) fn input(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        let mut broke = false;
        for byte in input {
            self.state = match (self.state, *byte) {
                (State::Data, IAC) => State::Command,
                (State::Data, b) => {
                    out.push(b);
                    State::Data
                }
                (State::Command, IAC) => {
                    out.push(IAC);
                    State::Data
                }
                (State::Command, BREAK) => {
                    broke = true;
                    State::Data
                }
                (State::Command, WILL..=DONT) => State::Option,
                (State::Command, SB) => State::Subnegotiation,
                (State::Command | State::Option, _) => State::Data,
                (State::Subnegotiation, IAC) => State::SubnegotiationCommand,
                (State::Subnegotiation, _) => State::Subnegotiation,
                (State::SubnegotiationCommand, SE) => State::Data,
                (State::SubnegotiationCommand, _) => State::Subnegotiation,
            };
        }
        broke
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_out() {
        let mut f = Filter::default();
        let mut out = Vec::new();
        let input = [b'a', IAC, WILL, 31, b'b', IAC, SB, 31, 0, 80, IAC, SE, b'c', IAC, IAC];
        for b in input {
            assert!(!f.input(&[b], &mut out));
        }
        assert_eq!(out, [b'a', b'b', b'c', IAC]);
        assert!(f.input(&[IAC, BREAK, b'd'], &mut out));
    }
}
