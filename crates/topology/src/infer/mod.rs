//! From a [`Reading`](crate::machine::Reading) to a [`Machine`](crate::machine::Machine): what can
//! be inferred and what is best assumed, with the reason for each.
//!
//! The order matters. Numbers and classes come first, then bridges, then virtual functions. The
//! PCI Express type of a function follows from the bridges above it, so functions are taken bus by
//! bus from the top. Capabilities come last. Where text cannot decide, the likeliest value is taken
//! and marked [`Source::Assumed`](crate::machine::Source::Assumed), so that a person sees on which
//! guess an answer rests.
//!
//! Uses `acs` and `machine`.
//!
//! | module | what it holds |
//! |---|---|
//! | `names` | the PCI ID database, in both directions |
//! | `identity` | numbers, class and header of a function |
//! | `absent` | how the absence of a capability is known |
//! | `virtual_functions` | SR-IOV's functions and their physical ones |
//! | `express`, `services` | PCI Express types; ACS, ATS, PRI, PASID |
//! | `iommu` | registers of IOMMUs |
//! | `machine` | all of it together, [`Reading::machine`](crate::machine::Reading::machine) |

mod absent;
mod express;
mod identity;
mod iommu;
mod machine;
mod names;
mod services;
mod virtual_functions;

pub(crate) use names::name_of;
