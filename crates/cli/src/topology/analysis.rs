//! All that is known of one machine.

use sva_topology::groups::{self, Grouping, Policy, SelfCheck};
use sva_topology::machine::{Machine, Reading};
use sva_topology::ready::{self, Readiness};

/// A machine with what follows from it.
pub(super) struct Analysis {
    /// What was read.
    pub(super) reading: Reading,
    /// Its functions and buses.
    pub(super) machine: Machine,
    /// Its groups by one policy.
    pub(super) grouping: Grouping,
    /// How those compare with the kernel's.
    pub(super) check: SelfCheck,
    /// Which devices can share a process's address space.
    pub(super) readiness: Vec<Readiness>,
}

impl Analysis {
    /// Groups the functions by `policy` and looks at the gates of each.
    pub(super) fn new(reading: Reading, policy: Policy) -> Self {
        let machine = reading.machine();
        let grouping = Grouping::compute(&machine, policy);
        let check = groups::self_check(&machine, &grouping);
        let readiness = ready::readiness(&machine, &grouping);
        Self { reading, machine, grouping, check, readiness }
    }
}
