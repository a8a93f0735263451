//! A PC's screen in text mode and its keyboard, over QMP.
//!
//! IBM VGA: text from 0xb8000 on, two bytes a character, 80 columns and 25 lines, letters in code page 437.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    boot::{self, Scratch},
    process::Process,
    qmp::Qmp,
};

const COLUMNS: usize = 80;
const LINES: usize = 25;
const TEXT: u64 = 0xb8000;

/// A PC without a window whose screen is looked at.
pub struct Screen {
    qmp: Qmp,
    guest: Process,
    scratch: Scratch,
}

impl Screen {
    /// Starts a board on the translator; `name` tells the tests of one process apart.
    ///
    /// # Panics
    /// When the binary does not start.
    pub fn start(name: &str, board: &str, arguments: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        let socket = scratch.path("qmp");
        let mut command = std::process::Command::new(boot::rhea());
        command.args([
            "run",
            "--arch",
            "x86_64",
            "-accel",
            "tcg",
            "-M",
            board,
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-serial", "stdio", "-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        let guest = Process::piped(command.args(arguments)).expect("the binary starts");
        let qmp = match Qmp::connect(&socket, boot::STEP) {
            Ok(qmp) => qmp,
            Err(error) => panic!("{error}"),
        };
        Screen { qmp, guest, scratch }
    }

    /// The text on the screen, a line each, without spaces at their ends.
    ///
    /// # Errors
    /// What the machine said.
    pub fn text(&mut self) -> Result<String, String> {
        let file = self.scratch.path("text");
        let size = 2 * COLUMNS * LINES;
        self.qmp.execute(
            "pmemsave",
            json!({ "val": TEXT, "size": size, "filename": file.display().to_string() }),
        )?;
        let bytes = std::fs::read(&file).map_err(|error| error.to_string())?;
        let line = |cells: &[u8]| {
            let letters = cells.iter().step_by(2).map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                0 => ' ',
                _ => '?',
            });
            letters.collect::<String>().trim_end().to_owned()
        };
        Ok(bytes.chunks(2 * COLUMNS).map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Waits until the screen shows `wanted`.
    ///
    /// # Errors
    /// What it shows instead when `timeout` passes.
    pub fn expect(&mut self, wanted: &str, timeout: Duration) -> Result<String, String> {
        let deadline = Instant::now() + timeout;
        loop {
            let text = self.text()?;
            if text.contains(wanted) {
                return Ok(text);
            }
            if Instant::now() >= deadline || self.guest.has_ended() {
                return Err(format!("expected {wanted:?} on the screen; it shows:\n{text}"));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Types keys by their names, one after another, each pressed and let go: `["v", "e", "r", "ret"]`.
    ///
    /// # Errors
    /// What the machine said.
    pub fn keys(&mut self, keys: &[&str]) -> Result<(), String> {
        for key in keys {
            let parts: Vec<_> = key.split('-').map(|part| json!({ "type": "qcode", "data": part })).collect();
            self.qmp.execute("send-key", json!({ "keys": parts, "hold-time": 30 }))?;
            thread::sleep(Duration::from_millis(80));
        }
        Ok(())
    }

    /// The guest, with its first serial port.
    pub fn guest(&mut self) -> &mut Process {
        &mut self.guest
    }
}
