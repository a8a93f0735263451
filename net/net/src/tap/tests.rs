//! Tap devices where the host lets us have them; helpers and scripts that fail anywhere.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use std::os::fd::BorrowedFd;

use ::vhost::{Backend, Driver, Event, Kernel, NET, VringAddress};
use parking_lot::Mutex;

use super::*;
use crate::vhost::handover_tests::Guest;

/// A device, or a line that says why there is none.
fn open(options: TapOptions) -> Option<Tap> {
    match Tap::open(options) {
        Ok(tap) => Some(tap),
        Err(e) => {
            assert!(e.to_string().contains("tap device '"), "{e}");
            // Past the test harness's capture.
            let _ = std::io::stderr().write_all(format!("\nSKIPPED: tap devices: {e}\n").as_bytes());
            None
        }
    }
}

fn program(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn opens_or_says_why_not() {
    if let Some(tap) = open(TapOptions::named("rheatest%d", true)) {
        assert!(tap.name().starts_with("rheatest"), "{}", tap.name());
        assert!(tap.set_offload(12, 1 << 1));
        assert_eq!(tap.vnet_header(), 12);
        assert!(!tap.set_offload(11, 0));
        let busy = Tap::open(TapOptions::named(tap.name(), true)).err().unwrap().to_string();
        assert!(busy.contains("choose another ifname"), "{busy}");
    }
    let error = Tap::open(TapOptions::named("a-name-much-too-long", false));
    assert!(error.err().unwrap().to_string().contains("at most 15 bytes"));
}

#[test]
fn several_queues_and_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let up = program(dir.path(), "up", &format!("echo up $1 >> {}", log.display()));
    let down = program(dir.path(), "down", &format!("echo down $1 >> {}", log.display()));
    let source = TapSource::Open { name: "rheaq%d".into(), queues: 3, scripts: (Some(up), Some(down)) };
    let Some(tap) = open(TapOptions { source, vnet_header: None, send_buffer: Some(1 << 20), vhost: None })
    else {
        return;
    };
    assert!(tap.set_offload(12, 0));
    for flow in 0..8u8 {
        // The interface is down, which the kernel says.
        assert!(!tap.send(&[&[0; 12], &[flow; 60]]));
    }
    let name = tap.name().to_owned();
    drop(tap);
    assert_eq!(fs::read_to_string(log).unwrap(), format!("up {name}\ndown {name}\n"));
    let bad = program(dir.path(), "bad", "exit 3");
    let source = TapSource::Open { name: "rheaq%d".into(), queues: 1, scripts: (Some(bad), None) };
    let error = Tap::open(TapOptions { source, vnet_header: None, send_buffer: None, vhost: None })
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("ended with status 3; script=no runs none"), "{error}");
}

#[test]
fn helpers_that_fail_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = program(dir.path(), "refuse", "echo $@ > \"$0.args\"; exit 1");
    let with = |helper: String| {
        let source = TapSource::Bridge { helper: Some(helper), bridge: "br7".into() };
        Tap::open(TapOptions { source, vnet_header: None, send_buffer: None, vhost: None })
            .err()
            .unwrap()
            .to_string()
    };
    let error = with(refuse.display().to_string());
    assert!(error.contains("refuse ended with status 1 and made no device on 'br7'"), "{error}");
    let arguments = fs::read_to_string(dir.path().join("refuse.args")).unwrap();
    assert_eq!(arguments, "--use-vnet --fd=0 --br=br7\n");
    assert!(with("/no/such/helper".into()).contains("bridge helper /no/such/helper"));
    let error = with(format!("{} --extra", refuse.display()));
    assert!(error.contains("status 1"), "{error}");
    let arguments = fs::read_to_string(dir.path().join("refuse.args")).unwrap();
    assert_eq!(arguments, "--extra --use-vnet --fd=0 --br=br7\n");
    let not_tap = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let source = TapSource::Inherited(vec![not_tap]);
    let error = Tap::open(TapOptions { source, vnet_header: None, send_buffer: None, vhost: None })
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("expected a descriptor of a tap device"), "{error}");
}

/// Writes down what it is asked beyond rings and memory.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Vec<String>>>);

impl Fake {
    fn say(&self, what: String) -> io::Result<()> {
        self.0.lock().push(what);
        Ok(())
    }
}

impl Driver for Fake {
    fn features(&self) -> io::Result<u64> {
        Ok(1 << 32 | 1 << 27 | 1 << 15)
    }
    fn set_owner(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_features(&self, features: u64) -> io::Result<()> {
        self.say(format!("features {features:#x}"))
    }
    fn set_memory(&self, pieces: &[[u64; 3]]) -> io::Result<()> {
        self.say(format!("memory in {}", pieces.len()))
    }
    fn set_size(&self, _ring: u32, _entries: u32) -> io::Result<()> {
        Ok(())
    }
    fn set_base(&self, _ring: u32, _base: u32) -> io::Result<()> {
        Ok(())
    }
    fn base(&self, ring: u32) -> io::Result<u32> {
        Ok(7 + ring)
    }
    fn set_address(&self, _address: &VringAddress) -> io::Result<()> {
        Ok(())
    }
    fn set_kick(&self, _ring: u32, _event: &Event) -> io::Result<()> {
        Ok(())
    }
    fn set_call(&self, _ring: u32, _event: &Event) -> io::Result<()> {
        Ok(())
    }
    fn set_socket(&self, ring: u32, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.say(format!("socket {ring} {}", socket.is_some()))
    }
    fn set_cid(&self, _cid: u64) -> io::Result<()> {
        Ok(())
    }
    fn set_running(&self, _on: bool) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_kernel_serves_a_cards_rings() {
    for header in [true, false] {
        let Some(tap) = open(TapOptions::named("rheav%d", header)) else { return };
        let fake = Fake::default();
        let kernel = Kernel::new(NET, Box::new(fake.clone())).unwrap();
        let served = Served::new(tap.queues.clone(), vec![kernel], tap.header.clone(), tap.uso);
        // What tap device and kernel do between them.
        let offered = served.features().unwrap();
        assert_eq!((offered & 1 << 27, offered & 1 << 15, offered & 1 != 0), (0, 1 << 15, header));
        Guest::new().hand_over(&served, [0, 0]);
        assert_eq!(served.header(), Some(12));
        let makes_headers = if header { 0 } else { 1 << 27 };
        let features = format!("features {:#x}", 1u64 << 32 | 1 << 15 | makes_headers);
        assert_eq!(*fake.0.lock(), [&features, "memory in 1", "socket 0 true", "socket 1 true"]);
        fake.0.lock().clear();
        assert_eq!(served.stop(), Some(vec![7, 8]));
        assert_eq!(
            (served.header(), &**fake.0.lock()),
            (None, &["socket 0 false".into(), "socket 1 false".into()][..])
        );
    }
}

#[test]
fn without_vhost_net_there_is_a_reason() {
    let options = |forced| TapOptions {
        vhost: Some(TapVhost { fds: None, forced }),
        ..TapOptions::named("rheaw%d", true)
    };
    if Path::new(NET).exists() {
        return;
    }
    let Some(tap) = open(options(false)) else { return };
    let why = tap.without_vhost().unwrap().to_string();
    assert!(
        why.contains("/dev/vhost-net (missing: as root, modprobe vhost_net)") && tap.rings().is_none(),
        "{why}"
    );
    let error = Tap::open(options(true)).err().unwrap().to_string();
    assert!(error.starts_with("vhost: /dev/vhost-net"), "{error}");
}
