//! Making an anchor by way of a stopped thread. The steps are described at the head of the folder.
//!
//! All of this runs in the tracer process where there is one. It does not allocate and does not use
//! `errno`: see [`VmProcess::start`](crate::linux::sys::clone::VmProcess::start).

use std::cmp::Ordering;
use std::io;
use std::time::{Duration, Instant};

use super::denial::denial;
use super::identify::ALL_SIGNALS;
use super::select::TargetThread;
use crate::error::AttachError;
use crate::linux::inject::{
    FIRST_STOP, NEXT_STOP, PendingDetach, Syscall, SyscallSite, ThreadState, TraceError, Tracee,
    restore_and_detach,
};
use crate::linux::procfs;
use crate::linux::sys::{self, Registers, Tid, gettid};

/// The address of a new task's stack. It has none: if our death let the task run before it dies
/// with us, its first use of a stack would end it.
const NO_STACK: u64 = 16;

const CLONE: Syscall = Syscall {
    name: "clone",
    number: libc::SYS_clone,
    arguments: [(libc::CLONE_VM | libc::CLONE_FILES) as u64, NO_STACK, 0, 0],
};

/// What [`make`] returns.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The anchor, which the calling thread traces.
    pub(super) anchor: Result<Tid, MakeError>,
    /// For how long the process's thread was stopped, from the request on.
    pub(super) stopped: Duration,
    /// The thread, where it could not be detached yet.
    pub(super) pending: Option<PendingDetach>,
}

/// Why there is no anchor. The texts that an [`AttachError`] needs are looked up later, when it is
/// made of this: that allocates.
#[derive(Debug)]
pub(super) enum MakeError {
    /// The thread could not be seized.
    Seize(io::Error),
    /// Another step failed.
    Other(AttachError),
}

impl MakeError {
    /// The error of an attach of process `pid` by way of thread `tid`. May allocate.
    pub(super) fn into_attach_error(self, pid: Tid, tid: Tid) -> AttachError {
        match self {
            Self::Seize(error) => seize_error(pid, tid, error),
            Self::Other(error) => error,
        }
    }
}

/// Makes an anchor by way of `thread`. The calling thread becomes the tracer of all tasks.
///
/// Blocks for some hundred microseconds where a processor is free. The limits are [`FIRST_STOP`]
/// for the first stop ([`NEXT_STOP`] where the thread waits for a processor) and [`NEXT_STOP`] for
/// each step after it.
pub(super) fn make(pid: Tid, thread: &TargetThread, site: &SyscallSite) -> Outcome {
    let (begin, tracee) = (Instant::now(), Tracee(thread.tid));
    if let Err(refused) = seize(thread.tid) {
        let anchor = Err(MakeError::Seize(refused));
        return Outcome { anchor, stopped: begin.elapsed(), pending: None };
    }
    let (state, made) = match make_stopped(pid, thread, tracee, site) {
        Ok((state, made)) => (Some(state), made),
        Err(error) => (None, Err(error)),
    };
    let detached = restore_and_detach(tracee, state.as_ref());
    let stopped = begin.elapsed();
    let pending = detached.is_err().then_some(PendingDetach { tracee, tgid: thread.tgid, state });
    let anchor =
        made.and_then(|anchor| isolate_or_kill(pid, anchor, site)).map_err(MakeError::Other);
    Outcome { anchor, stopped, pending }
}

/// Isolates an anchor, or kills it where that fails.
fn isolate_or_kill(pid: Tid, anchor: Tid, site: &SyscallSite) -> Result<Tid, AttachError> {
    let error = match isolate(Tracee(anchor), site) {
        Ok(Ok(())) => return Ok(anchor),
        Ok(Err(refused)) => refused,
        Err(error) => error.into_attach_error(pid, anchor),
    };
    // Best effort: it dies with its tracer at the latest.
    let _ = Tracee(anchor).kill();
    Err(error)
}

