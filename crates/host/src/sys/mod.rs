//! The system calls that no safe wrapper offers: all `unsafe` of this crate, but for the one call
//! by which `stopper` starts a [`shared::Shared`].
//!
//! What the module claims: every function here is safe to call with any arguments. The kernel
//! checks numbers, addresses and rights; a pointer that is handed over is derived from a reference
//! that lives across the call, with that reference's length, or is an address in *another* address
//! space, which the kernel only ever dereferences there. The `ptrace` requests change the state of
//! a task that this thread traces and never our own memory, except for the one value that they
//! answer with.
//!
//! No function here allocates, and none but [`block_signals`], [`mapping_from`], [`ForkMark::new`],
//! [`Unreadable::new`] and [`shared::Shared::start`] uses `errno` or other thread-local storage:
//! the others can be used in a process that has its maker's (module [`shared`]). So can those of
//! `rustix` that are a system call each, since its backend makes bare ones as well.
//!
//! One thing is not claimed, because no interface to memory by address can: [`write_memory`] on our
//! own process overwrites what it is told to. It is reached only where a caller binds its own
//! process to a device and has that device write there.

pub(crate) mod shared;
mod trace;

use std::arch::asm;
use std::cmp::Ordering;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::time::Duration;

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

// The backend by the C library, which a feature or a flag of the build could choose, leaves its
// errors in `errno`; its error type is an `int`.
const _: () = assert!(
    size_of::<rustix::io::Errno>() == 2,
    "sva-host needs rustix's linux_raw backend: build without its feature `use-libc`"
);

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A bare system call: `libc`'s leave their errors in thread-local storage, which is not always
/// ours alone.
///
/// # Safety
/// As for the call: addresses among the arguments have to be good for what the kernel does with
/// them.
unsafe fn call(number: libc::c_long, arguments: [u64; 6]) -> io::Result<u64> {
    let [a, b, c, d, e, f] = arguments;
    let answer: i64;
    // SAFETY: the convention of the instruction: it clobbers rcx and r11, answers in rax and
    // touches no stack. For the rest the caller vouches.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    if (-4095..0).contains(&answer) {
        Err(io::Error::from_raw_os_error(-answer as i32))
    } else {
        Ok(answer as u64)
    }
}

/// Reads the pieces of task `tid`'s memory into `buf`, one after the other; answers the bytes read.
pub(crate) fn read_memory(tid: Tid, pieces: &[Segment], buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `local` covers exactly `buf`, which is borrowed mutably; the remote addresses are
    // dereferenced in the other space only.
    unsafe { transfer(libc::SYS_process_vm_readv, tid, &local, pieces) }
}

/// Writes `data` to the pieces of task `tid`'s memory, one after the other; answers the bytes
/// written.
pub(crate) fn write_memory(tid: Tid, pieces: &[Segment], data: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the kernel only reads from `local`, which covers exactly `data`; the remote addresses
    // are dereferenced in the other space only (for our own process see the module's head).
    unsafe { transfer(libc::SYS_process_vm_writev, tid, &local, pieces) }
}

/// A page of ours that nobody can read.
#[derive(Debug)]
pub(crate) struct Unreadable(u64);

impl Unreadable {
    /// Reserves it, for good.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing; it is
        // never unmapped and never dereferenced.
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

/// Brings the page of `address` of task `tid`'s memory in as a write of the process would,
/// copy-on-write included, and writes nothing: `process_vm_writev` first pins the page for writing
/// and then fails to read the byte that it was given.
///
/// # Errors
/// The task is gone, or the call failed. Whether there is such a page is not said: the kernel's
/// answer is EFAULT either way.
pub(crate) fn fault_in_for_write(tid: Tid, address: u64, source: &Unreadable) -> io::Result<()> {
    let local = libc::iovec { iov_base: source.0 as *mut _, iov_len: 1 };
    // SAFETY: the kernel only reads from `local`, and in vain; the remote address is dereferenced
    // in the other space only.
    match unsafe {
        transfer(libc::SYS_process_vm_writev, tid, &local, &[Segment { address, len: 1 }])
    } {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        result => result.map(drop),
    }
}

/// # Safety
/// `local` is good for what the call `number` does with it.
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
    // SAFETY: both lists are borrowed over the call; for what they say the caller vouches.
    unsafe { call(number, arguments) }.map(|done| done as usize)
}

