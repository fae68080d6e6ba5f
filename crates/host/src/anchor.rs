//! The anchor: a task that shares a process's memory and never runs its code.
//!
//! # Why it is sound
//!
//! `process_vm_readv` and `process_vm_writev` take a task's number and reach whatever memory that
//! task has at the moment. An anchor has the same memory for ever, and its number is its own for as
//! long as we use it:
//!
//! - *It never execs.* It stands in a ptrace stop from its first moment and is only ever let go for
//!   the few calls that make it an anchor, the last of which puts it under strict seccomp, where
//!   there is no exec. An exec before that would show as a stop of its own kind, and the attach
//!   fails.
//! - *Its number is not used again.* A traced task that dies stays a zombie until its tracer
//!   collects it. The tracer is our keeper thread (which takes it over from the stopper, and sees
//!   by a pidfd that it is the one that was made), and the number is collected only after the
//!   [gate](crate::gate) has been closed and everybody has left it. (What a program must not do
//!   meanwhile: see [the crate's head](crate).)
//! - *It is not left behind.* PTRACE_O_EXITKILL kills it when the keeper's process ends in any way.
//! - *It belongs to the space that was meant.* It is made by a clone with CLONE_VM in a thread of
//!   the process, while that thread is stopped and known by an open `/proc` directory, so that the
//!   number cannot be another's.
//!
//! Rejected: checking by number before each call (an exec between check and call is missed: the
//! `naive-check` build shows it), `/proc/PID/mem` (belongs to the space, but writes read-only pages
//! and reads PROT_NONE ones), a thread as anchor (the process's exec and exit would wait until we
//! collect it), and a direct child as anchor (the process's own `wait` calls with `__WALL` would
//! see it, and its death would leave a zombie with the process).
//!
//! # How it is made
//!
//! A thread T of the process is stopped. In its name a task I is cloned, in I's name the anchor A;
//! I is killed, and T collects it (exit signal 0: nobody hears of it), so that A is an orphan and
//! falls to the init of the process's pid namespace. T gets its registers and signal mask back and
//! goes on. Only then A leaves what else it has in common with the process: session, working
//! directory, descriptors. Nothing is ever mapped or written in the process: strings and
//! instructions that the calls need are found in it.
//!
//! Clone flags that are *not* given: CLONE_FS (setns, chroot and privileged exec in the process
//! would be affected), CLONE_SIGHAND and CLONE_THREAD (see above), CLONE_PARENT (inherits the exit
//! signal: the process's parent would hear of it). CLONE_FILES is given, and taken back by A, since
//! a copy of the descriptor table would keep the process's pipes and sockets open for its time.
//!
//! # What the process could notice
//!
//! - One stop of T, typically 200 to 400 us
//!   ([`HostSpace::stop_time`](crate::HostSpace::stop_time)). Calls in progress: see `calls.rs`. A
//!   thread that was *running* when it was chosen may be inside a call that moves bytes when it
//!   stops; if that call sleeps at that very moment, its count is short, as after a signal.
//! - A thread of the process that waits with `__WALL` for any child in these microseconds has I to
//!   wait for, and may collect it.
//! - While attached: one more task of the user (RLIMIT_NPROC) in the process's cgroup, shown by
//!   `ps` in state `t` under the process's command name. After the last task has left, the memory
//!   is freed when the monitor has seen it, some 20 ms later.
//! - Our death while T is stopped: nothing, since the tracer of that moment is a process of its own
//!   that finishes what was begun (module `stopper`). Where that cannot be (Yama), T goes on with
//!   registers that are not its own. The time for that is kept short: everything that can be is
//!   prepared before, or done after.

use std::cmp::Ordering;
use std::io;
use std::time::{Duration, Instant};

use crate::error::AttachError;
use crate::landmarks::Landmarks;
use crate::procfs;
use crate::provider::gettid;
use crate::saved::{Saved, Stray, let_go};
use crate::sys::{self, Registers, Tid};
use crate::target::{self, Chosen};
use crate::tracee::{Call, FIRST_STOP, NEXT_STOP, Tracee, Trouble};

/// All signals that can be blocked.
const ALL_SIGNALS: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));
/// A new task gets no stack: should it be let go by our death before it dies with us, its first use
/// of one ends it.
const NO_STACK: u64 = 16;

const CLONE: Call = Call {
    name: "clone",
    number: libc::SYS_clone,
    arguments: [(libc::CLONE_VM | libc::CLONE_FILES) as u64, NO_STACK, 0, 0],
};

/// An anchor that the keeper traces.
#[derive(Debug)]
pub(crate) struct Made {
    /// The anchor.
    pub(crate) anchor: Tid,
    /// For how long the process's thread was stopped, from the request on.
    pub(crate) stopped: Duration,
}

