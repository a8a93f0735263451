//! Processors that come and go under Debian's kernel, whatever the firmware.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::boot::{self, Linux, Scratch};
use crate::qmp::Qmp;

/// Time for one step: firmware takes its own before the kernel.
const STEP: Duration = Duration::from_secs(900);

/// Switches on what comes, has each processor that is on do something, and says which are on whenever that changes.
const WATCH: &str = "\
cd /sys/devices/system/cpu
last=; n=0
echo WATCHING possible $(cat possible) end
while [ $n -lt 3000 ]; do
  for c in cpu[0-9]*/online; do
    [ \"$(cat $c 2>/dev/null)\" = 0 ] && echo 1 >$c 2>/dev/null
  done
  now=$(cat online)
  if [ \"$now\" != \"$last\" ]; then
    worked=
    for c in $(ls -d cpu[0-9]*); do
      worked=\"$worked$(taskset -c ${c#cpu} echo ${c#cpu} 2>/dev/null),\"
    done
    echo \"ON [$now] worked [$worked]\"
  fi
  last=$now; n=$((n+1)); sleep 0.1
done
";

/// Where a monitor listens, and the option for it.
pub fn monitor(scratch: &Scratch) -> (PathBuf, String) {
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    (socket, option)
}

/// A place, as clients name it.
pub fn place(socket: u32, core: u32, thread: u32) -> Value {
    json!({"socket-id": socket, "core-id": core, "thread-id": thread})
}

/// A processor at a place.
pub fn cpu(id: &str, socket: u32, core: u32, thread: u32) -> Value {
    let mut device = place(socket, core, thread);
    device["driver"] = json!("qemu64-x86_64-cpu");
    device["id"] = json!(id);
    device
}

/// A processor comes and goes under Debian's kernel in the translator, started by `firmware`, SeaBIOS without any. `mkinitrd` is the
/// program of this crate.
///
/// # Errors
/// What has not happened.
///
/// # Panics
/// When what is told is something else than it should be.
pub fn comes_and_goes(mkinitrd: &str, board: &str, firmware: &[&str]) -> Result<(), String> {
    if !boot::has_board("x86_64", board) {
        return Ok(());
    }
    let scratch = Scratch::new(&format!("cpus-{board}"));
    let (socket, option) = monitor(&scratch);
    let smp = "2,maxcpus=6,sockets=2,cores=3,threads=1";
    let Some(linux) = Linux::running(mkinitrd, &scratch, WATCH) else { return Ok(()) };
    let arguments = ["-accel", "tcg", "-cpu", "qemu64", "-m", "256", "-qmp", &option, "-smp", smp];
    let mut guest = linux.start(board, "quiet", &[&arguments[..], firmware].concat());
    let mut qmp = Qmp::connect(&socket, STEP)?;
    guest.console.expect("WATCHING possible 0-5 end", STEP)?;
    guest.console.expect("ON [0-1] worked [0,1,]", STEP)?;
    qmp.execute("device_add", cpu("new", 1, 1, 0))?;
    // The kernel counts processors in the order in which they come.
    guest.console.expect("ON [0-1,4] worked [0,1,4,]", STEP)?;
    let event = qmp.event("ACPI_DEVICE_OST")?;
    let info = json!({"device": "new", "slot": "4", "slot-type": "CPU", "source": 1, "status": 0});
    assert_eq!(event["data"]["info"], info);
    let cpus = qmp.execute("query-cpus-fast", Value::Null)?;
    assert_eq!(cpus[2]["qom-path"], "/machine/peripheral/new");
    assert_eq!((&cpus[2]["cpu-index"], &cpus[2]["props"]), (&json!(4), &place(1, 1, 0)));
    qmp.execute("device_del", json!({"id": "new"}))?;
    let event = qmp.event("DEVICE_DELETED")?;
    assert_eq!(event["data"], json!({"device": "new", "path": "/machine/peripheral/new"}));
    guest.console.expect("ON [0-1] worked [0,1,]", STEP)?;
    // Again, to the same place.
    qmp.execute("device_add", cpu("again", 1, 1, 0))?;
    guest.console.expect("ON [0-1,4] worked [0,1,4,]", STEP)?;
    // The kernel leaves these interrupts to its first processor.
    qmp.execute("inject-nmi", Value::Null)?;
    guest.console.expect("NMI received for unknown reason ", STEP)?;
    assert!(guest.console.rest_of_line(STEP)?.contains("on CPU 0"), "{}", guest.console.tail());
    qmp.execute("quit", Value::Null)?;
    boot::powers_off(&mut guest)
}
