//! The shared folder: Samba answers, with the newest protocol of the client's.
#![cfg(target_os = "linux")]

use std::path::Path;

use crate::config;
use crate::guest::Guest;

/// SMB2 NEGOTIATE for versions 2.0.2 and 3.0 (MS-SMB2, 2.2.3) behind its length.
fn negotiate() -> Vec<u8> {
    let mut m = vec![0xfe, b'S', b'M', b'B', 64, 0];
    m.resize(64, 0);
    // Size, two dialects, signing allowed; client's number; dialects.
    m.extend([36, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    m.extend([7; 16]);
    m.extend([0; 8]);
    m.extend([0x02, 0x02, 0x00, 0x03]);
    let mut framed = (m.len() as u32).to_be_bytes().to_vec();
    framed.extend(m);
    framed
}

#[test]
fn a_folder_is_served() {
    if !Path::new("/usr/sbin/smbd").exists() {
        println!("SKIPPED: smbd is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(config(&[("smb", folder.path().to_str().unwrap()), ("restrict", "on")]));
    let handle = guest.connect("10.0.2.4:445".parse().unwrap(), 40000);
    guest.until("a connection", |g| g.socket(handle).can_send().then_some(()));
    guest.socket(handle).send_slice(&negotiate()).unwrap();
    let mut answer = Vec::new();
    guest.until("an answer", |g| {
        let socket = g.socket(handle);
        if socket.can_recv() {
            socket.recv(|b| (b.len(), answer.extend_from_slice(b))).unwrap();
        }
        assert!(socket.may_recv(), "smbd has ended");
        (answer.len() > 72).then_some(())
    });
    assert_eq!(answer[4..8], *b"\xfeSMB");
    // Status, and the version it has chosen.
    assert_eq!((&answer[12..16], &answer[72..74]), (&[0; 4][..], &[0, 3][..]));
}
