//! Operations on an IOMMU: bind and unbind, hotplug, containers, MAP and UNMAP, ATS and PRI of a
//! device, resets, page requests, and what devices send.
//!
//! Each checks all that it needs, changes the records of `table` under the control lock, and waits
//! for accesses in flight, or runs foreign code, with no lock held. It uses every layer but `dma`.

mod bind;
mod bond;
mod container;
mod hotplug;
mod leave;
mod map;
mod messages;
mod owners;
mod pages;
mod reset;
mod services;
mod unbind;
mod watch;
#[cfg(not(loom))]
mod workers;

pub use bind::GroupInfo;
pub use bond::{Bond, GroupBond, Unbinding};
pub use container::{Container, ContainerBound, Joined};
pub use hotplug::{NotJoined, Plug, Plugged, Removal, Removing};
pub use leave::Leaving;
pub use owners::HandlerRegistration;
pub use pages::PageRequestJob;
pub use reset::Reset;
#[cfg(not(loom))]
pub use workers::{WorkerConfig, Workers};
