//! Encrypted images: nothing in the clear, no wrong key, key slots, and cryptsetup as the other side.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod common;

use std::path::Path;

use block_formats::{Image, OpenOptions, Options, Preallocation, Secrets, Snapshot};
use block_testing::{Fault, Host};
use common::*;

const LUKS2: &str = "key-secret=s,iter-time=1,version=luks2,pbkdf=pbkdf2";

/// Every kind of encryption.
const KINDS: &[(&str, &str)] = &[
    ("luks", "key-secret=s,iter-time=1"),
    ("luks", LUKS2),
    ("luks", "key-secret=s,iter-time=1,version=luks2,pbkdf=pbkdf2,sector-size=4k,preallocation=full"),
    ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1"),
    ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,extended_l2=on"),
    ("qcow2", "encrypt.format=aes,encrypt.key-secret=s,preallocation=metadata"),
    ("qcow2", "encrypt.format=aes,encrypt.key-secret=s,compat=0.10"),
    ("qcow", "encrypt.format=aes,encrypt.key-secret=s"),
];

fn amend(image: &dyn Image, options: &str) -> Result<(), block::BlockError> {
    let prefix = if image.format() == "luks" { "" } else { "encrypt." };
    let mut secrets = secrets();
    secrets.set("n", b"neu");
    secrets.set("w", b"falsch");
    let list: Vec<_> = options.split(',').map(|o| format!("{prefix}{o}")).collect();
    let mut options = Options::parse(&list.join(",")).unwrap();
    options.set_secrets(&secrets);
    image.amend(&options)
}

fn with_passphrase(passphrase: &str) -> OpenOptions {
    let mut secrets = Secrets::default();
    secrets.set("s", passphrase.as_bytes());
    OpenOptions { secrets, ..open_options() }
}

fn holds(data: &[u8], needle: &[u8]) -> bool {
    data.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn nothing_is_ever_stored_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    for (format, options) in KINDS {
        let path = dir.path().join("c.img");
        create(&path, format, 3 << 20, options);
        let image = open(&path, format);
        let needle = b"top secret plans";
        let text: Vec<u8> = needle.iter().copied().cycle().take(70_000).collect();
        let mut model = all(&*image);
        let put = |model: &mut Vec<u8>, at: usize, len: usize| {
            write(&*image, at as u64, &text[..len]);
            model[at..at + len].copy_from_slice(&text[..len]);
        };
        // New clusters, a part of one, parts of sectors, over a snapshot, behind a zeroed range.
        put(&mut model, 65536, 65536);
        put(&mut model, 300_001, 33);
        put(&mut model, 66_000, 700);
        if *format == "qcow2" {
            image.create_snapshot(&Snapshot { name: "s".into(), ..Snapshot::default() }).unwrap();
        }
        put(&mut model, 70_001, 5);
        image.write_zeroes(131_072, 100_000, true).unwrap();
        model[131_072..231_072].fill(0);
        put(&mut model, 140_000, 64);
        let refused = image.write_compressed(2 << 20, &text[..65536]);
        assert!(refused.is_err(), "{format} {options}: compressed data has no encrypted form");
        if *format != "qcow" && !options.contains("0.10") {
            image.resize_with(4 << 20, Preallocation::Off).unwrap();
            model.resize(4 << 20, 0);
            write(&*image, 3 << 20, &vec![0; 1 << 20]);
            put(&mut model, (4 << 20) - 100, 100);
        }
        same(&all(&*image), &model, options);
        check_status(&*image, &model);
        image.close().unwrap();
        drop(image);
        let stored = std::fs::read(&path).unwrap();
        assert!(!holds(&stored, &needle[..8]), "{format} {options}: the file holds what was written");
        assert!(!holds(&stored, PASSPHRASE.as_bytes()), "{format} {options}: the file holds the passphrase");
        same(&all(&*open(&path, format)), &model, options);
        // Somebody who does not know the password gets nothing.
        for (probed, options) in [(None, OpenOptions::default()), (Some(*format), OpenOptions::default())] {
            let text = patiently_fails(&path, probed, &options);
            assert!(text.contains("encrypted") && text.contains("key-secret"), "{text}");
        }
        let wrong = with_passphrase("falsch");
        if options.contains("aes") {
            // The old method cannot tell; what it gives is not what was written.
            let image = patiently(|| block_formats::open(common::text(&path), Some(format), &wrong));
            assert!(!holds(&all(&*image), &needle[..8]));
        } else {
            let text = patiently_fails(&path, Some(format), &wrong);
            assert!(text.contains("invalid password"), "{text}");
        }
        let locked = OpenOptions { no_io: true, read_only: true, ..OpenOptions::default() };
        let image = patiently(|| block_formats::open(common::text(&path), Some(format), &locked));
        assert!(image.details().encrypted);
        assert!(image.read(65536, &mut [std::io::IoSliceMut::new(&mut [0; 512])]).is_err());
    }
}

