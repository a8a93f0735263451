//! Tests of the keyboard controller with its devices.

use device::test_bench::{Bench, Rng, check, scramble};

use super::*;
use crate::keys::KEYS;
use crate::mouse::Button;

fn answers(b: &Bench) -> Vec<u8> {
    let mut all = Vec::new();
    while b.read(1, 0, 1) & 1 != 0 {
        all.push(b.read(0, 0, 1) as u8);
    }
    all
}

fn aux(b: &Bench, byte: u64) -> Vec<u8> {
    b.write(1, 0, 1, 0xd4);
    b.write(0, 0, 1, byte);
    answers(b)
}

fn chip<R>(b: &Bench, f: impl FnOnce(&mut I8042) -> R) -> R {
    b.cell().with(|device| f(device.as_any().unwrap().downcast_mut().unwrap()))
}

fn tap(b: &Bench, name: &str) {
    let key = Key::named(name).unwrap();
    chip(b, |c| assert!(c.key(key, true) && c.key(key, false)));
}

#[test]
fn answers_the_usual_probe() {
    let b = Bench::new(I8042Config::default());
    assert!(b.line("a20"));
    b.write(1, 0, 1, 0xaa);
    assert_eq!(answers(&b), [0x55]);
    b.write(1, 0, 1, 0x20);
    assert_eq!(answers(&b), [0x07]);
    b.write(1, 0, 1, 0xab);
    assert_eq!(answers(&b), [0]);
    b.write(0, 0, 1, 0xf2);
    assert!(b.line("kbd"));
    assert_eq!(answers(&b), [0xfa, 0xab, 0x83]);
    assert!(!b.line("kbd"));
    b.write(0, 0, 1, 0xff);
    assert_eq!(answers(&b), [0xfa, 0xaa]);
    // A loop through the auxiliary port, as drivers look for a mouse.
    b.write(1, 0, 1, 0xd3);
    b.write(0, 0, 1, 0x5a);
    assert_eq!(b.read(1, 0, 1) & 0x21, 0x21);
    assert_eq!(answers(&b), [0x5a]);
}

#[test]
fn resets_and_gates() {
    let b = Bench::new(I8042Config::default());
    b.write(1, 0, 1, 0xfe);
    b.write(1, 0, 1, 0xd1);
    b.write(0, 0, 1, 1);
    assert!(!b.line("a20"));
    b.write(1, 0, 1, 0xdf);
    assert!(b.line("a20"));
    b.write(1, 0, 1, 0xff);
    assert_eq!(b.take_requests(), [SystemRequest::Reset]);
}

#[test]
fn keys_are_translated_and_interrupt_one_by_one() {
    let b = Bench::new(I8042Config::default());
    b.write(1, 0, 1, 0x60);
    b.write(0, 0, 1, 0x41);
    b.take_edges();
    tap(&b, "a");
    assert_eq!(answers(&b), [0x1e, 0x9e], "A pressed and released in set 1");
    assert_eq!(b.take_edges().iter().filter(|e| e.level).count(), 2);
    b.write(1, 0, 1, 0xad);
    tap(&b, "a");
    assert_eq!(answers(&b), [] as [u8; 0]);
    b.write(1, 0, 1, 0xae);
    assert_eq!(answers(&b), [0x1e, 0x9e]);
    tap(&b, "pause");
    assert_eq!(answers(&b), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    tap(&b, "print");
    assert_eq!(answers(&b), [0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa]);
}

/// Every key in set 2 translated is the same key in set 1.
#[test]
fn translation_agrees_with_set_1() {
    let translated = Bench::new(I8042Config::default());
    translated.write(1, 0, 1, 0x60);
    translated.write(0, 0, 1, 0x41);
    let plain = Bench::new(I8042Config::default());
    plain.write(0, 0, 1, 0xf0);
    plain.write(0, 0, 1, 1);
    answers(&plain);
    for key in KEYS {
        tap(&translated, key.name);
        tap(&plain, key.name);
        assert_eq!(answers(&translated), answers(&plain), "{}", key.name);
    }
    // Answers of the keyboard pass unchanged.
    assert_eq!([0xfa, 0xfe, 0xaa, 0xee].map(translate), [0xfa, 0xfe, 0xaa, 0xee]);
}

#[test]
fn a_full_keyboard_says_so_and_recovers() {
    let b = Bench::new(I8042Config::default());
    let a = Key::named("a").unwrap();
    while chip(&b, |c| c.key(a, true)) {}
    assert!(!chip(&b, |c| c.key(a, true)));
    let all = answers(&b);
    assert_eq!(all.last(), Some(&0), "overrun");
    assert!(all.len() <= KEYS_HELD + 1);
    tap(&b, "b");
    assert_eq!(answers(&b), [0x32, 0xf0, 0x32]);
    b.write(0, 0, 1, 0xed);
    b.write(0, 0, 1, 5);
    assert_eq!((answers(&b), chip(&b, |c| c.leds())), (vec![0xfa, 0xfa], 5));
}

#[test]
fn mouse_with_wheel_and_five_buttons() {
    let b = Bench::new(I8042Config::default());
    assert_eq!(aux(&b, 0xff), [0xfa, 0xaa, 0]);
    for rate in [200, 100, 80] {
        aux(&b, 0xf3);
        aux(&b, rate);
    }
    assert_eq!(aux(&b, 0xf2), [0xfa, 3]);
    let motion = Motion { dx: -5, dy: -300, wheel: -1, button: Some((Button::Left, true)) };
    assert!(!chip(&b, |c| c.motion(&motion)), "not reporting yet");
    aux(&b, 0xf4);
    assert!(chip(&b, |c| c.motion(&motion)));
    assert!(b.line("aux"));
    assert_eq!(b.read(1, 0, 1) & 0x21, 0x21);
    assert_eq!(answers(&b), [0x19, 0xfb, 0xff, 0xff, 0x09, 0, 45, 0], "in two reports");
    for rate in [200, 200, 80] {
        aux(&b, 0xf3);
        aux(&b, rate);
    }
    assert_eq!(aux(&b, 0xf2), [0xfa, 4]);
    let side = Motion { button: Some((Button::Side, true)), ..Motion::default() };
    chip(&b, |c| c.motion(&side));
    assert_eq!(answers(&b), [0x09, 0, 0, 0x10]);
    assert_eq!(aux(&b, 0xe9), [0xfa, 0x24, 2, 80]);
    // Asked for, not streamed.
    aux(&b, 0xf0);
    chip(&b, |c| c.motion(&Motion { dx: 3, ..Motion::default() }));
    assert_eq!(aux(&b, 0xeb), [0xfa, 0x09, 3, 0, 0x10]);
}

#[test]
fn passes_the_common_tests() {
    check(I8042Config::default());
}

#[test]
fn input_at_any_moment_is_bounded() {
    let b = Bench::new(I8042Config::default());
    let mut rng = Rng::new(7);
    for _ in 0..2000 {
        scramble(&b, &I8042Config::default(), &mut rng, 10);
        let key = &KEYS[rng.below(KEYS.len() as u64) as usize];
        let motion = Motion { dx: rng.next_u64() as i32, dy: rng.next_u64() as i32, wheel: 9, button: None };
        chip(&b, |c| {
            c.key(key, rng.below(2) == 0);
            c.motion(&motion);
        });
        let saved = b.cell().save();
        b.cell().restore(&saved).unwrap();
        assert_eq!(b.cell().save(), saved);
        assert!(saved.to_bytes().len() < 1000);
    }
}
