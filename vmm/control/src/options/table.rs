//! The option table: every option's names, argument, help, category and effect.

use super::apply::{chars, device, log, net, platform, runtime, storage};
use super::build::{Builder, Stop};
use super::group::Group;

/// One option.
pub(crate) struct OptionDef {
    /// Name without dashes.
    pub(crate) name: &'static str,
    /// Other names.
    pub(crate) aliases: &'static [&'static str],
    /// Form of its argument; empty for an option without one.
    pub(crate) argument: &'static str,
    /// One or two sentences.
    pub(crate) help: &'static str,
    /// Section of `--help`.
    pub(crate) category: Category,
    /// What it does.
    pub(crate) run: Run,
}

/// What an option does.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// No argument.
    Flag(fn(&mut Builder) -> Result<(), Stop>),
    /// The argument as it is.
    Text(fn(&mut Builder, &str) -> Result<(), Stop>),
    /// The argument is a list of keys.
    Group(&'static Group),
}

/// Sections of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Category {
    Platform,
    Boot,
    Storage,
    Devices,
    Network,
    Characters,
    Display,
    Run,
    Debug,
    Other,
}

impl Category {
    pub(crate) const ALL: [Self; 10] = [
        Self::Platform,
        Self::Boot,
        Self::Storage,
        Self::Devices,
        Self::Network,
        Self::Characters,
        Self::Display,
        Self::Run,
        Self::Debug,
        Self::Other,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Platform => "Machine, CPU, memory",
            Self::Boot => "Boot",
            Self::Storage => "Disks",
            Self::Devices => "Devices and objects",
            Self::Network => "Network",
            Self::Characters => "Serial ports, monitors, character back ends",
            Self::Display => "Display",
            Self::Run => "Life of the machine and of the process",
            Self::Debug => "Debugging and logs",
            Self::Other => "Other",
        }
    }
}

impl OptionDef {
    pub(crate) fn takes_argument(&self) -> bool {
        !matches!(self.run, Run::Flag(_))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// Looks an option up by any of its names, without dashes.
pub(crate) fn find(name: &str) -> Option<&'static OptionDef> {
    OPTIONS.iter().find(|o| o.names().any(|n| n == name))
}

/// All names.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().flat_map(OptionDef::names)
}

/// All groups, which are the sections of an INI file.
pub(crate) fn groups() -> impl Iterator<Item = &'static Group> {
    OPTIONS.iter().filter_map(|o| match o.run {
        Run::Group(g) => Some(g),
        _ => None,
    })
}

macro_rules! options {
    ($($category:ident: { $($name:literal $(| $alias:literal)* $argument:literal => $kind:ident($run:expr), $help:literal;)* })*) => {
        /// All options, by section.
        pub(crate) static OPTIONS: &[OptionDef] = &[$($(
            OptionDef {
                name: $name,
                aliases: &[$($alias),*],
                argument: $argument,
                help: $help,
                category: Category::$category,
                run: Run::$kind($run),
            },
        )*)*];
    };
}