fn patiently_fails(path: &Path, format: Option<&str>, options: &OpenOptions) -> String {
    for _ in 0..200 {
        match block_formats::open(text(path), format, options) {
            Err(block::BlockError::InUse { .. }) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(e) => return e.to_string(),
            Ok(_) => panic!("{} was opened", path.display()),
        }
    }
    panic!("{} is in use", path.display())
}

#[test]
fn key_slots_are_added_and_erased_but_the_last() {
    let dir = tempfile::tempdir().unwrap();
    for (format, options) in KINDS.iter().filter(|(_, o)| !o.contains("aes") && !o.contains("full")) {
        let path = dir.path().join("k.img");
        create(&path, format, 1 << 20, options);
        let image = open(&path, format);
        write(&*image, 0, b"hello");
        let refused = |what: &str, expected: &str| {
            let text = amend(&*image, what).unwrap_err().to_string();
            assert!(text.contains(expected), "{format} {what}: {text}");
        };
        refused("state=inactive,keyslot=0", "no key slot would be left");
        refused("state=inactive,old-secret=s", "no key slot would be left");
        refused("state=inactive,keyslot=99", "keyslot=99");
        refused("state=inactive,keyslot=3", "not in use");
        refused("state=active,new-secret=n,keyslot=0", "in use");
        refused("state=active,new-secret=n,old-secret=w", "no key slot");
        refused("state=active", "new-secret");
        refused("state=gone", "active, inactive");
        amend(&*image, "state=active,new-secret=n,keyslot=5,iter-time=1").unwrap();
        image.close().unwrap();
        drop(image);
        for passphrase in [PASSPHRASE, "neu"] {
            let options = with_passphrase(passphrase);
            let image = patiently(|| block_formats::open(text(&path), Some(format), &options));
            assert_eq!(read(&*image, 0, 5), b"hello", "{passphrase}");
        }
        let image = open(&path, format);
        amend(&*image, "state=inactive,old-secret=s").unwrap();
        // What is open stays usable.
        assert_eq!(read(&*image, 0, 5), b"hello");
        image.close().unwrap();
        drop(image);
        assert!(patiently_fails(&path, Some(format), &open_options()).contains("invalid password"));
        let image = patiently(|| block_formats::open(text(&path), Some(format), &with_passphrase("neu")));
        assert_eq!(read(&*image, 0, 5), b"hello");
    }
}

#[test]
fn a_power_cut_while_slots_change_locks_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    for (format, options) in KINDS.iter().filter(|(f, o)| *f == "luks" && !o.contains("full")) {
        let path = dir.path().join("k.img");
        create(&path, format, 1 << 20, options);
        let host = Host::new(vec![std::fs::read(&path).unwrap()]);
        let image = block_formats::open_node(host.file(0), "k", Some(format), &open_options()).unwrap();
        amend(&*image, "state=active,new-secret=n,iter-time=1").unwrap();
        let added = host.cuts();
        amend(&*image, "state=inactive,old-secret=s").unwrap();
        drop(image);
        for cut in 0..=host.cuts() {
            let opens = |passphrase: &str, luck: Option<&mut Random>| {
                let node = Host::new(host.after_cut(cut, luck)).file(0);
                block_formats::open_node(node, "k", Some(format), &with_passphrase(passphrase)).is_ok()
            };
            let passphrase = if cut < added { PASSPHRASE } else { "neu" };
            assert!(opens(passphrase, None), "{options}: cut {cut} of {}", host.cuts());
            // LUKS1 has one header of two sectors, which a torn write may damage; LUKS2 has two copies.
            if *options == LUKS2 {
                let luck = opens(passphrase, Some(&mut Random::new(cut as u64)));
                assert!(luck, "{options}: cut {cut} of {} with some writes lost", host.cuts());
            }
        }
    }
}

