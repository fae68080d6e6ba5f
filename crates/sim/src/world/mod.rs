//! A whole system under a schedule: devices on links that hold their messages, spaces that change
//! and end, binds, unbinds, resets, removals; and an oracle that judges every access.
//!
//! The world keeps a model of its own of who may reach what: which device has which PASID for which
//! space, which device is blocked. An access that goes through is to be permitted by the model and
//! by the space's [audit](sva_testkit::MemorySpace::audit) at that instant; one that the model permits is
//! not to be refused without a reason.

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
