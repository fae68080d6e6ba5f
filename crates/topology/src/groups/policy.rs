//! The rules that a machine can be grouped by.

use std::fmt;
use std::str::FromStr;

/// The rules to group by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// As Linux does, 6.x to 7.x.
    #[default]
    Linux,
    /// As the proposed rework would: ACS is egress only.
    ReachableSet,
    /// As Linux does with the out-of-tree ACS override,
    /// `pcie_acs_override=downstream,multifunction`: it declares isolated what is not known to be.
    Override,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Linux, Self::ReachableSet, Self::Override];

    /// The name that the command line takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::ReachableSet => "reachable-set",
            Self::Override => "override",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no grouping policy; the policies are linux, reachable-set and override",
    text.escape_debug().take(40).collect::<String>()
)]
pub struct UnknownPolicy {
    /// What was given.
    pub text: String,
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| UnknownPolicy { text: text.to_owned() })
    }
}
