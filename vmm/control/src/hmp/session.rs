//! HMP on a terminal: greeting, prompt, echo, completion.

use super::readline::{Editor, Outcome};
use super::{COMMANDS, info, run, split};
use crate::monitor::{Control, Session as Monitor};
use crate::vm::Event;
use std::sync::Arc;

/// The prompt. Scripts that drive a monitor wait for exactly this one.
const PROMPT: &str = "(qemu) ";

/// One terminal's conversation.
pub struct Session {
    control: Arc<Control>,
    editor: Editor,
    cpu: u32,
    quit: bool,
}

impl Session {
    /// A conversation that has not begun.
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, editor: Editor::default(), cpu: 0, quit: false }
    }

    /// Shows the prompt again, as after a switch of the terminal to the monitor.
    pub fn prompt(&self, out: &mut Vec<u8>) {
        self.editor.redraw(PROMPT, out);
    }

    fn line(&mut self, line: &str, out: &mut Vec<u8>) {
        let text = run(&self.control, self.cpu, line);
        let (name, args) = split(line);
        match name {
            "quit" | "q" => self.quit = true,
            // `run` has checked it.
            "cpu" if text.is_empty() => self.cpu = args.parse().unwrap_or(self.cpu),
            _ => {}
        }
        for l in text.lines() {
            out.extend_from_slice(l.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if !self.quit {
            out.extend_from_slice(PROMPT.as_bytes());
        }
    }

    fn complete(&mut self, before: &str, out: &mut Vec<u8>) {
        let names: Vec<&str>;
        let start;
        if let Some(rest) = before.trim_start().strip_prefix("info ") {
            names = info::names().collect();
            start = rest.trim_start();
        } else if let Some(rest) = before.trim_start().strip_prefix("help ") {
            names = COMMANDS.iter().map(|c| c.name).collect();
            start = rest.trim_start();
        } else {
            names = COMMANDS.iter().map(|c| c.name).collect();
            start = before.trim_start();
        }
        let fits: Vec<&str> = names.into_iter().filter(|n| n.starts_with(start)).collect();
        let Some(first) = fits.first() else { return };
        let common = fits.iter().fold(first.len(), |n, f| {
            let same = first.bytes().zip(f.bytes()).take_while(|(a, b)| a == b).count();
            n.min(same)
        });
        if common > start.len() {
            self.editor.insert(&first[start.len()..common]);
        }
        if fits.len() == 1 {
            self.editor.insert(" ");
        } else if common == start.len() {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(fits.join("  ").as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        self.editor.redraw(PROMPT, out);
    }
}

impl Monitor for Session {
    fn opened(&mut self, out: &mut Vec<u8>) {
        let text =
            concat!("Rhea ", env!("CARGO_PKG_VERSION"), " monitor - type 'help' for more information\r\n");
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(PROMPT.as_bytes());
    }

    fn input(&mut self, data: &[u8], out: &mut Vec<u8>) {
        for byte in data {
            if self.quit {
                return;
            }
            match self.editor.push(*byte, PROMPT, out) {
                Outcome::None => {}
                Outcome::Line(line) => self.line(&line, out),
                Outcome::Complete(before) => self.complete(&before, out),
            }
        }
    }

    fn event(&mut self, _: &Event, _: &mut Vec<u8>) {
        // Humans ask; a line in the middle of their typing would only disturb.
    }

    fn wants_quit(&self) -> bool {
        self.quit
    }
}
