//! What in a dump contradicts itself or PCI, and was left out.

use std::fmt;

use sva_core::Bdf;

/// Something in a dump that cannot be, and was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Anomaly {
    /// The function was described more than once; the first description holds.
    Twice(Bdf),
    /// The bridge's secondary bus is not above its own bus; it has nothing below.
    BadSecondary {
        /// The bridge.
        bridge: Bdf,
        /// What it says its secondary bus is.
        secondary: u8,
    },
    /// Two bridges claim one bus; the first one has it.
    SharedBus {
        /// The bridge that has it.
        bridge: Bdf,
        /// The one that was left out.
        other: Bdf,
        /// The bus.
        secondary: u8,
    },
    /// The text ends inside this function's description; what would have followed is missing.
    Truncated(Bdf),
    /// The bridge's bus numbers were not read; what is below it hangs from nothing.
    NoBuses(Bdf),
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(bdf) => {
                write!(f, "{bdf} is described more than once; the first description is taken")
            }
            Self::Truncated(bdf) => write!(
                f,
                "the text ends inside the description of {bdf}; what would have followed is missing"
            ),
            Self::NoBuses(bdf) => {
                write!(
                    f,
                    "the bus numbers of bridge {bdf} were not read; give a text of `lspci -v` or \
                     more, so that its place is known"
                )
            }
            Self::BadSecondary { bridge, secondary } => {
                write!(
                    f,
                    "bridge {bridge} says that bus {secondary:02x} is below it, which is not above \
                     its own; taken as having nothing below"
                )
            }
            Self::SharedBus { bridge, other, secondary } => {
                write!(
                    f,
                    "bridges {bridge} and {other} both say that bus {secondary:02x} is below them; \
                     taken as below {bridge}"
                )
            }
        }
    }
}