#[test]
fn a_damaged_copy_of_a_luks2_header_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.img");
    create(&path, "luks", 1 << 20, LUKS2);
    let good = std::fs::read(&path).unwrap();
    for (at, what) in [(5000, "first copy"), (16384 + 5000, "second copy"), (0, "magic of the first")] {
        let mut data = good.clone();
        data[at] ^= 1;
        std::fs::write(&path, &data).unwrap();
        let image = open(&path, "luks");
        assert_eq!(image.size(), 1 << 20, "{what}");
    }
    let mut data = good;
    data[5000] ^= 1;
    data[16384 + 5000] ^= 1;
    std::fs::write(&path, &data).unwrap();
    assert!(patiently_fails(&path, Some("luks"), &open_options()).contains("neither copy is whole"));
}

#[test]
fn bad_options_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (format, options, expected) in [
        ("luks", "iter-time=1", "key-secret"),
        ("luks", "key-secret=x", "secret 'x'"),
        ("luks", "key-secret=s,cipher-mode=ecb", "ecb"),
        ("luks", "key-secret=s,cipher-alg=aes-512", "cipher-alg=aes-512"),
        ("luks", "key-secret=s,cipher-mode=xts,ivgen-alg=essiv", "go together"),
        ("luks", "key-secret=s,hash-alg=md5", "hash-alg=md5"),
        ("luks", "key-secret=s,pbkdf=argon2id", "version=luks2"),
        ("luks", "key-secret=s,iter-time=0", "iter-time=0"),
        ("qcow2", "encrypt.key-secret=s", "encrypt.format"),
        ("qcow2", "encrypt.format=luks", "encrypt.key-secret"),
        ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,data_file=d,data_file_raw=on", "data_file_raw"),
        ("qcow2", "encrypt.format=aes,encrypt.key-secret=s,compat=0.10,preallocation=metadata", "compat=1.1"),
        ("qcow", "encrypt.format=luks,encrypt.key-secret=s", "encrypt.format=luks"),
        ("qcow", "encryption=on", "encrypt.key-secret"),
    ] {
        let path = dir.path().join("b.img");
        let mut list = Options::parse(options).unwrap();
        list.set_secrets(&secrets());
        let e = block_formats::create(format, &path, None, Some(1 << 20), &list).unwrap_err().to_string();
        assert!(e.contains(expected), "{format} {options}: {e}");
    }
    let path = dir.path().join("q.img");
    create(&path, "qcow2", 1 << 20, "");
    let mut options = open_options();
    options.keys.push(("encrypt.format".into(), "luks".into()));
    assert!(patiently_fails(&path, Some("qcow2"), &options).contains("encryption is none"));
    let name = r#"json:{"driver":"raw","key-secret":"s","filename":"x"}"#;
    std::fs::write("x", "").ok();
    let done = block_formats::open(name, None, &open_options()).map(drop).unwrap_err().to_string();
    std::fs::remove_file("x").ok();
    assert!(done.contains("no option 'key-secret'"), "{done}");
}

