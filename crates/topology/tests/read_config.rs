//! Configuration space bytes and live machines: a folder made for the test stands for `/`.

#[path = "common/texts.rs"]
mod texts;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sva_topology::AcsBits;
use sva_topology::machine::{Basis, ExpressKind, Fact, Header, Ids, IommuKind, ListState, Source};
use sva_topology::read::{ReadError, live, save, scan};
use texts::{Config, bdf, function, port_config};

/// A folder that stands for the root of a machine.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        symlink(to, path).expect("a link");
    }

    /// A function with the ids of its configuration space.
    fn function(&self, at: &str, config: &[u8]) {
        let folder = format!("sys/bus/pci/devices/{at}");
        let word = |at: usize| u16::from_le_bytes([config[at], config[at + 1]]);
        self.write(&format!("{folder}/vendor"), format!("{:#06x}\n", word(0)));
        self.write(&format!("{folder}/device"), format!("{:#06x}\n", word(2)));
        self.write(
            &format!("{folder}/class"),
            format!("0x{:02x}{:02x}{:02x}\n", config[11], config[10], config[9]),
        );
        self.write(&format!("{folder}/config"), config);
    }
}

/// 4 KiB of an endpoint with PASID, PRI, ATS and SR-IOV.
fn card_config() -> Vec<u8> {
    let mut config = Config(vec![0; 4096]);
    config.word(0, 0x1af4).word(2, 0x0102).word(6, 0x0010).dword(8, 0x0200_0001);
    // BAR 0 has 64 bits, BAR 2 is I/O.
    config
        .dword(0x10, 0x8000_0004)
        .dword(0x14, 0x12)
        .dword(0x18, 0x2001)
        .dword(0x2c, 0x0007_1af4)
        .dword(0x34, 0x40);
    config.word(0x40, 0x0010).word(0x42, 0x0002);
    config.dword(0x100, 0x1101_000f).word(0x106, 1 << 15);
    config.dword(0x110, 0x1201_0013).word(0x114, 1).dword(0x118, 0x200);
    config.dword(0x120, 0x1301_001b).word(0x124, 0x1406).word(0x126, 0);
    config.dword(0x130, 0x0001_0010).word(0x138, 1).word(0x140, 2).word(0x144, 0x10).word(0x146, 1);
    config.0
}

fn machine_root() -> Root {
    let root = Root::new();
    root.function("0000:00:01.0", &port_config());
    root.function("0000:01:00.0", &card_config());
    root.write(
        "sys/bus/pci/devices/0000:01:00.0/resource",
        "0x0000001280000000 0x0000001280ffffff 0x000000000014220c\n0x0 0x0 0x0\n",
    );
    root.link("sys/bus/pci/devices/0000:01:00.0/driver", "../../../bus/pci/drivers/made_up");
    root.link("sys/bus/pci/devices/0000:01:00.0/iommu_group", "../../../kernel/iommu_groups/7");
    root.write("sys/kernel/iommu_groups/7/type", "DMA\n");
    root.write("proc/sys/kernel/osrelease", "6.18.0-test\n");
    root.write("proc/sys/kernel/arch", "x86_64\n");
    root.write(
        "proc/cmdline",
        "root=/dev/sda1 password=secret intel_iommu=on,sm_on iommu.passthrough=0 pci=noats quiet\n",
    );
    root
}

