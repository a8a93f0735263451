//! The microvm board on KVM with tiny kernels of our own: both ways to boot, all places for the controllers.

#![cfg(target_os = "linux")]

mod common;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use accel::IrqchipMode;
use guest_memory::Backing;
use machine::snapshot;
use machines::{BoardConfig, microvm};

use common::{answer, boot, config, exit_code, finish, machine, pvh};

/// A guest saved while it runs goes on in another machine where it was.
#[test]
fn a_snapshot_goes_on_in_another_machine() {
    // mov byte [0x3004], 'A'; wait: movzx eax, byte [0x3000]; test al, al; je wait
    let mut code = vec![0xc6, 0x05, 0x04, 0x30, 0, 0, b'A'];
    code.extend([0x0f, 0xb6, 0x05, 0x00, 0x30, 0, 0, 0x84, 0xc0, 0x74, 0xf5]);
    finish(&mut code);
    for irqchip in [IrqchipMode::Kernel, IrqchipMode::Split, IrqchipMode::User] {
        let Some((first, _events, _file)) = machine(&pvh(&code), irqchip, "") else { return };
        first.start();
        let mut mark = [0];
        while mark != [b'A'] {
            std::thread::sleep(Duration::from_millis(1));
            assert!(first.memory().read(0x3004, &mut mark).is_ok());
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        snapshot::save(&first, &path).unwrap();
        let pc = first.cpu_state(0).unwrap().pc();
        assert!((0x10_0007..0x10_0012).contains(&pc), "{pc:#x}");
        drop(first);

        let Some((second, events, _file)) = machine(&pvh(&code), irqchip, "") else { return };
        snapshot::load(&second, &path).unwrap();
        // Only now may the guest leave its loop.
        assert!(second.memory().write(0x3000, &[0x2a]).is_ok());
        second.start();
        assert_eq!(answer(&events), exit_code(0x2a));
        second.stop();
    }
}

/// A bzImage whose 64-bit entry exits with the first character of its command line.
fn bzimage() -> Vec<u8> {
    let mut k = vec![0; 1024];
    k[0x1f1] = 1;
    k[0x201] = 0x66;
    k[0x202..0x206].copy_from_slice(b"HdrS");
    k[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    k[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    k[0x234] = 1;
    k[0x236] = 1;
    k[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    k.resize(1024 + 0x200, 0);
    // mov eax, [rsi + 0x228]; movzx eax, byte [rax]
    let mut code = vec![0x8b, 0x86, 0x28, 0x02, 0, 0, 0x0f, 0xb6, 0x00];
    finish(&mut code);
    k.extend(code);
    k
}

#[test]
fn a_bzimage_starts_in_64_bit_mode_with_its_command_line() {
    if let Some(code) = boot(&bzimage(), IrqchipMode::Kernel, "+hello", 0) {
        assert_eq!(Some(code), exit_code(b'+'));
    }
}

#[test]
fn a_pvh_kernel_starts_in_32_bit_mode_and_again_after_a_reset() {
    // cmp dword [ebx], magic; jne end; mov eax, [ebx + 24]; movzx eax, byte [eax]; end:
    let mut code = vec![0x81, 0x3b];
    code.extend(0x336e_c578u32.to_le_bytes());
    code.extend([0x75, 0x06, 0x8b, 0x43, 0x18, 0x0f, 0xb6, 0x00]);
    finish(&mut code);
    for irqchip in [IrqchipMode::Kernel, IrqchipMode::Split, IrqchipMode::User] {
        if let Some(code) = boot(&pvh(&code), irqchip, "*", 1) {
            assert_eq!(Some(code), exit_code(b'*'), "{irqchip:?}");
        }
    }
}

/// RAM that does not fit below the hole goes on at 4 GiB, and the kernel is told so; with a file behind it too.
#[test]
fn five_gib_lie_on_both_sides_of_the_hole() {
    let mut code = Vec::new();
    // The last entry of the memory map: mov ecx, [ebx + 48]; dec ecx; imul ecx, ecx, 24; add ecx, [ebx + 40]
    code.extend([0x8b, 0x4b, 48, 0x49, 0x6b, 0xc9, 24, 0x03, 0x4b, 40]);
    // Its base in 4 GiB and size in 256 MiB: mov eax, [ecx + 4]; shl eax, 4; mov edx, [ecx + 8]; shr edx, 28; or eax, edx
    code.extend([0x8b, 0x41, 4, 0xc1, 0xe0, 4, 0x8b, 0x51, 8, 0xc1, 0xea, 28, 0x09, 0xd0]);
    finish(&mut code);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ram");
    let backings = [
        Backing::Anonymous,
        Backing::Memfd { huge: None },
        Backing::File { path: path.clone(), shared: true, offset: 0 },
    ];
    for backing in backings {
        let change = |c: &mut BoardConfig| {
            c.ram = 5 << 30;
            c.ram_config.backing = backing.clone();
        };
        let Some((machine, events, _file)) =
            common::machine_with(&pvh(&code), IrqchipMode::Kernel, "", change)
        else {
            return;
        };
        machine.start();
        // From 4 GiB on (1 << 4), 2 GiB (8 times 256 MiB).
        assert_eq!(answer(&events), exit_code(0x18), "{backing:?}");
        machine.stop();
        for (i, gpa) in [0x1000u64, (3 << 30) - 1, 4 << 30, (6 << 30) - 1].into_iter().enumerate() {
            assert!(machine.memory().write(gpa, &[i as u8 + 1]).is_ok());
        }
        for (i, gpa) in [0x1000u64, (3 << 30) - 1, 4 << 30, (6 << 30) - 1].into_iter().enumerate() {
            let mut byte = [0];
            assert!(machine.memory().read(gpa, &mut byte).is_ok());
            assert_eq!(byte, [i as u8 + 1], "{gpa:#x} with {backing:?}");
        }
        assert!(machine.memory().view().find(3 << 30).is_none());
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 5 << 30);
}

#[test]
fn properties_leave_devices_out() {
    let mut image = tempfile::NamedTempFile::new().unwrap();
    image.write_all(&bzimage()).unwrap();
    let graph = |irqchip, properties: &[(&str, &str)]| {
        let mut c = config(image.path(), irqchip, "");
        c.properties.extend(properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        microvm::build(&c).map(|b| b.describe()).map_err(|e| e.to_string())
    };
    let all = graph(IrqchipMode::Split, &[]).unwrap();
    for (name, line) in
        [("pic", "pic "), ("pit", "pit "), ("rtc", "rtc "), ("isa-serial", "serial0 "), ("acpi", "pm ")]
    {
        let line = format!("device {line}");
        assert!(all.contains(&line), "{all}");
        let without = graph(IrqchipMode::Split, &[(name, "off")]).unwrap();
        assert!(!without.contains(&line) && !without.contains(&format!("-> {name}.")), "{without}");
    }
    for (name, value, text) in [
        ("pic", "off", "pic=off: the accelerator has made it"),
        ("pit", "off", "pit=off: the accelerator has made it"),
        ("acpi", "maybe", "acpi: expected on or off, got 'maybe'"),
        ("x-option-roms", "on", "x-option-roms=on is not possible"),
        ("rtc", "maybe", "rtc: expected on or off, got 'maybe'"),
        ("sound", "on", "no property 'sound'; there are: pic, pit, rtc"),
    ] {
        let error = graph(IrqchipMode::Kernel, &[(name, value)]).unwrap_err();
        assert!(error.contains(text), "{error}");
    }
    assert!(graph(IrqchipMode::Kernel, &[("acpi", "off"), ("x-option-roms", "off")]).is_ok());
}

#[test]
fn mistakes_are_named() {
    let error = |c: &BoardConfig| microvm::build(c).map(|_| ()).unwrap_err().to_string();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"no kernel at all").unwrap();
    assert!(
        error(&config(file.path(), IrqchipMode::Kernel, "")).contains("neither a bzImage nor an ELF file")
    );
    let mut c = config(file.path(), IrqchipMode::User, "");
    c.vcpus = 300;
    assert!(error(&c).contains("300 vcpus; there can be 1 to 254"));
    c.vcpus = 1;
    c.kernel = None;
    assert!(error(&c).contains("needs -kernel FILE"));
    let missing = Path::new("/nowhere/vmlinuz");
    assert!(error(&config(missing, IrqchipMode::Kernel, "")).contains("/nowhere/vmlinuz"));
    file.as_file_mut().set_len(0).unwrap();
    let mut image = tempfile::NamedTempFile::new().unwrap();
    image.write_all(&bzimage()).unwrap();
    let long = "x".repeat(4000);
    assert!(error(&config(image.path(), IrqchipMode::Kernel, &long)).contains("4000 bytes; at most 2047"));
}
