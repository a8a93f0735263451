use ::device::test_bench::{Bench, Rng, check};

use super::*;
use crate::Mmio;
use crate::test_driver::{Driver, Piece, hostile_rings};

fn single() -> Mmio<ConsoleConfig> {
    Mmio::new(ConsoleConfig { cols: 80, rows: 25, ..ConsoleConfig::default() }, ())
}

fn many() -> Mmio<ConsoleConfig> {
    Mmio::new(ConsoleConfig { ports: 3, names: "org.rhea.agent,log".into(), ..ConsoleConfig::default() }, ())
}

fn with<R>(bench: &Bench, f: impl FnOnce(&mut Console) -> R) -> R {
    bench.cell().with(|d| f(d.as_any().unwrap().downcast_mut::<Console>().unwrap()))
}

#[test]
fn a_single_console() {
    let bench = Bench::new(single());
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    driver.ask(1, &[Piece::Out(b"hello, "), Piece::Out(b"world")]);
    assert_eq!(bench.output(0), b"hello, world");
    let token = driver.add(0, &[Piece::In(4)]);
    driver.kick(0);
    assert_eq!(bench.type_in(0, b"input"), 5);
    assert_eq!((driver.poll(0), driver.written(&token)), (Some((0, 4)), b"inpu".to_vec()));
    let token = driver.add(0, &[Piece::In(4)]);
    driver.kick(0);
    assert_eq!(driver.poll(0), Some((token.head, 1)));
    assert_eq!((driver.reg(0x100), driver.reg(0x104)), (25 << 16 | 80, 1));
    driver.take_interrupt();
    with(&bench, |c| c.resize(132, 43));
    assert_eq!((driver.take_interrupt(), driver.reg(0x100), driver.reg(0xfc)), (2, 43 << 16 | 132, 1));
    driver.set(0x108, b'!'.into());
    assert_eq!(bench.output(0), b"!");
}

#[test]
fn output_waits_for_a_slow_backend_and_input_for_the_driver() {
    let bench = Bench::new(single());
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    bench.set_room(0, Some(3));
    driver.add(1, &[Piece::Out(b"abcdef")]);
    driver.add(1, &[Piece::Out(b"gh")]);
    driver.kick(1);
    assert_eq!((driver.poll(1), bench.output(0)), (None, b"abc".to_vec()));
    bench.set_room(0, Some(4));
    bench.char_event(0, CharEvent::Writable);
    assert_eq!((driver.poll(1).is_some(), driver.poll(1), bench.output(0)), (true, None, b"defg".to_vec()));

    // What has left is not sent again by a restored twin.
    let saved = bench.cell().save();
    let twin = Bench::new(single());
    let mut driver = driver.moved(&twin);
    twin.cell().restore(&saved).unwrap();
    assert_eq!(twin.cell().save(), saved);
    twin.cell().resume();
    assert_eq!((driver.poll(1).is_some(), twin.output(0)), (true, b"h".to_vec()));

    let bench = &twin;
    let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    let given = bench.type_in(0, &data);
    assert_eq!(given, INPUT);
    let mut got = Vec::new();
    while got.len() < given {
        let token = driver.add(0, &[Piece::In(1000)]);
        driver.kick(0);
        let (_, len) = driver.poll(0).unwrap();
        got.extend_from_slice(&driver.written(&token)[..len as usize]);
    }
    assert!(got == data[..given]);
    bench.cell().quiesce();
    assert_eq!(bench.type_in(0, b"x"), 0);
    bench.cell().resume();
    assert_eq!(bench.type_in(0, b"x"), 1);
}

#[test]
fn much_output_takes_turns() {
    let bench = Bench::new(single());
    let mut driver = Driver::start(&bench, !0, &[16, 16]);
    let data = vec![b'x'; 0x6_0000];
    for _ in 0..4 {
        // The same bytes again and again: they need not fit in RAM four times.
        driver.add(1, &[Piece::Out(&data)]);
    }
    driver.kick(1);
    assert!(bench.next_deadline().is_some());
    assert!(driver.used_idx(1) < 4);
    bench.advance(0);
    assert_eq!((driver.used_idx(1), bench.output(0).len()), (4, 4 * data.len()));
}