#[test]
fn cryptsetup_opens_what_we_make_and_we_what_it_makes() {
    if run("cryptsetup", &["--version"]).is_err() {
        println!("SKIPPED: cryptsetup is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("pw");
    std::fs::write(&key, PASSPHRASE).unwrap();
    let path = dir.path().join("c.img");
    let cryptsetup = |args: &[&str]| run("cryptsetup", &[args, &["--key-file", text(&key)]].concat());
    for options in
        ["key-secret=s,iter-time=1", LUKS2, "key-secret=s,iter-time=1,version=luks2,sector-size=4k"]
    {
        create(&path, "luks", 1 << 20, options);
        cryptsetup(&["open", "--test-passphrase", text(&path)]).unwrap();
        let image = open(&path, "luks");
        amend(&*image, "state=active,new-secret=n,iter-time=1").unwrap();
        amend(&*image, "state=inactive,old-secret=s").unwrap();
        drop(image);
        assert!(cryptsetup(&["open", "--test-passphrase", text(&path)]).is_err(), "{options}: erased");
    }
    for kind in ["luks1", "luks2"] {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, []).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20 << 20).unwrap();
        let mut args = vec!["luksFormat", "--batch-mode", "--type", kind, "--pbkdf-force-iterations"];
        args.extend(if kind == "luks1" { vec!["1000"] } else { vec!["4", "--pbkdf-memory", "256"] });
        args.push(text(&path));
        cryptsetup(&args).unwrap();
        // The volume key as cryptsetup knows it decrypts as ours does: the data reads as it was written.
        let image = open(&path, "luks");
        write(&*image, 0, b"hello");
        image.close().unwrap();
        drop(image);
        assert_eq!(read(&*open(&path, "luks"), 0, 5), b"hello", "{kind}");
        cryptsetup(&["open", "--test-passphrase", text(&path)]).unwrap();
    }
}

#[test]
fn a_write_that_fails_is_told_and_changes_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.img");
    create(&path, "luks", 1 << 20, "key-secret=s,iter-time=1");
    let start = std::fs::read(&path).unwrap();
    for fail_in in 0..12 {
        let host = Host::new(vec![start.clone()]);
        let image = block_formats::open_node(host.file(0), "f", Some("luks"), &open_options()).unwrap();
        let mut model = all(&*image);
        let mut random = Random::new(fail_in);
        host.fail(Some((fail_in, Fault::Io)));
        let mut failed = 0;
        for _ in 0..16 {
            let at = random.below(1 << 20) as usize;
            let len = (random.below(4000) as usize + 1).min((1 << 20) - at);
            let data = random.data(len);
            match image.write(at as u64, &[std::io::IoSlice::new(&data)], false) {
                Ok(()) => model[at..at + len].copy_from_slice(&data),
                Err(_) => {
                    failed += 1;
                    host.fail(None);
                }
            }
        }
        assert_eq!(failed, 1, "write {fail_in}");
        same(&all(&*image), &model, "what was not refused");
        // A slot that cannot be changed leaves the others.
        host.fail(Some((fail_in % 6, Fault::Io)));
        let _ = amend(&*image, "state=active,new-secret=n,iter-time=1");
        host.fail(None);
        drop(image);
        let image = block_formats::open_node(host.file(0), "f", Some("luks"), &open_options()).unwrap();
        same(&all(&*image), &model, "opened again");
    }
}

#[test]
fn a_second_user_of_an_image_or_its_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, header) = (dir.path().join("d.img"), dir.path().join("h.img"));
    create(&path, "luks", 1 << 20, "key-secret=s,iter-time=1");
    let in_use = |options: &OpenOptions| {
        let again = block_formats::open(text(&path), Some("luks"), options);
        matches!(again, Err(block::BlockError::InUse { .. }))
    };
    let image = open(&path, "luks");
    assert!(in_use(&open_options()));
    drop(image);
    create(&header, "luks", 1 << 20, "key-secret=s,iter-time=1,detached-header=on");
    let mut options = open_options();
    options.keys.push(("header.filename".into(), text(&header).into()));
    let image = patiently(|| block_formats::open(text(&path), Some("luks"), &options));
    assert_eq!(image.size(), std::fs::metadata(&path).unwrap().len());
    write(&*image, 12_345, b"beside its header");
    assert!(in_use(&options));
    let alone = block_formats::open(text(&header), Some("luks"), &open_options());
    assert!(matches!(alone, Err(block::BlockError::InUse { .. })));
    image.close().unwrap();
    drop(image);
    let image = patiently(|| block_formats::open(text(&path), Some("luks"), &options));
    assert_eq!(read(&*image, 12_345, 17), b"beside its header");
    drop(image);
    let e = patiently_fails(&header, Some("luks"), &open_options());
    assert!(e.contains("detached"), "{e}");
}
