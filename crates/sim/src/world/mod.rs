//! A whole system under a schedule: devices on links that hold their messages, spaces that change
//! and end, binds, unbinds, resets, removals; and an oracle that checks every access.
//!
//! The world keeps a model of its own: which device has which PASID for which space, what is mapped
//! in which domain, which device is halted. An access that is made must be permitted by the model,
//! and by the space's [audit](sva_testkit::MemorySpace::audit) at that instant. An access that the
//! model permits must not be refused without a reason.
//!
//! Layers, from the bottom: `config` and `clock`; `owner`, `model` and `features` are values;
//! `oracle` reads the model; `system` is the world's state; the other files are its steps.

mod act;
mod bonds;
mod clock;
mod config;
mod containers;
mod devices;
mod domains;
mod end;
mod features;
mod model;
mod oracle;
mod owner;
mod owners;
mod places;
mod spaces;
mod system;

pub use config::WorldConfig;
pub use system::World;