/// A message of the control queue.
fn message(port: u32, event: u16, value: u16) -> Vec<u8> {
    [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// Gives the device a buffer and takes what it has to say, if anything.
fn listen(driver: &mut Driver<'_>) -> Option<Vec<u8>> {
    let token = driver.add(2, &[Piece::In(64)]);
    driver.kick(2);
    let (head, len) = driver.poll(2)?;
    assert_eq!(head, token.head);
    let mut bytes = driver.written(&token);
    bytes.truncate(len as usize);
    Some(bytes)
}

#[test]
fn several_ports() {
    let bench = Bench::new(many());
    let mut driver = Driver::start(&bench, !0, &[16; 8]);
    assert_eq!(driver.reg(0x104), 3);
    driver.ask(3, &[Piece::Out(&message(0, 0, 1))]);
    for port in 0..3 {
        assert_eq!(listen(&mut driver), Some(message(port, 1, 1)));
    }
    for port in 0..3 {
        driver.ask(3, &[Piece::Out(&message(port, 3, 1))]);
    }
    let named = |port, name: &[u8]| [&message(port, 7, 1)[..], name].concat();
    for expected in [
        message(0, 4, 1),
        message(0, 6, 1),
        named(1, b"org.rhea.agent"),
        message(1, 6, 1),
        named(2, b"log"),
        message(2, 6, 1),
    ] {
        assert_eq!(listen(&mut driver), Some(expected));
    }
    // Port 1 is not open in the guest yet: input waits.
    let token = driver.add(4, &[Piece::In(64)]);
    driver.kick(4);
    bench.type_in(1, b"ping");
    assert_eq!(driver.poll(4), None);
    driver.ask(3, &[Piece::Out(&message(1, 6, 1))]);
    assert_eq!(driver.poll(4), Some((token.head, 4)));
    driver.ask(5, &[Piece::Out(b"pong")]);
    driver.ask(7, &[Piece::Out(b"line")]);
    assert_eq!(
        (bench.output(0), bench.output(1), bench.output(2)),
        (vec![], b"pong".to_vec(), b"line".to_vec())
    );
    with(&bench, |c| c.resize(100, 50));
    // The buffer `listen` gave for nothing has been waiting in the queue.
    assert_eq!(listen(&mut driver).unwrap(), [&message(0, 5, 0)[..], &[100, 0, 50, 0]].concat());
    bench.char_event(2, CharEvent::Closed);
    assert_eq!(listen(&mut driver), Some(message(2, 6, 1)), "the bench's backends are always open");
    driver.ask(3, &[Piece::Out(&message(9, 6, 1))]);
    assert!(!driver.needs_reset());
}

/// Output and input flow while the console is saved and moved again and again.
#[test]
fn moves_in_mid_traffic() {
    let mut bench = Bench::new(single());
    let mut rng = Rng::new(11);
    let mut state = Driver::start(&bench, !0, &[16, 16]).state();
    let (mut written, mut typed, mut output, mut input) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut tokens = std::collections::VecDeque::new();
    let mut in_flight = 0;
    for round in 0..300 {
        let mut driver = Driver::resumed(&bench, &state);
        bench.set_room(0, (rng.below(3) != 0).then(|| rng.below(20) as usize));
        bench.char_event(0, CharEvent::Writable);
        if in_flight < 8 {
            let data: Vec<u8> = (0..1 + rng.below(30)).map(|_| rng.next_u64() as u8).collect();
            driver.add(1, &[Piece::Out(&data)]);
            driver.kick(1);
            written.extend(data);
            in_flight += 1;
        }
        let data = rng.next_u64().to_le_bytes();
        let given = bench.type_in(0, &data);
        typed.extend_from_slice(&data[..given]);
        if tokens.len() < 8 {
            tokens.push_back(driver.add(0, &[Piece::In(1 + rng.below(20) as u32)]));
            driver.kick(0);
        }
        if round % 2 == 0 {
            bench.cell().quiesce();
        }
        output.extend(bench.output(0));
        let saved = bench.cell().save();
        let twin = Bench::at(single(), bench.now());
        let mut moved = driver.moved(&twin);
        twin.cell().restore(&saved).unwrap();
        assert_eq!(twin.cell().save(), saved);
        assert_eq!(twin.line("irq"), bench.line("irq"));
        twin.cell().resume();
        while moved.poll(1).is_some() {
            in_flight -= 1;
        }
        while let Some((head, len)) = moved.poll(0) {
            let token = tokens.pop_front().unwrap();
            assert_eq!(token.head, head);
            input.extend_from_slice(&moved.written(&token)[..len as usize]);
        }
        output.extend(twin.output(0));
        state = moved.state();
        drop((driver, moved));
        bench = twin;
    }
    bench.char_event(0, CharEvent::Writable);
    output.extend(bench.output(0));
    assert!(output == written && written.len() > 1000, "{} of {}", output.len(), written.len());
    assert!(typed.starts_with(&input) && input.len() > 1000, "{} of {}", input.len(), typed.len());
}

#[test]
fn passes_the_common_tests() {
    check(single());
    check(many());
}

#[test]
fn fuzz_hostile_rings() {
    let feed = |bench: &Bench| {
        for slot in 0..3 {
            bench.type_in(slot, b"some input");
            bench.output(slot);
        }
    };
    hostile_rings(&many(), 8, many, feed);
}
