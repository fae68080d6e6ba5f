//! As a plain program would make them, with safe signatures.

use std::io::{self, IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::uio::{process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::thread::MembarrierCommand;

pub use nix::sys::uio::RemoteIoVec;

/// One `process_vm_readv`. Returns the bytes read.
///
/// # Errors
/// The kernel's.
pub fn read_process(pid: u32, into: &mut [u8], from: &[RemoteIoVec]) -> io::Result<usize> {
    Ok(process_vm_readv(Pid::from_raw(pid as i32), &mut [IoSliceMut::new(into)], from)?)
}

/// One `process_vm_writev`. Returns the bytes written.
///
/// # Errors
/// The kernel's.
pub fn write_process(pid: u32, from: &[u8], to: &[RemoteIoVec]) -> io::Result<usize> {
    Ok(process_vm_writev(Pid::from_raw(pid as i32), &[IoSlice::new(from)], to)?)
}

/// Seizes a process, stops it, and lets it go. Returns for how long it was stopped.
///
/// # Errors
/// The kernel's.
pub fn stop_once(pid: u32) -> io::Result<Duration> {
    let pid = Pid::from_raw(pid as i32);
    ptrace::seize(pid, ptrace::Options::empty())?;
    let start = Instant::now();
    ptrace::interrupt(pid)?;
    waitpid(pid, Some(WaitPidFlag::__WALL))?;
    ptrace::detach(pid, None)?;
    Ok(start.elapsed())
}

/// Registers this process for [`membarrier`].
///
/// # Errors
/// The kernel's.
pub fn register_membarrier() -> io::Result<()> {
    Ok(rustix::thread::membarrier(MembarrierCommand::RegisterPrivateExpedited)?)
}

/// One private expedited `membarrier`.
///
/// # Errors
/// The kernel's: the process is not registered.
#[inline]
pub fn membarrier() -> io::Result<()> {
    Ok(rustix::thread::membarrier(MembarrierCommand::PrivateExpedited)?)
}

/// The processors that the calling thread may run on, in order.
///
/// # Errors
/// The kernel's.
pub fn affinity() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|processor| set.is_set(*processor).unwrap_or(false)).collect())
}

/// Has the calling thread, and those that it starts from now on, run on these processors only.
///
/// # Errors
/// The kernel's: there is no such processor, or the thread may not use it.
pub fn set_affinity(processors: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &processor in processors {
        set.set(processor)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Has the kernel make no huge pages for this process.
///
/// # Errors
/// The kernel's.
pub fn disable_huge_pages() -> io::Result<()> {
    Ok(nix::sys::prctl::set_thp_disable(true)?)
}