/// Takes a thread to the stop that it can be detached from, wherever in a call a failure has left
/// it.
fn return_to_stop(tracee: Tracee) -> Result<(), TraceError> {
    if let Ok(Some(registers)) = sys::registers(tracee.0) {
        // At the entry of a call this cancels the call.
        sys::set_registers(tracee.0, &Registers { orig_rax: u64::MAX, ..registers })?;
        tracee.finish_call()
    } else {
        sys::interrupt(tracee.0)?;
        tracee.wait_for_interrupt(NEXT_STOP)
    }
}

/// Stops the thread and has it make the anchor. The outer error means that nothing was changed in
/// the thread; otherwise it must get the returned state back.
fn make_stopped(
    pid: Tid,
    thread: &TargetThread,
    tracee: Tracee,
    site: &SyscallSite,
) -> Result<(ThreadState, Result<Tid, AttachError>), AttachError> {
    let trace_error = |error: TraceError| error.into_attach_error(pid, tracee.0);
    let request_error = |error: io::Error| trace_error(TraceError::Request(error));
    sys::interrupt(tracee.0).map_err(request_error)?;
    match tracee.wait_for_interrupt(FIRST_STOP) {
        // It waits for a processor. On a busy machine that may take longer, and is sure to come.
        Err(TraceError::TimedOut)
            if thread.directory.status().is_ok_and(|status| status.state == 'R') =>
        {
            tracee.wait_for_interrupt(NEXT_STOP)
        }
        stopped => stopped,
    }
    .map_err(trace_error)?;
    check_stopped(pid, thread, site)?;
    let group_stopped = sys::stop_info(tracee.0).map_err(request_error)?.0 != libc::SIGTRAP;
    let state = ThreadState::save(tracee, group_stopped)
        .map_err(trace_error)?
        .ok_or(AttachError::ThirtyTwoBit { tid: tracee.0 as u32 })?;
    let result = match clone_twice(tracee, &state.registers, site.instruction) {
        Ok(Ok(anchor)) => {
            check_parent(thread.tgid, tracee, &state.registers, site.instruction, anchor)
        }
        Ok(Err(source)) => Err(AttachError::Refused { call: CLONE.name, source }),
        Err(error) => {
            let _ = return_to_stop(tracee);
            kill_unreported_clones(tracee);
            Err(trace_error(error))
        }
    };
    Ok((state, result))
}

/// Whether the stopped thread is the one that was chosen, and calls can be made in its name.
fn check_stopped(pid: Tid, thread: &TargetThread, site: &SyscallSite) -> Result<(), AttachError> {
    let tid = thread.tid;
    // Traced, the thread keeps its number. The directory tells whether the number was the chosen
    // thread's until then.
    let status = thread.directory.status().map_err(|error| proc_error(pid, error))?;
    if thread.is_of_sharer && !matches!(sys::compare_spaces(pid, tid), Ok(Ordering::Equal)) {
        return Err(AttachError::Gone { pid: pid as u32 });
    }
    if status.seccomp != 0 {
        return Err(AttachError::Seccomp { tid: tid as u32, mode: status.seccomp });
    }
    let dispatches = sys::uses_syscall_user_dispatch(tid)
        .map_err(|error| TraceError::Request(error).into_attach_error(pid, tid))?;
    if dispatches {
        return Err(AttachError::SyscallUserDispatch { tid: tid as u32 });
    }
    if !site.is_valid(tid) {
        return Err(AttachError::Gone { pid: pid as u32 });
    }
    Ok(())
}

/// Kills tasks whose clone was not reported because their maker was killed at that moment. They are
/// traced by this thread from their first moment, and are no anchors yet.
fn kill_unreported_clones(tracee: Tracee) {
    let _ = procfs::each_process(|task| {
        let is_unreported = |status: procfs::Status| {
            status.tracer == gettid() && status.seccomp == 0 && status.blocked == ALL_SIGNALS
        };
        if task != tracee.0 && procfs::status(task).is_ok_and(is_unreported) {
            let _ = Tracee(task).kill();
        }
    });
}

