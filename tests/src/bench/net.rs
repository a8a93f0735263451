//! TCP between a Linux guest and its host: what a CPU second carries, what a connection and a round trip cost, the guest's own work
//! included. Over the user network, and over a tap device with virtio-net headers in a network of this measurement's own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use rhea_tests::boot::APPEND;
use rhea_tests::{netguest, process, skip, workspace};

use super::{Bench, Contender, RAM, Result, Row, STEP, finish, guest, mebibytes, text};

/// Mebibytes each way.
const AMOUNT: usize = 64;
/// Connections one after the other.
const CONNECTIONS: usize = 2000;
/// Bytes there and back.
const ROUND_TRIPS: usize = 2000;
/// The host as the guest sees it, on either network.
const HOST: &str = "10.0.2.2";

/// Serves connections for as long as the program runs; returns the port.
fn serve(each: impl Fn(&mut TcpStream) -> io::Result<()> + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0").map_err(|error| format!("a port: {error}"))?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // A guest that goes away in the middle shows itself elsewhere.
            let _ = each(&mut stream);
        }
    });
    Ok(port)
}

/// What a guest does, in order, and the rows of it.
fn script() -> Result<String> {
    let down = serve(|stream| {
        let block = vec![0; 1 << 20];
        (0..AMOUNT).try_for_each(|_| stream.write_all(&block))
    })?;
    let up = serve(|stream| io::copy(stream, &mut io::sink()).map(|_| ()))?;
    let hang_up = serve(|stream| stream.shutdown(Shutdown::Both))?;
    let echo = serve(|stream| {
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        Ok(())
    })?;
    Ok(format!(
        "ifconfig eth0 10.0.2.15 netmask 255.255.255.0\nroute add default gw {HOST}\n\
         until ping -c 1 {HOST} > /dev/null; do sleep 0.1; done\necho NET-READY\n\
         net {HOST} {down} receive\nnet {HOST} {up} send {AMOUNT}\n\
         net {HOST} {hang_up} connect {CONNECTIONS}\nnet {HOST} {echo} echo {ROUND_TRIPS}\n"
    ))
}

/// The guest with its program.
fn files(bench: &Bench) -> Result<Option<[String; 3]>> {
    let program = bench.folder.join("net");
    let source = workspace::root().join("tests/programs/net.c");
    let mut compiler = Command::new("riscv64-linux-gnu-gcc");
    compiler.args(["-O2", "-static", "-o"]).arg(&program).arg(source);
    match compiler.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => {
            skip(&format!("riscv64-linux-gnu-gcc: {error}"));
            return Ok(None);
        }
    }
    let tool = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("mkinitrd");
    let programs: [(&str, &Path); 1] = [("bin/net", &program)];
    let Some(initrd) = netguest::initrd(&bench.folder, &tool, &script()?, &programs) else { return Ok(None) };
    Ok(Some([guest("riscv64/fw_dynamic.bin")?, guest("riscv64/linux")?, text(&initrd)]))
}

fn rows(network: &str) -> Vec<Row> {
    let row = |what: &str, unit| Row::new(format!("{what}, {network}"), unit);
    vec![
        row("TCP from host to Linux guest (more is better)", "Gbit/CPU s"),
        row("TCP from Linux guest to host (more is better)", "Gbit/CPU s"),
        row("a connection opened and closed: CPU", "us"),
        row("resident memory gained by 2000 of them", "MiB"),
        row("a byte there and back: CPU", "us"),
        row("the same by the guest's clock", "us"),
    ]
}

/// One guest.
fn session(contender: Contender, files: &[String; 3], netdev: &str) -> Result<Vec<f64>> {
    let [firmware, kernel, initrd] = files;
    let memory = (RAM >> 20).to_string();
    let arguments = [
        "-m",
        &memory,
        "-bios",
        firmware,
        "-kernel",
        kernel,
        "-initrd",
        initrd,
        "-append",
        APPEND,
        "-netdev",
        netdev,
        "-device",
        "virtio-net-device,netdev=n0",
    ];
    let mut guest = contender.start("riscv64", "virt", &arguments)?;
    guest.console.expect("NET-READY", STEP)?;
    let pid = guest.pid();
    let used = || process::cpu_so_far(pid).ok_or("the process is gone");
    let mut step = |what: &str| -> Result<(f64, String)> {
        let before = used()?;
        guest.console.expect(&format!("{what} "), STEP)?;
        guest.console.expect(" in ", STEP)?;
        let told = guest.console.rest_of_line(STEP)?;
        Ok(((used()? - before).as_secs_f64(), told))
    };
    let gigabits = (AMOUNT << 20) as f64 * 8e-9;
    let (down, _) = step("receive")?;
    let (up, _) = step("send")?;
    let before = mebibytes(process::overhead(pid, RAM));
    let (connections, _) = step("connect")?;
    let gained = mebibytes(process::overhead(pid, RAM)) - before;
    let (trips, told) = step("echo")?;
    let clock: f64 = told.trim().trim_end_matches(" us").parse().map_err(|_| format!("it says '{told}'"))?;
    finish(&mut guest)?;
    let each = |seconds: f64, count: usize| seconds * 1e6 / count as f64;
    Ok(vec![
        gigabits / down,
        gigabits / up,
        each(connections, CONNECTIONS),
        gained,
        each(trips, ROUND_TRIPS),
        clock / ROUND_TRIPS as f64,
    ])
}

/// The user network.
pub(super) fn net(bench: &Bench) -> Result<Vec<Row>> {
    let Some(files) = files(bench)? else { return Ok(Vec::new()) };
    bench.rounds(("riscv64", "virt"), rows("user network"), |who| session(who, &files, "user,id=n0"))
}

/// A tap device.
pub(super) fn tap(bench: &Bench) -> Result<Vec<Row>> {
    // Everything is started by a thread that has a network of its own.
    let measured = thread::scope(|scope| {
        let measure = || {
            if let Err(error) = process::own_network() {
                skip(&format!("a tap device: a network of its own: {error}"));
                return Ok(Vec::new());
            }
            for line in [
                "tuntap add dev bench0 mode tap vnet_hdr",
                &format!("addr add {HOST}/24 dev bench0"),
                "link set bench0 up",
            ] {
                let done = Command::new("ip").args(line.split(' ')).status();
                if !done.is_ok_and(|status| status.success()) {
                    skip(&format!("a tap device: ip {line}"));
                    return Ok(Vec::new());
                }
            }
            let Some(files) = files(bench)? else { return Ok(Vec::new()) };
            let netdev = "tap,id=n0,ifname=bench0,script=no,downscript=no,vnet_hdr=on";
            bench.rounds(("riscv64", "virt"), rows("tap device"), |who| session(who, &files, netdev))
        };
        scope.spawn(measure).join()
    });
    measured.map_err(|_| "the measurement ended early".to_owned())?
}
