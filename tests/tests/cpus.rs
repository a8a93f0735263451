//! Processors: where they are in packages and cores as Debian's kernel and clients see it, and how they come and go while it runs.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rhea_tests::boot::{self, APPEND, STEP, Scratch};
use rhea_tests::process::Process;
use rhea_tests::qmp::{Controlled, Qmp};
use rhea_tests::workspace;
use serde_json::{Value, json};

/// Says where the kernel sees each processor.
const PLACES: &str = "\
cd /sys/devices/system/cpu
for c in cpu[0-9]*; do
  t=$c/topology
  echo \"PLACE $c package $(cat $t/physical_package_id) core $(cat $t/core_id) threads $(cat $t/thread_siblings_list)\\
 package $(cat $t/package_cpus_list) cache $(cat $c/cache/index3/shared_cpu_list)\"
done
grep '^apicid' /proc/cpuinfo | tr '\\t\\n' '  '
echo PLACES-END
";

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

fn debian(board: &str, script: &str, scratch: &Scratch, more: &[&str]) -> Option<Process> {
    if !boot::has_board("x86_64", board) {
        return None;
    }
    let (kernel, busybox) = (boot::guest("x86_64/linux")?, boot::guest("x86_64/busybox")?);
    let (programs, initrd) = (scratch.path("programs"), scratch.path("initrd"));
    std::fs::write(&programs, script).unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_mkinitrd"))
        .arg(&initrd)
        .arg(workspace::root().join("resources/guest/init"))
        .arg(busybox)
        .arg(format!("programs={}", programs.display()))
        .status()
        .unwrap();
    assert!(made.success());
    let append = format!("{APPEND} quiet");
    let mut arguments = vec!["-m", "256", "-append", &append];
    arguments.extend(["-kernel", kernel.to_str().unwrap(), "-initrd", initrd.to_str().unwrap()]);
    arguments.extend(more);
    Some(boot::start("x86_64", board, &arguments).unwrap())
}

/// Two packages of two cores of two threads, and two of three cores, whose numbers have a gap. What is expected is what QEMU 10
/// shows the same kernel with the same options.
#[test]
fn x86_64_linux_sees_the_topology() {
    let scratch = Scratch::new("topology");
    let smp = ["-accel", "tcg", "-cpu", "Haswell", "-smp", "8,sockets=2,cores=2,threads=2"];
    let Some(mut guest) = debian("q35", PLACES, &scratch, &smp) else { return };
    guest.console.expect("PLACES-END", STEP).unwrap();
    let text = guest.console.text().to_owned();
    for line in [
        "cpu0 package 0 core 0 threads 0-1 package 0-3 cache 0-3",
        "cpu3 package 0 core 1 threads 2-3 package 0-3 cache 0-3",
        "cpu4 package 1 core 0 threads 4-5 package 4-7 cache 4-7",
        "cpu7 package 1 core 1 threads 6-7 package 4-7 cache 4-7",
    ] {
        assert!(text.contains(&format!("PLACE {line}")), "{line}: {text}");
    }
    boot::powers_off(&mut guest).unwrap();
    let smp = ["-accel", "tcg", "-smp", "6,sockets=2,cores=3"];
    let Some(mut guest) = debian("pc", PLACES, &scratch, &smp) else { return };
    guest.console.expect("PLACES-END", STEP).unwrap();
    let text = guest.console.text().to_owned();
    let ids: Vec<&str> = text.split("apicid").skip(1).filter_map(|t| t.split_whitespace().nth(1)).collect();
    assert_eq!(ids, ["0", "1", "2", "4", "5", "6"], "{text}");
    assert!(text.contains("PLACE cpu5 package 1 core 2 threads 5 package 3-5"), "{text}");
    boot::powers_off(&mut guest).unwrap();
}

fn monitor(scratch: &Scratch) -> (PathBuf, String) {
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    (socket, option)
}

fn place(socket: u32, core: u32, thread: u32) -> Value {
    json!({"socket-id": socket, "core-id": core, "thread-id": thread})
}

fn cpu(id: &str, socket: u32, core: u32, thread: u32) -> Value {
    let mut device = place(socket, core, thread);
    device["driver"] = json!("qemu64-x86_64-cpu");
    device["id"] = json!(id);
    device
}