/// What [`make`] answers.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The anchor, which the calling thread traces.
    pub(crate) anchor: Result<Tid, Failure>,
    /// For how long the process's thread was stopped, from the request on.
    pub(crate) stopped: Duration,
    /// The thread, where it could not be let go yet.
    pub(crate) stray: Option<Stray>,
}

/// Why there is no anchor. What an [`AttachError`] says with text of its own is looked up only when
/// it is made into one.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The thread could not be traced.
    Seize(io::Error),
    /// Something else.
    Other(AttachError),
}

impl Failure {
    /// As the answer to whoever wanted `pid` attached by way of `tid`.
    pub(crate) fn into_error(self, pid: Tid, tid: Tid) -> AttachError {
        match self {
            Self::Seize(error) => refusal(pid, tid, error),
            Self::Other(error) => error,
        }
    }
}

/// Whether a task is an anchor, ours or another program's: recognised by what only an anchor has
/// together.
///
/// A process that dresses up its last task like this ends its own space early, and harms nobody
/// else.
///
/// # Errors
/// It cannot be told.
pub(crate) fn is_helper(tid: Tid) -> io::Result<bool> {
    let is_dressed = |status: procfs::Status| {
        status.seccomp == 1 && status.no_new_privileges && status.blocked == ALL_SIGNALS
    };
    match procfs::status(tid) {
        Err(error) if procfs::is_gone(&error) => Ok(false),
        status => status.map(is_dressed),
    }
}

/// Makes an anchor by way of the chosen thread. Blocks for some hundred microseconds where a
/// processor is free, at most for [`FIRST_STOP`] (where it waits for a processor, [`NEXT_STOP`])
/// and a bounded time for each step after it. The calling thread becomes the tracer of all tasks.
/// Keeps to what [`Shared::start`](sys::shared::Shared::start) asks for.
pub(crate) fn make(pid: Tid, chosen: &Chosen, landmarks: &Landmarks) -> Attempt {
    let (begin, tracee) = (Instant::now(), Tracee(chosen.tid));
    if let Err(refused) = seize(chosen.tid) {
        return Attempt {
            anchor: Err(Failure::Seize(refused)),
            stopped: begin.elapsed(),
            stray: None,
        };
    }
    let (saved, made) = match in_stop(pid, chosen, tracee, landmarks) {
        Ok((saved, made)) => (Some(saved), made),
        Err(error) => (None, Err(error)),
    };
    let free = let_go(tracee, saved.as_ref());
    let stopped = begin.elapsed();
    let stray = free.is_err().then_some(Stray { tracee, tgid: chosen.tgid, saved });
    let anchor = made.and_then(|anchor| dressed(pid, anchor, landmarks)).map_err(Failure::Other);
    Attempt { anchor, stopped, stray }
}

/// Finishes an anchor, or does away with it.
fn dressed(pid: Tid, anchor: Tid, landmarks: &Landmarks) -> Result<Tid, AttachError> {
    let error = match dress(Tracee(anchor), landmarks) {
        Ok(Ok(())) => return Ok(anchor),
        Ok(Err(refused)) => refused,
        Err(trouble) => trouble.into_error(pid, anchor),
    };
    // Best effort: it dies with its tracer at the latest.
    let _ = Tracee(anchor).kill();
    Err(error)
}

/// Brings a thread to the stop that it can be let go from, wherever in a call it stands after a
/// failure.
fn back_to_stop(tracee: Tracee) -> Result<(), Trouble> {
    if let Ok(Some(registers)) = sys::registers(tracee.0) {
        // At the entry of a call this is no call at all.
        sys::set_registers(tracee.0, &Registers { orig_rax: u64::MAX, ..registers })?;
        tracee.finish_call()
    } else {
        sys::interrupt(tracee.0)?;
        tracee.interrupted(NEXT_STOP)
    }
}

