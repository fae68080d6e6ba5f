//! Device models: a data [`mover`] that executes the descriptors of Intel DSA, a [`walker`] that
//! follows pointers, and what a device model of one's own is made from.
//!
//! A device issues all its transactions through a [`DmaPort`](sva_core::DmaPort), with the PASID of
//! the address space that a job is for. It needs to know neither what provides that space nor the
//! bus that it sits on. What it reads from a bound process (descriptors, pointers, offsets) is
//! untrusted: it has to be copied once and checked before it is used.
//!
//! - [`DataMover`] executes a [`Descriptor`] and answers a [`CompletionRecord`].
//! - [`Walker`] walks linked lists and searches graphs.
//! - [`JobTracker`] is for device models of one's own: it keeps the jobs of each PASID apart and
//!   stops them when the PASID is unbound.
//!
//! # A transfer
//!
//! ```
//! use std::sync::Arc;
//!
//! use sva_core::{Bdf, Bind, Capabilities, DeviceSpec, Iommu, IommuConfig, PasidWidth, Plug};
//! use sva_devices::{DataMover, DataMoverConfig, Descriptor, JobTracker};
//! use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};
//!
//! // A device and its model.
//! let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
//! let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
//! let spec = DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) };
//! let jobs = JobTracker::new();
//! let device = iommu.plug(Plug::new(spec).model(jobs.clone()))?.device;
//! let mover = DataMover::new(device.port(), jobs, DataMoverConfig::default());
//!
//! // A process, here of the test kit, that the device is bound to.
//! let process = MemorySpace::new();
//! process.map(0x10_0000, 2 * PAGE, Protection::READ_WRITE);
//! process.poke(0x10_0000, b"shared virtual addressing");
//! let bond = iommu.bind_device(&device, &process.handle(), Bind::new(()))?;
//!
//! // The addresses of a descriptor are the process's own.
//! let copy = Descriptor::memory_move(0x10_0000, 0x10_1000, 25).block_on_fault();
//! let completion = mover.execute(Some(bond.pasid()), &copy)?;
//! assert!(completion.is_success());
//! assert_eq!(process.peek(0x10_1000, 25), b"shared virtual addressing");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A device of one's own
//!
//! Begin a job for each descriptor and make all accesses by it. A job reaches the owner that its
//! PASID had when it began and nobody else, and ends when that owner is unbound.
//!
//! ```
//! # use std::sync::Arc;
//! # use sva_core::{Bdf, Bind, Capabilities, DeviceSpec, Iommu, IommuConfig, PasidWidth, Plug};
//! # use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};
//! use sva_core::{Device, Pasid};
//! use sva_devices::{JobTracker, PortPool, TransferError};
//!
//! /// Inverts the bits of memory.
//! struct Inverter {
//!     jobs: Arc<JobTracker>,
//!     ports: PortPool,
//! }
//!
//! impl Inverter {
//!     fn invert(&self, pasid: Pasid, address: u64, len: usize) -> Result<(), TransferError> {
//!         let job = self.jobs.begin(&self.ports, Some(pasid));
//!         let mut bytes = vec![0; len];
//!         job.read(address, &mut bytes)?;
//!         bytes.iter_mut().for_each(|byte| *byte = !*byte);
//!         job.write(address, &bytes)
//!     }
//! }
//! # let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
//! # let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
//! # let spec = DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) };
//! # let process = MemorySpace::new();
//! # process.map(0x10_0000, PAGE, Protection::READ_WRITE);
//!
//! let jobs = JobTracker::new();
//! let device = iommu.plug(Plug::new(spec).model(jobs.clone()))?.device;
//! let inverter = Inverter { jobs, ports: PortPool::new(device.port()) };
//! let bond = iommu.bind_device(&device, &process.handle(), Bind::new(()))?;
//! inverter.invert(bond.pasid(), 0x10_0000, 4)?;
//! assert_eq!(process.peek(0x10_0000, 4), [0xff; 4]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/doorbell.rs` has a complete device: doorbell, descriptor ring, completion records, and
//! the driver's part.
//!
//! # Modules
//!
//! From low to high: `job`, [`spec`], then [`mover`] and [`walker`], which do not use each other.
#![forbid(unsafe_code)]

mod job;
pub mod mover;
pub mod spec;
pub mod walker;

pub use job::{Job, JobTracker, PortPool, TransferCause, TransferError};
pub use mover::{Aborted, Completion, DataMover, DataMoverConfig, RecordWrite};
pub use spec::{CompletionRecord, Descriptor, Flags, Opcode, Status};
pub use walker::{
    GraphSearch, IndexWidth, ListError, ListReport, ListWalk, SearchError, SearchReport, Walker,
    WalkerConfig,
};