/// A processor comes and goes under Debian's kernel.
fn comes_and_goes(board: &str, accel: &str) {
    let scratch = Scratch::new(&format!("cpus-{board}"));
    let (socket, option) = monitor(&scratch);
    let smp = "2,maxcpus=6,sockets=2,cores=3,threads=1";
    let more = ["-accel", accel, "-cpu", "qemu64", "-qmp", &option, "-smp", smp];
    let Some(mut guest) = debian(board, WATCH, &scratch, &more) else { return };
    let mut qmp = Qmp::connect(&socket, STEP).unwrap();
    guest.console.expect("WATCHING possible 0-5 end", STEP).unwrap();
    guest.console.expect("ON [0-1] worked [0,1,]", STEP).unwrap();
    qmp.execute("device_add", cpu("new", 1, 1, 0)).unwrap();
    // The kernel counts processors in the order in which they come.
    guest.console.expect("ON [0-1,4] worked [0,1,4,]", STEP).unwrap();
    let event = qmp.event("ACPI_DEVICE_OST").unwrap();
    let info = json!({"device": "new", "slot": "4", "slot-type": "CPU", "source": 1, "status": 0});
    assert_eq!(event["data"]["info"], info);
    let cpus = qmp.execute("query-cpus-fast", Value::Null).unwrap();
    assert_eq!(cpus[2]["qom-path"], "/machine/peripheral/new");
    assert_eq!((&cpus[2]["cpu-index"], &cpus[2]["props"]), (&json!(4), &place(1, 1, 0)));
    qmp.execute("device_del", json!({"id": "new"})).unwrap();
    let event = qmp.event("DEVICE_DELETED").unwrap();
    assert_eq!(event["data"], json!({"device": "new", "path": "/machine/peripheral/new"}));
    guest.console.expect("ON [0-1] worked [0,1,]", STEP).unwrap();
    // Again, to the same place.
    qmp.execute("device_add", cpu("again", 1, 1, 0)).unwrap();
    guest.console.expect("ON [0-1,4] worked [0,1,4,]", STEP).unwrap();
    qmp.execute("quit", Value::Null).unwrap();
    boot::powers_off(&mut guest).unwrap();
}

#[test]
fn x86_64_linux_takes_and_gives_back_a_processor_on_pc() {
    comes_and_goes("pc", "tcg");
}

#[test]
fn x86_64_linux_takes_and_gives_back_a_processor_on_q35() {
    comes_and_goes("q35", "tcg");
}

/// A machine that stands.
fn standing(scratch: &Scratch, board: &str, more: &[&str]) -> Controlled {
    let (socket, option) = monitor(scratch);
    let _ = std::fs::remove_file(&socket);
    let mut command = boot::command("x86_64", board, &["-S", "-accel", "tcg", "-m", "64", "-nodefaults"]);
    command.args(["-qmp", &option]).args(more).env("XDG_STATE_HOME", scratch.path("state"));
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    Controlled::new(process, &socket)
}

#[test]
fn places_are_told_and_what_does_not_fit_is_refused() {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let scratch = Scratch::new("cpus");
    let smp = ["-cpu", "qemu64", "-smp", "1,maxcpus=4,sockets=2,cores=2"];
    let mut m = standing(&scratch, "pc", &smp);
    let slots = m.ok("query-hotpluggable-cpus", Value::Null);
    assert_eq!(slots.as_array().unwrap().len(), 4);
    assert_eq!((&slots[0]["props"], &slots[0]["qom-path"]), (&place(1, 1, 0), &Value::Null));
    assert_eq!(slots[3]["type"], "qemu64-x86_64-cpu");
    assert!(slots[3]["qom-path"].is_string());
    let driver = "qemu64-x86_64-cpu";
    m.refused("device_add", json!({"driver": driver}), "CPU socket-id is not set");
    m.refused("device_add", json!({"driver": driver, "socket-id": 0}), "CPU core-id is not set");
    m.refused("device_add", cpu("c", 9, 0, 0), "Invalid CPU socket-id: 9 must be in range 0:1");
    m.refused("device_add", cpu("c", 0, 0, 1), "Invalid CPU thread-id: 1 must be in range 0:0");
    m.refused("device_add", cpu("c", 0, 0, 0), "CPU[0] with APIC ID 0 exists");
    let other = json!({"driver": "Haswell-x86_64-cpu", "socket-id": 0, "core-id": 1, "thread-id": 0});
    m.refused("device_add", other, "Invalid CPU type, expected cpu type: 'qemu64-x86_64-cpu'");
    m.ok("device_add", cpu("c", 1, 0, 0));
    m.refused("device_add", cpu("c", 1, 1, 0), "Duplicate device ID 'c'");
    m.refused("device_del", json!({"id": "/machine/unattached/cpu[0]"}), "Boot CPU is unpluggable");
    // Nobody in the guest has looked for processors yet.
    m.refused("device_del", json!({"id": "c"}), "device unplug request");
    assert_eq!(m.ok("query-acpi-ospm-status", Value::Null), json!([]));
    assert_eq!(m.ok("human-monitor-command", json!({"command-line": "savevm two"})), "");
    drop(m);
    // The same machine from the start, and one where the processor is missing.
    let line = format!("{driver},id=c,socket-id=1,core-id=0,thread-id=0");
    let mut m = standing(&scratch, "pc", &[&smp[..], &["-device", &line]].concat());
    assert_eq!(m.ok("query-cpus-fast", Value::Null)[1]["cpu-index"], 2);
    assert_eq!(m.ok("human-monitor-command", json!({"command-line": "loadvm two"})), "");
    drop(m);
    let mut m = standing(&scratch, "pc", &smp);
    let said = m.ok("human-monitor-command", json!({"command-line": "loadvm two"}));
    assert!(said.as_str().unwrap().contains("cpu-hotplug/cpus/[2]"), "{said}");
    drop(m);
    let mut m = standing(&scratch, "isapc", &[]);
    m.refused("query-hotpluggable-cpus", Value::Null, "machine does not support hot-plugging CPUs");
    m.refused("device_add", cpu("c", 0, 1, 0), "machine does not support hot-plugging CPUs");
}
