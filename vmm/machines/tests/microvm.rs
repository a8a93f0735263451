//! The microvm board on KVM with tiny kernels of our own: both ways to boot, all places for the controllers.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod common;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use accel::IrqchipMode;
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
