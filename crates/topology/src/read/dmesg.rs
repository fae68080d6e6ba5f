//! Kernel logs: the groups that the kernel made, and what it said of its IOMMUs.
//!
//! Lines are known by what the kernel wrote, wherever it stands in them: timestamps, `kernel:`
//! prefixes, the journal's fields and quote marks come before it. A line that a mail program broke
//! within these words is lost. The command line is only searched for options that concern IOMMU and
//! PCI.

use std::collections::{HashMap, HashSet};

use sva_core::Bdf;

use super::error::ReadError;
use super::limit::LONGEST;
use super::options::options;
use super::sanitize::sanitize;
use crate::machine::{Class, FunctionReading, Hex, IommuKind, IommuReading, Reading, limit};

/// How far a kernel log and a reading are about the same functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMatch {
    /// Functions of the reading that the log puts into a group.
    pub placed: usize,
    /// Functions that the log found, or put into a group.
    pub named: usize,
    /// Those of them that the reading does not have.
    pub missing: usize,
}

impl LogMatch {
    /// Whether the log seems to be of another machine: the reading does not have most of the
    /// functions that it names.
    pub const fn is_of_another_machine(&self) -> bool {
        self.missing > self.named / 2
    }
}

/// Adds what a kernel log says to a reading: groups of its functions, IOMMUs, the kernel's release
/// and options. What the reading has itself is kept. A log that seems to be of another machine is
/// added all the same: a reading may be of a part of the machine.
///
/// # Errors
///
/// [`ReadError::TooLong`]. A log that says nothing of use is no error; the counts are zero.
pub fn add_dmesg(reading: &mut Reading, text: &[u8]) -> Result<LogMatch, ReadError> {
    if text.len() > LONGEST {
        return Err(ReadError::TooLong { bytes: text.len(), limit: LONGEST });
    }
    let text = String::from_utf8_lossy(text);
    let mut log = Log::default();
    for line in text.lines() {
        log.line(line);
    }
    Ok(log.apply(reading))
}

#[derive(Default)]
struct Log {
    groups: HashMap<Bdf, u32>,
    found: HashSet<Bdf>,
    iommus: Vec<IommuReading>,
    amd_features: Option<u64>,
    enabled: Option<bool>,
    kernel: Option<String>,
    options: Option<Vec<String>>,
}

impl Log {
    fn line(&mut self, line: &str) {
        if let Some((bdf, group)) = group(line) {
            // A device that was removed and came back is where it was put last.
            if self.groups.len() < limit::FUNCTIONS || self.groups.contains_key(&bdf) {
                self.groups.insert(bdf, group);
            }
        } else if let Some(bdf) = found(line) {
            if self.found.len() < limit::FUNCTIONS {
                self.found.insert(bdf);
            }
        } else if let Some(line) = after(line, "Command line: ") {
            self.options.get_or_insert_with(|| options(line));
        } else if let Some(rest) = after(line, "Linux version ") {
            self.kernel.get_or_insert_with(|| {
                sanitize(rest.split_whitespace().next().unwrap_or_default())
            });
        } else if line.contains("DMAR: IOMMU enabled") {
            self.enabled = Some(true);
        } else if line.contains("DMAR: IOMMU disabled")
            || line.contains("AMD-Vi: AMD IOMMU disabled")
        {
            self.enabled = Some(false);
        } else if let Some(iommu) = vt_d(line).or_else(|| smmu(line)) {
            self.add(iommu);
        } else {
            self.amd(line);
        }
    }

    fn add(&mut self, iommu: IommuReading) {
        if self.iommus.len() < limit::IOMMUS
            && !self.iommus.iter().any(|known| known.name == iommu.name)
        {
            self.iommus.push(iommu);
        }
    }

    /// `pci 0000:00:00.2: AMD-Vi: Found IOMMU cap 0x40` (before 6.7) and `pci 0000:00:00.2: AMD-Vi:
    /// IOMMU performance counters supported` name an IOMMU, `AMD-Vi: Extended features (0x...)`
    /// holds for all of them.
    fn amd(&mut self, line: &str) {
        let Some((before, said)) = line.split_once("AMD-Vi: ") else { return };
        if said.starts_with("Found IOMMU") || said.starts_with("IOMMU performance counters") {
            let function = before
                .split_whitespace()
                .filter_map(|word| word.trim_end_matches(':').parse::<Bdf>().ok())
                .next_back();
            let at = said.split_whitespace().find_map(|word| word.parse::<Bdf>().ok());
            if let Some(function) = function.or(at) {
                self.add(amd(function));
            }
        } else if let Some(register) = said.strip_prefix("Extended features (").and_then(number) {
            self.amd_features = Some(register);
        }
    }