// shows G1
#[test]
fn four_kilobytes_tell_all_that_groups_and_readiness_rest_on() {
    let root = machine_root();
    let machine = live(root.path()).expect("it reads");
    let port = function(&machine, "00:01.0");
    let Header::Bridge(bridge) = &port.header.value else { panic!("{:?}", port.header) };
    assert_eq!((bridge.secondary, bridge.subordinate, port.multifunction.value), (1, 2, true));
    assert_eq!(
        bridge.windows.iter().map(|window| (window.first(), window.last())).collect::<Vec<_>>(),
        [(0x8000_0000, 0x81ff_ffff)]
    );
    assert_eq!(
        port.express.value.map(|express| (express.kind, express.end_to_end_prefix.value)),
        Some((ExpressKind::RootPort, true))
    );
    let acs = port.acs.value.expect("it has ACS");
    assert_eq!(
        (acs.implemented.value, acs.enabled.value),
        (AcsBits::ISOLATION | AcsBits::TB | AcsBits::DT, AcsBits::ISOLATION)
    );
    let card = function(&machine, "01:00.0");
    assert_eq!(
        card.express.value.map(|express| (express.kind, express.end_to_end_prefix.value)),
        Some((ExpressKind::Endpoint, false))
    );
    assert_eq!(
        card.pasid.value.map(|pasid| (
            pasid.width.value,
            pasid.execute,
            pasid.privileged,
            pasid.enabled.value
        )),
        Some((20, true, true, false))
    );
    assert_eq!(
        card.pri.value.map(|pri| (pri.capacity, pri.enabled.value)),
        Some((Some(0x200), true))
    );
    assert_eq!(card.ats.value.map(|ats| ats.enabled.value), Some(true));
    assert_eq!(card.subsystem.map(|ids| ids.value), Some(Ids { vendor: 0x1af4, device: 7 }));
    assert_eq!(
        card.bars.iter().map(|bar| (bar.index, bar.address, bar.size)).collect::<Vec<_>>(),
        [(0, 0x12_8000_0000, Some(1 << 24))]
    );
    assert_eq!(
        (card.driver.as_deref(), card.kernel_group, port.kernel_group),
        (Some("made_up"), Some(Some(7)), Some(None))
    );
}

// shows S2: of the command line nothing is kept that may be a secret.
#[test]
fn the_host_keeps_its_kernel_and_only_the_options_that_concern_it() {
    let machine = live(machine_root().path()).expect("it reads");
    let host = machine.host();
    assert_eq!(
        (host.kernel.as_deref(), host.architecture.as_deref()),
        (Some("6.18.0-test"), Some("x86_64"))
    );
    assert_eq!(
        host.options.as_deref(),
        Some(
            ["intel_iommu=on,sm_on", "iommu.passthrough=0", "pci=noats"]
                .map(str::to_owned)
                .as_slice()
        )
    );
    assert_eq!(host.iommu_in_use.map(|fact| (fact.value, fact.source)), Some((true, Source::Read)));
}

// shows G1: names of tables are told from a folder that is hidden, and Arm's, which may describe no
// IOMMU.
#[test]
fn acpis_tables_tell_whether_firmware_describes_an_iommu() {
    let described = |tables: &[&str]| {
        let root = machine_root();
        tables
            .iter()
            .for_each(|table| root.write(&format!("sys/firmware/acpi/tables/{table}"), ""));
        live(root.path()).expect("it reads").host().iommu_described
    };
    assert_eq!(described(&["DSDT", "FACP", "DMAR"]), Some(Fact::read(true)));
    assert_eq!(described(&["DSDT", "FACP", "IVRS"]), Some(Fact::read(true)));
    assert_eq!(described(&["DSDT", "FACP", "APIC"]), Some(Fact::read(false)));
    assert_eq!(described(&["DSDT", "FACP", "IORT"]), None);
    assert_eq!(described(&["data"]), None, "no tables");
    assert_eq!(described(&[]), None, "no folder");
}

// shows G1: what 64 bytes do not show is not taken for absent.
#[test]
fn sixty_four_bytes_hide_the_capabilities() {
    let root = machine_root();
    root.function("0000:00:01.0", &port_config()[..64]);
    root.function("0000:01:00.0", &card_config()[..64]);
    let machine = live(root.path()).expect("it reads");
    let port = function(&machine, "00:01.0");
    assert_eq!((port.header.source, port.multifunction.source), (Source::Read, Source::Read));
    assert_eq!(
        (port.express.value.map(|express| express.kind), port.express.source),
        (Some(ExpressKind::RootPort), Source::Assumed(Basis::Position))
    );
    assert_eq!(
        function(&machine, "01:00.0").pasid.source,
        Source::Assumed(Basis::CapabilitiesHidden)
    );
}

