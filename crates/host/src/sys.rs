//! The system calls that no safe wrapper offers: the only `unsafe` of this crate.
//!
//! What the module claims: every function here is safe to call with any arguments. The kernel checks numbers, addresses and rights; a pointer that
//! is handed over is derived from a reference that lives across the call, with that reference's length, or is an address in *another* address
//! space, which the kernel only ever dereferences there. The `ptrace` requests change the state of a task that this thread traces and never our own
//! memory, except for the one value that they answer with.
//!
//! One thing is not claimed, because no interface to memory by address can: [`write_memory`] on our own process overwrites what it is told to.
//! It is reached only where a caller binds its own process to a device and has that device write there.

use std::cmp::Ordering;
use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use sva_core::Segment;
use sva_core::sync::atomic::{AtomicU32, Ordering as Memory};

/// A task number in our pid namespace.
pub(crate) type Tid = libc::pid_t;

/// The general registers of a stopped task.
pub(crate) type Registers = libc::user_regs_struct;

/// Pieces that one `process_vm` call takes.
pub(crate) const IOV_MAX: usize = 1024;

// `Segment` is handed to the kernel as it is: this is what makes it an `iovec`.
const _: () = assert!(
    size_of::<Segment>() == size_of::<libc::iovec>()
        && offset_of!(Segment, address) == offset_of!(libc::iovec, iov_base)
        && offset_of!(Segment, len) == offset_of!(libc::iovec, iov_len)
        && size_of::<usize>() == size_of::<u64>()
);

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Reads the pieces of task `tid`'s memory into `buf`, one after the other; answers the bytes read.
pub(crate) fn read_memory(tid: Tid, pieces: &[Segment], buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `local` covers exactly `buf`, which is borrowed mutably; the remote addresses are dereferenced in the other space only.
    let done = unsafe { libc::process_vm_readv(tid, &local, 1, pieces.as_ptr().cast(), pieces.len() as libc::c_ulong, 0) };
    check(done as libc::c_long).map(|done| done as usize)
}

/// Writes `data` to the pieces of task `tid`'s memory, one after the other; answers the bytes written.
pub(crate) fn write_memory(tid: Tid, pieces: &[Segment], data: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the kernel only reads from `local`, which covers exactly `data`; the remote addresses are dereferenced in the other space only
    // (for our own process see the module's head).
    let done = unsafe { libc::process_vm_writev(tid, &local, 1, pieces.as_ptr().cast(), pieces.len() as libc::c_ulong, 0) };
    check(done as libc::c_long).map(|done| done as usize)
}

/// Whether task `tid` has memory at all: it has none from some way into its death on.
pub(crate) fn has_memory(tid: Tid) -> bool {
    // Nothing can be read there, and why not tells it.
    let nowhere = Segment { address: 1 << 63, len: 1 };
    !read_memory(tid, &[nowhere], &mut [0]).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// Orders the address spaces of two tasks; equal means that they share one, or that neither has any.
pub(crate) fn compare_spaces(a: Tid, b: Tid) -> io::Result<Ordering> {
    const KCMP_VM: libc::c_long = 1;
    // SAFETY: takes and answers numbers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, libc::c_long::from(a), libc::c_long::from(b), KCMP_VM, 0_i64, 0_i64) };
    match check(order)? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// Kills the process `pid`.
pub(crate) fn kill(pid: Tid) -> io::Result<()> {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::kill(pid, libc::SIGKILL) };
    check(result.into()).map(drop)
}

/// Keeps every signal that can be blocked from being handled on this thread.
pub(crate) fn block_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: initialises the set that it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: reads the set, which has been initialised; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) };
}

/// What there is to be waited for about one task right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Nothing new.
    Nothing,
    /// It has stopped, for this signal and event.
    Stopped {
        /// The signal; with 0x80 added for a system call.
        signal: i32,
        /// PTRACE_EVENT_*, or 0.
        event: i32,
    },
    /// It is dead and has not been collected.
    Dead,
    /// It is not ours to wait for (any more).
    NotOurs,
}

/// Looks what has become of `tid`, without blocking. A stop is collected, a death is not.
pub(crate) fn wait(tid: Tid) -> io::Result<Waited> {
    let Some((code, status)) = wait_id(tid, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)? else { return Ok(Waited::NotOurs) };
    match code {
        0 => Ok(Waited::Nothing),
        libc::CLD_TRAPPED | libc::CLD_STOPPED => {
            wait_id(tid, libc::WSTOPPED)?;
            Ok(Waited::Stopped { signal: status & 0xff, event: status >> 8 })
        }
        _ => Ok(Waited::Dead),
    }
}

