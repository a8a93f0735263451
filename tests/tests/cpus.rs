//! Processors: where they are in packages and cores as Debian's kernel and clients see it, and how they come and go while it runs.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::process::Stdio;

use rhea_tests::boot::{self, Linux, STEP, Scratch};
use rhea_tests::cpus::{comes_and_goes, cpu, monitor, place};
use rhea_tests::process::Process;
use rhea_tests::qmp::Controlled;
use serde_json::{Value, json};

const MKINITRD: &str = env!("CARGO_BIN_EXE_mkinitrd");

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

fn debian(board: &str, scratch: &Scratch, more: &[&str]) -> Option<Process> {
    if !boot::has_board("x86_64", board) {
        return None;
    }
    let linux = Linux::running(MKINITRD, scratch, PLACES)?;
    Some(linux.start(board, "quiet", &[&["-m", "256"][..], more].concat()))
}

/// Two packages of two cores of two threads, and two of three cores, whose numbers have a gap. What is expected is what QEMU 10
/// shows the same kernel with the same options.
#[test]
fn x86_64_linux_sees_the_topology() {
    let scratch = Scratch::new("topology");
    let smp = ["-accel", "tcg", "-cpu", "Haswell", "-smp", "8,sockets=2,cores=2,threads=2"];
    let Some(mut guest) = debian("q35", &scratch, &smp) else { return };
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
    let Some(mut guest) = debian("pc", &scratch, &smp) else { return };
    guest.console.expect("PLACES-END", STEP).unwrap();
    let text = guest.console.text().to_owned();
    let ids: Vec<&str> = text.split("apicid").skip(1).filter_map(|t| t.split_whitespace().nth(1)).collect();
    assert_eq!(ids, ["0", "1", "2", "4", "5", "6"], "{text}");
    assert!(text.contains("PLACE cpu5 package 1 core 2 threads 5 package 3-5"), "{text}");
    boot::powers_off(&mut guest).unwrap();
}

#[test]
fn x86_64_linux_takes_and_gives_back_a_processor_on_pc() {
    comes_and_goes(MKINITRD, "pc", &[]).unwrap();
}

#[test]
fn x86_64_linux_takes_and_gives_back_a_processor_on_q35() {
    comes_and_goes(MKINITRD, "q35", &[]).unwrap();
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
