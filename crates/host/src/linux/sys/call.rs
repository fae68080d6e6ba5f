//! The bare system call, and what all other files of this folder build on.

use std::arch::asm;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// A task number in our pid namespace.
pub(crate) type Tid = libc::pid_t;

// rustix's backend over the C library, which a feature or a build flag could select, leaves errors
// in `errno`. Its error type is an `int`; that of the `linux_raw` backend has 16 bits.
const _: () = assert!(
    size_of::<rustix::io::Errno>() == 2,
    "sva-host needs rustix's linux_raw backend: build without its feature `use-libc`"
);

/// The result of a function of the C library that leaves its error in `errno`.
pub(super) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a bare system call. The wrappers of `libc` leave errors in thread-local storage, which
/// the caller may share with another thread.
///
/// # Safety
/// As for the system call: addresses among the arguments must be valid for what the kernel does
/// with them.
pub(super) unsafe fn syscall(number: libc::c_long, arguments: [u64; 6]) -> io::Result<u64> {
    let [a, b, c, d, e, f] = arguments;
    let result: i64;
    // SAFETY: this is the calling convention of the instruction: it clobbers rcx and r11, returns
    // in rax and does not touch the stack. The caller answers for the system call itself.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    if (-4095..0).contains(&result) {
        Err(io::Error::from_raw_os_error(-result as i32))
    } else {
        Ok(result as u64)
    }
}

/// A file descriptor that is closed by a bare system call. `close` of the C library is a
/// cancellation point and writes to thread-local storage.
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
        // SAFETY: the descriptor is owned and is closed here only: the inner value is never
        // dropped.
        let _ = unsafe { syscall(libc::SYS_close, [self.0.as_raw_fd() as u64, 0, 0, 0, 0, 0]) };
    }
}

/// Sleeps for about `time`; a signal may end the sleep earlier. `std::thread::sleep` reads `errno`
/// and may panic over it.
pub(crate) fn sleep(time: Duration) {
    let time =
        libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    // SAFETY: the kernel reads the local value; the null pointer says that the remaining time is
    // not wanted.
    let _ = unsafe { syscall(libc::SYS_nanosleep, [ptr::from_ref(&time) as u64, 0, 0, 0, 0, 0]) };
}

/// Gives the processor to another task that is ready to run.
pub(crate) fn yield_processor() {
    // SAFETY: the call takes no arguments.
    let _ = unsafe { syscall(libc::SYS_sched_yield, [0; 6]) };
}
