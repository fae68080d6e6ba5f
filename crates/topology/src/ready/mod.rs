//! Whether a device of a real machine can do shared virtual addressing under Linux, and where not,
//! which gate it fails.
//!
//! A device passes through [`Gate`]s in a fixed order. Each gives a [`Check`]: what was found
//! ([`Finding`]), how that is known ([`Source`](crate::machine::Source)), and what it means
//! ([`Outcome`]). The [`Verdict`] follows from the checks: a gate that fails for good outweighs one
//! that a setting shuts, and that one outweighs a gate that could not be looked at. Rejected: to
//! stop at the first gate that is not passed. A dump hardly ever says what the IOMMU can do, and
//! that a device has no PASID capability is of more use than that nothing is known of its IOMMU.
//!
//! The rules are those of Linux 6.x and 7.x: `pci_enable_pasid()` for capability, TLP prefix and
//! ACS; the drivers of VT-d, AMD-Vi and SMMUv3 for what they want besides. docs/design/topology.md
//! says which is which.
//!
//! Uses `acs`, `machine` and `groups`. Inside, each module uses those above it in this table only.
//!
//! | module | what it holds |
//! |---|---|
//! | `gate`, `finding`, `describe` | the gates, and what can be found at them |
//! | `check` | one gate looked at; the verdict over all |
//! | `survey` | what is looked up for all devices at once |
//! | `kernel`, `iommu`, `path`, `device` | the gates, by who keeps them |
//! | `readiness` | all of them for each device |

mod check;
mod describe;
mod device;
mod finding;
mod gate;
mod iommu;
mod kernel;
mod path;
mod readiness;
mod survey;

pub use check::{Check, Verdict};
pub use finding::{DisablingOption, Finding, Outcome};
pub use gate::Gate;
pub use readiness::{Readiness, readiness};