// shows G1
#[test]
fn conventional_space_alone_hides_the_extended_capabilities_only() {
    let root = machine_root();
    root.function("0000:01:00.0", &card_config()[..256]);
    let reading = scan(root.path()).expect("it reads");
    let card = reading
        .functions
        .iter()
        .find(|function| function.bdf == bdf("01:00.0"))
        .expect("it is there");
    assert_eq!(
        (card.capabilities, card.extended, card.express.map(|express| express.kind)),
        (ListState::Complete, ListState::Hidden, Some(0))
    );
}

// shows G1: a virtual function's own ids read as ones.
#[test]
fn a_virtual_function_has_the_ids_that_sysfs_gives_it() {
    let root = machine_root();
    let mut config = card_config();
    config[..4].fill(0xff);
    config[0x10..0x28].fill(0);
    root.function("0000:01:02.0", &config);
    let folder = "sys/bus/pci/devices/0000:01:02.0";
    root.write(&format!("{folder}/vendor"), "0x1af4\n");
    root.write(&format!("{folder}/device"), "0x0103\n");
    root.write(
        &format!("{folder}/resource"),
        "0x0000001290000000 0x0000001290003fff 0x000000000014220c\n",
    );
    root.link(&format!("{folder}/physfn"), "../0000:01:00.0");
    let machine = live(root.path()).expect("it reads");
    let virtual_function = function(&machine, "01:02.0");
    assert_eq!(
        virtual_function.ids.map(|ids| ids.value),
        Some(Ids { vendor: 0x1af4, device: 0x0103 })
    );
    assert_eq!(
        virtual_function.physical_function.map(|fact| (fact.value, fact.source)),
        Some((bdf("01:00.0"), Source::Read))
    );
    assert_eq!(virtual_function.bars.len(), 1);
    assert_eq!(
        virtual_function.express.value.map(|express| express.kind),
        Some(ExpressKind::Endpoint)
    );
}

// shows S2: D3cold, surprise removal.
#[test]
fn a_function_that_reads_as_ones_is_hidden_but_keeps_what_the_kernel_knows() {
    let root = machine_root();
    root.function("0000:00:01.0", &port_config());
    root.write("sys/bus/pci/devices/0000:00:01.0/config", [0xff; 4096]);
    root.write("sys/bus/pci/devices/0000:00:01.0/secondary_bus_number", "1\n");
    root.write("sys/bus/pci/devices/0000:00:01.0/subordinate_bus_number", "2\n");
    let machine = live(root.path()).expect("it reads");
    let port = function(&machine, "00:01.0");
    assert_eq!(port.bridge().map(|bridge| bridge.secondary), Some(1));
    assert_eq!(port.acs.source, Source::Assumed(Basis::CapabilitiesHidden));
}

// shows S2: lists that run in circles or out of the space end, and are not taken for complete.
#[test]
fn damaged_lists_end_and_are_not_complete() {
    type Damage = fn(&mut Config) -> &mut Config;
    let damages: [(&str, Damage); 5] = [
        ("a conventional list in a circle", |config| config.word(0x40, 0x4009)),
        ("a conventional list into the header", |config| config.word(0x40, 0x0809)),
        ("an extended list in a circle", |config| config.dword(0x130, 0x1001_0010)),
        ("an extended list into conventional space", |config| config.dword(0x130, 0x0501_0010)),
        ("an extended capability over the end", |config| {
            config.dword(0x130, 0xffc1_0010).dword(0xffc, 0xffd1_000d)
        }),
    ];
    for (what, damage) in damages {
        let root = machine_root();
        let mut config = Config(card_config());
        damage(&mut config);
        root.function("0000:01:00.0", &config.0);
        let reading = scan(root.path()).expect("it reads");
        let card = reading
            .functions
            .iter()
            .find(|function| function.bdf == bdf("01:00.0"))
            .expect("it is there");
        assert!(
            card.capabilities == ListState::Truncated || card.extended == ListState::Truncated,
            "{what}: {card:?}"
        );
        assert_eq!(card.acs, None, "{what}");
    }
}

