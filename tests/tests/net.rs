//! A guest on the user network: U-Boot gets an address, an echo and a file.
#![cfg(target_os = "linux")]

use std::fs;

use rhea_tests::boot::{self, STEP, Scratch, powers_off};

/// CRC-32 as U-Boot prints it.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

#[test]
fn u_boot_gets_an_address_an_echo_and_a_file() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let Some(firmware) = boot::guest("riscv64/u-boot-m.bin") else { return };
    let scratch = Scratch::new("tftp");
    let file = scratch.path("payload.bin");
    let data: Vec<u8> = (0..150_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(&file, &data).unwrap();
    let folder = file.parent().unwrap().display().to_string();
    let netdev = format!("user,id=net0,tftp={folder},bootfile=payload.bin");
    let arguments = [
        "-m",
        "256",
        "-bios",
        firmware.to_str().unwrap(),
        "-netdev",
        &netdev,
        "-device",
        "virtio-net-device,netdev=net0",
    ];
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();
    let sum = format!("==> {:08x}", crc32(&data));
    let mut session = || -> Result<(), String> {
        guest.console.expect("Hit any key to stop autoboot", STEP)?;
        guest.console.send("\n").map_err(|error| error.to_string())?;
        for (command, answer) in [
            ("setenv autoload no; dhcp", "bound to address 10.0.2.15"),
            ("ping 10.0.2.2", "host 10.0.2.2 is alive"),
            ("tftpboot 0x84000000 payload.bin", "Bytes transferred = 150000"),
            ("crc32 0x84000000 ${filesize}", sum.as_str()),
        ] {
            guest.console.expect("=> ", STEP)?;
            guest.console.send(&format!("{command}\n")).map_err(|error| error.to_string())?;
            guest.console.expect(answer, STEP)?;
        }
        guest.console.expect("=> ", STEP)?;
        guest.console.send("poweroff\n").map_err(|error| error.to_string())?;
        powers_off(&mut guest)
    };
    session().unwrap();
}
