//! Schedules: every order that hardware can produce, from a seed, replayable and made small on
//! failure.
//!
//! The core's protocols are moved on by single calls. Here one thread makes those calls, one at a
//! time, in an order that [`Choices`] decide, over links that hold messages and let them go late,
//! twice, changed or never. Nothing depends on a clock or a thread, so a seed is a run.
//!
//! | module | what |
//! |---|---|
//! | [`choices`] | decisions: from a seed, or as they were recorded |
//! | [`explore`] | runs subjects through seeds; makes a failure small |
//! | [`link`] | holds the messages of a device; named points for scripts |
//! | [`world`] | a whole system under a schedule, with an oracle that looks at every access |
//! | [`driver`] | what a device does in that system: a model of yours, or the well-behaved one |
//! | [`races`] | the races that a run has reached, by name |
#![forbid(unsafe_code)]

pub mod choices;
pub mod driver;
pub mod explore;
pub mod link;
pub mod races;
pub mod world;

pub use choices::{Choices, Step};
pub use driver::{Driver, Tried, View, WellBehaved};
pub use explore::{Exploration, Failure, Subject, replay};
pub use link::{Fate, HeldLink, LinkCounts, Message, Moment, Point};
pub use races::{Race, Races};
pub use world::{World, WorldConfig};
