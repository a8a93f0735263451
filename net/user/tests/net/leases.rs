//! DHCP, BOOTP and DHCPv6 byte by byte.

use crate::config;
use crate::guest::{MAC, STEP};
use crate::raw::{Raw, udp};

/// A client's message with these options.
fn request(options: &[u8]) -> Vec<u8> {
    let mut b = vec![0; 236];
    (b[0], b[1], b[2]) = (1, 1, 6);
    b[4..8].copy_from_slice(&[9, 8, 7, 6]);
    b[28..34].copy_from_slice(&MAC);
    b.extend([0x63, 0x82, 0x53, 0x63]);
    b.extend(options);
    b.push(255);
    b
}

/// The answer: its fixed part and its options.
fn ask(raw: &Raw, options: &[u8]) -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
    let mut p = crate::raw::ipv4([255; 4].into(), 17, (64, 0), &udp(68, 67, &request(options)));
    // A client has no address yet.
    p[12..16].fill(0);
    p[10..12].fill(0);
    let sum = !smoltcp::wire::checksum::data(&p[..20]);
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    raw.ip(&p);
    let answer = raw.packet("an answer", STEP, |p| (p.protocol == 17).then_some(p.payload)).unwrap();
    let bytes = &answer[8..];
    let (mut options, mut rest) = (Vec::new(), &bytes[240..]);
    while let [code, length, tail @ ..] = rest {
        if *code == 255 {
            break;
        }
        options.push((*code, tail[..usize::from(*length)].to_vec()));
        rest = &tail[usize::from(*length)..];
    }
    (bytes.to_vec(), options)
}

fn find(options: &[(u8, Vec<u8>)], code: u8) -> Option<&[u8]> {
    options.iter().find(|(c, _)| *c == code).map(|(_, data)| data.as_slice())
}

#[test]
fn every_option_of_the_user_is_told() {
    let raw = Raw::new(config(&[
        ("net", "10.0.2.0/24"),
        ("dhcpstart", "10.0.2.20"),
        ("hostname", "box"),
        ("domainname", "example.org"),
        ("dnssearch", "example.org"),
        ("dnssearch", "corp.example.org"),
        ("tftp-server-name", "boot.example.org"),
        ("bootfile", "pxe/start.0"),
        ("mtu", "9000"),
    ]));
    let (fixed, options) = ask(&raw, &[53, 1, 1]);
    assert_eq!((fixed[0], &fixed[4..8], &fixed[16..20]), (2, &[9, 8, 7, 6][..], &[10, 0, 2, 20][..]));
    assert_eq!(fixed[20..24], [10, 0, 2, 2], "the server that has the boot file");
    assert_eq!(fixed[28..34], MAC);
    assert!(fixed[108..].starts_with(b"pxe/start.0\0"));
    for (code, data) in [
        (53, &[2][..]),
        (54, &[10, 0, 2, 2]),
        (1, &[255, 255, 255, 0]),
        (3, &[10, 0, 2, 2]),
        (6, &[10, 0, 2, 3]),
        (12, b"box"),
        (15, b"example.org"),
        (26, &9000u16.to_be_bytes()),
        (51, &86400u32.to_be_bytes()),
        (66, b"boot.example.org"),
        (119, b"\x07example\x03org\0\x04corp\x07example\x03org\0"),
    ] {
        assert_eq!(find(&options, code), Some(data), "option {code}");
    }
    // What was offered is given; another address is not.
    let (fixed, options) = ask(&raw, &[53, 1, 3, 50, 4, 10, 0, 2, 20]);
    assert_eq!((find(&options, 53), &fixed[16..20]), (Some(&[5][..]), &[10, 0, 2, 20][..]));
    let (_, options) = ask(&raw, &[53, 1, 3, 50, 4, 10, 0, 2, 99]);
    assert_eq!(find(&options, 53), Some(&[6][..]));
    // Who has an address asks for the rest only.
    let (fixed, options) = ask(&raw, &[53, 1, 8]);
    assert_eq!((find(&options, 53), find(&options, 51)), (Some(&[5][..]), None));
    assert_eq!(fixed[16..20], [0; 4]);
}

#[test]
fn a_bootp_client_gets_address_and_file() {
    let raw = Raw::new(config(&[("bootfile", "kernel")]));
    let (fixed, options) = ask(&raw, &[]);
    assert_eq!((fixed[0], &fixed[16..20], &fixed[20..24]), (2, &[10, 0, 2, 15][..], &[10, 0, 2, 2][..]));
    assert!(fixed[108..].starts_with(b"kernel\0"));
    assert_eq!((find(&options, 53), find(&options, 51)), (None, None));
    assert_eq!(find(&options, 1), Some(&[255, 255, 255, 0][..]));
}

#[test]
fn a_restricted_guest_is_told_of_no_gateway() {
    let raw = Raw::new(config(&[("restrict", "on")]));
    let (_, options) = ask(&raw, &[53, 1, 1]);
    assert_eq!((find(&options, 3), find(&options, 6)), (None, None));
}
