//! Real machines whose kernel's groups are known: a folder of folders, each with `lspci.txt` and
//! `groups.txt` (a line for each device: address, group).
//!
//! The folder is named by the environment variable `SVA_TOPOLOGY_DIR`; without it there is nothing
//! to check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sva_core::Bdf;
use sva_topology::groups::{Grouping, Policy, explain};
use sva_topology::machine::Machine;

fn machines() -> Vec<PathBuf> {
    let Ok(folder) = std::env::var("SVA_TOPOLOGY_DIR") else {
        eprintln!("SVA_TOPOLOGY_DIR is not set: no real machines are checked");
        return Vec::new();
    };
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("SVA_TOPOLOGY_DIR={folder}: {error}"));
    let mut all: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.join("groups.txt").is_file())
        .collect();
    all.sort();
    assert!(!all.is_empty(), "SVA_TOPOLOGY_DIR={folder} has no folder with a groups.txt");
    all
}

/// The kernel's groups.
fn kernel_groups(folder: &Path) -> BTreeMap<Bdf, u32> {
    let text = fs::read_to_string(folder.join("groups.txt")).expect("groups.txt can be read");
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        let pair = words
            .next()
            .and_then(|bdf| bdf.parse().ok())
            .zip(words.next().and_then(|group| group.parse().ok()));
        pair.unwrap_or_else(|| panic!("{}: `{line}` is no address and group", folder.display()))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(pair).collect()
}

/// The members of each group among `known`.
fn partition(
    known: &BTreeMap<Bdf, u32>,
    of: impl Fn(Bdf) -> Option<u32>,
) -> BTreeSet<BTreeSet<Bdf>> {
    let mut groups: BTreeMap<Option<u32>, BTreeSet<Bdf>> = BTreeMap::new();
    for bdf in known.keys() {
        groups.entry(of(*bdf)).or_default().insert(*bdf);
    }
    groups.into_values().collect()
}

/// The differences between a machine's groups and the kernel's, with the explanations.
fn differences(folder: &Path) -> Vec<String> {
    let text = fs::read(folder.join("lspci.txt")).expect("lspci.txt can be read");
    let machine: Machine = match sva_topology::read::from_text(&text) {
        Ok(machine) => machine,
        Err(error) => return vec![format!("{}: {error}", folder.display())],
    };
    let kernel = kernel_groups(folder);
    let grouping = Grouping::compute(&machine, Policy::Linux);
    let ours = partition(&kernel, |bdf| machine.find(bdf).and_then(|index| grouping.of(index)));
    let theirs = partition(&kernel, |bdf| kernel.get(&bdf).copied());
    let mut found: Vec<String> = kernel
        .keys()
        .filter(|bdf| machine.find(**bdf).is_none())
        .map(|bdf| format!("{bdf} was not read"))
        .collect();
    for group in theirs.symmetric_difference(&ours) {
        let side = if theirs.contains(group) { "kernel" } else { "computed" };
        found.push(format!("{side}: {group:?}"));
        for bdf in group {
            let lines = machine
                .find(*bdf)
                .map(|index| explain(&machine, &grouping, index).lines(&machine))
                .unwrap_or_default();
            found.extend(lines.into_iter().map(|line| format!("    {line}")));
        }
    }
    found
        .into_iter()
        .map(|line| format!("{}: {line}", folder.file_name().unwrap_or_default().to_string_lossy()))
        .collect()
}

// shows G1
#[test]
fn real_machines_come_out_as_their_kernels_grouped_them() {
    let found: Vec<String> = machines().iter().flat_map(|folder| differences(folder)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
