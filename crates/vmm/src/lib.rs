//! For virtual machine monitors: a guest's memory as an [`AddressSpace`](sva_core::AddressSpace),
//! and the translation cache of the core as the IOMMU of device models that are written against
//! vm-memory (rust-vmm).
//!
//! A monitor that has a page walk of its own gives it as a closure to [`GuestSpace`], binds its
//! devices to that, and tells it of changes. A model of its own then uses a [`DmaPort`](sva_core::DmaPort); one of rust-vmm's takes [`DeviceMemory`] for its guest memory, or [`IommuMemory`](vm_memory::IommuMemory) with [`DeviceIommu`]: these two by the feature `iommu`, which
//! is on by default.
//!
//! ```
//! use std::sync::Arc;
//! use sva_core::{
//!     AddrRange, Bdf, Bind, Capabilities, DeviceSpec, Features, Iommu, IommuConfig, PasidWidth,
//!     Permissions, Plug,
//! };
//! use sva_testkit::FlatTopology;
//! use sva_vmm::{GuestSpace, linear};
//! use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//!
//! let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
//! // I/O virtual addresses from 1 GiB on lead to the guest's memory.
//! let iova = AddrRange::new(1 << 30, 1 << 20).expect("not empty");
//! let space =
//!     GuestSpace::new(memory.clone(), linear(iova, GuestAddress(0), Permissions::READ_WRITE));
//!
//! let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
//! let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
//! let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
//! let device = iommu.plug(Plug::new(spec))?.device;
//! let bond =
//!     iommu.bind_device(&device, &space.handle(), Bind::new(()).features(Features::NONE))?;
//!
//! // What a virtio device takes for its guest memory.
//! let seen = space.device_memory(&device, bond.pasid());
//! seen.write_obj(7u32, GuestAddress((1 << 30) + 64))?;
//! assert_eq!(memory.read_obj::<u32>(GuestAddress(64))?, 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "iommu")]
mod memory;
mod provider;
mod space;

#[cfg(feature = "iommu")]
pub use memory::{DeviceIommu, DeviceMemory, PinnedIotlb, PinnedSlices};
pub use space::{GuestSpace, linear};
