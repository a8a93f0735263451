//! A Debian guest on the user network: lease, names of the network, echoes, and data both ways with equal checksums.
//! `RHEA_NET_MIB` says how much data (64 MiB).
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rhea_tests::boot::{self, Scratch, powers_off};
use rhea_tests::netguest;

const STEP: Duration = Duration::from_secs(1200);

/// What is sent: numbers that never repeat.
fn data(mib: usize) -> Vec<u8> {
    let mut next = 0x1234_5678_9abc_def0_u64;
    (0..mib << 17)
        .flat_map(|_| {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            next.to_le_bytes()
        })
        .collect()
}

fn sha256(data: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum is installed");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(data).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

/// Serves one connection.
fn serve<T: Send + 'static>(f: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    (port, thread::spawn(move || f(listener.accept().expect("a connection").0)))
}

#[test]
fn data_goes_both_ways_whole() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let mib = std::env::var("RHEA_NET_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(64);
    let scratch = Scratch::new("netlong");
    let sent = data(mib);
    let expected = sha256(&sent);
    let length = sent.len();
    let (down, served) = serve(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&sent))
    });
    let (up, taken) = serve(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| sha256(&all))
    });
    let script = format!(
        r#"cat > /tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig eth0 $ip netmask $subnet
route add default gw $router
echo "LEASE $ip $router $dns"
END
chmod +x /tmp/lease
udhcpc -i eth0 -n -q -s /tmp/lease
ping -c 2 10.0.2.2 && echo PING-4-OK
# An address of one's own is not used before nobody else is found to have it.
for i in 1 2 3 4 5 6 7 8 9 10; do ping6 -c 2 fe80::2%eth0 && echo PING-6-OK && break; sleep 1; done
wget -q -O /tmp/data http://10.0.2.2:{down}/x
echo "DOWN $(sha256sum /tmp/data | cut -d' ' -f1)"
nc 10.0.2.2 {up} < /tmp/data
echo UP-DONE
echo served-by-the-guest > /root/page
httpd -p 80 -h /root
echo HTTPD-UP
read line
"#
    );
    let folder = scratch.path("guest");
    std::fs::create_dir_all(&folder).unwrap();
    let tool = Path::new(env!("CARGO_BIN_EXE_mkinitrd"));
    let Some(initrd) = netguest::initrd(&folder, tool, &script) else { return };
    let (Some(firmware), Some(kernel)) =
        (boot::guest("riscv64/fw_dynamic.bin"), boot::guest("riscv64/linux"))
    else {
        return;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = |path: &Path| path.display().to_string();
    let netdev = format!("user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:80");
    let (firmware, kernel, initrd) = (text(&firmware), text(&kernel), text(&initrd));
    let memory = (512 + 2 * mib).to_string();
    let arguments = [
        "-m",
        &memory,
        "-bios",
        &firmware,
        "-kernel",
        &kernel,
        "-initrd",
        &initrd,
        "-append",
        boot::APPEND,
        "-netdev",
        &netdev,
        "-device",
        "virtio-net-device,netdev=net0",
    ];
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();
    let mut session = || -> Result<(), String> {
        for answer in ["LEASE 10.0.2.15 10.0.2.2 10.0.2.3", "PING-4-OK", "PING-6-OK"] {
            guest.console.expect(answer, STEP)?;
        }
        guest.console.expect(&format!("DOWN {expected}"), STEP)?;
        guest.console.expect("UP-DONE", STEP)?;
        guest.console.expect("HTTPD-UP", STEP)?;
        let mut client = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        client.write_all(b"GET /page HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
        let mut page = String::new();
        client.read_to_string(&mut page).map_err(|e| e.to_string())?;
        if !page.contains("served-by-the-guest") {
            return Err(format!("the guest's server said: {page}"));
        }
        guest.console.send("\n").map_err(|e| e.to_string())?;
        powers_off(&mut guest)
    };
    session().unwrap();
    served.join().unwrap().unwrap();
    assert_eq!(taken.join().unwrap().unwrap(), expected, "what came up");
}
