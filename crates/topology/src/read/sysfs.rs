//! A live Linux machine: `/sys/bus/pci`, `/sys/class/iommu`, `/sys/firmware/acpi/tables`, `/proc`.
//!
//! Without CAP_SYS_ADMIN the kernel gives 64 bytes of configuration space: headers, but no
//! capability. What a function does not have, or what this process may not read, is simply not in
//! the reading. Functions come and go while their files are read; one that went is left out.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sva_core::Bdf;

use super::config;
use super::error::ReadError;
use super::options::options;
use super::sanitize::sanitize;
use crate::infer::name_of;
use crate::machine::{
    BarReading, Buses, Class, FunctionReading, Hex, HostReading, Ids, IommuKind, IommuReading,
    ListState, Machine, Reading, limit,
};

/// The longest file that is read: configuration space is the longest of use.
const LONGEST_FILE: u64 = 64 << 10;

/// Reads the machine whose file systems are below `root`: `/` for this one, another folder for a
/// copy of its `/sys` and `/proc`.
///
/// # Errors
///
/// [`ReadError::Live`] where there are no PCI devices to list. A file of a single device that
/// cannot be read is what was not read of it.
pub fn live(root: &Path) -> Result<Machine, ReadError> {
    scan(root).map(|reading| reading.machine())
}

/// Like [`live`], before anything is concluded.
///
/// # Errors
///
/// As [`live`].
pub fn scan(root: &Path) -> Result<Reading, ReadError> {
    let folder = root.join("sys/bus/pci/devices");
    let mut functions = Vec::new();
    for (name, path) in
        entries(&folder).map_err(|source| ReadError::Live { path: folder.clone(), source })?
    {
        if functions.len() == limit::FUNCTIONS {
            break;
        }
        if let Ok(bdf) = name.parse() {
            functions.extend(function(bdf, &path));
        }
    }
    if functions.is_empty() {
        return Err(ReadError::Live { path: folder, source: ErrorKind::NotFound.into() });
    }
    functions.sort_by_key(|function| function.bdf);
    let lists_groups = entries(&root.join("sys/kernel/iommu_groups")).is_ok();
    Ok(Reading { host: host(root), lists_groups, truncated: false, functions })
}

/// One function; none where it went away.
fn function(bdf: Bdf, folder: &Path) -> Option<FunctionReading> {
    let number = |name: &str| hex(&text(&folder.join(name))?);
    let word = |name: &str| u16::try_from(number(name)?).ok();
    let ids = word("vendor").zip(word("device")).map(|(vendor, device)| Ids { vendor, device })?;
    let mut reading = FunctionReading::at(bdf);
    reading.ids = Some(ids);
    reading.subsystem = word("subsystem_vendor")
        .zip(word("subsystem_device"))
        .map(|(vendor, device)| Ids { vendor, device })
        .filter(|ids| ids.vendor != 0);
    reading.class = number("class")
        .and_then(|class| u32::try_from(class).ok())
        .filter(|class| *class <= 0xff_ffff)
        .map(Class);
    reading.class_name = reading.class.and_then(Class::name);
    reading.name = name_of(ids);
    reading.bars = bars(&text(&folder.join("resource")).unwrap_or_default());
    let bus = |name: &str| text(&folder.join(name))?.trim().parse().ok();
    if let Some((secondary, subordinate)) =
        bus("secondary_bus_number").zip(bus("subordinate_bus_number"))
    {
        reading.buses = Some(Buses { secondary, subordinate });
    }
    // Config space of a function that sleeps in D3cold reads as ones; what sysfs keeps is all that
    // is known then.
    if !config::decode(&bytes(&folder.join("config")).unwrap_or_default(), &mut reading) {
        reading.capabilities = ListState::Hidden;
        reading.extended = ListState::Hidden;
    }
    reading.physical_function = link(&folder.join("physfn")).and_then(|name| name.parse().ok());
    reading.driver = link(&folder.join("driver")).map(|name| sanitize(&name));
    reading.kernel_group = link(&folder.join("iommu_group")).and_then(|name| name.parse().ok());
    Some(reading)
}

/// The memory BARs of the file `resource`: lines of first, last and flags; the first six are BARs.
fn bars(resource: &str) -> Vec<BarReading> {
    const MEMORY: u64 = 0x200;
    let bar = |(index, line): (usize, &str)| {
        let mut fields = line.split_whitespace().map(hex);
        let (first, last, flags) = (fields.next()??, fields.next()??, fields.next()??);
        let size = last.checked_sub(first)?.checked_add(1)?;
        (flags & MEMORY != 0 && first != 0).then_some(BarReading {
            index: index as u8,
            address: Hex(first),
            size: Some(Hex(size)),
        })
    };
    resource.lines().take(6).enumerate().filter_map(bar).collect()
}