/// Whether task `tid` has memory at all: it has none from some way into its death on.
pub(crate) fn has_memory(tid: Tid) -> bool {
    // Nothing can be read there, and why not tells it.
    let nowhere = Segment { address: 1 << 63, len: 1 };
    !read_memory(tid, &[nowhere], &mut [0])
        .is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// Orders the address spaces of two tasks; equal means that they share one, or that neither has
/// any.
pub(crate) fn compare_spaces(a: Tid, b: Tid) -> io::Result<Ordering> {
    const KCMP_VM: u64 = 1;
    // SAFETY: takes and answers numbers only.
    match unsafe { call(libc::SYS_kcmp, [a as u64, b as u64, KCMP_VM, 0, 0, 0]) }? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// A descriptor that is closed by a bare system call: `close` of the C library is a cancellation
/// point, and writes to thread-local storage.
#[derive(Debug)]
pub(crate) struct Descriptor(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for Descriptor {
    fn from(owned: OwnedFd) -> Self {
        Self(ManuallyDrop::new(owned))
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: owned, and closed by nobody else, since the inner value is never dropped.
        let _ = unsafe { call(libc::SYS_close, [self.0.as_raw_fd() as u64, 0, 0, 0, 0, 0]) };
    }
}

/// Sleeps for about `time`; a signal may end it earlier. (`std`'s asks `errno`, and panics over
/// it.)
pub(crate) fn pause(time: Duration) {
    let time =
        libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    // SAFETY: reads the local; what is left of the time is not asked for.
    let _ = unsafe { call(libc::SYS_nanosleep, [ptr::from_ref(&time) as u64, 0, 0, 0, 0, 0]) };
}

/// Lets others have the processor.
pub(crate) fn give_way() {
    // SAFETY: takes nothing.
    let _ = unsafe { call(libc::SYS_sched_yield, [0; 6]) };
}

/// Whether process `pid` has a thread `tid`. One that is dead, or is somebody else's after an exec,
/// is none.
pub(crate) fn has_thread(pid: Tid, tid: Tid) -> bool {
    // SAFETY: takes numbers only; signal 0 is none.
    unsafe { call(libc::SYS_tgkill, [pid as u64, tid as u64, 0, 0, 0, 0]) }.is_ok()
}

/// Kills the process `pid`.
pub(crate) fn kill(pid: Tid) -> io::Result<()> {
    // SAFETY: takes numbers only.
    unsafe { call(libc::SYS_kill, [pid as u64, libc::SIGKILL as u64, 0, 0, 0, 0]) }.map(drop)
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
    let Some((code, status)) = wait_id(tid, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)? else {
        return Ok(Waited::NotOurs);
    };
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

/// Whether the task behind a pidfd is ours to wait for, as its tracer or its parent, and alive.
pub(crate) fn is_ours(task: BorrowedFd<'_>) -> bool {
    let found = wait_for(libc::P_PIDFD, task.as_raw_fd() as u64, libc::WEXITED | libc::WNOWAIT);
    matches!(found, Ok(Some((0, _))))
}

fn wait_id(tid: Tid, what: i32) -> io::Result<Option<(i32, i32)>> {
    wait_for(libc::P_PID, tid as u64, what)
}

/// `si_code` (0 where there is nothing to report) and `si_status`; `None` where the task is not
/// ours to wait for.
fn wait_for(kind: libc::idtype_t, number: u64, what: i32) -> io::Result<Option<(i32, i32)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = (what | libc::WNOHANG | libc::__WALL) as u64;
    // SAFETY: writes the information to a local.
    let result = unsafe {
        call(libc::SYS_waitid, [u64::from(kind), number, info.as_mut_ptr() as u64, options, 0, 0])
    };
    match result {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: all zeroes is a value of the type, and the kernel writes whole values.
    let info = unsafe { info.assume_init() };
    // SAFETY: `waitid` answers with the layout that has a status.
    Ok(Some((info.si_code, unsafe { info.si_status() })))
}

/// One word that the kernel clears in a child made by fork.
///
/// A child has copies of our structures, but not the thread that keeps the anchors alive: what it
/// believes about them is stale. This says so, at the cost of a load, and also where the child was
/// made by a bare system call (an `atfork` handler would not run).
#[derive(Debug)]
pub(crate) struct ForkMark(&'static AtomicU32);

impl ForkMark {
    /// Makes the mark in the process that is not to be mistaken for its children.
    pub(crate) fn new() -> io::Result<Self> {
        let length = 4096;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice replaces nothing.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                protection,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the page was mapped above and nobody else knows it.
        let advised = unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) };
        check(advised.into())?;
        // SAFETY: the page is never unmapped, is aligned, zeroed, and from here on accessed through
        // this atomic only.
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
    let mut query = MapQuery {
        size: size_of::<MapQuery>() as u64,
        flags: COVERING_OR_NEXT,
        address,
        ..MapQuery::default()
    };
    // SAFETY: the kernel reads and writes one structure of the size that it states; name and build
    // id are not asked for (their sizes are zero).
    let result = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    check(result.into()).map(|_| query)
}

pub(crate) use trace::*;
