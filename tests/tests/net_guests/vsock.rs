//! Virtual sockets of Linux against the muxer: each side calls the other, and data goes both ways.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use rhea_tests::boot::{Scratch, powers_off};

use super::{Machine, STEP, VIRTIO_MMIO, VIRTIO_PCI, text};
use rhea_tests::nethost::{data, sha256};

const SCRIPT: &str = "\
socat -u VSOCK-LISTEN:1000 OPEN:/tmp/data,creat &
socat VSOCK-LISTEN:1001,fork EXEC:/bin/cat &
usleep 500000
echo LISTENING
wait %1
echo \"GOT $(sha256sum /tmp/data | cut -d' ' -f1)\"
socat -u OPEN:/tmp/data VSOCK-CONNECT:2:5000
echo SENT
socat - VSOCK-CONNECT:2:5999 < /dev/null || echo NOBODY-THERE
read line
";

#[test]
fn linux_calls_and_is_called_on_virt() {
    session(&VIRTIO_MMIO, "virtio-vsock-device");
}

#[test]
fn linux_calls_and_is_called_on_pc() {
    session(&VIRTIO_PCI, "virtio-vsock-pci");
}

fn session(machine: &Machine, device: &str) {
    let scratch = Scratch::new(device);
    let path = scratch.path("sockets");
    let listener = UnixListener::bind(scratch.path("sockets_5000")).expect("a socket");
    let up = thread::spawn(move || {
        let mut all = Vec::new();
        listener.accept().and_then(|(mut s, _)| s.read_to_end(&mut all)).map(|_| sha256(&all))
    });
    let options = [
        "-netdev".to_owned(),
        "user,id=n0,restrict=on".to_owned(),
        "-device".to_owned(),
        format!("{},netdev=n0", machine.card),
        "-device".to_owned(),
        format!("{device},guest-cid=7,uds-path={}", text(&path)),
    ];
    let modules = ["vmw_vsock_virtio_transport"];
    let Some(mut guest) = machine.start((&scratch, "guest"), &modules, SCRIPT, &options) else { return };
    let sent = data(4);
    let expected = sha256(&sent);
    let mut session = || -> Result<(), String> {
        let failed = |e: std::io::Error| e.to_string();
        guest.console.expect("LISTENING", STEP)?;
        let call = |port: u32| -> std::io::Result<BufReader<UnixStream>> {
            let mut socket = UnixStream::connect(&path)?;
            socket.write_all(format!("CONNECT {port}\n").as_bytes())?;
            let mut socket = BufReader::new(socket);
            let mut line = String::new();
            socket.read_line(&mut line)?;
            if line.starts_with("OK ") {
                Ok(socket)
            } else {
                Err(std::io::Error::other(format!("it says '{line}'")))
            }
        };
        // The guest says that it listens when it has started those that will.
        let call_soon = |port: u32| {
            for _ in 0..100 {
                if let Ok(socket) = call(port) {
                    return Ok(socket);
                }
                thread::sleep(Duration::from_millis(200));
            }
            call(port)
        };
        let mut echo = call_soon(1001).map_err(failed)?;
        echo.get_mut().write_all(b"there and back\n").map_err(failed)?;
        let mut line = String::new();
        echo.read_line(&mut line).map_err(failed)?;
        if line != "there and back\n" {
            return Err(format!("the echo is '{line}'"));
        }
        call_soon(1000).and_then(|mut s| s.get_mut().write_all(&sent)).map_err(failed)?;
        guest.console.expect(&format!("GOT {expected}"), STEP)?;
        guest.console.expect("SENT", STEP)?;
        guest.console.expect("NOBODY-THERE", STEP)?;
        if call(77).is_ok() {
            return Err("nobody listens at port 77 of the guest".into());
        }
        guest.console.send("\n").map_err(failed)?;
        powers_off(&mut guest)
    };
    session().unwrap_or_else(|e| panic!("{device}: {e}"));
    assert_eq!(up.join().expect("the listener ends").expect("what came up"), expected);
}
