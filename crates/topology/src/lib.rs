//! The PCI topology of real machines: which functions share an IOMMU group and why, and which of
//! them can do shared virtual addressing (SVA).
//!
//! A reader makes a [`Machine`](machine::Machine) of a live Linux or of text that somebody saved.
//! [`Grouping::compute`](groups::Grouping::compute) puts its functions into groups by the kernel's
//! rules, [`explain`](groups::explain()) gives the reasons, and
//! [`readiness`](ready::readiness) says what stands in the way of SVA.
//!
//! ```
//! use sva_topology::groups::{Grouping, Policy, explain};
//! use sva_topology::read;
//!
//! let listing = "\
//! 00:1c.0 PCI bridge [0604]: Root Port [1af4:0101] (prog-if 00 [Normal decode])
//! \tBus: primary=00, secondary=01, subordinate=01, sec-latency=0
//! \tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00
//!
//! 01:00.0 Ethernet controller [0200]: Network Card [1af4:0102]
//! \tCapabilities: [70] Express (v2) Endpoint, MSI 00
//!
//! ";
//! let machine = read::from_text(listing.as_bytes())?;
//! let grouping = Grouping::compute(&machine, Policy::Linux);
//! let card = machine.find("01:00.0".parse()?).ok_or("no such function")?;
//!
//! // The root port has no ACS capability, so the card is in its group.
//! assert_eq!(grouping.groups().len(), 1);
//! for line in explain(&machine, &grouping, card).lines(&machine) {
//!     println!("{line}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! All input is untrusted. Readers bound what they take and what they make of it, never panic, and
//! say in which line and column an error is.
//!
//! # Modules
//!
//! Each uses those above it in this table only.
//!
//! | module | what it holds |
//! |---|---|
//! | `acs` | the services of the ACS registers, [`AcsBits`] |
//! | [`machine`] | functions, buses and IOMMUs, and how each value is known |
//! | `infer` | what follows from a reading, and what is best assumed |
//! | [`read`] | readers of sysfs, `lspci` text, saved dumps and kernel logs |
//! | [`groups`] | IOMMU groups, the reasons for them, and what would change them |
//! | [`ready`] | readiness for SVA, gate by gate |
//! | [`diff`] | what differs between two machines, or two groupings of one |
//! | [`picture`] | a machine and its groups as text, SVG and HTML |
//! | `arbitrary` | random machines for property tests, with the feature `proptest` |
//!
//! # What it uses of `sva-core`
//!
//! Two value types, so that an address means the same in all crates: `Bdf`, the address of a
//! function, and `AddrRange`, a range of bus addresses. Nothing here knows the core's devices,
//! groups or traits.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod acs;
#[cfg(any(test, feature = "proptest"))]
pub mod arbitrary;
pub mod diff;
pub mod groups;
mod infer;
pub mod machine;
pub mod picture;
pub mod read;
pub mod ready;

pub use acs::{AcsBits, UnknownAcsBit};
