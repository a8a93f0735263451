//! The measurements and what drives them.

mod linux;
mod net;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use rhea_tests::{
    boot,
    process::{self, Process, Usage},
    tiny,
};
use table::Row;

/// Time for one step of a guest.
const STEP: Duration = Duration::from_secs(600);
/// Guest memory in every measurement.
const RAM: u64 = 512 << 20;
/// Guest code run once to measure translation.
const COLD: usize = 4 << 20;

type Result<T> = std::result::Result<T, String>;
type Measurement = fn(&Bench) -> Result<Vec<Row>>;

const MEASUREMENTS: &[(&str, Measurement)] = &[
    ("start", start),
    ("boot", |bench| linux::VIRT.boots(bench, 1)),
    ("boot4", |bench| linux::VIRT.boots(bench, 4)),
    ("cold", cold),
    ("idle", |bench| linux::VIRT.idle(bench)),
    ("programs", |bench| linux::VIRT.programs(bench)),
    ("net", net::net),
    ("tap", net::tap),
    ("kvm", kvm),
    ("seabios", seabios),
    ("pc", |bench| linux::PC.boots(bench, 1)),
    ("q35", |bench| linux::Q35.boots(bench, 1)),
    ("x86-programs", |bench| linux::PC.programs(bench)),
];

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Rhea,
    Qemu,
}

impl Contender {
    fn command(self, arch: &str, board: &str, arguments: &[&str]) -> Command {
        match self {
            Contender::Rhea => boot::command(arch, board, arguments),
            Contender::Qemu => {
                let mut command = Command::new(format!("qemu-system-{arch}"));
                command.args(["-M", board, "-nographic", "-no-reboot"]).args(arguments);
                command
            }
        }
    }

    fn start(self, arch: &str, board: &str, arguments: &[&str]) -> Result<Process> {
        Process::piped(&mut self.command(arch, board, arguments)).map_err(|error| format!("{board}: {error}"))
    }

    /// Whether this contender can run `board`; said aloud when not.
    fn can(self, arch: &str, board: &str) -> bool {
        match self {
            Contender::Rhea => boot::has_board(arch, board),
            Contender::Qemu => {
                let there = Command::new(format!("qemu-system-{arch}")).arg("--version").output().is_ok();
                if !there {
                    rhea_tests::skip(&format!("qemu-system-{arch} is not installed"));
                }
                there
            }
        }
    }
}

struct Bench {
    rounds: usize,
    /// A folder for the guests made here.
    folder: PathBuf,
}

impl Bench {
    /// Writes a guest made here and gives its path.
    fn file(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(text(&path))
    }