/// Stops the thread and has it make the anchor. The outer error: nothing was changed in it.
/// Otherwise it is to get back what was saved.
fn in_stop(
    pid: Tid,
    chosen: &Chosen,
    tracee: Tracee,
    landmarks: &Landmarks,
) -> Result<(Saved, Result<Tid, AttachError>), AttachError> {
    let trouble = |trouble: Trouble| trouble.into_error(pid, tracee.0);
    let request = |error: io::Error| trouble(Trouble::Request(error));
    sys::interrupt(tracee.0).map_err(request)?;
    match tracee.interrupted(FIRST_STOP) {
        // It waits for a processor: on a machine that is short of them that may take longer, and is
        // sure to come.
        Err(Trouble::Late) if chosen.directory.status().is_ok_and(|status| status.state == 'R') => {
            tracee.interrupted(NEXT_STOP)
        }
        stopped => stopped,
    }
    .map_err(trouble)?;
    // Traced, the number is the thread's own; the directory tells whether it was when it was
    // chosen.
    let status = chosen.directory.status().map_err(|error| unreadable(pid, error))?;
    if chosen.stands_in && !matches!(sys::compare_spaces(pid, tracee.0), Ok(Ordering::Equal)) {
        return Err(AttachError::Gone { pid: pid as u32 });
    }
    if status.seccomp != 0 {
        return Err(AttachError::Seccomp { tid: tracee.0 as u32, mode: status.seccomp });
    }
    if sys::dispatches_own_calls(tracee.0).map_err(request)? {
        return Err(AttachError::SyscallUserDispatch { tid: tracee.0 as u32 });
    }
    if !landmarks.still_holds(tracee.0) {
        return Err(AttachError::Gone { pid: pid as u32 });
    }
    let group_stopped = sys::stop_info(tracee.0).map_err(request)?.0 != libc::SIGTRAP;
    let saved = Saved::take(tracee, group_stopped)
        .map_err(trouble)?
        .ok_or(AttachError::ThirtyTwoBit { tid: tracee.0 as u32 })?;
    let made = clone_twice(tracee, &saved.registers, landmarks.instruction);
    let result = match made {
        Ok(Ok(anchor)) => {
            disown(chosen.tgid, tracee, &saved.registers, landmarks.instruction, anchor)
        }
        Ok(Err(source)) => Err(AttachError::Refused { call: CLONE.name, source }),
        Err(found) => {
            let _ = back_to_stop(tracee);
            sweep(tracee);
            Err(trouble(found))
        }
    };
    Ok((saved, result))
}

/// Kills the tasks that were made, but of which we were not told because their maker was killed
/// that moment. They are traced by us from birth, and are no anchors yet.
fn sweep(tracee: Tracee) {
    let _ = procfs::each_process(|task| {
        let is_lost = |status: procfs::Status| {
            status.tracer == gettid() && status.seccomp == 0 && status.blocked == ALL_SIGNALS
        };
        if task != tracee.0 && procfs::status(task).is_ok_and(is_lost) {
            let _ = Tracee(task).kill();
        }
    });
}

/// Has the thread make I, I make A, and the thread collect I. The thread then stands in an
/// interrupt stop.
fn clone_twice(
    tracee: Tracee,
    registers: &Registers,
    instruction: u64,
) -> Result<io::Result<Tid>, Trouble> {
    sys::set_signal_mask(tracee.0, ALL_SIGNALS)?;
    sys::set_options(tracee.0, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE)?;
    let helper = match tracee.clone(registers, instruction, &CLONE)? {
        Ok(helper) => Tracee(helper),
        Err(refused) => return tracee.finish_call().map(|()| Err(refused)),
    };
    // The thread returns from its clone while the helper works.
    let returning = sys::interrupt(tracee.0).and_then(|()| sys::resume(tracee.0, 0));
    let made = clone_again(helper, instruction);
    let collected = helper.kill_uncollected().and_then(|()| {
        returning?;
        tracee.interrupted(NEXT_STOP)?;
        let number = tracee.answer()?.map_err(Trouble::Request)?;
        collect(tracee, registers, instruction, number, helper)
    });
    if collected.is_err() {
        // Best effort: they die with us at the latest.
        let _ = helper.collect();
        if let Ok(Ok(anchor)) = made {
            let _ = Tracee(anchor).kill();
        }
    }
    collected.and(made)
}

fn clone_again(helper: Tracee, instruction: u64) -> Result<io::Result<Tid>, Trouble> {
    helper.first_stop()?;
    // First of all: from here on the helper, and the anchor from its birth, die with us.
    sys::set_options(
        helper.0,
        libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE,
    )?;
    let registers = sys::registers(helper.0)?.ok_or(Trouble::Mode)?;
    let anchor = match helper.clone(&registers, instruction, &CLONE)? {
        Ok(anchor) => anchor,
        Err(refused) => return Ok(Err(refused)),
    };
    match Tracee(anchor).first_stop() {
        Ok(()) => Ok(Ok(anchor)),
        Err(trouble) => {
            let _ = Tracee(anchor).kill();
            Err(trouble)
        }
    }
}

/// Has the thread collect its dead child, which has `number` in its namespace.
///
/// A dead task is visible to its tracer only, until that one has collected it; we do so when the
/// thread stands before its own `wait4`.
fn collect(
    tracee: Tracee,
    registers: &Registers,
    instruction: u64,
    number: u64,
    child: Tracee,
) -> Result<(), Trouble> {
    let options = (libc::__WALL | libc::WNOHANG) as u64;
    let wait = Call { name: "wait4", number: libc::SYS_wait4, arguments: [number, 0, options, 0] };
    tracee.enter(registers, instruction, &wait)?;
    child.collect()?;
    tracee.finish_call()
}

