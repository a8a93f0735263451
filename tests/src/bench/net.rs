//! TCP between a Linux guest and its host through the user network: what a CPU second carries, the guest's own work
//! included.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use rhea_tests::{netguest, process};

use super::{Bench, RAM, Result, Row, STEP, finish, guest, text};
use rhea_tests::boot::APPEND;

/// Bytes each way.
const AMOUNT: usize = 64 << 20;

/// Serves connections for as long as the program runs; returns the port.
fn serve(each: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("a port: {error}"))?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // A guest that goes away in the middle shows itself elsewhere.
            let _ = each(&mut stream);
        }
    });
    Ok(port)
}

pub(super) fn net(bench: &Bench) -> Result<Vec<Row>> {
    let down = serve(|stream| {
        let _ = stream.read(&mut [0; 4096])?;
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {AMOUNT}\r\n\r\n")?;
        let block = vec![0; 1 << 20];
        (0..AMOUNT >> 20).try_for_each(|_| stream.write_all(&block))
    })?;
    let up = serve(|stream| std::io::copy(stream, &mut std::io::sink()).map(|_| ()))?;
    let blocks = AMOUNT >> 16;
    let script = format!(
        "ifconfig eth0 10.0.2.15 netmask 255.255.255.0\nroute add default gw 10.0.2.2\necho NET-READY\n\
         wget -q -O /dev/null http://10.0.2.2:{down}/x\necho NET-DOWN\n\
         dd if=/dev/zero bs=64k count={blocks} 2>/dev/null | nc 10.0.2.2 {up}\necho NET-UP\n"
    );
    let tool = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("mkinitrd");
    let Some(initrd) = netguest::initrd(&bench.folder, &tool, &script) else { return Ok(Vec::new()) };
    let (initrd, memory) = (text(&initrd), (RAM >> 20).to_string());
    let (firmware, kernel) = (guest("riscv64/fw_dynamic.bin")?, guest("riscv64/linux")?);
    let rows = vec![
        Row::new("TCP from host to Linux guest, user network (more is better)", "Gbit/CPU s"),
        Row::new("TCP from Linux guest to host, user network (more is better)", "Gbit/CPU s"),
    ];
    bench.rounds(("riscv64", "virt"), rows, |contender| {
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
            APPEND,
            "-netdev",
            "user,id=n0",
            "-device",
            "virtio-net-device,netdev=n0",
        ];
        let mut guest = contender.start("riscv64", "virt", &arguments)?;
        let mut values = Vec::new();
        guest.console.expect("NET-READY", STEP)?;
        let mut before = process::cpu_so_far(guest.pid()).ok_or("the process is gone")?;
        for mark in ["NET-DOWN", "NET-UP"] {
            guest.console.expect(mark, STEP)?;
            let now = process::cpu_so_far(guest.pid()).ok_or("the process is gone")?;
            values.push(AMOUNT as f64 * 8e-9 / (now - before).as_secs_f64());
            before = now;
        }
        finish(&mut guest)?;
        Ok(values)
    })
}
