//! Much data between a Debian guest and a server on the host's loopback, both ways at once: 1 GiB comes down, is summed, and goes up
//! again. `RHEA_NET_MIB` says how much instead.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use rhea_tests::boot::{self, Scratch, powers_off};
use rhea_tests::netguest;
use rhea_tests::nethost::{Numbers, Sum, serve, sink};

const STEP: Duration = Duration::from_secs(3600);

#[test]
fn data_goes_both_ways_whole() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let mib: usize = std::env::var("RHEA_NET_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(1024);
    let scratch = Scratch::new("netlong");
    let (down, served) = serve(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", mib << 20).expect("the guest reads");
        let (mut numbers, mut sum, mut block) = (Numbers::default(), Sum::begin(), vec![0; 1 << 20]);
        for _ in 0..mib {
            numbers.fill(&mut block);
            sum.add(&block);
            stream.write_all(&block).expect("the guest reads");
        }
        sum.end()
    });
    let (up, taken) = sink();
    let script = format!(
        "ifconfig eth0 10.0.2.15 netmask 255.255.255.0\nroute add default gw 10.0.2.2\nmkfifo /tmp/copy\n\
         sha256sum < /tmp/copy > /tmp/sum &\n\
         wget -q -O - http://10.0.2.2:{down}/x | tee /tmp/copy | nc 10.0.2.2 {up}\nwait\n\
         echo \"SUM $(cut -d' ' -f1 /tmp/sum)\"\n"
    );
    let tool = Path::new(env!("CARGO_BIN_EXE_mkinitrd"));
    let folder = scratch.path("guest");
    std::fs::create_dir_all(&folder).unwrap();
    let Some(initrd) = netguest::initrd(&folder, tool, &script, &[]) else { return };
    let (Some(firmware), Some(kernel)) =
        (boot::guest("riscv64/fw_dynamic.bin"), boot::guest("riscv64/linux"))
    else {
        return;
    };
    let text = |path: &Path| path.display().to_string();
    let (firmware, kernel, initrd) = (text(&firmware), text(&kernel), text(&initrd));
    let mut arguments = vec!["-m", "512", "-bios", &firmware, "-kernel", &kernel, "-initrd", &initrd];
    arguments.extend(["-append", boot::APPEND, "-netdev", "user,id=net0"]);
    arguments.extend(["-device", "virtio-net-device,netdev=net0"]);
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();
    guest.console.expect("SUM ", STEP).unwrap();
    let sum = guest.console.rest_of_line(STEP).unwrap();
    powers_off(&mut guest).unwrap();
    let sent = served.join().unwrap();
    assert_eq!((&sum, &taken.join().unwrap()), (&sent, &sent), "what came down, and what came up");
}
