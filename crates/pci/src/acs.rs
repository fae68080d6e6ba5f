//! An emulated ACS capability (PCIe 6.0, section 7.7.11).

use sva_topology::AcsBits;

/// An ACS capability: what is implemented, and what of it is enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Acs {
    /// The capability register.
    pub implemented: AcsBits,
    /// The control register; a subset of `implemented`.
    pub enabled: AcsBits,
}

impl Acs {
    /// A port with everything implemented except egress control, and `enabled` switched on.
    pub fn port(enabled: AcsBits) -> Self {
        Self { implemented: !AcsBits::EC, enabled }
    }

    /// A port that isolates: SV, RR, CR and UF.
    pub fn isolating() -> Self {
        Self::port(AcsBits::ISOLATION)
    }

    /// A function of an endpoint with RR, CR and DT implemented, and `enabled` switched on.
    pub fn function(enabled: AcsBits) -> Self {
        Self { implemented: AcsBits::FUNCTION_ISOLATION | AcsBits::DT, enabled }
    }
}

/// Whether all of `bits` are switched on; a missing capability has none.
pub(crate) fn enabled(acs: Option<Acs>, bits: AcsBits) -> bool {
    acs.is_some_and(|acs| acs.enabled.contains(bits))
}