// shows G1: the registers that the kernel shows of VT-d and AMD-Vi.
#[test]
fn iommus_are_decoded_from_the_registers_in_sysfs() {
    let root = machine_root();
    // PASID of 20 bits, page requests, device TLBs, scalable mode with first stage; and an old unit
    // with none of them.
    let able = 1_u64 << 40 | 19 << 35 | 1 << 29 | 1 << 2 | 1 << 43 | 1 << 47;
    for (name, extended) in [("dmar0", able), ("dmar1", 0xf0_101a)] {
        root.write(&format!("sys/class/iommu/{name}/intel-iommu/cap"), "d2008c40660462\n");
        root.write(&format!("sys/class/iommu/{name}/intel-iommu/ecap"), format!("{extended:x}\n"));
    }
    root.link(
        "sys/class/iommu/dmar0/devices/0000:01:00.0",
        "../../../../bus/pci/devices/0000:01:00.0",
    );
    // PPR, guest translation, 16 bits; the second register comes first in some kernels.
    let features = 1_u64 << 1 | 1 << 4 | 15 << 32 | 1 << 40;
    root.write("sys/class/iommu/ivhd0/amd-iommu/cap", "40b10000\n".replace("40b1", "41b1"));
    root.write("sys/class/iommu/ivhd0/amd-iommu/features", format!("10:{features:x}\n"));
    root.link("sys/class/iommu/ivhd0/device", "../../../devices/pci0000:00/0000:00:00.2");
    let machine = live(root.path()).expect("it reads");
    let unit = |name: &str| {
        machine.host().iommus.iter().find(|unit| unit.name == name).cloned().expect("it is listed")
    };
    let able = |name: &str| {
        let unit = unit(name);
        (
            unit.pasid_width.map(|fact| fact.value),
            [unit.page_requests, unit.device_tlb, unit.first_stage]
                .map(|fact| fact.map(|fact| fact.value)),
        )
    };
    assert_eq!(able("dmar0"), (Some(20), [Some(true); 3]));
    assert_eq!(able("dmar1"), (Some(0), [Some(false); 3]));
    assert_eq!(able("ivhd0"), (Some(16), [Some(true); 3]));
    assert_eq!(
        (unit("dmar0").kind, unit("dmar0").devices),
        (IommuKind::VtD, Some(vec![bdf("01:00.0")]))
    );
    assert_eq!(
        (unit("ivhd0").kind, unit("ivhd0").function),
        (IommuKind::AmdVi, Some(bdf("00:00.2")))
    );
}

// shows S2
#[test]
fn a_machine_without_pci_is_an_error_that_names_the_folder() {
    let root = Root::new();
    let error = live(root.path()).expect_err("nothing there");
    assert!(
        matches!(&error, ReadError::Live { path, .. } if path.ends_with("sys/bus/pci/devices")),
        "{error:?}"
    );
    assert!(error.to_string().contains("is /sys mounted"), "{error}");
}

// shows S2: a dump identifies a kind of machine, not one of them.
#[test]
fn serial_numbers_do_not_get_into_a_dump() {
    let root = machine_root();
    let mut config = Config(card_config());
    // A device serial number capability, and the same number in what sysfs knows of the device.
    config
        .dword(0x130, 0x1501_0010)
        .dword(0x150, 0x0001_0003)
        .dword(0x154, 0xdead_beef)
        .dword(0x158, 0x1234_5678);
    root.function("0000:01:00.0", &config.0);
    root.write("sys/bus/pci/devices/0000:01:00.0/serial_number", "12-34-56-78-de-ad-be-ef\n");
    let dump = save(&scan(root.path()).expect("it reads")).to_lowercase();
    for part in ["dead", "beef", "1234", "5678", "12-34", "secret", "sda1"] {
        assert!(!dump.contains(part), "{part} in {dump}");
    }
}