/// Collects `tid` if it is dead; false where it is not yet.
pub(crate) fn collect(tid: Tid) -> io::Result<bool> {
    Ok(wait_id(tid, libc::WEXITED)?.is_none_or(|(code, _)| code != 0))
}

/// Whether `tid`, which this process traces, is still alive. Collects nothing.
pub(crate) fn is_alive(tid: Tid) -> bool {
    matches!(wait_id(tid, libc::WEXITED | libc::WNOWAIT), Ok(Some((0, _))))
}

/// `si_code` (0 where there is nothing to report) and `si_status`; `None` where the task is not ours to wait for.
fn wait_id(tid: Tid, what: i32) -> io::Result<Option<(i32, i32)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: writes the information to a local.
    let result = unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, info.as_mut_ptr(), what | libc::WNOHANG | libc::__WALL) };
    if result != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    // SAFETY: all zeroes is a value of the type, and the kernel writes whole values.
    let info = unsafe { info.assume_init() };
    // SAFETY: `waitid` answers with the layout that has a status.
    Ok(Some((info.si_code, unsafe { info.si_status() })))
}

/// One word that the kernel clears in a child made by fork.
///
/// A child has copies of our structures, but not the thread that keeps the anchors alive: what it believes about them is stale. This says so, at the cost
/// of a load, and also where the child was made by a bare system call (an `atfork` handler would not run).
#[derive(Debug)]
pub(crate) struct ForkMark(&'static AtomicU32);

impl ForkMark {
    /// Makes the mark in the process that is not to be mistaken for its children.
    pub(crate) fn new() -> io::Result<Self> {
        let length = 4096;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice replaces nothing.
        let page = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the page was mapped above and nobody else knows it.
        let advised = unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) };
        check(advised.into())?;
        // SAFETY: the page is never unmapped, is aligned, zeroed, and from here on accessed through this atomic only.
        let word = unsafe { &*page.cast::<AtomicU32>() };
        word.store(1, Memory::Relaxed);
        Ok(Self(word))
    }

    /// Whether this is still the process that made the mark.
    pub(crate) fn holds(&self) -> bool {
        self.0.load(Memory::Relaxed) == 1
    }
}

/// One mapping, as PROCMAP_QUERY answers it (linux/fs.h, `struct procmap_query`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MapQuery {
    size: u64,
    flags: u64,
    address: u64,
    /// First address.
    pub(crate) start: u64,
    /// One past the last address.
    pub(crate) end: u64,
    /// PROCMAP_QUERY_VMA_READABLE and so on.
    pub(crate) permissions: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device_major: u32,
    device_minor: u32,
    name_size: u32,
    build_id_size: u32,
    name_address: u64,
    build_id_address: u64,
}

/// Asks a `/proc/PID/maps` descriptor for the mapping at `address`, or the first one after it.
///
/// # Errors
/// ENOENT: there is none. ENOTTY: the kernel is older than 6.11.
pub(crate) fn mapping_from(maps: BorrowedFd<'_>, address: u64) -> io::Result<MapQuery> {
    const PROCMAP_QUERY: libc::c_ulong = 0xc068_6611;
    const COVERING_OR_NEXT: u64 = 0x10;
    let mut query = MapQuery { size: size_of::<MapQuery>() as u64, flags: COVERING_OR_NEXT, address, ..MapQuery::default() };
    // SAFETY: the kernel reads and writes one structure of the size that it states; name and build id are not asked for (their sizes are zero).
    let result = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    check(result.into()).map(|_| query)
}

pub(crate) use trace::*;

/// `ptrace` requests. Each acts on a task that the calling thread traces and answers ESRCH where it does not, or where the task is not stopped.
mod trace {
    use super::{MaybeUninit, Registers, Tid, check, io, ptr, size_of};

    /// Stop for an event whose number is in the status: the seized task stopped because of PTRACE_INTERRUPT or a group stop, or is new.
    pub(crate) const EVENT_STOP: i32 = libc::PTRACE_EVENT_STOP;
    /// A clone with an exit signal other than SIGCHLD was made.
    pub(crate) const EVENT_CLONE: i32 = libc::PTRACE_EVENT_CLONE;

    fn request(request: libc::c_uint, tid: Tid, address: usize, data: usize) -> io::Result<libc::c_long> {
        // SAFETY: the callers in this module pass numbers, or the address of a live local of the size that the request works on.
        check(unsafe { libc::ptrace(request, tid, address, data) })
    }

