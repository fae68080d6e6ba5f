//! A process that shares our memory and descriptors but does not die with us.
//!
//! It runs on a stack of its own, with the thread-local storage of the thread that made it. That
//! thread may run at the same time. The contract of [`VmProcess::start`] says what this forbids to
//! the code of the process.
//!
//! Why it is sound: the caller of `start` answers for the code. Stack and data live until the
//! process is known to have ended; where that is not known, they are never freed.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::SeqCst;

use rustix::thread::{Timespec, futex};

use super::call::{Tid, check};
use super::task::reap;

/// A process made by `clone` with CLONE_VM, and the data that it works on.
#[derive(Debug)]
pub(crate) struct VmProcess<T: Sync + 'static> {
    tid: Tid,
    /// Freed only when the process is known to have ended.
    resources: ManuallyDrop<Resources<T>>,
    has_ended: bool,
}

#[derive(Debug)]
struct Resources<T> {
    job: Box<Job<T>>,
    #[allow(dead_code, reason = "unmapped by its drop")]
    stack: Stack,
}

#[derive(Debug)]
struct Job<T> {
    data: T,
    body: fn(&T),
}

impl<T: Sync + 'static> VmProcess<T> {
    /// Runs `body` on `data` in a new process, which ends when `body` returns. Its end signals
    /// nobody.
    ///
    /// # Errors
    /// The process or its stack cannot be made. The data is returned.
    ///
    /// # Safety
    /// `body` must use no thread-local storage, because it has that of the calling thread. So it
    /// must not allocate or free, use `errno`, call a cancellation point of the C library, or
    /// panic; nor drop a value whose drop does so. It must not wait for a lock that a thread of
    /// ours may hold: that thread may have been killed.
    pub(crate) unsafe fn start(data: T, body: fn(&T)) -> Result<Self, (T, io::Error)> {
        let stack = match Stack::new() {
            Ok(stack) => stack,
            Err(error) => return Err((data, error)),
        };
        let job = Box::new(Job { data, body });
        // CLONE_FS is not set: with a working directory that another process shares, our `exec` of
        // a set-user-ID program would be denied its privilege.
        let flags = libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: the stack is new and the job is boxed. Both are kept until the process has ended
        // (`Drop`), or for ever.
        let tid = unsafe {
            libc::clone(run::<T>, stack.top(), flags, ptr::from_ref(&*job).cast_mut().cast())
        };
        match check(tid.into()) {
            Ok(_) => {}
            Err(error) => return Err((job.data, error)),
        }
        let resources = ManuallyDrop::new(Resources { job, stack });
        Ok(Self { tid, resources, has_ended: false })
    }

    /// The data that it works on.
    pub(crate) fn data(&self) -> &T {
        &self.resources.job.data
    }

    /// Whether it has ended. Does not block.
    pub(crate) fn has_ended(&mut self) -> bool {
        // `reap` also answers true where somebody else has reaped it.
        self.has_ended = self.has_ended || matches!(reap(self.tid), Ok(true));
        self.has_ended
    }
}

impl<T: Sync + 'static> Drop for VmProcess<T> {
    fn drop(&mut self) {
        if self.has_ended() {
            // SAFETY: this is the only drop, and the process, the only other user, has ended.
            unsafe { ManuallyDrop::drop(&mut self.resources) };
        }
    }
}

/// A 32-bit word that either process can wait on.
#[derive(Debug)]
#[allow(
    clippy::disallowed_types,
    reason = "futex calls take std's type, and loom cannot model two processes"
)]
pub(crate) struct Futex(std::sync::atomic::AtomicU32);

#[allow(clippy::disallowed_types, reason = "see `Futex`")]
impl Futex {
    pub(crate) const fn new(value: u32) -> Self {
        Self(std::sync::atomic::AtomicU32::new(value))
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(SeqCst)
    }

    /// Changes the value from `from` to `to` and wakes the waiter. `false` where it was not `from`.
    pub(crate) fn change(&self, from: u32, to: u32) -> bool {
        let changed = self.0.compare_exchange(from, to, SeqCst, SeqCst).is_ok();
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
        changed
    }

    /// Waits for at most 10 ms while the value is `value`.
    pub(crate) fn wait_while(&self, value: u32) {
        const LIMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, value, Some(&LIMIT));
    }
}

extern "C" fn run<T>(job: *mut c_void) -> c_int {
    // SAFETY: this is the pointer that `start` passed, to a job that outlives this process.
    let job = unsafe { &*job.cast::<Job<T>>() };
    (job.body)(&job.data);
    0
}

/// A stack with a guard page below it.
#[derive(Debug)]
struct Stack(NonNull<c_void>);

// SAFETY: the pointer is an address range that belongs to this value alone.
unsafe impl Send for Stack {}

impl Stack {
    const GUARD: usize = 4096;
    const LENGTH: usize = Self::GUARD + (256 << 10);

    fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::LENGTH, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self(NonNull::new(base).ok_or_else(io::Error::last_os_error)?);
        // SAFETY: this is the lowest page of the mapping above, which nobody else knows yet.
        check(unsafe { libc::mprotect(base, Self::GUARD, libc::PROT_NONE) }.into())?;
        Ok(stack)
    }

    /// One past the highest byte. It is aligned as a page is.
    fn top(&self) -> *mut c_void {
        // SAFETY: the result is one past the end of the mapping.
        unsafe { self.0.as_ptr().byte_add(Self::LENGTH) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and nobody runs on it any more (`VmProcess`).
        unsafe { libc::munmap(self.0.as_ptr(), Self::LENGTH) };
    }
}