/// Makes sure that the anchor has not become the process's own child, which its waits would see.
fn disown(
    tgid: Tid,
    tracee: Tracee,
    registers: &Registers,
    instruction: u64,
    anchor: Tid,
) -> Result<Tid, AttachError> {
    let anchor = Tracee(anchor);
    match procfs::status(anchor.0).and_then(|status| Ok((status, procfs::parent(anchor.0)?))) {
        Ok((status, parent)) if !status.is_dead() && parent != tgid => Ok(anchor.0),
        // Only a number that is certain: `wait4` takes 0 and below for any child.
        Ok((status, _)) if !status.is_dead() && status.own_number > 0 => {
            let number = status.own_number as u64;
            let undone = anchor
                .kill_uncollected()
                .and_then(|()| collect(tracee, registers, instruction, number, anchor));
            if undone.is_err() {
                let _ = back_to_stop(tracee);
            }
            Err(AttachError::AdoptsOrphans { pid: tgid as u32 })
        }
        found => {
            let _ = anchor.kill();
            Err(found.map_or_else(
                |error| unreadable(tgid, error),
                |_| AttachError::Gone { pid: tgid as u32 },
            ))
        }
    }
}

/// Why what `/proc` has of a task could not be read: the task is gone, or it is not the task's
/// fault.
fn unreadable(pid: Tid, error: io::Error) -> AttachError {
    if procfs::is_gone(&error) {
        AttachError::Gone { pid: pid as u32 }
    } else {
        AttachError::host("read /proc")(error)
    }
}

/// Takes the anchor out of what it still has in common with the process, but for the memory, and
/// locks it up.
fn dress(anchor: Tracee, landmarks: &Landmarks) -> Result<Result<(), AttachError>, Trouble> {
    sys::set_options(
        anchor.0,
        libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC,
    )?;
    let registers = sys::registers(anchor.0)?.ok_or(Trouble::Mode)?;
    let call = |name, number, arguments| Call { name, number, arguments };
    // A working directory elsewhere keeps a file system busy, no more: without the string it stays.
    if let Some(root) = landmarks.root {
        let _ = anchor.call(
            &registers,
            landmarks.instruction,
            &call("chdir", libc::SYS_chdir, [root, 0, 0, 0]),
        )?;
    }
    let close = [0, u64::from(u32::MAX), u64::from(libc::CLOSE_RANGE_UNSHARE), 0];
    let steps = [
        // Out of the session and the process group: job control does not see it.
        call("setsid", libc::SYS_setsid, [0; 4]),
        // A descriptor table of its own, empty.
        call("close_range", libc::SYS_close_range, close),
        call(
            "prctl(PR_SET_NO_NEW_PRIVS)",
            libc::SYS_prctl,
            [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0],
        ),
        // From here on it could only read, write and exit, even if it ran.
        call(
            "prctl(PR_SET_SECCOMP)",
            libc::SYS_prctl,
            [libc::PR_SET_SECCOMP as u64, u64::from(libc::SECCOMP_MODE_STRICT), 0, 0],
        ),
    ];
    for step in &steps {
        if let Err(source) = anchor.call(&registers, landmarks.instruction, step)? {
            return Ok(Err(AttachError::Refused { call: step.name, source }));
        }
    }
    Ok(Ok(()))
}

/// Begins to trace a thread. The right to do so has been seen to exist, but a thread that dies may
/// be refused, and the next moment its number be taken over by the one that execs: a refusal counts
/// if it lasts.
fn seize(tid: Tid) -> io::Result<()> {
    const ATTEMPTS: u32 = 3;
    let mut attempt = 1;
    loop {
        match sys::seize(tid) {
            Err(_) if attempt < ATTEMPTS => sys::pause(Duration::from_millis(1)),
            result => return result,
        }
        attempt += 1;
    }
}

fn refusal(pid: Tid, tid: Tid, error: io::Error) -> AttachError {
    match (error.raw_os_error(), procfs::status(tid)) {
        (Some(libc::ESRCH), _) | (_, Err(_)) => AttachError::Gone { pid: pid as u32 },
        (Some(libc::EPERM), Ok(status)) if status.tracer != 0 => {
            let name = procfs::command(status.tracer);
            AttachError::AlreadyTraced { tid: tid as u32, tracer: status.tracer as u32, name }
        }
        // What is dead already cannot be traced.
        (Some(libc::EPERM), Ok(status)) if status.is_dead() => {
            AttachError::Gone { pid: pid as u32 }
        }
        (Some(libc::EPERM), Ok(status)) => {
            AttachError::NotPermitted { pid: pid as u32, why: target::denial(&status) }
        }
        _ => AttachError::host("PTRACE_SEIZE")(error),
    }
}
