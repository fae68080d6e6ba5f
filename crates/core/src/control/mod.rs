//! Operations on an IOMMU: bind and unbind, hotplug, containers, MAP and UNMAP, ATS and PRI of a
//! device, resets, page requests, and the messages of devices. Uses every layer but `dma`.
//!
//! An operation makes its checks and its changes of the records of `table` in one hold of the
//! control lock. With the lock released it waits for accesses in flight and runs foreign code:
//! handlers, device models, links, and the drop of a value that came from outside.
//!
//! # The control lock
//!
//! `Iommu::lock` takes the lock and `Iommu::unlock` releases it. An operation must not release the
//! lock between a check and the change that rests on it. It may release the lock
//!
//! - before the first check, to ask the bus or a provider, whose answers can block;
//! - between a failed check and the error, when the error has to ask the bus;
//! - to run the caller's comparison of drvdata, after which all checks are made again;
//! - after the last change, before it waits.
//!
//! After a change, and before it goes on with the lock released, an operation gives its guard to
//! `unlock`, which wakes the threads that wait for the change. `with_state` does this for a
//! closure, and then drops the values that the change removed. Only a function that reads, and an
//! operation that returns an error and has changed nothing, leave the guard to its own drop.

mod bind;
mod bond;
mod candidates;
mod container;
mod container_bonds;
mod leave;
mod map;
mod messages;
mod overlaps;
mod page_handlers;
mod pages;
mod plug;
mod queries;
mod reset;
mod services;
mod space_to_bind;
mod translation;
mod unbind;
mod unplug;
mod watcher;
#[cfg(not(loom))]
mod workers;

pub use bond::{Bond, GroupBond, Unbinding};
pub use container::{Container, Joined};
pub use container_bonds::ContainerBound;
pub use leave::Leaving;
pub use page_handlers::HandlerRegistration;
pub use pages::PageRequestJob;
pub use plug::{NotJoined, Plug, Plugged};
pub use queries::GroupInfo;
pub use reset::Reset;
pub use unplug::{Removal, Removing};
#[cfg(not(loom))]
pub use workers::{WorkerConfig, Workers};
