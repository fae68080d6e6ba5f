//! A process of its own that has our memory and descriptors in common with us, but not our life: it
//! goes on when we are killed.
//!
//! It runs on a stack of its own with the thread-local storage of the thread that made it, which
//! may run at the same time. What that asks of its code is the contract of [`Shared::start`].

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::SeqCst;

use rustix::thread::{Timespec, futex};

use super::{Tid, check, collect};

/// Such a process, and what it works on.
#[derive(Debug)]
pub(crate) struct Shared<T: Sync + 'static> {
    tid: Tid,
    /// Freed only when the process is known to be over.
    parts: ManuallyDrop<Parts<T>>,
    is_over: bool,
}

#[derive(Debug)]
struct Parts<T> {
    job: Box<Job<T>>,
    /// Held for the process.
    #[allow(dead_code, reason = "unmapped by its drop")]
    stack: Stack,
}

#[derive(Debug)]
struct Job<T> {
    data: T,
    body: fn(&T),
}

impl<T: Sync + 'static> Shared<T> {
    /// Has `body` run on `data` in a process of its own, which ends when `body` returns. Nobody is
    /// signalled by its end.
    ///
    /// # Errors
    /// The process, or its stack, cannot be made; the data comes back.
    ///
    /// # Safety
    /// `body` must use no thread-local storage, since it has that of the calling thread: it must
    /// not allocate or free, use `errno`, call what the C library makes a cancellation point, or
    /// panic; nor drop what does. It must not wait for a lock that a thread of ours may hold,
    /// since that thread may have been killed.
    pub(crate) unsafe fn start(data: T, body: fn(&T)) -> Result<Self, (T, io::Error)> {
        let stack = match Stack::new() {
            Ok(stack) => stack,
            Err(error) => return Err((data, error)),
        };
        let job = Box::new(Job { data, body });
        // Not CLONE_FS: `exec` of a set-user-ID program by us would be denied its privilege while
        // another process has our working directory in common with us.
        let flags = libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: the stack is fresh and the job boxed; both are kept until the process is over
        // (`Drop`), or for ever.
        let tid = unsafe {
            libc::clone(run::<T>, stack.top(), flags, ptr::from_ref(&*job).cast_mut().cast())
        };
        match check(tid.into()) {
            Ok(_) => {}
            Err(error) => return Err((job.data, error)),
        }
        Ok(Self { tid, parts: ManuallyDrop::new(Parts { job, stack }), is_over: false })
    }

    /// What it works on.
    pub(crate) fn data(&self) -> &T {
        &self.parts.job.data
    }

    /// Whether it is over; does not wait.
    pub(crate) fn is_over(&mut self) -> bool {
        // Not being ours to wait for any more means that somebody else has collected it.
        self.is_over = self.is_over || matches!(collect(self.tid), Ok(true));
        self.is_over
    }
}

impl<T: Sync + 'static> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.is_over() {
            // SAFETY: dropped once, here, and nobody else has it: the process is over.
            unsafe { ManuallyDrop::drop(&mut self.parts) };
        }
    }
}

/// A number that can be waited for across the two processes.
#[derive(Debug)]
#[allow(
    clippy::disallowed_types,
    reason = "the kernel takes a futex's own type; the two processes are nothing that can be model checked"
)]
pub(crate) struct Word(std::sync::atomic::AtomicU32);

#[allow(clippy::disallowed_types, reason = "see `Word`")]
impl Word {
    pub(crate) const fn new(value: u32) -> Self {
        Self(std::sync::atomic::AtomicU32::new(value))
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(SeqCst)
    }

    /// Sets it to `to`, and wakes who waits, if it is `from`.
    pub(crate) fn change(&self, from: u32, to: u32) -> bool {
        let changed = self.0.compare_exchange(from, to, SeqCst, SeqCst).is_ok();
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
        changed
    }

    /// Waits a moment (10 ms) for it to become something else than `value`.
    pub(crate) fn wait_while(&self, value: u32) {
        const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, value, Some(&MOMENT));
    }
}

extern "C" fn run<T>(job: *mut c_void) -> c_int {
    // SAFETY: the pointer that `start` gave, to a job that outlives this process.
    let job = unsafe { &*job.cast::<Job<T>>() };
    (job.body)(&job.data);
    0
}

/// A stack with an unmapped page below it.
#[derive(Debug)]
struct Stack(NonNull<c_void>);

// SAFETY: an address range that belongs to this value alone.
unsafe impl Send for Stack {}

impl Stack {
    const GUARD: usize = 4096;
    const LENGTH: usize = Self::GUARD + (256 << 10);

    fn new() -> io::Result<Self> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
        );
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::LENGTH, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self(NonNull::new(base).ok_or_else(io::Error::last_os_error)?);
        // SAFETY: the lowest page of the mapping made above, which nobody knows yet.
        check(unsafe { libc::mprotect(base, Self::GUARD, libc::PROT_NONE) }.into())?;
        Ok(stack)
    }

    /// One past its highest byte, 16-byte aligned as a page is.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.0.as_ptr().byte_add(Self::LENGTH) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody runs on it any more (`Shared`).
        unsafe { libc::munmap(self.0.as_ptr(), Self::LENGTH) };
    }
}
