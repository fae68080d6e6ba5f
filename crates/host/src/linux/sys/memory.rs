//! Another task's memory: reads, writes, faults for writing, and comparisons of address spaces.
//!
//! Why it is sound: the kernel accesses our memory only in the buffer that the caller has borrowed
//! for the call. The addresses of the other space are never dereferenced by us.

use std::cmp::Ordering;
use std::io;
use std::mem::offset_of;
use std::ptr;

use sva_core::Segment;

use super::call::{Tid, syscall};

/// Pieces that one `process_vm` call takes.
pub(crate) const IOV_MAX: usize = 1024;

// Slices of `Segment` are handed to the kernel as arrays of `iovec`. This asserts that they are.
const _: () = assert!(
    size_of::<Segment>() == size_of::<libc::iovec>()
        && offset_of!(Segment, address) == offset_of!(libc::iovec, iov_base)
        && offset_of!(Segment, len) == offset_of!(libc::iovec, iov_len)
        && size_of::<usize>() == size_of::<u64>()
);

/// Reads the pieces of task `tid`'s memory into `buf`, one after the other. Returns the bytes read.
pub(crate) fn read_memory(tid: Tid, pieces: &[Segment], buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `local` covers exactly `buf`, which is borrowed mutably. The kernel dereferences the
    // remote addresses in the other space only.
    unsafe { transfer(libc::SYS_process_vm_readv, tid, &local, pieces) }
}

/// Writes `data` to the pieces of task `tid`'s memory, one after the other. Returns the bytes
/// written.
pub(crate) fn write_memory(tid: Tid, pieces: &[Segment], data: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the kernel only reads from `local`, which covers exactly `data`. It dereferences the
    // remote addresses in the other space only; for our own process see the head of `sys`.
    unsafe { transfer(libc::SYS_process_vm_writev, tid, &local, pieces) }
}

/// A page of our own that cannot be read; it is never unmapped.
#[derive(Debug)]
pub(crate) struct UnreadablePage(u64);

impl UnreadablePage {
    /// Maps the page.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing. It is never
        // unmapped and never dereferenced.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                4096,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self(page as u64))
        }
    }
}

/// Resolves the page of `address` in task `tid`'s memory as a write of that process would,
/// including copy-on-write, and writes nothing: `process_vm_writev` pins the page for writing and
/// then fails to read the source byte.
///
/// # Errors
/// The task is gone, or the call failed. Whether the page exists is not reported: the kernel
/// answers EFAULT in both cases.
pub(crate) fn fault_in_for_write(
    tid: Tid,
    address: u64,
    source: &UnreadablePage,
) -> io::Result<()> {
    let local = libc::iovec { iov_base: source.0 as *mut _, iov_len: 1 };
    let pieces = [Segment { address, len: 1 }];
    // SAFETY: the kernel only reads from `local`, and fails. It dereferences the remote address in
    // the other space only.
    match unsafe { transfer(libc::SYS_process_vm_writev, tid, &local, &pieces) } {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        result => result.map(drop),
    }
}

/// Moves bytes between `local` and the pieces of task `tid`'s memory.
///
/// # Safety
/// `local` must be valid for what the system call `number` does with it.
unsafe fn transfer(
    number: libc::c_long,
    tid: Tid,
    local: &libc::iovec,
    pieces: &[Segment],
) -> io::Result<usize> {
    let arguments = [
        tid as u64,
        ptr::from_ref(local) as u64,
        1,
        pieces.as_ptr() as u64,
        pieces.len() as u64,
        0,
    ];
    // SAFETY: both lists are borrowed across the call. The caller answers for the memory that
    // `local` describes.
    unsafe { syscall(number, arguments) }.map(|done| done as usize)
}

/// Whether task `tid` has memory at all. A task loses it on its way to becoming a zombie.
pub(crate) fn has_memory(tid: Tid) -> bool {
    // Nothing can be read at this address. The error says why: ESRCH where there is no memory.
    let nowhere = Segment { address: 1 << 63, len: 1 };
    !read_memory(tid, &[nowhere], &mut [0])
        .is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// Compares the address spaces of two tasks in the kernel's order. `Equal` means that they share
/// one, or that neither has any.
pub(crate) fn compare_spaces(a: Tid, b: Tid) -> io::Result<Ordering> {
    const KCMP_VM: u64 = 1;
    // SAFETY: the call takes and returns numbers only.
    match unsafe { syscall(libc::SYS_kcmp, [a as u64, b as u64, KCMP_VM, 0, 0, 0]) }? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}
