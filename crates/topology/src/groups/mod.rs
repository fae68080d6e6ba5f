//! Which functions share an IOMMU group, and why.
//!
//! A group is the smallest set of functions whose requests cannot be kept apart before they reach
//! the IOMMU. [`Grouping::compute`] makes the groups of a machine by the rules of one [`Policy`];
//! [`explain()`] takes one function's decision again, by the same code, and keeps its steps;
//! [`why_not`] looks at a pair; [`self_check`] compares with what the machine's own kernel made.
//!
//! ```
//! use sva_topology::groups::{Grouping, Policy, explain};
//! use sva_topology::machine::{Host, Machine};
//!
//! let machine = Machine::new(Vec::new(), Host::default());
//! let grouping = Grouping::compute(&machine, Policy::Linux);
//! for group in grouping.groups() {
//!     for member in &group.members {
//!         println!("{}: {}", group.id, machine.functions()[*member].bdf);
//!         explain(&machine, &grouping, *member)
//!             .lines(&machine)
//!             .iter()
//!             .for_each(|line| println!("  {line}"));
//!     }
//! }
//! ```
//!
//! Uses `acs` and `machine`. Inside, each module uses those above it in this table only.
//!
//! | module | what it holds |
//! |---|---|
//! | `policy` | the rules to choose from |
//! | `quirks`, `acs` | whether a function isolates, as Linux judges it |
//! | `alias` | requester IDs that are not a function's own |
//! | `isolation` | how far a bus isolates |
//! | `step` | reasons and steps of a decision |
//! | `state`, `rules` | what was decided so far; what is asked of the machine again and again |
//! | `linux`, `reachable`, `decide` | the decision about one function, by each policy |
//! | `grouping` | all decisions in their order |
//! | `describe` | reasons and steps in words |
//! | `check` | the kernel's groups beside the computed ones |
//! | `advice`, `explain`, `pair` | answers about one function, and about two |

mod acs;
mod advice;
mod alias;
mod check;
mod decide;
mod describe;
mod explain;
mod grouping;
mod isolation;
mod linux;
mod pair;
mod policy;
mod quirks;
mod reachable;
mod rules;
mod state;
mod step;

pub use acs::{AcsRule, AcsVerdict, acs_verdict};
pub use advice::Advice;
pub use alias::{AliasQuirk, BridgeRequesterId};
pub use check::{Difference, SelfCheck, self_check};
pub use explain::{Explanation, explain};
pub use grouping::{Group, Grouping};
pub use isolation::Isolation;
pub use pair::{Pair, PairVerdict, why_not};
pub use policy::{Policy, UnknownPolicy};
pub use quirks::{AcsEffect, AcsQuirk};
pub use step::{JoinRule, Reason, Step, StepKind, Untranslated};