options! {
    Platform: {
        "machine" | "M" "[type=]NAME[,property=value...]" => Group(&platform::MACHINE),
            "Board and its properties. accel=A:B names accelerators to try in order. 'help' lists boards, 'NAME,help' the properties of one.";
        "arch" "ARCH" => Text(platform::arch),
            "Guest architecture, e.g. riscv64; under the name qemu-system-ARCH it is ARCH.";
        "cpu" "MODEL[,+feature][,-feature][,property=value...]" => Text(platform::cpu),
            "CPU model and features; 'help' lists the models.";
        "smp" "[cpus=]N[,key=value...]" => Group(&platform::SMP),
            "Number and topology of vCPUs; what is missing is computed, cores before sockets.";
        "m" "[size=]SIZE[,slots=N,maxmem=SIZE]" => Group(&platform::MEMORY),
            "Guest RAM; a number without suffix is mebibytes.";
        "mem-path" "PATH" => Text(device::mem_path),
            "Take guest RAM from a file, or from a file made in a folder such as a hugetlbfs mount.";
        "mem-prealloc" "" => Flag(device::mem_prealloc),
            "Allocate guest RAM before the guest starts.";
        "accel" "[accel=]NAME[,key=value...]" => Group(&platform::ACCEL),
            "Accelerator; several are tried in order. Without any, Rhea probes what works best. 'help' lists them.";
        "plugin" "[file=]NAME[,key=value...]" => Text(platform::plugin),
            "Load a plugin of the translator: a shared object, or count, hotblocks or memtrace. May be repeated.";
        "enable-kvm" | "accel-kvm" "" => Flag(platform::enable_kvm),
            "The same as -accel kvm.";
        "icount" "[shift=]N|auto[,align=on|off][,sleep=on|off]" => Group(&platform::ICOUNT),
            "Virtual time follows the count of instructions: 2^N nanoseconds each.";
        "no-acpi" "" => Flag(platform::no_acpi),
            "The same as -M acpi=off.";
        "uuid" "UUID" => Text(runtime::uuid),
            "Machine UUID.";
        "rtc" "key=value..." => Group(&runtime::RTC),
            "Time of the real-time clock at start, what moves it on, and whether lost ticks are made up for.";
    }
    Boot: {
        "kernel" "FILE" => Text(runtime::kernel), "Kernel image to boot directly.";
        "initrd" "FILE" => Text(runtime::initrd), "Initial RAM disk for the kernel.";
        "append" "TEXT" => Text(runtime::append), "Command line of the kernel.";
        "dtb" "FILE" => Text(runtime::dtb), "Device tree blob to use in place of the generated one.";
        "bios" "FILE|none" => Text(runtime::bios), "Firmware in place of the board's own.";
        "boot" "[order=]DRIVES[,key=value...]" => Group(&runtime::BOOT), "Boot order (drive letters) and menu.";
        "fw_cfg" "[name=]NAME,file=FILE|string=TEXT" => Group(&device::FW_CFG),
            "File that firmware and guest find under this name, which is to begin with 'opt/'.";
        "L" "FOLDER" => Text(runtime::data_dir), "Look for firmware in this folder first.";
    }
    Storage: {
        "drive" "key=value..." => Group(&storage::DRIVE),
            "Disk with a front end that the board chooses, or with if=none for a -device.";
        "blockdev" "[driver=]NAME,node-name=NAME[,key=value...]" => Group(&storage::BLOCKDEV),
            "Node of the block graph; also as a JSON object.";
        "hda" "FILE" => Text(storage::hda), "First disk.";
        "hdb" "FILE" => Text(storage::hdb), "Second disk.";
        "hdc" "FILE" => Text(storage::hdc), "Third disk.";
        "hdd" "FILE" => Text(storage::hdd), "Fourth disk.";
        "cdrom" "FILE" => Text(storage::cdrom), "CD-ROM, in place of the third disk.";
        "pflash" "FILE" => Text(storage::pflash), "Next bank of parallel flash.";
        "snapshot" "" => Flag(runtime::snapshot), "Keep writes in temporary files and leave the images as they are.";
    }
    Devices: {
        "device" "[driver=]NAME[,id=ID][,bus=ID][,property=value...]" => Group(&device::DEVICE),
            "Plug a device; also as a JSON object. 'help' lists devices, 'NAME,help' the properties of one.";
        "global" "DRIVER.PROPERTY=VALUE" => Group(&device::GLOBAL),
            "Default of a property for all devices of a driver.";
        "object" "[qom-type=]TYPE,id=ID[,key=value...]" => Group(&device::OBJECT),
            "Back-end object; also as a JSON object. 'help' lists the types.";
        "nodefaults" "" => Flag(runtime::nodefaults), "No default devices: no serial port, monitor, network card, CD-ROM.";
    }
    Network: {
        "netdev" "[type=]TYPE,id=ID[,key=value...]" => Group(&net::NETDEV),
            "Network back end; also as a JSON object. 'help' lists the types.";
        "nic" "[type=]TYPE[,model=MODEL][,mac=MAC][,key=value...]|none" => Group(&net::NIC),
            "Network card of the board together with its back end.";
        "net" "[type=]nic|TYPE[,key=value...]|none" => Group(&net::NET),
            "Network card or back end on the common hub.";
    }
    Characters: {
        "chardev" "[backend=]TYPE,id=ID[,mux=on|off][,key=value...]" => Group(&chars::CHARDEV),
            "Character back end. 'help' lists the types.";
        "serial" "BACKEND" => Text(chars::serial),
            "Next serial port: stdio, mon:stdio, null, none, pty, file:PATH, pipe:PATH, tcp:HOST:PORT[,server=on], unix:PATH[,server=on], telnet:HOST:PORT, udp:HOST:PORT, vc, chardev:ID.";
        "parallel" "BACKEND" => Text(chars::parallel), "Next parallel port, with the back ends of -serial.";
        "monitor" "BACKEND" => Text(chars::monitor), "Human monitor, with the back ends of -serial.";
        "qmp" "BACKEND" => Text(chars::qmp), "QMP monitor, with the back ends of -serial.";
        "qmp-pretty" "BACKEND" => Text(chars::qmp_pretty), "QMP monitor with indented answers.";
        "mon" "[chardev=]ID[,mode=readline|control][,pretty=on|off]" => Group(&chars::MON),
            "Monitor on a chardev.";
    }
    Display: {
        "display" "TYPE" => Group(&runtime::DISPLAY), "Display; 'help' lists the types.";
        "nographic" "" => Flag(runtime::nographic),
            "No display; the first serial port and the monitor share the terminal.";
        "audiodev" "[driver=]none,id=ID" => Group(&runtime::AUDIODEV), "Audio back end; there is none that plays anything.";
        "vga" "TYPE" => Text(runtime::vga), "Default video card.";
    }
    Run: {
        "name" "[guest=]NAME[,process=NAME][,debug-threads=on|off]" => Group(&runtime::NAME), "Name of the guest.";
        "S" "" => Flag(runtime::start_paused), "Do not start the vCPUs; 'cont' in a monitor does.";
        "no-reboot" "" => Flag(runtime::no_reboot), "End instead of resetting; the same as -action reboot=shutdown.";
        "no-shutdown" "" => Flag(runtime::no_shutdown), "Stop instead of ending; the same as -action shutdown=pause.";
        "action" "key=value..." => Group(&runtime::ACTION), "What a reset, a power-off, a panic or a watchdog of the guest does.";
        "watchdog-action" "ACTION" => Text(runtime::watchdog_action), "The same as -action watchdog=ACTION.";
        "incoming" "URI|defer" => Text(runtime::incoming), "Wait for the state of another machine.";
        "loadvm" "TAG|FILE" => Text(runtime::loadvm), "Start from a snapshot.";
        "add-fd" "fd=FD,set=SET[,opaque=TEXT]" => Group(&runtime::ADD_FD), "Give a descriptor of the process the name /dev/fdset/SET.";
        "daemonize" "" => Flag(runtime::daemonize), "Go to the background after start-up.";
        "pidfile" "FILE" => Text(runtime::pidfile), "Write the process id to a file.";
        "run-with" "key=value..." => Group(&runtime::RUN_WITH), "Root folder, user and end of the process.";
        "sandbox" "[enable=]on|off[,key=value...]" => Group(&runtime::SANDBOX), "Filter the system calls of the process.";
        "overcommit" "key=value..." => Group(&runtime::OVERCOMMIT), "Locking of guest RAM, and idle states for the guest.";
    }
    Debug: {
        "gdb" "BACKEND" => Text(chars::gdb), "GDB server, with the back ends of -serial.";
        "s" "" => Flag(chars::gdb_default), "The same as -gdb tcp::1234.";
        "d" "ITEM,..." => Text(log::items), "Log these items; 'help' lists them.";
        "D" "FILE" => Text(log::file), "Log to a file instead of standard error; %d in it is the process id.";
        "trace" "[enable=]PATTERN[,events=FILE][,file=FILE]" => Group(&log::TRACE), "Trace events.";
        "msg" "key=value..." => Group(&runtime::MSG), "Time and guest name before messages.";
    }
    Other: {
        "readconfig" "FILE" => Text(runtime::readconfig), "Options from an INI file: [option \"id\"] and key = \"value\".";
        "config" "FILE" => Text(runtime::config), "A whole configuration in JSON; options after it add to it.";
        "no-user-config" "" => Flag(runtime::no_user_config), "Read no configuration file of the user.";
        "help" | "h" | "?" "" => Flag(runtime::help), "This text.";
        "version" "" => Flag(runtime::version), "The version.";
    }
}