    /// Begins to trace `tid` without stopping it; no options are set.
    pub(crate) fn seize(tid: Tid) -> io::Result<()> {
        request(libc::PTRACE_SEIZE, tid, 0, 0).map(drop)
    }

    /// Sets PTRACE_O_* options.
    pub(crate) fn set_options(tid: Tid, options: i32) -> io::Result<()> {
        request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
    }

    /// Has it stop with [`EVENT_STOP`] as soon as it returns to user mode; needs no stop.
    pub(crate) fn interrupt(tid: Tid) -> io::Result<()> {
        request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
    }

    /// Goes on, with `signal` delivered where it is not 0.
    pub(crate) fn resume(tid: Tid, signal: i32) -> io::Result<()> {
        request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
    }

    /// Goes on to the next entry to or return from a system call, with `signal` delivered where it is not 0.
    pub(crate) fn resume_to_call(tid: Tid, signal: i32) -> io::Result<()> {
        request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
    }

    /// Stops tracing; the task goes on.
    pub(crate) fn detach(tid: Tid, signal: i32) -> io::Result<()> {
        request(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
    }

    /// The number that came with the last event: the new task of a clone, in our pid namespace.
    pub(crate) fn event_message(tid: Tid) -> io::Result<Tid> {
        let mut message: libc::c_ulong = 0;
        request(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize)?;
        Ok(message as Tid)
    }

    /// `si_signo` and `si_code` of the stop.
    pub(crate) fn stop_info(tid: Tid) -> io::Result<(i32, i32)> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr() as usize)?;
        // SAFETY: the request succeeded and wrote a whole siginfo.
        let info = unsafe { info.assume_init() };
        Ok((info.si_signo, info.si_code))
    }

    /// The registers; `None` where the task is in 32-bit mode.
    pub(crate) fn registers(tid: Tid) -> io::Result<Option<Registers>> {
        let mut registers = MaybeUninit::<Registers>::zeroed();
        let mut window = libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of::<Registers>() };
        request(libc::PTRACE_GETREGSET, tid, libc::NT_PRSTATUS as usize, &raw mut window as usize)?;
        if window.iov_len != size_of::<Registers>() {
            return Ok(None);
        }
        // SAFETY: the kernel says that it wrote all of it.
        Ok(Some(unsafe { registers.assume_init() }))
    }

    /// Sets the registers.
    pub(crate) fn set_registers(tid: Tid, registers: &Registers) -> io::Result<()> {
        let mut window = libc::iovec { iov_base: ptr::from_ref(registers).cast_mut().cast(), iov_len: size_of::<Registers>() };
        request(libc::PTRACE_SETREGSET, tid, libc::NT_PRSTATUS as usize, &raw mut window as usize).map(drop)
    }

    /// The blocked signals; inside a call that has replaced them for its duration, those that will be back after it.
    pub(crate) fn signal_mask(tid: Tid) -> io::Result<u64> {
        let mut mask = 0_u64;
        request(libc::PTRACE_GETSIGMASK, tid, size_of::<u64>(), &raw mut mask as usize)?;
        Ok(mask)
    }

    /// Sets the blocked signals.
    pub(crate) fn set_signal_mask(tid: Tid, mask: u64) -> io::Result<()> {
        request(libc::PTRACE_SETSIGMASK, tid, size_of::<u64>(), &raw const mask as usize).map(drop)
    }

    /// Where the task's `struct rseq` is; 0 where it has none or the kernel cannot say.
    pub(crate) fn rseq_area(tid: Tid) -> io::Result<u64> {
        #[repr(C)]
        #[derive(Default)]
        struct Configuration {
            area: u64,
            size: u32,
            signature: u32,
            flags: u32,
            padding: u32,
        }
        let mut configuration = Configuration::default();
        let known = request(libc::PTRACE_GET_RSEQ_CONFIGURATION, tid, size_of::<Configuration>(), &raw mut configuration as usize);
        match known {
            Ok(_) => Ok(configuration.area),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Whether the task has its system calls sent back to itself (syscall user dispatch); false where the kernel does not know it.
    pub(crate) fn dispatches_own_calls(tid: Tid) -> io::Result<bool> {
        const GET_CONFIGURATION: libc::c_uint = 0x4211;
        let mut configuration = [0_u64; 4];
        let known = request(GET_CONFIGURATION, tid, size_of::<[u64; 4]>(), configuration.as_mut_ptr() as usize);
        match known {
            Ok(_) => Ok(configuration[0] != 0),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