fn host(root: &Path) -> HostReading {
    HostReading {
        kernel: text(&root.join("proc/sys/kernel/osrelease")).map(|text| sanitize(&text)),
        architecture: text(&root.join("proc/sys/kernel/arch"))
            .map(|text| sanitize(&text))
            .or_else(|| own_architecture(root)),
        options: text(&root.join("proc/cmdline")).map(|line| options(&line)),
        iommu_in_use: entries(&root.join("sys/kernel/iommu_groups"))
            .ok()
            .map(|groups| !groups.is_empty()),
        iommu_described: described(&root.join("sys/firmware/acpi/tables")),
        iommus: iommus(&root.join("sys/class/iommu")),
    }
}

/// Whether ACPI's tables describe an IOMMU; their names can be read without root. Not known on
/// machines that are described otherwise (device trees), in containers that hide the folder, and
/// where only Arm's IORT might: it describes interrupt controllers too.
fn described(tables: &Path) -> Option<bool> {
    /// VT-d, AMD-Vi, virtio-iommu, RISC-V.
    const DESCRIBE: [&str; 4] = ["DMAR", "IVRS", "VIOT", "RIMT"];
    /// Every machine with ACPI has this one: without it, what is listed is not the tables.
    const ALWAYS: &str = "FACP";
    let tables = entries(tables).ok()?;
    let has = |wanted: &str| tables.iter().any(|(name, _)| name == wanted);
    if DESCRIBE.into_iter().any(has) {
        return Some(true);
    }
    (has(ALWAYS) && !has("IORT")).then_some(false)
}

/// What this program was built for, on kernels before 6.1, which do not say what they were.
fn own_architecture(root: &Path) -> Option<String> {
    (root == Path::new("/")).then(|| std::env::consts::ARCH.to_owned())
}

fn iommus(folder: &Path) -> Vec<IommuReading> {
    let mut found: Vec<IommuReading> = entries(folder)
        .unwrap_or_default()
        .iter()
        .take(limit::IOMMUS)
        .map(|(name, path)| iommu(name, path))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn iommu(name: &str, folder: &Path) -> IommuReading {
    let number = |name: &str| text(&folder.join(name)).and_then(|text| hex(&text));
    let kind = kind(name, folder);
    let (capability, extended) = match kind {
        IommuKind::VtD => (number("intel-iommu/cap"), number("intel-iommu/ecap")),
        IommuKind::AmdVi => (
            number("amd-iommu/cap"),
            text(&folder.join("amd-iommu/features")).and_then(|text| features(&text)),
        ),
        _ => (None, None),
    };
    let devices = entries(&folder.join("devices")).ok();
    let mut devices: Option<Vec<Bdf>> =
        devices.map(|devices| devices.iter().filter_map(|(name, _)| name.parse().ok()).collect());
    devices.iter_mut().for_each(|devices| devices.sort());
    IommuReading {
        name: sanitize(name),
        kind,
        function: link(&folder.join("device")).and_then(|name| name.parse().ok()),
        devices,
        capability: capability.map(Hex),
        extended: extended.map(Hex),
    }
}

fn kind(name: &str, folder: &Path) -> IommuKind {
    match name {
        _ if folder.join("intel-iommu").is_dir() => IommuKind::VtD,
        _ if folder.join("amd-iommu").is_dir() => IommuKind::AmdVi,
        _ if name.starts_with("dmar") => IommuKind::VtD,
        _ if name.starts_with("ivhd") => IommuKind::AmdVi,
        _ if name.starts_with("smmu3") => IommuKind::SmmuV3,
        _ if name.starts_with("smmu") => IommuKind::Smmu,
        _ if name.starts_with("riscv") => IommuKind::RiscV,
        _ if name.starts_with("virtio") => IommuKind::Virtio,
        _ => IommuKind::Other,
    }
}

/// AMD's extended features: one register, or two with a colon. Kernels differ in which comes first;
/// the second has a few low bits only.
fn features(text: &str) -> Option<u64> {
    text.trim().split(':').take(2).filter_map(hex).max()
}

/// A number in hexadecimal, with or without `0x`.
fn hex(text: &str) -> Option<u64> {
    let text = text.trim();
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// The last name of what a link points to.
fn link(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

fn text(path: &Path) -> Option<String> {
    String::from_utf8(bytes(path)?).ok()
}

/// What can be read of a file, up to a bound.
fn bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(LONGEST_FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Names and paths of what is in a folder.
fn entries(folder: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(folder)?;
    Ok(entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect())
}
