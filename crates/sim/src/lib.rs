//! Deterministic simulation of an IOMMU and its devices: every order of events from a seed, checked
//! by an oracle, shrunk and replayed on failure.
//!
//! ```
//! use sva_sim::{Exploration, World, WorldConfig};
//!
//! // Four devices, two containers, three address spaces. Each seed is one order of events.
//! let exploration = Exploration::default().seeds(0..4).steps(500);
//! let make = || World::new(WorldConfig::default());
//! let mut accesses = 0;
//! exploration.run(make, |_seed, world| accesses += world.accesses())?;
//! assert!(accesses > 0);
//! # Ok::<(), Box<sva_sim::Failure>>(())
//! ```
//!
//! The core's protocols advance by single calls. One thread makes these calls in an order that
//! [`Choices`] decide, over links that hold messages and deliver them late, twice, corrupted or
//! never. Nothing depends on a clock or a thread, so that the same seed gives the same run.
//!
//! | you have | take |
//! |---|---|
//! | a device model that translates for itself | [`DeviceModel`], in [`World::with_devices`] |
//! | a system of your own, such as a driver with its device | [`Subject`], run by [`Exploration`] |
//! | one race to bring about | [`ScheduledLink`], which acts at a named [`Point`] |
//! | a recording of a failure | [`replay`] |
//!
//! Layers, from the bottom: `choices` decides; `subject` is what makes steps; `explore` runs
//! subjects, watched by `watchdog`; `link` and `device` are what a system is built from; `world` is
//! a whole system with its oracle, and counts the `races` that it reaches.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
