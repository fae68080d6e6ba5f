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

mod choices;
mod device;
mod explore;
mod link;
mod races;
mod subject;
mod watchdog;
mod well_behaved;
mod world;

pub use choices::{Choices, Step};
pub use device::{AccessOutcome, CheckedPort, DeviceModel};
pub use explore::{Exploration, Failure, replay};
pub use link::{Fate, LinkCounts, Message, Moment, Point, ScheduledLink};
pub use races::{Race, Races};
pub use subject::Subject;
pub use well_behaved::WellBehaved;
pub use world::{World, WorldConfig};
