//! Compares the computed groups with those that the machine's own kernel made.

use std::collections::BTreeMap;

use super::describe::list;
use super::grouping::Grouping;
use crate::machine::Machine;

/// What a comparison found. Groups are compared as sets of functions; their numbers mean nothing.
#[derive(Debug, Clone, Default)]
pub struct SelfCheck {
    /// Functions of which the source names the kernel's group.
    pub compared: usize,
    /// Each difference.
    pub differences: Vec<Difference>,
}

/// One difference. Functions are indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The kernel has in one group what is in several here.
    KernelJoins {
        /// The kernel's group.
        kernel: u32,
        /// Its members, by the group that they are in here.
        parts: Vec<(Option<u32>, Vec<usize>)>,
    },
    /// The kernel has in several groups what is in one here.
    KernelSplits {
        /// The group here.
        group: u32,
        /// Its members, by the kernel's group.
        parts: Vec<(u32, Vec<usize>)>,
    },
    /// The kernel has a group for a function that is taken here as not translated.
    OnlyKernel {
        /// The function.
        function: usize,
        /// The kernel's group.
        kernel: u32,
    },
}

impl SelfCheck {
    /// Whether there was something to compare, and it is the same.
    pub fn agrees(&self) -> bool {
        self.compared > 0 && self.differences.is_empty()
    }
}

impl Difference {
    /// The difference in words.
    pub fn describe(&self, machine: &Machine) -> String {
        match self {
            Self::KernelJoins { kernel, parts } => {
                let parts: Vec<String> =
                    parts.iter().map(|(_, members)| list(machine, members)).collect();
                format!(
                    "the kernel has together in its group {kernel}, these rules apart: {}",
                    parts.join(" | ")
                )
            }
            Self::KernelSplits { group, parts } => {
                let parts: Vec<String> = parts
                    .iter()
                    .map(|(kernel, members)| {
                        format!("{} (its group {kernel})", list(machine, members))
                    })
                    .collect();
                format!(
                    "these rules have together in group {group}, the kernel apart: {}",
                    parts.join(" | ")
                )
            }
            Self::OnlyKernel { function, kernel } => {
                format!(
                    "the kernel has {} in its group {kernel}, these rules in none",
                    list(machine, &[*function])
                )
            }
        }
    }
}

/// Compares `grouping` with the groups that the source of `machine` names, over the functions for
/// which it does.
pub fn self_check(machine: &Machine, grouping: &Grouping) -> SelfCheck {
    let known = machine.functions().iter().enumerate();
    let pairs: Vec<(usize, u32, Option<u32>)> = known
        .filter_map(|(index, function)| Some((index, function.kernel_group??, grouping.of(index))))
        .collect();
    let mut theirs: BTreeMap<u32, BTreeMap<Option<u32>, Vec<usize>>> = BTreeMap::new();
    let mut ours: BTreeMap<u32, BTreeMap<u32, Vec<usize>>> = BTreeMap::new();
    let mut differences = Vec::new();
    for &(function, kernel, group) in &pairs {
        theirs.entry(kernel).or_default().entry(group).or_default().push(function);
        match group {
            Some(group) => ours.entry(group).or_default().entry(kernel).or_default().push(function),
            None => differences.push(Difference::OnlyKernel { function, kernel }),
        }
    }
    let joins = theirs.into_iter().filter(|(_, parts)| parts.len() > 1);
    differences.extend(joins.map(|(kernel, parts)| Difference::KernelJoins {
        kernel,
        parts: parts.into_iter().collect(),
    }));
    let splits = ours.into_iter().filter(|(_, parts)| parts.len() > 1);
    differences.extend(splits.map(|(group, parts)| Difference::KernelSplits {
        group,
        parts: parts.into_iter().collect(),
    }));
    SelfCheck { compared: pairs.len(), differences }
}
