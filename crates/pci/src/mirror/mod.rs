//! A software fabric that mirrors a real machine, so that binding, hotplug and peer-to-peer can be
//! tried on its topology.
//!
//! Root buses become host bridges; root ports, switches, bridges and endpoints keep addresses,
//! BARs, windows, ACS and capabilities. Groups are the machine's: where the fabric's own rules
//! would give others, they are declared ([`groups`](crate::FabricSpec::groups)). A data mover
//! ([`MODEL`]) stands in for each function with a PASID capability. What a fabric cannot have is
//! left out or repaired, and each such thing is a [`Note`].
//!
//! Uses `acs` and `fabric`, and the machine and its groups as `sva-topology` has them.
//!
//! | module | what it does |
//! |---|---|
//! | `build` | the three steps of making one |
//! | `walk` | who is in the fabric, and below whom |
//! | `acs` | ACS services as Linux counts them |
//! | `memory` | windows and BARs |
//! | `note` | in what the fabric differs from the machine |

mod acs;
mod build;
mod memory;
mod note;
#[cfg(test)]
mod tests;
mod walk;

pub use build::{Mirror, MirrorError, mirror};
pub use note::{FunctionUnsupported, Note, RangeUnsupported};
pub use walk::MODEL;
