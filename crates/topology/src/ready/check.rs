//! What was found at one gate, and the verdict over all gates.

use super::finding::{Finding, Outcome};
use super::gate::Gate;
use crate::machine::Source;

/// What was found at one gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The gate that was looked at.
    pub gate: Gate,
    /// What was found.
    pub finding: Finding,
    /// How that is known; the weakest of all that it rests on.
    pub source: Source,
}

impl Check {
    /// What the finding means for shared virtual addressing.
    pub fn outcome(&self) -> Outcome {
        self.finding.outcome()
    }
}

/// What all gates together say of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every gate is passed.
    Ready,
    /// It could, but this gate is shut by a setting.
    SwitchedOff(Gate),
    /// It cannot: this is the first gate that it fails.
    Fails(Gate),
    /// Nothing speaks against it, but this gate could not be looked at.
    Unknown(Gate),
}

impl Verdict {
    /// A stable word for programs: `ready`, `switched-off`, `fails` or `unknown`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::SwitchedOff(_) => "switched-off",
            Self::Fails(_) => "fails",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The gate that decides, if it is not passed.
    pub const fn gate(self) -> Option<Gate> {
        match self {
            Self::Ready => None,
            Self::SwitchedOff(gate) | Self::Fails(gate) | Self::Unknown(gate) => Some(gate),
        }
    }
}
