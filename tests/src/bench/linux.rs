//! Debian's kernel with a busybox user space on a board: what its boot costs, and programs in it.

use std::{process::Command, thread, time::Duration};

use rhea_tests::{
    boot::APPEND,
    process::{self, Process},
    workspace,
};

use super::{Bench, Contender, RAM, Result, Row, STEP, finish, guest, mebibytes, text};

/// How long the idle guest is watched.
const IDLE: Duration = Duration::from_secs(20);

/// A guest and its board.
pub(super) struct Linux {
    arch: &'static str,
    board: &'static str,
    /// Firmware beside the kernel, where the board needs it.
    firmware: Option<&'static str>,
    /// Who compiles programs for it.
    compiler: &'static str,
    /// Programs run in it, from `tests/programs`.
    programs: &'static [&'static str],
    /// Words for its kernel.
    words: &'static str,
}

pub(super) const VIRT: Linux = Linux {
    arch: "riscv64",
    board: "virt",
    firmware: Some("riscv64/fw_dynamic.bin"),
    compiler: "riscv64-linux-gnu-gcc",
    programs: &["integer", "float", "calls", "memory", "syscalls"],
    words: "",
};

pub(super) const PC: Linux = Linux {
    arch: "x86_64",
    board: "pc",
    firmware: None,
    compiler: "gcc",
    programs: &["integer", "float", "simd", "calls", "memory", "syscalls"],
    // The page tables are changed with every system call.
    words: "pti=on",
};

pub(super) const Q35: Linux = Linux { board: "q35", ..PC };

impl Linux {
    fn file(&self, name: &str) -> Result<String> {
        guest(&format!("{}/{name}", self.arch))
    }

    /// Starts the kernel with an initramfs, in the translators of both contenders.
    fn start(&self, contender: Contender, initrd: &str, words: &str, vcpus: usize) -> Result<Process> {
        let (kernel, vcpus) = (self.file("linux")?, vcpus.to_string());
        let append = format!("{APPEND} {} {words}", self.words);
        let mut arguments = vec!["-accel", "tcg", "-m", "512", "-smp", &vcpus, "-kernel", &kernel];
        arguments.extend(["-initrd", initrd, "-append", &append]);
        let firmware = self.firmware.map(guest).transpose()?;
        if let Some(firmware) = &firmware {
            arguments.extend(["-bios", firmware]);
        }
        contender.start(self.arch, self.board, &arguments)
    }

    /// CPU time of a boot to power-off, and the memory at its end.
    pub(super) fn boots(&self, bench: &Bench, vcpus: usize) -> Result<Vec<Row>> {
        let initrd = self.file("initrd.gz")?;
        let (arch, board) = (self.arch, self.board);
        let rows = vec![
            Row::new(format!("Linux boot to power-off, {arch} {board}, {vcpus} vCPU: CPU"), "s"),
            Row::new(format!("the same: resident memory beside guest RAM, {vcpus} vCPU"), "MiB"),
        ];
        bench.rounds((arch, board), rows, |contender| {
            let mut guest = self.start(contender, &initrd, "", vcpus)?;
            guest.console.expect("GUEST-DONE", STEP)?;
            let resident = mebibytes(process::overhead(guest.pid(), RAM));
            Ok(vec![finish(&mut guest)?.cpu().as_secs_f64(), resident])
        })
    }

    /// What a guest that does nothing takes of a core.
    pub(super) fn idle(&self, bench: &Bench) -> Result<Vec<Row>> {
        let initrd = self.file("initrd.gz")?;
        let rows =
            vec![Row::new(format!("idle Linux guest, {} {}: share of a core", self.arch, self.board), "%")];
        bench.rounds((self.arch, self.board), rows, |contender| {
            let mut guest = self.start(contender, &initrd, "guest.idle=3600", 1)?;
            guest.console.expect("GUEST-IDLE", STEP)?;
            thread::sleep(Duration::from_secs(3));
            let used = || process::cpu_so_far(guest.pid()).ok_or("the process is gone");
            let before = used()?;
            thread::sleep(IDLE);
            Ok(vec![(used()? - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0])
        })
    }

    /// Compiles the programs for the guest and puts them into an initramfs.
    fn programs_initrd(&self, bench: &Bench) -> Result<String> {
        let run = |command: &mut Command| -> Result<()> {
            let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
            if output.status.success() {
                return Ok(());
            }
            Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        };
        let root = workspace::root();
        let initrd = bench.folder.join(format!("{}-programs.initrd", self.arch));
        let tool = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("mkinitrd");
        let mut archive = Command::new(tool);
        archive.arg(&initrd).arg(root.join("resources/guest/init")).arg(self.file("busybox")?);
        for program in self.programs {
            let binary = bench.folder.join(format!("{}-{program}", self.arch));
            let source = root.join(format!("tests/programs/{program}.c"));
            run(Command::new(self.compiler)
                .args(["-O3", "-static", "-o"])
                .arg(&binary)
                .arg(source)
                .arg("-lm"))?;
            archive.arg(format!("bin/{program}={}", binary.display()));
        }
        run(&mut archive)?;
        Ok(text(&initrd))
    }

    /// CPU time of each program.
    pub(super) fn programs(&self, bench: &Bench) -> Result<Vec<Row>> {
        let initrd = self.programs_initrd(bench)?;
        let words = format!("guest.bench={}", self.programs.join(","));
        let row = |program| Row::new(format!("{program} in the guest, {}: CPU", self.arch), "s");
        bench.rounds((self.arch, self.board), self.programs.iter().map(row).collect(), |contender| {
            let mut guest = self.start(contender, &initrd, &words, 1)?;
            let mut values = Vec::new();
            for program in self.programs {
                guest.console.expect(&format!("GUEST-BENCH-START {program}"), STEP)?;
                let before = process::cpu_so_far(guest.pid()).ok_or("the process is gone")?;
                guest.console.expect(&format!("GUEST-BENCH-END {program} status=0"), STEP)?;
                let after = process::cpu_so_far(guest.pid()).ok_or("the process is gone")?;
                values.push((after - before).as_secs_f64());
            }
            finish(&mut guest)?;
            Ok(values)
        })
    }
}
