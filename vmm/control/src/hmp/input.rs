//! Keyboard, mouse and screen.

use super::{Answer, Context, done, failed};
use crate::qmp::HOLD_MS;
use crate::value::parse_number;
use crate::vm::{InputEvent, KeyId};

/// `sendkey ctrl-alt-delete [HOLD]`: keys pressed together.
pub(super) fn sendkey(c: &Context<'_>) -> Answer {
    let mut words = c.args.split_whitespace();
    let (Some(keys), hold, None) = (words.next(), words.next(), words.next()) else {
        return failed("expected keys joined by '-', and perhaps how many milliseconds they stay down");
    };
    let key = |word: &str| match parse_number(word).filter(|_| word.starts_with("0x")) {
        Some(n) => KeyId::Number(n.try_into().unwrap_or(u32::MAX)),
        // A single character that is no name by itself.
        None if word == "<" => KeyId::Name("less".into()),
        None => KeyId::Name(word.into()),
    };
    let keys: Vec<KeyId> = keys.split('-').map(key).collect();
    let hold = match hold.map(str::parse) {
        None => HOLD_MS,
        Some(Ok(ms)) => ms,
        Some(Err(_)) => return failed("the hold time is a number of milliseconds"),
    };
    done(c.control.vm.send_keys(&keys, hold))
}

/// `mouse_move DX DY [DZ]`.
pub(super) fn mouse_move(c: &Context<'_>) -> Answer {
    let words: Option<Vec<i32>> = c.args.split_whitespace().map(|w| w.parse().ok()).collect();
    let (dx, dy, dz) = match words.as_deref() {
        Some([dx, dy]) => (*dx, *dy, 0),
        Some([dx, dy, dz]) => (*dx, *dy, *dz),
        _ => return failed("expected dx dy [dz]"),
    };
    let mut events = vec![InputEvent::Move { dx, dy }];
    let wheel = if dz < 0 { "wheel-up" } else { "wheel-down" };
    for _ in 0..dz.unsigned_abs().min(100) {
        events.extend([true, false].map(|down| InputEvent::Button { button: wheel.into(), down }));
    }
    done(c.control.vm.input(&events))
}

/// `mouse_button STATE`: left, middle and right from bit 0.
pub(super) fn mouse_button(c: &Context<'_>) -> Answer {
    let Ok(state) = c.args.trim().parse::<u8>() else {
        return failed("expected the buttons that are down: left 1, middle 2, right 4, added up");
    };
    let buttons = ["left", "middle", "right"];
    let event = |(bit, button): (usize, &&str)| InputEvent::Button {
        button: (*button).into(),
        down: state & 1 << bit != 0,
    };
    done(c.control.vm.input(&buttons.iter().enumerate().map(event).collect::<Vec<_>>()))
}

/// `screendump FILE [-f FORMAT]`.
pub(super) fn screendump(c: &Context<'_>) -> Answer {
    let words: Vec<&str> = c.args.split_whitespace().collect();
    let (file, format) = match words[..] {
        [file] => (file, "ppm"),
        [file, "-f", format] | ["-f", format, file] => (file, format),
        _ => return failed("expected a file, and perhaps -f png"),
    };
    done(c.control.vm.screendump(file, format))
}