    /// Runs `measure` in interleaved rounds for those who can run the board, and files its values under the rows.
    fn rounds(
        &self,
        (arch, board): (&str, &str),
        mut rows: Vec<Row>,
        measure: impl Fn(Contender) -> Result<Vec<f64>>,
    ) -> Result<Vec<Row>> {
        let contenders: Vec<Contender> = [Contender::Rhea, Contender::Qemu]
            .into_iter()
            .filter(|contender| contender.can(arch, board))
            .collect();
        for round in 0..self.rounds {
            for &contender in &contenders {
                let values = measure(contender)?;
                eprintln!(
                    "  round {round}: {} {values:.3?}",
                    if contender == Contender::Rhea { "rhea" } else { "qemu" }
                );
                for (row, value) in rows.iter_mut().zip(values) {
                    match contender {
                        Contender::Rhea => row.rhea.push(value),
                        Contender::Qemu => row.qemu.push(value),
                    }
                }
            }
        }
        Ok(rows)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn guest(name: &str) -> Result<String> {
    boot::guest(name).map(|path| text(&path)).ok_or_else(|| format!("no guest {name}"))
}

/// Waits for the end, which must be a clean one.
fn finish(guest: &mut Process) -> Result<Usage> {
    let (status, usage) = guest.wait(STEP)?;
    if status.success() { Ok(usage) } else { Err(format!("{status}; it printed:\n{}", guest.console.tail())) }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mebibytes(bytes: Option<u64>) -> f64 {
    bytes.map_or(f64::NAN, |bytes| bytes as f64 / f64::from(1 << 20))
}

fn start(bench: &Bench) -> Result<Vec<Row>> {
    let firmware = bench.file("power-off.bin", &tiny::riscv_power_off())?;
    let rows = vec![Row::new("start to first guest instruction and exit, riscv64 virt: CPU", "ms")];
    bench.rounds(("riscv64", "virt"), rows, |contender| {
        let mut guest = contender.start("riscv64", "virt", &["-m", "512", "-bios", &firmware])?;
        Ok(vec![millis(finish(&mut guest)?.cpu())])
    })
}

fn cold(bench: &Bench) -> Result<Vec<Row>> {
    let nothing = bench.file("power-off.bin", &tiny::riscv_power_off())?;
    let code = bench.file("cold.bin", &tiny::riscv_cold(COLD))?;
    let rows =
        vec![Row::new("guest code run once, riscv64 virt: MB of it a CPU second (more is better)", "MB/s")];
    bench.rounds(("riscv64", "virt"), rows, |contender| {
        let cost = |firmware: &str| -> Result<Duration> {
            let mut guest = contender.start("riscv64", "virt", &["-m", "512", "-bios", firmware])?;
            Ok(finish(&mut guest)?.cpu())
        };
        let empty = cost(&nothing)?;
        Ok(vec![COLD as f64 / 1e6 / cost(&code)?.saturating_sub(empty).as_secs_f64()])
    })
}

/// A PC without disks, to its firmware's last word.
fn seabios(bench: &Bench) -> Result<Vec<Row>> {
    let rows = vec![Row::new("SeaBIOS on pc to \"No bootable device\": CPU", "s")];
    bench.rounds(("x86_64", "pc"), rows, |contender| {
        let arguments = ["-accel", "tcg", "-m", "512", "-nic", "none"];
        let guest = &mut contender.start("x86_64", "pc", &arguments)?;
        guest.console.expect("No bootable device", STEP)?;
        let used = process::cpu_so_far(guest.pid()).ok_or("the process is gone")?;
        Ok(vec![used.as_secs_f64()])
    })
}

fn kvm(bench: &Bench) -> Result<Vec<Row>> {
    if !boot::has_kvm() {
        return Ok(Vec::new());
    }
    let exit = bench.file("exit.elf", &tiny::x86_pvh(tiny::X86::Exit))?;
    let halt = bench.file("halt.elf", &tiny::x86_pvh(tiny::X86::ReadyThenHalt))?;
    let rows = vec![
        Row::new("start to first guest instruction and exit, x86_64 microvm under KVM: CPU", "ms"),
        Row::new("resident memory beside guest RAM, the same with a halted guest", "MiB"),
    ];
    let device = format!("isa-debug-exit,iobase={:#x},iosize=4", tiny::DEBUG_EXIT_PORT);
    bench.rounds(("x86_64", "microvm"), rows, |contender| {
        let arguments = ["-accel", "kvm", "-m", "512", "-device", &device, "-kernel", &exit];
        let mut guest = contender.start("x86_64", "microvm", &arguments)?;
        // isa-debug-exit ends the run with (value << 1) | 1.
        let (status, usage) = guest.wait(STEP)?;
        let expected = (i32::from(tiny::DEBUG_EXIT_VALUE) << 1) | 1;
        if status.code() != Some(expected) {
            return Err(format!(
                "{status}, expected exit code {expected}; it printed:\n{}",
                guest.console.tail()
            ));
        }
        let mut guest =
            contender.start("x86_64", "microvm", &["-accel", "kvm", "-m", "512", "-kernel", &halt])?;
        guest.console.expect("READY", STEP)?;
        Ok(vec![millis(usage.cpu()), mebibytes(process::overhead(guest.pid(), RAM))])
    })
}

/// The first line a command prints, for the head of the report.
fn first_line(command: &mut Command) -> String {
    command.output().ok().map_or_else(
        || "not installed".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned(),
    )
}

fn run() -> Result<()> {
    let mut bench =
        Bench { rounds: 5, folder: std::env::temp_dir().join(format!("rhea-bench-{}", std::process::id())) };
    let mut chosen: Vec<String> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "-n" {
            let count = arguments.next().unwrap_or_default();
            bench.rounds = count.parse().map_err(|_| format!("-n {count}: expected a number of rounds"))?;
        } else if MEASUREMENTS.iter().any(|(name, _)| *name == argument) {
            chosen.push(argument);
        } else {
            let names: Vec<&str> = MEASUREMENTS.iter().map(|(name, _)| *name).collect();
            return Err(format!("{argument}: expected one of {}", names.join(" ")));
        }
    }
    fs::create_dir_all(&bench.folder).map_err(|error| format!("{}: {error}", bench.folder.display()))?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("?")
        .trim_start_matches([' ', '\t', ':']);
    println!(
        "Host: {model}; {} rounds; {}\n",
        bench.rounds,
        first_line(Command::new("qemu-system-riscv64").arg("--version"))
    );
    println!("| measurement | unit | Rhea | QEMU | Rhea / QEMU (least–greatest) |\n|---|---|---:|---:|---:|");
    let mut failures = 0;
    for (name, measure) in MEASUREMENTS {
        if !chosen.is_empty() && !chosen.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("{name}");
        match measure(&bench) {
            Ok(rows) => rows.iter().for_each(|row| println!("{}", row.markdown())),
            Err(error) => {
                eprintln!("bench: {name}: {error}");
                failures += 1;
            }
        }
    }
    fs::remove_dir_all(&bench.folder).map_err(|error| format!("{}: {error}", bench.folder.display()))?;
    if failures == 0 { Ok(()) } else { Err(format!("{failures} measurements failed")) }
}

pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