/// Has the thread clone the intermediate task, has that one clone the anchor, and has the thread
/// reap the intermediate task. The thread is then in an interrupt stop.
fn clone_twice(
    tracee: Tracee,
    registers: &Registers,
    instruction: u64,
) -> Result<io::Result<Tid>, TraceError> {
    sys::set_signal_mask(tracee.0, ALL_SIGNALS)?;
    sys::set_options(tracee.0, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE)?;
    let intermediate = match tracee.clone(registers, instruction, &CLONE)? {
        Ok(intermediate) => Tracee(intermediate),
        Err(refused) => return tracee.finish_call().map(|()| Err(refused)),
    };
    // The thread returns from its clone while the intermediate task works.
    let returning = sys::interrupt(tracee.0).and_then(|()| sys::resume(tracee.0, 0));
    let made = clone_anchor(intermediate, instruction);
    let reaped = intermediate.kill_without_reaping().and_then(|()| {
        returning?;
        tracee.wait_for_interrupt(NEXT_STOP)?;
        let number = tracee.result()?.map_err(TraceError::Request)?;
        reap_in_name_of(tracee, registers, instruction, number, intermediate)
    });
    if reaped.is_err() {
        // Best effort: both die with us at the latest.
        let _ = intermediate.reap();
        if let Ok(Ok(anchor)) = made {
            let _ = Tracee(anchor).kill();
        }
    }
    reaped.and(made)
}

/// Has the intermediate task clone the anchor.
fn clone_anchor(intermediate: Tracee, instruction: u64) -> Result<io::Result<Tid>, TraceError> {
    intermediate.wait_for_first_stop()?;
    // EXITKILL first: from here on the intermediate task dies with us, and the anchor from its
    // first moment, because it inherits the option.
    sys::set_options(
        intermediate.0,
        libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE,
    )?;
    let registers = sys::registers(intermediate.0)?.ok_or(TraceError::Not64Bit)?;
    let anchor = match intermediate.clone(&registers, instruction, &CLONE)? {
        Ok(anchor) => anchor,
        Err(refused) => return Ok(Err(refused)),
    };
    match Tracee(anchor).wait_for_first_stop() {
        Ok(()) => Ok(Ok(anchor)),
        Err(error) => {
            let _ = Tracee(anchor).kill();
            Err(error)
        }
    }
}

/// Has the thread reap its dead child, which has `number` in the thread's pid namespace.
///
/// Until its tracer has reaped a dead task, nobody else sees it. The tracer does so when the thread
/// is at the entry of its own `wait4`.
fn reap_in_name_of(
    tracee: Tracee,
    registers: &Registers,
    instruction: u64,
    number: u64,
    child: Tracee,
) -> Result<(), TraceError> {
    let options = (libc::__WALL | libc::WNOHANG) as u64;
    let arguments = [number, 0, options, 0];
    let wait = Syscall { name: "wait4", number: libc::SYS_wait4, arguments };
    tracee.enter(registers, instruction, &wait)?;
    child.reap()?;
    tracee.finish_call()
}

/// Checks that the anchor has not become a child of the process, whose waits would see it. Undoes
/// the anchor if it has.
fn check_parent(
    tgid: Tid,
    tracee: Tracee,
    registers: &Registers,
    instruction: u64,
    anchor: Tid,
) -> Result<Tid, AttachError> {
    let anchor = Tracee(anchor);
    match procfs::status(anchor.0).and_then(|status| Ok((status, procfs::parent(anchor.0)?))) {
        Ok((status, parent)) if !status.is_dead() && parent != tgid => Ok(anchor.0),
        // Only with a number that is certain: for `wait4`, 0 and less mean any child.
        Ok((status, _)) if !status.is_dead() && status.own_number > 0 => {
            let number = status.own_number as u64;
            let undone = anchor
                .kill_without_reaping()
                .and_then(|()| reap_in_name_of(tracee, registers, instruction, number, anchor));
            if undone.is_err() {
                let _ = return_to_stop(tracee);
            }
            Err(AttachError::AdoptsOrphans { pid: tgid as u32 })
        }
        found => {
            let _ = anchor.kill();
            Err(found.map_or_else(
                |error| proc_error(tgid, error),
                |_| AttachError::Gone { pid: tgid as u32 },
            ))
        }
    }
}

