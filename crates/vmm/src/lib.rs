//! For virtual machine monitors (VMMs): a guest's memory as an
//! [`AddressSpace`](sva_core::AddressSpace), and the IOMMU for device models that are written
//! against vm-memory (rust-vmm).
//!
//! A VMM gives its page walk to [`GuestSpace`] as a closure, binds its devices to that space,
//! and tells it of changes. Then
//!
//! - a device model of its own uses a [`DmaPort`](sva_core::DmaPort);
//! - a device model of rust-vmm takes `DeviceMemory` for its guest memory, or vm-memory's
//!   `IommuMemory` with `DeviceIommu`. Both come with the feature `iommu`, which is on by default.
//!
//! ```
//! use std::sync::Arc;
//!
//! use sva_core::{
//!     AddrRange, Bdf, Bind, Capabilities, DeviceSpec, Features, Iommu, IommuConfig, PasidWidth,
//!     Permissions,
//! };
//! use sva_testkit::FlatTopology;
//! use sva_vmm::{GuestSpace, linear};
//! use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//!
//! // I/O virtual addresses from 1 GiB on lead to the guest's memory.
//! let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
//! let iova = AddrRange::new(1 << 30, 1 << 20).expect("not empty");
//! let space =
//!     GuestSpace::new(memory.clone(), linear(iova, GuestAddress(0), Permissions::READ_WRITE));
//!
//! let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
//! let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
//! let spec = DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) };
//! let device = iommu.plug(spec)?.device;
//! // The space resolves no page faults, so the bond cannot grant them.
//! let bond =
//!     iommu.bind_device(&device, &space.handle(), Bind::new(()).features(Features::NONE))?;
//!
//! device.port().write(Some(bond.pasid()), (1 << 30) + 64, b"by I/O virtual address")?;
//! let mut bytes = [0; 22];
//! memory.read_slice(&mut bytes, GuestAddress(64))?;
//! assert_eq!(&bytes, b"by I/O virtual address");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/page_walk.rs` has a page table in guest memory, its walk as the closure, an
//! invalidation, and a device model of rust-vmm.
//!
//! Modules, from low to high: `provider`, then `address_space` and `device`, then `space`.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod address_space;
#[cfg(feature = "iommu")]
mod device;
mod provider;
mod space;

#[cfg(feature = "iommu")]
pub use device::{DeviceIommu, DeviceMemory, PinnedIotlb, PinnedSlices};
pub use space::{GuestSpace, linear};
