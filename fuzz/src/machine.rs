//! Readers of real machines, and what is computed of what they read.

use std::fs;

use sva_pci::mirror::mirror;
use sva_topology::diff::{Difference, Side};
use sva_topology::groups::{self, Grouping, Policy};
use sva_topology::machine::Reading;
use sva_topology::picture;
use sva_topology::read::{add_dmesg, parse, save, scan};
use sva_topology::ready;

/// Text of `lspci`, or a dump.
///
/// # Panics
/// It reads to something odd.
pub fn text(data: &[u8]) {
    match parse(data) {
        Ok(reading) => look_at(&reading),
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 1_000 && !message.contains(char::is_control), "{message:?}");
            assert!(message.starts_with("line "), "{message}");
        }
    }
}

/// A kernel log of a machine with two functions.
///
/// # Panics
/// It places a function that is not there.
pub fn kernel_log(data: &[u8]) {
    const MACHINE: &[u8] = include_bytes!("../seeds/lspci/port-and-card.txt");
    let mut reading = parse(MACHINE).expect("the seed reads");
    let Ok(matched) = add_dmesg(&mut reading, data) else { return };
    let grouped = reading.functions.iter().filter(|one| one.kernel_group.is_some()).count();
    assert_eq!((reading.functions.len(), grouped), (2, matched.placed));
    look_at(&reading);
}

/// Configuration space, printed as `lspci -xxxx` prints it.
///
/// # Panics
/// As [`text`].
pub fn config_space(data: &[u8]) {
    let mut dump = "00:01.0 PCI bridge: x\n".to_owned();
    for (line, chunk) in data.chunks(16).take(256).enumerate() {
        let bytes: String = chunk.iter().map(|byte| format!(" {byte:02x}")).collect();
        dump.push_str(&format!("{:02x}:{bytes}\n", line * 16));
    }
    text(dump.as_bytes());
}

/// Files of a function, split at bytes of 0xff: configuration space, resources, class, capability
/// register of the IOMMU.
///
/// # Panics
/// The function is not read.
pub fn sysfs(data: &[u8]) {
    const NAMES: [&str; 4] = ["resource", "class", "secondary_bus_number", "config"];
    // In memory where that is at hand: files are most of a run's time.
    let memory = std::path::Path::new("/dev/shm");
    let root = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("a folder");
    let folder = root.path().join("sys/bus/pci/devices/0000:00:01.0");
    let iommu = root.path().join("sys/class/iommu/dmar0/intel-iommu");
    for folder in [&folder, &iommu] {
        fs::create_dir_all(folder).expect("a folder");
    }
    let mut parts = data.splitn(NAMES.len() + 1, |byte| *byte == 0xff);
    fs::write(iommu.join("ecap"), parts.next().unwrap_or_default()).expect("a file");
    for (name, bytes) in NAMES.iter().zip(parts) {
        fs::write(folder.join(name), bytes).expect("a file");
    }
    fs::write(folder.join("vendor"), "0x8086").expect("a file");
    fs::write(folder.join("device"), "0x1901").expect("a file");
    let reading = scan(root.path()).expect("one function is there");
    assert_eq!(reading.machine().functions().len(), 1);
    look_at(&reading);
}

/// Everything that the command shows of a machine.
fn look_at(reading: &Reading) {
    assert_eq!(
        parse(save(reading).as_bytes()).as_ref().ok(),
        Some(reading),
        "what was saved reads"
    );
    let machine = reading.machine();
    let count = machine.functions().len();
    assert!(count <= reading.functions.len());
    // What follows takes more than linear time.
    if count > 64 {
        return;
    }
    for (index, function) in machine.functions().iter().enumerate() {
        assert!(machine.bridges_above(index).count() <= 256, "a walk up ends");
        let odd = |name: &String| name.chars().count() > 300 || name.contains(char::is_control);
        assert!(!function.name.as_ref().is_some_and(odd), "{:?}", function.name);
    }
    let grouping = Grouping::compute(&machine, Policy::Linux);
    for difference in groups::self_check(&machine, &grouping).differences {
        difference.describe(&machine);
    }
    assert!(ready::readiness(&machine, &grouping).len() <= count);
    for index in 0..count {
        groups::explain(&machine, &grouping, index).lines(&machine);
        groups::why_not(&machine, &grouping, 0, index).lines(&machine);
    }
    picture::text(&machine, &grouping);
    picture::html(&machine, &grouping);
    let side = || Side { machine: &machine, grouping: &grouping };
    assert!(Difference::between(side(), side()).is_empty());
    if let Ok(mirrored) = mirror(&machine, &grouping) {
        sva_pci::Fabric::new(mirrored.spec).expect("a mirror is a fabric");
    }
}
