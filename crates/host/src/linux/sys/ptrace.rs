//! `ptrace` requests. Each acts on a task that the calling thread traces. It fails with ESRCH where
//! the thread does not trace the task, or where the task is not stopped.
//!
//! Why it is sound: a request changes the tracee only. Where it writes to our memory, this module
//! passes the address of a local value of the type that the request fills in.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::call::{Tid, syscall};

/// The general registers of a stopped task.
pub(crate) type Registers = libc::user_regs_struct;

/// The event of a seized task that stopped because of PTRACE_INTERRUPT or a group stop, or that is
/// new.
pub(crate) const EVENT_STOP: i32 = libc::PTRACE_EVENT_STOP;
/// The event of a clone whose exit signal is not SIGCHLD.
pub(crate) const EVENT_CLONE: i32 = libc::PTRACE_EVENT_CLONE;

fn request(request: libc::c_uint, tid: Tid, address: usize, data: usize) -> io::Result<u64> {
    let arguments = [u64::from(request), tid as u64, address as u64, data as u64, 0, 0];
    // SAFETY: the callers in this module pass numbers, or the address of a live local of the size
    // that the request works on.
    unsafe { syscall(libc::SYS_ptrace, arguments) }
}

/// Starts to trace `tid` without stopping it. No options are set.
pub(crate) fn seize(tid: Tid) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, 0).map(drop)
}

/// Sets PTRACE_O_* options.
pub(crate) fn set_options(tid: Tid, options: i32) -> io::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// Requests a stop with [`EVENT_STOP`] on the next return to user mode. The task need not be
/// stopped.
pub(crate) fn interrupt(tid: Tid) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Continues the task and delivers `signal` where it is not 0.
pub(crate) fn resume(tid: Tid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Continues the task to the next entry to or return from a system call, and delivers `signal`
/// where it is not 0.
pub(crate) fn resume_to_syscall(tid: Tid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// Stops tracing. The task continues, with `signal` delivered where it is not 0.
pub(crate) fn detach(tid: Tid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
}

/// The message of the last event: for a clone the number of the new task, in our pid namespace.
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
    let mut window =
        libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of::<Registers>() };
    request(libc::PTRACE_GETREGSET, tid, libc::NT_PRSTATUS as usize, &raw mut window as usize)?;
    if window.iov_len != size_of::<Registers>() {
        return Ok(None);
    }
    // SAFETY: the kernel reports that it wrote the whole structure.
    Ok(Some(unsafe { registers.assume_init() }))
}

/// Sets the registers.
pub(crate) fn set_registers(tid: Tid, registers: &Registers) -> io::Result<()> {
    let mut window = libc::iovec {
        iov_base: ptr::from_ref(registers).cast_mut().cast(),
        iov_len: size_of::<Registers>(),
    };
    request(libc::PTRACE_SETREGSET, tid, libc::NT_PRSTATUS as usize, &raw mut window as usize)
        .map(drop)
}

/// The blocked signals. Inside a system call that replaces them for its duration, those that will
/// be restored after it.
pub(crate) fn signal_mask(tid: Tid) -> io::Result<u64> {
    let mut mask = 0_u64;
    request(libc::PTRACE_GETSIGMASK, tid, size_of::<u64>(), &raw mut mask as usize)?;
    Ok(mask)
}

/// Sets the blocked signals.
pub(crate) fn set_signal_mask(tid: Tid, mask: u64) -> io::Result<()> {
    request(libc::PTRACE_SETSIGMASK, tid, size_of::<u64>(), &raw const mask as usize).map(drop)
}

/// The address of the task's `struct rseq`; 0 where it has none or the kernel cannot tell.
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
    let known = request(
        libc::PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<Configuration>(),
        &raw mut configuration as usize,
    );
    match known {
        Ok(_) => Ok(configuration.area),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Whether the task uses syscall user dispatch. `false` where the kernel does not have it.
pub(crate) fn uses_syscall_user_dispatch(tid: Tid) -> io::Result<bool> {
    const GET_CONFIGURATION: libc::c_uint = 0x4211;
    let mut configuration = [0_u64; 4];
    let known =
        request(GET_CONFIGURATION, tid, size_of::<[u64; 4]>(), configuration.as_mut_ptr() as usize);
    match known {
        Ok(_) => Ok(configuration[0] != 0),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => Ok(false),
        Err(error) => Err(error),
    }
}
