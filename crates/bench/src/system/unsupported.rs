//! The same functions where there is no Linux: each returns [`io::ErrorKind::Unsupported`].

use std::io;
use std::time::Duration;

/// A range of another process's memory.
#[derive(Debug, Clone, Copy)]
pub struct RemoteIoVec {
    /// First address.
    pub base: usize,
    /// Bytes.
    pub len: usize,
}

fn unsupported<T>(call: &str) -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{call} is a system call of Linux; run this benchmark there"),
    ))
}

/// Reads another process's memory.
///
/// # Errors
/// Always.
pub fn read_process(_pid: u32, _into: &mut [u8], _from: &[RemoteIoVec]) -> io::Result<usize> {
    unsupported("process_vm_readv")
}

/// Writes another process's memory.
///
/// # Errors
/// Always.
pub fn write_process(_pid: u32, _from: &[u8], _to: &[RemoteIoVec]) -> io::Result<usize> {
    unsupported("process_vm_writev")
}

/// Stops a process for a moment.
///
/// # Errors
/// Always.
pub fn stop_once(_pid: u32) -> io::Result<Duration> {
    unsupported("PTRACE_SEIZE")
}

/// Registers this process for [`membarrier`].
///
/// # Errors
/// Always.
pub fn register_membarrier() -> io::Result<()> {
    unsupported("membarrier")
}

/// Has all running threads of this process pass a barrier.
///
/// # Errors
/// Always.
pub fn membarrier() -> io::Result<()> {
    unsupported("membarrier")
}

/// The processors that the calling thread may run on.
///
/// # Errors
/// Always.
pub fn affinity() -> io::Result<Vec<usize>> {
    unsupported("sched_getaffinity")
}

/// Has the calling thread run on these processors only.
///
/// # Errors
/// Always.
pub fn set_affinity(_processors: &[usize]) -> io::Result<()> {
    unsupported("sched_setaffinity")
}

/// Has the kernel make no huge pages for this process.
///
/// # Errors
/// Always.
pub fn disable_huge_pages() -> io::Result<()> {
    unsupported("PR_SET_THP_DISABLE")
}
