//! Names and numbers in text of `lspci`.

#[path = "common/texts.rs"]
mod texts;

use sva_topology::machine::{Basis, Class, Ids, Machine, Source};
use texts::function;

// shows G1: numbers follow from names, unless several models share one.
#[test]
fn names_give_the_numbers_that_the_text_lacks() {
    let text = "\
00:00.0 Host bridge: Intel Corporation 8th Gen Core Processor Host Bridge/DRAM Registers (rev 07)
00:01.0 PCI bridge: Intel Corporation 6th-10th Gen Core Processor PCIe Controller (x16) (rev 0d)
00:02.0 System peripheral: Intel Corporation Device 1234
00:03.0 System peripheral: Intel Corporation Thing That Never Was
00:04.0 Unassigned class [ff00]: Nobody at All Widget
00:05.0 System peripheral: Red Hat, Inc. Thing That Never Was
";
    let machine = texts::machine(text);
    let ids = |at| function(&machine, at).ids;
    assert_eq!(
        ids("00:01.0").map(|ids| (ids.value, ids.source)),
        Some((Ids { vendor: 0x8086, device: 0x1901 }, Source::Inferred(Basis::Name)))
    );
    assert_eq!(ids("00:02.0").map(|ids| ids.value.device), Some(0x1234));
    assert_eq!(
        ids("00:03.0").map(|ids| (ids.value, ids.source)),
        Some((Ids { vendor: 0x8086, device: Ids::UNKNOWN }, Source::Assumed(Basis::VendorName)))
    );
    assert_eq!(ids("00:04.0"), None);
    assert_eq!(
        ids("00:05.0").map(|ids| ids.source),
        Some(Source::Assumed(Basis::Name)),
        "two vendors have this name"
    );
    let class = |at| function(&machine, at).class.map(|class| class.value);
    assert_eq!(
        (class("00:00.0"), class("00:01.0"), class("00:04.0")),
        (Some(Class(0x06_0000)), Some(Class(0x06_0400)), Some(Class(0xff_0000)))
    );
    let shared = texts::machine(
        "00:00.0 Host bridge: Intel Corporation 8th Gen Core Processor Host Bridge/DRAM \
         Registers\n",
    );
    assert!(matches!(
        function(&shared, "00:00.0").ids.map(|ids| ids.source),
        Some(Source::Assumed(Basis::VendorName) | Source::Inferred(Basis::Name))
    ));
}

// shows G1: quirks go by number, and the database has renamed whole series since old distributions
// printed their names.
#[test]
fn names_that_the_database_has_changed_since_still_give_the_numbers() {
    for (name, device) in [
        ("Sunrise Point-H PCI Express Root Port #5 (rev f1)", 0xa114),
        ("Sunrise Point-H PCI Root Port #17 (rev f1)", 0xa167),
        ("Ibex Peak PCI Express Root Port 1 (rev 05)", 0x3b42),
        ("Cougar Point PCI Express Root Port 1 (rev b5)", 0x1c10),
        ("Panther Point PCI Express Root Port 1 (rev c4)", 0x1e10),
        ("Panther Point PCI Express Root Port 2 (rev c4)", 0x1e12),
        ("7 Series/C210 Series Chipset Family PCI Express Root Port 1 (rev c4)", 0x1e10),
        ("Patsburg PCI Express Root Port 8", 0x1d1e),
        ("Lynx Point PCI Express Root Port #2 (rev d5)", 0x8c12),
        ("Lynx Point-LP PCI Express Root Port 3 (rev e4)", 0x9c14),
        ("Wellsburg PCI Express Root Port #1 (rev d5)", 0x8d10),
        ("Sky Lake PCIe Controller (x16) (rev 07)", 0x1901),
    ] {
        let machine = texts::machine(&format!("00:1c.0 PCI bridge: Intel Corporation {name}\n"));
        let ids = function(&machine, "00:1c.0").ids.map(|ids| ids.value);
        assert_eq!(ids, Some(Ids { vendor: 0x8086, device }), "{name}");
    }
    let machine = texts::machine(
        "00:14.3 ISA bridge: ATI Technologies Inc SB700/SB800 LPC host controller\n",
    );
    assert_eq!(
        function(&machine, "00:14.3").ids.map(|ids| ids.value),
        Some(Ids { vendor: 0x1002, device: 0x439d })
    );
    let machine = texts::machine("00:15.0 PCI bridge: ATI Technologies Inc Unknown device 43a0\n");
    assert_eq!(
        function(&machine, "00:15.0").ids.map(|ids| ids.value),
        Some(Ids { vendor: 0x1002, device: 0x43a0 })
    );
}

// shows G1: AMD's FCHs have OHCI controllers 7807 and 7809 of one name, of which one has a quirk;
// and two generations have a PCI bridge of one name.
#[test]
fn of_several_models_with_one_name_the_one_numbered_nearest_to_its_device_is_taken() {
    let fch = |generation: &str, smbus: &str| {
        format!(
            "\
00:12.0 USB controller: Advanced Micro Devices, Inc. [AMD] FCH USB OHCI Controller
00:12.2 USB controller: Advanced Micro Devices, Inc. [AMD] Device {generation}08
00:14.0 SMBus: Advanced Micro Devices, Inc. [AMD] {smbus}
00:14.4 PCI bridge: Advanced Micro Devices, Inc. [AMD] FCH PCI Bridge \
(prog-if 01 [Subtractive decode])
00:14.5 USB controller: Advanced Micro Devices, Inc. [AMD] FCH USB OHCI Controller
"
        )
    };
    let old = texts::machine(&fch("78", "Device 780b"));
    let device =
        |machine: &Machine, at| function(machine, at).ids.map(|ids| (ids.value.device, ids.source));
    assert_eq!(device(&old, "00:12.0"), Some((0x7807, Source::Assumed(Basis::VendorName))));
    assert_eq!(device(&old, "00:14.5"), Some((0x7809, Source::Assumed(Basis::VendorName))));
    assert_eq!(device(&old, "00:14.4").map(|(device, _)| device), Some(0x780f));
    let new = texts::machine(&fch("79", "Device 790b"));
    assert_eq!(device(&new, "00:14.4").map(|(device, _)| device), Some(0x790f));
}

// shows G1
#[test]
fn numbers_alone_read_too() {
    let machine =
        texts::machine("00:1f.0 0601: 8086:a2ca (rev 02)\n00:02.0 Class 0300: 8086:5912\n");
    let of = |at| {
        (
            function(&machine, at).ids.map(|ids| ids.value),
            function(&machine, at).class.map(|class| class.value),
        )
    };
    assert_eq!(
        of("00:1f.0"),
        (Some(Ids { vendor: 0x8086, device: 0xa2ca }), Some(Class(0x06_0100)))
    );
    assert_eq!(
        of("00:02.0"),
        (Some(Ids { vendor: 0x8086, device: 0x5912 }), Some(Class(0x03_0000)))
    );
}