    /// The IOMMUs. Where the log tells what AMD's can do and names none, they are the functions
    /// that are IOMMUs.
    fn iommus(&mut self, functions: &[FunctionReading]) -> Vec<IommuReading> {
        if let Some(features) = self.amd_features {
            if self.iommus.iter().all(|iommu| iommu.kind != IommuKind::AmdVi) {
                functions
                    .iter()
                    .filter(|function| is_iommu(function))
                    .for_each(|function| self.add(amd(function.bdf)));
            }
            for iommu in self.iommus.iter_mut().filter(|iommu| iommu.kind == IommuKind::AmdVi) {
                iommu.extended = Some(Hex(features));
            }
        }
        std::mem::take(&mut self.iommus)
    }

    fn apply(mut self, reading: &mut Reading) -> LogMatch {
        let named: HashSet<Bdf> = self.groups.keys().chain(&self.found).copied().collect();
        let known: HashSet<Bdf> = reading.functions.iter().map(|function| function.bdf).collect();
        let mut placed = 0;
        for function in &mut reading.functions {
            if let Some(group) = self.groups.get(&function.bdf) {
                function.kernel_group.get_or_insert(*group);
                placed += 1;
            }
        }
        let iommus = self.iommus(&reading.functions);
        // A log from the boot on puts every device that an IOMMU translates into its group.
        reading.lists_groups |= placed > 0 && self.kernel.is_some();
        let host = &mut reading.host;
        host.kernel = host.kernel.take().or(self.kernel);
        host.options = host.options.take().or(self.options);
        host.iommu_in_use = host.iommu_in_use.or((placed > 0).then_some(true)).or(self.enabled);
        if host.iommus.is_empty() {
            host.iommus = iommus;
        }
        LogMatch { placed, named: named.len(), missing: named.difference(&known).count() }
    }
}

/// `pci 0000:00:1f.0: [8086:a0a3] type 00 class 0x060100`: a function that enumeration found.
fn found(line: &str) -> Option<Bdf> {
    let (device, numbers) = after(line, "pci ")?.split_once(": [")?;
    numbers.split_once(':').filter(|(vendor, _)| vendor.len() == 4 && number(vendor).is_some())?;
    full(device)
}

/// `pci 0000:00:02.0: Adding to iommu group 1`, or before 5.4 `iommu: Adding device 0000:00:02.0 to
/// group 1`.
fn group(line: &str) -> Option<(Bdf, u32)> {
    let number = |text: &str| {
        let digits = text.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    if let Some((before, after)) = line.split_once(": Adding to iommu group ") {
        let device = before.split_whitespace().next_back()?;
        return Some((full(device)?, number(after)?));
    }
    let rest = after(line, "iommu: Adding device ")?;
    let (device, rest) = rest.split_once(" to group ")?;
    Some((full(device)?, number(rest)?))
}

/// An address with its segment: in a log, what is shorter is something else.
fn full(text: &str) -> Option<Bdf> {
    text.parse().ok().filter(|_| text.matches(':').count() == 2)
}

/// `DMAR: dmar0: reg_base_addr fed90000 ver 1:0 cap 1c0000c40660462 ecap 19e2ff0505e`.
fn vt_d(line: &str) -> Option<IommuReading> {
    let (name, rest) = after(line, "DMAR: ")?.split_once(": reg_base_addr ")?;
    let field = |key: &str| rest.split_once(key).and_then(|(_, text)| number(text));
    let mut unit = iommu(name.to_owned(), IommuKind::VtD, None);
    (unit.capability, unit.extended) = (field(" cap ").map(Hex), field(" ecap ").map(Hex));
    Some(unit)
}

/// `arm-smmu-v3 arm-smmu-v3.0.auto: ias 44-bit, oas 44-bit (features 0x00008305)`.
fn smmu(line: &str) -> Option<IommuReading> {
    let (_, rest) = line.split_once("arm-smmu-v3 ")?;
    let (name, said) = rest.split_once(": ")?;
    let register = after(said, "(features ").and_then(number)?;
    let mut unit = iommu(name.to_owned(), IommuKind::SmmuV3, None);
    unit.extended = Some(Hex(register));
    Some(unit)
}

fn amd(function: Bdf) -> IommuReading {
    iommu(format!("AMD-Vi {function}"), IommuKind::AmdVi, Some(function))
}

/// By its class, or the words for it.
fn is_iommu(function: &FunctionReading) -> bool {
    function.class_code() == Some(Class::IOMMU) || function.class_name.as_deref() == Some("IOMMU")
}

fn iommu(name: String, kind: IommuKind, function: Option<Bdf>) -> IommuReading {
    IommuReading {
        name: sanitize(&name),
        kind,
        function,
        devices: None,
        capability: None,
        extended: None,
    }
}

/// The hexadecimal number at the start of `text`, with or without `0x`.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits = text.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

fn after<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    text.split_once(mark).map(|(_, rest)| rest)
}
