//! What tests of the core, of devices and of drivers are built on: address spaces in memory, a
//! scripted bus, and slow reference models.
//!
//! ```
//! use std::sync::Arc;
//!
//! use sva_core::{Bdf, Bind, Capabilities, DeviceSpec, EndReason, Iommu, IommuConfig, PasidWidth};
//! use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};
//!
//! // A bus on which every device is isolated, a device that issues PASIDs, two pages of memory.
//! let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
//! let bdf = Bdf::new(0, 1, 0, 0).expect("a device number below 32");
//! let capabilities = Capabilities::sva(PasidWidth::MAX);
//! let device = iommu.plug(DeviceSpec { bdf, capabilities })?.device;
//! let space = MemorySpace::new();
//! space.map(0x1000, 2 * PAGE, Protection::READ_WRITE);
//! let bond = iommu.bind_device(&device, &space.handle(), Bind::new(()))?;
//!
//! // The device reads what the test has put there, until the test takes it away.
//! space.poke(0x1ffe, b"data");
//! let mut bytes = [0; 4];
//! device.port().read(Some(bond.pasid()), 0x1ffe, &mut bytes)?;
//! assert_eq!(&bytes, b"data");
//! space.unmap(0x2000, PAGE);
//! let error = device.port().read(Some(bond.pasid()), 0x1ffe, &mut bytes).expect_err("unmapped");
//! assert_eq!(error.done, 2);
//! space.end(EndReason::Exited);
//! assert!(device.port().read(Some(bond.pasid()), 0x1000, &mut bytes).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | you want | take |
//! |---|---|
//! | memory that knows what is permitted | [`MemorySpace`] |
//! | memory that devices access in place | [`ArenaSpace`] |
//! | the accesses to a space, in order | [`RecordingSpace`] |
//! | a space that differs in one method | [`ForwardingSpace`] |
//! | a bus | [`FlatTopology`] |
//! | a simple reference model | [`mod@reference`], [`iommu_groups`] |
//!
//! Everything here is under the test's control and panics on the test's own mistakes. What comes
//! through [`AddressSpace`](sva_core::AddressSpace) is checked as by any other provider.
//!
//! Layers, from the bottom: `pages`, `protection`, `ranges`; `table` and `lifecycle`, which both
//! spaces share; `space` and `arena`. The other modules use the core only.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod arena;
mod forwarding;
pub mod iommu_groups;
mod lifecycle;
mod pages;
mod protection;
mod ranges;
mod record;
pub mod reference;
mod space;
mod table;
#[cfg(all(test, not(loom)))]
mod test_watcher;
mod topology;

pub use arena::{ArenaChange, ArenaSpace};
pub use forwarding::{Forwarding, ForwardingSpace};
pub use pages::PAGE;
pub use protection::Protection;
pub use record::{Recorded, RecordingSpace};
pub use space::{Change, MemorySpace, StaleAccess, StaleReason};
pub use topology::{FlatTopology, PeerAccess};