/// Takes from the anchor what it shares with the process except for the memory, and puts it under
/// strict seccomp.
fn isolate(anchor: Tracee, site: &SyscallSite) -> Result<Result<(), AttachError>, TraceError> {
    sys::set_options(
        anchor.0,
        libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC,
    )?;
    let registers = sys::registers(anchor.0)?.ok_or(TraceError::Not64Bit)?;
    let call = |name, number, arguments| Syscall { name, number, arguments };
    // Without the string, or if the call fails, the anchor keeps the process's working directory.
    // That only keeps a file system busy.
    if let Some(root) = site.root_path {
        let chdir = call("chdir", libc::SYS_chdir, [root, 0, 0, 0]);
        let _ = anchor.call(&registers, site.instruction, &chdir)?;
    }
    let close_all = [0, u64::from(u32::MAX), u64::from(libc::CLOSE_RANGE_UNSHARE), 0];
    let no_new_privs = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0];
    let strict = [libc::PR_SET_SECCOMP as u64, u64::from(libc::SECCOMP_MODE_STRICT), 0, 0];
    let steps = [
        // Leaves the session and the process group: job control does not see it.
        call("setsid", libc::SYS_setsid, [0; 4]),
        // Gives it a descriptor table of its own, and empties that.
        call("close_range", libc::SYS_close_range, close_all),
        call("prctl(PR_SET_NO_NEW_PRIVS)", libc::SYS_prctl, no_new_privs),
        // From here on it could only read, write and exit, even if it ran.
        call("prctl(PR_SET_SECCOMP)", libc::SYS_prctl, strict),
    ];
    for step in &steps {
        if let Err(source) = anchor.call(&registers, site.instruction, step)? {
            return Ok(Err(AttachError::Refused { call: step.name, source }));
        }
    }
    Ok(Ok(()))
}

/// Starts to trace a thread. The right to do so has been seen to exist. But a thread that dies may
/// be refused, and the next moment a thread that execs may take over its number. So a refusal
/// counts only if it is repeated.
fn seize(tid: Tid) -> io::Result<()> {
    const ATTEMPTS: u32 = 3;
    let mut attempt = 1;
    loop {
        match sys::seize(tid) {
            Err(_) if attempt < ATTEMPTS => sys::sleep(Duration::from_millis(1)),
            result => return result,
        }
        attempt += 1;
    }
}

/// The error of a thread that could not be seized.
fn seize_error(pid: Tid, tid: Tid, error: io::Error) -> AttachError {
    match (error.raw_os_error(), procfs::status(tid)) {
        (Some(libc::ESRCH), _) | (_, Err(_)) => AttachError::Gone { pid: pid as u32 },
        (Some(libc::EPERM), Ok(status)) if status.tracer != 0 => {
            let name = procfs::command(status.tracer);
            AttachError::AlreadyTraced { tid: tid as u32, tracer: status.tracer as u32, name }
        }
        // A dead task cannot be traced.
        (Some(libc::EPERM), Ok(status)) if status.is_dead() => {
            AttachError::Gone { pid: pid as u32 }
        }
        (Some(libc::EPERM), Ok(status)) => {
            AttachError::NotPermitted { pid: pid as u32, why: denial(&status) }
        }
        _ => AttachError::host("PTRACE_SEIZE")(error),
    }
}

/// The error of a read below `/proc`: the task is gone, or the failure is not the task's.
fn proc_error(pid: Tid, error: io::Error) -> AttachError {
    if procfs::is_gone(&error) {
        AttachError::Gone { pid: pid as u32 }
    } else {
        AttachError::host("read /proc")(error)
    }
}
