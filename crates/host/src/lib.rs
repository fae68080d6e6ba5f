//! A live Linux process as an address space for software devices.
//!
//! [`attach`] returns a [`HostSpace`] for any process that the caller may trace, unmodified and
//! running. Bound to a device, the device reads and writes the process's memory by the process's
//! own pointers:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use sva_core::{AddressSpace, Bind, Iommu, IommuConfig, Plug};
//! use sva_devices::{DataMover, DataMoverConfig, Descriptor, JobTracker};
//! use sva_pci::{DEFAULT_TOML, Fabric};
//!
//! // A machine with one data mover, from the built-in description of a fabric.
//! let fabric = Arc::new(Fabric::from_toml(DEFAULT_TOML)?);
//! let iommu = Iommu::new(fabric.clone(), IommuConfig::default());
//! let jobs = JobTracker::new();
//! let device = iommu.plug(Plug::new(fabric.devices()[0]).model(jobs.clone()))?.device;
//!
//! // This process, or any other by its number. A bind takes an `Arc<dyn AddressSpace>`.
//! let process: Arc<dyn AddressSpace> = match sva_host::attach(std::process::id()) {
//!     Err(sva_host::AttachError::Unsupported(platform)) => return Ok(eprintln!("{platform}")),
//!     attached => attached?,
//! };
//! let bond = iommu.bind_device(&device, &process, Bind::new(()))?;
//!
//! let (source, mut target) = (b"shared virtual addressing".to_vec(), vec![0; 25]);
//! let copy = Descriptor::memory_move(source.as_ptr() as u64, target.as_mut_ptr() as u64, 25);
//! let mover = DataMover::new(device.port(), jobs, DataMoverConfig::default());
//! assert!(mover.execute(Some(bond.pasid()), &copy.block_on_fault())?.is_success());
//! assert_eq!(source, target);
//! # Ok(())
//! # }
//! ```
//!
//! What is attached is the process's *memory*, not its number. The space ends when the last task of
//! the process has left that memory, by exit or exec. Whatever has the number afterwards is another
//! space.
//!
//! - Accesses go through an *anchor*: a task in the process that shares its memory and never runs.
//!   The module `linux::anchor` explains why this is sound and what the process could notice.
//! - A *tracer process* of ours makes an anchor, so that our death meanwhile does not harm the
//!   process. A *tracer thread* traces the anchors, and a *monitor* thread notices the end of a
//!   space within 100 ms.
//! - A process that cannot be attached soundly is refused with the reason ([`AttachError`]). There
//!   is no fallback.
//!
//! # Platforms
//!
//! Live processes can be attached on x86-64 Linux only: making an anchor needs that system's
//! `ptrace` and that processor's registers. The crate builds everywhere; elsewhere every entry
//! point returns [`UnsupportedPlatform`] in its error.
//!
//! # What a program that uses this crate should know
//!
//! - The anchors are tasks that this process traces. `waitpid(-1)` in any of its threads may report
//!   their stops and deaths, and SIGCHLD may be sent for them; a program should ignore numbers that
//!   it does not know. If such a wait reaps an anchor that somebody else has killed, the space ends
//!   at the next tick of the monitor. Before that, the number could be reused only if the system
//!   went through all its process numbers in 20 ms.
//! - After `fork` the child has no attachments: every space has ended for it, and it can attach
//!   nothing. `exec`, exit and kill leave no anchor behind.
//! - A signal that ends this program in the middle of an attach does not harm the process that is
//!   being attached: the tracer process finishes the work. There are two exceptions: both are
//!   killed at once, as with a whole cgroup, or the kernel lets only an ancestor trace (Yama's
//!   `ptrace_scope` 1, without CAP_SYS_PTRACE). Then the process's thread continues with registers
//!   that are not its own, and mostly crashes. Under such a kernel a program should handle the
//!   signals that can end it (SIGINT and SIGTERM at least) and end between two calls, as the
//!   command `sva` does.
//! - An access can take as long as the process likes, where its memory is backed by a userfaultfd
//!   that nobody answers or by a file system in user space. Such a call is not interrupted: an
//!   unbind waits for it, and no other space is delayed by it. A program that must end all the same
//!   can end the process, or itself.
//! - A program can attach *itself*. Writes by a device then change its memory while it runs, as a
//!   debugger's would.

#![deny(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod clock;
mod error;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux;
mod region;
#[cfg(any(test, not(all(target_os = "linux", target_arch = "x86_64"))))]
#[cfg_attr(test, allow(dead_code, unreachable_pub, reason = "compiled for its tests only"))]
mod unsupported;

// The one place that selects the provider of the platform.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use linux as platform;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
use unsupported as platform;

use std::sync::Arc;

pub use clock::MonotonicClock;
pub use error::{AttachError, Denial, RegionsError, UnsupportedPlatform};
pub use platform::HostSpace;
pub use region::{FindError, Region, Unusable, find as find_region};

/// Attaches the address space of the process that task `pid` belongs to. `pid` may be any of its
/// threads, and one of our own process.
///
/// Two tasks that share their memory give one space, also over several calls. When a process is
/// attached for the first time, one of its threads is stopped for some hundred microseconds, longer
/// where the processors are busy (see [`HostSpace::stop_time`]). Blocks for up to some 100 ms where
/// all threads are in calls that must not be interrupted, and while another attach is in progress.
/// Must not be called in a signal handler.
///
/// # Errors
/// Each reason for which a process cannot be attached has a variant. The process is as it was
/// before. On any platform but x86-64 Linux: [`AttachError::Unsupported`].
pub fn attach(pid: u32) -> Result<Arc<HostSpace>, AttachError> {
    platform::attach(pid)
}

/// Lists the mappings of process `pid` at the moment, sorted by address. `pid` may be any task's
/// number.
///
/// The result is about the process that has the number *now*. For a bound space see
/// [`HostSpace::regions`].
///
/// # Errors
/// The process does not exist, may not be seen by us, or has no memory. On any platform but x86-64
/// Linux: [`RegionsError::Unsupported`].
pub fn regions(pid: u32) -> Result<Vec<Region>, RegionsError> {
    platform::regions(pid)
}
